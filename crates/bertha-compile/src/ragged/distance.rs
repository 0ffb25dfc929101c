//! Functions of the distance between query and key, and biases that are looked up by them.
//!
//! A bucket of relative positions is computed by a dozen elementwise nodes. Instead of recognising their arrangement,
//! they are evaluated for every distance that occurs, and the result is compared with the buckets that ragged attention
//! knows.

use bertha_graph::interp::Value;
use bertha_graph::{BinaryOp, Node, Op, RelativeBuckets, TensorData, TensorId};

use super::index::Affine;
use super::masks::uniform;
use super::meaning::{Mask, Meaning, Why};
use super::{Found, Rewrite};

/// The largest distance that is looked at; longer sequences than this plus one are not taken.
const FARTHEST: i64 = 2047;

/// A function of the distance `key - query`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Distance {
    /// Its values for all distances from `-FARTHEST` on.
    values: Value,
    query: usize,
    key: usize,
}

impl Distance {
    pub(super) fn moved(&self, to: impl Fn(usize) -> Option<usize>) -> Option<Distance> {
        Some(Distance { values: self.values.clone(), query: to(self.query)?, key: to(self.key)? })
    }
}

/// A row of a table for each distance, one column for each head.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bias {
    /// In the padded graph.
    pub(super) table: TensorId,
    /// The row for each distance from `-FARTHEST` on.
    rows: Vec<i64>,
    /// The dimensions of heads, queries and keys.
    pub(super) axes: [usize; 3],
    /// The mask that is added to it.
    pub(super) mask: Option<Mask>,
}

impl Bias {
    pub(super) fn moved(&self, to: impl Fn(usize) -> Option<usize>) -> Option<Bias> {
        let [heads, queries, keys] = self.axes;
        // A mask stands in other dimensions; nothing moves the sum of the two.
        let alone = self.mask.is_none();
        let axes = [to(heads)?, to(queries)?, to(keys)?];
        alone.then(|| Bias { axes, ..self.clone() })
    }

    /// The buckets by which ragged attention finds the same rows, for sequences of at most `longest` tokens.
    pub(super) fn buckets(&self, buckets: usize, longest: usize) -> Option<RelativeBuckets> {
        let farthest = usize::try_from(FARTHEST).ok()?;
        if longest > farthest + 1 {
            return None;
        }
        (2..=farthest).map(|max_distance| RelativeBuckets { buckets, max_distance }).find(|candidate| {
            self.rows.iter().enumerate().all(|(at, row)| {
                let (query, key) = if at >= farthest { (0, at - farthest) } else { (farthest - at, 0) };
                i64::try_from(candidate.bucket(query, key)) == Ok(*row)
            })
        })
    }
}

impl<'g> Rewrite<'g> {
    /// Elementwise nodes on functions of distances; `None` when there is none among the operands.
    pub(super) fn on_distances(
        &self,
        node: &Node,
        operands: &[(TensorId, Meaning)],
    ) -> Result<Option<Meaning>, Why> {
        if let (Op::Binary(BinaryOp::Add), [a, b]) = (&node.op, operands) {
            let sums =
                [(a, b), (b, a)].into_iter().find_map(|(bias, mask)| self.masked_bias(node, bias, mask));
            if sums.is_some() {
                return Ok(sums);
            }
        }
        let linear = matches!(node.op, Op::Binary(BinaryOp::Add | BinaryOp::Sub) | Op::Cast { .. });
        if linear && !operands.iter().any(|(_, meaning)| matches!(meaning, Meaning::Distance(_))) {
            return Ok(None);
        }
        let rank = self.result_dims(node)?.len();
        let mut place = None;
        let mut values = Vec::with_capacity(operands.len());
        for (id, meaning) in operands {
            let shift = rank.saturating_sub(self.dims(*id).len());
            let distance = match meaning {
                Meaning::Distance(distance) => Some(distance.clone()),
                Meaning::Index(index) => self.distance_of(*id, index)?,
                _ => None,
            };
            match (distance, meaning) {
                (Some(distance), _) => {
                    let here = (distance.query + shift, distance.key + shift);
                    if place.is_some_and(|place| place != here) {
                        return Err(self.why("it combines distances along different dimensions"));
                    }
                    place = Some(here);
                    values.push(distance.values);
                }
                (None, Meaning::Same(data)) => match uniform(data) {
                    Some(scalar) => values.push(Value::from_tensor(&scalar)),
                    None => return Ok(None),
                },
                _ => return Ok(None),
            }
        }
        let Some((query, key)) = place else { return Ok(None) };
        let values = self.evaluate(&node.op, &values.iter().collect::<Vec<_>>())?;
        Ok(Some(Meaning::Distance(Distance { values, query, key })))
    }

    /// `key - query`, or the reverse, as a function of the distance.
    fn distance_of(&self, id: TensorId, index: &Affine) -> Result<Option<Distance>, Why> {
        let Some((query, key, factor, constant)) = index.as_difference(&self.seq) else { return Ok(None) };
        let values: Vec<i64> = (-FARTHEST..=FARTHEST).map(|distance| distance * factor + constant).collect();
        let values = Value::from_tensor(&TensorData::vector(values));
        let values = self.evaluate(&Op::Cast { to: self.old.dtype(id) }, &[&values])?;
        Ok(Some(Distance { values, query, key }))
    }

    /// The rows of a table by a function of distances, `[query, key, heads]`.
    pub(super) fn bias(&self, table: TensorId, distance: &Distance) -> Found {
        let rows = distance.values.to_tensor().to_i64();
        let rows = rows.ok_or_else(|| self.why("the rows are chosen by numbers that are no integers"))?;
        match (distance.query, distance.key, self.dims(table).len()) {
            (0, 1, 2) => Ok(Meaning::Bias(Bias { table, rows, axes: [2, 0, 1], mask: None })),
            _ => Err(self.why("a table is not read for each pair of query and key")),
        }
    }

    /// A bias and a mask added up, both over `[batch, heads, query, key]`.
    fn masked_bias(
        &self,
        node: &Node,
        (bias_id, bias): &(TensorId, Meaning),
        (mask_id, mask): &(TensorId, Meaning),
    ) -> Option<Meaning> {
        let (Meaning::Bias(bias), Meaning::Mask(mask)) = (bias, mask) else { return None };
        let rank = self.result_dims(node).ok()?.len();
        let shift = |id: &TensorId| rank.checked_sub(self.dims(*id).len());
        let (of_bias, of_mask) = (shift(bias_id)?, shift(mask_id)?);
        let bias = bias.moved(|axis| Some(axis + of_bias))?;
        let mask = Mask { batch: mask.batch + of_mask, key: mask.key + of_mask, ..mask.clone() };
        Some(Meaning::Bias(Bias { mask: Some(mask), ..bias }))
    }
}
