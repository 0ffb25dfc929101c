use super::*;
use crate::op::{BinaryOp, GeluKind, UnaryOp};

#[test]
fn unary_keeps_the_type() {
    assert_eq!(types(Op::Unary(UnaryOp::Tanh), &[t("f16[batch, 3]")]), "f16[batch, 3]");
    assert_eq!(types(Op::Unary(UnaryOp::IsNan), &[t("f32[2]")]), "bool[2]");
    assert_eq!(types(Op::Gelu(GeluKind::Erf), &[t("f32[n]")]), "f32[n]");
    refused(Op::Unary(UnaryOp::Sqrt), &[t("i64[batch]")], &["float type", "i64[batch]", "input 0 `x`"]);
    refused(Op::Unary(UnaryOp::Not), &[t("i64[]")], &["bool", "i64[]"]);
    refused(Op::Unary(UnaryOp::Tanh), &[], &["input 0 `x` is missing"]);
    refused(Op::Unary(UnaryOp::Tanh), &[t("f32[]"), t("f32[]")], &["at most 1 inputs (x), found 2"]);
}

#[test]
fn unary_follows_contents() {
    assert_eq!(value(Op::Unary(UnaryOp::Identity), &[v("batch, 3")]), "batch, 3");
    assert_eq!(value(Op::Unary(UnaryOp::Neg), &[v("batch, 3, -4")]), "-batch, -3, 4");
    assert_eq!(value(Op::Unary(UnaryOp::Abs), &[v("batch, -3")]), "batch, 3");
    assert_eq!(value(Op::Unary(UnaryOp::Abs), &[v("batch - 3")]), "-");
    assert_eq!(value(Op::Unary(UnaryOp::Neg), &[c(TensorData::vector(vec![i64::MIN]))]), "-");
    assert_eq!(value(Op::Unary(UnaryOp::Sign), &[v("-7, 0, 9")]), "-1, 0, 1");
}

#[test]
fn binary_broadcasts() {
    let add = || Op::Binary(BinaryOp::Add);
    assert_eq!(types(add(), &[t("f32[batch, 1, 3]"), t("f32[seq, 1]")]), "f32[batch, seq, 3]");
    assert_eq!(types(add(), &[t("f32[batch, seq]"), t("f32[12, seq]")]), "f32[12, seq]");
    assert_eq!(types(add(), &[t("f32[0]"), t("f32[1]")]), "f32[0]");
    // Unrelated symbols may be equal, or one of them 1.
    assert_eq!(types(add(), &[t("f32[batch]"), t("f32[seq]")]), "f32[?0]");
    assert_eq!(types(add(), &[t("f32[?7]"), t("f32[seq]")]), "f32[seq]");
    refused(add(), &[t("f32[2, 3]"), t("f32[4]")], &["[2, 3]", "[4]", "do not broadcast"]);
    refused(
        add(),
        &[t("f32[2]"), t("f16[2]")],
        &["expected f32 as input 0 `a` has", "f16[2]", "input 1 `b`"],
    );
    refused(add(), &[t("bool[2]"), t("bool[2]")], &["float or integer", "bool[2]"]);
    assert_eq!(types(Op::Binary(BinaryOp::Less), &[t("i32[2]"), t("i32[]")]), "bool[2]");
    assert_eq!(types(Op::Binary(BinaryOp::Pow), &[t("f32[2]"), t("i64[]")]), "f32[2]");
    refused(Op::Binary(BinaryOp::And), &[t("f32[2]"), t("bool[]")], &["bool", "f32[2]"]);
}

#[test]
fn binary_follows_contents() {
    let of = |op, a, b| value(Op::Binary(op), &[v(a), v(b)]);
    assert_eq!(of(BinaryOp::Add, "batch, 3", "1"), "batch + 1, 4");
    assert_eq!(of(BinaryOp::Mul, "batch, 3", "12, seq"), "12*batch, 3*seq");
    assert_eq!(of(BinaryOp::Div, "12*batch, 7, -7", "4, 2, 2"), "3*batch, 3, -3");
    assert_eq!(of(BinaryOp::Div, "batch", "2"), "floor(batch/2)");
    assert_eq!(of(BinaryOp::Div, "7", "0"), "-");
    assert_eq!(of(BinaryOp::Max, "batch + 1, batch", "1, batch + 2"), "batch + 1, batch + 2");
    assert_eq!(of(BinaryOp::Min, "batch", "1"), "-");
    // Sizes are never negative, so they never equal -1; they may be 0.
    assert_eq!(of(BinaryOp::Equal, "batch, 3, -1", "-1"), "0, 0, 1");
    assert_eq!(of(BinaryOp::Equal, "batch", "0"), "-");
    assert_eq!(of(BinaryOp::Greater, "batch + 1, 2", "0, 2"), "1, 0");
    assert_eq!(of(BinaryOp::LessOrEqual, "batch, 3", "batch, 2"), "1, 0");
    assert_eq!(of(BinaryOp::Pow, "2, 2", "10, 70"), "-");
    assert_eq!(of(BinaryOp::Add, "9223372036854775807", "1"), "-");
}

#[test]
fn contents_that_would_wrap_are_not_followed() {
    let big = c(TensorData::vector(vec![i32::MAX]));
    let one = c(TensorData::scalar(1i32));
    assert_eq!(value(Op::Binary(BinaryOp::Add), &[big, one]), "-");
    let negative = v("-1");
    assert_eq!(value(Op::Cast { to: DType::U8 }, &[negative]), "-");
    assert_eq!(super::super::constant_value(&TensorData::vector(vec![u64::MAX])), None);
}

#[test]
fn where_chooses_what_is_known() {
    let condition = |bits: &[bool]| c(TensorData::from_bools(vec![bits.len()], bits).unwrap());
    assert_eq!(value(Op::Where, &[condition(&[true, false]), v("1, 1"), v("batch, seq")]), "1, seq");
    assert_eq!(
        types(Op::Where, &[t("bool[seq, 1]"), t("f32[]"), t("f32[batch, 1, 4]")]),
        "f32[batch, seq, 4]"
    );
    // What is not chosen may be unknown.
    assert_eq!(value(Op::Where, &[condition(&[false]), t("i64[1]"), v("seq")]), "seq");
    refused(Op::Where, &[t("i64[2]"), t("f32[2]"), t("f32[2]")], &["bool", "input 0 `condition`"]);
    refused(Op::Where, &[t("bool[2]"), t("f32[2]"), t("i64[2]")], &["f32", "input 2 `b`"]);
}

#[test]
fn clip_and_cast() {
    assert_eq!(types(Op::Clip, &[t("f32[n]"), None, t("f32[]")]), "f32[n]");
    assert_eq!(value(Op::Clip, &[v("-3, 5, 9"), s("0"), s("7")]), "0, 5, 7");
    assert_eq!(value(Op::Clip, &[v("batch"), s("0")]), "batch");
    refused(Op::Clip, &[t("f32[n]"), t("f32[2]")], &["single element", "input 1 `min`"]);
    assert_eq!(types(Op::Cast { to: DType::BF16 }, &[t("bool[n]")]), "bf16[n]");
    assert_eq!(value(Op::Cast { to: DType::I32 }, &[v("seq, 3")]), "seq, 3");
    assert_eq!(value(Op::Cast { to: DType::Bool }, &[v("seq + 1, 0, 7")]), "1, 0, 1");
    assert_eq!(value(Op::Cast { to: DType::Bool }, &[v("seq")]), "-");
    assert_eq!(value(Op::Cast { to: DType::F32 }, &[v("3")]), "-");
}
