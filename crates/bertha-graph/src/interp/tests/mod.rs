//! Small cases worked out by hand, and properties.

mod attention;
mod conv;
mod elementwise;
mod encoder;
mod gather;
mod graph;
mod layout;
mod matmul;
mod quantize;
mod reduce;

use super::{EvalError, Precision, Value, eval};
use crate::dtype::{DType, Element};
use crate::op::Op;
use crate::tensor::TensorData;

/// A tensor with its contents.
fn tensor<T: Element>(shape: &[usize], values: &[T]) -> Value {
    Value::from_tensor(&TensorData::from_vec(shape.to_vec(), values.to_vec()).unwrap())
}

fn f32s(shape: &[usize], values: &[f32]) -> Value {
    tensor(shape, values)
}

fn i64s(values: &[i64]) -> Value {
    tensor(&[values.len()], values)
}

fn booleans(shape: &[usize], values: &[bool]) -> Value {
    Value::from_tensor(&TensorData::from_bools(shape.to_vec(), values).unwrap())
}

/// `0, 1, 2, ...` of shape `shape`.
fn counting(shape: &[usize]) -> Value {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32).collect();
    f32s(shape, &values)
}

/// All results of the op under [`Precision::Native`].
fn results(op: &Op, inputs: &[&Value]) -> Vec<Value> {
    let inputs: Vec<_> = inputs.iter().map(|value| Some(*value)).collect();
    eval(op, &inputs, Precision::Native).unwrap()
}

/// The only result of the op under [`Precision::Native`].
fn result(op: &Op, inputs: &[&Value]) -> Value {
    let mut results = results(op, inputs);
    assert_eq!(results.len(), 1, "{} gives one result", op.mnemonic());
    results.remove(0)
}

/// What the op says against these operands.
fn refusal(op: &Op, inputs: &[&Value]) -> String {
    let inputs: Vec<_> = inputs.iter().map(|value| Some(*value)).collect();
    match eval(op, &inputs, Precision::Native) {
        Err(error @ EvalError::Op { .. }) => error.to_string(),
        other => panic!("{} must be refused, but gave {other:?}", op.mnemonic()),
    }
}

#[track_caller]
fn assert_close(value: &Value, expected: &[f64], tolerance: f64) {
    let actual = value.to_f64();
    assert_eq!(actual.len(), expected.len());
    for (a, e) in actual.iter().zip(expected) {
        assert!((a - e).abs() <= tolerance || (a.is_nan() && e.is_nan()), "{actual:?} is not {expected:?}");
    }
}

#[test]
fn every_dtype_survives_the_way_in_and_out() {
    let extremes = [
        TensorData::vector(vec![f64::MIN_POSITIVE, -1.5e300, f64::INFINITY]),
        TensorData::vector(vec![f32::MAX, -0.1, f32::MIN_POSITIVE]),
        TensorData::vector(vec![half::f16::MAX, half::f16::from_f32(-0.1)]),
        TensorData::vector(vec![half::bf16::MAX, half::bf16::from_f32(0.1)]),
        TensorData::vector(vec![i64::MIN, i64::MAX]),
        TensorData::vector(vec![i32::MIN, i32::MAX]),
        TensorData::vector(vec![i16::MIN, i16::MAX]),
        TensorData::vector(vec![i8::MIN, i8::MAX]),
        TensorData::vector(vec![0u64, u64::MAX]),
        TensorData::vector(vec![0u32, u32::MAX]),
        TensorData::vector(vec![0u16, u16::MAX]),
        TensorData::vector(vec![0u8, u8::MAX]),
        TensorData::from_bools(vec![2], &[true, false]).unwrap(),
    ];
    assert_eq!(extremes.len(), DType::ALL.len());
    for data in extremes {
        assert_eq!(Value::from_tensor(&data).to_tensor(), data);
    }
}

#[test]
fn missing_operands_are_errors() {
    let x = counting(&[2]);
    assert!(refusal(&Op::MatMul, &[&x]).contains("`b`"));
}

#[test]
fn empty_tensors_of_immense_dimensions_are_refused() {
    let x = Value::from_tensor(&TensorData::from_vec::<f32>(vec![1 << 62, 5, 0], vec![]).unwrap());
    for op in [Op::Gather { axis: 1 }, Op::Reshape { allow_zero: true }, Op::Expand] {
        assert!(refusal(&op, &[&x, &i64s(&[0])]).contains("elements"));
    }
    let op = Op::ConstantOfShape { value: TensorData::scalar(0f32) };
    assert!(refusal(&op, &[&i64s(&[1 << 62, 1 << 62, 0])]).contains("elements"));
}
