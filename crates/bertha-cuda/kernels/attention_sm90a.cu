// Attention of each sequence with itself, without a causal mask, in 16-bit floats on Hopper's warpgroup products
// (wgmma): the function, the tensors and the work list of attention.cu, for heads of 32 and 64.
//
// A block has one head and QUERIES = 64 * WARPGROUPS queries of one sequence, a warpgroup 64 of them: a warp has 16 rows,
// a thread two of them and every fourth pair of columns. Scores q k^T are one product of 64 x WIDTH from shared memory;
// rounded to Element they are the left operand of the product with v straight from registers.
//   BLOCKS 1: the sequence is no longer than KEYS, and WIDTH is the length rounded up to a quarter of KEYS: a short
//     sequence costs its own length. BLOCKS 2 .. 8: no longer than BLOCKS * KEYS; sums are rescaled when the maximum of
//     a row grows from one block of keys to the next. In both, all of k and v stays in shared memory and each block of
//     keys has its own barrier, so that warpgroups never wait for each other: one computes exponentials while another
//     multiplies. BLOCKS 0: any length, KEYS at a time in two buffers that all warpgroups share in step.
// KEY_GROUPS > 1 is for few blocks: so many warpgroups share the same 64 queries, each takes every KEY_GROUPS-th block of
// keys, and the first one puts the results together. Nobody waits for the exponentials of the whole sequence then.
// Several blocks fit a multiprocessor: one loads while another computes.
// Shared rows have HEAD_DIM elements, 128 or 64 bytes, in the swizzle of that width: chunk c of 16 bytes of row r at
// c ^ (r mod 8) or c ^ (r / 2 mod 4). Keys beyond the end, up to WIDTH, are zeros there.
// All threads load, by cp.async; batch, work list and cu_seqlens are read before the predecessor has ended.
//
// Macros: ELEMENT_F16 | ELEMENT_BF16; HEAD_DIM 32 | 64; KEYS 64 | 128, with BLOCKS 1 also 32, 256; BLOCKS 0 .. 8;
//   WARPGROUPS 1 .. 4; KEY_GROUPS (default 1) up to BLOCKS, with WARPGROUPS 1; BLOCKS_PER_SM (default 1) as far as registers allow: with 128 keys and BLOCKS > 0 a thread has
//   128, so 4 / WARPGROUPS; RELATIVE_BIAS 0 | 1, BIAS_MAX; Q_STRIDE, K_STRIDE, V_STRIDE, OUT_STRIDE, multiples of 8.
// Block: 128 * WARPGROUPS * KEY_GROUPS threads. Grid: x = heads, y = capacity in work items (of QUERIES queries).
// Dynamic shared memory, with R = 2 * HEAD_DIM: 1024 + QUERIES * R + (BLOCKS or 2) * 2 * KEYS * R bytes,
//   + (KEY_GROUPS - 1) * 2048 + RELATIVE_BIAS * 4 * (LONGEST + QUERIES), LONGEST = BLOCKS * KEYS, or BIAS_MAX rounded up to 64 with BLOCKS 0.
//   128 queries and 3 blocks of 128 keys with heads of 64 just fit twice into a multiprocessor.
// `scale` must be positive.
// Intensity: 4 * HEAD_DIM operations a score and one exponential: at HEAD_DIM 64 the matrix units and the special
//   function units take the same time, 512 cycles for 64 x 128 scores.
#include "activation.cuh"
#include "batch.cuh"
#include "hopper.cuh"
#include "ptx.cuh"

#ifndef BLOCKS_PER_SM
#define BLOCKS_PER_SM 1
#endif
#ifndef KEY_GROUPS
#define KEY_GROUPS 1
#endif

static const int THREADS = 128 * WARPGROUPS * KEY_GROUPS;
static const int QUERIES = 64 * WARPGROUPS;
static const int ROW = 2 * HEAD_DIM;     // bytes of a shared row
static const int CHUNKS = HEAD_DIM / 8;  // of a row
static const int DIM_TILES = HEAD_DIM / 8;
#define BUFFER_BYTES (2 * KEYS * ROW)                // k, then v, of one block of keys
#define BUFFERS (BLOCKS > 0 ? BLOCKS : 2)
#define ONLINE (BLOCKS != 1)
#define MINUS_INFINITY __int_as_float(0xff800000)

static_assert(HEAD_DIM == 32 || HEAD_DIM == 64, "the swizzle knows these");
static_assert(KEY_GROUPS == 1 || WARPGROUPS == 1 && KEY_GROUPS <= BLOCKS, "every group has keys and all queries");

