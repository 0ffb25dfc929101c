//! A small vector abstraction: kernels are written once over [`Simd`] and compiled per tier.
//!
//! The methods are thin wrappers of one or a few instructions each, `#[inline(always)]`, and a kernel body is the
//! `run` of a [`SimdOp`], `#[inline(always)]` too: [`Simd::vectorize`] is the one function per tier that carries
//! `#[target_feature]`, everything inlines into it, and only there do the wrappers become instructions. Two rules
//! follow for kernel bodies: every helper they call is `#[inline(always)]`, and hot loops use no closures (a closure
//! is a function of its own, without the tier's features).
//!
//! Where tiers differ in the last bit (fused or separate multiply-add, order of horizontal sums), each is
//! deterministic on its own.

use half::bf16;

use crate::isa::Tier;

/// Most lanes of any tier.
const MAX_LANES: usize = 16;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// A kernel body, generic over the tier.
pub(crate) trait SimdOp {
    /// What the kernel returns.
    type Output;

    /// The body. Implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Vectors of `LANES` f32 on one tier. The implementing type is the tier's token, hence proof of support.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// A vector of `LANES` f32.
    type F: Copy;
    /// A mask of `LANES` booleans.
    type M: Copy;
    /// f32 per vector.
    const LANES: usize;
    /// The tier's name.
    const TIER: Tier;

    /// Runs `op` with this tier's instructions enabled.
    fn vectorize<O: SimdOp>(self, op: O) -> O::Output;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;

