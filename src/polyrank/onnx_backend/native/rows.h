/* What happens to a row, once for each instruction set: LEVEL names it, TARGET asks for it.
 *
 * A row is read and written by one call and depends on no other, in an order that its length alone
 * decides: the same row gives the same bits in any company. A NaN makes its row's step NaN. */

#define JOINED(name, level) name##_##level
#define JOIN(name, level) JOINED(name, level)
#define AT(name) JOIN(name, LEVEL)

TARGET static inline float AT(gelu)(float x)
{
    float near = x > GELU_END ? GELU_END : x;
    near = near < -GELU_END ? -GELU_END : near;
    float square = near * near * (2 / (GELU_END * GELU_END)) - 1, y = gelu_terms[GELU_TERMS - 1];
    for (int i = GELU_TERMS - 2; i >= 0; i--)
        y = y * square + gelu_terms[i];
    return .5f * x * (1 + near * y);
}

/* Rounds a row to uint8 around 128; what a step of it is worth. */
TARGET static inline float AT(rounded)(const float *restrict x, size_t n, uint8_t *restrict q)
{
    int32_t most = 0; /* floats without a sign are in the order of their bits, NaN above all */
    for (size_t i = 0; i < n; i++) {
        Bits size = {.real = x[i]};
        size.bits &= 0x7fffffff;
        most = size.bits > most ? size.bits : most;
    }
    Bits largest = {.bits = most};
    float step = (largest.real < 1e-30f ? 1e-30f : largest.real) * (1.f / 127), per = 1 / step;
    for (size_t i = 0; i < n; i++) {
        /* 1.5 * 2^23 + 128: the sum's last byte is the nearest integer, ties to even. */
        Bits sum = {.real = x[i] * per + 12583040.f};
        q[i] = (uint8_t)sum.bits;
    }
    return step;
}

TARGET static void AT(quantize)(const Work *work, size_t t)
{
    size_t n = work->width;
    work->out_step[t] = AT(rounded)(work->x + t * n, n, work->q + t * n);
}

TARGET static void AT(add_norm)(const Work *work, size_t t)
{
    size_t n = work->width;
    const float *restrict y = work->y + t * n, *restrict x = work->x + t * n;
    const float *restrict bias = work->bias;
    const float *restrict weight = work->weight, *restrict shift = work->shift;
    float *restrict out = work->out + t * n;
    float step = work->step[t * work->step_stride], sum = 0, squares = 0;
    #pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) {
        out[i] = y[i] * step + bias[i] + x[i];
        sum += out[i];
    }
    float mean = sum / n;
    #pragma omp simd reduction(+ : squares)
    for (size_t i = 0; i < n; i++)
        squares += (out[i] - mean) * (out[i] - mean);
    float by = 1 / sqrtf(squares / n + work->epsilon);
    for (size_t i = 0; i < n; i++)
        out[i] = (out[i] - mean) * by * weight[i] + shift[i];
    work->out_step[t] = AT(rounded)(out, n, work->q + t * n);
}

TARGET static void AT(gate)(const Work *work, size_t t)
{
    size_t n = work->width;
    const float *restrict y = work->y + t * n, *restrict x = work->x + t * n;
    __attribute__((aligned(64))) float h[n];
    float step = work->step[t * work->step_stride];
    for (size_t i = 0; i < n; i++)
        h[i] = AT(gelu)(y[i] * step) * x[i];
    float own = AT(rounded)(h, n, work->q + t * n);
    work->out_step[t] = own * work->x_step[t * work->x_step_stride];
}

TARGET static void AT(activate)(const Work *work, size_t t)
{
    size_t n = work->width;
    const float *restrict y = work->y + t * n, *restrict bias = work->bias;
    __attribute__((aligned(64))) float h[n];
    float step = work->step[t * work->step_stride];
    for (size_t i = 0; i < n; i++)
        h[i] = AT(gelu)(y[i] * step + bias[i]);
    work->out_step[t] = AT(rounded)(h, n, work->q + t * n);
}

TARGET static void AT(rotate)(const Work *work, size_t t)
{
    size_t n = work->width, half = work->half;
    const float *restrict cos = work->cos + work->position[t] * half;
    const float *restrict sin = work->sin + work->position[t] * half;
    float step = work->step[t * work->step_stride];
    for (size_t head = 0; head < n; head += 2 * half) {
        const float *restrict y = work->y + t * n + head, *restrict bias = work->bias + head;
        float *restrict out = work->out + t * n + head;
        for (size_t i = 0; i < half; i++) {
            float left = y[i] * step + bias[i], right = y[half + i] * step + bias[half + i];
            out[i] = left * cos[i] - right * sin[i];
            out[half + i] = right * cos[i] + left * sin[i];
        }
    }
}

static const Row AT(rows)[] = {AT(quantize), AT(add_norm), AT(gate), AT(activate), AT(rotate)};

#undef JOINED
#undef JOIN
#undef AT
#undef LEVEL
#undef TARGET
