//! Ops that pick elements: slices, gathers, padding.

use super::args::{Args, expect_dtype, integers};
use super::error::{Fault, fault};
use super::index::{around, for_each_index, normalize_axes, normalize_axis, normalize_index, strides};
use super::layout::dimension;
use super::value::{Value, element_count, zeros};
use crate::op::PadMode;

/// Cuts out a box, possibly with steps.
pub(super) fn slice(args: Args) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let (starts, ends) = (args.integers(1, "starts")?, args.integers(2, "ends")?);
    let axes = match args.optional_integers(3, "axes")? {
        Some(axes) => normalize_axes(&axes, x.rank())?,
        None => (0..starts.len()).collect(),
    };
    let steps = args.optional_integers(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] || starts.len() > x.rank() {
        return fault!(
            "{} starts, {} ends, {} axes and {} steps for {} dimensions",
            starts.len(),
            ends.len(),
            axes.len(),
            steps.len(),
            x.rank()
        );
    }
    // For each dimension, the indices that stay.
    let mut kept: Vec<Vec<usize>> = x.shape().iter().map(|size| (0..*size).collect()).collect();
    for (i, axis) in axes.iter().enumerate() {
        kept[*axis] = slice_indices(x.shape()[*axis], starts[i], ends[i], steps[i])?;
    }
    let shape: Vec<usize> = kept.iter().map(Vec::len).collect();
    let strides = strides(x.shape());
    let mut positions = Vec::with_capacity(element_count(&shape)?);
    for_each_index(&shape, |index| {
        positions.push((0..index.len()).map(|d| kept[d][index[d]] * strides[d]).sum());
    });
    Ok(x.take(shape, &positions))
}

/// The indices `start, start + step, ...` before `end`, both clamped as ONNX says.
fn slice_indices(size: usize, start: i64, end: i64, step: i64) -> Result<Vec<usize>, Fault> {
    let size = i128::from(size as u64);
    let from_end = |at: i64| if at < 0 { i128::from(at) + size } else { i128::from(at) };
    let (start, end, step) = (from_end(start), from_end(end), i128::from(step));
    let mut indices = Vec::new();
    if step > 0 {
        let (mut at, end) = (start.clamp(0, size), end.clamp(0, size));
        while at < end {
            indices.push(at as usize);
            at += step;
        }
    } else if step < 0 {
        // An empty dimension has no index to start from; -1 makes the loop end at once.
        let last = size - 1;
        let (mut at, end) = (start.clamp(0.min(last), last), end.clamp(-1, last));
        while at > end {
            indices.push(at as usize);
            at += step;
        }
    } else {
        return fault!("`steps` holds 0");
    }
    Ok(indices)
}

/// Whole slices along one axis.
pub(super) fn gather(axis: i64, args: Args) -> Result<Value, Fault> {
    let (x, indices) = (args.required(0, "x")?, args.required(1, "indices")?);
    let axis = normalize_axis(axis, x.rank())?;
    let (outer, size, inner) = around(x.shape(), axis);
    let at = integers(indices, "indices")?
        .into_iter()
        .map(|index| normalize_index(index, size, "`indices`"))
        .collect::<Result<Vec<_>, _>>()?;
    let shape = [&x.shape()[..axis], indices.shape(), &x.shape()[axis + 1..]].concat();
    let mut positions = Vec::with_capacity(element_count(&shape)?);
    for o in 0..outer {
        for index in &at {
            let first = (o * size + index) * inner;
            positions.extend(first..first + inner);
        }
    }
    Ok(x.take(shape, &positions))
}

/// One element for each index along one axis.
pub(super) fn gather_elements(axis: i64, args: Args) -> Result<Value, Fault> {
    let (x, indices) = (args.required(0, "x")?, args.required(1, "indices")?);
    let axis = normalize_axis(axis, x.rank())?;
    let fits =
        indices.rank() == x.rank() && (0..x.rank()).all(|d| d == axis || indices.shape()[d] <= x.shape()[d]);
    if !fits {
        return fault!(
            "`indices` has shape {:?}, which does not lie within {:?}",
            indices.shape(),
            x.shape()
        );
    }
    let at = integers(indices, "indices")?;
    let strides = strides(x.shape());
    let mut positions = Vec::with_capacity(at.len());
    let mut result = Ok(());
    for_each_index(indices.shape(), |index| {
        match normalize_index(at[positions.len()], x.shape()[axis], "`indices`") {
            Ok(picked) => {
                let moved = |d: usize| if d == axis { picked } else { index[d] };
                positions.push((0..index.len()).map(|d| moved(d) * strides[d]).sum());
            }
            Err(fault) => {
                positions.push(0);
                result = Err(fault);
            }
        }
    });
    result?;
    Ok(x.take(indices.shape().to_vec(), &positions))
}

