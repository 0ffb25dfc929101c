//! The structures that libraries and Bertha exchange: `include/bertha_plugin.h` in Rust.
//!
//! A library exports one function, [`SYMBOL`], which returns a [`LibraryTable`] that lives as long as the library is
//! loaded. Its first word is the interface's version; nothing else is read unless that is [`ABI_VERSION`]. The sizes of
//! all structures follow, so that a compiler with other ideas of layout is found out before anything is read through
//! it. The version is raised for every change of a structure or of its meaning.
//!
//! Texts are UTF-8 with a length. Functions return 0, or anything else with a message in the caller's buffer, and never
//! unwind. They may be called from several threads at the same time.

use std::ffi::{c_char, c_void};

use bertha_graph::DType;
use bertha_graph::plugin::FieldKind;

/// Version of the interface.
pub const ABI_VERSION: u32 = 1;

/// Name of the function that a library exports, [`LibraryFn`].
pub const SYMBOL: &str = "bertha_plugin_library";

/// Bytes of the buffer for a message, the terminating 0 included.
pub const MESSAGE_CAPACITY: usize = 512;

/// The type of the function [`SYMBOL`].
pub type LibraryFn = unsafe extern "C" fn() -> *const LibraryTable;

/// A function of a plugin: 0 for success.
pub type PluginFn = unsafe extern "C" fn(call: *const Call) -> i32;

/// UTF-8 of a length; null means empty.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// The bytes.
    pub data: *const c_char,
    /// How many.
    pub length: usize,
}

impl Text {
    /// A view of `text`, which must live as long as this is used.
    pub fn of(text: &str) -> Self {
        Text { data: text.as_ptr().cast(), length: text.len() }
    }
}

/// The value of a field.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FieldValue {
    /// The field's name.
    pub name: Text,
    /// Which of the members below holds the value: [`KIND_INT`] and so on.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
    /// The value of kind int.
    pub integer: i64,
    /// The value of kind float.
    pub number: f64,
    /// The value of kind text.
    pub text: Text,
    /// The values of kind ints.
    pub integers: *const i64,
    /// The values of kind floats.
    pub numbers: *const f64,
    /// How many values of kind ints or floats.
    pub count: usize,
}

/// [`FieldValue::kind`] of an integer.
pub const KIND_INT: u32 = 1;
/// [`FieldValue::kind`] of a number.
pub const KIND_FLOAT: u32 = 2;
/// [`FieldValue::kind`] of a text.
pub const KIND_TEXT: u32 = 3;
/// [`FieldValue::kind`] of a list of integers.
pub const KIND_INTS: u32 = 4;
/// [`FieldValue::kind`] of a list of numbers.
pub const KIND_FLOATS: u32 = 5;

/// What a field may hold.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FieldSpecTable {
    /// Name, kind and, where [`has_default`](Self::has_default) is not 0, the default.
    pub value: FieldValue,
    /// Whether nodes may leave the field out.
    pub has_default: u32,
    /// 0.
    pub reserved: u32,
    /// The least value allowed.
    pub min: f64,
    /// The largest value allowed.
    pub max: f64,
    /// One line for people.
    pub description: Text,
}

/// An operand or a result.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// The elements, row-major; for a reference they are `double`s whatever the dtype.
    pub data: *mut c_void,
    /// The size of each dimension.
    pub shape: *const usize,
    /// How many dimensions.
    pub rank: u32,
    /// The dtype's number ([`dtype_code`]); 0 for a tensor that is absent. A shape rule finds [`UNTOLD_DTYPE`] at every
    /// operand that is there, a reference the number of f64.
    pub dtype: u32,
}

/// [`Tensor::dtype`] of an operand that is there and whose dtype is not told: shapes do not depend on it.
pub const UNTOLD_DTYPE: u32 = u32::MAX;

/// The arguments of each of a plugin's functions.
#[repr(C)]
pub struct Call {
    /// [`PluginTable::plugin`].
    pub plugin: *const c_void,
    /// The values of all fields.
    pub fields: *const FieldValue,
    /// How many fields.
    pub field_count: usize,
    /// The operands. For the shape rule their `data` is null.
    pub inputs: *const Tensor,
    /// How many operands, absent ones included.
    pub input_count: usize,
    /// The results that the kernel writes; none for the other functions.
    pub outputs: *const Tensor,
    /// How many results the kernel writes, absent ones included.
    pub output_count: usize,
    /// Where a message goes, terminated by 0.
    pub message: *mut c_char,
    /// Bytes there.
    pub message_capacity: usize,
    /// Threads that `parallel_for` uses.
    pub threads: usize,
    /// The caller's own.
    pub host: *mut c_void,
    /// Calls `task(argument, index)` for each index below `tasks`, on all threads, and returns when all are done. For
    /// kernels.
    pub parallel_for: Option<ParallelFor>,
    /// Tells the shape of result `index` and, for a reference, gives the memory for its elements (null for none left).
    /// For references and shape rules.
    pub set_output: Option<SetOutput>,
}

