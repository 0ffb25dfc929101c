//! Tensors as the interpreter computes with them.

use half::{bf16, f16};

use super::error::{Fault, fault};
use crate::dtype::DType;
use crate::tensor::TensorData;

/// The elements of a [`Value`], in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    /// Of a float dtype. Rounded to it under [`Precision::Native`](super::Precision::Native), not rounded under
    /// [`Precision::F64`](super::Precision::F64).
    Float(Vec<f64>),
    /// Of an integer dtype, always within its range.
    Int(Vec<i128>),
    /// Of [`DType::Bool`].
    Bool(Vec<bool>),
}

/// A tensor whose elements are held in one wide type for each kind of dtype.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    dtype: DType,
    shape: Vec<usize>,
    elements: Elements,
}

/// A tensor of `f64`, whatever the dtype it stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct F64Tensor {
    /// The shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements in row-major order.
    pub values: Vec<f64>,
}

/// Tensors of more elements than this are refused: a hostile shape must not take the machine's memory.
pub const MAX_ELEMENTS: usize = 1 << 30;

/// Number of elements of `shape`. The dimensions that are not 0 must multiply to at most [`MAX_ELEMENTS`], so that the
/// product of any of them fits too, and loops over them end.
pub(super) fn element_count(shape: &[usize]) -> Result<usize, Fault> {
    let product = shape
        .iter()
        .filter(|dim| **dim != 0)
        .try_fold(1usize, |product, dim| product.checked_mul(*dim))
        .filter(|product| *product <= MAX_ELEMENTS);
    match product {
        Some(product) => Ok(if shape.contains(&0) { 0 } else { product }),
        None => {
            fault!("a tensor of shape {shape:?} has more than {MAX_ELEMENTS} elements, the most that is held")
        }
    }
}

impl Elements {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Elements::Float(v) => v.len(),
            Elements::Int(v) => v.len(),
            Elements::Bool(v) => v.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Value {
    /// Floats of `dtype`, stored as they are given.
    pub(super) fn floats(dtype: DType, shape: Vec<usize>, values: Vec<f64>) -> Value {
        debug_assert!(dtype.is_float());
        Value::checked(dtype, shape, Elements::Float(values))
    }

    /// Integers of `dtype`, wrapped into its range.
    pub(super) fn ints(dtype: DType, shape: Vec<usize>, mut values: Vec<i128>) -> Value {
        debug_assert!(dtype.is_int());
        values.iter_mut().for_each(|v| *v = wrap(dtype, *v));
        Value::checked(dtype, shape, Elements::Int(values))
    }

    /// Booleans.
    pub(super) fn bools(shape: Vec<usize>, values: Vec<bool>) -> Value {
        Value::checked(DType::Bool, shape, Elements::Bool(values))
    }

    fn checked(dtype: DType, shape: Vec<usize>, elements: Elements) -> Value {
        debug_assert_eq!(elements.len(), shape.iter().product::<usize>());
        Value { dtype, shape, elements }
    }

    /// The contents of a tensor; exact.
    pub fn from_tensor(data: &TensorData) -> Value {
        let dtype = data.dtype();
        let elements = match dtype {
            DType::Bool => Elements::Bool(data.bytes().iter().map(|b| *b != 0).collect()),
            DType::U64 => Elements::Int(
                bytemuck::cast_slice::<u8, u64>(data.bytes()).iter().map(|v| i128::from(*v)).collect(),
            ),
            _ => match data.to_i64() {
                Some(ints) => Elements::Int(ints.into_iter().map(i128::from).collect()),
                None => Elements::Float(data.to_f64()),
            },
        };
        Value { dtype, shape: data.shape().to_vec(), elements }
    }

    /// The tensor in its own dtype; floats are rounded to it.
    pub fn to_tensor(&self) -> TensorData {
        let shape = self.shape.clone();
        let tensor = match &self.elements {
            Elements::Bool(v) => TensorData::from_bools(shape, v),
            Elements::Float(v) => match self.dtype {
                DType::F32 => TensorData::from_vec(shape, v.iter().map(|x| *x as f32).collect()),
                DType::F16 => TensorData::from_vec(shape, v.iter().map(|x| f16::from_f64(*x)).collect()),
                DType::BF16 => TensorData::from_vec(shape, v.iter().map(|x| bf16::from_f64(*x)).collect()),
                _ => TensorData::from_vec(shape, v.clone()),
            },
            // The conversions keep every bit: the values are within the range of the dtype.
            Elements::Int(v) => match self.dtype {
                DType::I32 => TensorData::from_vec(shape, v.iter().map(|x| *x as i32).collect()),
                DType::I16 => TensorData::from_vec(shape, v.iter().map(|x| *x as i16).collect()),
                DType::I8 => TensorData::from_vec(shape, v.iter().map(|x| *x as i8).collect()),
                DType::U64 => TensorData::from_vec(shape, v.iter().map(|x| *x as u64).collect()),
                DType::U32 => TensorData::from_vec(shape, v.iter().map(|x| *x as u32).collect()),
                DType::U16 => TensorData::from_vec(shape, v.iter().map(|x| *x as u16).collect()),
                DType::U8 => TensorData::from_vec(shape, v.iter().map(|x| *x as u8).collect()),
                _ => TensorData::from_vec(shape, v.iter().map(|x| *x as i64).collect()),
            },
        };
        tensor.expect("a value has as many elements as its shape says")
    }

    /// All elements as `f64`; integers beyond 2^53 are rounded, `Bool` gives 0 and 1.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.elements {
            Elements::Float(v) => v.clone(),
            Elements::Int(v) => v.iter().map(|x| *x as f64).collect(),
            Elements::Bool(v) => v.iter().map(|x| f64::from(u8::from(*x))).collect(),
        }
    }

    /// Shape and elements as `f64`.
    pub fn to_f64_tensor(&self) -> F64Tensor {
        F64Tensor { shape: self.shape.clone(), values: self.to_f64() }
    }

    /// The element type that this stands for.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// The elements.
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// The same elements under another shape of as many.
    pub(super) fn with_shape(&self, shape: Vec<usize>) -> Value {
        Value::checked(self.dtype, shape, self.elements.clone())
    }

    /// The elements at these flat positions, in this order.
    pub(super) fn take(&self, shape: Vec<usize>, positions: &[usize]) -> Value {
        let elements = match &self.elements {
            Elements::Float(v) => Elements::Float(positions.iter().map(|p| v[*p]).collect()),
            Elements::Int(v) => Elements::Int(positions.iter().map(|p| v[*p]).collect()),
            Elements::Bool(v) => Elements::Bool(positions.iter().map(|p| v[*p]).collect()),
        };
        Value::checked(self.dtype, shape, elements)
    }

    /// `count` copies of one element.
    pub(super) fn repeat_element(&self, position: usize, shape: Vec<usize>, count: usize) -> Value {
        let elements = match &self.elements {
            Elements::Float(v) => Elements::Float(vec![v[position]; count]),
            Elements::Int(v) => Elements::Int(vec![v[position]; count]),
            Elements::Bool(v) => Elements::Bool(vec![v[position]; count]),
        };
        Value::checked(self.dtype, shape, elements)
    }

    /// The elements of all of `parts`, which have one dtype, as one row.
    pub(super) fn join(dtype: DType, parts: &[&Value]) -> Value {
        let mut elements = zeros(dtype, 0).elements;
        for part in parts {
            match (&mut elements, &part.elements) {
                (Elements::Float(all), Elements::Float(v)) => all.extend(v),
                (Elements::Int(all), Elements::Int(v)) => all.extend(v),
                (Elements::Bool(all), Elements::Bool(v)) => all.extend(v),
                _ => debug_assert!(false, "the caller checks that dtypes agree"),
            }
        }
        Value::checked(dtype, vec![elements.len()], elements)
    }
}

