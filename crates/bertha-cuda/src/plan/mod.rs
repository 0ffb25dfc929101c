//! What is made of a model for a kind of card before any card is there: machine code, and weights as kernels read them.
//!
//! The steps themselves are not part of a stored plan: lowering gives the same ones from the graph again, in well under a
//! millisecond, so that no list of steps in a file can lie.

mod build;
mod case;
mod stored;
mod weights;

use std::collections::BTreeMap;
use std::sync::Arc;

use bertha_compile::{Precision, TacticTable};
use bertha_graph::Graph;
use bytes::Bytes;

pub(crate) use case::{Case, Constant};
pub use stored::{StoredCubin, StoredPlan, StoredTactic, StoredWeight};

use crate::arch::Arch;
use crate::driver::{CudaError, Device, LaunchConfig};
use crate::kernels::{KernelSpec, MOST_ROWS_TO_CHOOSE_BY, Setting, buckets};
use crate::program::{LowerError, Program};
use crate::session::RunError;
use crate::tune::{self, CardKey, TimingCache};

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The graph does not run on the GPU.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// A kernel could not be compiled.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// A dense graph does not take inputs of these shapes.
    #[error("the model does not take inputs of these shapes: {why}")]
    Shapes {
        /// What does not fit.
        why: String,
    },
    /// Kernels could not be timed.
    #[error("timing kernels: {0}")]
    Timing(Box<RunError>),
    /// A stored plan does not fit its graph or itself.
    #[error("the CUDA plan {target}: {why}")]
    Stored {
        /// The plan's name.
        target: String,
        /// What does not fit.
        why: String,
    },
}

impl From<RunError> for PlanError {
    fn from(error: RunError) -> Self {
        PlanError::Timing(Box::new(error))
    }
}

/// A program with its machine code and weights, for one architecture and precision.
#[derive(Clone, Debug)]
pub struct CudaPlan {
    arch: Arch,
    precision: Precision,
    multiprocessors: usize,
    program: Program,
    /// The graph, when it is dense: each choice of its inputs' shapes is a program of its own, and the one here is a sample
    /// without its weights that follow from the shapes.
    graph: Option<Arc<Graph>>,
    /// Machine code by the kernel's name.
    cubins: BTreeMap<String, Bytes>,
    /// In the order of the program's weights.
    weights: Vec<Bytes>,
}

impl CudaPlan {
    /// Lowers `graph`, compiles its kernels and converts its weights. Needs NVRTC and no card; `multiprocessors` are those
    /// of the card it is for, when one is at hand.
    ///
    /// # Errors
    /// When the graph has nodes without kernels, a kernel does not compile, or a weight does not fit the precision.
    pub fn build(
        graph: &Graph,
        arch: Arch,
        precision: Precision,
        multiprocessors: Option<usize>,
    ) -> Result<Self, PlanError> {
        let multiprocessors = multiprocessors.unwrap_or(arch.typical_multiprocessors());
        build::build(graph, arch, precision, multiprocessors, &everywhere(arch, multiprocessors))
    }

    /// As [`Self::build`] for a card at hand, with kernels for linear layers chosen by timing them there. `cache` spares what
    /// it has times for, and takes what was timed.
    ///
    /// # Errors
    /// As for [`Self::build`], and when the card refuses.
    pub fn build_timed(
        graph: &Graph,
        device: &Device,
        precision: Precision,
        cache: &mut TimingCache,
    ) -> Result<Self, PlanError> {
        build::build_timed(graph, device, precision, cache)
    }

    /// The kernels that its linear layers could run on, a table for each bucket of tokens, with the times that the cache has
    /// for the card, or else estimates.
    pub fn tactics(&self, known: Option<(&TimingCache, &CardKey)>) -> Vec<TacticTable> {
        tune::describe(&self.program, base_setting(self.arch, self.multiprocessors), known)
    }

    /// As [`Self::build`], with the kernels for batches like these alone, each given as numbers of tokens and sequences
    /// and the longest length. Other batches fail.
    ///
    /// # Errors
    /// As for [`Self::build`].
    pub fn build_for(
        graph: &Graph,
        arch: Arch,
        precision: Precision,
        multiprocessors: usize,
        batches: &[[usize; 3]],
    ) -> Result<Self, PlanError> {
        let base = base_setting(arch, multiprocessors);
        let settings: Vec<Setting> = batches
            .iter()
            .map(|[tokens, sequences, longest]| base.for_batch(*tokens, *sequences, *longest))
            .collect();
        build::build(graph, arch, precision, multiprocessors, &settings)
    }

