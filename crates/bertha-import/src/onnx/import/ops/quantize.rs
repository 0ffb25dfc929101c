//! From floats to integers with a scale, and back.

use bertha_graph::{DType, Op, TensorId};

use super::super::context::{NodeContext, Translated};
use super::super::dtypes;
use super::CONTRIB_DOMAIN;

/// The axis came with version 13, blocks and the output type with 21. The ops of ONNX Runtime, from which these come, have had
/// the axis always.
fn axis_and_block(node: &mut NodeContext) -> Translated<(i64, usize)> {
    let has_axis = node.opset >= 13 || node.node.domain == CONTRIB_DOMAIN;
    let axis = if has_axis { node.int_or("axis", 1)? } else { 1 };
    let block_size = if node.opset >= 21 { node.count("block_size", 0)? } else { 0 };
    Ok((axis, block_size))
}

/// The type that attribute `output_dtype` names; 0 leaves it open.
fn output_dtype(node: &mut NodeContext, since: i64) -> Translated<Option<DType>> {
    let code = if node.opset >= since { node.int_or("output_dtype", 0)? } else { 0 };
    if code == 0 {
        return Ok(None);
    }
    let dtype = dtypes::dtype(code).map_err(|what| format!("gives {what}, which are not supported"))?;
    Ok(Some(dtype))
}

/// The result has the type of the zero point, or the one that is asked for, or `U8`.
pub(super) fn quantize_linear(node: &mut NodeContext) -> Translated {
    let (axis, block_size) = axis_and_block(node)?;
    let asked = output_dtype(node, 21)?;
    if node.opset >= 19 {
        node.flag("saturate", true)?; // of 8-bit floats alone
    }
    if node.opset >= 23 {
        // The division is done in f32 or better, whatever is asked for here.
        let precision = node.int_or("precision", 0)?;
        if precision != 0 {
            dtypes::dtype(precision).map_err(|what| format!("divides {what}, which are not supported"))?;
        }
    }
    let zero_point = node.optional(2)?.map(|zero_point| node.dtype(zero_point));
    let to = match (zero_point, asked) {
        (Some(zero_point), Some(asked)) if zero_point != asked => {
            let reason = format!("attribute `output_dtype` is {asked}, but the zero point is {zero_point}");
            return Err(reason.into());
        }
        (Some(dtype), _) | (None, Some(dtype)) => dtype,
        (None, None) => DType::U8,
    };
    let inputs = operands(node, block_size)?;
    node.emit(Op::QuantizeLinear { axis, block_size, to }, &inputs)
}

/// The operands, with scale and zero point of a whole tensor as scalars: quantisers write vectors of one as well, and
/// not always for both.
fn operands(node: &mut NodeContext, block_size: usize) -> Translated<Vec<Option<TensorId>>> {
    let mut inputs = node.inputs()?;
    if block_size > 0 {
        return Ok(inputs);
    }
    for index in [1, 2] {
        if let Some(input @ Some(_)) = inputs.get_mut(index) {
            *input = Some(node.scalar_input(index)?);
        }
    }
    Ok(inputs)
}

/// The result has the type of the scale unless another one is asked for.
pub(super) fn dequantize_linear(node: &mut NodeContext) -> Translated {
    let (axis, block_size) = axis_and_block(node)?;
    let asked = output_dtype(node, 23)?;
    let scale = node.input(1)?;
    let to = asked.unwrap_or(node.dtype(scale));
    let inputs = operands(node, block_size)?;
    node.emit(Op::DequantizeLinear { axis, block_size, to }, &inputs)
}

pub(super) fn dynamic_quantize_linear(node: &mut NodeContext) -> Translated {
    node.emit_plain(Op::DynamicQuantizeLinear)
}
