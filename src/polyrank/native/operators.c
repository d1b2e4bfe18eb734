/* The operators of `onnx_backend/fused.py` as kernels for ONNX Runtime; with packed.h, PyTorch's too.
 *
 * ONNX Runtime is reached through the table of functions that it hands over (its C API, which
 * is only ever added to), so no header of it is needed.
 *
 * T rows, D their width */

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

typedef struct {
    const void *data; /* NULL: left out */
    size_t rows, columns;
    size_t stride; /* from a row to the next; 0 where one row is for all */
    size_t first;  /* the row that data begins with */
} Tensor;

enum { INPUTS = 6, OUTPUTS = 3, ROWS_AT_ONCE = 8, WIDEST = 1 << 16 };

typedef void (*Function)(void);
typedef struct Work Work;
typedef void (*Row)(const Work *, size_t t);
typedef struct Weights Weights;

/* Of the session: what is freed stays at hand, where the system would clear its pages once more. */
typedef struct Allocator {
    uint32_t version;
    Function take_or_throw;
    void (*give)(struct Allocator *, void *);
} Allocator;

static void *take(Allocator *, size_t bytes);

struct Work {
    size_t T, D;
    Tensor in[INPUTS];      /* of the rows: first what a product made, where there is one */
    void *out[OUTPUTS];     /* in the order of the definition */
    float epsilon;
    size_t heads;
    Row row;                /* what happens to each */
    const Weights *weights; /* of the product */
    Tensor q;               /* what goes into it */
    size_t height;          /* rows that go through it at once */
    Allocator *memory;
    int failed;
};

/* ---------------------------------------------------------------- the processor */

enum { PLAIN, AVX2, AVX512, AVX512_BF16, AMX };
static const char *const level_names[] = {"plain", "avx2", "avx512", "avx512-bf16", "amx"};

/* The best level that the processor has and the system keeps the registers of. By hand, because
 * __builtin_cpu_supports finds nothing in what Zig compiles. */
static int processor_level(void)
{
#ifdef __x86_64__
    const unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    const unsigned bf16 = 1 << 5, amx = 1 << 22 | 1 << 24 | 1 << 25; /* BF16, TILE, INT8 */
    const unsigned keeps_avx = 0x6, keeps_avx512 = 0xe6, keeps_amx = 0x60000;
    const int request = 0x1023, tiles = 18; /* ARCH_REQ_XCOMP_PERM, for this process */
    unsigned a, b, c, d, first, more, last, kept, high;
    if (!__get_cpuid(1, &a, &b, &first, &d) || !(first & bit_OSXSAVE) || !(first & bit_FMA) ||
        !__get_cpuid_count(7, 0, &a, &more, &c, &last) || !(more & bit_AVX2))
        return PLAIN;
    __asm__("xgetbv" : "=a"(kept), "=d"(high) : "c"(0));
    if ((kept & keeps_avx) != keeps_avx)
        return PLAIN;
    if ((more & avx512) != avx512 || (kept & keeps_avx512) != keeps_avx512)
        return AVX2;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & bf16))
        return AVX512;
    if ((last & amx) == amx && (kept & keeps_amx) == keeps_amx &&
        !syscall(SYS_arch_prctl, request, tiles))
        return AMX;
    return AVX512_BF16;
#else
    return PLAIN;
#endif
}

/* The level that runs: POLYRANK_KERNELS may name a lower one. */
static int chosen_level(void)
{
    const char *highest = getenv("POLYRANK_KERNELS");
    int best = processor_level();
    for (int level = 0; highest && level < best; level++)
        if (!strcmp(highest, level_names[level]))
            return level;
    return best;
}

/* ---------------------------------------------------------------- rows */

/* GELU(x) = x / 2 (1 + erf(x / sqrt 2)), and erf(x / sqrt 2) / x by least squares as a polynomial
 * in x^2 on [-5.25, 5.25], x^2 moved to [-1, 1]: off by 9e-7 at most. */
#define GELU_END 5.25f
#define GELU_TERMS 14
static const float gelu_terms[GELU_TERMS] = {
    0.2693187f, -0.134253174f, 0.0992908999f, -0.0795429945f, 0.064082846f,
    -0.0499227419f, 0.0368920751f, -0.0262238458f, 0.0175816976f, -0.00955343898f,
    0.00432911981f, -0.00334688975f, 0.00268274313f, -0.000858826505f,
};

