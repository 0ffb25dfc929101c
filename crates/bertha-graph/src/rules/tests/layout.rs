use super::*;

fn reshape() -> Op {
    Op::Reshape { allow_zero: false }
}

#[test]
fn reshape_divides_symbolically() {
    let x = || t("f32[batch, seq, 768]");
    assert_eq!(types(reshape(), &[x(), v("0, 0, 12, 64")]), "f32[batch, seq, 12, 64]");
    assert_eq!(types(reshape(), &[x(), v("batch, -1, 12, 64")]), "f32[batch, seq, 12, 64]");
    assert_eq!(types(reshape(), &[x(), v("-1")]), "f32[768*batch*seq]");
    assert_eq!(types(reshape(), &[x(), v("-1, 1000")]), "f32[?0, 1000]");
    assert_eq!(types(reshape(), &[x(), t("i64[3]")]), "f32[?0, ?1, ?2]");
    assert_eq!(types(reshape(), &[x(), t("i64[1]")]), "f32[768*batch*seq]");
    // Copied dimensions drop out, so an empty batch has an answer too.
    assert_eq!(types(reshape(), &[t("f32[0, 5, 12, 64]"), v("0, 0, -1")]), "f32[0, 5, 768]");
    assert_eq!(types(Op::Reshape { allow_zero: true }, &[t("f32[0, 5]"), v("5, 0")]), "f32[5, 0]");
    assert_eq!(types(reshape(), &[t("f32[1]"), v("")]), "f32[]");
    assert_eq!(value(reshape(), &[v("batch, 3"), v("2, 1")]), "batch, 3");
}

#[test]
fn reshape_refuses_what_cannot_fit() {
    refused(reshape(), &[t("f32[2, 3]"), v("4, -1")], &["f32[2, 3]", "[4, -1]"]);
    refused(reshape(), &[t("f32[2, 3]"), v("7")], &["f32[2, 3]", "[7]"]);
    refused(reshape(), &[t("f32[2, 3]"), v("-1, -1")], &["-1 more than once"]);
    refused(reshape(), &[t("f32[2, 3]"), v("-2")], &["negative size -2"]);
    refused(reshape(), &[t("f32[2, 3]"), v("2, 3, 0")], &["copies dimension 2", "only 2"]);
    refused(Op::Reshape { allow_zero: true }, &[t("f32[0, 5]"), v("0, -1")], &["cannot be reshaped"]);
    refused(reshape(), &[t("f32[2]"), t("f32[1]")], &["i64 or i32", "input 1 `shape`"]);
    refused(reshape(), &[t("f32[2]"), t("i64[n]")], &["known before the graph runs"]);
    refused(reshape(), &[t("f32[2]"), t("i64[1000000000000]")], &["at most 64"]);
}

#[test]
fn transpose_permutes() {
    let op = |perm: &[usize]| Op::Transpose { perm: perm.to_vec() };
    assert_eq!(types(op(&[0, 2, 1]), &[t("f32[b, s, 4]")]), "f32[b, 4, s]");
    assert_eq!(types(op(&[]), &[t("f32[]")]), "f32[]");
    for perm in [&[0, 0][..], &[0, 2], &[0], &[0, 1, 2], &[usize::MAX, 0]] {
        refused(op(perm), &[t("f32[2, 3]")], &["permutation", "f32[2, 3]"]);
    }
}

