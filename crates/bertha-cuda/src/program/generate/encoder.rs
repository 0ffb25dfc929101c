//! Encoder ops of dense graphs that have no kernel of their own there.

use bertha_graph::{Dim, Node, TensorId};

use super::code::Code;
use super::map::{finish, finish_as};
use super::{Generated, Source};
use crate::program::Storage;
use crate::program::lower::{Lowered, Lowering, operand};

/// The sum of one row of each of the `tables` that are the node's first operands, each behind its ids.
pub(in crate::program) fn embedding_sum(
    lowering: &mut Lowering<'_>,
    node: &Node,
    tables: usize,
    y: TensorId,
    storage: Storage,
) -> Lowered<Generated> {
    let dims = lowering.graph.tensor(y).ty.shape.dims().to_vec();
    let (width, ids_dims) = dims.split_last().ok_or("an embedding without features")?;
    let mut code = Code::new(false);
    let mut lines = code.coordinates(&dims)?;
    let column = format!("d{}", ids_dims.len());
    let (mut sources, mut terms) = (Vec::new(), Vec::new());
    for pair in 0..tables {
        let (ids, table) = (Source::of(lowering, node, 2 * pair)?, Source::of(lowering, node, 2 * pair + 1)?);
        let rows = table.dims.first().cloned().ok_or("a table without rows")?;
        let (at, rows) = (code.broadcast(&ids.dims, ids_dims)?, code.size(&rows)?);
        let row = format!("row{pair}");
        lines.push(format!("long long {row} = x{}[{at}];", sources.len()));
        lines.push(format!("const bool outside{pair} = {row} < 0 || {row} >= {rows};"));
        lines.push(code.fault(&format!("outside{pair}"), lowering.fault(node)));
        let width = code.size(width)?;
        terms.push(format!("(outside{pair} ? 0.0f : x{}[{row} * {width} + {column}])", sources.len() + 1));
        sources.extend([ids, table]);
    }
    finish_as(storage, lowering, node, y, (code, sources), (&lines, &terms.join(" + ")))
}

/// Pairs of columns, rotated by the angles of their position.
pub(super) fn rotary(
    lowering: &mut Lowering<'_>,
    node: &Node,
    y: TensorId,
    (interleaved, heads, rotary_dim): (bool, usize, usize),
) -> Lowered<Generated> {
    if operand(node, 3).is_some() {
        return Err("rotary_embedding by position ids".into());
    }
    let sources = [0, 1, 2].map(|index| Source::of(lowering, node, index));
    let [x, cos, sin] = sources;
    let (x, cos, sin) = (x?, cos?, sin?);
    let mut code = Code::new(false);
    let mut lines = code.coordinates(&x.dims)?;
    let count = Dim::from(heads);
    let (seq, width) = match (x.dims.as_slice(), heads) {
        ([_, _, _, width], _) => ("d2", width.clone()),
        ([_, _, hidden], 1..) => {
            ("d1", hidden.exact_div(&count).ok_or("heads that do not divide the features")?)
        }
        _ => return Err("rotary_embedding of other than heads".into()),
    };
    let last = x.dims.len() - 1;
    let rotated = if rotary_dim == 0 { width.as_const() } else { i64::try_from(rotary_dim).ok() };
    let rotated = rotated.filter(|dim| dim % 2 == 0).ok_or("rotary_embedding of an odd number of columns")?;
    let (half, width) = (code.number(rotated / 2), code.size(&width)?);
    lines.push(format!("const long long column = d{last} % {width}, half = {half};"));
    lines.push("const bool rotates = column < 2 * half;".into());
    let (pair, is_second, partner) = match interleaved {
        true => ("column / 2", "column % 2 == 1", "1"),
        false => ("column % half", "column >= half", "half"),
    };
    lines.push(format!("const long long pair = rotates ? {pair} : 0;"));
    lines.push(format!("const bool is_second = {is_second};"));
    let [batch, positions, _] = cos.dims.as_slice() else {
        return Err("rotary_embedding with angles that are not three-dimensional".into());
    };
    let to = match x.dims.as_slice() {
        [batch, _, seq, _] | [batch, seq, _] => [batch.clone(), seq.clone()],
        _ => return Err("rotary_embedding of other than heads".into()),
    };
    let row = code.broadcast_at(&[batch.clone(), positions.clone()], &to, &["d0", seq])?;
    lines.push(format!("const long long angle = ({row}) * half + pair;"));
    lines
        .push(format!("const float other = rotates ? x0[is_second ? i - {partner} : i + {partner}] : 0.0f;"));
    lines.push("const float c = rotates ? x1[angle] : 1.0f, s = rotates ? x2[angle] : 0.0f;".into());
    let value = "is_second ? other * s + x0[i] * c : x0[i] * c - other * s";
    finish(lowering, node, y, (code, vec![x, cos, sin]), (&lines, value))
}
