//! 16 lanes: AVX-512 F, BW, DQ, VL; once more with BF16, whose instructions only kernels on bf16 operands use.

use std::arch::x86_64::*;

use half::bf16;

use super::{Simd, SimdOp};
use crate::isa::{Avx512, Avx512Bf16, Tier};

/// Mask of the first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1_u32 << n.min(16)) - 1) as __mmask16
}

/// Transposes 16 rows of 16 values: within 128-bit quarters by unpacking, then the quarters themselves.
///
/// # Safety
/// The CPU must have AVX-512 F.
#[inline(always)]
unsafe fn transpose_16x16(r: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: this function's contract.
    unsafe {
        // Quarter q of t[4 g + c] holds column 4 q + c of rows 4 g .. 4 g + 4.
        let mut t = r;
        for g in (0..16).step_by(4) {
            let (a, b) = (_mm512_unpacklo_ps(r[g], r[g + 1]), _mm512_unpackhi_ps(r[g], r[g + 1]));
            let (c, d) = (_mm512_unpacklo_ps(r[g + 2], r[g + 3]), _mm512_unpackhi_ps(r[g + 2], r[g + 3]));
            let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
            let (c, d) = (_mm512_castps_pd(c), _mm512_castps_pd(d));
            t[g] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
            t[g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
            t[g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
            t[g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
        }
        // Column 4 q + c gathers quarter q of t[c], t[4 + c], t[8 + c], t[12 + c].
        let mut out = r;
        for c in 0..4 {
            let even_low = _mm512_shuffle_f32x4::<0x88>(t[c], t[4 + c]);
            let odd_low = _mm512_shuffle_f32x4::<0xdd>(t[c], t[4 + c]);
            let even_high = _mm512_shuffle_f32x4::<0x88>(t[8 + c], t[12 + c]);
            let odd_high = _mm512_shuffle_f32x4::<0xdd>(t[8 + c], t[12 + c]);
            out[c] = _mm512_shuffle_f32x4::<0x88>(even_low, even_high);
            out[4 + c] = _mm512_shuffle_f32x4::<0x88>(odd_low, odd_high);
            out[8 + c] = _mm512_shuffle_f32x4::<0xdd>(even_low, even_high);
            out[12 + c] = _mm512_shuffle_f32x4::<0xdd>(odd_low, odd_high);
        }
        out
    }
}

// SAFETY (every block below): `self` is a token that detection alone can make, so the instructions exist on this CPU;
// pointer validity is each method's own contract.
macro_rules! impl_simd {
    ($token:ty, $features:literal, { $($more:tt)* }) => {
        impl Simd for $token {
            type F = __m512;
            type M = __mmask16;
            const LANES: usize = 16;
            const TIER: Tier = Tier::Avx512;

            $($more)*

            #[inline]
            fn vectorize<O: SimdOp>(self, op: O) -> O::Output {
                // Never inlined: a tile kernel inlined into its driver shares the registers with it.
                #[inline(never)]
                #[target_feature(enable = $features)]
                fn inner<O: SimdOp>(simd: $token, op: O) -> O::Output {
                    op.run(simd)
                }
                // SAFETY: the token proves the features.
                unsafe { inner(self, op) }
            }

            #[inline(always)]
            fn splat(self, x: f32) -> __m512 {
                // SAFETY: see the impl.
                unsafe { _mm512_set1_ps(x) }
            }

            #[inline(always)]
            unsafe fn load_ptr(self, p: *const f32) -> __m512 {
                // SAFETY: see the impl.
                unsafe { _mm512_loadu_ps(p) }
            }

            #[inline(always)]
            unsafe fn store_ptr(self, p: *mut f32, v: __m512) {
                // SAFETY: see the impl.
                unsafe { _mm512_storeu_ps(p, v) }
            }

            #[inline(always)]
            unsafe fn load_first_ptr(self, p: *const f32, n: usize) -> __m512 {
                // SAFETY: see the impl; masked-off lanes are not read.
                unsafe { _mm512_maskz_loadu_ps(first(n), p) }
            }

            #[inline(always)]
            unsafe fn store_first_ptr(self, p: *mut f32, n: usize, v: __m512) {
                // SAFETY: see the impl; masked-off lanes are not written.
                unsafe { _mm512_mask_storeu_ps(p, first(n), v) }
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
                let mut r = [self.zero(); 16];
                for (i, row) in r.iter_mut().enumerate() {
                    if i < rows {
                        // SAFETY: the caller promises `rows` rows of `cols` values.
                        *row = unsafe { self.load_first_ptr(from.add(i * from_stride), cols) };
                    }
                }
                // SAFETY: see the impl.
                let columns = unsafe { transpose_16x16(r) };
                for (i, column) in columns.into_iter().enumerate() {
                    if i < cols {
                        // SAFETY: the caller promises room for `cols` rows of LANES values.
                        unsafe { self.store_ptr(to.add(i * to_stride), column) };
                    }
                }
            }

            #[inline(always)]
            unsafe fn stream_ptr(self, p: *mut f32, v: __m512) {
                // SAFETY: see the impl; the caller promises room and alignment.
                unsafe { _mm512_stream_ps(p, v) }
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
            fn add(self, a: __m512, b: __m512) -> __m512 {
                // SAFETY: see the impl.
                unsafe { _mm512_add_ps(a, b) }
            }

            #[inline(always)]
            fn sub(self, a: __m512, b: __m512) -> __m512 {
                // SAFETY: see the impl.
                unsafe { _mm512_sub_ps(a, b) }
            }

            #[inline(always)]
            fn mul(self, a: __m512, b: __m512) -> __m512 {
                // SAFETY: see the impl.
                unsafe { _mm512_mul_ps(a, b) }
            }

            #[inline(always)]
            fn div(self, a: __m512, b: __m512) -> __m512 {
                // SAFETY: see the impl.
                unsafe { _mm512_div_ps(a, b) }
            }

            #[inline(always)]
            fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
                // SAFETY: see the impl.
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }

            #[inline(always)]
            fn min(self, a: __m512, b: __m512) -> __m512 {
                // SAFETY: see the impl.
                unsafe { _mm512_min_ps(a, b) }
            }

            #[inline(always)]
            fn max(self, a: __m512, b: __m512) -> __m512 {
                // SAFETY: see the impl.
                unsafe { _mm512_max_ps(a, b) }
            }

            #[inline(always)]
            fn sqrt(self, a: __m512) -> __m512 {
                // SAFETY: see the impl.
                unsafe { _mm512_sqrt_ps(a) }
            }

            #[inline(always)]
            fn abs(self, a: __m512) -> __m512 {
                // SAFETY: see the impl.
                unsafe { _mm512_abs_ps(a) }
            }

            #[inline(always)]
            fn copysign(self, magnitude: __m512, sign: __m512) -> __m512 {
                // SAFETY: see the impl.
                unsafe {
                    let bit = _mm512_set1_ps(-0.0);
                    _mm512_or_ps(_mm512_andnot_ps(bit, magnitude), _mm512_and_ps(bit, sign))
                }
            }

            #[inline(always)]
            fn round(self, a: __m512) -> __m512 {
                // SAFETY: see the impl.
                unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
            }

            #[inline(always)]
            fn scale_by_pow2(self, a: __m512, n: __m512) -> __m512 {
                // SAFETY: see the impl.
                unsafe { _mm512_scalef_ps(a, n) }
            }

            #[inline(always)]
            fn split_exponent(self, a: __m512) -> (__m512, __m512) {
                // SAFETY: see the impl.
                unsafe {
                    let mantissa = _mm512_getmant_ps::<_MM_MANT_NORM_P5_1, _MM_MANT_SIGN_SRC>(a);
                    (mantissa, _mm512_add_ps(_mm512_getexp_ps(a), _mm512_set1_ps(1.0)))
                }
            }

            #[inline(always)]
            fn first(self, n: usize) -> __mmask16 {
                first(n)
            }

            #[inline(always)]
            fn lt(self, a: __m512, b: __m512) -> __mmask16 {
                // SAFETY: see the impl.
                unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
            }

            #[inline(always)]
            fn eq(self, a: __m512, b: __m512) -> __mmask16 {
                // SAFETY: see the impl.
                unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
            }

            #[inline(always)]
            fn select(self, mask: __mmask16, yes: __m512, no: __m512) -> __m512 {
                // SAFETY: see the impl.
                unsafe { _mm512_mask_blend_ps(mask, no, yes) }
            }

            #[inline(always)]
            fn reduce_sum(self, a: __m512) -> f32 {
                // SAFETY: see the impl.
                unsafe { _mm512_reduce_add_ps(a) }
            }

            #[inline(always)]
            fn reduce_max(self, a: __m512) -> f32 {
                // SAFETY: see the impl.
                unsafe { _mm512_reduce_max_ps(a) }
            }
        }
    };
}

impl_simd!(Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma", {});
impl_simd!(Avx512Bf16, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma", {
    #[inline(always)]
    fn dot_bf16(self, a: __m512, b: __m512, acc: __m512) -> __m512 {
        // SAFETY: see the impl; the vectors' bits are pairs of bf16 by this method's contract.
        unsafe {
            let a = std::mem::transmute::<__m512, __m512bh>(a);
            let b = std::mem::transmute::<__m512, __m512bh>(b);
            _mm512_dpbf16_ps(acc, a, b)
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(
        self,
        even: *const bf16,
        n_even: usize,
        odd: *const bf16,
        n_odd: usize,
    ) -> __m512 {
        // SAFETY: see the impl; masked-off lanes are not read.
        unsafe {
            let even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n_even), even.cast()));
            let odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n_odd), odd.cast()));
            _mm512_castsi512_ps(_mm512_or_si512(even, _mm512_slli_epi32::<16>(odd)))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16_ptr(self, p: *mut bf16, n: usize, v: __m512) {
        // SAFETY: see the impl; masked-off lanes are not written.
        unsafe {
            let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
            if n >= 16 {
                _mm256_storeu_si256(p.cast(), rounded);
            } else {
                _mm256_mask_storeu_epi16(p.cast(), first(n), rounded);
            }
        }
    }

    #[inline(always)]
    unsafe fn stream_bf16_ptr(self, p: *mut bf16, v: __m512) {
        // SAFETY: see the impl; the caller promises room and alignment.
        unsafe {
            let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
            _mm256_stream_si256(p.cast(), rounded);
        }
    }
});

#[cfg(test)]
mod tests {
    use super::*;

    /// The instructions' results for pairs of bf16 in `a`, `b` and f32 in `acc`, and those of the plain forms.
    struct Both<'a>([&'a [f32; 16]; 3]);

    impl SimdOp for Both<'_> {
        type Output = ([f32; 16], [bf16; 16]);

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let [a, b, acc] = self.0.map(|x| s.load(x));
            let (mut dot, mut rounded) = ([0.0; 16], [bf16::ZERO; 16]);
            s.store(&mut dot, s.dot_bf16(a, b, acc));
            // SAFETY: room for all lanes.
            unsafe { s.store_bf16_ptr(rounded.as_mut_ptr(), 16, acc) };
            (dot, rounded)
        }
    }

    #[test]
    fn bf16_instructions_agree_with_their_plain_form() {
        let (Some(plain), Some(fast)) = (Avx512::detect(), Avx512Bf16::detect()) else {
            eprintln!("skipped: the CPU has no AVX-512 BF16");
            return;
        };
        let mut state = 1_u64;
        let mut value = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 2.0_f32.powi((state >> 33) as i32 % 20)
        };
        for _ in 0..2000 {
            let mut pair = || {
                let (low, high) = (bf16::from_f32(value()), bf16::from_f32(value()));
                f32::from_bits(u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16)
            };
            let (a, b) = (std::array::from_fn(|_| pair()), std::array::from_fn(|_| pair()));
            let acc = std::array::from_fn(|_| value());
            let (dot, rounded) = fast.vectorize(Both([&a, &b, &acc]));
            let (plain_dot, plain_rounded) = plain.vectorize(Both([&a, &b, &acc]));
            assert_eq!(dot.map(f32::to_bits), plain_dot.map(f32::to_bits));
            assert_eq!(rounded.map(bf16::to_bits), plain_rounded.map(bf16::to_bits));
        }
    }
}
