// Linear layer for few tokens on Hopper, made for latency:
// D[tokens, N] = activation(A[tokens, K] W[N, K]^T + bias) (+ residual), optionally with a layer norm of A or of the
// residual that no kernel has applied yet (NORM_INPUT, NORM_RESIDUAL).
//
// The operands change sides: wgmma's 64 rows are features (W), its columns are tokens (A), so that few tokens waste
// nothing. Tile: FEATURES features x TOKENS tokens, and K is split over a cluster of SPLIT blocks, so that a hundred and
// more blocks stream the weights at once. Each block has
//   FEATURES / 64 x GROUPS  consumer warpgroups of 64 features and TOKENS / GROUPS tokens each: wgmma m64 k16, f32
//     accumulators. With more groups the same sums are sent, added up and finished by more warps;
//   one warp, with NORM_INPUT or NORM_RESIDUAL, that finds the norms of the rows that the block finishes;
//   one producer warp  whose first thread fetches blocks of 64 along K by TMA: the weights before it waits for the
//     kernels that produce A (griddepcontrol.wait), A after it.
// SHARE blocks of the cluster with neighbouring features and the same part of K share A by multicast.
// Reduction: the block of rank r owns the r-th part of each group's tokens. Everybody sends its accumulators of the others'
// tokens straight from registers to the owner's shared memory (st.async, counted at the owner's mbarrier) and the owner
// adds them in a fixed order: no atomics, no workspace, the same result on every run. The sums go through a [tokens][FEATURES]
// tile of f32 in the ring's memory, after which eight neighbouring features of a token are in one thread: epilogue,
// residual, statistics and 16-byte stores.
// The next linear layer's weights can be asked into the L2 meanwhile (`next`), as nothing else uses the memory then.
//
// Data: A, W, D row-major (K or N contiguous) in Element; bias [N] f32; residual [tokens, N] Element.
// Deferred layer norm: rows that wait for their norm have statistics those of row_stats.cuh,
// float2 [capacity][width / 64].
//   NORM_INPUT: the rows of A wait. W has gamma multiplied in and its rows centred, bias has W beta added, so that
//     D = activation(rstd A W^T + bias); stats are those of A's rows.
//   NORM_RESIDUAL: the rows of the residual wait. bias has beta added, so that
//     D = A W^T + bias + (residual - mean) rstd gamma; stats are those of the residual's rows, gamma is [N] f32.
//   STATS_OUTPUT: output_stats become those of the rows of D.
// Shared memory: STAGES x (FEATURES + TOKENS) rows of 128 bytes in the 128-byte swizzle; the receive buffer
// (SPLIT - 1) x OWNED x (FEATURES * 2 * GROUPS) x 16 bytes, where OWNED = ceil(TOKENS / GROUPS / 8 / SPLIT) are columns of
// eight tokens of each group;
// the norms of the owned tokens.
// Intensity: weights are read once; A is read FEATURES * SHARE features at a time from the L2.
//
// Macros (all required unless a default is given):
//   ELEMENT_F16 | ELEMENT_BF16
//   N, K          multiples of 8
//   TOKENS        8, 16, 32, 64, 96, 128, 192 or 256
//   FEATURES      64 or 128
//   GROUPS        (default 1) so that TOKENS / GROUPS is one of the numbers above
//   SPLIT         1 to 8 blocks along K, at most ceil(K / 64)
//   SHARE         1, 2 or 4 (TOKENS a multiple of 8 SHARE; SPLIT * SHARE at most 8, or 16 with the non-portable size)
//   STAGES        ring depth; ceil(ceil(K / 64) / SPLIT) holds a block's whole part of K and needs no ring
//   ACTIVATION, RESIDUAL, OUTPUT_F32   as in gemm_sm90a.cu
//   NORM_INPUT | NORM_RESIDUAL (with RESIDUAL, without an activation)   of a width that is a multiple of 64
//   STATS_OUTPUT  N a multiple of 64, not with OUTPUT_F32
//
// Launch: grid (SPLIT, ceil(ceil(N / FEATURES) / SHARE) * SHARE, ceil(capacity / TOKENS)); cluster (SPLIT, SHARE, 1);
// block 2 * FEATURES * GROUPS + 32, and 32 more with NORM_INPUT or NORM_RESIDUAL; dynamic shared memory (whose carve-out is set to 100 %)
//   STAGES * (FEATURES + TOKENS) * 128 + OWNED * GROUPS * FEATURES * 32 * (SPLIT - 1) + 16 * STAGES + 8
//   + OWNED * GROUPS * 64 with NORM_INPUT or NORM_RESIDUAL;
//   the f32 tile OWNED * GROUPS * 8 x (FEATURES + 4) x 4 must fit the ring.
// Two such kernels fit on a multiprocessor up to 115,712 bytes each: only then the next one's weights are under way early.
// Tensor maps, 2-D, 16-bit, 128-byte swizzle, no interleave, zero fill, L2 promotion 256 bytes, element stride 1:
//   a_map   dims {K, capacity}, stride 2 K bytes, box {64, TOKENS / SHARE}
//   w_map   dims {K, N},        stride 2 K bytes, box {64, FEATURES}
// Only rows below batch->tokens are written; rows above are read (within capacity) and never mix with others.
#include "types.cuh"
#include "batch.cuh"
#include "activation.cuh"
#include "hopper.cuh"
#include "row_stats.cuh"
#include "feature_rows.cuh"

