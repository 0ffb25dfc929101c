//! `linear -> gelu | relu | tanh` becomes one linear that applies the activation to its accumulators.

use bertha_graph::{Activation, BinaryOp, GeluKind, Graph, Node, NodeId, Op, UnaryOp};

use crate::driver::Pass;
use crate::log::NearMiss;
use crate::patch::{Findings, NewNode, Patch, Value};
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct LinearActivation;

const NAME: &str = "linear-activation";

impl Pass for LinearActivation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn summary(&self) -> &'static str {
        "activations move into the epilogue of the linear before them"
    }

    fn find(&self, graph: &Graph, uses: &Uses) -> Findings {
        let mut findings = Findings::default();
        for (id, node) in graph.node_ids().zip(graph.nodes()) {
            if let Some(activation) = activation_of(&node.op) {
                propose(graph, uses, (id, node), activation, &mut findings);
            }
            if node.op == Op::Binary(BinaryOp::Mul) {
                findings.patches.extend(silu(graph, uses, (id, node)));
            }
        }
        findings
    }
}

fn activation_of(op: &Op) -> Option<Activation> {
    match op {
        Op::Gelu(GeluKind::Erf) => Some(Activation::GeluErf),
        Op::Gelu(GeluKind::Tanh) => Some(Activation::GeluTanh),
        Op::Unary(UnaryOp::Relu) => Some(Activation::Relu),
        Op::Unary(UnaryOp::Tanh) => Some(Activation::Tanh),
        _ => None,
    }
}

fn propose(
    graph: &Graph,
    uses: &Uses,
    (id, node): (NodeId, &Node),
    activation: Activation,
    findings: &mut Findings,
) {
    let (Some(Some(x)), Some(Some(y))) = (node.inputs.first(), node.outputs.first()) else { return };
    let Some((linear_id, linear)) = producer(graph, *x) else { return };
    let Op::Linear { layout, activation: before } = linear.op else { return };
    let why = if uses.only_reader(*x).is_none() {
        Some("the linear's result is read elsewhere too")
    } else if before != Activation::None {
        Some("the linear has an activation already")
    } else if linear.inputs.get(3).copied().flatten().is_some() {
        Some("the linear adds a residual before the activation")
    } else {
        None
    };
    if let Some(why) = why {
        findings.near_misses.push(NearMiss { pass: NAME, node: node.name.clone(), why: why.into() });
        return;
    }
    findings.patches.push(Patch {
        removes: vec![linear_id, id],
        nodes: vec![NewNode {
            name: linear.name.clone(),
            op: Op::Linear { layout, activation },
            inputs: linear.inputs.iter().map(|input| input.map(Value::Old)).collect(),
            outputs: 1,
        }],
        replaces: vec![(*y, Value::New { node: 0, output: 0 })],
        what: format!("{} takes {} as its epilogue", linear.name, node.op.mnemonic()),
    });
}

/// `x * sigmoid(x)` of a linear's result that nobody else reads.
fn silu(graph: &Graph, uses: &Uses, (id, node): (NodeId, &Node)) -> Option<Patch> {
    let [Some(a), Some(b)] = node.inputs[..] else { return None };
    let (x, sigmoid_id) = [(a, b), (b, a)].into_iter().find_map(|(x, gate)| {
        let (sigmoid_id, sigmoid) = producer(graph, gate)?;
        let of_x = sigmoid.op == Op::Unary(UnaryOp::Sigmoid) && sigmoid.inputs.first() == Some(&Some(x));
        (of_x && uses.only_reader(gate).is_some()).then_some((x, sigmoid_id))
    })?;
    let (linear_id, linear) = producer(graph, x)?;
    let Op::Linear { layout, activation: Activation::None } = linear.op else { return None };
    let has_residual = linear.inputs.get(3).copied().flatten().is_some();
    if has_residual || uses.is_output(x) || uses.readers(x).len() != 2 {
        return None;
    }
    Some(Patch {
        removes: vec![linear_id, sigmoid_id, id],
        nodes: vec![NewNode {
            name: linear.name.clone(),
            op: Op::Linear { layout, activation: Activation::Silu },
            inputs: linear.inputs.iter().map(|input| input.map(Value::Old)).collect(),
            outputs: 1,
        }],
        replaces: vec![(node.outputs.first().copied().flatten()?, Value::New { node: 0, output: 0 })],
        what: format!("{} takes silu as its epilogue", linear.name),
    })
}
