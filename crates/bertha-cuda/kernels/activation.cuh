// Activation functions of f32 values. The same source compiles for the host, where its error is measured
// (bench/gpu/activation_error.py): define __device__ and __forceinline__ away and give `exp2_approx` and
// `reciprocal_approx`.
//
// ACTIVATION selects `activate`: ACTIVATION_NONE (default), _RELU, _TANH, _GELU_ERF, _GELU_TANH, _SILU.
#pragma once

#include "types.cuh"

#define ACTIVATION_NONE 0
#define ACTIVATION_RELU 1
#define ACTIVATION_TANH 2
#define ACTIVATION_GELU_ERF 3
#define ACTIVATION_GELU_TANH 4
#define ACTIVATION_SILU 5

#ifndef ACTIVATION
#define ACTIVATION ACTIVATION_NONE
#endif

#ifdef __CUDA_ARCH__
// 2^x with a relative error of 2^-22; 2^-inf is 0.
DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 1/x within one unit in the last place; 1/inf is 0.
DEVICE float reciprocal_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

// x * Phi(x), with Phi the normal distribution function.
//
// With a = |x| and Q = 1 - Phi, x * Phi(x) = max(x, 0) - a * Q(a): nothing cancels on either side of 0. log2(Q(a)) is
// smooth and nearly a parabola, so Q(a) = 2^polynomial(a): no branches, no division. Both polynomials are least-maximum
// fits on [0, 9.5] of the error of a * Q(a); beyond, the product is under 1e-20.
// f32: absolute error under 1e-7 or one unit in the last place. 16-bit results: under 1.6e-7 or 6e-5 relative, a tenth
// of a rounding step of f16, with three steps less.
DEVICE float gelu_erf(float x) {
    float a = fminf(fabsf(x), 9.5f);
#if defined(ELEMENT_F16) || defined(ELEMENT_BF16)
    float p = 3.318208284e-05f;
    p = fmaf(p, a, -7.640937175e-04f);
    p = fmaf(p, a, 8.042798930e-03f);
    p = fmaf(p, a, -5.331669481e-02f);
    p = fmaf(p, a, -4.588749225e-01f);
    p = fmaf(p, a, -1.151153846e+00f);
    p = fmaf(p, a, -1.000000151e+00f);
#else
    float p = 7.354950536e-08f;
    p = fmaf(p, a, -2.165394749e-06f);
    p = fmaf(p, a, 2.362501503e-05f);
    p = fmaf(p, a, -9.328160108e-05f);
    p = fmaf(p, a, -3.996445752e-04f);
    p = fmaf(p, a, 7.466738978e-03f);
    p = fmaf(p, a, -5.283787947e-02f);
    p = fmaf(p, a, -4.590561667e-01f);
    p = fmaf(p, a, -1.151136209e+00f);
    p = fmaf(p, a, -9.999979604e-01f);
#endif
    return fmaf(-a, exp2_approx(p), fmaxf(x, 0.0f));
}

// x / (1 + e^-z). f32 results take the exact exponential and division: the error of z * log2(e) grows with |z|.
DEVICE float times_sigmoid(float x, float z) {
#if defined(ELEMENT_F16) || defined(ELEMENT_BF16)
    return x * reciprocal_approx(1.0f + exp2_approx(z * -1.44269504f));
#else
    return x / (1.0f + expf(-z));
#endif
}

// x/2 * (1 + tanh(u)) = x * sigmoid(2u), with u = sqrt(2/pi) * (x + 0.044715 x^3).
DEVICE float gelu_tanh(float x) {
    float u2 = x * fmaf(0.0713548163f, x * x, 1.59576912f);
    return times_sigmoid(x, u2);
}

DEVICE float silu(float x) { return times_sigmoid(x, x); }

// fmaxf would turn NaN into 0.
DEVICE float relu(float x) { return x < 0.0f ? 0.0f : x; }

DEVICE float activate(float x) {
#if ACTIVATION == ACTIVATION_NONE
    return x;
#elif ACTIVATION == ACTIVATION_RELU
    return relu(x);
#elif ACTIVATION == ACTIVATION_TANH
    return tanhf(x);
#elif ACTIVATION == ACTIVATION_GELU_ERF
    return gelu_erf(x);
#elif ACTIVATION == ACTIVATION_GELU_TANH
    return gelu_tanh(x);
#elif ACTIVATION == ACTIVATION_SILU
    return silu(x);
#else
#error "ACTIVATION is none of the ACTIVATION_ constants"
#endif
}
