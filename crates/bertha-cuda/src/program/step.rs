//! The typed steps of the CUDA target.

use bertha_graph::{Activation, PoolKind};

use super::generate::Generated;
use super::plugin::PluginStep;
use crate::kernels::Rows;

/// Index of a tensor in its program.
pub(super) type TensorIndex = usize;
/// Index of a weight in its program.
pub(super) type WeightIndex = usize;

/// What a step computes. Every matrix has `rows` rows that mean something, one a token or one a sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum CudaStep {
    /// The sum of one row of each table, normalised when there is a norm.
    Embedding(Embedding),
    /// Normalises each row.
    LayerNorm {
        /// What is normalised, `[rows, width]`.
        x: TensorIndex,
        /// Scale, shift, epsilon.
        norm: Norm,
        /// The result, `[rows, width]`.
        y: TensorIndex,
        /// Width of the rows.
        width: usize,
        /// What the rows are.
        rows: Rows,
    },
    /// `activation(x * weight' + bias) + residual`.
    Linear(Linear),
    /// Attention of each sequence with itself.
    Attention(Attention),
    /// One row for each sequence.
    Pool {
        /// How rows become one.
        kind: PoolKind,
        /// `[tokens, width]`.
        x: TensorIndex,
        /// `[batch, width]`.
        y: TensorIndex,
        /// Width of the rows.
        width: usize,
    },
    /// A kernel made for the node.
    Generated(Generated),
    /// A plugin's kernel.
    Plugin(PluginStep),
}

/// A sum of table rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// For each table: ids, and the table.
    pub lookups: Vec<Lookup>,
    /// The norm behind it.
    pub norm: Option<Norm>,
    /// The result, `[tokens, width]`.
    pub y: TensorIndex,
    /// Statistics of its rows for whoever applies a deferred norm, `F32 [tokens, width / 64, 2]`.
    pub stats: Option<TensorIndex>,
    /// Width of the rows.
    pub width: usize,
}

/// A table and who looks things up in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// `I32 [tokens]`.
    pub ids: TensorIndex,
    /// `[rows, width]`.
    pub table: WeightIndex,
    /// Rows of the table.
    pub rows: usize,
}

/// The parameters of a layer norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// `F32 [width]`.
    pub gamma: WeightIndex,
    /// `F32 [width]`.
    pub beta: WeightIndex,
    /// Added to the variance.
    pub epsilon: f32,
}

/// A linear layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// `[rows, k]`.
    pub x: TensorIndex,
    /// `[n, k]`.
    pub weight: WeightIndex,
    /// `F32 [n]`.
    pub bias: WeightIndex,
    /// `[rows, n]`, added last.
    pub residual: Option<TensorIndex>,
    /// A deferred norm that the layer applies to what it reads; its weights are made for that.
    pub norm: Option<DeferredNorm>,
    /// `[rows, n]`.
    pub y: TensorIndex,
    /// Statistics of its rows for whoever applies a deferred norm, `F32 [rows, n / 64, 2]`.
    pub stats: Option<TensorIndex>,
    /// Features of the result.
    pub n: usize,
    /// Features of `x`.
    pub k: usize,
    /// Applied to product and bias.
    pub activation: Activation,
    /// What the rows are.
    pub rows: Rows,
    /// Whether the result is f32 whatever the precision is.
    pub output_f32: bool,
    /// The weight of the next layer, which may be fetched ahead.
    pub next: Option<NextWeight>,
}

/// A layer norm that is applied by the layer that reads the rows: see `program/deferred.rs`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeferredNorm {
    /// Which of the layer's operands holds rows before their norm.
    pub of: NormOf,
    /// Their statistics, `F32 [rows, width / 64, 2]`.
    pub stats: TensorIndex,
    /// Added to the variance.
    pub epsilon: f32,
}

/// What a deferred norm normalises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormOf {
    /// The layer's input.
    Input,
    /// The residual, by this scale: `F32 [n]`.
    Residual {
        /// The weight.
        gamma: WeightIndex,
    },
}

/// A weight that is needed soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextWeight {
    /// The weight.
    pub weight: WeightIndex,
    /// Its size.
    pub bytes: usize,
}

/// Ragged attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// `[tokens, heads * head_dim]`, or `[tokens, 3 * heads * head_dim]` when there are no `k` and `v`.
    pub q: TensorIndex,
    /// Keys and values, when they are tensors of their own.
    pub kv: Option<(TensorIndex, TensorIndex)>,
    /// `[tokens, heads * head_dim]`.
    pub y: TensorIndex,
    /// Number of heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// A bias by distance.
    pub relative: Option<RelativeBias>,
}

/// A bias of the scores by the distance of key and query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelativeBias {
    /// `F32 [heads, 2 * longest - 1]`: one value for each distance.
    pub bias: WeightIndex,
    /// The longest sequence that it has values for.
    pub longest: usize,
}

impl CudaStep {
    /// Calls `visit` with every tensor that the step reads.
    pub fn reads(&self, mut visit: impl FnMut(TensorIndex)) {
        match self {
            CudaStep::Embedding(step) => step.lookups.iter().for_each(|lookup| visit(lookup.ids)),
            CudaStep::LayerNorm { x, .. } | CudaStep::Pool { x, .. } => visit(*x),
            CudaStep::Linear(linear) => {
                visit(linear.x);
                linear.residual.into_iter().for_each(&mut visit);
                linear.norm.into_iter().for_each(|norm| visit(norm.stats));
            }
            CudaStep::Attention(attention) => {
                visit(attention.q);
                if let Some((k, v)) = attention.kv {
                    visit(k);
                    visit(v);
                }
            }
            CudaStep::Generated(generated) => generated.tensors().for_each(visit),
            CudaStep::Plugin(plugin) => plugin.tensors().for_each(visit),
        }
    }

    /// Calls `visit` with every tensor that the step writes.
    pub fn writes(&self, mut visit: impl FnMut(TensorIndex)) {
        match self {
            CudaStep::Embedding(step) => [Some(step.y), step.stats].into_iter().flatten().for_each(visit),
            CudaStep::LayerNorm { y, .. } | CudaStep::Pool { y, .. } => visit(*y),
            CudaStep::Linear(linear) => [Some(linear.y), linear.stats].into_iter().flatten().for_each(visit),
            CudaStep::Attention(attention) => visit(attention.y),
            CudaStep::Generated(generated) => visit(generated.y),
            CudaStep::Plugin(plugin) => plugin.results.iter().copied().for_each(visit),
        }
    }

    /// The name under which profiles and listings show it.
    pub fn name(&self) -> &'static str {
        match self {
            CudaStep::Embedding(Embedding { norm: Some(_), .. }) => "embedding_layer_norm",
            CudaStep::Embedding(Embedding { norm: None, .. }) => "embedding_sum",
            CudaStep::LayerNorm { .. } => "layer_norm",
            CudaStep::Linear(_) => "linear",
            CudaStep::Attention(_) => "ragged_attention",
            CudaStep::Pool { .. } => "pool",
            CudaStep::Generated(generated) => generated.name,
            CudaStep::Plugin(_) => "plugin",
        }
    }
}
