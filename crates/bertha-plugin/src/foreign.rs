//! The program's side of the interface: a plugin of a library, called through its table.

use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, TryLockError};

use bertha_graph::interp::{F64Tensor, MAX_ELEMENTS};
use bertha_graph::rules::MAX_RANK;
use smallvec::SmallVec;

use crate::abi::{
    self, Call, CudaTable, FieldSpecTable, FieldValue, MESSAGE_CAPACITY, PluginFn, PluginTable, TaskFn,
    Tensor, Text,
};
use crate::{
    CudaSource, Declaration, Field, FieldKind, FieldSpec, Fields, Parallel, Plugin, TensorView, TensorViewMut,
};

/// Texts of a declaration longer than this are taken for damage; CUDA sources may be longer.
const MAX_TEXT: usize = 1 << 16;
const MAX_SOURCE: usize = 1 << 24;
/// Fields of one plugin, and values of one list, beyond which a table is taken for damage.
const MAX_COUNT: usize = 1 << 16;

/// A plugin in a library. It keeps the library loaded.
pub(crate) struct Foreign {
    plugin: *const c_void,
    shapes: Option<PluginFn>,
    reference: PluginFn,
    kernel: PluginFn,
    declaration: Declaration,
    cuda: Option<CudaSource>,
    _library: Arc<libloading::Library>,
}

// SAFETY: the interface demands that functions may be called from any thread, several at a time; `plugin` is only
// handed back to them.
unsafe impl Send for Foreign {}
// SAFETY: as above.
unsafe impl Sync for Foreign {}

impl Foreign {
    /// Reads a table.
    ///
    /// # Errors
    /// What in the table makes no sense.
    ///
    /// # Safety
    /// `table` must come from a library of this interface's version and sizes, and its pointers must be null or lead to
    /// what the interface says.
    pub(crate) unsafe fn read(
        table: &PluginTable,
        library: Arc<libloading::Library>,
    ) -> Result<Self, String> {
        // SAFETY: this function's contract.
        unsafe {
            let text =
                |what: &str, text: Text| read_text(text, MAX_TEXT).map_err(|why| format!("its {what} {why}"));
            let name = text("name", table.name)?;
            let named = |why: String| format!("plugin `{name}`: {why}");
            if table.flags & !abi::ROW_WISE != 0 {
                return Err(named(format!("its flags are {:#x}, of which only 1 is known", table.flags)));
            }
            let declaration = Declaration {
                row_wise: table.flags & abi::ROW_WISE != 0,
                name: name.clone(),
                version: table.version,
                domain: text("domain", table.domain).map_err(named)?,
                op_type: text("op type", table.op_type).map_err(named)?,
                signature: text("signature", table.signature).map_err(named)?,
                fields: read_specs(table).map_err(named)?,
                description: text("description", table.description).map_err(named)?,
            };
            let missing = |what: &str| named(format!("it has no {what}"));
            Ok(Foreign {
                plugin: table.plugin,
                shapes: table.shapes,
                reference: table.reference.ok_or_else(|| missing("reference"))?,
                kernel: table.kernel.ok_or_else(|| missing("CPU kernel"))?,
                cuda: read_cuda(table.cuda).map_err(named)?,
                declaration,
                _library: library,
            })
        }
    }
}

/// # Safety
/// `text` must be null or point to as many bytes as it says.
unsafe fn read_text(text: Text, max: usize) -> Result<String, String> {
    if text.length > max {
        return Err(format!("is said to have {} bytes, more than {max}", text.length));
    }
    match (text.data.is_null(), text.length) {
        (_, 0) => return Ok(String::new()),
        (true, length) => return Err(format!("is null with a length of {length}")),
        (false, _) => {}
    }
    // SAFETY: this function's contract.
    let bytes = unsafe { std::slice::from_raw_parts(text.data.cast::<u8>(), text.length) };
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| "is not UTF-8".to_owned())
}

/// # Safety
/// `data` must be null or point to `count` values.
unsafe fn read_slice<'a, T>(what: &str, data: *const T, count: usize) -> Result<&'a [T], String> {
    match (data.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(format!("its {what} are null, but {count} are said to be there")),
        (false, count) if count > MAX_COUNT => Err(format!("it is said to have {count} {what}")),
        (false, _) if !data.is_aligned() => Err(format!("its {what} are not aligned")),
        // SAFETY: this function's contract, and the checks above.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(data, count) }),
    }
}

