//! From a ragged graph to a program: a step for every node, a place for every tensor.

use std::collections::{HashMap, HashSet};

use bertha_compile::memory::Buffer;
use bertha_compile::{Precision, Uses};
use bertha_graph::{Dim, Graph, Node, Op, RelativeBuckets, TensorId, UnaryOp, WeightLayout};

use super::deferred::Deferred;
use super::dense::{is_ragged, ragged_input};
use super::generate;
use super::order::mark_needed;
use super::step::{Attention, CudaStep, Embedding, Lookup, NextWeight, Norm, RelativeBias, TensorIndex};
use super::{
    Arena, Dense, Input, LowerError, OutputPlan, Place, Program, Step, Storage, TensorPlan, UnsupportedNode,
    WeightForm, WeightPlan,
};
use crate::arch::Arch;
use crate::kernels::attention::takes_head_dim;
use crate::kernels::row::{MOST_TABLES, WIDEST_ROW};
use crate::kernels::{Rows, Tactics};

/// Lowers `graph` in a precision for an architecture. The same graph gives the same program, index for index.
pub(crate) fn lower(graph: &Graph, precision: Precision, arch: Arch) -> Result<Program, LowerError> {
    if graph.outputs().len() > 64 {
        return Err(LowerError::TooManyOutputs { count: graph.outputs().len() });
    }
    lower_case(graph, None, precision, arch)
}

/// Lowers a dense graph for one choice of input shapes; `base` is the graph for all of them.
pub(crate) fn lower_case(
    graph: &Graph,
    base: Option<&Graph>,
    precision: Precision,
    arch: Arch,
) -> Result<Program, LowerError> {
    let mut lowering = Lowering::new(graph, precision, arch)?;
    lowering.base = base;
    let mut unsupported = Vec::new();
    // What cannot be computed for want of a kernel further up is not the node's own fault.
    let mut missing: HashSet<TensorId> = HashSet::new();
    for node in graph.nodes() {
        let is_missing = node.inputs.iter().flatten().any(|id| missing.contains(id));
        let lowered = if is_missing { Ok(()) } else { lowering.lower_node(node) };
        if is_missing || lowered.is_err() {
            missing.extend(node.outputs.iter().flatten());
        }
        if let Err(why) = lowered {
            unsupported.push(UnsupportedNode { node: node.name.clone(), why });
        }
    }
    if !unsupported.is_empty() {
        return Err(LowerError::Unsupported { nodes: unsupported });
    }
    lowering.finish()
}

/// Tokens of a sequence for which relative biases are kept where no position table bounds it.
const LONGEST_WITHOUT_POSITIONS: usize = 4096;

/// A step under construction and what it needs; an error says what of the node there is no kernel for.
pub(super) type Lowered<T> = Result<T, String>;

pub(super) struct Lowering<'a> {
    pub(super) graph: &'a Graph,
    pub(super) uses: Uses,
    pub(super) storage: Storage,
    pub(super) steps: Vec<Step>,
    pub(super) tensors: Vec<TensorPlan>,
    pub(super) weights: Vec<WeightPlan>,
    pub(super) index_of: HashMap<TensorId, TensorIndex>,
    pub(super) buffer_of: HashMap<TensorIndex, usize>,
    pub(super) buffers: Vec<Buffer>,
    /// The inputs of a dense graph, and which nodes may find an index outside of its operand.
    pub(super) dense: Option<Dense>,
    /// The graph that a dense one is a case of, whose constants are in every case.
    pub(super) base: Option<&'a Graph>,
    /// Pairs of a tensor and another that is a view of it.
    pub(super) views: Vec<(TensorIndex, TensorIndex)>,
    /// Tensors that were converted to another type, with the results.
    pub(super) casts: HashMap<(TensorIndex, Storage), TensorIndex>,
    pub(super) deferred: Deferred,
    /// The statistics of rows whose norm is deferred.
    pub(super) stats_of: HashMap<TensorIndex, TensorIndex>,
}

impl<'a> Lowering<'a> {
    fn new(graph: &'a Graph, precision: Precision, arch: Arch) -> Result<Self, LowerError> {
        let (uses, storage) = (Uses::of(graph), Storage::of(precision));
        let mut lowering = Lowering {
            graph,
            deferred: Deferred::find(graph, &uses, storage, arch),
            uses,
            storage,
            steps: Vec::new(),
            tensors: Vec::new(),
            weights: Vec::new(),
            index_of: HashMap::new(),
            buffer_of: HashMap::new(),
            buffers: Vec::new(),
            dense: None,
            base: None,
            views: Vec::new(),
            casts: HashMap::new(),
            stats_of: HashMap::new(),
        };
        if !is_ragged(graph) {
            lowering.dense = Some(Dense::default());
            return lowering.with_given_inputs();
        }
        for (id, input) in graph.inputs().iter().filter_map(|id| Some((*id, ragged_input(graph, *id)?))) {
            lowering.add_tensor(id, Storage::I32, Place::Input(input));
        }
        Ok(lowering)
    }

