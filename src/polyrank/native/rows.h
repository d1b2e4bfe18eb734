/* What happens to a row, once for each instruction set: LEVEL names it, TARGET asks for it.
 *
 * Loops that GCC and Clang make vector instructions of. Inputs and outputs are those of the
 * operator's definition, in its order.
 *
 * A row is read and written by one call and depends on no other, in an order that its length alone
 * decides: the same row gives the same bits in any company. A NaN makes its row's step NaN. */

#define JOINED(name, level) name##_##level
#define JOIN(name, level) JOINED(name, level)
#define AT(name) JOIN(name, LEVEL)
#define ROW(n) ((const float *)work->in[n].data + (t - work->in[n].first) * work->in[n].stride)
#define OUT(type, n) ((type *)work->out[n] + t * work->D)

TARGET static inline float AT(gelu)(float x)
{
    x = x < -GELU_END ? -GELU_END : x; /* GELU is 0 below, to 4e-7 */
    float near = x > GELU_END ? GELU_END : x;
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
    const float *x = ROW(0);
    ((float *)work->out[1])[t] = AT(rounded)(x, work->D, OUT(uint8_t, 0));
}

TARGET static void AT(add_norm)(const Work *work, size_t t)
{
    const float *restrict y = ROW(0), *restrict bias = ROW(2), *restrict x = ROW(3);
    const float *restrict weight = ROW(4), *restrict shift = ROW(5);
    float *restrict out = OUT(float, 0), step = *ROW(1), sum = 0, squares = 0;
    size_t D = work->D;
    #pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < D; i++) {
        out[i] = y[i] * step + bias[i] + x[i];
        sum += out[i];
    }
    float mean = sum / D;
    #pragma omp simd reduction(+ : squares)
    for (size_t i = 0; i < D; i++)
        squares += (out[i] - mean) * (out[i] - mean);
    float by = 1 / sqrtf(squares / D + work->epsilon);
    for (size_t i = 0; i < D; i++)
        out[i] = (out[i] - mean) * by * weight[i] + shift[i];
    ((float *)work->out[2])[t] = AT(rounded)(out, D, OUT(uint8_t, 1));
}

TARGET static void AT(gate)(const Work *work, size_t t)
{
    const float *restrict gate = ROW(0), *restrict up = ROW(2);
    float step = *ROW(1);
    size_t D = work->D;
    __attribute__((aligned(64))) float h[D];
    for (size_t i = 0; i < D; i++)
        h[i] = AT(gelu)(gate[i] * step) * up[i];
    ((float *)work->out[1])[t] = AT(rounded)(h, D, OUT(uint8_t, 0)) * step;
}

TARGET static void AT(activate)(const Work *work, size_t t)
{
    const float *restrict y = ROW(0), *restrict bias = ROW(2);
    float step = *ROW(1);
    size_t D = work->D;
    __attribute__((aligned(64))) float h[D];
    for (size_t i = 0; i < D; i++)
        h[i] = AT(gelu)(y[i] * step + bias[i]);
    ((float *)work->out[1])[t] = AT(rounded)(h, D, OUT(uint8_t, 0));
}

TARGET static void AT(rotate)(const Work *work, size_t t)
{
    size_t half = work->in[4].columns, position = ((const int64_t *)work->in[3].data)[t];
    const float *restrict cos = (const float *)work->in[4].data + position * half;
    const float *restrict sin = (const float *)work->in[5].data + position * half;
    float step = *ROW(1);
    for (size_t head = 0; head < work->D; head += 2 * half) {
        const float *restrict y = ROW(0) + head, *restrict bias = ROW(2) + head;
        float *restrict out = OUT(float, 0) + head;
        #pragma omp simd
        for (size_t i = 0; i < half; i++) {
            float left = y[i] * step + bias[i], right = y[half + i] * step + bias[half + i];
            out[i] = left * cos[i] - right * sin[i];
            out[half + i] = right * cos[i] + left * sin[i];
        }
    }
}

TARGET static void AT(scale)(const Work *work, size_t t)
{
    const float *restrict y = ROW(0);
    float *restrict out = OUT(float, 0), step = *ROW(1);
    for (size_t i = 0; i < work->D; i++)
        out[i] = y[i] * step;
}

static const Row AT(rows)[] = {
    [QUANTIZE] = AT(quantize), [ADD_NORM] = AT(add_norm), [GATE] = AT(gate),
    [ACTIVATE] = AT(activate), [ROTATE] = AT(rotate), [SCALE] = AT(scale),
};

#undef JOINED
#undef JOIN
#undef AT
#undef ROW
#undef OUT
#undef LEVEL
#undef TARGET
