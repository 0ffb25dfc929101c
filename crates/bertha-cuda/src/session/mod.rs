//! Runs of a model on a card.
//!
//! A run writes its batch into pinned memory, copies it to the card, replays the graph that was captured for the batch's
//! buckets, and copies the wanted outputs back. Once each setting has run, nothing is allocated any more,
//! as long as they are no more than are kept.

mod batch;
mod capture;
mod dense;
mod profile;
mod timing;
mod workspace;

use std::sync::Arc;

use bertha_graph::{Bindings, DType};

pub use batch::{BatchError, RaggedInputs};
pub use dense::DenseSession;
pub use profile::StepTime;

use crate::driver::{CudaError, Event};
use crate::kernels::Setting;
use crate::model::CudaModel;
use crate::plan::PlanError;
use crate::program::{OutputPlan, Program};
use batch::Layout;
use capture::Captured;
use workspace::{Kept, Workspace};

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The batch does not fit the model.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The card or its driver refused.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// An output that the model does not have.
    #[error("the model has no output `{name}`; it has {expected}")]
    UnknownOutput {
        /// The name asked for.
        name: String,
        /// Those that there are.
        expected: String,
    },
    /// Inputs that a dense model does not take.
    #[error("{0}")]
    Dense(String),
    /// The model does not run on the GPU for inputs of these shapes.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A node found an index for which its operand has no element.
    #[error("node `{node}`: an index is outside of what it is taken from")]
    Index {
        /// The graph node.
        node: String,
    },
    /// A run was asked for while another was under way, or waited for without one.
    #[error("{0}")]
    Order(&'static str),
}

/// A result, in the session's pinned memory until the next run.
#[derive(Clone, Copy, Debug)]
pub struct CudaOutput<'a> {
    /// The output's name.
    pub name: &'a str,
    /// Its element type.
    pub dtype: DType,
    /// Its shape.
    pub shape: &'a [usize],
    /// Its elements, little-endian.
    pub bytes: &'a [u8],
}

/// Memory, a stream and captured graphs for runs of one model. Sessions of one model share its weights and may run at
/// the same time, each from its own thread.
#[derive(Debug)]
pub struct CudaSession {
    // It comes first: dropping its stream waits for work that uses what follows.
    workspace: Workspace,
    model: Arc<CudaModel>,
    captured: Kept<Key, Captured<Layout>>,
    /// The results have been copied back.
    copied: Event,
    /// Scratch for the order of the work list.
    order: Vec<u32>,
    bindings: Bindings,
    /// The outputs of the run under way, or of the last one.
    outputs: Vec<Pending>,
    is_running: bool,
}

/// What a captured graph is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    setting: Setting,
    /// Outputs that are wanted, one bit each.
    wanted: u64,
}

/// An output on its way back.
#[derive(Debug, Default)]
struct Pending {
    index: usize,
    shape: Vec<usize>,
    offset: usize,
    bytes: usize,
}

