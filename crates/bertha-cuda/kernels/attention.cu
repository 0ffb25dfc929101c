// Attention of each sequence with itself, without a causal mask, in 16-bit floats by mma.sync:
//     out[i] = sum_j softmax_j(scale * q[i] . k[j] + bias[j - i]) v[j],   j over the keys of i's sequence.
//
// q, k, v, out: [tokens, ..] of Element, rows Q_STRIDE, K_STRIDE, V_STRIDE, OUT_STRIDE elements apart, head h at columns
// h * HEAD_DIM ..: separate tensors, or the parts of one packed [tokens, 3, heads, HEAD_DIM]. 16-byte aligned.
// cu_seqlens: int32 [sequences + 1]. work: int2 {sequence, query block of QUERIES}, batch->work_items of them, longest
// sequence first: blocks that take longest start first. bias: f32 [heads, 2 * BIAS_MAX - 1] (RELATIVE_BIAS 1, no
// sequence longer than BIAS_MAX), entry [head][j - i + BIAS_MAX - 1].
//
// A block has one head and QUERIES = 16 * ROW_TILES * WARPS_Q queries of one sequence. Warp (wq, wk) has 16 * ROW_TILES
// of these queries, and every WARPS_K-th group of 16 keys. Its scores stay in registers: accumulators of q k^T become,
// rounded to Element, the left operand of the product with v. Warps without a query are skipped, and so are stripes of
// keys (64 * WARPS_K, or what KEYS allows) beyond the end: a short sequence does not cost a whole tile.
//   ONLINE 0: the sequence is no longer than KEYS; k and v are loaded at once, the maximum of a row is known before the
//     first exponential, nothing is rescaled. ONLINE 1: any length, KEYS at a time in two buffers; sums are rescaled
//     when the maximum of a row grows.
//   WARPS_K > 1 (for few sequences): the warps' maxima, sums and results meet in shared memory; each warp merges some of
//     the columns, the parts in order.
// exp(x) is 2^(x log2 e) with the factor folded into the scale. Row sums are of the unrounded exponentials.
// Shared rows are HEAD_DIM rounded up to 16 plus 8 elements: an odd number of 16-byte chunks, so that the eight rows of
// an ldmatrix lie in different banks without a swizzle, and every address is a base plus a constant. Keys beyond the
// end are zeros there: what lies in memory after a sequence (another one, or garbage) never enters a product.
// All threads load; batch, work list and cu_seqlens are read before the predecessor has ended.
//
// Macros: ELEMENT_F16 | ELEMENT_BF16; HEAD_DIM 8 .. 128, a multiple of 8; KEYS 16 * WARPS_K .. 256, a multiple of that;
//   ROW_TILES 1 | 2; WARPS_Q 1 .. 8; WARPS_K 1 .. 8 (their product at most 8); ONLINE 0 | 1; RELATIVE_BIAS 0 | 1,
//   BIAS_MAX; Q_STRIDE, K_STRIDE, V_STRIDE, OUT_STRIDE, multiples of 8. Registers hold ROW_TILES * KEYS / WARPS_K / 2
//   scores and ROW_TILES * HEAD_DIM / 2 results a thread; ROW_TILES * KEYS / WARPS_K <= 256 (128 with ONLINE 1) keeps
//   clear of spills with HEAD_DIM 64. BLOCKS_PER_SM, default 1: blocks that must fit a multiprocessor's registers.
// Block: 32 * WARPS_Q * WARPS_K threads. Grid: x = heads, y = capacity in work items.
// Dynamic shared memory, with R = 2 * (HEAD_DIM rounded up to 16, + 8) bytes:
//   QUERIES * R + BUFFERS * 2 * KEYS * R, BUFFERS = 1 + ONLINE
//   + RELATIVE_BIAS * 4 * (LONGEST + QUERIES), LONGEST = BIAS_MAX rounded up to 16 if ONLINE, else KEYS
//   but with WARPS_K > 1 at least QUERIES * R + WARPS_K * WARPS_Q * 128 * ROW_TILES * (HEAD_DIM16 / 2 + 4).
// `scale` must be positive.
// Intensity: 4 * HEAD_DIM operations a score and one exponential; k and v are read from memory once per block of
//   queries, q and out once.
#include "activation.cuh"
#include "batch.cuh"
#include "ptx.cuh"

#ifndef BLOCKS_PER_SM
#define BLOCKS_PER_SM 1
#endif

