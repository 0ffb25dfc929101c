//! What hides keys, in the forms that ONNX Runtime's attentions take, as something to add to the scores.

use bertha_graph::{BinaryOp, DType, Dim, Op, TensorData, TensorId};

use super::super::elementwise::{scalar, some};
use crate::onnx::import::context::{NodeContext, Translated};

/// The sizes that a mask is about.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// A tensor whose first dimension is the batch.
    pub(super) batch: TensorId,
    /// A tensor and which of its dimensions counts the keys.
    pub(super) keys: (TensorId, i64),
}

/// The mask `[batch, 1, 1 or queries, keys]`: 0 at visible keys and `hidden` at others.
///
/// A vector of one number for each sequence says how many keys are visible; of two, where the visible ones end and where
/// they begin. Two dimensions tell which keys are visible, three for which query.
pub(super) fn additive(
    node: &mut NodeContext,
    mask: TensorId,
    sizes: Sizes,
    (hidden, dtype): (f32, DType),
) -> Translated<TensorId> {
    let (visible, axes) = match node.rank(mask) {
        1 => (within_bounds(node, mask, sizes)?, vec![1, 2]),
        2 => (positive(node, mask)?, vec![1, 2]),
        3 => (positive(node, mask)?, vec![1]),
        _ => {
            let ty = node.ty(mask);
            let reason = format!("its mask is {ty}; masks of one to three dimensions are supported");
            return Err(reason.into());
        }
    };
    let zero = node.constant("mask_visible", scalar(dtype, 0.0)?)?;
    let hidden = node.constant("mask_hidden", scalar(dtype, f64::from(hidden))?)?;
    let added = node.step("mask_added", Op::Where, &some([visible, zero, hidden]))?;
    let axes = node.int_vector("mask_axes", axes)?;
    node.step("mask", Op::Unsqueeze, &some([added, axes]))
}

/// Numbers above 0 are visible.
fn positive(node: &mut NodeContext, mask: TensorId) -> Translated<TensorId> {
    let dtype = node.dtype(mask);
    if dtype == DType::Bool {
        return Ok(mask);
    }
    let zero = node.constant("mask_zero", scalar(dtype, 0.0)?)?;
    node.binary("mask_is_visible", BinaryOp::Greater, mask, zero)
}

/// Which keys lie within the bounds of their sequence, `[batch, keys]`.
fn within_bounds(node: &mut NodeContext, mask: TensorId, sizes: Sizes) -> Translated<TensorId> {
    let dim = |node: &NodeContext, tensor| node.ty(tensor).shape.dims().first().cloned();
    let (Some(batch), Some(given)) = (dim(node, sizes.batch), dim(node, mask)) else {
        return Err("its mask or its input has no batch".into());
    };
    let mask = node.cast("mask_bounds", mask, DType::I64)?;
    let positions = positions(node, sizes.keys)?;
    if given == batch {
        let ends = column(node, "mask_ends", mask)?;
        return node.binary("mask_is_visible", BinaryOp::Less, positions, ends);
    }
    if given != &batch * &Dim::from(2) {
        return Err(format!(
            "its mask has {given} elements for a batch of {batch}; expected one for each sequence (its length), or two \
             (all ends, then all beginnings)"
        )
        .into());
    }
    let bounds = node.steps("mask_parts", Op::Split { axis: 0, parts: 2 }, &[Some(mask), None], 2)?;
    let [ends, starts] = bounds[..] else { return Err("its mask cannot be cut in two".into()) };
    let (ends, starts) = (column(node, "mask_ends", ends)?, column(node, "mask_starts", starts)?);
    let before_end = node.binary("mask_before_end", BinaryOp::Less, positions, ends)?;
    let after_start = node.binary("mask_after_start", BinaryOp::GreaterOrEqual, positions, starts)?;
    node.binary("mask_is_visible", BinaryOp::And, before_end, after_start)
}

fn column(node: &mut NodeContext, suffix: &str, vector: TensorId) -> Translated<TensorId> {
    let axis = node.int_vector(&format!("{suffix}_axis"), vec![1])?;
    node.step(suffix, Op::Unsqueeze, &some([vector, axis]))
}

/// `0, 1, ..` for each key.
fn positions(node: &mut NodeContext, (of, dimension): (TensorId, i64)) -> Translated<TensorId> {
    let count = Op::Shape { start: dimension, end: Some(dimension + 1) };
    let count = node.step("mask_keys", count, &[Some(of)])?;
    let count = node.step("mask_key_count", Op::Squeeze, &[Some(count)])?;
    let zero = node.constant("mask_first_key", TensorData::scalar(0i64))?;
    let one = node.constant("mask_next_key", TensorData::scalar(1i64))?;
    node.step("mask_positions", Op::Range, &some([zero, count, one]))
}
