//! The graph: tensors, and nodes that compute them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::GraphError;
use crate::op::Op;
use crate::plugin::PluginDef;
use crate::rules::{self, Fact};
use crate::shape::TensorType;
use crate::tensor::TensorData;

/// Index of a tensor within its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(crate) u32);

impl TensorId {
    /// Position in [`Graph::tensors`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Index of a node within its graph; nodes are in an order in which they can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    /// Position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a tensor comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// The caller gives it.
    Input,
    /// It is part of the model.
    Constant(TensorData),
    /// A node computes it, as its output number `output`.
    Node {
        /// The node.
        node: NodeId,
        /// Which of its outputs.
        output: usize,
    },
}

/// A tensor: a name, a type, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Unique within the graph.
    pub name: String,
    /// Element type and shape.
    pub ty: TensorType,
    /// Where it comes from.
    pub origin: Origin,
    /// The elements, where the shape rules know them as functions of the input's dimensions (small integer tensors
    /// such as the result of `Shape`).
    pub value: Option<Vec<Dim>>,
}

impl Tensor {
    /// The contents, if it is a constant.
    pub fn constant(&self) -> Option<&TensorData> {
        match &self.origin {
            Origin::Constant(data) => Some(data),
            Origin::Input | Origin::Node { .. } => None,
        }
    }
}

/// One operation, its operands and results.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique within the graph.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Operands in the order that the op defines; `None` for an absent optional one.
    pub inputs: Vec<Option<TensorId>>,
    /// Results; `None` for an optional one that nobody asked for.
    pub outputs: Vec<Option<TensorId>>,
    /// Names of the nodes of the source model that this one stands for.
    pub sources: Vec<String>,
}

