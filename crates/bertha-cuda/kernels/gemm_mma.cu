// D = activation(A W^T + bias) [+ residual] in 16-bit floats with f32 accumulation, by mma.sync: for every architecture
// from sm_75 on (f16; bf16 from sm_80 on).
//
// A: [rows, K] of Element, rows A_STRIDE apart. W: [N, K] of Element. bias: [N] f32 (BIAS 1). residual: [rows, N] of
// Element, rows D_STRIDE apart (RESIDUAL 1), added after the activation; D may be residual. D: [rows, N] of Element or
// f32 (OUTPUT_F32 1), rows D_STRIDE apart. rows = batch->tokens, or batch->sequences with ROWS_ARE_SEQUENCES 1; rows
// beyond are neither read nor written.
//
// Tile: BLOCK_M x BLOCK_N of D per block, BLOCK_K at a time, in STAGES shared buffers filled by cp.async (before sm_80:
// by loads and stores). WARPS_M x WARPS_N x WARPS_K warps: a warp owns a (BLOCK_M / WARPS_M) x (BLOCK_N / WARPS_N) part
// of the tile and every WARPS_K-th k16 step of each BLOCK_K; with WARPS_K > 1 the parts of a sum meet in shared memory
// at the end and are added in order, so results do not change from run to run.
// Shared layout: rows of BLOCK_K elements in chunks of 16 bytes, chunk c of row r at c ^ (r mod 8) (BLOCK_K 64) or
// c ^ (r / 2 mod 4) (BLOCK_K 32): the eight rows of an ldmatrix, and the eight lanes of a 128-byte store, hit different
// banks.
// The first STAGES - 1 tiles of W are fetched before the predecessor has ended.
//
// Macros: ELEMENT_F16 | ELEMENT_BF16; N, K >= 1 (K a multiple of 8 and A_STRIDE too: 16-byte copies; else element by
//   element, slow); BLOCK_M, BLOCK_N multiples of 16 * WARPS_M, 16 * WARPS_N; BLOCK_K 32 | 64; WARPS_K divides
//   BLOCK_K / 16; STAGES 2 .. 6; ACTIVATION; BIAS, RESIDUAL, OUTPUT_F32 0 | 1; A_STRIDE (default K), D_STRIDE (default
//   N); ROWS_ARE_SEQUENCES 0 | 1.
//   Tiles that are meant: 128x128x32, 2x4x1 warps (2x2x1 on sm_75), 4 stages; 128x256x32, 2x4x1, 3; 64x64x64, 2x2x1, 4;
//   32x64x64, 1x2x4, 4 and 16x64x64, 1x2x4, 4 for few rows.
// Block: 32 * WARPS_M * WARPS_N * WARPS_K threads. Grid: x = ceil(N / BLOCK_N), y = ceil(capacity / BLOCK_M): blocks of
//   one stripe of A run together.
// Dynamic shared memory: max(STAGES * (BLOCK_M + BLOCK_N) * BLOCK_K * 2, (WARPS_K - 1) * BLOCK_M * BLOCK_N * 4) bytes.
// Intensity: BLOCK_M * BLOCK_N / (BLOCK_M + BLOCK_N) operations per byte copied: 64 for 128x128, 85 for 128x256, 32 for
//   64x64; a warp's ldmatrix reads (64 + 32) * 16 elements for 64 * 32 * 16 products at 128x128.
#include "activation.cuh"
#include "batch.cuh"
#include "ptx.cuh"

#ifndef A_STRIDE
#define A_STRIDE K
#endif
#ifndef D_STRIDE
#define D_STRIDE N
#endif

#if OUTPUT_F32
typedef float Output;
#else
typedef Element Output;
#endif

static const int THREADS = 32 * WARPS_M * WARPS_N * WARPS_K;
static const int GROUP = 32 * WARPS_M * WARPS_N;  // threads that share a tile of D
static const int WARP_M = BLOCK_M / WARPS_M, WARP_N = BLOCK_N / WARPS_N;
static const int TILES_M = WARP_M / 16, TILES_N = WARP_N / 8;
static const int CHUNKS = BLOCK_K / 8;  // of a row
static const int A_BYTES = BLOCK_M * BLOCK_K * 2, W_BYTES = BLOCK_N * BLOCK_K * 2, STAGE_BYTES = A_BYTES + W_BYTES;
static const int STEPS = (K + BLOCK_K - 1) / BLOCK_K;

