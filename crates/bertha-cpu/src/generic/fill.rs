//! Tensors made from shapes and scalars.

use bertha_graph::{DType, TensorData};

use super::error::{Fault, Outcome, fault};
use super::number::{Arith, Number, with_number, with_word};
use super::operands::{Ints, Operands, single};
use super::tensor::TensorMut;

/// The dimensions `start..end` of `x`.
pub(super) fn shape(start: i64, end: Option<i64>, operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    let rank = x.rank() as i64;
    let clamp = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let (start, end) = (clamp(start), end.map_or(x.rank(), clamp));
    let dims = x.shape.get(start..end).unwrap_or(&[]);
    y.expect_dtype(DType::I64)?;
    y.expect_shape(&[dims.len()])?;
    y.slice::<i64>().iter_mut().zip(dims).for_each(|(y, dim)| *y = *dim as i64);
    Ok(())
}

/// One value, repeated.
pub(super) fn constant_of_shape(value: &TensorData, operands: Operands, y: &mut TensorMut) -> Outcome {
    let shape = Ints::of(operands.required(0, "shape")?, "shape")?;
    y.expect_dtype(value.dtype())?;
    let agrees = shape.len() == y.shape.len()
        && (0..shape.len()).all(|d| usize::try_from(shape.get(d)) == Ok(y.shape[d]));
    if !agrees || value.len() != 1 {
        return fault!("`shape` is not the planned {:?}, or the value is not a single one", y.shape);
    }
    with_word!(value.dtype(), W => {
        let word: &[W] = bytemuck::cast_slice(value.bytes());
        y.words::<W>().fill(word[0]);
    });
    Ok(())
}

/// `start, start + delta, ...` up to, and without, `limit`.
pub(super) fn range(operands: Operands, y: &mut TensorMut) -> Outcome {
    let start = operands.required(0, "start")?;
    let limit = operands.typed(1, "limit", start.dtype)?;
    let delta = operands.typed(2, "delta", start.dtype)?;
    y.expect_dtype(start.dtype)?;
    let [planned] = *y.shape else {
        return fault!("the result is planned as {:?}, expected one dimension", y.shape);
    };
    with_number!(start.dtype, T => {
        let (start, limit, delta) =
            (single::<T>(start, "start")?, single::<T>(limit, "limit")?, single::<T>(delta, "delta")?);
        let count = range_len(start, limit, delta)?;
        if count != planned as u128 {
            return fault!("the range has {count} elements, not the planned {planned}");
        }
        ramp::<T>(start, delta, y.slice());
        Ok::<(), Fault>(())
    })
}

/// `max(ceil((limit - start) / delta), 0)`.
fn range_len<T: Number>(start: T, limit: T, delta: T) -> Outcome<u128> {
    if delta.widen() == T::Wide::ZERO {
        return fault!("`delta` is 0");
    }
    if T::DTYPE.is_float() {
        let steps = ((limit.widen().to_f64() - start.widen().to_f64()) / delta.widen().to_f64()).ceil();
        return if steps.is_nan() {
            fault!("the number of elements is not a number")
        } else {
            Ok(steps as u128)
        };
    }
    let [start, limit, delta] = [start, limit, delta].map(|v| to_i128(v));
    let span = limit - start;
    let steps = span / delta + i128::from(span % delta != 0 && ((span < 0) == (delta < 0)));
    Ok(steps.max(0) as u128)
}

/// An integer of any dtype.
pub(super) fn to_i128<T: Number>(value: T) -> i128 {
    let bytes = bytemuck::bytes_of(&value);
    let mut wide = [if T::DTYPE.is_signed() && value.widen() < T::Wide::ZERO { 0xff } else { 0 }; 16];
    wide[..bytes.len()].copy_from_slice(bytes);
    i128::from_le_bytes(wide)
}

/// Integers are added up exactly; floats are computed from the index, so that errors do not grow.
fn ramp<T: Number>(start: T, delta: T, y: &mut [T]) {
    if T::DTYPE.is_float() {
        let (start, delta) = (start.widen().to_f64(), delta.widen().to_f64());
        for (i, y) in y.iter_mut().enumerate() {
            *y = T::narrow(T::Wide::from_f64(start + i as f64 * delta));
        }
        return;
    }
    let mut next = start.widen();
    for y in y {
        *y = T::narrow(next);
        next = next.plus(delta.widen());
    }
}
