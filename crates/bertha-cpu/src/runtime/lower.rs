//! From a graph to a program: a kernel for every node, a place for every tensor.

use std::collections::HashMap;

use bertha_compile::{Uses, memory};
use bertha_graph::{DType, Dim, GeluKind, Graph, Node, NodeId, Op, Origin, Tensor, TensorId, WeightLayout};

use super::LowerError;
use super::attention;
use super::dims::{CompiledDim, Symbols};
use super::packed::{PackedStore, PackedWeight};
use super::program::{
    InputPlan, Kernel, OutputPlan, Place, Program, RightForm, Step, TensorIndex, TensorPlan,
};
use crate::kernels::elementwise::{BinaryOp, UnaryOp};
use crate::kernels::gemm::{PackedType, row_stride};

/// Lowers `graph`, taking packed weights from `store` (which packs what it does not have yet).
pub(crate) fn lower(graph: &Graph, store: &PackedStore) -> Result<Program, LowerError> {
    if graph.outputs().len() > 64 {
        return Err(LowerError::TooManyOutputs { count: graph.outputs().len() });
    }
    let mut lowering = Lowering::new(graph, store);
    let choices: Result<Vec<_>, _> = graph.nodes().iter().map(|node| lowering.choose(node)).collect();
    let choices = choices?;
    lowering.kinds = choices.iter().map(|choice| Kind::of(choice.as_ref())).collect();
    for (kind, (choice, node)) in (0..).zip(choices.iter().zip(graph.nodes())) {
        if let Some((Kernel::RaggedAttention { heads, .. }, _)) = choice
            && lowering.attends_in_bf16(node, *heads)
        {
            lowering.kinds[kind] = Kind::AttentionBf16;
        }
    }
    for ((id, node), choice) in graph.node_ids().zip(graph.nodes()).zip(choices) {
        lowering.lower_node(id, node, choice);
    }
    Ok(lowering.finish())
}

/// A kernel, and which of the node's inputs remain run-time operands.
type Choice = (Kernel, Vec<Option<TensorId>>);

/// What a node's kernel can take and give, as far as it bears on how tensors lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A product with a constant weight of f32.
    Linear,
    /// A product with a constant weight of bf16: rounds what it multiplies, takes and gives bf16 too.
    LinearBf16,
    /// Attention over queries, keys and values that such products give.
    AttentionBf16,
    /// Takes and gives rows that are apart.
    Strided,
    /// Takes and gives adjacent rows only.
    Adjacent,
}

impl Kind {
    fn of(choice: Option<&Choice>) -> Self {
        let Some((kernel, _)) = choice else { return Kind::Adjacent };
        match kernel {
            Kernel::Linear { weight, .. } if weight.desc().dtype == PackedType::Bf16 => Kind::LinearBf16,
            Kernel::Linear { .. } => Kind::Linear,
            Kernel::EmbeddingSum { .. }
            | Kernel::EmbeddingLayerNorm { .. }
            | Kernel::LayerNorm { .. }
            | Kernel::RaggedAttention { .. }
            | Kernel::Pool(_) => Kind::Strided,
            _ => Kind::Adjacent,
        }
    }
}

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Storage {
    dtype: DType,
    /// Elements between rows.
    row_padding: usize,
}

struct Lowering<'a> {
    graph: &'a Graph,
    store: &'a PackedStore,
    program: Program,
    index_of: HashMap<TensorId, TensorIndex>,
    /// For tensors in slots: the buffer whose memory they use (several for aliases).
    buffer_of: HashMap<TensorIndex, usize>,
    buffers: Vec<memory::Buffer>,
    needed_by: Vec<u64>,
    uses: Uses,
    /// For each node, what its kernel is.
    kinds: Vec<Kind>,
    /// Tensors of which there is a rounded copy too.
    rounded: HashMap<TensorId, TensorIndex>,
}

