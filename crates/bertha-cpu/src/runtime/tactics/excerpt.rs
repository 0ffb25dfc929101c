//! A part of a graph that can run by itself.

use std::collections::{HashMap, HashSet};

use bertha_graph::{DType, Graph, GraphError, NodeId, Origin, SplitMix64, TensorData, TensorId};

/// Some nodes of a graph with concrete shapes, and values for whatever they read.
pub(super) struct Excerpt {
    pub(super) graph: Graph,
    /// In the order of the graph's inputs.
    pub(super) inputs: Vec<TensorData>,
}

impl Excerpt {
    /// The nodes in `keep`, of a graph whose shapes are all numbers. Floats that other nodes make become inputs of random
    /// values; what else the nodes read comes along with the nodes that make it. `given` are the graph's own inputs by name.
    pub(super) fn of(
        graph: &Graph,
        keep: &[NodeId],
        given: &[(&str, &TensorData)],
    ) -> Result<Excerpt, GraphError> {
        let needed = with_producers(graph, keep);
        let mut excerpt = Excerpt { graph: Graph::new(graph.name.clone()), inputs: Vec::new() };
        let mut ids: HashMap<TensorId, TensorId> = HashMap::new();
        let mut random = SplitMix64::new(0);
        for (id, node) in graph.node_ids().zip(graph.nodes()) {
            if !needed.contains(&id) {
                continue;
            }
            for input in node.inputs.iter().flatten() {
                if !ids.contains_key(input) {
                    let new = excerpt.take_in(graph, *input, given, &mut random)?;
                    ids.insert(*input, new);
                }
            }
            let inputs: Vec<Option<TensorId>> =
                node.inputs.iter().map(|input| input.and_then(|id| ids.get(&id).copied())).collect();
            let names = node.outputs.iter().map(|output| output.map_or("", |id| &graph.tensor(id).name));
            let names: Vec<&str> = names.collect();
            let new = excerpt.graph.add_node(node.name.clone(), node.op.clone(), &inputs, &names)?;
            let results = excerpt.graph.node(new).outputs.clone();
            for (old, new) in node.outputs.iter().zip(results) {
                ids.extend(old.zip(new));
            }
        }
        excerpt.declare_outputs()?;
        Ok(excerpt)
    }

    /// Adds a tensor that no node of the excerpt makes.
    fn take_in(
        &mut self,
        graph: &Graph,
        id: TensorId,
        given: &[(&str, &TensorData)],
        random: &mut SplitMix64,
    ) -> Result<TensorId, GraphError> {
        let tensor = graph.tensor(id);
        if let Some(data) = tensor.constant() {
            return self.graph.add_constant(tensor.name.clone(), data.clone());
        }
        let data = match given.iter().find(|(name, _)| *name == tensor.name) {
            Some((_, data)) => (*data).clone(),
            None => random_values(graph, id, random)?,
        };
        self.inputs.push(data);
        self.graph.add_input(tensor.name.clone(), tensor.ty.clone())
    }

    /// What no node of the excerpt reads is an output, so that everything is needed.
    fn declare_outputs(&mut self) -> Result<(), GraphError> {
        let read: HashSet<TensorId> =
            self.graph.nodes().iter().flat_map(|node| node.inputs.iter().flatten().copied()).collect();
        let made = self.graph.nodes().iter().flat_map(|node| node.outputs.iter().flatten().copied());
        let unread: Vec<TensorId> = made.filter(|id| !read.contains(id)).collect();
        for id in unread {
            let name = self.graph.tensor(id).name.clone();
            self.graph.add_output(name, id)?;
        }
        Ok(())
    }
}

/// The nodes, and those that make what they read where random values will not do.
fn with_producers(graph: &Graph, keep: &[NodeId]) -> HashSet<NodeId> {
    let mut needed: HashSet<NodeId> = keep.iter().copied().collect();
    let mut open: Vec<NodeId> = keep.to_vec();
    while let Some(node) = open.pop() {
        for input in graph.node(node).inputs.iter().flatten() {
            let tensor = graph.tensor(*input);
            let replaceable = tensor.ty.dtype == DType::F32 && tensor.ty.shape.as_const().is_some();
            if let (Origin::Node { node, .. }, false) = (&tensor.origin, replaceable)
                && needed.insert(*node)
            {
                open.push(*node);
            }
        }
    }
    needed
}

/// Values between -1 and 1.
fn random_values(graph: &Graph, id: TensorId, random: &mut SplitMix64) -> Result<TensorData, GraphError> {
    let tensor = graph.tensor(id);
    let unknown = || GraphError::Invalid {
        where_: format!("tensor `{}`", tensor.name),
        what: format!("no random values are known for {}", tensor.ty),
    };
    let shape = tensor.ty.shape.as_const().filter(|_| tensor.ty.dtype == DType::F32).ok_or_else(unknown)?;
    let count =
        shape.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim)).ok_or_else(unknown)?;
    let values: Vec<f32> = (0..count).map(|_| (random.unit() * 2.0 - 1.0) as f32).collect();
    TensorData::from_vec(shape, values).map_err(|_| unknown())
}
