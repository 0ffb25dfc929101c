//! What a caller must know of an ONNX model: guessed from its outputs, told by the files beside it.

use std::path::{Path, PathBuf};

use bertha_graph::{
    Graph, Interface, ModelInfo, Op, Origin, Pooling, PositionIds, Task, TensorType, output, ragged,
};
use bytes::Bytes;
use serde_json::Value;

use crate::error::Result;
use crate::hf::config::Config;
use crate::hf::sentence::SentenceFolder;
use crate::hf::tokenizer;
use crate::onnx::proto::ModelProto;

/// What the files beside the model say: those of a Hugging Face checkpoint.
#[derive(Default)]
pub(super) struct Companions {
    pub(super) tokenizer: Option<Bytes>,
    config: Option<Config>,
    /// Longest sequence of the tokenizer or the sentence-transformers settings.
    max_tokens: Option<usize>,
    pooling: Option<Pooling>,
    /// What is missing and why, for people.
    notes: Vec<String>,
}

impl Companions {
    /// Looks in the model's folder and, because exporters like to put the file into a folder `onnx` within the
    /// checkpoint, in the one above when the model's folder is called so and has no files of its own.
    ///
    /// # Errors
    /// A file that is there but cannot be read.
    pub(super) fn beside(folder: &Path) -> Result<Self> {
        let Some(folder) = checkpoint_folder(folder) else { return Ok(Companions::default()) };
        let config = Config::open_optional(&folder.join("config.json"))?;
        let model_type = config.as_ref().and_then(|config| config.get("model_type")).and_then(Value::as_str);
        let found = tokenizer::find(&folder, model_type.as_slice())?;
        let mut notes: Vec<String> =
            found.missing.map(|reason| format!("no tokenizer: {reason}")).into_iter().collect();
        // The file may have its pooling within; settings that cannot be followed matter only when they are needed.
        let sentence = SentenceFolder::open(&folder).unwrap_or_else(|error| {
            notes.push(format!("no pooling: {error}"));
            SentenceFolder::default()
        });
        let max_tokens = match sentence.max_seq_length() {
            Some(length) => Some(length),
            None => tokenizer::max_length(&folder)?,
        };
        Ok(Companions { tokenizer: found.json, pooling: sentence.pooling(), config, max_tokens, notes })
    }

    /// A field of config.json.
    fn field(&self, name: &str) -> &Value {
        self.config.as_ref().and_then(|config| config.get(name)).unwrap_or(&Value::Null)
    }
}

/// The folder with the checkpoint's other files, if there is one.
fn checkpoint_folder(folder: &Path) -> Option<PathBuf> {
    const SIGNS: [&str; 4] = ["config.json", "tokenizer.json", "vocab.txt", "modules.json"];
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let has_files = |folder: &Path| SIGNS.iter().any(|name| folder.join(name).is_file());
    if has_files(folder) {
        return Some(folder.to_owned());
    }
    // A relative path may end before the name of the folder that it is in.
    let absolute = std::path::absolute(folder).ok()?;
    let above = absolute.parent().filter(|_| absolute.file_name().is_some_and(|name| name == "onnx"))?;
    has_files(above).then(|| above.to_owned())
}

/// Describes an imported graph. `task` overrides the guess.
pub(super) fn describe(
    graph: &Graph,
    model: &ModelProto,
    companions: &Companions,
    task: Option<Task>,
    path: &Path,
) -> ModelInfo {
    let task = task
        .or_else(|| named_task(graph))
        .or_else(|| configured_task(companions))
        .unwrap_or_else(|| guessed_task(graph));
    let opset = model.opset_import.iter().find(|import| super::opsets::domain(&import.domain).is_empty());
    let producer = [model.producer_name.as_str(), model.producer_version.as_str()].join(" ");
    let mut source = format!(
        "{}: opset {}, written by {}",
        path.display(),
        opset.map_or(0, |import| import.version),
        if producer.trim().is_empty() { "an unnamed tool" } else { producer.trim() }
    );
    for note in &companions.notes {
        source.push_str("; ");
        source.push_str(note);
    }
    ModelInfo {
        family: "onnx".to_owned(),
        interface: Interface::Dense,
        task,
        position_ids: PositionIds::None,
        max_tokens: max_tokens(companions),
        token_types: graph.inputs().iter().any(|id| graph.tensor(*id).name == ragged::TOKEN_TYPE_IDS),
        hidden: hidden(graph, companions),
        labels: labels(graph, companions, task),
        multi_label: companions.field("problem_type") == "multi_label_classification",
        pooling: companions.pooling,
        source,
    }
}

