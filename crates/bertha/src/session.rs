//! Runs of an engine.

use std::sync::Arc;

use bertha_cpu::{CpuSession, OutputRef, StepTime, TensorRef};
use bertha_cuda::{CudaSession, DenseSession};
use bertha_graph::{DType, Interface, ModelInfo, TensorData, ragged};
use smallvec::SmallVec;

use crate::batch::{ATTENTION_MASK, Padded, RaggedBatch};
use crate::engine::Padded as PaddedModel;
use crate::error::Error;
use crate::gpu;

/// Memory and threads for runs of one engine. Sessions of one engine share its weights and can run at the same time
/// on different threads.
pub struct Session {
    info: Arc<ModelInfo>,
    pub(crate) cpu: CpuSession,
    padded: Option<Arc<PaddedModel>>,
    /// Runs of the padded form, once there was one.
    padded_cpu: Option<CpuSession>,
    /// Runs on a card, in place of the CPU.
    pub(crate) gpu: Option<CudaSession>,
    /// Runs of a dense model on a card.
    pub(crate) dense_gpu: Option<DenseSession>,
    /// The padded form on that card, and its runs, once there was one.
    padded_gpu: Option<(Arc<gpu::PaddedModel>, Option<DenseSession>)>,
}

impl Session {
    pub(crate) fn new(info: Arc<ModelInfo>, cpu: CpuSession, padded: Option<Arc<PaddedModel>>) -> Self {
        Session { info, cpu, padded, padded_cpu: None, gpu: None, dense_gpu: None, padded_gpu: None }
    }

    pub(crate) fn set_padded_gpu(&mut self, padded: Option<Arc<gpu::PaddedModel>>) {
        self.padded_gpu = padded.map(|padded| (padded, None));
    }

    /// What is known of the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Threads that a run uses.
    pub fn threads(&self) -> usize {
        self.cpu.threads()
    }

    /// GFLOP/s of multiply-adds that its threads reach together in the model's precision, measured now.
    pub fn peak_gflops(&mut self) -> f64 {
        self.cpu.peak_gflops()
    }

    /// Bytes held for intermediate tensors and scratch.
    pub fn memory_bytes(&self) -> usize {
        match (&self.gpu, &self.dense_gpu) {
            (Some(session), _) => session.memory_bytes(),
            (None, Some(session)) => session.memory_bytes(),
            (None, None) => self.cpu.memory_bytes(),
        }
    }

    /// Runs named tensors and returns the named outputs (all, when `wanted` is empty), in the model's order.
    ///
    /// For an encoder from a checkpoint the tensors are padded, `[batch, seq]`: `input_ids` and, if wanted,
    /// `attention_mask` (0 marks padding), `token_type_ids`, `position_ids`, all of any integer type. Padding is
    /// taken out before the run; outputs per token come back as `[batch, seq, ..]`, zero where padding was. With an
    /// input `cu_seqlens` the tensors are taken as they are: `[tokens]`, `I32`.
    ///
    /// An ONNX model gives what its graph says, at padded positions too: a batch whose mask has zeros runs in the
    /// padded form of the graph, on a GPU by a plan that is made for the first such batch. [`Session::run_ragged`] never
    /// computes padding.
    pub fn run(
        &mut self,
        inputs: &[(&str, &TensorData)],
        wanted: &[&str],
    ) -> Result<Vec<(String, TensorData)>, Error> {
        let as_they_are = self.info.interface == Interface::Dense
            || inputs.iter().any(|(name, _)| *name == ragged::CU_SEQLENS);
        if as_they_are {
            return self.run_as_given(inputs, wanted);
        }
        if let Some(padded) = self.padded.clone().filter(|_| has_padding(inputs)) {
            return self.run_padded(&padded, inputs, wanted);
        }
        let padded = Padded::from_tensors(&self.info, inputs)?;
        let per_token = self.outputs_per_token();
        let mut results = Vec::new();
        let mut failure = None;
        self.run_ragged(&padded.batch, wanted, |output| {
            let data = if per_token.iter().any(|name| name == output.name) {
                padded.scatter(output.dtype, output.shape, output.bytes)
            } else {
                output.to_data().map_err(Error::from)
            };
            match data {
                Ok(data) => results.push((output.name.to_owned(), data)),
                Err(error) => failure = Some(error),
            }
        })?;
        failure.map_or(Ok(results), Err)
    }

    /// Runs the padded form of a model that became ragged.
    fn run_padded(
        &mut self,
        padded: &PaddedModel,
        inputs: &[(&str, &TensorData)],
        wanted: &[&str],
    ) -> Result<Vec<(String, TensorData)>, Error> {
        if let Some((padded, session)) = &mut self.padded_gpu {
            let ready = session.take().map_or_else(|| padded.session(), Ok)?;
            return gpu::run_dense(session.insert(ready), inputs, wanted);
        }
        let session = match self.padded_cpu.take() {
            Some(session) => session,
            None => {
                let threads = self.cpu.threads();
                padded.model()?.session(threads).map_err(|source| Error::Threads { threads, source })?
            }
        };
        collect(self.padded_cpu.insert(session), inputs, wanted)
    }