using namespace hopper;

#ifndef GROUPS
#define GROUPS 1
#endif

constexpr int BLOCK_K = 64;
constexpr int ROW_BYTES = BLOCK_K * 2;
constexpr int CLUSTER = SPLIT * SHARE;
constexpr int CONSUMER_THREADS = FEATURES * 2 * GROUPS;
constexpr int GROUP_TOKENS = TOKENS / GROUPS;
constexpr int W_BYTES = FEATURES * ROW_BYTES;
constexpr int A_BYTES = TOKENS * ROW_BYTES;
constexpr int STAGE_BYTES = W_BYTES + A_BYTES;
constexpr int BLOCKS_K = (K + BLOCK_K - 1) / BLOCK_K;
constexpr int LONGEST_PART = (BLOCKS_K + SPLIT - 1) / SPLIT;
constexpr bool RING = STAGES < LONGEST_PART;
constexpr int COLUMNS = GROUP_TOKENS / 8;
constexpr int OWNED = (COLUMNS + SPLIT - 1) / SPLIT;
constexpr int RECEIVE_BYTES = (SPLIT - 1) * OWNED * CONSUMER_THREADS * 16;
constexpr int CHUNKS = FEATURES / 8;                          // of eight features in a row of the tile
constexpr int ROWS_AT_ONCE = CONSUMER_THREADS / CHUNKS;       // rows that the consumers finish at a time
constexpr int OWNED_ROWS = OWNED * GROUPS * 8;
constexpr int TURNS = (OWNED_ROWS + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
constexpr int PREFETCH_CHUNK = 16384;

static_assert(SPLIT <= BLOCKS_K, "every block of the cluster needs a part of K");
static_assert(OWNED_ROWS * SUM_ROW_BYTES <= STAGES * STAGE_BYTES, "the tile of sums lies in the ring");

#if defined(NORM_INPUT)
constexpr int STATS_CHUNKS = K / 64;
static_assert(K % 64 == 0, "statistics are of 64 features");
#elif defined(NORM_RESIDUAL)
constexpr int STATS_CHUNKS = N / 64;
#endif
#if defined(NORM_RESIDUAL) || defined(STATS_OUTPUT)
static_assert(N % 64 == 0, "statistics are of 64 features");
#endif

// Offsets of what lies in shared memory, from a start aligned to 1,024 bytes.
struct Layout {
    unsigned stages;
    unsigned receive;
    unsigned norms;  // of each owned token
    unsigned full;
    unsigned empty;
    unsigned received;

    __device__ explicit Layout(unsigned start) {
        stages = start;
        receive = stages + STAGES * STAGE_BYTES;
        norms = receive + RECEIVE_BYTES;
#ifdef NORM
        full = norms + OWNED_ROWS * 8;
#else
        full = norms;
#endif
        empty = full + STAGES * 8;
        received = empty + STAGES * 8;
    }
    __device__ unsigned w_tile(int stage) const { return stages + stage * STAGE_BYTES; }
    __device__ unsigned a_tile(int stage) const { return stages + stage * STAGE_BYTES + W_BYTES; }
    __device__ unsigned full_barrier(int stage) const { return full + stage * 8; }
    __device__ unsigned empty_barrier(int stage) const { return empty + stage * 8; }
};

// This block's part of the work.
struct Part {
    int split;    // which part of K, and which of the tile's tokens it owns
    int share;    // which of the blocks that share A
    int first;    // first block of 64 along K
    int blocks;   // how many
    int feature;  // first feature
    int token;    // first token

    __device__ Part() {
        split = blockIdx.x;
        share = SHARE > 1 ? blockIdx.y % SHARE : 0;
        first = split * BLOCKS_K / SPLIT;
        blocks = BLOCKS_K % SPLIT == 0 ? BLOCKS_K / SPLIT : (split + 1) * BLOCKS_K / SPLIT - first;
        feature = blockIdx.y * FEATURES;
        token = blockIdx.z * TOKENS;
    }
};

// The rank in the cluster of the block with the given places.
DEVICE unsigned rank_of(int split, int share) {
    return share * SPLIT + split;
}

// The blocks that share this one's part of A.
DEVICE unsigned short sharers(int split) {
    unsigned short blocks = 0;
#pragma unroll
    for (int share = 0; share < SHARE; ++share) {
        blocks |= 1 << rank_of(split, share);
    }
    return blocks;
}

DEVICE void load_w(const Layout& layout, const TensorMap* map, const Part& part, int block, int stage) {
    tma_load(layout.w_tile(stage), map, layout.full_barrier(stage), (part.first + block) * BLOCK_K, part.feature,
             EVICT_FIRST);
}

DEVICE void load_a(const Layout& layout, const TensorMap* map, const Part& part, int block, int stage) {
    constexpr int ROWS = TOKENS / SHARE;
    unsigned destination = layout.a_tile(stage) + part.share * ROWS * ROW_BYTES;
    int x = (part.first + block) * BLOCK_K;
    int y = part.token + part.share * ROWS;
    if constexpr (SHARE > 1) {
        tma_load_multicast(destination, map, layout.full_barrier(stage), x, y, sharers(part.split), EVICT_LAST);
    } else {
        tma_load(destination, map, layout.full_barrier(stage), x, y, EVICT_LAST);
    }
}

// This block's slice of the next layer's weights, into the L2.
DEVICE void prefetch_next(const char* next, unsigned next_bytes) {
    unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    for (unsigned start = block * PREFETCH_CHUNK; start < next_bytes; start += blocks * PREFETCH_CHUNK) {
        unsigned left = next_bytes - start;
        prefetch_l2(next + start, left < PREFETCH_CHUNK ? left : PREFETCH_CHUNK);
    }
}

// One thread: the weights at once, A when it exists, and the rest of the part as stages come free.
DEVICE void produce(
    const Layout& layout, const TensorMap* a_map, const TensorMap* w_map, const Part& part, const char* next,
    unsigned next_bytes) {
    int early = STAGES < part.blocks ? STAGES : part.blocks;
    for (int block = 0; block < early; ++block) {
        barrier_expect(layout.full_barrier(block), STAGE_BYTES);
        load_w(layout, w_map, part, block, block);
    }
    if (next_bytes > 0) {
        prefetch_next(next, next_bytes);
    }
    if constexpr (CLUSTER > 1) {
        cluster_wait();
    }
    wait_for_dependencies();
    for (int block = 0; block < early; ++block) {
        load_a(layout, a_map, part, block, block);
    }
    if constexpr (RING) {
        int stage = 0;
        unsigned phase = 0;
        for (int block = STAGES; block < part.blocks; ++block) {
            barrier_wait(layout.empty_barrier(stage), phase);
            barrier_expect(layout.full_barrier(stage), STAGE_BYTES);
            load_w(layout, w_map, part, block, stage);
            load_a(layout, a_map, part, block, stage);
            if (++stage == STAGES) {
                stage = 0;
                phase ^= 1;
            }
        }
    }
}

// Says that this warp has read a stage, to all blocks that write to it.
DEVICE void release(const Layout& layout, const Part& part, int stage, int lane) {
    if constexpr (SHARE == 1) {
        if (lane == 0) {
            barrier_arrive(layout.empty_barrier(stage));
        }
    } else if (lane < SHARE) {
        barrier_arrive_cluster(cluster_address(layout.empty_barrier(stage), rank_of(part.split, lane)));
    }
}

// Products of one warpgroup over this block's part of K.
DEVICE void multiply(float (&d)[GROUP_TOKENS / 2], const Layout& layout, const Part& part, int warpgroup, int lane) {
    int group = warpgroup / (FEATURES / 64);
    int features = warpgroup % (FEATURES / 64);
    int stage = 0;
    unsigned phase = 0;
#pragma unroll
    for (int i = 0; i < GROUP_TOKENS / 2; ++i) {
        d[i] = 0.0f;
    }
    fence_registers(d);
#pragma unroll 1
    for (int block = 0; block < part.blocks; ++block) {
        barrier_wait(layout.full_barrier(stage), phase);
        unsigned long long w = tile_descriptor(layout.w_tile(stage) + features * 64 * ROW_BYTES);
        unsigned long long a = tile_descriptor(layout.a_tile(stage) + group * GROUP_TOKENS * ROW_BYTES);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < BLOCK_K / 16; ++step) {
            Wgmma<GROUP_TOKENS>::multiply(d, w + step * WGMMA_K_STEP, a + step * WGMMA_K_STEP, 1);
        }
        wgmma_commit();
        // A ring gets its stage back at once: what comes next is still on its way then.
        wgmma_wait<RING ? 0 : 1>();
        if (RING) {
            release(layout, part, stage, lane);
        }
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
    wgmma_wait<0>();
    fence_registers(d);
}

// How many columns of eight tokens the block of rank `split` along K owns.
DEVICE constexpr int columns_of(int split) {
    int begin = split * OWNED < COLUMNS ? split * OWNED : COLUMNS;
    int end = (split + 1) * OWNED < COLUMNS ? (split + 1) * OWNED : COLUMNS;
    return end - begin;
}

// Sends each owner its columns of the accumulators, beginning with the next in rank so that no owner gets all at once, and
// keeps this block's own in `sum`. The rank is a constant here, as indexes of registers have to be.
template <int SELF>
DEVICE void send(
    const float (&d)[GROUP_TOKENS / 2], float (&sum)[OWNED * 4], const Layout& layout, const Part& part, int thread) {
    if (SELF + 1 < SPLIT && part.split != SELF) {
        send<SELF + 1 < SPLIT ? SELF + 1 : SELF>(d, sum, layout, part, thread);
        return;
    }
    // Inner loops run to constants, or the compiler leaves them rolled and d in local memory.
#pragma unroll
    for (int distance = 1; distance < SPLIT; ++distance) {
        int owner = (SELF + distance) % SPLIT;
        int slot = SELF < owner ? SELF : SELF - 1;
        unsigned rank = rank_of(owner, part.share);
        unsigned address = cluster_address(layout.receive + (slot * OWNED * CONSUMER_THREADS + thread) * 16, rank);
        unsigned barrier = cluster_address(layout.received, rank);
#pragma unroll
        for (int column = 0; column < OWNED; ++column) {
            if (owner * OWNED + column < COLUMNS) {
                const float* v = d + (owner * OWNED + column) * 4;
                store_async(address + column * CONSUMER_THREADS * 16, barrier, v[0], v[1], v[2], v[3]);
            }
        }
    }
#pragma unroll
    for (int column = 0; column < OWNED; ++column) {
        if (SELF * OWNED + column < COLUMNS) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                sum[column * 4 + i] = d[(SELF * OWNED + column) * 4 + i];
            }
        }
    }
}

