//! A model: a graph, and what a caller must know to use it.

use serde::{Deserialize, Serialize};

use crate::graph::Graph;
use crate::op::PoolKind;

/// A graph with its description and tokenizer, as importers make it and engines keep it.
#[derive(Clone, Debug)]
pub struct Model {
    /// What is computed.
    pub graph: Graph,
    /// What the caller must know.
    pub info: ModelInfo,
    /// The text of `tokenizer.json` (Hugging Face tokenizers), when the model has one.
    pub tokenizer: Option<bytes::Bytes>,
}

/// Names of the inputs of a ragged encoder graph.
pub mod ragged {
    /// `I32 [tokens]`: token ids of all sequences, one after another.
    pub const INPUT_IDS: &str = "input_ids";
    /// `I32 [tokens]`: segment of each token.
    pub const TOKEN_TYPE_IDS: &str = "token_type_ids";
    /// `I32 [tokens]`: row of the position table for each token.
    pub const POSITION_IDS: &str = "position_ids";
    /// `I32 [batch + 1]`: where each sequence starts, then the number of tokens.
    pub const CU_SEQLENS: &str = "cu_seqlens";
}

/// Names of outputs that tasks look for.
pub mod output {
    /// `[tokens, hidden]` (ragged) or `[batch, seq, hidden]` (dense).
    pub const LAST_HIDDEN_STATE: &str = "last_hidden_state";
    /// `[batch, hidden]`: dense layer and tanh over the first token.
    pub const POOLER_OUTPUT: &str = "pooler_output";
    /// Per token, or per sequence, as the task has it.
    pub const LOGITS: &str = "logits";
    /// `[batch, 2]`: next-sentence prediction.
    pub const SEQ_RELATIONSHIP_LOGITS: &str = "seq_relationship_logits";
    /// `[batch, hidden]`: pooled as the model's configuration says.
    pub const SENTENCE_EMBEDDING: &str = "sentence_embedding";
    /// Per token: question answering.
    pub const START_LOGITS: &str = "start_logits";
    /// Per token: question answering.
    pub const END_LOGITS: &str = "end_logits";
}

/// How batches enter and leave the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interface {
    /// All tokens in one row with `cu_seqlens`; see [`ragged`].
    Ragged,
    /// Tensors as the source model declares them.
    Dense,
}

/// What the model's head answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// No head: hidden states.
    Encoder,
    /// Logits over the vocabulary for each token.
    MaskedLm,
    /// Masked LM and next-sentence prediction.
    Pretraining,
    /// Next-sentence prediction alone.
    NextSentence,
    /// Logits for each sequence.
    SequenceClassification,
    /// Logits for each token.
    TokenClassification,
    /// Start and end logits for each token.
    QuestionAnswering,
    /// ELECTRA's discriminator: one logit for each token.
    ReplacedTokenDetection,
}

/// How a token's row of the position table is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionIds {
    /// The graph has no position input.
    None,
    /// 0, 1, 2, ... within the padded sequence.
    Absolute,
    /// Tokens that are not `pad_id` count up from `pad_id + 1`; the pad token has `pad_id` (RoBERTa, MPNet).
    AfterPad {
        /// The id of the pad token.
        pad_id: u32,
    },
}

/// How sentence embeddings are made from the hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pooling {
    /// Which rows, how combined.
    pub kind: PoolKind,
    /// Whether the result is divided by its norm.
    pub normalize: bool,
}

/// What a caller must know of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Family as the configuration names it (`bert`, `mpnet`, ...), or `onnx`.
    pub family: String,
    /// How batches enter and leave.
    pub interface: Interface,
    /// What the head answers.
    pub task: Task,
    /// How positions are made for [`Interface::Ragged`].
    pub position_ids: PositionIds,
    /// Longest sequence in tokens, special tokens included; `None` when nothing bounds it.
    pub max_tokens: Option<usize>,
    /// Whether the graph takes token types.
    pub token_types: bool,
    /// Width of the hidden states.
    pub hidden: Option<usize>,
    /// Names of the classes, in order, for classification.
    pub labels: Vec<String>,
    /// Whether classes exclude each other (softmax) or not (sigmoid).
    pub multi_label: bool,
    /// How sentences are pooled, where the model says so.
    pub pooling: Option<Pooling>,
    /// What the source said, for people: path, exporter, precision.
    pub source: String,
}
