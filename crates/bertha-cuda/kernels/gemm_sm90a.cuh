// Parts of gemm_sm90a.cu: tiles of 128 tokens x TILE_N features, the ring in shared memory and the producer that fills it
// by TMA, the norms of a tile's rows, and the arithmetic behind the products. The macros are said there.
#pragma once

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
// Narrow tiles run where each microsecond counts: the registers that they leave let norms wait for memory but once.
constexpr bool NARROW = TILE_N <= 64;
constexpr int CONSUMER_REGISTERS = NARROW ? 200 : 232;
constexpr int PRODUCER_REGISTERS = NARROW ? 104 : 40;
constexpr int PARTS = TILE_N / STORE_COLUMNS;
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

    // Waits until the tile's norms are there.
    DEVICE void wait() const {
        if constexpr (NORM_WIDTH > 0) {
            barrier_wait(full_barrier(buffer()), phase());
        }
    }
    // Gives the buffer back: one arrival of each warp that has read it.
    DEVICE void release(int lane) const {
        if constexpr (NORM_WIDTH > 0) {
            __syncwarp();
            if (lane == 0) {
                barrier_arrive(empty_barrier(buffer()));
            }
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

// Fetches ROWS rows, from `row` on, of a block along K into `tile`; of what a cluster's two blocks share (SHARED_BY 2) each
// fetches half for both.
template <int ROWS, int SHARED_BY>
DEVICE void load_rows(unsigned tile, const TensorMap* map, unsigned barrier, int block, int row, int rank) {
    if constexpr (SHARED_BY == 2) {
        constexpr int HALF = ROWS / 2;
        tma_load_multicast(tile + rank * HALF * ROW_BYTES, map, barrier, block * BLOCK_K, row + rank * HALF, 3, EVICT_NORMAL);
    } else {
        tma_load(tile, map, barrier, block * BLOCK_K, row, EVICT_NORMAL);
    }
}

DEVICE void load_a(const Ring& ring, const TensorMap* map, int stage, int block, int token, int rank) {
    load_rows<TILE_M, CLUSTER_N>(ring.a_tile(stage), map, ring.full_barrier(stage), block, token, rank);
}

DEVICE void load_w(const Ring& ring, const TensorMap* map, int stage, int block, int feature, int rank) {
    load_rows<TILE_N, CLUSTER_M>(ring.w_tile(stage), map, ring.full_barrier(stage), block, feature, rank);
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
        constexpr int AT_ONCE = NARROW ? TILE_M / NORM_THREADS : 1;
#pragma unroll 1
        for (int first = thread; first < TILE_M && (CLUSTER_M == 1 || token < capacity); first += AT_ONCE * NORM_THREADS) {
            RowNorm rows[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                long long row = token + first + i * NORM_THREADS;
                rows[i] = merge_chunks<NORM_CHUNKS, NARROW ? 16 : 8>(stats + row * NORM_CHUNKS, epsilon);
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                unsigned address = norms.row(first + i * NORM_THREADS);
                asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(rows[i].scale), "f"(rows[i].shift)
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

    // Of the 64 rows of a tile from `first` on.
    DEVICE void read(const Norms& norms, int first, int thread) {
        if constexpr (NORM_WIDTH > 0) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                unsigned address = norms.row(first + thread / 32 * 16 + thread % 32 / 4 + 8 * i);
                asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                             : "=f"(rows[i].scale), "=f"(rows[i].shift)
                             : "r"(address)
                             : "memory");
            }
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

// A consumer's place in its staging tiles, for stmatrix and ldmatrix: lanes 0-15 name the 16 rows of the left eight
// columns of a pair, lanes 16-31 those of the right eight.
struct Place {
    int row;
    int chunk;

    DEVICE explicit Place(int thread) : row(thread / 32 * 16 + thread % 16), chunk(thread % 32 / 16) {}
    DEVICE unsigned offset(int pair) const { return row * ROW_BYTES + (((pair * 2 + chunk) ^ (row % 8)) << 4); }
};

// Bias, and with NORM_RESIDUAL gamma, of a thread's columns: pairs 8 apart. The loads are volatile, so that they stay ahead of
// the wait for products that hides their latency.
template <int PAIRS>
struct Columns {
    float2 bias[PAIRS];
    float2 gamma[PAIRS];

    DEVICE static float2 pair(const float* values, int column) {
        float2 v = make_float2(0.0f, 0.0f);
        if (N % TILE_N == 0 || column < N) {
            asm volatile("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(values + column));
        }
        return v;
    }
    // Of the columns from `column` on.
    DEVICE void load(const float* all_bias, [[maybe_unused]] const float* all_gamma, int column) {
#pragma unroll
        for (int j = 0; j < PAIRS; ++j) {
            bias[j] = pair(all_bias, column + 8 * j);
#ifdef NORM_RESIDUAL
            gamma[j] = pair(all_gamma, column + 8 * j);
#endif
        }
    }
};

// Brings a thread's share of the first tile's bias or gamma near while the ring fills.
DEVICE void touch(const float* values, int column) {
    if (column < N) {
        [[maybe_unused]] float unused;
        asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(unused) : "l"(values + column));
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

