//! The values a pickle builds.

use std::sync::Arc;

use super::globals::{ElementType, Global};

/// Number of a node in the [`Heap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::hf::torch_bin) struct Ref(u32);

/// A description of a tensor: a window with strides onto a storage. Nothing here is checked against the storage yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hf::torch_bin) struct TensorView {
    pub(in crate::hf::torch_bin) storage: Arc<StorageKey>,
    /// What the tensor's elements are; differs from the storage's type only when that is untyped.
    pub(in crate::hf::torch_bin) element: ElementType,
    /// In elements of the tensor.
    pub(in crate::hf::torch_bin) offset: usize,
    pub(in crate::hf::torch_bin) shape: Vec<usize>,
    /// In elements; PyTorch knows no negative strides.
    pub(in crate::hf::torch_bin) strides: Vec<usize>,
}

/// Which storage, and what the pickle claims about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hf::torch_bin) struct StorageKey {
    pub(in crate::hf::torch_bin) key: String,
    pub(in crate::hf::torch_bin) element: ElementType,
    /// Elements in the whole storage.
    pub(in crate::hf::torch_bin) len: usize,
    /// A part of the storage (offset and length in elements), as the oldest files have it.
    pub(in crate::hf::torch_bin) part: Option<(usize, usize)>,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::hf::torch_bin) enum Object {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    Bytes,
    Tuple(Vec<Ref>),
    List(Vec<Ref>),
    Dict(Vec<(Ref, Ref)>),
    Global(Global),
    Storage(Arc<StorageKey>),
    Tensor(Box<TensorView>),
    /// Something allowed that is of no interest, such as a device.
    Ignored,
}

impl Object {
    /// What Python would call it, for messages.
    pub(in crate::hf::torch_bin) fn kind(&self) -> &'static str {
        match self {
            Object::None => "None",
            Object::Bool(_) => "a bool",
            Object::Int(_) => "an integer",
            Object::Float(_) => "a float",
            Object::Str(_) => "a string",
            Object::Bytes => "a bytes object",
            Object::Tuple(_) => "a tuple",
            Object::List(_) => "a list",
            Object::Dict(_) => "a dictionary",
            Object::Global(_) => "a function or class",
            Object::Storage(_) => "a storage",
            Object::Tensor(_) => "a tensor",
            Object::Ignored => "an object",
        }
    }
}

/// All values of one pickle.
#[derive(Debug, Default)]
pub(in crate::hf::torch_bin) struct Heap {
    nodes: Vec<Object>,
}

impl Heap {
    /// Adds a value. `None` when there are too many.
    pub(super) fn add(&mut self, object: Object) -> Option<Ref> {
        let number = u32::try_from(self.nodes.len()).ok().filter(|_| self.nodes.len() < super::MAX_VALUES)?;
        self.nodes.push(object);
        Some(Ref(number))
    }

    /// The value behind a reference. References come only from [`Heap::add`] of the same heap, so they always resolve.
    pub(in crate::hf::torch_bin) fn get(&self, reference: Ref) -> &Object {
        &self.nodes[reference.0 as usize]
    }

    pub(super) fn get_mut(&mut self, reference: Ref) -> &mut Object {
        &mut self.nodes[reference.0 as usize]
    }
}
