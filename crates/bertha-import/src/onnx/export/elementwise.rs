//! Ops that mean the same on padded tensors.

use bertha_graph::{BinaryOp, DType, GeluKind, Node, UnaryOp};

use super::values::{Exporter, Kind, Lowered, common, operand_id};
use super::writer::{int, string};

impl Exporter<'_> {
    pub(super) fn unary(&mut self, node: &Node, op: UnaryOp) -> Lowered<(String, Kind)> {
        let (x, kind) = self.operand(node, 0)?;
        Ok((self.writer.op(&node.name, unary_name(op), &[&x]), kind))
    }

    pub(super) fn binary(&mut self, node: &Node, op: BinaryOp) -> Lowered<(String, Kind)> {
        let ((a, a_kind), (b, b_kind)) = (self.operand(node, 0)?, self.operand(node, 1)?);
        if self.writer.opset < 12 && matches!(op, BinaryOp::GreaterOrEqual | BinaryOp::LessOrEqual) {
            return Err("needs operator set 12 or later".into());
        }
        let kind = self.broadcast_kind(node, &[a_kind, b_kind])?;
        Ok((self.writer.op(&node.name, binary_name(op), &[&a, &b]), kind))
    }

    pub(super) fn select(&mut self, node: &Node) -> Lowered<(String, Kind)> {
        let operands = (0..3).map(|index| self.operand(node, index)).collect::<Lowered<Vec<_>>>()?;
        let kinds: Vec<Kind> = operands.iter().map(|(_, kind)| *kind).collect();
        let kind = self.broadcast_kind(node, &kinds)?;
        let inputs: Vec<&str> = operands.iter().map(|(value, _)| value.as_str()).collect();
        Ok((self.writer.op(&node.name, "Where", &inputs), kind))
    }

    /// The kind of a broadcast. Shapes are matched from the end, so tokens meet tokens only where all operands with
    /// tokens have as many dimensions.
    fn broadcast_kind(&self, node: &Node, kinds: &[Kind]) -> Lowered<Kind> {
        let kind = common(kinds.iter().copied())?;
        let ranks = node.inputs.iter().flatten().map(|id| self.graph.tensor(*id).ty.shape.rank());
        let with_kind = ranks.clone().zip(kinds);
        let full = with_kind.filter(|(_, of)| **of != Kind::Constant).map(|(rank, _)| rank).max();
        let (most, full) = (ranks.max().unwrap_or(0), full.unwrap_or(0));
        let same = node
            .inputs
            .iter()
            .flatten()
            .zip(kinds)
            .filter(|(_, of)| **of != Kind::Constant)
            .all(|(id, _)| self.graph.tensor(*id).ty.shape.rank() == full);
        match kind == Kind::Constant || (same && most == full) {
            true => Ok(kind),
            false => Err("broadcasts tokens against other dimensions, which has no padded form".into()),
        }
    }

    pub(super) fn cast(&mut self, node: &Node, to: DType) -> Lowered<(String, Kind)> {
        let (x, kind) = self.operand(node, 0)?;
        Ok((self.writer.cast(&node.name, &x, to), kind))
    }

    pub(super) fn gather(&mut self, node: &Node, axis: i64) -> Lowered<(String, Kind)> {
        let ((x, x_kind), (indices, i_kind)) = (self.operand(node, 0)?, self.indices(node, 1)?);
        let axis = self.axis_from_end(operand_id(node, 0)?, axis, x_kind)?;
        let kind = match (x_kind, i_kind) {
            (kind, Kind::Constant) => kind,
            // Rows of a table: the dimensions of the indices come first.
            (Kind::Constant, kind) if axis + self.rank(operand_id(node, 0)?) == 0 => kind,
            _ => return Err("picks elements by indices that depend on the batch".into()),
        };
        Ok((self.writer.node(&node.name, "Gather", &[&x, &indices], vec![int("axis", axis)]), kind))
    }

    pub(super) fn rank(&self, tensor: bertha_graph::TensorId) -> i64 {
        self.graph.tensor(tensor).ty.shape.rank() as i64
    }

    pub(super) fn softmax(&mut self, node: &Node, axis: i64) -> Lowered<(String, Kind)> {
        let (x, kind) = self.operand(node, 0)?;
        let axis = self.axis_from_end(operand_id(node, 0)?, axis, kind)?;
        if axis != -1 && self.writer.opset < 13 {
            return Err("runs along another axis than the last, which needs operator set 13 or later".into());
        }
        Ok((self.writer.node(&node.name, "Softmax", &[&x], vec![int("axis", axis)]), kind))
    }

    /// One node from version 20 on, its definition before.
    pub(super) fn gelu(&mut self, base: &str, x: &str, dtype: DType, kind: GeluKind) -> Lowered {
        if self.writer.opset >= 20 {
            let approximate = match kind {
                GeluKind::Erf => "none",
                GeluKind::Tanh => "tanh",
            };
            return Ok(self.writer.node(base, "Gelu", &[x], vec![string("approximate", approximate)]));
        }
        let half = self.writer.float(dtype, 0.5)?;
        let one = self.writer.float(dtype, 1.0)?;
        let at = |part: &str| format!("{base}/{part}");
        let w = &mut self.writer;
        let bent = match kind {
            GeluKind::Erf => {
                let root = w.float(dtype, std::f64::consts::SQRT_2)?;
                let scaled = w.op(&at("scaled"), "Div", &[x, &root]);
                w.op(&at("erf"), "Erf", &[&scaled])
            }
            GeluKind::Tanh => {
                let (cubic, root) =
                    (w.float(dtype, 0.044715)?, w.float(dtype, (2.0 / std::f64::consts::PI).sqrt())?);
                let square = w.op(&at("square"), "Mul", &[x, x]);
                let cube = w.op(&at("cube"), "Mul", &[&square, x]);
                let term = w.op(&at("term"), "Mul", &[&cube, &cubic]);
                let sum = w.op(&at("sum"), "Add", &[x, &term]);
                let scaled = w.op(&at("scaled"), "Mul", &[&sum, &root]);
                w.op(&at("tanh"), "Tanh", &[&scaled])
            }
        };
        let gate = w.op(&at("gate"), "Add", &[&bent, &one]);
        let gated = w.op(&at("gated"), "Mul", &[x, &gate]);
        Ok(w.op(base, "Mul", &[&gated, &half]))
    }
}

