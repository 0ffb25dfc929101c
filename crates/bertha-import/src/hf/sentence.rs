//! What sentence-transformers keeps beside the encoder: `modules.json`, pooling, dense layers, normalisation.

use std::path::{Component, Path, PathBuf};

use bertha_graph::{PoolKind, Pooling, Task, TensorId, output};
use serde_json::Value;

use super::activation::Act;
use super::checkpoint::Checkpoint;
use super::config::{self, Config, read_json};
use super::net::{Inputs, Net};
use crate::error::{ImportError, Result};

/// PyTorch's `normalize` divides by at least this.
const NORM_EPSILON: f32 = 1e-12;
const MODULES: &str = "modules.json";
/// The encoder's settings; older versions name the file after the model.
const SETTINGS: [&str; 6] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
];

/// The modules of a sentence-transformers folder, none for other folders.
#[derive(Debug, Default)]
pub(crate) struct SentenceFolder {
    /// The folder of the encoder within the folder; empty when it is the same.
    transformer: PathBuf,
    task: Option<Task>,
    modules: Vec<Module>,
    max_seq_length: Option<usize>,
}

/// What happens to the hidden states, in order.
#[derive(Debug)]
enum Module {
    Pool(PoolKind),
    Dense { folder: PathBuf, config: Config },
    Normalize,
}

impl SentenceFolder {
    /// Reads `modules.json` and what it names, or a lone `1_Pooling/config.json`.
    ///
    /// # Errors
    /// For modules and ways of pooling that are not supported.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let mut sentence = SentenceFolder::default();
        let list = folder.join(MODULES);
        if list.exists() {
            sentence.read_modules(folder, &list)?;
        } else if let Some(config) = Config::open_optional(&folder.join("1_Pooling").join("config.json"))? {
            sentence.task = Some(Task::Encoder);
            sentence.modules.push(Module::Pool(pool_kind(&config)?));
        }
        let root = sentence.transformer(folder);
        for name in SETTINGS {
            if let Some(config) = Config::open_optional(&root.join(name))? {
                sentence.max_seq_length = config.optional_size("max_seq_length")?;
                break;
            }
        }
        Ok(sentence)
    }

    fn read_modules(&mut self, folder: &Path, list: &Path) -> Result<()> {
        let Value::Array(modules) = read_json(list)? else {
            return Err(ImportError::format(list, "modules.json", "expected a list at the top"));
        };
        for (index, module) in modules.iter().enumerate() {
            let text = |field: &str| {
                module
                    .get(field)
                    .and_then(Value::as_str)
                    .ok_or_else(|| ImportError::config(list, format!("[{index}].{field}"), "expected a text"))
            };
            let path = inside(list, text("path")?)?;
            let class = text("type")?;
            // Classes have moved between Python modules; their own names stay.
            match (index, class.rsplit('.').next().unwrap_or(class)) {
                (0, "Transformer" | "MLMTransformer") => self.transformer = path,
                // Sparse vectors are made of the logits.
                (_, "SpladePooling") => self.task = Some(Task::MaskedLm),
                (_, "Pooling") => {
                    let config = Config::open(&folder.join(path).join("config.json"))?;
                    self.modules.push(Module::Pool(pool_kind(&config)?));
                    self.task = Some(Task::Encoder);
                }
                (_, "Dense") => {
                    let path = folder.join(path);
                    let config = Config::open(&path.join("config.json"))?;
                    self.modules.push(Module::Dense { folder: path, config });
                }
                (_, "Normalize") => self.modules.push(Module::Normalize),
                _ => {
                    let reason = format!(
                        "the module {class:?} is not supported at this place; expected Transformer or MLMTransformer \
                         first, then Pooling, Dense, Normalize or SpladePooling"
                    );
                    return Err(ImportError::config(list, format!("[{index}].type"), reason));
                }
            }
        }
        Ok(())
    }

    /// The folder of the encoder.
    pub(crate) fn transformer(&self, folder: &Path) -> PathBuf {
        if self.transformer.as_os_str().is_empty() {
            folder.to_owned()
        } else {
            folder.join(&self.transformer)
        }
    }

    /// The task that the modules imply.
    pub(crate) fn task(&self) -> Option<Task> {
        self.task
    }

    /// Longest sequence, where the folder says.
    pub(crate) fn max_seq_length(&self) -> Option<usize> {
        self.max_seq_length
    }

    /// How sentences are pooled, if they are.
    pub(crate) fn pooling(&self) -> Option<Pooling> {
        let kind = self.modules.iter().find_map(|module| match module {
            Module::Pool(kind) => Some(*kind),
            Module::Dense { .. } | Module::Normalize => None,
        })?;
        let normalize = self.modules.iter().any(|module| matches!(module, Module::Normalize));
        Some(Pooling { kind, normalize })
    }

    /// Adds the modules after the encoder and the output that they make.
    pub(crate) fn build(
        &self,
        folder: &Path,
        net: &mut Net<'_>,
        hidden: TensorId,
        inputs: &Inputs,
        width: usize,
    ) -> Result<()> {
        let (mut x, mut width, mut pooled) = (hidden, width, false);
        for (index, module) in self.modules.iter().enumerate() {
            let node = format!("sentence.{index}");
            match module {
                Module::Pool(kind) if !pooled => {
                    x = net.pool(&format!("{node}.pool"), x, inputs.cu_seqlens, *kind)?;
                    pooled = true;
                }
                Module::Pool(_) => {
                    let list = folder.join(MODULES);
                    return Err(ImportError::config(
                        &list,
                        format!("[{}]", index + 1),
                        "a second Pooling module",
                    ));
                }
                Module::Dense { folder, config } => {
                    (x, width) = dense(net, &node, x, width, folder, config)?;
                }
                Module::Normalize => x = net.l2_normalize(&format!("{node}.normalize"), x, NORM_EPSILON)?,
            }
        }
        if pooled { net.output(output::SENTENCE_EMBEDDING, x) } else { Ok(()) }
    }
}

