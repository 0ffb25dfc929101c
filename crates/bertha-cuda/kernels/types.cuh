// Element types of tensors in device memory, and their conversions to and from f32.
//
// A kernel is compiled for one element type: exactly one of ELEMENT_F16, ELEMENT_BF16, ELEMENT_F32 is defined (none
// means the file uses no `Element`). 16-bit types are storage only: arithmetic is in f32, or in the matrix units.
// bf16 needs sm_80; f16 works from sm_75 on.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;

struct f16 {
    unsigned short bits;
};
struct bf16 {
    unsigned short bits;
};

#if defined(ELEMENT_F16)
typedef f16 Element;
#elif defined(ELEMENT_BF16)
typedef bf16 Element;
#elif defined(ELEMENT_F32)
typedef float Element;
#endif

#define DEVICE __device__ __forceinline__

#ifdef __CUDA_ARCH__

// ---- one value ----------------------------------------------------------------------------------------------------

DEVICE float to_f32(float x) { return x; }
DEVICE float to_f32(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
DEVICE float to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

// Rounds to nearest even; f16 overflows to infinity.
template <typename T> DEVICE T from_f32(float x);
template <> DEVICE float from_f32<float>(float x) { return x; }
template <> DEVICE f16 from_f32<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
#if __CUDA_ARCH__ >= 800
template <> DEVICE bf16 from_f32<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
#endif

// ---- two 16-bit values in one register, the lower index in the lower half ------------------------------------------

template <typename T> DEVICE float2 unpack2(u32 pair);
template <> DEVICE float2 unpack2<f16>(u32 pair) {
    float2 y;
    asm("{ .reg .f16 lo, hi; mov.b32 {lo, hi}, %2; cvt.f32.f16 %0, lo; cvt.f32.f16 %1, hi; }"
        : "=f"(y.x), "=f"(y.y)
        : "r"(pair));
    return y;
}
template <> DEVICE float2 unpack2<bf16>(u32 pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

template <typename T> DEVICE u32 pack2(float lo, float hi);
template <> DEVICE u32 pack2<f16>(float lo, float hi) {
    u32 y;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
#else
    asm("{ .reg .f16 a, b; cvt.rn.f16.f32 a, %1; cvt.rn.f16.f32 b, %2; mov.b32 %0, {a, b}; }"
        : "=r"(y)
        : "f"(lo), "f"(hi));
#endif
    return y;
}
#if __CUDA_ARCH__ >= 800
template <> DEVICE u32 pack2<bf16>(float lo, float hi) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
    return y;
}
#endif

// ---- neighbours in memory ------------------------------------------------------------------------------------------
// `load_pair` and `store_pair` move elements `p[0]` and `p[1]`; `p` is aligned to two elements.

template <typename T> DEVICE float2 load_pair(const T *p) { return unpack2<T>(*reinterpret_cast<const u32 *>(p)); }
DEVICE float2 load_pair(const float *p) { return *reinterpret_cast<const float2 *>(p); }

template <typename T> DEVICE void store_pair(T *p, float a, float b) { *reinterpret_cast<u32 *>(p) = pack2<T>(a, b); }
DEVICE void store_pair(float *p, float a, float b) { *reinterpret_cast<float2 *>(p) = make_float2(a, b); }

// `load_vector` and `store_vector` move 16 bytes: 8 elements of 16 bits, or 4 of f32. `p` is aligned to 16 bytes.

template <typename T> struct VectorLength {
    static const int value = 16 / sizeof(T);
};

template <typename T> DEVICE void load_vector(const T *p, float *out) {
    uint4 v = *reinterpret_cast<const uint4 *>(p);
    float2 a = unpack2<T>(v.x), b = unpack2<T>(v.y), c = unpack2<T>(v.z), d = unpack2<T>(v.w);
    out[0] = a.x, out[1] = a.y, out[2] = b.x, out[3] = b.y, out[4] = c.x, out[5] = c.y, out[6] = d.x, out[7] = d.y;
}
DEVICE void load_vector(const float *p, float *out) {
    float4 v = *reinterpret_cast<const float4 *>(p);
    out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
}

template <typename T> DEVICE void store_vector(T *p, const float *in) {
    uint4 v = make_uint4(pack2<T>(in[0], in[1]), pack2<T>(in[2], in[3]), pack2<T>(in[4], in[5]), pack2<T>(in[6], in[7]));
    *reinterpret_cast<uint4 *>(p) = v;
}
DEVICE void store_vector(float *p, const float *in) {
    *reinterpret_cast<float4 *>(p) = make_float4(in[0], in[1], in[2], in[3]);
}

#endif
