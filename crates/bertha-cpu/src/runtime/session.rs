//! Runs of a model.

use std::io;
use std::sync::Arc;

use bertha_compile::Precision;
use bertha_graph::{DType, TensorData};
use smallvec::SmallVec;

use super::error::RunError;
use super::execute::execute;
use super::model::CpuModel;
use super::program::Program;
use super::workspace::Workspace;
use crate::generic::TensorRef;
use crate::kernels::gemm::PackedType;
use crate::kernels::{Context, peak};

/// Memory and threads for runs of one model. Sessions of one model share its weights and may run at the same time,
/// each on its own threads. After the first run of the largest batch a run allocates nothing.
pub struct CpuSession {
    model: Arc<CpuModel>,
    context: Context,
    workspace: Workspace,
}

/// A result, in the session's memory until the next run.
#[derive(Clone, Copy, Debug)]
pub struct OutputRef<'a> {
    /// The output's name.
    pub name: &'a str,
    /// Its element type.
    pub dtype: DType,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its elements, little-endian, aligned to the element size.
    pub bytes: &'a [u8],
}

impl<'a> OutputRef<'a> {
    /// The elements, when they are `f32`.
    pub fn as_f32(&self) -> Option<&'a [f32]> {
        (self.dtype == DType::F32).then(|| bytemuck::cast_slice(self.bytes))
    }

    /// A copy that outlives the session.
    pub fn to_data(&self) -> Result<TensorData, RunError> {
        TensorData::from_bytes(self.dtype, self.shape.to_vec(), bytes::Bytes::copy_from_slice(self.bytes))
            .map_err(|why| RunError::Node { node: self.name.to_owned(), why: why.to_string() })
    }
}

/// Time that one step took in the last run.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTime {
    /// The graph node.
    pub node: String,
    /// The kernel.
    pub kernel: &'static str,
    /// Seconds.
    pub seconds: f64,
}

impl CpuSession {
    pub(crate) fn new(model: Arc<CpuModel>, threads: usize) -> io::Result<Self> {
        let context = Context::new(model.isa(), threads)?;
        Ok(CpuSession { model, context, workspace: Workspace::default() })
    }

    /// The model.
    pub fn model(&self) -> &Arc<CpuModel> {
        &self.model
    }

    /// Tier, threads and scratch.
    pub(super) fn context(&mut self) -> &mut Context {
        &mut self.context
    }

    /// Threads that a run uses, the caller included.
    pub fn threads(&self) -> usize {
        self.context.threads()
    }

    /// GFLOP/s of multiply-adds that its threads reach together in the model's precision, measured now.
    pub fn peak_gflops(&mut self) -> f64 {
        let dtype = match self.model.precision() {
            Precision::Bf16 => PackedType::Bf16,
            Precision::F32 | Precision::F16 => PackedType::F32,
        };
        peak::multiply_gflops(&mut self.context, dtype)
    }

    /// Bytes of memory that the session holds for intermediate tensors and scratch.
    pub fn memory_bytes(&self) -> usize {
        self.workspace.bytes() + self.context.scratch_bytes()
    }

    /// Runs the model and hands each of the outputs named in `wanted` (all, when it is empty) to `take`, in the
    /// model's order. Steps that no wanted output needs are left out. Inputs are found by name, never by position.
    pub fn run(
        &mut self,
        inputs: &[(&str, TensorRef<'_>)],
        wanted: &[&str],
        mut take: impl FnMut(OutputRef<'_>) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        let model = self.model.clone();
        let inputs = in_order(&model, inputs)?;
        let mask = wanted_mask(&model, wanted)?;
        let program = model.program(&inputs)?;
        self.context.measure_distance();
        execute(&program, &mut self.context, &mut self.workspace, &inputs, mask, None)?;
        self.hand_out(&program, &inputs, mask, &mut take)
    }

    /// As [`Self::run`] with all outputs, but only for the time that each step takes.
    pub fn profile(
        &mut self,
        inputs: &[(&str, TensorRef<'_>)],
        wanted: &[&str],
    ) -> Result<Vec<StepTime>, RunError> {
        let model = self.model.clone();
        let inputs = in_order(&model, inputs)?;
        let mask = wanted_mask(&model, wanted)?;
        let program = model.program(&inputs)?;
        let mut seconds = vec![0.0; program.steps.len()];
        self.context.measure_distance();
        execute(&program, &mut self.context, &mut self.workspace, &inputs, mask, Some(&mut seconds))?;
        let steps = program.steps.iter().zip(seconds);
        Ok(steps
            .map(|(step, seconds)| StepTime { node: step.node.clone(), kernel: step.kernel.name(), seconds })
            .collect())
    }

    fn hand_out(
        &self,
        program: &Program,
        inputs: &[TensorRef<'_>],
        mask: u64,
        take: &mut impl FnMut(OutputRef<'_>) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        for (index, output) in program.outputs.iter().enumerate() {
            if mask & (1 << index) == 0 {
                continue;
            }
            let tensor = self.workspace.tensor(program, inputs, output.tensor);
            take(OutputRef {
                name: &output.name,
                dtype: tensor.dtype,
                shape: tensor.shape,
                bytes: tensor.bytes,
            })?;
        }
        Ok(())
    }
}

/// The inputs in the graph's order; missing, unknown and wrongly typed ones are errors.
fn in_order<'a>(
    model: &CpuModel,
    inputs: &[(&str, TensorRef<'a>)],
) -> Result<SmallVec<[TensorRef<'a>; 8]>, RunError> {
    let graph = model.graph();
    let expected = || {
        let list =
            graph.inputs().iter().map(|id| format!("{}: {}", graph.tensor(*id).name, graph.tensor(*id).ty));
        list.collect::<Vec<_>>().join(", ")
    };
    for (name, _) in inputs {
        let known = graph.inputs().iter().any(|id| graph.tensor(*id).name == *name);
        if !known {
            return Err(RunError::UnknownInput { name: (*name).to_owned(), expected: expected() });
        }
    }
    let mut ordered = SmallVec::new();
    for id in graph.inputs() {
        let tensor = graph.tensor(*id);
        let Some((_, data)) = inputs.iter().find(|(name, _)| *name == tensor.name) else {
            return Err(RunError::MissingInput { name: tensor.name.clone(), expected: expected() });
        };
        if data.dtype != tensor.ty.dtype {
            let (expected, actual) = (tensor.ty.dtype, data.dtype);
            return Err(RunError::InputDType { name: tensor.name.clone(), expected, actual });
        }
        ordered.push(*data);
    }
    Ok(ordered)
}

fn wanted_mask(model: &CpuModel, wanted: &[&str]) -> Result<u64, RunError> {
    let outputs = model.graph().outputs();
    if wanted.is_empty() {
        return Ok(u64::MAX);
    }
    let mut mask = 0;
    for name in wanted {
        let Some(index) = outputs.iter().position(|(output, _)| output == name) else {
            let expected = outputs.iter().map(|(output, _)| output.as_str()).collect::<Vec<_>>().join(", ");
            return Err(RunError::UnknownOutput { name: (*name).to_owned(), expected });
        };
        mask |= 1 << index;
    }
    Ok(mask)
}
