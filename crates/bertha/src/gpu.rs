//! Engines on NVIDIA GPUs: plans in the file, plans made on the spot, and sessions on a card.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bertha_compile::{Precision, TacticTable};
use bertha_cpu::OutputRef;
use bertha_cuda::driver::Device;
use bertha_cuda::{
    Arch, CardKey, CudaModel, CudaOutput, CudaPlan, CudaSession, DenseSession, RaggedInputs, StoredPlan,
    TimingCache, parse_target, target_name,
};
use bertha_engine::{EngineFile, EngineWriter, PlanHeader};
use bertha_graph::{DType, TensorData, ragged};

use crate::batch::RaggedBatch;
use crate::engine::{Engine, Padded};
use crate::error::Error;

/// Version of the CUDA plans' encoding: the JSON of a [`StoredPlan`].
const PLAN_FORMAT: u32 = 1;

/// What an engine has for GPUs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gpu {
    /// Plans that were made in this process.
    plans: Vec<Arc<CudaPlan>>,
    /// The file that may hold more.
    file: Option<EngineFile>,
    /// The card that sessions run on.
    model: Option<Arc<CudaModel>>,
    /// The model's padded form there, when it has one.
    padded: Option<Arc<PaddedModel>>,
}

impl Gpu {
    pub(crate) fn of_file(file: &EngineFile) -> Self {
        Gpu { file: Some(file.clone()), ..Gpu::default() }
    }

    pub(crate) fn model(&self) -> Option<&Arc<CudaModel>> {
        self.model.as_ref()
    }

    pub(crate) fn padded(&self) -> Option<&Arc<PaddedModel>> {
        self.padded.as_ref()
    }

    /// The plans in the file but for those that were replaced in this process.
    fn stored(&self) -> Vec<(String, Arch, Precision)> {
        let Some(file) = &self.file else { return Vec::new() };
        let parsed = |plan: &PlanHeader| {
            let (arch, precision) = parse_target(&plan.target)?;
            Some((plan.target.clone(), arch, precision))
        };
        let is_replaced = |target: &str| self.plans.iter().any(|plan| plan.target() == target);
        file.plans().filter_map(parsed).filter(|(target, ..)| !is_replaced(target)).collect()
    }
}

/// The precision of a plan for `arch` where none was asked for: that of the plan which the engine has for this
/// architecture, or else for any.
fn precision_of(known: &[(Arch, Precision)], arch: Arch) -> Precision {
    let matching = known.iter().find(|(other, _)| *other == arch);
    matching.or(known.first()).map(|(_, precision)| *precision).unwrap_or_default()
}

impl Engine {
    /// Makes a plan for GPUs of an architecture, which [`Engine::save`] keeps in the file, in place of one for the same
    /// architecture and precision. Needs NVRTC and no card; `multiprocessors` are those of the card it is for, when one
    /// is at hand.
    ///
    /// # Errors
    /// When the model has nodes without CUDA kernels (all of them are named), NVRTC is missing, or a weight does not fit
    /// the precision.
    pub fn add_cuda_plan(
        &mut self,
        arch: Arch,
        precision: Precision,
        multiprocessors: Option<usize>,
    ) -> Result<(), Error> {
        let plan = CudaPlan::build(self.graph(), arch, precision, multiprocessors)?;
        self.keep_plan(plan);
        Ok(())
    }

    /// As [`Self::add_cuda_plan`] for card `index`, with kernels for linear layers chosen by timing them there. `cache` spares
    /// what it has times for, and takes what was timed; its [`TimingCache::save`] is the caller's.
    ///
    /// # Errors
    /// As for [`Self::add_cuda_plan`], and when there is no such card or it refuses.
    pub fn add_timed_cuda_plan(
        &mut self,
        index: usize,
        precision: Precision,
        cache: &mut TimingCache,
    ) -> Result<(), Error> {
        let device = Device::get(index)?;
        let plan = CudaPlan::build_timed(self.graph(), &device, precision, cache)?;
        self.keep_plan(plan);
        Ok(())
    }

