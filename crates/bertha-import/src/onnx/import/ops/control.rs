//! Branches.

use bertha_graph::{Op, TensorId};

use super::super::context::{NodeContext, Translated};
use super::super::subgraph;

/// Whether the condition holds, when the shapes or constants of the file decide it.
fn known(node: &NodeContext, condition: TensorId) -> Option<bool> {
    let tensor = node.graph.tensor(condition);
    if let Some(data) = tensor.constant() {
        return data.as_bools().ok()?.first().copied();
    }
    Some(tensor.value.as_ref()?.first()?.as_const()? != 0)
}

/// What the branches use of the graph around them becomes their inputs.
pub(super) fn if_else(node: &mut NodeContext) -> Translated {
    let condition = node.input(0)?;
    let branches = [node.graph_attribute("then_branch")?, node.graph_attribute("else_branch")?];
    for branch in branches {
        if branch.output.len() != node.node.output.len() {
            return Err(format!(
                "branch `{}` has {} outputs, but the node has {}",
                branch.name,
                branch.output.len(),
                node.node.output.len()
            )
            .into());
        }
    }
    if let Some(condition) = known(node, condition) {
        let [then_branch, else_branch] = branches;
        return subgraph::inline(node, if condition { then_branch } else { else_branch });
    }
    let captured = subgraph::capture(node, &branches)?;
    let [then_branch, else_branch] = branches;
    let then_branch = Box::new(subgraph::translate(node, then_branch, "then", &captured)?);
    let else_branch = Box::new(subgraph::translate(node, else_branch, "else", &captured)?);
    let mut inputs = vec![Some(condition)];
    inputs.extend(captured.tensors().map(Some));
    node.emit(Op::If { then_branch, else_branch }, &inputs)
}
