//! What the tensors of the graph have become, and the walk from node to node.

use std::collections::HashMap;

use bertha_graph::{DType, Graph, Node, Op, Origin, TensorData, TensorId, WeightLayout};

use super::writer::{Size, Writer};
use crate::onnx::proto::GraphProto;

/// Result of lowering; an error says what stands in the way.
pub(super) type Lowered<T = String> = Result<T, String>;

/// How a tensor of the padded graph relates to that of the ragged one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `[tokens, ..]` became `[batch, sequence, ..]`.
    Tokens,
    /// `[batch, ..]`, as before.
    Batch,
    /// Independent of the batch, as before.
    Constant,
}

/// The padded graph under construction.
pub(super) struct Exporter<'g> {
    pub(super) graph: &'g Graph,
    pub(super) writer: Writer,
    /// The input with token ids.
    pub(super) ids: String,
    /// The input that tells tokens from padding.
    pub(super) mask: String,
    /// The graph's input with the bounds of the sequences, which only ops on whole sequences may use.
    pub(super) cu_seqlens: Option<TensorId>,
    values: HashMap<TensorId, (String, Kind)>,
    /// Values that several nodes need, by what they are.
    shared: HashMap<String, String>,
}

impl<'g> Exporter<'g> {
    pub(super) fn new(graph: &'g Graph, writer: Writer) -> Self {
        Exporter {
            graph,
            writer,
            ids: String::new(),
            mask: String::new(),
            cu_seqlens: None,
            values: HashMap::new(),
            shared: HashMap::new(),
        }
    }

    pub(super) fn finish(self) -> GraphProto {
        self.writer.finish()
    }

    /// Says what a tensor of the graph has become.
    pub(super) fn define(&mut self, tensor: TensorId, value: String, kind: Kind) {
        self.values.insert(tensor, (value, kind));
    }

    /// The value of a tensor; constants are added when they are first used.
    pub(super) fn value(&mut self, tensor: TensorId) -> Lowered<(String, Kind)> {
        if let Some(value) = self.values.get(&tensor) {
            return Ok(value.clone());
        }
        if self.cu_seqlens == Some(tensor) {
            return Err("uses the bounds of the sequences, which a padded graph does not have".into());
        }
        let known = self.graph.tensor(tensor);
        let Origin::Constant(data) = &known.origin else {
            return Err(format!("uses `{}`, which nothing computes", known.name));
        };
        let value = self.writer.weight(&known.name, data);
        self.define(tensor, value.clone(), Kind::Constant);
        Ok((value, Kind::Constant))
    }

    /// A value that is made once, however many nodes need it.
    pub(super) fn shared(&mut self, key: &str, make: impl FnOnce(&mut Self) -> Lowered) -> Lowered {
        if let Some(value) = self.shared.get(key) {
            return Ok(value.clone());
        }
        let value = make(self)?;
        self.shared.insert(key.to_owned(), value.clone());
        Ok(value)
    }

    /// Operand `index` of a node.
    pub(super) fn operand(&mut self, node: &Node, index: usize) -> Lowered<(String, Kind)> {
        let tensor = operand_id(node, index)?;
        let (value, kind) = self.value(tensor)?;
        if self.graph.tensor(tensor).origin != Origin::Input {
            return Ok((value, kind));
        }
        // The inputs are i64 here, as everybody's are; as indices they serve as they are.
        let dtype = self.dtype(tensor);
        let value = self.shared(&format!("{dtype} {value}"), |this| {
            Ok(this.writer.cast(&format!("{value}_{dtype}"), &value, dtype))
        })?;
        Ok((value, kind))
    }

    /// Operand `index` of a node that reads it as indices.
    pub(super) fn indices(&mut self, node: &Node, index: usize) -> Lowered<(String, Kind)> {
        self.value(operand_id(node, index)?)
    }

    /// Operand `index`, when it is there.
    pub(super) fn optional(&mut self, node: &Node, index: usize) -> Lowered<Option<(String, Kind)>> {
        match node.inputs.get(index).copied().flatten() {
            None => Ok(None),
            Some(tensor) => self.value(tensor).map(Some),
        }
    }

    pub(super) fn dtype(&self, tensor: TensorId) -> DType {
        self.graph.tensor(tensor).ty.dtype
    }

    /// Lowers a node and names its result as the graph does.
    pub(super) fn node(&mut self, node: &Node) -> Lowered<()> {
        let (&Some(result), rest) = node.outputs.split_first().ok_or("has no result")? else {
            return Err("has no first result".into());
        };
        if rest.iter().any(Option::is_some) {
            return Err("has more than one result, which the exporter does not write".into());
        }
        let (mut value, kind) = self.lower(node)?;
        let name = match self.output_name(result) {
            Some(output) => output.to_owned(),
            None => self.writer.take(&self.graph.tensor(result).name),
        };
        if self.writer.rename_last(&value, &name) {
            value = name;
        }
        self.define(result, value, kind);
        Ok(())
    }

