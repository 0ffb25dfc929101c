//! ONNX's own operator cases and whole exported models, every node run by the generic kernels.

use std::collections::HashMap;

use bertha_cpu::generic::{Scratch, TensorMut, TensorRef, execute};
use bertha_graph::interp::{Precision, Value, eval};
use bertha_graph::{Model, Node, Op, Origin, TensorData};

#[path = "../../../tests/onnx/harness.rs"]
mod harness;

/// Runs a graph node by node. The interpreter works out the shapes, and the branches of `If`.
fn generic(model: &Model, inputs: &[(&str, TensorData)]) -> Result<harness::Outputs, String> {
    let graph = &model.graph;
    let mut scratch = Scratch::new();
    let mut values = HashMap::new();
    for id in graph.tensor_ids() {
        let tensor = graph.tensor(id);
        let given = match &tensor.origin {
            Origin::Constant(data) => Some(data),
            Origin::Input => inputs.iter().find(|(name, _)| *name == tensor.name).map(|(_, data)| data),
            Origin::Node { .. } => None,
        };
        values.extend(given.map(|data| (id, data.clone())));
    }
    for node in graph.nodes() {
        let operands: Vec<Option<&TensorData>> =
            node.inputs.iter().map(|id| id.and_then(|id| values.get(&id))).collect();
        let results =
            run_node(node, &operands, &mut scratch).map_err(|why| format!("node `{}`: {why}", node.name))?;
        for (id, result) in node.outputs.iter().zip(results) {
            values.extend(id.map(|id| (id, result)));
        }
    }
    let outputs = graph.outputs().iter().map(|(name, id)| {
        let value = values.get(id).ok_or_else(|| format!("output `{name}` was not computed"))?;
        Ok((name.clone(), value.clone()))
    });
    outputs.collect()
}

fn run_node(
    node: &Node,
    operands: &[Option<&TensorData>],
    scratch: &mut Scratch,
) -> Result<Vec<TensorData>, String> {
    let held: Vec<Option<Value>> = operands.iter().map(|data| data.map(Value::from_tensor)).collect();
    let held: Vec<Option<&Value>> = held.iter().map(Option::as_ref).collect();
    let expected = eval(&node.op, &held, Precision::Native).map_err(|error| error.to_string())?;
    if matches!(node.op, Op::If { .. }) {
        return Ok(expected.iter().map(Value::to_tensor).collect());
    }
    let mut buffers: Vec<Vec<u64>> = expected
        .iter()
        .map(|value| vec![u64::MAX; (value.len() * value.dtype().size()).div_ceil(8)])
        .collect();
    let mut outputs: Vec<Option<TensorMut>> = buffers
        .iter_mut()
        .zip(&expected)
        .map(|(buffer, value)| {
            let len = value.len() * value.dtype().size();
            let bytes = &mut bytemuck::cast_slice_mut(buffer)[..len];
            Some(TensorMut { dtype: value.dtype(), shape: value.shape(), bytes })
        })
        .collect();
    let refs: Vec<Option<TensorRef>> = operands
        .iter()
        .map(|data| data.map(|x| TensorRef { dtype: x.dtype(), shape: x.shape(), bytes: x.bytes() }))
        .collect();
    execute(&node.op, &refs, &mut outputs, scratch).map_err(|error| error.to_string())?;
    let results = outputs.into_iter().flatten().map(|output| {
        let bytes = output.bytes.to_vec().into();
        TensorData::from_bytes(output.dtype, output.shape.to_vec(), bytes).map_err(|error| error.to_string())
    });
    results.collect()
}

#[test]
fn operator_cases() {
    for (list, least) in [("conformance.json", 500), ("forms.json", 50), ("contrib.json", 50)] {
        let Some(folder) = harness::cases(list) else { continue };
        let report = harness::run_conformance(&folder, list, &generic);
        println!("{}", report.table());
        assert!(report.passed >= least, "only {} cases of {list} passed", report.passed);
        assert!(report.failed.is_empty(), "{} cases of {list} failed", report.failed.len());
    }
}

#[test]
fn whole_models() {
    for (folder, list) in harness::model_lists() {
        let report = harness::run_models(&folder, list, &generic);
        println!("{}", report.table());
        assert!(report.passed > 0);
        assert!(report.failed.is_empty(), "{} cases failed", report.failed.len());
    }
}
