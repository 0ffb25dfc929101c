//! Integer tensors that say where something is: ranges, and sums and products made of them.
//!
//! Some exporters read the attention mask through such indices instead of reshaping it.

use std::collections::BTreeMap;

use bertha_graph::{BinaryOp, Dim, Node, Op, TensorData, TensorId};

use super::meaning::{Mask, Meaning, Why};
use super::{Found, Rewrite};
use crate::pattern::axis_of;

/// `constant + sum of coefficient * index`, over the indices along some dimensions of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Affine {
    constant: Dim,
    /// Coefficient and number of indices, by dimension.
    terms: BTreeMap<usize, (Dim, Dim)>,
}

impl Affine {
    pub(super) fn constant(constant: Dim) -> Self {
        Affine { constant, terms: BTreeMap::new() }
    }

    /// Multiples of the index along one dimension of this size.
    pub(super) fn along(axis: usize, coefficient: Dim, size: Dim) -> Self {
        Affine { constant: Dim::from(0), terms: BTreeMap::from([(axis, (coefficient, size))]) }
    }

    /// The same after dimensions have moved; `None` when one that matters is gone.
    pub(super) fn moved(&self, to: impl Fn(usize) -> Option<usize>) -> Option<Affine> {
        let terms = self.terms.iter().map(|(axis, term)| Some((to(*axis)?, term.clone())));
        Some(Affine { constant: self.constant.clone(), terms: terms.collect::<Option<_>>()? })
    }

    /// Whether it is the sum of exactly these: dimension, coefficient, size.
    pub(super) fn is(&self, expected: &[(usize, Dim, &Dim)]) -> bool {
        self.constant == Dim::from(0)
            && self.terms.len() == expected.len()
            && expected.iter().all(|(axis, coefficient, size)| {
                self.terms.get(axis).is_some_and(|(own, extent)| own == coefficient && extent == *size)
            })
    }

    /// Whether it is `factor * (key - query) + constant` for two dimensions of this size, the later one being the keys:
    /// the two dimensions, 1 or -1, and the constant.
    pub(super) fn as_difference(&self, size: &Dim) -> Option<(usize, usize, i64, i64)> {
        let mut terms = self.terms.iter();
        let ((query, of_query), (key, of_key)) = (terms.next()?, terms.next()?);
        let (by_query, by_key) = (of_query.0.as_const()?, of_key.0.as_const()?);
        let pair = terms.next().is_none() && of_query.1 == *size && of_key.1 == *size;
        let opposite = by_key.abs() == 1 && by_query == -by_key;
        (pair && opposite).then_some((*query, *key, by_key, self.constant.as_const()?))
    }

    fn plus(mut self, other: Affine, sign: i64) -> Affine {
        let sign = Dim::from(sign);
        self.constant = &self.constant + &(&other.constant * &sign);
        for (axis, (coefficient, size)) in other.terms {
            let term = self.terms.entry(axis).or_insert((Dim::from(0), size));
            term.0 = &term.0 + &(&coefficient * &sign);
        }
        self
    }

    fn times(mut self, factor: &Dim) -> Affine {
        self.constant = &self.constant * factor;
        for (coefficient, _) in self.terms.values_mut() {
            *coefficient = &*coefficient * factor;
        }
        self
    }

    fn as_constant(&self) -> Option<&Dim> {
        self.terms.is_empty().then_some(&self.constant)
    }

    /// Whether it is at least `bound` everywhere, whatever the sizes are.
    fn is_at_least(&self, bound: &Dim) -> bool {
        let never_negative = |dim: &Dim| dim.lower_bound().is_some_and(|least| least >= 0);
        never_negative(&(&self.constant - bound)) && self.terms.values().all(|(by, _)| never_negative(by))
    }
}

impl<'g> Rewrite<'g> {
    /// `start, start + delta, ...` with bounds that follow from the shapes.
    pub(super) fn range(&self, node: &Node) -> Found {
        let number = |index: usize| -> Option<Dim> {
            let value = self.old.tensor(node.inputs.get(index).copied().flatten()?).value.as_ref()?;
            value.first().cloned()
        };
        let size = self.result_dims(node)?.first().cloned();
        match (number(0), number(2), size) {
            (Some(start), Some(delta), Some(size)) => {
                Ok(Meaning::Index(Affine::along(0, delta, size).plus(Affine::constant(start), 1)))
            }
            _ => Err(self.why("the bounds of a range depend on data")),
        }
    }

