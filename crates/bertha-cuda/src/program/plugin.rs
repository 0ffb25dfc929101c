//! Plugins' own kernels as steps.

use bertha_graph::plugin::{Binding, CudaSource, Element, Field, PluginOp};
use bertha_graph::{DType, Dim, Node, Shape, TensorId, TensorType};

use super::generate::Read;
use super::lower::{Lowered, Lowering};
use super::step::{CudaStep, TensorIndex};
use super::{Storage, WeightForm};
use crate::driver::MOST_ARGS;
use crate::kernels::{KernelSpec, Launch, LaunchArg, Operand, Setting};

/// A plugin's kernel with what it is given.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginStep {
    /// The kernel.
    pub kernel: KernelSpec,
    /// The operands; `None` for an absent one.
    pub operands: Vec<Option<Read>>,
    /// The results.
    pub results: Vec<TensorIndex>,
    /// The sizes that its signature names.
    pub sizes: Vec<Dim>,
    /// Its fields that are numbers.
    pub fields: Vec<Number>,
    /// How many items there are.
    pub items: Dim,
    /// Threads of a block.
    pub block: u32,
    /// Items of one block.
    pub items_per_block: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Number {
    Int(i64),
    Float(f64),
}

impl PluginStep {
    /// The tensors that it reads.
    pub(super) fn tensors(&self) -> impl Iterator<Item = TensorIndex> + '_ {
        self.operands.iter().flatten().filter_map(Read::tensor)
    }

    /// The launch for a batch of this capacity: a plugin's kernel is told the rows that there is room for. Those beyond the
    /// batch's hold anything, and what it makes of them is read by nobody.
    ///
    /// It does not wait by itself, so it must not start before the kernel in front of it is done.
    pub(super) fn launch(&self, setting: &Setting) -> Launch {
        let bindings = setting.bindings();
        let value = |dim: &Dim| dim.eval(&bindings).unwrap_or(0);
        let pointer = |operand: &Option<Read>| match operand {
            Some(read) => LaunchArg::Address(read.operand()),
            None => LaunchArg::Address(Operand::Null),
        };
        let mut args: Vec<LaunchArg> = self.operands.iter().map(pointer).collect();
        args.extend(self.results.iter().map(|y| LaunchArg::Address(Operand::Tensor(*y))));
        args.extend(self.sizes.iter().map(|size| LaunchArg::Long(value(size))));
        args.extend(self.fields.iter().map(|field| match field {
            Number::Int(value) => LaunchArg::Long(*value),
            Number::Float(value) => LaunchArg::Double(*value),
        }));
        let items = usize::try_from(value(&self.items)).unwrap_or(0);
        let blocks = items.div_ceil(self.items_per_block.max(1) as usize);
        let mut config = setting.config(blocks, self.block, self.shared_bytes as usize);
        config.overlaps = false;
        Launch { kernel: self.kernel.clone(), config, args }
    }
}

/// Appends the step of a plugin's node.
pub(super) fn lower(lowering: &mut Lowering<'_>, node: &Node, op: &PluginOp) -> Lowered<()> {
    let def = op.def();
    let named = |why: &str| format!("plugin {} {why}", def.name());
    let cuda = def.cuda().ok_or_else(|| named("without CUDA source"))?;
    if lowering.is_ragged() && !def.declaration().row_wise && has_symbols(lowering, node) {
        return Err(named("that does not work row by row, over a batch without padding"));
    }
    let types = types(lowering, node, op)?;
    let given: Vec<Option<&TensorType>> = types.iter().map(Option::as_ref).collect();
    let binding = op.bind(&given).map_err(|why| named(&format!("on a GPU: {why}")))?;
    let operands = node
        .inputs
        .iter()
        .zip(&types)
        .map(|(id, ty)| match (id, ty) {
            (Some(id), Some(ty)) => operand(lowering, node, *id, ty.dtype).map(Some),
            _ => Ok(None),
        })
        .collect::<Lowered<Vec<Option<Read>>>>()?;
    let absent = def.signature().inputs.len().saturating_sub(operands.len());
    let operands: Vec<Option<Read>> = operands.into_iter().chain(vec![None; absent]).collect();
    let mut results = Vec::new();
    for (index, (dtype, dims)) in def.signature().results(&binding)?.into_iter().enumerate() {
        let storage = Storage::of_dtype(dtype).ok_or_else(|| named(&format!("with a result of {dtype}")))?;
        let dims: Option<Vec<Dim>> = dims.into_iter().collect();
        let dims = dims.ok_or_else(|| named("with a result whose size its signature leaves open"))?;
        results.push(match node.outputs.get(index).copied().flatten() {
            Some(y) => lowering.write(y, storage),
            // Nobody reads it, but the kernel writes it.
            None => lowering.scratch(format!("{} result {index}", node.name), dims, storage),
        });
    }
    let step = PluginStep { operands, results, ..step_of(op, &cuda, &binding)? };
    if step.operands.len() + step.results.len() + step.sizes.len() + step.fields.len() > MOST_ARGS {
        return Err(named(&format!("whose kernel has more than {MOST_ARGS} parameters")));
    }
    lowering.push(node.name.clone(), CudaStep::Plugin(step));
    Ok(())
}

