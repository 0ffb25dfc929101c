//! The sum of word, position and segment embeddings, normalised.

use bertha_graph::{BinaryOp, DType, Op, ReduceOp, TensorData, TensorId};

use super::super::elementwise::some;
use crate::onnx::import::context::{NodeContext, Translated};

/// Where a table is among the inputs, with scale and zero point when it is quantised.
#[derive(Clone, Copy)]
struct Table {
    at: usize,
    quantized: Option<[usize; 2]>,
}

/// Where the inputs are.
struct Inputs {
    tables: [Table; 3],
    gamma: Table,
    beta: Table,
    mask: usize,
    position_ids: Option<usize>,
}

pub(super) fn embed_layer_normalization(node: &mut NodeContext) -> Translated {
    node.int("mask_index_type")?; // how `mask_index` is meant, which its reader says as well
    let plain = |at| Table { at, quantized: None };
    let inputs = Inputs {
        tables: [2, 3, 4].map(plain),
        gamma: plain(5),
        beta: plain(6),
        mask: 7,
        position_ids: Some(8),
    };
    embed(node, &inputs)
}

pub(super) fn quantized_embed_layer_normalization(node: &mut NodeContext) -> Translated {
    let quantized = |index: usize| Table { at: 2 + index, quantized: Some([8 + index, 13 + index]) };
    let inputs = Inputs {
        tables: [0, 1, 2].map(quantized),
        gamma: quantized(3),
        beta: quantized(4),
        mask: 7,
        position_ids: None,
    };
    embed(node, &inputs)
}

fn embed(node: &mut NodeContext, inputs: &Inputs) -> Translated {
    let epsilon = node.float_or("epsilon", 1e-12)?;
    let [words, positions, segments] = inputs.tables;
    let ids = node.input(0)?;
    let segment_ids = node.optional(1)?;
    let position_ids = match inputs.position_ids {
        Some(index) => node.optional(index)?,
        None => None,
    };
    let position_ids = match position_ids {
        Some(ids) => ids,
        None => columns(node, ids)?,
    };
    let words = rows(node, "words", words, ids)?;
    let positions = rows(node, "positions", positions, position_ids)?;
    let mut sum = node.binary("sum", BinaryOp::Add, words, positions)?;
    if let Some(ids) = segment_ids {
        let segments = rows(node, "segments", segments, ids)?;
        sum = node.binary("sum_of_three", BinaryOp::Add, sum, segments)?;
    }
    mask_index(node, inputs.mask, ids)?;
    node.alias_output(2, sum);
    let (gamma, beta) = (table(node, "gamma", inputs.gamma)?, table(node, "beta", inputs.beta)?);
    node.emit_as(0, Op::LayerNorm { axis: -1, epsilon }, &some([sum, gamma, beta]))
}

/// Row `ids` of a table. Of a quantised one, the rows are converted, not the table.
fn rows(node: &mut NodeContext, suffix: &str, table: Table, ids: TensorId) -> Translated<TensorId> {
    let source = node.input(table.at)?;
    let Some(parameters) = table.quantized else {
        return node.step(suffix, Op::Gather { axis: 0 }, &some([source, ids]));
    };
    let picked = node.step(&format!("{suffix}_quantized"), Op::Gather { axis: 0 }, &some([source, ids]))?;
    dequantized(node, suffix, picked, parameters)
}

fn table(node: &mut NodeContext, suffix: &str, table: Table) -> Translated<TensorId> {
    let source = node.input(table.at)?;
    match table.quantized {
        None => Ok(source),
        Some(parameters) => dequantized(node, suffix, source, parameters),
    }
}

fn dequantized(
    node: &mut NodeContext,
    suffix: &str,
    x: TensorId,
    [scale, zero_point]: [usize; 2],
) -> Translated<TensorId> {
    let (scale, zero_point) = (node.scalar_input(scale)?, node.scalar_input(zero_point)?);
    let to = node.dtype(scale);
    node.step(suffix, Op::DequantizeLinear { axis: 0, block_size: 0, to }, &some([x, scale, zero_point]))
}

/// `0, 1, ..` along the sequence, `[1, seq]`.
fn columns(node: &mut NodeContext, ids: TensorId) -> Translated<TensorId> {
    let count = node.step("length", Op::Shape { start: 1, end: Some(2) }, &[Some(ids)])?;
    let count = node.step("length_scalar", Op::Squeeze, &[Some(count)])?;
    let zero = node.constant("zero", TensorData::scalar(0i64))?;
    let one = node.constant("one", TensorData::scalar(1i64))?;
    let range = node.step("columns", Op::Range, &some([zero, count, one]))?;
    let first = node.int_vector("first_axis", vec![0])?;
    node.step("position_ids", Op::Unsqueeze, &some([range, first]))
}

/// The number of ones in each row of the mask; zeros without a mask.
fn mask_index(node: &mut NodeContext, mask: usize, ids: TensorId) -> Translated {
    if !node.has_output(1) {
        return Ok(());
    }
    let Some(mask) = node.optional(mask)? else {
        let batch = node.step("batch", Op::Shape { start: 0, end: Some(1) }, &[Some(ids)])?;
        return node.emit_as(
            1,
            Op::ConstantOfShape { value: TensorData::vector(vec![0i32]) },
            &[Some(batch)],
        );
    };
    let mask = node.cast("mask", mask, DType::I32)?;
    let one = node.constant("visible", TensorData::scalar(1i32))?;
    let visible = node.binary("is_visible", BinaryOp::Equal, mask, one)?;
    let visible = node.cast("visible_number", visible, DType::I32)?;
    let axes = node.int_vector("mask_axes", vec![1])?;
    let op = Op::Reduce { op: ReduceOp::Sum, keep_dims: false, noop_with_empty_axes: false };
    node.emit_as(1, op, &some([visible, axes]))
}
