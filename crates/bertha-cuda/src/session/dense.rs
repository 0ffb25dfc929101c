//! Runs of dense models.
//!
//! For each choice of shapes the graph is specialised, lowered and captured once; the next run with these shapes replays
//! it. The kernels are those of the plan.

use std::sync::Arc;

use bertha_graph::{Shape, TensorData, TensorType};

use super::capture::{Captured, Part, Parts};
use super::workspace::{Kept, Workspace};
use super::{CudaOutput, RunError};
use crate::driver::{CudaError, DeviceBuffer};
use crate::kernels::{LaunchArg, Operand, Rows, Setting};
use crate::model::CudaModel;
use crate::plan::Case;
use crate::program::{Dense, Program};

/// Memory, a stream and captured graphs for runs of one dense model.
#[derive(Debug)]
pub struct DenseSession {
    // It comes first: dropping its stream waits for work that uses what follows.
    workspace: Workspace,
    model: Arc<CudaModel>,
    prepared: Kept<Key, Prepared>,
}

/// What a captured graph is for: the shapes of the inputs, and a bit for each output that is wanted.
type Key = (Vec<Vec<usize>>, u64);

/// Everything of a run that depends on the shapes alone.
#[derive(Debug)]
struct Prepared {
    captured: Captured<Layout>,
    program: Program,
    /// Constants that follow from the shapes.
    _constants: DeviceBuffer,
}

impl DenseSession {
    pub(crate) fn new(model: Arc<CudaModel>) -> Result<Self, CudaError> {
        Ok(DenseSession { workspace: Workspace::new(model.context())?, prepared: Kept::default(), model })
    }

    /// The model.
    pub fn model(&self) -> &Arc<CudaModel> {
        &self.model
    }

    /// Bytes of the card's memory that the session holds besides the weights.
    pub fn memory_bytes(&self) -> usize {
        self.workspace.bytes()
    }

