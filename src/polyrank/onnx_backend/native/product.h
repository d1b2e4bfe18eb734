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
    float *scales;    /* [panels][32] */
    int32_t *bases; /* [panels][32]: -128 times a column's sum, since rows are around 128 */
};

static size_t weight_bytes(const Weights *w)
{
    return w->panels * (w->steps * STEP_BYTES + COLUMNS * (sizeof *w->scales + sizeof *w->bases));
}

/* From int8 [K, N] and a scale for each column; room of weight_bytes, zeros. */
static void pack_weights(Weights *w, const int8_t *const from[], const float *const scales[], char *room)
{
    const size_t own = COLUMNS / w->products;
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
        for (size_t k = 0; k < w->K; k++) {
            int8_t *to = tiles + k / DEPTH * STEP_BYTES + k % DEPTH / 4 * 64 + k % 4;
            for (size_t n = 0; n < 16 && n < columns; n++) {
                to[4 * n] = from[which][k * w->N + first + n];
                w->bases[at + n] -= 128 * to[4 * n];
            }
        }
    }
}

#ifdef __x86_64__
#define WITH_INT8 \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,amx-tile,amx-int8" WIDE)))

enum { HIGHEST = 256, STEPS_AT_ONCE = 12, CACHE = 3 << 20 };

/* A block of sums, and what is to become of it: rows of y. */
typedef struct {
    const int32_t *sums; /* [32][32]; NULL: none */
    const float *scales, *steps;
    float *y;
    size_t stride;
} Block;

/* Products as fp32, or GELU(gate) * up, of rows from the first on. */
WITH_INT8 static inline __attribute__((always_inline)) void finish(
    const Block *block, size_t first, size_t last, size_t products)
{
    const float *scales = block->scales;
    for (size_t t = first; t < last; t++) {
        const int32_t *c = block->sums + t * COLUMNS;
        float *restrict y = block->y + t * block->stride, step = block->steps[t];
        if (products == 1)
            for (size_t i = 0; i < COLUMNS; i++)
                y[i] = c[i] * scales[i];
        else
            for (size_t i = 0; i < 16; i++) {
                float gate = c[i] * scales[i], up = c[16 + i] * scales[16 + i];
                y[i] = gelu_avx512(gate * step) * up;
            }
    }
}

/* c [32, 32] += steps of 32 rows times steps of a panel; c begins with the bases of its columns.
 * Meanwhile the vector units finish another block, and the next panel comes nearer. */
WITH_INT8 static inline __attribute__((always_inline)) void multiply(
    const uint8_t *rows, const int8_t *panel, size_t steps, int32_t *c, const int32_t *bases,
    const Block *other, const int8_t *next, size_t next_bytes, size_t products)
{
    const size_t line = COLUMNS * sizeof *c, half = STEP_BYTES / 2, at_once = (32 + steps - 1) / steps;
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

/* Rows [blocks][steps][32][64] times all weights, into y; room for blocks + 1 blocks of sums. */
WITH_INT8 static inline __attribute__((always_inline)) void multiply_rows(
    const Weights *w, const uint8_t *rows, size_t blocks, const float *row_steps, int32_t *sums,
    float *y, size_t stride, size_t products)
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
                multiply(rows + (block * w->steps + from) * STEP_BYTES, part, steps, c,
                         from ? NULL : w->bases + panel * COLUMNS, &ready, next, next_bytes, products);
                ready = (Block){0};
                if (from + steps == w->steps)
                    ready = (Block){c, w->scales + panel * COLUMNS, row_steps + block * 32,
                                    y + block * 32 * stride + panel * (COLUMNS / products), stride};
            }
        }
    }
    finish(&ready, 0, 32, products);
}

/* How many rows go through at once: what fits the cache, in as many rounds for every thread. */
static size_t block_height(const Weights *w, size_t T, size_t threads)
{
    size_t row_bytes = w->steps * DEPTH + w->panels * COLUMNS / w->products * sizeof(float);
    size_t fit = CACHE / row_bytes + 1, most = fit < HIGHEST ? fit : HIGHEST;
    size_t share = (T + threads - 1) / threads + !T, rounds = (share + most - 1) / most;
    return (share + 32 * rounds - 1) / (32 * rounds) * 32;
}

WITH_INT8 static void some_products(void *work_, size_t n)
{
    Work *all = work_;
    const Weights *w = all->weights;
    size_t first = n * all->height, left = all->T - first;
    size_t count = left < all->height ? left : all->height, blocks = (count + 31) / 32;
    size_t stride = w->panels * COLUMNS / w->products + 16; /* rows of y lie in other cache sets */
    size_t words = (blocks + 1) * 32 * COLUMNS + blocks * 32 * (1 + stride);
    char *room = all->memory->take(all->memory, blocks * w->steps * STEP_BYTES + 4 * words);
    if (!room) {
        all->failed = 1;
        return;
    }
    uint8_t *rows = (uint8_t *)room;
    int32_t *sums = (int32_t *)(rows + blocks * w->steps * STEP_BYTES);
    float *steps = (float *)(sums + (blocks + 1) * 32 * COLUMNS), *y = steps + blocks * 32;
    for (size_t t = 0; t < count; t++) {
        const uint8_t *q = (const uint8_t *)all->q.data + (first + t) * w->K;
        uint8_t *to = rows + t / 32 * w->steps * STEP_BYTES + t % 32 * DEPTH;
        for (size_t k = 0; k < w->K; k += DEPTH, to += STEP_BYTES)
            memcpy(to, q + k, w->K - k < DEPTH ? w->K - k : DEPTH);
        steps[t] = ((const float *)all->in[1].data)[(first + t) * all->in[1].stride];
    }
    Tiles others;
    own_tiles(&others);
    if (w->products == 1)
        multiply_rows(w, rows, blocks, steps, sums, y, stride, 1);
    else
        multiply_rows(w, rows, blocks, steps, sums, y, stride, 2);
    return_tiles(&others);
    Work own = *all;
    own.in[0] = (Tensor){y, count, w->N, stride, first};
    for (size_t t = first; t < first + count; t++)
        all->row(&own, t);
    all->memory->give(all->memory, room);
}
#endif