/// The last dimension of the indices addresses leading dimensions after the shared ones.
pub(super) fn gather_nd(batch_dims: usize, args: Args) -> Result<Value, Fault> {
    let (x, indices) = (args.required(0, "x")?, args.required(1, "indices")?);
    let Some((depth, lead)) = indices.shape().split_last() else {
        return fault!("`indices` is a scalar, expected at least one dimension");
    };
    let shared = lead.get(..batch_dims).filter(|dims| x.shape().get(..batch_dims) == Some(*dims));
    if shared.is_none() || *depth > x.rank() - batch_dims {
        return fault!(
            "`indices` of shape {:?} does not address `x` of shape {:?} with {batch_dims} shared dimensions",
            indices.shape(),
            x.shape()
        );
    }
    let addressed = &x.shape()[batch_dims..batch_dims + depth];
    let rest = &x.shape()[batch_dims + depth..];
    let shape = [lead, rest].concat();
    let inner: usize = rest.iter().product();
    let batches: usize = lead[..batch_dims].iter().product();
    let rows: usize = lead[batch_dims..].iter().product();
    let per_batch: usize = x.shape()[batch_dims..].iter().product();
    let at = integers(indices, "indices")?;
    let mut positions = Vec::with_capacity(element_count(&shape)?);
    for batch in 0..batches {
        for row in 0..rows {
            let first = (batch * rows + row) * depth;
            let mut block = 0;
            for (index, size) in at[first..first + depth].iter().zip(addressed) {
                block = block * size + normalize_index(*index, *size, "`indices`")?;
            }
            let start = batch * per_batch + block * inner;
            positions.extend(start..start + inner);
        }
    }
    Ok(x.take(shape, &positions))
}

/// New elements around the old ones; negative pads crop, before anything is padded.
pub(super) fn pad(mode: PadMode, args: Args) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let pads = args.integers(1, "pads")?;
    let axes = match args.optional_integers(3, "axes")? {
        Some(axes) => normalize_axes(&axes, x.rank())?,
        None => (0..x.rank()).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return fault!(
            "`pads` has {} elements, expected {} for {} axes",
            pads.len(),
            2 * axes.len(),
            axes.len()
        );
    }
    let fill = match args.optional(2) {
        Some(value) => {
            expect_dtype(value, "value", x.dtype())?;
            if value.len() != 1 {
                return fault!("`value` has shape {:?}, expected a scalar", value.shape());
            }
            value.with_shape(vec![1])
        }
        None => zeros(x.dtype(), 1),
    };
    // For each dimension, where the elements come from; `None` is a new one.
    let mut sources: Vec<Vec<Option<usize>>> =
        x.shape().iter().map(|size| (0..*size).map(Some).collect()).collect();
    for (i, axis) in axes.iter().enumerate() {
        sources[*axis] = pad_sources(mode, x.shape()[*axis], pads[i], pads[axes.len() + i])?;
    }
    let shape: Vec<usize> = sources.iter().map(Vec::len).collect();
    let strides = strides(x.shape());
    let mut positions = Vec::with_capacity(element_count(&shape)?);
    // The fill is joined to the end of `x`.
    for_each_index(&shape, |index| {
        let at: Option<usize> = (0..index.len()).map(|d| sources[d][index[d]].map(|i| i * strides[d])).sum();
        positions.push(at.unwrap_or(x.len()));
    });
    Ok(Value::join(x.dtype(), &[x, &fill]).take(shape, &positions))
}

/// Where each index of a padded dimension comes from.
fn pad_sources(mode: PadMode, size: usize, begin: i64, end: i64) -> Result<Vec<Option<usize>>, Fault> {
    let size = size as i64;
    let total = size.checked_add(begin).and_then(|sum| sum.checked_add(end)).unwrap_or(i64::MAX);
    if total < 0 {
        return fault!("pads {begin} and {end} crop more than a dimension of {size}");
    }
    element_count(&[dimension(total, "pads")?])?;
    // What is left of the dimension when negative pads have cropped it.
    let first = (-begin).clamp(0, size);
    let left = size - first - (-end).max(0);
    if left <= 0 && mode != PadMode::Constant && total > 0 {
        return fault!("an empty dimension has no elements to pad with");
    }
    Ok((0..total)
        .map(|i| {
            // Counted from the first element that is left.
            let i = i - begin.max(0);
            let inside = match mode {
                PadMode::Constant => return (0..left).contains(&i).then_some((first + i) as usize),
                PadMode::Edge => i.clamp(0, left - 1),
                PadMode::Wrap => i.rem_euclid(left),
                PadMode::Reflect if left == 1 => 0,
                PadMode::Reflect => {
                    let at = i.rem_euclid(2 * (left - 1));
                    at.min(2 * (left - 1) - at)
                }
            };
            Some((first + inside) as usize)
        })
        .collect())
}