    fn keep_plan(&mut self, plan: CudaPlan) {
        self.gpu.plans.retain(|other| other.target() != plan.target());
        self.gpu.plans.push(Arc::new(plan));
    }

    /// The kernels that the linear layers of the plans for GPUs could run on, with the times that the cache has for card 0 of
    /// this machine, or else estimates: for each plan a table for each bucket of tokens.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn cuda_tactics(&self, cache: &TimingCache) -> Result<Vec<TacticTable>, Error> {
        let card = Device::get(0).and_then(|device| Ok((Arch::of(&device)?, CardKey::of(&device)?))).ok();
        let tables = |plan: &Arc<CudaPlan>| {
            let known = card.as_ref().filter(|(arch, _)| *arch == plan.arch());
            plan.tactics(known.map(|(_, card)| (cache, card)))
        };
        Ok(self.cuda_plans()?.iter().flat_map(tables).collect())
    }

    /// The plans for GPUs that the engine holds. Those of its file that this version of Bertha does not run are left out.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn cuda_plans(&self) -> Result<Vec<Arc<CudaPlan>>, Error> {
        Ok(self.usable_plans()?.0)
    }

    /// The plans, and for each that is left out the reason.
    fn usable_plans(&self) -> Result<(Vec<Arc<CudaPlan>>, Vec<String>), Error> {
        let mut plans = self.gpu.plans.clone();
        let mut reasons = Vec::new();
        for (target, ..) in self.gpu.stored() {
            match self.stored_plan(&target)? {
                Ok(plan) => plans.push(Arc::new(plan)),
                Err(why) => reasons.push(why),
            }
        }
        Ok((plans, reasons))
    }

    /// The engine with sessions on card `index`, in a precision (`None` takes what the engine's plan for this architecture
    /// has, or else its first plan for a GPU, or else f32). A plan for the card is taken from the file; without one that
    /// fits it is made now, with a notice, which needs NVRTC.
    ///
    /// # Errors
    /// When there is no such card, its driver does not work, or there is no plan and none can be made.
    pub fn on_gpu(self, index: usize, precision: Option<Precision>) -> Result<Self, Error> {
        self.on_gpu_with(index, precision, None)
    }

    /// As [`Self::on_gpu`]; where a plan has to be made, kernels for linear layers are chosen by timing them, as
    /// [`Self::add_timed_cuda_plan`] does it.
    ///
    /// # Errors
    /// As for [`Self::on_gpu`].
    pub fn on_gpu_timed(
        self,
        index: usize,
        precision: Option<Precision>,
        cache: &mut TimingCache,
    ) -> Result<Self, Error> {
        self.on_gpu_with(index, precision, Some(cache))
    }

    fn on_gpu_with(
        mut self,
        index: usize,
        precision: Option<Precision>,
        cache: Option<&mut TimingCache>,
    ) -> Result<Self, Error> {
        let device = Device::get(index)?;
        let plan = self.plan_for(&device, precision, cache)?;
        let model = Arc::new(CudaModel::new(device, plan)?);
        let on_card = |padded| PaddedModel { padded, ragged: model.clone(), model: OnceLock::new() };
        self.gpu.padded = self.padded().cloned().map(on_card).map(Arc::new);
        self.gpu.model = Some(model);
        Ok(self)
    }

    fn plan_for(
        &mut self,
        device: &Device,
        precision: Option<Precision>,
        cache: Option<&mut TimingCache>,
    ) -> Result<Arc<CudaPlan>, Error> {
        let arch = Arch::of(device)?;
        let fits = |a: Arch, p: Precision| a == arch && precision.is_none_or(|wanted| wanted == p);
        if let Some(plan) = self.gpu.plans.iter().find(|plan| fits(plan.arch(), plan.precision())) {
            return Ok(plan.clone());
        }
        let stored = self.gpu.stored();
        let made = self.gpu.plans.iter().map(|plan| (plan.arch(), plan.precision()));
        let known: Vec<_> =
            made.chain(stored.iter().map(|(_, arch, precision)| (*arch, *precision))).collect();
        let chosen = precision.unwrap_or_else(|| precision_of(&known, arch));
        let what = format!("for {arch} in {chosen} was made from its portable graph.");
        let mut notice = None;
        if let Some((target, ..)) = stored.iter().find(|(_, arch, precision)| fits(*arch, *precision)) {
            match self.stored_plan(target)? {
                Ok(plan) => return Ok(Arc::new(plan)),
                // Made by another version: the portable graph gives a plan again, if there is a compiler.
                Err(why) => notice = Some(format!("{why}; one {what}")),
            }
        } else if !stored.is_empty() {
            let names: Vec<&str> = stored.iter().map(|(name, ..)| name.as_str()).collect();
            notice = Some(format!("The engine's plans are {}; one {what}", names.join(", ")));
        }
        let plan = match cache {
            None => CudaPlan::build(self.graph(), arch, chosen, Some(device.multiprocessors))?,
            Some(cache) => CudaPlan::build_timed(self.graph(), device, chosen, cache)?,
        };
        notice.into_iter().for_each(|notice| self.add_notice(notice));
        Ok(Arc::new(plan))
    }

    /// A plan of the file, or why this version of Bertha does not run it.
    fn stored_plan(&self, target: &str) -> Result<Result<CudaPlan, String>, Error> {
        let file = self.gpu.file.as_ref().ok_or_else(|| Error::WrongTask("the engine has no file".into()))?;
        let content = |why: String| Error::EngineContent { path: Path::new(file.name()).to_owned(), why };
        let plan = file.plan(target)?;
        let PlanHeader { producer, plan_format, .. } = &plan.header;
        if *plan_format != PLAN_FORMAT {
            return Ok(Err(format!(
                "the CUDA plan {target}: it was made by {producer} in plan format {plan_format}, not {PLAN_FORMAT}"
            )));
        }
        let stored: StoredPlan = serde_json::from_slice(&plan.payload)
            .map_err(|error| content(format!("plan {target} is not one: {error}")))?;
        let named = target_name(stored.arch, stored.precision);
        if named != target {
            return Err(content(format!("plan {target} says that it is {named}")));
        }
        let blob = file.packed(target)?.unwrap_or_default();
        Ok(CudaPlan::from_stored(self.graph(), stored, &blob).map_err(|error| error.to_string()))
    }

    /// The card that sessions run on.
    pub fn gpu(&self) -> Option<&Arc<CudaModel>> {
        self.gpu.model()
    }
}

