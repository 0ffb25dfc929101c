// Linear layer for many tokens on Hopper: D[tokens, N] = activation(A[tokens, K] W[N, K]^T + bias) (+ residual).
//
// Tile: 128 tokens x TILE_N features. One persistent block per multiprocessor goes through the tiles; 384 threads:
//   warpgroup 0  producer: one thread fetches A and W blocks of 64 along K by TMA into a ring of STAGES stages;
//   warpgroups 1 and 2  consumers: 64 tokens x TILE_N each, wgmma m64 n(TILE_N) k16 from shared memory, f32 accumulators.
// DEFER (for activations, which cost as many instructions as half the products take clocks): a tile's sums, bias added,
// are rounded to Element and kept in registers; the activation and the way to memory follow in portions of 32 columns
// between the products of the consumer's next tile, while the tensor cores work on those.
// Deferred layer norm (row_stats.cuh): what is read may be rows before their norm, which two warps of the producer's
// warpgroup turn into a scale and a shift for each of a tile's rows while the products run.
// The residual follows a tile's blocks of K through the same ring. Epilogue, 64 columns at a time: bias, activation and
// residual in f32, stmatrix into a staging tile, TMA store; f32 output goes straight to memory.
//
// Data: A, W, D, residual row-major (K or N contiguous) in Element; bias [N] f32.
// Shared memory: STAGES x (128 + TILE_N) rows of 128 bytes in the 128-byte swizzle (16-byte chunk c of row r lies at
// c ^ (r % 8)), then STORE_BUFFERS staging tiles of 64 rows x 128 bytes for each consumer in the same swizzle.
// Intensity: one stage is (128 + TILE_N) x 128 bytes for 128 x TILE_N x 64 products: 48 bytes a clock for TILE_N = 256
// at full rate, 53 for 192, 64 for 128; a cluster of two that shares one operand needs 40 or 32, 43 or 37, 48.
//
// Macros (all required unless a default is given):
//   ELEMENT_F16 | ELEMENT_BF16
//   N, K               multiples of 8
//   TILE_N             64, 128, 192 or 256
//   STAGES             ring depth, at least 2
//   STORE_BUFFERS      staging tiles for each consumer, 1 to TILE_N / 64: with as many as that, a tile is staged whole and
//                      two barriers fall away for each of its parts (OUTPUT_F32: 0)
//   CLUSTER_M          1, or 2: two blocks with neighbouring token tiles share each W block (multicast); default 1
//   CLUSTER_N          1, or 2: two blocks with neighbouring feature tiles share each A block; default 1; not both 2
//   GROUP_M            token tiles that are walked through together before the next ones, for the L2; default 8
//   DEFER              postpones the epilogue as said above: no RESIDUAL, no OUTPUT_F32, K at least 2 TILE_N
//   ACTIVATION         one of activation.cuh; default none
//   RESIDUAL           adds residual after the activation
//   OUTPUT_F32         D is f32
//   NORM_INPUT         A holds rows x before their layer norm: D = activation(scale[row] * (A W^T) + bias) (+ residual),
//                      where W is gamma W, each row centred, and bias is bias + W beta, so that no mean is needed here
//   NORM_RESIDUAL      the residual holds rows before their layer norm, and (x * scale[row] + shift[row]) * gamma is
//                      added; bias is bias + beta (no ACTIVATION; not with NORM_INPUT)
//   STATS_OUTPUT       writes {mean, M2} of each row's chunks of 64 columns of D (N a multiple of 64; no DEFER)
//   With NORM_INPUT K, with NORM_RESIDUAL N is a multiple of 64 up to 1,024.
//
// Launch: block 384; cluster CLUSTER_M * CLUSTER_N; dynamic shared memory (whose carve-out is set to 100 %)
//   STAGES * (128 + TILE_N) * 128 + 2 * STORE_BUFFERS * 8192 + 16 * STAGES     (at most 232,448)
//   and 2,080 more with NORM_INPUT or NORM_RESIDUAL
// grid: CLUSTER * min(multiprocessors / CLUSTER,
//                     ceil(ceil(capacity / 128) / CLUSTER_M) * ceil(ceil(N / TILE_N) / CLUSTER_N))
// where capacity is the number of allocated rows (a multiple of 128).
// Tensor maps, 2-D, 16-bit, 128-byte swizzle, no interleave, zero fill, L2 promotion 256 bytes, element stride 1:
//   a_map   dims {K, capacity}, stride 2 K bytes, box {64, 128 / CLUSTER_N}
//   w_map   dims {K, N},        stride 2 K bytes, box {64, TILE_N / CLUSTER_M}
//   d_map   dims {N, capacity}, stride 2 N bytes, box {64, 64}                  (OUTPUT_F32: unused, any valid map)
//   r_map   residual: dims {N, capacity}, stride 2 N bytes, box {64, 128}       (no RESIDUAL: unused, any valid map)
// stats: float2 [capacity][K / 64] of A with NORM_INPUT, [capacity][N / 64] of the residual with NORM_RESIDUAL; gamma: f32 [N]
// with NORM_RESIDUAL; output_stats: float2 [capacity][N / 64] with STATS_OUTPUT; all null where unused.
// Rows from batch->tokens to the end of the last tile are computed from whatever they hold and written; nothing mixes rows.
#include "types.cuh"
#include "batch.cuh"
#include "activation.cuh"
#include "hopper.cuh"
#include "row_stats.cuh"

