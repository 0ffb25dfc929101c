//! Embeddings, positions, linear layers and norms.

use bertha_graph::{Activation, DType, GeluKind, Node, TensorId, WeightLayout};

use super::values::{Exporter, Kind, Lowered, common, operand_id, transposed};
use super::writer::{float, int};

impl Exporter<'_> {
    /// The length of the batch, as a scalar.
    fn sequence_length(&mut self) -> Lowered {
        self.shared("sequence_length", |this| {
            let ids = this.ids.clone();
            let shape = this.writer.op("input_shape", "Shape", &[&ids]);
            let one = this.writer.int(1);
            Ok(this.writer.node("sequence_length_value", "Gather", &[&shape, &one], vec![int("axis", 0)]))
        })
    }

    /// `0, 1, ...` for the positions of the padded sequences, `[sequence]`.
    pub(super) fn range(&mut self) -> Lowered {
        let length = self.sequence_length()?;
        self.shared("range", |this| {
            let (zero, one) = (this.writer.int(0), this.writer.int(1));
            Ok(this.writer.op("range", "Range", &[&zero, &length, &one]))
        })
    }

    /// Positions that count from 0, `[1, sequence]`.
    pub(super) fn absolute_positions(&mut self) -> Lowered {
        let range = self.range()?;
        Ok(self.writer.unsqueeze("position_ids", &range, &[0]))
    }

    /// Tokens that are not the pad token count up from `pad_id + 1`; the pad token has `pad_id`. `[batch, sequence]`.
    pub(super) fn positions_after_pad(&mut self, pad_id: u32) -> Lowered {
        let ids = self.ids.clone();
        let w = &mut self.writer;
        let (pad, axis) = (w.int(i64::from(pad_id)), w.int(1));
        let is_pad = w.op("is_pad", "Equal", &[&ids, &pad]);
        let is_token = w.op("is_token", "Not", &[&is_pad]);
        let one = w.cast("is_token_number", &is_token, DType::I64);
        let count = w.op("token_count", "CumSum", &[&one, &axis]);
        // Pad tokens between others must not count.
        let count = w.op("token_number", "Mul", &[&count, &one]);
        Ok(w.op("position_ids", "Add", &[&count, &pad]))
    }

    /// The sum of the first `pairs` pairs of ids and table.
    pub(super) fn embedding_sum(&mut self, node: &Node, pairs: usize) -> Lowered<(String, Kind)> {
        let mut sum: Option<(String, Kind)> = None;
        for pair in 0..pairs {
            let (ids, kind) = self.indices(node, 2 * pair)?;
            let (table, table_kind) = self.operand(node, 2 * pair + 1)?;
            if table_kind != Kind::Constant {
                return Err("has a table that is not a constant".into());
            }
            let rows = format!("{}/rows_{pair}", node.name);
            let rows = self.writer.node(&rows, "Gather", &[&table, &ids], vec![int("axis", 0)]);
            sum = Some(match sum {
                None => (rows, kind),
                Some((sum, others)) => {
                    let base = format!("{}/sum_{pair}", node.name);
                    (self.writer.op(&base, "Add", &[&sum, &rows]), common([others, kind])?)
                }
            });
        }
        sum.ok_or_else(|| "sums no tables".into())
    }

    pub(super) fn linear(
        &mut self,
        node: &Node,
        layout: WeightLayout,
        activation: Activation,
    ) -> Lowered<(String, Kind)> {
        let (x, kind) = self.operand(node, 0)?;
        let dtype = self.dtype(operand_id(node, 0)?);
        let weight = match layout {
            WeightLayout::InOut => self.operand(node, 1)?.0,
            WeightLayout::OutIn => self.transposed_weight(operand_id(node, 1)?)?,
        };
        let at = |part: &str| format!("{}/{part}", node.name);
        let mut y = self.writer.op(&at("product"), "MatMul", &[&x, &weight]);
        if let Some((bias, _)) = self.optional(node, 2)? {
            y = self.writer.op(&at("biased"), "Add", &[&y, &bias]);
        }
        y = self.activation(&at("activation"), y, dtype, activation)?;
        if let Some((residual, _)) = self.optional(node, 3)? {
            y = self.writer.op(&at("sum"), "Add", &[&y, &residual]);
        }
        Ok((y, kind))
    }

    /// A weight `[out, in]` as `MatMul` wants it. One that other ops use too, such as an embedding that is also the
    /// decoder, is stored once and transposed by the graph.
    fn transposed_weight(&mut self, weight: TensorId) -> Lowered {
        let tensor = self.graph.tensor(weight);
        self.shared(&format!("transposed {}", tensor.name), |this| match tensor.constant() {
            Some(data) if !this.has_other_uses(weight) => {
                Ok(this.writer.weight(&tensor.name, &transposed(data)?))
            }
            _ => {
                let (value, _) = this.value(weight)?;
                Ok(this.writer.transpose(&format!("{}/transposed", tensor.name), &value, &[1, 0]))
            }
        })
    }

    fn activation(&mut self, base: &str, x: String, dtype: DType, activation: Activation) -> Lowered {
        Ok(match activation {
            Activation::None => x,
            Activation::Relu => self.writer.op(base, "Relu", &[&x]),
            Activation::Tanh => self.writer.op(base, "Tanh", &[&x]),
            Activation::GeluErf => self.gelu(base, &x, dtype, GeluKind::Erf)?,
            Activation::GeluTanh => self.gelu(base, &x, dtype, GeluKind::Tanh)?,
            Activation::Silu => {
                let gate = self.writer.op(&format!("{base}/gate"), "Sigmoid", &[&x]);
                self.writer.op(base, "Mul", &[&x, &gate])
            }
        })
    }

    /// One node from version 17 on, its definition before: deviations from the mean, then their mean square.
    pub(super) fn layer_norm(&mut self, node: &Node, axis: i64, epsilon: f32) -> Lowered<(String, Kind)> {
        let x = self.operand(node, 0)?;
        let axis = self.axis_from_end(operand_id(node, 0)?, axis, x.1)?;
        self.normalize(node, x, 1, (axis, epsilon))
    }

    pub(super) fn embedding_layer_norm(&mut self, node: &Node, epsilon: f32) -> Lowered<(String, Kind)> {
        let gamma = node.inputs.len().saturating_sub(2);
        let sum = self.embedding_sum(node, gamma / 2)?;
        self.normalize(node, sum, gamma, (-1, epsilon))
    }

    /// The layer norm of `x` from an axis (counted from the end) on. `gamma` is the number of that operand; beta follows it.
    fn normalize(
        &mut self,
        node: &Node,
        (x, kind): (String, Kind),
        gamma: usize,
        (axis, epsilon): (i64, f32),
    ) -> Lowered<(String, Kind)> {
        let dtype = self.dtype(operand_id(node, gamma)?);
        let beta = self.optional(node, gamma + 1)?.map(|(beta, _)| beta);
        let (gamma, _) = self.operand(node, gamma)?;
        if self.writer.opset >= 17 {
            let mut inputs = vec![x.as_str(), gamma.as_str()];
            inputs.extend(beta.as_deref());
            let attributes = vec![int("axis", axis), float("epsilon", epsilon)];
            let y = self.writer.node(&node.name, "LayerNormalization", &inputs, attributes);
            return Ok((y, kind));
        }
        let at = |part: &str| format!("{}/{part}", node.name);
        let axes: Vec<i64> = (axis..0).collect();
        let epsilon = self.writer.float(dtype, f64::from(epsilon))?;
        let w = &mut self.writer;
        let mean = w.reduce(&at("mean"), "ReduceMean", &x, &axes, true);
        let centred = w.op(&at("centred"), "Sub", &[&x, &mean]);
        let square = w.op(&at("square"), "Mul", &[&centred, &centred]);
        let variance = w.reduce(&at("variance"), "ReduceMean", &square, &axes, true);
        let variance = w.op(&at("variance_epsilon"), "Add", &[&variance, &epsilon]);
        let deviation = w.op(&at("deviation"), "Sqrt", &[&variance]);
        let normal = w.op(&at("normalised"), "Div", &[&centred, &deviation]);
        let scaled = w.op(&at("scaled"), "Mul", &[&normal, &gamma]);
        let y = match beta {
            Some(beta) => w.op(&at("shifted"), "Add", &[&scaled, &beta]),
            None => scaled,
        };
        Ok((y, kind))
    }

    pub(super) fn l2_normalize(&mut self, node: &Node, epsilon: f32) -> Lowered<(String, Kind)> {
        let (x, kind) = self.operand(node, 0)?;
        let dtype = self.dtype(operand_id(node, 0)?);
        let epsilon = self.writer.float(dtype, f64::from(epsilon))?;
        let at = |part: &str| format!("{}/{part}", node.name);
        let w = &mut self.writer;
        let square = w.op(&at("square"), "Mul", &[&x, &x]);
        let sum = w.reduce(&at("sum"), "ReduceSum", &square, &[-1], true);
        let norm = w.op(&at("norm"), "Sqrt", &[&sum]);
        let norm = w.op(&at("divisor"), "Max", &[&norm, &epsilon]);
        Ok((w.op(&at("normalised"), "Div", &[&x, &norm]), kind))
    }
}
