use super::*;
use crate::op::{ConvAttrs, ConvPadding, ReduceOp};

fn reduce(op: ReduceOp, keep_dims: bool, noop: bool) -> Op {
    Op::Reduce { op, keep_dims, noop_with_empty_axes: noop }
}

#[test]
fn reduce_drops_or_keeps_axes() {
    let mean = |keep| reduce(ReduceOp::Mean, keep, false);
    assert_eq!(types(mean(true), &[t("f32[b, s, 4]"), v("-1")]), "f32[b, s, 1]");
    assert_eq!(types(mean(false), &[t("f32[b, s, 4]"), v("1")]), "f32[b, 4]");
    assert_eq!(types(mean(false), &[t("f32[b, s, 4]")]), "f32[]");
    assert_eq!(types(mean(true), &[t("f32[b, s]"), v("")]), "f32[1, 1]");
    assert_eq!(types(reduce(ReduceOp::Sum, false, true), &[t("f32[b, s]"), v("")]), "f32[b, s]");
    assert_eq!(types(mean(false), &[t("f32[b, s, 4]"), t("i64[1]")]), "f32[?0, ?1]");
    assert_eq!(value(reduce(ReduceOp::Prod, true, false), &[v("batch, seq, 3"), v("0")]), "3*batch*seq");
    assert_eq!(value(reduce(ReduceOp::Sum, false, false), &[v("batch, seq, 3")]), "batch + seq + 3");
    assert_eq!(value(reduce(ReduceOp::Prod, false, false), &[v("")]), "1");
    let table = c(TensorData::from_vec(vec![2, 3], vec![1i64, 2, 3, 4, 5, 6]).unwrap());
    assert_eq!(value(reduce(ReduceOp::Sum, false, false), &[table.clone(), v("0")]), "5, 7, 9");
    assert_eq!(value(reduce(ReduceOp::Sum, false, false), &[table, v("1")]), "6, 15");
    refused(mean(true), &[t("f32[b]"), v("1")], &["axis 1 is out of range"]);
    refused(mean(true), &[t("bool[b]"), v("0")], &["bool[b]"]);
    refused(mean(false), &[t("f32[b]"), t("i64[3]")], &["known before the graph runs"]);
}

#[test]
fn cumsum_softmax_layer_norm() {
    let cumsum = || Op::CumSum { exclusive: false, reverse: false };
    assert_eq!(types(cumsum(), &[t("i64[b, s]"), s("1")]), "i64[b, s]");
    refused(cumsum(), &[t("i64[b, s]"), s("2")], &["axis 2 is out of range"]);
    assert_eq!(types(Op::Softmax { axis: -1 }, &[t("f32[b, s]")]), "f32[b, s]");
    refused(Op::Softmax { axis: -3 }, &[t("f32[b, s]")], &["axis -3 is out of range: expected -2..=1"]);
    let norm = |axis| Op::LayerNorm { axis, epsilon: 1e-12 };
    let x = || t("f16[b, s, 4]");
    assert_eq!(types(norm(-1), &[x(), t("f16[4]"), t("f16[4]")]), "f16[b, s, 4]; f32[b, s, 1]; f32[b, s, 1]");
    assert_eq!(types(norm(1), &[x(), t("f16[s, 4]")]), "f16[b, s, 4]; f32[b, 1, 1]; f32[b, 1, 1]");
    refused(norm(-1), &[x(), t("f16[5]")], &["[4]", "input 1 `gamma`"]);
    refused(norm(-1), &[x(), t("f16[4]"), t("f32[4]")], &["f16", "input 2 `beta`"]);
    refused(norm(-1), &[t("i64[4]"), t("i64[4]")], &["float"]);
}

#[test]
fn matmul_is_that_of_numpy() {
    let of = |a, b| types(Op::MatMul, &[t(a), t(b)]);
    assert_eq!(of("f32[b, s, 4]", "f32[4, 7]"), "f32[b, s, 7]");
    assert_eq!(of("f32[b, 12, s, 64]", "f32[b, 12, 64, s]"), "f32[b, 12, s, s]");
    assert_eq!(of("f32[1, 2, 3]", "f32[5, 3, 4]"), "f32[5, 2, 4]");
    assert_eq!(of("f32[4]", "f32[4]"), "f32[]");
    assert_eq!(of("f32[4]", "f32[b, 4, 7]"), "f32[b, 7]");
    assert_eq!(of("f32[b, s, 4]", "f32[4]"), "f32[b, s]");
    refused(Op::MatMul, &[t("f32[2, 3]"), t("f32[4, 5]")], &["f32[2, 3]", "f32[4, 5]", "3", "4"]);
    refused(Op::MatMul, &[t("f32[2, 1, 3]"), t("f32[5, 3, 1]")], &["leading dimensions"]);
    refused(Op::MatMul, &[t("f32[]"), t("f32[3]")], &["at least one dimension"]);
    refused(Op::MatMul, &[t("f32[3]"), t("f64[3]")], &["f32"]);
}

#[test]
fn gemm_transposes() {
    let op = |trans_a, trans_b| Op::Gemm { alpha: 1.0, beta: 1.0, trans_a, trans_b };
    assert_eq!(types(op(false, true), &[t("f32[b, 4]"), t("f32[7, 4]"), t("f32[7]")]), "f32[b, 7]");
    assert_eq!(types(op(true, false), &[t("f32[4, b]"), t("f32[4, 7]")]), "f32[b, 7]");
    refused(op(false, false), &[t("f32[b, 4]"), t("f32[7, 4]")], &["inner dimension of 4"]);
    refused(op(false, true), &[t("f32[b, 4]"), t("f32[7, 4]"), t("f32[6]")], &["broadcasts to [b, 7]"]);
    refused(op(false, true), &[t("f32[1, b, 4]"), t("f32[7, 4]")], &["a matrix"]);
}