/// The kernel and the numbers that it is given.
fn step_of(op: &PluginOp, cuda: &CudaSource, binding: &Binding) -> Lowered<PluginStep> {
    let def = op.def();
    let signature = def.signature();
    let plugin = format!("{}@{}", def.name(), def.version());
    let kernel = KernelSpec {
        generated: Some(cuda.source.as_str().into()),
        plugin: Some(plugin.into()),
        ..KernelSpec::file(&cuda.entry_of(signature, binding))
    };
    let declared = def.declaration().fields.iter();
    let values = declared.filter_map(|spec| op.fields().iter().find(|(name, _)| *name == spec.name));
    let fields = values.filter_map(|(_, field)| match field {
        Field::Int(value) => Some(Number::Int(*value)),
        Field::Float(value) => Some(Number::Float(*value)),
        Field::Text(_) | Field::Ints(_) | Field::Floats(_) => None,
    });
    Ok(PluginStep {
        kernel,
        operands: Vec::new(),
        results: Vec::new(),
        // A name that only an absent operand has is 0.
        sizes: signature.names().iter().map(|name| size_of(binding, name)).collect(),
        fields: fields.collect(),
        items: cuda.items_of(binding)?,
        block: cuda.block,
        items_per_block: cuda.items_per_block,
        shared_bytes: cuda.shared_bytes,
    })
}

fn size_of(binding: &Binding, name: &std::sync::Arc<str>) -> Dim {
    match (binding.dims.get(name), binding.runs.get(name)) {
        (Some(dim), _) => dim.clone(),
        (None, Some(run)) => Shape(run.clone()).elements(),
        (None, None) => Dim::from(0usize),
    }
}

/// The operands' types as the kernel will see them: dtype variables become the engine's precision where the plugin has
/// it among its choices, and stay what they are in the graph elsewhere.
fn types(lowering: &Lowering<'_>, node: &Node, op: &PluginOp) -> Lowered<Vec<Option<TensorType>>> {
    let signature = op.def().signature();
    let precision = lowering.activations().dtype();
    let as_seen = |(index, id): (usize, &Option<TensorId>)| {
        let ty = &lowering.graph.tensor((*id)?).ty;
        let dtype = match signature.inputs.get(index).map(|operand| operand.element) {
            Some(Element::Variable(variable)) if ty.dtype.is_float() => {
                let choices = signature.variables.get(variable).map(|(_, choices)| choices.as_slice());
                let has_it = choices.is_some_and(|choices| choices.contains(&precision));
                if has_it { precision } else { ty.dtype }
            }
            _ => ty.dtype,
        };
        Some(TensorType::new(dtype, ty.shape.clone()))
    };
    Ok(node.inputs.iter().enumerate().map(as_seen).collect())
}

/// An operand in the type that the kernel takes; a tensor of another type is converted by a step of its own.
fn operand(lowering: &mut Lowering<'_>, node: &Node, id: TensorId, dtype: DType) -> Lowered<Read> {
    let name = || format!("operand {} as {dtype}", lowering.graph.tensor(id).name);
    let storage = Storage::of_dtype(dtype).ok_or_else(name)?;
    if lowering.constant(id).is_some() {
        let form = match storage {
            _ if storage == lowering.activations() => WeightForm::Rows,
            Storage::F32 => WeightForm::F32,
            Storage::I32 => WeightForm::I32,
            Storage::I64 => WeightForm::I64,
            Storage::Bool => WeightForm::Bool,
            Storage::F16 | Storage::Bf16 => return Err(name()),
        };
        return Ok(Read::Weight(lowering.weight(id, form)));
    }
    let tensor = lowering.read(id)?;
    Ok(Read::Tensor(lowering.in_storage(node, tensor, storage)?))
}

/// Whether the size of an operand depends on the batch.
fn has_symbols(lowering: &Lowering<'_>, node: &Node) -> bool {
    let dims = |id: &TensorId| lowering.graph.tensor(*id).ty.shape.dims();
    node.inputs.iter().flatten().any(|id| dims(id).iter().any(|dim| !dim.is_const()))
}
