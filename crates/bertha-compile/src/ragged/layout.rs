//! Nodes that move elements.

use bertha_graph::{Dim, Node, Op, TensorData};

use super::index::Affine;
use super::masks::uniform;
use super::meaning::{Mask, Meaning, Per, Rows, Why, moved_axis, proper};
use super::{Found, Rewrite};
use crate::pattern::axis_of;

impl<'g> Rewrite<'g> {
    /// Reshape, squeeze, unsqueeze: told apart by the dimensions before and after.
    pub(super) fn reshape(&mut self, node: &'g Node) -> Found {
        let x = self.operand_id(node, 0)?;
        let (from, to) = (self.dims(x), self.result_dims(node)?);
        match self.meaning(x)? {
            Meaning::Rows(rows) => self.reshape_rows(node, rows, from, to),
            Meaning::Mask(mask) => match self.reshaped_mask(&mask, from, to) {
                Some((batch, key)) => Ok(Meaning::Mask(Mask { batch, key, ..mask })),
                None => Err(self.why("the mask is reshaped beyond batch and sequence")),
            },
            Meaning::Index(index) => match index.moved(|axis| moved_axis(from, to, axis)) {
                Some(index) => Ok(Meaning::Index(index)),
                None => Err(self.why("indices are reshaped beyond dimensions of 1")),
            },
            Meaning::Bias(bias) => match bias.moved(|axis| moved_axis(from, to, axis)) {
                Some(bias) => Ok(Meaning::Bias(bias)),
                None => Err(self.why("a bias is reshaped beyond dimensions of 1")),
            },
            Meaning::Distance(distance) => match distance.moved(|axis| moved_axis(from, to, axis)) {
                Some(distance) => Ok(Meaning::Distance(distance)),
                None => Err(self.why("distances are reshaped beyond dimensions of 1")),
            },
            meaning @ (Meaning::AfterPad { .. } | Meaning::Count) => {
                let last = from.len().checked_sub(1);
                let stays_last = last.and_then(|last| moved_axis(from, to, last)) == to.len().checked_sub(1);
                let counts = meaning == Meaning::Count && moved_axis(from, to, 0) == Some(0);
                match stays_last || counts {
                    true => Ok(meaning),
                    false => Err(self.why("positions are moved from the last dimension")),
                }
            }
            Meaning::Same(data) => match uniform(&data) {
                Some(scalar) => Ok(Meaning::Same(scalar)),
                None => Err(self.why("a constant is reshaped to the batch")),
            },
            _ => Err(self.why("sums over tokens are reshaped")),
        }
    }

    /// Where batch and keys of a mask are after a reshape, which may flatten the two into one or undo that.
    fn reshaped_mask(&self, mask: &Mask, from: &[Dim], to: &[Dim]) -> Option<(usize, usize)> {
        if let Some(moved) = moved_axis(from, to, mask.batch).zip(moved_axis(from, to, mask.key)) {
            return Some(moved);
        }
        let flat = &self.batch * &self.seq;
        let (from, to) = (proper(from), proper(to));
        match (&from[..], &to[..]) {
            ([(batch, _), (key, _)], [(place, size)]) if mask.batch == *batch && mask.key == *key => {
                (**size == flat).then_some((*place, *place))
            }
            ([(place, _)], [(batch, rows), (key, columns)]) if mask.batch == *place && mask.key == *place => {
                (**rows == self.batch && **columns == self.seq).then_some((*batch, *key))
            }
            _ => None,
        }
    }

    fn reshape_rows(&mut self, node: &Node, rows: Rows, from: &[Dim], to: &[Dim]) -> Found {
        let flat = &self.batch * &self.seq;
        let lead = if to.get(..rows.lead) == from.get(..rows.lead) {
            rows.lead
        } else if rows.per == Per::Token
            && from.first() == Some(&flat)
            && to.starts_with(&self.batch_and_seq())
        {
            2
        } else if rows.per == Per::Token
            && from.starts_with(&self.batch_and_seq())
            && to.first() == Some(&flat)
        {
            1
        } else {
            return Err(self.why("it mixes tokens with what belongs to one"));
        };
        let (from_row, to_row) = (from.get(rows.lead..), to.get(lead..));
        let (Some(from_row), Some(to_row)) = (from_row, to_row) else {
            return Err(self.why("its result has too few dimensions"));
        };
        if from_row == to_row {
            return Ok(Meaning::Rows(Rows { lead, ..rows }));
        }
        // 0 copies the number of tokens.
        let mut target = vec![0i64];
        for dim in to_row {
            let size = dim.as_const().filter(|size| *size > 0);
            target.push(size.ok_or_else(|| self.why("the shape of a row depends on the batch"))?);
        }
        let shape = self.new_constant(&format!("{}.shape", node.name), TensorData::vector(target))?;
        let op = Op::Reshape { allow_zero: false };
        let tensor = self.emit_one(node, op, &[Some(rows.tensor), Some(shape)])?;
        Ok(Meaning::Rows(Rows { tensor, lead, ..rows }))
    }