fn unary_name(op: UnaryOp) -> &'static str {
    match op {
        UnaryOp::Identity => "Identity",
        UnaryOp::Abs => "Abs",
        UnaryOp::Ceil => "Ceil",
        UnaryOp::Cos => "Cos",
        UnaryOp::Erf => "Erf",
        UnaryOp::Exp => "Exp",
        UnaryOp::IsNan => "IsNaN",
        UnaryOp::Log => "Log",
        UnaryOp::Neg => "Neg",
        UnaryOp::Not => "Not",
        UnaryOp::Reciprocal => "Reciprocal",
        UnaryOp::Relu => "Relu",
        UnaryOp::Sigmoid => "Sigmoid",
        UnaryOp::Sign => "Sign",
        UnaryOp::Sin => "Sin",
        UnaryOp::Sqrt => "Sqrt",
        UnaryOp::Tanh => "Tanh",
    }
}

fn binary_name(op: BinaryOp) -> &'static str {
    match op {
        BinaryOp::Add => "Add",
        BinaryOp::Sub => "Sub",
        BinaryOp::Mul => "Mul",
        BinaryOp::Div => "Div",
        BinaryOp::Pow => "Pow",
        BinaryOp::Max => "Max",
        BinaryOp::Min => "Min",
        BinaryOp::And => "And",
        BinaryOp::Equal => "Equal",
        BinaryOp::Greater => "Greater",
        BinaryOp::GreaterOrEqual => "GreaterOrEqual",
        BinaryOp::Less => "Less",
        BinaryOp::LessOrEqual => "LessOrEqual",
    }
}
