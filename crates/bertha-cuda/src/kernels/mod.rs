//! The kernels from Rust's side: sources, the macros that specialise them, and how each is launched.
//!
//! One file here for each `.cu`: its macros, and its grid, block and shared memory as functions of them, as the header
//! comment of the `.cu` says. A [`Launch`] is what a step becomes once the capacity of a batch is known.

pub(crate) mod attention;
pub mod buckets;
pub(crate) mod gemm;
pub(crate) mod row;
mod source;

use std::fmt;
use std::sync::Arc;

use bertha_graph::Bindings;

use crate::arch::Arch;
use crate::driver::{CudaError, LaunchConfig, TensorMapDesc};
use crate::nvrtc::{Compiled, Nvrtc, Source};

pub use gemm::{Tactic, Tactics};
pub(crate) use source::fingerprint;

/// A kernel: a source and the macros that specialise it. The entry point has the name of the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelSpec {
    /// The entry point; for kernels of `kernels/` also the file's name without `.cu`.
    pub entry: String,
    /// In the order in which they are given to the compiler.
    pub macros: Vec<(String, String)>,
    /// The source of a generated kernel or a plugin's; `None` for those of `kernels/`.
    pub generated: Option<Arc<str>>,
    /// The plugin that the source is of, such as `LayerNorm@1`.
    pub plugin: Option<Arc<str>>,
}

impl KernelSpec {
    /// The kernel of `kernels/ENTRY.cu`, without macros yet.
    pub fn file(entry: &str) -> Self {
        KernelSpec { entry: entry.to_owned(), macros: Vec::new(), generated: None, plugin: None }
    }

    /// Adds a macro with a value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.macros.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds a macro that is only there or not.
    #[must_use]
    pub fn flag(mut self, name: &str, on: bool) -> Self {
        if on {
            self.macros.push((name.to_owned(), "1".into()));
        }
        self
    }

    /// The source text.
    ///
    /// # Errors
    /// When `kernels/` has no such file.
    pub fn source(&self) -> Result<&str, CudaError> {
        if let Some(text) = &self.generated {
            return Ok(text);
        }
        source::kernel(&self.entry).ok_or_else(|| CudaError::Compile {
            kernel: self.entry.clone(),
            arch: "any architecture".into(),
            log: "Bertha has no kernel of this name".into(),
        })
    }

    /// Compiles the kernel.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn compile(&self, nvrtc: &Nvrtc, arch: Arch) -> Result<Compiled, CudaError> {
        let name = self.to_string();
        let source = Source { name: &name, text: self.source()?, headers: source::HEADERS };
        nvrtc.compile(&source, &self.macros, arch)
    }
}

impl fmt::Display for KernelSpec {
    /// `entry` and the macros, which tell kernels of one source apart; a generated kernel by a hash of its source, and
    /// one of a plugin by the plugin's name and version too: `LayerNorm@1:layer_norm_f16#90ab...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(plugin) = &self.plugin {
            write!(f, "{plugin}:")?;
        }
        f.write_str(&self.entry)?;
        if let Some(text) = &self.generated {
            write!(f, "#{:016x}", twox_hash::XxHash3_64::oneshot(text.as_bytes()))?;
        }
        for (index, (name, value)) in self.macros.iter().enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            write!(f, "{separator}{name}={value}")?;
        }
        Ok(())
    }
}

/// What a pointer argument leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A tensor of the program, by index.
    Tensor(usize),
    /// A weight of the program, by index.
    Weight(usize),
    /// The `Batch` whose `tokens` counts these rows.
    Batch(Rows),
    /// `cu_seqlens`.
    CuSeqlens,
    /// Where a kernel tells of an index outside of its operand.
    Fault,
    /// The attention work list for query blocks of the step's height.
    WorkList,
    /// Nothing.
    Null,
}

/// What the rows of a matrix stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rows {
    /// One for each token.
    Tokens,
    /// One for each sequence.
    Sequences,
    /// So many, in a dense graph.
    Fixed(usize),
}

/// An argument of a launch, before addresses are known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LaunchArg {
    /// A pointer.
    Address(Operand),
    /// A pointer so many bytes further.
    AddressAt(Operand, u64),
    /// `int`.
    Int(i32),
    /// `long long`.
    Long(i64),
    /// `float`.
    Float(f32),
    /// `double`.
    Double(f64),
    /// A tensor map of a matrix.
    Map(Operand, TensorMapDesc),
}

