//! Sums, means and products over axes, and running sums.

use bertha_graph::ReduceOp;

use super::error::{Fault, Outcome, fault};
use super::nest::{Nest, Small, around, strides};
use super::number::{Arith, Float, Number, Real, with_float, with_number};
use super::operands::{Ints, Operands, axis_set, normalize_axis};
use super::scratch::Scratch;
use super::tensor::{TensorMut, TensorRef};
use super::unary::CHUNK;

/// Independent sums of a long run: they are added in parallel, and their errors stay small.
const LANES: usize = 16;

/// What [`reduce`] is asked for beside its operands.
#[derive(Clone, Copy)]
pub(super) struct ReduceAttrs {
    pub op: ReduceOp,
    pub keep_dims: bool,
    pub noop_with_empty_axes: bool,
}

/// The loops of a reduction.
struct Loops {
    /// Over the results, with the position in `x` where each begins.
    kept: Nest<1>,
    /// Over the elements of one result, relative to where it begins.
    reduced: Nest<1>,
    /// Elements of one result.
    count: usize,
}

/// Sum, mean or product over axes, or over all when none are given.
pub(super) fn reduce(
    attrs: ReduceAttrs,
    operands: Operands,
    y: &mut TensorMut,
    scratch: &mut Scratch,
) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_dtype(x.dtype)?;
    let axes = operands.optional_list(1, "axes")?.unwrap_or(Small::new());
    if axes.is_empty() && attrs.noop_with_empty_axes {
        y.expect_shape(x.shape)?;
        y.bytes.copy_from_slice(x.bytes);
        return Ok(());
    }
    let named = axis_set(&axes, x.rank())?;
    let reduces = |d: usize| axes.is_empty() || named[d];
    let shape = (0..x.rank()).filter(|d| attrs.keep_dims || !reduces(*d));
    y.expect_shape(&Small::of(shape.map(|d| if reduces(d) { 1 } else { x.shape[d] }))?)?;

    let mut loops = Loops { kept: Nest::at([0]), reduced: Nest::at([0]), count: 1 };
    let mut innermost_kept = false;
    for (d, stride) in strides(x.shape)?.iter().enumerate() {
        let nest = if reduces(d) { &mut loops.reduced } else { &mut loops.kept };
        nest.push(x.shape[d], [*stride as isize])?;
        loops.count *= if reduces(d) { x.shape[d] } else { 1 };
        innermost_kept = if x.shape[d] == 1 { innermost_kept } else { !reduces(d) };
    }
    if attrs.op == ReduceOp::Mean && x.dtype.is_int() {
        return with_number!(x.dtype, T => {
            integer_means::<T>(&loops, x.slice(), y.slice());
            Ok(())
        });
    }
    with_number!(x.dtype, T => {
        let (x, y) = (x.slice::<T>(), y.slice::<T>());
        if innermost_kept {
            reduce_rows::<T>(attrs.op, &loops, x, y, scratch);
        } else {
            reduce_runs::<T>(attrs.op, &loops, x, y);
        }
        Ok(())
    })
}

/// The innermost dimension is reduced: each result is the sum of runs.
fn reduce_runs<T: Number>(op: ReduceOp, loops: &Loops, x: &[T], y: &mut [T]) {
    let (len, [step]) = loops.reduced.inner();
    let mut results = y.iter_mut();
    loops.kept.for_each(|[base]| {
        let mut total = if op == ReduceOp::Prod { T::Wide::ONE } else { T::Wide::ZERO };
        loops.reduced.for_each_run(|[at]| {
            let first = base + at;
            if op == ReduceOp::Prod {
                let run = (0..len).map(|i| x[first.wrapping_add_signed(step * i as isize)].widen());
                total = run.fold(total, Arith::times);
            } else if step == 1 {
                total = total.plus(sum_widened(&x[first..first + len]));
            } else {
                let run = (0..len).map(|i| x[first.wrapping_add_signed(step * i as isize)].widen());
                total = run.fold(total, Arith::plus);
            }
        });
        if let Some(y) = results.next() {
            *y = T::narrow(finish(op, total, loops.count));
        }
    });
}

/// The sum of a run.
pub(super) fn sum<W: Arith>(run: &[W]) -> W {
    let mut lanes = [W::ZERO; LANES];
    let mut chunks = run.chunks_exact(LANES);
    for chunk in &mut chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane = lane.plus(*x));
    }
    let rest = chunks.remainder().iter().fold(W::ZERO, |sum, x| sum.plus(*x));
    lanes.into_iter().fold(rest, Arith::plus)
}

/// The sum of a run, widened piece by piece.
fn sum_widened<T: Number>(run: &[T]) -> T::Wide {
    let mut wide = [T::Wide::ZERO; CHUNK];
    run.chunks(CHUNK).fold(T::Wide::ZERO, |total, chunk| {
        let wide = &mut wide[..chunk.len()];
        T::widen_all(chunk, wide);
        total.plus(sum(wide))
    })
}

