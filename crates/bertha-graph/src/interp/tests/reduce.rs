use super::*;
use crate::op::ReduceOp;

fn reduce(op: ReduceOp, keep_dims: bool, noop_with_empty_axes: bool) -> Op {
    Op::Reduce { op, keep_dims, noop_with_empty_axes }
}

#[test]
fn reductions_over_axes() {
    let x = counting(&[2, 3]);
    let sum = reduce(ReduceOp::Sum, false, false);
    assert_eq!(result(&sum, &[&x]), f32s(&[], &[15.0]));
    assert_eq!(result(&sum, &[&x, &i64s(&[-1])]), f32s(&[2], &[3.0, 12.0]));
    assert_eq!(result(&sum, &[&x, &i64s(&[])]), f32s(&[], &[15.0]), "an empty list is as none");
    let mean = reduce(ReduceOp::Mean, true, false);
    assert_eq!(result(&mean, &[&x, &i64s(&[0])]), f32s(&[1, 3], &[1.5, 2.5, 3.5]));
    let noop = reduce(ReduceOp::Prod, true, true);
    assert_eq!(result(&noop, &[&x]), x);
    assert_eq!(result(&noop, &[&x, &i64s(&[])]), x);
    assert_eq!(result(&noop, &[&x, &i64s(&[1])]), f32s(&[2, 1], &[0.0, 60.0]));
    refusal(&sum, &[&x, &i64s(&[0, -2])]);
    refusal(&sum, &[&x, &i64s(&[2])]);
}

#[test]
fn reductions_of_integers_and_of_nothing() {
    let x = tensor(&[3], &[i32::MAX, 1, -7]);
    assert_eq!(
        result(&reduce(ReduceOp::Prod, false, false), &[&tensor(&[2], &[100i8, 3])]),
        tensor(&[], &[44i8])
    );
    assert_eq!(
        result(&reduce(ReduceOp::Mean, false, false), &[&tensor(&[2], &[-3i64, 0])]),
        tensor(&[], &[-1i64])
    );
    assert_eq!(result(&reduce(ReduceOp::Sum, false, false), &[&x]), tensor(&[], &[i32::MAX - 6]));
    let empty = tensor::<f32>(&[0, 2], &[]);
    let over_none = |op| result(&reduce(op, false, false), &[&empty, &i64s(&[0])]);
    assert_eq!(over_none(ReduceOp::Sum), f32s(&[2], &[0.0, 0.0]));
    assert_eq!(over_none(ReduceOp::Prod), f32s(&[2], &[1.0, 1.0]));
    assert!(over_none(ReduceOp::Mean).to_f64().iter().all(|x| x.is_nan()));
    let no_ints = tensor::<i32>(&[0], &[]);
    assert_eq!(result(&reduce(ReduceOp::Mean, false, false), &[&no_ints]), tensor(&[], &[0i32]));
}

#[test]
fn running_sums() {
    let x = i64s(&[1, 2, 3]);
    let axis = tensor(&[], &[0i64]);
    let cumsum = |exclusive, reverse| result(&Op::CumSum { exclusive, reverse }, &[&x, &axis]);
    assert_eq!(cumsum(false, false), i64s(&[1, 3, 6]));
    assert_eq!(cumsum(true, false), i64s(&[0, 1, 3]));
    assert_eq!(cumsum(false, true), i64s(&[6, 5, 3]));
    assert_eq!(cumsum(true, true), i64s(&[5, 3, 0]));
    let grid = counting(&[2, 2]);
    let down = result(&Op::CumSum { exclusive: false, reverse: false }, &[&grid, &tensor(&[1], &[-2i32])]);
    assert_eq!(down, f32s(&[2, 2], &[0.0, 1.0, 2.0, 4.0]));
    refusal(&Op::CumSum { exclusive: false, reverse: false }, &[&x, &tensor(&[], &[1i64])]);
}

#[test]
fn softmax_sums_to_one_and_ignores_minus_infinity() {
    let x = tensor(&[2, 3], &[1000.0f64, 1000.0, f64::NEG_INFINITY, 0.0, 2.0f64.ln(), 5.0f64.ln()]);
    let y = result(&Op::Softmax { axis: -1 }, &[&x]);
    assert_close(&y, &[0.5, 0.5, 0.0, 0.125, 0.25, 0.625], 1e-15);
    let columns = result(&Op::Softmax { axis: 0 }, &[&x]).to_f64();
    for column in 0..3 {
        assert!((columns[column] + columns[column + 3] - 1.0).abs() < 1e-15);
    }
    let masked = f32s(&[2], &[f32::NEG_INFINITY; 2]);
    assert!(result(&Op::Softmax { axis: 0 }, &[&masked]).to_f64().iter().all(|x| x.is_nan()));
    assert_eq!(result(&Op::Softmax { axis: 1 }, &[&tensor::<f32>(&[2, 0], &[])]).shape(), [2, 0]);
}

#[test]
fn layer_norm_gives_statistics_too() {
    let x = f32s(&[2, 2], &[1.0, 3.0, -2.0, -2.0]);
    let (gamma, beta) = (f32s(&[2], &[2.0, 1.0]), f32s(&[2], &[0.0, 1.0]));
    let all = results(&Op::LayerNorm { axis: -1, epsilon: 0.25 }, &[&x, &gamma, &beta]);
    let inverse = 1.0 / 1.25f64.sqrt();
    assert_close(&all[0], &[-2.0 * inverse, inverse + 1.0, 0.0, 1.0], 1e-6);
    assert_close(&all[1], &[2.0, -2.0], 0.0);
    assert_close(&all[2], &[inverse, 2.0], 1e-6);
    assert_eq!(all[1].shape(), [2, 1]);
    let whole = results(&Op::LayerNorm { axis: 0, epsilon: 0.0 }, &[&x, &f32s(&[], &[1.0])]);
    assert_eq!(whole[1].shape(), [1, 1]);
    let y = whole[0].to_f64();
    assert!(y.iter().sum::<f64>().abs() < 1e-6 && (y.iter().map(|x| x * x).sum::<f64>() - 4.0).abs() < 1e-5);
    refusal(&Op::LayerNorm { axis: -1, epsilon: 0.0 }, &[&x, &f32s(&[3], &[1.0; 3])]);
}
