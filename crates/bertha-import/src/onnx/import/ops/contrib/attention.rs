//! Attention with its projections, and attention of given queries, keys and values.

use bertha_graph::{AttentionAttrs, BinaryOp, Op, TensorId};

use super::super::elementwise::some;
use super::masks::{self, Sizes};
use super::projection;
use crate::onnx::import::context::{NodeContext, Translated};

/// What the attentions have in common.
pub(super) struct Common {
    pub(super) heads: usize,
    pub(super) scale: Option<f32>,
    pub(super) is_causal: bool,
    /// What is added to the scores of hidden keys.
    pub(super) hidden: f32,
}

impl Common {
    pub(super) fn of(node: &mut NodeContext) -> Translated<Self> {
        let heads = node.count("num_heads", 0)?;
        if heads == 0 {
            return Err("attribute `num_heads` is missing or 0".into());
        }
        Ok(Common {
            heads,
            // 0 stands for the default.
            scale: node.float("scale")?.filter(|scale| *scale != 0.0),
            is_causal: node.flag("unidirectional", false)?,
            hidden: node.float_or("mask_filter_value", -10_000.0)?,
        })
    }

    /// Emits the attention over `[batch, seq, heads * head_dim]`.
    pub(super) fn emit(
        &self,
        node: &mut NodeContext,
        [q, k, v]: [TensorId; 3],
        mask: Option<TensorId>,
    ) -> Translated {
        let op = Op::Attention(AttentionAttrs {
            q_heads: self.heads,
            kv_heads: self.heads,
            scale: self.scale,
            is_causal: self.is_causal,
            softcap: 0.0,
            scores_mode: 0,
            softmax_precision: None,
        });
        node.emit_as(0, op, &[Some(q), Some(k), Some(v), mask])
    }

    /// The mask of input `mask` and the bias of input `bias`, which is added to the scores as well.
    pub(super) fn mask(
        &self,
        node: &mut NodeContext,
        (mask, bias): (usize, Option<usize>),
        q: TensorId,
        keys: (TensorId, i64),
    ) -> Translated<Option<TensorId>> {
        let dtype = node.dtype(q);
        let mask = match node.optional(mask)? {
            None => None,
            Some(mask) => Some(masks::additive(node, mask, Sizes { batch: q, keys }, (self.hidden, dtype))?),
        };
        let bias = match bias {
            None => None,
            Some(bias) => node.optional(bias)?,
        };
        Ok(match (mask, bias) {
            (Some(mask), Some(bias)) => Some(node.binary("masks", BinaryOp::Add, mask, bias)?),
            (mask, bias) => mask.or(bias),
        })
    }
}

/// Inputs and outputs that only decoders have.
pub(super) fn refuse_cache(node: &NodeContext, inputs: &[(usize, &str)], outputs: &[usize]) -> Translated {
    if let Some((_, name)) = inputs.iter().find(|(index, _)| node.has_input(*index)) {
        return Err(format!("input `{name}` is for decoders, which are not supported").into());
    }
    if outputs.iter().any(|index| node.has_output(*index)) {
        return Err(
            "it gives keys and values for a decoder's cache, or its scores; neither is supported".into()
        );
    }
    Ok(())
}

/// Attributes that only decoders have.
pub(super) fn refuse_decoder_attributes(node: &mut NodeContext) -> Translated {
    for name in ["do_rotary", "past_present_share_buffer"] {
        if node.flag(name, false)? {
            return Err(format!("attribute `{name}` is for decoders, which are not supported").into());
        }
    }
    Ok(())
}

/// The widths of queries, keys and values in a weight with so many columns.
pub(super) fn widths(node: &mut NodeContext, weight: usize) -> Translated<[usize; 3]> {
    let weight = node.input(weight)?;
    let columns = node.ty(weight).shape.dims().last().and_then(|columns| columns.as_const());
    let columns = columns.and_then(|columns| usize::try_from(columns).ok());
    match columns {
        Some(columns) if columns % 3 == 0 => Ok([columns / 3; 3]),
        _ => Err(format!("its weight is {}; expected three equal parts", node.ty(weight)).into()),
    }
}