typedef union { float real; int32_t bits; } Bits;
enum { QUANTIZE, ADD_NORM, GATE, ACTIVATE, ROTATE, SCALE, HALVES, ATTEND };

#define LEVEL plain
#define TARGET
#include "rows.h"
#ifdef __x86_64__
#define LEVEL avx2
#define TARGET __attribute__((target("avx2,fma")))
#include "rows.h"
#define LEVEL avx512
#ifdef __clang__
#define WIDE
#else
#define WIDE ",prefer-vector-width=512"
#endif
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma" WIDE)))
#include "rows.h"
#endif

static const Row *rows_here; /* of the level that runs */

#ifdef __x86_64__
#include "attention.h"
#endif
#include "product.h"

/* ---------------------------------------------------------------- ONNX Runtime's C API */

enum { API = 18, INVALID_ARGUMENT = 2, RUNTIME_EXCEPTION = 6 };
enum { FLOAT = 1, UINT8 = 2, INT8 = 3, INT64 = 7, OPTIONAL = 1 };

typedef struct Status Status; /* NULL: all went well */
typedef struct { const Function *(*api)(uint32_t version); } Base;
static const Function *api;

#define API_CALL(place, result, ...) ((result (*)(__VA_ARGS__))api[place])
#define create_status API_CALL(0, Status *, int, const char *)
#define create_domain API_CALL(26, Status *, const char *, void **)
#define add_to_domain API_CALL(27, Status *, void *, const void *)
#define add_domain API_CALL(28, Status *, void *, void *)
#define tensor_data API_CALL(51, Status *, void *, void **)
#define count_dimensions API_CALL(61, Status *, const void *, size_t *)
#define dimensions API_CALL(62, Status *, const void *, int64_t *, size_t)
#define type_and_shape API_CALL(65, Status *, const void *, void **)
#define allocate API_CALL(75, Status *, Allocator *, size_t, void **)
#define float_attribute API_CALL(85, Status *, const void *, const char *, float *)
#define integer_attribute API_CALL(86, Status *, const void *, const char *, int64_t *)
#define input API_CALL(90, Status *, const void *, size_t, void **)
#define output API_CALL(91, Status *, void *, size_t, const int64_t *, size_t, void **)
#define release_status API_CALL(93, void, Status *)
#define release_shape API_CALL(99, void, void *)
#define release_allocator API_CALL(132, void, Allocator *)
#define constant_input API_CALL(249, Status *, const void *, size_t, int *, void **)
#define parallel_for \
    API_CALL(274, Status *, const void *, void (*)(void *, size_t), size_t, size_t, void *)
#define session_allocator API_CALL(278, Status *, const void *, int, Allocator **)

#define VISIBLE __attribute__((visibility("default")))
#define TRY(call) do { Status *status_ = (call); if (status_) return status_; } while (0)

/* At 64 bytes; NULL, where there is no memory. An exception must not pass through C. */
static void *take(Allocator *memory, size_t bytes)
{
    void *room = NULL;
    Status *status = allocate(memory, bytes, &room);
    if (status)
        release_status(status);
    return status ? NULL : room;
}

typedef struct Operator Operator;
struct Operator {
    uint32_t version;
    Function create_v1;
    const char *(*get_name)(const Operator *);
    const char *(*provider)(const Operator *);
    int (*input_type)(const Operator *, size_t);
    size_t (*input_count)(const Operator *);
    int (*output_type)(const Operator *, size_t);
    size_t (*output_count)(const Operator *);
    Function compute_v1;
    void (*destroy)(void *);
    int (*input_kind)(const Operator *, size_t);
    int (*output_kind)(const Operator *, size_t);
    int (*input_memory)(const Operator *, size_t);
    Function variadic[4];
    Status *(*create)(const Operator *, const Function *, const void *, void **);
    Status *(*compute)(void *, void *);
    Function infer_shape;
    int (*first_version)(const Operator *);
    int (*last_version)(const Operator *);
    Function aliases[4];
    /* Ours, behind what the runtime reads. */
    const char *name, *attribute;
    const char *inputs;  /* a letter for each: see fits() */
    const char *outputs; /* x: float [T, D], q: uint8 [T, D], s: float [T, 1] */
    int row;             /* what happens to each; of those before HALVES, for every level */
    size_t products;     /* how many weights come before it */
    const char *expected;
};

