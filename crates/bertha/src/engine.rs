//! Engines: models compiled for this machine, in memory or in a file.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bertha_compile::{Log, Precision, optimize, optimize_model_with};
use bertha_cpu::isa::Isa;
use bertha_cpu::{CpuModel, PackedStore};
use bertha_engine::EngineFile;
use bertha_graph::plugin::PluginSet;
use bertha_graph::{Graph, Interface, Model, ModelInfo};
use bytes::Bytes;

use crate::error::Error;
use crate::gpu::Gpu;
use crate::open::{Source, import_from, source_of};
use crate::rounding::{self, RoundingError};
use crate::sections;
use crate::session::Session;

/// How to compile.
#[derive(Clone, Debug)]
pub struct Options {
    /// The instruction-set tier; `None` takes `BERTHA_ISA` from the environment, or else the best this CPU has.
    pub isa: Option<Isa>,
    /// The precision that products with the model's weights multiply in. An engine file has its own: then this says what to
    /// do with a file that holds no plan for this CPU.
    pub precision: Precision,
    /// Whether the compiler's passes run. Without them the graph runs as it was imported.
    pub optimize: bool,
    /// Apply this many patches of the compiler's passes and no more: by halving it one finds the patch at fault.
    pub stop_after: Option<usize>,
    /// Passes of the compiler to leave out, by name ([`pass_names`](crate::pass_names)).
    pub without: Vec<String>,
    /// The plugins that models may use; see [`bertha_plugin::load`].
    pub plugins: PluginSet,
    /// Whether an engine file may run with another build of a plugin's library than the one it was built with; there
    /// is a notice then. Without it that is an error.
    pub any_plugin_build: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            isa: None,
            precision: Precision::F32,
            optimize: true,
            stop_after: None,
            without: Vec::new(),
            plugins: PluginSet::new(),
            any_plugin_build: false,
        }
    }
}

impl Options {
    fn passes(&self) -> bertha_compile::Options {
        bertha_compile::Options { stop_after: self.stop_after, without: self.without.clone() }
    }

    pub(crate) fn isa(&self) -> Result<Isa, Error> {
        match self.isa {
            Some(isa) => Ok(isa),
            None => Ok(Isa::from_env()?),
        }
    }
}

/// The padded form of a model that became ragged, lowered when it is first needed.
#[derive(Debug)]
pub(crate) struct Padded {
    graph: Graph,
    isa: Isa,
    precision: Precision,
    model: OnceLock<Arc<CpuModel>>,
}

impl Padded {
    pub(crate) fn new(graph: Graph, isa: Isa, precision: Precision) -> Self {
        Padded { graph, isa, precision, model: OnceLock::new() }
    }

    /// The graph, with the inputs and outputs of the source model.
    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The lowered graph. Two threads that ask first at the same time may both lower it; one result stays.
    pub(crate) fn model(&self) -> Result<&Arc<CpuModel>, Error> {
        match self.model.get() {
            Some(model) => Ok(model),
            None => {
                let store = PackedStore::with_precision(self.isa, self.precision)?;
                let model = Arc::new(CpuModel::with_packed(self.graph.clone(), self.isa, store)?);
                Ok(self.model.get_or_init(|| model))
            }
        }
    }
}

/// A compiled model: the graph that runs, its packed weights, its description and tokenizer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    info: Arc<ModelInfo>,
    tokenizer: Option<Bytes>,
    cpu: Arc<CpuModel>,
    padded: Option<Arc<Padded>>,
    log: Arc<Log>,
    notices: Arc<Vec<String>>,
    pub(crate) rounding_error: Option<Arc<RoundingError>>,
    pub(crate) gpu: Gpu,
}

