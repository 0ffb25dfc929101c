use super::*;
use crate::op::{BinaryOp, PadMode};

#[test]
fn shape_gives_dimensions() {
    let op = |start, end| Op::Shape { start, end };
    assert_eq!(value(op(0, None), &[t("f32[batch, seq, 3]")]), "batch, seq, 3");
    assert_eq!(types(op(0, None), &[t("f32[batch, seq, 3]")]), "i64[3]");
    assert_eq!(value(op(1, Some(-1)), &[t("f32[batch, seq, 3]")]), "seq");
    assert_eq!(value(op(5, Some(i64::MIN)), &[t("f32[batch]")]), "");
    assert_eq!(types(op(0, None), &[t("f32[]")]), "i64[0]");
}

#[test]
fn constant_of_shape_fills() {
    let op = |data| Op::ConstantOfShape { value: data };
    assert_eq!(types(op(TensorData::vector(vec![0f32])), &[v("batch, 3")]), "f32[batch, 3]");
    assert_eq!(value(op(TensorData::vector(vec![7i64])), &[v("3")]), "7, 7, 7");
    assert_eq!(types(op(TensorData::scalar(1i64)), &[t("i64[2]")]), "i64[?0, ?1]");
    assert_eq!(types(op(TensorData::scalar(1i64)), &[v("")]), "i64[]");
    refused(op(TensorData::vector(vec![0f32; 2])), &[v("3")], &["one value", "f32[2]"]);
    refused(op(TensorData::scalar(1i64)), &[v("-3")], &["negative dimension"]);
}

#[test]
fn expand_broadcasts_both_ways() {
    assert_eq!(types(Op::Expand, &[t("f32[b, 1, 1, s]"), v("b, 1, s, s")]), "f32[b, 1, s, s]");
    assert_eq!(types(Op::Expand, &[t("f32[3, 1]"), v("1, 4")]), "f32[3, 4]");
    assert_eq!(types(Op::Expand, &[t("f32[3, 1]"), v("")]), "f32[3, 1]");
    assert_eq!(types(Op::Expand, &[t("f32[3, 1]"), t("i64[3]")]), "f32[?0, 3, ?1]");
    assert_eq!(types(Op::Expand, &[t("f32[b, s, 3]"), t("i64[1]")]), "f32[b, s, 3]");
    assert_eq!(value(Op::Expand, &[v("seq"), v("3")]), "seq, seq, seq");
    refused(Op::Expand, &[t("f32[3]"), v("4")], &["f32[3]", "[4]"]);
    refused(Op::Expand, &[t("f32[3]"), v("-1")], &["negative"]);
}

/// What torch exports for `x.expand(-1, 4, -1)`: the sizes asked for, -1 replaced by 1.
#[test]
fn the_exporters_idiom_for_expand_is_followed() {
    let requested = v("-1, batch, -1");
    let ones = facts(&Op::ConstantOfShape { value: TensorData::vector(vec![1i64]) }, &[v("3")]).remove(0);
    let minus_one = facts(&Op::Binary(BinaryOp::Mul), &[Some(ones.clone()), s("-1")]).remove(0);
    let kept = facts(&Op::Binary(BinaryOp::Equal), &[requested.clone(), Some(minus_one)]).remove(0);
    let sizes = facts(&Op::Where, &[Some(kept), Some(ones), requested]).remove(0);
    assert_eq!(types(Op::Expand, &[t("f32[s, 1, 8]"), Some(sizes)]), "f32[s, batch, 8]");
}

#[test]
fn tile_multiplies() {
    assert_eq!(types(Op::Tile, &[t("f32[b, 3]"), v("2, s")]), "f32[2*b, 3*s]");
    assert_eq!(types(Op::Tile, &[t("f32[b, 3]"), t("i64[2]")]), "f32[?0, ?1]");
    assert_eq!(value(Op::Tile, &[v("a, b"), v("2")]), "a, b, a, b");
    assert_eq!(value(Op::Tile, &[v("a"), v("9223372036854775807")]), "-");
    refused(Op::Tile, &[t("f32[b, 3]"), v("2")], &["2 elements"]);
    refused(Op::Tile, &[t("f32[b, 3]"), v("2, -1")], &["negative"]);
}

#[test]
fn pad_adds_and_crops() {
    let op = |mode| Op::Pad { mode };
    let constant = || op(PadMode::Constant);
    assert_eq!(types(constant(), &[t("f32[b, 3]"), v("1, 0, 0, 2")]), "f32[b + 1, 5]");
    assert_eq!(types(constant(), &[t("f32[b, 3]"), v("0, -2"), None, v("-1")]), "f32[b, 1]");
    assert_eq!(types(constant(), &[t("f32[b, 3]"), t("i64[2]"), None, v("1")]), "f32[b, ?0]");
    assert_eq!(types(constant(), &[t("f32[b]"), v("-1, 0")]), "f32[?0]");
    refused(constant(), &[t("f32[3]"), v("-4, 0")], &["crop axis 0", "-1"]);
    refused(constant(), &[t("f32[3]"), v("1")], &["2 elements"]);
    refused(constant(), &[t("f32[3]"), v("1, 1"), t("i64[]")], &["f32", "input 2 `value`"]);
    refused(op(PadMode::Edge), &[t("f32[3]"), v("1, 1"), t("f32[]")], &["no value"]);
}

#[test]
fn range_counts() {
    let ints = |start, limit, delta| types(Op::Range, &[s(start), s(limit), s(delta)]);
    assert_eq!(ints("0", "seq", "1"), "i64[seq]");
    assert_eq!(ints("2", "seq + 5", "1"), "i64[seq + 3]");
    assert_eq!(ints("2", "seq", "1"), "i64[?0]");
    assert_eq!(ints("0", "4*seq", "2"), "i64[2*seq]");
    assert_eq!(ints("0", "7", "2"), "i64[4]");
    assert_eq!(ints("7", "0", "-3"), "i64[3]");
    assert_eq!(ints("7", "0", "3"), "i64[0]");
    assert_eq!(ints("5", "5", "-1"), "i64[0]");
    assert_eq!(ints("-9223372036854775807", "9223372036854775807", "1"), "i64[?0]");
    assert_eq!(value(Op::Range, &[s("batch"), s("batch + 3"), s("1")]), "batch, batch + 1, batch + 2");
    assert_eq!(types(Op::Range, &[s("0"), t("i64[]"), s("1")]), "i64[?0]");
    let float = |start: f32, limit: f32, delta: f32| [start, limit, delta].map(|x| c(TensorData::scalar(x)));
    assert_eq!(types(Op::Range, &float(0.0, 1.0, 0.3)), "f32[4]");
    assert_eq!(types(Op::Range, &float(1.0, 0.0, 0.3)), "f32[0]");
    refused(Op::Range, &float(0.0, 1.0, 0.0), &["no length"]);
    refused(Op::Range, &float(f32::NAN, 1.0, 1.0), &["no length"]);
    refused(Op::Range, &[s("0"), s("5"), s("0")], &["other than 0"]);
    refused(Op::Range, &[v("0, 1"), s("5"), s("1")], &["single element"]);
}
