//! The weights of a checkpoint by the names that a model family uses: prefixes, old names, conversion to f32, and a
//! record of what was used.

use std::collections::BTreeSet;
use std::path::Path;

use bertha_graph::{DType, TensorData};

use super::checkpoint::Checkpoint;
use super::compressed::Compression;
use crate::error::{ImportError, Result};

/// The weight that every family has; what stands before it is the prefix of the encoder's weights.
const ANCHOR: &str = "embeddings.word_embeddings.";

/// A checkpoint as one model sees it.
#[derive(Debug)]
pub(crate) struct Weights {
    checkpoint: Checkpoint,
    compression: Option<Compression>,
    /// Stands before the names of the encoder's weights: `bert.`, or nothing in checkpoints of bare encoders.
    encoder_prefix: String,
    /// Stands before the names of the heads' weights, usually nothing.
    head_prefix: String,
    used: BTreeSet<String>,
}

impl Weights {
    /// Finds the prefix of the encoder's weights; `usual` (`bert.`) is the one that models with heads have.
    ///
    /// # Errors
    /// When there is no word embedding, or several and none under the usual prefix.
    pub(crate) fn new(checkpoint: Checkpoint, compression: Option<Compression>, usual: &str) -> Result<Self> {
        let mut prefixes: Vec<&str> = checkpoint.names().filter_map(encoder_prefix).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        let prefix = match prefixes.as_slice() {
            [] => {
                return Err(ImportError::missing_tensor(
                    checkpoint.path(),
                    &format!("{usual}{ANCHOR}weight"),
                    checkpoint.names(),
                ));
            }
            [only] => (*only).to_owned(),
            several if several.contains(&usual) => usual.to_owned(),
            several => {
                let reason = format!(
                    "there are several word embeddings, under {}; expected one, or one under `{usual}`",
                    several.iter().map(|p| format!("`{p}`")).collect::<Vec<_>>().join(", ")
                );
                return Err(ImportError::tensor(checkpoint.path(), format!("{ANCHOR}weight"), reason));
            }
        };
        let head_prefix = prefix.strip_suffix(usual).unwrap_or("").to_owned();
        Ok(Weights { checkpoint, compression, encoder_prefix: prefix, head_prefix, used: BTreeSet::new() })
    }

    /// The weight file or index.
    pub(crate) fn path(&self) -> &Path {
        self.checkpoint.path()
    }

    /// The name in the checkpoint of what the family calls `name`, if it is there.
    pub(crate) fn resolve(&self, name: &str) -> Option<String> {
        let stored = |name: String| {
            let packed = || self.compression.is_some() && self.checkpoint.contains(&packed_name(&name));
            (self.checkpoint.contains(&name) || packed()).then_some(name)
        };
        let spellings = [Some(name.to_owned()), old_name(name)];
        spellings.into_iter().flatten().find_map(|name| {
            stored(format!("{}{name}", self.encoder_prefix))
                .or_else(|| stored(format!("{}{name}", self.head_prefix)))
        })
    }

