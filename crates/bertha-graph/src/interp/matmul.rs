//! Matrix products.

use super::Context;
use super::args::{Args, expect_dtype, expect_rank, floats, int_elements};
use super::error::{Fault, fault};
use super::index::{broadcast, broadcast_positions};
use super::value::{Elements, Value, element_count, round, saturate};
use crate::dtype::DType;

/// Rows that share one pass over the right operand, so that large weights are read from memory few times.
const ROWS: usize = 16;

/// Product of one pair of matrices, `[m, k]` and `[k, n]`, added to `out`.
pub(super) fn multiply<T>(a: &[T], b: &[T], (m, k, n): (usize, usize, usize), out: &mut [T])
where
    T: Copy + std::ops::Mul<Output = T> + std::ops::AddAssign,
{
    for first in (0..m).step_by(ROWS) {
        for inner in 0..k {
            let row_b = &b[inner * n..(inner + 1) * n];
            for row in first..m.min(first + ROWS) {
                let factor = a[row * k + inner];
                for (sum, b) in out[row * n..(row + 1) * n].iter_mut().zip(row_b) {
                    *sum += factor * *b;
                }
            }
        }
    }
}

/// `[rows, columns]` as `[columns, rows]`.
pub(super) fn transposed<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// How the operands of a [`matmul`] pair up.
struct Batches {
    m: usize,
    k: usize,
    n: usize,
    /// Which matrix of `a` and which of `b`, for each matrix of the result.
    pairs: Vec<(usize, usize)>,
    /// Shape of the result, with the dimensions that 1-D operands lack.
    shape: Vec<usize>,
}

/// Pairs the matrices of `a` and `b` by NumPy's rule for `matmul`.
fn batches(a: &[usize], b: &[usize]) -> Result<Batches, Fault> {
    if a.is_empty() || b.is_empty() {
        return fault!("shapes {a:?} and {b:?}: a scalar has no matrix product");
    }
    // A vector on the left is one row, on the right one column.
    let rows = if a.len() == 1 { vec![1, a[0]] } else { a.to_vec() };
    let columns = if b.len() == 1 { vec![b[0], 1] } else { b.to_vec() };
    let (lead_a, matrix_a) = rows.split_at(rows.len() - 2);
    let (lead_b, matrix_b) = columns.split_at(columns.len() - 2);
    let (m, k, n) = (matrix_a[0], matrix_a[1], matrix_b[1]);
    if k != matrix_b[0] {
        return fault!("shapes {a:?} and {b:?}: {k} columns on the left, {} rows on the right", matrix_b[0]);
    }
    let lead = broadcast(&[lead_a, lead_b])?;
    let pairs =
        broadcast_positions(lead_a, &lead)?.into_iter().zip(broadcast_positions(lead_b, &lead)?).collect();
    let mut shape = lead;
    if a.len() > 1 {
        shape.push(m);
    }
    if b.len() > 1 {
        shape.push(n);
    }
    Ok(Batches { m, k, n, pairs, shape })
}

fn multiply_batches<T>(a: &[T], b: &[T], batches: &Batches) -> Result<Vec<T>, Fault>
where
    T: Copy + Default + std::ops::Mul<Output = T> + std::ops::AddAssign,
{
    let Batches { m, k, n, pairs, .. } = batches;
    let mut out = vec![T::default(); element_count(&[pairs.len(), *m, *n])?];
    for (i, (at_a, at_b)) in pairs.iter().enumerate() {
        let a = &a[at_a * m * k..(at_a + 1) * m * k];
        let b = &b[at_b * k * n..(at_b + 1) * k * n];
        multiply(a, b, (*m, *k, *n), &mut out[i * m * n..(i + 1) * m * n]);
    }
    Ok(out)
}

/// Integers that may be multiplied and added without end: 64-bit arithmetic modulo 2^64 is exact modulo every dtype.
fn wrapping(values: &[i128]) -> Vec<std::num::Wrapping<i64>> {
    values.iter().map(|v| std::num::Wrapping(*v as i64)).collect()
}

fn unwrapped(values: Vec<std::num::Wrapping<i64>>) -> Vec<i128> {
    values.into_iter().map(|v| i128::from(v.0)).collect()
}

