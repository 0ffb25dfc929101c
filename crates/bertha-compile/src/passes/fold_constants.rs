//! Nodes that read nothing but constants, and tensors whose contents follow from the rules, become constants.

use bertha_graph::interp::{self, Precision};
use bertha_graph::{DType, Element, Graph, Node, NodeId, Op, TensorData, TensorId};

use crate::driver::Pass;
use crate::log::NearMiss;
use crate::patch::{Findings, Patch, Value};
use crate::pattern::transposed;
use crate::uses::Uses;

/// See the module.
pub(super) struct FoldConstants;

const NAME: &str = "fold-constants";

/// Results up to this size may be larger than what they are made of. A weight is never made larger by broadcasting.
const SMALL: usize = 16 << 10;

/// Elements that the reference interpreter, which is slow, is asked to work on.
const MOST_ELEMENTS: usize = 1 << 22;

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        NAME
    }

    fn summary(&self) -> &'static str {
        "what depends on no input becomes a constant, shapes that the rules know included"
    }

    /// One patch for all of them: shape arithmetic is hundreds of nodes that nobody wants to read about.
    fn find(&self, graph: &Graph, _uses: &Uses) -> Findings {
        let mut findings = Findings::default();
        let mut removes = Vec::new();
        let mut replaces = Vec::new();
        for (id, node) in graph.node_ids().zip(graph.nodes()) {
            match fold(graph, node) {
                Ok(constants) if !constants.is_empty() => {
                    removes.push(id);
                    replaces.extend(constants.into_iter().map(|(tensor, data)| {
                        (tensor, Value::Constant(graph.tensor(tensor).name.clone(), data))
                    }));
                }
                Ok(_) => {}
                Err(why) => findings.near_misses.push(NearMiss { pass: NAME, node: node.name.clone(), why }),
            }
        }
        if !removes.is_empty() {
            let what = summary(graph, &removes);
            findings.patches.push(Patch { removes, nodes: Vec::new(), replaces, what });
        }
        findings
    }
}

fn summary(graph: &Graph, nodes: &[NodeId]) -> String {
    match nodes {
        [node] => format!("{} becomes a constant", graph.node(*node).name),
        _ => format!("{} nodes become constants", nodes.len()),
    }
}

/// The node's results as constants; none when they depend on the inputs.
fn fold(graph: &Graph, node: &Node) -> Result<Vec<(TensorId, TensorData)>, String> {
    let outputs: Vec<TensorId> = node.outputs.iter().copied().flatten().collect();
    let known: Option<Vec<_>> = outputs.iter().map(|id| Some((*id, known_contents(graph, *id)?))).collect();
    if let Some(known) = known {
        return Ok(known);
    }
    let constants: Option<Vec<Option<&TensorData>>> = node
        .inputs
        .iter()
        .map(|input| match input {
            None => Some(None),
            Some(id) => graph.tensor(*id).constant().map(Some),
        })
        .collect();
    let Some(constants) = constants else { return Ok(Vec::new()) };
    match &node.op {
        // Quantised weights stay quantised, and a plugin has no reference.
        Op::DequantizeLinear { .. } | Op::Plugin(_) => return Ok(Vec::new()),
        Op::Transpose { perm } if perm == &[1, 0] => {
            let data = constants.first().copied().flatten().and_then(transposed);
            return Ok(outputs.first().copied().zip(data).into_iter().collect());
        }
        _ => {}
    }
    within_bounds(graph, node, &constants)?;
    let values: Vec<_> = constants.iter().map(|data| data.map(interp::Value::from_tensor)).collect();
    let operands: Vec<_> = values.iter().map(Option::as_ref).collect();
    let results = interp::eval(&node.op, &operands, Precision::Native).map_err(|error| error.to_string())?;
    let results = node.outputs.iter().zip(results);
    Ok(results.filter_map(|(output, value)| output.map(|id| (id, value.to_tensor()))).collect())
}

/// The contents that the shape rules found, when no symbol occurs in them.
fn known_contents(graph: &Graph, tensor: TensorId) -> Option<TensorData> {
    let tensor = graph.tensor(tensor);
    let shape = tensor.ty.shape.as_const()?;
    let values: Option<Vec<i64>> = tensor.value.as_ref()?.iter().map(|dim| dim.as_const()).collect();
    integers(tensor.ty.dtype, shape, &values?)
}

fn integers(dtype: DType, shape: Vec<usize>, values: &[i64]) -> Option<TensorData> {
    fn cast<T: Element + TryFrom<i64>>(shape: Vec<usize>, values: &[i64]) -> Option<TensorData> {
        let values: Option<Vec<T>> = values.iter().map(|v| T::try_from(*v).ok()).collect();
        TensorData::from_vec(shape, values?).ok()
    }
    match dtype {
        DType::I64 => cast::<i64>(shape, values),
        DType::I32 => cast::<i32>(shape, values),
        DType::I16 => cast::<i16>(shape, values),
        DType::I8 => cast::<i8>(shape, values),
        DType::U64 => cast::<u64>(shape, values),
        DType::U32 => cast::<u32>(shape, values),
        DType::U16 => cast::<u16>(shape, values),
        DType::U8 => cast::<u8>(shape, values),
        DType::Bool => {
            let values: Vec<bool> = values.iter().map(|v| *v != 0).collect();
            TensorData::from_bools(shape, &values).ok()
        }
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 => None,
    }
}

/// Refuses results larger than their operands, but for small ones and conversions, and work that takes long.
fn within_bounds(graph: &Graph, node: &Node, constants: &[Option<&TensorData>]) -> Result<(), String> {
    let before: usize = constants.iter().flatten().map(|data| data.bytes().len()).sum();
    let elements: usize = constants.iter().flatten().map(|data| data.len()).sum();
    let mut after = 0usize;
    for output in node.outputs.iter().flatten() {
        let ty = &graph.tensor(*output).ty;
        let bytes = ty.shape.as_const().and_then(|shape| bertha_graph::byte_count(ty.dtype, &shape).ok());
        after = after.saturating_add(bytes.ok_or("the size of its result depends on the inputs")?);
    }
    let allowed = if matches!(node.op, Op::Cast { .. }) { before.saturating_mul(2) } else { before };
    if after > allowed.max(SMALL) {
        return Err(format!("as a constant it would take {after} bytes, its operands take {before}"));
    }
    let product = matches!(node.op, Op::MatMul | Op::Gemm { .. } | Op::Linear { .. } | Op::Attention(_));
    if elements > if product { MOST_ELEMENTS >> 6 } else { MOST_ELEMENTS } {
        return Err(format!("its operands have {elements} elements, which takes too long to compute here"));
    }
    Ok(())
}