    /// The kernels that batches like these launch, each with the configuration that has the most shared memory.
    ///
    /// # Errors
    /// When the graph has nodes without kernels.
    pub fn launches_for(
        graph: &Graph,
        arch: Arch,
        precision: Precision,
        multiprocessors: usize,
        batches: &[[usize; 3]],
    ) -> Result<BTreeMap<KernelSpec, LaunchConfig>, PlanError> {
        let lowered = build::checked(graph, arch, precision)?;
        let base = base_setting(arch, multiprocessors);
        let mut found: BTreeMap<KernelSpec, LaunchConfig> = BTreeMap::new();
        let settings: Vec<Setting> = batches
            .iter()
            .map(|[tokens, sequences, longest]| base.for_batch(*tokens, *sequences, *longest))
            .collect();
        for (program, setting) in
            lowered.programs().flat_map(|program| settings.iter().map(move |setting| (program, setting)))
        {
            for launch in case::launches(program, setting) {
                let config = found.entry(launch.kernel).or_insert(launch.config);
                if config.shared_bytes < launch.config.shared_bytes {
                    *config = launch.config;
                }
            }
        }
        Ok(found)
    }

    /// The name under which an engine file keeps it, such as `cuda-sm_90a-f16`.
    pub fn target(&self) -> String {
        target_name(self.arch, self.precision)
    }

    /// The architecture.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The precision.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Multiprocessors of the card that kernels were chosen for.
    pub fn planned_multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// The steps.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The graph, when it is dense: [`Self::program`] is then a sample of those that it becomes.
    pub fn dense_graph(&self) -> Option<&Graph> {
        self.graph.as_deref()
    }

    /// The weights, in the program's order.
    pub fn weights(&self) -> &[Bytes] {
        &self.weights
    }

    /// The machine code of a kernel.
    pub fn cubin(&self, kernel: &KernelSpec) -> Option<&Bytes> {
        self.cubins.get(&kernel.to_string())
    }

    /// Bytes of machine code and of weights.
    pub fn bytes(&self) -> (usize, usize) {
        (self.cubins.values().map(Bytes::len).sum(), self.weights.iter().map(Bytes::len).sum())
    }

    /// Names of all kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.cubins.keys().map(String::as_str)
    }
}

/// The name of a plan.
pub fn target_name(arch: Arch, precision: Precision) -> String {
    format!("cuda-{arch}-{precision}")
}

/// What a plan's name says, if it is the name of a CUDA plan.
pub fn parse_target(name: &str) -> Option<(Arch, Precision)> {
    let (arch, precision) = name.strip_prefix("cuda-")?.rsplit_once('-')?;
    Some((arch.parse().ok()?, precision.parse().ok()?))
}

/// The smallest setting on a card that a plan is made for.
fn base_setting(arch: Arch, multiprocessors: usize) -> Setting {
    Setting { multiprocessors, planned_multiprocessors: multiprocessors, ..Setting::typical(arch) }
}

/// Every setting in which kernels may differ.
fn everywhere(arch: Arch, multiprocessors: usize) -> Vec<Setting> {
    let base = base_setting(arch, multiprocessors);
    // Kernels of steps over tokens depend on the number of tokens and the longest sequence, those of steps over sequences
    // on the number of sequences.
    let over_tokens = buckets::token_buckets().flat_map(|tokens| {
        // No sequence is longer than the batch, but for the class that it shares with shorter ones.
        let longest = buckets::length_class(tokens);
        let classes = buckets::length_classes().filter(move |class| *class <= longest);
        classes.map(move |longest| Setting { tokens, longest, ..base })
    });
    let over_sequences = buckets::sequence_buckets(MOST_PLANNED_SEQUENCES).map(|sequences| Setting {
        sequences,
        tokens: sequences.max(base.tokens),
        ..base
    });
    over_tokens.chain(over_sequences).collect()
}

/// Sequences in a batch beyond which kernels do not change any more.
const MOST_PLANNED_SEQUENCES: usize = MOST_ROWS_TO_CHOOSE_BY;

#[cfg(test)]
mod tests;
