//! Ops that are a few others: exporters write them now and then, and nothing behind the importer needs to know them.

use bertha_graph::{BinaryOp, Op, ReduceOp, TensorId, UnaryOp};

use super::super::context::{IDENTITY, NodeContext, Translated};
use super::elementwise::some;
use super::reduce;

const NOT: Op = Op::Unary(UnaryOp::Not);

pub(super) fn cast_like(node: &mut NodeContext) -> Translated {
    // Both say how to round to 8-bit floats, which do not occur.
    node.flag("saturate", true)?;
    node.string("round_mode")?;
    let (x, like) = (node.input(0)?, node.input(1)?);
    let to = node.dtype(like);
    node.emit(Op::Cast { to }, &[Some(x)])
}

/// Two dimensions: those before `axis`, and the rest.
pub(super) fn flatten(node: &mut NodeContext) -> Translated {
    let axis = node.int_or("axis", 1)?;
    let x = node.input(0)?;
    let rank = node.rank(x) as i64;
    let first = if axis < 0 { axis.saturating_add(rank) } else { axis };
    if !(0..=rank).contains(&first) {
        return Err(format!("axis {axis} is not one of the {rank} dimensions of the input").into());
    }
    let leading = product(node, x, 0, first, "leading")?;
    let trailing = product(node, x, first, rank, "trailing")?;
    let shape = node.step("shape", Op::Concat { axis: 0 }, &some([leading, trailing]))?;
    node.emit(Op::Reshape { allow_zero: true }, &some([x, shape]))
}

/// The product of the dimensions `start..end` as a vector of one.
fn product(node: &mut NodeContext, x: TensorId, start: i64, end: i64, suffix: &str) -> Translated<TensorId> {
    let dims = node.step(&format!("{suffix}_dims"), Op::Shape { start, end: Some(end) }, &[Some(x)])?;
    let op = Op::Reduce { op: ReduceOp::Prod, keep_dims: true, noop_with_empty_axes: false };
    node.step(suffix, op, &[Some(dims)])
}

/// Number of elements.
pub(super) fn size(node: &mut NodeContext) -> Translated {
    let x = node.input(0)?;
    let shape = node.step("shape", Op::Shape { start: 0, end: None }, &[Some(x)])?;
    let op = Op::Reduce { op: ReduceOp::Prod, keep_dims: false, noop_with_empty_axes: false };
    node.emit(op, &[Some(shape)])
}

/// Dropout does nothing but in training.
pub(super) fn dropout(node: &mut NodeContext) -> Translated {
    node.float("ratio")?;
    node.int("seed")?;
    if let Some(training) = node.optional(2)? {
        let data = node.graph.tensor(training).constant();
        if data.and_then(|data| data.as_bools().ok()) != Some(vec![false]) {
            return Err("drops elements out as in training; export the model for inference".into());
        }
    }
    if node.has_output(1) {
        return Err("the mask of what is dropped out is not supported; export the model for inference".into());
    }
    let x = node.input(0)?;
    node.emit(IDENTITY, &[Some(x)])
}

pub(super) fn exp(node: &mut NodeContext) -> Translated {
    node.emit_plain(Op::Unary(UnaryOp::Exp))
}

/// The largest integer below, by way of the smallest above.
pub(super) fn floor(node: &mut NodeContext) -> Translated {
    let x = node.input(0)?;
    let negative = node.step("negative", Op::Unary(UnaryOp::Neg), &[Some(x)])?;
    let ceiling = node.step("ceiling", Op::Unary(UnaryOp::Ceil), &[Some(negative)])?;
    node.emit(Op::Unary(UnaryOp::Neg), &[Some(ceiling)])
}

/// One of two holds unless both do not.
pub(super) fn or(node: &mut NodeContext) -> Translated {
    let (a, b) = (node.input(0)?, node.input(1)?);
    let not_a = node.step("not_a", NOT, &[Some(a)])?;
    let not_b = node.step("not_b", NOT, &[Some(b)])?;
    let neither = node.step("neither", Op::Binary(BinaryOp::And), &some([not_a, not_b]))?;
    node.emit(NOT, &[Some(neither)])
}

pub(super) fn xor(node: &mut NodeContext) -> Translated {
    let (a, b) = (node.input(0)?, node.input(1)?);
    let same = node.step("same", Op::Binary(BinaryOp::Equal), &some([a, b]))?;
    node.emit(NOT, &[Some(same)])
}

pub(super) fn reduce_l2(node: &mut NodeContext) -> Translated {
    let sum = squares(node)?;
    node.emit(Op::Unary(UnaryOp::Sqrt), &[Some(sum)])
}

pub(super) fn reduce_sum_square(node: &mut NodeContext) -> Translated {
    let sum = squares(node)?;
    node.emit(IDENTITY, &[Some(sum)])
}

fn squares(node: &mut NodeContext) -> Translated<TensorId> {
    let x = node.input(0)?;
    let square = node.step("square", Op::Binary(BinaryOp::Mul), &some([x, x]))?;
    let (op, axes) = reduce::form(node, ReduceOp::Sum, 18)?;
    node.step("sum", op, &[Some(square), axes])
}

/// `x * sigmoid(alpha * x)`.
pub(super) fn swish(node: &mut NodeContext) -> Translated {
    let alpha = node.float_or("alpha", 1.0)?;
    let x = node.input(0)?;
    let dtype = node.dtype(x);
    let scaled = if alpha == 1.0 {
        x
    } else {
        let alpha = super::elementwise::scalar(dtype, f64::from(alpha))?;
        let alpha = node.constant("alpha", alpha)?;
        node.step("scaled", Op::Binary(BinaryOp::Mul), &some([x, alpha]))?
    };
    let gate = node.step("gate", Op::Unary(UnaryOp::Sigmoid), &[Some(scaled)])?;
    node.emit(Op::Binary(BinaryOp::Mul), &some([x, gate]))
}

/// Any number of operands as a chain of two.
pub(super) fn sum(node: &mut NodeContext) -> Translated {
    super::elementwise::fold(node, BinaryOp::Add)
}
