//! Products, attention and elementwise functions of 8-bit integers.

use bertha_graph::{BinaryOp, DType, Op, TensorId, UnaryOp};

use super::super::elementwise::{scalar, some};
use super::attention::{self as plain, Common};
use super::projection;
use crate::onnx::import::context::{NodeContext, Translated};

/// `a_scale * b_scale * (a - a_zero_point) (b - b_zero_point)`.
struct Scaled {
    a: TensorId,
    b: TensorId,
    a_scale: TensorId,
    b_scale: TensorId,
    zero_points: [Option<TensorId>; 2],
}

impl Scaled {
    fn product(self, node: &mut NodeContext) -> Translated<TensorId> {
        let [a_zero, b_zero] = self.zero_points;
        let sums = node.step("sums", Op::MatMulInteger, &[Some(self.a), Some(self.b), a_zero, b_zero])?;
        let sums = node.cast("sums_float", sums, node.dtype(self.a_scale))?;
        let scale = node.binary("scale", BinaryOp::Mul, self.a_scale, self.b_scale)?;
        node.binary("scaled", BinaryOp::Mul, sums, scale)
    }
}

/// Emits `x + bias`, or `x` as it is.
fn emit_biased(node: &mut NodeContext, x: TensorId, bias: Option<TensorId>) -> Translated {
    match bias {
        None => node.alias(x),
        Some(bias) => node.emit(Op::Binary(BinaryOp::Add), &some([x, bias])),
    }
}

/// A parameter that may be a vector of one, as a scalar; one for each column stays a vector.
fn parameter(node: &mut NodeContext, index: usize) -> Translated<Option<TensorId>> {
    if !node.has_input(index) {
        return Ok(None);
    }
    node.scalar_input(index).map(Some)
}

fn required(node: &mut NodeContext, index: usize) -> Translated<TensorId> {
    parameter(node, index)?.ok_or_else(|| format!("input {index} is missing").into())
}

pub(super) fn dynamic_quantize_matmul(node: &mut NodeContext) -> Translated {
    let (x, b) = (node.input(0)?, node.input(1)?);
    let (b_scale, b_zero) = (required(node, 2)?, parameter(node, 3)?);
    let quantized = node.steps("quantized", Op::DynamicQuantizeLinear, &[Some(x)], 3)?;
    let [a, a_scale, a_zero] = quantized[..] else { return Err("quantising gives three results".into()) };
    let product = Scaled { a, b, a_scale, b_scale, zero_points: [Some(a_zero), b_zero] }.product(node)?;
    let bias = node.optional(4)?;
    emit_biased(node, product, bias)
}

pub(super) fn matmul_integer_to_float(node: &mut NodeContext) -> Translated {
    let (a, b) = (node.input(0)?, node.input(1)?);
    let (a_scale, b_scale) = (required(node, 2)?, required(node, 3)?);
    let zero_points = [parameter(node, 4)?, parameter(node, 5)?];
    let product = Scaled { a, b, a_scale, b_scale, zero_points }.product(node)?;
    let bias = node.optional(6)?;
    emit_biased(node, product, bias)
}

/// Attention whose projections are products of integers; from there on it is computed in floats.
pub(super) fn attention(node: &mut NodeContext) -> Translated {
    let common = Common::of(node)?;
    plain::refuse_decoder_attributes(node)?;
    plain::refuse_cache(node, &[(8, "past")], &[1])?;
    let widths = plain::widths(node, 1)?;
    let (a, b, bias) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let (a_scale, b_scale) = (required(node, 3)?, required(node, 4)?);
    let zero_points = [parameter(node, 6)?, parameter(node, 7)?];
    let product = Scaled { a, b, a_scale, b_scale, zero_points }.product(node)?;
    let biased = node.binary("biased", BinaryOp::Add, product, bias)?;
    let parts = projection::split(node, biased, widths)?;
    let mask = common.mask(node, (5, None), parts[0], (a, 1))?;
    common.emit(node, parts, mask)
}

/// `alpha * a' * b' + c` of integers with scales, quantised again where the result has a scale.
pub(super) fn gemm(node: &mut NodeContext) -> Translated {
    let alpha = node.float_or("alpha", 1.0)?;
    let (trans_a, trans_b) = (node.flag("transA", false)?, node.flag("transB", false)?);
    let mut operands = [node.input(0)?, node.input(3)?];
    for ((operand, name), flip) in operands.iter_mut().zip(["a", "b"]).zip([trans_a, trans_b]) {
        if flip {
            *operand = node.step(name, Op::Transpose { perm: vec![1, 0] }, &[Some(*operand)])?;
        }
    }
    let (a_scale, a_zero) = (required(node, 1)?, parameter(node, 2)?);
    let (b_scale, b_zero) = (required(node, 4)?, parameter(node, 5)?);
    let [a, b] = operands;
    let mut sums = node.step("sums", Op::MatMulInteger, &[Some(a), Some(b), a_zero, b_zero])?;
    if let Some(c) = node.optional(6)? {
        sums = node.binary("sums_biased", BinaryOp::Add, sums, c)?;
    }
    let dtype = node.dtype(a_scale);
    let sums = node.cast("sums_float", sums, dtype)?;
    let mut scale = node.binary("scale", BinaryOp::Mul, a_scale, b_scale)?;
    if alpha != 1.0 {
        let alpha = node.constant("alpha", scalar(dtype, f64::from(alpha))?)?;
        scale = node.binary("scale_alpha", BinaryOp::Mul, scale, alpha)?;
    }
    let product = node.binary("scaled", BinaryOp::Mul, sums, scale)?;
    if !node.has_input(7) {
        return node.alias(product);
    }
    let to = node.dtype(a);
    emit_quantized(node, product, (7, 8), to)
}

