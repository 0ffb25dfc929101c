//! What a caller must know of an ONNX model: guessed from its outputs, told by the files beside it.

use std::path::Path;

use bertha_graph::{
    Graph, Interface, ModelInfo, Op, Origin, PoolKind, Pooling, PositionIds, Task, TensorType, output, ragged,
};
use bytes::Bytes;
use serde_json::Value;

use crate::error::{ImportError, Result};
use crate::onnx::proto::ModelProto;

/// Files that describe the model, where they lie beside it.
#[derive(Default)]
pub(super) struct Companions {
    pub(super) tokenizer: Option<Bytes>,
    config: Value,
    tokenizer_config: Value,
    pooling: Option<Pooling>,
}

impl Companions {
    /// Looks in the model's folder and, because exporters like to put the file into a folder `onnx` within the
    /// checkpoint, in the one above when the model's folder is called so.
    ///
    /// # Errors
    /// A file that is there but cannot be read.
    pub(super) fn beside(folder: &Path) -> Result<Self> {
        let mut folders = vec![folder.to_owned()];
        if folder.file_name().is_some_and(|name| name == "onnx") {
            folders.extend(folder.parent().map(Path::to_owned));
        }
        let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
        let json = |name: &str| find(name).map_or(Ok(Value::Null), |path| read_json(&path));
        let tokenizer = match find("tokenizer.json") {
            Some(path) => Some(Bytes::from(read(&path)?)),
            None => None,
        };
        let pooling = match find("1_Pooling/config.json") {
            Some(path) => read_pooling(&path, &json("modules.json")?)?,
            None => None,
        };
        Ok(Companions {
            tokenizer,
            config: json("config.json")?,
            tokenizer_config: json("tokenizer_config.json")?,
            pooling,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| ImportError::io(path, "read the file", error))
}

fn read_json(path: &Path) -> Result<Value> {
    serde_json::from_slice(&read(path)?).map_err(|error| ImportError::format(path, "JSON", error.to_string()))
}

/// The pooling of a sentence-transformers model; normalised when its list of modules says so.
fn read_pooling(path: &Path, modules: &Value) -> Result<Option<Pooling>> {
    const MODES: [(&str, PoolKind); 6] = [
        ("pooling_mode_cls_token", PoolKind::Cls),
        ("pooling_mode_mean_tokens", PoolKind::Mean),
        ("pooling_mode_max_tokens", PoolKind::Max),
        ("pooling_mode_mean_sqrt_len_tokens", PoolKind::MeanSqrtLen),
        ("pooling_mode_weightedmean_tokens", PoolKind::WeightedMean),
        ("pooling_mode_lasttoken", PoolKind::LastToken),
    ];
    let config = read_json(path)?;
    let chosen: Vec<PoolKind> = MODES
        .into_iter()
        .filter(|(key, _)| config[*key] == Value::Bool(true))
        .map(|(_, kind)| kind)
        .collect();
    let normalize = modules.as_array().is_some_and(|modules| {
        modules.iter().any(|module| module["type"].as_str().is_some_and(|ty| ty.ends_with(".Normalize")))
    });
    match chosen.as_slice() {
        [] => Ok(None),
        [kind] => Ok(Some(Pooling { kind: *kind, normalize })),
        _ => Err(ImportError::unsupported(
            path,
            "more than one pooling mode at a time",
            "choose one, or embed with an explicit pooling",
        )),
    }
}

/// Describes an imported graph. `task` overrides the guess.
pub(super) fn describe(
    graph: &Graph,
    model: &ModelProto,
    companions: &Companions,
    task: Option<Task>,
    path: &Path,
) -> ModelInfo {
    let config = &companions.config;
    let task = task.or_else(|| configured_task(config)).unwrap_or_else(|| guessed_task(graph));
    let opset = model.opset_import.iter().find(|import| super::opsets::domain(&import.domain).is_empty());
    let producer = [model.producer_name.as_str(), model.producer_version.as_str()].join(" ");
    ModelInfo {
        family: "onnx".to_owned(),
        interface: Interface::Dense,
        task,
        position_ids: PositionIds::None,
        max_tokens: max_tokens(companions),
        token_types: graph.inputs().iter().any(|id| graph.tensor(*id).name == ragged::TOKEN_TYPE_IDS),
        hidden: hidden(graph, config),
        labels: labels(config, task),
        multi_label: config["problem_type"] == "multi_label_classification",
        pooling: companions.pooling,
        source: format!(
            "{}: opset {}, written by {}",
            path.display(),
            opset.map_or(0, |import| import.version),
            producer.trim()
        ),
    }
}

/// The task that the checkpoint's configuration names.
fn configured_task(config: &Value) -> Option<Task> {
    const HEADS: [(&str, Task); 8] = [
        ("ForMaskedLM", Task::MaskedLm),
        ("ForPreTraining", Task::Pretraining),
        ("ForNextSentencePrediction", Task::NextSentence),
        ("ForSequenceClassification", Task::SequenceClassification),
        ("ForTokenClassification", Task::TokenClassification),
        ("ForQuestionAnswering", Task::QuestionAnswering),
        ("LMHeadModel", Task::MaskedLm),
        ("Model", Task::Encoder),
    ];
    let architecture = config["architectures"].as_array()?.first()?.as_str()?;
    if architecture == "ElectraForPreTraining" {
        return Some(Task::ReplacedTokenDetection);
    }
    HEADS.into_iter().find(|(suffix, _)| architecture.ends_with(suffix)).map(|(_, task)| task)
}

/// The task that names and shapes of the outputs suggest.
fn guessed_task(graph: &Graph) -> Task {
    let named = |name: &str| graph.outputs().iter().any(|(output, _)| output == name);
    if named(output::START_LOGITS) || named(output::END_LOGITS) {
        return Task::QuestionAnswering;
    }
    if named(output::SEQ_RELATIONSHIP_LOGITS) {
        return if graph.outputs().len() > 1 { Task::Pretraining } else { Task::NextSentence };
    }
    if [output::LAST_HIDDEN_STATE, output::POOLER_OUTPUT, output::SENTENCE_EMBEDDING].into_iter().any(named)
        || named("token_embeddings")
    {
        return Task::Encoder;
    }
    let first = |index: usize| graph.outputs().get(index).map(|(_, id)| &graph.tensor(*id).ty);
    match (first(0), first(1)) {
        (Some(start), Some(end)) if start == end && rank_and_width(start) == (2, None) => {
            Task::QuestionAnswering
        }
        (Some(ty), _) => match rank_and_width(ty) {
            (3, width) if width.is_some() && width == vocabulary(graph) => Task::MaskedLm,
            (3, Some(_)) if named(output::LOGITS) => Task::TokenClassification,
            (2, Some(_)) if named(output::LOGITS) => Task::SequenceClassification,
            _ => Task::Encoder,
        },
        (None, _) => Task::Encoder,
    }
}

fn rank_and_width(ty: &TensorType) -> (usize, Option<i64>) {
    (ty.shape.rank(), ty.shape.dims().last().and_then(|dim| dim.as_const()))
}

/// Rows of the table that the token ids index.
fn vocabulary(graph: &Graph) -> Option<i64> {
    let ids = graph.find(ragged::INPUT_IDS)?;
    graph.nodes().iter().find_map(|node| match (&node.op, node.inputs.as_slice()) {
        (Op::Gather { .. }, [Some(table), Some(indices)])
            if *indices == ids && matches!(graph.tensor(*table).origin, Origin::Constant(_)) =>
        {
            graph.tensor(*table).ty.shape.dims().first().and_then(|dim| dim.as_const())
        }
        _ => None,
    })
}

/// Longest sequence in tokens: what the tokenizer cuts at or the position table holds.
fn max_tokens(companions: &Companions) -> Option<usize> {
    // Tokenizers without a limit have an absurd number here.
    const NO_LIMIT: u64 = 1 << 24;
    let told = companions.tokenizer_config["model_max_length"].as_u64().filter(|length| *length < NO_LIMIT);
    let config = &companions.config;
    let positions = config["max_position_embeddings"].as_u64().map(|rows| {
        // These families start counting after the id of the pad token.
        let counted_from_pad = ["roberta", "xlm-roberta", "camembert", "mpnet"]
            .iter()
            .any(|family| config["model_type"] == *family);
        let pad = config["pad_token_id"].as_u64().unwrap_or(1);
        if counted_from_pad { rows.saturating_sub(pad + 1) } else { rows }
    });
    let limit = [told, positions].into_iter().flatten().min()?;
    usize::try_from(limit).ok()
}

/// Width of the hidden states, as the configuration has it or the first three-dimensional output of an encoder.
fn hidden(graph: &Graph, config: &Value) -> Option<usize> {
    let configured = config["hidden_size"].as_u64().or_else(|| config["dim"].as_u64());
    if let Some(hidden) = configured {
        return usize::try_from(hidden).ok();
    }
    let named = [output::LAST_HIDDEN_STATE, "token_embeddings", output::SENTENCE_EMBEDDING];
    let (_, id) = graph.outputs().iter().find(|(name, _)| named.contains(&name.as_str()))?;
    usize::try_from(rank_and_width(&graph.tensor(*id).ty).1?).ok()
}

/// Names of the classes in order of their numbers.
fn labels(config: &Value, task: Task) -> Vec<String> {
    if !matches!(task, Task::SequenceClassification | Task::TokenClassification) {
        return Vec::new();
    }
    let Some(by_id) = config["id2label"].as_object() else { return Vec::new() };
    (0..by_id.len())
        .map(|id| match by_id.get(&id.to_string()).and_then(Value::as_str) {
            Some(label) => label.to_owned(),
            None => format!("LABEL_{id}"),
        })
        .collect()
}