impl CudaSession {
    pub(crate) fn new(model: Arc<CudaModel>) -> Result<Self, CudaError> {
        let context = model.context();
        Ok(CudaSession {
            workspace: Workspace::new(context)?,
            captured: Kept::default(),
            copied: Event::new(context)?,
            order: Vec::new(),
            bindings: Bindings::from([("tokens".into(), 0), ("batch".into(), 0)]),
            outputs: Vec::new(),
            is_running: false,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<CudaModel> {
        &self.model
    }

    /// Bytes of the card's memory that the session holds besides the weights.
    pub fn memory_bytes(&self) -> usize {
        self.workspace.bytes()
    }

    /// Runs the model and hands each of the outputs named in `wanted` (all, when it is empty) to `take`, in the model's
    /// order. Steps that no wanted output needs are left out.
    ///
    /// # Errors
    /// When the batch does not fit the model, an output is unknown, or the card refuses.
    pub fn run(
        &mut self,
        batch: &RaggedInputs<'_>,
        wanted: &[&str],
        take: impl FnMut(CudaOutput<'_>),
    ) -> Result<(), RunError> {
        self.submit(batch, wanted)?;
        self.wait(take)
    }

    /// Queues a run and returns while the card works on it; [`Self::wait`] hands out the outputs.
    ///
    /// # Errors
    /// As for [`Self::run`], and when a run is under way already.
    pub fn submit(&mut self, batch: &RaggedInputs<'_>, wanted: &[&str]) -> Result<(), RunError> {
        if self.is_running {
            return Err(RunError::Order("a run is under way: wait for it first"));
        }
        let model = self.model.clone();
        let program = model.program();
        batch.check(program)?;
        let key = self.key(batch, wanted)?;
        self.prepare(&key, batch)?;
        self.plan_outputs(program, batch, key.wanted)?;
        if batch.tokens() == 0 {
            // There is nothing to compute: outputs per token are empty. Those of sequences are zeros here, without the
            // biases of heads, which an empty sequence beside others gets.
            self.workspace.results.as_mut_slice().fill(0);
            self.copied.record(&self.workspace.stream)?;
            self.is_running = true;
            self.workspace.has_run = false;
            return Ok(());
        }
        let queued = self.queue(&key, batch, program);
        if queued.is_err() {
            // What was queued before the failure may still read the pinned memory that the next run writes. The failure
            // is the news, whatever the wait says.
            let _ = self.workspace.stream.synchronize();
        }
        self.is_running = queued.is_ok();
        self.workspace.has_run = queued.is_ok();
        queued
    }

    /// Copies a checked batch to the card, replays its graph, and copies the outputs back.
    fn queue(&mut self, key: &Key, batch: &RaggedInputs<'_>, program: &Program) -> Result<(), RunError> {
        let captured = self.captured.get(key).ok_or(RunError::Order("no graph was captured"))?;
        let workspace = &mut self.workspace;
        captured.layout.write(batch, workspace.staging.as_mut_slice(), &mut self.order);
        workspace.inputs.copy_from(&workspace.stream, &workspace.staging, captured.layout.bytes)?;
        workspace.replay(&captured.graph)?;
        for output in &self.outputs {
            let address = captured.tensor_address(program.outputs[output.index].tensor);
            // SAFETY: the address is that of a tensor in the arena whose slot holds a batch of this capacity, so that
            // many bytes are there; results are read after `copied` only.
            unsafe {
                workspace.results.copy_from_device(&workspace.stream, address, output.offset, output.bytes)?
            };
        }
        self.copied.record(&workspace.stream)?;
        Ok(())
    }

    /// Waits for the run that was submitted and hands out its outputs.
    ///
    /// # Errors
    /// When no run is under way, or what the card says of it.
    pub fn wait(&mut self, mut take: impl FnMut(CudaOutput<'_>)) -> Result<(), RunError> {
        if !self.is_running {
            return Err(RunError::Order("no run is under way: submit one first"));
        }
        self.is_running = false;
        self.copied.wait()?;
        let program = self.model.program();
        for output in &self.outputs {
            let plan = &program.outputs[output.index];
            let bytes = &self.workspace.results.as_slice()[output.offset..output.offset + output.bytes];
            take(CudaOutput { name: &plan.name, dtype: plan.dtype, shape: &output.shape, bytes });
        }
        Ok(())
    }

    /// Whether the run that was submitted is done.
    ///
    /// # Errors
    /// What the card says of it.
    pub fn is_done(&self) -> Result<bool, RunError> {
        Ok(!self.is_running || self.copied.is_done()?)
    }

    /// Seconds that the card worked on the last run, inputs on the card to outputs on the card; `None` before a run, and
    /// after a batch without tokens, for which the card has no work.
    ///
    /// # Errors
    /// When the run is not done.
    pub fn device_seconds(&self) -> Result<Option<f64>, RunError> {
        Ok(self.workspace.device_seconds()?)
    }

    /// Fills the memory of intermediate tensors and results with NaN, so that a self test sees what nobody writes.
    ///
    /// # Errors
    /// When a run is under way, or the card refuses.
    pub fn poison(&mut self) -> Result<(), RunError> {
        if self.is_running {
            return Err(RunError::Order("a run is under way: wait for it first"));
        }
        Ok(self.workspace.poison()?)
    }

    fn key(&self, batch: &RaggedInputs<'_>, wanted: &[&str]) -> Result<Key, RunError> {
        let mask = wanted_mask(&self.model.program().outputs, wanted)?;
        let base = self.model.base_setting();
        let setting = base.for_batch(batch.tokens(), batch.sequences(), batch.longest());
        Ok(Key { setting, wanted: mask })
    }

    /// Makes room for batches of the key's capacity and captures their graph, where that has not been done yet.
    fn prepare(&mut self, key: &Key, batch: &RaggedInputs<'_>) -> Result<(), RunError> {
        if self.captured.contains(key) {
            return Ok(());
        }
        let model = self.model.clone();
        let setting = key.setting;
        batch.check_capacity(model.program(), &setting)?;
        let layout = Layout::new(&setting, model.program().query_block(&setting));
        let (offsets, arena_bytes) = model.program().arena.offsets(&setting);
        self.workspace.make_room(layout.bytes, arena_bytes, &mut self.captured)?;
        self.captured.make_room();
        let weights = |index| model.weight_address(index);
        let bases = self.workspace.bases(&model, model.program(), &weights);
        let captured = Captured::new(bases, &setting, layout, &offsets, key.wanted)?;
        self.captured.insert(*key, captured);
        Ok(())
    }

    /// Shapes and places of the wanted outputs for this batch.
    fn plan_outputs(
        &mut self,
        program: &Program,
        batch: &RaggedInputs<'_>,
        wanted: u64,
    ) -> Result<(), RunError> {
        for (name, value) in [("tokens", batch.tokens()), ("batch", batch.sequences())] {
            if let Some(bound) = self.bindings.get_mut(name) {
                *bound = value as i64;
            }
        }
        let mut end = 0;
        let mut count = 0;
        for (index, output) in program.outputs.iter().enumerate() {
            if wanted & (1 << index) == 0 {
                continue;
            }
            if self.outputs.len() == count {
                self.outputs.push(Pending::default());
            }
            let tensor = &program.tensors[output.tensor];
            let pending = &mut self.outputs[count];
            pending.index = index;
            pending.shape.clear();
            let dims = tensor.dims.iter().map(|dim| dim.eval(&self.bindings).unwrap_or(0));
            pending.shape.extend(dims.map(|dim| usize::try_from(dim).unwrap_or(0)));
            pending.offset = end;
            pending.bytes = pending.shape.iter().product::<usize>() * tensor.storage.bytes();
            end = (end + pending.bytes).next_multiple_of(64);
            count += 1;
        }
        self.outputs.truncate(count);
        Ok(self.workspace.make_room_for_results(end)?)
    }
}

/// A bit for each output that is wanted; all, when no name is given.
fn wanted_mask(outputs: &[OutputPlan], wanted: &[&str]) -> Result<u64, RunError> {
    let mut mask = if wanted.is_empty() { u64::MAX >> (64 - outputs.len().clamp(1, 64)) } else { 0 };
    for name in wanted {
        let found = outputs.iter().position(|output| output.name == *name);
        let unknown = || RunError::UnknownOutput {
            name: (*name).to_owned(),
            expected: outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>().join(", "),
        };
        mask |= 1 << found.ok_or_else(unknown)?;
    }
    Ok(mask)
}