/* ---------------------------------------------------------------- the operators */

static int type(char letter)
{
    return letter == 'q' ? UINT8 : letter == 'w' ? INT8 :
           letter == 'p' || letter == 'n' ? INT64 : FLOAT;
}

static const char *get_name(const Operator *op) { return op->name; }
static const char *provider(const Operator *op) { (void)op; return NULL; }
static int input_type(const Operator *op, size_t n) { return type(op->inputs[n]); }
static size_t input_count(const Operator *op) { return strlen(op->inputs); }
static int output_type(const Operator *op, size_t n) { return type(op->outputs[n]); }
static size_t output_count(const Operator *op) { return strlen(op->outputs); }
static int input_kind(const Operator *op, size_t n) { return op->inputs[n] == 'b' ? OPTIONAL : 0; }
static int none(const Operator *op, size_t n) { (void)op, (void)n; return 0; }
static int first_version(const Operator *op) { (void)op; return 1; }

typedef struct {
    const Operator *op;
    float epsilon;
    int64_t heads;
    size_t threads; /* that the session was said to have */
    Allocator *memory;
    Weights weights;
} Kernel;

static _Thread_local size_t threads_next = 1; /* of the session that this thread opens next */

static Status *describe(void *value, Tensor *tensor)
{
    void *data, *shape;
    int64_t sizes[2] = {1, 1};
    size_t rank;
    TRY(tensor_data(value, &data));
    TRY(type_and_shape(value, &shape));
    Status *status = count_dimensions(shape, &rank);
    if (!status && (rank < 1 || rank > 2))
        status = create_status(INVALID_ARGUMENT, "expected one or two dimensions");
    if (!status)
        status = dimensions(shape, sizes + 2 - rank, rank);
    release_shape(shape);
    if (status)
        return status;
    *tensor = (Tensor){data, sizes[0], sizes[1], sizes[0] > 1 ? sizes[1] : 0, 0};
    return NULL;
}

static Status *read_tensor(const void *context, size_t n, Tensor *tensor)
{
    void *value;
    TRY(input(context, n, &value));
    return value ? describe(value, tensor) : NULL;
}

/* The weights of a product are constants, laid out for the tiles once. */
static Status *read_weights(const Operator *op, const void *info, Kernel **kernel)
{
    Weights w = {.products = op->products};
    const int8_t *from[2];
    const float *scales[2];
    for (size_t i = 0; i < op->products; i++) {
        Tensor weight, scale;
        for (size_t n = 0; n < 2; n++) {
            void *value;
            int constant;
            TRY(constant_input(info, 1 + 2 * i + n, &constant, &value));
            if (!constant)
                return create_status(INVALID_ARGUMENT, op->expected);
            TRY(describe(value, n ? &scale : &weight));
        }
        if (weight.rows < 1 || weight.rows > WIDEST || weight.columns < 1 ||
            scale.rows != 1 || scale.columns != weight.columns ||
            (i && (weight.rows != w.K || weight.columns != w.N)))
            return create_status(INVALID_ARGUMENT, op->expected);
        w.K = weight.rows, w.N = weight.columns, from[i] = weight.data, scales[i] = scale.data;
    }
    w.steps = (w.K + DEPTH - 1) / DEPTH;
    w.panels = (w.N * w.products + COLUMNS - 1) / COLUMNS;
    size_t bytes = (sizeof **kernel + 63) / 64 * 64 + weight_bytes(&w);
    size_t page = bytes < LARGE_PAGE ? 64 : LARGE_PAGE; /* a sixth faster than in small ones */
    Kernel *larger = aligned_alloc(page, (bytes + page - 1) / page * page);
    if (!larger)
        return create_status(RUNTIME_EXCEPTION, "expected memory for weights");
    if (page == LARGE_PAGE)
        madvise(larger, bytes / page * page, MADV_HUGEPAGE);
    memset(larger, 0, bytes);
    pack_weights(&w, from, scales, (char *)larger + bytes - weight_bytes(&w));
    larger->weights = w;
    *kernel = larger;
    return NULL;
}

static void destroy(void *kernel_)
{
    Kernel *kernel = kernel_;
    if (kernel->memory)
        release_allocator(kernel->memory);
    free(kernel);
}

