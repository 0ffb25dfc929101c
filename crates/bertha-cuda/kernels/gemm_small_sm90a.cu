// Linear layer for few tokens on Hopper, made for latency:
// D[tokens, N] = activation(A[tokens, K] W[N, K]^T + bias) (+ residual).
//
// The operands change sides: wgmma's 64 rows are features (W), its columns are tokens (A), so that few tokens waste
// nothing. Tile: FEATURES features x TOKENS tokens, and K is split over a cluster of SPLIT blocks, so that a hundred and
// more blocks stream the weights at once. Each block has
//   FEATURES / 64  consumer warpgroups, 64 features each: wgmma m64 n(TOKENS) k16, f32 accumulators;
//   one producer warp  whose first thread fetches blocks of 64 along K by TMA: the weights before it waits for the
//     kernels that produce A (griddepcontrol.wait), A after it.
// SHARE blocks of the cluster with neighbouring features and the same part of K share A by multicast.
// Reduction: the block of rank r owns the r-th part of the tile's tokens. Everybody sends its accumulators of the others'
// tokens straight from registers to the owner's shared memory (st.async, counted at the owner's mbarrier) and the owner
// adds them in a fixed order: no atomics, no workspace, the same result on every run. The owner applies the epilogue,
// transposes through stmatrix.trans into a [tokens][FEATURES] tile and writes 16 bytes a thread.
// The next linear layer's weights can be asked into the L2 meanwhile (`next`), as nothing else uses the memory then.
//
// Data: A, W, D row-major (K or N contiguous) in Element; bias [N] f32; residual [tokens, N] Element.
// Shared memory: STAGES x (FEATURES + TOKENS) rows of 128 bytes in the 128-byte swizzle; the receive buffer
// (SPLIT - 1) x OWNED x (FEATURES * 2) x 16 bytes, where OWNED = ceil(TOKENS / 8 / SPLIT) are columns of eight tokens;
// the output tile OWNED * 8 x FEATURES Elements.
// Intensity: weights are read once; A is read FEATURES * SHARE features at a time from the L2.
//
// Macros (all required unless a default is given):
//   ELEMENT_F16 | ELEMENT_BF16
//   N, K          multiples of 8
//   TOKENS        8, 16, 32, 64, 96, 128, 192 or 256
//   FEATURES      64 or 128
//   SPLIT         1 to 8 blocks along K, at most ceil(K / 64)
//   SHARE         1, 2 or 4 (TOKENS a multiple of 8 SHARE; SPLIT * SHARE at most 8, or 16 with the non-portable size)
//   STAGES        ring depth; ceil(ceil(K / 64) / SPLIT) holds a block's whole part of K and needs no ring
//   ACTIVATION, RESIDUAL, OUTPUT_F32   as in gemm_sm90a.cu
//
// Launch: grid (SPLIT, ceil(ceil(N / FEATURES) / SHARE) * SHARE, ceil(capacity / TOKENS)); cluster (SPLIT, SHARE, 1);
// block 2 * FEATURES + 32; dynamic shared memory (whose carve-out is set to 100 %)
//   STAGES * (FEATURES + TOKENS) * 128 + OWNED * FEATURES * (32 * (SPLIT - 1) + 16) + 16 * STAGES + 8.
// Two such kernels fit on a multiprocessor up to 115,712 bytes each: only then the next one's weights are under way early.
// Tensor maps, 2-D, 16-bit, 128-byte swizzle, no interleave, zero fill, L2 promotion 256 bytes, element stride 1:
//   a_map   dims {K, capacity}, stride 2 K bytes, box {64, TOKENS / SHARE}
//   w_map   dims {K, N},        stride 2 K bytes, box {64, FEATURES}
// Only rows below batch->tokens are written; rows above are read (within capacity) and never mix with others.
#include "types.cuh"
#include "batch.cuh"
#include "activation.cuh"
#include "hopper.cuh"

using namespace hopper;

