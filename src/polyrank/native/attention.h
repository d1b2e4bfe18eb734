/* Attention of one head of one pair, its matrix products in bf16, all else in fp32.
 *
 * Everything is transposed: scores [keys, queries] = K Q', output [width, queries] = V' P. So a
 * column is a query, softmax adds and compares whole vectors, and both products are of one shape:
 * rows of bf16 in memory order, times 32 queries whose values lie in pairs, as the instructions
 * want them. AMX computes it by tiles, AVX512-BF16 by broadcasting. Keys come in chunks, with the
 * running maximum of FlashAttention (arXiv 2205.14135), so that nothing of L x L is held.
 *
 * A pair's numbers are its own: no other pair, and no thread, changes a bit of them. */

#define WITH_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")))
#define WITH_AMX \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,amx-tile,amx-bf16")))

/* Eight tiles of 16 rows of 64 bytes. The runtime's own products use tiles too. */
typedef struct { uint8_t palette, row, unused[14]; uint16_t line[16]; uint8_t rows[16]; } Tiles;

/* GCC knows only of the first bytes that these instructions read and write: so a constant, and `asm`
 * for what it cannot see. */
static const Tiles eight_tiles = {
    .palette = 1,
    .line = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

WITH_AMX static void own_tiles(Tiles *others)
{
    _tile_storeconfig(others);
    __asm__ volatile("" : : "r"(others) : "memory");
    _tile_loadconfig(&eight_tiles);
}

WITH_AMX static void return_tiles(const Tiles *others)
{
    if (others->palette)
        _tile_loadconfig(others);
    else
        _tile_release();
}

enum { QUERIES = 32, KEYS_AT_ONCE = 256 };
#define LOG2_E 1.44269504f /* exp(x) = 2^(x log2 e) */

/* c [rows, 32] = a [rows, k] b [k, 32], or added to c. Rows and k are multiples of 32. */
typedef void (*Product)(
    const uint16_t *a, size_t stride, const uint32_t *b, size_t k, float *c, size_t rows, int add);

WITH_BF16 static void product_avx512(
    const uint16_t *a, size_t stride, const uint32_t *b, size_t k, float *c, size_t rows, int add)
{
    for (size_t row = 0; row < rows; row += 8) {
        __m512 left[8], right[8];
        float *at = c + row * QUERIES;
        for (size_t i = 0; i < 8; i++) {
            left[i] = add ? _mm512_load_ps(at + i * QUERIES) : _mm512_setzero_ps();
            right[i] = add ? _mm512_load_ps(at + i * QUERIES + 16) : _mm512_setzero_ps();
        }
        for (size_t pair = 0; pair < k / 2; pair++) {
            __m512bh b_left = (__m512bh)_mm512_load_si512(b + pair * QUERIES);
            __m512bh b_right = (__m512bh)_mm512_load_si512(b + pair * QUERIES + 16);
            for (size_t i = 0; i < 8; i++) {
                int both;
                memcpy(&both, a + (row + i) * stride + 2 * pair, sizeof both);
                __m512bh x = (__m512bh)_mm512_set1_epi32(both);
                left[i] = _mm512_dpbf16_ps(left[i], x, b_left);
                right[i] = _mm512_dpbf16_ps(right[i], x, b_right);
            }
        }
        for (size_t i = 0; i < 8; i++) {
            _mm512_store_ps(at + i * QUERIES, left[i]);
            _mm512_store_ps(at + i * QUERIES + 16, right[i]);
        }
    }
}

WITH_AMX static void product_amx(
    const uint16_t *a, size_t stride, const uint32_t *b, size_t k, float *c, size_t rows, int add)
{
    const size_t line = QUERIES * sizeof *c;
    __asm__ volatile("" : : : "memory"); /* GCC does not know that loading a tile reads */
    for (size_t row = 0; row < rows; row += 32) {
        const uint16_t *upper = a + row * stride, *lower = upper + 16 * stride;
        float *top = c + row * QUERIES, *bottom = top + 16 * QUERIES;
        if (add) {
            _tile_loadd(0, top, line);
            _tile_loadd(1, top + 16, line);
            _tile_loadd(2, bottom, line);
            _tile_loadd(3, bottom + 16, line);
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
        for (size_t i = 0; i < k; i += 32) {
            _tile_loadd(4, upper + i, stride * sizeof *a);
            _tile_loadd(5, lower + i, stride * sizeof *a);
            _tile_loadd(6, b + i / 2 * QUERIES, line);
            _tile_loadd(7, b + i / 2 * QUERIES + 16, line);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, top, line);
        _tile_stored(1, top + 16, line);
        _tile_stored(2, bottom, line);
        _tile_stored(3, bottom + 16, line);
    }
}

/* Rows of 16 values become columns. */
WITH_BF16 static inline void transpose(__m512i x[16])
{
    __m512i y[16];
    for (size_t i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (size_t i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    for (size_t i = 0; i < 4; i++) { /* x[4n + i]: column 4m + i of rows 4n to 4n + 3, in lane m */
        y[i] = _mm512_shuffle_i32x4(x[i], x[4 + i], 0x88);
        y[4 + i] = _mm512_shuffle_i32x4(x[i], x[4 + i], 0xdd);
        y[8 + i] = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0x88);
        y[12 + i] = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0xdd);
    }
    for (size_t i = 0; i < 4; i++) {
        x[i] = _mm512_shuffle_i32x4(y[i], y[8 + i], 0x88);
        x[4 + i] = _mm512_shuffle_i32x4(y[4 + i], y[12 + i], 0x88);
        x[8 + i] = _mm512_shuffle_i32x4(y[i], y[8 + i], 0xdd);
        x[12 + i] = _mm512_shuffle_i32x4(y[4 + i], y[12 + i], 0xdd);
    }
}

/* 2^x: a polynomial on [-1/2, 1/2] by least squares, off by 2e-7 of itself. */
WITH_BF16 static inline __m512 power_of_2(__m512 x)
{
    static const float terms[] = {
        1.00000012f, 0.693146944f, 0.240221217f, 0.0555074252f, 0.00967545994f, 0.00132669706f,
    };
    __m512 whole = _mm512_roundscale_ps(x, 0), part = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(terms[5]);
    for (int i = 4; i >= 0; i--)
        y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(terms[i]));
    return _mm512_scalef_ps(y, whole);
}

/* Which of 16 values from d on a row of `width` has. */
static inline __mmask16 left_of(size_t width, size_t d)
{
    return d >= width ? 0 : width - d < 16 ? (1u << (width - d)) - 1 : 0xffff;
}

/* A head's part of a token's row of [T, D], and its bias. */
typedef struct { const float *x, *bias; size_t tokens, stride, width; } Head;

/* 16 of its values from d on; zeros beyond its width, and beyond the tokens. */
WITH_BF16 static inline __m512 head_values(const Head *head, size_t token, size_t d)
{
    if (token >= head->tokens || d >= head->width)
        return _mm512_setzero_ps();
    __mmask16 mask = left_of(head->width, d);
    __m512 x = _mm512_maskz_loadu_ps(mask, head->x + token * head->stride + d);
    return head->bias ? _mm512_add_ps(x, _mm512_maskz_loadu_ps(mask, head->bias + d)) : x;
}

WITH_BF16 static inline __m512i both_bf16(__m512 first, __m512 second)
{
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}

/* Columns of queries from the first on, scaled, in pairs of values: [width / 2, 32]. */
WITH_BF16 static void pack_queries(
    const Head *head, size_t first, float scale, size_t K, uint32_t *b)
{
    __m512 by = _mm512_set1_ps(scale);
    __m512i x[16];
    for (size_t side = 0; side < QUERIES; side += 16)
        for (size_t d = 0; d < K; d += 32) {
            for (size_t i = 0; i < 16; i++)
                x[i] = both_bf16(_mm512_mul_ps(head_values(head, first + side + i, d), by),
                                 _mm512_mul_ps(head_values(head, first + side + i, d + 16), by));
            transpose(x);
            for (size_t i = 0; i < 16; i++)
                _mm512_store_si512(b + (d / 2 + i) * QUERIES + side, x[i]);
        }
}

/* [L, K] as they lie. */
WITH_BF16 static void pack_keys(const Head *head, size_t L, size_t K, uint16_t *a)
{
    for (size_t t = 0; t < L; t++)
        for (size_t d = 0; d < K; d += 32)
            _mm512_store_si512(a + t * K + d, both_bf16(head_values(head, t, d),
                                                        head_values(head, t, d + 16)));
}

/* [K, L]: a row for each dimension. */
WITH_BF16 static void pack_values(const Head *head, size_t L, size_t K, uint16_t *a)
{
    __m512i x[16];
    for (size_t t = 0; t < L; t += 16)
        for (size_t d = 0; d < K; d += 16) {
            for (size_t i = 0; i < 16; i++)
                x[i] = (__m512i)head_values(head, t + i, d);
            transpose(x);
            for (size_t i = 0; i < 16; i++)
                _mm256_store_si256((__m256i *)(a + (d + i) * L + t),
                                   (__m256i)_mm512_cvtneps_pbh((__m512)x[i]));
        }
}

/* Columns of 16 queries: their largest score and the sum of their shares so far. */
typedef struct { __m512 most, sum; } Softmax;

/* Scores [keys, 32] to shares in pairs of keys [rows / 2, 32]; what became of earlier shares. */
WITH_BF16 static __m512 soften(
    Softmax *soft, const float *scores, size_t keys, size_t rows, uint32_t *b)
{
    __m512 most = soft->most;
    for (size_t t = 0; t < keys; t++)
        most = _mm512_max_ps(_mm512_load_ps(scores + t * QUERIES), most);
    __m512 kept = power_of_2(_mm512_sub_ps(soft->most, most));
    __m512 sum = _mm512_mul_ps(soft->sum, kept);
    uint16_t places[32]; /* 0, 16, 1, 17, ...: a query's share of a key beside that of the next */
    for (size_t i = 0; i < 32; i++)
        places[i] = i / 2 + i % 2 * 16;
    const __m512i beside = _mm512_loadu_si512(places);
    for (size_t t = 0; t < rows; t += 2) {
        __m512 share[2];
        for (size_t i = 0; i < 2; i++) {
            __m512 score = _mm512_load_ps(scores + (t + i) * QUERIES);
            share[i] = t + i < keys ? power_of_2(_mm512_sub_ps(score, most)) : _mm512_setzero_ps();
            sum = _mm512_add_ps(sum, share[i]);
        }
        _mm512_store_si512(b + t / 2 * QUERIES,
                           _mm512_permutexvar_epi16(beside, both_bf16(share[0], share[1])));
    }
    *soft = (Softmax){most, sum};
    return kept;
}

/* out[query, d] from [K, 32], over the sums of shares. */
WITH_BF16 static void unpack(
    const Softmax soft[2], const float *c, size_t count, float *out, size_t stride, size_t width)
{
    __m512i x[16];
    for (size_t side = 0; side < QUERIES && side < count; side += 16) {
        __m512 by = _mm512_div_ps(_mm512_set1_ps(1), soft[side / 16].sum);
        for (size_t d = 0; d < width; d += 16) {
            for (size_t i = 0; i < 16; i++)
                x[i] = (__m512i)_mm512_mul_ps(_mm512_load_ps(c + (d + i) * QUERIES + side), by);
            transpose(x);
            __mmask16 mask = left_of(width, d);
            for (size_t i = 0; i < 16 && side + i < count; i++)
                _mm512_mask_storeu_ps(out + (side + i) * stride + d, mask, (__m512)x[i]);
        }
    }
}

/* A pair's keys and values of one head, and room for one block of queries. */
typedef struct {
    size_t tokens, L, K, chunk; /* keys; keys and width in whole tiles; keys at once */
    uint16_t *keys, *values;    /* [L, K], [K, L] */
    uint32_t *queries, *shares; /* [K / 2, 32], [chunk / 2, 32] */
    float *scores, *sums;       /* [chunk, 32], [K, 32] */
} Room;

/* Of `tokens` keys and heads of `width`; bytes. */
static size_t plan_room(Room *r, size_t tokens, size_t width)
{
    r->tokens = tokens, r->L = (tokens + 31) / 32 * 32, r->K = (width + 31) / 32 * 32;
    r->chunk = r->L < KEYS_AT_ONCE ? r->L : KEYS_AT_ONCE;
    return 4 * r->L * r->K + 4 * (r->K / 2 + r->K + r->chunk + r->chunk / 2) * QUERIES;
}

static char *place_room(Room *r, char *room)
{
    r->keys = (uint16_t *)room, r->values = r->keys + r->L * r->K;
    r->queries = (uint32_t *)(r->values + r->L * r->K);
    r->shares = r->queries + r->K / 2 * QUERIES;
    r->scores = (float *)(r->shares + r->chunk / 2 * QUERIES);
    r->sums = r->scores + r->chunk * QUERIES;
    return (char *)(r->sums + r->K * QUERIES);
}

/* One block of queries over all keys, into r->sums. */
WITH_BF16 static void attend_block(Product product, const Room *r, Softmax soft[2])
{
    size_t L = r->L, K = r->K;
    soft[0] = soft[1] = (Softmax){_mm512_set1_ps(-FLT_MAX), _mm512_setzero_ps()};
    for (size_t t = 0; t < L; t += r->chunk) {
        size_t rows = L - t < r->chunk ? L - t : r->chunk;
        size_t within = r->tokens - t < rows ? r->tokens - t : rows;
        product(r->keys + t * K, K, r->queries, K, r->scores, rows, 0);
        for (size_t side = 0; side < 2; side++) {
            size_t at_side = 16 * side;
            float *at = r->sums + at_side;
            __m512 kept =
                soften(&soft[side], r->scores + at_side, within, rows, r->shares + at_side);
            for (size_t d = 0; t && d < K; d++, at += QUERIES)
                _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), kept));
        }
        product(r->values + t, L, r->shares, rows, r->sums, K, t > 0);
    }
}

