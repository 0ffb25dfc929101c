//! Reductions and norms: of rows (the last dimension) by a warp each, along other dimensions by a thread each.

use bertha_graph::{Dim, Node, Op, ReduceOp, Shape, TensorId};

use super::code::{Code, fill, row_kernel};
use super::map::finish;
use super::{Draft, Generated, Source, THREADS, normal_axis, result_storage};
use crate::program::Storage;
use crate::program::lower::{Lowered, Lowering, operand};

/// The kernel for a reduction, a softmax or a norm.
pub(super) fn generate(lowering: &mut Lowering<'_>, node: &Node, y: TensorId) -> Lowered<Generated> {
    let x = Source::of(lowering, node, 0)?;
    let name = node.op.mnemonic();
    let rank = x.dims.len();
    let is_last = |axis: i64| axis == -1 || axis == rank as i64 - 1;
    let body = match &node.op {
        Op::Softmax { axis } if is_last(*axis) => SOFTMAX.to_owned(),
        Op::L2Normalize { epsilon } => fill(L2_NORMALIZE, &[("epsilon", &format!("{epsilon:e}f"))])?,
        Op::Reduce { op, noop_with_empty_axes, .. } => {
            let axes = match operand(node, 1) {
                Some(id) => lowering.constant(id).and_then(|data| data.to_i64()),
                None => Some(Vec::new()),
            };
            let axes = axes.ok_or_else(|| format!("{name} over computed dimensions"))?;
            match axes.as_slice() {
                [axis] if is_last(*axis) && x.storage.is_float() && *op != ReduceOp::Prod => {
                    reduction(*op).to_owned()
                }
                _ if lowering.is_ragged() => {
                    return Err(format!("{name} over other dimensions than the last"));
                }
                [] if *noop_with_empty_axes => return Err(format!("{name} over nothing")),
                [] => return reduce(lowering, node, y, x, (*op, &(0..rank).collect::<Vec<_>>())),
                axes => {
                    let axes =
                        axes.iter().map(|axis| normal_axis(*axis, rank)).collect::<Lowered<Vec<_>>>()?;
                    return reduce(lowering, node, y, x, (*op, &axes));
                }
            }
        }
        Op::CumSum { exclusive, reverse } if !lowering.is_ragged() => {
            return running_sum(lowering, node, y, x, (*exclusive, *reverse));
        }
        _ => return Err(format!("{name} along another dimension than the last")),
    };
    let width = x.dims.last().ok_or_else(|| format!("{name} of a scalar"))?.clone();
    if !x.storage.is_float() || width.as_const().is_none_or(|width| !(1..1 << 31).contains(&width)) {
        return Err(format!("{name} of rows of {width} in {}", x.storage.c_name()));
    }
    let rows = Shape(x.dims[..rank - 1].to_vec()).elements();
    let mut code = Code::new(lowering.is_ragged());
    let sources = vec![x];
    let storage = result_storage(lowering, node, y, &sources)?;
    let kernel = row_kernel(
        &mut code,
        &format!("bertha_{name}"),
        sources[0].storage,
        storage,
        [&rows, &width],
        &body,
    )?;
    Draft { sources, storage, kernel, code, work: rows, per_block: THREADS / 32 }.finish(lowering, node, y)
}

