//! Packed and batched products.

use bertha_cpu::isa::Isa;
use bertha_cpu::kernels::gemm::{
    Activation, Epilogue, MatmulOperand, MatmulShape, PackError, PackedB, PackedDesc, Strided, gemm, matmul,
    pack_b, row_stride,
};
use bertha_cpu::kernels::{AlignedBuf, Context, Rows, RowsMut};

use crate::common::{ROUND, Rng, assert_close, context};
use crate::math::reference;

/// Value and the sum of the terms' sizes, in f64, of one inner product.
fn inner(a: impl Iterator<Item = f32>, b: impl Iterator<Item = f32>) -> (f64, f64) {
    a.zip(b).fold((0.0, 0.0), |(sum, size), (a, b)| {
        let term = f64::from(a) * f64::from(b);
        (sum + term, size + term.abs())
    })
}

/// What an f32 inner product of `k` terms may be off by, given the sum of their sizes. The worst case is `k` roundings;
/// random signs make it their square root.
fn tolerance(k: usize, size: f64) -> f64 {
    (4.0 + 2.0 * (k as f64).sqrt()) * ROUND * size + f64::from(f32::MIN_POSITIVE) * 1e-6
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Tanh => x.tanh(),
        Activation::GeluErf => reference::gelu_erf(x),
        Activation::GeluTanh => reference::gelu_tanh(x),
        Activation::Silu => x * reference::sigmoid(x),
    }
}

fn pack(isa: Isa, b: Strided<'_>) -> (PackedDesc, Vec<f32>) {
    let desc = PackedDesc::new(isa.tier(), b.rows, b.cols);
    let mut packed = vec![f32::NAN; desc.packed_len().expect("a small matrix")];
    pack_b(&desc, b, &mut packed);
    (desc, packed)
}

struct Case {
    m: usize,
    n: usize,
    k: usize,
    scale: f32,
    /// Gaps between rows of A, C and the residual.
    gaps: [usize; 3],
    activation: Activation,
    bias: bool,
    residual: bool,
    transposed: bool,
}

fn check_case(ctx: &mut Context, rng: &mut Rng, case: &Case) {
    let &Case { m, n, k, scale, gaps, activation, .. } = case;
    let (a_stride, c_stride, r_stride) = (k + gaps[0], n + gaps[1], n + gaps[2]);
    let a = rng.values(m * a_stride, scale);
    let b = rng.values(k * n, 1.0);
    let bias = rng.values(n, scale);
    let residual = rng.values(m * r_stride, scale);
    let source = if case.transposed { Strided::transposed(&b, k, n) } else { Strided::row_major(&b, k, n) };
    let (desc, packed) = pack(ctx.isa(), source);
    let packed = PackedB::new(desc, &packed).expect("just packed");
    let epilogue = Epilogue {
        bias: case.bias.then_some(&bias),
        activation,
        residual: case.residual.then_some(Rows { data: &residual, rows: m, cols: n, stride: r_stride }),
    };
    const UNTOUCHED: f32 = 12345.0;
    let mut c = vec![UNTOUCHED; m * c_stride];
    gemm(
        ctx,
        Rows { data: &a, rows: m, cols: k, stride: a_stride },
        &packed,
        RowsMut { data: &mut c, rows: m, cols: n, stride: c_stride },
        &epilogue,
    );
    for i in 0..m {
        for j in 0..n {
            let column = (0..k).map(|kk| source.data[kk * source.row_stride + j * source.col_stride]);
            let (mut want, mut size) = inner(a[i * a_stride..].iter().copied(), column);
            if case.bias {
                want += f64::from(bias[j]);
                size += f64::from(bias[j]).abs();
            }
            want = activate(activation, want);
            let mut slack = 1.2 * tolerance(k, size) + 2e-7 * want.abs().max(0.5);
            if activation == Activation::None {
                slack = tolerance(k, size);
            }
            if case.residual {
                let r = f64::from(residual[i * r_stride + j]);
                want += r;
                slack += ROUND * (want.abs() + r.abs());
            }
            assert_close(c[i * c_stride + j], want, slack, &|| format!("[{i}, {j}] of {m}x{n}x{k}"));
        }
        assert!(
            c[i * c_stride + n..(i + 1) * c_stride].iter().all(|&x| x == UNTOUCHED),
            "wrote between rows"
        );
    }
}

