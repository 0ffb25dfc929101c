//! Kernels over rows.

use bertha_cpu::isa::Isa;
use bertha_cpu::kernels::elementwise::{BinaryOp, Right, binary};
use bertha_cpu::kernels::gemm::{PackedB, PackedDesc, Strided, pack_b};
use bertha_cpu::kernels::norm::{LayerNorm, l2_normalize, layer_norm};
use bertha_cpu::kernels::softmax::softmax;
use bertha_cpu::kernels::tokens::{
    Ids, Lookup, Pooling, Table, embedding_rounded, embedding_sum, gather_rows, pool_sequences,
};
use bertha_cpu::kernels::{Context, CuSeqlens, Rows, RowsMut};
use half::bf16;

use crate::common::{ROUND, Rng, assert_close, context};

const WIDTHS: [usize; 12] = [1, 2, 3, 7, 8, 15, 16, 17, 33, 64, 257, 768];

fn layer_norm_f64(x: &[f64], gamma: &[f32], beta: &[f32], eps: f32) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    let scale = 1.0 / (variance + f64::from(eps)).sqrt();
    let affine = gamma.iter().zip(beta);
    x.iter().zip(affine).map(|(x, (&g, &b))| (x - mean) * scale * f64::from(g) + f64::from(b)).collect()
}

pub(crate) fn layer_norms(isa: Isa) {
    let mut rng = Rng::new(21);
    for threads in [1, 3] {
        let mut ctx = context(isa, threads);
        for &cols in &WIDTHS {
            for (shift, scale, eps) in [
                (0.0, 1.0, 1e-12),
                (3.0, 0.1, 1e-5),
                (1e4, 1.0, 1e-12),
                (0.0, 1e30, 1e-12),
                (0.0, 3e38, 1e-5),
                (0.0, 1e-20, 1e-12),
                (0.0, 1e-30, 1e-38),
            ] {
                check_layer_norm(&mut ctx, &mut rng, cols, (shift, scale), eps);
            }
        }
        // Enough rows to fork.
        check_layer_norm(&mut ctx, &mut rng, 300, (0.5, 2.0), 1e-12);
    }
    let mut ctx = context(isa, 1);
    let (gamma, beta) = ([2.0; 20], [0.25; 20]);
    let norm = LayerNorm { gamma: &gamma, beta: &beta, eps: 1e-12 };
    let mut constant = [7.0; 20];
    layer_norm(&mut ctx, &norm, None, None, RowsMut::new(&mut constant, 1, 20));
    assert_eq!(constant, beta, "a constant row is all beta");
    let mut nan = [1.0; 20];
    nan[3] = f32::NAN;
    layer_norm(&mut ctx, &norm, None, None, RowsMut::new(&mut nan, 1, 20));
    assert!(nan.iter().all(|x| x.is_nan()), "NaN is not hidden");
}

fn check_layer_norm(ctx: &mut Context, rng: &mut Rng, cols: usize, (shift, scale): (f32, f32), eps: f32) {
    let rows = if cols == 300 { 120 } else { 3 };
    let stride = cols + rng.below(9);
    let mut random = |len| rng.values(len, scale).into_iter().map(|x| x + shift).collect::<Vec<f32>>();
    let (x, residual) = (random(rows * stride), random(rows * stride));
    let (gamma, beta) = (rng.values(cols, 2.0), rng.values(cols, 2.0));
    let norm = LayerNorm { gamma: &gamma, beta: &beta, eps };
    let view = |data| Rows { data, rows, cols, stride };
    let with_residual = rng.below(2) == 0 && scale < 1e38;
    let mut out = vec![0.0; rows * stride];
    let mut in_place = x.clone();
    let residual_rows = with_residual.then_some(view(&residual));
    layer_norm(ctx, &norm, Some(view(&x)), residual_rows, RowsMut { data: &mut out, rows, cols, stride });
    layer_norm(ctx, &norm, None, residual_rows, RowsMut { data: &mut in_place, rows, cols, stride });
    for row in 0..rows {
        let at = row * stride;
        let input: Vec<f64> = (at..at + cols)
            .map(|i| if with_residual { f64::from(x[i] + residual[i]) } else { f64::from(x[i]) })
            .collect();
        let want = layer_norm_f64(&input, &gamma, &beta, eps);
        // One rounding of the input's size survives the difference from the mean; the rest is relative.
        let spread = f64::from(scale) + f64::from(eps).sqrt();
        let slack = 8.0 * ROUND * (1.0 + f64::from(shift).abs() / spread);
        for (i, &want) in want.iter().enumerate() {
            let tolerance = slack * (f64::from(gamma[i]).abs() * 4.0 + want.abs() + 1.0);
            assert_close(out[at + i], want, tolerance, &|| {
                format!("column {i} of {cols}, {shift} +- {scale}")
            });
            assert_eq!(out[at + i].to_bits(), in_place[at + i].to_bits(), "in place");
        }
    }
}

