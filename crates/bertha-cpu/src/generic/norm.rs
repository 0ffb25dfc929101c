//! Normalisations.

use bertha_graph::DType;

use super::error::{Fault, Outcome, fault};
use super::nest::{Nest, Small};
use super::number::{Arith, Float, Number, Real, with_float};
use super::operands::{Operands, normalize_axis};
use super::reduce::sum;
use super::scratch::Scratch;
use super::tensor::{TensorMut, TensorRef};

/// `(x - mean) / sqrt(variance + epsilon) * gamma + beta` over the dimensions from `axis` on; mean and
/// `1 / sqrt(variance + epsilon)` as `F32`, where they are asked for.
pub(super) fn layer_norm(
    axis: i64,
    epsilon: f32,
    operands: Operands,
    results: &mut [Option<TensorMut>],
    scratch: &mut Scratch,
) -> Outcome {
    let x = operands.required(0, "x")?;
    let axis = normalize_axis(axis, x.rank())?;
    let gamma = operands.typed(1, "gamma", x.dtype)?;
    let beta = operands.optional_typed(2, "beta", x.dtype)?;
    let mut reduced = Small::of(x.shape.iter().copied())?;
    reduced[axis..].fill(1);
    for (i, y) in results.iter().enumerate() {
        let Some(y) = y else { continue };
        y.expect_dtype(if i == 0 { x.dtype } else { DType::F32 })?;
        y.expect_shape(if i == 0 { x.shape } else { &reduced })?;
    }
    // The optional results need not be listed.
    let mut listed = results.iter_mut().map(Option::as_mut);
    let (mut y, mut mean, mut inverse) =
        (listed.next().flatten(), listed.next().flatten(), listed.next().flatten());
    let rows: usize = x.shape[..axis].iter().product();
    let width: usize = x.shape[axis..].iter().product();
    with_float!(x.dtype, T => {
        let affine = Affine::<T>::new(x, gamma, beta)?;
        let row = scratch.one::<<T as Number>::Wide>(width);
        for r in 0..rows {
            T::widen_all(&x.slice()[r * width..(r + 1) * width], row);
            let (row_mean, row_inverse) = normalize(row, epsilon);
            if let Some(y) = &mut y {
                affine.apply(row, r * width, &mut y.slice()[r * width..(r + 1) * width]);
            }
            for (result, value) in [(&mut mean, row_mean), (&mut inverse, row_inverse)] {
                if let Some(result) = result {
                    result.slice::<f32>()[r] = value.to_f64() as f32;
                }
            }
        }
        Ok::<(), Fault>(())
    })
}

/// Mean and inverse deviation of a row, which is normalised in place. Two passes: no cancellation.
pub(super) fn normalize<W: Real>(row: &mut [W], epsilon: f32) -> (W, W) {
    let width = W::from_f64(row.len() as f64);
    let mean = sum(row).over(width);
    let mut squares = W::ZERO;
    for chunk in row.chunks_mut(super::unary::CHUNK) {
        chunk.iter_mut().for_each(|x| *x = x.minus(mean));
        squares = squares.plus(dot(chunk, chunk));
    }
    let inverse = W::ONE.over(squares.over(width).plus(W::from_f64(f64::from(epsilon))).sqrt());
    row.iter_mut().for_each(|x| *x = x.times(inverse));
    (mean, inverse)
}

/// Sum of products of two runs of one length.
pub(super) fn dot<W: Arith>(a: &[W], b: &[W]) -> W {
    const LANES: usize = 16;
    let mut lanes = [W::ZERO; LANES];
    let (mut left, mut right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in (&mut left).zip(&mut right) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane = lane.plus(a.times(*b));
        }
    }
    let rest = left.remainder().iter().zip(right.remainder());
    let rest = rest.fold(W::ZERO, |sum, (a, b)| sum.plus(a.times(*b)));
    lanes.into_iter().fold(rest, Arith::plus)
}

/// Factors and shifts of the elements, which broadcast to `x`.
struct Affine<'a, T> {
    gamma: &'a [T],
    beta: &'a [T],
    x_len: usize,
    nest: Nest<2>,
}

impl<'a, T: Float> Affine<'a, T> {
    fn new(x: TensorRef, gamma: TensorRef<'a>, beta: Option<TensorRef<'a>>) -> Outcome<Self> {
        let shape = beta.map_or(&[][..], |beta| beta.shape);
        let nest = Nest::broadcast(x.shape, [gamma.shape, shape])?;
        let beta: &[T] = beta.map_or(&[], |beta| beta.slice());
        Ok(Affine { gamma: gamma.slice(), beta, x_len: x.len(), nest })
    }

    /// Scales and shifts a normalised row that begins at element `first` of `x`.
    fn apply(&self, row: &[T::Wide], first: usize, y: &mut [T]) {
        let no_shift = self.beta.is_empty();
        // The usual case: one factor for each element of a row.
        if self.gamma.len() == row.len() && (no_shift || self.beta.len() == row.len()) {
            for (i, (y, x)) in y.iter_mut().zip(row).enumerate() {
                let shift = if no_shift { Arith::ZERO } else { self.beta[i].widen() };
                *y = T::narrow(x.times(self.gamma[i].widen()).plus(shift));
            }
            return;
        }
        debug_assert!(first + row.len() <= self.x_len);
        for (i, (y, x)) in y.iter_mut().zip(row).enumerate() {
            let [at_gamma, at_beta] = self.nest.locate(first + i);
            let shift = if no_shift { Arith::ZERO } else { self.beta[at_beta].widen() };
            *y = T::narrow(x.times(self.gamma[at_gamma].widen()).plus(shift));
        }
    }
}

/// Rows of the last dimension, each divided by its norm.
pub(super) fn l2_normalize(
    epsilon: f32,
    operands: Operands,
    y: &mut TensorMut,
    scratch: &mut Scratch,
) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_dtype(x.dtype)?;
    y.expect_shape(x.shape)?;
    let Some(width) = x.shape.last() else {
        return fault!("`x` is a scalar, expected at least one dimension");
    };
    with_float!(x.dtype, T => {
        let row = scratch.one::<<T as Number>::Wide>(*width);
        let rows = x.slice::<T>().chunks((*width).max(1)).zip(y.slice::<T>().chunks_mut((*width).max(1)));
        for (x, y) in rows {
            T::widen_all(x, row);
            let norm = dot(row, row).sqrt().larger(Arith::from_f64(f64::from(epsilon)));
            row.iter_mut().for_each(|x| *x = x.over(norm));
            T::narrow_all(row, y);
        }
        Ok::<(), Fault>(())
    })
}