static const int DIM = (HEAD_DIM + 15) / 16 * 16;
static const int THREADS = 32 * WARPS_Q * WARPS_K;
static const int QUERIES = 16 * ROW_TILES * WARPS_Q;
static const int ROW = (DIM + 8) * 2;             // bytes of a shared row
static const int CHUNKS = DIM / 8;                // of a row, without the padding
static const int GROUPS = KEYS / 16 / WARPS_K;    // of 16 keys, of one warp, in registers at once
static const int KEY_TILES = 2 * GROUPS;          // of 8 keys
static const int DIM_TILES = DIM / 8;
// Groups that are computed or skipped together: a stripe without branches keeps the matrix units busy.
static const int STRIPE = GROUPS % 4 == 0 ? 4 : GROUPS % 2 == 0 ? 2 : 1;
static const int STRIPE_KEYS = 16 * WARPS_K * STRIPE;
#define BUFFER_BYTES (2 * KEYS * ROW)  // k, then v
#define MINUS_INFINITY __int_as_float(0xff800000)

extern __shared__ __align__(128) unsigned char shared[];

// What a warp knows of its rows: row g and row g + 8 of each tile (g = lane / 4), columns shared by four lanes.
struct Rows {
    float result[ROW_TILES][DIM_TILES][4];
    float max[ROW_TILES][2];  // of the scaled scores so far, in the exponent of 2
    float sum[ROW_TILES][2];  // of this lane's columns only
};

// Copies `rows` rows (at most LIMIT) of one head to shared memory, and zeros up to a multiple of UNIT rows.
template <int LIMIT, int UNIT, int STRIDE> DEVICE void copy_rows(u32 to, const Element *from, int rows) {
    const int padded = (rows + UNIT - 1) / UNIT * UNIT;
    const int r0 = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS;
    if (THREADS % CHUNKS == 0 && HEAD_DIM == DIM) {
        // A thread keeps its column: all addresses are constants away from two.
        const int step = THREADS / CHUNKS;
        const Element *source = from + (size_t)r0 * STRIDE + c * 8;
        to += r0 * ROW + c * 16;
#pragma unroll
        for (int i = 0; i < (LIMIT + step - 1) / step; i++) {
            const int r = r0 + i * step;
            if (r < padded) copy_async(to + i * step * ROW, source + (size_t)i * step * STRIDE, r < rows);
        }
    } else {
        for (int chunk = threadIdx.x; chunk < padded * CHUNKS; chunk += THREADS) {
            const int row = chunk / CHUNKS, column = chunk % CHUNKS;
            const bool valid = row < rows && column * 8 < HEAD_DIM;
            const Element *source = valid ? from + (size_t)row * STRIDE + column * 8 : from;
            copy_async(to + row * ROW + column * 16, source, valid);
        }
    }
}

// scores = q k^T of this warp's keys in the buffer at `keys`; stripes beyond `left` keys stay zero.
DEVICE void multiply_keys(float (&scores)[ROW_TILES][KEY_TILES][4], const u32 (&q)[ROW_TILES][DIM / 16][4], u32 keys,
                          int warp_k, int left) {
    const int lane = threadIdx.x % 32;
    const u32 base = keys + (lane % 8 + lane / 16 * 8 + warp_k * 16) * ROW + lane / 8 % 2 * 16;
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
#pragma unroll
        for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++) scores[r][n][e] = 0.0f;
        }
    }
#pragma unroll
    for (int stripe = 0; stripe < GROUPS; stripe += STRIPE) {
        if ((stripe * WARPS_K + warp_k) * 16 >= left) break;
#pragma unroll
        for (int d = 0; d < DIM / 16; d++) {
#pragma unroll
            for (int g = stripe; g < stripe + STRIPE; g++) {
                u32 b[4];
                load_matrix_x4(b[0], b[1], b[2], b[3], base + g * WARPS_K * 16 * ROW + d * 32);
#pragma unroll
                for (int r = 0; r < ROW_TILES; r++) {
                    mma_16x8x16<Element>(scores[r][2 * g], q[r][d], b[0], b[1]);
                    mma_16x8x16<Element>(scores[r][2 * g + 1], q[r][d], b[2], b[3]);
                }
            }
        }
    }
}

