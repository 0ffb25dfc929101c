// The end of a product whose accumulators have features in their rows (gemm_small_sm90a.cu): the sums
// go through a [tokens][FEATURES] tile of f32 in shared memory, after which eight neighbouring features of a token are in
// one thread and a row's chunk of 64 features in eight. Bias, activation, residual, norms and statistics follow there.
//
// Macros: FEATURES, ELEMENT_*, ACTIVATION (default none), RESIDUAL, NORM_INPUT | NORM_RESIDUAL, STATS_OUTPUT, as the kernels'
// headers say.
#pragma once

#include "activation.cuh"
#include "row_stats.cuh"
#include "types.cuh"

#if defined(NORM_INPUT) || defined(NORM_RESIDUAL)
#define NORM
constexpr int NORM_THREADS = 32;  // a warp that finds the norms
#else
constexpr int NORM_THREADS = 0;
#endif

constexpr int SUM_ROW_BYTES = (FEATURES + 4) * 4;

// One column of eight tokens from the accumulators' layout into the tile of sums, `row` and `feature` of the warp's first.
DEVICE void store_sums(unsigned tile, const float* v, int row, int feature, int lane) {
    unsigned address = tile + (row + lane % 4 * 2) * SUM_ROW_BYTES + (feature + lane / 4) * 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(address + i % 2 * SUM_ROW_BYTES + i / 2 * 32), "f"(v[i]) : "memory");
    }
}

DEVICE void load_sums(float (&v)[8], unsigned tile, int row, int chunk) {
    unsigned address = tile + row * SUM_ROW_BYTES + chunk * 32;
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                     : "=f"(v[i]), "=f"(v[i + 1]), "=f"(v[i + 2]), "=f"(v[i + 3])
                     : "r"(address + i * 4)
                     : "memory");
    }
}

DEVICE void store_norm(unsigned address, RowNorm norm) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(norm.scale), "f"(norm.shift) : "memory");
}

DEVICE RowNorm load_norm(unsigned address) {
    RowNorm norm;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(norm.scale), "=f"(norm.shift) : "r"(address) : "memory");
    return norm;
}

// Parameters of a thread's eight features.
struct FeatureParameters {
    float bias[8];
#ifdef NORM_RESIDUAL
    float gamma[8];
#endif
};

// Sums of eight features of a row become results. `added` is the residual's (with RESIDUAL), `norm` the row's (with a norm).
DEVICE void finish_row(float (&v)[8], const FeatureParameters& parameters, uint4 added, RowNorm norm) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#ifdef NORM_INPUT
        v[i] = activate(fmaf(v[i], norm.scale, parameters.bias[i]));
#else
        v[i] = activate(v[i] + parameters.bias[i]);
#endif
    }
#ifdef RESIDUAL
    const u32 pairs[4] = {added.x, added.y, added.z, added.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float2 pair = unpack2<Element>(pairs[i]);
#ifdef NORM_RESIDUAL
        v[2 * i] = fmaf(fmaf(pair.x, norm.scale, norm.shift), parameters.gamma[2 * i], v[2 * i]);
        v[2 * i + 1] = fmaf(fmaf(pair.y, norm.scale, norm.shift), parameters.gamma[2 * i + 1], v[2 * i + 1]);
#else
        v[2 * i] += pair.x;
        v[2 * i + 1] += pair.y;
#endif
    }
#endif
}

#ifdef STATS_OUTPUT
// The sum over the eight threads that hold 64 features of a row.
DEVICE float sum_of_eight(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    x += __shfl_xor_sync(0xffffffffu, x, 2);
    x += __shfl_xor_sync(0xffffffffu, x, 4);
    return x;
}

// The statistics of 64 features of which eight threads hold eight each.
DEVICE float2 stats_of(const float (&v)[8]) {
    float sum = 0.0f;
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        sum += v[i];
        squares = fmaf(v[i], v[i], squares);
    }
    return chunk_stats(sum_of_eight(sum), sum_of_eight(squares));
}
#endif
