//! Operations that are not built in: what a plugin says of itself, and what it computes.
//!
//! A [`Plugin`] is one op. It declares a name, a version, a [`Signature`] (operands, results, their dtypes and shapes),
//! and typed [fields](FieldSpec); it computes results in f64 as the reference, and on the CPU as the kernel. A
//! [`PluginSet`] holds the plugins that a program knows; an [`Op::Plugin`](crate::Op::Plugin) carries its definition
//! with it, so nothing behind a parser or an importer looks anything up, and there is no table for the whole process.
//!
//! Nothing that a plugin says is believed: declarations are checked when they are [added](PluginSet::add), shapes that
//! its own rule gives are compared with those of the signature, and panics become errors.

mod call;
mod cuda;
mod definition;
mod fields;
mod set;
mod signature;

#[cfg(test)]
mod tests;

pub use call::{Parallel, Sequential, TensorView, TensorViewMut};
pub use cuda::CudaSource;
pub use definition::{PluginDef, PluginOp, ShapeFault, panic_sentence};
pub use fields::{Field, FieldKind, FieldSpec, Fields};
pub use set::{Library, PluginError, PluginSet};
pub use signature::{Binding, Element, Extent, OpenType, Operand, Pattern, Signature};

use crate::interp::F64Tensor;

/// What a plugin says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declaration {
    /// The name under which graphs and engines know it, unique together with the version.
    pub name: String,
    /// Raised for every change after which the same node would compute something else.
    pub version: u32,
    /// The ONNX domain of the nodes that become this op; empty for the default domain.
    pub domain: String,
    /// The ONNX op type of the nodes that become this op.
    pub op_type: String,
    /// Operands and results, as [`Signature`] reads them.
    pub signature: String,
    /// Parameters; ONNX attributes of these names.
    pub fields: Vec<FieldSpec>,
    /// Whether every row of the first operand's run is computed for itself: the results' rows at some index depend on
    /// that operand's row there, and on nothing else of it. With this a padded model may become ragged.
    pub row_wise: bool,
    /// One line for people.
    pub description: String,
}

/// One op that is defined outside of the compiler.
///
/// A plugin is a function: what it computes depends on fields and operands alone, and its methods may be called from
/// several threads at the same time. Errors are sentences for people; the caller adds the names of plugin and node.
pub trait Plugin: Send + Sync {
    /// What it is. Asked once, when the plugin is added to a set.
    fn declaration(&self) -> Declaration;

    /// The results' shapes for these operands' shapes, when the plugin has a rule besides its signature.
    ///
    /// Dimensions that the signature leaves open (`?`) come from here; all others must agree with the signature.
    fn shapes(
        &self,
        fields: &Fields,
        inputs: &[Option<&[usize]>],
    ) -> Option<Result<Vec<Vec<usize>>, String>> {
        let _ = (fields, inputs);
        None
    }

    /// The results in f64, computed in the most obvious way: the oracle for the kernel.
    ///
    /// # Errors
    /// When the operands' contents are not what the op takes.
    fn reference(&self, fields: &Fields, inputs: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String>;

    /// The CPU kernel: writes every element of every result.
    ///
    /// Operands and results have the dtypes and shapes of the signature; results that nobody wants are absent.
    ///
    /// # Errors
    /// When the operands' contents are not what the op takes.
    fn run(
        &self,
        fields: &Fields,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Option<TensorViewMut<'_>>],
        threads: &mut dyn Parallel,
    ) -> Result<(), String>;

    /// Source for NVIDIA GPUs, when the plugin runs there.
    fn cuda(&self) -> Option<CudaSource> {
        None
    }
}
