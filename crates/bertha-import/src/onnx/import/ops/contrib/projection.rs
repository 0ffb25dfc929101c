//! Queries, keys and values, which ONNX Runtime keeps side by side.

use bertha_graph::{BinaryOp, Op, TensorData, TensorId};

use super::super::elementwise::some;
use crate::onnx::import::context::{NodeContext, Translated};

/// What the three parts are called.
const PARTS: [&str; 3] = ["query", "key", "value"];

/// The three products of `x` with input `weight`, whose columns hold three weights of these widths, and input `bias`.
/// Constants are cut here, so that the graph is that of a model which never joined them.
pub(super) fn products(
    node: &mut NodeContext,
    x: TensorId,
    (weight, bias): (usize, usize),
    widths: [usize; 3],
) -> Translated<[TensorId; 3]> {
    let constant_bias = node.constant_input(bias)?;
    let cuttable = constant_bias.is_some() || !node.has_input(bias);
    if let (true, Some(weights)) = (cuttable, node.constant_input(weight)?) {
        let weights = columns(&weights, widths)?;
        let biases = constant_bias.map(|bias| columns(&bias, widths)).transpose()?;
        let mut products = Vec::with_capacity(3);
        for (index, part) in PARTS.into_iter().enumerate() {
            let weight = node.constant(&format!("{part}.weight"), weights[index].clone())?;
            let bias = match &biases {
                None => None,
                Some(biases) => Some(node.constant(&format!("{part}.bias"), biases[index].clone())?),
            };
            products.push(linear(node, part, x, weight, bias)?);
        }
        return three(&products);
    }
    let (weight, bias) = (node.input(weight)?, node.optional(bias)?);
    if node.rank(weight) != 2 {
        return Err(format!("its weight is {}; expected a matrix [in, out]", node.ty(weight)).into());
    }
    let product = linear(node, "projections", x, weight, bias)?;
    split(node, product, widths)
}

/// Product and sum as exporters write them, so that the same passes see the same.
fn linear(
    node: &mut NodeContext,
    suffix: &str,
    x: TensorId,
    weight: TensorId,
    bias: Option<TensorId>,
) -> Translated<TensorId> {
    let product = node.step(suffix, Op::MatMul, &some([x, weight]))?;
    match bias {
        None => Ok(product),
        Some(bias) => node.binary(&format!("{suffix}_biased"), BinaryOp::Add, product, bias),
    }
}

/// The parts of a tensor whose last dimension holds three.
pub(super) fn split(node: &mut NodeContext, x: TensorId, widths: [usize; 3]) -> Translated<[TensorId; 3]> {
    let sizes = node.int_vector("widths", widths.iter().map(|width| *width as i64).collect())?;
    let parts = node.steps("part", Op::Split { axis: -1, parts: 3 }, &[Some(x), Some(sizes)], 3)?;
    three(&parts)
}

fn three(parts: &[TensorId]) -> Translated<[TensorId; 3]> {
    <[TensorId; 3]>::try_from(parts).map_err(|_| "it does not fall into three parts".into())
}

/// Columns of a constant, cut into parts of these widths.
pub(super) fn columns(data: &TensorData, widths: [usize; 3]) -> Translated<[TensorData; 3]> {
    let (Some((width, leading)), size) = (data.shape().split_last(), data.dtype().size()) else {
        return Err("a scalar has no columns".into());
    };
    let total = widths.iter().try_fold(0usize, |sum, width| sum.checked_add(*width));
    if total != Some(*width) {
        return Err(format!("{} does not fall into parts of {widths:?}", data.ty()).into());
    }
    let mut parts = Vec::with_capacity(3);
    let mut first = 0;
    for part in widths {
        let mut bytes = Vec::with_capacity(data.bytes().len() / width.max(&1) * part);
        for row in data.bytes().chunks_exact((width * size).max(1)) {
            bytes.extend_from_slice(row.get(first * size..(first + part) * size).unwrap_or_default());
        }
        first += part;
        let shape = leading.iter().copied().chain([part]).collect();
        let part = TensorData::from_bytes(data.dtype(), shape, bytes.into());
        parts.push(part.map_err(|error| error.to_string())?);
    }
    <[TensorData; 3]>::try_from(parts).map_err(|_| "it does not fall into three parts".into())
}
