//! Tensors with their contents: weights, constants, inputs and results.

use std::fmt;

use bytes::Bytes;

use crate::dim::Dim;
use crate::dtype::{DType, Element};
use crate::shape::{Shape, TensorType};

/// Why bytes cannot be a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The shape and the element type call for another number of bytes.
    #[error("a {dtype} tensor of shape {shape:?} takes {expected} bytes, but there are {actual}")]
    Length {
        /// The element type.
        dtype: DType,
        /// The shape asked for.
        shape: Vec<usize>,
        /// Bytes that it takes.
        expected: usize,
        /// Bytes that there are.
        actual: usize,
    },
    /// The number of bytes does not fit the address space.
    #[error("a {dtype} tensor of shape {shape:?} is larger than memory can be")]
    Overflow {
        /// The element type.
        dtype: DType,
        /// The shape asked for.
        shape: Vec<usize>,
    },
    /// The elements are of another type than the caller expected.
    #[error("expected a tensor of {expected}, found {actual}")]
    DType {
        /// What the caller expected.
        expected: DType,
        /// What the tensor holds.
        actual: DType,
    },
}

/// A dense, row-major, immutable tensor whose bytes may be shared or memory-mapped.
///
/// The bytes are aligned to the element size (copied once when they did not come so), little-endian, and exactly
/// as many as shape and element type need. Cloning shares the bytes.
#[derive(Clone, PartialEq)]
pub struct TensorData {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl TensorData {
    /// A tensor over raw little-endian `bytes`; copies them only when they are not aligned to the element size.
    pub fn from_bytes(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Result<Self, TensorError> {
        let expected = byte_count(dtype, &shape)?;
        if bytes.len() != expected {
            return Err(TensorError::Length { dtype, shape, expected, actual: bytes.len() });
        }
        let aligned = bytes.as_ptr().align_offset(dtype.size()) == 0;
        let bytes = if aligned { bytes } else { aligned_copy(&bytes) };
        Ok(TensorData { dtype, shape, bytes })
    }

    /// A tensor over a vector of elements, without a copy.
    pub fn from_vec<T: Element>(shape: Vec<usize>, values: Vec<T>) -> Result<Self, TensorError> {
        let expected = byte_count(T::DTYPE, &shape)?;
        let actual = values.len() * size_of::<T>();
        if actual != expected {
            return Err(TensorError::Length { dtype: T::DTYPE, shape, expected, actual });
        }
        Ok(TensorData { dtype: T::DTYPE, shape, bytes: Bytes::from_owner(Elements(values)) })
    }

    /// A tensor of booleans.
    pub fn from_bools(shape: Vec<usize>, values: &[bool]) -> Result<Self, TensorError> {
        TensorData::from_bytes(DType::Bool, shape, values.iter().map(|b| u8::from(*b)).collect())
    }

    /// A tensor of shape `[]` with one element.
    pub fn scalar<T: Element>(value: T) -> Self {
        TensorData { dtype: T::DTYPE, shape: Vec::new(), bytes: Bytes::from_owner(Elements(vec![value])) }
    }

    /// A tensor of rank 1.
    pub fn vector<T: Element>(values: Vec<T>) -> Self {
        let shape = vec![values.len()];
        TensorData { dtype: T::DTYPE, shape, bytes: Bytes::from_owner(Elements(values)) }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Type and shape together.
    pub fn ty(&self) -> TensorType {
        TensorType { dtype: self.dtype, shape: Shape(self.shape.iter().map(|d| Dim::from(*d)).collect()) }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The raw bytes, aligned to the element size.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The elements, when they are of type `T`.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], TensorError> {
        if T::DTYPE != self.dtype {
            return Err(TensorError::DType { expected: T::DTYPE, actual: self.dtype });
        }
        Ok(bytemuck::cast_slice(&self.bytes))
    }

    /// The elements of a `Bool` tensor, each 0 or (read leniently) anything else for true.
    pub fn as_bools(&self) -> Result<Vec<bool>, TensorError> {
        if self.dtype != DType::Bool {
            return Err(TensorError::DType { expected: DType::Bool, actual: self.dtype });
        }
        Ok(self.bytes.iter().map(|b| *b != 0).collect())
    }

    /// All elements as `f64`. Exact for every type but `I64`/`U64` beyond 2^53. `Bool` gives 0 and 1.
    pub fn to_f64(&self) -> Vec<f64> {
        fn convert<T: Element>(bytes: &[u8], f: impl Fn(&T) -> f64) -> Vec<f64> {
            bytemuck::cast_slice::<u8, T>(bytes).iter().map(f).collect()
        }
        let b = &self.bytes[..];
        match self.dtype {
            DType::F64 => convert(b, |v: &f64| *v),
            DType::F32 => convert(b, |v: &f32| f64::from(*v)),
            DType::F16 => convert(b, |v: &half::f16| v.to_f64()),
            DType::BF16 => convert(b, |v: &half::bf16| v.to_f64()),
            DType::I64 => convert(b, |v: &i64| *v as f64),
            DType::I32 => convert(b, |v: &i32| f64::from(*v)),
            DType::I16 => convert(b, |v: &i16| f64::from(*v)),
            DType::I8 => convert(b, |v: &i8| f64::from(*v)),
            DType::U64 => convert(b, |v: &u64| *v as f64),
            DType::U32 => convert(b, |v: &u32| f64::from(*v)),
            DType::U16 => convert(b, |v: &u16| f64::from(*v)),
            DType::U8 => convert(b, |v: &u8| f64::from(*v)),
            DType::Bool => b.iter().map(|v| f64::from(u8::from(*v != 0))).collect(),
        }
    }

    /// All elements of an integer or `Bool` tensor as `i64`; `U64` values past `i64::MAX` wrap. `None` for floats.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        fn convert<T: Element>(bytes: &[u8], f: impl Fn(&T) -> i64) -> Option<Vec<i64>> {
            Some(bytemuck::cast_slice::<u8, T>(bytes).iter().map(f).collect())
        }
        let b = &self.bytes[..];
        match self.dtype {
            DType::I64 => convert(b, |v: &i64| *v),
            DType::I32 => convert(b, |v: &i32| i64::from(*v)),
            DType::I16 => convert(b, |v: &i16| i64::from(*v)),
            DType::I8 => convert(b, |v: &i8| i64::from(*v)),
            DType::U64 => convert(b, |v: &u64| *v as i64),
            DType::U32 => convert(b, |v: &u32| i64::from(*v)),
            DType::U16 => convert(b, |v: &u16| i64::from(*v)),
            DType::U8 => convert(b, |v: &u8| i64::from(*v)),
            DType::Bool => Some(b.iter().map(|v| i64::from(*v != 0)).collect()),
            DType::F64 | DType::F32 | DType::F16 | DType::BF16 => None,
        }
    }