static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "a warp's tile is made of 16x16 ones");
static_assert(BLOCK_K == 32 || BLOCK_K == 64, "the swizzle knows these");
static_assert((BLOCK_K / 16) % WARPS_K == 0, "every warp has the same number of k16 steps");

extern __shared__ __align__(128) unsigned char shared[];

// Bytes from the start of a tile to chunk `c` of row `r`.
DEVICE u32 chunk_offset(int r, int c) {
    int swizzled = BLOCK_K == 64 ? c ^ (r & 7) : c ^ ((r >> 1) & 3);
    return (u32)((r * CHUNKS + swizzled) * 16);
}

// Copies columns `k ..` of ROWS rows of a matrix from row `first` on; zeros beyond `rows` and beyond K.
template <int ROWS, int STRIDE> DEVICE void copy_tile(u32 to, const Element *from, int first, int rows, int k) {
    const int chunks = ROWS * CHUNKS;
#pragma unroll
    for (int i = 0; i < (chunks + THREADS - 1) / THREADS; i++) {
        int chunk = i * THREADS + (int)threadIdx.x;
        if (chunks % THREADS != 0 && chunk >= chunks) break;
        int r = chunk / CHUNKS, c = chunk % CHUNKS, column = k + c * 8;
        bool valid = first + r < rows && (K % BLOCK_K == 0 || column < K);
        const Element *source = from + (size_t)(first + r) * STRIDE + column;
#if K % 8 == 0 && A_STRIDE % 8 == 0
        copy_async(to + chunk_offset(r, c), valid ? source : from, valid);
#else
        u32 halves[8];
#pragma unroll
        for (int e = 0; e < 8; e++) halves[e] = valid && column + e < K ? source[e].bits : 0;
        store_shared(to + chunk_offset(r, c),
                     make_uint4(halves[0] | halves[1] << 16, halves[2] | halves[3] << 16, halves[4] | halves[5] << 16,
                                halves[6] | halves[7] << 16));
#endif
    }
}

// Multiplies what one stage holds, this warp's k16 steps of it.
DEVICE void multiply_stage(u32 stage, int warp_m, int warp_n, int warp_k, float (&acc)[TILES_M][TILES_N][4]) {
    const int lane = threadIdx.x % 32;
    const u32 a_tile = stage, w_tile = stage + A_BYTES;
    // ldmatrix of A: lanes 0-15 name rows 0-15 of the left half, lanes 16-31 those of the right half.
    const int a_row = warp_m * WARP_M + lane % 16, a_chunk = lane / 16;
    // ldmatrix of W: 8 rows left, the same right, then the next 8 rows.
    const int w_row = warp_n * WARP_N + lane % 8 + lane / 16 * 8, w_chunk = lane / 8 % 2;
#pragma unroll
    for (int i = 0; i < BLOCK_K / 16 / WARPS_K; i++) {
        const int chunk = (i * WARPS_K + warp_k) * 2;
        u32 a[TILES_M][4], w[TILES_N][2];
#pragma unroll
        for (int m = 0; m < TILES_M; m++) {
            load_matrix_x4(a[m][0], a[m][1], a[m][2], a[m][3],
                           a_tile + chunk_offset(a_row + m * 16, chunk + a_chunk));
        }
#pragma unroll
        for (int n = 0; n < TILES_N; n += 2) {
            load_matrix_x4(w[n][0], w[n][1], w[n + 1][0], w[n + 1][1],
                           w_tile + chunk_offset(w_row + n * 8, chunk + w_chunk));
        }
#pragma unroll
        for (int m = 0; m < TILES_M; m++) {
#pragma unroll
            for (int n = 0; n < TILES_N; n++) mma_16x8x16<Element>(acc[m][n], a[m], w[n][0], w[n][1]);
        }
    }
}

// Adds the sums of the warps with warp_k > 0 to those of warp_k 0, in order. All threads call it.
DEVICE void add_parts(int warp_k, float (&acc)[TILES_M][TILES_N][4]) {
    float *parts = reinterpret_cast<float *>(shared);  // [WARPS_K - 1][values of a thread][GROUP]
    const int thread = threadIdx.x % GROUP;
    __syncthreads();
    if (warp_k > 0) {
        float *mine = parts + (warp_k - 1) * BLOCK_M * BLOCK_N + thread;
#pragma unroll
        for (int m = 0; m < TILES_M; m++) {
#pragma unroll
            for (int n = 0; n < TILES_N; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) mine[((m * TILES_N + n) * 4 + e) * GROUP] = acc[m][n][e];
            }
        }
    }
    __syncthreads();
    if (warp_k == 0) {
#pragma unroll
        for (int part = 0; part < WARPS_K - 1; part++) {
            const float *other = parts + part * BLOCK_M * BLOCK_N + thread;
#pragma unroll
            for (int m = 0; m < TILES_M; m++) {
#pragma unroll
                for (int n = 0; n < TILES_N; n++) {
#pragma unroll
                    for (int e = 0; e < 4; e++) acc[m][n][e] += other[((m * TILES_N + n) * 4 + e) * GROUP];
                }
            }
        }
    }
}