impl<'a> Lowering<'a> {
    fn new(graph: &'a Graph, store: &'a PackedStore) -> Self {
        let mut symbols = Symbols::default();
        let inputs = graph.inputs().iter().map(|id| {
            let tensor = graph.tensor(*id);
            InputPlan {
                name: tensor.name.clone(),
                dtype: tensor.ty.dtype,
                shape: tensor.ty.shape.clone(),
                dims: tensor.ty.shape.dims().iter().map(|dim| CompiledDim::new(dim, &mut symbols)).collect(),
            }
        });
        let inputs = inputs.collect();
        Lowering {
            graph,
            store,
            program: Program {
                steps: Vec::new(),
                tensors: Vec::new(),
                inputs,
                outputs: Vec::new(),
                constants: Vec::new(),
                slots: 0,
                slot_sizes: Vec::new(),
                symbols,
            },
            index_of: HashMap::new(),
            buffer_of: HashMap::new(),
            buffers: Vec::new(),
            needed_by: needed_by(graph),
            uses: Uses::of(graph),
            kinds: Vec::new(),
            rounded: HashMap::new(),
        }
    }

    fn lower_node(&mut self, id: NodeId, node: &Node, choice: Option<Choice>) {
        let Some((kernel, operands)) = choice else {
            if let (Some(Some(x)), Some(Some(y))) = (node.inputs.first(), node.outputs.first()) {
                self.alias(*x, *y);
            }
            return;
        };
        let step = self.program.steps.len();
        let mut inputs: Vec<_> = operands.iter().map(|input| input.map(|id| self.read(id, step))).collect();
        if self.kinds[id.index()] == Kind::LinearBf16
            && let Some(rounded) = operands[0].and_then(|x| self.rounded.get(&x).copied())
        {
            self.keep(rounded, step);
            inputs[0] = Some(rounded);
        }
        let resolve = node.outputs.iter().flatten().any(|id| !self.is_static(*id)).then(|| node.op.clone());
        let mut outputs: Vec<_> =
            node.outputs.iter().map(|output| output.map(|id| self.write(id, step))).collect();
        if let (Kernel::LayerNorm { .. } | Kernel::EmbeddingLayerNorm { .. }, [Some(y)]) =
            (&kernel, node.outputs.as_slice())
        {
            outputs.extend(self.write_rounded(*y, step).map(Some));
        }
        let needed_by = self.needed_by[id.index()];
        self.program.steps.push(Step {
            node: node.name.clone(),
            kernel,
            inputs,
            outputs,
            needed_by,
            resolve,
        });
    }