// First the barriers of the key blocks' k and v (BLOCKS > 0), from byte 1024 on q, then the key blocks.
extern __shared__ __align__(1024) unsigned char shared[];

// What a thread knows of its two rows, g and g + 8 of the warp's sixteen, with g = lane / 4.
struct Rows {
    float result[DIM_TILES * 4];  // [tile of 8 columns][row, column]
    float max[2];                 // of the scaled scores so far, in the exponent of 2
    float sum[2];                 // of this thread's columns only
};

DEVICE u32 chunk_offset(int r, int c) {
    return (u32)(r * ROW + (HEAD_DIM == 64 ? c ^ (r & 7) : c ^ ((r >> 1) & 3)) * 16);
}

// Rows of ROW bytes in their swizzle, groups of eight rows one after the other. For q and k the rows run along the
// product's M or N and the row itself along its K; for v it is the other way round.
DEVICE u64 descriptor(u32 address) {
    const u64 swizzle = HEAD_DIM == 64 ? 1ull << 62 : 2ull << 62;
    return swizzle | (u64)(8 * ROW >> 4) << 32 | 1ull << 16 | (address & 0x3ffff) >> 4;
}

// Copies `rows` rows of one head to shared memory, and zeros up to `padded` rows.
template <int LIMIT, int STRIDE> DEVICE void copy_rows(u32 to, const Element *from, int rows, int padded) {
    const int r0 = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS;
    const int step = THREADS / CHUNKS;  // rows; a multiple of 8, so the swizzle of a thread stays the same
    const Element *source = from + (size_t)r0 * STRIDE + c * 8;
    to += chunk_offset(r0, c);
#pragma unroll
    for (int i = 0; i < (LIMIT + step - 1) / step; i++) {
        const int r = r0 + i * step;
        if (r < padded) copy_async(to + i * step * ROW, source + (size_t)i * step * STRIDE, r < rows);
    }
}

// Arrives at `barrier` when this thread's copies so far have.
DEVICE void announce_copies(u32 barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// Waits for all but the last PENDING groups of copies, and makes them visible to the matrix units of all warps.
template <int PENDING> DEVICE void arrive() {
    wait_copies<PENDING>();
    hopper::fence_async_proxy();
    __syncthreads();
}

// result += p v for 16 keys: p from registers, v [16 keys][HEAD_DIM] in shared memory.
DEVICE void multiply_values(float (&d)[DIM_TILES * 4], u32 a0, u32 a1, u32 a2, u32 a3, u64 v) {
#if HEAD_DIM == 64
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16." WGMMA_TYPES " {" WGMMA_TEXT_32
                 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                 : WGMMA_REGISTERS_32(d, 0)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(v));
#else
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16." WGMMA_TYPES " {" WGMMA_TEXT_16
                 "}, {%16, %17, %18, %19}, %20, 1, 1, 1, 1;"
                 : WGMMA_REGISTERS_16(d, 0)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(v));
#endif
}

// Scores become scaled ones with the bias added (with RELATIVE_BIAS), and -infinity beyond `left` keys. `bias` points at
// the entry for key 0 of the buffer and this thread's first row.
template <int WIDTH> DEVICE void finish_scores(float (&s)[WIDTH / 2], int left, float factor, const float *bias) {
    const int column = threadIdx.x % 4 * 2;
#if RELATIVE_BIAS
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[4 * n + e] = fmaf(s[4 * n + e], factor, bias[n * 8 + column + e % 2 - e / 2 * 8]);
        }
    }
#endif
    if (left >= WIDTH) return;
#pragma unroll
    for (int i = 0; i < WIDTH / 2; i++) {
        if (i / 4 * 8 + column + i % 2 >= left) s[i] = MINUS_INFINITY;
    }
}

// Scores become exponentials; maxima and sums are brought up to date, results rescaled.
template <int WIDTH> DEVICE void exponentiate(float (&s)[WIDTH / 2], Rows &rows, float factor) {
#if RELATIVE_BIAS
    factor = 1.0f;
#endif
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = s[2 * h], other = s[2 * h + 1];
#pragma unroll
        for (int n = 1; n < WIDTH / 8; n++) top = fmaxf(top, s[4 * n + 2 * h]), other = fmaxf(other, s[4 * n + 2 * h + 1]);
        top = fmaxf(top, other);
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        top *= factor;
#if ONLINE
        top = fmaxf(top, rows.max[h]);
        const float rescale = exp2_approx(rows.max[h] - top);
        rows.sum[h] *= rescale;
#pragma unroll
        for (int d = 0; d < DIM_TILES; d++) {
            rows.result[4 * d + 2 * h] *= rescale;
            rows.result[4 * d + 2 * h + 1] *= rescale;
        }
#endif
        rows.max[h] = top;
        float sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float &x = s[4 * n + 2 * h + e];
                x = exp2_approx(fmaf(x, factor, -top));
                sum[e] += x;
            }
        }
        rows.sum[h] += sum[0] + sum[1];
    }
}

