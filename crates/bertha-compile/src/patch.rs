//! Patches: what a pass proposes, and how it is applied.

use std::collections::HashMap;

use bertha_graph::{Graph, GraphError, NodeId, Op, Origin, TensorData, TensorId};

use crate::log::NearMiss;

/// An operand of a [`NewNode`].
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A tensor of the graph as it stands.
    Old(TensorId),
    /// Output `output` of the patch's node number `node`.
    New {
        /// Index into [`Patch::nodes`], of an earlier node.
        node: usize,
        /// Which of its outputs.
        output: usize,
    },
    /// A new constant; the name is made unique.
    Constant(String, TensorData),
}

/// A node that a patch adds.
#[derive(Clone, Debug, PartialEq)]
pub struct NewNode {
    /// Wanted name; made unique.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Its operands.
    pub inputs: Vec<Option<Value>>,
    /// How many results are wanted.
    pub outputs: usize,
}

/// A proposal: these nodes go, those come, and these tensors are now computed so.
///
/// Every replaced tensor keeps its name and must keep its type. Nodes whose results nobody reads any more vanish
/// without being listed in `removes`.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// Nodes that the new ones stand for. Their source names pass on to the new nodes.
    pub removes: Vec<NodeId>,
    /// New nodes, in an order in which they can run.
    pub nodes: Vec<NewNode>,
    /// Old tensors and what they become.
    pub replaces: Vec<(TensorId, Value)>,
    /// What the nodes became, for the log.
    pub what: String,
}

/// What a pass found in one look at the graph.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Proposals. Of those that touch the same nodes only the first is applied in this round.
    pub patches: Vec<Patch>,
    /// Places where the pattern almost matched.
    pub near_misses: Vec<NearMiss>,
    /// Places where there is nothing to do, and why.
    pub settled: Vec<NearMiss>,
}

/// Names of the source nodes that `nodes` stand for; a node without any gives its own name.
pub(crate) fn sources_of(graph: &Graph, nodes: &[NodeId]) -> Vec<String> {
    let mut sources = Vec::new();
    for id in nodes {
        let node = graph.node(*id);
        if node.sources.is_empty() {
            sources.push(node.name.clone());
        } else {
            sources.extend(node.sources.iter().cloned());
        }
    }
    sources
}

/// The patches that touch no node an earlier one removes.
pub(crate) fn without_overlaps(patches: Vec<Patch>) -> Vec<Patch> {
    let mut taken = std::collections::HashSet::new();
    let mut kept = Vec::new();
    for patch in patches {
        let free = patch.removes.iter().all(|node| !taken.contains(node));
        if free {
            taken.extend(patch.removes.iter().copied());
            kept.push(patch);
        }
    }
    kept
}

/// Rebuilds `graph` with `patches` applied and without what nobody reads. Inputs stay, even unread ones.
///
/// Fails when a patch gives a tensor another type, reads what it removes, or is circular.
pub(crate) fn apply(graph: &Graph, patches: &[Patch]) -> Result<Graph, GraphError> {
    let mut rebuild = Rebuild::empty(graph, patches);
    for id in graph.inputs() {
        rebuild.input(*id)?;
    }
    rebuild.finish()
}

/// The same graph without an input that nobody reads; as it is when somebody does, or there is none of this name.
pub(crate) fn without_unread_input(graph: &Graph, name: &str) -> Result<Graph, GraphError> {
    let Some(unwanted) = graph.inputs().iter().copied().find(|id| graph.tensor(*id).name == name) else {
        return Ok(graph.clone());
    };
    let uses = crate::uses::Uses::of(graph);
    if !uses.readers(unwanted).is_empty() || uses.is_output(unwanted) {
        return Ok(graph.clone());
    }
    let mut rebuild = Rebuild::empty(graph, &[]);
    for id in graph.inputs().iter().filter(|id| **id != unwanted) {
        rebuild.input(*id)?;
    }
    rebuild.finish()
}

