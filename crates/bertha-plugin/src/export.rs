//! A library's side of the interface: plugins written in Rust behind the functions of the C ABI.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use bertha_graph::interp::F64Tensor;
use bertha_graph::plugin::panic_sentence;

use crate::abi::{
    self, ABI_VERSION, Call, CudaTable, FieldSpecTable, FieldValue, LibraryTable, PluginTable, Tensor, Text,
};
use crate::foreign::field_value;
use crate::{CudaSource, Declaration, Field, FieldSpec, Fields, Parallel, Plugin, TensorView, TensorViewMut};

/// Exports plugins from a library of crate type `cdylib`.
///
/// ```ignore
/// bertha_plugin::export_plugins![MyPlugin, MyOtherPlugin { threshold: 0.5 }];
/// ```
#[macro_export]
macro_rules! export_plugins {
    ($($plugin:expr),+ $(,)?) => {
        /// The plugins of this library, for the program that loads it.
        #[unsafe(no_mangle)]
        pub extern "C" fn bertha_plugin_library() -> *const $crate::abi::LibraryTable {
            static EXPORTED: ::std::sync::OnceLock<::std::option::Option<$crate::Exported>> =
                ::std::sync::OnceLock::new();
            let make = || $crate::Exported::new(|| ::std::vec![$(::std::boxed::Box::new($plugin)),+]);
            EXPORTED.get_or_init(make).as_ref().map_or(::std::ptr::null(), $crate::Exported::table)
        }
    };
}

/// The tables of a library's plugins.
pub struct Exported {
    table: LibraryTable,
}

// SAFETY: the tables, and what they point to, are never changed once they are made, and plugins are Sync and Send.
unsafe impl Sync for Exported {}
// SAFETY: as above.
unsafe impl Send for Exported {}

impl Exported {
    /// Makes the tables, which live as long as the process; `None` when a plugin panics over its declaration.
    pub fn new(plugins: impl FnOnce() -> Vec<Box<dyn Plugin>>) -> Option<Self> {
        let tables = catch_unwind(AssertUnwindSafe(|| {
            plugins().into_iter().map(plugin_table).collect::<Vec<PluginTable>>()
        }));
        let tables: &'static [PluginTable] = Vec::leak(tables.ok()?);
        let table = LibraryTable {
            abi: ABI_VERSION,
            sizes: LibraryTable::SIZES.map(|(_, size)| size),
            plugin_count: tables.len(),
            plugins: tables.as_ptr(),
        };
        Some(Exported { table })
    }

    /// What the exported function returns.
    pub fn table(&self) -> *const LibraryTable {
        &raw const self.table
    }
}

fn text(text: String) -> Text {
    Text::of(String::leak(text))
}

fn plugin_table(plugin: Box<dyn Plugin>) -> PluginTable {
    let Declaration { name, version, domain, op_type, signature, fields, row_wise, description } =
        plugin.declaration();
    let cuda = plugin.cuda().map_or(ptr::null(), |cuda| &raw const *Box::leak(Box::new(cuda_table(cuda))));
    let fields: &'static [FieldSpecTable] = Vec::leak(fields.into_iter().map(field_table).collect());
    // A thin pointer to the fat one.
    let plugin: *const Box<dyn Plugin> = Box::leak(Box::new(plugin));
    PluginTable {
        plugin: plugin.cast(),
        name: text(name),
        domain: text(domain),
        op_type: text(op_type),
        signature: text(signature),
        description: text(description),
        version,
        flags: if row_wise { abi::ROW_WISE } else { 0 },
        fields: fields.as_ptr(),
        field_count: fields.len(),
        shapes: Some(shapes),
        reference: Some(reference),
        kernel: Some(kernel),
        cuda,
    }
}

fn cuda_table(cuda: CudaSource) -> CudaTable {
    CudaTable {
        source: text(cuda.source),
        entry: text(cuda.entry),
        items: text(cuda.items),
        block: cuda.block,
        items_per_block: cuda.items_per_block,
        shared_bytes: cuda.shared_bytes,
        reserved: 0,
    }
}

fn field_table(spec: FieldSpec) -> FieldSpecTable {
    let spec: &'static FieldSpec = Box::leak(Box::new(spec));
    let default = spec.default.as_ref().unwrap_or(&Field::Int(0));
    let value = FieldValue { kind: abi::kind_code(spec.kind), ..field_value(&spec.name, default) };
    FieldSpecTable {
        value,
        has_default: u32::from(spec.default.is_some()),
        reserved: 0,
        min: spec.min,
        max: spec.max,
        description: Text::of(&spec.description),
    }
}

