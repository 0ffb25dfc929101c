//! Choices and conversions.

use bertha_graph::DType;

use super::error::{Fault, Outcome};
use super::nest::Nest;
use super::number::{Arith, Number, with_number, with_word};
use super::operands::{Operands, single};
use super::tensor::{TensorMut, TensorRef};
use super::unary::map;

/// `x` within bounds; when they cross, the upper one wins.
pub(super) fn clip(operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_shape(x.shape)?;
    y.expect_dtype(x.dtype)?;
    let low = operands.optional_typed(1, "min", x.dtype)?;
    let high = operands.optional_typed(2, "max", x.dtype)?;
    with_number!(x.dtype, T => {
        let low = low.map(|low| single::<T>(low, "min")).transpose()?;
        let high = high.map(|high| single::<T>(high, "max")).transpose()?;
        clip_to::<T>(x.slice(), low, high, y.slice());
        Ok(())
    })
}

fn clip_to<T: Number>(x: &[T], low: Option<T>, high: Option<T>, y: &mut [T]) {
    match (low.map(T::widen), high.map(T::widen)) {
        (Some(low), Some(high)) => map(x, y, |x| x.larger(low).smaller(high)),
        (Some(low), None) => map(x, y, |x| x.larger(low)),
        (None, Some(high)) => map(x, y, |x| x.smaller(high)),
        (None, None) => y.copy_from_slice(x),
    }
}

/// Elements of `a` where the condition holds, of `b` elsewhere.
pub(super) fn where_(operands: Operands, y: &mut TensorMut) -> Outcome {
    let condition = operands.typed(0, "condition", DType::Bool)?;
    let a = operands.required(1, "a")?;
    let b = operands.typed(2, "b", a.dtype)?;
    y.expect_dtype(a.dtype)?;
    let nest = Nest::broadcast(y.shape, [condition.shape, a.shape, b.shape])?;
    with_word!(a.dtype, W => choose::<W>(&nest, condition.bytes, a.words(), b.words(), y.words()));
    Ok(())
}

fn choose<W: Copy>(nest: &Nest<3>, condition: &[u8], a: &[W], b: &[W], y: &mut [W]) {
    let (len, steps) = nest.inner();
    let mut rows = y.chunks_mut(len.max(1));
    nest.for_each_run(|[at_c, at_a, at_b]| {
        let Some(y) = rows.next() else { return };
        match steps {
            [0, ..] => {
                let (from, at, step) =
                    if condition[at_c] != 0 { (a, at_a, steps[1]) } else { (b, at_b, steps[2]) };
                match step {
                    0 => y.fill(from[at]),
                    _ => y.copy_from_slice(&from[at..at + len]),
                }
            }
            [_, 0, 0] => {
                let (a, b) = (a[at_a], b[at_b]);
                let condition = &condition[at_c..at_c + len];
                y.iter_mut().zip(condition).for_each(|(y, c)| *y = if *c != 0 { a } else { b });
            }
            [_, 0, _] => {
                let a = a[at_a];
                let pairs = condition[at_c..at_c + len].iter().zip(&b[at_b..at_b + len]);
                y.iter_mut().zip(pairs).for_each(|(y, (c, b))| *y = if *c != 0 { a } else { *b });
            }
            [_, _, 0] => {
                let b = b[at_b];
                let pairs = condition[at_c..at_c + len].iter().zip(&a[at_a..at_a + len]);
                y.iter_mut().zip(pairs).for_each(|(y, (c, a))| *y = if *c != 0 { *a } else { b });
            }
            _ => {
                let pairs = a[at_a..at_a + len].iter().zip(&b[at_b..at_b + len]);
                let triples = condition[at_c..at_c + len].iter().zip(pairs);
                y.iter_mut().zip(triples).for_each(|(y, (c, (a, b)))| *y = if *c != 0 { *a } else { *b });
            }
        }
    });
}

/// A value on its way from one dtype to another, without loss.
#[derive(Clone, Copy)]
enum Exact {
    Float(f64),
    Int(i64),
    Unsigned(u64),
}

trait Castable: Number {
    fn exact(self) -> Exact;
    fn of(value: Exact) -> Self;
}

macro_rules! castable {
    ($($type:ty => $kind:ident($wide:ty);)*) => { $(
        impl Castable for $type {
            #[inline(always)]
            fn exact(self) -> Exact {
                Exact::$kind(self as $wide)
            }
            #[inline(always)]
            fn of(value: Exact) -> Self {
                match value {
                    Exact::Float(v) => v as $type,
                    Exact::Int(v) => v as $type,
                    Exact::Unsigned(v) => v as $type,
                }
            }
        }
    )* };
}
castable! {
    f64 => Float(f64); f32 => Float(f64);
    i64 => Int(i64); i32 => Int(i64); i16 => Int(i64); i8 => Int(i64);
    u64 => Unsigned(u64); u32 => Unsigned(u64); u16 => Unsigned(u64); u8 => Unsigned(u64);
}

macro_rules! castable_half {
    ($($type:ty),*) => { $(
        impl Castable for $type {
            #[inline(always)]
            fn exact(self) -> Exact {
                Exact::Float(f64::from(self))
            }
            #[inline(always)]
            fn of(value: Exact) -> Self {
                match value {
                    Exact::Float(v) => <$type>::from_f64(v),
                    Exact::Int(v) => <$type>::from_f64(v as f64),
                    Exact::Unsigned(v) => <$type>::from_f64(v as f64),
                }
            }
        }
    )* };
}
castable_half!(half::f16, half::bf16);

/// Conversion of the element type. Floats drop their fraction and saturate when they become integers, NaN gives 0;
/// integers wrap; what is not zero is true.
pub(super) fn cast(operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_shape(x.shape)?;
    match (x.dtype, y.dtype) {
        (from, to) if from == to => y.bytes.copy_from_slice(x.bytes),
        (DType::Bool, to) => with_number!(to, U => {
            let one = <U as Number>::narrow(Arith::ONE);
            let zero = <U as Number>::narrow(Arith::ZERO);
            y.slice::<U>().iter_mut().zip(x.bytes).for_each(|(y, x)| *y = if *x != 0 { one } else { zero });
            Ok(())
        })?,
        (from, DType::Bool) => with_number!(from, T => {
            let zero = <T as Number>::Wide::ZERO;
            y.bytes.iter_mut().zip(x.slice::<T>()).for_each(|(y, x)| *y = u8::from(x.widen() != zero));
            Ok(())
        })?,
        _ => cast_number(x, y)?,
    }
    Ok(())
}

fn cast_number(x: TensorRef, y: &mut TensorMut) -> Outcome {
    match (x.dtype, y.dtype) {
        // The directions that half-precision models take all the time.
        (DType::F16, DType::F32) => half::f16::widen_all(x.slice(), y.slice()),
        (DType::BF16, DType::F32) => half::bf16::widen_all(x.slice(), y.slice()),
        (DType::F32, DType::F16) => half::f16::narrow_all(x.slice(), y.slice()),
        (DType::F32, DType::BF16) => half::bf16::narrow_all(x.slice(), y.slice()),
        (from, to) => with_number!(from, T => with_number!(to, U => {
            let pairs = y.slice::<U>().iter_mut().zip(x.slice::<T>());
            pairs.for_each(|(y, x)| *y = U::of(x.exact()));
            Ok::<(), Fault>(())
        }))?,
    }
    Ok(())
}
