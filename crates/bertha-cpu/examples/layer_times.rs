//! Times of the kernels of an encoder as they follow each other, layer by layer, on the buffers of a model.
//!
//! `cargo run --release -p bertha-cpu --example layer_times -- [threads] [isa] [model] [f32|bf16] [sequences x length]..`
//!
//! The model is `bert-base` or `minilm-l6`. What a kernel takes here and not alone (`kernel_times`, `gemm_peak`) is the way
//! of its operands from the caches of the cores that made them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bertha_cpu::isa::Isa;
use bertha_cpu::kernels::attention::{
    Attention, AttentionBias, AttentionShape, HeadLayout, HeadRows, Sequences, attention,
};
use bertha_cpu::kernels::attention_bf16::{Mixed, attention_bf16};
use bertha_cpu::kernels::gemm::{
    Activation, Epilogue, Left, PackedB, PackedDesc, PackedType, Product, Strided, gemm, pack_b, row_stride,
};
use bertha_cpu::kernels::norm::{LayerNorm, layer_norm, layer_norm_rounded};
use bertha_cpu::kernels::{AlignedBuf, Context, CuSeqlens, Rows, RowsMut, peak};
use half::bf16;

type Failure = Box<dyn std::error::Error>;

/// The steps of a layer.
const STEPS: [&str; 7] = ["qkv", "attention", "output", "norm", "ffn up", "ffn down", "norm"];
const SECONDS: f64 = 0.4;

/// What an encoder is, and the type that its products multiply in.
#[derive(Clone, Copy)]
struct Model {
    layers: usize,
    hidden: usize,
    heads: usize,
    ffn: usize,
    dtype: PackedType,
}

impl Model {
    fn named(name: &str, dtype: PackedType) -> Option<Self> {
        match name {
            "bert-base" => Some(Self { layers: 12, hidden: 768, heads: 12, ffn: 3072, dtype }),
            "minilm-l6" => Some(Self { layers: 6, hidden: 384, heads: 12, ffn: 1536, dtype }),
            _ => None,
        }
    }
}

/// A batch's rows: `[tokens, cols]`, as f32 and as bf16.
struct Buffer {
    tokens: usize,
    cols: usize,
    floats: AlignedBuf,
    rounded: AlignedBuf,
}

impl Buffer {
    fn new(tokens: usize, cols: usize) -> Self {
        let mut floats = AlignedBuf::new(tokens * row_stride(cols));
        for (i, x) in floats.iter_mut().enumerate() {
            *x = (i % 83) as f32 / 83.0 - 0.5;
        }
        let mut rounded = AlignedBuf::new(tokens * row_stride(cols.div_ceil(2)));
        let values: &mut [bf16] = bytemuck::cast_slice_mut(&mut rounded);
        for (i, x) in values.iter_mut().enumerate() {
            *x = bf16::from_f32((i % 83) as f32 / 83.0 - 0.5);
        }
        Self { tokens, cols, floats, rounded }
    }

    /// Distance of rows as bf16.
    fn rounded_stride(&self) -> usize {
        2 * row_stride(self.cols.div_ceil(2))
    }

    fn floats(&self) -> Rows<'_> {
        Rows { data: &self.floats, rows: self.tokens, cols: self.cols, stride: row_stride(self.cols) }
    }

    fn rounded(&self) -> Rows<'_, bf16> {
        let stride = self.rounded_stride();
        Rows { data: bytemuck::cast_slice(&self.rounded), rows: self.tokens, cols: self.cols, stride }
    }

    fn both_mut(&mut self) -> (RowsMut<'_>, RowsMut<'_, bf16>) {
        let (rows, cols, stride) = (self.tokens, self.cols, self.rounded_stride());
        let rounded =
            RowsMut { data: bytemuck::cast_slice_mut::<_, bf16>(&mut self.rounded), rows, cols, stride };
        (RowsMut { data: &mut self.floats, rows, cols, stride: row_stride(cols) }, rounded)
    }

    /// As an operand of products of this type.
    fn left(&self, dtype: PackedType) -> Left<'_> {
        match dtype {
            PackedType::F32 => self.floats().into(),
            PackedType::Bf16 => self.rounded().into(),
        }
    }

    /// As a result that only products of this type read.
    fn product(&mut self, dtype: PackedType) -> Product<'_> {
        let (floats, rounded) = self.both_mut();
        match dtype {
            PackedType::F32 => floats.into(),
            PackedType::Bf16 => rounded.into(),
        }
    }
}

