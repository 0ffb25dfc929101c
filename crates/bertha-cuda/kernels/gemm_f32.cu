// D = activation(A W^T + bias) [+ residual] in f32, by fused multiply-adds: for f32 engines on every architecture.
//
// A: [rows, K], rows A_STRIDE apart. W: [N, K]. bias: [N] (BIAS 1). residual: [rows, N], rows D_STRIDE apart
// (RESIDUAL 1), added after the activation; D may be residual. D: [rows, N], rows D_STRIDE apart. rows = batch->tokens,
// or batch->sequences with ROWS_ARE_SEQUENCES 1; rows beyond are neither read nor written.
//
// Tile: BLOCK_M x BLOCK_N of D per block, BLOCK_K columns of A and W at a time, transposed in two shared buffers: the
// next tile is loaded to registers while this one is multiplied. A thread owns THREAD_M x THREAD_N sums in quarters of
// four neighbouring rows and columns, so that a warp's 16-byte shared loads are broadcasts or neighbours. K_PARTS
// groups of threads take every K_PARTS-th column each and add up at the end in order (for few rows).
//
// Macros: ELEMENT_F32; N, K >= 1 (K and A_STRIDE multiples of 4: 16-byte loads; else single ones); THREAD_M, THREAD_N
//   4 | 8; BLOCK_M, BLOCK_N multiples of 4 * THREAD_..; BLOCK_K 8 | 16 | 32; K_PARTS divides BLOCK_K; ACTIVATION; BIAS,
//   RESIDUAL 0 | 1; A_STRIDE (default K), D_STRIDE (default N); ROWS_ARE_SEQUENCES 0 | 1.
//   Tiles that are meant: 128x128x16 with 8x8, K_PARTS 1; 32x32x32 with 4x4, K_PARTS 4 for few rows.
// Block: (BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N) * K_PARTS threads. Grid: x = ceil(N / BLOCK_N),
//   y = ceil(capacity / BLOCK_M).
// Dynamic shared memory: max(2 * BLOCK_K * (BLOCK_M + BLOCK_N + 8), (K_PARTS - 1) * BLOCK_M * BLOCK_N) * 4 bytes.
// Intensity: 128x128 does 32 operations per byte copied, a thread 64 multiply-adds for 16 values from shared memory.
#include "activation.cuh"
#include "batch.cuh"
#include "ptx.cuh"

#ifndef A_STRIDE
#define A_STRIDE K
#endif
#ifndef D_STRIDE
#define D_STRIDE N
#endif

static const int ACROSS = BLOCK_N / THREAD_N, DOWN = BLOCK_M / THREAD_M;  // threads
static const int GROUP = ACROSS * DOWN, THREADS = GROUP * K_PARTS;
static const int A_ROW = BLOCK_M + 4, W_ROW = BLOCK_N + 4;  // values from one k to the next in shared memory
static const int BUFFER = BLOCK_K * (A_ROW + W_ROW);
static const int STEPS = (K + BLOCK_K - 1) / BLOCK_K;

extern __shared__ __align__(16) float shared[];

// Part of a tile of ROWS rows, on its way from global to shared memory in the registers of all threads.
template <int ROWS, int STRIDE, int SHARED_ROW> struct Tile {
    static const int QUADS = ROWS * BLOCK_K / 4, EACH = (QUADS + THREADS - 1) / THREADS;
    float4 quads[EACH];

    DEVICE void load(const float *from, int first, int rows, int k) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int quad = i * THREADS + threadIdx.x, r = quad / (BLOCK_K / 4), c = k + quad % (BLOCK_K / 4) * 4;
            const float *source = from + (size_t)(first + r) * STRIDE + c;
            float4 q = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (quad < QUADS && first + r < rows) {
#if K % 4 == 0 && A_STRIDE % 4 == 0
                if (c < K) q = *reinterpret_cast<const float4 *>(source);
#else
                if (c < K) q.x = source[0];
                if (c + 1 < K) q.y = source[1];
                if (c + 2 < K) q.z = source[2];
                if (c + 3 < K) q.w = source[3];
#endif
            }
            quads[i] = q;
        }
    }

    DEVICE void store(float *to) const {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int quad = i * THREADS + threadIdx.x, r = quad / (BLOCK_K / 4), c = quad % (BLOCK_K / 4) * 4;
            if (quad < QUADS) {
                to[c * SHARED_ROW + r] = quads[i].x;
                to[(c + 1) * SHARED_ROW + r] = quads[i].y;
                to[(c + 2) * SHARED_ROW + r] = quads[i].z;
                to[(c + 3) * SHARED_ROW + r] = quads[i].w;
            }
        }
    }
};

