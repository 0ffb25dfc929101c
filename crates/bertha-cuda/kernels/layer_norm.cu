// Layer norm of each row, with an optional second operand added first:
//     out = (y - mean(y)) / sqrt(var(y) + epsilon) * gamma + beta,   y = x [+ residual]
// Statistics in f32, in two passes over registers (row.cuh says who holds what).
//
// out, x, residual: [tokens, HIDDEN] of Element, contiguous; out may be x or residual, and is f32 with OUTPUT_F32. gamma, beta: [HIDDEN] f32.
// Rows from batch->tokens on (batch->sequences with ROWS_ARE_SEQUENCES 1) are neither read nor written.
//
// Macros: ELEMENT_F16 | ELEMENT_BF16 | ELEMENT_F32; HIDDEN 1 .. 8192; ROW_THREADS 32 (HIDDEN <= 1024), 128 (<= 4096),
//   256 (<= 8192); ROWS rows at a time in a block, 1 .. 8 with ROW_THREADS 32 and else 1; RESIDUAL 0 | 1;
//   OUTPUT_F32 0 | 1.
// Block: ROW_THREADS * ROWS threads, no dynamic shared memory.
// Grid: ceil(capacity / ROWS) blocks or fewer (a block takes every gridDim-th group of rows): min of that and
//   8 * multiprocessors keeps gamma and beta in registers over many rows. Any grid gives the same result.
// Intensity: each element is read once (twice with a residual) and written once, about 8 operations for 4 to 6 bytes:
//   bound by memory. gamma and beta are fetched before the predecessor has ended.
#include "batch.cuh"
#include "row.cuh"

#if OUTPUT_F32
typedef float Output;
#else
typedef Element Output;
#endif

extern "C" __global__ void __launch_bounds__(ROW_THREADS *ROWS, 1)
    layer_norm(Output *out, const Element *x, const Element *residual, const float *__restrict__ gamma,
               const float *__restrict__ beta, float epsilon, const Batch *batch) {
    const int t = threadIdx.x % ROW_THREADS;
    float scale[ROW_VALUES], shift[ROW_VALUES];
    load_row(gamma, t, scale);
    load_row(beta, t, shift);

    wait_for_predecessor();
    release_successor();
    const int tokens = ROW_COUNT(batch);
    // With ROW_THREADS > 32 all threads of the block have the same row, so the barriers within are met by all.
    for (int row = blockIdx.x * ROWS + threadIdx.x / ROW_THREADS; row < tokens; row += gridDim.x * ROWS) {
        float values[ROW_VALUES];
        load_row(x + (size_t)row * HIDDEN, t, values);
#if RESIDUAL
        add_row(residual + (size_t)row * HIDDEN, t, values);
#endif
        normalise_row(values, t, scale, shift, epsilon);
        store_row(out + (size_t)row * HIDDEN, t, values);
    }
}
