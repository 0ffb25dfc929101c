//! What an engine's sections hold, written and read.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bertha_compile::{Log, Precision};
use bertha_cpu::isa::Isa;
use bertha_cpu::{CpuModel, Memory, PackedEntry, PackedStore};
use bertha_engine::{EngineFile, EngineWriter, Host, Metadata, Mismatch, PlanHeader};
use bertha_graph::plugin::PluginSet;
use bertha_graph::{DType, Graph, ModelInfo, TensorData, text};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::engine::{Engine, Options, Padded};
use crate::error::Error;
use crate::gpu::{self, Gpu};
use crate::plugins::{self, PluginRecord};
use crate::rounding::RoundingError;

const TARGET: &str = "cpu";
/// Version of the CPU plan's encoding: the JSON of a [`CpuPlan`].
const PLAN_FORMAT: u32 = 2;
/// The requirement of a plan whose weights are packed as bf16.
const BF16_FEATURE: &str = "avx512-bf16";

/// The CPU plan: how the packed weights are to be read.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CpuPlan {
    precision: Precision,
    /// Measured when the plan was made; absent for f32.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    rounding_error: Option<RoundingError>,
    weights: Vec<PackedEntry>,
}

/// Section with the padded form of a model that became ragged. Its constants are those of the graph where name and
/// contents agree; its own carry [`PADDED_PREFIX`].
const PADDED_GRAPH: &str = "graph.padded";
const PADDED_PREFIX: &str = "padded:";

/// The constants of the padded graph that the graph does not have, under the names they are stored by.
fn own_constants(graph: &text::Printed, padded: Option<&text::Printed>) -> Vec<(String, TensorData)> {
    let shared: std::collections::HashMap<&str, &TensorData> =
        graph.constants.iter().map(|(name, data)| (name.as_str(), data)).collect();
    let is_shared = |name: &str, data: &TensorData| shared.get(name).is_some_and(|other| *other == data);
    let constants = padded.map_or(&[][..], |padded| &padded.constants);
    let own = constants.iter().filter(|(name, data)| !is_shared(name, data));
    own.map(|(name, data)| (format!("{PADDED_PREFIX}{name}"), data.clone())).collect()
}

fn producer() -> String {
    format!("bertha {}", env!("CARGO_PKG_VERSION"))
}

/// Writes all sections: description, portable graph, weights, tokenizer, and the plans with their packed weights. Gives
/// notices of what the engine's own file holds and the new one does not.
pub(crate) fn save(engine: &Engine, path: &Path) -> Result<Vec<String>, Error> {
    let content = |why: String| Error::EngineContent { path: path.to_owned(), why };
    let mut writer = EngineWriter::create(path)?;
    let model = serde_json::to_value(engine.info()).map_err(|error| content(error.to_string()))?;
    writer.metadata(&Metadata { producer: producer(), model })?;
    let printed = text::print(engine.graph());
    writer.graph(&printed.text)?;
    let padded = engine.padded_graph().map(text::print);
    let mut weights = writer.begin_weights()?;
    let own = own_constants(&printed, padded.as_ref());
    for (name, data) in printed.constants.iter().chain(&own) {
        let shape: Vec<u64> = data.shape().iter().map(|dim| *dim as u64).collect();
        weights.tensor(name, data.dtype().name(), &shape, data.bytes())?;
    }
    weights.finish()?;
    if let Some(padded) = &padded {
        writer.section(PADDED_GRAPH, padded.text.as_bytes())?;
    }
    if let Some(tokenizer) = engine.tokenizer() {
        writer.tokenizer(tokenizer)?;
    }
    plugins::write(&mut writer, engine, path)?;
    let notices = gpu::write(&mut writer, engine, &producer(), path)?;
    let mut packed = writer.begin_packed(TARGET)?;
    let mut entries = Vec::new();
    for (entry, bytes) in engine.cpu().packed().entries() {
        let offset = packed.align()?;
        packed.append(&bytes)?;
        entries.push(PackedEntry { offset, length: bytes.len() as u64, ..entry });
    }
    packed.finish()?;
    let plan = CpuPlan {
        precision: engine.precision(),
        rounding_error: engine.rounding_error().cloned(),
        weights: entries,
    };
    let payload = serde_json::to_vec(&plan).map_err(|error| content(error.to_string()))?;
    let mut requirements = vec![engine.cpu().isa().tier().name().to_owned()];
    requirements.extend((plan.precision == Precision::Bf16).then(|| BF16_FEATURE.to_owned()));
    let header =
        PlanHeader { target: TARGET.into(), producer: producer(), plan_format: PLAN_FORMAT, requirements };
    writer.plan(&header, &payload)?;
    writer.finish()?;
    Ok(notices)
}

