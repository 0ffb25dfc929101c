/* Layer norm as a Bertha plugin in C: the three stages of plugins/layernorm, each a kernel of its own, f32 and f16.
 *
 * From the repository's root:
 *     cc -O3 -march=native -shared -fPIC -I crates/bertha-plugin/include plugins/layernorm-c/layer_norm.c \
 *         -o liblayernorm_c.so -lm
 *
 * It answers to the same ONNX nodes as the library in Rust, so a program loads one or the other.
 */
#include <stdlib.h>

#include "bertha_plugin.h"

/* ---- halves ---------------------------------------------------------------------------------------------------- */

static float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023, bits;
    float value;
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24, exact in f32 */
        value = (float)fraction * (1.0f / 16777216.0f);
        return sign ? -value : value;
    }
    bits = sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To the nearest, ties to even. */
static uint16_t float_to_half(float value) {
    uint32_t bits, sign, rounded;
    memcpy(&bits, &value, sizeof bits);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00);  /* NaN */
    if (bits >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* rounds to 65536 or more: infinity */
    if (bits < 0x38800000) {                                  /* below 2^-14: subnormal, in units of 2^-24 */
        float magnitude;
        memcpy(&magnitude, &bits, sizeof magnitude);
        return (uint16_t)(sign | (uint32_t)lrintf(magnitude * 16777216.0f));
    }
    rounded = bits + 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | (rounded - 0x38000000) >> 13);
}

/* ---- rows ------------------------------------------------------------------------------------------------------ */

/* One row in f32: normalised, scaled (gamma may be null) and shifted (beta may be null). */
typedef void (*row_function)(const float *x, const float *gamma, const float *beta, float *y, size_t hidden,
                             float epsilon);

/* Stages 1 and 2: a pass for the mean and one for the variance, which also finds what rounding did to the mean (Chan,
 * Golub and LeVeque, "Algorithms for computing the sample variance", 1983). */
static void row_plain(const float *x, const float *gamma, const float *beta, float *y, size_t hidden, float epsilon) {
    float count = (float)hidden, sum = 0.0f, squares = 0.0f, drift = 0.0f, mean, variance, scale;
    size_t i;
    for (i = 0; i < hidden; ++i) sum += x[i];
    mean = sum / count;
    for (i = 0; i < hidden; ++i) {
        float deviation = x[i] - mean;
        squares += deviation * deviation;
        drift += deviation;
    }
    variance = (squares - drift * drift / count) / count;
    scale = 1.0f / sqrtf((variance > 0.0f ? variance : 0.0f) + epsilon);
    drift /= count;
    for (i = 0; i < hidden; ++i) y[i] = (x[i] - mean - drift) * scale * (gamma ? gamma[i] : 1.0f) + (beta ? beta[i] : 0.0f);
}

/* Stage 3: Welford's recurrence in each of 16 lanes, which the compiler makes vectors of; the lanes are merged as Chan,
 * Golub and LeVeque merge parts. All of it on differences from the row's first number, so that a mean far from zero costs
 * no digits. */
enum { LANES = 16 };

