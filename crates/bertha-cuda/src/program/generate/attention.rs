//! Attention over dense tensors, with a mask: a warp for each query. Each lane takes a key at a time for the scores and
//! columns of the values for the result; scores, exponentials and sums are f32.

use bertha_graph::{AttentionAttrs, Dim, Node, Shape, TensorId};

use super::code::{Code, fill, kernel, stored};
use super::{Draft, Generated, Source, THREADS};
use crate::program::Storage;
use crate::program::lower::{Lowered, Lowering, operand};

/// The widest head whose queries and sums fit.
const WIDEST_HEAD: i64 = 512;

/// Sizes of an operand as batch, heads, positions and width, and its strides in that order.
struct View {
    sizes: [Dim; 4],
    strides: [Dim; 4],
}

impl View {
    /// `[batch, heads, seq, width]`, or `[batch, seq, heads * width]` when `heads` is not 0.
    fn of(dims: &[Dim], heads: usize) -> Lowered<Self> {
        let product = |a: &Dim, b: &Dim| a * b;
        match (dims, heads) {
            ([batch, heads, seq, width], 0) => {
                let head = product(seq, width);
                let strides = [product(heads, &head), head, width.clone(), Dim::from(1)];
                Ok(View { sizes: [batch, heads, seq, width].map(Dim::clone), strides })
            }
            ([batch, seq, hidden], 1..) => {
                let count = Dim::from(heads);
                let width = hidden.exact_div(&count).ok_or("heads that do not divide the features")?;
                let strides = [product(seq, hidden), width.clone(), hidden.clone(), Dim::from(1)];
                Ok(View { sizes: [batch.clone(), count, seq.clone(), width], strides })
            }
            _ => Err(format!("attention over {}", Shape(dims.to_vec()))),
        }
    }
}

pub(super) fn generate(
    lowering: &mut Lowering<'_>,
    node: &Node,
    y: TensorId,
    attrs: &AttentionAttrs,
) -> Lowered<Generated> {
    if (4..7).any(|index| operand(node, index).is_some()) || node.outputs.iter().skip(1).any(Option::is_some)
    {
        return Err("attention with keys of earlier runs, or with its scores as a result".into());
    }
    let mut sources =
        (0..3).map(|index| Source::of(lowering, node, index)).collect::<Lowered<Vec<Source>>>()?;
    let heads = [attrs.q_heads, attrs.kv_heads, attrs.kv_heads];
    let views = sources.iter().zip(heads).map(|(source, heads)| View::of(&source.dims, heads));
    let views = views.collect::<Lowered<Vec<View>>>()?;
    let [q, k, v] = views.as_slice() else { return Err("attention without its operands".into()) };
    let y_dims = lowering.graph.tensor(y).ty.shape.dims().to_vec();
    let result = View::of(&y_dims, attrs.q_heads)?;
    let [batch, q_heads, queries, width] = &q.sizes;
    let [_, kv_heads, keys, _] = &k.sizes;
    let v_width = &v.sizes[3];
    let head = |dim: &Dim| dim.as_const().filter(|width| (1..=WIDEST_HEAD).contains(width));
    let (Some(head_dim), Some(v_head_dim)) = (head(width), head(v_width)) else {
        return Err(format!("attention with heads of {width} and {v_width} features"));
    };
    let group = q_heads.exact_div(kv_heads).ok_or("query heads that share no key heads evenly")?;
    let scale = attrs.scale.unwrap_or(1.0 / (head_dim as f32).sqrt());
    let mut code = Code::new(false);
    let sizes = [batch, q_heads, queries, keys, &group].map(|dim| code.size(dim));
    let [_, head_count, query_count, key_count, group] = sizes;
    let mut strides = |view: &View| -> Lowered<Vec<String>> {
        view.strides[..3].iter().map(|dim| code.size(dim)).collect()
    };
    let (q, k, v, result) = (strides(q)?, strides(k)?, strides(v)?, strides(&result)?);
    let mask = match operand(node, 3) {
        None => String::new(),
        Some(_) => {
            let source = Source::of(lowering, node, 3)?;
            let to = [batch, q_heads, queries, keys].map(Dim::clone);
            let at = code.broadcast_at(&source.dims, &to, &["batch", "head", "query", "key"])?;
            let line = match source.storage {
                Storage::Bool => format!("if (!x3[{at}]) score = minus_infinity;"),
                storage if storage.is_float() => format!("score += x3[{at}];"),
                storage => return Err(format!("attention with a mask of {}", storage.c_name())),
            };
            sources.push(source);
            line
        }
    };
    let work = [batch, q_heads, queries].into_iter().fold(Dim::from(1), |product, dim| &product * dim);
    let rows = code.size(&work)?;
    let cap = match attrs.softcap {
        cap if cap > 0.0 => format!("score = {cap:e}f * tanhf(score / {cap:e}f);"),
        _ => String::new(),
    };
    let causal = if attrs.is_causal { "if (key > query) score = minus_infinity;" } else { "" };
    let storage = if lowering.is_for_the_caller(y) { Storage::F32 } else { lowering.activations() };
    let at = |strides: &[String], head: &str| format!("batch * {} + {head} * {}", strides[0], strides[1]);
    let body = fill(
        BODY,
        &[
            ("head_dim", &head_dim.to_string()),
            ("v_head_dim", &v_head_dim.to_string()),
            ("rows", &rows),
            ("heads", &head_count?),
            ("queries", &query_count?),
            ("keys", &key_count?),
            ("group", &group?),
            ("q_at", &at(&q, "head")),
            ("q_stride", &q[2]),
            ("k_at", &at(&k, "kv_head")),
            ("k_stride", &k[2]),
            ("v_at", &at(&v, "kv_head")),
            ("v_stride", &v[2]),
            ("y_at", &at(&result, "head")),
            ("y_stride", &result[2]),
            ("scale", &format!("{scale:e}f")),
            ("softcap", &cap),
            ("mask", &mask),
            ("causal", causal),
            ("stored", &stored(storage, "sums[part] / total")),
        ],
    )?;
    let operands: Vec<Storage> = sources.iter().map(|source| source.storage).collect();
    let kernel = kernel(&code, "bertha_attention", &operands, storage, &body);
    Draft { sources, storage, kernel, code, work, per_block: THREADS / 32 }.finish(lowering, node, y)
}

