//! Shape operands that follow from the operand's own shape become constants: `[batch, seq, 12, 64]` for an operand
//! `[batch, seq, 768]` is `[0, 0, 12, 64]`.

use bertha_graph::{Dim, Graph, NodeId, Op, TensorData};

use crate::driver::Pass;
use crate::patch::{Findings, Value};
use crate::pattern::{one_node, output};
use crate::uses::Uses;

/// See the module.
pub(super) struct FoldShapes;

impl Pass for FoldShapes {
    fn name(&self) -> &'static str {
        "fold-shapes"
    }

    fn summary(&self) -> &'static str {
        "reshapes to a computed shape become reshapes to a constant one"
    }

    fn find(&self, graph: &Graph, _uses: &Uses) -> Findings {
        let patches = graph.node_ids().filter_map(|id| constant_target(graph, id)).collect();
        Findings { patches, ..Findings::default() }
    }
}

fn constant_target(graph: &Graph, id: NodeId) -> Option<crate::patch::Patch> {
    let node = graph.node(id);
    let (Op::Reshape { allow_zero }, [Some(x), Some(shape)]) = (&node.op, &node.inputs[..]) else {
        return None;
    };
    let requested = graph.tensor(*shape).value.as_ref()?;
    let zero_means_zero = *allow_zero && requested.iter().any(|dim| dim.as_const() == Some(0));
    if zero_means_zero {
        return None;
    }
    let result = output(graph, id)?;
    let target = target(graph.tensor(*x).ty.shape.dims(), graph.tensor(result).ty.shape.dims())?;
    let same = graph.tensor(*shape).constant().and_then(TensorData::to_i64).is_some_and(|now| now == target);
    if same && !*allow_zero {
        return None;
    }
    let what = format!("{} reshapes to {target:?}", node.name);
    let name = format!("{}.shape", node.name);
    let inputs = vec![Some(Value::Old(*x)), Some(Value::Constant(name, TensorData::vector(target)))];
    let op = Op::Reshape { allow_zero: false };
    Some(one_node(vec![id], (node.name.clone(), op), inputs, result, what))
}

/// The shape of the result in numbers: 0 copies a dimension, one -1 is what is left.
pub(super) fn target(from: &[Dim], to: &[Dim]) -> Option<Vec<i64>> {
    let target: Vec<i64> = to
        .iter()
        .enumerate()
        .map(|(axis, dim)| match dim.as_const() {
            Some(size) => size,
            None if from.get(axis) == Some(dim) => 0,
            None => -1,
        })
        .collect();
    (target.iter().filter(|size| **size == -1).count() <= 1 && !has_zero(to)).then_some(target)
}

/// A dimension of zero would be taken for one that is copied.
fn has_zero(dims: &[Dim]) -> bool {
    dims.iter().any(|dim| dim.as_const() == Some(0))
}
