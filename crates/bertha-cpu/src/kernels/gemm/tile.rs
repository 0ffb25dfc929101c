//! The GEMM's inner loop: one tile of C in registers.
//!
//! Tile: `MR` rows x `NV` vectors; all of it accumulates in registers while k runs, at
//! `MR * NV` multiply-adds per `NV` vector loads of B and `MR` broadcasts of A. `MAX_MR` is what the register file
//! holds beside one row of B and one broadcast: 14 x 32 on AVX-512 (28 of 32), 6 x 16 on AVX2 (12 of 16), 4 x 8 on
//! 4-lane vectors. Any number of rows up to `MAX_MR` has its own copy, so a tail wastes nothing.
//!
//! Operands are read in words of 32 bits: one f32, or two bf16 values of neighbouring k (8-bit operands would be four). So
//! layouts, strides, blocks and prefetches are the same for every type, counted in words, and only the multiplication of
//! two words is the type's own ([`Word`]). Below, k counts words, and sums are f32 throughout.
//!
//! A is read in place (row-major, any row stride); B from a packed panel (see `pack`), one line per vector, in order.
//! Every value of C is one chain of multiply-adds over k = 0, 1, ..: whatever the tile, the k-blocking (which stores
//! and reloads the partial sum, exactly) or the thread, a row's result is the same to the bit.

// Rows and vectors of a tile are counted, not iterated: the counts are constants, and every loop unrolls into registers.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;

use super::super::simd::{Simd, SimdOp};
use super::pack::PackedType;
use crate::isa::{Isa, Tier};

/// Vectors per tile row, on every tier.
pub(crate) const NV: usize = 2;

/// f32 per vector on `tier`.
const fn lanes(tier: Tier) -> usize {
    match tier {
        Tier::Avx512 => 16,
        Tier::Avx2 => 8,
        Tier::Portable => 4,
    }
}

/// Columns of a tile, and of a packed panel, on `tier`.
pub(crate) const fn nr(tier: Tier) -> usize {
    NV * lanes(tier)
}

/// Most rows of a tile on `tier`.
pub(crate) const fn max_mr(tier: Tier) -> usize {
    match tier {
        Tier::Avx512 => 14,
        Tier::Avx2 => 6,
        Tier::Portable => 4,
    }
}

/// What a 32-bit word of an operand holds, and how a pair of words multiplies.
pub(crate) trait Word: Send + Sync {
    /// Values in a word.
    const VALUES: usize;

    /// Runs `op` with the instructions that [`Word::multiply`] needs.
    fn run<O: SimdOp>(isa: Isa, op: O) -> O::Output;

    /// `acc` plus the products of a word of A and a word of B, lane by lane.
    fn multiply<S: Simd>(s: S, a: S::F, b: S::F, acc: S::F) -> S::F;
}

/// One f32.
pub(crate) struct OneF32;

impl Word for OneF32 {
    const VALUES: usize = PackedType::F32.per_word();

    #[inline]
    fn run<O: SimdOp>(isa: Isa, op: O) -> O::Output {
        isa.run(op)
    }

    #[inline(always)]
    fn multiply<S: Simd>(s: S, a: S::F, b: S::F, acc: S::F) -> S::F {
        s.fma(a, b, acc)
    }
}

/// Two bf16.
pub(crate) struct TwoBf16;

impl Word for TwoBf16 {
    const VALUES: usize = PackedType::Bf16.per_word();

    #[inline]
    fn run<O: SimdOp>(isa: Isa, op: O) -> O::Output {
        isa.run_bf16(op)
    }

    #[inline(always)]
    fn multiply<S: Simd>(s: S, a: S::F, b: S::F, acc: S::F) -> S::F {
        s.dot_bf16(a, b, acc)
    }
}

/// One tile's operands, counted in words. `run` computes `C = A B` or, with `accumulate`, `C += A B`.
#[derive(Clone, Copy)]
pub(crate) struct TileArgs {
    /// Depth of this block.
    pub(crate) k: usize,
    /// First row of A, at the block's first k.
    pub(crate) a: *const f32,
    pub(crate) a_stride: usize,
    /// The panel at the block's first k: `[k][NR]`.
    pub(crate) b: *const f32,
    pub(crate) c: *mut f32,
    pub(crate) c_stride: usize,
    /// Columns of C to write, `1..=NR`.
    pub(crate) cols: usize,
    pub(crate) accumulate: bool,
    /// What will be read after this tile; any address.
    pub(crate) next: *const f32,
    /// Lines fetched from `next` per k.
    pub(crate) next_lines: Prefetch,
}