static void row_welford(const float *restrict x, const float *restrict gamma, const float *restrict beta,
                        float *restrict y, size_t hidden, float epsilon) {
    float means[LANES] = { 0 }, squares[LANES] = { 0 }, mean = 0.0f, square = 0.0f, between = 0.0f, pivot, count, scale;
    size_t vectors = hidden / LANES, i, lane;
    pivot = hidden ? x[0] : 0.0f;
    for (i = 0; i < vectors; ++i) {
        float inverse = 1.0f / (float)(i + 1);
        for (lane = 0; lane < LANES; ++lane) {
            float difference = x[i * LANES + lane] - pivot, deviation = difference - means[lane];
            means[lane] += deviation * inverse;
            squares[lane] += deviation * (difference - means[lane]);
        }
    }
    for (lane = 0; lane < LANES; ++lane) mean += means[lane] / LANES;
    for (lane = 0; lane < LANES; ++lane) {
        between += (means[lane] - mean) * (means[lane] - mean);
        square += squares[lane];
    }
    square += between * (float)vectors;
    count = (float)(vectors * LANES);
    for (i = vectors * LANES; i < hidden; ++i) {
        float difference = x[i] - pivot, deviation = difference - mean;
        count += 1.0f;
        mean += deviation / count;
        square += deviation * (difference - mean);
    }
    scale = 1.0f / sqrtf(square / count + epsilon);
    if (gamma && beta) {
        for (i = 0; i < hidden; ++i) y[i] = (x[i] - pivot - mean) * scale * gamma[i] + beta[i];
    } else {
        for (i = 0; i < hidden; ++i) y[i] = (x[i] - pivot - mean) * scale * (gamma ? gamma[i] : 1.0f) + (beta ? beta[i] : 0.0f);
    }
}

/* ---- kernels --------------------------------------------------------------------------------------------------- */

/* What the parts of one call share. */
typedef struct work {
    const bertha_tensor *x, *gamma, *beta, *y;
    row_function row;
    size_t hidden, rows, tasks;
    float epsilon;
    _Atomic int out_of_memory;
} work;

static void rows_of_halves(work *w, size_t first, size_t end) {
    const uint16_t *x = w->x->data, *gamma = w->gamma ? w->gamma->data : NULL, *beta = w->beta ? w->beta->data : NULL;
    uint16_t *y = w->y->data;
    size_t row, i;
    /* A row each of x, gamma, beta and y in f32. */
    float *wide = malloc(4 * w->hidden * sizeof(float)), *wide_gamma, *wide_beta, *wide_y;
    if (!wide) {
        w->out_of_memory = 1;
        return;
    }
    wide_gamma = wide + w->hidden, wide_beta = wide_gamma + w->hidden, wide_y = wide_beta + w->hidden;
    for (i = 0; gamma && i < w->hidden; ++i) wide_gamma[i] = half_to_float(gamma[i]);
    for (i = 0; beta && i < w->hidden; ++i) wide_beta[i] = half_to_float(beta[i]);
    for (row = first; row < end; ++row) {
        for (i = 0; i < w->hidden; ++i) wide[i] = half_to_float(x[row * w->hidden + i]);
        w->row(wide, gamma ? wide_gamma : NULL, beta ? wide_beta : NULL, wide_y, w->hidden, w->epsilon);
        for (i = 0; i < w->hidden; ++i) y[row * w->hidden + i] = float_to_half(wide_y[i]);
    }
    free(wide);
}

static void part(void *argument, size_t index) {
    work *w = argument;
    size_t first = w->rows * index / w->tasks, end = w->rows * (index + 1) / w->tasks, row;
    if (w->x->dtype == BERTHA_F16) {
        rows_of_halves(w, first, end);
        return;
    }
    for (row = first; row < end; ++row) {
        w->row((const float *)w->x->data + row * w->hidden, w->gamma ? w->gamma->data : NULL,
               w->beta ? w->beta->data : NULL, (float *)w->y->data + row * w->hidden, w->hidden, w->epsilon);
    }
}

static int32_t run(const bertha_call *call, row_function row) {
    const bertha_field *epsilon = bertha_find(call, "epsilon");
    work w = { bertha_input(call, 0), bertha_input(call, 1), bertha_input(call, 2), bertha_output(call, 0), row, 0, 0, 0, 0, 0 };
    if (!w.y) return 0; /* nobody wants it */
    if (!w.x || !epsilon) return bertha_fail(call, "x or epsilon is missing");
    w.hidden = w.x->shape[w.x->rank - 1];
    w.rows = w.hidden ? bertha_elements(w.x) / w.hidden : 0;
    w.epsilon = (float)epsilon->number;
    w.tasks = bertha_elements(w.x) / 8192;
    if (w.tasks > 4 * call->threads) w.tasks = 4 * call->threads;
    if (w.tasks > w.rows) w.tasks = w.rows;
    if (w.tasks < 1) w.tasks = 1;
    call->parallel_for(call, w.tasks, part, &w);
    return w.out_of_memory ? bertha_fail(call, "there is no memory for %zu numbers", 4 * w.hidden) : 0;
}

