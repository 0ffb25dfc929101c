//! Section `weights.index`: which tensors lie where in section `weights`.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::layout::align_up;
use crate::name::WEIGHTS_INDEX;

/// One tensor of section `weights`: row-major, little-endian, its elements packed without gaps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// Its name, unique within the file.
    pub name: String,
    /// Its element type: one of the names that [`dtype_size`] knows.
    pub dtype: String,
    /// Its dimensions, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Where it begins, in bytes from the start of the section: a multiple of [`crate::ALIGNMENT`].
    pub offset: u64,
    /// Its length in bytes: the product of its dimensions times the size of its dtype.
    pub length: u64,
}

/// Size in bytes of an element of `dtype`, or `None` for a dtype that an engine file cannot hold.
///
/// Known are `bool`, `i8`, `i16`, `i32`, `i64`, `u8`, `u16`, `u32`, `u64`, `f16`, `bf16`, `f32` and `f64`.
#[must_use]
pub fn dtype_size(dtype: &str) -> Option<usize> {
    match dtype {
        "bool" | "i8" | "u8" => Some(1),
        "i16" | "u16" | "f16" | "bf16" => Some(2),
        "i32" | "u32" | "f32" => Some(4),
        "i64" | "u64" | "f64" => Some(8),
        _ => None,
    }
}

/// Length in bytes of a tensor, or why it has none.
pub(crate) fn byte_length(dtype: &str, shape: &[u64]) -> Result<u64, String> {
    let size = dtype_size(dtype).ok_or_else(|| format!("dtype `{dtype}` is not known"))?;
    shape
        .iter()
        .try_fold(size as u64, |product, &dim| product.checked_mul(dim))
        .ok_or_else(|| format!("shape {shape:?} has more bytes than 64 bits can count"))
}

/// The JSON of the section.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    tensors: Vec<TensorEntry>,
}

/// A validated index.
#[derive(Debug, Default)]
pub(crate) struct WeightsIndex {
    tensors: Vec<TensorEntry>,
    by_name: HashMap<String, usize>,
}

impl WeightsIndex {
    /// Reads and validates the index of a `weights` section of `weights_length` bytes; `offset` is where the index
    /// lies in the file.
    ///
    /// As with sections, the place of each tensor follows from the lengths of those before it, so tensors cannot
    /// overlap or leave gaps.
    pub(crate) fn decode(json: &[u8], offset: u64, weights_length: u64) -> Result<Self, Fault> {
        let section = |reason| Fault::InvalidSection { section: WEIGHTS_INDEX.to_owned(), offset, reason };
        let Document { tensors } =
            serde_json::from_slice(json).map_err(|error| section(format!("it is not an index: {error}")))?;
        let mut names = HashSet::new();
        let mut end = 0_u64;
        for tensor in &tensors {
            let invalid = |reason| Fault::InvalidTensor { tensor: tensor.name.clone(), reason };
            if tensor.name.is_empty() {
                return Err(invalid("a tensor name is not empty".into()));
            }
            if !names.insert(tensor.name.as_str()) {
                return Err(invalid("it is listed twice".into()));
            }
            let length = byte_length(&tensor.dtype, &tensor.shape).map_err(invalid)?;
            if length != tensor.length {
                let TensorEntry { dtype, shape, length: listed, .. } = tensor;
                return Err(invalid(format!(
                    "{dtype} {shape:?} has {length} bytes, and {listed} are listed"
                )));
            }
            if align_up(end) != Some(tensor.offset) {
                return Err(invalid(format!(
                    "it is at {} and belongs at the first aligned offset behind {end}",
                    tensor.offset
                )));
            }
            end =
                tensor.offset.checked_add(length).filter(|&end| end <= weights_length).ok_or_else(|| {
                    invalid(format!("it ends behind the section, which has {weights_length} bytes"))
                })?;
        }
        if end != weights_length {
            return Err(section(format!(
                "the tensors end at {end}, and `weights` has {weights_length} bytes"
            )));
        }
        let by_name = tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Ok(Self { tensors, by_name })
    }

    /// The JSON of an index.
    pub(crate) fn encode(tensors: Vec<TensorEntry>) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Document { tensors })
    }

    pub(crate) fn tensors(&self) -> &[TensorEntry] {
        &self.tensors
    }

    pub(crate) fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.by_name.get(name).and_then(|&at| self.tensors.get(at))
    }
}