    fn lower_node(&mut self, node: &Node) -> Lowered<()> {
        if let Op::Plugin(op) = &node.op {
            return super::plugin::lower(self, node, op);
        }
        if let Op::Split { axis, parts } = node.op {
            return self.split(node, axis, parts);
        }
        let [Some(y)] = node.outputs.as_slice() else {
            return Err(format!("{} with several results", node.op.mnemonic()));
        };
        if let Some(norm) = self.deferred.norm(*y)
            && norm.rows != *y
        {
            let rows = self.read(norm.rows)?;
            self.index_of.insert(*y, rows);
            return Ok(());
        }
        if is_alias(&node.op)
            && let Some(Some(x)) = node.inputs.first()
            && self.graph.tensor(*x).constant().is_none()
        {
            return self.alias(*x, *y);
        }
        let step = match &node.op {
            Op::EmbeddingSum if self.is_ragged() => self.embedding(node, *y, None)?,
            Op::EmbeddingLayerNorm { epsilon } if self.is_ragged() => {
                self.embedding(node, *y, Some(*epsilon))?
            }
            Op::EmbeddingLayerNorm { epsilon } => self.embedding_in_two(node, *y, *epsilon)?,
            Op::LayerNorm { axis, epsilon } => self.layer_norm(node, *y, *axis, *epsilon)?,
            Op::Linear { layout, activation } => self.linear(node, *y, *layout, *activation)?,
            Op::MatMul if self.is_weight(node, 1) => {
                self.linear(node, *y, WeightLayout::InOut, bertha_graph::Activation::None)?
            }
            Op::RaggedAttention { heads, scale, relative } => {
                self.attention(node, *y, (*heads, *scale), *relative)?
            }
            Op::Pool(kind) => {
                self.expect_input(node, 1, Input::CuSeqlens)?;
                let (x, width) = self.matrix(node, 0, Rows::Tokens)?;
                check_width(width)?;
                let y = self.write(*y, self.storage_of_result(*y));
                CudaStep::Pool { kind: *kind, x, y, width }
            }
            _ => CudaStep::Generated(generate::generate(self, node, *y)?),
        };
        self.push(node.name.clone(), step);
        Ok(())
    }

    /// `split` is a step for each piece that is read.
    fn split(&mut self, node: &Node, axis: i64, parts: usize) -> Lowered<()> {
        for (index, output) in node.outputs.iter().enumerate() {
            let Some(y) = output else { continue };
            let step = CudaStep::Generated(generate::piece(self, node, (axis, parts), index, *y)?);
            self.push(node.name.clone(), step);
        }
        Ok(())
    }

    pub(super) fn push(&mut self, node: String, step: CudaStep) {
        let at = self.steps.len();
        let mut touched = Vec::new();
        step.reads(|tensor| touched.push(tensor));
        step.writes(|tensor| touched.push(tensor));
        for tensor in touched {
            if let Some(buffer) = self.buffer_of.get(&tensor) {
                self.buffers[*buffer].last = self.buffers[*buffer].last.max(at);
            }
        }
        self.steps.push(Step { node, step, needed_by: 0 });
    }

    // ---- the ops -----------------------------------------------------------------------------------------------

    /// With the epsilon of a layer norm, whose gamma and beta are the last operands.
    fn embedding(&mut self, node: &Node, y: TensorId, epsilon: Option<f32>) -> Lowered<CudaStep> {
        let pairs = node.inputs.len().saturating_sub(if epsilon.is_some() { 2 } else { 0 });
        let (pairs, norm) = node.inputs.split_at(pairs);
        let mut lookups = Vec::new();
        let mut width = 0;
        for pair in pairs.chunks(2) {
            let [Some(ids), Some(table)] = pair else { return Err("an operand is missing".into()) };
            let data = self.constant(*table).ok_or("its table is computed")?;
            let [rows, columns] = *data.shape() else { return Err("its table is no matrix".into()) };
            let ids = self.read(*ids)?;
            self.expect_ids(ids)?;
            width = columns;
            lookups.push(Lookup { ids, table: self.weight(*table, WeightForm::Rows), rows });
        }
        if lookups.len() > MOST_TABLES {
            return Err(format!("a sum over {} tables", lookups.len()));
        }
        check_width(width)?;
        let norm = match epsilon {
            Some(epsilon) if self.deferred.norm(y).is_none() => Some(self.affine(norm, epsilon, width)?),
            _ => None,
        };
        let index = self.write(y, self.storage);
        let stats = self.stats(y, index, width);
        Ok(CudaStep::Embedding(Embedding { lookups, norm, y: index, stats, width }))
    }