    /// Runs the model on named tensors and hands each of the outputs named in `wanted` (all, when it is empty) to `take`,
    /// in the model's order. Inputs have the types that the graph declares.
    ///
    /// # Errors
    /// When an input does not fit the model, an output is unknown, the graph has nodes without kernels for these shapes,
    /// an index is outside of its operand, or the card refuses.
    pub fn run(
        &mut self,
        inputs: &[(&str, &TensorData)],
        wanted: &[&str],
        mut take: impl FnMut(CudaOutput<'_>),
    ) -> Result<(), RunError> {
        let inputs = self.in_order(inputs)?;
        let shapes = inputs.iter().map(|data| data.shape().to_vec()).collect();
        let key = (shapes, super::wanted_mask(&self.model.program().outputs, wanted)?);
        self.prepare(&key, &inputs)?;
        let prepared = self.prepared.get(&key).ok_or(RunError::Order("no graph was captured"))?;
        let (program, layout) = (&prepared.program, &prepared.captured.layout);
        let outputs = outputs(program, key.1);
        let end = outputs.last().map_or(FAULT_BYTES, |output| output.offset + output.bytes);
        self.workspace.make_room_for_results(end)?;
        layout.write(&inputs, self.workspace.staging.as_mut_slice());
        let queued = self.workspace.queue(prepared, &outputs);
        // Also after a failure: what was queued before it may still read the pinned memory that the next run writes.
        let done = self.workspace.stream.synchronize();
        queued?;
        done?;
        self.workspace.has_run = true;
        let results = self.workspace.results.as_slice();
        let fault = i32::from_le_bytes([results[0], results[1], results[2], results[3]]);
        if let Some(number) = usize::try_from(fault).ok().and_then(|fault| fault.checked_sub(1)) {
            let faults = program.dense.as_ref().map_or(&[][..], |dense| &dense.faults);
            return Err(RunError::Index { node: faults.get(number).cloned().unwrap_or_default() });
        }
        for Output { index, shape, offset, bytes } in &outputs {
            let plan = &program.outputs[*index];
            let bytes = &results[*offset..offset + bytes];
            take(CudaOutput { name: &plan.name, dtype: plan.dtype, shape, bytes });
        }
        Ok(())
    }

    /// Seconds that the card worked on the last run, inputs on the card to outputs on the card; `None` before a run.
    ///
    /// # Errors
    /// What the card says of the run.
    pub fn device_seconds(&self) -> Result<Option<f64>, RunError> {
        Ok(self.workspace.device_seconds()?)
    }

    /// Fills the memory of intermediate tensors and results with NaN, so that a self test sees what nobody writes.
    ///
    /// # Errors
    /// When the card refuses.
    pub fn poison(&mut self) -> Result<(), RunError> {
        Ok(self.workspace.poison()?)
    }

    /// The inputs in the graph's order; missing, unknown and wrongly typed ones are errors.
    fn in_order<'a>(&self, inputs: &[(&str, &'a TensorData)]) -> Result<Vec<&'a TensorData>, RunError> {
        let graph = self.model.plan().dense_graph().ok_or(RunError::Order("the model is not dense"))?;
        let declared = || graph.inputs().iter().map(|id| graph.tensor(*id));
        if let Some((name, _)) = inputs.iter().find(|(name, _)| declared().all(|input| input.name != *name)) {
            return Err(RunError::Dense(format!("the model has no input `{name}`")));
        }
        declared()
            .map(|input| {
                let wrong =
                    |why: &str| RunError::Dense(format!("input `{}` ({}): {why}", input.name, input.ty));
                let given = inputs.iter().find(|(name, _)| *name == input.name);
                let (_, data) = given.ok_or_else(|| wrong("it is missing"))?;
                match data.dtype() == input.ty.dtype {
                    true => Ok(*data),
                    false => Err(wrong(&format!("found {}", data.dtype()))),
                }
            })
            .collect()
    }

    /// Specialises, lowers and captures the graph for the inputs' shapes, where that has not been done yet.
    fn prepare(&mut self, key: &Key, inputs: &[&TensorData]) -> Result<(), RunError> {
        if self.prepared.contains(key) {
            return Ok(());
        }
        let model = self.model.clone();
        let types: Vec<TensorType> = inputs
            .iter()
            .map(|data| {
                TensorType::new(data.dtype(), Shape(data.shape().iter().map(|dim| (*dim).into()).collect()))
            })
            .collect();
        let Case { program, constants } = model.plan().case(&types)?;
        let setting = model.base_setting();
        if let Some((node, blocks)) = program.too_large(&setting) {
            let why =
                format!("inputs of these shapes take {blocks} blocks for `{node}`, more than a launch has");
            return Err(RunError::Dense(why));
        }
        let layout = Layout::new(&program, &setting);
        let (offsets, arena_bytes) = program.arena.offsets(&setting);
        self.workspace.make_room(layout.bytes, arena_bytes, &mut self.prepared)?;
        let (context, mut blob, mut places) = (model.context(), Vec::new(), Vec::new());
        for constant in &constants {
            blob.resize(blob.len().next_multiple_of(ALIGNMENT), 0);
            places.push(match constant {
                crate::plan::Constant::OfPlan(index) => Err(*index),
                crate::plan::Constant::OfCase(bytes) => {
                    let at = blob.len();
                    blob.extend_from_slice(bytes);
                    Ok(at)
                }
            });
        }
        let constants = DeviceBuffer::from_slice(context, &blob, "constants")?;
        let weights = |index: usize| match places[index] {
            Ok(offset) => constants.address() + offset as u64,
            Err(index) => model.weight_address(index),
        };
        let bases = self.workspace.bases(&model, &program, &weights);
        let captured = Captured::new(bases, &setting, layout, &offsets, key.1)?;
        self.prepared.make_room();
        self.prepared.insert(key.clone(), Prepared { captured, program, _constants: constants });
        Ok(())
    }
}

