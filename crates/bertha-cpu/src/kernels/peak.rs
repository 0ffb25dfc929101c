//! The machine's multiply-add peak, measured: what shares of peak are shares of.

use std::hint::black_box;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::context::Context;
use super::gemm::PackedType;
use super::gemm::tile::{OneF32, TwoBf16, Word};
use super::simd::{Simd, SimdOp};

/// Independent chains: enough to cover the latency of a multiply-add on two pipes.
const CHAINS: usize = 12;
/// Multiply-adds per chain in one timing: hundreds of microseconds.
const STEPS: usize = 100_000;

/// GFLOP/s of multiply-adds on operands of this type, by all of the context's workers at once, on its tier: the best of a
/// few timings. Cores that are busy together may run at a lower clock than one alone.
///
/// # Panics
/// For bf16 where the CPU has no such instructions.
#[must_use]
pub fn multiply_gflops(ctx: &mut Context, dtype: PackedType) -> f64 {
    match dtype {
        PackedType::F32 => gflops::<OneF32>(ctx),
        PackedType::Bf16 => gflops::<TwoBf16>(ctx),
    }
}

fn gflops<W: Word>(ctx: &mut Context) -> f64 {
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
            flops.fetch_add(W::run(isa, Chains(PhantomData::<W>)), Ordering::Relaxed);
        });
        best = best.max(flops.into_inner() as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

/// Runs the chains; returns how many operations that was.
struct Chains<W>(PhantomData<W>);

impl<W: Word> SimdOp for Chains<W> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let mut sums = [s.zero(); CHAINS];
        let (x, y) = (s.splat(black_box(1e-3)), s.splat(black_box(1e-3)));
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = W::multiply(s, x, y, *sum);
            }
        }
        for sum in sums {
            black_box(s.reduce_sum(sum));
        }
        2 * W::VALUES * CHAINS * STEPS * S::LANES
    }
}
