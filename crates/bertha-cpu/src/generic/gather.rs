//! Ops that pick elements by index, and padding.

use bertha_graph::PadMode;

use super::error::{Outcome, fault};
use super::nest::{Nest, Small, around, strides};
use super::number::with_word;
use super::operands::{Ints, Operands, axis_set, normalize_axis};
use super::scratch::Scratch;
use super::tensor::TensorMut;

/// Whole slices along one axis.
pub(super) fn gather(axis: i64, operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    let indices = operands.required(1, "indices")?;
    y.expect_dtype(x.dtype)?;
    let axis = normalize_axis(axis, x.rank())?;
    let shape = x.shape[..axis].iter().chain(indices.shape).chain(&x.shape[axis + 1..]).copied();
    y.expect_shape(&Small::of(shape)?)?;
    let (outer, size, inner) = around(x.shape, axis);
    let at = Ints::of(indices, "indices")?;
    let run = inner * x.dtype.size();
    if run == 0 || outer == 0 {
        return (0..at.len()).try_for_each(|i| at.position(i, size).map(drop));
    }
    let mut rows = y.bytes.chunks_exact_mut(run);
    for o in 0..outer {
        for i in 0..at.len() {
            let from = (o * size + at.position(i, size)?) * run;
            if let Some(row) = rows.next() {
                row.copy_from_slice(&x.bytes[from..from + run]);
            }
        }
    }
    Ok(())
}

/// One element for each index along one axis.
pub(super) fn gather_elements(axis: i64, operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    let indices = operands.required(1, "indices")?;
    y.expect_dtype(x.dtype)?;
    y.expect_shape(indices.shape)?;
    let axis = normalize_axis(axis, x.rank())?;
    let fits =
        indices.rank() == x.rank() && (0..x.rank()).all(|d| d == axis || indices.shape[d] <= x.shape[d]);
    if !fits {
        return fault!("`indices` has shape {:?}, which does not lie within {:?}", indices.shape, x.shape);
    }
    let at = Ints::of(indices, "indices")?;
    let strides = strides(x.shape)?;
    // The position with index 0 along the axis, for every element of the result.
    let mut nest = Nest::at([0]);
    for d in 0..x.rank() {
        nest.push(indices.shape[d], [if d == axis { 0 } else { strides[d] as isize }])?;
    }
    let (size, step) = (x.shape[axis], strides[axis]);
    let mut outcome = Ok(());
    with_word!(x.dtype, W => {
        let (x, y) = (x.words::<W>(), y.words::<W>());
        let mut element = 0;
        nest.for_each(|[base]| {
            match at.position(element, size) {
                Ok(index) => y[element] = x[base + index * step],
                Err(fault) => outcome = Err(fault),
            }
            element += 1;
        });
    });
    outcome
}

/// The last dimension of the indices addresses leading dimensions after the shared ones.
pub(super) fn gather_nd(batch_dims: usize, operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    let indices = operands.required(1, "indices")?;
    y.expect_dtype(x.dtype)?;
    let (depth, lead) = match indices.shape.split_last() {
        Some((depth, lead)) => (*depth, lead),
        None => return fault!("`indices` is a scalar, expected at least one dimension"),
    };
    let shares = lead.len() >= batch_dims
        && x.rank() >= batch_dims
        && lead[..batch_dims] == x.shape[..batch_dims]
        && depth <= x.rank() - batch_dims;
    if !shares {
        return fault!(
            "`indices` of shape {:?} does not address {:?} with {batch_dims} shared dimensions",
            indices.shape,
            x.shape
        );
    }
    let addressed = &x.shape[batch_dims..batch_dims + depth];
    let rest = &x.shape[batch_dims + depth..];
    y.expect_shape(&Small::of(lead.iter().chain(rest).copied())?)?;
    let rows: usize = lead[batch_dims..].iter().product();
    let batches: usize = lead[..batch_dims].iter().product();
    let run = rest.iter().product::<usize>() * x.dtype.size();
    let per_batch = x.shape[batch_dims..].iter().product::<usize>() * x.dtype.size();
    let at = Ints::of(indices, "indices")?;
    for row in 0..batches * rows {
        let mut block = 0;
        for (i, size) in addressed.iter().enumerate() {
            block = block * size + at.position(row * depth + i, *size)?;
        }
        let from = row / rows * per_batch + block * run;
        y.bytes[row * run..(row + 1) * run].copy_from_slice(&x.bytes[from..from + run]);
    }
    Ok(())
}