#ifndef CLUSTER_M
#define CLUSTER_M 1
#endif
#ifndef CLUSTER_N
#define CLUSTER_N 1
#endif
#ifndef GROUP_M
#define GROUP_M 8
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
#ifdef DEFER
constexpr int PORTIONS = TILE_N / 32;
#else
constexpr int PORTIONS = 0;
#endif
constexpr int PARTS = TILE_N / STORE_COLUMNS;
constexpr bool STAGED_WHOLE = STORE_BUFFERS == PARTS;
// The residual's 128 x 64 parts that fit into one stage, and the stages that hold a tile's.
constexpr int RESIDUAL_BYTES = TILE_M * ROW_BYTES;
[[maybe_unused]] constexpr int RESIDUAL_PARTS = STAGE_BYTES / RESIDUAL_BYTES < PARTS ? STAGE_BYTES / RESIDUAL_BYTES : PARTS;

#if defined(NORM_INPUT)
constexpr int NORM_WIDTH = K;
#elif defined(NORM_RESIDUAL)
constexpr int NORM_WIDTH = N;
#else
constexpr int NORM_WIDTH = 0;
#endif
#if defined(NORM_INPUT) && defined(NORM_RESIDUAL)
#error "one norm a kernel"
#endif
[[maybe_unused]] constexpr int NORM_CHUNKS = NORM_WIDTH / STATS_COLUMNS;
constexpr int NORM_THREADS = 64;  // the last two warps of the producer's warpgroup
constexpr int NORM_BYTES = NORM_WIDTH > 0 ? 2 * TILE_M * 8 : 0;

static_assert(NORM_WIDTH % STATS_COLUMNS == 0 && NORM_WIDTH <= 1024, "rows of whole chunks");
static_assert(TILE_N % STORE_COLUMNS == 0, "the epilogue goes 64 columns at a time");
static_assert(CLUSTER <= 2, "a cluster shares one operand");
static_assert(PORTIONS <= BLOCKS_K, "a deferred epilogue must fit between the blocks of K");

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

// A scale and a shift for each row of a tile, of two tiles in turn, in shared memory; barriers as in the ring.
struct Norms {
    unsigned start;
    unsigned tiles = 0;  // that are done

