/* Plugins for Bertha in C and C++: ops that are not built in, from a shared library.
 *
 * A library exports `bertha_plugin_library`, which BERTHA_EXPORT_PLUGINS writes for you:
 *
 *     static const bertha_plugin plugins[] = { { .name = BERTHA_TEXT("MyOp"), ... } };
 *     BERTHA_EXPORT_PLUGINS(plugins)
 *
 * and is built by one command: cc -O3 -shared -fPIC -I include my_op.c -o libmy_op.so
 *
 * Rules for every function of a plugin:
 *  - It returns 0, or anything else after `bertha_fail`. It never unwinds: no C++ exception and no longjmp leaves it.
 *  - It may be called from several threads at the same time, and what it computes depends on its call alone.
 *  - Nothing that a call points to may be used after it returns.
 *
 * Texts are UTF-8 with a length. Everything in a table lives as long as the library is loaded. docs/plugins.md is the
 * guide; plugins/layernorm-c is a worked example.
 */
#ifndef BERTHA_PLUGIN_H
#define BERTHA_PLUGIN_H

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this interface. A library of another version is refused. */
#define BERTHA_PLUGIN_ABI 1u

#if defined(_WIN32)
#define BERTHA_EXPORT __declspec(dllexport)
#else
#define BERTHA_EXPORT __attribute__((visibility("default")))
#endif

/* UTF-8 of a length, in bytes. */
typedef struct bertha_text {
    const char *data;
    size_t length;
} bertha_text;

/* A literal as a text. */
#define BERTHA_TEXT(literal) { (literal), sizeof(literal) - 1 }

/* Element types. Halves (f16, bf16) are two bytes; a bool is one byte, 0 or 1. */
enum {
    BERTHA_ABSENT = 0, /* not a type: the tensor is not there */
    BERTHA_F64 = 1,
    BERTHA_F32 = 2,
    BERTHA_F16 = 3,
    BERTHA_BF16 = 4,
    BERTHA_I64 = 5,
    BERTHA_I32 = 6,
    BERTHA_I16 = 7,
    BERTHA_I8 = 8,
    BERTHA_U64 = 9,
    BERTHA_U32 = 10,
    BERTHA_U16 = 11,
    BERTHA_U8 = 12,
    BERTHA_BOOL = 13
};

/* In calls of shape rules, the dtype of each operand that is there: shapes do not depend on it, so it is not told. */
#define BERTHA_UNTOLD 0xFFFFFFFFu

/* Types of fields. */
enum {
    BERTHA_INT = 1,   /* value.integer */
    BERTHA_FLOAT = 2, /* value.number */
    BERTHA_STRING = 3, /* value.text */
    BERTHA_INTS = 4,  /* value.integers, value.count */
    BERTHA_FLOATS = 5 /* value.numbers, value.count */
};

/* The value of a field. */
typedef struct bertha_field {
    bertha_text name;
    uint32_t kind;
    uint32_t reserved; /* 0 */
    int64_t integer;
    double number;
    bertha_text text;
    const int64_t *integers;
    const double *numbers;
    size_t count;
} bertha_field;

/* No bound on one side of a field. */
#define BERTHA_NO_MIN (-HUGE_VAL)
#define BERTHA_NO_MAX (HUGE_VAL)

/* What a field may hold. Its name is that of the ONNX attribute. */
typedef struct bertha_field_spec {
    bertha_field value;   /* name, kind and, when has_default is not 0, the default */
    uint32_t has_default; /* whether nodes may leave the field out */
    uint32_t reserved;    /* 0 */
    double min;           /* bounds of each number in it, both of them allowed */
    double max;
    bertha_text description;
} bertha_field_spec;

/* An operand or a result: dense, row-major, aligned to the element size. */
typedef struct bertha_tensor {
    void *data;          /* operands are for reading only */
    const size_t *shape; /* rank sizes */
    uint32_t rank;
    /* BERTHA_ABSENT for an optional operand that is left out, or a result that nobody wants. Operands that are there have
     * BERTHA_UNTOLD for a shape rule and BERTHA_F64 for a reference, whatever the node's; kernels find the node's. */
    uint32_t dtype;
} bertha_tensor;

/* The arguments of every function. */
typedef struct bertha_call {
    const void *plugin; /* the `plugin` of the table */
    const bertha_field *fields;
    size_t field_count;
    const bertha_tensor *inputs; /* in the order of the signature */
    size_t input_count;          /* optional ones at the end may be left off */
    const bertha_tensor *outputs; /* kernel: what to write */
    size_t output_count;
    char *message; /* see bertha_fail */
    size_t message_capacity;
    size_t threads; /* that parallel_for uses, the caller included */
    void *host;     /* the caller's own */
    /* Kernel: calls task(argument, index) once for each index below `tasks`, on all threads, and returns when all are
     * done. Null in other functions. */
    void (*parallel_for)(const struct bertha_call *call, size_t tasks, void (*task)(void *argument, size_t index),
                         void *argument);
    /* Reference and shape rule: tells the shape of a result, once for each. For the reference it returns the memory for
     * the result's elements, null when the shape cannot be held. Null in kernels. */
    double *(*set_output)(const struct bertha_call *call, size_t index, uint32_t rank, const size_t *shape);
} bertha_call;

typedef int32_t (*bertha_function)(const bertha_call *call);

