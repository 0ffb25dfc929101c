//! GFLOP/s of the packed GEMM at BERT's shapes, and their share of the multiply-add peak measured beside them.
//!
//! `cargo run --release -p bertha-cpu --example gemm_peak -- [threads] [isa] [f32|bf16]`
//!
//! Weights come from a set larger than the caches, as they do in a model; a product has a bias and, for N = 3072, the
//! erf GELU. Figures are the best (and the median) of many calls interleaved with peak measurements, since the clock and the
//! neighbours of a machine change.

use std::hint::black_box;
use std::time::Instant;

use bertha_cpu::isa::Isa;
use bertha_cpu::kernels::gemm::{
    Activation, Epilogue, PackedB, PackedDesc, PackedType, Strided, gemm, pack_b, row_stride,
};
use bertha_cpu::kernels::{AlignedBuf, Context, Rows, RowsMut, peak};

/// BERT-base's products: (K, N, activation).
const WEIGHTS: [(usize, usize, Activation); 4] = [
    (768, 768, Activation::None),
    (768, 2304, Activation::None),
    (768, 3072, Activation::GeluErf),
    (3072, 768, Activation::None),
];
const TOKENS: [usize; 7] = [1, 4, 16, 32, 128, 384, 1024];
/// Bytes of weights to cycle through.
const WEIGHT_BYTES: usize = 96 << 20;
/// Seconds per shape.
const SECONDS: f64 = 0.15;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let threads = args.next().map_or(Ok(1), |arg| arg.parse())?;
    let isa = args.next().map_or_else(Isa::from_env, |name| Isa::from_name(&name))?;
    let dtype = match args.next().as_deref() {
        None | Some("f32") => PackedType::F32,
        Some("bf16") if isa.has_bf16() => PackedType::Bf16,
        Some(other) => return Err(format!("no kernels on {other} operands for {isa} on this CPU").into()),
    };
    let mut ctx = Context::new(isa, threads)?;
    println!(
        "{isa}, {}, {threads} thread(s), peak {:.1} GFLOP/s",
        dtype.name(),
        peak::multiply_gflops(&mut ctx, dtype)
    );
    println!(
        "{:>6} {:>6} {:>6} {:>10} {:>10} {:>8} {:>10}",
        "M", "K", "N", "ms", "GFLOP/s", "of peak", "median"
    );
    for (k, n, activation) in WEIGHTS {
        let desc = PackedDesc::with_type(isa.tier(), dtype, k, n);
        let source: Vec<f32> = (0..k * n).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
        let mut packed = AlignedBuf::new(desc.packed_len()?);
        pack_b(&desc, Strided::transposed(&source, k, n), &mut packed);
        let copies = (WEIGHT_BYTES / (4 * packed.len())).max(1);
        let sets = vec![packed; copies];
        let bias = vec![0.1; n];
        for m in TOKENS {
            let (a_stride, c_stride) = (row_stride(k), row_stride(n));
            let mut a = AlignedBuf::new(m * a_stride);
            a.fill(0.25);
            let mut c = AlignedBuf::new(m * c_stride);
            let flops = 2.0 * (m * n * k) as f64;
            let (mut times, mut best_peak) = (Vec::new(), 0.0_f64);
            let start = Instant::now();
            let mut calls = 0;
            while start.elapsed().as_secs_f64() < SECONDS || calls < 5 {
                let b = PackedB::new(desc, &sets[calls % sets.len()])?;
                let epilogue = Epilogue { bias: Some(&bias), activation, residual: None };
                let call = Instant::now();
                gemm(
                    &mut ctx,
                    Rows { data: &a, rows: m, cols: k, stride: a_stride },
                    &b,
                    RowsMut { data: &mut c, rows: m, cols: n, stride: c_stride },
                    &epilogue,
                );
                times.push(call.elapsed().as_secs_f64());
                calls += 1;
                if calls % 16 == 0 {
                    best_peak = best_peak.max(peak::multiply_gflops(&mut ctx, dtype));
                }
            }
            best_peak = best_peak.max(peak::multiply_gflops(&mut ctx, dtype));
            black_box(&c);
            times.sort_by(f64::total_cmp);
            let (best, median) = (times[0], times[times.len() / 2]);
            let rate = |seconds: f64| flops / seconds / 1e9;
            println!(
                "{m:>6} {k:>6} {n:>6} {:>10.4} {:>10.1} {:>7.1}% {:>9.1}%",
                best * 1e3,
                rate(best),
                100.0 * rate(best) / best_peak,
                100.0 * rate(median) / best_peak,
            );
        }
    }
    Ok(())
}
