//! Random operands and comparisons.

use bertha_cpu::isa::Isa;
use bertha_cpu::kernels::Context;

/// Half the distance from 1 to the next f32: the relative error of one rounding.
pub(crate) const ROUND: f64 = f32::EPSILON as f64 / 2.0;

/// A small generator (splitmix64): tests must not depend on the day.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0..end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// In [-1, 1).
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn values(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.uniform() * scale).collect()
    }
}

pub(crate) fn context(isa: Isa, threads: usize) -> Context {
    Context::new(isa, threads).expect("threads for the test")
}

/// Asserts `|got - want| <= tolerance` (and NaN only where NaN is wanted).
#[track_caller]
pub(crate) fn assert_close(got: f32, want: f64, tolerance: f64, what: &dyn Fn() -> String) {
    let ok = if want.is_nan() {
        got.is_nan()
    } else if want.is_infinite() {
        f64::from(got) == want
    } else {
        (f64::from(got) - want).abs() <= tolerance
    };
    assert!(ok, "{}: got {got}, want {want}, tolerance {tolerance:e}", what());
}

/// Distance in units of the wanted value's last place, as f32.
pub(crate) fn ulps(got: f32, want: f64) -> f64 {
    let exponent = want.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
    (f64::from(got) - want).abs() / (exponent - 23.0).exp2()
}
