//! 4 lanes of plain Rust, which the compiler turns into the target's baseline vectors (SSE2, NEON).

use std::array;

use super::{Simd, SimdOp};
use crate::isa::{Portable, Tier};

/// f32 per vector: a baseline vector register of both x86-64 and aarch64.
const LANES: usize = 4;

/// `a * b + c`: fused only where the baseline has the instruction, since a call of `fmaf` per lane would cost more
/// than everything around it.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

/// 2^n for integral `n` in `-126..=127`.
#[inline(always)]
fn pow2(n: f32) -> f32 {
    f32::from_bits((((n as i32) + 127) << 23) as u32)
}

impl Simd for Portable {
    type F = [f32; LANES];
    type M = [bool; LANES];
    const LANES: usize = LANES;
    const TIER: Tier = Tier::Portable;

    #[inline]
    fn vectorize<O: SimdOp>(self, op: O) -> O::Output {
        op.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> Self::F {
        // SAFETY: the caller promises LANES readable values; the array type needs no more alignment than f32.
        unsafe { p.cast::<Self::F>().read() }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, v: Self::F) {
        // SAFETY: the caller promises LANES writable places; the array type needs no more alignment than f32.
        unsafe { p.cast::<Self::F>().write(v) }
    }

    #[inline(always)]
    unsafe fn load_first_ptr(self, p: *const f32, n: usize) -> Self::F {
        let mut v = [0.0; LANES];
        for (i, lane) in v.iter_mut().enumerate().take(n) {
            // SAFETY: i < n, and the caller promises n readable values.
            *lane = unsafe { p.add(i).read() };
        }
        v
    }

    #[inline(always)]
    unsafe fn store_first_ptr(self, p: *mut f32, n: usize, v: Self::F) {
        for (i, &lane) in v.iter().enumerate().take(n) {
            // SAFETY: i < n, and the caller promises n writable places.
            unsafe { p.add(i).write(lane) };
        }
    }

    #[inline(always)]
    fn prefetch(self, _p: *const f32) {}

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        array::from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        array::from_fn(|i| multiply_add(a[i], b[i], c[i]))
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn sqrt(self, a: Self::F) -> Self::F {
        array::from_fn(|i| a[i].sqrt())
    }

    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        array::from_fn(|i| a[i].abs())
    }

    #[inline(always)]
    fn copysign(self, magnitude: Self::F, sign: Self::F) -> Self::F {
        array::from_fn(|i| magnitude[i].copysign(sign[i]))
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        // Adding and taking away 1.5 * 2^23 rounds |a| < 2^22 to the nearest integer, ties to even, on the add
        // unit; beyond 2^23 every f32 is an integer already, and between the two the library function decides.
        const MAGIC: f32 = 12_582_912.0;
        const EXACT: f32 = 4_194_304.0;
        array::from_fn(|i| {
            if a[i].abs() < EXACT { ((a[i] + MAGIC) - MAGIC).copysign(a[i]) } else { a[i].round_ties_even() }
        })
    }

    #[inline(always)]
    fn scale_by_pow2(self, a: Self::F, n: Self::F) -> Self::F {
        // In two steps, so that the factors stay normal where the result is subnormal or infinite.
        array::from_fn(|i| {
            let half = (n[i] * 0.5) as i32 as f32;
            a[i] * pow2(half) * pow2(n[i] - half)
        })
    }

    #[inline(always)]
    fn split_exponent(self, a: Self::F) -> (Self::F, Self::F) {
        (
            array::from_fn(|i| f32::from_bits((a[i].to_bits() & 0x007f_ffff) | (126 << 23))),
            array::from_fn(|i| ((a[i].to_bits() >> 23) as i32 - 126) as f32),
        )
    }

    #[inline(always)]
    fn first(self, n: usize) -> Self::M {
        array::from_fn(|i| i < n)
    }

    #[inline(always)]
    fn lt(self, a: Self::F, b: Self::F) -> Self::M {
        array::from_fn(|i| a[i] < b[i])
    }

    #[inline(always)]
    fn eq(self, a: Self::F, b: Self::F) -> Self::M {
        array::from_fn(|i| a[i] == b[i])
    }

    #[inline(always)]
    fn select(self, mask: Self::M, yes: Self::F, no: Self::F) -> Self::F {
        array::from_fn(|i| if mask[i] { yes[i] } else { no[i] })
    }

    #[inline(always)]
    fn reduce_sum(self, a: Self::F) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }

    #[inline(always)]
    fn reduce_max(self, a: Self::F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
    }
}
