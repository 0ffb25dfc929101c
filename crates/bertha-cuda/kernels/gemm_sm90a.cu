// Linear layer for many tokens on Hopper: D[tokens, N] = activation(A[tokens, K] W[N, K]^T + bias) (+ residual).
//
// Tile: 128 tokens x TILE_N features. One persistent block per multiprocessor goes through the tiles; 384 threads:
//   warpgroup 0  producer: one thread fetches A and W blocks of 64 along K by TMA into a ring of STAGES stages;
//   warpgroups 1 and 2  consumers: 64 tokens x TILE_N each, wgmma m64 n(TILE_N) k16 from shared memory, f32 accumulators.
// The second consumer starts STAGGER blocks of K behind the first and stays behind: while one is in its epilogue, the
// other has the tensor cores to itself, and the producer is already filling the ring for the next tile.
// Accumulators start from the bias (and, without an activation, from bias + residual), whose loads hide behind the
// ring's. Epilogue: activation in f32, stmatrix into a 64x64 staging tile, TMA store; f32 output goes straight to memory.
//
// Data: A, W, D row-major (K or N contiguous) in Element; bias [N] f32; residual [tokens, N] Element.
// Shared memory: STAGES x (128 + TILE_N) rows of 128 bytes in the 128-byte swizzle (16-byte chunk c of row r lies at
// c ^ (r % 8)), then STORE_BUFFERS staging tiles of 64 rows x 128 bytes for each consumer in the same swizzle.
// Intensity: one stage is (128 + TILE_N) x 128 bytes for 128 x TILE_N x 64 products: 48 bytes a clock for TILE_N = 256
// at full rate, 53 for 192, 64 for 128; a cluster of two that shares one operand needs 40 or 32, 43 or 37, 48.
//
// Macros (all required unless a default is given):
//   ELEMENT_F16 | ELEMENT_BF16
//   N, K               multiples of 8
//   TILE_N             64, 96, 128, 192 or 256
//   STAGES             ring depth, at least 2
//   STORE_BUFFERS      1 or 2 staging tiles for each consumer (OUTPUT_F32: 0)
//   CLUSTER_M          1, or 2: two blocks with neighbouring token tiles share each W block (multicast); default 1
//   CLUSTER_N          1, or 2: two blocks with neighbouring feature tiles share each A block; default 1; not both 2
//   GROUP_M            token tiles that are walked through together before the next ones, for the L2; default 8
//   STAGGER            blocks of K by which the second consumer starts later, below STAGES; default 0
//   ACTIVATION         one of activation.cuh; default none
//   RESIDUAL           adds residual after the activation
//   OUTPUT_F32         D is f32
//
// Launch: block 384; cluster CLUSTER_M * CLUSTER_N; dynamic shared memory
//   1024 + STAGES * (128 + TILE_N) * 128 + 2 * STORE_BUFFERS * 8192 + 16 * STAGES     (at most 232,448)
// grid: CLUSTER * min(multiprocessors / CLUSTER, ceil(ceil(capacity / 128) / CLUSTER_M) * ceil(ceil(N / TILE_N) / CLUSTER_N))
// where capacity is the number of allocated rows (a multiple of 128).
// Tensor maps, 2-D, 16-bit, 128-byte swizzle, no interleave, zero fill, L2 promotion 256 bytes, element stride 1:
//   a_map   dims {K, capacity}, stride 2 K bytes, box {64, 128 / CLUSTER_N}
//   w_map   dims {K, N},        stride 2 K bytes, box {64, TILE_N / CLUSTER_M}
//   d_map   dims {N, capacity}, stride 2 N bytes, box {64, 64}                  (OUTPUT_F32: unused, any valid map)
// Rows from batch->tokens to the end of the last tile are computed from whatever they hold and written; nothing mixes rows.
#include "types.cuh"
#include "batch.cuh"
#include "activation.cuh"
#include "hopper.cuh"

