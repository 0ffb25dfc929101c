//! Borrowed tensors.

use bertha_graph::{DType, Element, byte_count};
use bytemuck::Pod;

use super::error::{Outcome, fault};
use super::nest::MAX_RANK;

/// A tensor to read: dense, row-major, its bytes aligned to the element size.
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    /// The element type.
    pub dtype: DType,
    /// The shape; empty for a scalar. At most 16 dimensions.
    pub shape: &'a [usize],
    /// Exactly the bytes of all elements.
    pub bytes: &'a [u8],
}

/// A tensor to write: dense, row-major, its bytes aligned to the element size. What it holds before is never read.
#[derive(Debug)]
pub struct TensorMut<'a> {
    /// The element type.
    pub dtype: DType,
    /// The shape, as the shape rules gave it.
    pub shape: &'a [usize],
    /// Exactly the bytes of all elements.
    pub bytes: &'a mut [u8],
}

impl<'a> TensorRef<'a> {
    /// Checks what every kernel relies on.
    pub(super) fn check(&self, what: &str) -> Outcome {
        check(self.dtype, self.shape, self.bytes, what)
    }

    /// The elements; the caller has checked the dtype.
    pub(super) fn slice<T: Element>(&self) -> &'a [T] {
        debug_assert_eq!(self.dtype, T::DTYPE);
        bytemuck::cast_slice(self.bytes)
    }

    /// The elements as words of their size, where only their place matters.
    pub(super) fn words<W: Pod>(&self) -> &'a [W] {
        debug_assert_eq!(self.dtype.size(), size_of::<W>());
        bytemuck::cast_slice(self.bytes)
    }

    /// Number of dimensions.
    pub(super) fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }
}

impl TensorMut<'_> {
    /// Checks what every kernel relies on.
    pub(super) fn check(&self, what: &str) -> Outcome {
        check(self.dtype, self.shape, self.bytes, what)
    }

    /// The elements; the caller has checked the dtype.
    pub(super) fn slice<T: Element>(&mut self) -> &mut [T] {
        debug_assert_eq!(self.dtype, T::DTYPE);
        bytemuck::cast_slice_mut(self.bytes)
    }

    /// The elements as words of their size.
    pub(super) fn words<W: Pod>(&mut self) -> &mut [W] {
        debug_assert_eq!(self.dtype.size(), size_of::<W>());
        bytemuck::cast_slice_mut(self.bytes)
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// The result has this dtype.
    pub(super) fn expect_dtype(&self, dtype: DType) -> Outcome {
        if self.dtype != dtype {
            return fault!("the result is planned as {}, but it is {dtype}", self.dtype);
        }
        Ok(())
    }

    /// The result has this shape.
    pub(super) fn expect_shape(&self, shape: &[usize]) -> Outcome {
        if self.shape != shape {
            return fault!("the result is planned as {:?}, but it is {shape:?}", self.shape);
        }
        Ok(())
    }
}

fn check(dtype: DType, shape: &[usize], bytes: &[u8], what: &str) -> Outcome {
    if shape.len() > MAX_RANK {
        return fault!("{what} has {} dimensions; at most {MAX_RANK} are supported", shape.len());
    }
    // Products of any of the dimensions must not overflow, even where another one is 0.
    let product =
        shape.iter().filter(|dim| **dim != 0).try_fold(1usize, |product, dim| product.checked_mul(*dim));
    let fits = product.is_some_and(|product| product <= isize::MAX as usize / 8)
        && byte_count(dtype, shape) == Ok(bytes.len())
        && bytes.as_ptr().align_offset(dtype.size()) == 0;
    if !fits {
        return fault!(
            "{what} is {dtype}{shape:?}, which does not agree with its {} bytes or their alignment",
            bytes.len()
        );
    }
    Ok(())
}
