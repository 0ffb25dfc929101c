//! Attention over a padded batch is ragged attention when its mask hides the pads and nothing else.

use bertha_graph::{AttentionAttrs, DType, Dim, Node, Op, RelativeBuckets};

use super::distance::Bias;
use super::meaning::{Mask, Meaning, Per, Rows, Why};
use super::{Found, Rewrite};

/// What must at least be added to a score to hide it.
const HIDES: f64 = -10_000.0;

impl<'g> Rewrite<'g> {
    pub(super) fn attention(&mut self, node: &'g Node, attrs: &AttentionAttrs) -> Found {
        if attrs.is_causal || attrs.softcap != 0.0 || attrs.q_heads != attrs.kv_heads {
            return Err(self.why("causal, capped and grouped attention have no ragged form"));
        }
        if attrs.q_heads == 0 {
            return Err(self.why("its heads are not read in place"));
        }
        if node.inputs.iter().skip(4).any(Option::is_some) || node.outputs.iter().skip(1).any(Option::is_some)
        {
            return Err(self.why("it has a cache or gives its scores"));
        }
        let mut operands = Vec::with_capacity(4);
        for index in 0..3 {
            let id = self.operand_id(node, index)?;
            match self.meaning(id)? {
                Meaning::Rows(Rows { tensor, lead: 2, per: Per::Token }) if self.dims(id).len() == 3 => {
                    operands.push(Some(tensor));
                }
                _ => return Err(self.why("queries, keys and values are not rows of tokens")),
            }
        }
        let bias = self.check_mask(node)?;
        operands.push(Some(self.cu_seqlens));
        let width = self.operand_id(node, 0).map(|id| self.dims(id))?.last().and_then(|dim| dim.as_const());
        let head_dim = width.and_then(|width| usize::try_from(width).ok()).map(|width| width / attrs.q_heads);
        let head_dim = head_dim.filter(|head_dim| *head_dim > 0);
        let head_dim = head_dim.ok_or_else(|| self.why("the width of a head is not known"))?;
        let scale = attrs.scale.unwrap_or_else(|| (1.0 / (head_dim as f64).sqrt()) as f32);
        let relative = match bias {
            None => None,
            Some(bias) => {
                operands.push(Some(self.constant(bias.table)?));
                Some(self.buckets(&bias, attrs.q_heads)?)
            }
        };
        let op = Op::RaggedAttention { heads: attrs.q_heads, scale, relative };
        let tensor = self.emit_one(node, op, &operands)?;
        Ok(Meaning::Rows(Rows { tensor, lead: 2, per: Per::Token }))
    }

    /// The buckets of a bias, which must be those of the op for every distance that can occur.
    fn buckets(&self, bias: &Bias, heads: usize) -> Result<RelativeBuckets, Why> {
        let rows = match self.dims(bias.table) {
            [rows, columns] if *columns == Dim::from(heads) => rows.as_const(),
            _ => None,
        };
        let rows = rows.and_then(|rows| usize::try_from(rows).ok());
        let rows = rows.ok_or_else(|| self.why("the table of biases has not one column for each head"))?;
        let longest = self.max_tokens.ok_or_else(|| self.why("nothing bounds the distances of its bias"))?;
        let buckets = bias.buckets(rows, longest);
        buckets.ok_or_else(|| self.why("its bias depends on distances in another way than by T5's buckets"))
    }

    /// The mask must be a function of the key's own mask alone, and hide it or do nothing; what it may hold beside is a
    /// bias by distance, which is given back.
    fn check_mask(&self, node: &Node) -> Result<Option<Bias>, Why> {
        let unmasked = || match self.has_mask {
            true => Err(self.why("it sees padding, although the graph has an attention mask")),
            // Without a mask the caller has no way to pad.
            false => Ok(()),
        };
        let Some(id) = node.inputs.get(3).copied().flatten() else {
            return unmasked().map(|()| None);
        };
        let rank = self.dims(id).len();
        match self.meaning(id)? {
            Meaning::Mask(mask) => self.check_hiding(&mask, (rank, self.old.dtype(id))).map(|()| None),
            Meaning::Bias(bias) if rank == 4 && bias.axes == [1, 2, 3] => {
                match &bias.mask {
                    Some(mask) => self.check_hiding(mask, (rank, self.old.dtype(id)))?,
                    None => unmasked()?,
                }
                Ok(Some(bias))
            }
            _ => Err(self.why("its mask depends on more than the attention mask")),
        }
    }

    fn check_hiding(&self, mask: &Mask, (rank, dtype): (usize, DType)) -> Result<(), Why> {
        if rank != 4 || mask.batch != 0 || mask.key != 3 {
            return Err(self.why("its mask does not go along batch and keys"));
        }
        let numbers = mask.numbers().ok_or_else(|| self.why("its mask is empty"))?;
        let hides = match (dtype, numbers) {
            (DType::Bool, [hidden, visible]) => hidden == 0.0 && visible == 1.0,
            (_, [hidden, visible]) => hidden <= HIDES && visible == 0.0,
        };
        match hides {
            true => Ok(()),
            false => {
                let [hidden, visible] = numbers;
                Err(self
                    .why(format_args!("its mask is {hidden} at hidden keys and {visible} at visible ones")))
            }
        }
    }
}
