use super::*;
use crate::op::{BinaryOp, GeluKind, UnaryOp};
use half::f16;

fn unary(op: UnaryOp, x: &Value) -> Value {
    result(&Op::Unary(op), &[x])
}

fn binary(op: BinaryOp, a: &Value, b: &Value) -> Value {
    result(&Op::Binary(op), &[a, b])
}

#[test]
fn unary_functions_agree_with_known_values() {
    let x = tensor(&[3], &[-2.0f64, 0.0, 0.5]);
    let cases: [(UnaryOp, [f64; 3]); 12] = [
        (UnaryOp::Abs, [2.0, 0.0, 0.5]),
        (UnaryOp::Ceil, [-2.0, 0.0, 1.0]),
        (UnaryOp::Cos, [-0.4161468365471424, 1.0, 0.8775825618903728]),
        (UnaryOp::Erf, [-0.9953222650189527, 0.0, 0.5204998778130465]),
        (UnaryOp::Exp, [0.1353352832366127, 1.0, 1.6487212707001282]),
        (UnaryOp::Neg, [2.0, 0.0, -0.5]),
        (UnaryOp::Relu, [0.0, 0.0, 0.5]),
        (UnaryOp::Sigmoid, [0.11920292202211755, 0.5, 0.6224593312018546]),
        (UnaryOp::Sign, [-1.0, 0.0, 1.0]),
        (UnaryOp::Sin, [-0.9092974268256817, 0.0, 0.479425538604203]),
        (UnaryOp::Tanh, [-0.9640275800758169, 0.0, 0.46211715726000973]),
        (UnaryOp::Identity, [-2.0, 0.0, 0.5]),
    ];
    for (op, expected) in cases {
        assert_close(&unary(op, &x), &expected, 1e-15);
    }
    let y = tensor(&[2], &[4.0f64, 0.25]);
    assert_close(&unary(UnaryOp::Log, &y), &[1.3862943611198906, -1.3862943611198906], 1e-15);
    assert_close(&unary(UnaryOp::Reciprocal, &y), &[0.25, 4.0], 0.0);
    assert_close(&unary(UnaryOp::Sqrt, &y), &[2.0, 0.5], 0.0);
    assert_eq!(unary(UnaryOp::Not, &booleans(&[2], &[true, false])), booleans(&[2], &[false, true]));
}

#[test]
fn nan_is_carried_through() {
    let x = f32s(&[2], &[f32::NAN, 1.0]);
    assert_eq!(unary(UnaryOp::IsNan, &x), booleans(&[2], &[true, false]));
    for op in [UnaryOp::Relu, UnaryOp::Sign, UnaryOp::Sigmoid, UnaryOp::Abs] {
        assert!(unary(op, &x).to_f64()[0].is_nan(), "{op:?}");
    }
    let one = f32s(&[], &[1.0]);
    for op in [BinaryOp::Max, BinaryOp::Min] {
        assert!(binary(op, &x, &one).to_f64()[0].is_nan());
        assert!(binary(op, &one, &x).to_f64()[0].is_nan());
    }
    assert_eq!(binary(BinaryOp::Equal, &x, &x), booleans(&[2], &[false, true]));
}

#[test]
fn integers_wrap_at_their_own_width() {
    let x = tensor(&[3], &[i8::MIN, i8::MAX, -3]);
    assert_eq!(unary(UnaryOp::Abs, &x), tensor(&[3], &[i8::MIN, i8::MAX, 3]));
    assert_eq!(unary(UnaryOp::Neg, &x), tensor(&[3], &[i8::MIN, -127i8, 3]));
    assert_eq!(binary(BinaryOp::Add, &x, &x), tensor(&[3], &[0i8, -2, -6]));
    let big = tensor(&[1], &[u64::MAX]);
    assert_eq!(binary(BinaryOp::Mul, &big, &big), tensor(&[1], &[1u64]));
    assert_eq!(binary(BinaryOp::Sub, &tensor(&[1], &[0u8]), &tensor(&[1], &[1u8])), tensor(&[1], &[255u8]));
}

#[test]
fn integer_division_truncates_and_never_traps() {
    let a = tensor(&[5], &[7i64, -7, 7, 5, i64::MIN]);
    let b = tensor(&[5], &[2i64, 2, -2, 0, -1]);
    assert_eq!(binary(BinaryOp::Div, &a, &b), tensor(&[5], &[3i64, -3, -3, 0, i64::MIN]));
}

#[test]
fn powers_of_all_kinds() {
    let base = tensor(&[4], &[3i32, -2, 0, 1]);
    let exponent = tensor(&[4], &[4i32, 3, 0, -5]);
    assert_eq!(binary(BinaryOp::Pow, &base, &exponent), tensor(&[4], &[81i32, -8, 1, 1]));
    assert_eq!(binary(BinaryOp::Pow, &base, &f32s(&[], &[2.0])), tensor(&[4], &[9i32, 4, 0, 1]));
    let floats = f32s(&[2], &[4.0, 9.0]);
    assert_eq!(binary(BinaryOp::Pow, &floats, &i64s(&[2])), f32s(&[2], &[16.0, 81.0]));
    assert_eq!(binary(BinaryOp::Pow, &floats, &tensor(&[], &[0.5f64])), f32s(&[2], &[2.0, 3.0]));
}

