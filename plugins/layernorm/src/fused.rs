//! Stage 2: scale and shift while the row is at hand.

use crate::basic::statistics;
use crate::rows::{Affine, Number};

/// Normalises a row, scales and shifts it.
pub(crate) fn row<T: Number>(x: &[T], affine: Affine<'_, T>, y: &mut [T]) {
    let (mean, drift, scale) = statistics(x, affine.epsilon);
    for (column, (y, x)) in y.iter_mut().zip(x).enumerate() {
        let gamma = affine.gamma.get(column).map_or(1.0, |gamma| gamma.load());
        let beta = affine.beta.get(column).map_or(0.0, |beta| beta.load());
        *y = T::store((x.load() - mean - drift) * scale * gamma + beta);
    }
}
