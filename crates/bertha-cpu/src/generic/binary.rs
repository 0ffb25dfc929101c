//! Functions of two elements, with broadcasting.

use bertha_graph::{BinaryOp, DType};

use super::error::{Fault, Outcome};
use super::fill::to_i128;
use super::nest::Nest;
use super::number::{Arith, Float, Number, Real, with_float, with_number};
use super::operands::Operands;
use super::tensor::{TensorMut, TensorRef};
use super::unary::{CHUNK, map};

/// One function of two broadcast operands.
pub(super) fn binary(op: BinaryOp, operands: Operands, y: &mut TensorMut) -> Outcome {
    let a = operands.required(0, "a")?;
    y.expect_dtype(if op.is_predicate() { DType::Bool } else { a.dtype })?;
    if op == BinaryOp::Pow {
        return pow(a, operands.required(1, "b")?, y);
    }
    let b = operands.typed(1, "b", a.dtype)?;
    let nest = Nest::broadcast(y.shape, [a.shape, b.shape])?;
    match (op, a.dtype) {
        (BinaryOp::And, DType::Bool) => {
            predicate(&nest, a.bytes, b.bytes, y.bytes, |a, b| a != 0 && b != 0);
            Ok(())
        }
        (BinaryOp::Equal, DType::Bool) => {
            predicate(&nest, a.bytes, b.bytes, y.bytes, |a, b| (a != 0) == (b != 0));
            Ok(())
        }
        (BinaryOp::And, dtype) => Err(Fault::Unsupported(dtype.to_string())),
        (op, dtype) if op.is_predicate() => with_number!(dtype, T => {
            compare::<T>(op, &nest, a.slice(), b.slice(), y.bytes);
            Ok(())
        }),
        (op, dtype) => with_number!(dtype, T => {
            arithmetic::<T>(op, &nest, a.slice(), b.slice(), y.slice());
            Ok(())
        }),
    }
}

fn compare<T: Number>(op: BinaryOp, nest: &Nest<2>, a: &[T], b: &[T], y: &mut [u8]) {
    match op {
        BinaryOp::Equal => predicate(nest, a, b, y, |a: T, b: T| a.widen() == b.widen()),
        BinaryOp::Greater => predicate(nest, a, b, y, |a: T, b: T| a.widen() > b.widen()),
        BinaryOp::GreaterOrEqual => predicate(nest, a, b, y, |a: T, b: T| a.widen() >= b.widen()),
        BinaryOp::Less => predicate(nest, a, b, y, |a: T, b: T| a.widen() < b.widen()),
        BinaryOp::LessOrEqual => predicate(nest, a, b, y, |a: T, b: T| a.widen() <= b.widen()),
        _ => {}
    }
}

/// A predicate of two elements, into bytes of 0 and 1.
fn predicate<T: Copy>(nest: &Nest<2>, a: &[T], b: &[T], y: &mut [u8], f: impl Fn(T, T) -> bool) {
    zip(nest, a, b, y, |a, b| u8::from(f(a, b)));
}

fn arithmetic<T: Number>(op: BinaryOp, nest: &Nest<2>, a: &[T], b: &[T], y: &mut [T]) {
    match op {
        BinaryOp::Add => combine(nest, a, b, y, Arith::plus),
        BinaryOp::Sub => combine(nest, a, b, y, Arith::minus),
        BinaryOp::Mul => combine(nest, a, b, y, Arith::times),
        BinaryOp::Div => combine(nest, a, b, y, Arith::over),
        BinaryOp::Max => combine(nest, a, b, y, Arith::larger),
        BinaryOp::Min => combine(nest, a, b, y, Arith::smaller),
        _ => {}
    }
}

/// `f` of two elements, computed in the wide type.
fn combine<T: Number>(
    nest: &Nest<2>,
    a: &[T],
    b: &[T],
    y: &mut [T],
    f: impl Fn(T::Wide, T::Wide) -> T::Wide,
) {
    if size_of::<T>() == size_of::<T::Wide>() {
        zip(nest, a, b, y, |a, b| T::narrow(f(a.widen(), b.widen())));
    } else {
        zip_widened(nest, a, b, y, f);
    }
}

/// `f` of two elements. The innermost loop is a plain one over slices in each of its cases, so that it becomes vector
/// code. Operands are dense: there each of them advances by one element or stays.
fn zip<T: Copy, U>(nest: &Nest<2>, a: &[T], b: &[T], y: &mut [U], f: impl Fn(T, T) -> U) {
    let (len, steps) = nest.inner();
    let mut rows = y.chunks_mut(len.max(1));
    nest.for_each_run(|[at_a, at_b]| {
        let Some(y) = rows.next() else { return };
        match steps {
            [0, 0] => y.iter_mut().for_each(|y| *y = f(a[at_a], b[at_b])),
            [0, _] => {
                let a = a[at_a];
                y.iter_mut().zip(&b[at_b..at_b + len]).for_each(|(y, b)| *y = f(a, *b));
            }
            [_, 0] => {
                let b = b[at_b];
                y.iter_mut().zip(&a[at_a..at_a + len]).for_each(|(y, a)| *y = f(*a, b));
            }
            _ => {
                let pairs = a[at_a..at_a + len].iter().zip(&b[at_b..at_b + len]);
                y.iter_mut().zip(pairs).for_each(|(y, (a, b))| *y = f(*a, *b));
            }
        }
    });
}

