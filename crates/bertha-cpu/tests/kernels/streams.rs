//! Results that go past the caches: where several workers run, on cores that are far apart (as they count before a context
//! measured them), and rows start at cache lines. One worker writes them as usual, which the other tests check against f64;
//! both must agree to the bit.

use bertha_cpu::isa::Isa;
use bertha_cpu::kernels::attention::{
    Attention, AttentionBias, AttentionShape, HeadLayout, HeadRows, Sequences, attention,
};
use bertha_cpu::kernels::attention_bf16::{Mixed, attention_bf16};
use bertha_cpu::kernels::gemm::{
    Activation, Epilogue, PackedB, PackedDesc, PackedType, Strided, gemm, pack_b,
};
use bertha_cpu::kernels::norm::{LayerNorm, layer_norm, layer_norm_rounded};
use bertha_cpu::kernels::{AlignedBuf, Context, CuSeqlens, Rows, RowsMut};

use half::bf16;

use crate::common::{Rng, context};

/// f32 per cache line.
const LINE: usize = 16;

/// Runs `kernel` on one worker and on several, into rows that start at cache lines with room after each.
fn agree(
    isa: Isa,
    (rows, cols): (usize, usize),
    mut kernel: impl FnMut(&mut Context, RowsMut<'_>),
    what: &str,
) {
    let stride = cols.next_multiple_of(LINE) + LINE;
    let mut results = [1, 3].map(|threads| {
        let mut out = AlignedBuf::new(rows * stride);
        out.fill(f32::NAN);
        kernel(&mut context(isa, threads), RowsMut { data: &mut out, rows, cols, stride });
        out
    });
    let [one, several] = &mut results;
    for (row, (one, several)) in one.chunks(stride).zip(several.chunks(stride)).enumerate() {
        for (col, (one, several)) in one.iter().zip(several).enumerate() {
            assert_eq!(one.to_bits(), several.to_bits(), "{what}: row {row}, column {col}");
            assert_eq!(one.is_nan(), col >= cols, "{what}: row {row}, column {col}");
        }
    }
}

/// [`agree`] of results that are rounded to bf16.
fn agree_rounded(
    isa: Isa,
    (rows, cols): (usize, usize),
    mut kernel: impl FnMut(&mut Context, RowsMut<'_, bf16>),
    what: &str,
) {
    let words = cols.div_ceil(2).next_multiple_of(LINE) + LINE;
    let stride = 2 * words;
    let results = [1, 3].map(|threads| {
        let mut out = AlignedBuf::new(rows * words);
        let data: &mut [bf16] = bytemuck::cast_slice_mut(&mut out);
        data.fill(bf16::NAN);
        kernel(&mut context(isa, threads), RowsMut { data, rows, cols, stride });
        out
    });
    let [one, several] = &results;
    let [one, several]: [&[bf16]; 2] = [bytemuck::cast_slice(one), bytemuck::cast_slice(several)];
    for (at, (one, several)) in one.iter().zip(several).enumerate() {
        assert_eq!(one.to_bits(), several.to_bits(), "{what}: row {}, column {}", at / stride, at % stride);
        assert_eq!(one.is_nan(), at % stride >= cols, "{what}: row {}, column {}", at / stride, at % stride);
    }
}

fn products(isa: Isa, rng: &mut Rng) {
    // Ragged tails of every kind, several blocks of k, rows that are copied, and rows enough for several blocks.
    for (m, k, n) in [
        (3, 600, 70),
        (16, 64, 96),
        (17, 129, 200),
        (47, 800, 33),
        (31, 2048, 40),
        (40, 1, 4000),
        (400, 70, 65),
    ] {
        let (a, weight) = (rng.values(m * k, 1.0), rng.values(k * n, 1.0));
        let (bias, residual) = (rng.values(n, 1.0), rng.values(m * n, 1.0));
        let desc = PackedDesc::new(isa.tier(), k, n);
        let mut packed = AlignedBuf::new(desc.packed_len().expect("a small matrix"));
        pack_b(&desc, Strided::row_major(&weight, k, n), &mut packed);
        let packed = PackedB::new(desc, &packed).expect("packed as described");
        let epilogues = [
            Epilogue::default(),
            Epilogue { bias: Some(&bias), activation: Activation::GeluErf, residual: None },
            Epilogue { bias: Some(&bias), residual: Some(Rows::new(&residual, m, n)), ..Epilogue::default() },
        ];
        for epilogue in &epilogues {
            let run = |ctx: &mut Context, out: RowsMut<'_>| {
                gemm(ctx, Rows::new(&a, m, k), &packed, out, epilogue);
            };
            agree(isa, (m, n), run, &format!("{isa}: product of {m} x {k} x {n}"));
        }
    }
}

fn layer_norms(isa: Isa, rng: &mut Rng) {
    // The last is so large that squares overflow.
    for (rows, cols, scale) in [(1, 16, 1.0), (9, 100, 2.0), (64, 768, 1.0), (20, 8191, 1.0), (30, 400, 3e30)]
    {
        let (x, gamma, beta) = (rng.values(rows * cols, scale), rng.values(cols, 1.0), rng.values(cols, 1.0));
        let norm = LayerNorm { gamma: &gamma, beta: &beta, eps: 1e-12 };
        let x = Rows::new(&x, rows, cols);
        let run = |ctx: &mut Context, out: RowsMut<'_>| layer_norm(ctx, &norm, Some(x), None, out);
        agree(isa, (rows, cols), run, &format!("{isa}: layer norm of {rows} x {cols}"));
    }
}

/// Where sequences of 37, 1, 0, 64, 15 and 100 tokens begin and end.
const OFFSETS: [u32; 7] = [0, 37, 38, 38, 102, 117, 217];

/// Attention of so many heads of that width over rows of packed queries, keys and values.
fn multi_head<'a, T>(qkv: &'a [T], cu: CuSeqlens<'a>, (heads, dim): (usize, usize)) -> Attention<'a, T> {
    let width = heads * dim;
    let view =
        |part: usize| HeadRows { data: &qkv[part * width..], layout: HeadLayout::ragged(dim, 3 * width) };
    Attention {
        shape: AttentionShape::multi_head(heads, dim),
        seqs: Sequences::Ragged(cu),
        q: view(0),
        k: view(1),
        v: view(2),
        bias: AttentionBias::None,
    }
}

fn attentions(isa: Isa, rng: &mut Rng) {
    for (heads, dim) in [(2, 64), (3, 32), (3, 24), (12, 16)] {
        let cu = CuSeqlens::new(&OFFSETS).expect("well formed");
        let (tokens, width) = (cu.tokens(), heads * dim);
        let qkv = rng.values(tokens * 3 * width, 2.0);
        let args = multi_head(&qkv, cu, (heads, dim));
        let run = |ctx: &mut Context, out: RowsMut<'_>| {
            attention(ctx, &args, HeadLayout::ragged(dim, out.stride), out.data);
        };
        agree(isa, (tokens, width), run, &format!("{isa}: attention of {heads} heads of {dim}"));
    }
}

