//! Kernels on plain slices: no graph, no plan, no allocation once warm.
//!
//! Every kernel is written once over the `simd` trait and compiled per tier; [`Context`] carries the tier's proof, the threads
//! and the scratch. Shapes are the caller's promise, made when a plan is lowered: a mismatch is a programmer's error
//! and panics at entry. What comes from user data (token ids, lengths) is checked and gives an error.

pub mod attention;
pub mod attention_bf16;
mod context;
pub mod conv;
pub mod elementwise;
pub mod gemm;
mod math;
pub mod norm;
pub mod peak;
mod reduce;
pub mod registry;
pub(crate) mod simd;
pub mod softmax;
pub mod tokens;
mod views;

pub use context::{AlignedBuf, Context};
pub use views::{CuSeqlens, CuSeqlensError, Rows, RowsMut};
