//! Elementwise nodes: on rows, on functions of the attention mask, on positions, on constants.

use bertha_graph::interp::Value;
use bertha_graph::{BinaryOp, DType, Node, Op, TensorData, TensorId, UnaryOp};

use super::meaning::{AfterPad, Mask, Meaning, Rows};
use super::{Found, Rewrite};

impl<'g> Rewrite<'g> {
    pub(super) fn elementwise(&mut self, node: &'g Node) -> Found {
        let mut operands = Vec::with_capacity(node.inputs.len());
        for id in node.inputs.iter().flatten() {
            operands.push((*id, self.meaning(*id)?));
        }
        if let Some(found) = self.positions(node, &operands) {
            return Ok(found);
        }
        if let Some(found) = self.on_distances(node, &operands)? {
            return Ok(found);
        }
        if let Some(found) = self.index_arithmetic(node, &operands)? {
            return Ok(found);
        }
        if let Some(found) = self.pooling(node, &operands)? {
            return Ok(found);
        }
        if operands.iter().any(|(_, meaning)| matches!(meaning, Meaning::Rows(_))) {
            return self.on_rows(node, &operands);
        }
        if operands.iter().all(|(_, meaning)| matches!(meaning, Meaning::Same(_))) {
            return self.on_constants(node, &operands);
        }
        if operands.iter().all(|(_, meaning)| matches!(meaning, Meaning::Same(_) | Meaning::Mask(_))) {
            return self.on_masks(node, &operands);
        }
        Err(self.why("it mixes what belongs to tokens, masks and positions"))
    }

    /// The same function of scalars, at hidden and at visible keys.
    fn on_masks(&self, node: &Node, operands: &[(TensorId, Meaning)]) -> Found {
        let rank = self.result_dims(node)?.len();
        let mut place = None;
        let (mut hidden, mut visible) = (Vec::new(), Vec::new());
        for (id, meaning) in operands {
            match meaning {
                Meaning::Mask(mask) => {
                    // Broadcasting adds dimensions in front.
                    let shift = rank.saturating_sub(self.dims(*id).len());
                    let here = (mask.batch + shift, mask.key + shift);
                    if place.is_some_and(|place| place != here) {
                        return Err(self.why("it combines masks that go along different dimensions"));
                    }
                    place = Some(here);
                    hidden.push(mask.at[0].clone());
                    visible.push(mask.at[1].clone());
                }
                Meaning::Same(data) => {
                    let scalar =
                        uniform(data).ok_or_else(|| self.why("a constant of several values meets a mask"))?;
                    hidden.push(Value::from_tensor(&scalar));
                    visible.push(Value::from_tensor(&scalar));
                }
                _ => return Err(self.why("it mixes masks with something else")),
            }
        }
        let (batch, key) = place.ok_or_else(|| self.why("no operand is a mask"))?;
        let at_hidden = self.evaluate(&node.op, &hidden.iter().collect::<Vec<_>>())?;
        let at_visible = self.evaluate(&node.op, &visible.iter().collect::<Vec<_>>())?;
        Ok(Meaning::Mask(Mask { batch, key, at: [at_hidden, at_visible] }))
    }

    fn on_constants(&self, node: &Node, operands: &[(TensorId, Meaning)]) -> Found {
        const MOST_ELEMENTS: usize = 1 << 16;
        let mut values = Vec::with_capacity(operands.len());
        for (_, meaning) in operands {
            match meaning {
                Meaning::Same(data) if data.len() <= MOST_ELEMENTS => values.push(Value::from_tensor(data)),
                _ => return Err(self.why("a large constant is computed at run time")),
            }
        }
        let result = self.evaluate(&node.op, &values.iter().collect::<Vec<_>>())?;
        Ok(Meaning::Same(result.to_tensor()))
    }

    /// Steps towards positions, absolute or counted after the pad token.
    fn positions(&self, node: &Node, operands: &[(TensorId, Meaning)]) -> Option<Meaning> {
        let is_number = |id: &TensorId, expected: i64| {
            self.old.tensor(*id).constant().and_then(TensorData::to_i64).is_some_and(|v| v == [expected])
        };
        match (&node.op, operands) {
            // Whether a token is the pad token may become 0 and 1; counts keep their values in any integer type.
            (Op::Cast { to }, [(_, meaning @ Meaning::AfterPad { .. })])
                if to.is_int() || *to == DType::Bool =>
            {
                let Meaning::AfterPad { step, .. } = meaning else { return None };
                let truth = matches!(step, AfterPad::IsPad | AfterPad::IsToken);
                (to.is_int() || truth).then(|| meaning.clone())
            }
            (Op::Unary(UnaryOp::Not), [(_, Meaning::AfterPad { pad_id, step: AfterPad::IsPad })]) => {
                Some(Meaning::AfterPad { pad_id: *pad_id, step: AfterPad::IsToken })
            }
            (Op::Binary(op), [a, b]) => {
                [(a, b), (b, a)].into_iter().find_map(|((a_id, a), (b_id, b))| match (op, a, b) {
                    (BinaryOp::Equal, Meaning::Rows(rows), Meaning::Same(_)) if self.is_input_ids(rows) => {
                        let pad_id =
                            self.old.tensor(*b_id).constant().filter(|id| id.len() == 1)?.to_i64()?;
                        Some(Meaning::AfterPad { pad_id: *pad_id.first()?, step: AfterPad::IsPad })
                    }
                    (
                        BinaryOp::Mul,
                        Meaning::AfterPad { pad_id, step: AfterPad::Count },
                        Meaning::AfterPad { pad_id: same, step: AfterPad::IsToken },
                    ) if pad_id == same && self.old.dtype(*a_id).is_int() => {
                        Some(Meaning::AfterPad { pad_id: *pad_id, step: AfterPad::CountOfTokens })
                    }
                    (
                        BinaryOp::Add,
                        Meaning::AfterPad { pad_id, step: AfterPad::CountOfTokens },
                        Meaning::Same(_),
                    ) if is_number(b_id, *pad_id) => {
                        Some(Meaning::AfterPad { pad_id: *pad_id, step: AfterPad::Position })
                    }
                    _ => None,
                })
            }
            _ => None,
        }
    }

    fn is_input_ids(&self, rows: &Rows) -> bool {
        self.new.tensor(rows.tensor).name == bertha_graph::ragged::INPUT_IDS
    }

    /// A count of the tokens along the sequence.
    pub(super) fn cumsum(&self, node: &Node) -> Found {
        let forward = node.op == Op::CumSum { exclusive: false, reverse: false };
        let x = self.operand_id(node, 0)?;
        let axis = self.operand_id(node, 1).ok().and_then(|id| self.old.tensor(id).constant()?.to_i64());
        let along_seq = matches!(axis.as_deref(), Some([1 | -1])) && self.dims(x).len() == 2;
        match self.meaning(x)? {
            Meaning::AfterPad { pad_id, step: AfterPad::IsToken }
                if forward && along_seq && self.old.dtype(x).is_int() =>
            {
                Ok(Meaning::AfterPad { pad_id, step: AfterPad::Count })
            }
            _ => Err(self.why("it sums along the sequence")),
        }
    }
}

/// The one value that all elements have, as a scalar.
pub(super) fn uniform(data: &TensorData) -> Option<TensorData> {
    let size = data.dtype().size();
    let first = data.bytes().get(..size)?;
    let same = data.bytes().chunks(size).all(|element| element == first);
    same.then(|| TensorData::from_bytes(data.dtype(), Vec::new(), data.bytes().slice(..size)).ok()).flatten()
}
