//! What the allowed globals do when called, and what persistent ids mean. Errors are plain reasons; the machine adds
//! the offset.

use std::sync::Arc;

use super::globals::{ElementType, Global};
use super::heap::{Heap, Object, Ref, StorageKey, TensorView};
use super::machine::Dialect;
use super::{MAX_KEY_BYTES, MAX_RANK, excerpt};

/// Calls an allowed global.
pub(super) fn call(heap: &Heap, global: Global, arguments: &[Ref]) -> Result<Object, String> {
    match global {
        Global::OrderedDict => ordered_dict(heap, arguments),
        Global::Size => match arguments {
            [size] => match items(heap, *size, "torch.Size")? {
                size if size.len() <= MAX_RANK => Ok(Object::Tuple(size.to_vec())),
                size => Err(format!("a torch.Size of {} dimensions", size.len())),
            },
            _ => Err(wrong_count("torch.Size", arguments)),
        },
        Global::Device => Ok(Object::Ignored),
        Global::RebuildTensor => match arguments {
            [storage, offset, size, stride] => tensor(heap, [*storage, *offset, *size, *stride], None),
            _ => Err(wrong_count("_rebuild_tensor", arguments)),
        },
        Global::RebuildTensorV2 => match arguments {
            [storage, offset, size, stride, _grad, _hooks]
            | [storage, offset, size, stride, _grad, _hooks, _] => {
                tensor(heap, [*storage, *offset, *size, *stride], None)
            }
            _ => Err(wrong_count("_rebuild_tensor_v2", arguments)),
        },
        Global::RebuildTensorV3 => match arguments {
            [storage, offset, size, stride, _grad, _hooks, dtype]
            | [storage, offset, size, stride, _grad, _hooks, dtype, _] => {
                let Object::Global(Global::DType(dtype)) = heap.get(*dtype) else {
                    return Err(format!("{} where a dtype is expected", heap.get(*dtype).kind()));
                };
                let element = ElementType::Known(*dtype);
                tensor(heap, [*storage, *offset, *size, *stride], Some(element))
            }
            _ => Err(wrong_count("_rebuild_tensor_v3", arguments)),
        },
        Global::RebuildParameter | Global::RebuildParameterWithState => match (global, arguments) {
            (Global::RebuildParameter, [data, _grad, _hooks])
            | (Global::RebuildParameterWithState, [data, _grad, _hooks, _]) => match heap.get(*data) {
                Object::Tensor(view) => Ok(Object::Tensor(view.clone())),
                other => Err(format!("a parameter made of {}", other.kind())),
            },
            _ => Err(wrong_count("_rebuild_parameter", arguments)),
        },
        Global::Storage(_) | Global::DType(_) => Err("calls a storage type or a dtype".into()),
    }
}

fn wrong_count(function: &str, arguments: &[Ref]) -> String {
    format!("{function} called with {} arguments", arguments.len())
}

/// `OrderedDict()`, or `OrderedDict([[key, value], ...])` as Python 2 wrote it.
fn ordered_dict(heap: &Heap, arguments: &[Ref]) -> Result<Object, String> {
    let entries = match arguments {
        [] => return Ok(Object::Dict(Vec::new())),
        [entries] => items(heap, *entries, "OrderedDict")?,
        _ => return Err(wrong_count("OrderedDict", arguments)),
    };
    let pair = |entry: &Ref| match items(heap, *entry, "an OrderedDict entry")? {
        [key, value] => Ok((*key, *value)),
        other => Err(format!("an OrderedDict entry of {} parts", other.len())),
    };
    entries.iter().map(pair).collect::<Result<_, String>>().map(Object::Dict)
}

fn items<'h>(heap: &'h Heap, reference: Ref, owner: &str) -> Result<&'h [Ref], String> {
    match heap.get(reference) {
        Object::Tuple(items) | Object::List(items) => Ok(items),
        other => Err(format!("{} given to {owner} where a tuple or list is expected", other.kind())),
    }
}

