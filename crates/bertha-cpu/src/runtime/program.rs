//! A lowered graph: typed steps over tensors that have places.

use bertha_graph::plugin::PluginOp;
use bertha_graph::{
    Activation, AttentionAttrs, ConvAttrs, DType, Op, PoolKind, RelativeBuckets, Shape, TensorData,
};

use super::dims::{CompiledDim, Symbols};
use super::packed::PackedWeight;
use crate::isa::Tier;
use crate::kernels::elementwise::{BinaryOp, UnaryOp};
use crate::kernels::registry::{KERNELS, KernelKind};

/// Index of a tensor within its program.
pub(crate) type TensorIndex = usize;

/// Steps in order, and everything that they read and write. Immutable; shared by all sessions.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) steps: Vec<Step>,
    pub(crate) tensors: Vec<TensorPlan>,
    pub(crate) inputs: Vec<InputPlan>,
    pub(crate) outputs: Vec<OutputPlan>,
    pub(crate) constants: Vec<TensorData>,
    pub(crate) slots: usize,
    /// Sizes that each slot must have room for, for people.
    pub(crate) slot_sizes: Vec<Vec<bertha_graph::Dim>>,
    pub(crate) symbols: Symbols,
}

impl Program {
    /// The name of the kernel that runs a step on a tier, as the registry has it; for ops without vector kernels, the op's.
    pub(crate) fn implementation(&self, step: &Step, tier: Tier) -> String {
        let first = step.inputs.first().copied().flatten();
        let dtype = first.and_then(|index| self.tensors.get(index)).map(|tensor| tensor.dtype);
        let kind = match &step.kernel {
            Kernel::Linear { weight, .. } => return weight.desc().kernel_name(),
            Kernel::EmbeddingSum { .. } | Kernel::EmbeddingLayerNorm { .. } => KernelKind::EmbeddingSum,
            Kernel::LayerNorm { .. } => KernelKind::LayerNorm,
            Kernel::MatMul => KernelKind::Matmul,
            Kernel::Conv { .. } => KernelKind::Conv,
            Kernel::DepthwiseConv(_) => KernelKind::DepthwiseConv,
            Kernel::RaggedAttention { .. } | Kernel::Attention(_) => KernelKind::Attention,
            Kernel::Function(_) => KernelKind::Unary,
            Kernel::Arithmetic { .. } => KernelKind::Binary,
            Kernel::Softmax => KernelKind::Softmax,
            Kernel::Pool(PoolKind::WeightedMean) => return "plain-f32-weighted-mean".into(),
            Kernel::Pool(_) => KernelKind::PoolSequences,
            Kernel::L2Normalize { .. } => KernelKind::L2Normalize,
            Kernel::Plugin(plugin) => return format!("plugin {}", plugin.def().name()),
            Kernel::Generic(op) => return format!("plain-{}", op.mnemonic()),
            Kernel::If { .. } => return "if".into(),
        };
        let of_bf16 = kind == KernelKind::Attention && dtype == Some(DType::BF16);
        let found = KERNELS
            .iter()
            .find(|kernel| (kernel.kind, kernel.tier, kernel.dtype == "bf16") == (kind, tier, of_bf16));
        found.map_or_else(|| step.kernel.name().to_owned(), |kernel| kernel.name.to_owned())
    }
}

/// Type and place of a tensor.
#[derive(Debug)]
pub(crate) struct TensorPlan {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) dims: Vec<CompiledDim>,
    pub(crate) place: Place,
    /// Elements after each row (of the last dimension) that belong to nobody.
    pub(crate) row_padding: usize,
}

impl TensorPlan {
    /// Bytes of the tensor with this shape, padding included; `None` when they are too many to count.
    pub(crate) fn bytes(&self, shape: &[usize]) -> Option<usize> {
        match (self.row_padding, shape.split_last()) {
            (1.., Some((cols, rows))) => {
                let rows = rows.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim))?;
                bertha_graph::byte_count(self.dtype, &[rows, cols.checked_add(self.row_padding)?]).ok()
            }
            _ => bertha_graph::byte_count(self.dtype, shape).ok(),
        }
    }
}

/// Where a tensor's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The caller's input with this number.
    Input(usize),
    /// [`Program::constants`].
    Constant(usize),
    /// A slot of the session's memory.
    Slot(usize),
}

