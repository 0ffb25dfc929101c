//! Results whose elements are elements of the operands, at other places.

use bertha_graph::{Dim, Node, Op, PadMode, TensorId};

use super::code::Code;
use super::map::finish;
use super::{Generated, Source, normal_axis};
use crate::program::lower::{Lowered, Lowering, operand};

/// The kernel for an op that moves elements.
pub(super) fn generate(lowering: &mut Lowering<'_>, node: &Node, y: TensorId) -> Lowered<Generated> {
    match &node.op {
        Op::Transpose { perm } => {
            let x = Source::of(lowering, node, 0)?;
            let mut at = vec![String::new(); perm.len()];
            for (axis, from) in perm.iter().enumerate() {
                *at.get_mut(*from).ok_or("a permutation of other dimensions")? = format!("d{axis}");
            }
            moved(lowering, node, y, x, |_| Ok(at))
        }
        Op::Gather { axis } => gather(lowering, node, y, *axis),
        Op::Slice => slice(lowering, node, y),
        Op::Concat { axis } => concat(lowering, node, y, *axis),
        Op::Expand => {
            let x = Source::of(lowering, node, 0)?;
            let dims = lowering.graph.tensor(y).ty.shape.dims().to_vec();
            let mut code = Code::new(lowering.is_ragged());
            let lines = code.coordinates(&dims)?;
            let value = format!("x0[{}]", code.broadcast(&x.dims, &dims)?);
            finish(lowering, node, y, (code, vec![x]), (&lines, &value))
        }
        Op::Tile => {
            let x = Source::of(lowering, node, 0)?;
            let dims = x.dims.clone();
            moved(lowering, node, y, x, |code| {
                let at = |(axis, dim): (usize, &Dim)| Ok(format!("d{axis} % {}", code.size(dim)?));
                dims.iter()
                    .enumerate()
                    .map(at)
                    .map(|at: Lowered<String>| at.map(|at| format!("({at})")))
                    .collect()
            })
        }
        Op::Pad { mode: PadMode::Constant } => pad(lowering, node, y),
        _ => Err(node.op.mnemonic().to_owned()),
    }
}

/// The kernel for piece `index` of a `split` into so many `parts`.
pub(in crate::program) fn piece(
    lowering: &mut Lowering<'_>,
    node: &Node,
    (axis, parts): (i64, usize),
    index: usize,
    y: TensorId,
) -> Lowered<Generated> {
    let x = Source::of(lowering, node, 0)?;
    let rank = x.dims.len();
    let axis = normal_axis(axis, rank)?;
    let start = match operand(node, 1) {
        Some(sizes) => {
            let sizes = lowering.constant(sizes).and_then(|sizes| sizes.to_i64());
            sizes.ok_or("a split into pieces of computed sizes")?.iter().take(index).sum()
        }
        None => {
            let size = x.dims[axis].as_const().and_then(|size| usize::try_from(size).ok());
            let size = size.ok_or("a split of a dimension of unknown size")?;
            // Equal pieces, rounded up, as long as there is something left.
            let start = size.div_ceil(parts.max(1)).saturating_mul(index).min(size);
            i64::try_from(start).unwrap_or(i64::MAX)
        }
    };
    moved(lowering, node, y, x, |code| {
        let start = code.number(start);
        Ok(plain(rank, |other| (other == axis).then(|| format!("(d{other} + {start})"))))
    })
}

fn gather(lowering: &mut Lowering<'_>, node: &Node, y: TensorId, axis: i64) -> Lowered<Generated> {
    let x = Source::of(lowering, node, 0)?;
    let axis = normal_axis(axis, x.dims.len())?;
    let size = x.dims[axis].as_const().ok_or("gather along a dimension of unknown size")?;
    let indices = operand(node, 1).ok_or("gather without indices")?;
    let is_checked = match lowering.constant(indices) {
        Some(data) => {
            let wanted = data.to_i64().ok_or("gather with indices that are no integers")?;
            if wanted.iter().any(|index| *index < -size || *index >= size) {
                return Err("gather with an index outside of its operand".into());
            }
            true
        }
        None if lowering.is_ragged() => return Err("gather with computed indices".into()),
        None => false,
    };
    let index = Source::of(lowering, node, 1)?;
    if index.storage.is_float() {
        return Err("gather with indices that are no integers".into());
    }
    let rank = index.dims.len();
    let dims = lowering.graph.tensor(y).ty.shape.dims().to_vec();
    let mut code = Code::new(lowering.is_ragged());
    let mut lines = code.coordinates(&dims)?;
    let inner: Vec<String> = (0..rank).map(|inner| format!("d{}", axis + inner)).collect();
    let place = code.address(&index.dims, &inner)?;
    let bound = code.number(size);
    lines.push(format!("long long chosen = x1[{place}];"));
    lines.push(format!("if (chosen < 0) chosen += {bound};"));
    if !is_checked {
        lines.push(format!("const bool outside = chosen < 0 || chosen >= {bound};"));
        lines.push(code.fault("outside", lowering.fault(node)));
        lines.push("if (outside) chosen = 0;".into());
    }
    let at: Vec<String> = (0..x.dims.len())
        .map(|other| match other.cmp(&axis) {
            std::cmp::Ordering::Less => format!("d{other}"),
            std::cmp::Ordering::Equal => "chosen".into(),
            std::cmp::Ordering::Greater => format!("d{}", other + rank - 1),
        })
        .collect();
    let value = format!("x0[{}]", code.address(&x.dims, &at)?);
    // A table without rows has nothing at 0.
    let value = if is_checked { value } else { format!("outside ? 0 : {value}") };
    finish(lowering, node, y, (code, vec![x, index]), (&lines, &value))
}

