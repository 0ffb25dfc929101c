//! Operands of an op, by position and with the name under which messages speak of them.

use bertha_graph::DType;

use super::error::{Outcome, fault};
use super::nest::Small;
use super::number::Arith;
use super::tensor::TensorRef;

/// The operands; absent optional ones are `None` or beyond the end.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a, 'b>(pub &'b [Option<TensorRef<'a>>]);

impl<'a> Operands<'a, '_> {
    /// An operand that may be absent.
    pub(super) fn optional(&self, at: usize) -> Option<TensorRef<'a>> {
        self.0.get(at).copied().flatten()
    }

    /// An operand that must be there.
    pub(super) fn required(&self, at: usize, name: &str) -> Outcome<TensorRef<'a>> {
        match self.optional(at) {
            Some(tensor) => Ok(tensor),
            None => fault!("operand {at} (`{name}`) is missing"),
        }
    }

    /// An operand that must be there and of this dtype.
    pub(super) fn typed(&self, at: usize, name: &str, dtype: DType) -> Outcome<TensorRef<'a>> {
        let tensor = self.required(at, name)?;
        expect_dtype(tensor, name, dtype)?;
        Ok(tensor)
    }

    /// An operand that may be absent, but if not must be of this dtype.
    pub(super) fn optional_typed(
        &self,
        at: usize,
        name: &str,
        dtype: DType,
    ) -> Outcome<Option<TensorRef<'a>>> {
        let tensor = self.optional(at);
        tensor.map_or(Ok(()), |tensor| expect_dtype(tensor, name, dtype))?;
        Ok(tensor)
    }

    /// A short list of integers, such as axes.
    pub(super) fn list(&self, at: usize, name: &str) -> Outcome<Small<i64>> {
        let ints = Ints::of(self.required(at, name)?, name)?;
        Small::of((0..ints.len()).map(|i| ints.get(i)))
    }

    /// A short list of integers that may be absent.
    pub(super) fn optional_list(&self, at: usize, name: &str) -> Outcome<Option<Small<i64>>> {
        self.optional(at).map(|_| self.list(at, name)).transpose()
    }
}

/// The elements of an index tensor.
#[derive(Clone, Copy)]
pub(super) enum Ints<'a> {
    I64(&'a [i64]),
    I32(&'a [i32]),
}

impl<'a> Ints<'a> {
    pub(super) fn of(tensor: TensorRef<'a>, name: &str) -> Outcome<Self> {
        match tensor.dtype {
            DType::I64 => Ok(Ints::I64(tensor.slice())),
            DType::I32 => Ok(Ints::I32(tensor.slice())),
            dtype => fault!("`{name}` is {dtype}, expected i64 or i32"),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Ints::I64(v) => v.len(),
            Ints::I32(v) => v.len(),
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, at: usize) -> i64 {
        match self {
            Ints::I64(v) => v[at],
            Ints::I32(v) => i64::from(v[at]),
        }
    }

    /// The index at `at`, counted from the end when negative, within a dimension of `size`.
    #[inline(always)]
    pub(super) fn position(&self, at: usize, size: usize) -> Outcome<usize> {
        let index = self.get(at);
        let counted = if index < 0 { index + size as i64 } else { index };
        if counted < 0 || counted >= size as i64 {
            return fault!("index {index} is out of range for a dimension of {size}");
        }
        Ok(counted as usize)
    }
}

/// The only element of an operand, as `f64`.
pub(super) fn single<T: super::number::Number>(tensor: TensorRef<'_>, name: &str) -> Outcome<T> {
    match tensor.slice::<T>() {
        [one] => Ok(*one),
        _ => fault!("`{name}` has shape {:?}, expected a scalar", tensor.shape),
    }
}

/// A float operand's element at `at` as `f64`.
pub(super) fn float_at(tensor: TensorRef<'_>, at: usize) -> f64 {
    match tensor.dtype {
        DType::F64 => tensor.slice::<f64>()[at],
        DType::F32 => tensor.slice::<f32>()[at].to_f64(),
        DType::F16 => tensor.slice::<half::f16>()[at].to_f64(),
        DType::BF16 => tensor.slice::<half::bf16>()[at].to_f64(),
        _ => f64::NAN,
    }
}

/// `axis`, counted from the end when negative, as a position within `rank` dimensions.
pub(super) fn normalize_axis(axis: i64, rank: usize) -> Outcome<usize> {
    let counted = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    if counted < 0 || counted >= rank as i64 {
        return fault!("axis {axis} is out of range for {rank} dimensions");
    }
    Ok(counted as usize)
}

/// Which of `rank` dimensions `axes` name; none may be named twice.
pub(super) fn axis_set(axes: &[i64], rank: usize) -> Outcome<[bool; super::nest::MAX_RANK]> {
    let mut set = [false; super::nest::MAX_RANK];
    for axis in axes {
        let at = normalize_axis(*axis, rank)?;
        if set[at] {
            return fault!("axis {axis} is given twice");
        }
        set[at] = true;
    }
    Ok(set)
}

/// The operand has this dtype.
pub(super) fn expect_dtype(tensor: TensorRef<'_>, name: &str, dtype: DType) -> Outcome {
    if tensor.dtype != dtype {
        return fault!("`{name}` is {}, expected {dtype}", tensor.dtype);
    }
    Ok(())
}

/// The operand has this shape.
pub(super) fn expect_shape(tensor: TensorRef<'_>, name: &str, shape: &[usize]) -> Outcome {
    if tensor.shape != shape {
        return fault!("`{name}` has shape {:?}, expected {shape:?}", tensor.shape);
    }
    Ok(())
}

/// The two dimensions of a matrix.
pub(super) fn matrix(tensor: TensorRef<'_>, name: &str) -> Outcome<(usize, usize)> {
    match *tensor.shape {
        [rows, columns] => Ok((rows, columns)),
        _ => fault!("`{name}` has shape {:?}, expected a matrix", tensor.shape),
    }
}
