/* A plugin that copies its operand, with one thing wrong that a macro chooses. */
#include "bertha_plugin.h"

static int32_t reference(const bertha_call *call) {
    const bertha_tensor *x = bertha_input(call, 0);
    double *y;
#ifdef REFERENCE_FAILS
    return bertha_fail(call, "x has %u dimensions, which is %s", x->rank, "no good");
#endif
#ifdef REFERENCE_FAILS_SILENTLY
    return -7;
#endif
#ifdef REFERENCE_SETS_NOTHING
    return 0;
#endif
#ifdef REFERENCE_TOO_LARGE
    size_t immense[3] = { (size_t)1 << 40, (size_t)1 << 40, 3 };
    if (!call->set_output(call, 0, 3, immense)) return 0;
#endif
#ifdef REFERENCE_NULL_SHAPE
    call->set_output(call, 0, 3, NULL);
    return 0;
#endif
#ifdef REFERENCE_FAR_RESULT
    call->set_output(call, (size_t)1 << 50, x->rank, x->shape);
    return 0;
#endif
#ifdef REFERENCE_OTHER_SHAPE
    size_t shape[1] = { bertha_elements(x) };
    y = call->set_output(call, 0, 1, shape);
#else
    y = call->set_output(call, 0, x->rank, x->shape);
#endif
#ifdef REFERENCE_TWICE
    call->set_output(call, 0, x->rank, x->shape);
#endif
    if (!y) return bertha_fail(call, "the result is refused");
    memcpy(y, x->data, bertha_elements(x) * sizeof(double));
    return 0;
}

static int32_t shapes(const bertha_call *call) {
    size_t shape[64];
    const bertha_tensor *x = bertha_input(call, 0);
    if (x->rank > 64) return bertha_fail(call, "too many dimensions");
    memcpy(shape, x->shape, x->rank * sizeof(size_t));
#ifdef SHAPES_REFUSE
    return bertha_fail(call, "only on Sundays");
#endif
#ifdef SHAPES_LIE
    shape[x->rank - 1] += 1;
#endif
    call->set_output(call, 0, x->rank, shape);
    return 0;
}

typedef struct work {
    const bertha_call *call;
    const float *x;
    float *y;
    size_t count;
} work;

static void inner(void *argument, size_t index) {
    work *w = argument;
    if (index < w->count) w->y[index] = w->x[index];
}

static void outer(void *argument, size_t index) {
    work *w = argument;
    /* A part that forks again. */
    if (index == 0) w->call->parallel_for(w->call, w->count, inner, w);
}

static int32_t kernel(const bertha_call *call) {
    const bertha_tensor *x = bertha_input(call, 0), *y = bertha_output(call, 0);
    work w = { call, NULL, NULL, 0 };
    if (!x || !y) return bertha_fail(call, "x or y is missing");
    w.x = x->data, w.y = y->data, w.count = bertha_elements(x);
#ifdef KERNEL_FAILS
    return bertha_fail(call, "it is too late");
#endif
#ifdef KERNEL_WRITES_BEHIND
    w.y[w.count] = 1.0f;
#endif
#ifdef KERNEL_WRITES_BEFORE
    w.y[-3] = 1.0f;
#endif
#ifdef KERNEL_WRITES_OPERAND
    if (w.count) ((float *)x->data)[w.count - 1] += 1.0f;
#endif
#ifdef KERNEL_SKIPS_LAST
    if (w.count) w.count -= 1;
#endif
#ifdef KERNEL_COUNTS_THREADS
    if (w.count) {
        memcpy(w.y, w.x, w.count * sizeof(float));
        w.y[0] += (float)call->threads;
        return 0;
    }
#endif
    call->parallel_for(call, 3, outer, &w);
#ifdef KERNEL_WRONG
    if (w.count > 1) w.y[1] += 0.25f;
#endif
#ifdef KERNEL_SUMS_ROWS
    /* Little enough to pass as a difference, but of another row. */
    if (x->rank == 2 && x->shape[0] > 1 && x->shape[1] > 0) w.y[x->shape[1]] += 1e-7f * (w.x[0] + 1.0f);
#endif
#ifdef KERNEL_NAN
    if (w.count) w.y[0] = NAN;
#endif
    return 0;
}

#ifndef FLAGS
#define FLAGS 0
#endif
#ifndef SIGNATURE
#define SIGNATURE "x: f32[...] -> y: f32[...]"
#endif
#ifndef NAME
#define NAME "Copy"
#endif
#ifndef FIELD
#define FIELD { .value = { .name = BERTHA_TEXT("factor"), .kind = BERTHA_FLOAT, .number = 1.0 }, .has_default = 1, .max = 2.0 }
#endif
#ifndef KERNEL
#define KERNEL kernel
#endif
#ifndef REFERENCE
#define REFERENCE reference
#endif

static const bertha_field_spec fields[] = { FIELD };
static const bertha_plugin plugins[] = {
    { .name = BERTHA_TEXT(NAME), .domain = BERTHA_TEXT("test"), .op_type = BERTHA_TEXT("Copy"),
      .signature = BERTHA_TEXT(SIGNATURE), .version = 3, .flags = FLAGS, .fields = fields, .field_count = 1, .shapes = shapes,
      .reference = REFERENCE, .kernel = KERNEL },
#ifdef TWICE
    { .name = BERTHA_TEXT(NAME), .op_type = BERTHA_TEXT("Copy"), .signature = BERTHA_TEXT(SIGNATURE), .version = 3,
      .reference = REFERENCE, .kernel = KERNEL },
#endif
};

#if defined(NO_SYMBOL)
const void *some_function(void) { return plugins; }
#elif defined(NO_TABLE)
const bertha_library *bertha_plugin_library(void) { return NULL; }
#elif defined(LIBRARY)
const bertha_library *bertha_plugin_library(void) {
    static const bertha_library library = LIBRARY;
    return &library;
}
#else
BERTHA_EXPORT_PLUGINS(plugins)
#endif
