//! Residual additions that end with a normalisation.

use bertha_graph::{BinaryOp, Op, Origin, TensorId};

use super::super::elementwise::some;
use super::super::reduce::root_mean_square;
use crate::onnx::import::context::{NodeContext, Translated};

/// Positions of the outputs.
mod output {
    pub(super) const MEAN: usize = 1;
    pub(super) const INVERSE_DEVIATION: usize = 2;
    pub(super) const SUM: usize = 3;
}

/// The sum of `x`, a residual (which may lack the batch) and a bias, as the output that some ask for. ONNX Runtime leaves
/// the statistics empty, so nothing is to be read from them.
fn sum(node: &mut NodeContext, bias: Option<TensorId>) -> Translated<TensorId> {
    if node.has_output(output::MEAN) || node.has_output(output::INVERSE_DEVIATION) {
        return Err("mean and inverse deviation are for training, and not given here".into());
    }
    let (mut x, mut skip) = (node.input(0)?, node.input(1)?);
    if let Some(bias) = bias {
        // Where the bias belongs to a product, it goes there; a sum is the same in any order.
        let summand = if is_product(node, skip) && !is_product(node, x) { &mut skip } else { &mut x };
        *summand = node.binary("biased", BinaryOp::Add, *summand, bias)?;
    }
    let sum = node.binary("sum", BinaryOp::Add, x, skip)?;
    node.alias_output(output::SUM, sum);
    Ok(sum)
}

fn is_product(node: &NodeContext, tensor: TensorId) -> bool {
    match &node.graph.tensor(tensor).origin {
        Origin::Node { node: id, .. } => matches!(node.graph.node(*id).op, Op::MatMul),
        Origin::Input | Origin::Constant(_) => false,
    }
}

pub(super) fn skip_layer_normalization(node: &mut NodeContext) -> Translated {
    let epsilon = node.float_or("epsilon", 1e-12)?;
    let (gamma, beta, bias) = (node.input(2)?, node.optional(3)?, node.optional(4)?);
    let sum = sum(node, bias)?;
    node.emit_as(0, Op::LayerNorm { axis: -1, epsilon }, &[Some(sum), Some(gamma), beta])
}

pub(super) fn skip_simplified_layer_normalization(node: &mut NodeContext) -> Translated {
    let epsilon = node.float_or("epsilon", 1e-12)?;
    let (gamma, bias) = (node.input(2)?, node.optional(3)?);
    let sum = sum(node, bias)?;
    let normal = root_mean_square(node, sum, -1, epsilon)?;
    node.emit_as(0, Op::Binary(BinaryOp::Mul), &some([normal, gamma]))
}
