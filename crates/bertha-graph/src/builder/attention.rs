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
    /// Of ragged attention.
    cu_seqlens: Option<TensorId>,
    relative: Option<(TensorId, RelativeBuckets)>,
    mask: Option<TensorId>,
}

impl Attention {
    /// Each sequence of a ragged batch with itself, in both directions. `q`, `k` and `v` are
    /// `[tokens, heads * head_dim]`, `cu_seqlens` is `I32 [batch + 1]`.
    pub fn ragged(cu_seqlens: TensorId, heads: usize) -> Self {
        Attention { cu_seqlens: Some(cu_seqlens), ..Attention::dense(heads) }
    }

    /// Over `[batch, seq, heads * head_dim]`.
    pub fn dense(heads: usize) -> Self {
        Attention { heads, scale: None, cu_seqlens: None, relative: None, mask: None }
    }

    /// The factor of the scores; `1 / sqrt(head_dim)` when this is not called.
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Adds `table[bucket of the distance, head]` to the scores. For ragged attention; the mask of a dense one can hold
    /// such a bias.
    pub fn relative(mut self, table: TensorId, buckets: RelativeBuckets) -> Self {
        self.relative = Some((table, buckets));
        self
    }

    /// What is added to the scores, or (of `Bool`) which pairs take part; broadcast to `[batch, heads, seq, seq]`. For
    /// dense attention; a ragged one has no padding to hide.
    pub fn mask(mut self, mask: TensorId) -> Self {
        self.mask = Some(mask);
        self
    }
}

impl GraphBuilder {
    /// `softmax(q k^T * scale + bias) v` for each head.
    ///
    /// # Errors
    /// When the width of `q` is unknown or not a multiple of the number of heads, a mask goes with ragged attention or a
    /// relative bias with a dense one, or the operands do not fit.
    pub fn attention(
        &mut self,
        q: TensorId,
        k: TensorId,
        v: TensorId,
        attention: &Attention,
    ) -> Result<TensorId, GraphError> {
        let name = self.claim_name("attention");
        let head_dim = self.head_dim(q, attention.heads).map_err(|what| misfit(&name, "attention", what))?;
        match (attention.cu_seqlens, attention.mask, attention.relative) {
            (Some(_), Some(_), _) => {
                let what = "ragged attention takes no mask; its sequences are told apart by cu_seqlens";
                Err(misfit(&name, "attention", what.into()))
            }
            (None, _, Some(_)) => {
                let what = "dense attention takes no table of relative biases; add them to the mask";
                Err(misfit(&name, "attention", what.into()))
            }
            (Some(cu_seqlens), None, relative) => {
                let scale = attention.scale.unwrap_or_else(|| (1.0 / (head_dim as f64).sqrt()) as f32);
                let relative_op = relative.map(|(_, buckets)| buckets);
                let op = Op::RaggedAttention { heads: attention.heads, scale, relative: relative_op };
                let mut inputs = vec![Some(q), Some(k), Some(v), Some(cu_seqlens)];
                inputs.extend(relative.map(|(table, _)| Some(table)));
                self.place(name, op, &inputs)
            }
            (None, mask, None) => {
                let attrs = AttentionAttrs {
                    q_heads: attention.heads,
                    kv_heads: attention.heads,
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

    /// The width of each head of `q`.
    fn head_dim(&self, q: TensorId, heads: usize) -> Result<i64, String> {
        let width = self.shape(q).dims().last().and_then(|width| width.as_const());
        let divided = width.zip(i64::try_from(heads).ok()).filter(|(width, heads)| {
            // checked: the number of heads may be 0
            width.checked_rem(*heads) == Some(0)
        });
        divided.map(|(width, heads)| width / heads).ok_or_else(|| {
            format!(
                "attention with {heads} heads expects queries whose last dimension is a multiple of {heads}, found {}",
                self.ty(q)
            )
        })
    }
}
