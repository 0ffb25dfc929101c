//! Kernels on bf16 operands: what they make of the rounded operands is held to f32's accuracy, and what they make of the
//! operands before rounding to the bound that follows from the format.

use bertha_cpu::isa::Isa;
use bertha_cpu::kernels::attention::{
    Attention, AttentionBias, AttentionShape, HeadLayout, HeadRows, Sequences,
};
use bertha_cpu::kernels::attention_bf16::{Mixed, attention_bf16};
use bertha_cpu::kernels::gemm::{
    Activation, Epilogue, PackedB, PackedDesc, PackedType, Strided, gemm, pack_b,
};
use bertha_cpu::kernels::registry::KernelKind;
use bertha_cpu::kernels::{AlignedBuf, Context, CuSeqlens, Rows, RowsMut};
use half::bf16;

use crate::common::{ROUND, Rng, assert_close, context};
use crate::math::reference;

/// Relative error of rounding to bf16: half a unit of 8 significant bits.
const BF16_ROUND: f64 = 1.0 / 256.0;

pub(crate) fn check(kind: KernelKind, isa: Isa) {
    match kind {
        KernelKind::Gemm => products(isa),
        KernelKind::Attention => attentions(isa),
        other => unreachable!("no bf16 kernel of {other:?}"),
    }
}

fn attentions(isa: Isa) {
    let mut rng = Rng::new(21);
    for threads in [1, 3] {
        let mut ctx = context(isa, threads);
        for (heads, dim, lengths) in [
            (1, 2, &[1][..]),
            (2, 64, &[1, 2, 0, 3, 17, 33]),
            (3, 32, &[128, 5]),
            (2, 6, &[7, 31, 15]),
            (1, 80, &[70]),
            (4, 34, &[16, 1]),
            (1, 8, &[]),
            (12, 64, &[100, 64]),
        ] {
            check_attention(&mut ctx, &mut rng, (heads, dim), lengths);
        }
    }
}

/// Ragged attention over q, k and v side by side, with and without a bias by distance, to f32 and to bf16.
fn check_attention(ctx: &mut Context, rng: &mut Rng, (heads, dim): (usize, usize), lengths: &[usize]) {
    let mut offsets = vec![0_u32];
    offsets.extend(lengths.iter().scan(0, |sum, len| {
        *sum += *len as u32;
        Some(*sum)
    }));
    let (tokens, width) = (lengths.iter().sum::<usize>(), heads * dim);
    let qkv = round(&rng.values(tokens * 3 * width, 1.5));
    let longest = lengths.iter().copied().max().unwrap_or(1).max(1);
    let mut table = rng.values(heads * (2 * longest - 1), 1.0);
    if let Some(masked) = table.get_mut(longest / 2) {
        *masked = f32::NEG_INFINITY;
    }
    let view = |part: usize| HeadRows {
        data: &qkv[(part * width).min(qkv.len())..],
        layout: HeadLayout::ragged(dim, 3 * width),
    };
    let cu = CuSeqlens::new(&offsets).expect("well formed");
    let shape = AttentionShape::multi_head(heads, dim);
    for bias in [AttentionBias::None, AttentionBias::Relative { table: &table, max: longest }] {
        let args = Attention { shape, seqs: Sequences::Ragged(cu), q: view(0), k: view(1), v: view(2), bias };
        let (mut out, mut short) = (vec![f32::NAN; tokens * width], vec![bf16::NAN; tokens * width]);
        let layout = HeadLayout::ragged(dim, width);
        attention_bf16(ctx, &args, layout, Mixed::F32(&mut out));
        attention_bf16(ctx, &args, layout, Mixed::Bf16(&mut short));
        let at = |part: usize, token: usize, head: usize, c: usize| {
            qkv[(token * 3 + part) * width + head * dim + c].to_f64()
        };
        for seq in 0..cu.sequences() {
            let (start, len) = cu.sequence(seq);
            for (head, query) in (0..heads).flat_map(|head| (0..len).map(move |query| (head, query))) {
                let mut size = 0.0_f64;
                let scores: Vec<f64> = (0..len)
                    .map(|key| {
                        let terms =
                            (0..dim).map(|c| at(0, start + query, head, c) * at(1, start + key, head, c));
                        size = size.max(terms.clone().map(f64::abs).sum::<f64>() * f64::from(shape.scale));
                        let bias = match bias {
                            AttentionBias::None => 0.0,
                            _ => f64::from(table[head * (2 * longest - 1) + longest - 1 + key - query]),
                        };
                        terms.sum::<f64>() * f64::from(shape.scale) + bias
                    })
                    .collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = match largest == f64::NEG_INFINITY {
                    true => vec![0.0; len],
                    false => scores.iter().map(|score| (score - largest).exp()).collect(),
                };
                let sum: f64 = weights.iter().sum::<f64>().max(f64::MIN_POSITIVE);
                for c in 0..dim {
                    let terms =
                        weights.iter().enumerate().map(|(key, w)| w * at(2, start + key, head, c) / sum);
                    let (want, terms_size) =
                        terms.fold((0.0, 0.0), |(want, size), x| (want + x, size + x.abs()));
                    // A weight is rounded once more than its sum; scores and sums carry f32's error.
                    let tolerance = (BF16_ROUND + 2e-6 * (1.0 + size)) * terms_size + 1e-7;
                    let place = (start + query) * width + head * dim + c;
                    let what =
                        || format!("sequence {seq} of {len}, head {head} of {dim}, query {query}, {c}");
                    assert_close(out[place], want, tolerance, &what);
                    assert_eq!(short[place].to_bits(), bf16::from_f32(out[place]).to_bits(), "{}", what());
                }
            }
        }
    }
}