/// A typed graph in single-assignment form. Nodes are kept in an order in which they can run.
///
/// Types are inferred as nodes are added, so a graph that exists is typed; [`Graph::verify`] checks it from scratch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Name of the model.
    pub name: String,
    tensors: Vec<Tensor>,
    nodes: Vec<Node>,
    inputs: Vec<TensorId>,
    outputs: Vec<(String, TensorId)>,
    names: HashMap<String, TensorId>,
    node_names: HashMap<String, NodeId>,
    /// Number of symbols made so far for dimensions that depend on data.
    fresh_symbols: usize,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// All tensors, in order of their ids.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// All nodes, in an order in which they can run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Ids of all tensors.
    pub fn tensor_ids(&self) -> impl Iterator<Item = TensorId> + use<> {
        (0..self.tensors.len() as u32).map(TensorId)
    }

    /// Ids of all nodes, in an order in which they can run.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// The inputs, in the order they were declared.
    pub fn inputs(&self) -> &[TensorId] {
        &self.inputs
    }

    /// The outputs with the names under which the caller knows them, in the order they were declared.
    pub fn outputs(&self) -> &[(String, TensorId)] {
        &self.outputs
    }

    /// A tensor. Ids of another graph give a wrong tensor or a panic.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.index()]
    }

    /// A node. Ids of another graph give a wrong node or a panic.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The tensor called `name`.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        self.names.get(name).copied()
    }

    /// The node called `name`.
    pub fn find_node(&self, name: &str) -> Option<NodeId> {
        self.node_names.get(name).copied()
    }

    /// Declares an input. The name must be new.
    pub fn add_input(&mut self, name: impl Into<String>, ty: TensorType) -> Result<TensorId, GraphError> {
        // A branch of `If` may take tensors whose dimensions are data-dependent outside; its own must differ.
        self.fresh_symbols = self.fresh_symbols.max(rules::FreshSymbols::after(&ty.shape));
        let id = self.add_tensor(name.into(), ty, Origin::Input, None)?;
        self.inputs.push(id);
        Ok(id)
    }

    /// Adds a constant. The name must be new.
    pub fn add_constant(
        &mut self,
        name: impl Into<String>,
        data: TensorData,
    ) -> Result<TensorId, GraphError> {
        let value = rules::constant_value(&data);
        self.add_tensor(name.into(), data.ty(), Origin::Constant(data), value)
    }

    /// Declares an output under `name`; the same tensor may be several outputs.
    pub fn add_output(&mut self, name: impl Into<String>, tensor: TensorId) -> Result<(), GraphError> {
        let name = name.into();
        if self.outputs.iter().any(|(other, _)| *other == name) {
            return Err(GraphError::DuplicateOutput { name });
        }
        self.outputs.push((name, tensor));
        Ok(())
    }

    /// Replaces the list of outputs.
    pub fn set_outputs(&mut self, outputs: Vec<(String, TensorId)>) -> Result<(), GraphError> {
        self.outputs.clear();
        outputs.into_iter().try_for_each(|(name, tensor)| self.add_output(name, tensor))
    }

    /// Adds a node and infers the types of its results, which are called `outputs` (an empty name for one that is
    /// not wanted). An error names the node and says what was expected.
    pub fn add_node(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[Option<TensorId>],
        outputs: &[&str],
    ) -> Result<NodeId, GraphError> {
        let name = name.into();
        if self.node_names.contains_key(&name) {
            return Err(GraphError::DuplicateNode { name });
        }
        let facts = self.infer(&name, &op, inputs, outputs.len())?;
        let node = NodeId(self.nodes.len() as u32);
        let mut ids = Vec::with_capacity(outputs.len());
        for (index, (output, fact)) in outputs.iter().zip(facts).enumerate() {
            let origin = Origin::Node { node, output: index };
            let id = match *output {
                "" => None,
                output => Some(self.add_tensor(output.to_owned(), fact.ty, origin, fact.value)?),
            };
            ids.push(id);
        }
        self.node_names.insert(name.clone(), node);
        self.nodes.push(Node { name, op, inputs: inputs.to_vec(), outputs: ids, sources: Vec::new() });
        Ok(node)
    }

    /// Records which nodes of the source model a node stands for.
    pub fn set_sources(&mut self, node: NodeId, sources: Vec<String>) {
        self.nodes[node.index()].sources = sources;
    }

    /// A tensor name that is not taken yet: `base`, or `base_2`, `base_3`, ...
    pub fn fresh_name(&self, base: &str) -> String {
        first_free(base, |name| self.names.contains_key(name))
    }

    /// A node name that is not taken yet.
    pub fn fresh_node_name(&self, base: &str) -> String {
        first_free(base, |name| self.node_names.contains_key(name))
    }

    /// What is known of a tensor, for the shape rules.
    pub fn fact(&self, id: TensorId) -> Fact {
        let tensor = self.tensor(id);
        Fact { ty: tensor.ty.clone(), value: tensor.value.clone(), constant: tensor.constant().cloned() }
    }

    fn infer(
        &mut self,
        name: &str,
        op: &Op,
        inputs: &[Option<TensorId>],
        outputs: usize,
    ) -> Result<Vec<Fact>, GraphError> {
        let facts: Vec<Option<Fact>> = inputs.iter().map(|id| id.map(|id| self.fact(id))).collect();
        let mut symbols = rules::FreshSymbols::starting_at(self.fresh_symbols);
        let inferred = rules::infer(op, &facts, &mut symbols).map_err(|source| GraphError::Rule {
            node: name.to_owned(),
            op: op.mnemonic().to_owned(),
            source,
        })?;
        self.fresh_symbols = symbols.count();
        if inferred.len() < outputs {
            let most = inferred.len();
            return Err(GraphError::TooManyOutputs { node: name.to_owned(), most, asked: outputs });
        }
        Ok(inferred)
    }

    fn add_tensor(
        &mut self,
        name: String,
        ty: TensorType,
        origin: Origin,
        value: Option<Vec<Dim>>,
    ) -> Result<TensorId, GraphError> {
        if name.is_empty() {
            return Err(GraphError::EmptyName);
        }
        if self.names.contains_key(&name) {
            return Err(GraphError::DuplicateTensor { name });
        }
        let id = TensorId(self.tensors.len() as u32);
        self.names.insert(name.clone(), id);
        self.tensors.push(Tensor { name, ty, origin, value });
        Ok(id)
    }

    /// Sum of the bytes of all constants.
    pub fn constant_bytes(&self) -> usize {
        self.tensors.iter().filter_map(Tensor::constant).map(|data| data.bytes().len()).sum()
    }

    /// The plugins that its nodes use, those of branches included, each once.
    pub fn plugins(&self) -> Vec<Arc<PluginDef>> {
        fn collect(graph: &Graph, found: &mut Vec<Arc<PluginDef>>) {
            for node in &graph.nodes {
                match &node.op {
                    Op::Plugin(plugin) if !found.iter().any(|def| Arc::ptr_eq(def, plugin.def())) => {
                        found.push(plugin.def().clone());
                    }
                    Op::If { then_branch, else_branch } => {
                        collect(then_branch, found);
                        collect(else_branch, found);
                    }
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        collect(self, &mut found);
        found
    }

    /// The element type of a tensor.
    pub fn dtype(&self, id: TensorId) -> DType {
        self.tensor(id).ty.dtype
    }
}

/// `base`, or `base_2`, `base_3`, ..., whichever is not taken.
pub(crate) fn first_free(base: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(base) {
        return base.to_owned();
    }
    let mut number = 2usize;
    loop {
        let name = format!("{base}_{number}");
        if !taken(&name) {
            return name;
        }
        number += 1;
    }
}

#[cfg(test)]
#[path = "tests/verify.rs"]
mod verify_tests;