// Adds what the others have sent to this block's own sums.
DEVICE void receive(float (&sum)[OWNED * 4], const Layout& layout, int thread) {
    barrier_wait_cluster(layout.received, 0);
#pragma unroll
    for (int slot = 0; slot < SPLIT - 1; ++slot) {
#pragma unroll
        for (int column = 0; column < OWNED; ++column) {
            unsigned address = layout.receive + ((slot * OWNED + column) * CONSUMER_THREADS + thread) * 16;
            float a, b, c, e;
            asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                         : "=f"(a), "=f"(b), "=f"(c), "=f"(e)
                         : "r"(address)
                         : "memory");
            sum[column * 4] += a;
            sum[column * 4 + 1] += b;
            sum[column * 4 + 2] += c;
            sum[column * 4 + 3] += e;
        }
    }
}

// The owned rows, numbered through all groups: which tokens they are.
struct Owned {
    int first;    // token of row 0
    int columns;  // of eight tokens in each group
    int tokens;   // of the batch

    __device__ int token(int row) const { return first + row / (OWNED * 8) * GROUP_TOKENS + row % (OWNED * 8); }
    __device__ bool holds(int row) const {
        return row < OWNED_ROWS && row % (OWNED * 8) < columns * 8 && token(row) < tokens;
    }
};