/// A query that sees no key has zeros, as the op is defined.
const BODY: &str = "    __shared__ float queries_of_block[8][$head_dim];
    constexpr int parts = ($v_head_dim + 31) / 32;
    const float minus_infinity = __int_as_float(0xff800000);
    float *mine = queries_of_block[threadIdx.x / 32];
    const int lane = threadIdx.x % 32;
    for (long long row = blockIdx.x * 8ll + threadIdx.x / 32; row < $rows; row += gridDim.x * 8ll) {
        const long long query = row % $queries, head = row / $queries % $heads, batch = row / $queries / $heads;
        const long long kv_head = head / $group, keys = $keys;
        const long long q_start = $q_at + query * $q_stride, y_start = $y_at + query * $y_stride;
        const long long k_start = $k_at, v_start = $v_at;
        __syncwarp();
        for (int column = lane; column < $head_dim; column += 32) mine[column] = x0[q_start + column];
        __syncwarp();
        float sums[parts];
        for (int part = 0; part < parts; ++part) sums[part] = 0.0f;
        float largest = minus_infinity, total = 0.0f;
        for (long long first = 0; first < keys; first += 32) {
            const long long key = first + lane;
            float score = minus_infinity;
            if (key < keys) {
                score = 0.0f;
                for (int column = 0; column < $head_dim; ++column)
                    score += mine[column] * x1[k_start + key * $k_stride + column];
                score *= $scale;
                $softcap
                $mask
                $causal
            }
            const float highest = fmaxf(largest, max_of_warp(score));
            if (highest == minus_infinity) continue;
            const float share = expf(score - highest), shrink = expf(largest - highest);
            largest = highest;
            total = total * shrink + sum_of_warp(share);
            for (int part = 0; part < parts; ++part) sums[part] *= shrink;
            const int count = (int)(keys - first < 32 ? keys - first : 32);
            for (int other = 0; other < count; ++other) {
                const float weight = __shfl_sync(0xffffffffu, share, other);
                for (int part = 0; part < parts; ++part)
                    if (part * 32 + lane < $v_head_dim)
                        sums[part] += weight * x2[v_start + (first + other) * $v_stride + part * 32 + lane];
            }
        }
        if (total == 0.0f) total = 1.0f;
        for (int part = 0; part < parts; ++part)
            if (part * 32 + lane < $v_head_dim) y[y_start + part * 32 + lane] = $stored;
    }
";
