//! Stage 1: a mean, a variance, a division, as the formula has them.

use crate::rows::{Affine, Number};

/// Normalises a row; two passes for the statistics, so that the variance is never negative.
pub(crate) fn row<T: Number>(x: &[T], affine: Affine<'_, T>, y: &mut [T]) {
    let (mean, drift, scale) = statistics(x, affine.epsilon);
    for (y, x) in y.iter_mut().zip(x) {
        *y = T::store((x.load() - mean - drift) * scale);
    }
}

/// The mean, what it lacks, and one over the standard deviation: two passes, of which the second also finds what rounding did
/// to the mean (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983).
pub(crate) fn statistics<T: Number>(x: &[T], epsilon: f32) -> (f32, f32, f32) {
    let count = x.len() as f32;
    let mut sum = 0.0;
    for x in x {
        sum += x.load();
    }
    let mean = sum / count;
    let (mut squares, mut drift) = (0.0, 0.0);
    for x in x {
        let deviation = x.load() - mean;
        squares += deviation * deviation;
        drift += deviation;
    }
    // It cannot be negative: the square of a sum is at most the sum of squares times their number.
    let variance = ((squares - drift * drift / count) / count).max(0.0);
    (mean, drift / count, 1.0 / (variance + epsilon).sqrt())
}