DEVICE Owned owned_of(const Part& part, int tokens) {
    return {part.token + part.split * OWNED * 8, columns_of(part.split), tokens};
}

// Eight neighbouring f32 parameters of features, zeros beyond the last feature.
DEVICE void load_parameters(float (&p)[8], const float* parameters, int feature) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        p[i] = 0.0f;
    }
    if (feature < N) {
        load_vector(parameters + feature, p);
        load_vector(parameters + feature + 4, p + 4);
    }
}

#ifdef NORM
// One warp: the norms of the owned tokens from their rows' statistics, to shared memory; a lane a row.
DEVICE void find_norms(const Layout& layout, const float2* stats, const Owned& owned, float epsilon, int lane) {
    for (int row = lane; row < OWNED_ROWS; row += 32) {
        if (owned.holds(row)) {
            long long place = static_cast<long long>(owned.token(row)) * STATS_CHUNKS;
            RowNorm norm = merge_chunks<STATS_CHUNKS, 16>(stats + place, epsilon);
            store_norm(layout.norms + row * 8, norm);
        }
    }
}
#endif

// What follows the product, given to the consumers by the launch.
struct Epilogue {
    const float* bias;
    const Element* residual;
    void* output;
    const float* gamma;
    float2* output_stats;
};

// Everything a consumer thread does.
DEVICE void consume(const Layout& layout, const Part& part, const Epilogue& epilogue, int tokens) {
    int thread = threadIdx.x;
    int lane = thread % 32;
    int warp = thread / 32;
    Owned owned = owned_of(part, tokens);
    // In the end this thread has eight features of every ROWS_AT_ONCE-th row.
    int chunk = thread % CHUNKS;
    int first_row = thread / CHUNKS;
    int feature = part.feature + chunk * 8;
    FeatureParameters parameters;
    load_parameters(parameters.bias, epilogue.bias, feature);
#ifdef NORM_RESIDUAL
    load_parameters(parameters.gamma, epilogue.gamma, feature);
#endif
    if (SPLIT > 1 && thread == 0) {
        barrier_expect(layout.received, (SPLIT - 1) * owned.columns * CONSUMER_THREADS * 16);
    }
    if constexpr (CLUSTER > 1) {
        cluster_wait();
    }
    wait_for_dependencies();
#ifdef RESIDUAL
    uint4 added[TURNS];
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
        int row = first_row + turn * ROWS_AT_ONCE;
        added[turn] = make_uint4(0, 0, 0, 0);
        if (owned.holds(row) && feature < N) {
            long long offset = static_cast<long long>(owned.token(row)) * N + feature;
            added[turn] = *reinterpret_cast<const uint4*>(epilogue.residual + offset);
        }
    }
