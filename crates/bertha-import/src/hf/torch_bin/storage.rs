//! The memory that tensors are windows onto.

use std::collections::HashMap;

use bertha_graph::{DType, TensorData};
use bytes::Bytes;

use super::pickle::{ElementType, StorageKey, TensorView};

/// All storages of a file, by key.
#[derive(Debug, Default)]
pub(super) struct Storages {
    by_key: HashMap<String, Storage>,
    /// Written on a big-endian machine: elements are reversed when a tensor is made.
    big_endian: bool,
}

#[derive(Debug)]
struct Storage {
    element: ElementType,
    /// Exactly the elements.
    bytes: Bytes,
}

impl Storages {
    pub(super) fn new(big_endian: bool) -> Self {
        Self { by_key: HashMap::new(), big_endian }
    }

    /// Whether a storage is already known, and under the same description.
    pub(super) fn knows(&self, key: &StorageKey) -> Result<bool, String> {
        let Some(storage) = self.by_key.get(&key.key) else { return Ok(false) };
        if storage.element != key.element || storage.bytes.len() != byte_length(key)? {
            return Err(format!("storage `{}` is described in two different ways", key.key));
        }
        Ok(true)
    }

    /// Adds a storage of exactly the bytes its description calls for.
    pub(super) fn add(&mut self, key: &StorageKey, bytes: Bytes) -> Result<(), String> {
        let expected = byte_length(key)?;
        if bytes.len() != expected {
            return Err(format!(
                "storage `{}` should have {expected} bytes ({} elements) but has {}",
                key.key,
                key.len,
                bytes.len()
            ));
        }
        self.by_key.insert(key.key.clone(), Storage { element: key.element, bytes });
        Ok(())
    }

    /// Whether a tensor lies inside its storage.
    pub(super) fn check(&self, view: &TensorView) -> Result<(), String> {
        self.window(view).map(|_| ())
    }

    /// Builds a tensor.
    pub(super) fn tensor(&self, view: &TensorView) -> Result<TensorData, String> {
        let Window { dtype, bytes, count } = self.window(view)?;
        let size = dtype.size();
        let mut data = if is_contiguous(view) {
            bytes.slice(..count * size)
        } else {
            gather(&bytes, view, count, size)?
        };
        if self.big_endian && size > 1 {
            let mut reversed = data.to_vec();
            reversed.chunks_exact_mut(size).for_each(<[u8]>::reverse);
            data = Bytes::from(reversed);
        }
        TensorData::from_bytes(dtype, view.shape.clone(), data).map_err(|error| error.to_string())
    }

    /// The part of a storage that a tensor starts in, after checking that its last element is inside.
    fn window(&self, view: &TensorView) -> Result<Window, String> {
        let ElementType::Known(dtype) = view.element else {
            return Err("the file does not say what the elements are".into());
        };
        let storage = self.by_key.get(&view.storage.key);
        let storage = storage.ok_or_else(|| format!("storage `{}` is missing", view.storage.key))?;
        let size = dtype.size();
        let available = storage.bytes.len() / size;
        // An old file may limit the tensor to a part of the storage.
        let (first, part) = view.storage.part.unwrap_or((0, available));
        let part_end = first.checked_add(part).filter(|&end| end <= available);
        let outside = || {
            format!(
                "shape {:?}, strides {:?}, offset {} reaches outside its storage of {part} elements",
                view.shape, view.strides, view.offset
            )
        };
        let part_end = part_end.ok_or_else(outside)?;
        let count = view.shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length));
        let empty = view.shape.contains(&0);
        let count = if empty { 0 } else { count.ok_or_else(outside)? };
        let start = first.checked_add(view.offset).ok_or_else(outside)?;
        if empty {
            return Ok(Window { dtype, bytes: Bytes::new(), count: 0 });
        }
        let last =
            view.shape.iter().zip(&view.strides).try_fold(start, |last, (&length, &stride)| {
                last.checked_add(stride.checked_mul(length - 1)?)
            });
        if last.is_none_or(|last| last >= part_end) {
            return Err(outside());
        }
        // `start <= last < part_end <= available`, so the slice is inside.
        Ok(Window { dtype, bytes: storage.bytes.slice(start * size..part_end * size), count })
    }
}

/// A storage from a tensor's first element on.
struct Window {
    dtype: DType,
    bytes: Bytes,
    /// Elements of the tensor.
    count: usize,
}

fn byte_length(key: &StorageKey) -> Result<usize, String> {
    key.len
        .checked_mul(key.element.size())
        .ok_or_else(|| format!("storage `{}` of {} elements is larger than memory can be", key.key, key.len))
}

/// Whether the elements lie in row-major order without gaps. Strides of dimensions of length 1 do not matter.
fn is_contiguous(view: &TensorView) -> bool {
    let mut expected = 1usize;
    if view.shape.contains(&0) {
        return true;
    }
    for (&length, &stride) in view.shape.iter().zip(&view.strides).rev() {
        if length != 1 {
            if stride != expected {
                return false;
            }
            expected = expected.saturating_mul(length);
        }
    }
    true
}

/// Copies a strided tensor into row-major order. The caller has checked that every element is inside `bytes`.
fn gather(bytes: &Bytes, view: &TensorView, count: usize, size: usize) -> Result<Bytes, String> {
    let total = count.checked_mul(size).filter(|&total| total <= bytes.len());
    let total = total.ok_or_else(|| {
        format!(
            "shape {:?} with strides {:?} repeats elements of a smaller storage (an expanded view); save it as \
             .contiguous()",
            view.shape, view.strides
        )
    })?;
    let mut packed = Vec::with_capacity(total);
    let mut indices = vec![0usize; view.shape.len()];
    let mut position = 0usize;
    for _ in 0..count {
        let start = position * size;
        let element = bytes.get(start..start + size);
        packed.extend_from_slice(element.ok_or("an element lies outside the storage")?);
        // Advance like an odometer, the last dimension fastest.
        for ((index, &length), &stride) in indices.iter_mut().zip(&view.shape).zip(&view.strides).rev() {
            *index += 1;
            if *index < length {
                position += stride;
                break;
            }
            position -= stride * (length - 1);
            *index = 0;
        }
    }
    Ok(Bytes::from(packed))
}
