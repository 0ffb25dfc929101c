//! The slot for CUDA source: what a plugin gives to run on NVIDIA GPUs.

use crate::dim::Dim;

use super::{Binding, Signature};

/// CUDA source for the op, compiled when an engine is built for a GPU.
///
/// The kernel's parameters are, in this order: a pointer for each operand (null for an absent one), a pointer for each
/// result, the size of each dimension and run that the signature names (`long long`, in order of first occurrence; a
/// run gives the product of its dimensions, a name that only an absent operand has is 0), and the fields of kind int
/// (`long long`) and float (`double`) in the order of their declaration. All of them together are at most 64. Operands
/// and results are contiguous, row-major, and start at multiples of 256 bytes.
///
/// A dtype variable is the engine's precision where that is among the variable's choices, whatever the graph says; without
/// it, operands are converted to the graph's dtype and back around the kernel.
///
/// In batches without padding a launch serves every batch up to a size, so the rows that the kernel is told (and
/// gets memory for) may be more than the batch has; the rows behind hold anything, and nobody reads what comes of
/// them. Only plugins that work row by row run there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaSource {
    /// CUDA C++ that includes nothing.
    pub source: String,
    /// The name of the `extern "C"` kernel; `{T}`, with a dtype variable of the signature between the braces, stands
    /// for the name of its dtype: `layer_norm_{T}` is `layer_norm_f16` for halves.
    pub entry: String,
    /// Threads of a block.
    pub block: u32,
    /// How many items there are, a polynomial over the names of the signature such as `rows*heads`; a run is the
    /// product of its dimensions.
    pub items: String,
    /// Items that one block computes; the grid has as many blocks as the items need, along x.
    pub items_per_block: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// Threads that a block can have.
const MAX_BLOCK: u32 = 1024;

impl CudaSource {
    /// What is wrong with it, given the signature and the names of the int fields.
    pub(super) fn check(&self, signature: &Signature, ints: &[&str]) -> Result<(), String> {
        if self.source.is_empty() {
            return Err("its CUDA source is empty".into());
        }
        if !(1..=MAX_BLOCK).contains(&self.block) || self.items_per_block == 0 {
            return Err(format!(
                "its CUDA blocks have {} threads for {} items; expected 1 to {MAX_BLOCK} threads and at least one item",
                self.block, self.items_per_block
            ));
        }
        let names = signature.names();
        let unknown = self
            .polynomial()?
            .symbols()
            .into_iter()
            .find(|symbol| !names.contains(symbol) && !ints.contains(&&**symbol));
        if let Some(symbol) = unknown {
            return Err(format!("its CUDA items `{}`: the signature has no `{symbol}`", self.items));
        }
        let named = |variable: &str| signature.variables.iter().any(|(name, _)| name == variable);
        match self.entry.split_once('{').and_then(|(_, rest)| rest.split_once('}')) {
            Some((variable, _)) if !named(variable) => Err(format!(
                "its CUDA entry `{}`: the signature has no dtype variable `{variable}`",
                self.entry
            )),
            _ if self.entry.is_empty() => Err("its CUDA entry has no name".into()),
            _ => Ok(()),
        }
    }

    fn polynomial(&self) -> Result<Dim, String> {
        self.items.parse().map_err(|why| format!("its CUDA items `{}`: {why}", self.items))
    }

    /// The kernel's name where the names of the signature stand for what `binding` says.
    pub fn entry_of(&self, signature: &Signature, binding: &Binding) -> String {
        let variables = signature.variables.iter().zip(&binding.dtypes);
        variables.fold(self.entry.clone(), |entry, ((name, _), dtype)| match dtype {
            Some(dtype) => entry.replace(&format!("{{{name}}}"), dtype.name()),
            None => entry,
        })
    }

    /// How many items there are, as a function of the dimensions that `binding` has; the grid has as many blocks along x
    /// as this number over [`CudaSource::items_per_block`], rounded up.
    ///
    /// # Errors
    /// When `items` is no polynomial.
    pub fn items_of(&self, binding: &Binding) -> Result<Dim, String> {
        Ok(binding.value(&self.polynomial()?))
    }
}