/// Matrix product over the last two dimensions.
pub(super) fn matmul(args: Args, context: Context) -> Result<Value, Fault> {
    let (a, b) = (args.required(0, "a")?, args.required(1, "b")?);
    expect_dtype(b, "b", a.dtype())?;
    let batches = batches(a.shape(), b.shape())?;
    match (a.elements(), b.elements()) {
        (Elements::Float(u), Elements::Float(v)) => {
            let values = multiply_batches(u, v, &batches)?;
            Ok(context.floats(a.dtype(), batches.shape, values))
        }
        (Elements::Int(u), Elements::Int(v)) => {
            let values = unwrapped(multiply_batches(&wrapping(u), &wrapping(v), &batches)?);
            Ok(Value::ints(a.dtype(), batches.shape, values))
        }
        _ => fault!("not defined for {}", a.dtype()),
    }
}

/// What [`gemm`] is asked for beside its operands.
#[derive(Clone, Copy)]
pub(super) struct GemmAttrs {
    pub alpha: f32,
    pub beta: f32,
    pub trans_a: bool,
    pub trans_b: bool,
}

/// `alpha * a' * b' + beta * c`, where a `beta` of 0 leaves `c` out. Integers are multiplied exactly; factors other
/// than 1 scale them as real numbers, truncated.
pub(super) fn gemm(attrs: GemmAttrs, args: Args, context: Context) -> Result<Value, Fault> {
    let (a, b) = (args.required(0, "a")?, args.required(1, "b")?);
    expect_rank(a, "a", 2)?;
    expect_rank(b, "b", 2)?;
    expect_dtype(b, "b", a.dtype())?;
    let oriented = |x: &Value, flip: bool| {
        let (rows, columns) = (x.shape()[0], x.shape()[1]);
        if flip {
            let positions: Vec<usize> = transposed(&(0..x.len()).collect::<Vec<_>>(), rows, columns);
            x.take(vec![columns, rows], &positions)
        } else {
            x.clone()
        }
    };
    let (a, b) = (oriented(a, attrs.trans_a), oriented(b, attrs.trans_b));
    let product = matmul(Args(&[Some(&a), Some(&b)]), Context::EXACT)?;
    let shape = product.shape().to_vec();
    let addend = match args.optional(2) {
        Some(c) => {
            expect_dtype(c, "c", a.dtype())?;
            let positions = broadcast_positions(c.shape(), &shape)?;
            (attrs.beta != 0.0).then(|| c.take(shape.clone(), &positions))
        }
        None => None,
    };
    let (alpha, beta) = (f64::from(attrs.alpha), f64::from(attrs.beta));
    let exact = alpha == 1.0 && (beta == 1.0 || addend.is_none());
    if let (true, Elements::Int(v)) = (exact, product.elements()) {
        let zeros = vec![0; v.len()];
        let addend = match &addend {
            Some(c) => int_elements(c, "c")?,
            None => &zeros,
        };
        return Ok(Value::ints(a.dtype(), shape, v.iter().zip(addend).map(|(x, c)| x + c).collect()));
    }
    let mut sums: Vec<f64> = product.to_f64().iter().map(|x| alpha * x).collect();
    if let Some(c) = addend {
        sums.iter_mut().zip(c.to_f64()).for_each(|(sum, c)| *sum += beta * c);
    }
    Ok(if a.dtype().is_float() {
        context.floats(a.dtype(), shape, sums)
    } else {
        Value::ints(a.dtype(), shape, sums.iter().map(|x| saturate(a.dtype(), *x)).collect())
    })
}

/// An operand with its zero point subtracted.
///
/// Zero points (and scales) are scalars, a vector with one element for each row of `a` or column of `b`, or of a shape
/// that broadcasts to the operand.
fn centred(x: &Value, zero: Option<&Value>, rows: bool, name: &str) -> Result<Vec<i128>, Fault> {
    let values = int_elements(x, name)?;
    if !matches!(x.dtype(), DType::I8 | DType::U8) {
        return fault!("`{name}` is {}, expected i8 or u8", x.dtype());
    }
    let Some(zero) = zero else { return Ok(values.to_vec()) };
    let zero_name = format!("{name}_zero_point");
    expect_dtype(zero, &zero_name, x.dtype())?;
    let at = parameter_positions(zero, x, rows)?;
    let zeros = int_elements(zero, &zero_name)?;
    Ok(values.iter().zip(at).map(|(x, at)| x - zeros[at]).collect())
}

/// Position in a parameter (scale or zero point) for every element of the operand that it belongs to.
fn parameter_positions(parameter: &Value, x: &Value, rows: bool) -> Result<Vec<usize>, Fault> {
    let mut shape = parameter.shape().to_vec();
    if shape == [1] {
        shape.clear();
    }
    // A vector for `a` goes along the rows, where broadcasting alone would put it along the columns.
    if shape.len() == 1 && rows && x.rank() > 1 {
        shape.push(1);
    }
    broadcast_positions(&shape, x.shape())
}