// Scores become scaled ones with the bias added (then `factor` is 1 afterwards), and -infinity beyond `left` keys.
// `bias` points at the entry for key 0 of the buffer and the block's query 0.
DEVICE void finish_scores(float (&scores)[ROW_TILES][KEY_TILES][4], int warp_q, int warp_k, int left, float factor,
                          const float *bias) {
    const int lane = threadIdx.x % 32;
    if (!RELATIVE_BIAS && left >= KEYS) return;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        const int first = (g * WARPS_K + warp_k) * 16;
#if RELATIVE_BIAS
        if (first < left) {
            const int row = warp_q * 16 * ROW_TILES + lane / 4;
#pragma unroll
            for (int r = 0; r < ROW_TILES; r++) {
#pragma unroll
                for (int n = 0; n < 2; n++) {
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        float &s = scores[r][2 * g + n][e];
                        const int key = first + n * 8 + lane % 4 * 2 + e % 2;
                        s = fmaf(s, factor, bias[key - (row + r * 16 + e / 2 * 8)]);
                    }
                }
            }
        }
#endif
        if (first + 16 > left) {
#pragma unroll
            for (int r = 0; r < ROW_TILES; r++) {
#pragma unroll
                for (int n = 0; n < 2; n++) {
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        if (first + n * 8 + lane % 4 * 2 + e % 2 >= left) scores[r][2 * g + n][e] = MINUS_INFINITY;
                    }
                }
            }
        }
    }
}

// Scores become exponentials; maxima and sums are brought up to date, results rescaled. Every row has a key here.
DEVICE void exponentiate(float (&scores)[ROW_TILES][KEY_TILES][4], Rows &rows, float factor) {
#if RELATIVE_BIAS
    factor = 1.0f;
#endif
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float top = scores[r][0][2 * h];
#pragma unroll
            for (int n = 0; n < KEY_TILES; n++) top = fmaxf(top, fmaxf(scores[r][n][2 * h], scores[r][n][2 * h + 1]));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            top *= factor;
#if ONLINE
            top = fmaxf(top, rows.max[r][h]);
            const float rescale = exp2_approx(rows.max[r][h] - top);
            rows.sum[r][h] *= rescale;
#pragma unroll
            for (int d = 0; d < DIM_TILES; d++) {
                rows.result[r][d][2 * h] *= rescale;
                rows.result[r][d][2 * h + 1] *= rescale;
            }
#endif
            rows.max[r][h] = top;
            float sum[2] = {0.0f, 0.0f};
#pragma unroll
            for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float &s = scores[r][n][2 * h + e];
                    s = exp2_approx(fmaf(s, factor, -top));
                    sum[e] += s;
                }
            }
            rows.sum[r][h] += sum[0] + sum[1];
        }
    }
}

// result += exponentials v.
DEVICE void multiply_values(Rows &rows, const float (&p)[ROW_TILES][KEY_TILES][4], u32 values, int warp_k, int left) {
    const int lane = threadIdx.x % 32;
    const u32 base = values + (lane % 16 + warp_k * 16) * ROW + lane / 16 * 16;
#pragma unroll
    for (int stripe = 0; stripe < GROUPS; stripe += STRIPE) {
        if ((stripe * WARPS_K + warp_k) * 16 >= left) break;
#pragma unroll
        for (int g = stripe; g < stripe + STRIPE; g++) {
            u32 a[ROW_TILES][4];
#pragma unroll
            for (int r = 0; r < ROW_TILES; r++) {
                a[r][0] = pack2<Element>(p[r][2 * g][0], p[r][2 * g][1]);
                a[r][1] = pack2<Element>(p[r][2 * g][2], p[r][2 * g][3]);
                a[r][2] = pack2<Element>(p[r][2 * g + 1][0], p[r][2 * g + 1][1]);
                a[r][3] = pack2<Element>(p[r][2 * g + 1][2], p[r][2 * g + 1][3]);
            }
#pragma unroll
            for (int d = 0; d < DIM_TILES; d += 2) {
                u32 b[4];
                load_matrix_x4_transposed(b[0], b[1], b[2], b[3], base + g * WARPS_K * 16 * ROW + d * 16);
#pragma unroll
                for (int r = 0; r < ROW_TILES; r++) {
                    mma_16x8x16<Element>(rows.result[r][d], a[r], b[0], b[1]);
                    mma_16x8x16<Element>(rows.result[r][d + 1], a[r], b[2], b[3]);
                }
            }
        }
    }
}

// Sums of all four lanes of a row, from those of each.
DEVICE void add_lanes(Rows &rows) {
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float &sum = rows.sum[r][h];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        }
    }
}