constexpr int BLOCK_K = 64;
constexpr int ROW_BYTES = BLOCK_K * 2;
constexpr int CLUSTER = SPLIT * SHARE;
constexpr int CONSUMER_THREADS = FEATURES * 2;
constexpr int W_BYTES = FEATURES * ROW_BYTES;
constexpr int A_BYTES = TOKENS * ROW_BYTES;
constexpr int STAGE_BYTES = W_BYTES + A_BYTES;
constexpr int BLOCKS_K = (K + BLOCK_K - 1) / BLOCK_K;
constexpr int LONGEST_PART = (BLOCKS_K + SPLIT - 1) / SPLIT;
constexpr bool RING = STAGES < LONGEST_PART;
constexpr int COLUMNS = TOKENS / 8;
constexpr int OWNED = (COLUMNS + SPLIT - 1) / SPLIT;
constexpr int RECEIVE_BYTES = (SPLIT - 1) * OWNED * CONSUMER_THREADS * 16;
constexpr int OUTPUT_ROW_BYTES = FEATURES * 2;
constexpr int OUTPUT_BYTES = OWNED * 8 * OUTPUT_ROW_BYTES;
constexpr int PREFETCH_CHUNK = 16384;

static_assert(SPLIT <= BLOCKS_K, "every block of the cluster needs a part of K");

// Offsets of what lies in shared memory, from a start aligned to 1,024 bytes.
struct Layout {
    unsigned stages;
    unsigned receive;
    unsigned output;
    unsigned full;
    unsigned empty;
    unsigned received;

