/* The operators of `fused.py` as kernels for ONNX Runtime, each in one pass over its rows.
 *
 * Loops that GCC and Clang make vector instructions of, for three levels of x86-64, of which the
 * machine's best one is taken, or for what another processor has at least. ONNX Runtime is
 * reached through the table of functions that it hands over (its C API, whose places and structs
 * never change), so no header of it is needed. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

/* ---------------------------------------------------------------- a row's work */

typedef struct Work Work;
typedef void (*Row)(const Work *, size_t);
struct Work {
    Row row;
    size_t rows, width;
    const float *y, *step, *bias; /* a product, what its rows' steps are worth, and its bias */
    const float *x, *x_step;      /* the other input */
    const float *weight, *shift;  /* of a norm */
    const float *cos, *sin;       /* [positions, half] */
    const int64_t *position;
    size_t positions, half, step_stride, x_step_stride; /* a stride of 0: one step for all rows */
    float epsilon;
    float *out, *out_step;
    uint8_t *q;
};

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

#define LEVEL plain
#define TARGET
#include "rows.h"
#ifdef __x86_64__
#define LEVEL avx2
#define TARGET __attribute__((target("avx2,fma")))
#include "rows.h"
#define LEVEL avx512
#ifdef __clang__
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#else
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")))
#endif
#include "rows.h"
#endif

static const Row *best_rows(void)
{
#ifdef __x86_64__
    /* By hand: __builtin_cpu_supports finds nothing in what Zig compiles. */
    const unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    unsigned a, b, c, d, kept, high;
    if (__get_cpuid(1, &a, &b, &c, &d) && c & bit_OSXSAVE && c & bit_FMA) {
        __asm__("xgetbv" : "=a"(kept), "=d"(high) : "c"(0)); /* what the system saves */
        if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
            if ((kept & 0xe6) == 0xe6 && (b & avx512) == avx512)
                return rows_avx512;
            if ((kept & 6) == 6 && b & bit_AVX2)
                return rows_avx2;
        }
    }
#endif
    return rows_plain;
}

enum { ROWS_AT_ONCE = 8, WIDEST = 1 << 16 };

static void some_rows(void *work_, size_t n)
{
    const Work *work = work_;
    size_t end = (n + 1) * ROWS_AT_ONCE;
    for (size_t t = n * ROWS_AT_ONCE; t < end && t < work->rows; t++)
        work->row(work, t);
}

/* ---------------------------------------------------------------- ONNX Runtime's C API */

enum { API = 18, INVALID_ARGUMENT = 2, FLOAT = 1, UINT8 = 2, INT64 = 7 };

typedef struct Status Status; /* NULL: all went well */
typedef void (*Function)(void);
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
#define float_attribute API_CALL(85, Status *, const void *, const char *, float *)
#define input API_CALL(90, Status *, const void *, size_t, void **)
#define output API_CALL(91, Status *, void *, size_t, const int64_t *, size_t, void **)
#define release_shape API_CALL(99, void, void *)
#define parallel_for \
    API_CALL(274, Status *, const void *, void (*)(void *, size_t), size_t, size_t, void *)

#define TRY(call) do { Status *status_ = (call); if (status_) return status_; } while (0)

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
    const char *name;
    size_t row;
    const char *inputs, *outputs; /* a letter for each: see bind() */
};

/* ---------------------------------------------------------------- the operators */

static size_t letters(const char *text)
{
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}

static int type(char letter) { return letter == 'q' ? UINT8 : letter == 'p' ? INT64 : FLOAT; }
static const char *get_name(const Operator *op) { return op->name; }
static const char *provider(const Operator *op) { (void)op; return NULL; }
static int input_type(const Operator *op, size_t n) { return type(op->inputs[n]); }
static size_t input_count(const Operator *op) { return letters(op->inputs); }
static int output_type(const Operator *op, size_t n) { return type(op->outputs[n]); }
static size_t output_count(const Operator *op) { return letters(op->outputs); }
static int required(const Operator *op, size_t n) { (void)op, (void)n; return 0; }
static int first_version(const Operator *op) { (void)op; return 1; }

typedef struct { const Operator *op; float epsilon; } Kernel;