/// How fast a tile fetches ahead into the second-level cache.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefetch {
    None,
    /// A vector per k: two tiles together fetch a panel.
    One,
    /// A whole panel row per k.
    Two,
}

/// `MR` rows of [`TileArgs`].
struct Tile<const MR: usize, W>(TileArgs, PhantomData<W>);

impl<const MR: usize, W: Word> SimdOp for Tile<MR, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let t = self.0;
        let full = t.cols == NV * S::LANES;
        let mut acc = [[s.zero(); NV]; MR];
        // SAFETY: whoever makes TileArgs promises MR rows of `k` values at `a`, `k` rows of NR values at `b`, and MR
        // rows of `cols` values at `c`, with their strides. Prefetches may touch any address.
        unsafe {
            if t.accumulate {
                for i in 0..MR {
                    for j in 0..NV {
                        acc[i][j] = load_tile(s, t.c.add(i * t.c_stride), j, t.cols, full);
                    }
                }
            }
            match t.next_lines {
                Prefetch::None => multiply::<S, W, MR, 0>(s, &t, &mut acc),
                Prefetch::One => multiply::<S, W, MR, 1>(s, &t, &mut acc),
                Prefetch::Two => multiply::<S, W, MR, 2>(s, &t, &mut acc),
            }
            for i in 0..MR {
                for j in 0..NV {
                    store_tile(s, t.c.add(i * t.c_stride), j, t.cols, full, acc[i][j]);
                }
            }
        }
    }
}

/// The loop over k.
///
/// # Safety
/// As for [`TileArgs`], with `MR` rows.
#[inline(always)]
unsafe fn multiply<S: Simd, W: Word, const MR: usize, const AHEAD: usize>(
    s: S,
    t: &TileArgs,
    acc: &mut [[S::F; NV]; MR],
) {
    let (a, b, stride) = (t.a, t.b, t.a_stride);
    let mut sums = *acc;
    for k in 0..t.k {
        // SAFETY: this function's contract; k < t.k.
        unsafe {
            let mut row = [s.zero(); NV];
            for j in 0..NV {
                row[j] = s.load_ptr(b.add((k * NV + j) * S::LANES));
            }
            for ahead in 0..AHEAD {
                s.prefetch(t.next.wrapping_add((k * AHEAD + ahead) * S::LANES));
            }
            for i in 0..MR {
                let x = s.splat(*a.add(i * stride + k));
                for j in 0..NV {
                    sums[i][j] = W::multiply(s, x, row[j], sums[i][j]);
                }
            }
        }
    }
    *acc = sums;
}

/// Vector `j` of a tile row whose first `cols` columns exist.
///
/// # Safety
/// `row` must be valid for reads of `cols` values, of all of them where `full`.
#[inline(always)]
unsafe fn load_tile<S: Simd>(s: S, row: *const f32, j: usize, cols: usize, full: bool) -> S::F {
    let start = j * S::LANES;
    // SAFETY: this function's contract.
    unsafe {
        if full {
            s.load_ptr(row.add(start))
        } else if cols > start {
            s.load_first_ptr(row.add(start), (cols - start).min(S::LANES))
        } else {
            s.zero()
        }
    }
}

/// The counterpart of [`load_tile`].
///
/// # Safety
/// `row` must be valid for writes of `cols` values, of all of them where `full`.
#[inline(always)]
unsafe fn store_tile<S: Simd>(s: S, row: *mut f32, j: usize, cols: usize, full: bool, v: S::F) {
    let start = j * S::LANES;
    // SAFETY: this function's contract.
    unsafe {
        if full {
            s.store_ptr(row.add(start), v);
        } else if cols > start {
            s.store_first_ptr(row.add(start), (cols - start).min(S::LANES), v);
        }
    }
}

/// A tile of any number of rows up to the tier's `max_mr`, as an operation: it runs inside a vectorised caller.
pub(crate) struct AnyTile {
    pub(crate) rows: usize,
    pub(crate) args: TileArgs,
}

impl AnyTile {
    /// Computes the tile.
    ///
    /// # Safety
    /// The operands must be as [`TileArgs`] says, for `rows` rows; `rows` must be in `1..=max_mr(tier)`.
    #[inline]
    pub(crate) unsafe fn run<S: Simd, W: Word>(self, s: S) {
        macro_rules! by_rows {
            ($($mr:literal)*) => {
                match self.rows {
                    $($mr if $mr <= max_mr(S::TIER) => s.vectorize(Tile::<$mr, W>(self.args, PhantomData)),)*
                    rows => unreachable!("a tile of {rows} rows"),
                }
            };
        }
        by_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}