/// The loader's call, seen from the library.
struct Given<'a> {
    call: &'a Call,
    plugin: &'a dyn Plugin,
    fields: Fields,
}

/// Runs `body` for a call; its error, or its panic, becomes the message.
///
/// # Safety
/// `call` must be a call that the loader makes to a function of a table made by [`plugin_table`].
unsafe fn answer(call: *const Call, body: impl FnOnce(&Given<'_>) -> Result<(), String>) -> i32 {
    // SAFETY: the loader gives a live call.
    let call = unsafe { &*call };
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `plugin_table` made the pointer from such a reference, which lives forever.
        let plugin = unsafe { &**call.plugin.cast::<Box<dyn Plugin>>() };
        // SAFETY: the loader gives as many live fields as it says.
        let fields = unsafe { read_fields(call) };
        body(&Given { call, plugin, fields })
    }));
    let message = match result {
        Ok(Ok(())) => return 0,
        Ok(Err(message)) => message,
        Err(payload) => panic_sentence(&*payload),
    };
    // SAFETY: the loader gives a buffer of the capacity it says, for us alone.
    unsafe { write_message(call, &message) };
    1
}

/// # Safety
/// The call's message buffer must be as large as it says.
unsafe fn write_message(call: &Call, message: &str) {
    if call.message.is_null() || call.message_capacity == 0 {
        return;
    }
    let mut length = message.len().min(call.message_capacity - 1);
    while !message.is_char_boundary(length) {
        length -= 1;
    }
    // SAFETY: `length + 1` bytes fit the buffer.
    unsafe {
        ptr::copy_nonoverlapping(message.as_ptr(), call.message.cast(), length);
        *call.message.add(length) = 0;
    }
}

/// A slice that may be null when it is empty.
///
/// # Safety
/// `data` must be null or point to `count` values that live for `'a`.
unsafe fn slice<'a, T>(data: *const T, count: usize) -> &'a [T] {
    if data.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: this function's contract.
    unsafe { std::slice::from_raw_parts(data, count) }
}

/// # Safety
/// The call's fields must be as many as it says, and live.
unsafe fn read_fields(call: &Call) -> Fields {
    // SAFETY: this function's contract.
    let values = unsafe { slice(call.fields, call.field_count) };
    // SAFETY: texts and lists of fields live as long as the call.
    let read = |value: &FieldValue| unsafe {
        let text =
            |text: Text| String::from_utf8_lossy(slice(text.data.cast::<u8>(), text.length)).into_owned();
        let field = match value.kind {
            abi::KIND_INT => Field::Int(value.integer),
            abi::KIND_FLOAT => Field::Float(value.number),
            abi::KIND_TEXT => Field::Text(text(value.text)),
            abi::KIND_INTS => Field::Ints(slice(value.integers, value.count).to_vec()),
            _ => Field::Floats(slice(value.numbers, value.count).to_vec()),
        };
        (text(value.name), field)
    };
    values.iter().map(read).collect()
}

impl<'a> Given<'a> {
    fn inputs(&self) -> &'a [Tensor] {
        // SAFETY: the loader gives as many live operands as it says.
        unsafe { slice(self.call.inputs, self.call.input_count) }
    }

    fn outputs(&self) -> &'a [Tensor] {
        // SAFETY: the loader gives as many live results as it says.
        unsafe { slice(self.call.outputs, self.call.output_count) }
    }

    fn set_output(&self, index: usize, shape: &[usize]) -> Result<*mut f64, String> {
        let set = self.call.set_output.ok_or("the program that loads this takes no results here")?;
        // SAFETY: the function belongs to this call, and the shape has as many dimensions as it is said to have.
        Ok(unsafe { set(self.call, index, shape.len() as u32, shape.as_ptr()) })
    }
}

fn shape_of<'a>(tensor: &Tensor) -> Option<&'a [usize]> {
    // SAFETY: the loader gives a shape of as many dimensions as it says, which lives as long as the call.
    (tensor.dtype != 0).then(|| unsafe { slice(tensor.shape, tensor.rank as usize) })
}