    __device__ unsigned buffer() const { return tiles % 2; }
    __device__ unsigned phase() const { return tiles / 2 % 2; }
    __device__ unsigned row(int index) const { return start + (buffer() * TILE_M + index) * 8; }
    __device__ unsigned full_barrier(unsigned index) const { return start + NORM_BYTES + index * 8; }
    __device__ unsigned empty_barrier(unsigned index) const { return start + NORM_BYTES + 16 + index * 8; }
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
                           token + rank * ROWS, 3, EVICT_NORMAL);
    } else {
        tma_load(ring.a_tile(stage), map, barrier, block * BLOCK_K, token, EVICT_NORMAL);
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
    const Ring& ring, const TensorMap* a_map, const TensorMap* w_map, const TensorMap* r_map, int units_m, int first_unit,
    int step, int rank) {
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
#ifdef RESIDUAL
        for (int part = 0; part < PARTS; part += RESIDUAL_PARTS) {
            int parts = PARTS - part < RESIDUAL_PARTS ? PARTS - part : RESIDUAL_PARTS;
            barrier_wait(ring.empty_barrier(cursor.stage), cursor.phase ^ 1);
            barrier_expect(ring.full_barrier(cursor.stage), parts * RESIDUAL_BYTES);
            for (int i = 0; i < parts; ++i) {
                tma_load(ring.a_tile(cursor.stage) + i * RESIDUAL_BYTES, r_map, ring.full_barrier(cursor.stage),
                         tile.feature + (part + i) * STORE_COLUMNS, tile.token, EVICT_NORMAL);
            }
            cursor.advance();
        }
#endif
    }
}

#if defined(NORM_INPUT) || defined(NORM_RESIDUAL)
// NORM_THREADS threads: the norms of every tile's rows.
DEVICE void normalise(
    Norms norms, const float2* stats, float epsilon, int units_m, int first_unit, int step, int rank, int capacity, int thread) {
    wait_for_dependencies();
    for (int unit = first_unit; unit < units_m * UNITS_N; unit += step) {
        int token = Tile(unit, units_m, CLUSTER_M == 2 ? rank : 0, 0).token;
        barrier_wait(norms.empty_barrier(norms.buffer()), norms.phase() ^ 1);
#pragma unroll 1
        for (int i = 0; i < TILE_M / NORM_THREADS; ++i) {
            int index = i * NORM_THREADS + thread;
            if (CLUSTER_M == 1 || token < capacity) {
                RowNorm norm = merge_chunks<NORM_CHUNKS>(stats + static_cast<long long>(token + index) * NORM_CHUNKS, epsilon);
                asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(norms.row(index)), "f"(norm.scale), "f"(norm.shift)
                             : "memory");
            }
        }
        barrier_arrive(norms.full_barrier(norms.buffer()));
        ++norms.tiles;
    }
}
#endif

// The norms of the two rows of which a thread holds values (nothing without deferred norms).
struct ThreadNorms {
    RowNorm rows[2];

    DEVICE void take(Norms& norms, int consumer, int thread) {
        if constexpr (NORM_WIDTH > 0) {
            barrier_wait(norms.full_barrier(norms.buffer()), norms.phase());
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                unsigned address = norms.row(consumer * CONSUMER_M + thread / 32 * 16 + thread % 32 / 4 + 8 * i);
                asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                             : "=f"(rows[i].scale), "=f"(rows[i].shift)
                             : "r"(address)
                             : "memory");
            }
            __syncwarp();
            if (thread % 32 == 0) {
                barrier_arrive(norms.empty_barrier(norms.buffer()));
            }
            ++norms.tiles;
        }
    }

    // A sum of products of row `i` (0 or 1) with its bias, as the norm of the input has it.
    DEVICE float with_bias(float sum, float bias, int i) const {
#ifdef NORM_INPUT
        return fmaf(sum, rows[i].scale, bias);
#else
        return sum + bias;
#endif
    }
};

// Gives a stage back to the producers that fill it: one arrival of each consumer warp at each block of the cluster.
DEVICE void release(const Ring& ring, int stage, int lane) {
    if (lane < CLUSTER) {
        barrier_arrive_cluster(cluster_address(ring.empty_barrier(stage), lane));
    }
}

// The products of one stage.
DEVICE void issue(float (&d)[REGISTERS], const Ring& ring, const Cursor& cursor, int consumer, int accumulate) {
    barrier_wait(ring.full_barrier(cursor.stage), cursor.phase);
    unsigned long long a = tile_descriptor(ring.a_tile(cursor.stage) + consumer * CONSUMER_M * ROW_BYTES);
    unsigned long long w = tile_descriptor(ring.w_tile(cursor.stage));
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < BLOCK_K / 16; ++step) {
        Wgmma<TILE_N>::multiply(d, a + step * WGMMA_K_STEP, w + step * WGMMA_K_STEP, accumulate || step > 0);
    }
    wgmma_commit();
}