/// Loads an engine file. A plan that this machine cannot run is made anew from the portable graph, with a notice.
pub(crate) fn load(path: &Path, options: &Options) -> Result<Engine, Error> {
    let file = EngineFile::open(path)?;
    from_file(&file, path, options)
}

pub(crate) fn from_file(file: &EngineFile, path: &Path, options: &Options) -> Result<Engine, Error> {
    let content = |why: String| Error::EngineContent { path: path.to_owned(), why };
    let info: ModelInfo = serde_json::from_value(file.metadata().model.clone())
        .map_err(|error| content(format!("its description is not one: {error}")))?;
    let mut notices = Vec::new();
    let records = plugins::require(file, path, options, &mut notices)?;
    let source = Source { file, path, plugins: &options.plugins, records: &records };
    let graph = source.graph(file.graph()?, "")?;
    let isa = options.isa()?;
    let (plan, usable) = cpu_plan(file, path, isa, &mut notices)?;
    // A precision that this machine has no kernels for is an error: another one would give other answers.
    let precision = plan.as_ref().map_or(options.precision, |plan| plan.precision);
    let (weights, rounding_error) =
        plan.map_or((Vec::new(), None), |plan| (plan.weights, plan.rounding_error));
    let store = match usable {
        true => PackedStore::from_entries(isa, precision, weights, &packed_weights(file, path)?)?,
        false => PackedStore::with_precision(isa, precision)?,
    };
    let cpu = CpuModel::with_packed(graph, isa, store)?;
    let padded = match file.has_section(PADDED_GRAPH) {
        true => {
            let bytes = file.section(PADDED_GRAPH)?;
            let text =
                std::str::from_utf8(&bytes).map_err(|error| content(format!("its padded graph: {error}")))?;
            Some(Padded::new(source.graph(text, PADDED_PREFIX)?, isa, precision))
        }
        false => None,
    };
    let mut engine = Engine::from_parts(info, file.tokenizer()?, cpu, padded, Log::default(), notices);
    engine.rounding_error = rounding_error.map(Arc::new);
    engine.gpu = Gpu::of_file(file);
    // All was read to be checked, or copied; what a run reads of the file is a few rows of its tables.
    file.release();
    Ok(engine)
}

/// The packed weights, in memory of their own: a run reads all of them, which large pages make much faster.
fn packed_weights(file: &EngineFile, path: &Path) -> Result<Bytes, Error> {
    let name = format!("packed:{TARGET}");
    let Some(section) = file.sections().find(|section| section.name == name) else { return Ok(Bytes::new()) };
    let memory = usize::try_from(section.length).ok().and_then(Memory::zeroed);
    let mut memory = memory.ok_or_else(|| Error::EngineContent {
        path: path.to_owned(),
        why: format!("there is no memory for its {} bytes of packed weights", section.length),
    })?;
    file.copy_section(&name, &mut memory)?;
    Ok(Bytes::from_owner(memory))
}

