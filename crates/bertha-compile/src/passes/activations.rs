//! Activations from their parts: a handful of elementwise nodes that together are GELU (either definition).
//!
//! Exporters order the factors of `x/2 * (1 + erf(x / sqrt 2))` in every way there is. Instead of listing the orders,
//! this pass takes every node that ends a chain of elementwise nodes with an `erf` or `tanh` in it, finds the one tensor
//! `x` that the chain is a function of, and compares that function with each activation at points all over the range.

use std::collections::HashMap;

use bertha_graph::interp::{self, Precision};
use bertha_graph::{DType, GeluKind, Graph, NodeId, Op, TensorData, TensorId, UnaryOp};

use crate::driver::Pass;
use crate::log::NearMiss;
use crate::patch::{Findings, Value};
use crate::pattern::{input, one_node, output, scalar};
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct Activations;

const NAME: &str = "activations";

/// The longest chain that is looked at; tanh GELU with `x^3` as products has nine nodes.
const MOST_NODES: usize = 16;

impl Pass for Activations {
    fn name(&self) -> &'static str {
        NAME
    }

    fn summary(&self) -> &'static str {
        "erf or tanh with the arithmetic around it becomes GELU"
    }

    fn find(&self, graph: &Graph, uses: &Uses) -> Findings {
        let mut findings = Findings::default();
        for id in graph.node_ids() {
            let Some(kind) = inner_function(&graph.node(id).op) else { continue };
            match gelu_around(graph, uses, id, kind) {
                Some(patch) => findings.patches.push(patch),
                // A tanh alone is an activation of its own; an erf is always part of something.
                None if kind == GeluKind::Erf => findings.near_misses.push(NearMiss {
                    pass: NAME,
                    node: graph.node(id).name.clone(),
                    why: "no chain of elementwise nodes around this erf is GELU".into(),
                }),
                None => {}
            }
        }
        findings
    }
}

fn inner_function(op: &Op) -> Option<GeluKind> {
    match op {
        Op::Unary(UnaryOp::Erf) => Some(GeluKind::Erf),
        Op::Unary(UnaryOp::Tanh) => Some(GeluKind::Tanh),
        _ => None,
    }
}

/// The GELU that this `erf` or `tanh` is the heart of.
fn gelu_around(graph: &Graph, uses: &Uses, heart: NodeId, kind: GeluKind) -> Option<crate::patch::Patch> {
    let origins = origins(graph, input(graph, heart, 0)?);
    let mut end = heart;
    for _ in 0..MOST_NODES {
        end = match &graph.node(end).op {
            // The product with `x` ends it; `x` itself may be read in several places.
            Op::Unary(_) | Op::Binary(_) => uses.only_reader(output(graph, end)?)?,
            _ => return None,
        };
        let result = output(graph, end)?;
        for x in &origins {
            if graph.tensor(*x).ty != graph.tensor(result).ty {
                continue;
            }
            let mut chain = Chain { graph, x: *x, nodes: Vec::new() };
            if chain.collect(result, 0).is_some() && chain.is(result, kind) {
                let name = graph.node(end).name.clone();
                let count = chain.nodes.len();
                let what = format!("{count} nodes become the {} of {}", label(kind), graph.tensor(*x).name);
                let inputs = vec![Some(Value::Old(*x))];
                return Some(one_node(chain.nodes, (name, Op::Gelu(kind)), inputs, result, what));
            }
        }
    }
    None
}

fn label(kind: GeluKind) -> &'static str {
    match kind {
        GeluKind::Erf => "GELU (erf)",
        GeluKind::Tanh => "GELU (tanh)",
    }
}

/// The tensors that the argument may be a function of, the nearest first.
fn origins(graph: &Graph, argument: TensorId) -> Vec<TensorId> {
    let mut origins = vec![argument];
    let mut at = 0;
    while let Some(tensor) = origins.get(at).copied() {
        at += 1;
        if origins.len() > MOST_NODES {
            break;
        }
        let Some((_, node)) = producer(graph, tensor) else { continue };
        if !matches!(node.op, Op::Unary(_) | Op::Binary(_)) {
            continue;
        }
        for operand in node.inputs.iter().flatten() {
            if graph.tensor(*operand).constant().is_none() && !origins.contains(operand) {
                origins.push(*operand);
            }
        }
    }
    origins
}

