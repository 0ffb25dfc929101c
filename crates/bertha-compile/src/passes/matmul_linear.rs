//! `matmul(x, constant matrix) -> add(result, constant row)` becomes one linear.

use bertha_graph::{Activation, BinaryOp, DType, Graph, Node, NodeId, Op, TensorId, WeightLayout};

use crate::driver::Pass;
use crate::log::NearMiss;
use crate::patch::{Findings, NewNode, Patch, Value};
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct MatMulLinear;

const NAME: &str = "matmul-linear";

impl Pass for MatMulLinear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn summary(&self) -> &'static str {
        "a product with a weight and the bias added to it become one linear"
    }

    fn find(&self, graph: &Graph, uses: &Uses) -> Findings {
        let mut findings = Findings::default();
        for (id, node) in graph.node_ids().zip(graph.nodes()) {
            let ([Some(a), Some(b)], Op::Binary(BinaryOp::Add)) = (&node.inputs[..], &node.op) else { continue };
            for (product, bias) in [(*a, *b), (*b, *a)] {
                match try_fuse(graph, uses, (id, node), product, bias) {
                    Ok(Some(patch)) => {
                        findings.patches.push(patch);
                        break;
                    }
                    Ok(None) => {}
                    Err(why) => {
                        let node = node.name.clone();
                        findings.near_misses.push(NearMiss { pass: NAME, node, why: why.into() });
                    }
                }
            }
        }
        findings
    }
}

/// `Ok(None)` where no product with a weight is involved, `Err` where one is but a condition fails.
fn try_fuse(
    graph: &Graph,
    uses: &Uses,
    (id, node): (NodeId, &Node),
    product: TensorId,
    bias: TensorId,
) -> Result<Option<Patch>, &'static str> {
    let Some((matmul_id, matmul)) = producer(graph, product) else { return Ok(None) };
    let (Op::MatMul, [Some(x), Some(weight)]) = (&matmul.op, &matmul.inputs[..]) else { return Ok(None) };
    let Some(weight_data) = graph.tensor(*weight).constant() else { return Ok(None) };
    let ([_, columns], DType::F32) = (weight_data.shape(), weight_data.dtype()) else { return Ok(None) };
    if graph.tensor(*x).ty.shape.rank() < 2 {
        return Err("the product is with a vector");
    }
    let is_row = graph.tensor(bias).constant().is_some_and(|bias| bias.shape() == [*columns]);
    if !is_row {
        return Err("what is added is not a constant row of one value a column");
    }
    if uses.only_reader(product).is_none() {
        return Err("the product is read elsewhere too");
    }
    let Some(Some(sum)) = node.outputs.first() else { return Ok(None) };
    Ok(Some(Patch {
        removes: vec![matmul_id, id],
        nodes: vec![NewNode {
            name: matmul.name.clone(),
            op: Op::Linear { layout: WeightLayout::InOut, activation: Activation::None },
            inputs: vec![Some(Value::Old(*x)), Some(Value::Old(*weight)), Some(Value::Old(bias))],
            outputs: 1,
        }],
        replaces: vec![(*sum, Value::New { node: 0, output: 0 })],
        what: format!("{} and its bias become a linear", matmul.name),
    }))
}