    /// The first of the names under which a tensor is an output.
    fn output_name(&self, tensor: TensorId) -> Option<&'g str> {
        self.graph.outputs().iter().find(|(_, output)| *output == tensor).map(|(name, _)| name.as_str())
    }

    /// Keeps the names of the outputs for them. The error is a name that is taken.
    pub(super) fn reserve_outputs(&mut self) -> Result<(), String> {
        for (name, _) in self.graph.outputs() {
            if !self.writer.reserve(name) {
                return Err(name.clone());
            }
        }
        Ok(())
    }

    fn lower(&mut self, node: &Node) -> Lowered<(String, Kind)> {
        match &node.op {
            Op::EmbeddingSum => self.embedding_sum(node, node.inputs.len() / 2),
            Op::EmbeddingLayerNorm { epsilon } => self.embedding_layer_norm(node, *epsilon),
            Op::Linear { layout, activation } => self.linear(node, *layout, *activation),
            Op::LayerNorm { axis, epsilon } => self.layer_norm(node, *axis, *epsilon),
            Op::RaggedAttention { heads, scale, relative } => {
                let value = self.attention(node, *heads, *scale, relative.as_ref())?;
                Ok((value, Kind::Tokens))
            }
            Op::Pool(kind) => Ok((self.pool(node, *kind)?, Kind::Batch)),
            Op::L2Normalize { epsilon } => self.l2_normalize(node, *epsilon),
            Op::Gelu(kind) => {
                let (x, of) = self.operand(node, 0)?;
                let dtype = self.dtype(operand_id(node, 0)?);
                Ok((self.gelu(&node.name, &x, dtype, *kind)?, of))
            }
            Op::Unary(op) => self.unary(node, *op),
            Op::Binary(op) => self.binary(node, *op),
            Op::Where => self.select(node),
            Op::Cast { to } => self.cast(node, *to),
            Op::Gather { axis } => self.gather(node, *axis),
            Op::Softmax { axis } => self.softmax(node, *axis),
            _ => Err("has no padded form that the exporter knows".into()),
        }
    }

    /// An axis of a tensor of the graph, counted from the end, where the padded form has the same axes.
    pub(super) fn axis_from_end(&self, tensor: TensorId, axis: i64, kind: Kind) -> Lowered<i64> {
        let rank = self.graph.tensor(tensor).ty.shape.rank() as i64;
        let first = if axis < 0 { axis + rank } else { axis };
        if !(0..rank).contains(&first) {
            return Err(format!("axis {axis} is not one of {rank}"));
        }
        if first == 0 && kind == Kind::Tokens {
            return Err("works along the tokens of all sequences, which a padded graph keeps apart".into());
        }
        Ok(first - rank)
    }

    /// Declares an output of the graph.
    pub(super) fn output(&mut self, name: &str, tensor: TensorId) -> Lowered<()> {
        let (mut value, kind) = self.value(tensor)?;
        if value != name {
            self.writer.node_to(name.to_owned(), "Identity", &[&value], Vec::new());
            value = name.to_owned();
        }
        let ty = &self.graph.tensor(tensor).ty;
        let mut shape: Vec<Size> = ty
            .shape
            .dims()
            .iter()
            .map(|dim| dim.as_const().map_or_else(|| Size::Named(dim.to_string()), Size::Fixed))
            .collect();
        let leading = match kind {
            Kind::Tokens => vec![Size::Named("batch_size".into()), Size::Named("sequence_length".into())],
            Kind::Batch => vec![Size::Named("batch_size".into())],
            Kind::Constant => Vec::new(),
        };
        let replaced = usize::from(!leading.is_empty());
        shape.splice(..replaced.min(shape.len()), leading);
        self.writer.output(&value, ty.dtype, &shape);
        Ok(())
    }

    /// Whether a constant is used in any other way than as the weight of linear layers stored `[out, in]`.
    pub(super) fn has_other_uses(&self, constant: TensorId) -> bool {
        self.graph.outputs().iter().any(|(_, output)| *output == constant)
            || self.graph.nodes().iter().any(|node| {
                let transposed = matches!(node.op, Op::Linear { layout: WeightLayout::OutIn, .. });
                let uses = node.inputs.iter().enumerate().filter(|(_, input)| **input == Some(constant));
                uses.map(|(index, _)| index).any(|index| !(transposed && index == 1))
            })
    }
}

/// Operand `index` of a node in the graph.
pub(super) fn operand_id(node: &Node, index: usize) -> Lowered<TensorId> {
    node.inputs.get(index).copied().flatten().ok_or_else(|| format!("operand {index} is missing"))
}

/// What the result is when an op has operands of several kinds.
pub(super) fn common(kinds: impl IntoIterator<Item = Kind>) -> Lowered<Kind> {
    kinds.into_iter().try_fold(Kind::Constant, |common, kind| match (common, kind) {
        (Kind::Constant, kind) => Ok(kind),
        (common, Kind::Constant) => Ok(common),
        (common, kind) if common == kind => Ok(kind),
        _ => Err("combines tokens with whole sequences, which has no padded form".into()),
    })
}

/// A matrix with rows and columns exchanged.
pub(super) fn transposed(data: &TensorData) -> Lowered<TensorData> {
    let &[rows, columns] = data.shape() else {
        return Err(format!("has a weight of shape {:?}, not a matrix", data.shape()));
    };
    let size = data.dtype().size();
    let source = data.bytes();
    let mut bytes = vec![0u8; source.len()];
    // Square blocks, so that both sides stay in the cache.
    const BLOCK: usize = 32;
    for top in (0..rows).step_by(BLOCK) {
        for left in (0..columns).step_by(BLOCK) {
            for row in top..rows.min(top + BLOCK) {
                for column in left..columns.min(left + BLOCK) {
                    let from = (row * columns + column) * size;
                    let to = (column * rows + row) * size;
                    bytes[to..to + size].copy_from_slice(&source[from..from + size]);
                }
            }
        }
    }
    TensorData::from_bytes(data.dtype(), vec![columns, rows], bytes.into()).map_err(|error| error.to_string())
}