#endif
    float d[GROUP_TOKENS / 2];
    multiply(d, layout, part, thread / 128, lane);
    float sum[OWNED * 4] = {};
    send<0>(d, sum, layout, part, thread);
    if constexpr (SPLIT > 1) {
        receive(sum, layout, thread);
    }
    // All products have ended: the ring's memory is free. The norms are there.
    named_barrier(1, CONSUMER_THREADS + NORM_THREADS);
#pragma unroll
    for (int column = 0; column < OWNED; ++column) {
        int row = (thread / (FEATURES * 2) * OWNED + column) * 8;
        store_sums(layout.stages, sum + column * 4, row, warp % (FEATURES / 16) * 16, lane);
    }
    named_barrier(2, CONSUMER_THREADS);
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
        int row = first_row + turn * ROWS_AT_ONCE;
        if (OWNED_ROWS % ROWS_AT_ONCE != 0 && row >= OWNED_ROWS) {
            break;  // whole warps
        }
        float v[8];
        load_sums(v, layout.stages, row, chunk);
        RowNorm norm = {};
#ifdef NORM
        norm = load_norm(layout.norms + row * 8);
#endif
#ifdef RESIDUAL
        finish_row(v, parameters, added[turn], norm);
#else
        finish_row(v, parameters, {}, norm);