/// What the caller must give.
#[derive(Debug)]
pub(crate) struct InputPlan {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
    pub(crate) dims: Vec<CompiledDim>,
}

/// What the caller can ask for.
#[derive(Debug)]
pub(crate) struct OutputPlan {
    pub(crate) name: String,
    pub(crate) tensor: TensorIndex,
}

/// One kernel call.
#[derive(Debug)]
pub(crate) struct Step {
    /// The graph node that it computes, for messages and profiles.
    pub(crate) node: String,
    pub(crate) kernel: Kernel,
    pub(crate) inputs: Vec<Option<TensorIndex>>,
    pub(crate) outputs: Vec<Option<TensorIndex>>,
    /// Bit `i` is set when output number `i` of the program needs this step.
    pub(crate) needed_by: u64,
    /// Set when the results' shapes follow from data: the op, whose shape rule is asked during the run.
    pub(crate) resolve: Option<Op>,
}

/// What a step runs. `F32` kernels are the hot ones; everything else is `Generic`.
#[derive(Debug)]
pub(crate) enum Kernel {
    /// `ids, table, (ids, table).. -> y`, and for each table the packed form that is read instead, where there is one.
    EmbeddingSum { packed: Vec<Option<PackedWeight>> },
    /// `ids, table, (ids, table).., gamma, beta -> y, y as bf16?`, and packed forms likewise.
    EmbeddingLayerNorm { epsilon: f32, packed: Vec<Option<PackedWeight>> },
    /// `x, gamma, beta? -> y`.
    LayerNorm { epsilon: f32 },
    /// `x, bias?, residual? -> y` with a packed weight.
    Linear { weight: PackedWeight, activation: Activation },
    /// `a, b -> y`, both computed at run time.
    MatMul,
    /// `x, bias? -> y`, a convolution with a packed weight; the sizes of its window.
    Conv { attrs: ConvAttrs, window: Vec<usize>, weight: PackedWeight },
    /// `x, weight, bias? -> y`, each channel on its own.
    DepthwiseConv(ConvAttrs),
    /// `q, k, v, cu_seqlens, relative_bias? -> y`.
    RaggedAttention { heads: usize, scale: f32, relative: Option<RelativeBuckets> },
    /// `q, k, v, mask? -> y`, padded.
    Attention(AttentionAttrs),
    /// `x -> y`, a function of each element.
    Function(UnaryOp),
    /// `a, b -> y`, with a right operand of a simple form.
    Arithmetic { op: BinaryOp, right: RightForm },
    /// `x -> y` over the last dimension.
    Softmax,
    /// `x, cu_seqlens -> y`.
    Pool(PoolKind),
    /// `x -> y`.
    L2Normalize { epsilon: f32 },
    /// Whatever the plugin takes and gives.
    Plugin(PluginOp),
    /// Any primitive, on any element type.
    Generic(Op),
    /// `condition, captured.. -> y..`: one of two programs.
    If { then_branch: Box<Program>, else_branch: Box<Program> },
}

/// How the right operand of arithmetic broadcasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RightForm {
    /// It has the left operand's shape.
    Same,
    /// One row for all.
    Row,
    /// One number for all.
    Scalar,
}

impl Kernel {
    /// The name under which profiles and listings show it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Kernel::EmbeddingSum { .. } => "embedding_sum",
            Kernel::EmbeddingLayerNorm { .. } => "embedding_layer_norm",
            Kernel::LayerNorm { .. } => "layer_norm",
            Kernel::Linear { .. } => "linear",
            Kernel::MatMul => "matmul",
            Kernel::Conv { .. } => "conv",
            Kernel::DepthwiseConv(_) => "depthwise_conv",
            Kernel::RaggedAttention { .. } => "ragged_attention",
            Kernel::Attention(_) => "dense_attention",
            Kernel::Function(_) => "function",
            Kernel::Arithmetic { .. } => "arithmetic",
            Kernel::Softmax => "softmax",
            Kernel::Pool(_) => "pool",
            Kernel::L2Normalize { .. } => "l2_normalize",
            Kernel::Plugin(_) => "plugin",
            Kernel::Generic(op) => op.mnemonic(),
            Kernel::If { .. } => "if",
        }
    }
}