    /// All lanes 0.
    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }

    /// Loads `LANES` values.
    ///
    /// # Safety
    /// `p` must be valid for reads of `LANES` f32; no alignment is needed.
    unsafe fn load_ptr(self, p: *const f32) -> Self::F;

    /// Stores `LANES` values.
    ///
    /// # Safety
    /// `p` must be valid for writes of `LANES` f32; no alignment is needed.
    unsafe fn store_ptr(self, p: *mut f32, v: Self::F);

    /// Stores `LANES` values past the caches, where the tier can. Before another core is told of them, [`Simd::fence`].
    ///
    /// # Safety
    /// `p` must be valid for writes of `LANES` f32 and aligned to a vector.
    #[inline(always)]
    unsafe fn stream_ptr(self, p: *mut f32, v: Self::F) {
        // SAFETY: this function's contract.
        unsafe { self.store_ptr(p, v) }
    }

    /// Orders all [`Simd::stream_ptr`] before every store that follows.
    #[inline(always)]
    fn fence(self) {}

    /// Loads the first `n < LANES` lanes, 0 in the others.
    ///
    /// # Safety
    /// `p` must be valid for reads of `n` f32, `n <= LANES`.
    unsafe fn load_first_ptr(self, p: *const f32, n: usize) -> Self::F;

    /// Stores the first `n < LANES` lanes.
    ///
    /// # Safety
    /// `p` must be valid for writes of `n` f32, `n <= LANES`.
    unsafe fn store_first_ptr(self, p: *mut f32, n: usize, v: Self::F);

    /// Transposes a block of `rows` x `cols` values, both at most `LANES`: row i of `from` becomes column i of `to`, which
    /// gets `cols` rows of `LANES` values, zeros beyond column `rows`.
    ///
    /// # Safety
    /// `from` must be valid for reads of `rows` rows of `cols` values, `to` for writes of `cols` rows of `LANES` values,
    /// with their strides.
    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const f32,
        from_stride: usize,
        (rows, cols): (usize, usize),
        to: *mut f32,
        to_stride: usize,
    ) {
        for col in 0..cols {
            for row in 0..Self::LANES {
                // SAFETY: this function's contract.
                unsafe {
                    let x = if row < rows { from.add(row * from_stride + col).read() } else { 0.0 };
                    to.add(col * to_stride + row).write(x);
                }
            }
        }
    }

    /// Fetches the cache line at `p` into the second-level cache: what is read next must not evict from the first level
    /// what is read now. `p` need not be valid.
    fn prefetch(self, p: *const f32);

    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`, correctly rounded.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, fused where the tier can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: `b` where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: `b` where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// Square root, correctly rounded.
    fn sqrt(self, a: Self::F) -> Self::F;
    /// Absolute value.
    fn abs(self, a: Self::F) -> Self::F;
    /// `|magnitude|` with the sign bit of `sign`.
    fn copysign(self, magnitude: Self::F, sign: Self::F) -> Self::F;
    /// Nearest integer, ties to even; exact for every finite input.
    fn round(self, a: Self::F) -> Self::F;
    /// `a * 2^n` for integral `n` in `-252..=254`, with gradual underflow; overflows to infinity.
    fn scale_by_pow2(self, a: Self::F, n: Self::F) -> Self::F;
    /// Splits positive normal finite `a` into `(m, e)` with `a = m * 2^e`, `m` in `[0.5, 1)`.
    fn split_exponent(self, a: Self::F) -> (Self::F, Self::F);

    /// `acc + a1 b1 + a0 b0` per lane, whose 32 bits hold two bf16 values, the first in the lower half. Each product is
    /// exact and each sum rounded to f32; results below the smallest normal number may become 0. Tiers without such an
    /// instruction have no bf16 kernels: this form is what the instruction is checked against.
    #[inline(always)]
    fn dot_bf16(self, a: Self::F, b: Self::F, acc: Self::F) -> Self::F {
        let (mut x, mut y, mut sum) = ([0.0; MAX_LANES], [0.0; MAX_LANES], [0.0; MAX_LANES]);
        self.store(&mut x, a);
        self.store(&mut y, b);
        self.store(&mut sum, acc);
        for lane in 0..Self::LANES {
            let (a, b) = (f32::to_bits(x[lane]), f32::to_bits(y[lane]));
            let high = |word: u32| f32::from_bits(word & 0xffff_0000);
            let low = |word: u32| f32::from_bits(word << 16);
            sum[lane] = low(a).mul_add(low(b), high(a).mul_add(high(b), sum[lane]));
        }
        self.load(&sum)
    }

    /// Lane i holds the bf16 values `even[i]` (lower half) and `odd[i]`, 0 for those beyond the first `n_even` and `n_odd`,
    /// both at most `LANES`.
    ///
    /// # Safety
    /// `even` must be valid for reads of `n_even` values, `odd` of `n_odd`.
    #[inline(always)]
    unsafe fn load_bf16_pairs(
        self,
        even: *const bf16,
        n_even: usize,
        odd: *const bf16,
        n_odd: usize,
    ) -> Self::F {
        let mut words = [0.0; MAX_LANES];
        for (lane, word) in words.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: this function's contract.
            let [even, odd] = unsafe {
                [(even, n_even), (odd, n_odd)]
                    .map(|(p, n)| if lane < n { p.add(lane).read().to_bits() } else { 0 })
            };
            *word = f32::from_bits(u32::from(even) | u32::from(odd) << 16);
        }
        self.load(&words)
    }

    /// Stores the first `n <= LANES` lanes rounded to bf16, to the nearest, ties to even.
    ///
    /// # Safety
    /// `p` must be valid for writes of `n` values.
    #[inline(always)]
    unsafe fn store_bf16_ptr(self, p: *mut bf16, n: usize, v: Self::F) {
        let mut x = [0.0; MAX_LANES];
        self.store(&mut x, v);
        for (lane, x) in x.iter().enumerate().take(n.min(Self::LANES)) {
            // SAFETY: this function's contract.
            unsafe { p.add(lane).write(bf16::from_f32(*x)) };
        }
    }

    /// As [`Simd::store_bf16_ptr`] of all lanes and [`Simd::stream_ptr`].
    ///
    /// # Safety
    /// `p` must be valid for writes of `LANES` values and aligned to as many.
    #[inline(always)]
    unsafe fn stream_bf16_ptr(self, p: *mut bf16, v: Self::F) {
        // SAFETY: this function's contract.
        unsafe { self.store_bf16_ptr(p, Self::LANES, v) }
    }

    /// The first `n <= LANES` lanes.
    fn first(self, n: usize) -> Self::M;
    /// Lanes where `a < b`; false for NaN.
    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    /// Lanes where `a == b`; false for NaN.
    fn eq(self, a: Self::F, b: Self::F) -> Self::M;
    /// `yes` where the mask is set, else `no`.
    fn select(self, mask: Self::M, yes: Self::F, no: Self::F) -> Self::F;

    /// Sum of all lanes, pairwise.
    fn reduce_sum(self, a: Self::F) -> f32;
    /// Largest lane.
    fn reduce_max(self, a: Self::F) -> f32;

    /// Loads the first `LANES` values of `x`.
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::F {
        assert!(x.len() >= Self::LANES);
        // SAFETY: the slice holds at least LANES values.
        unsafe { self.load_ptr(x.as_ptr()) }
    }

    /// Stores into the first `LANES` places of `x`.
    #[inline(always)]
    fn store(self, x: &mut [f32], v: Self::F) {
        assert!(x.len() >= Self::LANES);
        // SAFETY: the slice has room for LANES values.
        unsafe { self.store_ptr(x.as_mut_ptr(), v) }
    }

    /// Loads all of `x`, which holds at most `LANES` values; 0 in the other lanes.
    #[inline(always)]
    fn load_first(self, x: &[f32]) -> Self::F {
        assert!(x.len() <= Self::LANES);
        // SAFETY: reads exactly the slice's values.
        unsafe { self.load_first_ptr(x.as_ptr(), x.len()) }
    }

    /// Fills all of `x`, which holds at most `LANES` values, with the vector's first lanes.
    #[inline(always)]
    fn store_first(self, x: &mut [f32], v: Self::F) {
        assert!(x.len() <= Self::LANES);
        // SAFETY: writes exactly the slice's places.
        unsafe { self.store_first_ptr(x.as_mut_ptr(), x.len(), v) }
    }
}
