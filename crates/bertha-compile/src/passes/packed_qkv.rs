//! Queries, keys and values come out of one product instead of three, and attention reads them side by side.

use bertha_graph::{Activation, Graph, NodeId, Op, TensorData, TensorId, WeightLayout};

use crate::driver::Pass;
use crate::log::NearMiss;
use crate::patch::{Findings, NewNode, Patch, Value};
use crate::pattern::{input, output};
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct PackedQkv;

const NAME: &str = "packed-qkv";

impl Pass for PackedQkv {
    fn name(&self) -> &'static str {
        NAME
    }

    fn summary(&self) -> &'static str {
        "the linears of queries, keys and values become one"
    }

    fn find(&self, graph: &Graph, uses: &Uses) -> Findings {
        let mut findings = Findings::default();
        for (id, node) in graph.node_ids().zip(graph.nodes()) {
            // Without keys it is packed already.
            if !matches!(node.op, Op::RaggedAttention { .. }) || input(graph, id, 1).is_none() {
                continue;
            }
            match packed(graph, uses, id) {
                Ok(patch) => findings.patches.push(patch),
                Err(why) => {
                    let node = node.name.clone();
                    findings.near_misses.push(NearMiss { pass: NAME, node, why: why.into() });
                }
            }
        }
        findings
    }
}

/// A linear that gives one of the three.
struct Part<'g> {
    node: NodeId,
    x: TensorId,
    weight: &'g TensorData,
    bias: Option<&'g TensorData>,
}

fn part<'g>(graph: &'g Graph, uses: &Uses, tensor: TensorId) -> Result<Part<'g>, &'static str> {
    let (node, linear) = producer(graph, tensor).ok_or("an operand is no linear's result")?;
    let Op::Linear { layout: WeightLayout::OutIn, activation: Activation::None } = linear.op else {
        return Err("an operand is no plain linear's result with a weight [out, in]");
    };
    if input(graph, node, 3).is_some() {
        return Err("an operand has a residual added");
    }
    if uses.only_reader(tensor).is_none() {
        return Err("an operand is read elsewhere too");
    }
    let constant = |index: usize| input(graph, node, index).map(|id| graph.tensor(id).constant());
    let weight = constant(1).flatten().ok_or("a weight is no constant")?;
    let bias = match constant(2) {
        None => None,
        Some(None) => return Err("a bias is no constant"),
        Some(bias) => bias,
    };
    let x = input(graph, node, 0).ok_or("a linear lacks its operand")?;
    Ok(Part { node, x, weight, bias })
}

fn packed(graph: &Graph, uses: &Uses, id: NodeId) -> Result<Patch, &'static str> {
    let node = graph.node(id);
    let operand = |index| input(graph, id, index).ok_or("an operand is missing");
    let parts =
        [part(graph, uses, operand(0)?)?, part(graph, uses, operand(1)?)?, part(graph, uses, operand(2)?)?];
    let [first, ..] = &parts;
    if parts.iter().any(|part| part.x != first.x || part.weight.shape() != first.weight.shape()) {
        return Err("the three linears read different tensors or have different sizes");
    }
    let weight =
        stacked(&parts.each_ref().map(|part| Some(part.weight))).ok_or("the weights have different types")?;
    let name = format!("{}.qkv", node.name);
    let mut inputs = vec![Some(Value::Old(first.x)), Some(Value::Constant(format!("{name}.weight"), weight))];
    if parts.iter().any(|part| part.bias.is_some()) {
        let bias = stacked(&parts.each_ref().map(|part| part.bias))
            .ok_or("the biases have different types or sizes")?;
        inputs.push(Some(Value::Constant(format!("{name}.bias"), bias)));
    }
    let linear = NewNode {
        name,
        op: Op::Linear { layout: WeightLayout::OutIn, activation: Activation::None },
        inputs,
        outputs: 1,
    };
    let mut inputs = vec![Some(Value::New { node: 0, output: 0 }), None, None];
    inputs.extend(node.inputs.iter().skip(3).map(|input| input.map(Value::Old)));
    let attention = NewNode { name: node.name.clone(), op: node.op.clone(), inputs, outputs: 1 };
    let result = output(graph, id).ok_or("nobody reads its result")?;
    let [q, k, v] = parts.each_ref().map(|part| part.node);
    Ok(Patch {
        removes: vec![q, k, v, id],
        nodes: vec![linear, attention],
        replaces: vec![(result, Value::New { node: 1, output: 0 })],
        what: format!("one product gives queries, keys and values of {}", node.name),
    })
}

/// The rows of all parts one after another; an absent bias is zeros.
fn stacked(parts: &[Option<&TensorData>; 3]) -> Option<TensorData> {
    let present = parts.iter().flatten().next()?;
    let ty = (present.dtype(), present.shape());
    if parts.iter().flatten().any(|part| (part.dtype(), part.shape()) != ty) {
        return None;
    }
    let zeros = vec![0u8; present.bytes().len()];
    let bytes: Vec<&[u8]> =
        parts.iter().map(|part| part.map_or(zeros.as_slice(), |part| part.bytes().as_ref())).collect();
    let mut shape = present.shape().to_vec();
    *shape.first_mut()? *= parts.len();
    TensorData::from_bytes(present.dtype(), shape, bytes.concat().into()).ok()
}
