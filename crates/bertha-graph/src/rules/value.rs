//! Contents of small integer tensors as functions of dimensions.
//!
//! Exporters compute shapes with tensor operations: `Shape`, `Gather`, `Concat`, `Mul`, ... Following the contents
//! through them turns a run-time shape into a symbolic one.

use crate::dim::Dim;
use crate::dtype::DType;
use crate::op::{BinaryOp, ReduceOp};
use crate::shape::TensorType;

use super::{Fact, TRACKED_ELEMENTS, dims};

/// Whether these can be the contents of a tensor of this type: as many, integers, each within range.
pub(super) fn fits(value: &[Dim], ty: &TensorType) -> bool {
    let Some(shape) = ty.shape.as_const() else { return false };
    let Some((low, high)) = range(ty.dtype) else { return false };
    count(&shape) == Some(value.len())
        && value.iter().all(|dim| match dim.as_const() {
            Some(value) => (low..=high).contains(&value),
            None => !dim.is_unwieldy(),
        })
}

/// Smallest and largest value of an integer type, as far as `i64` goes.
fn range(dtype: DType) -> Option<(i64, i64)> {
    match dtype {
        DType::I64 => Some((i64::MIN, i64::MAX)),
        DType::I32 => Some((i32::MIN.into(), i32::MAX.into())),
        DType::I16 => Some((i16::MIN.into(), i16::MAX.into())),
        DType::I8 => Some((i8::MIN.into(), i8::MAX.into())),
        DType::U64 => Some((0, i64::MAX)),
        DType::U32 => Some((0, u32::MAX.into())),
        DType::U16 => Some((0, u16::MAX.into())),
        DType::U8 => Some((0, u8::MAX.into())),
        DType::Bool => Some((0, 1)),
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 => None,
    }
}

/// Elements of a shape, if few enough to be tracked.
pub(super) fn count(shape: &[usize]) -> Option<usize> {
    let zero = shape.contains(&0);
    let count = if zero { Some(0) } else { shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)) };
    count.filter(|count| *count <= TRACKED_ELEMENTS)
}

/// The contents of `fact` broadcast to `to`.
pub(super) fn spread(fact: &Fact, to: &[usize]) -> Option<Vec<Dim>> {
    let value = fact.value.as_ref()?;
    let from = fact.ty.shape.as_const()?;
    let total = count(to)?;
    let lead = to.len().checked_sub(from.len())?;
    (0..total)
        .map(|flat| {
            let (mut rest, mut at, mut stride) = (flat, 0, 1);
            for (axis, size) in to.iter().enumerate().rev() {
                let position = rest.checked_rem(*size)?;
                rest /= size;
                if axis >= lead {
                    let own = from[axis - lead];
                    at += if own == 1 { 0 } else { position * stride };
                    stride *= own;
                }
            }
            value.get(at).cloned()
        })
        .collect()
}

/// `f` on the contents of operands broadcast together.
pub(super) fn binary(op: BinaryOp, a: &Fact, b: &Fact, to: &[Dim]) -> Option<Vec<Dim>> {
    if a.value.is_none() || b.value.is_none() {
        return None;
    }
    let to: Vec<usize> = to.iter().map(|d| usize::try_from(d.as_const()?).ok()).collect::<Option<_>>()?;
    let (a, b) = (spread(a, &to)?, spread(b, &to)?);
    a.iter().zip(&b).map(|(a, b)| apply(op, a, b)).collect()
}

fn apply(op: BinaryOp, a: &Dim, b: &Dim) -> Option<Dim> {
    let truth = |holds: bool| Dim::from(i64::from(holds));
    match op {
        BinaryOp::Add => add(a, b),
        BinaryOp::Sub => sub(a, b),
        BinaryOp::Mul => mul(a, b),
        BinaryOp::Div => div(a, b),
        BinaryOp::Pow => {
            let exponent = u32::try_from(b.as_const()?).ok()?;
            a.as_const()?.checked_pow(exponent).map(Dim::from)
        }
        BinaryOp::Max => dims::max(a, b),
        BinaryOp::Min => dims::min(a, b),
        BinaryOp::And => Some(truth(a.as_const()? != 0 && b.as_const()? != 0)),
        BinaryOp::Equal => dims::equal(a, b).map(truth),
        BinaryOp::Greater => dims::greater(a, b).map(truth),
        BinaryOp::Less => dims::greater(b, a).map(truth),
        BinaryOp::GreaterOrEqual => dims::greater(b, a).map(|less| truth(!less)),
        BinaryOp::LessOrEqual => dims::greater(a, b).map(|greater| truth(!greater)),
    }
}

/// Arithmetic that refuses to overflow: the machine's integers wrap, polynomials saturate, and neither is known.
pub(super) fn add(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a.as_const(), b.as_const()) {
        (Some(a), Some(b)) => a.checked_add(b).map(Dim::from),
        _ => tame(a + b),
    }
}

fn sub(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a.as_const(), b.as_const()) {
        (Some(a), Some(b)) => a.checked_sub(b).map(Dim::from),
        _ => tame(a - b),
    }
}

pub(super) fn mul(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a.as_const(), b.as_const()) {
        (Some(a), Some(b)) => a.checked_mul(b).map(Dim::from),
        _ => tame(a * b),
    }
}

fn div(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a.as_const(), b.as_const()) {
        (Some(a), Some(b)) => a.checked_div(b).map(Dim::from),
        _ => a.exact_div(b).or_else(|| {
            // Integers truncate, which is rounding down where nothing is negative.
            let divisor = b.as_const().filter(|_| a.lower_bound().is_some_and(|least| least >= 0))?;
            tame(a.floor_div(divisor)?)
        }),
    }
}

fn tame(dim: Dim) -> Option<Dim> {
    (!dim.is_unwieldy()).then_some(dim)
}

/// The contents of a tensor converted to `to`.
pub(super) fn cast(fact: &Fact, to: DType) -> Option<Vec<Dim>> {
    let value = fact.value.as_ref()?;
    if to != DType::Bool {
        return Some(value.clone());
    }
    let zero = Dim::from(0);
    value.iter().map(|dim| Some(Dim::from(i64::from(!dims::equal(dim, &zero)?)))).collect()
}

/// Joins two elements, when the result is known.
pub(super) type Combine = fn(&Dim, &Dim) -> Option<Dim>;

/// Sum or product of the contents along `axes`.
pub(super) fn reduce(op: ReduceOp, fact: &Fact, axes: &[usize]) -> Option<Vec<Dim>> {
    let value = fact.value.as_ref()?;
    let shape = fact.ty.shape.as_const()?;
    let (start, combine): (i64, Combine) = match op {
        ReduceOp::Sum => (0, add),
        ReduceOp::Prod => (1, mul),
        ReduceOp::Mean => return None,
    };
    let kept: Vec<usize> =
        shape.iter().enumerate().map(|(axis, size)| if axes.contains(&axis) { 1 } else { *size }).collect();
    let mut sums = vec![Dim::from(start); count(&kept)?];
    for (flat, dim) in value.iter().enumerate() {
        let (mut rest, mut at, mut stride) = (flat, 0, 1);
        for (size, kept) in shape.iter().zip(&kept).rev() {
            at += rest.checked_rem(*size)?.min(kept.saturating_sub(1)) * stride;
            rest /= size;
            stride *= kept;
        }
        let sum = sums.get_mut(at)?;
        *sum = combine(sum, dim)?;
    }
    Some(sums)
}