pub(crate) fn l2_normalizes(isa: Isa) {
    let mut rng = Rng::new(22);
    let mut ctx = context(isa, 2);
    for &cols in &WIDTHS {
        for scale in [1.0, 1e-3, 1e25, 3e38, 1e-25, 1e-38] {
            let (rows, eps) = (3, 1e-12);
            let x = rng.values(rows * cols, scale);
            let mut out = x.clone();
            l2_normalize(&mut ctx, eps, RowsMut::new(&mut out, rows, cols));
            for (x, out) in x.chunks(cols).zip(out.chunks(cols)) {
                let norm =
                    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(f64::from(eps));
                for (&x, &got) in x.iter().zip(out) {
                    let want = f64::from(x) / norm;
                    let tolerance = 20.0 * ROUND * want.abs() + 1e-37;
                    assert_close(got, want, tolerance, &|| format!("{cols} columns of {scale:e}"));
                }
            }
        }
        let mut zeros = vec![0.0; cols];
        l2_normalize(&mut ctx, 1e-12, RowsMut::new(&mut zeros, 1, cols));
        assert!(zeros.iter().all(|&x| x == 0.0));
    }
}

pub(crate) fn softmaxes(isa: Isa) {
    let mut rng = Rng::new(23);
    for threads in [1, 3] {
        let mut ctx = context(isa, threads);
        for &cols in &WIDTHS {
            for scale in [1.0, 20.0, 1e4, 1e38] {
                let rows = 5;
                let mut x = rng.values(rows * cols, scale);
                if cols > 2 {
                    x[1] = f32::NEG_INFINITY;
                }
                let mut out = vec![0.0; x.len()];
                softmax(&mut ctx, Some(Rows::new(&x, rows, cols)), RowsMut::new(&mut out, rows, cols));
                for (x, out) in x.chunks(cols).zip(out.chunks(cols)) {
                    let largest = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
                    let exps: Vec<f64> = x.iter().map(|&x| (f64::from(x) - largest).exp()).collect();
                    let sum: f64 = exps.iter().sum();
                    for ((&got, e), &x) in out.iter().zip(&exps).zip(x) {
                        // The difference x - max is rounded once before the exponential.
                        let slack = ROUND * (16.0 + (f64::from(x) - largest).abs().min(200.0));
                        let want = e / sum;
                        assert_close(got, want, slack * want + 1e-38, &|| {
                            format!("{cols} columns of {scale:e}")
                        });
                    }
                }
            }
        }
        let mut masked = [f32::NEG_INFINITY; 19];
        softmax(&mut ctx, None, RowsMut::new(&mut masked, 1, 19));
        assert!(masked.iter().all(|x| x.is_nan()), "a masked row has no softmax");
        let mut empty: [f32; 0] = [];
        softmax(&mut ctx, None, RowsMut::new(&mut empty, 0, 19));
    }
}