fn products(isa: Isa) {
    let mut rng = Rng::new(11);
    for threads in [1, 3] {
        let mut ctx = context(isa, threads);
        // Every tile height, tails of columns, even and odd depths.
        for m in (1..=17).chain([28, 33]) {
            for n in [1, 16, 31, 32, 33, 65] {
                let k = 1 + rng.below(60);
                check_product(&mut ctx, &mut rng, (m, n, k), m % 3 == 0);
            }
        }
        // No depth, several blocks of it, widths that crowd cache sets, and enough work to fork.
        for shape in [
            (3, 5, 0),
            (5, 40, 768),
            (6, 33, 1537),
            (17, 35, 3200),
            (31, 70, 2048),
            (150, 96, 66),
            (1, 700, 300),
        ] {
            for gelu in [false, true] {
                check_product(&mut ctx, &mut rng, shape, gelu);
            }
        }
    }
    rows_are_independent(isa);
}

fn pack(isa: Isa, b: Strided<'_>) -> (PackedDesc, AlignedBuf) {
    let desc = PackedDesc::with_type(isa.tier(), PackedType::Bf16, b.rows, b.cols);
    let mut packed = AlignedBuf::new(desc.packed_len().expect("a small matrix"));
    pack_b(&desc, b, &mut packed);
    (desc, packed)
}

fn round(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|x| bf16::from_f32(*x)).collect()
}

