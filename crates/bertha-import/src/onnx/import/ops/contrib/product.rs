//! Products with transpositions, factors and activations.

use bertha_graph::{BinaryOp, Op, TensorId, UnaryOp};

use super::super::elementwise::{scalar, some};
use super::super::product;
use crate::onnx::import::context::{NodeContext, Translated};

/// `alpha * a' * b'`.
pub(super) fn fused_matmul(node: &mut NodeContext) -> Translated {
    let alpha = node.float_or("alpha", 1.0)?;
    let (trans_a, trans_b) = (node.flag("transA", false)?, node.flag("transB", false)?);
    let (batch_a, batch_b) = (node.flag("transBatchA", false)?, node.flag("transBatchB", false)?);
    let (a, b) = (node.input(0)?, node.input(1)?);
    let a = oriented(node, "a", a, (trans_a, batch_a))?;
    let b = oriented(node, "b", b, (trans_b, batch_b))?;
    if alpha == 1.0 {
        return node.emit(Op::MatMul, &some([a, b]));
    }
    let product = node.step("product", Op::MatMul, &some([a, b]))?;
    let alpha = node.constant("alpha", scalar(node.dtype(a), f64::from(alpha))?)?;
    node.emit(Op::Binary(BinaryOp::Mul), &some([product, alpha]))
}

/// An operand with its last two dimensions exchanged, and before that (`batch`) its first one moved behind the batch.
fn oriented(
    node: &mut NodeContext,
    suffix: &str,
    x: TensorId,
    (flip, batch): (bool, bool),
) -> Translated<TensorId> {
    let rank = node.rank(x);
    if rank < 2 || !(flip || batch) {
        return Ok(x);
    }
    let mut perm: Vec<usize> = (0..rank).collect();
    if batch {
        // The first dimension becomes the second to last.
        perm = (1..rank - 1).chain([0, rank - 1]).collect();
    }
    if flip {
        perm.swap(rank - 2, rank - 1);
    }
    node.step(suffix, Op::Transpose { perm }, &[Some(x)])
}

/// `activation(alpha * a' * b' + beta * c)`.
pub(super) fn fused_gemm(node: &mut NodeContext) -> Translated {
    let activation = node.string("activation")?.unwrap_or_default();
    let slope = node.float_or("activation_alpha", 0.01)?;
    for unused in ["activation_beta", "activation_gamma"] {
        node.float(unused)?; // of no activation that is supported
    }
    let op = product::gemm_op(node)?;
    let inputs = node.inputs()?;
    let function = match activation.as_str() {
        "" => return node.emit(op, &inputs),
        "Relu" => UnaryOp::Relu,
        "Sigmoid" => UnaryOp::Sigmoid,
        "Tanh" => UnaryOp::Tanh,
        "LeakyRelu" => {
            let x = node.step("product", op, &inputs)?;
            return leaky_relu(node, x, slope);
        }
        other => return Err(format!("attribute `activation` is `{other}`, which is not supported").into()),
    };
    let product = node.step("product", op, &inputs)?;
    node.emit(Op::Unary(function), &[Some(product)])
}

/// `max(x, 0) + slope * min(x, 0)`.
fn leaky_relu(node: &mut NodeContext, x: TensorId, slope: f32) -> Translated {
    let dtype = node.dtype(x);
    let zero = node.constant("zero", scalar(dtype, 0.0)?)?;
    let slope = node.constant("slope", scalar(dtype, f64::from(slope))?)?;
    let below = node.binary("below", BinaryOp::Min, x, zero)?;
    let below = node.binary("below_scaled", BinaryOp::Mul, below, slope)?;
    let above = node.step("above", Op::Unary(UnaryOp::Relu), &[Some(x)])?;
    node.emit(Op::Binary(BinaryOp::Add), &some([above, below]))
}
