//! Ops that move elements without looking at them, but for those that take indices.

use super::args::{Args, expect_dtype, integers};
use super::error::{Fault, fault};
use super::index::{
    around, broadcast, broadcast_positions, normalize_axes, normalize_axis, strided_positions, strides,
};
use super::value::{Value, element_count};

/// A dimension that an operand asks for.
pub(super) fn dimension(size: i64, name: &str) -> Result<usize, Fault> {
    usize::try_from(size).map_err(|_| Fault(format!("`{name}`: {size} is not a size")))
}

/// A shape that an operand asks for.
pub(super) fn dimensions(sizes: &[i64], name: &str) -> Result<Vec<usize>, Fault> {
    sizes.iter().map(|size| dimension(*size, name)).collect()
}

/// Same elements, other shape.
pub(super) fn reshape(allow_zero: bool, args: Args) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let target = args.integers(1, "shape")?;
    let shape = reshape_target(x.shape(), &target, allow_zero)?;
    if element_count(&shape)? != x.len() {
        return fault!("shape {:?} cannot become {shape:?}: the number of elements differs", x.shape());
    }
    Ok(x.with_shape(shape))
}

fn reshape_target(from: &[usize], target: &[i64], allow_zero: bool) -> Result<Vec<usize>, Fault> {
    let mut shape = Vec::with_capacity(target.len());
    let mut inferred = None;
    // Copied dimensions are left out of both products, so that -1 is known even where a copied dimension is 0.
    let mut copied = vec![false; from.len()];
    let mut asked = 1usize;
    for (d, size) in target.iter().enumerate() {
        shape.push(match *size {
            -1 if inferred.is_some() => return fault!("`shape` {target:?} has -1 twice"),
            -1 => {
                inferred = Some(d);
                1
            }
            0 if !allow_zero => {
                let Some(size) = from.get(d) else {
                    return fault!("`shape` {target:?} copies dimension {d}, but `x` has shape {from:?}");
                };
                copied[d] = true;
                *size
            }
            size => {
                let size = dimension(size, "shape")?;
                asked = asked.saturating_mul(size);
                size
            }
        });
    }
    if let Some(d) = inferred {
        let left: usize =
            from.iter().zip(&copied).filter(|(_, copied)| !**copied).map(|(size, _)| size).product();
        if asked == 0 || !left.is_multiple_of(asked) {
            return fault!("shape {from:?} cannot become {target:?}: -1 has no value");
        }
        shape[d] = left / asked;
    }
    Ok(shape)
}

/// Dimensions in another order.
pub(super) fn transpose(perm: &[usize], args: Args) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    if sorted.iter().copied().ne(0..x.rank()) {
        return fault!("{perm:?} is not a permutation of the dimensions of {:?}", x.shape());
    }
    let strides = strides(x.shape());
    let shape: Vec<usize> = perm.iter().map(|d| x.shape()[*d]).collect();
    let steps: Vec<usize> = perm.iter().map(|d| strides[*d]).collect();
    Ok(x.take(shape.clone(), &strided_positions(&shape, &steps)))
}

/// Removes dimensions of size 1.
pub(super) fn squeeze(args: Args) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let removed = match args.optional_integers(1, "axes")? {
        Some(axes) => normalize_axes(&axes, x.rank())?,
        None => (0..x.rank()).filter(|d| x.shape()[*d] == 1).collect(),
    };
    if let Some(d) = removed.iter().find(|d| x.shape()[**d] != 1) {
        return fault!("dimension {d} of {:?} is not 1 and cannot be removed", x.shape());
    }
    let shape = (0..x.rank()).filter(|d| !removed.contains(d)).map(|d| x.shape()[d]).collect();
    Ok(x.with_shape(shape))
}

/// Inserts dimensions of size 1.
pub(super) fn unsqueeze(args: Args) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let axes = args.integers(1, "axes")?;
    let rank = x.rank() + axes.len();
    let inserted = normalize_axes(&axes, rank)?;
    let mut kept = x.shape().iter().copied();
    let shape = (0..rank).map(|d| if inserted.contains(&d) { 1 } else { kept.next().unwrap_or(1) }).collect();
    Ok(x.with_shape(shape))
}

/// Joins along one axis.
pub(super) fn concat(axis: i64, args: Args) -> Result<Value, Fault> {
    let first = args.required(0, "x")?;
    let axis = normalize_axis(axis, first.rank())?;
    let mut parts = Vec::with_capacity(args.0.len());
    for at in 0..args.0.len() {
        let part = args.required(at, "x")?;
        expect_dtype(part, "x", first.dtype())?;
        let agrees = part.rank() == first.rank()
            && (0..part.rank()).all(|d| d == axis || part.shape()[d] == first.shape()[d]);
        if !agrees {
            return fault!(
                "operand {at} has shape {:?}, which does not join {:?} along dimension {axis}",
                part.shape(),
                first.shape()
            );
        }
        parts.push(part);
    }
    let mut shape = first.shape().to_vec();
    shape[axis] = parts.iter().map(|part| part.shape()[axis]).sum();
    let mut positions = Vec::with_capacity(element_count(&shape)?);
    let outer: usize = shape[..axis].iter().product();
    for o in 0..outer {
        let mut start = 0;
        for part in &parts {
            let (_, size, inner) = around(part.shape(), axis);
            let row = size * inner;
            positions.extend(start + o * row..start + (o + 1) * row);
            start += part.len();
        }
    }
    Ok(Value::join(first.dtype(), &parts).take(shape, &positions))
}

