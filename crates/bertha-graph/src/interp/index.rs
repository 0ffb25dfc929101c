//! Arithmetic of shapes, axes and positions.

use super::error::{Fault, fault};
use super::value::element_count;

/// `axis`, counted from the end when negative, as a position within `rank` dimensions.
pub(super) fn normalize_axis(axis: i64, rank: usize) -> Result<usize, Fault> {
    let rank = rank as i64;
    if axis < -rank || axis >= rank {
        return fault!("axis {axis} is out of range for {rank} dimensions");
    }
    Ok((if axis < 0 { axis + rank } else { axis }) as usize)
}

/// All of `axes` normalised; none may occur twice.
pub(super) fn normalize_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, Fault> {
    let mut normal = Vec::with_capacity(axes.len());
    for axis in axes {
        let at = normalize_axis(*axis, rank)?;
        if normal.contains(&at) {
            return fault!("axis {axis} is given twice");
        }
        normal.push(at);
    }
    Ok(normal)
}

/// `index`, counted from the end when negative, as a position within a dimension of `size`.
pub(super) fn normalize_index(index: i64, size: usize, what: &str) -> Result<usize, Fault> {
    let size = size as i64;
    if index < -size || index >= size {
        return fault!("{what}: index {index} is out of range for a dimension of {size}");
    }
    Ok((if index < 0 { index + size } else { index }) as usize)
}

/// Elements from one index to the next, for each dimension of a row-major tensor.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d].saturating_mul(shape[d]);
    }
    strides
}

/// The shape to which all of `shapes` broadcast by NumPy's rule.
pub(super) fn broadcast(shapes: &[&[usize]]) -> Result<Vec<usize>, Fault> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut result = vec![1; rank];
    for shape in shapes {
        for (d, size) in shape.iter().enumerate() {
            let slot = &mut result[rank - shape.len() + d];
            match (*slot, *size) {
                (_, 1) => {}
                (1, size) => *slot = size,
                (a, b) if a == b => {}
                _ => return fault!("shapes {shapes:?} do not broadcast: a dimension must be equal or 1"),
            }
        }
    }
    element_count(&result)?;
    Ok(result)
}

/// Position in an operand of shape `from` for every element of `to`, to which it broadcasts.
pub(super) fn broadcast_positions(from: &[usize], to: &[usize]) -> Result<Vec<usize>, Fault> {
    let fits =
        from.len() <= to.len() && from.iter().rev().zip(to.iter().rev()).all(|(a, b)| *a == *b || *a == 1);
    if !fits {
        return fault!("shape {from:?} does not broadcast to {to:?}");
    }
    let lead = to.len() - from.len();
    let mut steps = vec![0; to.len()];
    for (d, stride) in strides(from).into_iter().enumerate() {
        steps[lead + d] = if from[d] == 1 { 0 } else { stride };
    }
    Ok(strided_positions(to, &steps))
}

/// `sum(index[d] * steps[d])` for every index of `shape` in row-major order.
pub(super) fn strided_positions(shape: &[usize], steps: &[usize]) -> Vec<usize> {
    let mut positions = Vec::new();
    for_each_index(shape, |index| positions.push(index.iter().zip(steps).map(|(i, s)| i * s).sum()));
    positions
}

/// Calls `f` with every index of `shape`, in row-major order.
pub(super) fn for_each_index(shape: &[usize], mut f: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0; shape.len()];
    loop {
        f(&index);
        let Some(d) = (0..shape.len()).rev().find(|d| index[*d] + 1 < shape[*d]) else { return };
        index[d] += 1;
        index[d + 1..].fill(0);
    }
}

/// The sizes before, at and after `axis`: a tensor seen as `[outer, size, inner]`.
pub(super) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}
