//! Embeddings, products, normalisation, pooling, plugins.

use super::GraphBuilder;
use crate::error::GraphError;
use crate::graph::TensorId;
use crate::op::{Activation, Op, PoolKind, WeightLayout};
use crate::plugin::PluginOp;

type Made = Result<TensorId, GraphError>;

/// A weight of a linear layer, with how it lies in memory. A square matrix does not show it, so it must be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    tensor: TensorId,
    layout: WeightLayout,
}

impl Weight {
    /// `[out, in]`, as PyTorch stores it.
    pub fn out_in(tensor: TensorId) -> Self {
        Weight { tensor, layout: WeightLayout::OutIn }
    }

    /// `[in, out]`, as the right operand of a matrix product.
    pub fn in_out(tensor: TensorId) -> Self {
        Weight { tensor, layout: WeightLayout::InOut }
    }
}

/// What encoders are made of.
impl GraphBuilder {
    /// One row of `table` (`[rows, hidden]`) for each id: `[..] -> [.., hidden]`.
    pub fn embedding(&mut self, ids: TensorId, table: TensorId) -> Made {
        self.embedding_sum(&[(ids, table)])
    }

    /// The sum of one row of each table: words, positions, token types.
    pub fn embedding_sum(&mut self, parts: &[(TensorId, TensorId)]) -> Made {
        let inputs: Vec<_> = parts.iter().flat_map(|(ids, table)| [Some(*ids), Some(*table)]).collect();
        self.node(Op::EmbeddingSum, &inputs)
    }

    /// `x * weight + bias` over the last dimension of `x`.
    pub fn linear(&mut self, x: TensorId, weight: Weight, bias: impl Into<Option<TensorId>>) -> Made {
        let op = Op::Linear { layout: weight.layout, activation: Activation::None };
        self.node(op, &[Some(x), Some(weight.tensor), bias.into()])
    }

    /// [`linear`](Self::linear), then an activation, then a sum with `residual`: one node with an epilogue. The compiler
    /// makes it from plain layers too.
    pub fn fused_linear(
        &mut self,
        x: TensorId,
        weight: Weight,
        bias: impl Into<Option<TensorId>>,
        activation: Activation,
        residual: impl Into<Option<TensorId>>,
    ) -> Made {
        let op = Op::Linear { layout: weight.layout, activation };
        self.node(op, &[Some(x), Some(weight.tensor), bias.into(), residual.into()])
    }

    /// Matrix product over the last two dimensions; the others broadcast.
    pub fn matmul(&mut self, a: TensorId, b: TensorId) -> Made {
        self.node(Op::MatMul, &[Some(a), Some(b)])
    }

    /// Softmax along one axis; negative axes count from the end.
    pub fn softmax(&mut self, x: TensorId, axis: i64) -> Made {
        self.node(Op::Softmax { axis }, &[Some(x)])
    }

    /// Normalises each row of the last dimension, then `* gamma + beta`. The epsilon is the model's own: it is part of
    /// the weights as much as gamma is.
    pub fn layer_norm(
        &mut self,
        x: TensorId,
        gamma: TensorId,
        beta: impl Into<Option<TensorId>>,
        epsilon: f32,
    ) -> Made {
        self.node(Op::LayerNorm { axis: -1, epsilon }, &[Some(x), Some(gamma), beta.into()])
    }

    /// The rows of each sequence as one row: `[tokens, hidden] -> [batch, hidden]`; `cu_seqlens` is `I32 [batch + 1]`.
    pub fn pool(&mut self, x: TensorId, cu_seqlens: TensorId, kind: PoolKind) -> Made {
        self.node(Op::Pool(kind), &[Some(x), Some(cu_seqlens)])
    }

    /// Each row of the last dimension divided by its Euclidean norm, or by `epsilon` when that is larger.
    pub fn l2_normalize(&mut self, x: TensorId, epsilon: f32) -> Made {
        self.node(Op::L2Normalize { epsilon }, &[Some(x)])
    }

    /// An operation that a plugin brings; gives its first `outputs` results.
    pub fn plugin(
        &mut self,
        plugin: PluginOp,
        inputs: &[TensorId],
        outputs: usize,
    ) -> Result<Vec<TensorId>, GraphError> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.nodes(Op::Plugin(plugin), &inputs, outputs)
    }
}
