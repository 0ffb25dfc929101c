//! Ops that copy elements in another order.

use super::error::{Outcome, fault};
use super::nest::{MAX_RANK, Nest, Small, around, strides};
use super::number::with_word;
use super::operands::{Operands, axis_set, expect_dtype, normalize_axis};
use super::tensor::{TensorMut, TensorRef};

/// Side of the square of elements that a transposing copy moves at a time, so that the cache lines of both sides are
/// used whole.
const TILE: usize = 16;

/// Writes `y` from front to back with the elements of `x` that `nest` walks over.
fn copy(nest: &Nest<1>, x: TensorRef, y: &mut TensorMut) {
    with_word!(x.dtype, W => copy_words::<W>(nest, x.words(), y.words()));
}

fn copy_words<W: Copy>(nest: &Nest<1>, x: &[W], y: &mut [W]) {
    let (len, [step]) = nest.inner();
    let mut rows = y.chunks_mut(len.max(1));
    nest.for_each_run(|[at]| {
        let Some(y) = rows.next() else { return };
        match step {
            1 => y.copy_from_slice(&x[at..at + len]),
            0 => y.fill(x[at]),
            _ => {
                let mut at = at;
                for y in y {
                    *y = x[at];
                    at = at.wrapping_add_signed(step);
                }
            }
        }
    });
}

/// The same bytes: reshape, squeeze, unsqueeze.
pub(super) fn same_elements(operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_dtype(x.dtype)?;
    if x.len() != y.len() {
        return fault!("`x` of shape {:?} has {} elements, the result has {}", x.shape, x.len(), y.len());
    }
    y.bytes.copy_from_slice(x.bytes);
    Ok(())
}

/// Dimensions in another order.
pub(super) fn transpose(perm: &[usize], operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_dtype(x.dtype)?;
    let mut seen = [false; MAX_RANK];
    let permutes = perm.len() == x.rank()
        && perm.iter().all(|d| *d < x.rank() && !std::mem::replace(&mut seen[*d], true));
    if !permutes {
        return fault!("{perm:?} is not a permutation of the dimensions of {:?}", x.shape);
    }
    let shape = Small::of(perm.iter().map(|d| x.shape[*d]))?;
    y.expect_shape(&shape)?;
    let strides = strides(x.shape)?;
    let mut nest = Nest::at([0]);
    for d in perm {
        nest.push(x.shape[*d], [strides[*d] as isize])?;
    }
    let (columns, [step]) = nest.inner();
    if step == 1 || y.len() <= 1 {
        copy(&nest, x, y);
        return Ok(());
    }
    // The innermost dimension of the result is not that of `x`: move squares of the two.
    let Some(last) = x.shape.iter().rposition(|size| *size != 1) else { return Ok(()) };
    let rows_at = perm.iter().position(|d| *d == last).unwrap_or(0);
    let row_step: usize = shape[rows_at + 1..].iter().product();
    let rows = shape[rows_at];
    let y_strides = self::strides(&shape)?;
    // All loops but those of the square, over positions of both sides.
    let inner_dims = dims_of_inner_run(&shape, perm, &strides);
    let mut outer = Nest::at([0, 0]);
    for (d, from) in perm.iter().enumerate() {
        if d != rows_at && !inner_dims[d] {
            outer.push(shape[d], [strides[*from] as isize, y_strides[d] as isize])?;
        }
    }
    let square = Square { rows, columns, x_step: step as usize, y_step: row_step };
    with_word!(x.dtype, W => {
        let (x, y) = (x.words::<W>(), y.words::<W>());
        outer.for_each(|[at_x, at_y]| square.transpose(&x[at_x..], &mut y[at_y..]));
    });
    Ok(())
}

/// The dimensions of the result that the innermost run joins.
fn dims_of_inner_run(shape: &[usize], perm: &[usize], strides: &[usize]) -> [bool; MAX_RANK] {
    let mut joined = [false; MAX_RANK];
    let mut expected = None;
    for d in (0..shape.len()).rev().filter(|d| shape[*d] != 1) {
        let stride = strides[perm[d]];
        if expected.is_some_and(|expected| expected != stride) {
            break;
        }
        joined[d] = true;
        expected = Some(stride * shape[d]);
    }
    joined
}

/// `columns` runs of `x`, each of `rows` neighbouring elements, become `rows` runs of `y`.
struct Square {
    rows: usize,
    columns: usize,
    x_step: usize,
    y_step: usize,
}

impl Square {
    fn transpose<W: Copy>(&self, x: &[W], y: &mut [W]) {
        for first_row in (0..self.rows).step_by(TILE) {
            let rows = first_row..self.rows.min(first_row + TILE);
            for first_column in (0..self.columns).step_by(TILE) {
                let columns = first_column..self.columns.min(first_column + TILE);
                for row in rows.clone() {
                    let y = &mut y[row * self.y_step..][columns.clone()];
                    for (y, column) in y.iter_mut().zip(columns.clone()) {
                        *y = x[column * self.x_step + row];
                    }
                }
            }
        }
    }
}

/// Broadcast to the shape of the result.
pub(super) fn expand(operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_dtype(x.dtype)?;
    copy(&Nest::broadcast(y.shape, [x.shape])?, x, y);
    Ok(())
}

