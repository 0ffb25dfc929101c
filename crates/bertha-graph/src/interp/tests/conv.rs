use super::*;
use crate::op::{ConvAttrs, ConvPadding};

fn conv(attrs: ConvAttrs, inputs: &[&Value]) -> Value {
    result(&Op::Conv(attrs), inputs)
}

#[test]
fn windows_slide_over_images() {
    // The worked example of ONNX's documentation: a window of ones over 0..25.
    let (x, ones) = (counting(&[1, 1, 5, 5]), f32s(&[1, 1, 3, 3], &[1.0; 9]));
    let padded = ConvAttrs { padding: ConvPadding::Explicit(vec![1; 4]), ..ConvAttrs::plain(2) };
    let y = conv(padded, &[&x, &ones]);
    assert_eq!(y.shape(), [1, 1, 5, 5]);
    assert_eq!(y.to_f64()[..6], [12.0, 21.0, 27.0, 33.0, 24.0, 33.0]);
    let strided = ConvAttrs { strides: vec![2, 2], ..ConvAttrs::plain(2) };
    assert_eq!(conv(strided, &[&x, &ones]), f32s(&[1, 1, 2, 2], &[54.0, 72.0, 144.0, 162.0]));
    let dilated = ConvAttrs { dilations: vec![2, 2], ..ConvAttrs::plain(2) };
    assert_eq!(conv(dilated, &[&x, &ones]), f32s(&[1, 1, 1, 1], &[108.0]));
}

#[test]
fn groups_see_their_own_channels() {
    let x = f32s(&[1, 2, 3], &[1.0, 2.0, 3.0, 10.0, 20.0, 30.0]);
    let weight = f32s(&[4, 1, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, -1.0]);
    let bias = f32s(&[4], &[0.0, 0.5, 0.0, 100.0]);
    let attrs = ConvAttrs { groups: 2, ..ConvAttrs::plain(1) };
    let expected = f32s(&[1, 4, 2], &[1.0, 2.0, 2.5, 3.5, 30.0, 50.0, 90.0, 90.0]);
    assert_eq!(conv(attrs, &[&x, &weight, &bias]), expected);
    let three = ConvAttrs { groups: 3, ..ConvAttrs::plain(1) };
    refusal(&Op::Conv(three), &[&x, &weight]);
    refusal(&Op::Conv(ConvAttrs::plain(2)), &[&x, &weight]);
    assert!(
        refusal(&Op::Conv(ConvAttrs::plain(1)), &[&x, &f32s(&[1, 2, 4], &[0.0; 8])]).contains("does not fit")
    );
}