/// A row of `count` zeros (or `false`).
pub(super) fn zeros(dtype: DType, count: usize) -> Value {
    let elements = match dtype {
        DType::Bool => Elements::Bool(vec![false; count]),
        _ if dtype.is_float() => Elements::Float(vec![0.0; count]),
        _ => Elements::Int(vec![0; count]),
    };
    Value::checked(dtype, vec![count], elements)
}

/// `value` modulo the range of the integer type, as hardware and NumPy wrap on overflow.
pub(super) fn wrap(dtype: DType, value: i128) -> i128 {
    match dtype {
        DType::I64 => i128::from(value as i64),
        DType::I32 => i128::from(value as i32),
        DType::I16 => i128::from(value as i16),
        DType::I8 => i128::from(value as i8),
        DType::U64 => i128::from(value as u64),
        DType::U32 => i128::from(value as u32),
        DType::U16 => i128::from(value as u16),
        DType::U8 => i128::from(value as u8),
        DType::Bool | DType::F64 | DType::F32 | DType::F16 | DType::BF16 => value,
    }
}

/// `value` cut to the range of the integer type; its fraction is dropped and NaN is 0. ONNX leaves the conversion of
/// floats out of range undefined.
pub(super) fn saturate(dtype: DType, value: f64) -> i128 {
    match dtype {
        DType::I64 => i128::from(value as i64),
        DType::I32 => i128::from(value as i32),
        DType::I16 => i128::from(value as i16),
        DType::I8 => i128::from(value as i8),
        DType::U64 => i128::from(value as u64),
        DType::U32 => i128::from(value as u32),
        DType::U16 => i128::from(value as u16),
        DType::U8 => i128::from(value as u8),
        DType::Bool | DType::F64 | DType::F32 | DType::F16 | DType::BF16 => value as i128,
    }
}

/// `value` as the nearest number of the float type.
pub(super) fn round(dtype: DType, value: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::F16 => f16::from_f64(value).to_f64(),
        DType::BF16 => bf16::from_f64(value).to_f64(),
        _ => value,
    }
}