pub(super) fn attention(node: &mut NodeContext) -> Translated {
    let common = Common::of(node)?;
    refuse_decoder_attributes(node)?;
    node.int("rotary_embedding_dim")?; // only read with do_rotary
    refuse_cache(node, &[(4, "past"), (6, "past_sequence_length")], &[1])?;
    let widths = match node.ints("qkv_hidden_sizes")? {
        None => widths(node, 1)?,
        Some(sizes) => {
            let sizes: Option<Vec<usize>> = sizes.iter().map(|size| usize::try_from(*size).ok()).collect();
            let sizes = sizes.and_then(|sizes| <[usize; 3]>::try_from(sizes).ok());
            sizes.ok_or("attribute `qkv_hidden_sizes` must be three sizes")?
        }
    };
    let x = node.input(0)?;
    let parts = projection::products(node, x, (1, 2), widths)?;
    let mask = common.mask(node, (3, Some(5)), x, (x, 1))?;
    common.emit(node, parts, mask)
}

pub(super) fn multi_head_attention(node: &mut NodeContext) -> Translated {
    let common = Common::of(node)?;
    let cache = [(6, "past_key"), (7, "past_value"), (8, "past_sequence_length"), (9, "cache_indirection")];
    refuse_cache(node, &cache, &[1, 2, 3])?;
    let mut parts = operands(node, &common)?;
    if node.has_input(3) {
        let biases = biases(node, &parts)?;
        for ((part, bias), name) in parts.iter_mut().zip(biases).zip(["query", "key", "value"]) {
            *part = node.binary(&format!("{name}_biased"), BinaryOp::Add, *part, bias)?;
        }
    }
    let [q, k, _] = parts;
    let mask = common.mask(node, (4, Some(5)), q, (k, 1))?;
    common.emit(node, parts, mask)
}

/// Queries, keys and values as `[batch, seq, heads * head_dim]`: given so, or with heads on their own, or joined.
fn operands(node: &mut NodeContext, common: &Common) -> Translated<[TensorId; 3]> {
    let (q, k, v) = (node.input(0)?, node.optional(1)?, node.optional(2)?);
    let ranks = (node.rank(q), k.map(|k| node.rank(k)), v.map(|v| node.rank(v)));
    match (ranks, k, v) {
        ((3, Some(3), Some(3)), Some(k), Some(v)) => Ok([q, k, v]),
        // Keys and values [batch, heads, seq, head_dim].
        ((3, Some(4), Some(4)), Some(k), Some(v)) => {
            if node.has_input(3) {
                return Err("a bias with keys and values in four dimensions is not supported".into());
            }
            let mut merged = [q; 3];
            for (index, (tensor, name)) in [(k, "keys"), (v, "values")].into_iter().enumerate() {
                let transposed = Op::Transpose { perm: vec![0, 2, 1, 3] };
                let rows = node.step(&format!("{name}_by_position"), transposed, &[Some(tensor)])?;
                merged[index + 1] = merge_heads(node, name, rows)?;
            }
            Ok(merged)
        }
        _ => Err(format!(
            "its queries, keys and values have {ranks:?} dimensions, with {} heads; expected 3, 3 and 3, or 3, 4 and 4",
            common.heads
        )
        .into()),
    }
}

/// `[batch, seq, heads, head_dim]` as `[batch, seq, heads * head_dim]`.
fn merge_heads(node: &mut NodeContext, suffix: &str, x: TensorId) -> Translated<TensorId> {
    let shape = node.int_vector(&format!("{suffix}_shape"), vec![0, 0, -1])?;
    node.step(suffix, Op::Reshape { allow_zero: false }, &some([x, shape]))
}

/// The three parts of the bias.
fn biases(node: &mut NodeContext, parts: &[TensorId; 3]) -> Translated<[TensorId; 3]> {
    let mut widths = [0; 3];
    for (width, part) in widths.iter_mut().zip(parts) {
        let last = node.ty(*part).shape.dims().last().and_then(|last| last.as_const());
        let last = last.and_then(|last| usize::try_from(last).ok());
        *width = last.ok_or("the width of queries, keys or values is not known before the graph runs")?;
    }
    let Some(bias) = node.constant_input(3)? else {
        let bias = node.input(3)?;
        return projection::split(node, bias, widths);
    };
    let [q, k, v] = projection::columns(&bias, widths)?;
    Ok([node.constant("query.bias", q)?, node.constant("key.bias", k)?, node.constant("value.bias", v)?])
}
