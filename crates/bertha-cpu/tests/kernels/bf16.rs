//! Kernels on bf16 operands: what they make of the rounded operands is held to f32's accuracy, and what they make of the
//! operands before rounding to the bound that follows from the format.

use bertha_cpu::isa::Isa;
use bertha_cpu::kernels::gemm::{
    Activation, Epilogue, PackedB, PackedDesc, PackedType, Strided, gemm, pack_b,
};
use bertha_cpu::kernels::registry::KernelKind;
use bertha_cpu::kernels::{AlignedBuf, Context, Rows, RowsMut};
use half::bf16;

use crate::common::{ROUND, Rng, assert_close, context};
use crate::math::reference;

/// Relative error of rounding to bf16: half a unit of 8 significant bits.
const BF16_ROUND: f64 = 1.0 / 256.0;

pub(crate) fn check(kind: KernelKind, isa: Isa) {
    match kind {
        KernelKind::Gemm => products(isa),
        other => unreachable!("no bf16 kernel of {other:?}"),
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
