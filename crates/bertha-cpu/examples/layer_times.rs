//! Times of the kernels of BERT-base's encoder as they follow each other, layer by layer, on the buffers of a model.
//!
//! `cargo run --release -p bertha-cpu --example layer_times -- [threads] [isa] [sequences x length]..`
//!
//! What a kernel takes here and not alone (`kernel_times`, `gemm_peak`) is the way of its operands from the caches of the
//! cores that made them.

use std::time::Instant;

use bertha_cpu::isa::Isa;
use bertha_cpu::kernels::attention::{
    Attention, AttentionBias, AttentionShape, HeadLayout, HeadRows, Sequences, attention,
};
use bertha_cpu::kernels::gemm::{
    Activation, Epilogue, PackedB, PackedDesc, Strided, gemm, pack_b, row_stride,
};
use bertha_cpu::kernels::norm::{LayerNorm, layer_norm};
use bertha_cpu::kernels::{AlignedBuf, Context, CuSeqlens, Rows, RowsMut, peak};

const HIDDEN: usize = 768;
const FFN: usize = 3072;
const HEADS: usize = 12;
const LAYERS: usize = 12;
/// The steps of a layer.
const STEPS: [&str; 7] = ["qkv", "attention", "output", "norm", "ffn up", "ffn down", "norm"];
const SECONDS: f64 = 0.4;

/// The weights of one layer.
struct Layer([(PackedDesc, AlignedBuf); 4]);

/// A batch's buffers: `[tokens, stride]`.
struct Buffers {
    tokens: usize,
    x: AlignedBuf,
    qkv: AlignedBuf,
    context: AlignedBuf,
    sums: AlignedBuf,
    normed: AlignedBuf,
    ffn: AlignedBuf,
}

impl Buffers {
    fn new(tokens: usize) -> Self {
        let buffer = |cols| {
            let mut buffer = AlignedBuf::new(tokens * row_stride(cols));
            for (i, x) in buffer.iter_mut().enumerate() {
                *x = (i % 83) as f32 / 83.0 - 0.5;
            }
            buffer
        };
        Buffers {
            tokens,
            x: buffer(HIDDEN),
            qkv: buffer(3 * HIDDEN),
            context: buffer(HIDDEN),
            sums: buffer(HIDDEN),
            normed: buffer(HIDDEN),
            ffn: buffer(FFN),
        }
    }
}

fn rows(data: &AlignedBuf, tokens: usize, cols: usize) -> Rows<'_> {
    Rows { data, rows: tokens, cols, stride: row_stride(cols) }
}

fn rows_mut(data: &mut AlignedBuf, tokens: usize, cols: usize) -> RowsMut<'_> {
    RowsMut { data, rows: tokens, cols, stride: row_stride(cols) }
}

fn layer(isa: Isa) -> Result<Layer, Box<dyn std::error::Error>> {
    let packed = |k: usize, n: usize| -> Result<_, Box<dyn std::error::Error>> {
        let desc = PackedDesc::new(isa.tier(), k, n);
        let source: Vec<f32> = (0..k * n).map(|i| ((i * 31 % 251) as f32 / 251.0 - 0.5) / 28.0).collect();
        let mut packed = AlignedBuf::new(desc.packed_len()?);
        pack_b(&desc, Strided::transposed(&source, k, n), &mut packed);
        Ok((desc, packed))
    };
    Ok(Layer([
        packed(HIDDEN, 3 * HIDDEN)?,
        packed(HIDDEN, HIDDEN)?,
        packed(HIDDEN, FFN)?,
        packed(FFN, HIDDEN)?,
    ]))
}

