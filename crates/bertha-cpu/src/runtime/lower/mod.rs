//! From a graph to a program: a kernel for every node, a place for every tensor.

mod choose;
mod tensors;

use std::collections::HashMap;

use bertha_compile::{Uses, memory};
use bertha_graph::{Graph, Node, NodeId, TensorId};

use super::LowerError;
use super::dims::{CompiledDim, Symbols};
use super::packed::PackedStore;
use super::program::{InputPlan, Kernel, OutputPlan, Place, Program, Step, TensorIndex};
use crate::kernels::gemm::PackedType;

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
