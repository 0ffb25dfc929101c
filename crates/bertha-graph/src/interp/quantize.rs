//! Conversions between floats and small integers with scales.

use super::Context;
use super::args::{Args, expect_dtype, floats, int_elements};
use super::elementwise::{maximum, minimum};
use super::error::{Fault, fault};
use super::index::{for_each_index, normalize_axis, strides};
use super::value::{Elements, Value, saturate};
use crate::dtype::DType;

/// Which scale belongs to which element.
#[derive(Clone, Copy)]
pub(super) struct Granularity {
    /// The dimension that the scales go along.
    pub axis: i64,
    /// Elements of the axis that share a scale; 0 when every index of the axis has its own.
    pub block_size: usize,
}

impl Granularity {
    /// Position in `scale` for every element of `x`: one for all, one for each index of the axis, or one for each
    /// block along the axis.
    fn positions(self, scale: &Value, x: &Value) -> Result<Vec<usize>, Fault> {
        if scale.len() == 1 && scale.rank() <= 1 {
            return Ok(vec![0; x.len()]);
        }
        let axis = normalize_axis(self.axis, x.rank())?;
        let mut expected = x.shape().to_vec();
        if self.block_size == 0 {
            expected = vec![x.shape()[axis]];
        } else {
            expected[axis] = x.shape()[axis].div_ceil(self.block_size);
        }
        if scale.shape() != expected {
            return fault!("`scale` has shape {:?}, expected a scalar or {expected:?}", scale.shape());
        }
        let steps = strides(scale.shape());
        let mut positions = Vec::with_capacity(x.len());
        for_each_index(x.shape(), |index| {
            positions.push(if self.block_size == 0 {
                index[axis]
            } else {
                let block = |d: usize| if d == axis { index[d] / self.block_size } else { index[d] };
                (0..index.len()).map(|d| block(d) * steps[d]).sum()
            });
        });
        Ok(positions)
    }
}

/// The zero point's elements; it must have the dtype and the shape that it belongs to.
fn zero_points<'a>(
    zero: Option<&'a Value>,
    scale: &Value,
    dtype: DType,
) -> Result<Option<&'a [i128]>, Fault> {
    let Some(zero) = zero else { return Ok(None) };
    expect_dtype(zero, "zero_point", dtype)?;
    if zero.len() != scale.len() {
        return fault!("`zero_point` has shape {:?}, but `scale` has {:?}", zero.shape(), scale.shape());
    }
    int_elements(zero, "zero_point").map(Some)
}

/// `round(x / scale) + zero_point`, saturated; ties go to the even neighbour.
pub(super) fn quantize_linear(
    granularity: Granularity,
    to: DType,
    args: Args,
    context: Context,
) -> Result<Value, Fault> {
    let (x, scale) = (args.required(0, "x")?, args.required(1, "scale")?);
    if !matches!(to, DType::U8 | DType::I8 | DType::U16 | DType::I16) {
        return fault!("{to} is not a quantised type");
    }
    let zeros = zero_points(args.optional(2), scale, to)?;
    let at = granularity.positions(scale, x)?;
    let scales = floats(scale, "scale")?;
    let values = match x.elements() {
        Elements::Float(_) | Elements::Int(_) => x.to_f64(),
        Elements::Bool(_) => return fault!("`x` is bool, expected floats or integers"),
    };
    let dtype = quotient_dtype(x.dtype(), scale.dtype());
    let quantized = values.iter().zip(at).map(|(x, at)| {
        let rounded = context.round(dtype, x / scales[at]).round_ties_even();
        saturate(to, rounded + zeros.map_or(0.0, |zeros| zeros[at] as f64))
    });
    Ok(Value::ints(to, x.shape().to_vec(), quantized.collect()))
}

/// The dtype in which `x / scale` is computed. The quotient is rounded to it, because ties are decided there.
fn quotient_dtype(x: DType, scale: DType) -> DType {
    match (x, scale) {
        (DType::F64, _) | (_, DType::F64) => DType::F64,
        (x, scale) if x == scale => x,
        (x, _) if x.is_float() => DType::F32,
        _ => DType::F64,
    }
}

/// `(x - zero_point) * scale`.
pub(super) fn dequantize_linear(
    granularity: Granularity,
    to: DType,
    args: Args,
    context: Context,
) -> Result<Value, Fault> {
    let (x, scale) = (args.required(0, "x")?, args.required(1, "scale")?);
    if !to.is_float() {
        return fault!("the result cannot be {to}: expected a float type");
    }
    let zeros = zero_points(args.optional(2), scale, x.dtype())?;
    let at = granularity.positions(scale, x)?;
    let scales = floats(scale, "scale")?;
    let values = int_elements(x, "x")?.iter().zip(at).map(|(x, at)| {
        let centred = x - zeros.map_or(0, |zeros| zeros[at]);
        context.round(DType::F32, centred as f64) * scales[at]
    });
    Ok(context.floats(to, x.shape().to_vec(), values.collect()))
}

/// `x` as `U8` by its own range, extended to hold 0: the quantised tensor, its scale and its zero point.
///
/// Every step is rounded to f32, because ONNX defines the op in f32 and ties are decided there.
pub(super) fn dynamic_quantize_linear(args: Args, context: Context) -> Result<Vec<Value>, Fault> {
    let x = args.required(0, "x")?;
    expect_dtype(x, "x", DType::F32)?;
    let values = floats(x, "x")?;
    let single = |v: f64| context.round(DType::F32, v);
    let max = values.iter().copied().fold(0.0, maximum);
    let min = values.iter().copied().fold(0.0, minimum);
    let range = if max == min { 1.0 } else { single(max - min) };
    let scale = single(range / 255.0);
    let zero = single(-min / scale).clamp(0.0, 255.0).round_ties_even();
    let quantized = values.iter().map(|x| saturate(DType::U8, single(x / scale).round_ties_even() + zero));
    Ok(vec![
        Value::ints(DType::U8, x.shape().to_vec(), quantized.collect()),
        Value::floats(DType::F32, vec![], vec![scale]),
        Value::ints(DType::U8, vec![], vec![saturate(DType::U8, zero)]),
    ])
}
