use super::*;
use crate::op::{Activation, PoolKind, RelativeBuckets, WeightLayout};

#[test]
fn embeddings_are_summed() {
    let words = f32s(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let kinds = f32s(&[2, 2], &[10.0, 20.0, 30.0, 40.0]);
    let ids = tensor(&[3], &[2i32, 0, 2]);
    let y = result(&Op::EmbeddingSum, &[&ids, &words, &tensor(&[3], &[0i32, 1, 1]), &kinds]);
    assert_eq!(y, f32s(&[3, 2], &[15.0, 26.0, 31.0, 42.0, 35.0, 46.0]));
    for bad in [3, -1] {
        assert!(refusal(&Op::EmbeddingSum, &[&tensor(&[1], &[bad]), &words]).contains("out of range"));
    }
    refusal(&Op::EmbeddingSum, &[&ids]);
}

#[test]
fn embeddings_are_summed_and_normalised() {
    let words = f32s(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let kinds = f32s(&[2, 2], &[0.0, 2.0, 10.0, 1.0]);
    let (ids, of) = (tensor(&[2], &[2i32, 0]), tensor(&[2], &[0i32, 1]));
    let (gamma, beta) = (f32s(&[2], &[2.0, 3.0]), f32s(&[2], &[0.5, -1.0]));
    let op = Op::EmbeddingLayerNorm { epsilon: 1.75 };
    // Rows [5, 8] and [11, 3]: deviations of 1.5 and 4.
    let y = result(&op, &[&ids, &words, &of, &kinds, &gamma, &beta]);
    let (a, b) = (1.5 / 2.0, 4.0 / 17.75f64.sqrt());
    assert_close(&y, &[-2.0 * a + 0.5, 3.0 * a - 1.0, 2.0 * b + 0.5, -3.0 * b - 1.0], 1e-6);
    refusal(&op, &[&gamma]);
    assert!(refusal(&op, &[&tensor(&[1], &[3i32]), &words, &gamma, &beta]).contains("out of range"));
}

#[test]
fn linear_in_both_layouts_with_everything_fused() {
    let x = f32s(&[1, 2, 2], &[1.0, 2.0, -1.0, 0.0]);
    let bias = f32s(&[3], &[0.0, 1.0, -10.0]);
    let residual = f32s(&[1, 2, 3], &[0.5; 6]);
    let out_in = f32s(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let in_out = result(&Op::Transpose { perm: vec![1, 0] }, &[&out_in]);
    let linear = |layout, activation| Op::Linear { layout, activation };
    let expected = f32s(&[1, 2, 3], &[1.5, 3.5, 0.5, 0.5, 1.5, 0.5]);
    for (layout, weight) in [(WeightLayout::OutIn, &out_in), (WeightLayout::InOut, &in_out)] {
        assert_eq!(result(&linear(layout, Activation::Relu), &[&x, weight, &bias, &residual]), expected);
    }
    let silu = result(&linear(WeightLayout::OutIn, Activation::Silu), &[&x, &out_in]);
    assert_close(&silu.take(vec![1], &[0]), &[1.0 / (1.0 + (-1.0f64).exp())], 1e-6);
    // A square weight must not be taken for its transpose.
    let square = f32s(&[2, 2], &[0.0, 1.0, 0.0, 0.0]);
    let plain = |layout| result(&linear(layout, Activation::None), &[&f32s(&[1, 2], &[1.0, 2.0]), &square]);
    assert_eq!(plain(WeightLayout::OutIn), f32s(&[1, 2], &[2.0, 0.0]));
    assert_eq!(plain(WeightLayout::InOut), f32s(&[1, 2], &[0.0, 1.0]));
    refusal(&linear(WeightLayout::InOut, Activation::None), &[&x, &out_in]);
}

#[test]
fn sequences_do_not_see_each_other() {
    let op = Op::RaggedAttention { heads: 2, scale: 0.5, relative: None };
    let (q, k, v) = (counting(&[5, 4]), counting(&[5, 4]), counting(&[5, 4]));
    let all = result(&op, &[&q, &k, &v, &tensor(&[4], &[0i32, 2, 2, 5])]);
    let rows = |x: &Value, from: usize, to: usize| {
        result(&Op::Slice, &[x, &i64s(&[from as i64]), &i64s(&[to as i64])])
    };
    for (from, to) in [(0, 2), (2, 5)] {
        let (q, k, v) = (rows(&q, from, to), rows(&k, from, to), rows(&v, from, to));
        let alone = result(&op, &[&q, &k, &v, &tensor(&[2], &[0i32, (to - from) as i32])]);
        assert_eq!(rows(&all, from, to), alone);
    }
    let packed = result(&Op::Concat { axis: 1 }, &[&q, &k, &v]);
    let cu = tensor(&[4], &[0i32, 2, 2, 5]);
    let in_place = eval(&op, &[Some(&packed), None, None, Some(&cu)], Precision::Native).unwrap();
    assert_eq!(in_place, [all]);
    for bad in [&[0i32, 4][..], &[1, 5], &[0, 3, 2, 5], &[0, 6], &[]] {
        assert!(refusal(&op, &[&q, &k, &v, &tensor(&[bad.len()], bad)]).contains("cu_seqlens"));
    }
}

#[test]
fn relative_biases_move_the_weights() {
    let relative = RelativeBuckets { buckets: 4, max_distance: 8 };
    let op = Op::RaggedAttention { heads: 1, scale: 1.0, relative: Some(relative) };
    let zeros = f32s(&[2, 1], &[0.0, 0.0]);
    let v = f32s(&[2, 1], &[1.0, 0.0]);
    // Row 0 is the token itself, row 1 a key before, row 3 a key after the query.
    let table = f32s(&[4, 1], &[0.0, 3.0f32.ln(), 0.0, 0.0]);
    let y = result(&op, &[&zeros, &zeros, &v, &tensor(&[2], &[0i32, 2]), &table]);
    assert_close(&y, &[0.5, 0.75], 1e-6);
    refusal(&op, &[&zeros, &zeros, &v, &tensor(&[2], &[0i32, 2])]);
    refusal(&op, &[&zeros, &zeros, &v, &tensor(&[2], &[0i32, 2]), &f32s(&[3, 1], &[0.0; 3])]);
}

#[test]
fn pooling_in_every_kind() {
    let x = f32s(&[5, 1], &[4.0, -2.0, 7.0, 1.0, 4.0]);
    let bounds = tensor(&[3], &[0i32, 3, 5]);
    let cases = [
        (PoolKind::Cls, [4.0, 1.0]),
        (PoolKind::Mean, [3.0, 2.5]),
        (PoolKind::Max, [7.0, 4.0]),
        (PoolKind::MeanSqrtLen, [9.0 / 3.0f64.sqrt(), 5.0 / 2.0f64.sqrt()]),
        (PoolKind::WeightedMean, [21.0 / 6.0, 3.0]),
        (PoolKind::LastToken, [7.0, 4.0]),
    ];
    for (kind, expected) in cases {
        assert_close(&result(&Op::Pool(kind), &[&x, &bounds]), &expected, 1e-6);
    }
    assert!(refusal(&Op::Pool(PoolKind::Mean), &[&x, &tensor(&[3], &[0i32, 0, 5])]).contains("sequence 0"));
}

#[test]
fn rows_become_unit_vectors() {
    let x = f32s(&[2, 2], &[3.0, 4.0, 0.0, 0.0]);
    assert_close(&result(&Op::L2Normalize { epsilon: 1e-12 }, &[&x]), &[0.6, 0.8, 0.0, 0.0], 1e-7);
}
