//! From a folder to a [`Model`].

use std::path::Path;

use bertha_graph::{Interface, Model, ModelInfo, PositionIds, Task, output};

use super::checkpoint::Checkpoint;
use super::compressed::Compression;
use super::config::Config;
use super::families::{self, FAMILIES, Family};
use super::net::Net;
use super::sentence::SentenceFolder;
use super::tokenizer;
use super::weights::Weights;
use crate::error::Result;

/// What the caller decides about an import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The head to import. By default: the encoder with its pooling for folders of sentence-transformers; else what
    /// `architectures` in config.json names; else what the weights show.
    pub task: Option<Task>,
}

/// Reads the model in a folder of Hugging Face transformers or sentence-transformers.
///
/// The graph is ragged (see [`bertha_graph::ragged`]); weights keep their names and their layout, and become `f32`.
/// `f32` weights of a safetensors file are not copied.
///
/// # Errors
/// [`ImportError`](crate::ImportError) naming file and field for what config.json asks for and is not supported; naming the tensor for a
/// weight that is missing, of another shape than expected, or not used by the model.
pub fn import(path: impl AsRef<Path>, options: &ImportOptions) -> Result<Model> {
    let folder = path.as_ref();
    let sentence = SentenceFolder::open(folder)?;
    let root = sentence.transformer(folder);
    let config = Config::open(&root.join("config.json"))?;
    let checkpoint = Checkpoint::open(&root)?;
    let class = config.architecture()?.map(str::to_owned);
    let family = find_family(&config, class.as_deref(), &checkpoint)?;
    let weights = Weights::new(checkpoint, Compression::of(&config)?, family.prefix())?;
    let task = match options.task.or_else(|| sentence.task()) {
        Some(task) => task,
        None => find_task(&config, family, class.as_deref(), &weights)?,
    };

    let source = format!("Hugging Face checkpoint {}", weights.path().display());
    let built = Build { family, task, sentence: &sentence, folder }.run(&config, weights, &root)?;
    let text = tokenizer::find(&root, family.model_types())?;
    let position_ids = family.position_ids(&config)?;
    let info = ModelInfo {
        family: config
            .text("model_type")?
            .or(family.model_types().first().copied())
            .unwrap_or_default()
            .into(),
        interface: Interface::Ragged,
        task,
        position_ids,
        max_tokens: max_tokens(&config, position_ids, &sentence, &root)?,
        token_types: family.token_types(),
        hidden: Some(family.hidden(&config)?),
        labels: match built.classes {
            Some(classes) => labels(&config, classes)?,
            None => Vec::new(),
        },
        multi_label: config.text("problem_type")? == Some("multi_label_classification"),
        pooling: if task == Task::Encoder { sentence.pooling() } else { None },
        source: match &text.missing {
            Some(reason) => format!("{source}; no tokenizer: {reason}"),
            None => source,
        },
    };
    Ok(Model { graph: built.graph, info, tokenizer: text.json })
}

struct Built {
    graph: bertha_graph::Graph,
    classes: Option<usize>,
}

/// What is to be built.
struct Build<'a> {
    family: &'static dyn Family,
    task: Task,
    sentence: &'a SentenceFolder,
    folder: &'a Path,
}

impl Build<'_> {
    fn run(&self, config: &Config, weights: Weights, root: &Path) -> Result<Built> {
        let mut net = Net::new(root, config, weights);
        let inputs = net.inputs(self.family.token_types())?;
        let hidden = self.family.encoder(&mut net, &inputs)?;
        let classes = if self.task == Task::Encoder {
            net.output(output::LAST_HIDDEN_STATE, hidden)?;
            if let Some(pooled) = self.family.pooler(&mut net, hidden, &inputs)? {
                net.output(output::POOLER_OUTPUT, pooled)?;
            }
            let width = self.family.hidden(config)?;
            self.sentence.build(self.folder, &mut net, hidden, &inputs, width)?;
            None
        } else {
            self.family.head(&mut net, self.task, hidden, &inputs)?
        };
        Ok(Built { graph: net.finish(self.family.head_weights())?, classes })
    }
}

