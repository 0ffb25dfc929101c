//! Attention over padded tensors, and rotary position embedding.

use bertha_graph::{AttentionAttrs, BinaryOp, DType, Op, PadMode, TensorData, TensorId};

use super::super::context::{NodeContext, Translated};
use super::super::dtypes;
use super::elementwise::{scalar, some};

pub(super) fn rotary_embedding(node: &mut NodeContext) -> Translated {
    let op = Op::RotaryEmbedding {
        interleaved: node.flag("interleaved", false)?,
        heads: node.count("num_heads", 0)?,
        rotary_dim: node.count("rotary_embedding_dim", 0)?,
    };
    node.emit_plain(op)
}

/// Positions of the inputs.
mod input {
    pub(super) const Q: usize = 0;
    pub(super) const K: usize = 1;
    pub(super) const MASK: usize = 3;
    pub(super) const PAST_KEY: usize = 4;
    pub(super) const NONPAD_KV_SEQLEN: usize = 6;
}

pub(super) fn attention(node: &mut NodeContext) -> Translated {
    let mode = node.int_or("qk_matmul_output_mode", 0)?;
    let scores_mode = u8::try_from(mode).ok().filter(|mode| *mode <= 3);
    let softmax_precision = match node.int_or("softmax_precision", 0)? {
        0 => None,
        code => {
            let dtype = dtypes::dtype(code)
                .map_err(|what| format!("computes softmax of {what}, which are not supported"))?;
            Some(dtype)
        }
    };
    let attrs = AttentionAttrs {
        q_heads: node.count("q_num_heads", 0)?,
        kv_heads: node.count("kv_num_heads", 0)?,
        scale: node.float("scale")?,
        is_causal: node.flag("is_causal", false)?,
        softcap: node.float_or("softcap", 0.0)?,
        scores_mode: scores_mode
            .ok_or_else(|| format!("attribute `qk_matmul_output_mode` is {mode}, not 0 to 3"))?,
        softmax_precision,
    };
    let (left, right) = if node.opset >= 25 {
        (window(node, "left_window_size")?, window(node, "right_window_size")?)
    } else {
        (None, None)
    };
    if node.opset < 24 && node.has_input(input::NONPAD_KV_SEQLEN) {
        return Err(format!("operator set {} has no input nonpad_kv_seqlen", node.opset).into());
    }
    let mut inputs = node.inputs()?;
    if left.is_some() || right.is_some() {
        let mask = window_mask(node, left, right)?;
        inputs.resize(inputs.len().max(input::MASK + 1), None);
        inputs[input::MASK] = Some(mask);
    }
    node.emit(Op::Attention(attrs), &inputs)
}

/// The size of a window; -1 is none.
fn window(node: &mut NodeContext, name: &'static str) -> Translated<Option<i64>> {
    match node.int_or(name, -1)? {
        -1 => Ok(None),
        size if size >= 0 => Ok(Some(size)),
        size => Err(format!("attribute `{name}` is {size}; it must be -1 or more").into()),
    }
}

/// The mask that the node has, narrowed to keys `j` with `p - left <= j <= p + right` for a query at position `p`.
///
/// A window is a mask whatever the other attributes say, so the graph needs no notion of it.
fn window_mask(node: &mut NodeContext, left: Option<i64>, right: Option<i64>) -> Translated<TensorId> {
    let keys = total_keys(node)?;
    let queries = query_positions(node)?;
    let key_positions = positions(node, "keys", keys)?;
    let mut visible = None;
    if let Some(left) = left {
        let left = node.constant("left", TensorData::scalar(left))?;
        let oldest = node.binary("oldest", BinaryOp::Sub, queries, left)?;
        visible = Some(node.binary("not_too_old", BinaryOp::GreaterOrEqual, key_positions, oldest)?);
    }
    if let Some(right) = right {
        let right = node.constant("right", TensorData::scalar(right))?;
        let newest = node.binary("newest", BinaryOp::Add, queries, right)?;
        let not_too_new = node.binary("not_too_new", BinaryOp::LessOrEqual, key_positions, newest)?;
        visible = Some(match visible {
            None => not_too_new,
            Some(not_too_old) => node.binary("window", BinaryOp::And, not_too_old, not_too_new)?,
        });
    }
    let visible = visible.ok_or("the window has no bound")?;
    let Some(mask) = node.optional(input::MASK)? else { return Ok(visible) };
    let hidden = match node.dtype(mask) {
        DType::Bool => TensorData::from_bools(Vec::new(), &[false]).map_err(|error| error.to_string())?,
        float => scalar(float, f64::NEG_INFINITY)?,
    };
    let hidden = node.constant("hidden", hidden)?;
    let mask = full_length(node, mask, keys, hidden)?;
    node.step("mask", Op::Where, &some([visible, mask, hidden]))
}