/// State of one rebuild: copies on demand, from the outputs back, depth first.
struct Rebuild<'a> {
    old: &'a Graph,
    patches: &'a [Patch],
    new: Graph,
    /// Which patch replaces a tensor, and with what.
    replaced: HashMap<TensorId, (usize, &'a Value)>,
    done: HashMap<TensorId, TensorId>,
    done_patch_nodes: HashMap<(usize, usize), NodeId>,
}

/// What has become of an old tensor.
enum Followed<'a> {
    /// It, or the old one that stands for it.
    Old(TensorId),
    /// A value of this patch.
    New(usize, &'a Value),
}

/// Work still to do; an explicit stack, because chains of nodes are long.
enum Job {
    Old(NodeId),
    New(usize, usize),
}

impl<'a> Rebuild<'a> {
    /// Nothing copied yet, not even inputs.
    fn empty(old: &'a Graph, patches: &'a [Patch]) -> Self {
        let mut replaced = HashMap::new();
        for (index, patch) in patches.iter().enumerate() {
            for (tensor, value) in &patch.replaces {
                replaced.insert(*tensor, (index, value));
            }
        }
        let new = Graph::new(old.name.clone());
        Rebuild { old, patches, new, replaced, done: HashMap::new(), done_patch_nodes: HashMap::new() }
    }

    fn input(&mut self, id: TensorId) -> Result<(), GraphError> {
        let tensor = self.old.tensor(id);
        self.done.insert(id, self.new.add_input(tensor.name.clone(), tensor.ty.clone())?);
        Ok(())
    }

    /// Copies what the outputs need.
    fn finish(mut self) -> Result<Graph, GraphError> {
        for (name, tensor) in self.old.outputs() {
            let id = self.tensor(*tensor)?;
            self.new.add_output(name.clone(), id)?;
        }
        Ok(self.new)
    }

    /// The new id of an old tensor, computing what it needs first.
    fn tensor(&mut self, id: TensorId) -> Result<TensorId, GraphError> {
        let mut stack: Vec<Job> = self.job_for_old(id)?.into_iter().collect();
        // Every pass over a job either finishes it or pushes one that must finish first; more pushes than nodes
        // on the stack at once means that a patch made a circle.
        let limit = self.old.nodes().len() + self.patches.iter().map(|p| p.nodes.len()).sum::<usize>() + 1;
        while let Some(job) = stack.last() {
            let missing = match job {
                Job::Old(node) => self.visit_old(*node)?,
                Job::New(patch, node) => self.visit_new(*patch, *node)?,
            };
            match missing {
                Some(job) => stack.push(job),
                None => drop(stack.pop()),
            }
            if stack.len() > limit {
                let name = self.old.tensor(id).name.clone();
                return Err(GraphError::Invalid { where_: name, what: "a patch made a circle".into() });
            }
        }
        self.resolve_old(id)
    }

