use super::*;
use crate::op::AttentionAttrs;

fn attrs() -> AttentionAttrs {
    AttentionAttrs {
        q_heads: 0,
        kv_heads: 0,
        scale: Some(1.0),
        is_causal: false,
        softcap: 0.0,
        scores_mode: 0,
        softmax_precision: None,
    }
}

/// `[1, 1, n, 1]`.
fn column(values: &[f64]) -> Value {
    tensor(&[1, 1, values.len(), 1], values)
}

fn run(attrs: AttentionAttrs, inputs: &[Option<&Value>]) -> Vec<Value> {
    eval(&Op::Attention(attrs), inputs, Precision::Native).unwrap()
}

#[test]
fn attention_weighs_values_by_softmax() {
    // Scores [0, ln 3]: weights [1/4, 3/4].
    let (q, k, v) = (column(&[1.0]), column(&[0.0, 3.0f64.ln()]), column(&[8.0, 4.0]));
    let all = run(attrs(), &[Some(&q), Some(&k), Some(&v)]);
    assert_close(&all[0], &[5.0], 1e-12);
    assert_eq!((&all[1], &all[2]), (&k, &v));
    assert_close(&all[3], &[0.0, 3.0f64.ln()], 1e-15);
    let scaled = AttentionAttrs { scale: Some(2.0), scores_mode: 3, ..attrs() };
    assert_close(&run(scaled, &[Some(&q), Some(&k), Some(&v)])[3], &[0.1, 0.9], 1e-12);
    let default = AttentionAttrs { scale: None, ..attrs() };
    let wide = tensor(&[1, 1, 1, 4], &[1.0f64; 4]);
    assert_close(&run(default, &[Some(&wide), Some(&wide), Some(&wide)])[3], &[2.0], 1e-15);
}

#[test]
fn masks_add_or_hide() {
    let (q, k, v) = (column(&[1.0, 1.0]), column(&[0.0, 0.0, 0.0]), column(&[3.0, 6.0, 9.0]));
    let qkv = [Some(&q), Some(&k), Some(&v)];
    let hidden = booleans(&[2, 3], &[true, false, true, false, false, false]);
    let masked = run(attrs(), &[&qkv[..], &[Some(&hidden)]].concat());
    assert_close(&masked[0], &[6.0, 0.0], 1e-12);
    let added = tensor(&[3], &[0.0f64, f64::NEG_INFINITY, 2.0f64.ln()]);
    let biased = run(AttentionAttrs { scores_mode: 2, ..attrs() }, &[&qkv[..], &[Some(&added)]].concat());
    assert_close(&biased[0], &[7.0, 7.0], 1e-12);
    assert_eq!(biased[3].to_f64()[1], f64::NEG_INFINITY);
    let short = booleans(&[1, 2], &[true, true]);
    let padded = run(attrs(), &[&qkv[..], &[Some(&short)]].concat());
    assert_close(&padded[0], &[4.5, 4.5], 1e-12);
}

#[test]
fn causal_masks_count_the_past() {
    let (q, k, v) = (column(&[0.0, 0.0]), column(&[0.0, 0.0]), column(&[2.0, 4.0]));
    let causal = AttentionAttrs { is_causal: true, ..attrs() };
    let plain = run(causal.clone(), &[Some(&q), Some(&k), Some(&v)]);
    assert_close(&plain[0], &[2.0, 3.0], 1e-12);
    let past = column(&[0.0]);
    let past_v = column(&[8.0]);
    let cached = run(causal.clone(), &[Some(&q), Some(&k), Some(&v), None, Some(&past), Some(&past_v)]);
    assert_close(&cached[0], &[5.0, 14.0 / 3.0], 1e-12);
    assert_eq!(cached[2], column(&[8.0, 2.0, 4.0]));
    let lengths = i64s(&[1]);
    let external = run(causal, &[Some(&q), Some(&k), Some(&v), None, None, None, Some(&lengths)]);
    assert_close(&external[0], &[0.0, 2.0], 1e-12);
    assert!(
        eval(&Op::Attention(attrs()), &[Some(&q), Some(&k), Some(&v), None, Some(&past)], Precision::F64)
            .is_err()
    );
}