/// As [`zip`], through buffers of the wide type.
fn zip_widened<T: Number>(
    nest: &Nest<2>,
    a: &[T],
    b: &[T],
    y: &mut [T],
    f: impl Fn(T::Wide, T::Wide) -> T::Wide,
) {
    let (len, steps) = nest.inner();
    let mut rows = y.chunks_mut(len.max(1));
    let (mut wide_a, mut wide_b) = ([T::Wide::ZERO; CHUNK], [T::Wide::ZERO; CHUNK]);
    nest.for_each_run(|[at_a, at_b]| {
        let Some(y) = rows.next() else { return };
        for (chunk, y) in y.chunks_mut(CHUNK).enumerate() {
            let (wide_a, wide_b) = (&mut wide_a[..y.len()], &mut wide_b[..y.len()]);
            widen_run(&a[at_a..], steps[0], chunk * CHUNK, wide_a);
            widen_run(&b[at_b..], steps[1], chunk * CHUNK, wide_b);
            wide_a.iter_mut().zip(&*wide_b).for_each(|(a, b)| *a = f(*a, *b));
            T::narrow_all(wide_a, y);
        }
    });
}

/// The elements from `first` on, or the same one over and over when `step` is 0.
fn widen_run<T: Number>(from: &[T], step: isize, first: usize, to: &mut [T::Wide]) {
    match step {
        0 => to.fill(from[0].widen()),
        _ => T::widen_all(&from[first..first + to.len()], to),
    }
}

/// `a` to the power of `b`, whose dtype may be another.
fn pow(a: TensorRef, b: TensorRef, y: &mut TensorMut) -> Outcome {
    let nest = Nest::broadcast(y.shape, [a.shape, b.shape])?;
    if a.dtype.is_float() && b.len() == 1 && y.len() == a.len() {
        let exponent = number_at(b, 0)?;
        return with_float!(a.dtype, T => {
            pow_by_one::<T>(a.slice(), exponent, y.slice());
            Ok(())
        });
    }
    if a.dtype.is_float() && a.dtype == b.dtype {
        return with_float!(a.dtype, T => {
            combine::<T>(&nest, a.slice(), b.slice(), y.slice(), Real::pow);
            Ok(())
        });
    }
    with_number!(a.dtype, T => mixed_pow::<T>(&nest, a.slice(), b, y.slice()))
}

/// The exponents that models use have short forms.
fn pow_by_one<T: Float>(a: &[T], exponent: f64, y: &mut [T]) {
    if exponent == 2.0 {
        map(a, y, |x| x.times(x));
    } else if exponent == 3.0 {
        map(a, y, |x| x.times(x).times(x));
    } else if exponent == 1.0 {
        y.copy_from_slice(a);
    } else {
        let exponent = T::Wide::from_f64(exponent);
        map(a, y, |x| x.pow(exponent));
    }
}

/// Exponents of any dtype, read one by one: rare, and not worth a loop for each pair of dtypes.
fn mixed_pow<T: Number>(nest: &Nest<2>, a: &[T], b: TensorRef, y: &mut [T]) -> Outcome {
    let mut results = y.iter_mut();
    let mut outcome = Ok(());
    nest.for_each(|[at_a, at_b]| {
        let Some(y) = results.next() else { return };
        let base = a[at_a].widen();
        let power = if T::DTYPE.is_int() && b.dtype.is_int() {
            int_at(b, at_b).map(|exponent| int_pow(base, exponent))
        } else {
            number_at(b, at_b).map(|exponent| T::Wide::from_f64(base.to_f64().powf(exponent)))
        };
        match power {
            Ok(power) => *y = T::narrow(power),
            Err(fault) => outcome = Err(fault),
        }
    });
    outcome
}

fn number_at(tensor: TensorRef, at: usize) -> Outcome<f64> {
    with_number!(tensor.dtype, T => Ok(tensor.slice::<T>()[at].widen().to_f64()))
}

fn int_at(tensor: TensorRef, at: usize) -> Outcome<i128> {
    with_number!(tensor.dtype, T => Ok(to_i128(tensor.slice::<T>()[at])))
}

/// Wraps on overflow. Negative exponents truncate the fraction toward zero, and 0 to one of them gives 0.
fn int_pow<B: Arith>(base: B, exponent: i128) -> B {
    let odd = exponent % 2 != 0;
    if exponent < 0 {
        let minus_one = B::ZERO.minus(B::ONE);
        let signed = minus_one < B::ZERO;
        return if base == B::ONE || (signed && base == minus_one && !odd) {
            B::ONE
        } else if signed && base == minus_one {
            minus_one
        } else {
            B::ZERO
        };
    }
    let (mut result, mut square, mut rest) = (B::ONE, base, exponent);
    while rest > 0 {
        if rest % 2 == 1 {
            result = result.times(square);
        }
        square = square.times(square);
        rest /= 2;
    }
    result
}