// Two neighbouring columns of one row of D. N may be odd: then pairs are not aligned and the last has one column.
DEVICE void finish_pair(Output *d, const Element *residual, int row, int column, float x, float y, float2 bias) {
    x = activate(x + bias.x);
    y = activate(y + bias.y);
    const size_t at = (size_t)row * D_STRIDE + column;
#if N % 2 == 0 && D_STRIDE % 2 == 0
#if RESIDUAL
    float2 r = load_pair(residual + at);
    x += r.x, y += r.y;
#endif
    store_pair(d + at, x, y);
#else
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (column + i >= N) break;
        float v = i == 0 ? x : y;
#if RESIDUAL
        v += to_f32(residual[at + i]);
#endif
        d[at + i] = from_f32<Output>(v);
    }
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS)
    gemm_mma(Output *d, const Element *__restrict__ a, const Element *__restrict__ w, const float *__restrict__ bias,
             const Element *residual, const Batch *batch) {
    const int first_row = blockIdx.y * BLOCK_M, first_column = blockIdx.x * BLOCK_N;
    const u32 stages = shared_address(shared);
    const int warp = threadIdx.x / 32, warp_k = warp / (WARPS_M * WARPS_N);
    const int warp_m = warp % (WARPS_M * WARPS_N) / WARPS_N, warp_n = warp % WARPS_N;

#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < STEPS) copy_tile<BLOCK_N, K>(stages + s * STAGE_BYTES + A_BYTES, w, first_column, N, s * BLOCK_K);
    }
    wait_for_predecessor();
    release_successor();
    const int rows = ROW_COUNT(batch);
    if (first_row >= rows) {
        wait_copies<0>();
        return;
    }
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < STEPS) copy_tile<BLOCK_M, A_STRIDE>(stages + s * STAGE_BYTES, a, first_row, rows, s * BLOCK_K);
        commit_copies();  // the first group takes the tiles of W along
    }

    float acc[TILES_M][TILES_N][4];
#pragma unroll
    for (int m = 0; m < TILES_M; m++) {
#pragma unroll
        for (int n = 0; n < TILES_N; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++) acc[m][n][e] = 0.0f;
        }
    }

    int reading = 0, writing = STAGES - 1;
    for (int step = 0; step < STEPS; step++) {
        wait_copies<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < STEPS) {
            const int k = (step + STAGES - 1) * BLOCK_K;
            const u32 stage = stages + writing * STAGE_BYTES;
            copy_tile<BLOCK_M, A_STRIDE>(stage, a, first_row, rows, k);
            copy_tile<BLOCK_N, K>(stage + A_BYTES, w, first_column, N, k);
        }
        commit_copies();
        multiply_stage(stages + reading * STAGE_BYTES, warp_m, warp_n, warp_k, acc);
        reading = reading + 1 == STAGES ? 0 : reading + 1;
        writing = writing + 1 == STAGES ? 0 : writing + 1;
    }

    if (WARPS_K > 1) {
        add_parts(warp_k, acc);
        if (warp_k > 0) return;
    }
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < TILES_N; n++) {
        const int column = first_column + warp_n * WARP_N + n * 8 + lane % 4 * 2;
        if (N % BLOCK_N != 0 && column >= N) continue;
        float2 shift = make_float2(0.0f, 0.0f);
#if BIAS
        shift.x = bias[column];
        if (column + 1 < N) shift.y = bias[column + 1];
#endif
#pragma unroll
        for (int m = 0; m < TILES_M; m++) {
            const int row = first_row + warp_m * WARP_M + m * 16 + lane / 4;
            if (row < rows) finish_pair(d, residual, row, column, acc[m][n][0], acc[m][n][1], shift);
            if (row + 8 < rows) finish_pair(d, residual, row + 8, column, acc[m][n][2], acc[m][n][3], shift);
        }
    }
}
