//! The passes, one file each, and the order in which they run.

mod linear_activation;
mod linear_residual;
mod matmul_linear;

use crate::driver::Pass;

/// The portable passes in order. Each line says why it stands where it does.
pub fn portable() -> &'static [&'static dyn Pass] {
    &[
        // First: the passes below look for linears.
        &matmul_linear::MatMulLinear,
        // Before the residual: the activation comes first in a linear's epilogue.
        &linear_activation::LinearActivation,
        &linear_residual::LinearResidual,
    ]
}