    /// The kernel for a node; none where its result is another view of its first input.
    fn choose(&self, node: &Node) -> Result<Option<Choice>, LowerError> {
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
    fn is_static(&self, id: TensorId) -> bool {
        self.graph
            .tensor(id)
            .ty
            .shape
            .dims()
            .iter()
            .all(|dim| dim.symbols().iter().all(|name| !name.starts_with('?')))
    }

    /// `y` is another view of the bytes of `x`.
    fn alias(&mut self, x: TensorId, y: TensorId) {
        let source = self.tensor_index(x);
        let place = self.program.tensors[source].place;
        let index = self.add_tensor(y, place);
        if let Some(buffer) = self.buffer_of.get(&source) {
            self.buffer_of.insert(index, *buffer);
        }
    }

    fn read(&mut self, id: TensorId, step: usize) -> TensorIndex {
        let index = self.tensor_index(id);
        self.keep(index, step);
        index
    }

    /// Keeps a tensor's memory up to this step.
    fn keep(&mut self, index: TensorIndex, step: usize) {
        if let Some(buffer) = self.buffer_of.get(&index) {
            self.buffers[*buffer].last = self.buffers[*buffer].last.max(step);
        }
    }

    fn write(&mut self, id: TensorId, step: usize) -> TensorIndex {
        let storage = self.storage(id);
        let index = self.add_tensor(id, Place::Slot(self.buffers.len()));
        self.allot(index, id, storage, step);
        index
    }

    /// A bf16 copy of a tensor that a step writes beside it, where a product would have to make it anyway.
    fn write_rounded(&mut self, id: TensorId, step: usize) -> Option<TensorIndex> {
        let reads = |node: &NodeId| {
            self.kinds[node.index()] == Kind::LinearBf16
                && self.graph.node(*node).inputs.first() == Some(&Some(id))
        };
        if !self.uses.readers(id).iter().any(reads) {
            return None;
        }
        let storage = self.bf16_storage(id)?;
        let plan = self.program.tensors.get(*self.index_of.get(&id)?)?;
        let (name, dims) = (format!("{} as bf16", plan.name), plan.dims.clone());
        let place = Place::Slot(self.buffers.len());
        self.program.tensors.push(TensorPlan { name, dtype: DType::BF16, dims, place, row_padding: 0 });
        let index = self.program.tensors.len() - 1;
        self.allot(index, id, storage, step);
        self.rounded.insert(id, index);
        Some(index)
    }

    /// Gives a tensor of the shape of `id` a buffer from this step on. Its place holds the buffer's number until the
    /// slots are assigned.
    fn allot(&mut self, index: TensorIndex, id: TensorId, storage: Storage, step: usize) {
        let plan = &mut self.program.tensors[index];
        (plan.dtype, plan.row_padding) = (storage.dtype, storage.row_padding);
        let shape = &self.graph.tensor(id).ty.shape;
        let element = storage.dtype.size();
        let mut size = &shape.elements() * &Dim::from(element);
        if let (1.., Some((_, rows))) = (storage.row_padding, shape.dims().split_last()) {
            let rows = rows.iter().fold(Dim::from(1_usize), |product, dim| &product * dim);
            size = &size + &(&rows * &Dim::from(storage.row_padding * element));
        }
        self.buffer_of.insert(index, self.buffers.len());
        self.buffers.push(memory::Buffer { size, first: step, last: step });
    }

    /// How a tensor that a node writes lies in memory: as bf16 where only products that round it anyway read it, and with
    /// rows that spread over the sets of a cache where everything that touches it takes such.
    fn storage(&self, id: TensorId) -> Storage {
        let tensor = self.graph.tensor(id);
        let plain = Storage { dtype: tensor.ty.dtype, row_padding: 0 };
        let Origin::Node { node, .. } = tensor.origin else { return plain };
        if self.uses.is_output(id) || tensor.ty.dtype != DType::F32 {
            return plain;
        }
        let readers = self.uses.readers(id);
        let (writer, kind) = (self.kinds[node.index()], |node: &NodeId| self.kinds[node.index()]);
        // As the first operand and nothing else: a residual is added in f32.
        let multiplies = |node: &NodeId| {
            let mut inputs = self.graph.node(*node).inputs.iter();
            kind(node) == Kind::LinearBf16
                && inputs.next() == Some(&Some(id))
                && inputs.all(|input| *input != Some(id))
        };
        let attends = |node: &NodeId| kind(node) == Kind::AttentionBf16;
        if matches!(writer, Kind::LinearBf16 | Kind::AttentionBf16)
            && (readers.iter().all(multiplies) || readers.iter().all(attends))
            && let Some(storage) = self.bf16_storage(id)
        {
            return storage;
        }
        let padding = match tensor.ty.shape.dims() {
            [_, cols]
                if writer != Kind::Adjacent && readers.iter().all(|node| kind(node) != Kind::Adjacent) =>
            {
                cols.as_const()
                    .and_then(|cols| usize::try_from(cols).ok())
                    .map_or(0, |cols| row_stride(cols) - cols)
            }
            _ => 0,
        };
        Storage { row_padding: padding, ..plain }
    }

    /// Whether attention can multiply in bf16: what it multiplies comes from such products and goes nowhere else.
    fn attends_in_bf16(&self, node: &Node, heads: usize) -> bool {
        let operands = || node.inputs.iter().take(3).flatten();
        let parts = if operands().count() == 1 { 3 } else { 1 };
        operands().count() > 0
            && operands().all(|id| {
                let tensor = self.graph.tensor(*id);
                let cols =
                    tensor.ty.shape.dims().last().and_then(|dim| usize::try_from(dim.as_const()?).ok());
                let from_product = matches!(
                    tensor.origin,
                    Origin::Node { node, .. } if self.kinds[node.index()] == Kind::LinearBf16
                );
                let only_here =
                    self.uses.readers(*id).iter().all(|reader| std::ptr::eq(self.graph.node(*reader), node));
                from_product
                    && only_here
                    && !self.uses.is_output(*id)
                    && !node.inputs.iter().skip(3).any(|other| *other == Some(*id))
                    && self.bf16_storage(*id).is_some()
                    && cols.is_some_and(|cols| cols.is_multiple_of(2 * parts * heads.max(1)))
            })
    }

    /// How a `[.., cols]` tensor lies in memory as bf16: in whole pairs.
    fn bf16_storage(&self, id: TensorId) -> Option<Storage> {
        let [_, cols] = self.graph.tensor(id).ty.shape.dims() else { return None };
        let cols = usize::try_from(cols.as_const()?).ok().filter(|cols| cols.is_multiple_of(2))?;
        Some(Storage { dtype: DType::BF16, row_padding: 2 * row_stride(cols / 2) - cols })
    }

    /// The index of an input, a constant, or a tensor that has been written before.
    fn tensor_index(&mut self, id: TensorId) -> TensorIndex {
        if let Some(index) = self.index_of.get(&id) {
            return *index;
        }
        let place = match &self.graph.tensor(id).origin {
            Origin::Constant(data) => {
                self.program.constants.push(data.clone());
                Place::Constant(self.program.constants.len() - 1)
            }
            // Nodes come in an order in which they can run, so only inputs are left.
            Origin::Input | Origin::Node { .. } => {
                Place::Input(self.graph.inputs().iter().position(|input| *input == id).unwrap_or(0))
            }
        };
        self.add_tensor(id, place)
    }

    fn add_tensor(&mut self, id: TensorId, place: Place) -> TensorIndex {
        let Tensor { name, ty, .. } = self.graph.tensor(id);
        let symbols = &mut self.program.symbols;
        let dims = ty.shape.dims().iter().map(|dim| CompiledDim::new(dim, symbols)).collect();
        self.program.tensors.push(TensorPlan {
            name: name.clone(),
            dtype: ty.dtype,
            dims,
            place,
            row_padding: 0,
        });
        let index = self.program.tensors.len() - 1;
        self.index_of.insert(id, index);
        index
    }

    fn finish(mut self) -> Program {
        let end = self.program.steps.len();
        for (name, id) in self.graph.outputs() {
            let tensor = self.read(*id, end);
            self.program.outputs.push(OutputPlan { name: name.clone(), tensor });
        }
        let plan = memory::plan(&self.buffers);
        for tensor in &mut self.program.tensors {
            if let Place::Slot(buffer) = tensor.place {
                tensor.place = Place::Slot(plan.slot_of[buffer]);
            }
        }
        self.program.slots = plan.slots.len();
        self.program.slot_sizes = plan.slots;
        self.program
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

/// For each node, the set of outputs that depend on it, as bits.
fn needed_by(graph: &Graph) -> Vec<u64> {
    let mut of_tensor = vec![0u64; graph.tensors().len()];
    for (index, (_, tensor)) in graph.outputs().iter().enumerate() {
        of_tensor[tensor.index()] |= 1 << index;
    }
    let mut of_node = vec![0u64; graph.nodes().len()];
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        let bits = node.outputs.iter().flatten().fold(0, |bits, output| bits | of_tensor[output.index()]);
        of_node[index] = bits;
        for input in node.inputs.iter().flatten() {
            of_tensor[input.index()] |= bits;
        }
    }
    of_node
}