// Merges what the warps of the same queries have found and writes it: warp w has every WARPS_K-th tile of 8 columns,
// from w on, and adds the warps' parts in order. All threads call it; k and v are no longer needed.
DEVICE void merge_and_store(Rows &rows, Element *out, int warp_q, int warp_k, int count, unsigned char *area) {
    const int values = ROW_TILES * (DIM_TILES * 4 + 4), lane = threadIdx.x % 32;
    float *of_warps = reinterpret_cast<float *>(area) + warp_q * 32 + lane;
    const int step = 32 * WARPS_Q;  // from one value of a lane to its next
    add_lanes(rows);
    __syncthreads();
    float *to = of_warps + warp_k * values * step;
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
#pragma unroll
        for (int h = 0; h < 2; h++, to += 2 * step) to[0] = rows.max[r][h], to[step] = rows.sum[r][h];
#pragma unroll
        for (int d = 0; d < DIM_TILES; d++) {
#pragma unroll
            for (int e = 0; e < 4; e++, to += step) *to = rows.result[r][d][e];
        }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
        const float *from = of_warps + r * (DIM_TILES * 4 + 4) * step;
        float weight[2][WARPS_K];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            // Warp 0 has the first key, so this is finite; a warp without keys has -infinity and weighs nothing.
            float top = from[2 * h * step], sum = 0.0f;
#pragma unroll
            for (int w = 1; w < WARPS_K; w++) top = fmaxf(top, from[(w * values + 2 * h) * step]);
#pragma unroll
            for (int w = 0; w < WARPS_K; w++) {
                weight[h][w] = exp2_approx(from[(w * values + 2 * h) * step] - top);
                sum = fmaf(from[(w * values + 2 * h + 1) * step], weight[h][w], sum);
            }
#pragma unroll
            for (int w = 0; w < WARPS_K; w++) weight[h][w] /= sum;
        }
#pragma unroll
        for (int i = 0; i < (DIM_TILES + WARPS_K - 1) / WARPS_K; i++) {
            const int d = i * WARPS_K + warp_k;
            if (d * 8 >= HEAD_DIM) break;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float x = 0.0f, y = 0.0f;
#pragma unroll
                for (int w = 0; w < WARPS_K; w++) {
                    const float *part = from + (w * values + 4 + d * 4 + 2 * h) * step;
                    x = fmaf(part[0], weight[h][w], x);
                    y = fmaf(part[step], weight[h][w], y);
                }
                const int row = r * 16 + h * 8 + lane / 4;
                if (row < count) store_pair(out + (size_t)row * OUT_STRIDE + d * 8 + lane % 4 * 2, x, y);
            }
        }
    }
}

