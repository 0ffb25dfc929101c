//! Nodes that treat every row alike.

use bertha_graph::{Node, Op, TensorData, TensorId};

use super::meaning::{Meaning, Rows, Why};
use super::{Found, Rewrite};
use crate::pattern::axis_of;

impl<'g> Rewrite<'g> {
    /// Elementwise nodes with rows among their operands.
    pub(super) fn on_rows(&mut self, node: &'g Node, operands: &[(TensorId, Meaning)]) -> Found {
        let rank = self.result_dims(node)?.len();
        let mut common: Option<(Rows, usize)> = None;
        for (id, meaning) in operands {
            let Meaning::Rows(rows) = meaning else { continue };
            if self.new.dtype(rows.tensor) != self.old.dtype(*id) && node.inputs.len() > 1 {
                return Err(self.why("it computes with token ids"));
            }
            let of_row = self.dims(*id).len().saturating_sub(rows.lead);
            common = Some(match common {
                None => (*rows, of_row),
                Some((first, width)) if first.per == rows.per && width == of_row => (first, width),
                Some(_) => return Err(self.why("it combines rows of different kinds")),
            });
        }
        let (first, of_row) = common.ok_or_else(|| self.why("no operand has rows"))?;
        let mut inputs = Vec::with_capacity(operands.len());
        for (id, meaning) in operands {
            inputs.push(Some(match meaning {
                Meaning::Rows(rows) => rows.tensor,
                Meaning::Same(data) => self.beside_rows(*id, data, of_row)?,
                _ => return Err(self.why("it mixes rows with masks or positions")),
            }));
        }
        let tensor = self.emit_one(node, node.op.clone(), &inputs)?;
        let lead = rank.checked_sub(of_row).ok_or_else(|| self.why("its result has too few dimensions"))?;
        Ok(Meaning::Rows(Rows { tensor, lead, per: first.per }))
    }

    /// A constant that meets rows: it may have no more dimensions than a row, but for ones in front.
    fn beside_rows(&mut self, id: TensorId, data: &TensorData, of_row: usize) -> Result<TensorId, Why> {
        let extra = data.shape().len().saturating_sub(of_row);
        let (front, back) = data.shape().split_at(extra);
        if front.iter().any(|size| *size != 1) {
            return Err(
                self.why(format_args!("the constant {} differs between tokens", self.old.tensor(id).name))
            );
        }
        if extra == 0 && self.old.tensor(id).constant().is_some() {
            return self.constant(id);
        }
        let data = data.reshaped(back.to_vec()).map_err(|error| self.why(error))?;
        let name = self.old.tensor(id).name.clone();
        self.new_constant(&name, data)
    }

    /// Linears, norms and the like: the first operand has rows, a residual has rows, the others are constants.
    pub(super) fn row_wise(&mut self, node: &'g Node) -> Found {
        let x = self.operand_id(node, 0)?;
        let rank = self.dims(x).len();
        let Meaning::Rows(rows) = self.meaning(x)? else {
            return Err(self.why("its operand has no row for each token or sequence"));
        };
        let of_row = match &node.op {
            // What of its first operand is no run belongs to one row.
            Op::Plugin(plugin) => plugin.def().signature().inputs.first().map_or(0, |x| x.dims.len() - 1),
            _ => 1,
        };
        if rank < rows.lead + of_row {
            return Err(self.why("it goes along the sequence"));
        }
        let op = match &node.op {
            Op::LayerNorm { axis, epsilon } => {
                Op::LayerNorm { axis: self.axis_within_row(*axis, rank, rows.lead)?, epsilon: *epsilon }
            }
            Op::Softmax { axis } => Op::Softmax { axis: self.axis_within_row(*axis, rank, rows.lead)? },
            op => op.clone(),
        };
        if node.outputs.iter().skip(1).any(Option::is_some) {
            return Err(self.why("it gives its statistics"));
        }
        let mut inputs = vec![Some(rows.tensor)];
        for id in node.inputs.iter().skip(1) {
            inputs.push(match id {
                None => None,
                Some(id) if self.old.tensor(*id).constant().is_some() => Some(self.constant(*id)?),
                Some(id) => match self.meaning(*id)? {
                    Meaning::Rows(other) if matches!(op, Op::Linear { .. }) && other.per == rows.per => {
                        Some(other.tensor)
                    }
                    _ => return Err(self.why("an operand is neither constant nor a residual")),
                },
            });
        }
        if node.op == Op::MatMul {
            let weight = self.operand_id(node, 1)?;
            if self.dims(weight).len() != 2 {
                return Err(self.why("the product is not with a matrix"));
            }
        }
        let tensor = self.emit_one(node, op, &inputs)?;
        Ok(Meaning::Rows(Rows { tensor, ..rows }))
    }

    /// An axis that lies within a row, counted from the end.
    pub(super) fn axis_within_row(&self, axis: i64, rank: usize, lead: usize) -> Result<i64, Why> {
        let axis = axis_of(axis, rank).filter(|axis| *axis >= lead);
        let axis = axis.ok_or_else(|| self.why("it goes along the batch or the sequence"))?;
        Ok(axis as i64 - rank as i64)
    }
}