    /// All elements of a float tensor as `f32`, borrowed when they are `f32` already. `None` for other types.
    pub fn to_f32(&self) -> Option<std::borrow::Cow<'_, [f32]>> {
        match self.dtype {
            DType::F32 => Some(bytemuck::cast_slice(&self.bytes).into()),
            DType::F64 | DType::F16 | DType::BF16 => {
                Some(self.to_f64().into_iter().map(|v| v as f32).collect::<Vec<_>>().into())
            }
            _ => None,
        }
    }

    /// The same elements under another shape of as many elements.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Self, TensorError> {
        TensorData::from_bytes(self.dtype, shape, self.bytes.clone())
    }
}

impl fmt::Debug for TensorData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)?;
        let head: Vec<f64> = self.to_f64().into_iter().take(8).collect();
        write!(f, " {head:?}{}", if self.len() > 8 { ".." } else { "" })
    }
}

/// Owner of a vector of elements, seen as bytes.
struct Elements<T>(Vec<T>);

impl<T: Element> AsRef<[u8]> for Elements<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Bytes of a tensor of this type and shape, checked for overflow.
pub fn byte_count(dtype: DType, shape: &[usize]) -> Result<usize, TensorError> {
    // A zero-sized dimension makes the whole tensor empty, however large the others are.
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(dtype.size(), |product, dim| product.checked_mul(*dim))
        .filter(|count| isize::try_from(*count).is_ok())
        .ok_or_else(|| TensorError::Overflow { dtype, shape: shape.to_vec() })
}

/// A copy of `bytes` aligned to 8, the largest element.
fn aligned_copy(bytes: &Bytes) -> Bytes {
    let mut words = vec![0u64; bytes.len().div_ceil(8)];
    bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
    Bytes::from_owner(Elements(words)).slice(..bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misaligned_bytes_are_copied_into_place() {
        let mut raw = vec![0u8; 4 * 5 + 1];
        raw[1..5].copy_from_slice(&7i32.to_le_bytes());
        let bytes = Bytes::from(raw);
        let start = if bytes.as_ptr().align_offset(4) == 0 { 1 } else { 0 };
        let tensor = TensorData::from_bytes(DType::I32, vec![5], bytes.slice(start..start + 20)).unwrap();
        assert_eq!(tensor.as_slice::<i32>().unwrap().len(), 5);
    }

    #[test]
    fn sizes_are_checked() {
        assert!(matches!(
            TensorData::from_vec(vec![2, 3], vec![0f32; 5]),
            Err(TensorError::Length { expected: 24, actual: 20, .. })
        ));
        assert!(matches!(
            TensorData::from_bytes(DType::F32, vec![usize::MAX, 2], Bytes::new()),
            Err(TensorError::Overflow { .. })
        ));
        assert_eq!(TensorData::from_vec::<f32>(vec![usize::MAX, 0], vec![]).unwrap().len(), 0);
        assert!(TensorData::scalar(1i64).as_slice::<f32>().is_err());
    }
}
