// One row of HIDDEN elements held in the registers of the threads that share it: what layer_norm.cu and embedding.cu
// have in common.
//
// Macros: HIDDEN (1 .. 8192), ROW_THREADS (32: a warp has a row to itself; 128 or 256: a block has).
// Thread `t` of a row holds the vectors t, t + ROW_THREADS, ... of ROW_VECTOR elements each: neighbouring threads read
// neighbouring vectors. ROW_VECTOR is the longest access of up to 16 bytes that divides the row, so rows of any width,
// odd ones too, are read without one out of bounds. At most 32 elements per thread are meant: 32 threads up to 1024,
// 128 up to 4096, 256 up to 8192.
#pragma once

#include "ptx.cuh"
#include "types.cuh"

#ifdef ELEMENT_F32
#define ROW_WIDEST 4
#else
#define ROW_WIDEST 8
#endif

#if HIDDEN % ROW_WIDEST == 0
#define ROW_VECTOR ROW_WIDEST
#elif HIDDEN % 2 == 0
#define ROW_VECTOR 2
#else
#define ROW_VECTOR 1
#endif

#define ROW_VECTORS (HIDDEN / ROW_VECTOR)
#define ROW_PIECES ((ROW_VECTORS + ROW_THREADS - 1) / ROW_THREADS)
#define ROW_VALUES (ROW_PIECES * ROW_VECTOR)

// Whether piece `p` of thread `t` lies within the row.
DEVICE bool in_row(int p, int t) { return (p + 1) * ROW_THREADS <= ROW_VECTORS || p * ROW_THREADS + t < ROW_VECTORS; }
DEVICE int column_of(int p, int t) { return (p * ROW_THREADS + t) * ROW_VECTOR; }

// `ROW_VECTOR` elements from `p` on, as f32.
template <typename T> DEVICE void load_piece(const T *p, float *out) {
    const int widest = VectorLength<T>::value;
    if (ROW_VECTOR == 1) {
        out[0] = to_f32(*p);
    } else if (ROW_VECTOR == 2) {
        float2 v = load_pair(p);
        out[0] = v.x, out[1] = v.y;
    } else {
#pragma unroll
        for (int i = 0; i < ROW_VECTOR; i += widest) load_vector(p + i, out + i);
    }
}

template <typename T> DEVICE void store_piece(T *p, const float *in) {
    const int widest = VectorLength<T>::value;
    if (ROW_VECTOR == 1) {
        *p = from_f32<T>(in[0]);
    } else if (ROW_VECTOR == 2) {
        store_pair(p, in[0], in[1]);
    } else {
#pragma unroll
        for (int i = 0; i < ROW_VECTOR; i += widest) store_vector(p + i, in + i);
    }
}

// Elements beyond the row are zeros.
template <typename T> DEVICE void load_row(const T *row, int t, float (&x)[ROW_VALUES]) {
#pragma unroll
    for (int p = 0; p < ROW_PIECES; p++) {
        if (in_row(p, t)) {
            load_piece(row + column_of(p, t), &x[p * ROW_VECTOR]);
        } else {
#pragma unroll
            for (int i = 0; i < ROW_VECTOR; i++) x[p * ROW_VECTOR + i] = 0.0f;
        }
    }
}

template <typename T> DEVICE void add_row(const T *row, int t, float (&x)[ROW_VALUES]) {
#pragma unroll
    for (int p = 0; p < ROW_PIECES; p++) {
        if (in_row(p, t)) {
            float y[ROW_VECTOR];
            load_piece(row + column_of(p, t), y);
#pragma unroll
            for (int i = 0; i < ROW_VECTOR; i++) x[p * ROW_VECTOR + i] += y[i];
        }
    }
}

template <typename T> DEVICE void store_row(T *row, int t, const float (&x)[ROW_VALUES]) {
#pragma unroll
    for (int p = 0; p < ROW_PIECES; p++) {
        if (in_row(p, t)) store_piece(row + column_of(p, t), &x[p * ROW_VECTOR]);
    }
}

// The sum over the threads of a row, in a fixed order; every thread gets it. All threads of the block call it.
DEVICE float row_sum(float x) {
    x = warp_sum(x);
#if ROW_THREADS > 32
    __shared__ float of_warps[ROW_THREADS / 32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0.0f;
#pragma unroll
    for (int w = 0; w < ROW_THREADS / 32; w++) x += of_warps[w];
#endif
    return x;
}

// (x - mean) / sqrt(variance + epsilon) * gamma + beta, in two passes over the registers: first the mean, then the
// squares of what is left, so that a large mean costs no accuracy.
DEVICE void normalise_row(float (&x)[ROW_VALUES], int t, const float (&gamma)[ROW_VALUES],
                          const float (&beta)[ROW_VALUES], float epsilon) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < ROW_VALUES; i++) sum += x[i];
    float mean = row_sum(sum) * (1.0f / HIDDEN);
    float squares = 0.0f;
#pragma unroll
    for (int p = 0; p < ROW_PIECES; p++) {
#pragma unroll
        for (int i = 0; i < ROW_VECTOR; i++) {
            float &v = x[p * ROW_VECTOR + i];
            v = in_row(p, t) ? v - mean : 0.0f;
            squares = fmaf(v, v, squares);
        }
    }
    float scale = 1.0f / sqrtf(row_sum(squares) * (1.0f / HIDDEN) + epsilon);
#pragma unroll
    for (int i = 0; i < ROW_VALUES; i++) x[i] = fmaf(x[i] * scale, gamma[i], beta[i]);
}