// Where the key block of a turn lies, and how the next one is fetched meanwhile (BLOCKS 0).
struct Turn {
    u32 barrier;                     // of k; that of v follows
    u32 keys, next;                  // buffers
    const Element *next_k, *next_v;  // their rows in memory
    int left, following;             // keys from here on; keys of the next turn
};

DEVICE int padded_width(int keys) {
    const int unit = BLOCKS != 1 ? KEYS : KEYS < 128 ? 32 : KEYS / 4;
    return min(KEYS, (keys + unit - 1) / unit * unit);
}

// One block of keys, of which the first WIDTH take part. With BLOCKS 0 all threads of the block call it.
template <int WIDTH>
DEVICE void take_keys(Rows &rows, u32 q_rows, const Turn &turn, bool busy, float factor, const float *bias) {
    float s[WIDTH / 2];
    if (busy) {
#if BLOCKS > 0
        hopper::barrier_wait(turn.barrier, 0);
        hopper::fence_async_proxy();
#endif
        hopper::fence_registers(s);
        hopper::wgmma_fence();
        const u64 q = descriptor(q_rows), k = descriptor(turn.keys);
#pragma unroll
        for (int d = 0; d < HEAD_DIM / 16; d++) hopper::Wgmma<WIDTH>::multiply(s, q + 2 * d, k + 2 * d, d > 0);
        hopper::wgmma_commit();
        hopper::wgmma_wait<0>();
        hopper::fence_registers(s);
        finish_scores<WIDTH>(s, turn.left, factor, bias);
        exponentiate<WIDTH>(s, rows, factor);
    }
#if BLOCKS > 0
    if (busy) {
        hopper::barrier_wait(turn.barrier + 8, 0);
        hopper::fence_async_proxy();
    }
#else
    arrive<1>();  // v
    if (turn.following > 0) {
        copy_rows<KEYS, V_STRIDE>(turn.next + KEYS * ROW, turn.next_v, turn.following, padded_width(turn.following));
    }
    commit_copies();
#endif
    if (busy) {
        u32 p[WIDTH / 4];
#pragma unroll
        for (int i = 0; i < WIDTH / 4; i++) p[i] = pack2<Element>(s[2 * i], s[2 * i + 1]);
        hopper::fence_registers(rows.result);
        hopper::wgmma_fence();
        const u64 v = descriptor(turn.keys + KEYS * ROW);
#pragma unroll
        for (int g = 0; g < WIDTH / 16; g++) {
            multiply_values(rows.result, p[4 * g], p[4 * g + 1], p[4 * g + 2], p[4 * g + 3], v + g * (16 * ROW >> 4));
        }
        hopper::wgmma_commit();
        hopper::wgmma_wait<0>();
        hopper::fence_registers(rows.result);
    }
}

DEVICE void take_some_keys(Rows &rows, u32 q_rows, const Turn &turn, bool busy, float factor, const float *bias) {
    const int width = padded_width(min(turn.left, KEYS));
    if (width == KEYS) {
        take_keys<KEYS>(rows, q_rows, turn, busy, factor, bias);
        return;
    }
#if BLOCKS != 1
    // The only width.
#elif KEYS == 64
    take_keys<32>(rows, q_rows, turn, busy, factor, bias);
#elif KEYS == 128
    if (width == 32) {
        take_keys<32>(rows, q_rows, turn, busy, factor, bias);
    } else if (width == 64) {
        take_keys<64>(rows, q_rows, turn, busy, factor, bias);
    } else {
        take_keys<96>(rows, q_rows, turn, busy, factor, bias);
    }
#elif KEYS == 192 || KEYS == 256
    // The widths between these have no product of their own here: rows of zeros fill them up.
    if (width <= 64) {
        take_keys<64>(rows, q_rows, turn, busy, factor, bias);
    } else if (width <= 128) {
        take_keys<128>(rows, q_rows, turn, busy, factor, bias);
    } else {
        take_keys<192>(rows, q_rows, turn, busy, factor, bias);
    }
#endif
}

#if KEY_GROUPS > 1
DEVICE float4 load_shared4(u32 address) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