pub(crate) fn packed(isa: Isa) {
    let mut rng = Rng::new(1);
    for threads in [1, 3] {
        let mut ctx = context(isa, threads);
        // Every tile height and a few panels, each with its tail.
        for m in (1..=17).chain([28, 29, 33]) {
            for n in [1, 7, 8, 15, 16, 17, 31, 32, 33, 65] {
                let k = 1 + rng.below(40);
                check_case(&mut ctx, &mut rng, &Case::plain(m, n, k));
            }
        }
        // No k: the epilogue alone. Several blocks of k. Strides that crowd cache sets.
        for (m, n, k) in [(3, 5, 0), (1, 1, 1), (5, 40, 768), (6, 33, 769), (17, 35, 1600)] {
            for gap in [0, 1, 512 - k % 512] {
                let case = Case { gaps: [gap, 3, 0], bias: true, ..Case::plain(m, n, k) };
                check_case(&mut ctx, &mut rng, &case);
            }
        }
        // Enough work to fork.
        for (m, n, k) in [(1, 700, 300), (40, 130, 70), (150, 96, 33)] {
            check_case(&mut ctx, &mut rng, &Case { residual: true, ..Case::plain(m, n, k) });
        }
        for round in 0..60 {
            let case = Case {
                scale: [1.0, 1e-3, 30.0][rng.below(3)],
                gaps: [rng.below(3), rng.below(40), rng.below(3)],
                activation: Activation::ALL[round % Activation::ALL.len()],
                bias: rng.below(2) == 0,
                residual: rng.below(2) == 0,
                transposed: rng.below(2) == 0,
                ..Case::plain(1 + rng.below(50), 1 + rng.below(100), rng.below(200))
            };
            check_case(&mut ctx, &mut rng, &case);
        }
        // Huge and tiny values, without an activation that would hide them.
        for scale in [1e30, 1e-30, 1e-38] {
            check_case(&mut ctx, &mut rng, &Case { scale, bias: true, ..Case::plain(9, 37, 50) });
        }
    }
    rows_are_independent(isa);
    nothing_to_do(isa);
    non_finite_values_stay_in_their_rows(isa);
}

impl Case {
    fn plain(m: usize, n: usize, k: usize) -> Self {
        Self {
            m,
            n,
            k,
            scale: 1.0,
            gaps: [0; 3],
            activation: Activation::None,
            bias: false,
            residual: false,
            transposed: true,
        }
    }
}