#[test]
fn squeeze_and_unsqueeze() {
    assert_eq!(types(Op::Squeeze, &[t("f32[b, 1, 1]"), v("-1")]), "f32[b, 1]");
    assert_eq!(types(Op::Squeeze, &[t("f32[2, 1, 1]")]), "f32[2]");
    assert_eq!(types(Op::Squeeze, &[t("f32[b, s]"), v("1")]), "f32[b]");
    refused(Op::Squeeze, &[t("f32[2, 3]"), v("1")], &["dimension 1 to be 1", "f32[2, 3]"]);
    refused(Op::Squeeze, &[t("f32[b, 1]")], &["known dimensions"]);
    refused(Op::Squeeze, &[t("f32[b, 1]"), v("2")], &["axis 2 is out of range"]);
    refused(Op::Squeeze, &[t("f32[1, 1]"), v("0, -2")], &["occurs twice"]);
    assert_eq!(types(Op::Squeeze, &[t("f32[1, s]"), t("i64[1]")]), "f32[?0]");
    refused(Op::Squeeze, &[t("f32[1, 1]"), t("i64[3]")], &["at most 2 axes"]);
    refused(Op::Squeeze, &[t("f32[1, 1]"), t("i64[n]")], &["known before the graph runs"]);
    assert_eq!(types(Op::Unsqueeze, &[t("f32[s]"), t("i64[1]")]), "f32[?0, ?1]");
    assert_eq!(types(Op::Unsqueeze, &[t("f32[b, s]"), v("1, 2")]), "f32[b, 1, 1, s]");
    assert_eq!(types(Op::Unsqueeze, &[t("f32[b, s]"), v("-1, 0")]), "f32[1, b, s, 1]");
    assert_eq!(value(Op::Unsqueeze, &[s("seq"), v("0")]), "seq");
    refused(Op::Unsqueeze, &[t("f32[b]"), v("3")], &["axis 3 is out of range"]);
    refused(Op::Unsqueeze, &[t("f32[b]"), c(TensorData::vector(vec![i64::MIN]))], &["out of range"]);
    let many: Vec<i64> = (0..100).collect();
    refused(Op::Unsqueeze, &[t("f32[]"), c(TensorData::vector(many))], &["at most 64"]);
}

#[test]
fn concat_adds_one_dimension() {
    let op = |axis| Op::Concat { axis };
    assert_eq!(types(op(1), &[t("f32[b, s]"), t("f32[b, 1]")]), "f32[b, s + 1]");
    assert_eq!(types(op(-2), &[t("f32[2, s]"), t("f32[3, 4]")]), "f32[5, 4]");
    assert_eq!(value(op(0), &[v("batch"), v("12, seq")]), "batch, 12, seq");
    assert_eq!(value(op(0), &[v("batch"), t("i64[1]")]), "-");
    refused(op(0), &[t("f32[2, 3]"), t("f32[2, 4]")], &["dimension 1 to be 3", "input 1"]);
    refused(op(0), &[t("f32[2]"), t("f32[2, 4]")], &["1 dimensions"]);
    refused(op(0), &[t("f32[2]"), t("i64[2]")], &["f32"]);
    refused(op(i64::MIN), &[t("f32[2]")], &["out of range"]);
    refused(op(0), &[], &["missing"]);
}

#[test]
fn split_cuts() {
    let op = |parts| Op::Split { axis: -1, parts };
    assert_eq!(types(op(3), &[t("f32[b, 9]")]), "f32[b, 3]; f32[b, 3]; f32[b, 3]");
    assert_eq!(types(op(3), &[t("f32[7]")]), "f32[3]; f32[3]; f32[1]");
    assert_eq!(types(op(4), &[t("f32[5]")]), "f32[2]; f32[2]; f32[1]; f32[0]");
    assert_eq!(types(op(2), &[t("f32[2*s]")]), "f32[s]; f32[s]");
    assert_eq!(types(op(2), &[t("f32[s]")]), "f32[?0]; f32[?1]");
    assert_eq!(types(op(2), &[t("f32[5]"), v("1, 4")]), "f32[1]; f32[4]");
    assert_eq!(types(op(2), &[t("f32[5]"), t("i64[2]")]), "f32[?0]; f32[?1]");
    let parts = facts(&op(2), &[v("a, b, c, 4"), v("1, 3")]);
    assert_eq!(parts[1].value, v("b, c, 4").unwrap().value);
    refused(op(2), &[t("f32[5]"), v("1, 3")], &["add up", "5"]);
    refused(op(2), &[t("f32[5]"), v("-1, 6")], &["negative"]);
    refused(op(2), &[t("f32[5]"), v("5")], &["each of 2 outputs"]);
    refused(op(0), &[t("f32[5]")], &["parts"]);
    refused(op(usize::MAX), &[t("f32[5]")], &["parts"]);
}