    /// Whether there is such a weight.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.resolve(name).is_some()
    }

    /// The name in the checkpoint, or the error that there is none.
    pub(crate) fn require(&self, name: &str) -> Result<String> {
        self.resolve(name).ok_or_else(|| {
            let name = format!("{}{name}", self.encoder_prefix);
            ImportError::missing_tensor(self.path(), &name, self.checkpoint.names())
        })
    }

    /// The weight of this name in the checkpoint as f32, marked as used.
    ///
    /// # Errors
    /// When it is not of the expected shape, or not of floats and not quantised in a supported way.
    pub(crate) fn load(&mut self, stored: &str, shape: &[usize]) -> Result<TensorData> {
        let quantized = match &self.compression {
            Some(compression) => compression.load(&self.checkpoint, stored, &mut self.used)?,
            None => None,
        };
        let data = match quantized {
            Some(data) => data,
            None => {
                self.used.insert(stored.to_owned());
                self.checkpoint.tensor(stored)?
            }
        };
        if data.shape() != shape {
            let reason = format!("expected the shape {shape:?}, found {:?}", data.shape());
            return Err(ImportError::tensor(self.path(), stored, reason));
        }
        self.to_f32(stored, data)
    }

    fn to_f32(&self, stored: &str, data: TensorData) -> Result<TensorData> {
        if data.dtype() == DType::F32 {
            return Ok(data);
        }
        let Some(values) = data.to_f32() else {
            let reason = format!(
                "expected floats, found {}; quantised weights need a `quantization_config` in config.json",
                data.dtype()
            );
            return Err(ImportError::tensor(self.path(), stored, reason));
        };
        TensorData::from_vec(data.shape().to_vec(), values.into_owned())
            .map_err(|error| ImportError::tensor(self.path(), stored, error.to_string()))
    }

    /// The shape of a stored weight, without using it.
    pub(crate) fn shape(&self, stored: &str) -> Result<Vec<usize>> {
        if let Some(shape) = self.compression.as_ref().and_then(|_| packed_shape(&self.checkpoint, stored)) {
            return Ok(shape);
        }
        Ok(self.checkpoint.tensor(stored)?.shape().to_vec())
    }

    /// Checks that everything was used but buffers and the parts named by `unused`, prefixes of names that the family
    /// knows as heads.
    ///
    /// # Errors
    /// [`ImportError::ExtraTensors`].
    pub(crate) fn finish(&self, unused: &[&str]) -> Result<()> {
        let known = |name: &str| {
            is_buffer(name)
                || [&self.encoder_prefix, &self.head_prefix].into_iter().any(|prefix| {
                    name.strip_prefix(prefix.as_str())
                        .is_some_and(|rest| unused.iter().any(|head| rest.starts_with(head)))
                })
        };
        let mut extra: Vec<String> = (self.checkpoint.names())
            .filter(|name| !self.used.contains(*name) && !known(name))
            .map(str::to_owned)
            .collect();
        if extra.is_empty() {
            return Ok(());
        }
        extra.sort_unstable();
        Err(ImportError::ExtraTensors {
            path: self.path().to_owned(),
            tensors: extra,
            hint: "check `model_type`, `architectures` and `num_hidden_layers` in config.json, \
                   or remove them from the file"
                .into(),
        })
    }
}

/// What stands before the word embedding in its name.
fn encoder_prefix(name: &str) -> Option<&str> {
    let prefix =
        ["weight", "weight_packed"].iter().find_map(|end| name.strip_suffix(end)?.strip_suffix(ANCHOR))?;
    (prefix.is_empty() || prefix.ends_with('.')).then_some(prefix)
}

/// The name that the first BERT checkpoints have for parameters of layer norms.
fn old_name(name: &str) -> Option<String> {
    let (module, parameter) = name.rsplit_once('.')?;
    let is_norm = module.rsplit('.').next()?.to_ascii_lowercase().contains("norm");
    match parameter {
        "weight" if is_norm => Some(format!("{module}.gamma")),
        "bias" if is_norm => Some(format!("{module}.beta")),
        _ => None,
    }
}

/// The name of an 8-bit weight packed into 32-bit words.
pub(crate) fn packed_name(weight: &str) -> String {
    format!("{weight}_packed")
}

fn packed_shape(checkpoint: &Checkpoint, stored: &str) -> Option<Vec<usize>> {
    let shape = checkpoint.tensor(&format!("{stored}_shape")).ok()?;
    shape.to_i64()?.into_iter().map(|dim| usize::try_from(dim).ok()).collect()
}

/// Buffers that were saved beside the weights and can be computed, and state of a training run.
fn is_buffer(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(last, "position_ids" | "token_type_ids" | "num_batches_tracked")
        || ["optimizer.", "lr_scheduler.", "optimizer_state_dict."]
            .iter()
            .any(|start| name.starts_with(start))
}