// Waits for the products of the stage before and gives that back.
DEVICE void retire(const Ring& ring, Cursor& cursor, int& previous, int lane) {
    wgmma_wait<1>();
    if (previous >= 0) {
        release(ring, previous, lane);
    }
    previous = cursor.stage;
    cursor.advance();
}

// A consumer's place in its staging tiles, for stmatrix and ldmatrix: lanes 0-15 name the 16 rows of the left eight
// columns of a pair, lanes 16-31 those of the right eight.
struct Place {
    int row;
    int chunk;

    DEVICE explicit Place(int thread) : row(thread / 32 * 16 + thread % 16), chunk(thread % 32 / 16) {}
    DEVICE unsigned offset(int pair) const { return row * ROW_BYTES + (((pair * 2 + chunk) ^ (row % 8)) << 4); }
};

#ifdef DEFER
// A finished tile whose activation is still to come: sums with bias, two to a register, as wgmma lays them out.
struct Deferred {
    u32 values[REGISTERS / 2];
    const TensorMap* map;
    unsigned staging;
    int token;
    int feature;
    int thread;
    int consumer;
    bool some;

    // Activation of 32 columns; with the last of 64 (or of the tile, if that is staged whole) their TMA store.
    DEVICE void finish(int portion) const {
        int part = portion / 2;
        unsigned buffer = staging + part % STORE_BUFFERS * STORE_BYTES;
        bool first = STAGED_WHOLE ? portion == 0 : portion % 2 == 0;
        bool last = STAGED_WHOLE ? portion == PORTIONS - 1 : portion % 2 == 1;
        if (first) {
            if (thread == 0) {
                tma_store_wait_read<STAGED_WHOLE ? 0 : STORE_BUFFERS - 1>();
            }
            named_barrier(1 + consumer, WARPGROUP);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            u32 r[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                float2 v = unpack2<Element>(values[portion * 8 + i * 4 + j]);
                r[j] = pack2<Element>(activate(v.x), activate(v.y));
            }
            store_matrix_x4(buffer + Place(thread).offset(portion % 2 * 2 + i), r[0], r[1], r[2], r[3]);
        }
        if (last) {
            fence_async_proxy();
            named_barrier(1 + consumer, WARPGROUP);
            if (thread == 0 && some) {
#pragma unroll
                for (int i = STAGED_WHOLE ? 0 : part; i <= part; ++i) {
                    tma_store(map, staging + i % STORE_BUFFERS * STORE_BYTES, feature + i * STORE_COLUMNS, token);
                }
            }
            if (thread == 0) {
                tma_store_commit();
            }
        }
    }
};
#else
struct Deferred {
    DEVICE void finish(int) const {}
};
#endif

// One consumer's products over the whole of K. A stage goes back when the products that read it have ended; one stage's
// products are in flight while the next one's are issued, and meanwhile the tile before is finished, if deferred.
DEVICE void multiply(float (&d)[REGISTERS], const Ring& ring, Cursor& cursor, const Deferred& deferred, int consumer, int lane) {
    int previous = -1;
    fence_registers(d);
#pragma unroll
    for (int block = 0; block < PORTIONS; ++block) {
        issue(d, ring, cursor, consumer, block > 0);
        deferred.finish(block);
        retire(ring, cursor, previous, lane);
    }
#ifdef DEFER
#pragma unroll 1  // every register is taken: constants of an unrolled loop would go to local memory
#endif
    for (int block = PORTIONS; block < BLOCKS_K; ++block) {
        issue(d, ring, cursor, consumer, block > 0);
        retire(ring, cursor, previous, lane);
    }
    wgmma_wait<0>();
    fence_registers(d);
    release(ring, previous, lane);
}

// Bias (or gamma) of a thread's columns in 64 columns of the tile: pairs 8 apart.
DEVICE void load_columns(float2 (&b)[STORE_COLUMNS / 8], const float* bias, int column) {
#pragma unroll
    for (int j = 0; j < STORE_COLUMNS / 8; ++j) {
        b[j] = make_float2(0.0f, 0.0f);
        if (N % TILE_N == 0 || column + 8 * j < N) {
            b[j] = __ldg(reinterpret_cast<const float2*>(bias + column + 8 * j));
        }
    }
}

