// One row per sequence from its rows, with an optional division by the Euclidean norm.
//     POOL_CLS first row; POOL_MEAN mean; POOL_MAX largest of each column; POOL_MEAN_SQRT_LEN sum / sqrt(length);
//     POOL_WEIGHTED_MEAN mean with weights 1, 2, 3, ...; POOL_LAST_TOKEN last row.  An empty sequence gives zeros.
//
// out: [sequences, HIDDEN] of Output (f32 with OUTPUT_F32 1, else Element). x: [tokens, HIDDEN] of Element.
// cu_seqlens: int32 [sequences + 1]. Sums in f32, over rows in order within a slice of rows, slices in order: the same
// every time, whatever else is in the batch.
//
// One block per sequence; with pool kinds that read every row, SLICES groups of ROW_THREADS threads take every SLICES-th
// row each (a thread holds the columns that row.cuh gives it), and group 0 adds the groups' sums up.
//
// Macros: ELEMENT_*; HIDDEN 1 .. 8192; ROW_THREADS 128 (HIDDEN <= 4096) or 256 (<= 8192); SLICES 1 .. 4 (1 for
//   POOL_CLS and POOL_LAST_TOKEN; 4 else, 2 with ROW_THREADS 256); POOL one of the constants below; NORMALISE 0 | 1;
//   OUTPUT_F32 0 | 1. `epsilon` is the smallest norm divided by.
// Grid: capacity in sequences. Block: ROW_THREADS * SLICES. Dynamic shared memory: (SLICES - 1) * HIDDEN * 4 bytes.
// Intensity: one addition per element read: bound by memory.
#include "batch.cuh"
#include "row.cuh"

#define POOL_CLS 0
#define POOL_MEAN 1
#define POOL_MAX 2
#define POOL_MEAN_SQRT_LEN 3
#define POOL_WEIGHTED_MEAN 4
#define POOL_LAST_TOKEN 5

#if OUTPUT_F32
typedef float Output;
#else
typedef Element Output;
#endif

#define ONE_ROW (POOL == POOL_CLS || POOL == POOL_LAST_TOKEN)

extern __shared__ float of_slices[];  // [SLICES - 1][HIDDEN]

// The Euclidean norm of a row that the first ROW_THREADS threads hold.
DEVICE float norm_of(float squares) {
    __shared__ float of_warps[ROW_THREADS / 32];
    squares = warp_sum(squares);
    if (threadIdx.x < ROW_THREADS && threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = squares;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < ROW_THREADS / 32; w++) sum += of_warps[w];
    return sqrtf(sum);
}

DEVICE void take(float (&sum)[ROW_VALUES], const float (&x)[ROW_VALUES], float weight) {
#pragma unroll
    for (int i = 0; i < ROW_VALUES; i++) {
#if POOL == POOL_MAX
        sum[i] = fmaxf(sum[i], x[i]);
#elif POOL == POOL_WEIGHTED_MEAN
        sum[i] = fmaf(x[i], weight, sum[i]);
#else
        sum[i] += x[i];
#endif
    }
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS *SLICES)
    pool(Output *out, const Element *x, const int *cu_seqlens, float epsilon, const Batch *batch) {
    wait_for_predecessor();
    release_successor();
    const int sequence = blockIdx.x;
    if (sequence >= batch->sequences) return;
    const int t = threadIdx.x % ROW_THREADS, slice = threadIdx.x / ROW_THREADS;
    const int first = cu_seqlens[sequence], length = cu_seqlens[sequence + 1] - first;

    float sum[ROW_VALUES];
#if ONE_ROW
    const int row = POOL == POOL_CLS ? first : first + length - 1;
    if (length > 0) {
        load_row(x + (size_t)row * HIDDEN, t, sum);
    } else {
#pragma unroll
        for (int i = 0; i < ROW_VALUES; i++) sum[i] = 0.0f;
    }
#else
#pragma unroll
    for (int i = 0; i < ROW_VALUES; i++) sum[i] = POOL == POOL_MAX && length > 0 ? __int_as_float(0xff800000) : 0.0f;
    for (int i = slice; i < length; i += SLICES) {
        float values[ROW_VALUES];
        load_row(x + (size_t)(first + i) * HIDDEN, t, values);
        take(sum, values, (float)(i + 1));
    }
    if (slice > 0) store_row(of_slices + (slice - 1) * HIDDEN, t, sum);
    __syncthreads();
    if (slice == 0) {
#pragma unroll
        for (int s = 1; s < SLICES; s++) {
            float values[ROW_VALUES];
            load_row(of_slices + (s - 1) * HIDDEN, t, values);
            take(sum, values, 1.0f);
        }
        float divisor = 1.0f;
        if (length > 0) {
            if (POOL == POOL_MEAN) divisor = (float)length;
            if (POOL == POOL_MEAN_SQRT_LEN) divisor = sqrtf((float)length);
            if (POOL == POOL_WEIGHTED_MEAN) divisor = 0.5f * (float)length * (float)(length + 1);
        }
#pragma unroll
        for (int i = 0; i < ROW_VALUES; i++) sum[i] = POOL == POOL_MAX ? sum[i] : sum[i] / divisor;
    }
#endif
#if NORMALISE
    float squares = 0.0f;
#pragma unroll
    for (int p = 0; p < ROW_PIECES; p++) {
#pragma unroll
        for (int i = 0; i < ROW_VECTOR; i++) {
            float v = in_row(p, t) ? sum[p * ROW_VECTOR + i] : 0.0f;
            squares = fmaf(v, v, squares);
        }
    }
    const float divisor = fmaxf(norm_of(squares), epsilon);
#pragma unroll
    for (int i = 0; i < ROW_VALUES; i++) sum[i] = sum[i] / divisor;
#endif
    if (slice == 0) store_row(out + (size_t)sequence * HIDDEN, t, sum);
}