#ifndef CLUSTER_M
#define CLUSTER_M 1
#endif
#ifndef CLUSTER_N
#define CLUSTER_N 1
#endif
#ifndef GROUP_M
#define GROUP_M 8
#endif
#ifndef STAGGER
#define STAGGER 0
#endif
#if defined(RESIDUAL) && ACTIVATION != ACTIVATION_NONE
#define RESIDUAL_LAST 1
#endif

using namespace hopper;

constexpr int TILE_M = 128;
constexpr int BLOCK_K = 64;
constexpr int ROW_BYTES = BLOCK_K * 2;
constexpr int CONSUMERS = 2;
constexpr int WARPGROUP = 128;
constexpr int CONSUMER_M = TILE_M / CONSUMERS;  // one wgmma high
constexpr int CLUSTER = CLUSTER_M * CLUSTER_N;
constexpr int A_BYTES = TILE_M * ROW_BYTES;
constexpr int W_BYTES = TILE_N * ROW_BYTES;
constexpr int STAGE_BYTES = A_BYTES + W_BYTES;
constexpr int STORE_COLUMNS = 64;
constexpr int STORE_BYTES = CONSUMER_M * STORE_COLUMNS * 2;
constexpr int BLOCKS_K = (K + BLOCK_K - 1) / BLOCK_K;
constexpr int TILES_N = (N + TILE_N - 1) / TILE_N;
constexpr int UNITS_N = (TILES_N + CLUSTER_N - 1) / CLUSTER_N;
constexpr int PREFETCH_BLOCKS = STAGES < BLOCKS_K ? STAGES : BLOCKS_K;
constexpr int REGISTERS = TILE_N / 2;
constexpr int CONSUMER_REGISTERS = 232;
constexpr int PRODUCER_REGISTERS = 40;
constexpr int STAGGER_BARRIER = 3;
constexpr int STAGGER_BLOCKS = STAGGER < BLOCKS_K ? STAGGER : BLOCKS_K - 1;

static_assert(CLUSTER <= 2, "a cluster shares one operand");
static_assert(STAGGER < STAGES, "the ring must hold what the second consumer lags behind");

// The ring's barriers and tiles in shared memory.
struct Ring {
    unsigned stages;
    unsigned full;
    unsigned empty;

    __device__ unsigned a_tile(int stage) const { return stages + stage * STAGE_BYTES; }
    __device__ unsigned w_tile(int stage) const { return stages + stage * STAGE_BYTES + A_BYTES; }
    __device__ unsigned full_barrier(int stage) const { return full + stage * 8; }
    __device__ unsigned empty_barrier(int stage) const { return empty + stage * 8; }
};

// Position in the ring: which stage, and the parity of its barriers' phase.
struct Cursor {
    int stage = 0;
    unsigned phase = 0;

