// Linear layer for many tokens on Hopper: D[tokens, N] = activation(A[tokens, K] W[N, K]^T + bias) (+ residual).
//
// Tile: 128 tokens x TILE_N features. One persistent block per multiprocessor goes through the tiles; 384 threads:
//   warpgroup 0  producer: one thread fetches A and W blocks of 64 along K by TMA into a ring of STAGES stages;
//   warpgroups 1 and 2  consumers: 64 tokens x TILE_N each, wgmma m64 n(TILE_N) k16 from shared memory, f32 accumulators.
// DEFER (for activations, which cost as many instructions as half the products take clocks): a tile's sums, bias added,
// are rounded to Element and kept in registers; the activation and the way to memory follow 16 columns at a time
// between the products of the consumer's next tile, while the tensor cores work on those.
// Deferred layer norm (row_stats.cuh): what is read may be rows before their norm, which two warps of the producer's
// warpgroup turn into a scale and a shift for each of a tile's rows while the products run.
// The residual follows a tile's blocks of K through the same ring. Epilogue, 64 columns at a time: bias, activation and
// residual in f32, stmatrix into a staging tile, TMA store; f32 output goes straight to memory.
// Every launch begins with cold instruction caches. A deferred epilogue, unrolled, would be 40 KB that each block waits for,
// so it is a loop over one part's code, and what is left of the values moves up in their registers (`move_up`).
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
//   DEFER              postpones the epilogue as said above: no RESIDUAL, no OUTPUT_F32, TILE_N at least 128 and at most K / 2
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
#include "gemm_sm90a.cuh"

constexpr int REGISTERS = TILE_N / 2;
constexpr bool STAGED_WHOLE = STORE_BUFFERS == PARTS;
#ifdef DEFER
// A deferred epilogue goes 16 columns at a time, spread over the blocks of K that fall to each 64.
constexpr int UNITS = STORE_COLUMNS / 16;
constexpr int BLOCKS_A_PART = BLOCKS_K / PARTS;
static_assert(BLOCKS_A_PART >= 2 && PARTS > 1, "a deferred epilogue must fit between the blocks of K");
#endif

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

#ifdef DEFER
// Moves what is left of a tile's values to the front, so that one loop's body, with fixed registers, finishes every part.
template <int DONE, int COUNT, typename Value>
DEVICE void move_up(Value (&values)[COUNT]) {
#pragma unroll
    for (int i = 0; i + DONE < COUNT; ++i) {
        values[i] = values[i + DONE];
    }
}

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

    // Activation of 16 of the 64 columns of `part`, which are the first ones of `values`; with the last of them (of the
    // last part, if the tile is staged whole) their TMA store.
    DEVICE void finish(int part, int unit) const {
        if (!some) {
            return;
        }
        unsigned buffer = staging + part % STORE_BUFFERS * STORE_BYTES;
        if (unit == 0 && (!STAGED_WHOLE || part == 0)) {
            if (thread == 0) {
                tma_store_wait_read<STAGED_WHOLE ? 0 : STORE_BUFFERS - 1>();
            }
            named_barrier(1 + consumer, WARPGROUP);
        }
        u32 r[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            float2 v = unpack2<Element>(values[unit * 4 + j]);
            r[j] = pack2<Element>(activate(v.x), activate(v.y));
        }
        store_matrix_x4(buffer + Place(thread).offset(unit), r[0], r[1], r[2], r[3]);
        if (unit == UNITS - 1 && (!STAGED_WHOLE || part == PARTS - 1)) {
            fence_async_proxy();
            named_barrier(1 + consumer, WARPGROUP);
            if (thread == 0) {
                for (int i = STAGED_WHOLE ? 0 : part; i <= part; ++i) {
                    tma_store(map, staging + i % STORE_BUFFERS * STORE_BYTES, feature + i * STORE_COLUMNS, token);
                }
                tma_store_commit();
            }
        }
    }
};
#else
struct Deferred {};
#endif

// One consumer's products over the whole of K, up to those that `complete` waits for. A stage goes back when the products
// that read it have ended; one stage's products are in flight while the next one's are issued, and meanwhile the tile
// before is finished, if deferred. Returns the last stage.
DEVICE int multiply(
    float (&d)[REGISTERS], const Ring& ring, Cursor& cursor, [[maybe_unused]] Deferred& deferred, int consumer, int lane) {
    int previous = -1;
    int block = 0;
    fence_registers(d);
#ifdef DEFER
#pragma unroll 1
    for (int part = 0; part < PARTS; ++part) {
#pragma unroll
        for (int i = 0; i < BLOCKS_A_PART; ++i) {
            issue(d, ring, cursor, consumer, block > 0);
#pragma unroll
            for (int unit = 0; unit < UNITS; ++unit) {
                if (unit * BLOCKS_A_PART / UNITS == i) {
                    deferred.finish(part, unit);
                }
            }
            retire(ring, cursor, previous, lane);
            ++block;
        }
        move_up<STORE_COLUMNS / 4>(deferred.values);
    }
#pragma unroll 1
#endif
    for (; block < BLOCKS_K; ++block) {
        issue(d, ring, cursor, consumer, block > 0);
        retire(ring, cursor, previous, lane);
    }
    return previous;
}