/// Marks a new element in the tables of [`pad`].
const NEW: usize = usize::MAX;

/// New elements around the old ones; negative pads crop, before anything is padded.
pub(super) fn pad(mode: PadMode, operands: Operands, y: &mut TensorMut, scratch: &mut Scratch) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_dtype(x.dtype)?;
    let pads = operands.list(1, "pads")?;
    let axes = match operands.optional_list(3, "axes")? {
        Some(axes) => axes,
        None => Small::of(0..x.rank() as i64)?,
    };
    axis_set(&axes, x.rank())?;
    if pads.len() != 2 * axes.len() || y.shape.len() != x.rank() {
        return fault!("`pads` has {} elements for {} axes of {:?}", pads.len(), axes.len(), x.shape);
    }
    let value = operands.optional_typed(2, "value", x.dtype)?;
    if value.is_some_and(|value| value.len() != 1) {
        return fault!("`value` is not a scalar");
    }
    let mut around = Small::of(x.shape.iter().map(|_| (0, 0)))?;
    for (i, axis) in axes.iter().enumerate() {
        around[normalize_axis(*axis, x.rank())?] = (pads[i], pads[axes.len() + i]);
    }
    // One table for each dimension: where in `x` each index comes from, in elements.
    let tables = scratch.one::<usize>(y.shape.iter().sum());
    let strides = strides(x.shape)?;
    let mut first = 0;
    for (d, (begin, end)) in around.iter().enumerate() {
        let table = &mut tables[first..first + y.shape[d]];
        pad_table(mode, x.shape[d], (*begin, *end), table)?;
        table.iter_mut().filter(|at| **at != NEW).for_each(|at| *at *= strides[d]);
        first += table.len();
    }
    with_word!(x.dtype, W => {
        let fill = value.map_or(bytemuck::Zeroable::zeroed(), |value| value.words::<W>()[0]);
        pad_words::<W>(x.words(), fill, y.shape, tables, y.bytes.len(), bytemuck::cast_slice_mut(y.bytes));
    });
    Ok(())
}

/// Where each index of a padded dimension comes from.
fn pad_table(mode: PadMode, size: usize, (begin, end): (i64, i64), table: &mut [usize]) -> Outcome {
    let size = size as i64;
    let total = size.checked_add(begin).and_then(|sum| sum.checked_add(end));
    if total != i64::try_from(table.len()).ok() {
        return fault!("pads {begin} and {end} around {size} do not give the planned {}", table.len());
    }
    let first = begin.saturating_neg().clamp(0, size);
    let left = size - first - end.saturating_neg().max(0);
    if left <= 0 && mode != PadMode::Constant && !table.is_empty() {
        return fault!("an empty dimension has no elements to pad with");
    }
    for (i, at) in table.iter_mut().enumerate() {
        let i = i as i64 - begin.max(0);
        let inside = match mode {
            PadMode::Constant if (0..left).contains(&i) => i,
            PadMode::Constant => {
                *at = NEW;
                continue;
            }
            PadMode::Edge => i.clamp(0, left - 1),
            PadMode::Wrap => i.rem_euclid(left),
            PadMode::Reflect if left == 1 => 0,
            PadMode::Reflect => {
                let at = i.rem_euclid(2 * (left - 1));
                at.min(2 * (left - 1) - at)
            }
        };
        *at = (first + inside) as usize;
    }
    Ok(())
}

fn pad_words<W: Copy>(x: &[W], fill: W, shape: &[usize], tables: &[usize], bytes: usize, y: &mut [W]) {
    let Some((inner, outer)) = shape.split_last() else {
        y[0] = x[0];
        return;
    };
    if bytes == 0 {
        return;
    }
    let (outer_tables, inner_table) = tables.split_at(tables.len() - inner);
    let mut index = [0usize; super::nest::MAX_RANK];
    for row in y.chunks_exact_mut(*inner) {
        let mut base = Some(0);
        let mut first = 0;
        for (d, size) in outer.iter().enumerate() {
            let at = outer_tables[first + index[d]];
            base = base.filter(|_| at != NEW).map(|base: usize| base + at);
            first += size;
        }
        match base {
            Some(base) => row.iter_mut().zip(inner_table).for_each(|(y, at)| {
                *y = if *at == NEW { fill } else { x[base + at] };
            }),
            None => row.fill(fill),
        }
        for d in (0..outer.len()).rev() {
            index[d] += 1;
            if index[d] < outer[d] {
                break;
            }
            index[d] = 0;
        }
    }
}