/* 0, where there is no memory. */
WITH_BF16 static int attend(
    Allocator *memory, Product product, Head q, Head k, Head v, float *out)
{
    Room r;
    size_t width = k.width, bytes = plan_room(&r, k.tokens, width);
    if (!k.tokens) { /* nothing to attend to */
        for (size_t t = 0; t < q.tokens; t++)
            memset(out + t * q.stride, 0, width * sizeof *out);
        return 1;
    }
    char *room = take(memory, bytes);
    if (!room)
        return 0;
    place_room(&r, room);
    pack_keys(&k, r.L, r.K, r.keys);
    pack_values(&v, r.L, r.K, r.values);
    for (size_t first = 0; first < q.tokens; first += QUERIES) {
        Softmax soft[2];
        pack_queries(&q, first, LOG2_E / sqrtf(width), r.K, r.queries);
        attend_block(product, &r, soft);
        size_t count = q.tokens - first < QUERIES ? q.tokens - first : QUERIES;
        unpack(soft, r.sums, count, out + first * q.stride, q.stride, width);
    }
    memory->give(memory, room);
    return 1;
}

WITH_AMX static int attend_amx(
    Allocator *memory, Product product, Head q, Head k, Head v, float *out)
{
    Tiles others;
    own_tiles(&others);
    int done = attend(memory, product, q, k, v, out);
    return_tiles(&others);
    return done;
}

static Product product_here; /* of the level that runs */

/* One head of one pair; the inputs of RoundedPairAttention. */
static void one_head(void *work_, size_t n)
{
    Work *work = work_;
    size_t pair = n / work->heads, D = work->D, width = D / work->heads;
    size_t at = n % work->heads * width;
    const int64_t *q_range = (const int64_t *)work->in[3].data + pair;
    const int64_t *range = (const int64_t *)work->in[4].data + pair;
    Head heads[3];
    for (size_t i = 0; i < 3; i++) {
        const int64_t *own = i ? range : q_range;
        const float *bias = work->in[5].data;
        heads[i] = (Head){.x = (const float *)work->in[i].data + own[0] * D + at,
                          .bias = bias ? bias + i * D + at : NULL,
                          .tokens = own[1] - own[0], .stride = D, .width = width};
    }
    float *out = (float *)work->out[0] + q_range[0] * D + at;
    int (*run)(Allocator *, Product, Head, Head, Head, float *) =
        product_here == product_amx ? attend_amx : attend;
    if (!run(work->memory, product_here, heads[0], heads[1], heads[2], out))
        work->failed = 1;
}