fn rounded(rng: &mut Rng, count: usize, scale: f32) -> Vec<bf16> {
    rng.values(count, scale).into_iter().map(bf16::from_f32).collect()
}

fn rounded_products(isa: Isa, rng: &mut Rng) {
    for (m, k, n) in [(3, 600, 70), (17, 130, 200), (47, 1700, 33), (31, 4096, 40), (400, 70, 65)] {
        let (a, weight, bias) = (rounded(rng, m * k, 1.0), rng.values(k * n, 1.0), rng.values(n, 1.0));
        let desc = PackedDesc::with_type(isa.tier(), PackedType::Bf16, k, n);
        let mut packed = AlignedBuf::new(desc.packed_len().expect("a small matrix"));
        pack_b(&desc, Strided::row_major(&weight, k, n), &mut packed);
        let packed = PackedB::new(desc, &packed).expect("packed as described");
        let epilogue = Epilogue { bias: Some(&bias), activation: Activation::GeluErf, residual: None };
        let what = format!("{isa}: bf16 product of {m} x {k} x {n}");
        let run = |ctx: &mut Context, out: RowsMut<'_, bf16>| {
            gemm(ctx, Rows::new(&a, m, k), &packed, out, &epilogue);
        };
        agree_rounded(isa, (m, n), run, &what);
        let run = |ctx: &mut Context, out: RowsMut<'_>| {
            gemm(ctx, Rows::new(&a, m, k), &packed, out, &epilogue);
        };
        agree(isa, (m, n), run, &what);
    }
}

