// What a kernel has to know of the batch it runs on. It lies in device memory and is written before each run, so that a
// captured graph serves every batch that fits its capacity: grids are sized for the capacity, and a block that finds
// no work for itself returns.
#pragma once

struct Batch {
    int tokens;      // rows of the activations that mean something
    int sequences;   // cu_seqlens has one entry more
    int work_items;  // entries of the attention work list
    int max_length;  // of the longest sequence
};

// The rows a kernel works on: tokens, or with ROWS_ARE_SEQUENCES 1 one row per sequence (heads after pooling).
#if ROWS_ARE_SEQUENCES
#define ROW_COUNT(batch) ((batch)->sequences)
#else
#define ROW_COUNT(batch) ((batch)->tokens)
#endif
