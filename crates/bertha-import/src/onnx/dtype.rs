//! Element types of the two worlds.

use bertha_graph::DType;

use super::proto::DataType;

/// The element type of a [`TensorProto::data_type`](super::proto::TensorProto::data_type) or
/// [`elem_type`](super::proto::type_proto::Tensor::elem_type) number.
///
/// # Errors
/// A noun phrase for messages ("elements of type INT4") when the type has no [`DType`]: strings, complex numbers,
/// floats of 8 bits and less, integers of 4 bits and less, and unknown numbers.
pub fn dtype_of(data_type: i32) -> Result<DType, String> {
    let Ok(known) = DataType::try_from(data_type) else {
        return Err(format!("elements of the unknown type number {data_type}"));
    };
    Ok(match known {
        DataType::Double => DType::F64,
        DataType::Float => DType::F32,
        DataType::Float16 => DType::F16,
        DataType::Bfloat16 => DType::BF16,
        DataType::Int64 => DType::I64,
        DataType::Int32 => DType::I32,
        DataType::Int16 => DType::I16,
        DataType::Int8 => DType::I8,
        DataType::Uint64 => DType::U64,
        DataType::Uint32 => DType::U32,
        DataType::Uint16 => DType::U16,
        DataType::Uint8 => DType::U8,
        DataType::Bool => DType::Bool,
        // The schema's names are these in capitals: FLOAT8E4M3FN.
        other => return Err(format!("elements of type {}", format!("{other:?}").to_uppercase())),
    })
}

/// The ONNX number of an element type; all have one.
pub fn data_type(dtype: DType) -> DataType {
    match dtype {
        DType::F64 => DataType::Double,
        DType::F32 => DataType::Float,
        DType::F16 => DataType::Float16,
        DType::BF16 => DataType::Bfloat16,
        DType::I64 => DataType::Int64,
        DType::I32 => DataType::Int32,
        DType::I16 => DataType::Int16,
        DType::I8 => DataType::Int8,
        DType::U64 => DataType::Uint64,
        DType::U32 => DataType::Uint32,
        DType::U16 => DataType::Uint16,
        DType::U8 => DataType::Uint8,
        DType::Bool => DataType::Bool,
    }
}