/// One product in its four forms: A rounded before or on the way, C as f32 or rounded.
fn check_product(ctx: &mut Context, rng: &mut Rng, (m, n, k): (usize, usize, usize), gelu: bool) {
    let (a_stride, c_stride) = (k + rng.below(3), n + rng.below(3));
    let (a, b) = (rng.values(m * a_stride, 1.0), rng.values(n * k, 1.0));
    let (bias, residual) = (rng.values(n, 1.0), rng.values(m * n, 1.0));
    let (desc, packed) = pack(ctx.isa(), Strided::transposed(&b, k, n));
    let packed = PackedB::new(desc, &packed).expect("just packed");
    let epilogue = Epilogue {
        bias: Some(&bias),
        activation: if gelu { Activation::GeluErf } else { Activation::None },
        residual: Some(Rows::new(&residual, m, n)),
    };
    let rounded = round(&a);
    let from_f32 = Rows { data: &a[..], rows: m, cols: k, stride: a_stride };
    let from_bf16 = Rows { data: &rounded[..], rows: m, cols: k, stride: a_stride };

    let mut c = vec![f32::NAN; m * c_stride];
    gemm(ctx, from_f32, &packed, RowsMut { data: &mut c, rows: m, cols: n, stride: c_stride }, &epilogue);
    let mut again = vec![f32::NAN; m * c_stride];
    gemm(
        ctx,
        from_bf16,
        &packed,
        RowsMut { data: &mut again, rows: m, cols: n, stride: c_stride },
        &epilogue,
    );
    let mut short = vec![bf16::NAN; m * c_stride];
    gemm(
        ctx,
        from_bf16,
        &packed,
        RowsMut { data: &mut short, rows: m, cols: n, stride: c_stride },
        &epilogue,
    );
    for i in 0..m {
        for j in 0..n {
            let at = i * c_stride + j;
            let what = || format!("[{i}, {j}] of {m}x{n}x{k}");
            let (bias, residual) = (f64::from(bias[j]), f64::from(residual[i * n + j]));
            let (mut exact, mut of_rounded, mut size) = (bias, bias, bias.abs());
            for kk in 0..k {
                let (x, y) = (a[i * a_stride + kk], b[j * k + kk]);
                exact += f64::from(x) * f64::from(y);
                of_rounded += bf16::from_f32(x).to_f64() * bf16::from_f32(y).to_f64();
                size += (f64::from(x) * f64::from(y)).abs();
            }
            // The slope of the GELU is below 1.13.
            let finish = |x: f64| residual + if gelu { reference::gelu_erf(x) } else { x };
            let slope = if gelu { 1.13 } else { 1.0 };
            let own = ROUND * ((4.0 + 2.0 * (k as f64).sqrt()) * size * slope + 4.0 * (1.0 + residual.abs()));
            assert_close(c[at], finish(of_rounded), own, &what);
            // Each factor is off by BF16_ROUND at most, so each product by twice that and its square.
            let format = slope * (2.0 * BF16_ROUND + BF16_ROUND * BF16_ROUND) * size;
            assert_close(c[at], finish(exact), own + format, &what);
            assert_eq!(c[at].to_bits(), again[at].to_bits(), "rounding before or on the way: {}", what());
            assert_eq!(short[at].to_bits(), bf16::from_f32(c[at]).to_bits(), "a rounded result: {}", what());
        }
        let gap = i * c_stride + n..(i + 1) * c_stride;
        assert!(c[gap.clone()].iter().all(|x| x.is_nan()) && short[gap].iter().all(|x| x.is_nan()));
    }
}

/// A row's result is the same to the bit whatever the number of rows, its place among them and the threads.
fn rows_are_independent(isa: Isa) {
    let mut rng = Rng::new(12);
    for (n, k) in [(33, 50), (130, 768), (70, 3400)] {
        let b = rng.values(n * k, 1.0);
        let (desc, packed) = pack(isa, Strided::transposed(&b, k, n));
        let packed = PackedB::new(desc, &packed).expect("just packed");
        let all = 61;
        let a = rng.values(all * k, 1.0);
        let run = |threads: usize, first: usize, rows: usize| {
            let mut ctx = context(isa, threads);
            let mut c = vec![bf16::NAN; rows * n];
            let a = Rows::new(&a[first * k..(first + rows) * k], rows, k);
            gemm(&mut ctx, a, &packed, RowsMut::new(&mut c, rows, n), &Epilogue::default());
            c.into_iter().map(bf16::to_bits).collect::<Vec<_>>()
        };
        let whole = run(1, 0, all);
        for threads in [1, 2, 5] {
            for (first, rows) in [(0, all), (60, 1), (7, 13), (3, 14), (20, 15), (1, 60)] {
                let part = run(threads, first, rows);
                assert!(
                    part == whole[first * n..(first + rows) * n],
                    "rows {first}+{rows}, {threads} threads"
                );
            }
        }
    }
}
