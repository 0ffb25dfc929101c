//! The machine's multiply-add peak, measured: what shares of peak are shares of.

use std::hint::black_box;
use std::time::Instant;

use super::context::Context;
use super::simd::{Simd, SimdOp};

/// Independent chains: enough to cover the latency of a multiply-add on two pipes.
const CHAINS: usize = 12;
/// Multiply-adds per chain in one timing: tens of microseconds.
const STEPS: usize = 10_000;

/// GFLOP/s of one core's f32 multiply-adds on the context's tier: the best of a few timings.
#[must_use]
pub fn fma_gflops(ctx: &mut Context) -> f64 {
    let mut best = 0.0_f64;
    for _ in 0..5 {
        let start = Instant::now();
        let flops = ctx.isa.run(Chains);
        best = best.max(flops as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

/// Runs the chains; returns how many operations that was.
struct Chains;

impl SimdOp for Chains {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let mut sums = [s.zero(); CHAINS];
        let (x, y) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = s.fma(*sum, x, y);
            }
        }
        for sum in sums {
            black_box(s.reduce_sum(sum));
        }
        2 * CHAINS * STEPS * S::LANES
    }
}
