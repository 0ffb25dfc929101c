//! One file for each command.

pub(crate) mod bench;
mod bench_gpu;
pub(crate) mod bench_lengths;
pub(crate) mod build;
pub(crate) mod classify;
pub(crate) mod compare;
pub(crate) mod doctor;
pub(crate) mod embed;
pub(crate) mod export;
pub(crate) mod fill_mask;
pub(crate) mod inspect;
pub(crate) mod plugin;
pub(crate) mod profile;
pub(crate) mod rerank;
pub(crate) mod run;
pub(crate) mod selftest;
pub(crate) mod sparse;
pub(crate) mod surgeon;
pub(crate) mod tag;
pub(crate) mod tokenize;

mod fusions;
mod onnxruntime;
mod plan;

use std::path::Path;

use bertha::cuda::models::EncoderConfig;
use bertha::import::ImportError;
use bertha::plugin::PluginSet;
use bertha::{Engine, Model, Options};
use bertha_text::TextError;

use crate::args::{Device, PluginOptions, RunOptions, Texts};
use crate::progress::Spinner;
use crate::timings;

/// Why a command failed. The exit code tells the kinds apart: 1 the work failed, 2 the call was wrong (as clap has
/// it), 3 a comparison found a difference.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Model(#[from] bertha::Error),
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Surgery(#[from] bertha_surgeon::SurgeryError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Differs(String),
    #[error("{0}")]
    Other(String),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Differs(_) => 3,
            Failure::Model(_)
            | Failure::Text(_)
            | Failure::Import(_)
            | Failure::Surgery(_)
            | Failure::Other(_) => 1,
        }
    }
}

/// Opens a model, with a sign of life while it compiles, and prints what the user should know of it.
pub(crate) fn open(path: &Path, plugins: &PluginOptions) -> Result<Engine, Failure> {
    open_with(path, &plugins.options()?)
}

pub(crate) fn open_with(path: &Path, options: &Options) -> Result<Engine, Failure> {
    let spinner = Spinner::new(format!("opening {}", path.display()));
    let engine = match bertha::is_engine_file(path) {
        true => Engine::open_with(path, options)?,
        false => Engine::compile(import(path, &options.plugins)?, options)?,
    };
    drop(spinner);
    for notice in engine.notices() {
        eprintln!("note: {notice}");
    }
    Ok(engine)
}

/// A model before any pass: a checkpoint, an ONNX file, or `random:NAME`.
pub(crate) fn import(path: &Path, plugins: &PluginSet) -> Result<Model, Failure> {
    match random_model(path)? {
        Some(model) => Ok(model),
        None => Ok(bertha::import_model(path, plugins)?),
    }
}

/// `random:NAME` is a model of that shape with random weights, for measuring speed without a checkpoint.
fn random_model(path: &Path) -> Result<Option<Model>, Failure> {
    let Some(name) = path.to_str().and_then(|path| path.strip_prefix("random:")) else { return Ok(None) };
    let config = EncoderConfig::named(name).ok_or_else(|| {
        Failure::Usage(format!("random:{name}: known shapes are {}", EncoderConfig::NAMES.join(", ")))
    })?;
    Ok(Some(config.build(1).map_err(bertha::Error::from)?))
}

/// Names libraries of plugins that every command loads, separated as `PATH` is.
const PLUGINS_VARIABLE: &str = "BERTHA_PLUGINS";

impl PluginOptions {
    /// The plugins of all libraries, in options that are otherwise the default.
    pub(crate) fn options(&self) -> Result<Options, Failure> {
        let mut plugins = PluginSet::new();
        let variable = std::env::var_os(PLUGINS_VARIABLE).unwrap_or_default();
        let named = std::env::split_paths(&variable).filter(|path| !path.as_os_str().is_empty());
        for path in named.chain(self.libraries.iter().cloned()) {
            bertha::plugin::load(&path, &mut plugins).map_err(bertha::Error::from)?;
        }
        Ok(Options { plugins, any_plugin_build: self.any_plugin_build, ..Options::default() })
    }
}

impl RunOptions {
    /// Opens a model and places it on the device that was asked for.
    pub(crate) fn open(&self, path: &Path) -> Result<Engine, Failure> {
        self.place(open(path, &self.plugins)?)
    }

    /// The engine on the device that was asked for.
    pub(crate) fn place(&self, engine: Engine) -> Result<Engine, Failure> {
        let shown = engine.notices().len();
        let placed = match self.device {
            Device::Cpu => return Ok(engine),
            Device::Cuda => self.on_gpu(engine)?,
            Device::Auto => match self.on_gpu(engine.clone()) {
                Ok(placed) => placed,
                Err(error) => {
                    eprintln!("note: running on the CPU: {error}");
                    return Ok(engine);
                }
            },
        };
        for notice in placed.notices().iter().skip(shown) {
            eprintln!("note: {notice}");
        }
        if let (Device::Auto, Some(model)) = (self.device, placed.gpu()) {
            eprintln!("note: running on {} in {}", model.device().name, model.plan().precision());
        }
        Ok(placed)
    }

    /// The engine on the GPU; a plan that has to be made is timed, and the times are kept.
    fn on_gpu(&self, engine: Engine) -> Result<Engine, bertha::Error> {
        let mut cache = timings::open(None);
        let before = cache.clone();
        let placed = engine.on_gpu_timed(self.gpu, self.precision, &mut cache);
        if cache != before {
            timings::save(&cache);
        }
        placed
    }

    /// The thread count, as sessions take it.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }
}

impl Texts {
    /// The texts given, or the lines of the standard input for a single `-`.
    pub(crate) fn read(self) -> Result<Vec<String>, Failure> {
        read_texts(self.texts)
    }
}

/// See [`Texts::read`].
pub(crate) fn read_texts(texts: Vec<String>) -> Result<Vec<String>, Failure> {
    if texts != ["-"] {
        return Ok(texts);
    }
    let lines: Result<Vec<String>, _> = std::io::stdin().lines().collect();
    lines.map_err(|error| Failure::Other(format!("cannot read the standard input: {error}")))
}
