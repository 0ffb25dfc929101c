// Copies chosen rows: out[i] = x[rows[i]] for i < count. What heads on some tokens only (the first of each sequence,
// the masked ones) run on, so that products after it see no other row. Engines do not use it yet: no step launches it, and
// only bench/gpu/portable.py runs it.
//
// out: [count, HIDDEN], x: [tokens, HIDDEN] of Element; rows: int32, checked by the host. With ROWS_CU_SEQLENS 1 `rows`
// is cu_seqlens itself and `count` is ignored for batch->sequences: the first row of each sequence (an empty one, which
// has none, gives some row of another).
//
// Macros: ELEMENT_*; HIDDEN, ROW_THREADS, ROWS as in layer_norm.cu; ROWS_CU_SEQLENS 0 | 1.
// Block: ROW_THREADS * ROWS. Grid: ceil(capacity / ROWS). Bound by memory.
#include "batch.cuh"
#include "row.cuh"

extern "C" __global__ void __launch_bounds__(ROW_THREADS *ROWS)
    gather_rows(Element *out, const Element *x, const int *rows, int count, const Batch *batch) {
    wait_for_predecessor();
    release_successor();
    const int t = threadIdx.x % ROW_THREADS;
    const int row = blockIdx.x * ROWS + threadIdx.x / ROW_THREADS;
#if ROWS_CU_SEQLENS
    count = batch->sequences;
    const int last = batch->tokens - 1;
#else
    const int last = 0x7fffffff;
#endif
    if (row >= count) return;
    float values[ROW_VALUES];
    load_row(x + (size_t)min(rows[row], last) * HIDDEN, t, values);
    store_row(out + (size_t)row * HIDDEN, t, values);
}