/// Slices with constant bounds along dimensions of known size.
fn slice(lowering: &mut Lowering<'_>, node: &Node, y: TensorId) -> Lowered<Generated> {
    let x = Source::of(lowering, node, 0)?;
    let list = |index: usize| -> Lowered<Option<Vec<i64>>> {
        let Some(id) = operand(node, index) else { return Ok(None) };
        let data = lowering.constant(id).ok_or("slice with computed bounds")?;
        data.to_i64().map(Some).ok_or_else(|| "slice with bounds that are no integers".into())
    };
    let starts = list(1)?.ok_or("slice without starts")?;
    let axes = list(3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(4)?.unwrap_or_else(|| vec![1; starts.len()]);
    let mut first = vec![(0i64, 1i64); x.dims.len()];
    for ((axis, start), step) in axes.iter().zip(&starts).zip(&steps) {
        let axis = normal_axis(*axis, x.dims.len())?;
        let size = x.dims[axis].as_const().ok_or("slice of a dimension of unknown size")?;
        // Where the first element lies, as the op's definition clamps it.
        let from = if *start < 0 { start.saturating_add(size) } else { *start };
        let at = if *step < 0 { from.clamp(0, (size - 1).max(0)) } else { from.clamp(0, size) };
        first[axis] = (at, *step);
    }
    moved(lowering, node, y, x, |code| {
        let at = |(axis, (first, step)): (usize, &(i64, i64))| {
            let (first, step) = (code.number(*first), code.number(*step));
            format!("({first} + d{axis} * {step})")
        };
        Ok(first.iter().enumerate().map(at).collect())
    })
}

fn concat(lowering: &mut Lowering<'_>, node: &Node, y: TensorId, axis: i64) -> Lowered<Generated> {
    let dims = lowering.graph.tensor(y).ty.shape.dims().to_vec();
    let axis = normal_axis(axis, dims.len())?;
    let mut code = Code::new(lowering.is_ragged());
    let lines = code.coordinates(&dims)?;
    let mut sources = Vec::new();
    let (mut value, mut start) = (String::new(), Dim::from(0usize));
    for index in 0..node.inputs.len() {
        let x = Source::of(lowering, node, index)?;
        let from = code.size(&start)?;
        start = &start + &x.dims[axis];
        let at = plain(dims.len(), |other| (other == axis).then(|| format!("(d{axis} - {from})")));
        let element = format!("x{index}[{}]", code.address(&x.dims, &at)?);
        match index + 1 == node.inputs.len() {
            true => value.push_str(&element),
            false => value.push_str(&format!("d{axis} < {} ? {element} : ", code.size(&start)?)),
        }
        sources.push(x);
    }
    finish(lowering, node, y, (code, sources), (&lines, &value))
}

/// Pads with one value, by constant amounts; negative ones crop.
fn pad(lowering: &mut Lowering<'_>, node: &Node, y: TensorId) -> Lowered<Generated> {
    let x = Source::of(lowering, node, 0)?;
    let rank = x.dims.len();
    let list = |index: usize| -> Lowered<Option<Vec<i64>>> {
        let Some(id) = operand(node, index) else { return Ok(None) };
        let data = lowering.constant(id).and_then(|data| data.to_i64());
        data.map(Some).ok_or_else(|| "pad by computed amounts".into())
    };
    let pads = list(1)?.ok_or("pad without amounts")?;
    let axes = list(3)?.unwrap_or_else(|| (0..rank as i64).collect());
    let mut before = vec![0i64; rank];
    for (axis, begin) in axes.iter().zip(&pads) {
        before[normal_axis(*axis, rank)?] = *begin;
    }
    let mut sources = vec![x];
    let filler = match operand(node, 2) {
        Some(_) => {
            sources.push(Source::of(lowering, node, 2)?);
            "x1[0]"
        }
        None => "0",
    };
    let dims = lowering.graph.tensor(y).ty.shape.dims().to_vec();
    let mut code = Code::new(lowering.is_ragged());
    let mut lines = code.coordinates(&dims)?;
    let mut inside = Vec::new();
    for (axis, begin) in before.iter().enumerate() {
        lines.push(format!("const long long s{axis} = d{axis} - {};", code.number(*begin)));
        inside.push(format!("s{axis} >= 0 && s{axis} < {}", code.size(&sources[0].dims[axis])?));
    }
    let at: Vec<String> = (0..rank).map(|axis| format!("s{axis}")).collect();
    let element = code.address(&sources[0].dims, &at)?;
    let inside = if inside.is_empty() { "true".into() } else { inside.join(" && ") };
    let value = format!("{inside} ? x0[{element}] : {filler}");
    finish(lowering, node, y, (code, sources), (&lines, &value))
}

/// The element of `x` at what `at` gives, expressions of the result's coordinates.
fn moved(
    lowering: &mut Lowering<'_>,
    node: &Node,
    y: TensorId,
    x: Source,
    at: impl FnOnce(&mut Code) -> Lowered<Vec<String>>,
) -> Lowered<Generated> {
    let dims = lowering.graph.tensor(y).ty.shape.dims().to_vec();
    let mut code = Code::new(lowering.is_ragged());
    let lines = code.coordinates(&dims)?;
    let at = at(&mut code)?;
    let value = format!("x0[{}]", code.address(&x.dims, &at)?);
    finish(lowering, node, y, (code, vec![x]), (&lines, &value))
}

/// `d0`, `d1`, ..., but for what `other` gives.
fn plain(rank: usize, other: impl Fn(usize) -> Option<String>) -> Vec<String> {
    (0..rank).map(|axis| other(axis).unwrap_or_else(|| format!("d{axis}"))).collect()
}
