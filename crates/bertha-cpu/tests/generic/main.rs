//! The generic kernels against the reference interpreter, on random shapes, dtypes and contents.

mod elementwise;
mod encoder;
mod movement;
mod products;
mod quantize;
mod reduce;
mod robust;
mod support;