/// Runs one layer and adds up the seconds of its steps.
fn run(
    ctx: &mut Context,
    layer: &Layer,
    cu: CuSeqlens<'_>,
    b: &mut Buffers,
    seconds: &mut [f64; 7],
) -> Result<(), Box<dyn std::error::Error>> {
    let (tokens, bias, ones) = (b.tokens, vec![0.01; FFN], vec![1.0; HIDDEN]);
    let norm = LayerNorm { gamma: &ones, beta: &bias[..HIDDEN], eps: 1e-12 };
    let weight = |index: usize| PackedB::new(layer.0[index].0, &layer.0[index].1);
    let epilogue = |n: usize, activation| Epilogue { bias: Some(&bias[..n]), activation, residual: None };
    let mut start = Instant::now();
    let mut step = |index: usize| {
        seconds[index] += start.elapsed().as_secs_f64();
        start = Instant::now();
    };
    let (hidden, plain) = (HIDDEN, Activation::None);
    let y = rows_mut(&mut b.qkv, tokens, 3 * hidden);
    gemm(ctx, rows(&b.x, tokens, hidden), &weight(0)?, y, &epilogue(3 * hidden, plain));
    step(0);
    let head = HIDDEN / HEADS;
    let part = |part: usize| HeadRows {
        data: &b.qkv[part * HIDDEN..],
        layout: HeadLayout::ragged(head, row_stride(3 * HIDDEN)),
    };
    let args = Attention {
        shape: AttentionShape::multi_head(HEADS, head),
        seqs: Sequences::Ragged(cu),
        q: part(0),
        k: part(1),
        v: part(2),
        bias: AttentionBias::None,
    };
    attention(ctx, &args, HeadLayout::ragged(head, row_stride(HIDDEN)), &mut b.context);
    step(1);
    let residual = |x| Epilogue { residual: Some(x), ..epilogue(hidden, plain) };
    let sums = rows_mut(&mut b.sums, tokens, hidden);
    gemm(ctx, rows(&b.context, tokens, hidden), &weight(1)?, sums, &residual(rows(&b.x, tokens, hidden)));
    step(2);
    let normed = rows_mut(&mut b.normed, tokens, hidden);
    layer_norm(ctx, &norm, Some(rows(&b.sums, tokens, hidden)), None, normed);
    step(3);
    let y = rows_mut(&mut b.ffn, tokens, FFN);
    gemm(ctx, rows(&b.normed, tokens, hidden), &weight(2)?, y, &epilogue(FFN, Activation::GeluErf));
    step(4);
    let sums = rows_mut(&mut b.sums, tokens, hidden);
    gemm(ctx, rows(&b.ffn, tokens, FFN), &weight(3)?, sums, &residual(rows(&b.normed, tokens, hidden)));
    step(5);
    layer_norm(ctx, &norm, Some(rows(&b.sums, tokens, hidden)), None, rows_mut(&mut b.x, tokens, hidden));
    step(6);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let threads = args.next().map_or(Ok(1), |arg| arg.parse())?;
    let isa = args.next().map_or_else(Isa::from_env, |name| Isa::from_name(&name))?;
    let batches: Vec<String> = args.collect();
    let mut ctx = Context::new(isa, threads)?;
    let layers: Vec<Layer> = (0..LAYERS).map(|_| layer(isa)).collect::<Result<_, _>>()?;
    println!("{isa}, {threads} thread(s); microseconds a layer, medians over runs, and share of the peak");
    println!(
        "{:>8} {:>8} {:>7}  {}",
        "batch",
        "ms",
        "of peak",
        STEPS.map(|step| format!("{step:>16}")).join("")
    );
    for batch in if batches.is_empty() { vec!["1x16".into(), "1x32".into(), "1x128".into()] } else { batches }
    {
        let (sequences, len) = batch.split_once('x').ok_or("a batch is sequences x length, such as 8x128")?;
        let (sequences, len): (usize, usize) = (sequences.parse()?, len.parse()?);
        let offsets: Vec<u32> = (0..=sequences).map(|i| (i * len) as u32).collect();
        let cu = CuSeqlens::new(&offsets)?;
        let mut buffers = Buffers::new(sequences * len);
        let (begin, mut runs) = (Instant::now(), Vec::new());
        let peak = peak::multiply_gflops(&mut ctx, bertha_cpu::kernels::gemm::PackedType::F32);
        while begin.elapsed().as_secs_f64() < SECONDS || runs.len() < 3 {
            let mut seconds = [0.0; 7];
            for layer in &layers {
                run(&mut ctx, layer, cu, &mut buffers, &mut seconds)?;
            }
            runs.push(seconds);
        }
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let square = (2 * buffers.tokens * HIDDEN * HIDDEN) as f64;
        let scores = (4 * sequences * len * len * HIDDEN) as f64;
        let flops = [3.0 * square, scores, square, 0.0, 4.0 * square, 4.0 * square, 0.0];
        let whole = median(runs.iter().map(|run| run.iter().sum()).collect());
        let cells = (0..STEPS.len()).map(|step| {
            let seconds = median(runs.iter().map(|run| run[step]).collect()) / LAYERS as f64;
            let share = 100.0 * flops[step] / seconds / 1e9 / peak;
            format!(
                "{:>9.1}{:>7}",
                seconds * 1e6,
                if share > 0.0 { format!("{share:.1}%") } else { String::new() }
            )
        });
        let share = 100.0 * LAYERS as f64 * flops.iter().sum::<f64>() / whole / 1e9 / peak;
        println!("{batch:>8} {:>8.2} {share:>6.1}%  {}", whole * 1e3, cells.collect::<String>());
    }
    Ok(())
}