// Brings a thread's share of the first tile's bias into the L1 while the ring fills.
DEVICE void touch_bias(const float* bias, int column) {
    if (column < N) {
        [[maybe_unused]] float unused;
        asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(unused) : "l"(bias + column));
    }
}

// Bias, activation and residual of 16 columns: v[4 j + i] as wgmma lays them out, residual at `address` for ldmatrix.
DEVICE void finish_values(
    float* v, const float2* b, [[maybe_unused]] const float2* gamma, const ThreadNorms& norms, unsigned residual_address) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            v[4 * j + 2 * i] = activate(norms.with_bias(v[4 * j + 2 * i], b[j].x, i));
            v[4 * j + 2 * i + 1] = activate(norms.with_bias(v[4 * j + 2 * i + 1], b[j].y, i));
        }
    }
#ifdef RESIDUAL
    unsigned r[4];
    load_matrix_x4(r[0], r[1], r[2], r[3], residual_address);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float2 added = unpack2<Element>(r[i]);
#ifdef NORM_RESIDUAL
        const RowNorm& norm = norms.rows[i % 2];
        v[2 * i] = fmaf(fmaf(added.x, norm.scale, norm.shift), gamma[i / 2].x, v[2 * i]);
        v[2 * i + 1] = fmaf(fmaf(added.y, norm.scale, norm.shift), gamma[i / 2].y, v[2 * i + 1]);
#else
        v[2 * i] += added.x;
        v[2 * i + 1] += added.y;
#endif
    }
#endif
}

// Sums of a thread's values in a chunk of 64 columns, for two rows.
struct ChunkSums {
    float sum[2] = {};
    float squares[2] = {};

    // 16 columns, v[4 j + i] as wgmma lays them out.
    DEVICE void add(const float* v) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            sum[i / 2 % 2] += v[i];
            squares[i / 2 % 2] = fmaf(v[i], v[i], squares[i / 2 % 2]);
        }
    }

    // Adds up what the four threads of a row have and writes the chunk's statistics; `stats` is those of the first row.
    DEVICE void write(float2* stats, int lane) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int step = 1; step <= 2; step *= 2) {
                sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], step);
                squares[i] += __shfl_xor_sync(0xffffffffu, squares[i], step);
            }
        }
        if (lane % 4 < 2) {
            bool second = lane % 4 == 1;
            stats[second ? 8ll * (N / STATS_COLUMNS) : 0] =
                chunk_stats(second ? sum[1] : sum[0], second ? squares[1] : squares[0]);
        }
    }
};

