//! Vectors of 32 numbers, and how each instruction set loads and stores them.
//!
//! Arithmetic is written on arrays; within a function that enables an instruction set the compiler makes of it two
//! (AVX-512) or four (AVX2) vectors. Only halves need intrinsics: nothing else turns them into f32 quickly.

use half::f16;

/// Numbers in a vector.
pub(crate) const LANES: usize = 32;

/// A vector.
pub(crate) type Lanes = [f32; LANES];

/// How to load and store numbers of type `T` on some instruction set.
///
/// # Safety
/// The functions may be called only where the processor has the instruction set.
pub(crate) trait Memory<T> {
    unsafe fn load(x: &[T; LANES]) -> Lanes;
    unsafe fn store(v: Lanes, y: &mut [T; LANES]);
}

/// Whatever the compiler makes of it.
pub(crate) struct Portable;
/// AVX2 with FMA and F16C.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Avx2;
/// AVX-512F.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Avx512;

macro_rules! plain_f32 {
    ($($tier:ty),*) => {$(
        impl Memory<f32> for $tier {
            #[inline(always)]
            unsafe fn load(x: &[f32; LANES]) -> Lanes {
                *x
            }

            #[inline(always)]
            unsafe fn store(v: Lanes, y: &mut [f32; LANES]) {
                *y = v;
            }
        }
    )*};
}

plain_f32!(Portable);
#[cfg(target_arch = "x86_64")]
plain_f32!(Avx2, Avx512);

impl Memory<f16> for Portable {
    #[inline(always)]
    unsafe fn load(x: &[f16; LANES]) -> Lanes {
        x.map(f16::to_f32)
    }

    #[inline(always)]
    unsafe fn store(v: Lanes, y: &mut [f16; LANES]) {
        *y = v.map(f16::from_f32);
    }
}

#[cfg(target_arch = "x86_64")]
impl Memory<f16> for Avx2 {
    #[inline(always)]
    unsafe fn load(x: &[f16; LANES]) -> Lanes {
        use std::arch::x86_64::*;
        let mut v = [0.0; LANES];
        for at in (0..LANES).step_by(8) {
            // SAFETY: the caller has F16C and AVX; 8 halves are read and 8 floats written within the arrays.
            unsafe {
                let halves = _mm_loadu_si128(x.as_ptr().add(at).cast());
                _mm256_storeu_ps(v.as_mut_ptr().add(at), _mm256_cvtph_ps(halves));
            }
        }
        v
    }

    #[inline(always)]
    unsafe fn store(v: Lanes, y: &mut [f16; LANES]) {
        use std::arch::x86_64::*;
        for at in (0..LANES).step_by(8) {
            // SAFETY: the caller has F16C and AVX; 8 floats are read and 8 halves written within the arrays.
            unsafe {
                let floats = _mm256_loadu_ps(v.as_ptr().add(at));
                let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(floats);
                _mm_storeu_si128(y.as_mut_ptr().add(at).cast(), halves);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Memory<f16> for Avx512 {
    #[inline(always)]
    unsafe fn load(x: &[f16; LANES]) -> Lanes {
        use std::arch::x86_64::*;
        let mut v = [0.0; LANES];
        for at in (0..LANES).step_by(16) {
            // SAFETY: the caller has AVX-512F; 16 halves are read and 16 floats written within the arrays.
            unsafe {
                let halves = _mm256_loadu_si256(x.as_ptr().add(at).cast());
                _mm512_storeu_ps(v.as_mut_ptr().add(at), _mm512_cvtph_ps(halves));
            }
        }
        v
    }

    #[inline(always)]
    unsafe fn store(v: Lanes, y: &mut [f16; LANES]) {
        use std::arch::x86_64::*;
        for at in (0..LANES).step_by(16) {
            // SAFETY: the caller has AVX-512F; 16 floats are read and 16 halves written within the arrays.
            unsafe {
                let floats = _mm512_loadu_ps(v.as_ptr().add(at));
                let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(floats);
                _mm256_storeu_si256(y.as_mut_ptr().add(at).cast(), halves);
            }
        }
    }
}