    /// In a dense graph, whose ids are of any shape, the sum has a generated kernel, and the norm is a step behind it.
    fn embedding_in_two(&mut self, node: &Node, y: TensorId, epsilon: f32) -> Lowered<CudaStep> {
        let (rows, dims) = (self.rows_of(y)?, self.graph.tensor(y).ty.shape.dims());
        let width = dims.last().and_then(Dim::as_const).and_then(|width| usize::try_from(width).ok());
        let width = width.ok_or("rows of unknown width")?;
        check_width(width)?;
        let (pairs, affine) = node.inputs.split_at(node.inputs.len().saturating_sub(2));
        let norm = self.affine(affine, epsilon, width)?;
        let sum = generate::embedding_sum(self, node, pairs.len() / 2, y, self.storage)?;
        let x = sum.y;
        self.push(node.name.clone(), CudaStep::Generated(sum));
        self.make_room(x, rows, width);
        // From here on the node's result is what comes out of the norm.
        let y = self.write(y, self.storage_of_result(y));
        self.make_room(y, rows, width);
        Ok(CudaStep::LayerNorm { x, norm, y, width, rows })
    }

    fn norm(&mut self, node: &Node, axis: i64, epsilon: f32, width: usize) -> Lowered<Norm> {
        let rank = operand(node, 0).map_or(0, |x| self.graph.tensor(x).ty.shape.rank()) as i64;
        if axis != -1 && axis != rank - 1 {
            return Err("a layer norm over several dimensions".into());
        }
        self.affine(node.inputs.get(1..).unwrap_or_default(), epsilon, width)
    }

    /// The norm of rows of `width` with `gamma` and `beta`.
    fn affine(&mut self, operands: &[Option<TensorId>], epsilon: f32, width: usize) -> Lowered<Norm> {
        let gamma = operands.first().copied().flatten().ok_or("a layer norm without gamma")?;
        let beta = operands.get(1).copied().flatten();
        for id in [Some(gamma), beta].into_iter().flatten() {
            if self.constant(id).is_none_or(|data| data.shape() != [width]) {
                return Err("gamma or beta that is no constant row".into());
            }
        }
        Ok(Norm {
            gamma: self.weight(gamma, WeightForm::F32),
            beta: match beta {
                Some(beta) => self.weight(beta, WeightForm::F32),
                None => self.weight_plan(WeightPlan { name: String::new(), form: WeightForm::Zeros(width) }),
            },
            epsilon,
        })
    }

    fn layer_norm(&mut self, node: &Node, y: TensorId, axis: i64, epsilon: f32) -> Lowered<CudaStep> {
        let rows = self.rows_of(y)?;
        let (x, width) = self.matrix(node, 0, rows)?;
        check_width(width)?;
        let norm = self.norm(node, axis, epsilon, width)?;
        let y = self.write(y, self.storage_of_result(y));
        self.make_room(y, rows, width);
        Ok(CudaStep::LayerNorm { x, norm, y, width, rows })
    }