    __device__ explicit Layout(unsigned start) {
        stages = start;
        receive = stages + STAGES * STAGE_BYTES;
        output = receive + RECEIVE_BYTES;
        full = output + OUTPUT_BYTES;
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
        unsigned short blocks = 0;
        for (int share = 0; share < SHARE; ++share) {
            blocks |= 1 << rank_of(part.split, share);
        }
        tma_load_multicast(destination, map, layout.full_barrier(stage), x, y, blocks, EVICT_LAST);
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

// Products of one warpgroup over this block's part of K.
DEVICE void multiply(float (&d)[TOKENS / 2], const Layout& layout, const Part& part, int group, int lane) {
    int stage = 0;
    unsigned phase = 0;
#pragma unroll
    for (int i = 0; i < TOKENS / 2; ++i) {
        d[i] = 0.0f;
    }
    fence_registers(d);
#pragma unroll 1
    for (int block = 0; block < part.blocks; ++block) {
        barrier_wait(layout.full_barrier(stage), phase);
        unsigned long long w = tile_descriptor(layout.w_tile(stage) + group * 64 * ROW_BYTES);
        unsigned long long a = tile_descriptor(layout.a_tile(stage));
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < BLOCK_K / 16; ++step) {
            Wgmma<TOKENS>::multiply(d, w + step * WGMMA_K_STEP, a + step * WGMMA_K_STEP, 1);
        }
        wgmma_commit();
        wgmma_wait<1>();
        if (RING && block > 0 && lane < SHARE) {
            int previous = stage > 0 ? stage - 1 : STAGES - 1;
            barrier_arrive_cluster(cluster_address(layout.empty_barrier(previous), rank_of(part.split, lane)));
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

// Sends each owner its columns of the accumulators and keeps this block's own in `sum`, to which it adds the others'.
DEVICE void reduce(
    const float (&d)[TOKENS / 2], float (&sum)[OWNED * 4], const Layout& layout, const Part& part, int thread) {
    // Inner loops run to constants, or the compiler leaves them rolled and d in local memory.
#pragma unroll
    for (int owner = 0; owner < SPLIT; ++owner) {
        int slot = part.split < owner ? part.split : part.split - 1;
        unsigned rank = rank_of(owner, part.share);
        unsigned address = cluster_address(layout.receive + (slot * OWNED * CONSUMER_THREADS + thread) * 16, rank);
        unsigned barrier = cluster_address(layout.received, rank);
#pragma unroll
        for (int column = 0; column < OWNED; ++column) {
            if (owner * OWNED + column < COLUMNS) {
                const float* v = d + (owner * OWNED + column) * 4;
                if (owner != part.split) {
                    store_async(address + column * CONSUMER_THREADS * 16, barrier, v[0], v[1], v[2], v[3]);
                } else {
                    sum[column * 4] = v[0];
                    sum[column * 4 + 1] = v[1];
                    sum[column * 4 + 2] = v[2];
                    sum[column * 4 + 3] = v[3];
                }
            }
        }
    }
    if constexpr (SPLIT > 1) {
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
}

// Residual of one column of eight tokens in the accumulators' layout: tokens t, t + 1 of features f and f + 8.
DEVICE void load_residual(float (&r)[4], const Element* residual, int token, int feature, int tokens) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        int row = token + i % 2;
        int column = feature + i / 2 * 8;
        r[i] = 0.0f;
        if (row < tokens && column < N) {
            r[i] = to_f32(residual[static_cast<long long>(row) * N + column]);
        }
    }
}

// Writes the owned tokens from the output tile, 16 bytes a thread, whole rows of FEATURES side by side.
DEVICE void write_rows(const Layout& layout, Element* output, int token, int rows, int feature, int thread) {
    constexpr int CHUNKS = OUTPUT_ROW_BYTES / 16;
#pragma unroll
    for (int place = thread; place < OWNED * 8 * CHUNKS; place += CONSUMER_THREADS) {
        int row = place / CHUNKS;
        int chunk = place % CHUNKS;
        if (row < rows && feature + chunk * 8 < N) {
            unsigned address = layout.output + row * OUTPUT_ROW_BYTES + ((chunk ^ (row % 8)) << 4);
            uint4 v;
            asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                         : "r"(address)
                         : "memory");
            long long offset = static_cast<long long>(token + row) * N + feature + chunk * 8;
            *reinterpret_cast<uint4*>(output + offset) = v;
        }
    }
}

// Everything a consumer thread does.
DEVICE void consume(
    const Layout& layout, const Part& part, const float* bias, const Element* residual, void* output, int tokens) {
    int thread = threadIdx.x;
    int lane = thread % 32;
    int warp = thread / 32;
    int own_columns = columns_of(part.split);
    int own_token = part.token + part.split * OWNED * 8;
    int feature = part.feature + warp * 16 + lane / 4;
    float bias_top = feature < N ? bias[feature] : 0.0f;
    float bias_bottom = feature + 8 < N ? bias[feature + 8] : 0.0f;
    if (SPLIT > 1 && thread == 0) {
        barrier_expect(layout.received, (SPLIT - 1) * own_columns * CONSUMER_THREADS * 16);
    }
    if constexpr (CLUSTER > 1) {
        cluster_wait();
    }
    wait_for_dependencies();
#ifdef RESIDUAL
    float added[OWNED][4];
#pragma unroll
    for (int column = 0; column < OWNED; ++column) {
        int last = column < own_columns ? tokens : 0;
        load_residual(added[column], residual, own_token + column * 8 + lane % 4 * 2, feature, last);
    }
#endif
    float d[TOKENS / 2];
    multiply(d, layout, part, thread / 128, lane);
    float sum[OWNED * 4] = {};
    reduce(d, sum, layout, part, thread);
#pragma unroll
    for (int column = 0; column < OWNED; ++column) {
        if (column < own_columns) {
            float v[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                v[i] = activate(sum[column * 4 + i] + (i < 2 ? bias_top : bias_bottom));
#ifdef RESIDUAL
                v[i] += added[column][i];
#endif
            }
#ifdef OUTPUT_F32
            float* out = static_cast<float*>(output);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                int row = own_token + column * 8 + lane % 4 * 2 + i % 2;
                if (row < tokens && feature + i / 2 * 8 < N) {
                    out[static_cast<long long>(row) * N + feature + i / 2 * 8] = v[i];
                }
            }
#else
            int row = column * 8 + lane % 8;
            int chunk = warp * 2 + lane / 8 % 2;
            unsigned address = layout.output + row * OUTPUT_ROW_BYTES + ((chunk ^ (row % 8)) << 4);
            store_matrix_x2_transposed(address, pack2<Element>(v[0], v[1]), pack2<Element>(v[2], v[3]));
#endif
        }
    }
#ifndef OUTPUT_F32
    named_barrier(1, CONSUMER_THREADS);
    int rows = tokens - own_token < own_columns * 8 ? tokens - own_token : own_columns * 8;
    write_rows(layout, static_cast<Element*>(output), own_token, rows, part.feature, thread);
#endif
}

extern "C" __global__ void __launch_bounds__(CONSUMER_THREADS + 32) gemm_small_sm90a(
    const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap w_map, const float* __restrict__ bias,
    const Element* residual, void* output, const Batch* __restrict__ batch, const char* next, unsigned next_bytes) {
    extern __shared__ __align__(1024) char memory[];
    Layout layout(shared_address(memory));
    Part part;
    int tokens = batch->tokens;
    if (part.token >= tokens) {
        return;
    }
    bool producer = threadIdx.x == CONSUMER_THREADS;
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
        consume(layout, part, bias, residual, output, tokens);
    } else if constexpr (CLUSTER > 1) {
        cluster_wait();
    }
    if constexpr (RING && SHARE > 1) {
        cluster_arrive();
        cluster_wait();
    }
}
