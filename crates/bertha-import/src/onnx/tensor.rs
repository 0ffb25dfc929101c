//! From and to the tensors of the format.

use bertha_graph::{DType, TensorData, byte_count};
use bytes::Bytes;

use super::dtype::{data_type, dtype_of};
use super::external::ExternalFiles;
use super::proto::{DataLocation, TensorProto};
use crate::error::{ImportError, Result};

impl ExternalFiles {
    /// The elements of a tensor, wherever they are stored. Raw and external data are shared, not copied, when they are
    /// aligned to the element size.
    ///
    /// # Errors
    /// [`ImportError::Unsupported`] for element types without a [`DType`]; [`ImportError::Tensor`] for a negative
    /// dimension, data that do not fit the shape, or elements stored twice or in the wrong field; the errors of external
    /// files. All name the tensor.
    pub fn tensor(&self, tensor: &TensorProto) -> Result<TensorData> {
        let wrong = |reason: String| ImportError::tensor(self.model(), &tensor.name, reason);
        let dtype = dtype_of(tensor.data_type).map_err(|what| {
            ImportError::unsupported(
                self.model(),
                format!("tensor `{}` with {what}", tensor.name),
                "store it as DOUBLE, FLOAT, FLOAT16, BFLOAT16, an integer of 8 to 64 bits, or BOOL",
            )
        })?;
        if tensor.segment.is_some() {
            return Err(wrong("it is stored in segments, which no ONNX version defines further".into()));
        }
        let shape = shape(&tensor.dims).map_err(wrong)?;
        let expected = byte_count(dtype, &shape).map_err(|error| wrong(error.to_string()))?;
        let bytes = if tensor.data_location == DataLocation::External as i32 {
            if !tensor.raw_data.is_empty() || typed_len(tensor) > 0 {
                return Err(wrong("its data are both in the model and in an external file".into()));
            }
            self.bytes(tensor, Some(expected))?
        } else {
            inline_bytes(tensor, dtype, expected).map_err(wrong)?
        };
        TensorData::from_bytes(dtype, shape, bytes).map_err(|error| wrong(error.to_string()))
    }
}

/// A tensor of the format, sharing the bytes of `tensor` as raw data.
pub fn tensor_proto(name: impl Into<String>, tensor: &TensorData) -> TensorProto {
    TensorProto {
        name: name.into(),
        // A dimension beyond i64 is only possible in an empty tensor; the element count stays 0.
        dims: tensor.shape().iter().map(|&length| i64::try_from(length).unwrap_or(i64::MAX)).collect(),
        data_type: data_type(tensor.dtype()) as i32,
        raw_data: tensor.bytes().clone(),
        ..TensorProto::default()
    }
}

fn shape(dims: &[i64]) -> Result<Vec<usize>, String> {
    dims.iter()
        .map(|&length| {
            usize::try_from(length).map_err(|_| format!("its shape {dims:?} has a negative dimension"))
        })
        .collect()
}

/// Number of values in all typed fields together.
fn typed_len(tensor: &TensorProto) -> usize {
    tensor.float_data.len()
        + tensor.int32_data.len()
        + tensor.string_data.len()
        + tensor.int64_data.len()
        + tensor.double_data.len()
        + tensor.uint64_data.len()
}

fn inline_bytes(tensor: &TensorProto, dtype: DType, expected: usize) -> Result<Bytes, String> {
    let typed = typed_len(tensor);
    if !tensor.raw_data.is_empty() {
        if typed > 0 {
            return Err("its data are stored twice, as raw_data and in a typed field".into());
        }
        if tensor.raw_data.len() != expected {
            return Err(format!(
                "its shape {:?} of {dtype} takes {expected} bytes but raw_data has {}",
                tensor.dims,
                tensor.raw_data.len()
            ));
        }
        return Ok(tensor.raw_data.clone());
    }
    let count = expected / dtype.size();
    let (field, length) = match dtype {
        DType::F32 => ("float_data", tensor.float_data.len()),
        DType::F64 => ("double_data", tensor.double_data.len()),
        DType::I64 => ("int64_data", tensor.int64_data.len()),
        DType::U32 | DType::U64 => ("uint64_data", tensor.uint64_data.len()),
        _ => ("int32_data", tensor.int32_data.len()),
    };
    if typed != length {
        return Err(format!("its data are {dtype} but not in the field {field}, where they belong"));
    }
    if length != count {
        return Err(format!("its shape {:?} has {count} elements but {field} has {length}", tensor.dims));
    }
    typed_bytes(tensor, dtype)
}

/// The elements of the typed field of `dtype` as bytes, each checked to fit.
fn typed_bytes(tensor: &TensorProto, dtype: DType) -> Result<Bytes, String> {
    fn pack<T: Copy + std::fmt::Display, const N: usize>(
        values: &[T],
        dtype: DType,
        convert: impl Fn(T) -> Option<[u8; N]>,
    ) -> Result<Bytes, String> {
        let mut bytes = Vec::with_capacity(values.len() * N);
        for (index, &value) in values.iter().enumerate() {
            let converted = convert(value);
            bytes.extend(converted.ok_or_else(|| format!("its element {index} is {value}, not a {dtype}"))?);
        }
        Ok(Bytes::from(bytes))
    }

    let small = tensor.int32_data.as_slice();
    match dtype {
        DType::F32 => pack(&tensor.float_data, dtype, |value| Some(value.to_le_bytes())),
        DType::F64 => pack(&tensor.double_data, dtype, |value| Some(value.to_le_bytes())),
        DType::I64 => pack(&tensor.int64_data, dtype, |value| Some(value.to_le_bytes())),
        DType::U64 => pack(&tensor.uint64_data, dtype, |value| Some(value.to_le_bytes())),
        DType::U32 => {
            pack(&tensor.uint64_data, dtype, |value| u32::try_from(value).ok().map(u32::to_le_bytes))
        }
        DType::I32 => pack(small, dtype, |value| Some(value.to_le_bytes())),
        DType::I16 => pack(small, dtype, |value| i16::try_from(value).ok().map(i16::to_le_bytes)),
        DType::I8 => pack(small, dtype, |value| i8::try_from(value).ok().map(i8::to_le_bytes)),
        // The 16-bit floats are stored by their bits.
        DType::U16 | DType::F16 | DType::BF16 => {
            pack(small, dtype, |value| u16::try_from(value).ok().map(u16::to_le_bytes))
        }
        DType::U8 => pack(small, dtype, |value| u8::try_from(value).ok().map(u8::to_le_bytes)),
        DType::Bool => pack(small, dtype, |value| matches!(value, 0 | 1).then_some([value as u8])),
    }
}
