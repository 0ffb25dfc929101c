//! Attention, ragged and dense.

use super::{GraphBuilder, misfit};
use crate::error::GraphError;
use crate::graph::TensorId;
use crate::op::{AttentionAttrs, Op, RelativeBuckets};

/// Which attention [`GraphBuilder::attention`] computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    heads: usize,
    scale: Option<f32>,
    over: Over,
}

#[derive(Clone, Debug, PartialEq)]
enum Over {
    Ragged { cu_seqlens: TensorId, relative: Option<(TensorId, RelativeBuckets)> },
    Dense { mask: Option<TensorId> },
}

impl Attention {
    /// Each sequence of a ragged batch with itself, in both directions. `q`, `k` and `v` are
    /// `[tokens, heads * head_dim]`, `cu_seqlens` is `I32 [batch + 1]`.
    pub fn ragged(cu_seqlens: TensorId, heads: usize) -> Self {
        Attention { heads, scale: None, over: Over::Ragged { cu_seqlens, relative: None } }
    }

    /// Over `[batch, seq, heads * head_dim]`.
    pub fn dense(heads: usize) -> Self {
        Attention { heads, scale: None, over: Over::Dense { mask: None } }
    }

    /// The factor of the scores; `1 / sqrt(head_dim)` when this is not called.
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Adds `table[bucket of the distance, head]` to the scores of ragged attention; no effect on dense attention,
    /// whose mask can hold such a bias.
    pub fn relative(mut self, table: TensorId, buckets: RelativeBuckets) -> Self {
        if let Over::Ragged { relative, .. } = &mut self.over {
            *relative = Some((table, buckets));
        }
        self
    }

    /// What is added to the scores of dense attention, or (of `Bool`) which pairs take part; broadcast to
    /// `[batch, heads, seq, seq]`. No effect on ragged attention, which has no padding to hide.
    pub fn mask(mut self, tensor: TensorId) -> Self {
        if let Over::Dense { mask } = &mut self.over {
            *mask = Some(tensor);
        }
        self
    }
}

impl GraphBuilder {
    /// `softmax(q k^T * scale + bias) v` for each head.
    ///
    /// # Errors
    /// When the width of `q` is unknown or not a multiple of the number of heads, or the operands do not fit.
    pub fn attention(
        &mut self,
        q: TensorId,
        k: TensorId,
        v: TensorId,
        attention: &Attention,
    ) -> Result<TensorId, GraphError> {
        let heads = attention.heads;
        let name = self.claim_name("attention");
        let width = self.shape(q).dims().last().and_then(|width| width.as_const());
        let head_dim = width
            .zip(i64::try_from(heads).ok())
            .filter(|(width, heads)| *heads > 0 && width % heads == 0)
            .map(|(width, heads)| width / heads);
        let Some(head_dim) = head_dim else {
            let what = format!(
                "attention with {heads} heads expects queries whose last dimension is a multiple of {heads}, found {}",
                self.ty(q)
            );
            return Err(misfit(&name, "attention", what));
        };
        match &attention.over {
            Over::Ragged { cu_seqlens, relative } => {
                let scale = attention.scale.unwrap_or_else(|| (1.0 / (head_dim as f64).sqrt()) as f32);
                let op = Op::RaggedAttention { heads, scale, relative: relative.map(|(_, buckets)| buckets) };
                let mut inputs = vec![Some(q), Some(k), Some(v), Some(*cu_seqlens)];
                inputs.extend(relative.map(|(table, _)| Some(table)));
                self.place(name, op, &inputs)
            }
            Over::Dense { mask } => {
                let attrs = AttentionAttrs {
                    q_heads: heads,
                    kv_heads: heads,
                    scale: attention.scale,
                    is_causal: false,
                    softcap: 0.0,
                    scores_mode: 0,
                    softmax_precision: None,
                };
                let mut inputs = vec![Some(q), Some(k), Some(v)];
                inputs.extend(mask.map(Some));
                self.place(name, Op::Attention(attrs), &inputs)
            }
        }
    }
}
