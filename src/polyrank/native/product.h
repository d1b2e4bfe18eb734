/* Products of rounded rows and 8-bit weights by AMX, and what happens to their rows.
 *
 * A block of rows goes through the product and what follows it, so that what is between them stays
 * in the second-level cache: memory sees 8-bit rows, and weights once for each block.
 *
 * Sums of integers are exact, so that a row has the same bits in any company.
 *
 * K values of a row, N columns of a weight */

enum { DEPTH = 64, COLUMNS = 32, STEP_BYTES = DEPTH * COLUMNS, LARGE_PAGE = 2 << 20 };

/* Tiles of weights: [panels][steps][2][16][64], 64 values of K a step, 32 columns a panel, 4 values
 * of a column beside each other. Of two weights, a panel has 16 columns of each. */
struct Weights {
    size_t K, N, steps, panels, products;
    int8_t *tiles;
    float *scales;  /* [panels][32] */
    int32_t *bases; /* [panels][32]: -128 times a column's sum, since rows are around 128 */
    float largest;  /* product of the largest norms of a gate's and an up's column, with scales */
};

static size_t weight_bytes(const Weights *w)
{
    return w->panels * (w->steps * STEP_BYTES + COLUMNS * (sizeof *w->scales + sizeof *w->bases));
}

/* From int8 [K, N] and a scale for each column; room of weight_bytes, zeros. */
static void pack_weights(
    Weights *w, const int8_t *const from[], const float *const scales[], char *room)
{
    const size_t own = COLUMNS / w->products;
    float norms[2] = {0, 0};
    w->tiles = (int8_t *)room;
    w->scales = (float *)(room + w->panels * w->steps * STEP_BYTES);
    w->bases = (int32_t *)(w->scales + w->panels * COLUMNS);
    for (size_t at = 0; at < w->panels * COLUMNS; at += 16) {
        size_t panel = at / COLUMNS, side = at % COLUMNS / 16;
        size_t which = side % w->products, first = panel * own + side * 16 % own;
        size_t columns = first < w->N ? w->N - first : 0;
        int8_t *tiles = w->tiles + panel * w->steps * STEP_BYTES + side * STEP_BYTES / 2;
        for (size_t n = 0; n < 16 && n < columns; n++)
            w->scales[at + n] = scales[which][first + n];
        int32_t squares[16] = {0};
        for (size_t k = 0; k < w->K; k++) {
            int8_t *to = tiles + k / DEPTH * STEP_BYTES + k % DEPTH / 4 * 64 + k % 4;
            for (size_t n = 0; n < 16 && n < columns; n++) {
                to[4 * n] = from[which][k * w->N + first + n];
                w->bases[at + n] -= 128 * to[4 * n];
                squares[n] += to[4 * n] * to[4 * n];
            }
        }
        for (size_t n = 0; n < 16; n++)
            norms[which] = fmaxf(norms[which], sqrtf(squares[n]) * fabsf(w->scales[at + n]));
    }
    w->largest = norms[0] * norms[1];
}

#ifdef __x86_64__
#define WITH_INT8 \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,amx-tile,amx-int8" WIDE)))

enum { HIGHEST = 256, STEPS_AT_ONCE = 12, CACHE = 2 << 20 };

/* What a row of GELU(gate) * up is multiplied by, so that nothing in it is too large for fp16: a
 * product is at most the row's norm times the column's. */
WITH_INT8 static float half_factor(const Weights *w, const uint8_t *row, float step)
{
    int32_t square = 0;
    for (size_t k = 0; k < w->K; k++)
        square += (row[k] - 128) * (row[k] - 128);
    return 32768 / fmaxf(w->largest * square * step, 1e-30f);
}

/* A block of sums, and what is to become of it: rows of y. */
typedef struct {
    const int32_t *sums; /* [32][32]; NULL: none */
    const float *scales, *steps, *factors; /* the last two of two weights alone */
    char *y;
    size_t stride; /* of y, in bytes */
} Block;

