//! Nested loops over several operands at once, without allocation.

use super::error::{Outcome, fault};

/// The most dimensions of a tensor.
pub(super) const MAX_RANK: usize = 16;
/// The most loops: tiling has two for each dimension.
const MAX_LOOPS: usize = 2 * MAX_RANK;

/// A small list of sizes or indices on the stack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Small<T> {
    len: usize,
    items: [T; MAX_LOOPS],
}

impl<T: Copy + Default> Small<T> {
    pub(super) fn new() -> Self {
        Small { len: 0, items: [T::default(); MAX_LOOPS] }
    }

    /// `items`, when they are few enough.
    pub(super) fn of(items: impl IntoIterator<Item = T>) -> Outcome<Self> {
        let mut list = Small::new();
        for item in items {
            list.push(item)?;
        }
        Ok(list)
    }

    pub(super) fn push(&mut self, item: T) -> Outcome {
        let Some(slot) = self.items.get_mut(self.len) else {
            return fault!("more than {MAX_LOOPS} dimensions");
        };
        *slot = item;
        self.len += 1;
        Ok(())
    }
}

impl<T> std::ops::Deref for Small<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.items[..self.len]
    }
}

impl<T> std::ops::DerefMut for Small<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items[..self.len]
    }
}

/// Elements from one index to the next, for each dimension of a row-major tensor.
pub(super) fn strides(shape: &[usize]) -> Outcome<Small<usize>> {
    let mut strides = Small::of(shape.iter().map(|_| 1))?;
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d] * shape[d];
    }
    Ok(strides)
}

/// Loops over dimensions, outermost first, in which each of `N` operands advances by its own step.
///
/// Dimensions of size 1 are left out, and neighbours that every operand walks evenly are joined, so that the innermost
/// loop is as long as it can be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nest<const N: usize> {
    rank: usize,
    dims: [usize; MAX_LOOPS],
    steps: [[isize; N]; MAX_LOOPS],
    start: [usize; N],
}

impl<const N: usize> Nest<N> {
    /// No loop: one element at `start`.
    pub(super) fn at(start: [usize; N]) -> Self {
        Nest { rank: 0, dims: [0; MAX_LOOPS], steps: [[0; N]; MAX_LOOPS], start }
    }

    /// Adds a loop within the present ones.
    pub(super) fn push(&mut self, dim: usize, steps: [isize; N]) -> Outcome {
        if dim == 1 {
            return Ok(());
        }
        if let Some(last) = self.rank.checked_sub(1) {
            let joins = (0..N).all(|i| self.steps[last][i] == steps[i] * dim as isize);
            if joins && dim != 0 && self.dims[last] != 0 {
                self.dims[last] *= dim;
                self.steps[last] = steps;
                return Ok(());
            }
        }
        if self.rank == MAX_LOOPS {
            return fault!("more than {MAX_LOOPS} dimensions");
        }
        self.dims[self.rank] = dim;
        self.steps[self.rank] = steps;
        self.rank += 1;
        Ok(())
    }

    /// Loops over `shape`, to which every operand broadcasts.
    pub(super) fn broadcast(shape: &[usize], operands: [&[usize]; N]) -> Outcome<Self> {
        let mut steps = [[0isize; N]; MAX_LOOPS];
        for (i, operand) in operands.iter().enumerate() {
            let fits = operand.len() <= shape.len()
                && operand.iter().rev().zip(shape.iter().rev()).all(|(a, b)| a == b || *a == 1);
            if !fits || shape.len() > MAX_LOOPS {
                return fault!("an operand of shape {operand:?} does not broadcast to {shape:?}");
            }
            let lead = shape.len() - operand.len();
            for (d, stride) in strides(operand)?.iter().enumerate() {
                steps[lead + d][i] = if operand[d] == 1 { 0 } else { *stride as isize };
            }
        }
        let mut nest = Nest::at([0; N]);
        for (dim, steps) in shape.iter().zip(steps) {
            nest.push(*dim, steps)?;
        }
        Ok(nest)
    }

    /// Size and steps of the innermost loop.
    pub(super) fn inner(&self) -> (usize, [isize; N]) {
        match self.rank.checked_sub(1) {
            Some(last) => (self.dims[last], self.steps[last]),
            None => (1, [0; N]),
        }
    }

    /// Calls `f` with the positions of the operands at the start of each run of the innermost loop, in row-major order.
    pub(super) fn for_each_run(&self, f: impl FnMut([usize; N])) {
        self.walk(self.rank.saturating_sub(1), f);
    }

    /// Calls `f` with the positions of the operands for every element.
    pub(super) fn for_each(&self, f: impl FnMut([usize; N])) {
        self.walk(self.rank, f);
    }

    fn walk(&self, loops: usize, mut f: impl FnMut([usize; N])) {
        if self.dims[..self.rank].contains(&0) {
            return;
        }
        let mut index = [0usize; MAX_LOOPS];
        let mut at = self.start;
        loop {
            f(at);
            let mut d = loops;
            loop {
                let Some(outer) = d.checked_sub(1) else { return };
                d = outer;
                index[d] += 1;
                let wraps = index[d] == self.dims[d];
                let moved = if wraps { 1 - self.dims[d] as isize } else { 1 };
                for (at, step) in at.iter_mut().zip(self.steps[d]) {
                    // Within the operand by construction; the last, unused step back may pass through any value.
                    *at = at.wrapping_add_signed(step.wrapping_mul(moved));
                }
                if !wraps {
                    break;
                }
                index[d] = 0;
            }
        }
    }
}

/// The sizes before, at and after `axis`: a tensor seen as `[outer, size, inner]`.
pub(super) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

impl<const N: usize> Nest<N> {
    /// Adds the loops of another nest, its steps multiplied by `factors`.
    pub(super) fn extend_scaled(&mut self, other: &Nest<N>, factors: [isize; N]) -> Outcome {
        for (dim, steps) in other.dims[..other.rank].iter().zip(&other.steps) {
            let mut scaled = *steps;
            scaled.iter_mut().zip(factors).for_each(|(step, factor)| *step *= factor);
            self.push(*dim, scaled)?;
        }
        Ok(())
    }

    /// Positions of the operands for the element at `index` of the row-major order in which the loops run.
    pub(super) fn locate(&self, mut index: usize) -> [usize; N] {
        let mut at = self.start;
        for d in (0..self.rank).rev() {
            let along = (index % self.dims[d].max(1)) as isize;
            index /= self.dims[d].max(1);
            for (at, step) in at.iter_mut().zip(self.steps[d]) {
                *at = at.wrapping_add_signed(step * along);
            }
        }
        at
    }
}
