//! From a path to a model.

use std::path::Path;

use bertha_graph::Model;
use bertha_graph::plugin::PluginSet;
use bertha_import::{hf, onnx};

use crate::error::Error;

/// What a path holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A folder with a `config.json` and weights.
    Checkpoint,
    /// An `.onnx` file.
    Onnx,
    /// A `.bertha` file.
    Engine,
}

/// Tells by the kind of file, then by its ending, then by its first bytes.
pub(crate) fn source_of(path: &Path) -> Result<Source, Error> {
    let not_a_model = |why: String| Error::NotAModel { path: path.to_owned(), why };
    let kind = std::fs::metadata(path).map_err(|error| not_a_model(error.to_string()))?;
    if kind.is_dir() {
        return Ok(Source::Checkpoint);
    }
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("onnx") => Ok(Source::Onnx),
        Some("bertha") => Ok(Source::Engine),
        Some("safetensors" | "bin" | "json") => {
            Err(not_a_model("a part of a checkpoint: give the folder that holds it".into()))
        }
        _ if starts_like_an_engine(path) => Ok(Source::Engine),
        _ => Err(not_a_model("neither a folder nor a file of a known kind".into())),
    }
}

/// Whether the path is an engine file, by its ending or its first bytes.
pub fn is_engine_file(path: &Path) -> bool {
    matches!(source_of(path), Ok(Source::Engine))
}

fn starts_like_an_engine(path: &Path) -> bool {
    use std::io::Read;
    let mut start = [0u8; 8];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok()
        && start == bertha_engine::MAGIC
}

/// Imports a checkpoint folder or an ONNX file, and compiles nothing: the graph as the source has it, with nodes
/// that `plugins` answer to as these.
///
/// # Errors
/// When the path holds neither, or what it holds cannot be imported.
pub fn import_model(path: impl AsRef<Path>, plugins: &PluginSet) -> Result<Model, Error> {
    let path = path.as_ref();
    import_from(path, source_of(path)?, plugins)
}

pub(crate) fn import_from(path: &Path, source: Source, plugins: &PluginSet) -> Result<Model, Error> {
    Ok(match source {
        Source::Checkpoint => hf::import(path, &hf::ImportOptions::default())?,
        Source::Onnx => onnx::import(
            path,
            &onnx::ImportOptions { plugins: plugins.clone(), ..onnx::ImportOptions::default() },
        )?,
        Source::Engine => {
            return Err(Error::NotAModel {
                path: path.to_owned(),
                why: "an engine, already compiled".into(),
            });
        }
    })
}
