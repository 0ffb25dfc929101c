//! An `if` whose condition is known gives way to the nodes of its branch. Exporters write one where a squeeze depends on
//! a dimension that turned out to be fixed.

use std::collections::HashMap;

use bertha_graph::{Graph, NodeId, Op, Origin, TensorId};

use crate::driver::Pass;
use crate::patch::{Findings, NewNode, Patch, Value};
use crate::pattern::input;
use crate::uses::Uses;

/// See the module.
pub(super) struct InlineIf;

impl Pass for InlineIf {
    fn name(&self) -> &'static str {
        "inline-if"
    }

    fn summary(&self) -> &'static str {
        "branches whose condition is known take the place of their if"
    }

    fn find(&self, graph: &Graph, _uses: &Uses) -> Findings {
        let patches = graph.node_ids().filter_map(|id| inlined(graph, id)).collect();
        Findings { patches, ..Findings::default() }
    }
}

fn inlined(graph: &Graph, id: NodeId) -> Option<Patch> {
    let node = graph.node(id);
    let Op::If { then_branch, else_branch } = &node.op else { return None };
    let condition = graph.tensor(input(graph, id, 0)?).constant()?.as_bools().ok()?;
    let [holds] = condition[..] else { return None };
    let branch: &Graph = if holds { then_branch } else { else_branch };

    // What the tensors of the branch are outside.
    let mut values: HashMap<TensorId, Value> = HashMap::new();
    for (inner, captured) in branch.inputs().iter().zip(node.inputs.iter().skip(1)) {
        values.insert(*inner, Value::Old((*captured)?));
    }
    for tensor in branch.tensor_ids() {
        if let Origin::Constant(data) = &branch.tensor(tensor).origin {
            let name = format!("{}.{}", node.name, branch.tensor(tensor).name);
            values.insert(tensor, Value::Constant(name, data.clone()));
        }
    }
    let mut nodes = Vec::with_capacity(branch.nodes().len());
    for (index, inner) in branch.nodes().iter().enumerate() {
        let operands: Option<Vec<Option<Value>>> = inner
            .inputs
            .iter()
            .map(|operand| match operand {
                None => Some(None),
                Some(tensor) => values.get(tensor).cloned().map(Some),
            })
            .collect();
        for (output, tensor) in inner.outputs.iter().enumerate() {
            if let Some(tensor) = tensor {
                values.insert(*tensor, Value::New { node: index, output });
            }
        }
        let name = format!("{}.{}", node.name, inner.name);
        nodes.push(NewNode { name, op: inner.op.clone(), inputs: operands?, outputs: inner.outputs.len() });
    }
    let mut replaces = Vec::new();
    for (outer, (_, inner)) in node.outputs.iter().zip(branch.outputs()) {
        if let Some(outer) = outer {
            replaces.push((*outer, values.get(inner)?.clone()));
        }
    }
    let what = format!("{} always takes its {} branch", node.name, if holds { "first" } else { "second" });
    Some(Patch { removes: vec![id], nodes, replaces, what })
}