/// `[storage, offset, size, stride]`
fn tensor(heap: &Heap, parts: [Ref; 4], element: Option<ElementType>) -> Result<Object, String> {
    let [storage, offset, size, stride] = parts;
    let Object::Storage(storage) = heap.get(storage) else {
        return Err(format!("a tensor made of {}", heap.get(storage).kind()));
    };
    let element = match (element, storage.element) {
        (None, of_storage) => of_storage,
        (Some(element), ElementType::Untyped) => element,
        (Some(element), of_storage) if element == of_storage => element,
        (Some(element), of_storage) => {
            return Err(format!("a tensor of {element:?} over a storage of {of_storage:?}"));
        }
    };
    let shape = sizes(heap, size, "size")?;
    let strides = sizes(heap, stride, "stride")?;
    if shape.len() != strides.len() {
        return Err(format!("a tensor with {} sizes and {} strides", shape.len(), strides.len()));
    }
    let offset = whole(heap, offset, "storage offset")?;
    Ok(Object::Tensor(Box::new(TensorView { storage: Arc::clone(storage), element, offset, shape, strides })))
}

fn sizes(heap: &Heap, reference: Ref, what: &str) -> Result<Vec<usize>, String> {
    let list = items(heap, reference, "a tensor")?;
    if list.len() > MAX_RANK {
        return Err(format!("a tensor of {} dimensions", list.len()));
    }
    list.iter().map(|item| whole(heap, *item, what)).collect()
}

fn whole(heap: &Heap, reference: Ref, what: &str) -> Result<usize, String> {
    match heap.get(reference) {
        Object::Int(value) => {
            usize::try_from(*value).map_err(|_| format!("{what} {value} is negative or too large"))
        }
        other => Err(format!("{} as {what}", other.kind())),
    }
}

/// The object a persistent id stands for: always a storage.
pub(super) fn persistent(heap: &Heap, id: Ref, dialect: Dialect) -> Result<Object, String> {
    let parts = items(heap, id, "a persistent id")?;
    let Some(Object::Str(kind)) = parts.first().map(|first| heap.get(*first)) else {
        return Err("a persistent id that does not start with its kind".into());
    };
    if kind == "module" {
        return Err("the file holds a whole pickled module, with code; save its state_dict() instead".into());
    }
    if kind != "storage" {
        return Err(format!("a persistent id of kind `{}`", excerpt(kind)));
    }
    let (fields, view) = match (dialect, parts) {
        (Dialect::Zip, [_, fields @ ..]) if fields.len() == 4 => (fields, None),
        (Dialect::Legacy, [_, fields @ .., view]) if fields.len() == 4 => (fields, Some(*view)),
        _ => return Err(format!("a storage described by {} parts", parts.len())),
    };
    let [element, key, _location, length] = fields else {
        return Err("a storage described by too few parts".into());
    };
    let Object::Global(Global::Storage(element)) = heap.get(*element) else {
        return Err(format!("a storage whose type is {}", heap.get(*element).kind()));
    };
    let part = match view.map(|view| heap.get(view)) {
        None | Some(Object::None) => None,
        Some(Object::Tuple(view)) => match view.as_slice() {
            [_key, offset, size] => {
                Some((whole(heap, *offset, "view offset")?, whole(heap, *size, "view size")?))
            }
            other => return Err(format!("a storage view of {} parts", other.len())),
        },
        Some(other) => return Err(format!("{} as a storage view", other.kind())),
    };
    let key = key_text(heap, *key)?;
    let len = whole(heap, *length, "storage length")?;
    Ok(Object::Storage(Arc::new(StorageKey { key, element: *element, len, part })))
}

/// Storage keys are text, or integers in some old files.
fn key_text(heap: &Heap, key: Ref) -> Result<String, String> {
    match heap.get(key) {
        Object::Str(key) if key.len() <= MAX_KEY_BYTES => Ok(key.clone()),
        Object::Str(key) => Err(format!("a storage key of {} bytes", key.len())),
        Object::Int(key) => Ok(key.to_string()),
        other => Err(format!("{} as a storage key", other.kind())),
    }
}

/// The storage keys listed after the object in the old format.
pub(in crate::hf::torch_bin) fn key_list(heap: &Heap, list: Ref) -> Result<Vec<String>, String> {
    items(heap, list, "the list of storages")?.iter().map(|key| key_text(heap, *key)).collect()
}
