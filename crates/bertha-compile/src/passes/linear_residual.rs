//! `linear -> add(result, residual)` becomes one linear that adds the residual to its accumulators.

use bertha_graph::{BinaryOp, Graph, Node, NodeId, Op, TensorId};

use crate::driver::Pass;
use crate::log::NearMiss;
use crate::patch::{Findings, NewNode, Patch, Value};
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct LinearResidual;

const NAME: &str = "linear-residual";

impl Pass for LinearResidual {
    fn name(&self) -> &'static str {
        NAME
    }

    fn summary(&self) -> &'static str {
        "residual additions move into the epilogue of the linear before them"
    }

    fn find(&self, graph: &Graph, uses: &Uses) -> Findings {
        let mut findings = Findings::default();
        for (id, node) in graph.node_ids().zip(graph.nodes()) {
            if node.op == Op::Binary(BinaryOp::Add) {
                propose(graph, uses, id, node, &mut findings);
            }
        }
        findings
    }
}

/// Either operand may be the linear's result.
fn propose(graph: &Graph, uses: &Uses, id: NodeId, node: &Node, findings: &mut Findings) {
    let [Some(a), Some(b)] = node.inputs[..] else { return };
    let mut near_miss = None;
    for (product, residual) in [(a, b), (b, a)] {
        match try_fuse(graph, uses, (id, node), product, residual) {
            Ok(Some(patch)) => return findings.patches.push(patch),
            Ok(None) => {}
            Err(why) => near_miss = Some(NearMiss { pass: NAME, node: node.name.clone(), why: why.into() }),
        }
    }
    findings.near_misses.extend(near_miss);
}

/// `Ok(None)` where no linear is involved, `Err` where one is but a condition fails.
fn try_fuse(
    graph: &Graph,
    uses: &Uses,
    (id, node): (NodeId, &Node),
    product: TensorId,
    residual: TensorId,
) -> Result<Option<Patch>, &'static str> {
    let Some((linear_id, linear)) = producer(graph, product) else { return Ok(None) };
    let (Op::Linear { .. }, Some(Some(sum))) = (&linear.op, node.outputs.first()) else { return Ok(None) };
    if linear.inputs.get(3).copied().flatten().is_some() {
        return Err("the linear adds a residual already");
    }
    if uses.only_reader(product).is_none() {
        return Err("the linear's result is read elsewhere too");
    }
    if graph.tensor(residual).ty != graph.tensor(product).ty {
        return Err("the other operand is broadcast, not a residual of the same shape");
    }
    let mut inputs: Vec<_> = linear.inputs.iter().map(|input| input.map(Value::Old)).collect();
    inputs.resize(3, None);
    inputs.push(Some(Value::Old(residual)));
    Ok(Some(Patch {
        removes: vec![linear_id, id],
        nodes: vec![NewNode { name: linear.name.clone(), op: linear.op.clone(), inputs, outputs: 1 }],
        replaces: vec![(*sum, Value::New { node: 0, output: 0 })],
        what: format!("{} adds the residual {}", linear.name, graph.tensor(residual).name),
    }))
}