DEVICE void store_shared4(u32 address, float a, float b, float c, float d) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}

// Every key group but the first leaves its results where its first block of keys was, and maxima and sums behind all
// buffers; the first adds them to its own, scaled to the maximum of all. All threads call it.
DEVICE void merge_groups(Rows &rows, u32 buffers, int group) {
    const int t = threadIdx.x % 128;
    const u32 behind = buffers + BUFFERS * BUFFER_BYTES;
    if (group > 0) {
        // All warps of the group have read its keys and values.
        hopper::named_barrier(1 + group, 128);
        const u32 to = buffers + group * BUFFER_BYTES + t * 16;
#pragma unroll
        for (int d = 0; d < DIM_TILES; d++) {
            const float *v = rows.result + 4 * d;
            store_shared4(to + d * 2048, v[0], v[1], v[2], v[3]);
        }
        store_shared4(behind + (group - 1) * 2048 + t * 16, rows.max[0], rows.max[1], rows.sum[0], rows.sum[1]);
    }
    __syncthreads();
    if (group > 0) return;
#pragma unroll
    for (int other = 1; other < KEY_GROUPS; other++) {
        const float4 theirs = load_shared4(behind + (other - 1) * 2048 + t * 16);
        const float their_max[2] = {theirs.x, theirs.y}, their_sum[2] = {theirs.z, theirs.w};
        float own[2], their[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float top = fmaxf(rows.max[h], their_max[h]);
            own[h] = exp2_approx(rows.max[h] - top);
            their[h] = exp2_approx(their_max[h] - top);
            rows.sum[h] = rows.sum[h] * own[h] + their_sum[h] * their[h];
            rows.max[h] = top;
        }
#pragma unroll
        for (int d = 0; d < DIM_TILES; d++) {
            const float4 v = load_shared4(buffers + other * BUFFER_BYTES + d * 2048 + t * 16);
            float *r = rows.result + 4 * d;
            r[0] = r[0] * own[0] + v.x * their[0];
            r[1] = r[1] * own[0] + v.y * their[0];
            r[2] = r[2] * own[1] + v.z * their[1];
            r[3] = r[3] * own[1] + v.w * their[1];
        }
    }
}
#endif