// The epilogue of one consumer's 64 x TILE_N part of a tile, and its way to memory.
DEVICE void finish(
    float (&d)[REGISTERS], const Ring& ring, Cursor& cursor, const ThreadNorms& norms, const TensorMap* d_map,
    const float* bias, const float* gamma, void* output, float2* output_stats, unsigned staging, int token, int feature,
    int capacity, int consumer, int thread) {
    int lane = thread % 32;
    Place place(thread);
    int first_column = lane % 4 * 2;
    float2 b[STORE_COLUMNS / 8];
    load_columns(b, bias, feature + first_column);
    if (STAGED_WHOLE && thread == 0) {
        tma_store_wait_read<0>();
    }
    if (STAGED_WHOLE) {
        named_barrier(1 + consumer, WARPGROUP);
    }
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        float2 next[STORE_COLUMNS / 8];
        if (part + 1 < PARTS) {
            load_columns(next, bias, feature + (part + 1) * STORE_COLUMNS + first_column);
        }
        unsigned residual = 0;
        float2 scale[STORE_COLUMNS / 8];
#ifdef NORM_RESIDUAL
        load_columns(scale, gamma, feature + part * STORE_COLUMNS + first_column);
#endif
        [[maybe_unused]] ChunkSums sums;
#ifdef RESIDUAL
        if (part % RESIDUAL_PARTS == 0) {
            barrier_wait(ring.full_barrier(cursor.stage), cursor.phase);
        }
        residual = ring.a_tile(cursor.stage) + part % RESIDUAL_PARTS * RESIDUAL_BYTES + consumer * CONSUMER_M * ROW_BYTES;
#endif
        [[maybe_unused]] unsigned buffer = staging + part % (STORE_BUFFERS > 0 ? STORE_BUFFERS : 1) * STORE_BYTES;
#ifndef OUTPUT_F32
        if (!STAGED_WHOLE && thread == 0) {
            tma_store_wait_read<STORE_BUFFERS - 1>();
        }
        if (!STAGED_WHOLE) {
            named_barrier(1 + consumer, WARPGROUP);
        }
#endif
#pragma unroll
        for (int pair = 0; pair < STORE_COLUMNS / 16; ++pair) {
            float* v = d + (part * STORE_COLUMNS / 8 + pair * 2) * 4;
            finish_values(v, b + pair * 2, scale + pair * 2, norms, residual + place.offset(pair));
#ifdef STATS_OUTPUT
            sums.add(v);
#endif
#ifdef OUTPUT_F32
            float* out = static_cast<float*>(output);
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                int column = feature + part * STORE_COLUMNS + pair * 16 + j * 8 + first_column;
                if ((N % TILE_N == 0 || column < N) && (CLUSTER_M == 1 || token < capacity)) {
                    long long start = static_cast<long long>(token + thread / 32 * 16 + lane / 4) * N + column;
                    *reinterpret_cast<float2*>(out + start) = make_float2(v[4 * j], v[4 * j + 1]);
                    *reinterpret_cast<float2*>(out + start + 8ll * N) = make_float2(v[4 * j + 2], v[4 * j + 3]);
                }
            }
#else
            store_matrix_x4(buffer + place.offset(pair), pack2<Element>(v[0], v[1]), pack2<Element>(v[2], v[3]),
                            pack2<Element>(v[4], v[5]), pack2<Element>(v[6], v[7]));
#endif
        }
#ifdef STATS_OUTPUT
        int first = feature + part * STORE_COLUMNS;
        if ((N % TILE_N == 0 || first < N) && (CLUSTER_M == 1 || token < capacity)) {
            long long row = token + thread / 32 * 16 + lane / 4;
            sums.write(output_stats + row * (N / STATS_COLUMNS) + first / STATS_COLUMNS, lane);
        }
#endif
#ifdef RESIDUAL
        if ((part + 1) % RESIDUAL_PARTS == 0 || part + 1 == PARTS) {
            release(ring, cursor.stage, lane);
            cursor.advance();
        }
#endif
#ifndef OUTPUT_F32
        if (!STAGED_WHOLE || part + 1 == PARTS) {
            fence_async_proxy();
            named_barrier(1 + consumer, WARPGROUP);
            if (thread == 0) {
#pragma unroll
                for (int i = STAGED_WHOLE ? 0 : part; i <= part; ++i) {
                    unsigned source = staging + i % (STORE_BUFFERS > 0 ? STORE_BUFFERS : 1) * STORE_BYTES;
                    tma_store(d_map, source, feature + i * STORE_COLUMNS, token);
                }
                tma_store_commit();
            }
        }
#endif
#pragma unroll
        for (int j = 0; part + 1 < PARTS && j < STORE_COLUMNS / 8; ++j) {
            b[j] = next[j];
        }
    }
}

#ifdef DEFER
// Bias and rounding of a tile whose epilogue comes later.
DEVICE void defer(
    const float (&d)[REGISTERS], Deferred& deferred, const ThreadNorms& norms, const float* bias, int token, int feature,
    int thread) {
    deferred.token = token;
    deferred.feature = feature;
    deferred.some = true;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        float2 b[STORE_COLUMNS / 8];
        load_columns(b, bias, feature + part * STORE_COLUMNS + thread % 4 * 2);
#pragma unroll
        for (int j = 0; j < STORE_COLUMNS / 8; ++j) {
            const float* v = d + (part * STORE_COLUMNS / 8 + j) * 4;
            u32* packed = deferred.values + (part * STORE_COLUMNS / 8 + j) * 2;
            packed[0] = pack2<Element>(norms.with_bias(v[0], b[j].x, 0), norms.with_bias(v[1], b[j].y, 0));
            packed[1] = pack2<Element>(norms.with_bias(v[2], b[j].x, 1), norms.with_bias(v[3], b[j].y, 1));
        }
    }
}
#endif

