//! Conversions between floats and small integers with scales.

use bertha_graph::DType;
use half::{bf16, f16};

use super::error::{Fault, Outcome, fault};
use super::nest::Nest;
use super::number::{Arith, Float, Number, with_float, with_number};
use super::operands::{Operands, float_at, normalize_axis};
use super::tensor::{TensorMut, TensorRef};

/// Which scale belongs to which element.
#[derive(Clone, Copy)]
pub(super) struct Granularity {
    /// The dimension that the scales go along.
    pub axis: i64,
    /// Elements of the axis that share a scale; 0 when every index of the axis has its own.
    pub block_size: usize,
}

/// Runs of elements that share a scale, in order.
struct Runs {
    /// Elements of a run.
    len: usize,
    /// Positions of the scales of successive runs.
    scales: Nest<1>,
    /// A block that is cut short, or a scale for each single element: positions go by element.
    by_element: Option<(usize, usize, usize)>,
}

impl Granularity {
    fn runs(self, x: TensorRef, scale: TensorRef) -> Outcome<Runs> {
        if scale.len() == 1 && scale.rank() <= 1 {
            return Ok(Runs { len: x.len(), scales: Nest::at([0]), by_element: None });
        }
        let axis = normalize_axis(self.axis, x.rank())?;
        let (outer, size, inner) = super::nest::around(x.shape, axis);
        let mut scales = Nest::at([0]);
        if self.block_size == 0 {
            if scale.shape != [size] {
                return fault!("`scale` has shape {:?}, expected a scalar or [{size}]", scale.shape);
            }
            scales.push(outer, [0])?;
            scales.push(size, [1])?;
            return Ok(Runs { len: inner, scales, by_element: None });
        }
        let blocks = size.div_ceil(self.block_size);
        let fits = scale.rank() == x.rank()
            && (0..x.rank()).all(|d| scale.shape[d] == if d == axis { blocks } else { x.shape[d] });
        if !fits {
            return fault!(
                "`scale` has shape {:?}, which has not {blocks} blocks along {axis} of {:?}",
                scale.shape,
                x.shape
            );
        }
        Ok(Runs { len: 1, scales, by_element: Some((size, inner, self.block_size)) })
    }
}

impl Runs {
    /// Calls `f` with each range of elements that share a scale, and the position of that scale.
    fn for_each(&self, total: usize, mut f: impl FnMut(std::ops::Range<usize>, usize)) {
        if let Some((size, inner, block)) = self.by_element {
            let blocks = size.div_ceil(block);
            for element in 0..total {
                let (row, i) = (element / inner, element % inner);
                let (o, along) = (row / size, row % size);
                f(element..element + 1, (o * blocks + along / block) * inner + i);
            }
            return;
        }
        let mut first = 0;
        if self.len == 0 {
            return;
        }
        self.scales.for_each(|[at]| {
            f(first..first + self.len, at);
            first += self.len;
        });
    }
}

/// The zero point at a position; 0 where there is none.
fn zero_at(zero: Option<TensorRef>, at: usize) -> i64 {
    let Some(zero) = zero else { return 0 };
    match zero.dtype {
        DType::I8 => i64::from(zero.slice::<i8>()[at]),
        DType::U8 => i64::from(zero.slice::<u8>()[at]),
        DType::I16 => i64::from(zero.slice::<i16>()[at]),
        DType::U16 => i64::from(zero.slice::<u16>()[at]),
        DType::I32 => i64::from(zero.slice::<i32>()[at]),
        _ => 0,
    }
}

/// Scale and zero point, checked against each other.
fn parameters<'a>(
    operands: Operands<'a, '_>,
    zero_dtype: DType,
) -> Outcome<(TensorRef<'a>, Option<TensorRef<'a>>)> {
    let scale = operands.required(1, "scale")?;
    let zero = operands.optional_typed(2, "zero_point", zero_dtype)?;
    if !scale.dtype.is_float() || zero.is_some_and(|zero| zero.len() != scale.len()) {
        return fault!(
            "`scale` is {}{:?}, expected floats, as many as zero points",
            scale.dtype,
            scale.shape
        );
    }
    Ok((scale, zero))
}

/// `round(x / scale) + zero_point`, saturated; ties go to the even neighbour.
pub(super) fn quantize_linear(
    granularity: Granularity,
    to: DType,
    operands: Operands,
    y: &mut TensorMut,
) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_shape(x.shape)?;
    y.expect_dtype(to)?;
    let (scale, zero) = parameters(operands, to)?;
    let runs = granularity.runs(x, scale)?;
    let rounding = match (x.dtype, scale.dtype) {
        (DType::F64, _) | (_, DType::F64) => DType::F64,
        (x, scale) if x == scale => x,
        (x, _) if x.is_float() => DType::F32,
        _ => DType::F64,
    };
    with_number!(x.dtype, T => {
        let x = x.slice::<T>();
        match to {
            DType::I8 => quantize_runs::<T, i8>(x, y, &runs, scale, zero, rounding),
            DType::U8 => quantize_runs::<T, u8>(x, y, &runs, scale, zero, rounding),
            DType::I16 => quantize_runs::<T, i16>(x, y, &runs, scale, zero, rounding),
            DType::U16 => quantize_runs::<T, u16>(x, y, &runs, scale, zero, rounding),
            other => Err(Fault::Unsupported(other.to_string())),
        }
    })
}