    /// Arithmetic on indices and comparisons whose answer is always the same; `None` for other nodes.
    pub(super) fn index_arithmetic(
        &self,
        node: &Node,
        operands: &[(TensorId, Meaning)],
    ) -> Result<Option<Meaning>, Why> {
        if !operands.iter().any(|(_, meaning)| matches!(meaning, Meaning::Index(_))) {
            return Ok(None);
        }
        if let (Op::Cast { to }, [(_, Meaning::Index(index))]) = (&node.op, operands) {
            return Ok(to.is_int().then(|| Meaning::Index(index.clone())));
        }
        let (Op::Binary(op), [a, b]) = (&node.op, operands) else { return Ok(None) };
        let rank = self.result_dims(node)?.len();
        let (Some(a), Some(b)) = (self.aligned(a, rank), self.aligned(b, rank)) else { return Ok(None) };
        let found = match op {
            BinaryOp::Add => a.plus(b, 1),
            BinaryOp::Sub => a.plus(b, -1),
            BinaryOp::Mul => match (a.as_constant().cloned(), b.as_constant().cloned()) {
                (_, Some(factor)) => a.times(&factor),
                (Some(factor), None) => b.times(&factor),
                (None, None) => return Err(self.why("it multiplies two indices")),
            },
            BinaryOp::GreaterOrEqual | BinaryOp::Less => {
                let at_least = b.as_constant().is_some_and(|bound| a.is_at_least(bound));
                if !at_least {
                    return Err(self.why("it compares indices"));
                }
                let answer = TensorData::from_bools(Vec::new(), &[*op == BinaryOp::GreaterOrEqual]);
                return answer.map(|answer| Some(Meaning::Same(answer))).map_err(|error| self.why(error));
            }
            _ => return Err(self.why("it computes with indices")),
        };
        Ok(Some(Meaning::Index(found)))
    }

    /// An operand as indices of a result of this rank.
    fn aligned(&self, (id, meaning): &(TensorId, Meaning), rank: usize) -> Option<Affine> {
        match meaning {
            Meaning::Index(index) => {
                let shift = rank.checked_sub(self.dims(*id).len())?;
                index.moved(|axis| Some(axis + shift))
            }
            Meaning::Same(data) => {
                let number = super::masks::uniform(data)?.to_i64()?;
                Some(Affine::constant(Dim::from(*number.first()?)))
            }
            _ => None,
        }
    }

    /// Indices side by side along the last dimension.
    pub(super) fn coordinates(&self, node: &Node, axis: i64) -> Option<Meaning> {
        let mut coordinates = Vec::with_capacity(node.inputs.len());
        for id in node.inputs.iter().flatten() {
            let dims = self.dims(*id);
            let last = dims.len().checked_sub(1);
            let single = dims.last().and_then(|dim| dim.as_const()) == Some(1);
            match self.meaning(*id) {
                Ok(Meaning::Index(index)) if single && axis_of(axis, dims.len()) == last => {
                    coordinates.push(index)
                }
                _ => return None,
            }
        }
        Some(Meaning::Coordinates(coordinates))
    }

    /// The mask read at row and column.
    pub(super) fn gather_nd(&self, node: &Node) -> Found {
        let x = self.operand_id(node, 0)?;
        let (Meaning::Mask(mask), Meaning::Coordinates(places)) = (self.meaning(x)?, self.operand(node, 1)?)
        else {
            return Err(
                self.why("it reads something else than the mask, or elsewhere than at rows and columns")
            );
        };
        let ([row, column], 2, (0, 1)) = (&places[..], self.dims(x).len(), (mask.batch, mask.key)) else {
            return Err(self.why("the mask is not read by row and column"));
        };
        let place = |index: &Affine, size: &Dim| {
            let (axis, _) = index.terms.first_key_value()?;
            index.is(&[(*axis, Dim::from(1), size)]).then_some(*axis)
        };
        match (place(row, &self.batch), place(column, &self.seq)) {
            (Some(batch), Some(key)) if batch != key => Ok(Meaning::Mask(Mask { batch, key, ..mask })),
            _ => Err(self.why("the mask is not read at every row and column")),
        }
    }

    /// The flattened mask, `[batch * seq, ..]`, read at `row * seq + column`.
    pub(super) fn gather_flat(&self, dims: &[Dim], mask: Mask, index: &Affine) -> Found {
        let flat =
            mask.batch == 0 && mask.key == 0 && dims.iter().skip(1).all(|dim| dim.as_const() == Some(1));
        let axis_of_size = |size: &Dim| {
            let term = index.terms.iter().find(|(_, (_, extent))| extent == size);
            term.map(|(axis, _)| *axis)
        };
        match (axis_of_size(&self.batch), axis_of_size(&self.seq)) {
            (Some(batch), Some(key))
                if flat
                    && index
                        .is(&[(batch, self.seq.clone(), &self.batch), (key, Dim::from(1), &self.seq)]) =>
            {
                Ok(Meaning::Mask(Mask { batch, key, ..mask }))
            }
            _ => Err(self.why("the mask is not read at every row and column")),
        }
    }
}