#endif
        bool valid = owned.holds(row) && feature < N;
        long long offset = static_cast<long long>(owned.token(row)) * N + feature;
#ifdef OUTPUT_F32
        if (valid) {
            float* out = static_cast<float*>(epilogue.output) + offset;
            store_vector(out, v);
            store_vector(out + 4, v + 4);
        }
#else
        if (valid) {
            store_vector(static_cast<Element*>(epilogue.output) + offset, v);
        }
#ifdef STATS_OUTPUT
        float2 stats = stats_of(v);
        if (valid && chunk % 8 == 0) {
            epilogue.output_stats[offset / 64] = stats;
        }
#endif
#endif
    }
}

extern "C" __global__ void __launch_bounds__(CONSUMER_THREADS + NORM_THREADS + 32) gemm_small_sm90a(
    const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap w_map, const float* __restrict__ bias,
    const Element* residual, void* output, const Batch* __restrict__ batch, const char* next, unsigned next_bytes,
    const float2* stats, const float* __restrict__ gamma, float epsilon, float2* output_stats) {
    extern __shared__ __align__(1024) char memory[];
    Layout layout(shared_address(memory));
    Part part;
    int tokens = batch->tokens;
    if (part.token >= tokens) {
        return;
    }
    bool producer = threadIdx.x == CONSUMER_THREADS + NORM_THREADS;
    if (producer) {
        prefetch_map(&w_map);
        prefetch_map(&a_map);
        for (int stage = 0; stage < STAGES; ++stage) {
            barrier_init(layout.full_barrier(stage), 1);
            barrier_init(layout.empty_barrier(stage), SHARE * CONSUMER_THREADS / 32);
        }
        barrier_init(layout.received, 1);
        barrier_init_fence();
    }
    __syncthreads();
    if constexpr (CLUSTER > 1) {
        cluster_arrive();
    }
    launch_dependents();
    if (producer) {
        produce(layout, &a_map, &w_map, part, next, next_bytes);
    } else if (threadIdx.x < CONSUMER_THREADS) {
        consume(layout, part, {bias, residual, output, gamma, output_stats}, tokens);
#ifdef NORM
    } else if (threadIdx.x < CONSUMER_THREADS + NORM_THREADS) {
        if constexpr (CLUSTER > 1) {
            cluster_wait();
        }
        wait_for_dependencies();
        find_norms(layout, stats, owned_of(part, tokens), epsilon, threadIdx.x % 32);
        named_barrier(1, CONSUMER_THREADS + NORM_THREADS);
#endif
    } else if constexpr (CLUSTER > 1) {
        cluster_wait();
    }
    if constexpr (RING && SHARE > 1) {
        cluster_arrive();
        cluster_wait();
    }
}
