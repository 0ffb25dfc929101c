//! Runs the steps of a program.

use std::time::Instant;

use bertha_graph::plugin::{PluginOp, TensorView, TensorViewMut};
use bertha_graph::{Op, Shape, TensorData, TensorType, rules};
use smallvec::SmallVec;

use super::attention;
use super::buffer::AlignedBuffer;
use super::conv;
use super::encoder::{self, Refusal};
use super::error::RunError;
use super::program::{Kernel, Place, Program, Step, TensorIndex};
use super::workspace::{StepScratch, Workspace};
use crate::generic::{self, TensorMut, TensorRef};
use crate::kernels::Context;

/// Contents of tensors up to this size are shown to the shape rules when a shape depends on data.
const SHOWN_ELEMENTS: usize = 1024;

/// Runs all steps that an output in `mask` needs. With `seconds`, notes the time of each step there.
pub(crate) fn execute(
    program: &Program,
    context: &mut Context,
    workspace: &mut Workspace,
    inputs: &[TensorRef<'_>],
    mask: u64,
    mut seconds: Option<&mut [f64]>,
) -> Result<(), RunError> {
    workspace.prepare(program, inputs)?;
    for (index, step) in program.steps.iter().enumerate() {
        if step.needed_by & mask == 0 {
            continue;
        }
        let start = seconds.is_some().then(Instant::now);
        run_step(program, context, workspace, inputs, index)?;
        if let (Some(seconds), Some(start)) = (seconds.as_deref_mut(), start) {
            seconds[index] = start.elapsed().as_secs_f64();
        }
    }
    Ok(())
}

fn run_step(
    program: &Program,
    context: &mut Context,
    workspace: &mut Workspace,
    inputs: &[TensorRef<'_>],
    index: usize,
) -> Result<(), RunError> {
    let step = &program.steps[index];
    if let Kernel::If { then_branch, else_branch } = &step.kernel {
        return run_branch(program, context, workspace, inputs, index, (then_branch, else_branch));
    }
    for tensor in step.inputs.iter().flatten() {
        workspace.settle(program, *tensor)?;
    }
    if let Some(op) = &step.resolve {
        resolve_shapes(program, workspace, inputs, step, op)?;
    }
    if let Kernel::Linear { .. } = step.kernel {
        expect_next_product(program, context, index);
    }
    // The outputs' slots leave the workspace while the kernel writes them: inputs never share a slot with outputs.
    let mut taken = take_outputs(program, workspace, &step.outputs);
    let result = call_kernel(program, context, workspace, inputs, step, &mut taken);
    for (slot, buffer) in taken.into_iter().flatten() {
        workspace.slots[slot] = buffer;
    }
    result.map_err(|refusal| blame(program, step, refusal))
}

/// Tells the kernels of product `index` which weight comes after its own, so that they fetch its beginning.
fn expect_next_product(program: &Program, context: &mut Context, index: usize) {
    /// Steps to look ahead: further away, what was fetched would be gone.
    const WITHIN: usize = 4;
    let next = program.steps.iter().skip(index + 1).take(WITHIN).find_map(|step| match &step.kernel {
        Kernel::Linear { weight, .. } => weight.operand().ok(),
        _ => None,
    });
    if let Some(next) = next {
        context.expect(&next);
    }
}

/// The error of a step that its kernel refused: the caller's input is named when it is to blame.
fn blame(program: &Program, step: &Step, refusal: Refusal) -> RunError {
    let Refusal { why, operand } = refusal;
    let tensor = operand.and_then(|operand| step.inputs.get(operand).copied().flatten());
    match tensor.map(|tensor| &program.tensors[tensor]) {
        None => RunError::Node { node: step.node.clone(), why },
        Some(tensor) if matches!(tensor.place, Place::Input(_)) => {
            RunError::InputValue { name: tensor.name.clone(), why }
        }
        Some(tensor) => {
            RunError::Node { node: step.node.clone(), why: format!("operand `{}`: {why}", tensor.name) }
        }
    }
}

type Taken = SmallVec<[Option<(usize, AlignedBuffer)>; 4]>;

fn take_outputs(program: &Program, workspace: &mut Workspace, outputs: &[Option<TensorIndex>]) -> Taken {
    outputs
        .iter()
        .map(|output| match program.tensors[(*output)?].place {
            Place::Slot(slot) => Some((slot, std::mem::take(&mut workspace.slots[slot]))),
            Place::Input(_) | Place::Constant(_) => None,
        })
        .collect()
}

fn call_kernel(
    program: &Program,
    context: &mut Context,
    workspace: &mut Workspace,
    inputs: &[TensorRef<'_>],
    step: &Step,
    taken: &mut Taken,
) -> Result<(), Refusal> {
    let mut scratch = std::mem::take(&mut workspace.scratch);
    let result = {
        let operands: SmallVec<[Option<TensorRef<'_>>; 8]> =
            step.inputs.iter().map(|input| Some(workspace.tensor(program, inputs, (*input)?))).collect();
        let mut results: SmallVec<[Option<TensorMut<'_>>; 4]> = step
            .outputs
            .iter()
            .zip(taken.iter_mut())
            .map(|(output, taken)| {
                let (output, (_, buffer)) = ((*output)?, taken.as_mut()?);
                let shape = workspace.shape(output);
                let plan = &program.tensors[output];
                let length = plan.bytes(shape)?;
                Some(TensorMut { dtype: plan.dtype, shape, bytes: &mut buffer.bytes_mut()[..length] })
            })
            .collect();
        dispatch(&step.kernel, context, &operands, &mut results, &mut scratch)
    };
    workspace.scratch = scratch;
    result
}

fn dispatch(
    kernel: &Kernel,
    context: &mut Context,
    operands: &[Option<TensorRef<'_>>],
    results: &mut [Option<TensorMut<'_>>],
    scratch: &mut StepScratch,
) -> Result<(), Refusal> {
    if let Kernel::Generic(op) = kernel {
        return generic::execute(op, operands, results, &mut scratch.generic)
            .map_err(|error| Refusal::from(error.to_string()));
    }
    if let Kernel::Plugin(plugin) = kernel {
        return run_plugin(plugin, context, operands, results);
    }
    if let Kernel::LayerNorm { epsilon } = kernel {
        return encoder::layer_norm(context, operands, *epsilon, results).map_err(Refusal::from);
    }
    if let Kernel::EmbeddingLayerNorm { epsilon, packed } = kernel {
        return encoder::embedding_layer_norm(context, operands, packed, *epsilon, results);
    }
    let Some(Some(y)) = results.first_mut() else { return Ok(()) };
    let result = match kernel {
        Kernel::EmbeddingSum { packed } => return encoder::embedding_sum(context, operands, packed, y),
        Kernel::Linear { weight, activation } => encoder::linear(context, operands, weight, *activation, y),
        Kernel::MatMul => encoder::matmul(context, operands, y),
        Kernel::Conv { attrs, window, weight } => {
            conv::dense(context, operands, (attrs, window, weight), &mut scratch.windows, y)
        }
        Kernel::DepthwiseConv(attrs) => conv::depthwise(context, operands, attrs, y),
        Kernel::RaggedAttention { heads, scale, relative } => {
            encoder::ragged_attention(context, operands, (*heads, *scale), *relative, &mut scratch.bias, y)
        }
        Kernel::Attention(attrs) => attention::dense(context, operands, attrs, y),
        Kernel::Function(function) => encoder::function(context, operands, *function, y),
        Kernel::Arithmetic { op, right } => encoder::arithmetic(context, operands, *op, *right, y),
        Kernel::Softmax => encoder::softmax(context, operands, y),
        Kernel::Pool(kind) => encoder::pool(context, operands, *kind, y),
        Kernel::L2Normalize { epsilon } => encoder::l2_normalize(context, operands, *epsilon, y),
        Kernel::LayerNorm { .. }
        | Kernel::EmbeddingLayerNorm { .. }
        | Kernel::Generic(_)
        | Kernel::Plugin(_)
        | Kernel::If { .. } => Err("not a kernel of one result".into()),
    };
    result.map_err(Refusal::from)
}

fn run_plugin(
    plugin: &PluginOp,
    context: &mut Context,
    operands: &[Option<TensorRef<'_>>],
    results: &mut [Option<TensorMut<'_>>],
) -> Result<(), Refusal> {
    let inputs: SmallVec<[Option<TensorView<'_>>; 8]> = operands
        .iter()
        .map(|operand| operand.map(|TensorRef { dtype, shape, bytes }| TensorView { dtype, shape, bytes }))
        .collect();
    let mut outputs: SmallVec<[Option<TensorViewMut<'_>>; 4]> = results
        .iter_mut()
        .map(|result| {
            let TensorMut { dtype, shape, bytes } = result.as_mut()?;
            Some(TensorViewMut { dtype: *dtype, shape, bytes })
        })
        .collect();
    plugin.run(&inputs, &mut outputs, &mut context.pool).map_err(Refusal::from)
}

/// Asks the shape rule with what the run knows by now, and makes room for the results.
fn resolve_shapes(
    program: &Program,
    workspace: &mut Workspace,
    inputs: &[TensorRef<'_>],
    step: &Step,
    op: &Op,
) -> Result<(), RunError> {
    let refused = |why: String| RunError::Node { node: step.node.clone(), why };
    let mut facts = Vec::with_capacity(step.inputs.len());
    for input in &step.inputs {
        facts.push(match input {
            Some(input) => Some(fact(&workspace.tensor(program, inputs, *input)).map_err(refused)?),
            None => None,
        });
    }
    let mut symbols = rules::FreshSymbols::starting_at(0);
    let results = rules::infer(op, &facts, &mut symbols).map_err(|error| refused(error.to_string()))?;
    for (output, result) in step.outputs.iter().zip(results) {
        let Some(output) = output else { continue };
        let shape = result.ty.shape.as_const().ok_or_else(|| {
            refused(format!("the shape {} of its result cannot be told from its inputs", result.ty.shape))
        })?;
        workspace.resolve(program, *output, &shape)?;
    }
    Ok(())
}

/// What a run knows of a tensor, for the shape rules.
fn fact(tensor: &TensorRef<'_>) -> Result<rules::Fact, String> {
    let shape: Shape = tensor.shape.iter().copied().collect();
    let mut fact = rules::Fact::of(TensorType::new(tensor.dtype, shape));
    let elements = tensor.bytes.len() / tensor.dtype.size();
    if elements <= SHOWN_ELEMENTS {
        let bytes = bytes::Bytes::copy_from_slice(tensor.bytes);
        let data = TensorData::from_bytes(tensor.dtype, tensor.shape.to_vec(), bytes);
        let data = data.map_err(|error| error.to_string())?;
        fact.value = rules::constant_value(&data);
        fact.constant = Some(data);
    }
    Ok(fact)
}

/// Shape and bytes of a branch's output.
type OwnedOutput = (Vec<usize>, Vec<u8>);

/// Runs the branch that the condition picks as a program of its own and copies its outputs.
fn run_branch(
    program: &Program,
    context: &mut Context,
    workspace: &mut Workspace,
    inputs: &[TensorRef<'_>],
    index: usize,
    (then_branch, else_branch): (&Program, &Program),
) -> Result<(), RunError> {
    let step = &program.steps[index];
    let refused = |why: &str| RunError::Node { node: step.node.clone(), why: why.to_owned() };
    for tensor in step.inputs.iter().flatten() {
        workspace.settle(program, *tensor)?;
    }
    let mut branches = std::mem::take(&mut workspace.branches);
    let result: Result<Vec<OwnedOutput>, RunError> = (|| {
        let operands: Option<Vec<TensorRef<'_>>> =
            step.inputs.iter().map(|input| Some(workspace.tensor(program, inputs, (*input)?))).collect();
        let operands = operands.ok_or_else(|| refused("an operand is missing"))?;
        let (condition, captured) = operands.split_first().ok_or_else(|| refused("it has no condition"))?;
        let holds = condition.bytes.first().is_some_and(|byte| *byte != 0);
        let branch = if holds { then_branch } else { else_branch };
        let inner = branches.entry((index, holds)).or_default();
        execute(branch, context, inner, captured, u64::MAX, None)?;
        Ok(branch
            .outputs
            .iter()
            .map(|output| {
                let tensor = inner.tensor(branch, captured, output.tensor);
                (tensor.shape.to_vec(), tensor.bytes.to_vec())
            })
            .collect())
    })();
    workspace.branches = branches;
    for (output, (shape, bytes)) in step.outputs.iter().zip(result?) {
        let Some(output) = *output else { continue };
        workspace.resolve(program, output, &shape)?;
        if let Place::Slot(slot) = program.tensors[output].place {
            workspace.slots[slot].bytes_mut()[..bytes.len()].copy_from_slice(&bytes);
        }
    }
    Ok(())
}