/// A reduction by one thread for each result, over `axes` in order.
fn reduce(
    lowering: &mut Lowering<'_>,
    node: &Node,
    y: TensorId,
    x: Source,
    (op, axes): (ReduceOp, &[usize]),
) -> Lowered<Generated> {
    let mut code = Code::new(false);
    // The result's coordinates, as if its reduced dimensions were kept as 1.
    let one = Dim::from(1usize);
    let kept = x.dims.iter().enumerate().map(|(axis, dim)| if axes.contains(&axis) { &one } else { dim });
    let kept: Vec<Dim> = kept.cloned().collect();
    let mut lines = code.coordinates(&kept)?;
    let at: Vec<String> = (0..x.dims.len())
        .map(|axis| if axes.contains(&axis) { format!("r{axis}") } else { format!("d{axis}") })
        .collect();
    let element = code.address(&x.dims, &at)?;
    let sizes = axes.iter().map(|axis| code.size(&x.dims[*axis])).collect::<Lowered<Vec<String>>>()?;
    let (start, by) = if op == ReduceOp::Prod { ("1", "*=") } else { ("0", "+=") };
    let ty = if x.storage.is_float() { "float" } else { "long long" };
    lines.push(format!("{ty} sum = {start};"));
    for (axis, size) in axes.iter().zip(&sizes) {
        lines.push(format!("for (long long r{axis} = 0; r{axis} < {size}; ++r{axis})"));
    }
    lines.push(format!("    sum {by} x0[{element}];"));
    let value = match op {
        ReduceOp::Mean if !x.storage.is_float() => return Err("a mean of whole numbers".into()),
        ReduceOp::Mean if !sizes.is_empty() => format!("sum / (float)({})", sizes.join(" * ")),
        ReduceOp::Mean | ReduceOp::Sum | ReduceOp::Prod => "sum".into(),
    };
    finish(lowering, node, y, (code, vec![x]), (&lines, &value))
}

/// A running sum along one dimension, each by one thread.
fn running_sum(
    lowering: &mut Lowering<'_>,
    node: &Node,
    y: TensorId,
    x: Source,
    (exclusive, reverse): (bool, bool),
) -> Lowered<Generated> {
    let axis = operand(node, 1).and_then(|id| lowering.constant(id)).and_then(|data| data.to_i64());
    let axis = axis.and_then(|axis| axis.first().copied()).ok_or("cumsum along a computed dimension")?;
    let axis = normal_axis(axis, x.dims.len())?;
    if x.storage == Storage::Bool {
        return Err("cumsum of bool".into());
    }
    let mut code = Code::new(false);
    let mut lines = code.coordinates(&x.dims)?;
    let at: Vec<String> =
        (0..x.dims.len()).map(|other| if other == axis { "r".into() } else { format!("d{other}") }).collect();
    let element = code.address(&x.dims, &at)?;
    let size = code.size(&x.dims[axis])?;
    let own = if exclusive { 0 } else { 1 };
    let range = match reverse {
        false => format!("long long r = 0; r < d{axis} + {own}; ++r"),
        true => format!("long long r = {size} - 1; r > d{axis} - {own}; --r"),
    };
    let ty = if x.storage.is_float() { "float" } else { "long long" };
    lines.push(format!("{ty} sum = 0;"));
    lines.push(format!("for ({range}) sum += x0[{element}];"));
    finish(lowering, node, y, (code, vec![x]), (&lines, "sum"))
}

/// The body for a sum or a mean.
fn reduction(op: ReduceOp) -> &'static str {
    if op == ReduceOp::Mean { MEAN } else { SUM }
}

const SOFTMAX: &str = "
        float largest = __int_as_float(0xff800000), sum = 0.0f;
        for (int column = lane; column < width; column += 32) largest = fmaxf(largest, x0[row * width + column]);
        largest = max_of_warp(largest);
        for (int column = lane; column < width; column += 32) sum += expf(x0[row * width + column] - largest);
        sum = sum_of_warp(sum);
        for (int column = lane; column < width; column += 32)
            y[row * width + column] = from_f32<Result>(expf(x0[row * width + column] - largest) / sum);
";

const L2_NORMALIZE: &str = "
        float sum = 0.0f;
        for (int column = lane; column < width; column += 32) {
            const float x = x0[row * width + column];
            sum += x * x;
        }
        const float norm = fmaxf(sqrtf(sum_of_warp(sum)), $epsilon);
        for (int column = lane; column < width; column += 32)
            y[row * width + column] = from_f32<Result>(x0[row * width + column] / norm);
";

const SUM: &str = "
        float sum = 0.0f;
        for (int column = lane; column < width; column += 32) sum += x0[row * width + column];
        sum = sum_of_warp(sum);
        if (lane == 0) y[row] = from_f32<Result>(sum);
";

const MEAN: &str = "
        float sum = 0.0f;
        for (int column = lane; column < width; column += 32) sum += x0[row * width + column];
        sum = sum_of_warp(sum);
        if (lane == 0) y[row] = from_f32<Result>(sum / width);
";