/// Product of 8-bit integers, in 32 bits.
pub(super) fn matmul_integer(args: Args) -> Result<Value, Fault> {
    let (a, b) = (args.required(0, "a")?, args.required(1, "b")?);
    let batches = batches(a.shape(), b.shape())?;
    let u = wrapping(&centred(a, args.optional(2), true, "a")?);
    let v = wrapping(&centred(b, args.optional(3), false, "b")?);
    let values = unwrapped(multiply_batches(&u, &v, &batches)?);
    Ok(Value::ints(DType::I32, batches.shape, values))
}

/// Product of quantised matrices, quantised again: `round(a_scale * b_scale / y_scale * sum) + y_zero_point`.
pub(super) fn qlinear_matmul(args: Args, context: Context) -> Result<Value, Fault> {
    let (a, b) = (args.required(0, "a")?, args.required(3, "b")?);
    let (scale_a, scale_b) = (args.required(1, "a_scale")?, args.required(4, "b_scale")?);
    let (scale_y, zero_y) = (args.required(6, "y_scale")?, args.required(7, "y_zero_point")?);
    let batches = batches(a.shape(), b.shape())?;
    let u = wrapping(&centred(a, Some(args.required(2, "a_zero_point")?), true, "a")?);
    let v = wrapping(&centred(b, Some(args.required(5, "b_zero_point")?), false, "b")?);
    // Accumulated modulo 2^32, as the format has it.
    let sums = Value::ints(DType::I32, batches.shape.clone(), unwrapped(multiply_batches(&u, &v, &batches)?));
    let sums = int_elements(&sums, "sums")?;

    let dtype = zero_y.dtype();
    let scales = ResultScales::new(&batches, [scale_a, scale_b, scale_y])?;
    let zeros = int_elements(zero_y, "y_zero_point")?;
    let at_zero = result_positions(zero_y, &batches, true, "y_zero_point")?;
    let values = sums.iter().enumerate().map(|(i, sum)| {
        let scaled = (*sum as f64 * scales.at(i, context)).round_ties_even();
        saturate(dtype, scaled + zeros[at_zero[i]] as f64)
    });
    Ok(Value::ints(dtype, batches.shape.clone(), values.collect()))
}

/// `a_scale * b_scale / y_scale` for each element of a result, each step rounded to the dtype of the scales.
struct ResultScales<'a> {
    values: [&'a [f64]; 3],
    positions: [Vec<usize>; 3],
    dtype: DType,
}

impl<'a> ResultScales<'a> {
    fn new(batches: &Batches, [a, b, y]: [&'a Value; 3]) -> Result<Self, Fault> {
        let positions = [
            result_positions(a, batches, true, "a_scale")?,
            result_positions(b, batches, false, "b_scale")?,
            result_positions(y, batches, true, "y_scale")?,
        ];
        let values = [floats(a, "a_scale")?, floats(b, "b_scale")?, floats(y, "y_scale")?];
        let same = a.dtype() == b.dtype() && a.dtype() == y.dtype();
        Ok(ResultScales { values, positions, dtype: if same { a.dtype() } else { DType::F32 } })
    }

    fn at(&self, element: usize, context: Context) -> f64 {
        let [a, b, y] = [0, 1, 2].map(|i| self.values[i][self.positions[i][element]]);
        context.round(self.dtype, context.round(self.dtype, a * b) / y)
    }
}

/// Position in a parameter for every element of the result. A vector goes along the rows or along the columns.
fn result_positions(
    parameter: &Value,
    batches: &Batches,
    rows: bool,
    name: &str,
) -> Result<Vec<usize>, Fault> {
    if parameter.len() == 1 {
        return Ok(vec![0; batches.shape.iter().product()]);
    }
    let mut shape = parameter.shape().to_vec();
    if shape.len() == 1 && rows && batches.shape.len() > 1 {
        shape.push(1);
    }
    broadcast_positions(&shape, &batches.shape).map_err(|_| {
        let (given, result) = (parameter.shape(), &batches.shape);
        Fault(format!("`{name}` of shape {given:?} does not belong to a result of {result:?}"))
    })
}

impl Context {
    /// The value, rounded to the dtype where the precision asks for it.
    pub(super) fn round(self, dtype: DType, value: f64) -> f64 {
        if self.rounds() { round(dtype, value) } else { value }
    }
}
