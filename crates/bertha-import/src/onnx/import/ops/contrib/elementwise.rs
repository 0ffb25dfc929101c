//! GELU under its four names.

use bertha_graph::{BinaryOp, GeluKind, Op, UnaryOp};

use super::super::elementwise::{scalar, some};
use crate::onnx::import::context::{NodeContext, Translated};

pub(super) fn gelu(node: &mut NodeContext) -> Translated {
    node.emit_plain(Op::Gelu(GeluKind::Erf))
}

pub(super) fn bias_gelu(node: &mut NodeContext) -> Translated {
    let (x, bias) = (node.input(0)?, node.input(1)?);
    let sum = node.binary("biased", BinaryOp::Add, x, bias)?;
    node.emit(Op::Gelu(GeluKind::Erf), &[Some(sum)])
}

/// The definition with the hyperbolic tangent, which ONNX Runtime computes too, after a bias where there is one.
pub(super) fn fast_gelu(node: &mut NodeContext) -> Translated {
    let mut x = node.input(0)?;
    if let Some(bias) = node.optional(1)? {
        x = node.binary("biased", BinaryOp::Add, x, bias)?;
    }
    node.emit(Op::Gelu(GeluKind::Tanh), &[Some(x)])
}

/// `x * sigmoid(alpha * x)`.
pub(super) fn quick_gelu(node: &mut NodeContext) -> Translated {
    let alpha = node.float_or("alpha", 1.702)?;
    let x = node.input(0)?;
    let factor = node.constant("alpha", scalar(node.dtype(x), f64::from(alpha))?)?;
    let scaled = node.binary("scaled", BinaryOp::Mul, x, factor)?;
    let gate = node.step("gate", Op::Unary(UnaryOp::Sigmoid), &[Some(scaled)])?;
    node.emit(Op::Binary(BinaryOp::Mul), &some([x, gate]))
}
