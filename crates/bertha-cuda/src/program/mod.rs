//! A lowered graph: typed steps over tensors that have places.

mod deferred;
mod dense;
mod generate;
mod launches;
mod linear;
mod lower;
mod memory;
mod order;
mod plugin;
mod step;
mod tensors;

use std::fmt;

use bertha_compile::Precision;
use bertha_graph::{DType, Dim, WeightLayout};

pub use dense::{Dense, GivenInput};
pub(crate) use dense::{is_ragged, samples};
pub use generate::{Generated, Read};
pub(crate) use lower::{lower, lower_case};
pub use memory::Arena;
pub use plugin::PluginStep;
pub use step::{
    Attention, CudaStep, DeferredNorm, Embedding, Linear, Lookup, NextWeight, Norm, NormOf, RelativeBias,
};

use crate::kernels::{KernelSpec, Tactics};

/// The type of a tensor's elements in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Storage {
    F32,
    F16,
    Bf16,
    I32,
    I64,
    /// A byte, 0 or 1.
    Bool,
}

impl Storage {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Storage::I64 => 8,
            Storage::Bool => 1,
            Storage::F32 | Storage::I32 => 4,
            Storage::F16 | Storage::Bf16 => 2,
        }
    }

    /// Whether it holds floating-point numbers.
    pub const fn is_float(self) -> bool {
        matches!(self, Storage::F32 | Storage::F16 | Storage::Bf16)
    }

    /// The storage of activations and weights in a precision.
    pub const fn of(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Storage::F32,
            Precision::F16 => Storage::F16,
            Precision::Bf16 => Storage::Bf16,
        }
    }

    /// The type in graphs.
    pub const fn dtype(self) -> DType {
        match self {
            Storage::F32 => DType::F32,
            Storage::F16 => DType::F16,
            Storage::Bf16 => DType::BF16,
            Storage::I32 => DType::I32,
            Storage::I64 => DType::I64,
            Storage::Bool => DType::Bool,
        }
    }

    /// The type's name in the kernels' sources.
    pub const fn c_name(self) -> &'static str {
        match self {
            Storage::F32 => "float",
            Storage::F16 => "f16",
            Storage::Bf16 => "bf16",
            Storage::I32 => "int",
            Storage::I64 => "long long",
            Storage::Bool => "bool",
        }
    }

    /// The macro that makes it the kernels' `Element`.
    pub const fn element_macro(self) -> &'static str {
        match self {
            Storage::F16 => "ELEMENT_F16",
            Storage::Bf16 => "ELEMENT_BF16",
            Storage::F32 | Storage::I32 | Storage::I64 | Storage::Bool => "ELEMENT_F32",
        }
    }
}

impl KernelSpec {
    /// Makes `storage` the kernel's `Element`.
    #[must_use]
    pub(crate) fn element(self, storage: Storage) -> Self {
        self.flag(storage.element_macro(), true)
    }
}

/// Steps in order, and everything that they read and write. Immutable; shared by all sessions.
#[derive(Clone, Debug)]
pub struct Program {
    /// In the order in which they run.
    pub steps: Vec<Step>,
    /// Everything that steps read and write besides weights.
    pub tensors: Vec<TensorPlan>,
    /// What steps read of the model.
    pub weights: Vec<WeightPlan>,
    /// What the caller can ask for.
    pub outputs: Vec<OutputPlan>,
    /// Sizes of the slots that tensors share.
    pub arena: Arena,
    /// The type of activations.
    pub storage: Storage,
    /// The inputs of a dense graph; `None` for ragged ones.
    pub dense: Option<Dense>,
    /// Tactics that timing chose; layers without one follow the rule.
    pub tactics: Tactics,
}

/// One step of a program.
#[derive(Clone, Debug)]
pub struct Step {
    /// The graph node that it computes, for messages and profiles.
    pub node: String,
    /// What it does.
    pub step: CudaStep,
    /// Bit `i` is set when output number `i` needs this step.
    pub needed_by: u64,
}

/// Type, shape and place of a tensor.
#[derive(Clone, Debug)]
pub struct TensorPlan {
    /// Its name in the graph.
    pub name: String,
    /// The type of its elements.
    pub storage: Storage,
    /// Its shape, over `tokens` and `batch`.
    pub dims: Vec<Dim>,
    /// Where its elements are.
    pub place: Place,
}

/// Where a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An input that every run brings along.
    Input(Input),
    /// An input of a dense graph, by its number.
    Given(usize),
    /// A slot of the arena.
    Slot(usize),
}

/// The inputs of a ragged encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Input {
    InputIds,
    TokenTypeIds,
    PositionIds,
    CuSeqlens,
}

impl Input {
    /// All of them, in the order in which they lie in a session's staging memory.
    pub const ALL: [Input; 4] = [Input::InputIds, Input::TokenTypeIds, Input::PositionIds, Input::CuSeqlens];