/* CUDA C++ source without includes, for engines that are built for NVIDIA GPUs.
 *
 * The kernel's parameters, in this order: a pointer for each operand (null for an absent one), a pointer for each result,
 * the size of each dimension and run that the signature names in order of first occurrence (long long; a run is the
 * product of its dimensions, a name that only an absent operand has is 0), and the fields of kind int (long long) and
 * float (double) in the order of declaration; at most 64 together. Operands and results are contiguous and start at
 * multiples of 256 bytes.
 *
 * A dtype variable is the engine's precision (f32, f16, bf16) where that is among its choices; else operands are
 * converted around the kernel. In batches without padding there may be more rows than the batch has: those behind hold
 * anything, and nobody reads what comes of them. Only plugins with BERTHA_ROW_WISE run there. */
typedef struct bertha_cuda {
    bertha_text source;
    bertha_text entry; /* name of the extern "C" kernel; {T} stands for the dtype of the variable T: norm_{T} is norm_f16 */
    bertha_text items; /* how many items there are: a polynomial over the signature's names, such as rows*heads */
    uint32_t block;    /* threads of a block */
    uint32_t items_per_block; /* the grid has as many blocks along x as the items need */
    uint32_t shared_bytes;    /* dynamic shared memory of a block */
    uint32_t reserved;        /* 0 */
} bertha_cuda;

/* A flag: every row of the first operand's run is computed for itself, so that the results' rows at some index depend on
 * that operand's row there and on nothing else of it. With it a padded model may become ragged, without padding. */
#define BERTHA_ROW_WISE 1u

/* One plugin. */
typedef struct bertha_plugin {
    const void *plugin; /* handed back in every call; may be null */
    bertha_text name;   /* unique together with the version */
    bertha_text domain; /* ONNX domain and op type of the nodes that become this op */
    bertha_text op_type;
    /* Operands and results:
     *     x: T[...rows, hidden], gamma: T[hidden], beta?: T[hidden] -> y: T[...rows, hidden]; T = f32 | f16
     * An operand is `name: dtype[dims]`, with `?` behind the name when it may be absent; dimensions are numbers, names
     * (the same size wherever they occur; the name of an int field stands for its value) and at most one run of any
     * number of dimensions, `...` or `...name`. Variables for dtypes are declared behind `;`. Dimensions of a result are
     * polynomials over the names (2*heads + 1), runs, or `?`, a size that only `shapes` tells. */
    bertha_text signature;
    bertha_text description; /* one line for people */
    uint32_t version;        /* raise it when the same node would compute something else */
    uint32_t flags;          /* BERTHA_ROW_WISE or 0 */
    const bertha_field_spec *fields;
    size_t field_count;
    /* A shape rule besides the signature; null for none. Operands have shapes but no data. It calls set_output for every
     * result, and must agree with the signature wherever that leaves nothing open. */
    bertha_function shapes;
    /* The results in the most obvious way: operands are doubles whatever their dtype, and set_output gives the memory for
     * results. Required: it is what the kernel is tested against. */
    bertha_function reference;
    /* The CPU kernel: writes every element of every result that is not absent. Required. */
    bertha_function kernel;
    const bertha_cuda *cuda; /* null for none */
} bertha_plugin;

/* What a library exports. */
typedef struct bertha_library {
    uint32_t abi;      /* BERTHA_PLUGIN_ABI */
    uint32_t sizes[7]; /* of the structures, so that other ideas of layout are found out */
    size_t plugin_count;
    const bertha_plugin *plugins;
} bertha_library;

BERTHA_EXPORT const bertha_library *bertha_plugin_library(void);

#define BERTHA_SIZES                                                                                                   \
    {                                                                                                                  \
        sizeof(bertha_library), sizeof(bertha_plugin), sizeof(bertha_field_spec), sizeof(bertha_field),               \
            sizeof(bertha_tensor), sizeof(bertha_call), sizeof(bertha_cuda)                                            \
    }

/* Exports an array of plugins; once in a library, outside of functions. */
#define BERTHA_EXPORT_PLUGINS(array)                                                                                   \
    BERTHA_EXPORT const bertha_library *bertha_plugin_library(void) {                                                  \
        static const bertha_library library = { BERTHA_PLUGIN_ABI, BERTHA_SIZES, sizeof(array) / sizeof((array)[0]),  \
                                                (array) };                                                             \
        return &library;                                                                                               \
    }

/* Leaves a message, formatted as by printf, and returns the code of a failure: return bertha_fail(call, "...");
 * The message says what is wrong; the caller adds the plugin's and the node's names. */
static inline int32_t bertha_fail(const bertha_call *call, const char *format, ...) {
    if (call->message && call->message_capacity) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(call->message, call->message_capacity, format, arguments);
        va_end(arguments);
    }
    return 1;
}

/* The field of this name, which must be one that the plugin declares; null for any other. */
static inline const bertha_field *bertha_find(const bertha_call *call, const char *name) {
    size_t length = strlen(name);
    for (size_t i = 0; i < call->field_count; ++i) {
        const bertha_field *field = &call->fields[i];
        if (field->name.length == length && memcmp(field->name.data, name, length) == 0) return field;
    }
    return NULL;
}

/* Operand `index`; null when it is absent. */
static inline const bertha_tensor *bertha_input(const bertha_call *call, size_t index) {
    return index < call->input_count && call->inputs[index].dtype ? &call->inputs[index] : NULL;
}

/* Result `index`; null when nobody wants it. */
static inline const bertha_tensor *bertha_output(const bertha_call *call, size_t index) {
    return index < call->output_count && call->outputs[index].dtype ? &call->outputs[index] : NULL;
}

/* Number of elements. */
static inline size_t bertha_elements(const bertha_tensor *tensor) {
    size_t product = 1;
    for (uint32_t i = 0; i < tensor->rank; ++i) product *= tensor->shape[i];
    return product;
}

#ifdef __cplusplus
}
#endif

#endif