impl Engine {
    /// Opens any model: a checkpoint folder or an ONNX file is imported and compiled, an engine file is loaded.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, &Options::default())
    }

    /// As [`Self::open`], compiling as `options` say.
    pub fn open_with(path: impl AsRef<Path>, options: &Options) -> Result<Self, Error> {
        let path = path.as_ref();
        match source_of(path)? {
            Source::Engine => sections::load(path, options),
            source => Self::compile(import_from(path, source, &options.plugins)?, options),
        }
    }

    /// Loads an engine file that is in memory already, such as one embedded with `include_bytes!`. Weights are used
    /// where they are: keep the bytes aligned to [`bertha_engine::ALIGNMENT`], or they are copied once.
    pub fn from_bytes(bytes: Bytes, options: &Options) -> Result<Self, Error> {
        let file = EngineFile::from_bytes(bytes)?;
        sections::from_file(&file, Path::new(file.name()), options)
    }

    /// Compiles an imported or self-made model.
    pub fn compile(model: Model, options: &Options) -> Result<Self, Error> {
        let isa = options.isa()?;
        let (optimized, log) = match options.optimize {
            true => optimize_model_with(&model, &options.passes())?,
            false => (model.clone(), Log::default()),
        };
        let became_ragged =
            model.info.interface == Interface::Dense && optimized.info.interface == Interface::Ragged;
        let padded = if became_ragged {
            Some(Padded::new(optimize(&model.graph)?.0, isa, options.precision))
        } else {
            None
        };
        let store = PackedStore::with_precision(isa, options.precision)?;
        let cpu = CpuModel::with_packed(optimized.graph, isa, store)?;
        let mut engine = Self::from_parts(optimized.info, optimized.tokenizer, cpu, padded, log, Vec::new());
        if options.precision != Precision::F32 {
            engine.rounding_error = rounding::measure(&engine)?.map(Arc::new);
        }
        Ok(engine)
    }

    /// Compiles a graph made with the network API; its inputs and outputs are used as they are.
    pub fn from_graph(graph: Graph, options: &Options) -> Result<Self, Error> {
        let info = ModelInfo {
            family: "graph".into(),
            interface: Interface::Dense,
            task: bertha_graph::Task::Encoder,
            position_ids: bertha_graph::PositionIds::None,
            max_tokens: None,
            token_types: false,
            hidden: None,
            labels: Vec::new(),
            multi_label: false,
            pooling: None,
            source: format!("graph {}", graph.name),
        };
        Self::compile(Model { graph, info, tokenizer: None }, options)
    }

    pub(crate) fn from_parts(
        info: ModelInfo,
        tokenizer: Option<Bytes>,
        cpu: CpuModel,
        padded: Option<Padded>,
        log: Log,
        notices: Vec<String>,
    ) -> Self {
        Engine {
            info: Arc::new(info),
            tokenizer,
            cpu: Arc::new(cpu),
            padded: padded.map(Arc::new),
            log: Arc::new(log),
            notices: Arc::new(notices),
            rounding_error: None,
            gpu: Gpu::default(),
        }
    }

    /// Writes the engine file, atomically: the path holds the old file or the whole new one, never a part.
    ///
    /// Gives sentences the user should see: which plans for GPUs in the file that the engine came from are not in the new
    /// one, because another version of Bertha made them. The other plans are taken along.
    ///
    /// # Errors
    /// When the file cannot be written, or the one that the engine came from is damaged.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<Vec<String>, Error> {
        sections::save(self, path.as_ref())
    }

    /// A session with `threads` workers, the caller included; 0 takes one for each core. After [`Engine::on_gpu`] it runs
    /// on that card.
    pub fn session(&self, threads: usize) -> Result<Session, Error> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let cpu = self.cpu.session(threads).map_err(|source| Error::Threads { threads, source })?;
        let mut session = Session::new(self.info.clone(), cpu, self.padded.clone());
        if let Some(model) = self.gpu.model() {
            match model.plan().dense_graph() {
                Some(_) => session.dense_gpu = Some(model.dense_session()?),
                None => session.gpu = Some(model.session()?),
            }
            session.set_padded_gpu(self.gpu.padded().cloned());
        }
        Ok(session)
    }

    /// What is known of the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The text of the model's `tokenizer.json`, when it has one.
    pub fn tokenizer(&self) -> Option<&Bytes> {
        self.tokenizer.as_ref()
    }

    /// The graph that runs where a caller wants what the source model gives at padded positions too; see
    /// [`Session::run`]. Only a padded source model that became ragged has one.
    pub fn padded_graph(&self) -> Option<&Graph> {
        self.padded.as_deref().map(Padded::graph)
    }

    /// That graph with what it was lowered to.
    pub(crate) fn padded(&self) -> Option<&Arc<Padded>> {
        self.padded.as_ref()
    }

    /// The graph that runs.
    pub fn graph(&self) -> &Graph {
        self.cpu.graph()
    }

    /// The CPU side of the engine.
    pub fn cpu(&self) -> &CpuModel {
        &self.cpu
    }

    /// The precision that products with the model's weights multiply in.
    pub fn precision(&self) -> Precision {
        self.cpu.precision()
    }

    /// What that precision changes in the answers, as it was measured when the model was compiled; none for f32, which
    /// changes nothing, and for models that do not take token ids.
    pub fn rounding_error(&self) -> Option<&RoundingError> {
        self.rounding_error.as_deref()
    }

    /// What the compiler did; empty for an engine that was loaded from a file.
    pub fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn add_notice(&mut self, notice: String) {
        Arc::make_mut(&mut self.notices).push(notice);
    }

    /// Sentences the user should see, such as why a plan was made anew for this machine.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }
}