/// Repeats each dimension.
pub(super) fn tile(operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_dtype(x.dtype)?;
    let repeats = operands.list(1, "repeats")?;
    let agrees = repeats.len() == x.rank()
        && y.shape.len() == x.rank()
        && (0..x.rank()).all(|d| {
            usize::try_from(repeats[d]).is_ok_and(|n| n.checked_mul(x.shape[d]) == Some(y.shape[d]))
        });
    if !agrees {
        return fault!("{:?} repeated {:?} times is not the planned {:?}", x.shape, &*repeats, y.shape);
    }
    let strides = strides(x.shape)?;
    let mut nest = Nest::at([0]);
    for d in 0..x.rank() {
        nest.push(repeats[d] as usize, [0])?;
        nest.push(x.shape[d], [strides[d] as isize])?;
    }
    copy(&nest, x, y);
    Ok(())
}

/// Cuts out a box, possibly with steps.
pub(super) fn slice(operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_dtype(x.dtype)?;
    let (starts, ends) = (operands.list(1, "starts")?, operands.list(2, "ends")?);
    let axes = match operands.optional_list(3, "axes")? {
        Some(axes) => axes,
        None => Small::of(0..starts.len() as i64)?,
    };
    let steps = match operands.optional_list(4, "steps")? {
        Some(steps) => steps,
        None => Small::of(starts.iter().map(|_| 1))?,
    };
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return fault!("`starts`, `ends`, `axes` and `steps` have different lengths");
    }
    axis_set(&axes, x.rank())?;
    let strides = strides(x.shape)?;
    let mut loops =
        Small::of(x.shape.iter().zip(strides.iter()).map(|(size, stride)| (*size, *stride as isize)))?;
    let mut first = 0;
    for (i, axis) in axes.iter().enumerate() {
        let d = normalize_axis(*axis, x.rank())?;
        let (start, count) = slice_range(x.shape[d], starts[i], ends[i], steps[i])?;
        first += start * strides[d];
        loops[d] = (count, (strides[d] as isize).saturating_mul(steps[i] as isize));
    }
    y.expect_shape(&Small::of(loops.iter().map(|(count, _)| *count))?)?;
    let mut nest = Nest::at([first]);
    for (count, step) in loops.iter() {
        nest.push(*count, [*step])?;
    }
    copy(&nest, x, y);
    Ok(())
}

/// The first index and how many there are from `start` in steps before `end`, both clamped as ONNX says.
fn slice_range(size: usize, start: i64, end: i64, step: i64) -> Outcome<(usize, usize)> {
    let size = size as i64;
    let counted = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
    let (start, end) = (counted(start), counted(end));
    let (start, span) = match step {
        0 => return fault!("`steps` holds 0"),
        1.. => {
            let start = start.clamp(0, size);
            (start, end.clamp(0, size) - start)
        }
        _ if size == 0 => return Ok((0, 0)),
        _ => {
            let start = start.clamp(0, size - 1);
            (start, start - end.clamp(-1, size - 1))
        }
    };
    let count = span.max(0) as u64;
    Ok((if count == 0 { 0 } else { start as usize }, count.div_ceil(step.unsigned_abs()) as usize))
}

/// Cuts along one axis into the planned results.
pub(super) fn split(axis: i64, operands: Operands, results: &mut [Option<TensorMut>]) -> Outcome {
    let x = operands.required(0, "x")?;
    let axis = normalize_axis(axis, x.rank())?;
    let sizes = operands.optional(1).map(|sizes| super::operands::Ints::of(sizes, "sizes")).transpose()?;
    let parts = results.len();
    if sizes.is_some_and(|sizes| sizes.len() != parts) {
        return fault!("there are {parts} results, but not as many sizes");
    }
    let (outer, size, inner) = around(x.shape, axis);
    let chunk = size.div_ceil(parts.max(1));
    let mut start = 0;
    for (part, y) in results.iter_mut().enumerate() {
        let count = match sizes {
            Some(sizes) => usize::try_from(sizes.get(part)).unwrap_or(usize::MAX),
            None => chunk.min(size - start),
        };
        if count > size - start {
            return fault!("the sizes exceed a dimension of {size}");
        }
        if let Some(y) = y {
            y.expect_dtype(x.dtype)?;
            let mut shape = Small::of(x.shape.iter().copied())?;
            shape[axis] = count;
            y.expect_shape(&shape)?;
            let mut nest = Nest::at([start * inner]);
            nest.push(outer, [(size * inner) as isize])?;
            nest.push(count * inner, [1])?;
            copy(&nest, x, y);
        }
        start += count;
    }
    if start != size {
        return fault!("the sizes leave {} of a dimension of {size}", size - start);
    }
    Ok(())
}

/// Joins along one axis.
pub(super) fn concat(axis: i64, operands: Operands, y: &mut TensorMut) -> Outcome {
    let axis = normalize_axis(axis, y.shape.len())?;
    let (outer, size, inner) = around(y.shape, axis);
    let unit = inner * y.dtype.size();
    let mut start = 0;
    for at in 0..operands.0.len() {
        let part = operands.required(at, "x")?;
        expect_dtype(part, "x", y.dtype)?;
        let agrees = part.rank() == y.shape.len()
            && (0..part.rank()).all(|d| d == axis || part.shape[d] == y.shape[d])
            && part.shape[axis] <= size - start;
        if !agrees {
            return fault!("operand {at} of shape {:?} does not fit the planned {:?}", part.shape, y.shape);
        }
        let run = part.shape[axis] * unit;
        if run > 0 {
            for (o, from) in part.bytes.chunks_exact(run).enumerate() {
                let to = (o * size + start) * unit;
                y.bytes[to..to + run].copy_from_slice(from);
            }
        }
        start += part.shape[axis];
    }
    if start != size && outer * inner > 0 {
        return fault!("the operands fill {start} of the planned {size}");
    }
    Ok(())
}
