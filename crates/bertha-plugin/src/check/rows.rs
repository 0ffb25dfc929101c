//! Whether a plugin that promises to work row by row does so.

use bertha_graph::TensorType;
use bertha_graph::plugin::Pattern;

use super::cases::{Case, Input};
use super::{Problem, run_kernel, tensor_type};
use crate::{F64Tensor, Sequential};

/// Rows that are tried alone.
const TRIED: usize = 4;

/// Runs some rows of the first operand alone: the results must have the same bits as in `together`, the results of all.
pub(super) fn check(case: &Case, results: &[TensorType], together: &[Vec<u8>]) -> Result<(), Problem> {
    let Some(Some(x)) = case.inputs.first() else { return Ok(()) };
    let dims = &case.op.def().signature().inputs[0].dims;
    let run = x.shape.len() - dims.iter().filter(|dim| !matches!(dim, Pattern::Run(_))).count();
    let rows: usize = x.shape[..run].iter().product();
    if run == 0 || rows < 2 {
        return Ok(());
    }
    for row in (0..rows).step_by(rows.div_ceil(TRIED)) {
        let alone = run_kernel(
            &one_row(case, x, run, rows, row),
            &one_row_types(results, run),
            0x3C,
            &mut Sequential,
        )?;
        for (index, (alone, together)) in alone.iter().zip(together).enumerate() {
            let length = together.len() / rows;
            if alone[..] != together[row * length..(row + 1) * length] {
                return Err(format!(
                    "row {row} of result {index} is another one when it is computed on its own"
                )
                .into());
            }
        }
    }
    Ok(())
}

/// The results' types for one row.
fn one_row_types(results: &[TensorType], run: usize) -> Vec<TensorType> {
    let one = |ty: &TensorType| {
        let mut ty = ty.clone();
        ty.shape.0[..run].fill(1.into());
        ty
    };
    results.iter().map(one).collect()
}

/// The case with nothing but this row of its first operand.
fn one_row(case: &Case, x: &Input, run: usize, rows: usize, row: usize) -> Case {
    let mut shape = x.shape.clone();
    shape[..run].fill(1);
    let part = |length: usize| row * (length / rows)..(row + 1) * (length / rows);
    let first = Input {
        ty: tensor_type(x.ty.dtype, &shape),
        bytes: x.bytes[part(x.bytes.len())].to_vec(),
        exact: F64Tensor {
            shape: shape.clone(),
            values: x.exact.values[part(x.exact.values.len())].to_vec(),
        },
        shape,
    };
    let others = case.inputs.iter().skip(1).cloned();
    Case {
        op: case.op.clone(),
        inputs: std::iter::once(Some(first)).chain(others).collect(),
        round: case.round,
    }
}
