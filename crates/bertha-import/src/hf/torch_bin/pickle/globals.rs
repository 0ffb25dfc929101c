//! The only names a pickle may use.

use bertha_graph::DType;

/// What a stored number is: a type tensors can have here, or one that is known only to be refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hf::torch_bin) enum ElementType {
    /// A supported type.
    Known(DType),
    /// Raw bytes; the tensor says later what they are.
    Untyped,
}

impl ElementType {
    /// Bytes per element.
    pub(in crate::hf::torch_bin) fn size(self) -> usize {
        match self {
            Self::Known(dtype) => dtype.size(),
            Self::Untyped => 1,
        }
    }
}

/// A global name that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hf::torch_bin) enum Global {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch.Size`: a tuple of integers.
    Size,
    /// `torch.device`: ignored, tensors have no device here.
    Device,
    /// `torch.FloatStorage` and its kind.
    Storage(ElementType),
    /// `torch.float32` and its kind.
    DType(DType),
    /// `torch._utils._rebuild_tensor(storage, offset, size, stride)`
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])`
    RebuildTensorV2,
    /// `torch._utils._rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])`
    RebuildTensorV3,
    /// `torch._utils._rebuild_parameter(data, requires_grad, hooks)`
    RebuildParameter,
    /// `torch._utils._rebuild_parameter_with_state(data, requires_grad, hooks, state)`
    RebuildParameterWithState,
}

/// Looks a name up in the list of allowed ones.
pub(super) fn allowed(module: &str, name: &str) -> Option<Global> {
    match (module, name) {
        ("collections", "OrderedDict") => Some(Global::OrderedDict),
        ("torch", "Size") => Some(Global::Size),
        ("torch", "device") => Some(Global::Device),
        ("torch._utils", "_rebuild_tensor") => Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_tensor_v2") => Some(Global::RebuildTensorV2),
        ("torch._utils", "_rebuild_tensor_v3") => Some(Global::RebuildTensorV3),
        ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
        ("torch._utils", "_rebuild_parameter_with_state") => Some(Global::RebuildParameterWithState),
        ("torch" | "torch.storage", "UntypedStorage") => Some(Global::Storage(ElementType::Untyped)),
        // GPU tensors of old files name their storage under torch.cuda; the bytes are the same.
        ("torch" | "torch.cuda", name) => match storage_dtype(name) {
            Some(dtype) => Some(Global::Storage(ElementType::Known(dtype))),
            None if module == "torch" => torch_dtype(name).map(Global::DType),
            None => None,
        },
        _ => None,
    }
}

fn storage_dtype(name: &str) -> Option<DType> {
    Some(match name.strip_suffix("Storage")? {
        "Double" => DType::F64,
        "Float" => DType::F32,
        "Half" => DType::F16,
        "BFloat16" => DType::BF16,
        "Long" => DType::I64,
        "Int" => DType::I32,
        "Short" => DType::I16,
        "Char" => DType::I8,
        "Byte" => DType::U8,
        "Bool" => DType::Bool,
        _ => return None,
    })
}

fn torch_dtype(name: &str) -> Option<DType> {
    Some(match name {
        "float64" => DType::F64,
        "float32" => DType::F32,
        "float16" => DType::F16,
        "bfloat16" => DType::BF16,
        "int64" => DType::I64,
        "int32" => DType::I32,
        "int16" => DType::I16,
        "int8" => DType::I8,
        "uint64" => DType::U64,
        "uint32" => DType::U32,
        "uint16" => DType::U16,
        "uint8" => DType::U8,
        "bool" => DType::Bool,
        _ => return None,
    })
}

/// Names that are known and harmless but whose tensors cannot be represented; the message then says what the file has
/// instead of speaking of danger.
pub(super) fn unsupported(module: &str, name: &str) -> Option<&'static str> {
    match (module, name) {
        ("torch" | "torch.cuda", name) if name.ends_with("Storage") => {
            Some("tensors of this element type (complex or quantised) are not supported")
        }
        ("torch", "complex32" | "complex64" | "complex128") => Some("complex tensors are not supported"),
        ("torch", name) if name.starts_with("float8_") || name.starts_with("float4_") => {
            Some("8-bit and 4-bit float tensors are not supported")
        }
        ("torch._utils", "_rebuild_qtensor") => Some("quantised tensors are not supported"),
        ("torch._utils", "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor")
        | ("torch.serialization", "_get_layout") => Some("sparse tensors are not supported"),
        _ => None,
    }
}