fn rounded_layer_norms(isa: Isa, rng: &mut Rng) {
    for (rows, cols, scale) in [(1, 16, 1.0), (9, 100, 2.0), (64, 768, 1.0), (20, 8191, 1.0), (30, 400, 3e30)]
    {
        let (x, gamma, beta) = (rng.values(rows * cols, scale), rng.values(cols, 1.0), rng.values(cols, 1.0));
        let norm = LayerNorm { gamma: &gamma, beta: &beta, eps: 1e-12 };
        let (x, stride) = (Rows::new(&x, rows, cols), cols.next_multiple_of(LINE));
        let what = format!("{isa}: rounded layer norm of {rows} x {cols}");
        let run = |ctx: &mut Context, rounded: RowsMut<'_, bf16>| {
            let mut out = AlignedBuf::new(rows * stride);
            layer_norm_rounded(ctx, &norm, x, RowsMut { data: &mut out, rows, cols, stride }, rounded);
        };
        agree_rounded(isa, (rows, cols), run, &what);
        let run = |ctx: &mut Context, out: RowsMut<'_>| {
            let stride = cols.div_ceil(2).next_multiple_of(LINE) * 2;
            let mut to = AlignedBuf::new(rows * stride / 2);
            let rounded = RowsMut { data: bytemuck::cast_slice_mut(&mut to), rows, cols, stride };
            layer_norm_rounded(ctx, &norm, x, RowsMut { data: &mut *out.data, ..out }, rounded);
            for (at, rounded) in bytemuck::cast_slice::<_, bf16>(&to).iter().enumerate() {
                let (row, col) = (at / stride, at % stride);
                if col < cols {
                    let exact = out.data[row * out.stride + col];
                    assert_eq!(rounded.to_bits(), bf16::from_f32(exact).to_bits(), "{what}: {row}, {col}");
                }
            }
        };
        agree(isa, (rows, cols), run, &what);
    }
}

fn rounded_attentions(isa: Isa, rng: &mut Rng) {
    for (heads, dim) in [(2, 64), (3, 32), (3, 24), (12, 16)] {
        let cu = CuSeqlens::new(&OFFSETS).expect("well formed");
        let (tokens, width) = (cu.tokens(), heads * dim);
        let qkv = rounded(rng, tokens * 3 * width, 2.0);
        let args = multi_head(&qkv, cu, (heads, dim));
        let what = format!("{isa}: bf16 attention of {heads} heads of {dim}");
        let run = |ctx: &mut Context, out: RowsMut<'_, bf16>| {
            attention_bf16(ctx, &args, HeadLayout::ragged(dim, out.stride), Mixed::Bf16(out.data));
        };
        agree_rounded(isa, (tokens, width), run, &what);
        let run = |ctx: &mut Context, out: RowsMut<'_>| {
            attention_bf16(ctx, &args, HeadLayout::ragged(dim, out.stride), Mixed::F32(out.data));
        };
        agree(isa, (tokens, width), run, &what);
    }
}

#[test]
fn results_past_the_caches_are_those_of_one_worker() {
    for isa in Isa::available() {
        let mut rng = Rng::new(71);
        products(isa, &mut rng);
        layer_norms(isa, &mut rng);
        attentions(isa, &mut rng);
        if isa.has_bf16() {
            rounded_products(isa, &mut rng);
            rounded_layer_norms(isa, &mut rng);
            rounded_attentions(isa, &mut rng);
        }
    }
}