/// Cuts along one axis.
pub(super) fn split(axis: i64, parts: usize, args: Args) -> Result<Vec<Value>, Fault> {
    let x = args.required(0, "x")?;
    let axis = normalize_axis(axis, x.rank())?;
    let (outer, size, inner) = around(x.shape(), axis);
    let sizes = match args.optional_integers(1, "sizes")? {
        Some(sizes) => dimensions(&sizes, "sizes")?,
        None => even_sizes(size, parts)?,
    };
    let total = sizes.iter().try_fold(0usize, |sum, size| sum.checked_add(*size));
    if sizes.len() != parts || total != Some(size) {
        return fault!("sizes {sizes:?} do not cut a dimension of {size} into {parts} parts");
    }
    let mut start = 0;
    let mut results = Vec::with_capacity(parts);
    for part in sizes {
        let mut shape = x.shape().to_vec();
        shape[axis] = part;
        let rows = (0..outer).flat_map(|o| {
            let first = (o * size + start) * inner;
            first..first + part * inner
        });
        results.push(x.take(shape, &rows.collect::<Vec<_>>()));
        start += part;
    }
    Ok(results)
}

/// Pieces of `ceil(size / parts)`; those at the end get what is left.
fn even_sizes(size: usize, parts: usize) -> Result<Vec<usize>, Fault> {
    if parts == 0 {
        return fault!("there must be at least one part");
    }
    let chunk = size.div_ceil(parts);
    Ok((0..parts).map(|part| chunk.min(size.saturating_sub(part.saturating_mul(chunk)))).collect())
}

/// Broadcast in both directions.
pub(super) fn expand(args: Args) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let target = dimensions(&args.integers(1, "shape")?, "shape")?;
    let shape = broadcast(&[x.shape(), &target])?;
    let positions = broadcast_positions(x.shape(), &shape)?;
    Ok(x.take(shape, &positions))
}

/// Repeats each dimension.
pub(super) fn tile(args: Args) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let repeats = dimensions(&args.integers(1, "repeats")?, "repeats")?;
    if repeats.len() != x.rank() {
        return fault!("`repeats` has {} elements for {} dimensions", repeats.len(), x.rank());
    }
    let shape: Vec<usize> = x.shape().iter().zip(&repeats).map(|(size, n)| size.saturating_mul(*n)).collect();
    element_count(&shape)?;
    let strides = strides(x.shape());
    let mut positions = Vec::new();
    super::index::for_each_index(&shape, |index| {
        positions.push((0..index.len()).map(|d| index[d] % x.shape()[d] * strides[d]).sum());
    });
    Ok(x.take(shape, &positions))
}

/// The dimensions `start..end` as a tensor.
pub(super) fn shape(start: i64, end: Option<i64>, args: Args) -> Result<Value, Fault> {
    let x = args.required(0, "x")?;
    let rank = x.rank() as i64;
    let clamp = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let (start, end) = (clamp(start), end.map_or(x.rank(), clamp));
    let dims: Vec<i128> = x.shape().get(start..end).unwrap_or(&[]).iter().map(|d| *d as i128).collect();
    Ok(Value::ints(crate::DType::I64, vec![dims.len()], dims))
}

/// One value, repeated.
pub(super) fn constant_of_shape(value: &crate::TensorData, args: Args) -> Result<Value, Fault> {
    let shape = dimensions(&integers(args.required(0, "shape")?, "shape")?, "shape")?;
    if value.len() != 1 {
        return fault!("the value has {} elements, expected one", value.len());
    }
    let count = element_count(&shape)?;
    Ok(Value::from_tensor(value).repeat_element(0, shape, count))
}

/// `start, start + delta, ...` up to, and without, `limit`.
pub(super) fn range(args: Args, context: super::Context) -> Result<Value, Fault> {
    use super::value::Elements;
    let start = args.required(0, "start")?;
    let (limit, delta) = (args.required(1, "limit")?, args.required(2, "delta")?);
    for (value, name) in [(start, "start"), (limit, "limit"), (delta, "delta")] {
        expect_dtype(value, name, start.dtype())?;
        if value.len() != 1 {
            return fault!("`{name}` has shape {:?}, expected a scalar", value.shape());
        }
    }
    match (start.elements(), limit.elements(), delta.elements()) {
        (Elements::Int(s), Elements::Int(l), Elements::Int(d)) => {
            let (s, l, d) = (s[0], l[0], d[0]);
            if d == 0 {
                return fault!("`delta` is 0");
            }
            let steps = (l - s) / d + i128::from((l - s) % d != 0 && ((l < s) == (d < 0)));
            let count = range_count(steps as f64)?;
            let values = (0..count as i128).map(|i| s + i * d).collect();
            Ok(Value::ints(start.dtype(), vec![count], values))
        }
        (Elements::Float(s), Elements::Float(l), Elements::Float(d)) => {
            let (s, l, d) = (s[0], l[0], d[0]);
            if d == 0.0 {
                return fault!("`delta` is 0");
            }
            let count = range_count(((l - s) / d).ceil())?;
            let values = (0..count).map(|i| s + i as f64 * d).collect();
            Ok(context.floats(start.dtype(), vec![count], values))
        }
        _ => fault!("not defined for {}", start.dtype()),
    }
}

fn range_count(steps: f64) -> Result<usize, Fault> {
    if steps.is_nan() {
        return fault!("the number of elements is not a number");
    }
    let count = steps.max(0.0) as usize;
    element_count(&[count])
}
