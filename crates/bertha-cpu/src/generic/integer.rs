//! Products of 8-bit integers.

use bertha_graph::DType;

use super::error::{Fault, Outcome, fault};
use super::matmul::{Pairs, Sizes, expect_bytes, pair};
use super::nest::{Nest, Small};
use super::number::{Arith, Number};
use super::operands::{Operands, expect_dtype, float_at};
use super::scratch::Scratch;
use super::tensor::{TensorMut, TensorRef};

/// Columns that are summed at a time.
const COLUMNS: usize = 512;
/// Rows that share one pass over `b`.
const ROWS: usize = 16;

/// A scale or zero point, and how it goes along an operand or a result.
#[derive(Clone, Copy)]
struct Parameter<'a> {
    tensor: Option<TensorRef<'a>>,
    /// Where the element of each element of the tensor lies that it belongs to.
    nest: Nest<1>,
}

impl<'a> Parameter<'a> {
    /// A parameter of a tensor of shape `of`: a scalar, a vector with one element for each row (of `a` and of the
    /// result) or column (of `b`), or of a shape that broadcasts.
    fn new(tensor: Option<TensorRef<'a>>, of: &[usize], rows: bool) -> Outcome<Self> {
        let Some(given) = tensor else { return Ok(Parameter { tensor, nest: Nest::at([0]) }) };
        if given.len() == 1 {
            return Ok(Parameter { tensor, nest: Nest::broadcast(of, [&[]])? });
        }
        let mut shape = Small::of(given.shape.iter().copied())?;
        if shape.len() == 1 && rows && of.len() > 1 {
            shape.push(1)?;
        }
        Ok(Parameter { tensor, nest: Nest::broadcast(of, [&shape])? })
    }

    /// The zero point of an element of the tensor.
    fn zero_at(&self, element: usize) -> i32 {
        let Some(tensor) = self.tensor else { return 0 };
        let [at] = self.nest.locate(element);
        match tensor.dtype {
            DType::I8 => i32::from(tensor.slice::<i8>()[at]),
            _ => i32::from(tensor.slice::<u8>()[at]),
        }
    }

    /// The scale of an element of the tensor.
    fn scale_at(&self, element: usize) -> f64 {
        let [at] = self.nest.locate(element);
        self.tensor.map_or(1.0, |tensor| float_at(tensor, at))
    }

    /// Whether all elements share one value.
    fn is_single(&self) -> bool {
        self.tensor.is_none_or(|tensor| tensor.len() == 1)
    }
}

/// Operands with their zero points.
struct Centred<'a> {
    tensor: TensorRef<'a>,
    zero: Parameter<'a>,
}

impl<'a> Centred<'a> {
    fn new(tensor: TensorRef<'a>, zero: Option<TensorRef<'a>>, rows: bool) -> Outcome<Self> {
        expect_bytes(tensor.dtype)?;
        zero.map_or(Ok(()), |zero| expect_dtype(zero, "zero_point", tensor.dtype))?;
        Ok(Centred { tensor, zero: Parameter::new(zero, tensor.shape, rows)? })
    }

    /// Elements `first..` with their zero points subtracted.
    fn read(&self, first: usize, to: &mut [i16]) {
        match self.tensor.dtype {
            DType::I8 => {
                let from = &self.tensor.slice::<i8>()[first..first + to.len()];
                to.iter_mut().zip(from).for_each(|(to, from)| *to = i16::from(*from));
            }
            _ => {
                let from = &self.tensor.slice::<u8>()[first..first + to.len()];
                to.iter_mut().zip(from).for_each(|(to, from)| *to = i16::from(*from));
            }
        }
        if self.zero.tensor.is_none() {
            return;
        }
        if self.zero.is_single() {
            let zero = self.zero.zero_at(0) as i16;
            to.iter_mut().for_each(|x| *x -= zero);
        } else {
            to.iter_mut().enumerate().for_each(|(i, x)| *x -= self.zero.zero_at(first + i) as i16);
        }
    }
}

/// Sums of products; `store` gets runs of finished sums with the position of the first in the result.
fn multiply(
    a: &Centred,
    b: &Centred,
    pairs: &Pairs,
    scratch: &mut Scratch,
    mut store: impl FnMut(usize, &[i32]),
) {
    let Sizes { m, k, n } = pairs.sizes;
    let (sums, row_b, block_a) = scratch.three::<i32, i16, i16>(ROWS * COLUMNS, COLUMNS, ROWS * k);
    let mut result = 0;
    pairs.nest.for_each(|[start_a, start_b]| {
        for row in (0..m).step_by(ROWS) {
            let rows = ROWS.min(m - row);
            a.read(start_a + row * k, &mut block_a[..rows * k]);
            for column in (0..n).step_by(COLUMNS) {
                let columns = COLUMNS.min(n - column);
                let (sums, row_b) = (&mut sums[..rows * columns], &mut row_b[..columns]);
                sums.fill(0);
                for inner in 0..k {
                    b.read(start_b + inner * n + column, row_b);
                    for (r, sums) in sums.chunks_exact_mut(columns).enumerate() {
                        let factor = block_a[r * k + inner];
                        for (sum, b) in sums.iter_mut().zip(&*row_b) {
                            *sum = sum.wrapping_add(i32::from(factor) * i32::from(*b));
                        }
                    }
                }
                for (r, sums) in sums.chunks_exact(columns).enumerate() {
                    store(result + (row + r) * n + column, sums);
                }
            }
        }
        result += m * n;
    });
}