    __device__ void advance() {
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

// The first token and feature of this block's part of the cluster's tile `unit`: GROUP_M rows of tiles at a time,
// downward first, so that blocks that run together share rows of A and W in the L2.
struct Tile {
    int token;
    int feature;

    __device__ Tile(int unit, int units_m, int rank_m, int rank_n) {
        int group = unit / (GROUP_M * UNITS_N);
        int first = group * GROUP_M;
        int height = units_m - first < GROUP_M ? units_m - first : GROUP_M;
        int within = unit - group * (GROUP_M * UNITS_N);
        int column = within / height;
        token = ((first + within - column * height) * CLUSTER_M + rank_m) * TILE_M;
        feature = (column * CLUSTER_N + rank_n) * TILE_N;
    }
};

DEVICE void load_a(const Ring& ring, const TensorMap* map, int stage, int block, int token, int rank) {
    unsigned barrier = ring.full_barrier(stage);
    if constexpr (CLUSTER_N == 2) {
        constexpr int ROWS = TILE_M / 2;
        tma_load_multicast(ring.a_tile(stage) + rank * ROWS * ROW_BYTES, map, barrier, block * BLOCK_K,
                           token + rank * ROWS, 3, EVICT_LAST);
    } else {
        tma_load(ring.a_tile(stage), map, barrier, block * BLOCK_K, token, EVICT_LAST);
    }
}

DEVICE void load_w(const Ring& ring, const TensorMap* map, int stage, int block, int feature, int rank) {
    unsigned barrier = ring.full_barrier(stage);
    if constexpr (CLUSTER_M == 2) {
        constexpr int ROWS = TILE_N / 2;
        tma_load_multicast(ring.w_tile(stage) + rank * ROWS * ROW_BYTES, map, barrier, block * BLOCK_K,
                           feature + rank * ROWS, 3, EVICT_NORMAL);
    } else {
        tma_load(ring.w_tile(stage), map, barrier, block * BLOCK_K, feature, EVICT_NORMAL);
    }
}

// One thread: fetches every block of every tile. The first stages' weights are asked for before the kernels that
// produce A have ended.
DEVICE void produce(
    const Ring& ring, const TensorMap* a_map, const TensorMap* w_map, int units_m, int first_unit, int step, int rank) {
    int rank_m = CLUSTER_M == 2 ? rank : 0;
    int rank_n = CLUSTER_N == 2 ? rank : 0;
    int units = units_m * UNITS_N;
    if (first_unit < units) {
        Tile tile(first_unit, units_m, rank_m, rank_n);
        for (int block = 0; block < PREFETCH_BLOCKS; ++block) {
            barrier_expect(ring.full_barrier(block), STAGE_BYTES);
            load_w(ring, w_map, block, block, tile.feature, rank);
        }
    }
    wait_for_dependencies();
    Cursor cursor;
    int fetched = 0;
    for (int unit = first_unit; unit < units; unit += step) {
        Tile tile(unit, units_m, rank_m, rank_n);
        for (int block = 0; block < BLOCKS_K; ++block) {
            if (fetched < PREFETCH_BLOCKS) {
                ++fetched;
            } else {
                barrier_wait(ring.empty_barrier(cursor.stage), cursor.phase ^ 1);
                barrier_expect(ring.full_barrier(cursor.stage), STAGE_BYTES);
                load_w(ring, w_map, cursor.stage, block, tile.feature, rank);
            }
            load_a(ring, a_map, cursor.stage, block, tile.token, rank);
            cursor.advance();
        }
    }
}

// A thread's place in its consumer's 64 x TILE_N part of the tile: rows `row` and `row` + 8, columns 8 j + `column`.
struct Fragment {
    int row;
    int column;

    __device__ Fragment(int thread) : row(thread / 32 * 16 + thread % 32 / 4), column(thread % 4 * 2) {}
};

DEVICE float2 residual_pair(const Element* residual, int row, int feature) {
    unsigned packed = *reinterpret_cast<const unsigned*>(residual + static_cast<long long>(row) * N + feature);
    return unpack2<Element>(packed);
}

// Accumulators before the first product: the bias, and the residual where no activation comes between.
DEVICE void start(
    float (&d)[REGISTERS], const float* bias, const Element* residual, int token, int feature, int capacity,
    const Fragment& fragment) {
#pragma unroll
    for (int j = 0; j < TILE_N / 8; ++j) {
        int column = feature + 8 * j + fragment.column;
        float2 b = make_float2(0.0f, 0.0f);
        if (N % TILE_N == 0 || column < N) {
            b = *reinterpret_cast<const float2*>(bias + column);
        }
        d[4 * j] = d[4 * j + 2] = b.x;
        d[4 * j + 1] = d[4 * j + 3] = b.y;
    }
#if defined(RESIDUAL) && !defined(RESIDUAL_LAST)
#pragma unroll
    for (int j = 0; j < TILE_N / 8; ++j) {
        int column = feature + 8 * j + fragment.column;
        if ((N % TILE_N == 0 || column < N) && (CLUSTER_M == 1 || token < capacity)) {
            float2 top = residual_pair(residual, token + fragment.row, column);
            float2 bottom = residual_pair(residual, token + fragment.row + 8, column);
            d[4 * j] += top.x;
            d[4 * j + 1] += top.y;
            d[4 * j + 2] += bottom.x;
            d[4 * j + 3] += bottom.y;
        }
    }
#endif
}

// Gives a stage back to the producers that fill it: one arrival of each consumer warp at each block of the cluster.
DEVICE void release(const Ring& ring, int stage, int lane) {
    if (lane < CLUSTER) {
        barrier_arrive_cluster(cluster_address(ring.empty_barrier(stage), lane));
    }
}

// One consumer's products over the whole of K. A stage goes back when the products that read it have ended; one stage's
// products are in flight while the next one's are issued. Before block `announce` the other consumer is let go.
DEVICE void multiply(
    float (&d)[REGISTERS], const Ring& ring, Cursor& cursor, int consumer, int lane, int announce) {
    int previous = -1;
    fence_registers(d);
    for (int block = 0; block < BLOCKS_K; ++block) {
        if (block == announce) {
            named_barrier_arrive(STAGGER_BARRIER, CONSUMERS * WARPGROUP);
        }
        barrier_wait(ring.full_barrier(cursor.stage), cursor.phase);
        unsigned long long a = tile_descriptor(ring.a_tile(cursor.stage) + consumer * CONSUMER_M * ROW_BYTES);
        unsigned long long w = tile_descriptor(ring.w_tile(cursor.stage));
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < BLOCK_K / 16; ++step) {
            Wgmma<TILE_N>::multiply(d, a + step * WGMMA_K_STEP, w + step * WGMMA_K_STEP, 1);
        }
        wgmma_commit();
        wgmma_wait<1>();
        if (previous >= 0) {
            release(ring, previous, lane);
        }
        previous = cursor.stage;
        cursor.advance();
    }
    wgmma_wait<0>();
    fence_registers(d);
    release(ring, previous, lane);
}

// Activation, late residual, and the way to memory of one consumer's part of a tile.
DEVICE void finish(
    float (&d)[REGISTERS], const TensorMap* d_map, void* output, const Element* residual, unsigned staging, int token,
    int feature, int capacity, int consumer, int thread) {
    Fragment fragment(thread);
#ifdef OUTPUT_F32
    float* out = static_cast<float*>(output);
#endif
#pragma unroll
    for (int j = 0; j < TILE_N / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            d[4 * j + i] = activate(d[4 * j + i]);
        }
#if defined(RESIDUAL_LAST) || defined(OUTPUT_F32)
        int column = feature + 8 * j + fragment.column;
#endif
#ifdef RESIDUAL_LAST
        if ((N % TILE_N == 0 || column < N) && (CLUSTER_M == 1 || token < capacity)) {
            float2 top = residual_pair(residual, token + fragment.row, column);
            float2 bottom = residual_pair(residual, token + fragment.row + 8, column);
            d[4 * j] += top.x;
            d[4 * j + 1] += top.y;
            d[4 * j + 2] += bottom.x;
            d[4 * j + 3] += bottom.y;
        }
#endif
#ifdef OUTPUT_F32
        if ((N % TILE_N == 0 || column < N) && (CLUSTER_M == 1 || token < capacity)) {
            long long place = static_cast<long long>(token + fragment.row) * N + column;
            *reinterpret_cast<float2*>(out + place) = make_float2(d[4 * j], d[4 * j + 1]);
            *reinterpret_cast<float2*>(out + place + 8ll * N) = make_float2(d[4 * j + 2], d[4 * j + 3]);
        }
#endif
    }
#ifndef OUTPUT_F32
    // stmatrix: lanes 0-15 name the 16 rows of the left eight columns, lanes 16-31 those of the right eight.
    int row = thread / 32 * 16 + thread % 16;
    int chunk = thread % 32 / 16;
#pragma unroll
    for (int part = 0; part < TILE_N / STORE_COLUMNS; ++part) {
        unsigned buffer = staging + part % STORE_BUFFERS * STORE_BYTES;
        if (thread == 0) {
            tma_store_wait_read<STORE_BUFFERS - 1>();
        }
        named_barrier(1 + consumer, WARPGROUP);
#pragma unroll
        for (int pair = 0; pair < STORE_COLUMNS / 16; ++pair) {
            const float* v = d + (part * STORE_COLUMNS / 8 + pair * 2) * 4;
            unsigned address = buffer + row * ROW_BYTES + (((pair * 2 + chunk) ^ (row % 8)) << 4);
            store_matrix_x4(address, pack2<Element>(v[0], v[1]), pack2<Element>(v[2], v[3]), pack2<Element>(v[4], v[5]), pack2<Element>(v[6], v[7]));
        }
        fence_async_proxy();
        named_barrier(1 + consumer, WARPGROUP);
        if (thread == 0) {
            tma_store(d_map, buffer, feature + part * STORE_COLUMNS, token);
            tma_store_commit();
        }
    }
#endif
}

