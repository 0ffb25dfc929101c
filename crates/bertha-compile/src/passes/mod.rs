//! The passes, one file each, and the order in which they run.

mod linear_activation;
mod linear_residual;

use crate::driver::Pass;

/// The portable passes in order. Each line says why it stands where it does.
pub fn portable() -> &'static [&'static dyn Pass] {
    &[
        // Before the residual: the activation comes first in a linear's epilogue.
        &linear_activation::LinearActivation,
        &linear_residual::LinearResidual,
    ]
}
