//! What became of the residual before each layer norm. The product before it adds it in its epilogue, while its sums are in
//! registers, so that nothing is left to fuse: a step of sum and norm would read what the product wrote once more, and a
//! product that normalises would have to wait for whole rows, of which its threads make parts. The log says so, or what
//! kept the residual out of the epilogue.

use bertha_graph::{BinaryOp, Graph, NodeId, Op, TensorId};

use crate::driver::Pass;
use crate::log::NearMiss;
use crate::patch::Findings;
use crate::pattern::input;
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct ResidualLayerNorm;

const NAME: &str = "residual-layer-norm";

impl Pass for ResidualLayerNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn summary(&self) -> &'static str {
        "tells where the residual before each layer norm is added"
    }

    fn find(&self, graph: &Graph, uses: &Uses) -> Findings {
        let mut findings = Findings::default();
        for (id, node) in graph.node_ids().zip(graph.nodes()) {
            let Op::LayerNorm { .. } = node.op else { continue };
            let Some((sum, before)) = input(graph, id, 0).and_then(|x| producer(graph, x)) else { continue };
            let remark = |why: String| NearMiss { pass: NAME, node: node.name.clone(), why };
            match before.op {
                Op::Linear { .. } => {
                    let Some(residual) = input(graph, sum, 3) else { continue };
                    findings.settled.push(remark(format!(
                        "the product {} adds the residual {} in its epilogue; the norm needs whole rows",
                        before.name,
                        graph.tensor(residual).name
                    )));
                }
                Op::Binary(BinaryOp::Add) => {
                    if let Some(why) = why_apart(graph, uses, sum) {
                        findings
                            .near_misses
                            .push(remark(format!("the sum {} is a step: {why}", before.name)));
                    }
                }
                _ => {}
            }
        }
        findings
    }
}

/// Why a sum of two tensors of one shape is not in the epilogue of a product; `None` where it is no residual.
fn why_apart(graph: &Graph, uses: &Uses, add: NodeId) -> Option<&'static str> {
    let (a, b) = (input(graph, add, 0)?, input(graph, add, 1)?);
    let ty = |id: TensorId| &graph.tensor(id).ty;
    if ty(a) != ty(b) || [a, b].iter().any(|id| graph.tensor(*id).constant().is_some()) {
        return None;
    }
    let products = [a, b]
        .into_iter()
        .filter(|id| matches!(producer(graph, *id), Some((_, node)) if matches!(node.op, Op::Linear { .. })));
    let products: Vec<TensorId> = products.collect();
    Some(match products.as_slice() {
        [] => "neither operand is a product",
        _ if products.iter().all(|id| uses.only_reader(*id).is_none()) => "the product is read elsewhere too",
        _ => "the product has a residual already, or the pass that adds it was left out",
    })
}
