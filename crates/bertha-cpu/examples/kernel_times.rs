//! Times of the kernels between the GEMMs at BERT-base's shapes, and of a fork.
//!
//! `cargo run --release -p bertha-cpu --example kernel_times -- [threads] [isa]`

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bertha_cpu::isa::Isa;
use bertha_cpu::kernels::attention::{
    Attention, AttentionBias, AttentionShape, HeadLayout, HeadRows, Sequences, attention,
};
use bertha_cpu::kernels::elementwise::{UnaryOp, unary};
use bertha_cpu::kernels::norm::{LayerNorm, layer_norm};
use bertha_cpu::kernels::softmax::softmax;
use bertha_cpu::kernels::{AlignedBuf, Context, CuSeqlens, Rows, RowsMut};
use bertha_cpu::pool::Pool;

const HIDDEN: usize = 768;
const FFN: usize = 3072;
const HEADS: usize = 12;
/// (sequences, tokens each).
const BATCHES: [(usize, usize); 6] = [(1, 16), (1, 32), (1, 128), (1, 384), (8, 128), (32, 50)];

/// Least seconds of a call among many.
fn best(mut call: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed().as_secs_f64() < 0.2 {
        let one = Instant::now();
        call();
        best = best.min(one.elapsed().as_secs_f64());
    }
    best
}

/// Seconds of a run whose parts wait for each other, so that every worker has to come.
fn fork(pool: &mut Pool) -> f64 {
    let threads = pool.threads();
    best(|| {
        let here = AtomicUsize::new(0);
        pool.run(threads, |_| {
            here.fetch_add(1, Ordering::AcqRel);
            while here.load(Ordering::Acquire) < threads {
                std::hint::spin_loop();
            }
        });
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let threads = args.next().map_or(Ok(1), |arg| arg.parse())?;
    let isa = args.next().map_or_else(Isa::from_env, |name| Isa::from_name(&name))?;
    let mut ctx = Context::new(isa, threads)?;
    let mut pool = Pool::new(threads)?;
    println!(
        "{isa}, {threads} thread(s); a fork that every worker joins takes {:.2} us",
        1e6 * fork(&mut pool)
    );
    println!("microseconds; attention also in GFLOP/s, the others in ns per value");
    println!(
        "{:>8} {:>18} {:>18} {:>18} {:>18}",
        "batch", "attention", "add + layer norm", "erf GELU", "softmax"
    );
    for (sequences, len) in BATCHES {
        let tokens = sequences * len;
        let offsets: Vec<u32> = (0..=sequences).map(|i| (i * len) as u32).collect();
        let mut qkv = AlignedBuf::new(tokens * 3 * HIDDEN);
        for (i, x) in qkv.iter_mut().enumerate() {
            *x = (i % 83) as f32 / 83.0 - 0.5;
        }
        let mut out = AlignedBuf::new(tokens * HIDDEN);
        let view = |part: usize| HeadRows {
            data: &qkv[part * HIDDEN..],
            layout: HeadLayout::ragged(HIDDEN / HEADS, 3 * HIDDEN),
        };
        let args = Attention {
            shape: AttentionShape::multi_head(HEADS, HIDDEN / HEADS),
            seqs: Sequences::Ragged(CuSeqlens::new(&offsets)?),
            q: view(0),
            k: view(1),
            v: view(2),
            bias: AttentionBias::None,
        };
        let layout = HeadLayout::ragged(HIDDEN / HEADS, HIDDEN);
        let attention_s = best(|| attention(&mut ctx, &args, layout, &mut out));
        let attention_flops = (4 * sequences * len * len * HIDDEN) as f64;

        let (gamma, beta) = (vec![1.0; HIDDEN], vec![0.0; HIDDEN]);
        let norm = LayerNorm { gamma: &gamma, beta: &beta, eps: 1e-12 };
        let x = Rows::new(&qkv[..tokens * HIDDEN], tokens, HIDDEN);
        let norm_s =
            best(|| layer_norm(&mut ctx, &norm, Some(x), Some(x), RowsMut::new(&mut out, tokens, HIDDEN)));

        let mut ffn = AlignedBuf::new(tokens * FFN);
        ffn.fill(0.7);
        let gelu_s = best(|| unary(&mut ctx, UnaryOp::GeluErf, None, RowsMut::new(&mut ffn, tokens, FFN)));
        let softmax_s = best(|| softmax(&mut ctx, None, RowsMut::new(&mut ffn, tokens, FFN)));
        let per_value = |seconds: f64, cols: usize| 1e9 * seconds / (tokens * cols) as f64;
        println!(
            "{:>8} {:>10.1} {:>7.1} {:>10.1} {:>7.3} {:>10.1} {:>7.3} {:>10.1} {:>7.3}",
            format!("{sequences}x{len}"),
            attention_s * 1e6,
            attention_flops / attention_s / 1e9,
            norm_s * 1e6,
            per_value(norm_s, HIDDEN),
            gelu_s * 1e6,
            per_value(gelu_s, FFN),
            softmax_s * 1e6,
            per_value(softmax_s, FFN),
        );
    }
    Ok(())
}
