//! Rows of tables by index, and single tokens of sequences.

use bertha_graph::interp::Value;
use bertha_graph::{Node, Op, PoolKind, PositionIds, TensorData, TensorId};

use super::meaning::{AfterPad, Meaning, Per, Rows, Why};
use super::{Found, Rewrite};
use crate::pattern::axis_of;

impl<'g> Rewrite<'g> {
    pub(super) fn gather(&mut self, node: &'g Node, axis: i64) -> Found {
        let (x, indices) = (self.operand_id(node, 0)?, self.operand_id(node, 1)?);
        let rank = self.dims(x).len();
        match (self.meaning(x)?, self.meaning(indices)?) {
            (Meaning::Same(_), Meaning::Distance(distance)) if axis_of(axis, rank) == Some(0) => {
                self.bias(x, &distance)
            }
            (Meaning::Same(table), index) if axis_of(axis, rank) == Some(0) => {
                self.lookup(node, (x, &table), indices, &index)
            }
            (Meaning::Mask(mask), Meaning::Index(index)) if axis_of(axis, rank) == Some(0) => {
                self.gather_flat(self.dims(x), mask, &index)
            }
            (Meaning::Rows(rows), Meaning::Same(index)) => {
                self.pick(node, rows, (rank, axis), (indices, &index))
            }
            _ => Err(self.why("what it gathers is neither rows of a table nor a part of each row")),
        }
    }

    /// A row of a constant table for each token.
    fn lookup(
        &mut self,
        node: &Node,
        (table, data): (TensorId, &TensorData),
        id: TensorId,
        index: &Meaning,
    ) -> Found {
        let lead = self.dims(id).len();
        let rows = data.shape().first().copied().unwrap_or(0);
        let (ids, lead) = match index {
            Meaning::Same(index) => {
                let index =
                    super::masks::uniform(index).ok_or_else(|| self.why("constant indices differ"))?;
                let operands = [Value::from_tensor(data), Value::from_tensor(&index)];
                let row = self.evaluate(&Op::Gather { axis: 0 }, &operands.iter().collect::<Vec<_>>())?;
                return Ok(Meaning::Same(row.to_tensor()));
            }
            Meaning::Rows(ids) => {
                if ids.tensor == self.position_input {
                    self.limit_tokens(rows);
                }
                (ids.tensor, ids.lead)
            }
            _ => (self.position_rows(id, index, rows)?, lead),
        };
        let table = self.constant(table)?;
        let tensor = self.emit_one(node, Op::Gather { axis: 0 }, &[Some(table), Some(ids)])?;
        Ok(Meaning::Rows(Rows { tensor, lead, per: Per::Token }))
    }

    /// The input that says the position of each token, noting how it is to be made.
    fn position_rows(&mut self, id: TensorId, index: &Meaning, rows: usize) -> Result<TensorId, Why> {
        let (wanted, reserved) = match index {
            Meaning::Index(index)
                if index.is(&[(self.dims(id).len().saturating_sub(1), 1.into(), &self.seq)]) =>
            {
                (PositionIds::Absolute, 0)
            }
            Meaning::AfterPad { pad_id, step: AfterPad::Position } => {
                let pad_id =
                    u32::try_from(*pad_id).map_err(|_| self.why("the pad token's id is negative"))?;
                (PositionIds::AfterPad { pad_id }, pad_id as usize + 1)
            }
            _ => return Err(self.why("the indices are neither ids nor positions")),
        };
        if self.position_ids != PositionIds::None && self.position_ids != wanted {
            return Err(self.why("tokens have positions of two kinds"));
        }
        self.position_ids = wanted;
        self.limit_tokens(rows.saturating_sub(reserved));
        Ok(self.position_input)
    }

    /// No sequence can be longer than the table of positions.
    fn limit_tokens(&mut self, most: usize) {
        self.max_tokens = Some(self.max_tokens.map_or(most, |before| before.min(most)));
    }

    pub(super) fn embedding_sum(&mut self, node: &'g Node) -> Found {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        let mut lead = 0;
        for pair in 0..node.inputs.len() / 2 {
            let (id, table) = (self.operand_id(node, 2 * pair)?, self.operand_id(node, 2 * pair + 1)?);
            lead = self.dims(id).len();
            let rows = self.dims(table).first().and_then(|dim| dim.as_const()).unwrap_or(0);
            inputs.push(Some(match self.meaning(id)? {
                Meaning::Rows(ids) => ids.tensor,
                other => self.position_rows(id, &other, usize::try_from(rows).unwrap_or(0))?,
            }));
            inputs.push(Some(self.constant(table)?));
        }
        let tensor = self.emit_one(node, Op::EmbeddingSum, &inputs)?;
        Ok(Meaning::Rows(Rows { tensor, lead, per: Per::Token }))
    }

    /// A part of each row, or the first token of each sequence.
    fn pick(
        &mut self,
        node: &Node,
        rows: Rows,
        (rank, axis): (usize, i64),
        (indices, index): (TensorId, &TensorData),
    ) -> Found {
        let first = index.shape().is_empty() && index.to_i64().as_deref() == Some(&[0]);
        let along_seq = rows.per == Per::Token && rows.lead == 2 && axis_of(axis, rank) == Some(1);
        if along_seq {
            if !first {
                return Err(self.why("it takes another token than the first, which may be a pad"));
            }
            if rank != 3 {
                return Err(self.why("a token has no row of one dimension"));
            }
            let op = Op::Pool(PoolKind::Cls);
            let tensor = self.emit_one(node, op, &[Some(rows.tensor), Some(self.cu_seqlens)])?;
            return Ok(Meaning::Rows(Rows { tensor, lead: 1, per: Per::Sequence }));
        }
        let axis = self.axis_within_row(axis, rank, rows.lead)?;
        let index = self.constant(indices)?;
        let tensor = self.emit_one(node, Op::Gather { axis }, &[Some(rows.tensor), Some(index)])?;
        Ok(Meaning::Rows(Rows { tensor, ..rows }))
    }
}