/// The family that `model_type` names; else the one of the class; else the one whose prefix the weights have. The
/// oldest BERT checkpoints have none of these.
fn find_family(config: &Config, class: Option<&str>, checkpoint: &Checkpoint) -> Result<&'static dyn Family> {
    let known =
        || FAMILIES.iter().flat_map(|family| family.model_types()).copied().collect::<Vec<_>>().join(", ");
    if let Some(model_type) = config.text("model_type")? {
        return families::by_model_type(model_type).ok_or_else(|| {
            let reason =
                format!("the model type {model_type:?} is not supported; expected one of {}", known());
            config.wrong("model_type", reason)
        });
    }
    if let Some(class) = class {
        return families::by_class(class).map(|(family, _)| family).ok_or_else(|| {
            let reason = format!("{class:?} belongs to no supported family; expected one of {}", known());
            config.wrong("architectures", reason)
        });
    }
    let with_prefix =
        |family: &&&dyn Family| checkpoint.names().any(|name| name.starts_with(family.prefix()));
    if let Some(family) = FAMILIES.iter().find(with_prefix) {
        return Ok(*family);
    }
    let is_bert = checkpoint.contains("encoder.layer.0.attention.self.query.weight")
        && config.optional_size("type_vocab_size")? == Some(2)
        && config.get("embedding_size").is_none();
    match families::by_model_type("bert").filter(|_| is_bert) {
        Some(bert) => Ok(bert),
        None => Err(config.wrong(
            "model_type",
            format!("the field is missing, and the weights do not tell; expected one of {}", known()),
        )),
    }
}

/// The task of the class in config.json, or of the head that is there.
fn find_task(
    config: &Config,
    family: &'static dyn Family,
    class: Option<&str>,
    weights: &Weights,
) -> Result<Task> {
    let Some(class) = class else {
        return Ok(family.guess_task(&|name| weights.has(name)));
    };
    let stems = family.class_stems();
    let rest = stems.iter().filter_map(|stem| class.strip_prefix(stem)).min_by_key(|rest| rest.len());
    let task = match rest {
        Some("Model") => Some(Task::Encoder),
        Some("ForMaskedLM") => Some(Task::MaskedLm),
        Some("ForPreTraining") if family.model_types().contains(&"electra") => {
            Some(Task::ReplacedTokenDetection)
        }
        Some("ForPreTraining") => Some(Task::Pretraining),
        Some("ForNextSentencePrediction") => Some(Task::NextSentence),
        Some("ForSequenceClassification") => Some(Task::SequenceClassification),
        Some("ForTokenClassification") => Some(Task::TokenClassification),
        Some("ForQuestionAnswering") => Some(Task::QuestionAnswering),
        _ => None,
    };
    task.ok_or_else(|| {
        let stem = stems.first().copied().unwrap_or_default();
        let reason = format!(
            "the class {class:?} is not supported; expected {stem}Model or {stem}For with MaskedLM, PreTraining, \
             NextSentencePrediction, SequenceClassification, TokenClassification or QuestionAnswering"
        );
        config.wrong("architectures", reason)
    })
}

/// The least of what positions, tokenizer and sentence-transformers allow.
fn max_tokens(
    config: &Config,
    position_ids: PositionIds,
    sentence: &SentenceFolder,
    root: &Path,
) -> Result<Option<usize>> {
    let rows = config.size("max_position_embeddings")?;
    let reserved = match position_ids {
        PositionIds::AfterPad { pad_id } => pad_id as usize + 1,
        PositionIds::None | PositionIds::Absolute => 0,
    };
    let positions = rows.checked_sub(reserved).filter(|left| *left > 0).ok_or_else(|| {
        let reason =
            format!("expected more than the {reserved} rows before the first position, found {rows}");
        config.wrong("max_position_embeddings", reason)
    })?;
    let own_limit = match sentence.max_seq_length() {
        Some(limit) => Some(limit),
        None => tokenizer::max_length(root)?,
    };
    Ok(Some(own_limit.map_or(positions, |limit| limit.min(positions))))
}

/// The names of the classes in order.
fn labels(config: &Config, classes: usize) -> Result<Vec<String>> {
    let numbered = || (0..classes).map(|index| format!("LABEL_{index}")).collect();
    let Some(names) = config.object("id2label")? else { return Ok(numbered()) };
    // Old configurations keep two default names beside another number of classes.
    if names.len() != classes && config.optional_size("num_labels")? == Some(classes) {
        return Ok(numbered());
    }
    if names.len() != classes {
        let reason =
            format!("expected {classes} names, as many as the classifier has rows; found {}", names.len());
        return Err(config.wrong("id2label", reason));
    }
    (0..classes)
        .map(|index| {
            let name = names.get(&index.to_string()).and_then(|name| name.as_str());
            name.map(str::to_owned)
                .ok_or_else(|| config.wrong("id2label", format!("expected a text for the class {index}")))
        })
        .collect()
}