/* Products as fp32, or GELU(gate) * up as fp16, of rows from the first on. */
WITH_INT8 static inline __attribute__((always_inline)) void finish(
    const Block *block, size_t first, size_t last, size_t products)
{
    const float *scales = block->scales;
    for (size_t t = first; t < last; t++) {
        const int32_t *c = block->sums + t * COLUMNS;
        float *restrict y = (float *)(block->y + t * block->stride);
        if (products == 1) {
            for (size_t i = 0; i < COLUMNS; i++)
                y[i] = c[i] * scales[i];
        } else {
            __attribute__((aligned(64))) float h[16];
            float step = block->steps[t], factor = block->factors[t];
            for (size_t i = 0; i < 16; i++) {
                float gate = c[i] * scales[i], up = c[16 + i] * scales[16 + i];
                h[i] = gelu_avx512(gate * step) * up * factor; /* up * factor may be too large */
            }
            _mm256_store_si256((__m256i *)y, _mm512_cvtps_ph(_mm512_load_ps(h), 0));
        }
    }
}

/* c [32, 32] += steps of 32 rows times steps of a panel; c begins with the bases of its columns.
 * Meanwhile the vector units finish another block, and the next panel comes nearer. */
WITH_INT8 static inline __attribute__((always_inline)) void multiply(
    const uint8_t *rows, const int8_t *panel, size_t steps, int32_t *c, const int32_t *bases,
    const Block *other, const int8_t *next, size_t next_bytes, size_t products)
{
    const size_t line = COLUMNS * sizeof *c, half = STEP_BYTES / 2;
    const size_t at_once = (32 + steps - 1) / steps;
    const size_t above = bases ? 0 : line; /* one row for all, or rows of c */
    const int32_t *from = bases ? bases : c, *below = bases ? bases : c + 16 * COLUMNS;
    _tile_loadd(0, from, above);
    _tile_loadd(1, from + 16, above);
    _tile_loadd(2, below, above);
    _tile_loadd(3, below + 16, above);
    size_t done = other->sums ? 0 : 32;
    for (size_t step = 0; step < steps; step++, rows += STEP_BYTES, panel += STEP_BYTES) {
        for (size_t end = (step + 1) * next_bytes, at = step * next_bytes; at < end; at += 64)
            _mm_prefetch((const char *)next + at, _MM_HINT_T1);
        _tile_loadd(4, rows, DEPTH);
        _tile_loadd(6, panel, DEPTH);
        _tile_loadd(7, panel + half, DEPTH);
        _tile_loadd(5, rows + half, DEPTH);
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
        size_t then = done + at_once < 32 ? done + at_once : 32;
        finish(other, done, then, products);
        done = then;
    }
    _tile_stored(0, c, line);
    _tile_stored(1, c + 16, line);
    _tile_stored(2, c + 16 * COLUMNS, line);
    _tile_stored(3, c + 16 * COLUMNS + 16, line);
}

/* Of a row of y. */
static inline size_t panel_bytes(size_t products)
{
    return products == 1 ? COLUMNS * sizeof(float) : COLUMNS / 2 * sizeof(uint16_t);
}

/* Rows [blocks][steps][32][64] times all weights, into y; room for blocks + 1 blocks of sums. */
WITH_INT8 static inline __attribute__((always_inline)) void multiply_rows(
    const Weights *w, const uint8_t *rows, size_t blocks, const float *row_steps,
    const float *factors, int32_t *sums, char *y, size_t stride, size_t products)
{
    /* Each block fetches its share of a step of the next panel. */
    const size_t next_bytes = (STEP_BYTES / blocks + 63) / 64 * 64;
    Block ready = {0};
    for (size_t panel = 0, place = 0; panel < w->panels; panel++, place += blocks) {
        const int8_t *tiles = w->tiles + panel * w->steps * STEP_BYTES;
        for (size_t from = 0, steps; from < w->steps; from += steps) {
            steps = w->steps - from < STEPS_AT_ONCE ? w->steps - from : STEPS_AT_ONCE;
            for (size_t block = 0; block < blocks; block++) {
                int32_t *c = sums + (place + block) % (blocks + 1) * 32 * COLUMNS;
                const int8_t *part = tiles + from * STEP_BYTES;
                const int8_t *next = part + w->steps * STEP_BYTES + block * steps * next_bytes;
                const int32_t *bases = from ? NULL : w->bases + panel * COLUMNS;
                multiply(rows + (block * w->steps + from) * STEP_BYTES, part, steps, c, bases,
                         &ready, next, next_bytes, products);
                ready = (Block){0};
                char *to = y + block * 32 * stride + panel * panel_bytes(products);
                if (from + steps == w->steps)
                    ready = (Block){c, w->scales + panel * COLUMNS, row_steps + block * 32,
                                    factors + block * 32, to, stride};
            }
        }
    }
    finish(&ready, 0, 32, products);
}