    fn batch_and_seq(&self) -> [Dim; 2] {
        [self.batch.clone(), self.seq.clone()]
    }

    pub(super) fn expand(&mut self, node: &'g Node) -> Found {
        let x = self.operand_id(node, 0)?;
        let (from, to) = (self.dims(x), self.result_dims(node)?);
        let shift = to.len().saturating_sub(from.len());
        match self.meaning(x)? {
            Meaning::Mask(mask) => {
                let kept = |axis: usize| from.get(axis) == to.get(axis + shift);
                if !kept(mask.batch) || !kept(mask.key) {
                    return Err(self.why("the mask is repeated along batch or keys"));
                }
                Ok(Meaning::Mask(Mask { batch: mask.batch + shift, key: mask.key + shift, ..mask }))
            }
            Meaning::Rows(rows) if from == to => Ok(Meaning::Rows(rows)),
            Meaning::Index(index) => {
                let kept = |axis: usize| (from.get(axis) == to.get(axis + shift)).then_some(axis + shift);
                let moved =
                    index.moved(kept).ok_or_else(|| self.why("indices are repeated along themselves"))?;
                Ok(Meaning::Index(moved))
            }
            Meaning::Bias(bias) => {
                let kept = |axis: usize| (from.get(axis) == to.get(axis + shift)).then_some(axis + shift);
                let moved = bias.moved(kept).ok_or_else(|| self.why("a bias is repeated along itself"))?;
                Ok(Meaning::Bias(moved))
            }
            meaning @ Meaning::Same(_) => Ok(meaning),
            meaning @ Meaning::AfterPad { .. } if from == to => Ok(meaning),
            Meaning::Count if to.first() == Some(&self.batch) => Ok(Meaning::Count),
            _ => Err(self.why("rows are repeated")),
        }
    }

    pub(super) fn transpose(&mut self, node: &'g Node, perm: &[usize]) -> Found {
        match self.operand(node, 0)? {
            Meaning::Rows(rows) => {
                if perm.iter().take(rows.lead).enumerate().any(|(to, from)| to != *from) {
                    return Err(self.why("it moves batch or sequence"));
                }
                let of_row = perm.iter().skip(rows.lead).map(|axis| axis + 1 - rows.lead);
                let op = Op::Transpose { perm: std::iter::once(0).chain(of_row).collect() };
                let tensor = self.emit_one(node, op, &[Some(rows.tensor)])?;
                Ok(Meaning::Rows(Rows { tensor, ..rows }))
            }
            Meaning::Mask(mask) => {
                let place = |axis| perm.iter().position(|from| *from == axis);
                let (batch, key) = place(mask.batch)
                    .zip(place(mask.key))
                    .ok_or_else(|| self.why("the permutation leaves dimensions out"))?;
                Ok(Meaning::Mask(Mask { batch, key, ..mask }))
            }
            Meaning::Bias(bias) => {
                let place = |axis| perm.iter().position(|from| *from == axis);
                let moved =
                    bias.moved(place).ok_or_else(|| self.why("it transposes a bias with its mask"))?;
                Ok(Meaning::Bias(moved))
            }
            _ => Err(self.why("it transposes neither rows nor a mask")),
        }
    }

    /// The rows of the first operand, for nodes that work along an axis.
    fn rows_along(&self, node: &Node, axis: i64) -> Result<(Rows, i64), Why> {
        let x = self.operand_id(node, 0)?;
        let Meaning::Rows(rows) = self.meaning(x)? else {
            return Err(self.why("its operand has no row for each token or sequence"));
        };
        let axis = self.axis_within_row(axis, self.dims(x).len(), rows.lead)?;
        Ok((rows, axis))
    }

