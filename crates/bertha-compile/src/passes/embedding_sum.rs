//! Rows of tables that are added up become one embedding sum. What is the same for every token goes into a table.

use bertha_graph::{BinaryOp, DType, Graph, NodeId, Op, TensorData, TensorId, ragged};

use crate::driver::Pass;
use crate::patch::{Findings, NewNode, Patch, Value};
use crate::pattern::{input, is_row_of, one_node, output};
use crate::uses::{Uses, producer};

/// See the module.
pub(super) struct EmbeddingSum;

impl Pass for EmbeddingSum {
    fn name(&self) -> &'static str {
        "embedding-sum"
    }

    fn summary(&self) -> &'static str {
        "lookups of words, positions and token types become one sum"
    }

    fn find(&self, graph: &Graph, uses: &Uses) -> Findings {
        let patches = graph.node_ids().filter_map(|id| match &graph.node(id).op {
            Op::Gather { axis: 0 } => lookup(graph, id),
            Op::Binary(BinaryOp::Add) => sum(graph, uses, id),
            Op::EmbeddingSum => single_row(graph, id).or_else(|| in_order(graph, id)),
            _ => None,
        });
        Findings { patches: patches.collect(), ..Findings::default() }
    }
}

/// A pair of ids and table.
type Pair = (TensorId, TensorId);

