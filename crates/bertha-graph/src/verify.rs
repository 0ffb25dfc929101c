//! The verifier: everything that a graph must be, checked from scratch.

use std::collections::HashSet;
use std::sync::Arc;

use crate::dim::{Dim, is_symbol_name};
use crate::error::GraphError;
use crate::graph::{Graph, Node, NodeId, Origin, Tensor, TensorId};
use crate::op::Op;
use crate::renaming::Renaming;
use crate::rules::{self, Fact, FreshSymbols};
use crate::shape::Shape;

impl Graph {
    /// Checks the graph from scratch: ids are in range, names unique, nodes in an order in which they can run, origins
    /// and outputs consistent, constants what their types say, and every type and known content what the rules infer,
    /// up to the names of data-dependent symbols. Branches are checked too.
    ///
    /// The error names the node or tensor that is wrong.
    pub fn verify(&self) -> Result<(), GraphError> {
        for id in self.tensor_ids() {
            self.verify_tensor(id)?;
        }
        self.verify_inputs()?;
        let mut known = vec![false; self.tensors().len()];
        for id in self.tensor_ids() {
            known[id.index()] = !matches!(self.tensor(id).origin, Origin::Node { .. });
        }
        let mut types = Types::new(self);
        for (index, node) in self.nodes().iter().enumerate() {
            let id = NodeId(index as u32);
            self.verify_node(id, node, &mut known)?;
            types.verify(self, node)?;
            if let Op::If { then_branch, else_branch } = &node.op {
                for (which, branch) in [("then", then_branch), ("else", else_branch)] {
                    branch.verify().map_err(|error| {
                        invalid(node_place(node), format!("in the {which}-branch: {error}"))
                    })?;
                }
            }
        }
        self.verify_outputs(&known)
    }

    fn verify_tensor(&self, id: TensorId) -> Result<(), GraphError> {
        let tensor = self.tensor(id);
        let wrong = |what: String| Err(invalid(tensor_place(tensor), what));
        if tensor.name.is_empty() {
            return Err(GraphError::EmptyName);
        }
        match self.find(&tensor.name) {
            Some(found) if found == id => {}
            Some(_) => return Err(GraphError::DuplicateTensor { name: tensor.name.clone() }),
            None => return wrong("its name is not in the index of names".into()),
        }
        for dim in tensor.ty.shape.dims() {
            if let Some(name) = dim.symbols().iter().find(|name| !is_symbol_name(name)) {
                return wrong(format!("`{name}` cannot be the name of a symbol"));
            }
            if dim.is_unwieldy() {
                return wrong(format!("the dimension {dim} is too large a polynomial"));
            }
            if dim.as_const().is_some_and(|size| size < 0) {
                return wrong(format!("it has a negative dimension: {}", tensor.ty));
            }
        }
        match &tensor.origin {
            Origin::Input => Ok(()),
            Origin::Constant(data) => {
                if data.ty() != tensor.ty {
                    return wrong(format!(
                        "it is said to be {}, but its contents are {}",
                        tensor.ty,
                        data.ty()
                    ));
                }
                match tensor.value == rules::constant_value(data) {
                    true => Ok(()),
                    false => wrong("its known contents are not those of the constant".into()),
                }
            }
            Origin::Node { node, output } => {
                let made = self.nodes().get(node.index()).and_then(|node| node.outputs.get(*output));
                match made {
                    Some(Some(made)) if *made == id => Ok(()),
                    _ => wrong(format!(
                        "it is said to be output {output} of node {}, which is not so",
                        node.index()
                    )),
                }
            }
        }
    }

    fn verify_inputs(&self) -> Result<(), GraphError> {
        let mut listed = HashSet::new();
        for id in self.inputs() {
            let Some(tensor) = self.tensors().get(id.index()) else {
                return Err(invalid("inputs".into(), format!("there is no tensor {}", id.index())));
            };
            if tensor.origin != Origin::Input {
                return Err(invalid(
                    tensor_place(tensor),
                    "it is listed as an input, but has another origin".into(),
                ));
            }
            if !listed.insert(*id) {
                return Err(invalid(tensor_place(tensor), "it is listed as an input twice".into()));
            }
        }
        for id in self.tensor_ids() {
            let tensor = self.tensor(id);
            if tensor.origin == Origin::Input && !listed.contains(&id) {
                return Err(invalid(tensor_place(tensor), "it is an input, but is not listed as one".into()));
            }
        }
        Ok(())
    }

