/* Attention of packed pairs in bf16, with RoPE before it, and its gradients: for PyTorch.
 *
 * Products, softmax and chunks of keys are those of attention.h. The backward pass makes scores
 * anew, a square of CHUNK queries and keys at a time, from what the forward pass kept of each
 * query: the logarithm of its sum (FlashAttention-2, arXiv 2307.08691, section 3.1).
 *
 * T tokens, H heads, K width of a head in whole tiles, L tokens of a pair in whole tiles */

enum { CHUNK = KEYS_AT_ONCE };
#define WORTH_A_THREAD 4e6 /* values times queries and keys: about 100 us */

/* One tensor of bf16: tokens at a stride, heads beside each other. */
typedef struct { uint16_t *data; size_t stride; } Packed;

/* Told by Python, field by field. */
typedef struct {
    size_t pairs, heads, width, backward;
    const int32_t *q_starts, *starts; /* [pairs + 1] of queries; of keys and values */
    const float *cos, *sin;           /* [positions, width / 2]; NULL: no RoPE */
    float *logs;                      /* [queries, heads] log2 of a query's sum of exp(score) */
    Packed q, k, v, out, q_gradient, k_gradient, v_gradient, out_gradient;
    size_t next;                      /* head of a pair that nobody has taken: set here */
} Attention;

/* ---------------------------------------------------------------- rows */

/* x := RoPE(x) at a position, in the rotate-half layout; turned back where `back` is -1. */
WITH_BF16 static void turn(const Attention *work, size_t position, float back, float *x)
{
    size_t half = work->width / 2;
    if (!work->cos)
        return;
    const float *cos = work->cos + position * half, *sin = work->sin + position * half;
    float *left = x, *right = x + half;
    for (size_t i = 0; i < half; i++) {
        float l = left[i], r = right[i], s = sin[i] * back;
        left[i] = l * cos[i] - r * s;
        right[i] = r * cos[i] + l * s;
    }
}