extern "C" __global__ void __launch_bounds__(WARPGROUP * (1 + CONSUMERS), 1) gemm_sm90a(
    const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap w_map,
    const __grid_constant__ TensorMap d_map, const float* __restrict__ bias, const Element* residual, void* output,
    const Batch* __restrict__ batch, int capacity) {
    extern __shared__ char memory[];
    unsigned base = (shared_address(memory) + 1023) & ~1023u;
    unsigned staging = base + STAGES * STAGE_BYTES;
    Ring ring;
    ring.stages = base;
    ring.full = staging + CONSUMERS * STORE_BUFFERS * STORE_BYTES;
    ring.empty = ring.full + STAGES * 8;

    int warpgroup = threadIdx.x / WARPGROUP;
    if (threadIdx.x == 0) {
        prefetch_map(&a_map);
        prefetch_map(&w_map);
        prefetch_map(&d_map);
        for (int stage = 0; stage < STAGES; ++stage) {
            barrier_init(ring.full_barrier(stage), 1);
            barrier_init(ring.empty_barrier(stage), CONSUMERS * WARPGROUP / 32 * CLUSTER);
        }
        barrier_init_fence();
    }
    int tokens = batch->tokens;
    int units_m = ((tokens + TILE_M - 1) / TILE_M + CLUSTER_M - 1) / CLUSTER_M;
    int units = units_m * UNITS_N;
    int rank = CLUSTER > 1 ? cluster_rank() : 0;
    int first_unit = blockIdx.x / CLUSTER;
    int step = gridDim.x / CLUSTER;
    if constexpr (CLUSTER > 1) {
        cluster_arrive();
        cluster_wait();
    } else {
        __syncthreads();
    }
    launch_dependents();

    if (warpgroup == 0) {
        registers_decrease<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) {
            produce(ring, &a_map, &w_map, units_m, first_unit, step, rank);
        }
    } else {
        registers_increase<CONSUMER_REGISTERS>();
        int consumer = warpgroup - 1;
        int thread = threadIdx.x % WARPGROUP;
        staging += consumer * STORE_BUFFERS * STORE_BYTES;
        wait_for_dependencies();
        Cursor cursor;
        int announce = -1;
        if (STAGGER > 0 && first_unit < units) {
            if (consumer == 0) {
                announce = STAGGER_BLOCKS;
            } else {
                named_barrier(STAGGER_BARRIER, CONSUMERS * WARPGROUP);
            }
        }
        for (int unit = first_unit; unit < units; unit += step) {
            Tile tile(unit, units_m, CLUSTER_M == 2 ? rank : 0, CLUSTER_N == 2 ? rank : 0);
            int token = tile.token + consumer * CONSUMER_M;
            float d[REGISTERS];
            start(d, bias, residual, token, tile.feature, capacity, Fragment(thread));
            multiply(d, ring, cursor, consumer, thread % 32, announce);
            announce = -1;
            finish(d, &d_map, output, residual, staging, token, tile.feature, capacity, consumer, thread);
        }
        if (thread == 0) {
            tma_store_wait();
        }
    }
    if constexpr (CLUSTER > 1) {
        cluster_arrive();
        cluster_wait();
    }
}
