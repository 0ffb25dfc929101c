//! `matmul(x, constant matrix)` and `gemm`, with the constant row that is added to it, become one linear.

use bertha_graph::{Activation, BinaryOp, Graph, Node, NodeId, Op, TensorData, TensorId, WeightLayout};

use crate::driver::Pass;
use crate::log::NearMiss;
use crate::patch::{Findings, Patch, Value};
use crate::pattern::{input, is_row_of, one_node, only_read_by, output, transposed};
use crate::uses::Uses;

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
            let found = match &node.op {
                Op::MatMul => of_matmul(graph, id),
                Op::Gemm { .. } => of_gemm(graph, id),
                Op::Linear { .. } => {
                    findings.patches.extend(with_bias(graph, uses, (id, node)));
                    continue;
                }
                _ => continue,
            };
            match found {
                Ok(Some(linear)) => findings.patches.extend(linear.patch(graph, uses, (id, node))),
                Ok(None) => {}
                Err(why) => {
                    let node = node.name.clone();
                    findings.near_misses.push(NearMiss { pass: NAME, node, why: why.into() });
                }
            }
        }
        findings
    }
}

/// What a product is as a linear. The weight lies as checkpoints have it, `[out, in]`, so that a graph is the same
/// wherever it comes from, and an output embedding that is tied to the input embedding is one tensor with it.
struct Linear {
    x: TensorId,
    weight: Value,
    bias: Option<Value>,
}

impl Linear {
    /// Takes in the row that is added to the product, if that is all that is done with it.
    fn patch(self, graph: &Graph, uses: &Uses, (id, node): (NodeId, &Node)) -> Option<Patch> {
        let product = output(graph, id)?;
        let mut inputs = vec![Some(Value::Old(self.x)), Some(self.weight)];
        let added = only_read_by(graph, uses, product, BinaryOp::Add)
            .filter(|(_, row)| self.bias.is_none() && is_row_of(graph, *row, product));
        let op = Op::Linear { layout: WeightLayout::OutIn, activation: Activation::None };
        let node_and_op = (node.name.clone(), op);
        Some(match added {
            Some((add, row)) => {
                inputs.push(Some(Value::Old(row)));
                let what = format!("{} and its bias become a linear", node.name);
                one_node(vec![id, add], node_and_op, inputs, output(graph, add)?, what)
            }
            None => {
                inputs.extend(self.bias.map(Some));
                one_node(vec![id], node_and_op, inputs, product, format!("{} becomes a linear", node.name))
            }
        })
    }
}

/// The weight of a product, when it is a constant matrix that linears can have.
fn weight_of(graph: &Graph, tensor: TensorId) -> Result<Option<&TensorData>, &'static str> {
    let Some(weight) = graph.tensor(tensor).constant() else { return Ok(None) };
    match weight.shape() {
        [_, _] if weight.dtype().is_float() => Ok(Some(weight)),
        [_, _] => Err("the weight is not of a float type"),
        _ => Ok(None),
    }
}

fn out_in(graph: &Graph, tensor: TensorId, weight: &TensorData) -> Option<Value> {
    Some(Value::Constant(graph.tensor(tensor).name.clone(), transposed(weight)?))
}

/// `Ok(None)` where no product with a weight is involved, `Err` where one is but a condition fails.
fn of_matmul(graph: &Graph, id: NodeId) -> Result<Option<Linear>, &'static str> {
    let (Some(x), Some(weight)) = (input(graph, id, 0), input(graph, id, 1)) else { return Ok(None) };
    let Some(data) = weight_of(graph, weight)? else { return Ok(None) };
    if graph.tensor(x).ty.shape.rank() < 2 {
        return Err("the product is with a vector");
    }
    Ok(out_in(graph, weight, data).map(|weight| Linear { x, weight, bias: None }))
}

fn of_gemm(graph: &Graph, id: NodeId) -> Result<Option<Linear>, &'static str> {
    let Op::Gemm { alpha, beta, trans_a, trans_b } = graph.node(id).op else { return Ok(None) };
    let (Some(x), Some(weight)) = (input(graph, id, 0), input(graph, id, 1)) else { return Ok(None) };
    let Some(data) = weight_of(graph, weight)? else { return Ok(None) };
    let added = input(graph, id, 2);
    if trans_a {
        return Err("the left operand is transposed");
    }
    if alpha != 1.0 || (added.is_some() && beta != 1.0) {
        return Err("the product or the sum has a factor");
    }
    let columns = if trans_b { data.shape().first() } else { data.shape().last() };
    let bias = match added {
        None => None,
        Some(c) => {
            let row = graph.tensor(c).constant().filter(|row| Some(&row.len()) == columns);
            let row = row.filter(|row| row.shape().last() == columns);
            let row = row.and_then(|row| row.reshaped(vec![row.len()]).ok());
            let row = row.ok_or("what is added is not a constant row of one value a column")?;
            Some(Value::Constant(graph.tensor(c).name.clone(), row))
        }
    };
    let weight = if trans_b { Some(Value::Old(weight)) } else { out_in(graph, weight, data) };
    Ok(weight.map(|weight| Linear { x, weight, bias }))
}

/// A linear without a bias takes the constant row that is added to it.
fn with_bias(graph: &Graph, uses: &Uses, (id, node): (NodeId, &Node)) -> Option<Patch> {
    let Op::Linear { activation: Activation::None, .. } = node.op else { return None };
    if input(graph, id, 2).is_some() || input(graph, id, 3).is_some() {
        return None;
    }
    let product = output(graph, id)?;
    let (add, row) = only_read_by(graph, uses, product, BinaryOp::Add)?;
    if !is_row_of(graph, row, product) {
        return None;
    }
    let inputs =
        vec![input(graph, id, 0).map(Value::Old), input(graph, id, 1).map(Value::Old), Some(Value::Old(row))];
    let what = format!("{} takes its bias", node.name);
    Some(one_node(vec![id, add], (node.name.clone(), node.op.clone()), inputs, output(graph, add)?, what))
}