// The place in the tile of a thread's `i`-th row or column: quarters of four, `threads` * 4 apart.
DEVICE int place(int thread, int i, int threads) { return i / 4 * threads * 4 + thread * 4 + i % 4; }

DEVICE void multiply(const float *a_tile, const float *w_tile, int down, int across, int part,
                     float (&acc)[THREAD_M][THREAD_N]) {
#pragma unroll
    for (int i = 0; i < BLOCK_K / K_PARTS; i++) {
        const int k = i * K_PARTS + part;
        float a[THREAD_M], w[THREAD_N];
#pragma unroll
        for (int m = 0; m < THREAD_M; m += 4) load_vector(a_tile + k * A_ROW + place(down, m, DOWN), a + m);
#pragma unroll
        for (int n = 0; n < THREAD_N; n += 4) load_vector(w_tile + k * W_ROW + place(across, n, ACROSS), w + n);
#pragma unroll
        for (int m = 0; m < THREAD_M; m++) {
#pragma unroll
            for (int n = 0; n < THREAD_N; n++) acc[m][n] = fmaf(a[m], w[n], acc[m][n]);
        }
    }
}

// Adds the sums of the other parts to those of part 0, in order. All threads call it.
DEVICE void add_parts(int part, int thread, float (&acc)[THREAD_M][THREAD_N]) {
    __syncthreads();
    if (part > 0) {
        float *mine = shared + (part - 1) * BLOCK_M * BLOCK_N + thread;
#pragma unroll
        for (int i = 0; i < THREAD_M * THREAD_N; i++) mine[i * GROUP] = acc[i / THREAD_N][i % THREAD_N];
    }
    __syncthreads();
    if (part == 0) {
#pragma unroll
        for (int other = 0; other < K_PARTS - 1; other++) {
            const float *theirs = shared + other * BLOCK_M * BLOCK_N + thread;
#pragma unroll
            for (int i = 0; i < THREAD_M * THREAD_N; i++) acc[i / THREAD_N][i % THREAD_N] += theirs[i * GROUP];
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    gemm_f32(float *d, const float *__restrict__ a, const float *__restrict__ w, const float *__restrict__ bias,
             const float *residual, const Batch *batch) {
    const int first_row = blockIdx.y * BLOCK_M, first_column = blockIdx.x * BLOCK_N;
    const int part = threadIdx.x / GROUP, thread = threadIdx.x % GROUP;
    const int down = thread / ACROSS, across = thread % ACROSS;
    Tile<BLOCK_M, A_STRIDE, A_ROW> a_next;
    Tile<BLOCK_N, K, W_ROW> w_next;

    w_next.load(w, first_column, N, 0);
    wait_for_predecessor();
    release_successor();
    const int rows = ROW_COUNT(batch);
    if (first_row >= rows) return;
    a_next.load(a, first_row, rows, 0);

    float acc[THREAD_M][THREAD_N];
#pragma unroll
    for (int i = 0; i < THREAD_M * THREAD_N; i++) acc[i / THREAD_N][i % THREAD_N] = 0.0f;

    for (int step = 0; step < STEPS; step++) {
        float *a_tile = shared + step % 2 * BUFFER, *w_tile = a_tile + BLOCK_K * A_ROW;
        a_next.store(a_tile);
        w_next.store(w_tile);
        // One barrier a step is enough: a buffer is written again two steps later, after the barrier in between.
        __syncthreads();
        if (step + 1 < STEPS) {
            a_next.load(a, first_row, rows, (step + 1) * BLOCK_K);
            w_next.load(w, first_column, N, (step + 1) * BLOCK_K);
        }
        multiply(a_tile, w_tile, down, across, part, acc);
    }

    if (K_PARTS > 1) {
        add_parts(part, thread, acc);
        if (part > 0) return;
    }
#pragma unroll
    for (int m = 0; m < THREAD_M; m++) {
        const int row = first_row + place(down, m, DOWN);
        if (row >= rows) continue;
#pragma unroll
        for (int n = 0; n < THREAD_N; n++) {
            const int column = first_column + place(across, n, ACROSS);
            if (N % BLOCK_N != 0 && column >= N) continue;
            const size_t at = (size_t)row * D_STRIDE + column;
            float x = acc[m][n];
#if BIAS
            x += bias[column];
#endif
            x = activate(x);
#if RESIDUAL
            x += residual[at];
#endif
            d[at] = x;
        }
    }
}
