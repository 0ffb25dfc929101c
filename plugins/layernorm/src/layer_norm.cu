// Layer norm over the last dimension, one block a row, f32 and f16, f32 inside. Needs no header.
//
// Parameters: x, gamma, beta (may be null), y; rows, hidden; epsilon. See `CudaSource` for the order.
// Statistics: Welford's recurrence in each thread, merged (Chan, Golub and LeVeque) across the warp by shuffles and
// across warps by shared memory. Rows are read in vectors of 16 bytes where rows are aligned to that.

typedef unsigned short half_bits;
typedef unsigned long long address;

__device__ __forceinline__ float widen(float v) { return v; }

__device__ __forceinline__ float widen(half_bits v) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(v));
    return wide;
}

template <typename T> __device__ __forceinline__ T narrow(float v);

template <> __device__ __forceinline__ float narrow<float>(float v) { return v; }

template <> __device__ __forceinline__ half_bits narrow<half_bits>(float v) {
    half_bits narrow;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow) : "f"(v));
    return narrow;
}

// Numbers in 16 bytes.
template <typename T> struct alignas(16) Vector {
    static constexpr int SIZE = 16 / sizeof(T);
    T at[SIZE];
};

struct Moments {
    float count, mean, square;

    __device__ __forceinline__ void add(float v) {
        count += 1.0f;
        float deviation = v - mean;
        mean += deviation / count;
        square += deviation * (v - mean);
    }

    __device__ __forceinline__ void merge(Moments other) {
        float total = count + other.count;
        if (other.count == 0.0f) return;
        float deviation = other.mean - mean;
        float share = other.count / total;
        mean += deviation * share;
        square += other.square + deviation * deviation * count * share;
        count = total;
    }
};

__device__ __forceinline__ Moments shuffled(Moments m, int distance) {
    return Moments{__shfl_xor_sync(0xffffffffu, m.count, distance),
                   __shfl_xor_sync(0xffffffffu, m.mean, distance),
                   __shfl_xor_sync(0xffffffffu, m.square, distance)};
}

// The moments of all threads of the block, in every thread. The block has at most 32 whole warps.
__device__ __forceinline__ Moments of_block(Moments m) {
    __shared__ Moments warps[32];
    for (int distance = 16; distance > 0; distance /= 2) m.merge(shuffled(m, distance));
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = m;
    __syncthreads();
    Moments all = warps[0];
    for (int warp = 1; warp < blockDim.x / 32; ++warp) all.merge(warps[warp]);
    return all;
}

template <typename T>
__device__ void layer_norm(const T *x, const T *gamma, const T *beta, T *y, long long hidden, double epsilon) {
    constexpr int SIZE = Vector<T>::SIZE;
    x += blockIdx.x * hidden;
    y += blockIdx.x * hidden;
    // A row that is not a multiple of 16 bytes leaves later rows unaligned.
    bool aligned = hidden % SIZE == 0 && ((address)x | (address)y | (address)gamma | (address)beta) % 16 == 0;
    long long vectors = aligned ? hidden / SIZE : 0;
    Moments m{0.0f, 0.0f, 0.0f};
    // Differences from the first number: a mean far from zero costs no digits.
    float pivot = widen(x[0]);
    for (long long i = threadIdx.x; i < vectors; i += blockDim.x) {
        Vector<T> v = reinterpret_cast<const Vector<T> *>(x)[i];
        for (int k = 0; k < SIZE; ++k) m.add(widen(v.at[k]) - pivot);
    }
    for (long long i = vectors * SIZE + threadIdx.x; i < hidden; i += blockDim.x) m.add(widen(x[i]) - pivot);
    m = of_block(m);
    float scale = rsqrtf(m.square / m.count + (float)epsilon);
    for (long long i = threadIdx.x; i < vectors; i += blockDim.x) {
        Vector<T> v = reinterpret_cast<const Vector<T> *>(x)[i], g, b;
        g = reinterpret_cast<const Vector<T> *>(gamma)[i];
        if (beta) b = reinterpret_cast<const Vector<T> *>(beta)[i];
        for (int k = 0; k < SIZE; ++k) {
            float shift = beta ? widen(b.at[k]) : 0.0f;
            v.at[k] = narrow<T>((widen(v.at[k]) - pivot - m.mean) * scale * widen(g.at[k]) + shift);
        }
        reinterpret_cast<Vector<T> *>(y)[i] = v;
    }
    for (long long i = vectors * SIZE + threadIdx.x; i < hidden; i += blockDim.x) {
        float shift = beta ? widen(beta[i]) : 0.0f;
        y[i] = narrow<T>((widen(x[i]) - pivot - m.mean) * scale * widen(gamma[i]) + shift);
    }
}

extern "C" __global__ void layer_norm_f32(const float *x, const float *gamma, const float *beta, float *y,
                                          long long rows, long long hidden, double epsilon) {
    if (blockIdx.x < rows) layer_norm(x, gamma, beta, y, hidden, epsilon);
}

extern "C" __global__ void layer_norm_f16(const half_bits *x, const half_bits *gamma, const half_bits *beta,
                                          half_bits *y, long long rows, long long hidden, double epsilon) {
    if (blockIdx.x < rows) layer_norm(x, gamma, beta, y, hidden, epsilon);
}