    /// Checks what a node refers to; `known` tells which tensors are there before it, and then after it.
    fn verify_node(&self, id: NodeId, node: &Node, known: &mut [bool]) -> Result<(), GraphError> {
        let wrong = |what: String| Err(invalid(node_place(node), what));
        match self.find_node(&node.name) {
            Some(found) if found == id => {}
            Some(_) => return Err(GraphError::DuplicateNode { name: node.name.clone() }),
            None => return wrong("its name is not in the index of names".into()),
        }
        for (index, operand) in node.inputs.iter().enumerate() {
            let Some(operand) = operand else { continue };
            match known.get(operand.index()) {
                Some(true) => {}
                Some(false) => {
                    let name = &self.tensor(*operand).name;
                    return wrong(format!("input {index} `{name}` is computed only later"));
                }
                None => return wrong(format!("input {index}: there is no tensor {}", operand.index())),
            }
        }
        for (index, output) in node.outputs.iter().enumerate() {
            let Some(output) = output else { continue };
            let Some(tensor) = self.tensors().get(output.index()) else {
                return wrong(format!("output {index}: there is no tensor {}", output.index()));
            };
            if tensor.origin != (Origin::Node { node: id, output: index }) {
                return wrong(format!("output {index}: `{}` has another origin", tensor.name));
            }
            // The text format, among others, writes tensors in the order of their ids.
            if node.inputs.iter().flatten().any(|operand| operand >= output) {
                return wrong(format!(
                    "output {index} `{}` stands before an input in the list of tensors",
                    tensor.name
                ));
            }
            if let Some(known) = known.get_mut(output.index()) {
                *known = true;
            }
        }
        Ok(())
    }

    fn verify_outputs(&self, known: &[bool]) -> Result<(), GraphError> {
        let mut names = HashSet::new();
        for (name, id) in self.outputs() {
            let place = || format!("output `{name}`");
            match known.get(id.index()) {
                Some(true) => {}
                Some(false) => return Err(invalid(place(), "it is computed nowhere".into())),
                None => return Err(invalid(place(), format!("there is no tensor {}", id.index()))),
            }
            if name.is_empty() {
                return Err(GraphError::EmptyName);
            }
            if !names.insert(name) {
                return Err(GraphError::DuplicateOutput { name: name.clone() });
            }
        }
        Ok(())
    }
}

/// Infers types anew, node by node.
struct Types {
    symbols: FreshSymbols,
    /// Data-dependent symbols of the tensors so far.
    seen: HashSet<Arc<str>>,
}

impl Types {
    fn new(graph: &Graph) -> Self {
        let next = graph.tensors().iter().map(|tensor| FreshSymbols::after(&tensor.ty.shape)).max();
        let mut seen = HashSet::new();
        for id in graph.inputs() {
            see(&mut seen, &graph.tensor(*id).ty.shape);
        }
        Types { symbols: FreshSymbols::starting_at(next.unwrap_or(0)), seen }
    }

    fn verify(&mut self, graph: &Graph, node: &Node) -> Result<(), GraphError> {
        let facts: Vec<Option<Fact>> = node.inputs.iter().map(|id| id.map(|id| graph.fact(id))).collect();
        let inferred = rules::infer(&node.op, &facts, &mut self.symbols).map_err(|source| {
            GraphError::Rule { node: node.name.clone(), op: node.op.mnemonic().to_owned(), source }
        })?;
        if inferred.len() < node.outputs.len() {
            let (most, asked) = (inferred.len(), node.outputs.len());
            return Err(GraphError::TooManyOutputs { node: node.name.clone(), most, asked });
        }
        let mut renaming = Renaming::default();
        for (id, fact) in node.outputs.iter().zip(inferred) {
            let Some(id) = *id else { continue };
            let tensor = graph.tensor(id);
            // What is fresh here must not be something that was there before.
            let matches = renaming.matches(&fact.ty, &tensor.ty)
                && renaming.changed().all(|(_, to)| !self.seen.contains(to));
            if !matches {
                let what = format!("`{}` is said to be {}, but is {}", tensor.name, tensor.ty, fact.ty);
                return Err(invalid(node_place(node), what));
            }
            let value =
                fact.value.map(|value| value.iter().map(|dim| renaming.apply(dim)).collect::<Vec<Dim>>());
            if tensor.value.is_some() && tensor.value != value {
                let what = format!("the known contents of `{}` are not what the rules infer", tensor.name);
                return Err(invalid(node_place(node), what));
            }
        }
        for id in node.outputs.iter().flatten() {
            see(&mut self.seen, &graph.tensor(*id).ty.shape);
        }
        Ok(())
    }
}

fn see(seen: &mut HashSet<Arc<str>>, shape: &Shape) {
    let symbols = shape.dims().iter().filter(|dim| !dim.is_const()).flat_map(Dim::symbols);
    seen.extend(symbols.filter(|name| name.starts_with('?')));
}

fn invalid(where_: String, what: String) -> GraphError {
    GraphError::Invalid { where_, what }
}

fn node_place(node: &Node) -> String {
    format!("node `{}` ({})", node.name, node.op.mnemonic())
}

fn tensor_place(tensor: &Tensor) -> String {
    format!("tensor `{}`", tensor.name)
}