pub(crate) fn arithmetic(isa: Isa) {
    let mut rng = Rng::new(24);
    let mut ctx = context(isa, 2);
    for op in BinaryOp::ALL {
        let f = |a: f32, b: f32| match op {
            BinaryOp::Add => a + b,
            BinaryOp::Sub => a - b,
            BinaryOp::Mul => a * b,
            BinaryOp::Div => a / b,
        };
        for &cols in &WIDTHS {
            let (rows, stride) = (40, cols + 5);
            let (a, b) = (rng.values(rows * stride, 3.0), rng.values(rows * cols, 3.0));
            let left = Rows { data: &a, rows, cols, stride };
            for right in
                [Right::Matrix(Rows::new(&b, rows, cols)), Right::Row(&b[..cols]), Right::Scalar(b[0])]
            {
                let mut out = vec![0.0; rows * cols];
                binary(&mut ctx, op, Some(left), right, RowsMut::new(&mut out, rows, cols));
                let mut in_place = a.clone();
                binary(&mut ctx, op, None, right, RowsMut { data: &mut in_place, rows, cols, stride });
                for (i, &got) in out.iter().enumerate() {
                    let (row, col) = (i / cols, i % cols);
                    let b = match right {
                        Right::Matrix(_) => b[i],
                        Right::Row(_) => b[col],
                        Right::Scalar(b) => b,
                    };
                    let want = f(a[row * stride + col], b);
                    assert_eq!(got.to_bits(), want.to_bits(), "{op:?} at {row}, {col}");
                    assert_eq!(in_place[row * stride + col].to_bits(), want.to_bits());
                }
            }
        }
    }
}

pub(crate) fn embedding_sums(isa: Isa) {
    let mut rng = Rng::new(25);
    for threads in [1, 3] {
        let mut ctx = context(isa, threads);
        for &cols in &WIDTHS {
            let (vocab, tokens) = (50, 37);
            let (words, positions) = (rng.values(vocab * cols, 1.0), rng.values(tokens * cols, 1.0));
            let kinds = rng.values(2 * cols, 1.0);
            let ids: Vec<u32> = (0..tokens).map(|_| rng.below(vocab) as u32).collect();
            let at: Vec<i32> = (0..tokens as i32).collect();
            let lookups = [
                Lookup { table: Rows::new(&words, vocab, cols).into(), ids: Ids::U32(&ids) },
                Lookup { table: Rows::new(&positions, tokens, cols).into(), ids: Ids::I32(&at) },
                Lookup { table: Rows::new(&kinds, 2, cols).into(), ids: Ids::I64(&[1]) },
            ];
            let mut out = vec![0.0; tokens * cols];
            embedding_sum(&mut ctx, &lookups, None, RowsMut::new(&mut out, tokens, cols))
                .expect("ids in range");
            for (i, &got) in out.iter().enumerate() {
                let (t, c) = (i / cols, i % cols);
                let want = words[ids[t] as usize * cols + c] + positions[t * cols + c] + kinds[cols + c];
                assert_eq!(got.to_bits(), want.to_bits(), "token {t}, column {c}");
            }
            // Tables that lie as a product's operand give the same, first and later.
            let desc = PackedDesc::new(isa.tier(), cols, vocab);
            let mut packed = vec![f32::NAN; desc.packed_len().expect("a small matrix")];
            pack_b(&desc, Strided::transposed(&words, cols, vocab), &mut packed);
            let table = Table::Packed(PackedB::new(desc, &packed).expect("packed as described"));
            let mut from_packed = vec![0.0; tokens * cols];
            let result = RowsMut::new(&mut from_packed, tokens, cols);
            let first = [Lookup { table, ..lookups[0] }, lookups[1], lookups[2]];
            embedding_sum(&mut ctx, &first, None, RowsMut { data: &mut *result.data, ..result })
                .expect("in range");
            assert_eq!(result.data, &out[..]);
            let later = [lookups[1], first[0], lookups[2]];
            embedding_sum(&mut ctx, &later, None, RowsMut { data: &mut *result.data, ..result })
                .expect("in range");
            assert_eq!(result.data, &out[..], "sums of two do not depend on their order");
            let beyond = [Lookup { ids: Ids::I32(&[vocab as i32]), ..first[0] }];
            embedding_sum(&mut ctx, &beyond, None, RowsMut { data: &mut *result.data, ..result })
                .expect_err("no row");
            let (gamma, beta) = (rng.values(cols, 1.0), rng.values(cols, 1.0));
            let norm = LayerNorm { gamma: &gamma, beta: &beta, eps: 1e-12 };
            let mut fused = vec![0.0; tokens * cols];
            embedding_sum(&mut ctx, &lookups, Some(&norm), RowsMut::new(&mut fused, tokens, cols))
                .expect("in range");
            layer_norm(&mut ctx, &norm, None, None, RowsMut::new(&mut out, tokens, cols));
            assert!(fused.iter().zip(&out).all(|(a, b)| a.to_bits() == b.to_bits()), "fused norm");
            for (t, row) in fused.chunks(cols).enumerate() {
                let of = |table: &[f32], row: usize, c: usize| f64::from(table[row * cols + c]);
                let sum = |c| of(&words, ids[t] as usize, c) + of(&positions, t, c) + of(&kinds, 1, c);
                let sums: Vec<f64> = (0..cols).map(sum).collect();
                let want = layer_norm_f64(&sums, &gamma, &beta, norm.eps);
                // Rounding the sums costs as much more as they are large beside their deviation.
                let mean = sums.iter().sum::<f64>() / cols as f64;
                let variance = sums.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / cols as f64;
                let largest = sums.iter().fold(0f64, |most, x| most.max(x.abs()));
                let ratio = largest / (variance + 1e-12).sqrt();
                for (c, (got, want)) in row.iter().zip(want).enumerate() {
                    let what = || format!("{cols} columns, token {t}, column {c}");
                    assert_close(*got, want, ROUND * (16.0 + 8.0 * ratio), &what);
                }
            }
            if isa.has_bf16() {
                let mut whole = vec![0.0; tokens * cols];
                let mut rounded = vec![bf16::ZERO; tokens * cols];
                let half = RowsMut { data: &mut rounded, rows: tokens, cols, stride: cols };
                let full = RowsMut::new(&mut whole, tokens, cols);
                embedding_rounded(&mut ctx, &lookups, Some(&norm), full, Some(half)).expect("in range");
                assert_eq!(whole, fused);
                assert!(rounded.iter().zip(&fused).all(|(a, b)| *a == bf16::from_f32(*b)), "rounded");
            }
        }
    }
    let mut ctx = context(isa, 1);
    let table = [1.0, 2.0, 3.0, 4.0];
    let mut out = [9.0; 4];
    for ids in [Ids::I64(&[0, 2]), Ids::I64(&[0, -1]), Ids::I32(&[0, i32::MIN]), Ids::U32(&[0, u32::MAX])] {
        let error = gather_rows(&mut ctx, Rows::new(&table, 2, 2), ids, RowsMut::new(&mut out, 2, 2));
        let error = error.expect_err("an id out of range");
        assert_eq!((error.position, error.rows), (1, 2));
        assert_eq!(out, [9.0; 4], "nothing is written");
    }
    gather_rows(&mut ctx, Rows::new(&table, 2, 2), Ids::U32(&[1, 0]), RowsMut::new(&mut out, 2, 2))
        .expect("in range");
    assert_eq!(out, [3.0, 4.0, 1.0, 2.0]);
}