static Status *create(const Operator *op, const Function *own, const void *info, void **made)
{
    (void)own;
    Kernel *kernel = NULL;
    if (op->products)
        TRY(read_weights(op, info, &kernel));
    else if (!(kernel = calloc(1, sizeof *kernel)))
        return create_status(RUNTIME_EXCEPTION, "expected memory for a kernel");
    kernel->op = op;
    kernel->threads = threads_next;
    Status *status = session_allocator(info, 0, &kernel->memory);
    if (!status && op->attribute)
        status = strcmp(op->attribute, "epsilon") ?
            integer_attribute(info, op->attribute, &kernel->heads) :
            float_attribute(info, op->attribute, &kernel->epsilon);
    if (status)
        destroy(kernel);
    else
        *made = kernel;
    return status;
}

/* A graph may come from anywhere: nothing is read that its shapes and numbers do not promise. */
static int fits(char letter, const Tensor *x, const Work *work)
{
    size_t T = work->T, D = work->D;
    switch (letter) {
    case 'x': return x->rows == T && x->columns == D;
    case 's': return (x->rows == T || x->rows == 1) && x->columns == 1;
    case 'd': return x->rows == 1 && x->columns == D;
    case 'p': return x->rows == 1 && x->columns == T;                     /* positions */
    case 'c': return work->heads && D % work->heads == 0 &&               /* cos, sin */
                     x->columns && x->columns * 2 == D / work->heads &&
                     x->rows == work->in[4].rows && x->columns == work->in[4].columns;
    case 'k': return x->rows == work->in[1].rows && x->columns == D;      /* keys, values */
    case 'n': return x->rows == 1 && x->columns &&                        /* starts */
                     x->columns == work->in[3].columns;
    case 'b': return !x->data || (x->rows == 1 && x->columns == 3 * D);
    }
    return 0;
}

/* Starts of pairs, and where the last one ends: from 0 to all rows. */
static int cover(const Tensor *starts, size_t rows)
{
    const int64_t *at = starts->data;
    for (size_t n = 0; n + 1 < starts->columns; n++)
        if (at[n] > at[n + 1])
            return 0;
    return at[0] == 0 && (size_t)at[starts->columns - 1] == rows;
}

static int inputs_fit(const Operator *op, const Work *work)
{
    const char *letters = op->inputs + 2 * op->products;
    for (size_t n = op->products > 0; letters[n]; n++)
        if (!fits(letters[n], &work->in[n], work))
            return 0;
    if (op->row == ATTEND)
        return work->heads && work->D % work->heads == 0 &&
               cover(&work->in[3], work->T) && cover(&work->in[4], work->in[1].rows);
    for (size_t t = 0; op->row == ROTATE && t < work->T; t++)
        if (((const uint64_t *)work->in[3].data)[t] >= work->in[4].rows)
            return 0;
    return work->D <= WIDEST && (!op->products || work->q.columns == work->weights->K);
}

static void some_rows(void *work_, size_t n)
{
    const Work *work = work_;
    size_t end = (n + 1) * ROWS_AT_ONCE;
    for (size_t t = n * ROWS_AT_ONCE; t < end && t < work->T; t++)
        work->row(work, t);
}