extern "C" __global__ void __launch_bounds__(WARPGROUP * (1 + CONSUMERS), 1) gemm_sm90a(
    const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap w_map,
    const __grid_constant__ TensorMap d_map, const __grid_constant__ TensorMap r_map, const float* __restrict__ bias,
    void* output, const Batch* __restrict__ batch, int capacity, const float2* stats, const float* __restrict__ gamma,
    float epsilon, float2* output_stats) {
    extern __shared__ __align__(1024) char memory[];
    unsigned base = shared_address(memory);
    unsigned staging = base + STAGES * STAGE_BYTES;
    Ring ring;
    ring.stages = base;
    ring.full = staging + CONSUMERS * STORE_BUFFERS * STORE_BYTES;
    ring.empty = ring.full + STAGES * 8;
    [[maybe_unused]] Norms norms;
    norms.start = ring.empty + STAGES * 8;

    int warpgroup = threadIdx.x / WARPGROUP;
    if (threadIdx.x == 0) {
        prefetch_map(&a_map);
        prefetch_map(&w_map);
        prefetch_map(&d_map);
        for (int stage = 0; stage < STAGES; ++stage) {
            barrier_init(ring.full_barrier(stage), 1);
            barrier_init(ring.empty_barrier(stage), CONSUMERS * WARPGROUP / 32 * CLUSTER);
        }
        for (int buffer = 0; NORM_WIDTH > 0 && buffer < 2; ++buffer) {
            barrier_init(norms.full_barrier(buffer), NORM_THREADS);
            barrier_init(norms.empty_barrier(buffer), CONSUMERS * WARPGROUP / 32);
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
            produce(ring, &a_map, &w_map, &r_map, units_m, first_unit, step, rank);
        }
#if defined(NORM_INPUT) || defined(NORM_RESIDUAL)
        if (threadIdx.x >= WARPGROUP - NORM_THREADS) {
            int thread = threadIdx.x - (WARPGROUP - NORM_THREADS);
            normalise(norms, stats, epsilon, units_m, first_unit, step, rank, capacity, thread);
        }
#endif
    } else {
        registers_increase<CONSUMER_REGISTERS>();
        int consumer = warpgroup - 1;
        int thread = threadIdx.x % WARPGROUP;
        staging += consumer * STORE_BUFFERS * STORE_BYTES;
        if (first_unit < units) {
            int first_feature = Tile(first_unit, units_m, 0, CLUSTER_N == 2 ? rank : 0).feature;
            touch_bias(bias, first_feature + thread * (TILE_N / WARPGROUP > 0 ? TILE_N / WARPGROUP : 1));
        }
        wait_for_dependencies();
        Cursor cursor;
        Deferred deferred;
#ifdef DEFER
        deferred.map = &d_map;
        deferred.staging = staging;
        deferred.thread = thread;
        deferred.consumer = consumer;
        deferred.some = false;
#pragma unroll
        for (int i = 0; i < REGISTERS / 2; ++i) {
            deferred.values[i] = 0;
        }
#endif
        for (int unit = first_unit; unit < units; unit += step) {
            Tile tile(unit, units_m, CLUSTER_M == 2 ? rank : 0, CLUSTER_N == 2 ? rank : 0);
            int token = tile.token + consumer * CONSUMER_M;
            float d[REGISTERS];
            multiply(d, ring, cursor, deferred, consumer, thread % 32);
            ThreadNorms rows;
            rows.take(norms, consumer, thread);
#ifdef DEFER
            defer(d, deferred, rows, bias, token, tile.feature, thread);
#else
            finish(d, ring, cursor, rows, &d_map, bias, gamma, output, output_stats, staging, token, tile.feature,
                   capacity, consumer, thread);
#endif
        }
#pragma unroll
        for (int portion = 0; portion < PORTIONS; ++portion) {
            deferred.finish(portion);
        }
        if (thread == 0) {
            tma_store_wait_read<0>();  // the end of the grid waits for the writes themselves
        }
    }
    if constexpr (CLUSTER > 1) {
        cluster_arrive();
        cluster_wait();
    }
}