// Waits for the last products.
DEVICE void complete(float (&d)[REGISTERS], const Ring& ring, int last, int lane) {
    wgmma_wait<0>();
    fence_registers(d);
    release(ring, last, lane);
}

// The epilogue of one consumer's 64 x TILE_N part of a tile, and its way to memory.
DEVICE void finish(
    float (&d)[REGISTERS], const Ring& ring, Cursor& cursor, const ThreadNorms& norms, const TensorMap* d_map,
    Columns<STORE_COLUMNS / 8>& columns, const float* bias, const float* gamma, void* output, float2* output_stats,
    unsigned staging, int token, int feature, int capacity, int consumer, int thread) {
    int lane = thread % 32;
    Place place(thread);
    int first_column = lane % 4 * 2;
    if (STAGED_WHOLE && thread == 0) {
        tma_store_wait_read<0>();
    }
    if (STAGED_WHOLE) {
        named_barrier(1 + consumer, WARPGROUP);
    }
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        unsigned residual = 0;
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
            finish_values(v, columns.bias + pair * 2, columns.gamma + pair * 2, norms, residual + place.offset(pair));
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
        if (part + 1 < PARTS) {
            columns.load(bias, gamma, feature + (part + 1) * STORE_COLUMNS + first_column);
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
    }
}

#ifdef DEFER
// Bias and rounding of a tile whose epilogue comes later; `first` are the columns of all parts but the last.
DEVICE void defer(
    const float (&d)[REGISTERS], Deferred& deferred, const ThreadNorms& norms, const Columns<(PARTS - 1) * 8>& first,
    const float* bias, int token, int feature, int thread) {
    deferred.token = token;
    deferred.feature = feature;
    deferred.some = true;
    Columns<8> last;
    last.load(bias, nullptr, feature + (PARTS - 1) * STORE_COLUMNS + thread % 4 * 2);
#pragma unroll
    for (int j = 0; j < TILE_N / 8; ++j) {
        const float* v = d + j * 4;
        float2 b = j < (PARTS - 1) * 8 ? first.bias[j] : last.bias[j % 8];
        deferred.values[2 * j] = pack2<Element>(norms.with_bias(v[0], b.x, 0), norms.with_bias(v[1], b.y, 0));
        deferred.values[2 * j + 1] = pack2<Element>(norms.with_bias(v[2], b.x, 1), norms.with_bias(v[3], b.y, 1));
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
            int column = Tile(first_unit, units_m, 0, CLUSTER_N == 2 ? rank : 0).feature;
            column += thread * (TILE_N / WARPGROUP > 0 ? TILE_N / WARPGROUP : 1);
            touch(bias, column);
#ifdef NORM_RESIDUAL
            touch(gamma, column);
#endif
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
            int last = multiply(d, ring, cursor, deferred, consumer, thread % 32);
#ifdef DEFER
            Columns<(PARTS - 1) * 8> columns;
#else
            Columns<STORE_COLUMNS / 8> columns;  // of the first part
#endif
            columns.load(bias, gamma, tile.feature + thread % 4 * 2);
            complete(d, ring, last, thread % 32);
            ThreadNorms rows;
            norms.wait();
            rows.read(norms, consumer * CONSUMER_M, thread);
            norms.release(thread % 32);
            ++norms.tiles;
#ifdef DEFER
            defer(d, deferred, rows, columns, bias, token, tile.feature, thread);
#else
            finish(d, ring, cursor, rows, &d_map, columns, bias, gamma, output, output_stats, staging, token,
                   tile.feature, capacity, consumer, thread);
#endif
        }
#ifdef DEFER
#pragma unroll 1
        for (int part = 0; part < PARTS; ++part) {
#pragma unroll
            for (int unit = 0; unit < UNITS; ++unit) {
                deferred.finish(part, unit);
            }
            move_up<STORE_COLUMNS / 4>(deferred.values);
        }
#endif
        if (thread == 0) {
            tma_store_wait_read<0>();  // the end of the grid waits for the writes themselves
        }
    }
    if constexpr (CLUSTER > 1) {
        cluster_arrive();
        cluster_wait();
    }
}
