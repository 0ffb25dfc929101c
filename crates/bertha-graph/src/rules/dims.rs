//! How dimensions of several operands combine.

use crate::dim::Dim;
use crate::error::RuleError;
use crate::shape::Shape;

use super::FreshSymbols;

/// Whether `dim` is a lone symbol that stands for something only the data decides.
pub(super) fn is_data_dependent(dim: &Dim) -> bool {
    dim.as_symbol().is_some_and(|name| name.starts_with('?'))
}

/// The dimension that two operands share, or `None` when they cannot be equal.
pub(crate) fn unify(a: &Dim, b: &Dim) -> Option<Dim> {
    if a == b {
        return Some(a.clone());
    }
    if (a - b).as_const().is_some() {
        return None;
    }
    let known = if a.is_const() || (!b.is_const() && !is_data_dependent(a)) { a } else { b };
    Some(known.clone())
}

/// [`unify`] for all dimensions of two shapes; `None` when their ranks differ too.
pub(crate) fn unify_all(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    match a.len() == b.len() {
        true => a.iter().zip(b).map(|(a, b)| unify(a, b)).collect(),
        false => None,
    }
}

/// What two dimensions become when they are broadcast; `None` when they never fit.
///
/// Two unrelated symbols may be equal, or either may be 1: the result is a fresh symbol.
pub(super) fn broadcast_dim(a: &Dim, b: &Dim, symbols: &mut FreshSymbols) -> Option<Dim> {
    if a == b {
        return Some(a.clone());
    }
    match (a.as_const(), b.as_const()) {
        (Some(1), _) => Some(b.clone()),
        (_, Some(1)) => Some(a.clone()),
        (Some(_), Some(_)) => None,
        (Some(_), None) => Some(a.clone()),
        (None, Some(_)) => Some(b.clone()),
        (None, None) => Some(match (is_data_dependent(a), is_data_dependent(b)) {
            (true, false) => b.clone(),
            (false, true) => a.clone(),
            _ => symbols.fresh(),
        }),
    }
}

/// The shape of operands broadcast together, NumPy's way.
pub(super) fn broadcast(a: &Shape, b: &Shape, symbols: &mut FreshSymbols) -> Result<Shape, RuleError> {
    broadcast_dims(a.dims(), b.dims(), symbols)
        .map(Shape)
        .ok_or_else(|| RuleError(format!("shapes {a} and {b} do not broadcast")))
}

/// [`broadcast`] on lists of dimensions.
pub(super) fn broadcast_dims(a: &[Dim], b: &[Dim], symbols: &mut FreshSymbols) -> Option<Vec<Dim>> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let (leading, shared) = long.split_at(long.len() - short.len());
    let mut dims = leading.to_vec();
    for (a, b) in shared.iter().zip(short) {
        dims.push(broadcast_dim(a, b, symbols)?);
    }
    Some(dims)
}

/// Whether `small` can be broadcast to `large` without changing `large`, as far as is known.
pub(super) fn broadcasts_into(small: &[Dim], large: &[Dim]) -> bool {
    small.len() <= large.len()
        && small
            .iter()
            .rev()
            .zip(large.iter().rev())
            .all(|(small, large)| small.as_const() == Some(1) || unify(small, large).is_some())
}

/// Number of elements, unless the polynomial becomes too large to be worth knowing.
pub(super) fn elements(dims: &[Dim]) -> Option<Dim> {
    dims.iter().try_fold(Dim::from(1), |product, dim| {
        let product = &product * dim;
        (!product.is_unwieldy()).then_some(product)
    })
}

/// The larger of `dim` and 0, when it is known which.
pub(super) fn at_least_zero(dim: Dim) -> Option<Dim> {
    if dim.lower_bound().is_some_and(|bound| bound >= 0) {
        return Some(dim);
    }
    dim.upper_bound().is_some_and(|bound| bound <= 0).then(|| Dim::from(0))
}

/// The smaller of two dimensions, when it is known which.
pub(super) fn min(a: &Dim, b: &Dim) -> Option<Dim> {
    if is_at_least(b, a) {
        return Some(a.clone());
    }
    is_at_least(a, b).then(|| b.clone())
}

/// The larger of two dimensions, when it is known which.
pub(super) fn max(a: &Dim, b: &Dim) -> Option<Dim> {
    if is_at_least(a, b) {
        return Some(a.clone());
    }
    is_at_least(b, a).then(|| b.clone())
}

/// Whether `a >= b` whatever the symbols are.
pub(super) fn is_at_least(a: &Dim, b: &Dim) -> bool {
    difference(a, b).is_some_and(|d| d.lower_bound().is_some_and(|bound| bound >= 0))
}

/// Whether `a > b`, when that is the same for all values of the symbols.
pub(super) fn greater(a: &Dim, b: &Dim) -> Option<bool> {
    let difference = difference(a, b)?;
    if difference.lower_bound().is_some_and(|bound| bound > 0) {
        return Some(true);
    }
    difference.upper_bound().is_some_and(|bound| bound <= 0).then_some(false)
}

/// Whether `a == b`, when that is the same for all values of the symbols.
pub(super) fn equal(a: &Dim, b: &Dim) -> Option<bool> {
    if a == b {
        return Some(true);
    }
    let difference = difference(a, b)?;
    let positive = difference.lower_bound().is_some_and(|bound| bound > 0);
    let negative = difference.upper_bound().is_some_and(|bound| bound < 0);
    (positive || negative).then_some(false)
}

/// `a - b`, unless its constant part leaves the range of `i64`.
fn difference(a: &Dim, b: &Dim) -> Option<Dim> {
    if let (Some(a), Some(b)) = (a.as_const(), b.as_const()) {
        // Only the sign is of interest.
        return Some(Dim::from(a.cmp(&b) as i64));
    }
    let difference = a - b;
    let saturated = |bound: Option<i64>| matches!(bound, Some(i64::MIN | i64::MAX));
    let unusable = saturated(difference.lower_bound()) || saturated(difference.upper_bound());
    (!unusable).then_some(difference)
}
