//! One slice of a tensor, cut out by `split` or `slice` and squeezed, is gathered by its index.

use bertha_graph::{Graph, NodeId, Op, Origin, TensorData, TensorId};

use crate::driver::Pass;
use crate::patch::{Findings, Patch, Value};
use crate::pattern::{axis_of, input, ints, one_node, output};
use crate::uses::Uses;

/// See the module.
pub(super) struct Pick;

impl Pass for Pick {
    fn name(&self) -> &'static str {
        "pick"
    }

    fn summary(&self) -> &'static str {
        "splits and slices of width one that are squeezed become picks by index"
    }

    fn find(&self, graph: &Graph, _uses: &Uses) -> Findings {
        let patches =
            graph.node_ids().filter_map(|id| picked(graph, id).or_else(|| only_one(graph, id))).collect();
        Findings { patches, ..Findings::default() }
    }
}

fn picked(graph: &Graph, id: NodeId) -> Option<Patch> {
    if graph.node(id).op != Op::Squeeze {
        return None;
    }
    let piece = input(graph, id, 0)?;
    let rank = graph.tensor(piece).ty.shape.rank();
    let axis = match ints(graph, input(graph, id, 1)?)?[..] {
        [axis] => axis_of(axis, rank)?,
        _ => return None,
    };
    let Origin::Node { node: cut, output: part } = graph.tensor(piece).origin else { return None };
    let index = match &graph.node(cut).op {
        Op::Split { axis: along, .. } if axis_of(*along, rank) == Some(axis) => {
            start_of(graph, cut, part, axis)?
        }
        Op::Slice => slice_start(graph, cut, rank, axis)?,
        _ => return None,
    };
    let x = input(graph, cut, 0)?;
    let name = graph.node(id).name.clone();
    let what = format!("{name} picks number {index} of {}", graph.tensor(x).name);
    let index = Value::Constant(format!("{name}.index"), TensorData::scalar(index));
    // The last axis counted from the end, so that it stays when leading dimensions become one.
    let axis = if axis + 1 == rank { -1 } else { i64::try_from(axis).ok()? };
    let inputs = vec![Some(Value::Old(x)), Some(index)];
    Some(one_node(vec![cut, id], (name, Op::Gather { axis }), inputs, output(graph, id)?, what))
}

/// A pick along a dimension of 1 has nothing to choose: it removes the dimension.
fn only_one(graph: &Graph, id: NodeId) -> Option<Patch> {
    let Op::Gather { axis } = graph.node(id).op else { return None };
    let (x, index) = (input(graph, id, 0)?, input(graph, id, 1)?);
    let result = output(graph, id)?;
    let (from, to) = (graph.tensor(x).ty.shape.dims(), graph.tensor(result).ty.shape.dims());
    let single = from.get(axis_of(axis, from.len())?)?.as_const() == Some(1);
    let by_number = graph.tensor(index).ty.shape.rank() == 0 && graph.tensor(index).constant().is_some();
    if !single || !by_number {
        return None;
    }
    let target = super::fold_shapes::target(from, to)?;
    let name = graph.node(id).name.clone();
    let what = format!("{name} removes a dimension of 1");
    let shape = Value::Constant(format!("{name}.shape"), TensorData::vector(target));
    let op = Op::Reshape { allow_zero: false };
    Some(one_node(vec![id], (name, op), vec![Some(Value::Old(x)), Some(shape)], result, what))
}

/// Where a part of width one begins.
fn start_of(graph: &Graph, split: NodeId, part: usize, axis: usize) -> Option<i64> {
    let width = |tensor: TensorId| graph.tensor(tensor).ty.shape.dims().get(axis)?.as_const();
    let sizes = match input(graph, split, 1) {
        Some(sizes) => ints(graph, sizes)?,
        None => graph.node(split).outputs.iter().map(|part| width((*part)?)).collect::<Option<_>>()?,
    };
    (sizes.get(part) == Some(&1)).then(|| sizes.iter().take(part).sum())
}

/// The index of a slice of width one along `axis`.
fn slice_start(graph: &Graph, slice: NodeId, rank: usize, axis: usize) -> Option<i64> {
    let list = |index| input(graph, slice, index).and_then(|id| ints(graph, id));
    let ([start], [end]) = (&list(1)?[..], &list(2)?[..]) else { return None };
    let along = match input(graph, slice, 3) {
        None => Some(0),
        Some(_) => list(3).and_then(|axes| axis_of(*axes.first().filter(|_| axes.len() == 1)?, rank)),
    };
    let steps = input(graph, slice, 4).is_none() || list(4)? == [1];
    let one = *start >= 0 && *end == start + 1 || *start == -1 && *end == i64::MAX;
    (along == Some(axis) && steps && one).then_some(*start)
}