/// Writes the plans of an engine; for each that this version of Bertha does not run, and that is left out, a sentence.
pub(crate) fn write(
    writer: &mut EngineWriter,
    engine: &Engine,
    producer: &str,
    path: &Path,
) -> Result<Vec<String>, Error> {
    let (plans, reasons) = engine.usable_plans()?;
    for plan in plans {
        let (stored, pieces) = plan.to_stored();
        let mut packed = writer.begin_packed(&plan.target())?;
        for piece in &pieces {
            packed.align()?;
            packed.append(piece)?;
        }
        packed.finish()?;
        let payload = serde_json::to_vec(&stored)
            .map_err(|error| Error::EngineContent { path: path.to_owned(), why: error.to_string() })?;
        let header = PlanHeader {
            target: plan.target(),
            producer: producer.to_owned(),
            plan_format: PLAN_FORMAT,
            requirements: vec![plan.arch().name().to_owned()],
        };
        writer.plan(&header, &payload)?;
    }
    Ok(reasons.into_iter().map(|why| format!("{why}; the new file does not have it.")).collect())
}

/// Runs a ragged batch on the card.
pub(crate) fn run_ragged(
    session: &mut CudaSession,
    batch: &RaggedBatch,
    wanted: &[&str],
    mut take: impl FnMut(OutputRef<'_>),
) -> Result<(), Error> {
    session.run(&batch.as_inputs(), wanted, |output| {
        take(OutputRef { name: output.name, dtype: output.dtype, shape: output.shape, bytes: output.bytes });
    })?;
    Ok(())
}

/// Runs named tensors in the graph's own form: `[tokens]` with `cu_seqlens`.
pub(crate) fn run_as_given(
    session: &mut CudaSession,
    inputs: &[(&str, &TensorData)],
    wanted: &[&str],
) -> Result<Vec<(String, TensorData)>, Error> {
    let mut given = RaggedInputs::default();
    for (name, data) in inputs {
        let place = match *name {
            ragged::INPUT_IDS => &mut given.input_ids,
            ragged::TOKEN_TYPE_IDS => &mut given.token_type_ids,
            ragged::POSITION_IDS => &mut given.position_ids,
            ragged::CU_SEQLENS => &mut given.cu_seqlens,
            _ => return Err(Error::Input { name: (*name).into(), why: "not an input of the model".into() }),
        };
        *place = data.as_slice::<i32>().map_err(|_| Error::Input {
            name: (*name).into(),
            why: format!("expected {}, found {}", DType::I32, data.dtype()),
        })?;
    }
    let mut results = Vec::new();
    session.run(&given, wanted, |output| results.push(copy(output)))?;
    results.into_iter().collect()
}

/// Runs named tensors of a dense model.
pub(crate) fn run_dense(
    session: &mut DenseSession,
    inputs: &[(&str, &TensorData)],
    wanted: &[&str],
) -> Result<Vec<(String, TensorData)>, Error> {
    let mut results = Vec::new();
    session.run(inputs, wanted, |output| results.push(copy(output)))?;
    results.into_iter().collect()
}

/// An output that outlives the session.
fn copy(output: CudaOutput<'_>) -> Result<(String, TensorData), Error> {
    let bytes = bytes::Bytes::copy_from_slice(output.bytes);
    Ok((output.name.to_owned(), TensorData::from_bytes(output.dtype, output.shape.to_vec(), bytes)?))
}

/// The padded form of a model that became ragged, on the card that the model is on. Its plan is made when it is first
/// needed, which takes NVRTC.
#[derive(Debug)]
pub(crate) struct PaddedModel {
    padded: Arc<Padded>,
    ragged: Arc<CudaModel>,
    model: OnceLock<Arc<CudaModel>>,
}

impl PaddedModel {
    /// A session of its own. Two threads that ask first at the same time may both make the plan; one stays.
    pub(crate) fn session(&self) -> Result<DenseSession, Error> {
        let model = match self.model.get() {
            Some(model) => model,
            None => {
                let (device, plan) = (self.ragged.device(), self.ragged.plan());
                let multiprocessors = Some(device.multiprocessors);
                let graph = self.padded.graph();
                let plan = CudaPlan::build(graph, plan.arch(), plan.precision(), multiprocessors)
                    .map_err(|source| Error::PaddedPlan { source })?;
                let model = Arc::new(CudaModel::new(device.clone(), Arc::new(plan))?);
                self.model.get_or_init(|| model)
            }
        };
        Ok(model.dense_session()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_runs_in_the_precision_that_its_plans_have() {
        let known = [(Arch::Sm80, Precision::Bf16), (Arch::Sm90a, Precision::F16)];
        assert_eq!(precision_of(&known, Arch::Sm90a), Precision::F16);
        assert_eq!(precision_of(&known, Arch::Sm80), Precision::Bf16);
        assert_eq!(precision_of(&known, Arch::Sm75), Precision::Bf16);
        assert_eq!(precision_of(&[], Arch::Sm75), Precision::F32);
    }
}