struct Buffers {
    x: Buffer,
    qkv: Buffer,
    context: Buffer,
    sums: Buffer,
    normed: Buffer,
    ffn: Buffer,
}

impl Buffers {
    fn new(model: &Model, tokens: usize) -> Self {
        let buffer = |cols| Buffer::new(tokens, cols);
        let hidden = model.hidden;
        Buffers {
            x: buffer(hidden),
            qkv: buffer(3 * hidden),
            context: buffer(hidden),
            sums: buffer(hidden),
            normed: buffer(hidden),
            ffn: buffer(model.ffn),
        }
    }
}

/// The weights of all layers in one piece of memory, as a model's are: large pages hold it, which a matrix alone may be too
/// small for.
struct Weights {
    descs: [PackedDesc; 4],
    memory: AlignedBuf,
}

impl Weights {
    fn new(isa: Isa, model: &Model) -> Result<Self, Failure> {
        let (hidden, ffn) = (model.hidden, model.ffn);
        let descs = [(hidden, 3 * hidden), (hidden, hidden), (hidden, ffn), (ffn, hidden)]
            .map(|(k, n)| PackedDesc::with_type(isa.tier(), model.dtype, k, n));
        let lengths = descs.iter().map(PackedDesc::packed_len).collect::<Result<Vec<_>, _>>()?;
        let mut memory = AlignedBuf::new(model.layers * lengths.iter().sum::<usize>());
        let mut rest = &mut memory[..];
        for _ in 0..model.layers {
            for (desc, len) in descs.iter().zip(&lengths) {
                let (k, n) = (desc.k, desc.n);
                let values = (0..k * n).map(|i| ((i * 31 % 251) as f32 / 251.0 - 0.5) / 28.0);
                let (packed, after) = rest.split_at_mut(*len);
                pack_b(desc, Strided::transposed(&values.collect::<Vec<f32>>(), k, n), packed);
                rest = after;
            }
        }
        Ok(Self { descs, memory })
    }

    /// Weight `index` of the model, four to a layer; after the last comes the first.
    fn get(&self, index: usize) -> Result<PackedB<'_>, Failure> {
        let lengths = self.descs.iter().map(PackedDesc::packed_len).collect::<Result<Vec<_>, _>>()?;
        let layer: usize = lengths.iter().sum();
        let start = index / 4 * layer % self.memory.len() + lengths[..index % 4].iter().sum::<usize>();
        Ok(PackedB::new(self.descs[index % 4], &self.memory[start..start + lengths[index % 4]])?)
    }
}

/// Queries, keys and values of `hidden` values each, of packed rows, in heads of that width.
fn heads<T>(rows: Rows<'_, T>, hidden: usize, head: usize) -> [HeadRows<'_, T>; 3] {
    let layout = HeadLayout::ragged(head, rows.stride);
    [0, 1, 2].map(|part| HeadRows { data: &rows.data[part * hidden..], layout })
}

/// Attention of a layer.
fn attend(ctx: &mut Context, model: &Model, cu: CuSeqlens<'_>, qkv: &Buffer, context: &mut Buffer) {
    let head = model.hidden / model.heads;
    let (shape, seqs, bias) =
        (AttentionShape::multi_head(model.heads, head), Sequences::Ragged(cu), AttentionBias::None);
    let (out, rounded_out) = context.both_mut();
    match model.dtype {
        PackedType::F32 => {
            let [q, k, v] = heads(qkv.floats(), model.hidden, head);
            let args = Attention { shape, seqs, q, k, v, bias };
            attention(ctx, &args, HeadLayout::ragged(head, out.stride), out.data);
        }
        PackedType::Bf16 => {
            let [q, k, v] = heads(qkv.rounded(), model.hidden, head);
            let args = Attention { shape, seqs, q, k, v, bias };
            let layout = HeadLayout::ragged(head, rounded_out.stride);
            attention_bf16(ctx, &args, layout, Mixed::Bf16(rounded_out.data));
        }
    }
}