#[test]
fn integer_products() {
    assert_eq!(types(Op::MatMulInteger, &[t("u8[b, 4]"), t("i8[4, 7]"), t("u8[]"), t("i8[7]")]), "i32[b, 7]");
    refused(Op::MatMulInteger, &[t("u8[2, 4]"), t("i8[4, 7]"), t("i8[]")], &["u8", "a_zero_point"]);
    refused(Op::MatMulInteger, &[t("u8[2, 4]"), t("i8[4, 7]"), None, t("i8[6]")], &["each column"]);
    refused(Op::MatMulInteger, &[t("u8[2, 4]"), t("i8[4, 7]"), t("u8[3]")], &["each row"]);
    let q = |zero: &str| {
        [t("u8[2, 4]"), t("f32[]"), t(zero), t("i8[4, 3]"), t("f32[]"), t("i8[]"), t("f32[]"), t("i8[]")]
    };
    assert_eq!(types(Op::QLinearMatMul, &q("u8[]")), "i8[2, 3]");
    refused(Op::QLinearMatMul, &q("i8[]"), &["u8 as input 0 `a` has", "a_zero"]);
    refused(Op::QLinearMatMul, &q("u8[]")[..7], &["input 7 `y_zero` is missing"]);
}

#[test]
fn quantization() {
    let quantize = |to| Op::QuantizeLinear { axis: 1, block_size: 0, to };
    assert_eq!(types(quantize(DType::I8), &[t("f32[b, 4]"), t("f32[4]"), t("i8[4]")]), "i8[b, 4]");
    refused(quantize(DType::I8), &[t("f32[b, 4]"), t("f32[]"), t("u8[]")], &["i8", "zero_point"]);
    refused(quantize(DType::I8), &[t("f32[b, 4]"), t("f32[3]")], &["each index of axis 1"]);
    refused(quantize(DType::F32), &[t("f32[b, 4]"), t("f32[]")], &["cannot quantise to f32"]);
    refused(quantize(DType::U8), &[t("f32[b, 4]"), t("f32[4]"), t("u8[]")], &["shape of the scale"]);
    let dequantize = |block_size| Op::DequantizeLinear { axis: 1, block_size, to: DType::F16 };
    assert_eq!(types(dequantize(0), &[t("i32[b, 4]"), t("f16[]")]), "f16[b, 4]");
    assert_eq!(types(dequantize(3), &[t("i8[2, 4]"), t("f16[2, 2]"), t("i8[2, 2]")]), "f16[2, 4]");
    refused(dequantize(3), &[t("i8[2, 4]"), t("f16[2, 4]")], &["each block of 3"]);
    refused(dequantize(0), &[t("f32[2, 4]"), t("f16[]")], &["i8, u8"]);
    assert_eq!(types(Op::DynamicQuantizeLinear, &[t("f32[b, 4]")]), "u8[b, 4]; f32[]; u8[]");
}

#[test]
fn conv_divides_by_strides() {
    let half = || ConvAttrs { strides: vec![2, 2], ..ConvAttrs::plain(2) };
    let once = types(Op::Conv(half()), &[t("f32[b, 1, frames, 80]"), t("f32[8, 1, 3, 3]"), t("f32[8]")]);
    assert_eq!(once, "f32[b, 8, floor((frames + 1)/2) - 1, 39]");
    let twice = types(Op::Conv(half()), &[t(&once), t("f32[4, 8, 3, 3]")]);
    assert_eq!(twice, "f32[b, 4, floor((frames + 1)/4) - 1, 19]");
    let same = ConvAttrs { padding: ConvPadding::SameUpper, strides: vec![3], ..ConvAttrs::plain(1) };
    assert_eq!(types(Op::Conv(same), &[t("f32[b, 2, t]"), t("f32[2, 2, 5]")]), "f32[b, 2, floor((t + 2)/3)]");
    let depthwise =
        ConvAttrs { groups: 16, padding: ConvPadding::Explicit(vec![7, 7]), ..ConvAttrs::plain(1) };
    assert_eq!(types(Op::Conv(depthwise), &[t("f16[b, 16, t]"), t("f16[16, 1, 15]")]), "f16[b, 16, t]");
    let plain = || Op::Conv(ConvAttrs::plain(1));
    assert_eq!(types(plain(), &[t("f32[b, c, 9]"), t("f32[4, 3, k]")]), "f32[b, 4, ?0]");
    refused(plain(), &[t("f32[b, 2, t]"), t("f32[4, 3, 1]")], &["1 groups of 3 channels", "input 0 `x`"]);
    refused(plain(), &[t("f32[b, 3, t]"), t("f32[4, 3, 1, 1]")], &["3 dimensions"]);
    refused(plain(), &[t("f32[b, 3, 4]"), t("f32[4, 3, 5]")], &["a window of 5 does not fit", "4 elements"]);
    refused(plain(), &[t("f32[b, 3, t]"), t("f32[4, 3, 1]"), t("f32[3]")], &["[4]", "input 2 `bias`"]);
    let three = ConvAttrs { groups: 3, ..ConvAttrs::plain(1) };
    refused(Op::Conv(three), &[t("f32[b, 3, t]"), t("f32[4, 1, 1]")], &["3 groups divide"]);
    let none = ConvAttrs { groups: 0, ..ConvAttrs::plain(1) };
    refused(Op::Conv(none), &[t("f32[b, 3, t]"), t("f32[4, 1, 1]")], &["start at 1"]);
}
