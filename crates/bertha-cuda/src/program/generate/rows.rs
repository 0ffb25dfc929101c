//! Reductions and norms of rows: the last dimension, one warp a row.

use bertha_graph::{Dim, Node, Op, ReduceOp, Shape, TensorId};

use super::text::{expression, row_kernel};
use super::{Generated, Source, THREADS, result_storage};
use crate::program::lower::{Lowering, operand};

/// The kernel for a reduction over the last dimension.
pub(super) fn generate(lowering: &mut Lowering<'_>, node: &Node, y: TensorId) -> Result<Generated, String> {
    let x = Source::of(lowering, node, 0)?;
    let name = node.op.mnemonic();
    let rank = x.dims.len();
    let width = x.dims.last().and_then(Dim::as_const).and_then(|width| usize::try_from(width).ok());
    let width = width.filter(|width| *width > 0).ok_or_else(|| format!("{name} of rows of unknown size"))?;
    let is_last = |axis: i64| axis == -1 || axis == rank as i64 - 1;
    let body = match &node.op {
        Op::Softmax { axis } if is_last(*axis) => SOFTMAX.to_owned(),
        Op::L2Normalize { epsilon } => L2_NORMALIZE.replace("EPSILON", &format!("{epsilon:e}f")),
        Op::Reduce { op, .. } => {
            let axes = operand(node, 1).and_then(|id| lowering.constant(id)).and_then(|data| data.to_i64());
            match axes.as_deref() {
                Some([axis]) if is_last(*axis) => reduction(*op)?.to_owned(),
                _ => return Err(format!("{name} over other dimensions than the last")),
            }
        }
        _ => return Err(format!("{name} along another dimension than the last")),
    };
    let rows = Shape(x.dims[..rank - 1].to_vec()).elements();
    expression(&rows)?;
    let storage = result_storage(lowering, y);
    let kernel = row_kernel(
        &format!("bertha_{name}"),
        x.storage,
        storage,
        &rows,
        width,
        &body.replace("RESULT", storage.c_name()),
    );
    let y = lowering.write(y, storage);
    Ok(Generated { name, inputs: vec![x.read], y, kernel, work: rows, per_block: THREADS / 32 })
}

fn reduction(op: ReduceOp) -> Result<&'static str, String> {
    match op {
        ReduceOp::Sum => Ok(SUM),
        ReduceOp::Mean => Ok(MEAN),
        ReduceOp::Prod => Err(op.mnemonic().to_owned()),
    }
}

const SOFTMAX: &str = "
        float largest = __int_as_float(0xff800000), sum = 0.0f;
        for (int column = lane; column < width; column += 32) largest = fmaxf(largest, x0[row * width + column]);
        largest = max_of_warp(largest);
        for (int column = lane; column < width; column += 32) sum += expf(x0[row * width + column] - largest);
        sum = sum_of_warp(sum);
        for (int column = lane; column < width; column += 32)
            y[row * width + column] = from_f32<RESULT>(expf(x0[row * width + column] - largest) / sum);
";

const L2_NORMALIZE: &str = "
        float sum = 0.0f;
        for (int column = lane; column < width; column += 32) {
            const float x = x0[row * width + column];
            sum += x * x;
        }
        const float norm = fmaxf(sqrtf(sum_of_warp(sum)), EPSILON);
        for (int column = lane; column < width; column += 32)
            y[row * width + column] = from_f32<RESULT>(x0[row * width + column] / norm);
";

const SUM: &str = "
        float sum = 0.0f;
        for (int column = lane; column < width; column += 32) sum += x0[row * width + column];
        sum = sum_of_warp(sum);
        if (lane == 0) y[row] = from_f32<RESULT>(sum);
";

const MEAN: &str = "
        float sum = 0.0f;
        for (int column = lane; column < width; column += 32) sum += x0[row * width + column];
        sum = sum_of_warp(sum);
        if (lane == 0) y[row] = from_f32<RESULT>(sum / width);
";