/* How many rows go through at once: what fits the cache, in as many rounds for every thread. */
static size_t block_height(const Weights *w, size_t T, size_t threads)
{
    size_t row_bytes = w->steps * DEPTH + w->panels * panel_bytes(w->products);
    size_t fit = CACHE / row_bytes + 1, most = fit < HIGHEST ? fit : HIGHEST;
    size_t share = (T + threads - 1) / threads + !T, rounds = (share + most - 1) / most;
    return (share + 32 * rounds - 1) / (32 * rounds) * 32;
}

/* What becomes of a row of GELU(gate) * up. */
WITH_INT8 static void quantize_halves(const Work *work, size_t t)
{
    const Tensor *halves = &work->in[0];
    const uint16_t *x = (const uint16_t *)halves->data + (t - halves->first) * halves->stride;
    float step = ((const float *)work->in[1].data)[t * work->in[1].stride];
    float factor = ((const float *)work->in[2].data)[t - halves->first];
    size_t D = work->D;
    __attribute__((aligned(64))) float h[D + 15];
    for (size_t i = 0; i < D; i += 16)
        _mm512_store_ps(h + i, _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(x + i))));
    float own = rounded_avx512(h, D, (uint8_t *)work->out[0] + t * D);
    ((float *)work->out[1])[t] = own * step / factor;
}

WITH_INT8 static void some_products(void *work_, size_t n)
{
    Work *all = work_;
    const Weights *w = all->weights;
    size_t first = n * all->height, left = all->T - first;
    size_t count = left < all->height ? left : all->height, blocks = (count + 31) / 32;
    size_t height = blocks * 32, row_bytes = w->steps * DEPTH;
    /* Rows of y lie in other sets of the cache. */
    size_t stride = w->panels * panel_bytes(w->products) + 64;
    size_t sum_bytes = (height + 32) * COLUMNS * sizeof(int32_t);
    char *room = take(
        all->memory, height * (row_bytes + stride + 2 * sizeof(float)) + sum_bytes);
    if (!room) {
        all->failed = 1;
        return;
    }
    uint8_t *rows = (uint8_t *)room;
    int32_t *sums = (int32_t *)(room + height * row_bytes);
    float *steps = (float *)((char *)sums + sum_bytes), *factors = steps + height;
    char *y = (char *)(factors + height);
    for (size_t t = 0; t < count; t++) {
        const uint8_t *q = (const uint8_t *)all->q.data + (first + t) * w->K;
        uint8_t *to = rows + t / 32 * w->steps * STEP_BYTES + t % 32 * DEPTH;
        for (size_t k = 0; k < w->K; k += DEPTH, to += STEP_BYTES)
            memcpy(to, q + k, w->K - k < DEPTH ? w->K - k : DEPTH);
        if (w->products > 1) {
            steps[t] = ((const float *)all->in[1].data)[(first + t) * all->in[1].stride];
            factors[t] = half_factor(w, q, steps[t]);
        }
    }
    Tiles others;
    own_tiles(&others);
    if (w->products == 1)
        multiply_rows(w, rows, blocks, steps, factors, sums, y, stride, 1);
    else
        multiply_rows(w, rows, blocks, steps, factors, sums, y, stride, 2);
    return_tiles(&others);
    Work own = *all;
    size_t value = w->products == 1 ? sizeof(float) : sizeof(uint16_t);
    own.in[0] = (Tensor){y, count, w->N, stride / value, first};
    if (w->products > 1)
        own.in[2] = (Tensor){factors, count, 1, 1, first};
    for (size_t t = first; t < first + count; t++)
        all->row(&own, t);
    all->memory->give(all->memory, room);
}
#endif