/// The innermost dimension stays: whole rows are added up.
fn reduce_rows<T: Number>(op: ReduceOp, loops: &Loops, x: &[T], y: &mut [T], scratch: &mut Scratch) {
    let (len, _) = loops.kept.inner();
    let (totals, wide) = scratch.two::<T::Wide, T::Wide>(len, len);
    let mut rows = y.chunks_mut(len.max(1));
    loops.kept.for_each_run(|[base]| {
        totals.fill(if op == ReduceOp::Prod { T::Wide::ONE } else { T::Wide::ZERO });
        loops.reduced.for_each(|[at]| {
            T::widen_all(&x[base + at..base + at + len], wide);
            let pairs = totals.iter_mut().zip(&*wide);
            match op {
                ReduceOp::Prod => pairs.for_each(|(total, x)| *total = total.times(*x)),
                ReduceOp::Sum | ReduceOp::Mean => pairs.for_each(|(total, x)| *total = total.plus(*x)),
            }
        });
        if let Some(y) = rows.next() {
            y.iter_mut().zip(&*totals).for_each(|(y, total)| *y = T::narrow(finish(op, *total, loops.count)));
        }
    });
}

fn finish<W: Arith>(op: ReduceOp, total: W, count: usize) -> W {
    if op == ReduceOp::Mean { total.over(W::from_f64(count as f64)) } else { total }
}

/// Means of integers drop the fraction. They are summed in 128 bits, where no sum overflows.
fn integer_means<T: Number>(loops: &Loops, x: &[T], y: &mut [T]) {
    let mut results = y.iter_mut();
    loops.kept.for_each(|[base]| {
        let mut total = 0i128;
        loops.reduced.for_each(|[at]| total += super::fill::to_i128(x[base + at]));
        if let Some(y) = results.next() {
            let mean = total.checked_div(loops.count as i128).unwrap_or(0);
            *y = bytemuck::pod_read_unaligned(&mean.to_le_bytes()[..size_of::<T>()]);
        }
    });
}

/// Running sum along one axis.
pub(super) fn cumsum(exclusive: bool, reverse: bool, operands: Operands, y: &mut TensorMut) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_dtype(x.dtype)?;
    y.expect_shape(x.shape)?;
    let axis = Ints::of(operands.required(1, "axis")?, "axis")?;
    if axis.len() != 1 {
        return fault!("`axis` has {} elements, expected one", axis.len());
    }
    let lanes = around(x.shape, normalize_axis(axis.get(0), x.rank())?);
    with_number!(x.dtype, T => {
        running_sums::<T>(x.slice(), lanes, exclusive, reverse, y.slice());
        Ok(())
    })
}

fn running_sums<T: Number>(
    x: &[T],
    (outer, size, inner): (usize, usize, usize),
    exclusive: bool,
    reverse: bool,
    y: &mut [T],
) {
    for o in 0..outer {
        for i in 0..inner {
            let mut sum = T::Wide::ZERO;
            for step in 0..size {
                let along = if reverse { size - 1 - step } else { step };
                let at = (o * size + along) * inner + i;
                let next = sum.plus(x[at].widen());
                y[at] = T::narrow(if exclusive { sum } else { next });
                sum = next;
            }
        }
    }
}

/// Softmax along one axis.
pub(super) fn softmax(axis: i64, operands: Operands, y: &mut TensorMut, scratch: &mut Scratch) -> Outcome {
    let x = operands.required(0, "x")?;
    y.expect_dtype(x.dtype)?;
    y.expect_shape(x.shape)?;
    let lanes = around(x.shape, normalize_axis(axis, x.rank())?);
    with_float!(x.dtype, T => {
        softmax_lanes::<T>(x, lanes, y, scratch);
        Ok::<(), Fault>(())
    })
}

fn softmax_lanes<T: Float>(
    x: TensorRef,
    (outer, size, inner): (usize, usize, usize),
    y: &mut TensorMut,
    scratch: &mut Scratch,
) {
    let (x, y) = (x.slice::<T>(), y.slice::<T>());
    if size == 0 {
        return;
    }
    let lane = scratch.one::<T::Wide>(size);
    for o in 0..outer {
        for i in 0..inner {
            let first = o * size * inner + i;
            if inner == 1 {
                T::widen_all(&x[first..first + size], lane);
                softmax_of(lane);
                T::narrow_all(lane, &mut y[first..first + size]);
                continue;
            }
            let values = x[first..].iter().step_by(inner);
            lane.iter_mut().zip(values).for_each(|(lane, x)| *lane = x.widen());
            softmax_of(lane);
            let results = y[first..].iter_mut().step_by(inner);
            results.zip(&*lane).for_each(|(y, lane)| *y = T::narrow(*lane));
        }
    }
}

/// `exp(x - max) / sum(exp(x - max))` in place. A lane of minus infinities becomes NaN.
pub(super) fn softmax_of<W: Real>(lane: &mut [W]) {
    let max = lane.iter().copied().fold(W::NEG_INFINITY, Arith::larger);
    lane.iter_mut().for_each(|x| *x = x.minus(max).exp());
    let inverse = W::ONE.over(sum(lane));
    lane.iter_mut().for_each(|x| *x = x.times(inverse));
}
