//! 8 lanes: AVX2 and FMA.

use std::arch::x86_64::*;

use super::{Simd, SimdOp};
use crate::isa::{Avx2, Tier};

/// Eight set words, then eight clear ones: the window that starts at `8 - n` masks the first `n` lanes.
static FIRST: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// Mask of the first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __m256i {
    // SAFETY: the window of 8 words that starts at 8 - min(n, 8) lies within the 16; the caller holds an `Avx2`.
    unsafe { _mm256_loadu_si256(FIRST.as_ptr().add(8 - n.min(8)).cast()) }
}

/// 2^n for integral `n` in `-126..=127`.
#[inline(always)]
fn pow2(n: __m256) -> __m256 {
    // SAFETY: the caller holds an `Avx2`.
    unsafe {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
}

/// Transposes 8 rows of 8 values: within 128-bit halves by unpacking, then the halves themselves.
///
/// # Safety
/// The CPU must have AVX.
#[inline(always)]
unsafe fn transpose_8x8(r: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: this function's contract.
    unsafe {
        // Half h of t[4 g + c] holds column 4 h + c of rows 4 g .. 4 g + 4.
        let mut t = r;
        for g in [0, 4] {
            let (a, b) = (_mm256_unpacklo_ps(r[g], r[g + 1]), _mm256_unpackhi_ps(r[g], r[g + 1]));
            let (c, d) = (_mm256_unpacklo_ps(r[g + 2], r[g + 3]), _mm256_unpackhi_ps(r[g + 2], r[g + 3]));
            let (a, b) = (_mm256_castps_pd(a), _mm256_castps_pd(b));
            let (c, d) = (_mm256_castps_pd(c), _mm256_castps_pd(d));
            t[g] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
            t[g + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
            t[g + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
            t[g + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
        }
        let mut out = r;
        for c in 0..4 {
            out[c] = _mm256_permute2f128_ps::<0x20>(t[c], t[4 + c]);
            out[4 + c] = _mm256_permute2f128_ps::<0x31>(t[c], t[4 + c]);
        }
        out
    }
}

// SAFETY (every block below): `self` is an `Avx2`, which detection alone can make, so the instructions exist on
// this CPU; pointer validity is each method's own contract.
impl Simd for Avx2 {
    type F = __m256;
    type M = __m256;
    const LANES: usize = 8;
    const TIER: Tier = Tier::Avx2;

    #[inline]
    fn vectorize<O: SimdOp>(self, op: O) -> O::Output {
        // Never inlined: a tile kernel inlined into its driver shares the registers with it.
        #[inline(never)]
        #[target_feature(enable = "avx2,fma")]
        fn inner<O: SimdOp>(simd: Avx2, op: O) -> O::Output {
            op.run(simd)
        }
        // SAFETY: the token proves the features.
        unsafe { inner(self, op) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, v: __m256) {
        // SAFETY: see the impl.
        unsafe { _mm256_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn load_first_ptr(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: see the impl; masked-off lanes are not read.
        unsafe { _mm256_maskload_ps(p, first(n)) }
    }

    #[inline(always)]
    unsafe fn store_first_ptr(self, p: *mut f32, n: usize, v: __m256) {
        // SAFETY: see the impl; masked-off lanes are not written.
        unsafe { _mm256_maskstore_ps(p, first(n), v) }
    }

    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const f32,
        from_stride: usize,
        (rows, cols): (usize, usize),
        to: *mut f32,
        to_stride: usize,
    ) {
        let mut r = [self.zero(); 8];
        for (i, row) in r.iter_mut().enumerate() {
            if i < rows {
                // SAFETY: the caller promises `rows` rows of `cols` values.
                *row = unsafe { self.load_first_ptr(from.add(i * from_stride), cols) };
            }
        }
        // SAFETY: see the impl.
        let columns = unsafe { transpose_8x8(r) };
        for (i, column) in columns.into_iter().enumerate() {
            if i < cols {
                // SAFETY: the caller promises room for `cols` rows of LANES values.
                unsafe { self.store_ptr(to.add(i * to_stride), column) };
            }
        }
    }

    #[inline(always)]
    unsafe fn stream_ptr(self, p: *mut f32, v: __m256) {
        // SAFETY: see the impl; the caller promises room and alignment.
        unsafe { _mm256_stream_ps(p, v) }
    }

    #[inline(always)]
    fn fence(self) {
        // SAFETY: every x86-64 CPU has it.
        unsafe { _mm_sfence() }
    }

    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_sqrt_ps(a) }
    }

    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }

    #[inline(always)]
    fn copysign(self, magnitude: __m256, sign: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe {
            let bit = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign))
        }
    }

    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    fn scale_by_pow2(self, a: __m256, n: __m256) -> __m256 {
        // In two steps, so that the factors stay normal where the result is subnormal or infinite.
        let half = self.round(self.mul(n, self.splat(0.5)));
        self.mul(self.mul(a, pow2(half)), pow2(self.sub(n, half)))
    }

    #[inline(always)]
    fn split_exponent(self, a: __m256) -> (__m256, __m256) {
        // SAFETY: see the impl.
        unsafe {
            let bits = _mm256_castps_si256(a);
            let exponent = _mm256_sub_epi32(_mm256_srli_epi32::<23>(bits), _mm256_set1_epi32(126));
            let mantissa = _mm256_or_si256(
                _mm256_and_si256(bits, _mm256_set1_epi32(0x007f_ffff)),
                _mm256_set1_epi32(126 << 23),
            );
            (_mm256_castsi256_ps(mantissa), _mm256_cvtepi32_ps(exponent))
        }
    }

    #[inline(always)]
    fn first(self, n: usize) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_castsi256_ps(first(n)) }
    }

    #[inline(always)]
    fn lt(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
    }

    #[inline(always)]
    fn eq(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b) }
    }

    #[inline(always)]
    fn select(self, mask: __m256, yes: __m256, no: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_blendv_ps(no, yes, mask) }
    }

    #[inline(always)]
    fn reduce_sum(self, a: __m256) -> f32 {
        // SAFETY: see the impl.
        unsafe {
            let quad = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let pair = _mm_add_ps(quad, _mm_movehl_ps(quad, quad));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
        }
    }

    #[inline(always)]
    fn reduce_max(self, a: __m256) -> f32 {
        // SAFETY: see the impl.
        unsafe {
            let quad = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let pair = _mm_max_ps(quad, _mm_movehl_ps(quad, quad));
            _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)))
        }
    }
}
