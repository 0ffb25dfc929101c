// Attention of each sequence with itself, without a causal mask, in f32 by fused multiply-adds: for f32 engines on every
// architecture. The function, the tensors and the work list are those of attention.cu, with f32 elements.
//
// A block has one head and QUERIES = 32 queries of one sequence, and goes through the keys 64 at a time with running
// maxima and sums. 128 threads: row group `down` = thread / 16 (4 queries each), column group `across` = thread % 16.
// Scores: a thread has 4 queries x 4 keys (across, across + 16, ..). The exponentials go through shared memory to the
// product with v, where a thread has its 4 queries x DIM / 16 columns (across, across + 16, ..).
// Shared rows of q and k are DIM + 4 floats, so that 16-byte loads of 8 neighbouring keys lie in different banks.
//
// Macros: ELEMENT_F32; HEAD_DIM 8 .. 128, a multiple of 8; RELATIVE_BIAS 0 | 1, BIAS_MAX; Q_STRIDE, K_STRIDE, V_STRIDE,
//   OUT_STRIDE, multiples of 4.
// Block: 128 threads. Grid: x = heads, y = capacity in work items (of 32 queries).
// Dynamic shared memory: ((32 + 64) * (DIM + 4) + 64 * DIM + 32 * 68) * 4 bytes, DIM = HEAD_DIM rounded up to 16.
// Intensity: 8 multiply-adds per 16 bytes from shared memory in both products.
#include "activation.cuh"
#include "batch.cuh"
#include "ptx.cuh"

#define QUERIES 32
#define KEYS 64
#define THREADS 128
#define MINUS_INFINITY __int_as_float(0xff800000)

static const int DIM = (HEAD_DIM + 15) / 16 * 16;
static const int ROW = DIM + 4, P_ROW = KEYS + 4;
static const int COLUMNS = DIM / 16;  // of the result, of one thread

extern __shared__ __align__(16) float shared[];

// Copies `rows` rows of one head, and zeros up to `limit` rows: later sequences must not enter, even times zero.
DEVICE void copy_rows(float *to, int to_stride, const float *from, int stride, int rows, int limit) {
    const int quads = DIM / 4;
    for (int quad = threadIdx.x; quad < limit * quads; quad += THREADS) {
        const int r = quad / quads, c = quad % quads * 4;
        float4 value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (r < rows && (HEAD_DIM == DIM || c < HEAD_DIM)) {
            value = *reinterpret_cast<const float4 *>(from + (size_t)r * stride + c);
        }
        *reinterpret_cast<float4 *>(to + r * to_stride + c) = value;
    }
}

// The largest (or the sum) over the 16 threads of a row group.
DEVICE float group_max(float x) {
#pragma unroll
    for (int step = 8; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}
DEVICE float group_sum(float x) {
#pragma unroll
    for (int step = 8; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

DEVICE void multiply_keys(const float *q_rows, const float *k_rows, int down, int across, float (&scores)[4][4]) {
#pragma unroll
    for (int i = 0; i < 16; i++) scores[i / 4][i % 4] = 0.0f;
#pragma unroll 4
    for (int d = 0; d < DIM; d += 4) {
        float q[4][4], k[4][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            load_vector(q_rows + (down * 4 + i) * ROW + d, q[i]);
            load_vector(k_rows + (across + i * 16) * ROW + d, k[i]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) scores[i][j] = fmaf(q[i][e], k[j][e], scores[i][j]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention_f32(float *out, const float *q, const float *k, const float *v, const int *cu_seqlens, const int2 *work,
                  const float *__restrict__ bias, float scale, const Batch *batch) {
    if ((int)blockIdx.y >= batch->work_items) return;
    const int2 item = work[blockIdx.y];
    const int head = blockIdx.x, first = cu_seqlens[item.x], length = cu_seqlens[item.x + 1] - first;
    const int first_query = item.y * QUERIES, queries = min(QUERIES, length - first_query);
    const int down = threadIdx.x / 16, across = threadIdx.x % 16;
    const float factor = scale * 1.44269504f;
    float *q_rows = shared, *k_rows = q_rows + QUERIES * ROW, *v_rows = k_rows + KEYS * ROW, *p = v_rows + KEYS * DIM;
    q += (size_t)(first + first_query) * Q_STRIDE + head * HEAD_DIM;
    k += (size_t)first * K_STRIDE + head * HEAD_DIM;
    v += (size_t)first * V_STRIDE + head * HEAD_DIM;

    wait_for_predecessor();
    release_successor();
    copy_rows(q_rows, ROW, q, Q_STRIDE, queries, QUERIES);

    float result[4][COLUMNS], top[4], sum[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        top[i] = MINUS_INFINITY, sum[i] = 0.0f;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) result[i][c] = 0.0f;
    }

    for (int start = 0; start < length; start += KEYS) {
        const int left = length - start;
        __syncthreads();
        copy_rows(k_rows, ROW, k + (size_t)start * K_STRIDE, K_STRIDE, left, KEYS);
        copy_rows(v_rows, DIM, v + (size_t)start * V_STRIDE, V_STRIDE, left, KEYS);
        __syncthreads();
        float scores[4][4];
        multiply_keys(q_rows, k_rows, down, across, scores);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float best = top[i];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int key = across + j * 16;
                float s = scores[i][j] * factor;
#if RELATIVE_BIAS
                const int query = first_query + down * 4 + i;
                if (key < left && query < length) {
                    const float b = bias[head * (2 * BIAS_MAX - 1) + start + key - query + BIAS_MAX - 1];
                    s = fmaf(b, 1.44269504f, s);
                }
#endif
                scores[i][j] = key < left ? s : MINUS_INFINITY;
                best = fmaxf(best, scores[i][j]);
            }
            best = group_max(best);
            const float rescale = exp2_approx(top[i] - best);
            top[i] = best;
            sum[i] *= rescale;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) result[i][c] *= rescale;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float e = exp2_approx(scores[i][j] - best);
                sum[i] += e;
                p[(down * 4 + i) * P_ROW + across + j * 16] = e;
            }
        }
        __syncwarp();  // a row group of p is written and read by the same half warp
        for (int key = 0; key < min(KEYS, left); key += 4) {
            float e[4][4];
#pragma unroll
            for (int i = 0; i < 4; i++) load_vector(p + (down * 4 + i) * P_ROW + key, e[i]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) {
                    const float value = v_rows[(key + j) * DIM + across + c * 16];
#pragma unroll
                    for (int i = 0; i < 4; i++) result[i][c] = fmaf(e[i][j], value, result[i][c]);
                }
            }
        }
    }

#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float inverse = 1.0f / group_sum(sum[i]);
        if (down * 4 + i >= queries) continue;
        float *to = out + (size_t)(first + first_query + down * 4 + i) * OUT_STRIDE + head * HEAD_DIM;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            if (HEAD_DIM == DIM || across + c * 16 < HEAD_DIM) to[across + c * 16] = result[i][c] * inverse;
        }
    }
}