    pub(crate) fn run_as_given(
        &mut self,
        inputs: &[(&str, &TensorData)],
        wanted: &[&str],
    ) -> Result<Vec<(String, TensorData)>, Error> {
        match (&mut self.gpu, &mut self.dense_gpu) {
            (Some(session), _) => gpu::run_as_given(session, inputs, wanted),
            (None, Some(session)) => gpu::run_dense(session, inputs, wanted),
            (None, None) => collect(&mut self.cpu, inputs, wanted),
        }
    }

    /// Runs a batch without padding and hands each wanted output (all, when `wanted` is empty) to `take`, without
    /// copies. Outputs per token are `[tokens, ..]` in the order of the batch, outputs per sequence `[batch, ..]`.
    ///
    /// # Errors
    /// When the model is dense (an ONNX graph as it is), or the batch does not fit it.
    pub fn run_ragged(
        &mut self,
        batch: &RaggedBatch,
        wanted: &[&str],
        mut take: impl FnMut(OutputRef<'_>),
    ) -> Result<(), Error> {
        if let Some(session) = &mut self.gpu {
            return gpu::run_ragged(session, batch, wanted, take);
        }
        let model = self.cpu.model().clone();
        let graph = model.graph();
        let mut inputs: SmallVec<[(&str, TensorRef<'_>); 8]> = SmallVec::new();
        for id in graph.inputs() {
            let name = graph.tensor(*id).name.as_str();
            let input =
                batch.input(name).filter(|_| self.info.interface == Interface::Ragged).ok_or_else(|| {
                    Error::Input {
                        name: name.into(),
                        why: "the model takes padded tensors; use `Session::run`".into(),
                    }
                })?;
            inputs.push((name, input));
        }
        self.cpu.run(&inputs, wanted, |output| {
            take(output);
            Ok(())
        })?;
        Ok(())
    }

    /// The session of a dense model on a card, when the engine is on one.
    pub fn dense_gpu(&mut self) -> Option<&mut DenseSession> {
        self.dense_gpu.as_mut()
    }

    /// The session on a card, when the engine is on one and the model is ragged.
    pub fn gpu(&mut self) -> Option<&mut CudaSession> {
        self.gpu.as_mut()
    }

    /// The time of each step for one batch, on the CPU.
    pub fn profile_ragged(&mut self, batch: &RaggedBatch, wanted: &[&str]) -> Result<Vec<StepTime>, Error> {
        let model = self.cpu.model().clone();
        let graph = model.graph();
        let names = graph.inputs().iter().map(|id| graph.tensor(*id).name.as_str());
        let inputs: Vec<_> = names.filter_map(|name| Some((name, batch.input(name)?))).collect();
        Ok(self.cpu.profile(&inputs, wanted)?)
    }

    /// The time of each step for named tensors, taken as they are.
    pub fn profile(
        &mut self,
        inputs: &[(&str, &TensorData)],
        wanted: &[&str],
    ) -> Result<Vec<StepTime>, Error> {
        Ok(self.cpu.profile(&views(inputs), wanted)?)
    }

    /// Names and types of the model's inputs, as text.
    pub fn inputs(&self) -> Vec<(String, DType, String)> {
        let graph = self.cpu.model().graph();
        let describe = |id: &_| {
            let tensor = graph.tensor(*id);
            (tensor.name.clone(), tensor.ty.dtype, tensor.ty.shape.to_string())
        };
        graph.inputs().iter().map(describe).collect()
    }

    /// Outputs whose first dimension is that of `input_ids`.
    fn outputs_per_token(&self) -> Vec<String> {
        let graph = self.cpu.model().graph();
        let Some(ids) = graph.find(ragged::INPUT_IDS) else { return Vec::new() };
        let tokens = graph.tensor(ids).ty.shape.dims().first();
        let per_token =
            graph.outputs().iter().filter(|(_, id)| graph.tensor(*id).ty.shape.dims().first() == tokens);
        per_token.map(|(name, _)| name.clone()).collect()
    }
}

fn views<'a>(inputs: &[(&'a str, &'a TensorData)]) -> Vec<(&'a str, TensorRef<'a>)> {
    let view =
        |data: &'a TensorData| TensorRef { dtype: data.dtype(), shape: data.shape(), bytes: data.bytes() };
    inputs.iter().map(|(name, data)| (*name, view(data))).collect()
}

/// Copies of all wanted outputs.
fn collect(
    cpu: &mut CpuSession,
    inputs: &[(&str, &TensorData)],
    wanted: &[&str],
) -> Result<Vec<(String, TensorData)>, Error> {
    let mut results = Vec::new();
    cpu.run(&views(inputs), wanted, |output| {
        results.push((output.name.to_owned(), output.to_data()?));
        Ok(())
    })?;
    Ok(results)
}

fn has_padding(inputs: &[(&str, &TensorData)]) -> bool {
    let mask = inputs.iter().find(|(name, _)| *name == ATTENTION_MASK);
    mask.is_some_and(|(_, mask)| mask.to_f64().contains(&0.0))
}
