//! Means over the tokens of each sequence, as sentence encoders write them:
//! `sum(rows * mask) / max(sum(mask), epsilon)`.

use bertha_graph::{BinaryOp, Node, Op, PoolKind, ReduceOp, TensorData, TensorId};

use super::meaning::{Mask, Meaning, Per, Rows, Why};
use super::{Found, Rewrite};
use crate::pattern::axis_of;

impl<'g> Rewrite<'g> {
    /// The elementwise steps: rows times mask, the count's lower bound, the quotient.
    pub(super) fn pooling(
        &mut self,
        node: &Node,
        operands: &[(TensorId, Meaning)],
    ) -> Result<Option<Meaning>, Why> {
        match (&node.op, operands) {
            (Op::Binary(BinaryOp::Mul), [a, b]) => {
                Ok([(a, b), (b, a)].into_iter().find_map(|((rows_id, rows), (_, mask))| match (rows, mask) {
                    (Meaning::Rows(rows), Meaning::Mask(mask))
                        if is_indicator(mask)
                            && (mask.batch, mask.key) == (0, 1)
                            && rows.per == Per::Token
                            && rows.lead == 2
                            && self.dims(*rows_id).len() == 3 =>
                    {
                        Some(Meaning::Masked(*rows))
                    }
                    _ => None,
                }))
            }
            (Op::Clip | Op::Binary(BinaryOp::Max), [(_, Meaning::Count), (bound, _)])
                if node.inputs.get(1) == Some(&Some(*bound)) =>
            {
                // A sequence has at least one token, so a bound of at most 1 changes nothing.
                let bound = self.old.tensor(*bound).constant().map(TensorData::to_f64);
                let small =
                    bound.is_some_and(|bound| bound.len() == 1 && bound.iter().all(|bound| *bound <= 1.0));
                Ok(small.then_some(Meaning::Count))
            }
            (Op::Cast { to }, [(_, Meaning::Count)]) => {
                Ok((to.is_int() || to.is_float()).then_some(Meaning::Count))
            }
            (Op::Binary(BinaryOp::Div), [(_, Meaning::Sum(rows)), (_, Meaning::Count)]) => {
                let inputs = [Some(rows.tensor), Some(self.cu_seqlens)];
                let tensor = self.emit_one(node, Op::Pool(PoolKind::Mean), &inputs)?;
                Ok(Some(Meaning::Rows(Rows { tensor, lead: 1, per: Per::Sequence })))
            }
            _ => Ok(None),
        }
    }

    /// Sums along the sequence.
    pub(super) fn reduce(&mut self, node: &'g Node) -> Found {
        let Op::Reduce { op, keep_dims, .. } = node.op else { return Err(self.why("not a reduction")) };
        let x = self.operand_id(node, 0)?;
        let rank = self.dims(x).len();
        let axes =
            node.inputs.get(1).copied().flatten().and_then(|id| self.old.tensor(id).constant()?.to_i64());
        let axes = axes.ok_or_else(|| self.why("its axes are no constant"))?;
        let along_seq = axes.len() == 1 && axes.iter().all(|axis| axis_of(*axis, rank) == Some(1));
        match self.meaning(x)? {
            Meaning::Masked(rows) if along_seq && op == ReduceOp::Sum && !keep_dims => Ok(Meaning::Sum(rows)),
            // The count is the same in every column that it is repeated to.
            Meaning::Mask(mask)
                if along_seq
                    && op == ReduceOp::Sum
                    && is_indicator(&mask)
                    && (mask.batch, mask.key) == (0, 1)
                    && (rank == 2) == keep_dims =>
            {
                Ok(Meaning::Count)
            }
            Meaning::Rows(rows) => {
                let within: Vec<i64> = axes
                    .iter()
                    .map(|axis| self.axis_within_row(*axis, rank, rows.lead))
                    .collect::<Result<_, _>>()?;
                let axes = self.new_constant(&format!("{}.axes", node.name), TensorData::vector(within))?;
                let tensor = self.emit_one(node, node.op.clone(), &[Some(rows.tensor), Some(axes)])?;
                Ok(Meaning::Rows(Rows { tensor, ..rows }))
            }
            _ => Err(self.why("it reduces along the sequence, where pads are")),
        }
    }
}

/// Whether a mask is 1 at tokens and 0 at pads.
fn is_indicator(mask: &Mask) -> bool {
    mask.numbers() == Some([0.0, 1.0])
}