/// Input `x` as floats, by the scale and the zero point after it (or wherever they are).
fn dequantized(
    node: &mut NodeContext,
    x: usize,
    (scale, zero_point): (usize, usize),
) -> Translated<TensorId> {
    let (tensor, scale) = (node.input(x)?, required(node, scale)?);
    let zero_point = parameter(node, zero_point)?;
    let op = Op::DequantizeLinear { axis: 0, block_size: 0, to: node.dtype(scale) };
    node.step(&format!("float_{x}"), op, &[Some(tensor), Some(scale), zero_point])
}

/// Emits floats as integers of the type `to` by these inputs for scale and zero point.
fn emit_quantized(
    node: &mut NodeContext,
    x: TensorId,
    (scale, zero_point): (usize, usize),
    to: DType,
) -> Translated {
    let (scale, zero_point) = (required(node, scale)?, parameter(node, zero_point)?);
    node.emit(Op::QuantizeLinear { axis: 0, block_size: 0, to }, &[Some(x), Some(scale), zero_point])
}

fn type_of_input(node: &mut NodeContext, index: usize) -> Translated<DType> {
    let input = node.input(index)?;
    Ok(node.dtype(input))
}

pub(super) fn add(node: &mut NodeContext) -> Translated {
    binary(node, BinaryOp::Add)
}

pub(super) fn mul(node: &mut NodeContext) -> Translated {
    binary(node, BinaryOp::Mul)
}

fn binary(node: &mut NodeContext, op: BinaryOp) -> Translated {
    let a = dequantized(node, 0, (1, 2))?;
    let b = dequantized(node, 3, (4, 5))?;
    let result = node.binary("result", op, a, b)?;
    let to = type_of_input(node, 0)?;
    emit_quantized(node, result, (6, 7), to)
}

pub(super) fn sigmoid(node: &mut NodeContext) -> Translated {
    let x = dequantized(node, 0, (1, 2))?;
    let result = node.step("result", Op::Unary(UnaryOp::Sigmoid), &[Some(x)])?;
    let to = type_of_input(node, 0)?;
    emit_quantized(node, result, (3, 4), to)
}

/// Attribute `opset` says which softmax it is: before version 13, all dimensions from `axis` on are one.
pub(super) fn softmax(node: &mut NodeContext) -> Translated {
    let (axis, opset) = (node.int_or("axis", -1)?, node.int_or("opset", 13)?);
    let x = dequantized(node, 0, (1, 2))?;
    let rank = node.rank(x) as i64;
    if opset < 13 && axis != -1 && axis != rank - 1 {
        return Err(format!(
            "softmax of operator set {opset} over the dimensions from {axis} on is not supported"
        )
        .into());
    }
    let result = node.step("result", Op::Softmax { axis }, &[Some(x)])?;
    let to = type_of_input(node, 0)?;
    emit_quantized(node, result, (3, 4), to)
}

/// Tensors with scales of their own, joined with one.
pub(super) fn concat(node: &mut NodeContext) -> Translated {
    let axis = node.int("axis")?.ok_or("attribute `axis` is missing")?;
    let count = node.node.input.len();
    if !(count - 2).is_multiple_of(3) {
        return Err(format!(
            "has {count} inputs; expected scale and zero point of the result, then three for each part"
        )
        .into());
    }
    let mut parts = Vec::with_capacity(count / 3);
    for first in (2..count).step_by(3) {
        parts.push(Some(dequantized(node, first, (first + 1, first + 2))?));
    }
    let joined = node.step("joined", Op::Concat { axis }, &parts)?;
    let to = type_of_input(node, 1)?;
    emit_quantized(node, joined, (0, 1), to)
}

/// One of two tensors with scales of their own, place by place.
pub(super) fn select(node: &mut NodeContext) -> Translated {
    let condition = node.input(0)?;
    let a = dequantized(node, 1, (2, 3))?;
    let b = dequantized(node, 4, (5, 6))?;
    let chosen = node.step("chosen", Op::Where, &some([condition, a, b]))?;
    let to = type_of_input(node, 1)?;
    emit_quantized(node, chosen, (7, 8), to)
}