/// One dimension of a tensor, as a vector of one.
fn dimension(node: &mut NodeContext, suffix: &str, of: TensorId, at: i64) -> Translated<TensorId> {
    let end = if at == -1 { None } else { Some(at + 1) };
    node.step(suffix, Op::Shape { start: at, end }, &[Some(of)])
}

/// `0, 1, ...` up to a count that is a vector of one.
fn positions(node: &mut NodeContext, suffix: &str, count: TensorId) -> Translated<TensorId> {
    let limit = node.step(&format!("{suffix}_limit"), Op::Squeeze, &[Some(count)])?;
    let zero = node.constant("zero", TensorData::scalar(0i64))?;
    let one = node.constant("one", TensorData::scalar(1i64))?;
    node.step(suffix, Op::Range, &some([zero, limit, one]))
}

/// Number of keys, those of the past included, as a vector of one.
fn total_keys(node: &mut NodeContext) -> Translated<TensorId> {
    let k = node.input(input::K)?;
    let new = dimension(node, "new_keys", k, -2)?;
    match node.optional(input::PAST_KEY)? {
        None => Ok(new),
        Some(past) => {
            let past = dimension(node, "past_keys", past, -2)?;
            node.binary("all_keys", BinaryOp::Add, past, new)
        }
    }
}

/// Positions of the queries among the keys, `[queries, 1]`, or `[batch, 1, queries, 1]` with an external cache.
fn query_positions(node: &mut NodeContext) -> Translated<TensorId> {
    let q = node.input(input::Q)?;
    let count = dimension(node, "queries", q, -2)?;
    let index = positions(node, "query_index", count)?;
    let last = node.int_vector("last", vec![-1])?;
    let index = node.step("query_column", Op::Unsqueeze, &some([index, last]))?;
    if let Some(past) = node.optional(input::PAST_KEY)? {
        let past = dimension(node, "offset", past, -2)?;
        return node.binary("query_positions", BinaryOp::Add, index, past);
    }
    if let Some(valid) = node.optional(input::NONPAD_KV_SEQLEN)? {
        let valid = node.cast("valid_keys", valid, DType::I64)?;
        let offset = node.binary("offset", BinaryOp::Sub, valid, count)?;
        let column = node.int_vector("column", vec![1, 2, 3])?;
        let offset = node.step("offset_column", Op::Unsqueeze, &some([offset, column]))?;
        return node.binary("query_positions", BinaryOp::Add, index, offset);
    }
    Ok(index)
}

/// A mask may end before the keys do; what it leaves out is hidden.
fn full_length(
    node: &mut NodeContext,
    mask: TensorId,
    keys: TensorId,
    hidden: TensorId,
) -> Translated<TensorId> {
    let rank = node.rank(mask);
    let length = node.ty(mask).shape.dims().last().cloned();
    let all = node.graph.tensor(keys).value.as_ref().and_then(|value| value.first().cloned());
    if rank == 0 {
        return Err("the mask has no dimension for the keys".into());
    }
    if length.is_some() && length == all {
        return Ok(mask);
    }
    let length = dimension(node, "mask_keys", mask, -1)?;
    let missing = node.binary("missing_keys", BinaryOp::Sub, keys, length)?;
    let nothing = node.int_vector("no_pads", vec![0; 2 * rank - 1])?;
    let pads = node.step("mask_pads", Op::Concat { axis: 0 }, &some([nothing, missing]))?;
    node.step("full_mask", Op::Pad { mode: PadMode::Constant }, &some([mask, pads, hidden]))
}