fn byte_length(tensor: &Tensor) -> Option<(bertha_graph::DType, &'static [usize], usize)> {
    let (dtype, shape) = (abi::dtype_of(tensor.dtype)?, shape_of(tensor)?);
    Some((dtype, shape, bertha_graph::byte_count(dtype, shape).ok()?))
}

unsafe extern "C" fn shapes(call: *const Call) -> i32 {
    // SAFETY: the loader calls this with a call of its own.
    unsafe {
        answer(call, |given| {
            let inputs: Vec<Option<&[usize]>> = given.inputs().iter().map(shape_of).collect();
            let Some(shapes) = given.plugin.shapes(&given.fields, &inputs) else { return Ok(()) };
            for (index, shape) in shapes?.iter().enumerate() {
                given.set_output(index, shape)?;
            }
            Ok(())
        })
    }
}

unsafe extern "C" fn reference(call: *const Call) -> i32 {
    // SAFETY: the loader calls this with a call of its own.
    unsafe {
        answer(call, |given| {
            let read = |tensor: &Tensor| {
                let shape = shape_of(tensor)?.to_vec();
                let count = shape.iter().product();
                // SAFETY: operands of a reference are doubles, as many as the shape says.
                let values = slice(tensor.data.cast::<f64>().cast_const(), count).to_vec();
                Some(F64Tensor { shape, values })
            };
            let inputs: Vec<Option<F64Tensor>> = given.inputs().iter().map(read).collect();
            let inputs: Vec<Option<&F64Tensor>> = inputs.iter().map(Option::as_ref).collect();
            let results = given.plugin.reference(&given.fields, &inputs)?;
            for (index, F64Tensor { shape, values }) in results.iter().enumerate() {
                if shape.iter().product::<usize>() != values.len() {
                    return Err(format!("result {index} has {} elements for {shape:?}", values.len()));
                }
                let data = given.set_output(index, shape)?;
                if data.is_null() {
                    return Err(format!("result {index} is refused"));
                }
                // SAFETY: the loader gave room for as many doubles as the shape says.
                ptr::copy_nonoverlapping(values.as_ptr(), data, values.len());
            }
            Ok(())
        })
    }
}

unsafe extern "C" fn kernel(call: *const Call) -> i32 {
    // SAFETY: the loader calls this with a call of its own.
    unsafe {
        answer(call, |given| {
            let read = |tensor: &Tensor| {
                let (dtype, shape, bytes) = byte_length(tensor)?;
                Some(TensorView { dtype, shape, bytes: slice(tensor.data.cast::<u8>().cast_const(), bytes) })
            };
            let write = |tensor: &Tensor| {
                let (dtype, shape, length) = byte_length(tensor)?;
                let bytes = match length {
                    0 => &mut [][..],
                    // SAFETY: results are memory of the bytes that their types say, for this call alone.
                    length => std::slice::from_raw_parts_mut(tensor.data.cast::<u8>(), length),
                };
                Some(TensorViewMut { dtype, shape, bytes })
            };
            let inputs: Vec<_> = given.inputs().iter().map(read).collect();
            let mut outputs: Vec<_> = given.outputs().iter().map(write).collect();
            given.plugin.run(&given.fields, &inputs, &mut outputs, &mut HostThreads { call: given.call })
        })
    }
}

/// The loader's threads.
struct HostThreads<'a> {
    call: &'a Call,
}

// SAFETY: `parallel_for` may be called from any thread as long as the call lasts.
unsafe impl Send for HostThreads<'_> {}

/// A closure on its way through C, and the first panic of one of its parts.
struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: the interface demands of `parallel_for` what `Parallel` demands; without one a range gives each number once.
unsafe impl Parallel for HostThreads<'_> {
    fn threads(&self) -> usize {
        self.call.threads.max(1)
    }

    fn run(&mut self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        unsafe extern "C" fn part(argument: *mut c_void, index: usize) {
            // SAFETY: `argument` is the job below, which outlives the run.
            let job = unsafe { &*argument.cast_const().cast::<Job<'_>>() };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (job.task)(index))) {
                job.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            }
        }
        let Some(parallel_for) = self.call.parallel_for else { return (0..tasks).for_each(task) };
        let job = Job { task, panic: Mutex::new(None) };
        // SAFETY: the function belongs to this call and returns when all parts are done.
        unsafe { parallel_for(self.call, tasks, part, (&raw const job).cast_mut().cast()) };
        if let Some(payload) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            std::panic::resume_unwind(payload);
        }
    }
}
