//! Reductions along axes, and the normalisations built on them.

use bertha_graph::{BinaryOp, DType, Op, ReduceOp, TensorId, UnaryOp};

use super::super::context::{NodeContext, Translated};
use super::elementwise::{scalar, some};

pub(super) fn reduce_sum(node: &mut NodeContext) -> Translated {
    reduce(node, ReduceOp::Sum, 13)
}

pub(super) fn reduce_mean(node: &mut NodeContext) -> Translated {
    reduce(node, ReduceOp::Mean, 18)
}

pub(super) fn reduce_prod(node: &mut NodeContext) -> Translated {
    reduce(node, ReduceOp::Prod, 18)
}

fn reduce(node: &mut NodeContext, op: ReduceOp, axes_input_since: i64) -> Translated {
    let x = node.input(0)?;
    let (op, axes) = form(node, op, axes_input_since)?;
    node.emit(op, &[Some(x), axes])
}

/// The reduction and its axes, which are an attribute before the version `axes_input_since`, an input from then on.
pub(super) fn form(
    node: &mut NodeContext,
    op: ReduceOp,
    axes_input_since: i64,
) -> Translated<(Op, Option<TensorId>)> {
    let keep_dims = node.flag("keepdims", true)?;
    let (axes, noop_with_empty_axes) = if node.opset >= axes_input_since {
        (node.optional(1)?, node.flag("noop_with_empty_axes", false)?)
    } else if node.has_input(1) {
        return Err(format!("operator set {} does not have an input for the axes", node.opset).into());
    } else {
        (axes_attribute(node)?, false)
    };
    Ok((Op::Reduce { op, keep_dims, noop_with_empty_axes }, axes))
}

/// No axes, given or not, means all of them.
fn axes_attribute(node: &mut NodeContext) -> Translated<Option<TensorId>> {
    match node.ints("axes")? {
        Some(axes) if !axes.is_empty() => Ok(Some(node.int_vector("axes", axes)?)),
        _ => Ok(None),
    }
}

pub(super) fn cumsum(node: &mut NodeContext) -> Translated {
    let (exclusive, reverse) = (node.flag("exclusive", false)?, node.flag("reverse", false)?);
    node.emit_plain(Op::CumSum { exclusive, reverse })
}

/// Before version 13 softmax runs over all dimensions from `axis` on, taken as one.
pub(super) fn softmax(node: &mut NodeContext) -> Translated {
    let axis = node.int_or("axis", if node.opset >= 13 { -1 } else { 1 })?;
    let x = node.input(0)?;
    let rank = node.rank(x);
    let first = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    if node.opset >= 13 || first + 1 == rank as i64 {
        return node.emit(Op::Softmax { axis }, &[Some(x)]);
    }
    let first = usize::try_from(first).ok().filter(|first| *first <= rank);
    let first =
        first.ok_or_else(|| format!("axis {axis} is not one of the {rank} dimensions of the input"))?;
    let (flat_shape, shape) = flattened(node, x, first)?;
    let flat = node.step("flat", Op::Reshape { allow_zero: false }, &[Some(x), Some(flat_shape)])?;
    let flat = node.step("softmax", Op::Softmax { axis: -1 }, &[Some(flat)])?;
    node.emit(Op::Reshape { allow_zero: true }, &[Some(flat), Some(shape)])
}

/// The shape in which the dimensions from `first` on are one, and the shape to go back to.
fn flattened(node: &mut NodeContext, x: TensorId, first: usize) -> Translated<(TensorId, TensorId)> {
    let mut tail = node.ty(x).shape.dims().iter().skip(first).map(|dim| dim.as_const());
    let tail: Option<i64> = tail.try_fold(1i64, |product, dim| product.checked_mul(dim?));
    // 0 copies a dimension; -1 is what the others leave, which needs no name when the sizes are known.
    let mut flat = vec![0; first];
    flat.push(tail.unwrap_or(-1));
    let flat = node.int_vector("flat_shape", flat)?;
    let shape = node.step("shape", Op::Shape { start: 0, end: None }, &[Some(x)])?;
    Ok((flat, shape))
}

pub(super) fn layer_normalization(node: &mut NodeContext) -> Translated {
    let axis = node.int_or("axis", -1)?;
    let epsilon = node.float_or("epsilon", 1e-5)?;
    let stash_type = node.int_or("stash_type", 1)?;
    if stash_type != 1 && (node.has_output(1) || node.has_output(2)) {
        return Err(format!(
            "attribute `stash_type` is {stash_type}: mean and inverse deviation are only given in f32 (1)"
        )
        .into());
    }
    node.emit_plain(Op::LayerNorm { axis, epsilon })
}

/// `x / sqrt(mean(x^2) + epsilon) * scale` over the dimensions from `axis` on, also called RMSNorm.
pub(super) fn rms_normalization(node: &mut NodeContext) -> Translated {
    let axis = node.int_or("axis", -1)?;
    let epsilon = node.float_or("epsilon", 1e-5)?;
    node.int("stash_type")?; // f32 or the type of x; 16-bit floats are computed in f32 here
    if node.has_output(1) {
        return Err("the inverse deviation is for training, and not given here".into());
    }
    let (x, scale) = (node.input(0)?, node.input(1)?);
    let normal = root_mean_square(node, x, axis, epsilon)?;
    node.emit_as(0, Op::Binary(BinaryOp::Mul), &some([normal, scale]))
}

/// `x / sqrt(mean(x^2) + epsilon)` over the dimensions from `axis` on; 16-bit floats are computed in f32.
pub(super) fn root_mean_square(
    node: &mut NodeContext,
    x: TensorId,
    axis: i64,
    epsilon: f32,
) -> Translated<TensorId> {
    let (dtype, rank) = (node.dtype(x), node.rank(x) as i64);
    let first = if axis < 0 { axis.saturating_add(rank) } else { axis };
    if !(0..rank).contains(&first) {
        return Err(format!("axis {axis} is not one of the {rank} dimensions of the input").into());
    }
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let x = node.cast("wide", x, wide)?;
    let square = node.binary("square", BinaryOp::Mul, x, x)?;
    let axes = node.int_vector("axes", (first..rank).collect())?;
    let mean = Op::Reduce { op: ReduceOp::Mean, keep_dims: true, noop_with_empty_axes: false };
    let mean = node.step("mean_square", mean, &some([square, axes]))?;
    let epsilon = node.constant("epsilon", scalar(wide, f64::from(epsilon))?)?;
    let sum = node.binary("mean_square_epsilon", BinaryOp::Add, mean, epsilon)?;
    let root = node.step("root", Op::Unary(UnaryOp::Sqrt), &[Some(sum)])?;
    let normal = node.binary("normal", BinaryOp::Div, x, root)?;
    node.cast("narrow", normal, dtype)
}
