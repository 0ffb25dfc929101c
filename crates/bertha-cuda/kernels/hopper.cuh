// Hopper's own instructions (sm_90a), one small function each: mbarriers, the tensor memory accelerator (TMA),
// warpgroup matrix products (wgmma), clusters, register reallocation and programmatic dependent launch.
//
// Addresses of shared memory are 32-bit (`shared_address` of ptx.cuh); those of another block of the cluster come from
// `cluster_address`. A `TensorMap` is the driver's CUtensorMap, passed by value as a __grid_constant__ parameter.
#pragma once

#include "ptx.cuh"

struct alignas(64) TensorMap {
    unsigned long long opaque[16];
};

namespace hopper {

// ---- mbarriers ----------------------------------------------------------------------------------------------------

DEVICE void barrier_init(unsigned barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

// Makes initialised barriers visible to the cluster and to the asynchronous proxy.
DEVICE void barrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// One arrival that also announces `bytes` of asynchronous writes.
DEVICE void barrier_expect(unsigned barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// One arrival at this block's barrier, after this thread's ordinary writes.
DEVICE void barrier_arrive(unsigned barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// One arrival at the barrier of any block of the cluster; `barrier` comes from `cluster_address`. It orders no ordinary
// writes for other blocks (that would cost a memory fence of a microsecond): it says that asynchronous reads have ended.
DEVICE void barrier_arrive_cluster(unsigned barrier) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Waits until the phase of the given parity has completed.
DEVICE void barrier_wait(unsigned barrier, unsigned parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "retry:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra.uni finished;\n"
        "bra.uni retry;\n"
        "finished:\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// As `barrier_wait`, where other blocks' ordinary or st.async writes are read next.
DEVICE void barrier_wait_cluster(unsigned barrier, unsigned parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "retry:\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
        "@done bra.uni finished;\n"
        "bra.uni retry;\n"
        "finished:\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// A barrier among `threads` threads of the block, numbered 1 to 15 (0 is __syncthreads).
DEVICE void named_barrier(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// ---- clusters -----------------------------------------------------------------------------------------------------

DEVICE unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// The address, in the cluster's window, that `address` of this block has in block `rank`.
DEVICE unsigned cluster_address(unsigned address, unsigned rank) {
    unsigned mapped;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
    return mapped;
}

// Neither orders ordinary memory between blocks: initialised barriers have their own fence, asynchronous writes are
// waited for at barriers.
DEVICE void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}

DEVICE void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

// Writes 16 bytes to another block's shared memory and counts them at that block's barrier.
DEVICE void store_async(unsigned address, unsigned barrier, float a, float b, float c, float d) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(address),
        "f"(a), "f"(b), "f"(c), "f"(d), "r"(barrier)
        : "memory");
}

// ---- tensor memory accelerator ------------------------------------------------------------------------------------

DEVICE void prefetch_map(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// How long the L2 should keep what is fetched: weights pass by once, activations are read by many blocks.
constexpr unsigned long long EVICT_FIRST = 0x12F0000000000000ull;
constexpr unsigned long long EVICT_NORMAL = 0x1000000000000000ull;
constexpr unsigned long long EVICT_LAST = 0x14F0000000000000ull;

// Fetches the map's box whose first element is (row y, column x); its bytes count at `barrier`.
DEVICE void tma_load(
    unsigned destination, const TensorMap* map, unsigned barrier, int x, int y, unsigned long long policy) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
        " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(destination),
        "l"(map), "r"(x), "r"(y), "r"(barrier), "l"(policy)
        : "memory");
}

// The same into every block of the cluster whose bit is set in `blocks`, at the same offsets in each.
DEVICE void tma_load_multicast(
    unsigned destination, const TensorMap* map, unsigned barrier, int x, int y, unsigned short blocks,
    unsigned long long policy) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint"
        " [%0], [%1, {%2, %3}], [%4], %5, %6;" ::"r"(destination),
        "l"(map), "r"(x), "r"(y), "r"(barrier), "h"(blocks), "l"(policy)
        : "memory");
}

DEVICE void tma_store(const TensorMap* map, unsigned source, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x),
                 "r"(y), "r"(source)
                 : "memory");
}

DEVICE void tma_store_commit() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until at most PENDING committed stores still read shared memory.
template <int PENDING>
DEVICE void tma_store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

// Asks for `bytes` (a multiple of 16) of global memory to be brought into the L2.
DEVICE void prefetch_l2(const void* pointer, unsigned bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(pointer), "r"(bytes) : "memory");
}

// Orders this thread's ordinary writes to shared memory before later reads by the asynchronous proxy.
DEVICE void fence_async_proxy() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- programmatic dependent launch --------------------------------------------------------------------------------

// Waits for the kernels before this one to complete, with their writes visible.
DEVICE void wait_for_dependencies() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Lets the next kernel start its blocks once every block of this one has said so or ended.
DEVICE void launch_dependents() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// ---- registers ----------------------------------------------------------------------------------------------------

template <int COUNT>
DEVICE void registers_increase() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT>
DEVICE void registers_decrease() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// ---- matrix stores ------------------------------------------------------------------------------------------------

// Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
DEVICE void store_matrix_x4(unsigned address, unsigned a, unsigned b, unsigned c, unsigned d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b),
                 "r"(c), "r"(d)
                 : "memory");
}