    /// What an old tensor has become: another old one, or a new value of a patch. Chains of replacements are followed
    /// to their end, in a loop because they can be long.
    fn followed(&self, id: TensorId) -> Result<Followed<'a>, GraphError> {
        let mut at = id;
        for _ in 0..=self.replaced.len() {
            match self.replaced.get(&at).copied() {
                None => return Ok(Followed::Old(at)),
                Some((_, Value::Old(next))) => at = *next,
                Some((patch, value)) => return Ok(Followed::New(patch, value)),
            }
        }
        let where_ = self.old.tensor(id).name.clone();
        Err(GraphError::Invalid { where_, what: "patches made a circle".into() })
    }

    /// The job that must run before an old tensor exists in the new graph.
    fn job_for_old(&mut self, id: TensorId) -> Result<Option<Job>, GraphError> {
        if self.done.contains_key(&id) {
            return Ok(None);
        }
        let id = match self.followed(id)? {
            Followed::New(patch, value) => return self.job_for_value(patch, value),
            Followed::Old(id) if self.done.contains_key(&id) => return Ok(None),
            Followed::Old(id) => id,
        };
        let tensor = self.old.tensor(id);
        match &tensor.origin {
            Origin::Node { node, .. } => Ok(Some(Job::Old(*node))),
            Origin::Constant(data) => {
                let name = self.new.fresh_name(&tensor.name);
                let new = self.new.add_constant(name, data.clone())?;
                self.done.insert(id, new);
                Ok(None)
            }
            Origin::Input => Ok(None),
        }
    }

    fn job_for_value(&mut self, patch: usize, value: &Value) -> Result<Option<Job>, GraphError> {
        match value {
            Value::Old(id) => self.job_for_old(*id),
            Value::Constant(..) => Ok(None),
            Value::New { node, .. } => {
                Ok((!self.done_patch_nodes.contains_key(&(patch, *node))).then_some(Job::New(patch, *node)))
            }
        }
    }

    fn resolve_old(&mut self, id: TensorId) -> Result<TensorId, GraphError> {
        if let Some(new) = self.done.get(&id) {
            return Ok(*new);
        }
        let invalid = |what: String| GraphError::Invalid { where_: self.old.tensor(id).name.clone(), what };
        let new = match self.followed(id)? {
            Followed::New(patch, value) => self.resolve_value(patch, value)?,
            Followed::Old(last) => match self.done.get(&last) {
                Some(new) => *new,
                None => return Err(invalid("read, but nothing computes it any more".into())),
            },
        };
        let (before, after) = (&self.old.tensor(id).ty, &self.new.tensor(new).ty);
        if before.dtype != after.dtype || before.shape.rank() != after.shape.rank() {
            let patch = self.replaced.get(&id).map(|(patch, _)| self.patches[*patch].what.as_str());
            let what = format!("the patch `{}` turns {before} into {after}", patch.unwrap_or_default());
            return Err(GraphError::Invalid { where_: self.old.tensor(id).name.clone(), what });
        }
        self.done.insert(id, new);
        Ok(new)
    }

    fn resolve_value(&mut self, patch: usize, value: &Value) -> Result<TensorId, GraphError> {
        match value {
            Value::Old(id) => self.resolve_old(*id),
            Value::Constant(name, data) => {
                let name = self.new.fresh_name(name);
                self.new.add_constant(name, data.clone())
            }
            Value::New { node, output } => {
                let missing = || GraphError::Invalid {
                    where_: self.patches[patch].what.clone(),
                    what: format!("the patch has no output {output} of node {node}"),
                };
                let id = self.done_patch_nodes.get(&(patch, *node)).ok_or_else(missing)?;
                self.new.node(*id).outputs.get(*output).copied().flatten().ok_or_else(missing)
            }
        }
    }

    /// Copies an old node, or says what must run first.
    fn visit_old(&mut self, id: NodeId) -> Result<Option<Job>, GraphError> {
        let node = self.old.node(id);
        if node.outputs.iter().flatten().any(|output| self.done.contains_key(output)) {
            return Ok(None);
        }
        for input in node.inputs.iter().flatten() {
            if let Some(job) = self.job_for_old(*input)? {
                return Ok(Some(job));
            }
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for input in &node.inputs {
            inputs.push(input.map(|id| self.resolve_old(id)).transpose()?);
        }
        let names: Vec<String> = node
            .outputs
            .iter()
            .map(|output| output.map_or(String::new(), |id| self.new.fresh_name(&self.old.tensor(id).name)))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let name = self.new.fresh_node_name(&node.name);
        let new = self.new.add_node(name, node.op.clone(), &inputs, &names)?;
        self.new.set_sources(new, node.sources.clone());
        let results: Vec<_> = self.new.node(new).outputs.clone();
        for (old, new) in node.outputs.iter().zip(results) {
            if let (Some(old), Some(new)) = (old, new)
                && !self.replaced.contains_key(old)
            {
                self.done.insert(*old, new);
            }
        }
        Ok(None)
    }

    /// Adds a patch's node, or says what must run first.
    fn visit_new(&mut self, patch: usize, index: usize) -> Result<Option<Job>, GraphError> {
        if self.done_patch_nodes.contains_key(&(patch, index)) {
            return Ok(None);
        }
        let proposal = &self.patches[patch];
        let Some(node) = proposal.nodes.get(index) else {
            let what = format!("the patch has no node {index}");
            return Err(GraphError::Invalid { where_: proposal.what.clone(), what });
        };
        for value in node.inputs.iter().flatten() {
            if let Some(job) = self.job_for_value(patch, value)? {
                return Ok(Some(job));
            }
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for value in &node.inputs {
            inputs.push(match value {
                Some(value) => Some(self.resolve_value(patch, value)?),
                None => None,
            });
        }
        let names: Vec<String> =
            (0..node.outputs).map(|output| self.result_name(patch, index, output)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let name = self.new.fresh_node_name(&node.name);
        let id = self.new.add_node(name, node.op.clone(), &inputs, &names)?;
        self.new.set_sources(id, sources_of(self.old, &proposal.removes));
        self.done_patch_nodes.insert((patch, index), id);
        Ok(None)
    }

    /// A result that replaces an old tensor takes over its name.
    fn result_name(&self, patch: usize, node: usize, output: usize) -> String {
        let proposal = &self.patches[patch];
        let replaced = proposal.replaces.iter().find(|(_, value)| *value == Value::New { node, output });
        match replaced {
            Some((old, _)) => self.new.fresh_name(&self.old.tensor(*old).name),
            None => self.new.fresh_name(&format!("{}.{output}", proposal.nodes[node].name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use bertha_graph::{BinaryOp, DType, Op, TensorType, UnaryOp, shape};

    use super::*;

    /// `x`, then `count` nodes each reading the one before, then the output.
    fn chain(count: usize) -> Graph {
        let mut graph = Graph::new("chain");
        let mut last = graph.add_input("x", TensorType::new(DType::F32, shape!["n"])).unwrap();
        for index in 0..count {
            let (name, result) = (format!("node{index}"), format!("t{index}"));
            let node = graph
                .add_node(name, Op::Unary(UnaryOp::Identity), &[Some(last)], &[result.as_str()])
                .unwrap();
            last = graph.node(node).outputs[0].unwrap();
        }
        graph.add_output("y", last).unwrap();
        graph
    }

    fn forward(graph: &Graph, index: usize, to: &str) -> Patch {
        let id = graph.find_node(&format!("node{index}")).unwrap();
        let from = graph.node(id).outputs[0].unwrap();
        let to = Value::Old(graph.find(to).unwrap());
        Patch { removes: vec![id], nodes: Vec::new(), replaces: vec![(from, to)], what: "forward".into() }
    }

    #[test]
    fn long_chains_of_replacements_are_followed_to_their_end() {
        let graph = chain(100_000);
        let patches: Vec<Patch> = (0..100_000)
            .map(|index| {
                let to = if index == 0 { "x".to_owned() } else { format!("t{}", index - 1) };
                forward(&graph, index, &to)
            })
            .collect();
        let after = apply(&graph, &patches).unwrap();
        assert!(after.nodes().is_empty());
        assert_eq!(after.outputs()[0].1, after.inputs()[0]);
    }

    #[test]
    fn circles_and_wrong_types_are_errors() {
        let graph = chain(3);
        let circle = [forward(&graph, 0, "t1"), forward(&graph, 1, "t0")];
        assert!(apply(&graph, &circle).unwrap_err().to_string().contains("circle"));
        let node = graph.find_node("node1").unwrap();
        let equal = NewNode {
            name: "equal".into(),
            op: Op::Binary(BinaryOp::Equal),
            inputs: vec![Some(Value::Old(graph.inputs()[0])); 2],
            outputs: 1,
        };
        let wrong = Patch {
            removes: vec![node],
            nodes: vec![equal],
            replaces: vec![(graph.node(node).outputs[0].unwrap(), Value::New { node: 0, output: 0 })],
            what: "a comparison".into(),
        };
        assert!(apply(&graph, &[wrong]).unwrap_err().to_string().contains("a comparison"));
    }

    #[test]
    fn only_unread_inputs_go() {
        let mut graph = chain(1);
        graph.add_input("unread", TensorType::new(DType::I32, shape!["n"])).unwrap();
        assert_eq!(without_unread_input(&graph, "unread").unwrap().inputs().len(), 1);
        assert_eq!(without_unread_input(&graph, "x").unwrap().inputs().len(), 2);
        assert_eq!(without_unread_input(&graph, "none").unwrap().inputs().len(), 2);
    }
}