// Divides by the sums and writes a warp's 16 rows, through its own rows of q in shared memory: 16 bytes a lane.
DEVICE void store_results(const Rows &rows, Element *out, u32 q_rows, int count) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = rows.sum[h];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const float inverse = 1.0f / sum;
#pragma unroll
        for (int d = 0; d < DIM_TILES; d++) {
            const u32 pair = pack2<Element>(rows.result[4 * d + 2 * h] * inverse, rows.result[4 * d + 2 * h + 1] * inverse);
            asm volatile("st.shared.b32 [%0], %1;" ::"r"(q_rows + chunk_offset(h * 8 + lane / 4, d) + lane % 4 * 4),
                         "r"(pair)
                         : "memory");
        }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16 * CHUNKS / 32; i++) {
        const int r = (i * 32 + lane) / CHUNKS, c = lane % CHUNKS;
        if (r < count) {
            uint4 v;
            asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                         : "r"(q_rows + chunk_offset(r, c))
                         : "memory");
            *reinterpret_cast<uint4 *>(out + (size_t)r * OUT_STRIDE + c * 8) = v;
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    attention_sm90a(Element *out, const Element *q, const Element *k, const Element *v, const int *cu_seqlens,
                    const int2 *work, const float *__restrict__ bias, float scale, const Batch *batch) {
    if ((int)blockIdx.y >= batch->work_items) return;
    const int2 item = work[blockIdx.y];
    const int head = blockIdx.x, first = cu_seqlens[item.x], length = cu_seqlens[item.x + 1] - first;
    const int first_query = item.y * QUERIES, queries = min(QUERIES, length - first_query);
    const int group = KEY_GROUPS > 1 ? threadIdx.x / 128 : 0;  // of keys
    const int warp = threadIdx.x / 32 - group * 4;            // among those that share the queries out
    const float factor = scale * 1.44269504f;
    const u32 barriers = shared_address(shared), q_rows = barriers + 1024, buffers = q_rows + QUERIES * ROW;
    k += (size_t)first * K_STRIDE + head * HEAD_DIM;
    v += (size_t)first * V_STRIDE + head * HEAD_DIM;

    const float *row_bias = nullptr;
#if RELATIVE_BIAS
    // Entry i of the shared slice is for j - i = i - (QUERIES - 1), counted from the block's first query.
    float *slice = reinterpret_cast<float *>(shared + 1024 + QUERIES * ROW + BUFFERS * BUFFER_BYTES + (KEY_GROUPS - 1) * 2048);
    const float *table = bias + head * (2 * BIAS_MAX - 1) + BIAS_MAX - 1 - first_query - (QUERIES - 1);
    for (int i = threadIdx.x; i < length + QUERIES - 1; i += THREADS) {
        // Queries beyond the sequence would ask for distances that the table does not have.
        const bool known = i - (QUERIES - 1) - first_query > -BIAS_MAX;
        slice[i] = known ? table[i] * 1.44269504f : 0.0f;
    }
    row_bias = slice + QUERIES - 1 - (warp * 16 + threadIdx.x % 32 / 4);
#endif

#if BLOCKS > 0
    if (threadIdx.x < 2 * BLOCKS) hopper::barrier_init(barriers + 8 * threadIdx.x, THREADS);
    if (threadIdx.x < 32) hopper::barrier_init_fence();
    __syncthreads();
#endif
    wait_for_predecessor();
    release_successor();
    q += (size_t)(first + first_query) * Q_STRIDE + head * HEAD_DIM;
    copy_rows<QUERIES, Q_STRIDE>(q_rows, q, queries, (queries + 63) & ~63);
    for (int block = 0; block < (BLOCKS > 0 ? BLOCKS : 1); block++) {
        const int keys = min(KEYS, length - block * KEYS);
        if (keys <= 0) break;
        const u32 to = buffers + block * BUFFER_BYTES;
        copy_rows<KEYS, K_STRIDE>(to, k + (size_t)block * KEYS * K_STRIDE, keys, padded_width(keys));
        if (BLOCKS > 0) announce_copies(barriers + 16 * block);
        commit_copies();
        copy_rows<KEYS, V_STRIDE>(to + KEYS * ROW, v + (size_t)block * KEYS * V_STRIDE, keys, padded_width(keys));
        if (BLOCKS > 0) announce_copies(barriers + 16 * block + 8);
        commit_copies();
    }

    Rows rows;
#pragma unroll
    for (int h = 0; h < 2; h++) rows.max[h] = MINUS_INFINITY, rows.sum[h] = 0.0f;
#pragma unroll
    for (int i = 0; i < DIM_TILES * 4; i++) rows.result[i] = 0.0f;

    const bool busy = warp / 4 * 64 < queries;  // the whole warpgroup
    const u32 own_q = q_rows + warp / 4 * 64 * ROW;
    Turn turn;
#if BLOCKS > 0
    if (!busy) {
        wait_copies<0>();
        return;
    }
    turn.next = buffers, turn.next_k = k, turn.next_v = v, turn.following = 0;
    for (int block = group; BLOCKS == 1 ? block < 1 : block * KEYS < length; block += KEY_GROUPS) {
        turn.barrier = barriers + 16 * block, turn.keys = buffers + block * BUFFER_BYTES;
        turn.left = length - block * KEYS;
        take_some_keys(rows, own_q, turn, true, factor, row_bias + block * KEYS);
    }
    // Every warp of the warpgroup has read its q: the rows become those of the results.
#if KEY_GROUPS > 1
    wait_copies<0>();
    merge_groups(rows, buffers, group);
    if (group > 0) return;
#else
    hopper::named_barrier(1 + warp / 4, 128);
#endif
#else
    arrive<1>();
    // Groups of copies in flight at the top of each turn: v of this turn.
    for (int start = 0, buffer = 0; start < length; start += KEYS, buffer ^= 1) {
        turn.keys = buffers + buffer * BUFFER_BYTES, turn.next = buffers + (buffer ^ 1) * BUFFER_BYTES;
        turn.next_k = k + (size_t)(start + KEYS) * K_STRIDE, turn.next_v = v + (size_t)(start + KEYS) * V_STRIDE;
        turn.left = length - start, turn.following = min(KEYS, turn.left - KEYS);
        if (turn.following > 0) copy_rows<KEYS, K_STRIDE>(turn.next, turn.next_k, turn.following, padded_width(turn.following));
        commit_copies();
        take_some_keys(rows, own_q, turn, busy, factor, row_bias + start);
        arrive<1>();
    }
#endif
    wait_copies<0>();

    const int own = queries - warp * 16;
    if (own > 0) {
        out += (size_t)(first + first_query + warp * 16) * OUT_STRIDE + head * HEAD_DIM;
        store_results(rows, out, q_rows + warp * 16 * ROW, own);
    }
}
