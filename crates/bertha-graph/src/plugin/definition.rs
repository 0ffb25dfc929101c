//! A plugin as the compiler holds it: its declaration, read and checked, and its code behind a fence.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::fields::{Field, FieldKind, Fields};
use super::signature::OpenType;
use super::{
    CudaSource, Declaration, Library, Parallel, Plugin, PluginError, Signature, TensorView, TensorViewMut,
};
use crate::dim::{Dim, is_symbol_name};
use crate::dtype::DType;
use crate::error::RuleError;
use crate::interp::F64Tensor;
use crate::rules::{Fact, FreshSymbols, Outcome};
use crate::shape::{Shape, TensorType};

/// A plugin whose declaration has been checked.
pub struct PluginDef {
    declaration: Declaration,
    signature: Signature,
    library: Option<Library>,
    plugin: Box<dyn Plugin>,
}

impl fmt::Debug for PluginDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginDef")
            .field("declaration", &self.declaration)
            .field("library", &self.library)
            .finish_non_exhaustive()
    }
}

impl PluginDef {
    pub(super) fn new(plugin: Box<dyn Plugin>, library: Option<Library>) -> Result<Self, PluginError> {
        let refused = |plugin: &str, why: String| PluginError::Declaration { plugin: plugin.to_owned(), why };
        let declaration = fenced(|| Ok(plugin.declaration())).map_err(|why| refused("?", why))?;
        let refused = |why: String| refused(&declaration.name, why);
        if !is_symbol_name(&declaration.name) {
            return Err(refused("its name must be of letters, digits, `_` and `.`".into()));
        }
        if declaration.op_type.is_empty() {
            return Err(refused("it does not say which ONNX op type it answers to".into()));
        }
        for (at, field) in declaration.fields.iter().enumerate() {
            field.check_itself().map_err(refused)?;
            if declaration.fields[..at].iter().any(|other| other.name == field.name) {
                return Err(refused(format!("it declares the field `{}` twice", field.name)));
            }
        }
        let ints = declaration.fields.iter().filter(|field| field.kind == FieldKind::Int);
        let ints: Vec<&str> = ints.map(|field| field.name.as_str()).collect();
        let signature = Signature::parse(&declaration.signature, &ints).map_err(refused)?;
        if declaration.row_wise {
            signature.check_row_wise().map_err(refused)?;
        }
        if let Some(cuda) = fenced(|| Ok(plugin.cuda())).map_err(refused)? {
            cuda.check(&signature, &ints).map_err(refused)?;
        }
        Ok(PluginDef { declaration, signature, library, plugin })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.declaration.name
    }

    /// The version.
    pub fn version(&self) -> u32 {
        self.declaration.version
    }

    /// What the plugin says of itself.
    pub fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    /// Its operands and results.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The library that it came from; `None` for one of this program's own.
    pub fn library(&self) -> Option<&Library> {
        self.library.as_ref()
    }

    /// The library's file, or that it is built in, for messages.
    pub fn origin(&self) -> &str {
        self.library.as_ref().map_or("this program", |library| &library.file)
    }

    /// Source for NVIDIA GPUs.
    pub fn cuda(&self) -> Option<CudaSource> {
        fenced(|| Ok(self.plugin.cuda())).ok().flatten()
    }

    /// The op with these values of its fields.
    ///
    /// # Errors
    /// For a field that is not declared, is missing, has another type or is out of bounds.
    pub fn op(self: &Arc<Self>, given: BTreeMap<String, Field>) -> Result<PluginOp, String> {
        let fields = Fields::new(&self.declaration.fields, given)
            .map_err(|why| format!("plugin `{}`: {why}", self.name()))?;
        Ok(PluginOp { def: self.clone(), fields })
    }
}

/// Why the results' shapes cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeFault {
    /// The plugin's own rule does not take operands of these shapes.
    #[error("its shape rule refuses the operands: {0}")]
    Refused(String),
    /// The operands do not fit the signature, or the plugin contradicts it.
    #[error("{0}")]
    Wrong(String),
}

/// The type of a result; dimensions that are not known become symbols.
fn typed(dtype: DType, dims: Vec<Option<Dim>>, symbols: &mut FreshSymbols) -> TensorType {
    TensorType::new(
        dtype,
        Shape(dims.into_iter().map(|dim| dim.unwrap_or_else(|| symbols.fresh())).collect()),
    )
}

/// A plugin with the values of its fields: what a node computes.
#[derive(Clone, Debug)]
pub struct PluginOp {
    def: Arc<PluginDef>,
    fields: Fields,
}