#[test]
fn softcap_comes_before_the_mask() {
    let (q, k, v) = (column(&[1.0]), column(&[100.0, 0.0]), column(&[1.0, 0.0]));
    let mask = booleans(&[1, 2], &[false, true]);
    let capped = AttentionAttrs { softcap: 2.0, scores_mode: 1, ..attrs() };
    let all = run(capped, &[Some(&q), Some(&k), Some(&v), Some(&mask)]);
    assert_close(&all[3], &[2.0, 0.0], 1e-12);
    assert_close(&all[0], &[0.0], 0.0);
}

#[test]
fn grouped_heads_share_keys_and_rows_split_into_heads() {
    // Four query heads of one column each, two key heads: heads 0 and 1 use the first.
    let q = tensor(&[1, 1, 4], &[1.0f64, 1.0, 1.0, 1.0]);
    let k = tensor(&[1, 1, 2], &[5.0f64, 7.0]);
    let v = tensor(&[1, 1, 2], &[10.0f64, 20.0]);
    let grouped = AttentionAttrs { q_heads: 4, kv_heads: 2, ..attrs() };
    let all = run(grouped, &[Some(&q), Some(&k), Some(&v)]);
    assert_eq!(all[0], tensor(&[1, 1, 4], &[10.0f64, 10.0, 20.0, 20.0]));
    assert_eq!(all[1].shape(), [1, 2, 1, 1]);
    assert_eq!(all[3], tensor(&[1, 4, 1, 1], &[5.0f64, 5.0, 7.0, 7.0]));
    refusal(&Op::Attention(AttentionAttrs { q_heads: 4, kv_heads: 3, ..attrs() }), &[&q, &k, &v]);
    refusal(&Op::Attention(AttentionAttrs { q_heads: 0, kv_heads: 2, ..attrs() }), &[&q, &k, &v]);
}

#[test]
fn rotation_by_a_right_angle_swaps_pairs() {
    let x = tensor(&[1, 1, 1, 6], &[1.0f64, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let (cos, sin) = (tensor(&[1, 1, 2], &[0.0f64, 1.0]), tensor(&[1, 1, 2], &[1.0f64, 0.0]));
    let rotary = |interleaved| Op::RotaryEmbedding { interleaved, heads: 0, rotary_dim: 4 };
    let halves = result(&rotary(false), &[&x, &cos, &sin]);
    assert_eq!(halves.to_f64(), [-3.0, 2.0, 1.0, 4.0, 5.0, 6.0]);
    let neighbours = result(&rotary(true), &[&x, &cos, &sin]);
    assert_eq!(neighbours.to_f64(), [-2.0, 1.0, 3.0, 4.0, 5.0, 6.0]);
}

#[test]
fn rotation_reads_the_cache_by_position_in_both_layouts() {
    let rows = counting(&[1, 3, 8]);
    let angles: Vec<f32> = (0..8).map(|i| i as f32 * 0.3).collect();
    let cos = f32s(&[4, 2], &angles.iter().map(|a| a.cos()).collect::<Vec<_>>());
    let sin = f32s(&[4, 2], &angles.iter().map(|a| a.sin()).collect::<Vec<_>>());
    let ids = tensor(&[1, 3], &[3i64, 0, 1]);
    let op = |heads| Op::RotaryEmbedding { interleaved: false, heads, rotary_dim: 0 };
    let split = result(&op(2), &[&rows, &cos, &sin, &ids]);
    let to_heads =
        |x: &Value| result(&Op::Transpose { perm: vec![0, 2, 1, 3] }, &[&x.with_shape(vec![1, 3, 2, 4])]);
    assert_eq!(result(&op(0), &[&to_heads(&rows), &cos, &sin, &ids]), to_heads(&split));
    let norm = |x: &Value| x.to_f64().iter().map(|x| x * x).sum::<f64>();
    assert!((norm(&split) / norm(&rows) - 1.0).abs() < 1e-6, "rotations keep lengths");
    refusal(&op(2), &[&rows, &cos, &sin, &tensor(&[1, 3], &[4i64, 0, 1])]);
    refusal(&op(3), &[&rows, &cos, &sin, &ids]);
}
