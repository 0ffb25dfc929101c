//! Element types of attributes and values of any element type.

use bertha_graph::{DType, TensorData, TensorError};
use half::{bf16, f16};

use crate::onnx::dtype_of;

/// The element type that an attribute names, or what it is for messages ("elements of type INT4").
pub(crate) fn dtype(code: i64) -> Result<DType, String> {
    match i32::try_from(code) {
        Ok(code) => dtype_of(code),
        Err(_) => Err(format!("elements of the unknown type number {code}")),
    }
}

/// A tensor of a float type with these values, each rounded to that type.
pub(crate) fn from_f64(dtype: DType, shape: Vec<usize>, values: &[f64]) -> Result<TensorData, TensorError> {
    match dtype {
        DType::F32 => TensorData::from_vec(shape, values.iter().map(|value| *value as f32).collect()),
        DType::F16 => TensorData::from_vec(shape, values.iter().map(|value| f16::from_f64(*value)).collect()),
        DType::BF16 => {
            TensorData::from_vec(shape, values.iter().map(|value| bf16::from_f64(*value)).collect())
        }
        _ => TensorData::from_vec(shape, values.to_vec()),
    }
}

/// A tensor of any element type that holds one value, rounded to that type.
pub(crate) fn filled(dtype: DType, shape: Vec<usize>, value: f64) -> Result<TensorData, TensorError> {
    let count = bertha_graph::byte_count(dtype, &shape)? / dtype.size();
    macro_rules! filled {
        ($value:expr) => {
            TensorData::from_vec(shape, vec![$value; count])
        };
    }
    match dtype {
        DType::F64 => filled!(value),
        DType::F32 => filled!(value as f32),
        DType::F16 => filled!(f16::from_f64(value)),
        DType::BF16 => filled!(bf16::from_f64(value)),
        DType::I64 => filled!(value as i64),
        DType::I32 => filled!(value as i32),
        DType::I16 => filled!(value as i16),
        DType::I8 => filled!(value as i8),
        DType::U64 => filled!(value as u64),
        DType::U32 => filled!(value as u32),
        DType::U16 => filled!(value as u16),
        DType::U8 => filled!(value as u8),
        DType::Bool => TensorData::from_bools(shape, &vec![value != 0.0; count]),
    }
}