/// Elementwise nodes that lead from `x` to a result.
struct Chain<'g> {
    graph: &'g Graph,
    x: TensorId,
    /// In an order in which they can run.
    nodes: Vec<NodeId>,
}

impl Chain<'_> {
    /// Collects the nodes; `None` when something else than `x` and constant scalars goes in.
    fn collect(&mut self, tensor: TensorId, depth: usize) -> Option<()> {
        if tensor == self.x || scalar(self.graph, tensor).is_some() {
            return Some(());
        }
        let (id, node) = producer(self.graph, tensor)?;
        if self.nodes.contains(&id) {
            return Some(());
        }
        if self.nodes.len().max(depth) >= MOST_NODES || !matches!(node.op, Op::Unary(_) | Op::Binary(_)) {
            return None;
        }
        for operand in node.inputs.iter().flatten() {
            self.collect(*operand, depth + 1)?;
        }
        self.nodes.push(id);
        Some(())
    }

    /// Whether `result` is this activation of `x`.
    fn is(&self, result: TensorId, kind: GeluKind) -> bool {
        let points = sample_points();
        let Ok(x) = TensorData::from_vec(vec![points.len()], points) else { return false };
        let x = interp::Value::from_tensor(&x);
        let expected = interp::eval(&Op::Gelu(kind), &[Some(&x)], Precision::F64);
        let (Some(found), Ok(expected)) = (self.evaluate(&x, result), expected) else { return false };
        let Some(expected) = expected.first().map(interp::Value::to_f64) else { return false };
        // The constants are rounded to the graph's own type; a function that is meant to be another one differs more.
        let tolerance = match self.graph.dtype(self.x) {
            DType::F16 => 2e-3,
            DType::BF16 => 2e-2,
            _ => 1e-6,
        };
        found
            .iter()
            .zip(&expected)
            .all(|(found, expected)| (found - expected).abs() <= tolerance * expected.abs().max(1e-2))
    }

    fn evaluate(&self, x: &interp::Value, result: TensorId) -> Option<Vec<f64>> {
        let mut values: HashMap<TensorId, interp::Value> = HashMap::from([(self.x, x.clone())]);
        for id in &self.nodes {
            let node = self.graph.node(*id);
            for operand in node.inputs.iter().flatten() {
                if let Some(factor) = scalar(self.graph, *operand) {
                    // In one type, whatever the graph's own is; f64 arithmetic does not round it.
                    let factor = TensorData::scalar(factor as f32);
                    values.entry(*operand).or_insert_with(|| interp::Value::from_tensor(&factor));
                }
            }
            let operands: Vec<_> = node.inputs.iter().map(|id| id.and_then(|id| values.get(&id))).collect();
            let results = interp::eval(&node.op, &operands, Precision::F64).ok()?;
            values.insert(output(self.graph, *id)?, results.into_iter().next()?);
        }
        values.get(&result).map(interp::Value::to_f64)
    }
}

/// Points from -10 to 10, closer together near 0, where the two definitions of GELU differ most.
fn sample_points() -> Vec<f32> {
    let side = (1..=40).map(|step: u8| 10.0 * (f32::from(step) / 40.0).powi(2));
    side.clone().map(|x| -x).chain(side).chain([0.0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_points_tell_the_two_definitions_apart() {
        let points = TensorData::vector(sample_points());
        let x = interp::Value::from_tensor(&points);
        let value = |kind| interp::eval(&Op::Gelu(kind), &[Some(&x)], Precision::F64).unwrap()[0].to_f64();
        let (erf, tanh) = (value(GeluKind::Erf), value(GeluKind::Tanh));
        let widest = erf.iter().zip(&tanh).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(widest > 1e-4, "{widest}");
    }
}