/// The task of the class that the checkpoint's configuration names.
fn configured_task(companions: &Companions) -> Option<Task> {
    const HEADS: [(&str, Task); 7] = [
        ("ForMaskedLM", Task::MaskedLm),
        ("ForPreTraining", Task::Pretraining),
        ("ForNextSentencePrediction", Task::NextSentence),
        ("ForSequenceClassification", Task::SequenceClassification),
        ("ForTokenClassification", Task::TokenClassification),
        ("ForQuestionAnswering", Task::QuestionAnswering),
        ("Model", Task::Encoder),
    ];
    let architecture = companions.field("architectures").as_array()?.first()?.as_str()?;
    if architecture == "ElectraForPreTraining" {
        return Some(Task::ReplacedTokenDetection);
    }
    HEADS.into_iter().find(|(suffix, _)| architecture.ends_with(suffix)).map(|(_, task)| task)
}

/// What sentence-transformers calls the hidden states.
const TOKEN_EMBEDDINGS: &str = "token_embeddings";

/// The task that the names of the outputs leave no doubt about. A configuration may be that of another head.
fn named_task(graph: &Graph) -> Option<Task> {
    let named = |name: &str| graph.outputs().iter().any(|(output, _)| output == name);
    if named(output::START_LOGITS) || named(output::END_LOGITS) {
        return Some(Task::QuestionAnswering);
    }
    if named(output::SEQ_RELATIONSHIP_LOGITS) {
        return Some(if graph.outputs().len() > 1 { Task::Pretraining } else { Task::NextSentence });
    }
    let hidden_states = [output::LAST_HIDDEN_STATE, TOKEN_EMBEDDINGS, output::SENTENCE_EMBEDDING];
    (hidden_states.into_iter().any(named) && !named(output::LOGITS)).then_some(Task::Encoder)
}

/// The task that shapes of the outputs suggest.
fn guessed_task(graph: &Graph) -> Task {
    let output = |index: usize| graph.outputs().get(index).map(|(name, id)| (name, &graph.tensor(*id).ty));
    let Some((name, first)) = output(0) else { return Task::Encoder };
    let is_logits = name == output::LOGITS;
    match (rank_and_width(first), output(1)) {
        ((2, None), Some((_, second))) if first == second => Task::QuestionAnswering,
        ((3, width), _) if width.is_some() && width == vocabulary(graph) => Task::MaskedLm,
        ((3, Some(_)), _) if is_logits => Task::TokenClassification,
        ((2, Some(_)), _) if is_logits => Task::SequenceClassification,
        _ => Task::Encoder,
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

/// Longest sequence in tokens: what the tokenizer cuts at and the position table holds, whichever is less.
fn max_tokens(companions: &Companions) -> Option<usize> {
    let rows =
        companions.field("max_position_embeddings").as_u64().and_then(|rows| usize::try_from(rows).ok());
    let positions = rows.map(|rows| {
        // These families start counting after the id of the pad token.
        let counted_from_pad = ["roberta", "xlm-roberta", "camembert", "mpnet"]
            .iter()
            .any(|family| companions.field("model_type") == *family);
        let pad = companions.field("pad_token_id").as_u64().and_then(|pad| usize::try_from(pad).ok());
        if counted_from_pad { rows.saturating_sub(pad.unwrap_or(1).saturating_add(1)) } else { rows }
    });
    [companions.max_tokens, positions].into_iter().flatten().min().filter(|most| *most > 0)
}

/// Width of the hidden states, as the configuration has it or the first output of an encoder.
fn hidden(graph: &Graph, companions: &Companions) -> Option<usize> {
    let configured = companions.field("hidden_size").as_u64().or_else(|| companions.field("dim").as_u64());
    if let Some(hidden) = configured {
        return usize::try_from(hidden).ok();
    }
    let named = [output::LAST_HIDDEN_STATE, TOKEN_EMBEDDINGS, output::SENTENCE_EMBEDDING];
    let (_, id) = graph.outputs().iter().find(|(name, _)| named.contains(&name.as_str()))?;
    usize::try_from(rank_and_width(&graph.tensor(*id).ty).1?).ok()
}

/// Names of the classes in order of their numbers; numbered where the configuration does not fit the output.
fn labels(graph: &Graph, companions: &Companions, task: Task) -> Vec<String> {
    if !matches!(task, Task::SequenceClassification | Task::TokenClassification) {
        return Vec::new();
    }
    let by_id = companions.field("id2label").as_object();
    let logits = graph.outputs().iter().find(|(name, _)| name == output::LOGITS).or(graph.outputs().first());
    let width = logits.and_then(|(_, id)| rank_and_width(&graph.tensor(*id).ty).1);
    let known = by_id.map(serde_json::Map::len);
    // A file may have any number of classes; no list of names is worth more than the largest vocabulary.
    let Some(classes) =
        width.and_then(|width| usize::try_from(width).ok()).or(known).filter(|classes| *classes < 1 << 20)
    else {
        return Vec::new();
    };
    let name = |id: usize| {
        let by_id = by_id.filter(|_| known == Some(classes));
        by_id.and_then(|by_id| by_id.get(&id.to_string())).and_then(Value::as_str).map(str::to_owned)
    };
    (0..classes).map(|id| name(id).unwrap_or_else(|| format!("LABEL_{id}"))).collect()
}
