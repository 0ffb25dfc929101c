//! Readers and writers of model files.
//!
//! - [`hf`]: Hugging Face checkpoints (safetensors and PyTorch weights).
//! - [`onnx`]: ONNX models.
//! - [`npz`]: NumPy arrays.
//!
//! Files are memory-mapped and tensors share the mapping where their layout allows, so opening a model costs little
//! and reading a tensor costs nothing until it is touched. All readers expect hostile input: sizes, offsets and names
//! are checked before use, and what is wrong is reported as an [`ImportError`] naming the file and the tensor.

mod archive;
mod error;
mod file_io;

pub mod hf;
pub mod npz;
pub mod onnx;
pub mod testing;

pub use error::{ImportError, Result};