    /// The name in the graph.
    pub const fn name(self) -> &'static str {
        use bertha_graph::ragged;
        match self {
            Input::InputIds => ragged::INPUT_IDS,
            Input::TokenTypeIds => ragged::TOKEN_TYPE_IDS,
            Input::PositionIds => ragged::POSITION_IDS,
            Input::CuSeqlens => ragged::CU_SEQLENS,
        }
    }
}

/// A constant of the graph in the form in which kernels read it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightPlan {
    /// Its name in the graph.
    pub name: String,
    /// How it is converted and laid out.
    pub form: WeightForm,
}

/// How a weight lies on the card.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightForm {
    /// Row by row as in the graph, in the precision's type: tables, and matrices `[out, in]`.
    Rows,
    /// Transposed, in the precision's type: matrices that the graph has as `[in, out]`.
    Transposed,
    /// As in the graph, in f32: biases, norms, scalars.
    F32,
    /// As in the graph, in i32: indices.
    I32,
    /// As in the graph, in i64: whole numbers of dense graphs.
    I64,
    /// As in the graph, a byte each.
    Bool,
    /// A table `[buckets, heads]` of attention biases, spread out by distance: `[heads, 2 * longest - 1]` in f32, the
    /// value for key `j` and query `i` at `j - i + longest - 1`.
    Distances {
        /// How distances become rows of the table.
        buckets: usize,
        /// See [`bertha_graph::RelativeBuckets`].
        max_distance: usize,
        /// The longest sequence.
        longest: usize,
    },
    /// So many zeros in f32: the bias of a layer that has none. Its name means nothing.
    Zeros(usize),
    /// The matrix of a layer that applies the norm of its input: `[out, in]`, its columns times `gamma`, less the mean of
    /// each row, in the precision's type.
    Centred {
        /// How the graph has the matrix.
        layout: WeightLayout,
        /// The norm's scale, by name.
        gamma: String,
    },
    /// The bias of such a layer, `bias + matrix * beta` in f32. Without a bias its name is empty.
    BiasOfNorm {
        /// The matrix, by name.
        matrix: String,
        /// How the graph has it.
        layout: WeightLayout,
        /// The norm's shift, by name.
        beta: String,
    },
    /// The bias of a layer that applies the norm of its residual, `bias + beta` in f32. Without a bias its name is empty.
    BiasAndShift {
        /// The norm's shift, by name.
        beta: String,
    },
}

impl WeightForm {
    /// The form in which a product reads a matrix.
    pub fn of_matrix(layout: WeightLayout) -> Self {
        match layout {
            WeightLayout::OutIn => WeightForm::Rows,
            WeightLayout::InOut => WeightForm::Transposed,
        }
    }
}

/// What the caller can ask for.
#[derive(Clone, Debug)]
pub struct OutputPlan {
    /// Its name.
    pub name: String,
    /// The tensor that holds it; floats are in f32.
    pub tensor: usize,
    /// The type of its elements as they are handed out.
    pub dtype: DType,
}

/// Why a graph does not run on the GPU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    /// There is no CUDA kernel for some of its nodes.
    #[error(
        "there are no CUDA kernels for {} of this model: {}; use --device cpu",
        if nodes.len() == 1 { "a node".to_owned() } else { format!("{} nodes", nodes.len()) },
        list(nodes)
    )]
    Unsupported {
        /// Each node with what is missing.
        nodes: Vec<UnsupportedNode>,
    },
    /// An input of a type that the GPU does not take.
    #[error("the model takes {what}, which the GPU cannot; use --device cpu")]
    Input {
        /// The input.
        what: String,
    },
    /// The kernels for a dense graph are found by lowering it for some shape, and there is none.
    #[error("no shape was found for which the graph can be lowered: {why}; use --device cpu")]
    NoShape {
        /// What the last shape failed for.
        why: String,
    },
    /// The graph has more outputs than a program keeps track of.
    #[error("the graph has {count} outputs; the GPU runs graphs of at most 64")]
    TooManyOutputs {
        /// How many there are.
        count: usize,
    },
    /// The card lacks the precision's arithmetic.
    #[error("{arch} has no {precision} arithmetic; use f16 or f32")]
    Precision {
        /// The architecture.
        arch: String,
        /// The precision.
        precision: Precision,
    },
    /// A weight is not what the step that reads it needs.
    #[error("weight `{weight}`: {why}")]
    Weight {
        /// The weight.
        weight: String,
        /// What does not fit.
        why: String,
    },
}

/// A node without a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// Its name.
    pub node: String,
    /// What it computes, and what of it there is no kernel for.
    pub why: String,
}

impl fmt::Display for UnsupportedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})", self.node, self.why)
    }
}

fn list(nodes: &[UnsupportedNode]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