/// # Safety
/// As for [`Foreign::read`].
unsafe fn read_specs(table: &PluginTable) -> Result<Vec<FieldSpec>, String> {
    // SAFETY: this function's contract.
    unsafe {
        let specs: &[FieldSpecTable] = read_slice("fields", table.fields, table.field_count)?;
        specs.iter().map(|spec| read_spec(spec)).collect()
    }
}

/// # Safety
/// As for [`Foreign::read`].
unsafe fn read_spec(spec: &FieldSpecTable) -> Result<FieldSpec, String> {
    // SAFETY: this function's contract.
    unsafe {
        let name =
            read_text(spec.value.name, MAX_TEXT).map_err(|why| format!("the name of a field {why}"))?;
        let of_field = |why: String| format!("field `{name}`: {why}");
        let kind = abi::kind_of(spec.value.kind)
            .ok_or_else(|| of_field(format!("its kind is {}, which does not exist", spec.value.kind)))?;
        let value = &spec.value;
        let default = match kind {
            _ if spec.has_default == 0 => None,
            FieldKind::Int => Some(Field::Int(value.integer)),
            FieldKind::Float => Some(Field::Float(value.number)),
            FieldKind::Text => Some(Field::Text(
                read_text(value.text, MAX_TEXT).map_err(|why| of_field(format!("its default {why}")))?,
            )),
            FieldKind::Ints => Some(Field::Ints(
                read_slice("defaults", value.integers, value.count).map_err(of_field)?.to_vec(),
            )),
            FieldKind::Floats => Some(Field::Floats(
                read_slice("defaults", value.numbers, value.count).map_err(of_field)?.to_vec(),
            )),
        };
        let description = read_text(spec.description, MAX_TEXT)
            .map_err(|why| of_field(format!("its description {why}")))?;
        Ok(FieldSpec { kind, default, min: spec.min, max: spec.max, description, name })
    }
}

/// # Safety
/// `cuda` must be null or point to a table.
unsafe fn read_cuda(cuda: *const CudaTable) -> Result<Option<CudaSource>, String> {
    if cuda.is_null() {
        return Ok(None);
    }
    // SAFETY: this function's contract.
    unsafe {
        let cuda = &*cuda;
        let text =
            |what: &str, text: Text| read_text(text, MAX_SOURCE).map_err(|why| format!("its {what} {why}"));
        Ok(Some(CudaSource {
            source: text("CUDA source", cuda.source)?,
            entry: text("CUDA entry", cuda.entry)?,
            items: text("number of CUDA items", cuda.items)?,
            block: cuda.block,
            items_per_block: cuda.items_per_block,
            shared_bytes: cuda.shared_bytes,
        }))
    }
}

/// A view of a field for the other side; valid as long as name and value are.
pub(crate) fn field_value(name: &str, field: &Field) -> FieldValue {
    let none = FieldValue {
        name: Text::of(name),
        kind: 0,
        reserved: 0,
        integer: 0,
        number: 0.0,
        text: Text { data: ptr::null(), length: 0 },
        integers: ptr::null(),
        numbers: ptr::null(),
        count: 0,
    };
    match field {
        Field::Int(integer) => FieldValue { kind: abi::KIND_INT, integer: *integer, ..none },
        Field::Float(number) => FieldValue { kind: abi::KIND_FLOAT, number: *number, ..none },
        Field::Text(text) => FieldValue { kind: abi::KIND_TEXT, text: Text::of(text), ..none },
        Field::Ints(values) => {
            FieldValue { kind: abi::KIND_INTS, integers: values.as_ptr(), count: values.len(), ..none }
        }
        Field::Floats(values) => {
            FieldValue { kind: abi::KIND_FLOATS, numbers: values.as_ptr(), count: values.len(), ..none }
        }
    }
}

const ABSENT: Tensor = Tensor { data: ptr::null_mut(), shape: ptr::null(), rank: 0, dtype: 0 };

/// What a call's callbacks find behind [`Call::host`].
struct Host<'a> {
    /// Locked while a kernel's parts run; a part that forks again finds it locked and runs its parts itself.
    threads: Option<Mutex<&'a mut dyn Parallel>>,
    /// Shapes, and elements for a reference, that the library has set.
    outputs: Mutex<Outputs>,
}