/// The same op of the same library with the same fields.
impl PartialEq for PluginOp {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&self.def, &other.def);
        let same = a.name() == b.name() && a.version() == b.version() && a.library == b.library;
        same && self.fields == other.fields
    }
}

impl PluginOp {
    /// The plugin.
    pub fn def(&self) -> &Arc<PluginDef> {
        &self.def
    }

    /// The values of all its fields.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    fn named(&self, why: String) -> String {
        format!("plugin `{}`: {why}", self.def.name())
    }

    /// What the names of the signature stand for when the operands have these types.
    ///
    /// # Errors
    /// Which operand does not fit.
    pub fn bind(&self, inputs: &[Option<&TensorType>]) -> Result<super::Binding, String> {
        let ints: Vec<(&str, i64)> = self
            .fields
            .iter()
            .filter_map(|(name, field)| match field {
                Field::Int(value) => Some((name, *value)),
                _ => None,
            })
            .collect();
        self.def.signature.bind(&ints, inputs)
    }

    /// The shape rule: the signature, and with all sizes known the plugin's own rule too.
    pub(crate) fn infer(&self, inputs: &[Option<Fact>], symbols: &mut FreshSymbols) -> Outcome {
        let types: Vec<Option<&TensorType>> =
            inputs.iter().map(|fact| fact.as_ref().map(|fact| &fact.ty)).collect();
        let results = self.results(&types).map_err(|fault| RuleError(self.named(fault.to_string())))?;
        Ok(results.into_iter().map(|(dtype, dims)| Fact::of(typed(dtype, dims, symbols))).collect())
    }

    /// The types of the results for these types of operands. Dimensions that only the plugin's own rule tells are
    /// fresh symbols as long as an operand's size is not known.
    ///
    /// # Errors
    /// See [`ShapeFault`].
    pub fn result_types(&self, inputs: &[Option<&TensorType>]) -> Result<Vec<TensorType>, ShapeFault> {
        let mut symbols = FreshSymbols::starting_at(0);
        let results = self.results(inputs)?;
        Ok(results.into_iter().map(|(dtype, dims)| typed(dtype, dims, &mut symbols)).collect())
    }

    /// Dtype and dimensions of each result; `None` where only the plugin's own rule will know.
    fn results(&self, types: &[Option<&TensorType>]) -> Result<Vec<OpenType>, ShapeFault> {
        let signature = &self.def.signature;
        let mut results =
            self.bind(types).and_then(|binding| signature.results(&binding)).map_err(ShapeFault::Wrong)?;
        let shapes: Option<Vec<Option<Vec<usize>>>> =
            types.iter().map(|ty| ty.map_or(Some(None), |ty| ty.shape.as_const().map(Some))).collect();
        let Some(shapes) = shapes else { return Ok(results) };
        let own = self.own_shapes(&shapes.iter().map(Option::as_deref).collect::<Vec<_>>())?;
        let open = results.iter().any(|(_, dims)| dims.contains(&None));
        match own {
            None if open => Err(ShapeFault::Wrong(
                "its signature leaves a dimension open (`?`), and it has no rule that says its size".into(),
            )),
            None => Ok(results),
            Some(own) => {
                self.agree("shape rule", &results, &own).map_err(ShapeFault::Wrong)?;
                for ((_, dims), own) in results.iter_mut().zip(own) {
                    *dims = own.into_iter().map(|size| Some(Dim::from(size))).collect();
                }
                Ok(results)
            }
        }
    }

    /// What the plugin's own rule says, if it has one.
    fn own_shapes(&self, inputs: &[Option<&[usize]>]) -> Result<Option<Vec<Vec<usize>>>, ShapeFault> {
        let said = fenced(|| Ok(self.def.plugin.shapes(&self.fields, inputs))).map_err(ShapeFault::Wrong)?;
        said.transpose().map_err(ShapeFault::Refused)
    }

    /// What the plugin's rule or reference (`who`) says is what its signature says.
    fn agree(&self, who: &str, declared: &[OpenType], own: &[Vec<usize>]) -> Result<(), String> {
        if declared.len() != own.len() {
            return Err(format!(
                "its {who} gives {} results, but its signature has {}",
                own.len(),
                declared.len()
            ));
        }
        for (index, ((_, dims), own)) in declared.iter().zip(own).enumerate() {
            let fits =
                |(dim, size): (&Option<Dim>, &usize)| dim.as_ref().is_none_or(|dim| *dim == Dim::from(*size));
            if dims.len() != own.len() || !dims.iter().zip(own).all(fits) {
                let dims: Vec<String> =
                    dims.iter().map(|dim| dim.as_ref().map_or("?".into(), ToString::to_string)).collect();
                return Err(format!(
                    "result {index} (`{}`) must be [{}] by its signature, but its {who} says {own:?}",
                    self.def.signature.outputs[index].0,
                    dims.join(", ")
                ));
            }
        }
        Ok(())
    }

    /// The results in f64.
    ///
    /// # Errors
    /// When the operands do not fit the signature, the plugin refuses them, or what it gives is not of the shapes that
    /// it declares.
    pub fn reference(
        &self,
        types: &[Option<&TensorType>],
        inputs: &[Option<&F64Tensor>],
    ) -> Result<Vec<(DType, F64Tensor)>, String> {
        self.checked_reference(types, inputs).map_err(|why| self.named(why))
    }

    fn checked_reference(
        &self,
        types: &[Option<&TensorType>],
        inputs: &[Option<&F64Tensor>],
    ) -> Result<Vec<(DType, F64Tensor)>, String> {
        let declared = self.results(types).map_err(|fault| fault.to_string())?;
        let given = fenced(|| self.def.plugin.reference(&self.fields, inputs))?;
        let shapes: Vec<Vec<usize>> = given.iter().map(|tensor| tensor.shape.clone()).collect();
        self.agree("reference", &declared, &shapes)?;
        for (index, tensor) in given.iter().enumerate() {
            if crate::byte_count(DType::U8, &tensor.shape) != Ok(tensor.values.len()) {
                let (shape, count) = (&tensor.shape, tensor.values.len());
                return Err(format!("result {index} of its reference has {count} elements for {shape:?}"));
            }
        }
        Ok(declared.into_iter().map(|(dtype, _)| dtype).zip(given).collect())
    }

    /// Runs the CPU kernel. Operands and results must be of the types that the shape rule gave.
    ///
    /// # Errors
    /// When the plugin's own rule does not agree with the results' shapes, when the kernel refuses its operands, and
    /// when it panics.
    pub fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Option<TensorViewMut<'_>>],
        threads: &mut dyn Parallel,
    ) -> Result<(), String> {
        self.checked_run(inputs, outputs, threads).map_err(|why| self.named(why))
    }

    fn checked_run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Option<TensorViewMut<'_>>],
        threads: &mut dyn Parallel,
    ) -> Result<(), String> {
        for (index, input) in inputs.iter().enumerate() {
            let Some(TensorView { dtype, shape, bytes }) = input else { continue };
            check_memory(*dtype, shape, bytes).map_err(|why| format!("operand {index}: {why}"))?;
        }
        for (index, output) in outputs.iter().enumerate() {
            let Some(TensorViewMut { dtype, shape, bytes }) = output else { continue };
            check_memory(*dtype, shape, bytes).map_err(|why| format!("result {index}: {why}"))?;
        }
        let shapes: Vec<Option<&[usize]>> =
            inputs.iter().map(|input| input.as_ref().map(|input| input.shape)).collect();
        if let Some(own) = self.own_shapes(&shapes).map_err(|fault| fault.to_string())? {
            for (index, output) in outputs.iter().enumerate() {
                let Some(output) = output else { continue };
                if own.get(index).map(Vec::as_slice) != Some(output.shape) {
                    return Err(format!(
                        "result {index} was planned as {:?}, but its shape rule says {:?}",
                        output.shape,
                        own.get(index)
                    ));
                }
            }
        }
        fenced(AssertUnwindSafe(|| self.def.plugin.run(&self.fields, inputs, outputs, threads)))
    }
}

/// What a kernel relies on: as many bytes as the type says, aligned to the element size.
fn check_memory(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<(), String> {
    let fits = crate::byte_count(dtype, shape) == Ok(bytes.len());
    let aligned = bytes.is_empty() || bytes.as_ptr().align_offset(dtype.size()) == 0;
    if !fits || !aligned {
        return Err(format!(
            "{dtype}{shape:?} does not agree with its {} bytes or their alignment",
            bytes.len()
        ));
    }
    Ok(())
}

/// Calls foreign code; a panic becomes an error.
fn fenced<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result,
        Err(payload) => Err(panic_sentence(&*payload)),
    }
}

/// What is said of foreign code that panicked with `payload`.
pub fn panic_sentence(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("without a message"))
}
