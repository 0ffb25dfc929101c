//! Stage 1: a mean, a variance, a division, as the formula has them.

use crate::rows::{Affine, Number};

/// Normalises a row; two passes for the statistics, so that the variance is never negative.
pub(crate) fn row<T: Number>(x: &[T], affine: Affine<'_, T>, y: &mut [T]) {
    let (mean, scale) = statistics(x, affine.epsilon);
    for (y, x) in y.iter_mut().zip(x) {
        *y = T::store((x.load() - mean) * scale);
    }
}

/// The mean, and one over the standard deviation.
pub(crate) fn statistics<T: Number>(x: &[T], epsilon: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mut sum = 0.0;
    for x in x {
        sum += x.load();
    }
    let mean = sum / count;
    let mut squares = 0.0;
    for x in x {
        let deviation = x.load() - mean;
        squares += deviation * deviation;
    }
    (mean, 1.0 / (squares / count + epsilon).sqrt())
}
