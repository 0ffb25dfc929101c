//! NumPy arrays: `.npy` (one array) and `.npz` (a zip archive of them, in order).
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>, versions 1, 2 and 3. Read: little-
//! and big-endian `f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1`, row-major and column-major (turned into row-major), scalars
//! and empty arrays, zip entries stored or deflated. Written: version 1 (2 when the header is long), row-major,
//! little-endian, stored, so that NumPy can map them too.
//!
//! NumPy has no bfloat16. A [`DType::BF16`](bertha_graph::DType::BF16) tensor is written as `u2` (`uint16`) with the
//! same bits, and comes back as `U16`: `array.view(ml_dtypes.bfloat16)` restores it in Python,
//! [`TensorData::from_bytes`](bertha_graph::TensorData::from_bytes) here.

mod header;
mod read;
mod write;

pub use read::{npy_from_bytes, npz_from_bytes, read_npy, read_npz};
pub use write::{write_npy, write_npz};

/// Arrays in the order of their file.
pub type NamedArrays = Vec<(String, bertha_graph::TensorData)>;
