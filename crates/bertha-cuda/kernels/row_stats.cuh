// Statistics of rows for deferred layer norm: a kernel that makes rows stores them as they are before the norm, and for
// each row and each chunk of 64 columns {mean, M2}, where M2 is the sum of squared distances from the chunk's mean. Whoever
// reads the rows merges a row's chunks and applies the norm to what it computes.
//
// The f32 values before rounding may stand for the stored ones: the difference in mean and spread is far below what
// rounding the row itself costs.
#pragma once

#include "types.cuh"

#ifdef __CUDA_ARCH__

constexpr int STATS_COLUMNS = 64;

// {mean, M2} of a chunk from sum and sum of squares. What cancels where the mean is large against the spread is of the
// size of what rounding the values to 16 bits has cost.
DEVICE float2 chunk_stats(float sum, float squares) {
    float mean = sum * (1.0f / STATS_COLUMNS);
    return make_float2(mean, fmaxf(fmaf(-sum, mean, squares), 0.0f));
}

// What turns a row x into its normalised values: x * scale + shift, that is (x - mean) / sqrt(variance + epsilon).
struct RowNorm {
    float scale;
    float shift;
};

// Two chunks that lie side by side, at a multiple of 16 bytes.
DEVICE void load_two(const float2* chunks, float2& first, float2& second) {
    float4 two;
    asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(two.x), "=f"(two.y), "=f"(two.z), "=f"(two.w)
                 : "l"(chunks)
                 : "memory");
    first = make_float2(two.x, two.y);
    second = make_float2(two.z, two.w);
}

// Merges the chunks of one row, in order: sums of the means' distances from the first chunk's, so that a large mean
// costs no accuracy. GROUP chunks at a time are in registers.
template <int CHUNKS, int GROUP = 8>
DEVICE RowNorm merge_chunks(const float2* chunks, float epsilon) {
    float first = 0.0f;
    float sum = 0.0f;
    float squares = 0.0f;
    float within = 0.0f;
#pragma unroll
    for (int start = 0; start < CHUNKS; start += GROUP) {
        float2 group[GROUP];
#pragma unroll
        for (int i = 0; i < GROUP && start + i < CHUNKS; i += 2) {
            if constexpr (CHUNKS % 2 == 0) {
                load_two(chunks + start + i, group[i], group[i + 1]);
            } else {
                group[i] = chunks[start + i];
                group[i + 1] = start + i + 1 < CHUNKS ? chunks[start + i + 1] : group[i];
            }
        }
#pragma unroll
        for (int i = 0; i < GROUP && start + i < CHUNKS; ++i) {
            first = start + i == 0 ? group[i].x : first;
            float distance = group[i].x - first;
            sum += distance;
            squares = fmaf(distance, distance, squares);
            within += group[i].y;
        }
    }
    float away = sum * (1.0f / CHUNKS);
    float mean = first + away;
    float total = fmaf(static_cast<float>(STATS_COLUMNS), fmaxf(fmaf(-sum, away, squares), 0.0f), within);
    // Nothing of 16 bits is more constant than this; without a bound, what rounding leaves of constant rows would be blown up.
    float least = mean * mean * 5.9604645e-8f;
    float scale = rsqrtf(fmaxf(total * (1.0f / (STATS_COLUMNS * CHUNKS)), least) + epsilon);
    return {scale, -mean * scale};
}

#endif
