//! The machine's multiply-add peak, measured: what shares of peak are shares of.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::context::Context;
use super::simd::{Simd, SimdOp};

/// Independent chains: enough to cover the latency of a multiply-add on two pipes.
const CHAINS: usize = 12;
/// Multiply-adds per chain in one timing: hundreds of microseconds.
const STEPS: usize = 100_000;

/// GFLOP/s of f32 multiply-adds of all of the context's workers at once, on its tier: the best of a few timings. Cores
/// that are busy together may run at a lower clock than one alone.
#[must_use]
pub fn fma_gflops(ctx: &mut Context) -> f64 {
    let (isa, threads) = (ctx.isa, ctx.threads());
    let mut best = 0.0_f64;
    for _ in 0..5 {
        let (here, flops) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let start = Instant::now();
        ctx.pool.run(threads, |_| {
            // Every worker takes one part: who has one waits for the others to come.
            here.fetch_add(1, Ordering::AcqRel);
            while here.load(Ordering::Acquire) < threads {
                std::hint::spin_loop();
            }
            flops.fetch_add(isa.run(Chains), Ordering::Relaxed);
        });
        best = best.max(flops.into_inner() as f64 / start.elapsed().as_secs_f64() / 1e9);
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