/* 16 values of bf16 as fp32. */
WITH_BF16 static inline __m512 widened(__m256i x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

/* Tokens from the first on of one head, [L, K], zeros around; times `scale`. */
WITH_BF16 static void read_rows(
    const Attention *work, const uint16_t *from, size_t stride, size_t first, size_t tokens,
    int turned, float scale, size_t L, size_t K, uint16_t *to)
{
    __attribute__((aligned(64))) float x[K];
    for (size_t t = 0; t < L; t++, to += K) {
        if (t >= tokens) {
            memset(to, 0, K * sizeof *to);
            continue;
        }
        const uint16_t *row = from + (first + t) * stride;
        for (size_t d = 0; d < K; d += 16)
            _mm512_store_ps(x + d, widened(
                _mm256_maskz_loadu_epi16(left_of(work->width, d), row + d)));
        if (turned)
            turn(work, first + t, 1, x);
        for (size_t d = 0; d < K; d += 16)
            _mm256_store_si256((__m256i *)(to + d), (__m256i)_mm512_cvtneps_pbh(
                _mm512_mul_ps(_mm512_load_ps(x + d), _mm512_set1_ps(scale))));
    }
}

/* One row x [K], which it changes, times `scale` and turned back if it was turned. */
WITH_BF16 static void write_row(
    const Attention *work, float *x, float scale, int turned, size_t position, uint16_t *to)
{
    if (turned)
        turn(work, position, -1, x);
    for (size_t d = 0; d < work->width; d += 16)
        _mm256_mask_storeu_epi16(to + d, left_of(work->width, d), (__m256i)_mm512_cvtneps_pbh(
            _mm512_mul_ps(_mm512_loadu_ps(x + d), _mm512_set1_ps(scale))));
}

/* Two rows of 32 values to 32 pairs of values. */
WITH_BF16 static inline void beside(__m512i upper, __m512i lower, uint32_t *to)
{
    uint16_t places[64];
    for (size_t i = 0; i < 64; i++)
        places[i] = i / 2 + i % 2 * 32;
    _mm512_store_si512(to, _mm512_permutex2var_epi16(upper, _mm512_loadu_si512(places), lower));
    _mm512_store_si512(to + 16, _mm512_permutex2var_epi16(
        upper, _mm512_loadu_si512(places + 32), lower));
}

/* Rows [n, K] with their rows in pairs: [K / 32][n / 2, 32]. */
WITH_BF16 static void pair_rows(const uint16_t *rows, size_t n, size_t K, uint32_t *b)
{
    for (size_t d = 0; d < K; d += 32)
        for (size_t t = 0; t < n; t += 2, b += 32)
            beside(_mm512_load_si512(rows + t * K + d), _mm512_load_si512(rows + (t + 1) * K + d), b);
}

/* 16 lines of 16 words at a stride become columns. */
WITH_BF16 static void turn_words(
    const uint32_t *from, size_t from_stride, uint32_t *to, size_t to_stride)
{
    __m512i x[16];
    for (size_t i = 0; i < 16; i++)
        x[i] = _mm512_loadu_si512(from + i * from_stride);
    transpose(x);
    for (size_t i = 0; i < 16; i++)
        _mm512_storeu_si512(to + i * to_stride, x[i]);
}

/* Rows [32, K] as columns, in pairs of values: [K / 2, 32]. */
WITH_BF16 static void pair_columns(const uint16_t *rows, size_t K, uint32_t *b)
{
    for (size_t side = 0; side < QUERIES; side += 16)
        for (size_t d = 0; d < K / 2; d += 16)
            turn_words((const uint32_t *)rows + side * K / 2 + d, K / 2,
                       b + d * QUERIES + side, QUERIES);
}

/* Rows [L, K] as [K, L]. */
WITH_BF16 static void columns_of(const uint16_t *rows, size_t L, size_t K, uint16_t *to)
{
    __attribute__((aligned(64))) uint32_t pairs[16 * 32]; /* of 32 rows and 32 values */
    for (size_t t = 0; t < L; t += 32)
        for (size_t d = 0; d < K; d += 32) {
            for (size_t i = 0; i < 16; i++) {
                const uint16_t *upper = rows + (t + 2 * i) * K + d;
                beside(_mm512_load_si512(upper), _mm512_load_si512(upper + K), pairs + i * 32);
            }
            for (size_t side = 0; side < 32; side += 16)
                turn_words(pairs + side, 32, (uint32_t *)(to + (d + side) * L + t), L / 2);
        }
}

/* ---------------------------------------------------------------- one head of one pair */

typedef struct { size_t head, q_first, q_tokens, first, tokens; } Place;

static uint16_t *head_of(const Attention *work, const Packed *x, size_t token, size_t head)
{
    return x->data + token * x->stride + head * work->width;
}

WITH_BF16 static void forward_head(
    const Attention *work, Product product, const Place *at, char *room)
{
    Room r;
    plan_room(&r, at->tokens, work->width);
    uint16_t *rows = (uint16_t *)place_room(&r, room); /* [L, K], or of 32 queries */
    float *found = (float *)(rows + r.L * r.K);        /* [32, K] */
    const uint16_t *q = head_of(work, &work->q, at->q_first, at->head);
    const uint16_t *k = head_of(work, &work->k, at->first, at->head);
    const uint16_t *v = head_of(work, &work->v, at->first, at->head);
    uint16_t *out = head_of(work, &work->out, at->q_first, at->head);
    float *logs = work->logs + at->q_first * work->heads + at->head;
    read_rows(work, k, work->k.stride, 0, at->tokens, 1, 1, r.L, r.K, r.keys);
    read_rows(work, v, work->v.stride, 0, at->tokens, 0, 1, r.L, r.K, rows);
    columns_of(rows, r.L, r.K, r.values);
    for (size_t first = 0; first < at->q_tokens; first += QUERIES) {
        size_t left = at->q_tokens - first, count = left < QUERIES ? left : QUERIES;
        Softmax soft[2];
        read_rows(work, q, work->q.stride, first, count, 1, LOG2_E / sqrtf(work->width),
                  QUERIES, r.K, rows);
        pair_columns(rows, r.K, r.queries);
        attend_block(product, &r, soft);
        unpack(soft, r.sums, count, found, r.K, r.K);
        for (size_t t = 0; t < count; t++) {
            const float *most = (const float *)&soft[t / 16].most;
            const float *sum = (const float *)&soft[t / 16].sum;
            logs[(first + t) * work->heads] = most[t % 16] + log2f(sum[t % 16]);
            write_row(work, found + t * r.K, 1, 0, 0, out + (first + t) * work->out.stride);
        }
    }
}

/* Room for the gradients of one head: keys and values over all of a pair, queries by chunks. */
typedef struct {
    size_t L, K, queries;                        /* queries of a chunk, in whole tiles */
    uint16_t *keys, *key_columns, *values;       /* [L, K], [K, L], [L, K] */
    float *key_sums, *value_sums;                /* [K / 32][L, 32] */
    uint16_t *q_rows, *out_rows;                 /* [queries, K]: of Q, and of O's gradient */
    uint32_t *q_pairs, *out_pairs;               /* [K / 32][queries / 2, 32] */
    uint32_t *q_columns, *out_columns;           /* [queries / 32][K / 2, 32] */
    float *q_sums, *scores, *share_gradients;    /* [K, 32], [CHUNK, 32], [CHUNK, 32] */
    uint16_t *shares, *score_gradients;          /* [CHUNK, queries] */
    uint32_t *score_pairs;                       /* [CHUNK / 2, 32] */
    float *logs, *products;                      /* [queries]: the latter O times its gradient */
    float *found;                                /* [32, K] of any */
} Gradients;

/* Where `room` is NULL, only how many bytes it takes. */
static size_t place_gradients(
    Gradients *g, size_t q_tokens, size_t tokens, size_t width, char *room)
{
    size_t L = (tokens + 31) / 32 * 32, K = (width + 31) / 32 * 32;
    size_t queries = (q_tokens + 31) / 32 * 32, bytes = 0;
    queries = queries < CHUNK ? queries : CHUNK;
    g->L = L, g->K = K, g->queries = queries;
#define PLACE(name, count)                                                                       \
    g->name = room ? (void *)(room + bytes) : NULL, bytes += (count) * sizeof *g->name
    PLACE(keys, L * K);
    PLACE(key_columns, L * K);
    PLACE(values, L * K);
    PLACE(key_sums, L * K);
    PLACE(value_sums, L * K);
    PLACE(q_rows, queries * K);
    PLACE(out_rows, queries * K);
    PLACE(q_pairs, queries * K / 2);
    PLACE(out_pairs, queries * K / 2);
    PLACE(q_columns, queries * K / 2);
    PLACE(out_columns, queries * K / 2);
    PLACE(q_sums, queries * K);
    PLACE(scores, CHUNK * QUERIES);
    PLACE(share_gradients, CHUNK * QUERIES);
    PLACE(shares, CHUNK * queries);
    PLACE(score_gradients, CHUNK * queries);
    PLACE(score_pairs, CHUNK / 2 * QUERIES);
    PLACE(logs, queries);
    PLACE(products, queries);
    PLACE(found, QUERIES * K);
#undef PLACE
    return bytes;
}

/* A block of queries against rows of keys: shares, and the gradients of their scores. */
WITH_BF16 static void differentiate(const Gradients *g, size_t block, size_t keys, size_t rows)
{
    for (size_t t = 0; t < rows; t += 2) {
        __m512i gradient_rows[2];
        for (size_t i = 0; i < 2; i++) {
            __m512 share[2], gradient[2];
            for (size_t side = 0; side < 2; side++) {
                size_t at = (t + i) * QUERIES + 16 * side;
                __m512 log = _mm512_load_ps(g->logs + block + 16 * side);
                __m512 mean = _mm512_load_ps(g->products + block + 16 * side);
                share[side] = t + i < keys ?
                    power_of_2(_mm512_sub_ps(_mm512_load_ps(g->scores + at), log)) :
                    _mm512_setzero_ps();
                gradient[side] = _mm512_mul_ps(
                    share[side], _mm512_sub_ps(_mm512_load_ps(g->share_gradients + at), mean));
            }
            size_t place = (t + i) * g->queries + block;
            gradient_rows[i] = both_bf16(gradient[0], gradient[1]);
            _mm512_store_si512(g->shares + place, both_bf16(share[0], share[1]));
            _mm512_store_si512(g->score_gradients + place, gradient_rows[i]);
        }
        beside(gradient_rows[0], gradient_rows[1], g->score_pairs + t / 2 * QUERIES);
    }
}

/* Sums over so many queries of a chunk, for rows of keys from t on. */
static void add_to_keys(
    Product product, const Gradients *g, size_t queries, size_t t, size_t rows, int add)
{
    for (size_t d = 0; d < g->K; d += 32) {
        size_t pairs = d / 32 * g->queries / 2 * 32, at = d / 32 * g->L * 32 + t * 32;
        product(g->shares, g->queries, g->out_pairs + pairs, queries, g->value_sums + at, rows, add);
        product(g->score_gradients, g->queries, g->q_pairs + pairs, queries, g->key_sums + at, rows,
                add);
    }
}

/* Logarithms, and O times its gradient, of a chunk's queries; zeros beyond them. */
WITH_BF16 static void read_queries(
    const Attention *work, const Place *at, const Gradients *g, size_t first, size_t count)
{
    const uint16_t *out = head_of(work, &work->out, at->q_first, at->head);
    for (size_t t = 0; t < g->queries; t++) {
        __m512 sum = _mm512_setzero_ps();
        for (size_t d = 0; t < count && d < work->width; d += 16) {
            __m256i x = _mm256_maskz_loadu_epi16(
                left_of(work->width, d), out + (first + t) * work->out.stride + d);
            __m256i y = _mm256_load_si256((const __m256i *)(g->out_rows + t * g->K + d));
            sum = _mm512_fmadd_ps(widened(x), widened(y), sum);
        }
        g->products[t] = _mm512_reduce_add_ps(sum);
        g->logs[t] = t < count ?
            work->logs[(at->q_first + first + t) * work->heads + at->head] : 0;
    }
}

WITH_BF16 static void backward_head(
    const Attention *work, Product product, const Place *at, char *room)
{
    Gradients g;
    place_gradients(&g, at->q_tokens, at->tokens, work->width, room);
    const size_t L = g.L, K = g.K, head = at->head;
    const float scale = 1 / sqrtf(work->width);
    float *found = g.found;
    const Softmax whole[2] = {{.sum = _mm512_set1_ps(1)}, {.sum = _mm512_set1_ps(1)}};
    const Packed *dq = &work->q_gradient, *dk = &work->k_gradient, *dv = &work->v_gradient;
    const uint16_t *q = head_of(work, &work->q, at->q_first, head);
    const uint16_t *k = head_of(work, &work->k, at->first, head);
    const uint16_t *v = head_of(work, &work->v, at->first, head);
    const uint16_t *out = head_of(work, &work->out_gradient, at->q_first, head);
    read_rows(work, k, work->k.stride, 0, at->tokens, 1, 1, L, K, g.keys);
    read_rows(work, v, work->v.stride, 0, at->tokens, 0, 1, L, K, g.values);
    columns_of(g.keys, L, K, g.key_columns);
    for (size_t first = 0; first < at->q_tokens; first += g.queries) {
        size_t left = at->q_tokens - first, count = left < g.queries ? left : g.queries;
        read_rows(work, q, work->q.stride, first, count, 1, LOG2_E * scale, g.queries, K, g.q_rows);
        read_rows(work, out, work->out_gradient.stride, first, count, 0, 1, g.queries, K,
                  g.out_rows);
        pair_rows(g.q_rows, g.queries, K, g.q_pairs);
        pair_rows(g.out_rows, g.queries, K, g.out_pairs);
        for (size_t block = 0; block < count; block += QUERIES) {
            pair_columns(g.q_rows + block * K, K, g.q_columns + block * K / 2);
            pair_columns(g.out_rows + block * K, K, g.out_columns + block * K / 2);
        }
        read_queries(work, at, &g, first, count);
        for (size_t t = 0; t < L; t += CHUNK) {
            size_t rows = L - t < CHUNK ? L - t : CHUNK;
            size_t keys = at->tokens - t < rows ? at->tokens - t : rows;
            for (size_t block = 0; block < count; block += QUERIES) {
                const uint32_t *q_block = g.q_columns + block * K / 2;
                const uint32_t *out_block = g.out_columns + block * K / 2;
                product(g.keys + t * K, K, q_block, K, g.scores, rows, 0);
                product(g.values + t * K, K, out_block, K, g.share_gradients, rows, 0);
                differentiate(&g, block, keys, rows);
                product(g.key_columns + t, L, g.score_pairs, rows, g.q_sums + block * K, K, t > 0);
            }
            add_to_keys(product, &g, (count + 31) / 32 * 32, t, rows, first > 0);
        }
        for (size_t block = 0; block < count; block += QUERIES) {
            size_t some = count - block < QUERIES ? count - block : QUERIES;
            unpack(whole, g.q_sums + block * K, some, found, K, K);
            for (size_t i = 0, t = first + block; i < some; i++, t++)
                write_row(work, found + i * K, scale, 1, t,
                          head_of(work, dq, at->q_first + t, head));
        }
    }
    for (size_t t = 0; t < at->tokens; t++) {
        for (size_t d = 0; d < K; d += 32) /* scores were in powers of 2 */
            memcpy(found + d, g.key_sums + d * L + t * 32, 32 * sizeof *found);
        write_row(work, found, 1 / LOG2_E, 1, t, head_of(work, dk, at->first + t, head));
        for (size_t d = 0; d < K; d += 32)
            memcpy(found + d, g.value_sums + d * L + t * 32, 32 * sizeof *found);
        write_row(work, found, 1, 0, t, head_of(work, dv, at->first + t, head));
    }
}

/* ---------------------------------------------------------------- all of them */

static Place place_of(const Attention *work, size_t n)
{
    size_t pair = n / work->heads;
    Place at = {.head = n % work->heads, .q_first = work->q_starts[pair],
                .first = work->starts[pair]};
    at.q_tokens = work->q_starts[pair + 1] - at.q_first;
    at.tokens = work->starts[pair + 1] - at.first;
    return at;
}

typedef struct { Attention *work; char *room; } Worker;

/* Heads of pairs, each for whoever comes first, until none is left. */
static void *some_heads(void *worker_)
{
    const Worker *worker = worker_;
    Attention *work = worker->work;
    const size_t all = work->pairs * work->heads;
    Tiles others;
    if (product_here == product_amx)
        own_tiles(&others);
    for (size_t n; (n = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < all;) {
        Place at = place_of(work, n);
        if (work->backward)
            backward_head(work, product_here, &at, worker->room);
        else
            forward_head(work, product_here, &at, worker->room);
    }
    if (product_here == product_amx)
        return_tiles(&others);
    return NULL;
}

/* On so many threads at most, as far as they are worth it and the system gives them. 0, where there
 * is no memory. */
VISIBLE int polyrank_attention(Attention *work, size_t threads)
{
    const size_t width = work->width, K = (width + 31) / 32 * 32;
    size_t bytes = 0, begun = 1, all = work->pairs * work->heads;
    double values = 0;
    for (size_t n = 0; n < work->pairs; n++) {
        Place at = place_of(work, n * work->heads);
        Room r;
        Gradients g;
        size_t forward = plan_room(&r, at.tokens, width) + r.L * K * sizeof(uint16_t) +
                         QUERIES * K * sizeof(float);
        size_t needs = work->backward ?
            place_gradients(&g, at.q_tokens, at.tokens, width, NULL) : forward;
        bytes = needs > bytes ? needs : bytes;
        values += (double)at.q_tokens * at.tokens * width * work->heads;
    }
    if (values < WORTH_A_THREAD * (threads - 1))
        threads = 1 + values / WORTH_A_THREAD;
    threads = threads < all ? threads : all + !all;
    bytes = (bytes + 63) / 64 * 64;
    size_t own = (threads * (sizeof(Worker) + sizeof(pthread_t)) + 63) / 64 * 64;
    char *room = aligned_alloc(64, threads * bytes + own);
    if (!room)
        return 0;
    Worker *workers = (Worker *)(room + threads * bytes);
    pthread_t *ids = (pthread_t *)(workers + threads);
    work->next = 0;
    for (size_t n = 0; n < threads; n++)
        workers[n] = (Worker){work, room + n * bytes};
    while (begun < threads && !pthread_create(&ids[begun], NULL, some_heads, &workers[begun]))
        begun++;
    some_heads(workers);
    for (size_t n = 1; n < begun; n++)
        pthread_join(ids[n], NULL);
    free(room);
    return 1;
}
