//! A layer norm that alone reads an embedding sum becomes part of it: the rows are summed and normalised while they are in the
//! first-level cache (on a card, in registers), and the sum itself is never written.

use bertha_graph::{DType, Graph, NodeId, Op};

use crate::driver::Pass;
use crate::log::NearMiss;
use crate::patch::{Findings, Patch, Value};
use crate::pattern::{input, one_node, output};
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct EmbeddingLayerNorm;

const NAME: &str = "embedding-layer-norm";

impl Pass for EmbeddingLayerNorm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn summary(&self) -> &'static str {
        "embeddings are summed and normalised in one step"
    }

    fn find(&self, graph: &Graph, uses: &Uses) -> Findings {
        let mut findings = Findings::default();
        for (id, node) in graph.node_ids().zip(graph.nodes()) {
            let Op::LayerNorm { axis, epsilon } = node.op else { continue };
            let sum = input(graph, id, 0).and_then(|x| producer(graph, x));
            let Some((embedding, Op::EmbeddingSum)) = sum.map(|(id, node)| (id, &node.op)) else { continue };
            match fuse(graph, uses, (embedding, id), (axis, epsilon)) {
                Ok(patch) => findings.patches.extend(patch),
                Err(why) => findings.near_misses.push(NearMiss {
                    pass: NAME,
                    node: node.name.clone(),
                    why: why.into(),
                }),
            }
        }
        findings
    }
}

fn fuse(
    graph: &Graph,
    uses: &Uses,
    (embedding, norm): (NodeId, NodeId),
    (axis, epsilon): (i64, f32),
) -> Result<Option<Patch>, &'static str> {
    let (Some(sum), Some(result)) = (output(graph, embedding), output(graph, norm)) else { return Ok(None) };
    if uses.only_reader(sum).is_none() {
        return Err("the sum is read elsewhere too");
    }
    let ty = &graph.tensor(sum).ty;
    if axis != -1 && axis != ty.shape.rank() as i64 - 1 {
        return Err("the norm goes over several dimensions");
    }
    if graph.node(norm).outputs.iter().flatten().count() > 1 {
        return Err("the norm's statistics are read too");
    }
    let (Some(gamma), Some(beta)) = (input(graph, norm, 1), input(graph, norm, 2)) else {
        return Err("the norm has no shift");
    };
    let is_row = |id| {
        let dims = graph.tensor(id).ty.shape.dims();
        dims.len() == 1 && dims.last() == ty.shape.dims().last()
    };
    if !is_row(gamma) || !is_row(beta) || ty.dtype != DType::F32 {
        return Err("scale and shift are not one f32 for each column");
    }
    let pairs = graph.node(embedding).inputs.iter().map(|input| input.map(Value::Old));
    let inputs: Vec<Option<Value>> = pairs.chain([Some(Value::Old(gamma)), Some(Value::Old(beta))]).collect();
    let name = graph.node(norm).name.clone();
    let tables = graph.node(embedding).inputs.len() / 2;
    let what = format!(
        "the sum over {tables} table{} and the layer norm {name} become one step",
        if tables == 1 { "" } else { "s" }
    );
    let op = Op::EmbeddingLayerNorm { epsilon };
    Ok(Some(one_node(vec![embedding, norm], (name, op), inputs, result, what)))
}