// Divides by the sums and writes the warp's rows, through its own rows of q in shared memory: 16 bytes a lane.
DEVICE void store_results(Rows &rows, Element *out, unsigned char *q_rows, int count) {
    const int lane = threadIdx.x % 32;
    add_lanes(rows);
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float inverse = 1.0f / rows.sum[r][h];
            unsigned char *to = q_rows + (r * 16 + h * 8 + lane / 4) * ROW + lane % 4 * 4;
#pragma unroll
            for (int d = 0; d < DIM_TILES; d++) {
                *reinterpret_cast<u32 *>(to + d * 16) =
                    pack2<Element>(rows.result[r][d][2 * h] * inverse, rows.result[r][d][2 * h + 1] * inverse);
            }
        }
    }
    __syncwarp();
    const int chunks = HEAD_DIM / 8;
    for (int chunk = lane; chunk < 16 * ROW_TILES * chunks; chunk += 32) {
        const int r = chunk / chunks, c = chunk % chunks;
        if (r < count) {
            *reinterpret_cast<uint4 *>(out + (size_t)r * OUT_STRIDE + c * 8) =
                *reinterpret_cast<const uint4 *>(q_rows + r * ROW + c * 16);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    attention(Element *out, const Element *q, const Element *k, const Element *v, const int *cu_seqlens,
              const int2 *work, const float *__restrict__ bias, float scale, const Batch *batch) {
    if ((int)blockIdx.y >= batch->work_items) return;
    const int2 item = work[blockIdx.y];
    const int head = blockIdx.x, first = cu_seqlens[item.x], length = cu_seqlens[item.x + 1] - first;
    const int first_query = item.y * QUERIES, queries = min(QUERIES, length - first_query);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warp_q = warp / WARPS_K, warp_k = warp % WARPS_K;
    const float factor = scale * 1.44269504f;
    const u32 q_rows = shared_address(shared), buffers = q_rows + QUERIES * ROW;
    k += (size_t)first * K_STRIDE + head * HEAD_DIM;
    v += (size_t)first * V_STRIDE + head * HEAD_DIM;

    const float *row_bias = nullptr;
#if RELATIVE_BIAS
    // Entry i of the shared slice is for j - i = i - (QUERIES - 1), counted from the block's first query.
    float *slice = reinterpret_cast<float *>(shared + QUERIES * ROW + (1 + ONLINE) * BUFFER_BYTES);
    const float *table = bias + head * (2 * BIAS_MAX - 1) + BIAS_MAX - 1 - first_query - (QUERIES - 1);
    for (int i = threadIdx.x; i < length + QUERIES - 1; i += THREADS) {
        // Queries beyond the sequence would ask for distances that the table does not have.
        const bool known = i - (QUERIES - 1) - first_query > -BIAS_MAX;
        slice[i] = known ? table[i] * 1.44269504f : 0.0f;
    }
    row_bias = slice + QUERIES - 1;
#endif

    wait_for_predecessor();
    release_successor();
    q += (size_t)(first + first_query) * Q_STRIDE + head * HEAD_DIM;
    copy_rows<QUERIES, 16, Q_STRIDE>(q_rows, q, queries);
    copy_rows<KEYS, STRIPE_KEYS, K_STRIDE>(buffers, k, min(KEYS, length));
    commit_copies();
    copy_rows<KEYS, STRIPE_KEYS, V_STRIDE>(buffers + KEYS * ROW, v, min(KEYS, length));
    commit_copies();

    Rows rows;
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
#pragma unroll
        for (int h = 0; h < 2; h++) rows.max[r][h] = MINUS_INFINITY, rows.sum[r][h] = 0.0f;
#pragma unroll
        for (int d = 0; d < DIM_TILES; d++) {
#pragma unroll
            for (int e = 0; e < 4; e++) rows.result[r][d][e] = 0.0f;
        }
    }
    const int own = queries - warp_q * 16 * ROW_TILES;  // of the block's queries, the first of this warp's on
    u32 q_tiles[ROW_TILES][DIM / 16][4];
    float scores[ROW_TILES][KEY_TILES][4];

    wait_copies<1>();
    __syncthreads();
    if (own > 0) {
        const u32 base = q_rows + (warp_q * 16 * ROW_TILES + lane % 16) * ROW + lane / 16 * 16;
#pragma unroll
        for (int r = 0; r < ROW_TILES; r++) {
#pragma unroll
            for (int d = 0; d < DIM / 16; d++) {
                load_matrix_x4(q_tiles[r][d][0], q_tiles[r][d][1], q_tiles[r][d][2], q_tiles[r][d][3],
                               base + r * 16 * ROW + d * 32);
            }
        }
    }
#if ONLINE
    // Groups of copies in flight at the top of each turn: k and v of this block, k already there.
    for (int start = 0, turn = 0; start < length; start += KEYS, turn ^= 1) {
        const int left = length - start;
        const u32 keys = buffers + turn * BUFFER_BYTES, next = buffers + (turn ^ 1) * BUFFER_BYTES;
        const int following = min(KEYS, left - KEYS);
        if (following > 0) copy_rows<KEYS, STRIPE_KEYS, K_STRIDE>(next, k + (size_t)(start + KEYS) * K_STRIDE, following);
        commit_copies();
        const bool busy = own > 0 && warp_k * 16 < left;
        if (busy) {
            multiply_keys(scores, q_tiles, keys, warp_k, left);
            finish_scores(scores, warp_q, warp_k, left, factor, row_bias + start);
            exponentiate(scores, rows, factor);
        }
        wait_copies<1>();
        __syncthreads();
        if (following > 0) {
            copy_rows<KEYS, STRIPE_KEYS, V_STRIDE>(next + KEYS * ROW, v + (size_t)(start + KEYS) * V_STRIDE, following);
        }
        commit_copies();
        if (busy) multiply_values(rows, scores, keys + KEYS * ROW, warp_k, left);
        wait_copies<1>();
        __syncthreads();
    }
    wait_copies<0>();
#else
    const bool busy = own > 0 && warp_k * 16 < length;
    if (busy) {
        multiply_keys(scores, q_tiles, buffers, warp_k, length);
        finish_scores(scores, warp_q, warp_k, length, factor, row_bias);
        exponentiate(scores, rows, factor);
    }
    wait_copies<0>();
    __syncthreads();
    if (busy) multiply_values(rows, scores, buffers + KEYS * ROW, warp_k, length);
#endif

    const int offset = warp_q * 16 * ROW_TILES;
    out += (size_t)(first + first_query + offset) * OUT_STRIDE + head * HEAD_DIM;
    if (WARPS_K > 1) {
        merge_and_store(rows, out, warp_q, warp_k, own, shared + QUERIES * ROW);
    } else if (own > 0) {
        store_results(rows, out, shared + offset * ROW, own);
    }
}