/// The CPU plan, if the file has one that this version reads, and whether this machine can run it; where it cannot,
/// notices say why not.
fn cpu_plan(
    file: &EngineFile,
    path: &Path,
    isa: Isa,
    notices: &mut Vec<String>,
) -> Result<(Option<CpuPlan>, bool), Error> {
    if !file.plans().any(|plan| plan.target == TARGET) {
        notices.push("The engine has no CPU plan; one was made from its portable graph.".into());
        return Ok((None, false));
    }
    let plan = file.plan(TARGET)?;
    let tier = isa.tier().name();
    let mut features = BTreeSet::from([tier.to_owned()]);
    features.extend(isa.has_bf16().then(|| BF16_FEATURE.to_owned()));
    let host = Host { target: TARGET.into(), plan_format: PLAN_FORMAT, features };
    let mismatches = plan.header.mismatches(&host);
    let readable = plan.header.plan_format == PLAN_FORMAT;
    let payload = readable.then(|| serde_json::from_slice::<CpuPlan>(&plan.payload)).transpose();
    let payload = payload.map_err(|error| Error::EngineContent {
        path: path.to_owned(),
        why: format!("its CPU plan is not one: {error}"),
    })?;
    if mismatches.is_empty() {
        return Ok((payload, true));
    }
    // A machine has weaker tiers too, but the packed weights of a plan are for exactly one.
    notices.extend(mismatches.iter().map(|mismatch| match mismatch {
        Mismatch::MissingFeature { feature } => {
            format!("The plan is for {feature}, and {tier} is used here.")
        }
        other => other.to_string(),
    }));
    notices.push(format!("The plan was made anew from the portable graph for {tier}."));
    Ok((payload, false))
}

/// Where a graph of an engine file comes from.
struct Source<'a> {
    file: &'a EngineFile,
    path: &'a Path,
    plugins: &'a PluginSet,
    /// The file's list of plugins.
    records: &'a [PluginRecord],
}

impl Source<'_> {
    /// A graph with its weights, mapped, not copied. A weight is looked for under its name with `prefix` first.
    fn graph(&self, graph: &str, prefix: &str) -> Result<Graph, Error> {
        let Source { file, path, plugins: at_hand, records } = *self;
        let content = |why: String| Error::EngineContent { path: path.to_owned(), why };
        let mut failure = None;
        let stored = |name: &str| {
            let own = format!("{prefix}{name}");
            if file.tensor_entry(&own).is_some() { own } else { name.to_owned() }
        };
        let mut resolve = |name: &str, ty: &bertha_graph::TensorType| match weight(file, path, &stored(name))
        {
            Ok(data) if data.ty() == *ty => Some(data),
            Ok(data) => {
                failure =
                    Some(content(format!("weight `{name}` is {}, but the graph declares {ty}", data.ty())));
                None
            }
            Err(error) => {
                failure = Some(error);
                None
            }
        };
        let graph = text::parse_with(graph, at_hand, &mut resolve);
        match (graph, failure) {
            (_, Some(failure)) => Err(failure),
            (Ok(graph), None) => match plugins::unrecorded(&graph, records) {
                Some(why) => Err(content(why)),
                None => Ok(graph),
            },
            (Err(error), None) => Err(content(format!("its graph is not one: {error}"))),
        }
    }
}

fn weight(file: &EngineFile, path: &Path, name: &str) -> Result<TensorData, Error> {
    let content = |why: String| Error::EngineContent { path: path.to_owned(), why };
    let entry = file.tensor_entry(name).ok_or_else(|| content(format!("weight `{name}` is missing")))?;
    let dtype: DType = entry.dtype.parse().map_err(|why| content(format!("weight `{name}`: {why}")))?;
    let shape: Result<Vec<usize>, _> = entry.shape.iter().map(|dim| usize::try_from(*dim)).collect();
    let shape = shape.map_err(|_| content(format!("weight `{name}` is larger than memory can be")))?;
    Ok(TensorData::from_bytes(dtype, shape, file.tensor(name)?)?)
}