struct Outputs {
    set: Vec<Option<F64Tensor>>,
    /// Whether elements are wanted, not shapes alone.
    with_elements: bool,
    refusal: Option<String>,
}

impl Outputs {
    /// Notes a result's shape and gives the memory for its elements.
    fn set(&mut self, index: usize, shape: Option<&[usize]>) -> Result<*mut f64, String> {
        let shape = shape.ok_or_else(|| format!("the shape of its result {index} is null or too long"))?;
        if index >= bertha_graph::rules::MAX_OUTPUTS {
            return Err(format!("it sets a result {index}"));
        }
        if self.set.len() <= index {
            self.set.resize(index + 1, None);
        }
        let slot = &mut self.set[index];
        if slot.is_some() {
            return Err(format!("it sets result {index} twice"));
        }
        let count = shape.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim));
        let count = count.filter(|count| *count <= MAX_ELEMENTS);
        let count =
            count.ok_or_else(|| format!("its result {index} has the shape {shape:?}, too large to hold"))?;
        let values = if self.with_elements { vec![f64::NAN; count] } else { Vec::new() };
        let tensor = slot.insert(F64Tensor { shape: shape.to_vec(), values });
        Ok(if self.with_elements { tensor.values.as_mut_ptr() } else { ptr::null_mut() })
    }
}

/// # Safety
/// `call` must be the call that the library was given, during that call.
unsafe fn host<'a>(call: *const Call) -> Option<&'a Host<'a>> {
    // SAFETY: this function's contract: `Foreign::call` made both and they are alive.
    unsafe { call.as_ref()?.host.cast_const().cast::<Host<'_>>().as_ref() }
}

unsafe extern "C" fn parallel_for(call: *const Call, tasks: usize, task: TaskFn, argument: *mut c_void) {
    struct Argument(*mut c_void);
    // SAFETY: the interface demands that parts may run on any thread.
    unsafe impl Sync for Argument {}
    let argument = Argument(argument);
    let argument = &argument;
    // SAFETY: the library gives a function that takes this argument, and index below `tasks`.
    let part = move |index: usize| unsafe { task(argument.0, index) };
    // SAFETY: the library hands back its call.
    let threads = unsafe { host(call) }.and_then(|host| host.threads.as_ref());
    match threads.map(Mutex::try_lock) {
        Some(Ok(mut threads)) => threads.run(tasks, &part),
        Some(Err(TryLockError::Poisoned(threads))) => threads.into_inner().run(tasks, &part),
        // A part forks again, or there are no threads.
        Some(Err(TryLockError::WouldBlock)) | None => (0..tasks).for_each(part),
    }
}

unsafe extern "C" fn set_output(call: *const Call, index: usize, rank: u32, shape: *const usize) -> *mut f64 {
    // SAFETY: the library hands back its call.
    let Some(host) = (unsafe { host(call) }) else { return ptr::null_mut() };
    let mut outputs = host.outputs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let shape = match (shape.is_null(), rank as usize) {
        (_, 0) => Some(&[][..]),
        (false, rank) if rank <= MAX_RANK => {
            // SAFETY: the library gives a shape of as many dimensions as it says.
            Some(unsafe { std::slice::from_raw_parts(shape, rank) })
        }
        _ => None,
    };
    match outputs.set(index, shape) {
        Ok(data) => data,
        Err(why) => {
            outputs.refusal.get_or_insert(why);
            ptr::null_mut()
        }
    }
}

impl Foreign {
    /// Name and version.
    pub(crate) fn declaration_name(&self) -> (&str, u32) {
        (&self.declaration.name, self.declaration.version)
    }

