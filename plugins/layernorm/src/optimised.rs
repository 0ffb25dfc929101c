//! Stage 3: vectors, and one pass over memory.
//!
//! The statistics come from Welford's recurrence, one for each lane, so that a row is read from memory once; by the
//! time it is normalised it lies in the first cache. The lanes' results are merged as Chan, Golub and LeVeque merge
//! those of parts ("Updating formulae and a pairwise algorithm for computing sample variances", 1979). Neither takes
//! a difference of large squares, so the variance cannot become negative. All of it is done on differences from the row's
//! first number, which are exact where numbers are close together: a mean far from zero costs no digits.

use half::f16;

use crate::lanes::{LANES, Lanes, Memory, Portable};
use crate::rows::{Affine, Number, Row};

/// The kernel for rows of f32 on this machine.
pub(crate) fn row_f32() -> Row<f32> {
    #[cfg(target_arch = "x86_64")]
    {
        if has_avx512() {
            return avx512::row::<f32>;
        }
        if has_avx2() {
            return avx2::row::<f32>;
        }
    }
    portable::<f32>
}

/// The kernel for rows of f16 on this machine.
pub(crate) fn row_f16() -> Row<f16> {
    #[cfg(target_arch = "x86_64")]
    {
        if has_avx512() {
            return avx512::row::<f16>;
        }
        if has_avx2() {
            return avx2::row::<f16>;
        }
    }
    portable::<f16>
}

fn portable<T: Number>(x: &[T], affine: Affine<'_, T>, y: &mut [T])
where
    Portable: Memory<T>,
{
    // SAFETY: it needs no instruction set.
    unsafe { normalise::<T, Portable>(x, affine, y) }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f") && has_avx2()
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::*;
    use crate::lanes::Avx2;

    /// Only for machines of which `has_avx2` is true.
    pub(super) fn row<T: Number>(x: &[T], affine: Affine<'_, T>, y: &mut [T])
    where
        Avx2: Memory<T>,
    {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enabled<T: Number>(x: &[T], affine: Affine<'_, T>, y: &mut [T])
        where
            Avx2: Memory<T>,
        {
            // SAFETY: this function is only called with these instructions.
            unsafe { normalise::<T, Avx2>(x, affine, y) }
        }
        // SAFETY: `row_f32` and `row_f16` give this function out only where the machine has them.
        unsafe { enabled(x, affine, y) }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::*;
    use crate::lanes::Avx512;

    /// Only for machines of which `has_avx512` is true.
    pub(super) fn row<T: Number>(x: &[T], affine: Affine<'_, T>, y: &mut [T])
    where
        Avx512: Memory<T>,
    {
        #[target_feature(enable = "avx512f,avx2,fma,f16c")]
        fn enabled<T: Number>(x: &[T], affine: Affine<'_, T>, y: &mut [T])
        where
            Avx512: Memory<T>,
        {
            // SAFETY: this function is only called with these instructions.
            unsafe { normalise::<T, Avx512>(x, affine, y) }
        }
        // SAFETY: `row_f32` and `row_f16` give this function out only where the machine has them.
        unsafe { enabled(x, affine, y) }
    }
}

/// # Safety
/// The processor must have the instructions of `M`.
#[inline(always)]
unsafe fn normalise<T: Number, M: Memory<T>>(x: &[T], affine: Affine<'_, T>, y: &mut [T]) {
    let pivot = x.first().map_or(0.0, |x| x.load());
    // SAFETY: this function's contract.
    let (mean, variance) = unsafe { statistics::<T, M>(x, pivot) };
    let scale = 1.0 / (variance + affine.epsilon).sqrt();
    let (vectors, rest) = x.as_chunks::<LANES>();
    let (results, rest_of_results) = y.as_chunks_mut::<LANES>();
    let (gammas, rest_of_gamma) = affine.gamma.as_chunks::<LANES>();
    let (betas, rest_of_beta) = affine.beta.as_chunks::<LANES>();
    for (index, (x, y)) in vectors.iter().zip(results).enumerate() {
        // SAFETY: this function's contract.
        unsafe {
            let mut v = M::load(x);
            v.iter_mut().for_each(|v| *v = (*v - pivot - mean) * scale);
            if let Some(gamma) = gammas.get(index) {
                let gamma = M::load(gamma);
                (0..LANES).for_each(|lane| v[lane] *= gamma[lane]);
            }
            if let Some(beta) = betas.get(index) {
                let beta = M::load(beta);
                (0..LANES).for_each(|lane| v[lane] += beta[lane]);
            }
            M::store(v, y);
        }
    }
    for (index, (x, y)) in rest.iter().zip(rest_of_results).enumerate() {
        let gamma = rest_of_gamma.get(index).map_or(1.0, |gamma| gamma.load());
        let beta = rest_of_beta.get(index).map_or(0.0, |beta| beta.load());
        *y = T::store((x.load() - pivot - mean) * scale * gamma + beta);
    }
}

/// Mean of the differences from `pivot`, and variance, of a row.
///
/// # Safety
/// As for [`normalise`].
#[inline(always)]
unsafe fn statistics<T: Number, M: Memory<T>>(x: &[T], pivot: f32) -> (f32, f32) {
    let (vectors, rest) = x.as_chunks::<LANES>();
    let (mut means, mut squares): (Lanes, Lanes) = ([0.0; LANES], [0.0; LANES]);
    for (index, x) in vectors.iter().enumerate() {
        // SAFETY: this function's contract.
        let v = unsafe { M::load(x) };
        let inverse = 1.0 / (index + 1) as f32;
        for lane in 0..LANES {
            let difference = v[lane] - pivot;
            let deviation = difference - means[lane];
            means[lane] += deviation * inverse;
            squares[lane] += deviation * (difference - means[lane]);
        }
    }
    // Every lane has seen as many numbers, so the mean of all is the mean of the lanes' means.
    let of_each = vectors.len() as f32;
    let mut mean = means.iter().sum::<f32>() / LANES as f32;
    let between: f32 = means.iter().map(|lane| (lane - mean) * (lane - mean)).sum();
    let mut square = squares.iter().sum::<f32>() + of_each * between;
    let mut count = of_each * LANES as f32;
    for x in rest {
        count += 1.0;
        let difference = x.load() - pivot;
        let deviation = difference - mean;
        mean += deviation / count;
        square += deviation * (difference - mean);
    }
    (mean, square / count)
}