static int32_t kernel_plain(const bertha_call *call) { return run(call, row_plain); }
static int32_t kernel_welford(const bertha_call *call) { return run(call, row_welford); }

/* ---- the reference --------------------------------------------------------------------------------------------- */

static int32_t reference(const bertha_call *call) {
    const bertha_tensor *x = bertha_input(call, 0), *gamma = bertha_input(call, 1), *beta = bertha_input(call, 2);
    const bertha_field *epsilon = bertha_find(call, "epsilon");
    const double *in;
    double *out;
    size_t hidden, rows, row, i;
    if (!x || !epsilon) return bertha_fail(call, "x or epsilon is missing");
    out = call->set_output(call, 0, x->rank, x->shape);
    if (!out) return bertha_fail(call, "the result is refused");
    in = x->data;
    hidden = x->shape[x->rank - 1];
    rows = hidden ? bertha_elements(x) / hidden : 0;
    for (row = 0; row < rows; ++row, in += hidden, out += hidden) {
        double mean = 0.0, variance = 0.0;
        for (i = 0; i < hidden; ++i) mean += in[i] / (double)hidden;
        for (i = 0; i < hidden; ++i) variance += (in[i] - mean) * (in[i] - mean) / (double)hidden;
        for (i = 0; i < hidden; ++i) {
            double scale = gamma ? ((const double *)gamma->data)[i] : 1.0;
            double shift = beta ? ((const double *)beta->data)[i] : 0.0;
            out[i] = (in[i] - mean) / sqrt(variance + epsilon->number) * scale + shift;
        }
    }
    return 0;
}

/* ---- declarations ---------------------------------------------------------------------------------------------- */

static const bertha_field_spec fields[] = { {
    .value = { .name = BERTHA_TEXT("epsilon"), .kind = BERTHA_FLOAT, .number = 1e-5 },
    .has_default = 1,
    .min = 0.0,
    .max = 1.0,
    .description = BERTHA_TEXT("added to the variance"),
} };

#define AFFINE                                                                                                         \
    BERTHA_TEXT("x: T[...rows, hidden], gamma: T[hidden], beta?: T[hidden] -> y: T[...rows, hidden]; T = f32 | f16")
#define COMMON .domain = BERTHA_TEXT("bertha.plugins"), .version = 1, .flags = BERTHA_ROW_WISE, .fields = fields, .field_count = 1, .reference = reference

static const bertha_plugin plugins[] = {
    { COMMON, .name = BERTHA_TEXT("CLayerNorm"), .op_type = BERTHA_TEXT("LayerNorm"), .signature = AFFINE,
      .description = BERTHA_TEXT("layer norm in C with vectors and one pass over memory (stage 3)"),
      .kernel = kernel_welford },
    { COMMON, .name = BERTHA_TEXT("CLayerNormBasic"), .op_type = BERTHA_TEXT("LayerNormBasic"),
      .signature = BERTHA_TEXT("x: T[...rows, hidden] -> y: T[...rows, hidden]; T = f32 | f16"),
      .description = BERTHA_TEXT("normalises rows in C, nothing else (stage 1)"), .kernel = kernel_plain },
    { COMMON, .name = BERTHA_TEXT("CLayerNormFused"), .op_type = BERTHA_TEXT("LayerNormFused"), .signature = AFFINE,
      .description = BERTHA_TEXT("layer norm in C in one kernel (stage 2)"), .kernel = kernel_plain },
};

BERTHA_EXPORT_PLUGINS(plugins)