/// A kernel with everything that its launch needs but addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The kernel.
    pub kernel: KernelSpec,
    /// Grid, block, shared memory, cluster.
    pub config: LaunchConfig,
    /// Arguments in the kernel's order.
    pub args: Vec<LaunchArg>,
}

/// What launches are made for: a card, and how much a batch may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Setting {
    /// The architecture.
    pub arch: Arch,
    /// Multiprocessors of the card that runs: how many blocks a grid has.
    pub multiprocessors: usize,
    /// Multiprocessors of the card that the plan was made for: which kernels are chosen.
    pub planned_multiprocessors: usize,
    /// Tokens that the batch may hold: a bucket.
    pub tokens: usize,
    /// Sequences that the batch may hold: a bucket.
    pub sequences: usize,
    /// The longest sequence that the batch may hold: a class.
    pub longest: usize,
}

/// See [`Setting::rows_to_choose_by`].
pub(crate) const MOST_ROWS_TO_CHOOSE_BY: usize = 16_384;

/// Rows that are allocated for `count`: kernels may read and write up to the end of a tile.
pub const ROW_ALIGNMENT: usize = 128;

impl Setting {
    /// The smallest setting on a typical card.
    pub fn typical(arch: Arch) -> Self {
        let multiprocessors = arch.typical_multiprocessors();
        let (tokens, sequences, longest) =
            (buckets::token_bucket(1), buckets::sequence_bucket(1), buckets::length_class(1));
        Setting {
            arch,
            multiprocessors,
            planned_multiprocessors: multiprocessors,
            tokens,
            sequences,
            longest,
        }
    }

    /// This setting with the buckets of a batch of so many tokens and sequences.
    #[must_use]
    pub fn for_batch(self, tokens: usize, sequences: usize, longest: usize) -> Self {
        Setting {
            tokens: buckets::token_bucket(tokens.max(1)),
            sequences: buckets::sequence_bucket(sequences.max(1)),
            longest: buckets::length_class(longest.max(1)),
            ..self
        }
    }

    /// How many rows of this kind the batch may hold.
    pub fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.tokens,
            Rows::Sequences => self.sequences,
            Rows::Fixed(rows) => buckets::token_bucket(rows.max(1)),
        }
    }

    /// What the symbols of shapes stand for.
    pub(crate) fn bindings(&self) -> Bindings {
        Bindings::from([("tokens".into(), self.tokens as i64), ("batch".into(), self.sequences as i64)])
    }

    /// Rows by which kernels are chosen: from a size on, all batches run on the same kernels, so that a plan can hold them.
    pub fn rows_to_choose_by(&self, rows: Rows) -> usize {
        self.rows(rows).min(MOST_ROWS_TO_CHOOSE_BY)
    }

    /// Rows of this kind that are allocated.
    pub fn allocated(&self, rows: Rows) -> usize {
        self.rows(rows).next_multiple_of(ROW_ALIGNMENT)
    }

    /// A configuration of `blocks` blocks in one dimension.
    pub fn config(&self, blocks: usize, block: u32, shared_bytes: usize) -> LaunchConfig {
        LaunchConfig {
            grid: [u32::try_from(blocks.max(1)).unwrap_or(u32::MAX), 1, 1],
            block,
            shared_bytes: shared_bytes as u32,
            cluster: [1, 1],
            overlaps: self.arch.overlaps(),
        }
    }
}

/// Items that the work list of a batch of this capacity can have: every sequence begins a block of its own.
pub(crate) fn work_capacity(setting: &Setting, query_block: usize) -> usize {
    setting.tokens.checked_div(query_block).map_or(0, |blocks| blocks + setting.sequences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_named_by_all_that_tells_it_apart() {
        let spec =
            KernelSpec::file("layer_norm").flag("ELEMENT_F16", true).flag("OTHER", false).with("HIDDEN", 768);
        assert_eq!(spec.to_string(), "layer_norm?ELEMENT_F16=1&HIDDEN=768");
        let generated = |text: &str| KernelSpec { generated: Some(text.into()), ..KernelSpec::file("map") };
        assert_ne!(generated("a").to_string(), generated("b").to_string());
    }

    #[test]
    fn rows_are_allocated_in_whole_tiles() {
        let setting = Setting { tokens: 96, sequences: 8, ..Setting::typical(Arch::Sm80) };
        assert_eq!(setting.allocated(Rows::Tokens), 128);
        assert_eq!(setting.allocated(Rows::Sequences), 128);
        assert_eq!(Setting { tokens: 4224, ..setting }.allocated(Rows::Tokens), 4224);
    }
}