/// A dense layer of sentence-transformers with its own folder of weights. Gives the result and its width.
fn dense(
    net: &mut Net<'_>,
    node: &str,
    x: TensorId,
    width: usize,
    folder: &Path,
    config: &Config,
) -> Result<(TensorId, usize)> {
    let (columns, rows) = (config.size("in_features")?, config.size("out_features")?);
    if columns != width {
        return Err(config.wrong("in_features", format!("expected {width}, found {columns}")));
    }
    let checkpoint = Checkpoint::open(folder)?;
    let prefix = folder.file_name().map_or_else(|| "dense".into(), |name| name.to_string_lossy());
    let mut load = |name: &str, shape: &[usize]| {
        let data = checkpoint.tensor(name)?;
        let wrong = |reason: String| ImportError::tensor(checkpoint.path(), name, reason);
        if data.shape() != shape {
            return Err(wrong(format!("expected the shape {shape:?}, found {:?}", data.shape())));
        }
        let values =
            data.to_f32().ok_or_else(|| wrong(format!("expected floats, found {}", data.dtype())))?;
        let data = bertha_graph::TensorData::from_vec(shape.to_vec(), values.into_owned());
        net.constant(format!("{prefix}.{name}"), data.map_err(|error| wrong(error.to_string()))?)
    };
    let weight = load("linear.weight", &[rows, columns])?;
    let bias = if config.flag_or("bias", true)? { Some(load("linear.bias", &[rows])?) } else { None };
    let x = net.linear_of(&format!("{node}.dense"), x, weight, bias)?;
    let activation = config.text("activation_function")?.unwrap_or("torch.nn.modules.activation.Tanh");
    let act = match activation.rsplit('.').next().unwrap_or(activation) {
        "Identity" => return Ok((x, rows)),
        "Tanh" => Act::Tanh,
        "ReLU" => Act::Relu,
        "GELU" => Act::GeluErf,
        "SiLU" => Act::Silu,
        "Sigmoid" => Act::Sigmoid,
        _ => {
            let reason =
                format!("expected Identity, Tanh, ReLU, GELU, SiLU or Sigmoid, found {activation:?}");
            return Err(config.wrong("activation_function", reason));
        }
    };
    Ok((net.activation(&format!("{node}.activation"), x, act)?, rows))
}

/// Flags of a pooling module, and the names that newer files use instead.
const MODES: [(&str, &str, PoolKind); 6] = [
    ("pooling_mode_cls_token", "cls", PoolKind::Cls),
    ("pooling_mode_mean_tokens", "mean", PoolKind::Mean),
    ("pooling_mode_max_tokens", "max", PoolKind::Max),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", PoolKind::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", "weightedmean", PoolKind::WeightedMean),
    ("pooling_mode_lasttoken", "lasttoken", PoolKind::LastToken),
];

fn pool_kind(config: &Config) -> Result<PoolKind> {
    if !config.flag_or("include_prompt", true)? {
        return Err(config
            .wrong("include_prompt", "leaving prompts out of the pooling is not supported; expected true"));
    }
    let mut found = Vec::new();
    for (flag, name, kind) in MODES {
        if config.flag_or(flag, false)? {
            found.push((name, kind));
        }
    }
    if let Some(mode) = config.get("pooling_mode") {
        let named = MODES.iter().find(|(_, name, _)| mode.as_str() == Some(name));
        let Some((_, name, kind)) = named else {
            let names = MODES.map(|(_, name, _)| name).join(", ");
            return Err(config
                .wrong("pooling_mode", format!("expected one of {names}, found {}", config::kind(mode))));
        };
        found.push((name, *kind));
    }
    match found.as_slice() {
        [(_, kind)] => Ok(*kind),
        [] => Err(config.wrong("pooling_mode", "no way of pooling is chosen")),
        several => {
            let names = several.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            Err(config
                .wrong("pooling_mode", format!("expected one way of pooling, found several joined: {names}")))
        }
    }
}

/// A path within the folder.
fn inside(list: &Path, location: &str) -> Result<PathBuf> {
    let path = PathBuf::from(location);
    if path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Ok(path);
    }
    Err(ImportError::UnsafeLocation {
        path: list.to_owned(),
        owner: "a module".into(),
        location: location.to_owned(),
        reason: "it leads out of the folder",
    })
}