/// Product of 8-bit integers, in 32 bits.
pub(super) fn matmul_integer(operands: Operands, y: &mut TensorMut, scratch: &mut Scratch) -> Outcome {
    let (a, b) = (operands.required(0, "a")?, operands.required(1, "b")?);
    y.expect_dtype(DType::I32)?;
    let pairs = pair(a.shape, b.shape, y.shape)?;
    let a = Centred::new(a, operands.optional(2), true)?;
    let b = Centred::new(b, operands.optional(3), false)?;
    let y = y.slice::<i32>();
    multiply(&a, &b, &pairs, scratch, |first, sums| y[first..first + sums.len()].copy_from_slice(sums));
    Ok(())
}

/// Product of quantised matrices, quantised again: `round(a_scale * b_scale / y_scale * sum) + y_zero_point`.
pub(super) fn qlinear_matmul(operands: Operands, y: &mut TensorMut, scratch: &mut Scratch) -> Outcome {
    let (a, b) = (operands.required(0, "a")?, operands.required(3, "b")?);
    let scales = [
        operands.required(1, "a_scale")?,
        operands.required(4, "b_scale")?,
        operands.required(6, "y_scale")?,
    ];
    let zero_y = operands.required(7, "y_zero_point")?;
    expect_bytes(y.dtype)?;
    expect_dtype(zero_y, "y_zero_point", y.dtype)?;
    if scales.iter().any(|scale| !scale.dtype.is_float()) {
        return fault!(
            "scales are {}, {} and {}, expected floats",
            scales[0].dtype,
            scales[1].dtype,
            scales[2].dtype
        );
    }
    let pairs = pair(a.shape, b.shape, y.shape)?;
    let a = Centred::new(a, Some(operands.required(2, "a_zero_point")?), true)?;
    let b = Centred::new(b, Some(operands.required(5, "b_zero_point")?), false)?;
    let shape = y.shape;
    let requantize = Requantize {
        rounding: scales[0].dtype,
        mixed: scales.iter().any(|scale| scale.dtype != scales[0].dtype),
        a: Parameter::new(Some(scales[0]), shape, true)?,
        b: Parameter::new(Some(scales[1]), shape, false)?,
        y: Parameter::new(Some(scales[2]), shape, true)?,
        zero: Parameter::new(Some(zero_y), shape, true)?,
    };
    match y.dtype {
        DType::I8 => {
            let y = y.slice::<i8>();
            multiply(&a, &b, &pairs, scratch, |first, sums| requantize.apply(first, sums, &mut y[first..]));
        }
        _ => {
            let y = y.slice::<u8>();
            multiply(&a, &b, &pairs, scratch, |first, sums| requantize.apply(first, sums, &mut y[first..]));
        }
    }
    Ok::<(), Fault>(())
}

/// Scales and zero point of a quantised product.
struct Requantize<'a> {
    rounding: DType,
    mixed: bool,
    a: Parameter<'a>,
    b: Parameter<'a>,
    y: Parameter<'a>,
    zero: Parameter<'a>,
}

impl Requantize<'_> {
    fn apply<Q: Number>(&self, first: usize, sums: &[i32], y: &mut [Q]) {
        let single = [&self.a, &self.b, &self.y, &self.zero].iter().all(|parameter| parameter.is_single());
        let mut factor = self.factor(first);
        let mut zero = self.zero.zero_at(first);
        for (i, (y, sum)) in y.iter_mut().zip(sums).enumerate() {
            if !single {
                factor = self.factor(first + i);
                zero = self.zero.zero_at(first + i);
            }
            let scaled = (f64::from(*sum) * factor).round_ties_even() + f64::from(zero);
            *y = Q::narrow(Arith::from_f64(scaled));
        }
    }

    /// `a_scale * b_scale / y_scale`, each step rounded to the dtype of the scales, as the format defines it.
    fn factor(&self, element: usize) -> f64 {
        let [a, b, y] = [&self.a, &self.b, &self.y].map(|scale| scale.scale_at(element));
        let round = |v: f64| super::quantize::rounded(if self.mixed { DType::F32 } else { self.rounding }, v);
        round(round(a * b) / y)
    }
}
