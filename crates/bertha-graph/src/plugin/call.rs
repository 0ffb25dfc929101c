//! What a kernel of a plugin is called with.

use crate::dtype::{DType, Element};

/// A tensor to read: dense, row-major, its bytes aligned to the element size.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// The element type.
    pub dtype: DType,
    /// The shape; empty for a scalar.
    pub shape: &'a [usize],
    /// Exactly the bytes of all elements.
    pub bytes: &'a [u8],
}

/// A tensor to write: dense, row-major, its bytes aligned to the element size. What it holds before means nothing.
#[derive(Debug)]
pub struct TensorViewMut<'a> {
    /// The element type.
    pub dtype: DType,
    /// The shape, as the signature gives it.
    pub shape: &'a [usize],
    /// Exactly the bytes of all elements.
    pub bytes: &'a mut [u8],
}

impl<'a> TensorView<'a> {
    /// The elements.
    ///
    /// # Errors
    /// When they are of another type.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T], String> {
        expect::<T>(self.dtype)?;
        // No bytes may lie anywhere.
        if self.bytes.is_empty() {
            return Ok(&[]);
        }
        bytemuck::try_cast_slice(self.bytes).map_err(|error| format!("the operand's memory: {error}"))
    }
}

impl TensorViewMut<'_> {
    /// The elements.
    ///
    /// # Errors
    /// When they are of another type.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], String> {
        expect::<T>(self.dtype)?;
        if self.bytes.is_empty() {
            return Ok(&mut []);
        }
        bytemuck::try_cast_slice_mut(self.bytes).map_err(|error| format!("the result's memory: {error}"))
    }
}

fn expect<T: Element>(dtype: DType) -> Result<(), String> {
    if dtype == T::DTYPE { Ok(()) } else { Err(format!("expected {}, found {dtype}", T::DTYPE)) }
}

/// The threads that a kernel may spread its work over.
///
/// # Safety
/// Kernels write through pointers from several tasks, sure that no two have the same number. So `run` must call `task`
/// exactly once for each number below `tasks` (after a panic of a task, at most once), with no other number, and must
/// neither return nor unwind before every call has ended.
pub unsafe trait Parallel: Send {
    /// How many there are, the caller included.
    fn threads(&self) -> usize;

    /// Calls `task` once for each of `0..tasks`, on all threads, in any order, and returns when all are done.
    fn run(&mut self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// The calling thread alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequential;

// SAFETY: a range gives each number once, and a call ends before the next begins.
unsafe impl Parallel for Sequential {
    fn threads(&self) -> usize {
        1
    }

    fn run(&mut self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}