fn pairs(graph: &Graph, id: NodeId) -> Vec<Pair> {
    let inputs: Vec<TensorId> = graph.node(id).inputs.iter().copied().flatten().collect();
    inputs.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

fn patch(
    graph: &Graph,
    (removes, name): (Vec<NodeId>, NodeId),
    pairs: Vec<(TensorId, Value)>,
    what: String,
) -> Option<Patch> {
    let result = output(graph, *removes.last()?)?;
    let inputs = pairs.into_iter().flat_map(|(ids, table)| [Some(Value::Old(ids)), Some(table)]).collect();
    let name = graph.node(name).name.clone();
    Some(one_node(removes, (name, Op::EmbeddingSum), inputs, result, what))
}

fn old(pairs: &[Pair]) -> Vec<(TensorId, Value)> {
    pairs.iter().map(|(ids, table)| (*ids, Value::Old(*table))).collect()
}

/// A lookup by ids that are computed or given, one row of floats for each.
fn lookup(graph: &Graph, id: NodeId) -> Option<Patch> {
    let (table, ids) = (input(graph, id, 0)?, input(graph, id, 1)?);
    let data = graph.tensor(table).constant()?;
    let is_table =
        data.shape().len() == 2 && data.dtype().is_float() && graph.tensor(ids).constant().is_none();
    // A negative index counts from the end for a gather, and is an error for an embedding.
    let given = graph.inputs().contains(&ids);
    let what = format!("{} looks up rows of {}", graph.node(id).name, graph.tensor(table).name);
    if !is_table || !given {
        return None;
    }
    patch(graph, (vec![id], id), old(&[(ids, table)]), what)
}

/// An embedding sum that nobody else reads, with a constant row that may be added to it.
struct Summand {
    embedding: NodeId,
    /// The addition, and the row.
    row: Option<(NodeId, TensorId)>,
}

fn summand(graph: &Graph, uses: &Uses, tensor: TensorId) -> Option<Summand> {
    uses.only_reader(tensor)?;
    let (id, node) = producer(graph, tensor)?;
    match node.op {
        Op::EmbeddingSum => Some(Summand { embedding: id, row: None }),
        Op::Binary(BinaryOp::Add) => {
            let (embedding, row) = row_added(graph, id)?;
            uses.only_reader(output(graph, embedding)?)?;
            Some(Summand { embedding, row: Some((id, row)) })
        }
        _ => None,
    }
}

/// The operands of an addition of a constant row to an embedding sum.
fn row_added(graph: &Graph, add: NodeId) -> Option<(NodeId, TensorId)> {
    let (a, b) = (input(graph, add, 0)?, input(graph, add, 1)?);
    [(a, b), (b, a)].into_iter().find_map(|(embedding, row)| {
        let (id, node) = producer(graph, embedding)?;
        (node.op == Op::EmbeddingSum && is_row_of(graph, row, embedding)).then_some((id, row))
    })
}

fn sum(graph: &Graph, uses: &Uses, id: NodeId) -> Option<Patch> {
    let (a, b) = (input(graph, id, 0)?, input(graph, id, 1)?);
    let (Some(first), Some(second)) = (summand(graph, uses, a), summand(graph, uses, b)) else {
        return with_row(graph, uses, id);
    };
    let shape = |node| pairs(graph, node).first().map(|(ids, _)| graph.tensor(*ids).ty.shape.clone());
    if shape(first.embedding) != shape(second.embedding) {
        return None;
    }
    let all: Vec<Pair> =
        pairs(graph, first.embedding).into_iter().chain(pairs(graph, second.embedding)).collect();
    let what = format!("{} tables are summed in one step", all.len());
    let rows: Vec<(NodeId, TensorId)> = first.row.into_iter().chain(second.row).collect();
    let mut removes = vec![first.embedding, second.embedding];
    removes.extend(rows.iter().map(|(add, _)| *add));
    removes.push(id);
    let mut patch = patch(graph, (removes, first.embedding), old(&all), what)?;
    // Rows wait until all tables are there.
    for (add, row) in rows {
        let before = patch.nodes.len() - 1;
        let inputs = vec![Some(Value::New { node: before, output: 0 }), Some(Value::Old(row))];
        let name = graph.node(add).name.clone();
        patch.nodes.push(NewNode { name, op: Op::Binary(BinaryOp::Add), inputs, outputs: 1 });
    }
    let last = patch.nodes.len() - 1;
    patch.replaces = vec![(output(graph, id)?, Value::New { node: last, output: 0 })];
    Some(patch)
}

/// A constant row that is added to every token's is added to every row of the smallest table.
fn with_row(graph: &Graph, uses: &Uses, add: NodeId) -> Option<Patch> {
    let (embedding, row) = row_added(graph, add)?;
    uses.only_reader(output(graph, embedding)?)?;
    // More tables may follow, and one of them be smaller.
    let reader = uses.only_reader(output(graph, add)?);
    if reader.is_some_and(|reader| graph.node(reader).op == Op::Binary(BinaryOp::Add)) {
        let more = graph.node(reader?).inputs.iter().flatten().all(|id| summand(graph, uses, *id).is_some());
        if more {
            return None;
        }
    }
    let data = graph.tensor(row).constant()?;
    let pairs = add_to_smallest(graph, &pairs(graph, embedding), data)?;
    let what = format!("{} goes into a table", graph.tensor(row).name);
    patch(graph, (vec![embedding, add], embedding), pairs, what)
}

/// A table of one row has nothing to choose: it goes into another table.
fn single_row(graph: &Graph, id: NodeId) -> Option<Patch> {
    let all = pairs(graph, id);
    let rows = |table: TensorId| graph.tensor(table).constant().map(|data| data.shape()[0]);
    let at = all.iter().position(|(_, table)| rows(*table) == Some(1))?;
    let (_, single) = all[at];
    let others: Vec<Pair> =
        all.iter().enumerate().filter(|(index, _)| *index != at).map(|(_, pair)| *pair).collect();
    let data = graph.tensor(single).constant()?;
    let row = data.reshaped(vec![data.len()]).ok()?;
    let pairs = add_to_smallest(graph, &others, &row)?;
    let what = format!("{} has one row, which goes into another table", graph.tensor(single).name);
    patch(graph, (vec![id], id), pairs, what)
}

/// The pairs with `row` added to every row of the table that has fewest.
fn add_to_smallest(graph: &Graph, pairs: &[Pair], row: &TensorData) -> Option<Vec<(TensorId, Value)>> {
    let tables: Option<Vec<&TensorData>> =
        pairs.iter().map(|(_, table)| graph.tensor(*table).constant()).collect();
    let smallest = tables?.into_iter().enumerate().min_by_key(|(_, table)| table.len())?;
    let (at, table) = smallest;
    if table.dtype() != DType::F32 || row.dtype() != DType::F32 {
        return None;
    }
    let (values, row) = (table.to_f32()?, row.to_f32()?);
    let sums: Vec<f32> = values.iter().zip(row.iter().cycle()).map(|(value, row)| value + row).collect();
    let data = TensorData::from_vec(table.shape().to_vec(), sums).ok()?;
    let mut result = old(pairs);
    let name = graph.tensor(pairs.get(at)?.1).name.clone();
    result.get_mut(at)?.1 = Value::Constant(name, data);
    Some(result)
}

/// Words, positions, token types, whatever the order in which the source adds them: one graph for one model.
fn in_order(graph: &Graph, id: NodeId) -> Option<Patch> {
    const ORDER: [&str; 3] = [ragged::INPUT_IDS, ragged::POSITION_IDS, ragged::TOKEN_TYPE_IDS];
    let place = |(ids, _): &Pair| {
        let name = &graph.tensor(*ids).name;
        ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len())
    };
    let mut all = pairs(graph, id);
    if all.is_sorted_by_key(place) {
        return None;
    }
    all.sort_by_key(place);
    patch(graph, (vec![id], id), old(&all), "the tables are put in order".into())
}