static Status *compute(void *kernel_, void *context)
{
    const Kernel *kernel = kernel_;
    const Operator *op = kernel->op;
    Work work = {.epsilon = kernel->epsilon, .heads = kernel->heads,
                 .weights = &kernel->weights, .memory = kernel->memory};
    const size_t weights = 2 * op->products;
    TRY(read_tensor(context, 0, &work.in[0]));
    for (size_t n = 1; op->inputs[n + weights]; n++)
        TRY(read_tensor(context, n + weights, &work.in[n]));
    work.T = work.in[0].rows;
    work.D = op->products ? kernel->weights.N : work.in[0].columns;
    work.q = work.in[0];
    if (!inputs_fit(op, &work))
        return create_status(INVALID_ARGUMENT, op->expected);
    for (size_t n = 0; op->outputs[n]; n++) {
        int64_t sizes[] = {(int64_t)work.T, op->outputs[n] == 's' ? 1 : (int64_t)work.D};
        void *value;
        TRY(output(context, n, sizes, 2, &value));
        TRY(tensor_data(value, &work.out[n]));
    }
    void (*part)(void *, size_t) = some_rows;
    size_t parts = (work.T + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE, batches = 0;
#ifdef __x86_64__
    if (op->row == ATTEND) {
        part = one_head;
        parts = batches = (work.in[3].columns - 1) * work.heads;
    } else if (op->products) {
        if (op->row == HALVES)
            work.row = quantize_halves;
        work.height = block_height(work.weights, work.T, kernel->threads);
        part = some_products;
        parts = batches = (work.T + work.height - 1) / work.height;
    }
#endif
    if (op->row < HALVES)
        work.row = rows_here[op->row];
    TRY(parallel_for(context, part, parts, batches, &work));
    return work.failed ? create_status(RUNTIME_EXCEPTION, "expected memory for rows") : NULL;
}

#define OPERATOR(products_, row_, name_, inputs_, outputs_, attribute_)                          \
    {                                                                                            \
        .version = API, .get_name = get_name, .provider = provider, .input_type = input_type,    \
        .input_count = input_count, .output_type = output_type, .output_count = output_count,    \
        .destroy = destroy, .input_kind = input_kind, .output_kind = none, .input_memory = none, \
        .create = create, .compute = compute, .first_version = first_version,                    \
        .last_version = first_version, .name = name_, .attribute = attribute_,                   \
        .inputs = inputs_, .outputs = outputs_, .row = row_, .products = products_,              \
        .expected = "expected " name_ "'s inputs as its definition has them, positions and "     \
                    "starts in range, rows of at most 65,536 values"                             \
    }

static const Operator operators[] = {
    OPERATOR(0, QUANTIZE, "QuantizeRows", "x", "qs", NULL),
    OPERATOR(0, ADD_NORM, "AddNormQuantizeRows", "xsdxdd", "xqs", "epsilon"),
    OPERATOR(0, GATE, "GateQuantizeRows", "xsx", "qs", NULL),
    OPERATOR(0, ACTIVATE, "GeluQuantizeRows", "xsd", "qs", NULL),
    OPERATOR(0, ROTATE, "RotateRows", "xsdpcc", "x", "num_heads"),
    OPERATOR(0, ATTEND, "RoundedPairAttention", "xkknnb", "x", "num_heads"),
    OPERATOR(1, SCALE, "ProductRows", "qwds", "x", NULL),
    OPERATOR(1, ADD_NORM, "ProductAddNormQuantizeRows", "qwdsdxdd", "xqs", "epsilon"),
    OPERATOR(1, ACTIVATE, "ProductGeluQuantizeRows", "qwdsd", "qs", NULL),
    OPERATOR(1, ROTATE, "ProductRotateRows", "qwdsdpcc", "x", "num_heads"),
    OPERATOR(2, HALVES, "ProductsGateQuantizeRows", "qwdwds", "qs", NULL),
};

static int level_here = -1; /* once it is chosen */

/* The level that runs: one of level_names. */
VISIBLE const char *polyrank_kernels(void)
{
    if (level_here < 0) {
        int level = chosen_level();
        rows_here = rows_plain;
#ifdef __x86_64__
        if (level >= AVX2)
            rows_here = level >= AVX512 ? rows_avx512 : rows_avx2;
        product_here = level == AMX ? product_amx : product_avx512;
#endif
        level_here = level; /* at last: another thread may look meanwhile */
    }
    return level_names[level_here];
}

#ifdef __x86_64__
#include "packed.h"
#endif

/* How many threads the session has that this thread opens next: how work is cut, not what comes of
 * it. */
VISIBLE void polyrank_threads(size_t threads)
{
    threads_next = threads ? threads : 1;
}

/* Called by ONNX Runtime for the options of each session, under Python's lock. */
VISIBLE Status *RegisterCustomOps(void *options, const Base *base)
{
    static void *domain;
    if (!domain) {
        int attends = 0, multiplies = 0;
        polyrank_kernels();
        api = base->api(API);
#ifdef __x86_64__
        attends = level_here >= AVX512_BF16; /* otherwise, fp32 by the definition */
        multiplies = level_here == AMX; /* otherwise, by the runtime's products */
#endif
        TRY(create_domain("polyrank", &domain));
        for (size_t n = 0; n < sizeof operators / sizeof *operators; n++)
            if ((operators[n].row != ATTEND || attends) && (!operators[n].products || multiplies))
                TRY(add_to_domain(domain, &operators[n]));
    }
    return add_domain(options, domain);
}
