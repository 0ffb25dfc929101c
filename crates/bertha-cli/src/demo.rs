//! The small English model that comes with Bertha, inside of the binary.
//!
//! The first command that needs it compiles it into an engine file in the user's cache folder; later ones map that
//! file. Without a cache folder it is compiled anew each time, which takes a moment longer.

use std::path::{Path, PathBuf};

use bertha::Engine;
use bertha::import::onnx::ExportOptions;
use tempfile::TempDir;
use twox_hash::XxHash3_64;

use crate::commands::{Failure, export};
use crate::progress::Spinner;

/// The checkpoint, file by file, as `models/demo` in the repository has it.
#[cfg(feature = "demo-model")]
const FILES: [(&str, &[u8]); 3] = [
    ("config.json", include_bytes!("../../../models/demo/config.json")),
    ("model.safetensors", include_bytes!("../../../models/demo/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../models/demo/tokenizer.json")),
];

/// Without the feature `demo-model` there is none.
#[cfg(not(feature = "demo-model"))]
const FILES: [(&str, &[u8]); 0] = [];

/// Names the folder for compiled models, over the platform's own cache folder.
const CACHE_VARIABLE: &str = "BERTHA_CACHE";

/// The demo model, compiled.
pub(crate) fn engine() -> Result<Engine, Failure> {
    if !cfg!(feature = "demo-model") {
        let why = "this build comes without the small English model; name one with --model";
        return Err(Failure::Usage(why.into()));
    }
    let Some(cached) = cache_folder().map(|folder| folder.join(file_name())) else { return compile() };
    // A file that is damaged, or made for another processor, is replaced below.
    if let Ok(engine) = Engine::open(&cached)
        && engine.notices().is_empty()
    {
        return Ok(engine);
    }
    let engine = compile()?;
    let kept = cached.parent().map_or(Ok(()), std::fs::create_dir_all);
    if let Err(error) = kept.map_err(|error| error.to_string()).and_then(|()| save(&engine, &cached)) {
        tracing::info!("the compiled model is not kept in {}: {error}", cached.display());
    }
    Ok(engine)
}

fn save(engine: &Engine, path: &Path) -> Result<(), String> {
    engine.save(path).map(drop).map_err(|error| error.to_string())
}

/// Compiles the checkpoint.
fn compile() -> Result<Engine, Failure> {
    let _spinner = Spinner::new("compiling the model that comes with Bertha");
    Ok(Engine::open(unpack()?.path())?)
}

/// The demo model by way of ONNX: one that became ragged and has its padded form.
pub(crate) fn exported() -> Result<Engine, Failure> {
    let folder = unpack()?;
    let path = folder.path().join("model.onnx");
    export::write(folder.path(), &ExportOptions::default(), &path)?;
    Ok(Engine::open(path)?)
}

/// The checkpoint in a temporary folder.
fn unpack() -> Result<TempDir, Failure> {
    let failed = |error: std::io::Error| Failure::Other(format!("cannot unpack the built-in model: {error}"));
    let folder = tempfile::tempdir().map_err(failed)?;
    for (name, bytes) in FILES {
        std::fs::write(folder.path().join(name), bytes).map_err(failed)?;
    }
    Ok(folder)
}

/// Tells versions of Bertha and of the model apart.
fn file_name() -> String {
    let hash = FILES.iter().fold(0, |seed, (_, bytes)| XxHash3_64::oneshot_with_seed(seed, bytes));
    format!("demo-{}-{hash:016x}.bertha", env!("CARGO_PKG_VERSION"))
}

/// Where files are kept that can be made again.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(CACHE_VARIABLE) {
        return Some(PathBuf::from(folder));
    }
    let home = || std::env::var_os("HOME").map(PathBuf::from);
    let base = if cfg!(target_os = "windows") {
        std::env::var_os("LOCALAPPDATA").map(PathBuf::from)
    } else if cfg!(target_os = "macos") {
        home().map(|home| home.join("Library/Caches"))
    } else {
        std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| home().map(|home| home.join(".cache")))
    };
    base.map(|base| base.join("bertha"))
}