    pub(super) fn concat(&mut self, node: &'g Node, axis: i64) -> Found {
        if let Some(coordinates) = self.coordinates(node, axis) {
            return Ok(coordinates);
        }
        let (rows, axis) = self.rows_along(node, axis)?;
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for id in node.inputs.iter().flatten() {
            match self.meaning(*id)? {
                Meaning::Rows(other) if other.per == rows.per && other.lead == rows.lead => {
                    inputs.push(Some(other.tensor));
                }
                _ => return Err(self.why("it joins rows with something else")),
            }
        }
        let tensor = self.emit_one(node, Op::Concat { axis }, &inputs)?;
        Ok(Meaning::Rows(Rows { tensor, ..rows }))
    }

    pub(super) fn split(&mut self, node: &'g Node) -> Result<Vec<Meaning>, Why> {
        let Op::Split { axis, parts } = node.op else { return Err(self.why("not a split")) };
        let (rows, axis) = self.rows_along(node, axis)?;
        let mut inputs = vec![Some(rows.tensor)];
        if let Some(sizes) = node.inputs.get(1).copied().flatten() {
            inputs.push(Some(self.constant(sizes)?));
        }
        let results = self.emit(node, Op::Split { axis, parts }, &inputs)?;
        // A part that nobody reads gets the meaning of the whole, which nobody asks for.
        let part = |tensor: Option<_>| Rows { tensor: tensor.unwrap_or(rows.tensor), ..rows };
        Ok(results.into_iter().map(|tensor| Meaning::Rows(part(tensor))).collect())
    }

    pub(super) fn slice(&mut self, node: &'g Node) -> Found {
        let x = self.operand_id(node, 0)?;
        let rank = self.dims(x).len();
        match self.meaning(x)? {
            Meaning::Same(data) => self.slice_of_constant(node, &data, rank),
            Meaning::Rows(rows) => {
                let axes = node.inputs.get(3).copied().flatten().and_then(|id| {
                    let data = self.old.tensor(id).constant()?;
                    data.to_i64()
                });
                let axes = axes.ok_or_else(|| self.why("its axes are no constant"))?;
                let axes: Vec<i64> = axes
                    .iter()
                    .map(|axis| self.axis_within_row(*axis, rank, rows.lead))
                    .collect::<Result<_, _>>()?;
                let mut inputs = vec![Some(rows.tensor)];
                for index in 1..node.inputs.len() {
                    inputs.push(match node.inputs.get(index).copied().flatten() {
                        Some(_) if index == 3 => Some(self.new_constant(
                            &format!("{}.axes", node.name),
                            TensorData::vector(axes.clone()),
                        )?),
                        Some(id) => Some(self.constant(id)?),
                        None => None,
                    });
                }
                let tensor = self.emit_one(node, Op::Slice, &inputs)?;
                Ok(Meaning::Rows(Rows { tensor, ..rows }))
            }
            _ => Err(self.why("it cuts a mask or positions")),
        }
    }

    /// The first `seq` columns of a constant: `0, 1, 2, ...`, or one value all over.
    fn slice_of_constant(&self, node: &Node, data: &TensorData, rank: usize) -> Found {
        if let Some(scalar) = uniform(data) {
            return Ok(Meaning::Same(scalar));
        }
        let number = |index: usize| -> Option<Vec<Dim>> {
            self.old.tensor(node.inputs.get(index).copied().flatten()?).value.clone()
        };
        let is =
            |index: usize, expected: &Dim| number(index).is_none_or(|v| v == std::slice::from_ref(expected));
        let last = node.inputs.get(3).copied().flatten().map_or(Some(0), |id| {
            let axes = self.old.tensor(id).constant()?.to_i64()?;
            axis_of(*axes.first().filter(|_| axes.len() == 1)?, rank)
        });
        let whole = number(1) == Some(vec![Dim::from(0)])
            && number(2) == Some(vec![self.seq.clone()])
            && is(4, &Dim::from(1))
            && last == rank.checked_sub(1);
        let (leading, values) = (data.shape().split_last().map(|(_, leading)| leading), data.to_i64());
        let counts = leading.is_some_and(|leading| leading.iter().all(|size| *size == 1))
            && values
                .is_some_and(|values| values.iter().enumerate().all(|(at, v)| i64::try_from(at) == Ok(*v)));
        match whole && counts {
            true => Ok(Meaning::Index(Affine::along(rank - 1, Dim::from(1), self.seq.clone()))),
            false => {
                Err(self
                    .why("it takes another part of a constant than the first seq columns of 0, 1, 2, ..."))
            }
        }
    }
}