/// See [`Call::parallel_for`].
pub type ParallelFor =
    unsafe extern "C" fn(call: *const Call, tasks: usize, task: TaskFn, argument: *mut c_void);

/// A part of a kernel's work.
pub type TaskFn = unsafe extern "C" fn(argument: *mut c_void, index: usize);

/// See [`Call::set_output`].
pub type SetOutput =
    unsafe extern "C" fn(call: *const Call, index: usize, rank: u32, shape: *const usize) -> *mut f64;

/// CUDA source; see [`CudaSource`](crate::CudaSource).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CudaTable {
    /// CUDA C++.
    pub source: Text,
    /// The kernel's name.
    pub entry: Text,
    /// How many items there are.
    pub items: Text,
    /// Threads of a block.
    pub block: u32,
    /// Items that one block computes.
    pub items_per_block: u32,
    /// Dynamic shared memory.
    pub shared_bytes: u32,
    /// 0.
    pub reserved: u32,
}

/// One plugin.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PluginTable {
    /// Handed back as [`Call::plugin`]; may be null.
    pub plugin: *const c_void,
    /// See [`Declaration`](crate::Declaration) for this and the next members.
    pub name: Text,
    /// The ONNX domain.
    pub domain: Text,
    /// The ONNX op type.
    pub op_type: Text,
    /// Operands and results.
    pub signature: Text,
    /// One line for people.
    pub description: Text,
    /// The plugin's version.
    pub version: u32,
    /// [`ROW_WISE`] or 0.
    pub flags: u32,
    /// The fields.
    pub fields: *const FieldSpecTable,
    /// How many fields.
    pub field_count: usize,
    /// The shape rule besides the signature; may be null.
    pub shapes: Option<PluginFn>,
    /// The reference.
    pub reference: Option<PluginFn>,
    /// The CPU kernel.
    pub kernel: Option<PluginFn>,
    /// CUDA source; may be null.
    pub cuda: *const CudaTable,
}

/// A flag of [`PluginTable::flags`]: see [`Declaration::row_wise`](crate::Declaration::row_wise).
pub const ROW_WISE: u32 = 1;

/// All plugins of a library.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LibraryTable {
    /// [`ABI_VERSION`] of the header that the library was built with.
    pub abi: u32,
    /// Size of this structure, and of the others in the order of [`LibraryTable::SIZES`].
    pub sizes: [u32; 7],
    /// How many plugins.
    pub plugin_count: usize,
    /// The plugins.
    pub plugins: *const PluginTable,
}

impl LibraryTable {
    /// Names and sizes of the structures, as they stand in [`LibraryTable::sizes`].
    pub const SIZES: [(&'static str, u32); 7] = [
        ("bertha_library", size_of::<LibraryTable>() as u32),
        ("bertha_plugin", size_of::<PluginTable>() as u32),
        ("bertha_field_spec", size_of::<FieldSpecTable>() as u32),
        ("bertha_field", size_of::<FieldValue>() as u32),
        ("bertha_tensor", size_of::<Tensor>() as u32),
        ("bertha_call", size_of::<Call>() as u32),
        ("bertha_cuda", size_of::<CudaTable>() as u32),
    ];
}

/// Every kind of field with its number; never renumbered.
const KINDS: [(FieldKind, u32); 5] = [
    (FieldKind::Int, KIND_INT),
    (FieldKind::Float, KIND_FLOAT),
    (FieldKind::Text, KIND_TEXT),
    (FieldKind::Ints, KIND_INTS),
    (FieldKind::Floats, KIND_FLOATS),
];

/// The number of a kind of field.
pub fn kind_code(kind: FieldKind) -> u32 {
    KINDS.iter().find(|(other, _)| *other == kind).map_or(0, |(_, code)| *code)
}

/// The kind of field of a number.
pub fn kind_of(code: u32) -> Option<FieldKind> {
    KINDS.iter().find(|(_, other)| *other == code).map(|(kind, _)| *kind)
}

/// Every dtype with its number; never renumbered.
const DTYPES: [(DType, u32); 13] = [
    (DType::F64, 1),
    (DType::F32, 2),
    (DType::F16, 3),
    (DType::BF16, 4),
    (DType::I64, 5),
    (DType::I32, 6),
    (DType::I16, 7),
    (DType::I8, 8),
    (DType::U64, 9),
    (DType::U32, 10),
    (DType::U16, 11),
    (DType::U8, 12),
    (DType::Bool, 13),
];

/// The number of a dtype.
pub fn dtype_code(dtype: DType) -> u32 {
    DTYPES.iter().find(|(other, _)| *other == dtype).map_or(0, |(_, code)| *code)
}

/// The dtype of a number.
pub fn dtype_of(code: u32) -> Option<DType> {
    DTYPES.iter().find(|(_, other)| *other == code).map(|(dtype, _)| *dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_has_a_number() {
        for dtype in DType::ALL {
            assert_eq!(dtype_of(dtype_code(dtype)), Some(dtype));
        }
        assert_eq!(dtype_of(0), None);
    }
}