    /// Calls a function of the plugin; gives what it set.
    fn call(
        &self,
        function: PluginFn,
        fields: &Fields,
        (inputs, outputs): (&[Tensor], &[Tensor]),
        threads: Option<&mut dyn Parallel>,
        with_elements: bool,
    ) -> Result<Vec<Option<F64Tensor>>, String> {
        let values: SmallVec<[FieldValue; 4]> =
            fields.iter().map(|(name, field)| field_value(name, field)).collect();
        let count = threads.as_ref().map_or(1, |threads| threads.threads());
        let is_kernel = threads.is_some();
        let host = Host {
            threads: threads.map(Mutex::new),
            outputs: Mutex::new(Outputs { set: Vec::new(), with_elements, refusal: None }),
        };
        let mut message = [0 as c_char; MESSAGE_CAPACITY];
        let call = Call {
            plugin: self.plugin,
            fields: values.as_ptr(),
            field_count: values.len(),
            inputs: inputs.as_ptr(),
            input_count: inputs.len(),
            outputs: outputs.as_ptr(),
            output_count: outputs.len(),
            message: message.as_mut_ptr(),
            message_capacity: MESSAGE_CAPACITY,
            threads: count,
            host: (&raw const host).cast_mut().cast(),
            parallel_for: is_kernel.then_some(parallel_for as _),
            set_output: (!is_kernel).then_some(set_output as _),
        };
        // SAFETY: the table's functions take such a call; everything in it lives until the function returns.
        let code = unsafe { function(&raw const call) };
        if code != 0 {
            return Err(
                text_of(&message).unwrap_or_else(|| format!("it failed with code {code}, without a message"))
            );
        }
        let outputs = host.outputs.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        outputs.refusal.map_or(Ok(outputs.set), Err)
    }
}

/// The message that a function left.
fn text_of(message: &[c_char]) -> Option<String> {
    let bytes: Vec<u8> = message.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8).collect();
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// A tensor without elements, for the shape rule.
fn shape_only(shape: &Option<&[usize]>) -> Tensor {
    shape.map_or(ABSENT, |shape| Tensor {
        data: ptr::null_mut(),
        shape: shape.as_ptr(),
        rank: shape.len() as u32,
        dtype: abi::UNTOLD_DTYPE,
    })
}

impl Plugin for Foreign {
    fn declaration(&self) -> Declaration {
        self.declaration.clone()
    }

    fn shapes(
        &self,
        fields: &Fields,
        inputs: &[Option<&[usize]>],
    ) -> Option<Result<Vec<Vec<usize>>, String>> {
        let inputs: SmallVec<[Tensor; 8]> = inputs.iter().map(shape_only).collect();
        let set = match self.call(self.shapes?, fields, (&inputs, &[]), None, false) {
            Ok(set) if set.is_empty() => return None,
            Ok(set) => set,
            Err(why) => return Some(Err(why)),
        };
        Some(all(set).map(|set| set.into_iter().map(|tensor| tensor.shape).collect()))
    }

    fn reference(&self, fields: &Fields, inputs: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String> {
        let view = |tensor: &Option<&F64Tensor>| {
            tensor.map_or(ABSENT, |tensor| Tensor {
                data: tensor.values.as_ptr().cast_mut().cast(),
                shape: tensor.shape.as_ptr(),
                rank: tensor.shape.len() as u32,
                dtype: abi::dtype_code(bertha_graph::DType::F64),
            })
        };
        let inputs: SmallVec<[Tensor; 8]> = inputs.iter().map(view).collect();
        all(self.call(self.reference, fields, (&inputs, &[]), None, true)?)
    }

    fn run(
        &self,
        fields: &Fields,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Option<TensorViewMut<'_>>],
        threads: &mut dyn Parallel,
    ) -> Result<(), String> {
        let read = |tensor: &Option<TensorView<'_>>| {
            tensor.as_ref().map_or(ABSENT, |tensor| Tensor {
                data: tensor.bytes.as_ptr().cast_mut().cast(),
                shape: tensor.shape.as_ptr(),
                rank: tensor.shape.len() as u32,
                dtype: abi::dtype_code(tensor.dtype),
            })
        };
        let write = |tensor: &mut Option<TensorViewMut<'_>>| {
            tensor.as_mut().map_or(ABSENT, |tensor| Tensor {
                data: tensor.bytes.as_mut_ptr().cast(),
                shape: tensor.shape.as_ptr(),
                rank: tensor.shape.len() as u32,
                dtype: abi::dtype_code(tensor.dtype),
            })
        };
        let inputs: SmallVec<[Tensor; 8]> = inputs.iter().map(read).collect();
        let outputs: SmallVec<[Tensor; 4]> = outputs.iter_mut().map(write).collect();
        self.call(self.kernel, fields, (&inputs, &outputs), Some(threads), false).map(drop)
    }

    fn cuda(&self) -> Option<CudaSource> {
        self.cuda.clone()
    }
}

/// Every result, or which one is missing.
fn all(set: Vec<Option<F64Tensor>>) -> Result<Vec<F64Tensor>, String> {
    let each = set.into_iter().enumerate();
    each.map(|(index, tensor)| tensor.ok_or_else(|| format!("it does not set result {index}"))).collect()
}