#[test]
fn operands_broadcast_both_ways() {
    let column = i64s(&[10, 20]).with_shape(vec![2, 1]);
    let row = i64s(&[1, 2, 3]);
    assert_eq!(binary(BinaryOp::Add, &column, &row), tensor(&[2, 3], &[11i64, 12, 13, 21, 22, 23]));
    let empty = tensor::<i64>(&[0, 1], &[]);
    assert_eq!(binary(BinaryOp::Add, &empty, &row).shape(), [0, 3]);
    assert!(refusal(&Op::Binary(BinaryOp::Add), &[&i64s(&[1, 2]), &row]).contains("broadcast"));
    assert!(refusal(&Op::Binary(BinaryOp::Add), &[&counting(&[3]), &row]).contains("i64"));
}

#[test]
fn results_are_rounded_to_their_own_dtype_or_not_at_all() {
    let (a, b) = (tensor(&[1], &[f16::from_f32(1.0)]), tensor(&[1], &[f16::from_f32(3.0)]));
    let op = Op::Binary(BinaryOp::Div);
    assert_eq!(result(&op, &[&a, &b]).to_f64(), [f16::from_f32(1.0 / 3.0).to_f64()]);
    let exact = eval(&op, &[Some(&a), Some(&b)], Precision::F64).unwrap();
    assert_eq!(exact[0].to_f64(), [1.0 / 3.0]);
    assert_eq!(exact[0].dtype(), DType::F16);
}

#[test]
fn gelu_in_both_definitions() {
    let x = tensor(&[4], &[-1.0f64, 0.0, 1.0, -10.0]);
    // -10 * normal_cdf(-10)
    let erf = [-0.15865525393145707, 0.0, 0.8413447460685429, -7.619853024160527e-23];
    assert_close(&result(&Op::Gelu(GeluKind::Erf), &[&x]), &erf, 1e-15);
    let left_tail = result(&Op::Gelu(GeluKind::Erf), &[&x]).to_f64()[3];
    assert!((left_tail / erf[3] - 1.0).abs() < 1e-10);
    let tanh = [-0.15880800939172324, 0.0, 0.8411919906082768, 0.0];
    assert_close(&result(&Op::Gelu(GeluKind::Tanh), &[&x]), &tanh, 1e-15);
}

#[test]
fn clip_takes_either_bound() {
    let x = tensor(&[3], &[-5i32, 0, 5]);
    let (low, high) = (tensor(&[], &[-1i32]), tensor(&[], &[2i32]));
    let clip = |min, max| eval(&Op::Clip, &[Some(&x), min, max], Precision::Native).unwrap().remove(0);
    assert_eq!(clip(Some(&low), None), tensor(&[3], &[-1i32, 0, 5]));
    assert_eq!(clip(None, Some(&high)), tensor(&[3], &[-5i32, 0, 2]));
    assert_eq!(clip(Some(&high), Some(&low)), tensor(&[3], &[-1i32, -1, -1]), "the upper bound wins");
    assert_eq!(clip(None, None), x);
}

#[test]
fn where_chooses_with_broadcasting() {
    let condition = booleans(&[2, 1], &[true, false]);
    let chosen = result(&Op::Where, &[&condition, &i64s(&[1, 2]), &tensor(&[], &[9i64])]);
    assert_eq!(chosen, tensor(&[2, 2], &[1i64, 2, 9, 9]));
}

#[test]
fn casts_truncate_wrap_and_saturate() {
    let cast = |to, x: &Value| result(&Op::Cast { to }, &[x]);
    let x = f32s(&[6], &[-1.9, 2.9, f32::NAN, 1e20, -1e20, 0.25]);
    assert_eq!(
        cast(DType::I32, &x),
        tensor(&[6], &[-1, 2, 0, i32::MAX, i32::MIN, 0]),
        "fractions are dropped"
    );
    assert_eq!(cast(DType::Bool, &x), booleans(&[6], &[true; 6]));
    assert_eq!(cast(DType::U8, &i64s(&[300, -1])), tensor(&[2], &[44u8, 255]));
    assert_eq!(cast(DType::F16, &f32s(&[1], &[1e6])).to_f64(), [f64::INFINITY]);
    assert_eq!(cast(DType::F32, &booleans(&[2], &[true, false])), f32s(&[2], &[1.0, 0.0]));
    // Halfway cases that rounding by way of f64 would get wrong.
    let big = (1i64 << 60) + (1 << 36) + 1;
    assert_eq!(cast(DType::F32, &i64s(&[big])), f32s(&[1], &[big as f32]));
}