fn quantize_runs<T: Number, Q: Number>(
    x: &[T],
    y: &mut TensorMut,
    runs: &Runs,
    scale: TensorRef,
    zero: Option<TensorRef>,
    rounding: DType,
) -> Outcome {
    let y = y.slice::<Q>();
    runs.for_each(x.len(), |elements, at| {
        let zero = zero_at(zero, at);
        let pairs = y[elements.clone()].iter_mut().zip(&x[elements]);
        if rounding == DType::F32 && T::DTYPE.is_float() {
            let scale = float_at(scale, at) as f32;
            pairs.for_each(|(y, x)| {
                let rounded = (x.widen().to_f64() as f32 / scale).round_ties_even();
                *y = Q::narrow(Arith::from_f64(f64::from(rounded) + zero as f64));
            });
        } else {
            let scale = float_at(scale, at);
            pairs.for_each(|(y, x)| {
                let rounded = rounded(rounding, x.widen().to_f64() / scale).round_ties_even();
                *y = Q::narrow(Arith::from_f64(rounded + zero as f64));
            });
        }
    });
    Ok(())
}

/// The value as the nearest number of the float type.
pub(super) fn rounded(dtype: DType, value: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::F16 => f16::from_f64(value).to_f64(),
        DType::BF16 => bf16::from_f64(value).to_f64(),
        _ => value,
    }
}

/// `(x - zero_point) * scale`.
pub(super) fn dequantize_linear(
    granularity: Granularity,
    to: DType,
    operands: Operands,
    y: &mut TensorMut,
) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_shape(x.shape)?;
    y.expect_dtype(to)?;
    let (scale, zero) = parameters(operands, x.dtype)?;
    let runs = granularity.runs(x, scale)?;
    with_float!(to, F => {
        let y = y.slice::<F>();
        match x.dtype {
            DType::I8 => dequantize_runs::<i8, F>(x.slice(), y, &runs, scale, zero),
            DType::U8 => dequantize_runs::<u8, F>(x.slice(), y, &runs, scale, zero),
            DType::I16 => dequantize_runs::<i16, F>(x.slice(), y, &runs, scale, zero),
            DType::U16 => dequantize_runs::<u16, F>(x.slice(), y, &runs, scale, zero),
            DType::I32 => dequantize_runs::<i32, F>(x.slice(), y, &runs, scale, zero),
            other => return Err(Fault::Unsupported(other.to_string())),
        }
        Ok(())
    })
}

fn dequantize_runs<Q: Number + Into<i64>, F: Float>(
    x: &[Q],
    y: &mut [F],
    runs: &Runs,
    scale: TensorRef,
    zero: Option<TensorRef>,
) {
    runs.for_each(x.len(), |elements, at| {
        let (scale, zero) = (float_at(scale, at), zero_at(zero, at));
        for (y, x) in y[elements.clone()].iter_mut().zip(&x[elements]) {
            // The difference is exact, then an f32 as the format has it; the product is rounded once.
            let centred = ((*x).into() - zero) as f32;
            *y = F::narrow(Arith::from_f64(f64::from(centred) * scale));
        }
    });
}

/// `x` as `U8` by its own range, extended to hold 0: the quantised tensor, its scale and its zero point.
pub(super) fn dynamic_quantize_linear(operands: Operands, results: &mut [Option<TensorMut>]) -> Outcome {
    let x = operands.typed(0, "x", DType::F32)?;
    let values = x.slice::<f32>();
    let max = values.iter().copied().fold(0.0f32, Arith::larger);
    let min = values.iter().copied().fold(0.0f32, Arith::smaller);
    let range = if max == min { 1.0 } else { max - min };
    let scale = range / 255.0;
    let zero = (-min / scale).clamp(0.0, 255.0).round_ties_even();
    for (i, y) in results.iter_mut().enumerate() {
        let Some(y) = y else { continue };
        y.expect_dtype(if i == 1 { DType::F32 } else { DType::U8 })?;
        y.expect_shape(if i == 0 { x.shape } else { &[] })?;
        match i {
            0 => {
                let pairs = y.bytes.iter_mut().zip(values);
                pairs.for_each(|(y, x)| *y = ((x / scale).round_ties_even() + zero) as u8);
            }
            1 => y.slice::<f32>()[0] = scale,
            _ => y.bytes[0] = zero as u8,
        }
    }
    Ok(())
}