impl Workspace {
    /// Copies the inputs to the card, replays their graph, and copies the word for faults and the outputs back.
    fn queue(&mut self, prepared: &Prepared, outputs: &[Output]) -> Result<(), CudaError> {
        let Prepared { captured, program, .. } = prepared;
        self.inputs.copy_from(&self.stream, &self.staging, captured.layout.bytes)?;
        self.replay(&captured.graph)?;
        // SAFETY: the inputs' memory begins with the word for faults; results are read after the stream has passed.
        unsafe { self.results.copy_from_device(&self.stream, self.inputs.address(), 0, FAULT_BYTES)? };
        for output in outputs {
            let address = captured.tensor_address(program.outputs[output.index].tensor);
            // SAFETY: the address is that of a tensor in a place with room for its shape; as above.
            unsafe { self.results.copy_from_device(&self.stream, address, output.offset, output.bytes)? };
        }
        Ok(())
    }
}

/// An output on its way back.
struct Output {
    index: usize,
    shape: Vec<usize>,
    offset: usize,
    bytes: usize,
}

/// The wanted outputs, behind the word for faults.
fn outputs(program: &Program, wanted: u64) -> Vec<Output> {
    let mut end = FAULT_BYTES;
    let mut outputs = Vec::new();
    for (index, output) in program.outputs.iter().enumerate().filter(|(index, _)| wanted & (1 << index) != 0)
    {
        let tensor = &program.tensors[output.tensor];
        let shape = Shape(tensor.dims.clone()).as_const().unwrap_or_default();
        let bytes = shape.iter().product::<usize>() * tensor.storage.bytes();
        let offset = end.next_multiple_of(64);
        end = offset + bytes;
        outputs.push(Output { index, shape, offset, bytes });
    }
    outputs
}

/// The word in which kernels tell of indices outside of their operand, the first of the inputs' memory.
const FAULT_BYTES: usize = 4;
const BATCH_BYTES: usize = 16;
const ALIGNMENT: usize = 256;

/// Where the parts of a run's inputs lie in their piece of memory.
#[derive(Debug)]
struct Layout {
    /// Numbers of rows that kernels read, each in a `Batch` of its own behind the word for faults.
    rows: Vec<usize>,
    /// Offsets of the inputs.
    inputs: Vec<usize>,
    bytes: usize,
}

impl Layout {
    fn new(program: &Program, setting: &Setting) -> Self {
        let mut rows = Vec::new();
        for argument in program.launches(setting).iter().flat_map(|launch| &launch.args) {
            if let LaunchArg::Address(Operand::Batch(Rows::Fixed(count))) = argument
                && !rows.contains(count)
            {
                rows.push(*count);
            }
        }
        let mut end = BATCH_BYTES * (1 + rows.len());
        let given = program.dense.as_ref().map_or(&[][..], |Dense { inputs, .. }| inputs);
        let place = |input: &crate::program::GivenInput| {
            let offset = end.next_multiple_of(ALIGNMENT);
            end = offset + input.bytes().max(input.spare_bytes);
            offset
        };
        let inputs = given.iter().map(place).collect();
        Layout { rows, inputs, bytes: end.next_multiple_of(ALIGNMENT) }
    }

    fn write(&self, inputs: &[&TensorData], memory: &mut [u8]) {
        memory[..BATCH_BYTES].fill(0);
        for (index, count) in self.rows.iter().enumerate() {
            let at = BATCH_BYTES * (1 + index);
            let batch = [*count as i32, *count as i32, 0, 0];
            memory[at..at + BATCH_BYTES].copy_from_slice(bytemuck::cast_slice(&batch));
        }
        for (data, at) in inputs.iter().zip(&self.inputs) {
            memory[*at..at + data.bytes().len()].copy_from_slice(data.bytes());
        }
    }
}

impl Parts for Layout {
    fn offset(&self, part: Part) -> usize {
        match part {
            Part::Given(input) => self.inputs[input],
            Part::Batch(Rows::Fixed(count)) => {
                let index = self.rows.iter().position(|rows| *rows == count);
                BATCH_BYTES * (1 + index.unwrap_or(0))
            }
            Part::Batch(Rows::Tokens | Rows::Sequences) | Part::Input(_) | Part::WorkList | Part::Fault => 0,
        }
    }
}