// Two 8x8 matrices, each stored transposed; lanes 0 to 15 give the addresses.
DEVICE void store_matrix_x2_transposed(unsigned address, unsigned a, unsigned b) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b)
                 : "memory");
}

// ---- warpgroup matrix products ------------------------------------------------------------------------------------

// Descriptor of a tile in shared memory whose rows are 128 bytes long (64 16-bit elements of the inner dimension K) in
// the 128-byte swizzle that the TMA writes; the tile starts at a multiple of 1,024 bytes. 16 elements further along K
// are 32 bytes further: WGMMA_K_STEP in the descriptor's units of 16 bytes.
DEVICE unsigned long long tile_descriptor(unsigned address) {
    constexpr unsigned long long SWIZZLE_128_BYTES = 1ull << 62;
    constexpr unsigned long long EIGHT_ROWS = (1024ull >> 4) << 32;
    constexpr unsigned long long LEADING = 1ull << 16;
    return SWIZZLE_128_BYTES | EIGHT_ROWS | LEADING | ((address & 0x3FFFF) >> 4);
}
constexpr unsigned long long WGMMA_K_STEP = 2;

DEVICE void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

DEVICE void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING>
DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Keeps the compiler from moving reads and writes of accumulators across: before the first product and after the last wait.
template <int COUNT>
DEVICE void fence_registers(float (&d)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        asm volatile("" : "+f"(d[i])::"memory");
    }
}

#ifdef ELEMENT_BF16
#define WGMMA_TYPES "f32.bf16.bf16"
#else
#define WGMMA_TYPES "f32.f16.f16"
#endif

#define WGMMA_TEXT_4 "%0,%1,%2,%3"
#define WGMMA_TEXT_8 WGMMA_TEXT_4 ",%4,%5,%6,%7"
#define WGMMA_TEXT_16 WGMMA_TEXT_8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define WGMMA_TEXT_32 WGMMA_TEXT_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define WGMMA_TEXT_48 WGMMA_TEXT_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define WGMMA_TEXT_64 WGMMA_TEXT_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define WGMMA_TEXT_96 WGMMA_TEXT_64 \
    ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79" \
    ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define WGMMA_TEXT_128 WGMMA_TEXT_96 \
    ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111" \
    ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"

#define WGMMA_REGISTERS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_REGISTERS_8(d, i) WGMMA_REGISTERS_4(d, i), WGMMA_REGISTERS_4(d, i + 4)
#define WGMMA_REGISTERS_16(d, i) WGMMA_REGISTERS_8(d, i), WGMMA_REGISTERS_8(d, i + 8)
#define WGMMA_REGISTERS_32(d, i) WGMMA_REGISTERS_16(d, i), WGMMA_REGISTERS_16(d, i + 16)
#define WGMMA_REGISTERS_48(d, i) WGMMA_REGISTERS_32(d, i), WGMMA_REGISTERS_16(d, i + 32)
#define WGMMA_REGISTERS_64(d, i) WGMMA_REGISTERS_32(d, i), WGMMA_REGISTERS_32(d, i + 32)
#define WGMMA_REGISTERS_96(d, i) WGMMA_REGISTERS_64(d, i), WGMMA_REGISTERS_32(d, i + 64)
#define WGMMA_REGISTERS_128(d, i) WGMMA_REGISTERS_64(d, i), WGMMA_REGISTERS_64(d, i + 64)

// d[64 x WIDTH] (+)= a[64 x 16] b[WIDTH x 16]^T, both operands K-major tiles in shared memory. Thread t of the warpgroup
// holds rows 16 (t / 32) + (t % 32) / 4 (+ 8) and columns 8 j + 2 (t % 4) (+ 1): d[4 j], d[4 j + 1] of the first row,
// d[4 j + 2], d[4 j + 3] of the row eight below. With `accumulate` zero, d is overwritten.
template <int WIDTH>
struct Wgmma;

#define WGMMA_OF_WIDTH(width, count, a, b, accumulate_operand)                                                     \
    template <>                                                                                                    \
    struct Wgmma<width> {                                                                                          \
        static DEVICE void multiply(                                                           \
            float (&d)[count], unsigned long long a_tile, unsigned long long b_tile, int accumulate) {             \
            asm volatile(                                                                                          \
                "{\n.reg .pred p;\nsetp.ne.b32 p, " accumulate_operand                                             \
                ", 0;\nwgmma.mma_async.sync.aligned.m64n" #width "k16." WGMMA_TYPES " {" WGMMA_TEXT_##count "}, " a \
                ", " b ", p, 1, 1, 0, 0;\n}\n"                                                                     \
                : WGMMA_REGISTERS_##count(d, 0)                                                                    \
                : "l"(a_tile), "l"(b_tile), "r"(accumulate));                                                      \
        }                                                                                                          \
    }

WGMMA_OF_WIDTH(8, 4, "%4", "%5", "%6");
WGMMA_OF_WIDTH(16, 8, "%8", "%9", "%10");
WGMMA_OF_WIDTH(32, 16, "%16", "%17", "%18");
WGMMA_OF_WIDTH(64, 32, "%32", "%33", "%34");
WGMMA_OF_WIDTH(96, 48, "%48", "%49", "%50");
WGMMA_OF_WIDTH(128, 64, "%64", "%65", "%66");
WGMMA_OF_WIDTH(192, 96, "%96", "%97", "%98");
WGMMA_OF_WIDTH(256, 128, "%128", "%129", "%130");

}  // namespace hopper