static Status *create(const Operator *op, const Function *own, const void *info, void **made)
{
    (void)own;
    Kernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel)
        return create_status(INVALID_ARGUMENT, "expected memory for a kernel");
    kernel->op = op;
    for (const char *letter = op->inputs; *letter; letter++)
        if (*letter == 'w') {
            Status *status = float_attribute(info, "epsilon", &kernel->epsilon);
            if (status) {
                free(kernel);
                return status;
            }
        }
    *made = kernel;
    return NULL;
}

/* An input's data, where its letter says, and what its shape tells. */
static Status *bind(Work *work, char letter, void *value)
{
    void *data, *shape;
    int64_t dims[2] = {1, 1};
    size_t rank;
    TRY(tensor_data(value, &data));
    TRY(type_and_shape(value, &shape));
    Status *status = count_dimensions(shape, &rank);
    if (!status && rank > 2)
        status = create_status(INVALID_ARGUMENT, "expected rows, got more than two dimensions");
    if (!status)
        status = dimensions(shape, dims, rank);
    release_shape(shape);
    if (status)
        return status;
    switch (letter) {
    case 'x': work->x = data; work->rows = dims[0]; work->width = dims[1]; break;
    case 'y': work->y = data; work->rows = dims[0]; work->width = dims[1]; break;
    case 's': work->step = data; work->step_stride = dims[0] > 1; break;
    case 't': work->x_step = data; work->x_step_stride = dims[0] > 1; break;
    case 'b': work->bias = data; break;
    case 'w': work->weight = data; break;
    case 'a': work->shift = data; break;
    case 'p': work->position = data; break;
    case 'c': work->cos = data; work->positions = dims[0]; work->half = dims[1]; break;
    case 'n': work->sin = data; break;
    }
    return NULL;
}

static Status *compute(void *kernel_, void *context)
{
    const Kernel *kernel = kernel_;
    const Operator *op = kernel->op;
    static const Row *rows;
    if (!rows)
        rows = best_rows();
    Work work = {.row = rows[op->row], .epsilon = kernel->epsilon};
    void *value, *data;
    for (size_t n = 0; op->inputs[n]; n++) {
        TRY(input(context, n, &value));
        TRY(bind(&work, op->inputs[n], value));
    }
    if (work.width > WIDEST)
        return create_status(INVALID_ARGUMENT, "expected rows of at most 65,536 values");
    for (size_t t = 0; work.position && t < work.rows; t++)
        if ((uint64_t)work.position[t] >= work.positions)
            return create_status(INVALID_ARGUMENT, "expected positions within the rotations");
    for (size_t n = 0; op->outputs[n]; n++) {
        int64_t dims[] = {(int64_t)work.rows, op->outputs[n] == 's' ? 1 : (int64_t)work.width};
        TRY(output(context, n, dims, 2, &value));
        TRY(tensor_data(value, &data));
        switch (op->outputs[n]) {
        case 'o': work.out = data; break;
        case 'q': work.q = data; break;
        case 's': work.out_step = data; break;
        }
    }
    size_t parts = (work.rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    return parallel_for(context, some_rows, parts, 0, &work);
}

#define OPERATOR(name_, row_, inputs_, outputs_)                                                 \
    {                                                                                            \
        .version = API, .get_name = get_name, .provider = provider, .input_type = input_type,    \
        .input_count = input_count, .output_type = output_type, .output_count = output_count,    \
        .destroy = free, .input_kind = required, .output_kind = required,                        \
        .input_memory = required, .create = create, .compute = compute,                          \
        .first_version = first_version, .last_version = first_version, .name = name_,            \
        .row = row_, .inputs = inputs_, .outputs = outputs_                                      \
    }

static const Operator operators[] = {
    OPERATOR("QuantizeRows", 0, "x", "qs"),
    OPERATOR("AddNormQuantizeRows", 1, "ysbxwa", "oqs"),
    OPERATOR("GateQuantizeRows", 2, "ysxt", "qs"),
    OPERATOR("GeluQuantizeRows", 3, "ysb", "qs"),
    OPERATOR("RotateRows", 4, "ysbpcn", "o"),
};

/* Called by ONNX Runtime for the options of each session, under Python's lock. */
__attribute__((visibility("default"))) Status *RegisterCustomOps(void *options, const Base *base)
{
    static void *domain;
    api = base->api(API);
    if (!domain) {
        TRY(create_domain("polyrank", &domain));
        for (size_t n = 0; n < sizeof operators / sizeof *operators; n++)
            TRY(add_to_domain(domain, &operators[n]));
    }
    return add_domain(options, domain);
}
