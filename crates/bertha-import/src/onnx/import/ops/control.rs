//! Branches.

use bertha_graph::Op;

use super::super::context::{NodeContext, Translated};
use super::super::subgraph;

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
    let captured = subgraph::capture(node, &branches)?;
    let [then_branch, else_branch] = branches;
    let then_branch = Box::new(subgraph::translate(node, then_branch, "then", &captured)?);
    let else_branch = Box::new(subgraph::translate(node, else_branch, "else", &captured)?);
    let mut inputs = vec![Some(condition)];
    inputs.extend(captured.tensors().map(Some));
    node.emit(Op::If { then_branch, else_branch }, &inputs)
}