    fn attention(
        &mut self,
        node: &Node,
        y: TensorId,
        (heads, scale): (usize, f32),
        relative: Option<RelativeBuckets>,
    ) -> Lowered<CudaStep> {
        self.expect_input(node, 3, Input::CuSeqlens)?;
        let (q, stride) = self.matrix(node, 0, Rows::Tokens)?;
        let kv = match (operand(node, 1), operand(node, 2)) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                let (k, v) = (self.matrix(node, 1, Rows::Tokens)?, self.matrix(node, 2, Rows::Tokens)?);
                if [k.1, v.1] != [stride; 2] {
                    return Err(format!(
                        "queries, keys and values of {stride}, {} and {} features",
                        k.1, v.1
                    ));
                }
                Some((k.0, v.0))
            }
            _ => return Err("keys without values".into()),
        };
        let width = if kv.is_none() { stride / 3 } else { stride };
        if heads == 0 || !width.is_multiple_of(heads) || !takes_head_dim(width / heads) {
            return Err(format!("{heads} heads of {width} features together"));
        }
        let relative = match (relative, operand(node, 4)) {
            (Some(buckets), Some(table)) => {
                let data = self.constant(table).ok_or("its bias table is computed")?;
                if data.shape() != [buckets.buckets, heads] {
                    return Err(format!("a bias table of shape {:?}", data.shape()));
                }
                let longest = self.longest();
                let RelativeBuckets { buckets, max_distance } = buckets;
                let bias = self.weight(table, WeightForm::Distances { buckets, max_distance, longest });
                Some(RelativeBias { bias, longest })
            }
            (None, None) => None,
            _ => return Err("a bias table without buckets".into()),
        };
        let head_dim = width / heads;
        self.expect_same_shape((heads, head_dim, relative.map(|relative| relative.longest)))?;
        let y = self.write(y, self.storage);
        Ok(CudaStep::Attention(Attention { q, kv, y, heads, head_dim, scale, relative }))
    }

    /// All attentions of a run share one work list, whose blocks of queries have the height that the shape decides.
    fn expect_same_shape(&self, shape: (usize, usize, Option<usize>)) -> Lowered<()> {
        let differs = |step: &Step| match &step.step {
            CudaStep::Attention(Attention { heads, head_dim, relative, .. }) => {
                (*heads, *head_dim, relative.map(|relative| relative.longest)) != shape
            }
            _ => false,
        };
        match self.steps.iter().any(differs) {
            true => Err("attentions of different shapes in one model".into()),
            false => Ok(()),
        }
    }

    /// The longest sequence that the model takes, where its position table says so; else one that is long enough.
    fn longest(&self) -> usize {
        let of_step = |step: &Step| match &step.step {
            CudaStep::Embedding(embedding) => embedding.lookups.iter().find_map(|lookup| {
                let place = self.tensors[lookup.ids].place;
                (place == Place::Input(Input::PositionIds)).then_some(lookup.rows)
            }),
            _ => None,
        };
        self.steps.iter().find_map(of_step).unwrap_or(LONGEST_WITHOUT_POSITIONS)
    }

    fn finish(mut self) -> Result<Program, LowerError> {
        let mut outputs = Vec::new();
        for (name, id) in self.graph.outputs() {
            let read = self.read(*id).and_then(|tensor| match self.tensors[tensor].storage {
                Storage::F16 | Storage::Bf16 => self.cast(format!("output {name}"), tensor, Storage::F32),
                _ => Ok(tensor),
            });
            let tensor = read.map_err(|why| LowerError::Unsupported {
                nodes: vec![UnsupportedNode { node: format!("output {name}"), why }],
            })?;
            // That of the bytes, whatever the graph computes in.
            let dtype = self.tensors[tensor].storage.dtype();
            outputs.push(OutputPlan { name: name.clone(), tensor, dtype });
        }
        let end = self.steps.len();
        for output in &outputs {
            if let Some(buffer) = self.buffer_of.get(&output.tensor) {
                self.buffers[*buffer].last = end;
            }
        }
        let (arena, slot_of) = Arena::plan(&self.buffers);
        for (index, tensor) in self.tensors.iter_mut().enumerate() {
            if let (Place::Slot(_), Some(buffer)) = (tensor.place, self.buffer_of.get(&index)) {
                tensor.place = Place::Slot(slot_of[*buffer]);
            }
        }
        self.link_weights();
        mark_needed(&mut self.steps, &outputs, self.tensors.len(), &self.views);
        let Lowering { steps, tensors, weights, storage, dense, .. } = self;
        let tactics = Tactics::default();
        Ok(Program { steps, tensors, weights, outputs, arena, storage, dense, tactics })
    }

    /// Tells each layer which weight comes next.
    fn link_weights(&mut self) {
        let bytes = self.storage.bytes();
        let mut next = None;
        for step in self.steps.iter_mut().rev() {
            if let CudaStep::Linear(linear) = &mut step.step {
                linear.next = next;
                next = Some(NextWeight { weight: linear.weight, bytes: linear.n * linear.k * bytes });
            }
        }
    }
}

fn check_width(width: usize) -> Lowered<()> {
    match width {
        0 => Err("rows of no features".into()),
        1..=WIDEST_ROW => Ok(()),
        _ => Err(format!("rows of {width} features, more than {WIDEST_ROW}")),
    }
}

pub(super) fn operand(node: &Node, index: usize) -> Option<TensorId> {
    node.inputs.get(index).copied().flatten()
}

/// Ops whose result is the same bytes under another shape.
fn is_alias(op: &Op) -> bool {
    matches!(op, Op::Reshape { .. } | Op::Squeeze | Op::Unsqueeze | Op::Unary(UnaryOp::Identity))
}