/// A layer norm, whose result products read.
fn normalise(ctx: &mut Context, norm: &LayerNorm<'_>, dtype: PackedType, from: &Buffer, to: &mut Buffer) {
    let (out, rounded) = to.both_mut();
    match dtype {
        PackedType::F32 => layer_norm(ctx, norm, Some(from.floats()), None, out),
        PackedType::Bf16 => layer_norm_rounded(ctx, norm, from.floats(), out, rounded),
    }
}

/// Runs one layer, with its weights and the first of the next, and adds up the seconds of its steps.
fn run(
    ctx: &mut Context,
    model: &Model,
    weights: [PackedB<'_>; 5],
    cu: CuSeqlens<'_>,
    b: &mut Buffers,
    seconds: &mut [f64; 7],
) -> Result<(), Failure> {
    let Model { hidden, ffn, dtype, .. } = *model;
    let (bias, ones) = (vec![0.01; ffn], vec![1.0; hidden]);
    let norm = LayerNorm { gamma: &ones, beta: &bias[..hidden], eps: 1e-12 };
    let epilogue = |n: usize, activation| Epilogue { bias: Some(&bias[..n]), activation, residual: None };
    let plain = |n: usize| epilogue(n, Activation::None);
    let mut start = Instant::now();
    let mut step = |index: usize| {
        seconds[index] += start.elapsed().as_secs_f64();
        start = Instant::now();
    };
    ctx.expect(&weights[1]);
    gemm(ctx, b.x.left(dtype), &weights[0], b.qkv.product(dtype), &plain(3 * hidden));
    step(0);
    attend(ctx, model, cu, &b.qkv, &mut b.context);
    step(1);
    let residual = |x| Epilogue { residual: Some(x), ..plain(hidden) };
    let sums = b.sums.both_mut().0;
    ctx.expect(&weights[2]);
    gemm(ctx, b.context.left(dtype), &weights[1], sums, &residual(b.x.floats()));
    step(2);
    normalise(ctx, &norm, dtype, &b.sums, &mut b.normed);
    step(3);
    let (y, gelu) = (b.ffn.product(dtype), epilogue(ffn, Activation::GeluErf));
    ctx.expect(&weights[3]);
    gemm(ctx, b.normed.left(dtype), &weights[2], y, &gelu);
    step(4);
    let sums = b.sums.both_mut().0;
    ctx.expect(&weights[4]);
    gemm(ctx, b.ffn.left(dtype), &weights[3], sums, &residual(b.normed.floats()));
    step(5);
    normalise(ctx, &norm, dtype, &b.sums, &mut b.x);
    step(6);
    Ok(())
}

/// Nanoseconds until one thread sees what another wrote: about 35 where their cores share a third-level cache, more than 80
/// where they do not.
fn handover_nanoseconds() -> f64 {
    const TURNS: usize = 20_000;
    /// Turns that are timed together; the shortest time counts.
    const TOGETHER: usize = 20;
    let turn = AtomicUsize::new(0);
    let take_turns = |first: usize| {
        let (mut start, mut shortest) = (Instant::now(), f64::INFINITY);
        for turn_of_mine in (first..2 * TURNS).step_by(2) {
            while turn.load(Ordering::Acquire) != turn_of_mine {
                std::hint::spin_loop();
            }
            turn.store(turn_of_mine + 1, Ordering::Release);
            if turn_of_mine > first && turn_of_mine % TOGETHER == first {
                shortest = f64::min(shortest, start.elapsed().as_secs_f64());
                start = Instant::now();
            }
        }
        shortest * 1e9 / TOGETHER as f64
    };
    std::thread::scope(|scope| {
        scope.spawn(|| take_turns(1));
        take_turns(0)
    })
}

/// Times one batch and prints its line.
fn time(ctx: &mut Context, model: &Model, weights: &Weights, batch: &str) -> Result<(), Failure> {
    let (sequences, len) = batch.split_once('x').ok_or("a batch is sequences x length, such as 8x128")?;
    let (sequences, len): (usize, usize) = (sequences.parse()?, len.parse()?);
    let (tokens, hidden) = (sequences * len, model.hidden);
    let offsets: Vec<u32> = (0..=sequences).map(|i| (i * len) as u32).collect();
    let cu = CuSeqlens::new(&offsets)?;
    let mut buffers = Buffers::new(model, tokens);
    let (begin, mut runs) = (Instant::now(), Vec::new());
    let peak = peak::multiply_gflops(ctx, model.dtype);
    while begin.elapsed().as_secs_f64() < SECONDS || runs.len() < 3 {
        let mut seconds = [0.0; 7];
        ctx.measure_distance();
        for layer in 0..model.layers {
            let weight = |index| weights.get(4 * layer + index);
            let weights = [weight(0)?, weight(1)?, weight(2)?, weight(3)?, weight(4)?];
            run(ctx, model, weights, cu, &mut buffers, &mut seconds)?;
        }
        runs.push(seconds);
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let product = |k: usize, n: usize| (2 * tokens * k * n) as f64;
    let scores = (4 * sequences * len * len * hidden) as f64;
    let (square, ffn) = (product(hidden, hidden), product(hidden, model.ffn));
    let flops = [3.0 * square, scores, square, 0.0, ffn, ffn, 0.0];
    let layers = model.layers as f64;
    let whole = median(runs.iter().map(|run| run.iter().sum()).collect());
    let cells = (0..STEPS.len()).map(|step| {
        let seconds = median(runs.iter().map(|run| run[step]).collect()) / layers;
        let share = 100.0 * flops[step] / seconds / 1e9 / peak;
        format!(
            "{:>9.1}{:>7}",
            seconds * 1e6,
            if share > 0.0 { format!("{share:.1}%") } else { String::new() }
        )
    });
    let share = 100.0 * layers * flops.iter().sum::<f64>() / whole / 1e9 / peak;
    println!("{batch:>8} {:>8.2} {share:>6.1}%  {}", whole * 1e3, cells.collect::<String>());
    Ok(())
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let threads = args.next().map_or(Ok(1), |arg| arg.parse())?;
    let isa = args.next().map_or_else(Isa::from_env, |name| Isa::from_name(&name))?;
    let name = args.next().unwrap_or_else(|| "bert-base".into());
    let dtype = match args.next().as_deref() {
        None | Some("f32") => PackedType::F32,
        Some("bf16") if isa.has_bf16() => PackedType::Bf16,
        Some(other) => return Err(format!("no products in {other} on this processor and tier").into()),
    };
    let model = Model::named(&name, dtype).ok_or("the model is bert-base or minilm-l6")?;
    let batches: Vec<String> = args.collect();
    let mut ctx = Context::new(isa, threads)?;
    let weights = Weights::new(isa, &model)?;
    println!(
        "{name} in {}, {isa}, {threads} thread(s): microseconds a layer, medians over runs,",
        dtype.name()
    );
    println!("and share of the peak; from thread to thread in {:.0} ns", handover_nanoseconds());
    let header = STEPS.map(|step| format!("{step:>16}")).join("");
    println!("{:>8} {:>8} {:>7}  {header}", "batch", "ms", "of peak");
    for batch in if batches.is_empty() { vec!["1x16".into(), "1x32".into(), "1x128".into()] } else { batches }
    {
        time(&mut ctx, &model, &weights, &batch)?;
    }
    Ok(())
}
