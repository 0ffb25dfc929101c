// The sum of one row of each of up to three tables, then layer norm: the first step of an encoder.
//     y = table0[ids0[token]] + table1[ids1[token]] + table2[ids2[token]];  out = layer norm of y (LAYER_NORM 1) or y
//
// out: [tokens, HIDDEN] of Element. table_i: [rows_i, HIDDEN] of Element. ids_i: int32 [tokens], checked by the host to
// be rows of their tables before the launch; this kernel trusts them. gamma, beta: [HIDDEN] f32 (unused without layer
// norm). POSITIONS names the table that is indexed by a token's position in its sequence, plus POSITION_OFFSET, instead
// of by ids: its ids_i is not read and cu_seqlens is.
//
// Macros: ELEMENT_*; HIDDEN, ROW_THREADS, ROWS as in layer_norm.cu; TABLES 1 .. 3; LAYER_NORM 0 | 1;
//   STATS 0 | 1: writes the statistics of row_stats.cuh of the rows to `stats`, [tokens][HIDDEN / 64] (no LAYER_NORM;
//   HIDDEN a multiple of 64, at most 1024);
//   POSITIONS -1 (none) | 0 .. TABLES - 1; POSITION_OFFSET, an integer (only read with POSITIONS >= 0).
// Block, grid: as layer_norm.cu.
// Intensity: TABLES elements read and one written, about 10 operations: bound by memory and, at few tokens, by two
//   dependent loads (id, row).
#include "batch.cuh"
#include "row.cuh"
#include "row_stats.cuh"

#if STATS
// Eight neighbouring threads hold a chunk of 64 columns in each piece. All threads of the warp call it.
DEVICE void write_stats(float2 *stats, int t, const float (&x)[ROW_VALUES]) {
    static_assert(ROW_VECTOR == 8 && ROW_THREADS == 32 && HIDDEN % STATS_COLUMNS == 0, "eight threads to a chunk");
#pragma unroll
    for (int p = 0; p < ROW_PIECES; p++) {
        float sum = 0.0f, squares = 0.0f;
#pragma unroll
        for (int i = 0; i < ROW_VECTOR; i++) {
            sum += x[p * ROW_VECTOR + i];
            squares = fmaf(x[p * ROW_VECTOR + i], x[p * ROW_VECTOR + i], squares);
        }
#pragma unroll
        for (int step = 4; step > 0; step /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, step);
            squares += __shfl_xor_sync(0xffffffffu, squares, step);
        }
        if (t % 8 == 0 && in_row(p, t)) stats[column_of(p, t) / STATS_COLUMNS] = chunk_stats(sum, squares);
    }
}
#endif

#if POSITIONS >= 0
// The place of `token` in its sequence: the last start that is not after it, by bisection. Empty sequences have the
// start of the next one and are passed over.
DEVICE int position_of(int token, const int *cu_seqlens, int sequences) {
    int low = 0, high = sequences;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (cu_seqlens[middle] <= token) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return token - cu_seqlens[low];
}
#endif

extern "C" __global__ void __launch_bounds__(ROW_THREADS *ROWS, 1)
    embedding(Element *out, const int *ids0, const Element *__restrict__ table0, const int *ids1,
              const Element *__restrict__ table1, const int *ids2, const Element *__restrict__ table2,
              const float *__restrict__ gamma, const float *__restrict__ beta, float epsilon, const int *cu_seqlens,
              const Batch *batch, float2 *stats) {
    const int t = threadIdx.x % ROW_THREADS;
#if LAYER_NORM
    float scale[ROW_VALUES], shift[ROW_VALUES];
    load_row(gamma, t, scale);
    load_row(beta, t, shift);
#endif

    wait_for_predecessor();
    release_successor();
    const int tokens = batch->tokens;
    for (int row = blockIdx.x * ROWS + threadIdx.x / ROW_THREADS; row < tokens; row += gridDim.x * ROWS) {
        const int *ids[3] = {ids0, ids1, ids2};
        const Element *tables[3] = {table0, table1, table2};
        int index[TABLES];
#pragma unroll
        for (int i = 0; i < TABLES; i++) {
#if POSITIONS >= 0
            if (i == POSITIONS) {
                index[i] = position_of(row, cu_seqlens, batch->sequences) + POSITION_OFFSET;
                continue;
            }
#endif
            index[i] = ids[i][row];
        }
        float values[ROW_VALUES];
        load_row(tables[0] + (size_t)index[0] * HIDDEN, t, values);
#pragma unroll
        for (int i = 1; i < TABLES; i++) add_row(tables[i] + (size_t)index[i] * HIDDEN, t, values);
#if LAYER_NORM
        normalise_row(values, t, scale, shift, epsilon);
#endif
#if STATS
        write_stats(stats + (size_t)row * (HIDDEN / STATS_COLUMNS), t, values);
#endif
        store_row(out + (size_t)row * HIDDEN, t, values);
    }
}