/// A row's result is the same to the bit whatever the number of rows, its place among them and the threads.
fn rows_are_independent(isa: Isa) {
    let mut rng = Rng::new(2);
    for (n, k) in [(33, 50), (130, 768), (70, 1700), (64, 1024)] {
        let b = rng.values(n * k, 1.0);
        let bias = rng.values(n, 1.0);
        let (desc, packed) = pack(isa, Strided::transposed(&b, k, n));
        let packed = PackedB::new(desc, &packed).expect("just packed");
        let epilogue = Epilogue { bias: Some(&bias), activation: Activation::GeluErf, residual: None };
        let all = 61;
        let a = rng.values(all * k, 1.0);
        let run = |threads: usize, first: usize, rows: usize| {
            let mut ctx = context(isa, threads);
            let mut c = vec![0.0; rows * n];
            let a = Rows::new(&a[first * k..(first + rows) * k], rows, k);
            gemm(&mut ctx, a, &packed, RowsMut::new(&mut c, rows, n), &epilogue);
            c.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let whole = run(1, 0, all);
        for threads in [1, 2, 5] {
            assert_eq!(run(threads, 0, all), whole, "{threads} threads, n {n}, k {k}");
            for (first, rows) in [(0, 1), (60, 1), (7, 13), (3, 14), (20, 15), (1, 60), (30, 29)] {
                let part = run(threads, first, rows);
                assert_eq!(
                    part,
                    whole[first * n..(first + rows) * n],
                    "rows {first}+{rows}, {threads} threads"
                );
            }
        }
    }
}

fn nothing_to_do(isa: Isa) {
    let mut ctx = context(isa, 2);
    for (m, n) in [(0, 5), (5, 0), (0, 0)] {
        let (desc, packed) = pack(isa, Strided::row_major(&[0.0; 15][..3 * n], 3, n));
        let packed = PackedB::new(desc, &packed).expect("just packed");
        gemm(
            &mut ctx,
            Rows::new(&[1.0; 15][..m * 3], m, 3),
            &packed,
            RowsMut::<f32>::new(&mut [], m, n),
            &Epilogue::default(),
        );
    }
}

/// Padding columns and neighbouring rows never meet a NaN or infinity of another row.
fn non_finite_values_stay_in_their_rows(isa: Isa) {
    let mut rng = Rng::new(3);
    let (m, n, k) = (20, 19, 33);
    let mut a = rng.values(m * k, 1.0);
    a[4 * k + 3] = f32::NAN;
    a[9 * k + 5] = f32::INFINITY;
    let b = rng.values(k * n, 1.0);
    let (desc, packed) = pack(isa, Strided::row_major(&b, k, n));
    let packed = PackedB::new(desc, &packed).expect("just packed");
    let mut c = vec![0.0; m * n];
    let mut ctx = context(isa, 1);
    gemm(&mut ctx, Rows::new(&a, m, k), &packed, RowsMut::new(&mut c, m, n), &Epilogue::default());
    for (i, row) in c.chunks(n).enumerate() {
        match i {
            4 => assert!(row.iter().all(|x| x.is_nan())),
            9 => assert!(row.iter().all(|x| x.is_infinite())),
            _ => assert!(row.iter().all(|x| x.is_finite())),
        }
    }
}

pub(crate) fn batched(isa: Isa) {
    let mut rng = Rng::new(4);
    for threads in [1, 3] {
        let mut ctx = context(isa, threads);
        for round in 0..80 {
            let shape = MatmulShape {
                batch: 1 + rng.below(4),
                m: 1 + rng.below(40),
                n: 1 + rng.below(150),
                k: if round % 10 == 0 { 700 + rng.below(200) } else { rng.below(70) },
            };
            let MatmulShape { batch, m, n, k } = shape;
            let (a, a_offsets, a_strides) = operand(&mut rng, batch, m, k);
            let (b, b_offsets, b_strides) = operand(&mut rng, batch, k, n);
            let bias = rng.values(n, 1.0);
            let epilogue = Epilogue { bias: (round % 2 == 0).then_some(&bias), ..Epilogue::default() };
            let mut c = vec![f32::NAN; batch * m * n];
            let left = MatmulOperand {
                data: &a,
                offsets: &a_offsets,
                row_stride: a_strides.0,
                col_stride: a_strides.1,
            };
            let right = MatmulOperand {
                data: &b,
                offsets: &b_offsets,
                row_stride: b_strides.0,
                col_stride: b_strides.1,
            };
            matmul(&mut ctx, shape, left, right, &mut c, &epilogue);
            let at = |offsets: &[usize], index: usize| offsets[index % offsets.len()];
            for (index, &got) in c.iter().enumerate() {
                let (matrix, i, j) = (index / (m * n), index / n % m, index % n);
                let row = (0..k).map(|kk| a[at(&a_offsets, matrix) + i * a_strides.0 + kk * a_strides.1]);
                let column = (0..k).map(|kk| b[at(&b_offsets, matrix) + kk * b_strides.0 + j * b_strides.1]);
                let (mut want, mut size) = inner(row, column);
                if epilogue.bias.is_some() {
                    want += f64::from(bias[j]);
                    size += f64::from(bias[j]).abs();
                }
                assert_close(got, want, tolerance(k, size), &|| format!("[{matrix}, {i}, {j}] of {shape:?}"));
            }
        }
        let empty = MatmulOperand { data: &[], offsets: &[0], row_stride: 0, col_stride: 1 };
        matmul(
            &mut ctx,
            MatmulShape { batch: 0, m: 2, n: 2, k: 2 },
            empty,
            empty,
            &mut [],
            &Epilogue::default(),
        );
    }
}

/// `batch` matrices (or one for all) of random strides: values, offsets, (row stride, column stride).
fn operand(rng: &mut Rng, batch: usize, rows: usize, cols: usize) -> (Vec<f32>, Vec<usize>, (usize, usize)) {
    let gap = rng.below(5);
    let (strides, size) = if rng.below(2) == 0 {
        ((cols + gap, 1), rows * (cols + gap))
    } else {
        ((1, rows + gap), cols * (rows + gap))
    };
    let matrices = if rng.below(3) == 0 { 1 } else { batch };
    let offsets = (0..matrices).map(|i| i * size).collect();
    (rng.values(matrices * size, 1.0), offsets, strides)
}

#[test]
fn a_descriptor_that_does_not_fit_is_an_error() {
    let desc = PackedDesc::new(Isa::detect().tier(), 10, 20);
    let len = desc.packed_len().expect("small");
    assert!(PackedB::new(desc, &vec![0.0; len]).is_ok());
    assert!(matches!(PackedB::new(desc, &vec![0.0; len - 1]), Err(PackError::Length { .. })));
    let buf = AlignedBuf::new(len + 1);
    let bytes: &[u8] = bytemuck::cast_slice(&buf);
    assert!(PackedB::from_bytes(desc, &bytes[..4 * len]).is_ok());
    assert!(matches!(PackedB::from_bytes(desc, &bytes[1..=4 * len]), Err(PackError::Unaligned)));
    assert!(matches!(PackedB::from_bytes(desc, &bytes[..4 * len - 1]), Err(PackError::Length { .. })));
    let wide = PackedDesc { nr: desc.nr + 1, ..desc };
    assert!(matches!(PackedB::new(wide, &[]), Err(PackError::PanelWidth { .. })));
    for (k, n) in [(usize::MAX, 2), (2, usize::MAX), (1 << 40, 1 << 40)] {
        let huge = PackedDesc { k, n, ..desc };
        assert!(matches!(PackedB::new(huge, &[]), Err(PackError::TooLarge { .. })), "{k} x {n}");
    }
}

#[test]
fn packing_is_the_documented_layout() {
    for isa in Isa::available() {
        let mut rng = Rng::new(5);
        for (k, n) in [(1, 1), (3, 70), (40, 33), (17, 32)] {
            let b = rng.values(k * n, 1.0);
            let (desc, packed) = pack(isa, Strided::row_major(&b, k, n));
            let transposed: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
            assert_eq!(pack(isa, Strided::transposed(&transposed, k, n)).1, packed);
            let nr = desc.nr;
            for j in 0..desc.panels() * nr {
                for kk in 0..k {
                    let want = if j < n { b[kk * n + j] } else { 0.0 };
                    assert_eq!(packed[(j / nr) * k * nr + kk * nr + j % nr], want);
                }
            }
        }
    }
}

#[test]
fn row_strides_hold_their_rows_and_avoid_powers_of_two() {
    for cols in 1..5000 {
        let stride = row_stride(cols);
        assert!(stride >= cols && stride <= cols + 16);
        assert!(stride < 512 || !stride.is_multiple_of(512));
    }
}
