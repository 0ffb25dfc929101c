//! Which kernel runs a node.

use bertha_graph::{DType, Dim, GeluKind, Node, Op, Tensor, TensorId, WeightLayout};

use super::{Choice, Lowering, lower};
use crate::kernels::elementwise::{BinaryOp, UnaryOp};
use crate::kernels::gemm::PackedType;
use crate::runtime::LowerError;
use crate::runtime::attention;
use crate::runtime::packed::PackedWeight;
use crate::runtime::program::{Kernel, RightForm};

impl Lowering<'_> {
    /// The kernel for a node; none where its result is another view of its first input.
    pub(super) fn choose(&self, node: &Node) -> Result<Option<Choice>, LowerError> {
        if let (true, Some(Some(_)), Some(Some(y))) =
            (is_alias(&node.op), node.inputs.first(), node.outputs.first())
            && self.is_static(*y)
        {
            return Ok(None);
        }
        if let Some(choice) = self.choose_product(node)? {
            return Ok(Some(choice));
        }
        if let Some(choice) = self.choose_convolution(node)? {
            return Ok(Some(choice));
        }
        let all = node.inputs.clone();
        let f32s =
            node.inputs.iter().chain(&node.outputs).flatten().all(|id| self.graph.dtype(*id) == DType::F32);
        let first = node.inputs.first().copied().flatten().map(|id| self.graph.tensor(id));
        let kernel = match &node.op {
            Op::EmbeddingSum if self.embedding_is_f32_i32(&node.inputs) => {
                Kernel::EmbeddingSum { packed: self.packed_tables(&node.inputs)? }
            }
            Op::EmbeddingLayerNorm { epsilon }
                if self.embedding_is_f32_i32(&node.inputs[..node.inputs.len().saturating_sub(2)]) =>
            {
                let pairs = &node.inputs[..node.inputs.len().saturating_sub(2)];
                Kernel::EmbeddingLayerNorm { epsilon: *epsilon, packed: self.packed_tables(pairs)? }
            }
            Op::LayerNorm { axis, epsilon } if f32s && is_last_axis(*axis, first) && is_plain_norm(node) => {
                Kernel::LayerNorm { epsilon: *epsilon }
            }
            Op::MatMul if f32s && self.are_matrices(node) => Kernel::MatMul,
            Op::RaggedAttention { heads, scale, relative } if is_f32(first) => {
                Kernel::RaggedAttention { heads: *heads, scale: *scale, relative: *relative }
            }
            Op::Attention(attrs) if attention::fits(self.graph, node, attrs) => {
                Kernel::Attention(attrs.clone())
            }
            Op::Softmax { axis } if f32s && is_last_axis(*axis, first) => Kernel::Softmax,
            Op::Pool(kind) if is_f32(first) => Kernel::Pool(*kind),
            Op::L2Normalize { epsilon } if f32s => Kernel::L2Normalize { epsilon: *epsilon },
            Op::If { then_branch, else_branch } => Kernel::If {
                then_branch: Box::new(lower(then_branch, self.store)?),
                else_branch: Box::new(lower(else_branch, self.store)?),
            },
            Op::Plugin(plugin) => Kernel::Plugin(plugin.clone()),
            op => self.elementwise(node, f32s).unwrap_or_else(|| Kernel::Generic(op.clone())),
        };
        Ok(Some((kernel, all)))
    }

    /// The vector kernel for an elementwise op on f32, where there is one for its operands' shapes.
    fn elementwise(&self, node: &Node, f32s: bool) -> Option<Kernel> {
        if !f32s {
            return None;
        }
        if let Some(function) = vector_function(&node.op) {
            return Some(Kernel::Function(function));
        }
        let (Op::Binary(op), [Some(a), Some(b)]) = (&node.op, &node.inputs[..]) else { return None };
        let op = match op {
            bertha_graph::BinaryOp::Add => BinaryOp::Add,
            bertha_graph::BinaryOp::Sub => BinaryOp::Sub,
            bertha_graph::BinaryOp::Mul => BinaryOp::Mul,
            bertha_graph::BinaryOp::Div => BinaryOp::Div,
            _ => return None,
        };
        let dims = |id: TensorId| self.graph.tensor(id).ty.shape.dims();
        let (a, b) = (dims(*a), dims(*b));
        // A left operand of higher rank: the result has its shape, so nothing is left to check at run time.
        let ones = |dims: &[Dim]| dims.iter().all(|dim| dim.as_const() == Some(1));
        let right = if a == b {
            RightForm::Same
        } else if ones(b) && b.len() <= a.len() {
            RightForm::Scalar
        } else if b.len() <= a.len() && !b.is_empty() && b.last() == a.last() && ones(&b[..b.len() - 1]) {
            RightForm::Row
        } else {
            return None;
        };
        Some(Kernel::Arithmetic { op, right })
    }

    /// Products with a constant f32 matrix run on packed weights.
    fn choose_product(&self, node: &Node) -> Result<Option<Choice>, LowerError> {
        use bertha_graph::Activation::None as Identity;
        let operand = |index: usize| node.inputs.get(index).copied().flatten();
        let (Some(x), Some(weight)) = (operand(0), operand(1)) else { return Ok(None) };
        let (layout, activation, bias, residual) = match &node.op {
            Op::Linear { layout, activation } => (*layout, *activation, operand(2), operand(3)),
            Op::MatMul if self.graph.tensor(x).ty.shape.rank() >= 2 => {
                (WeightLayout::InOut, Identity, None, None)
            }
            Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b } if self.bias_is_a_row(operand(2)) => {
                let layout = if *trans_b { WeightLayout::OutIn } else { WeightLayout::InOut };
                (layout, Identity, operand(2), None)
            }
            _ => return Ok(None),
        };
        // Other element types, and weights that a node computes, run on the plain kernels.
        let Some(packed) = self.packed(weight, layout)? else { return Ok(None) };
        if self.graph.dtype(x) != DType::F32 {
            return Ok(None);
        }
        Ok(Some((Kernel::Linear { weight: packed, activation }, vec![Some(x), bias, residual])))
    }

    /// Convolutions in f32: dense ones of a constant weight on its packed form, and depthwise ones.
    fn choose_convolution(&self, node: &Node) -> Result<Option<Choice>, LowerError> {
        let (Op::Conv(attrs), [Some(x), Some(weight), ..]) = (&node.op, &node.inputs[..]) else {
            return Ok(None);
        };
        if node.inputs.iter().flatten().any(|id| self.graph.dtype(*id) != DType::F32) {
            return Ok(None);
        }
        let weight = self.graph.tensor(*weight);
        if matches!(weight.ty.shape.dims(), [_, part, ..] if part.as_const() == Some(1)) && attrs.groups > 1 {
            return Ok(Some((Kernel::DepthwiseConv(attrs.clone()), node.inputs.clone())));
        }
        let Some(data) = weight.constant().filter(|data| attrs.groups == 1 && !data.is_empty()) else {
            return Ok(None);
        };
        let [out, _, window @ ..] = data.shape() else { return Ok(None) };
        let matrix = data.reshaped(vec![*out, data.len() / out]);
        let matrix = matrix
            .map_err(|error| LowerError::Packed { weight: weight.name.clone(), why: error.to_string() })?;
        let packed = self.store.get_or_pack(&weight.name, &matrix, WeightLayout::OutIn)?;
        let kernel = Kernel::Conv { attrs: attrs.clone(), window: window.to_vec(), weight: packed };
        Ok(Some((kernel, vec![Some(*x), node.inputs.get(2).copied().flatten()])))
    }

    /// The packed form of a constant f32 matrix; `None` for anything else.
    fn packed(&self, weight: TensorId, layout: WeightLayout) -> Result<Option<PackedWeight>, LowerError> {
        let tensor = self.graph.tensor(weight);
        match tensor.constant() {
            Some(data) if data.dtype() == DType::F32 && data.shape().len() == 2 && !data.is_empty() => {
                self.store.get_or_pack(&tensor.name, data, layout).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// For each pair of ids and table, the packed form of a table that a product multiplies with too, its rows as columns.
    /// So a tied table is held once. Not in bf16, where what is packed is rounded.
    fn packed_tables(&self, pairs: &[Option<TensorId>]) -> Result<Vec<Option<PackedWeight>>, LowerError> {
        let packed = |table: TensorId| {
            for reader in self.uses.readers(table) {
                let node = self.graph.node(*reader);
                let by_rows = match &node.op {
                    Op::Linear { layout, .. } => *layout == WeightLayout::OutIn,
                    Op::Gemm { trans_b, .. } => *trans_b,
                    _ => false,
                };
                if by_rows
                    && node.inputs.get(1) == Some(&Some(table))
                    && let Some((Kernel::Linear { weight, .. }, _)) = self.choose_product(node)?
                    && weight.desc().dtype == PackedType::F32
                {
                    return Ok(Some(weight));
                }
            }
            Ok(None)
        };
        pairs.chunks(2).map(|pair| pair.get(1).copied().flatten().map_or(Ok(None), packed)).collect()
    }

    fn bias_is_a_row(&self, bias: Option<TensorId>) -> bool {
        bias.is_none_or(|id| {
            let ty = &self.graph.tensor(id).ty;
            ty.dtype == DType::F32
                && ty.shape.rank() == 1
                && ty.shape.dims()[0].as_const().is_some_and(|n| n > 1)
        })
    }

    fn are_matrices(&self, node: &Node) -> bool {
        node.inputs.iter().flatten().all(|id| self.graph.tensor(*id).ty.shape.rank() >= 2)
    }

    fn embedding_is_f32_i32(&self, pairs: &[Option<TensorId>]) -> bool {
        pairs.chunks(2).all(|pair| match pair {
            [Some(ids), Some(table)] => {
                self.graph.dtype(*ids) == DType::I32 && self.graph.dtype(*table) == DType::F32
            }
            _ => false,
        })
    }

    /// Whether the shape is known once the inputs' shapes are.
    pub(super) fn is_static(&self, id: TensorId) -> bool {
        self.graph
            .tensor(id)
            .ty
            .shape
            .dims()
            .iter()
            .all(|dim| dim.symbols().iter().all(|name| !name.starts_with('?')))
    }
}

fn vector_function(op: &Op) -> Option<UnaryOp> {
    use bertha_graph::UnaryOp as Of;
    Some(match op {
        Op::Gelu(GeluKind::Erf) => UnaryOp::GeluErf,
        Op::Gelu(GeluKind::Tanh) => UnaryOp::GeluTanh,
        Op::Unary(Of::Abs) => UnaryOp::Abs,
        Op::Unary(Of::Neg) => UnaryOp::Neg,
        Op::Unary(Of::Reciprocal) => UnaryOp::Reciprocal,
        Op::Unary(Of::Sqrt) => UnaryOp::Sqrt,
        Op::Unary(Of::Exp) => UnaryOp::Exp,
        Op::Unary(Of::Log) => UnaryOp::Log,
        Op::Unary(Of::Erf) => UnaryOp::Erf,
        Op::Unary(Of::Tanh) => UnaryOp::Tanh,
        Op::Unary(Of::Sigmoid) => UnaryOp::Sigmoid,
        Op::Unary(Of::Relu) => UnaryOp::Relu,
        _ => return None,
    })
}

/// Ops whose result is the same bytes under another shape.
fn is_alias(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape { .. } | Op::Squeeze | Op::Unsqueeze | Op::Unary(bertha_graph::UnaryOp::Identity)
    )
}

fn is_f32(tensor: Option<&Tensor>) -> bool {
    tensor.is_some_and(|tensor| tensor.ty.dtype == DType::F32)
}

/// With beta, and without the statistics as results.
fn is_plain_norm(node: &Node) -> bool {
    node.outputs.len() == 1 && matches!(node.inputs.as_slice(), [Some(_), Some(_), Some(_)])
}

fn is_last_axis(axis: i64, tensor: Option<&Tensor>) -> bool {
    let rank = tensor.map_or(0, |tensor| tensor.ty.shape.rank()) as i64;
    rank > 0 && (axis == -1 || axis == rank - 1)
}