pub(crate) fn poolings(isa: Isa) {
    let mut rng = Rng::new(26);
    for threads in [1, 3] {
        let mut ctx = context(isa, threads);
        for &cols in &WIDTHS {
            let offsets = [0, 1, 1, 8, 40, 47];
            let cu = CuSeqlens::new(&offsets).expect("well formed");
            let x = rng.values(47 * cols, 5.0);
            for pooling in Pooling::ALL {
                let mut out = vec![f32::NAN; 5 * cols];
                pool_sequences(
                    &mut ctx,
                    pooling,
                    Rows::new(&x, 47, cols),
                    cu,
                    RowsMut::new(&mut out, 5, cols),
                );
                for (i, &got) in out.iter().enumerate() {
                    let (start, len) = cu.sequence(i / cols);
                    let column = (start..start + len).map(|t| f64::from(x[t * cols + i % cols]));
                    let want = match pooling {
                        _ if len == 0 => 0.0,
                        Pooling::Mean => column.sum::<f64>() / len as f64,
                        Pooling::Max => column.fold(f64::NEG_INFINITY, f64::max),
                        Pooling::First => f64::from(x[start * cols + i % cols]),
                        Pooling::Last => f64::from(x[(start + len - 1) * cols + i % cols]),
                    };
                    let tolerance =
                        if pooling == Pooling::Mean { ROUND * 5.0 * (len + 2) as f64 } else { 0.0 };
                    assert_close(got, want, tolerance, &|| format!("{pooling:?}, sequence {}", i / cols));
                }
            }
        }
    }
}
