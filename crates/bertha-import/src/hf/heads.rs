//! Heads that several families share.

use bertha_graph::{PoolKind, Task, TensorId, output};

use super::activation::Act;
use super::net::{Inputs, Net};
use crate::error::{ImportError, Result};

/// The pooler over the first token, a dense layer and tanh, when the checkpoint has it.
pub(crate) fn pooler(
    net: &mut Net<'_>,
    hidden: TensorId,
    inputs: &Inputs,
    at: &str,
    width: usize,
) -> Result<Option<TensorId>> {
    if !net.weights().has(&format!("{at}.weight")) {
        return Ok(None);
    }
    required_pooler(net, hidden, inputs, at, width).map(Some)
}

/// The pooler of a head that cannot do without.
pub(crate) fn required_pooler(
    net: &mut Net<'_>,
    hidden: TensorId,
    inputs: &Inputs,
    at: &str,
    width: usize,
) -> Result<TensorId> {
    let first = first_token(net, hidden, inputs)?;
    let dense = net.linear("pooler.dense", first, at, [width, width])?;
    net.activation("pooler.tanh", dense, Act::Tanh)
}

/// The hidden state of each sequence's first token.
pub(crate) fn first_token(net: &mut Net<'_>, hidden: TensorId, inputs: &Inputs) -> Result<TensorId> {
    net.pool("first_token", hidden, inputs.cu_seqlens, PoolKind::Cls)
}

/// A linear layer whose rows are the classes; gives their number.
pub(crate) fn classifier(net: &mut Net<'_>, x: TensorId, at: &str, width: usize) -> Result<usize> {
    let classes = net.rows(&format!("{at}.weight"))?;
    let logits = net.linear("classifier", x, at, [classes, width])?;
    net.output(output::LOGITS, logits)?;
    Ok(classes)
}

/// A dense layer with an activation over the first token, then a classifier: what RoBERTa and its kin have in place of
/// the pooler.
pub(crate) fn first_token_classifier(
    net: &mut Net<'_>,
    hidden: TensorId,
    inputs: &Inputs,
    [dense, classes]: [&str; 2],
    (width, activation): (usize, Act),
) -> Result<usize> {
    let first = first_token(net, hidden, inputs)?;
    let x = net.linear("classifier.dense", first, dense, [width, width])?;
    let x = net.activation("classifier.activation", x, activation)?;
    classifier(net, x, classes, width)
}

/// Start and end logits of question answering.
pub(crate) fn question_answering(net: &mut Net<'_>, hidden: TensorId, width: usize) -> Result<()> {
    let logits = net.linear("qa_outputs", hidden, "qa_outputs", [2, width])?;
    let start = net.column("start_logits", logits, 0)?;
    let end = net.column("end_logits", logits, 1)?;
    net.output(output::START_LOGITS, start)?;
    net.output(output::END_LOGITS, end)
}

/// A masked-LM head: dense, activation, norm, and a decoder that is the word embedding unless it has its own weight.
pub(crate) struct LmHead {
    pub(crate) dense: &'static str,
    pub(crate) norm: &'static str,
    pub(crate) decoder: &'static str,
    /// The decoder's bias, which may also be called `decoder.bias`.
    pub(crate) bias: &'static str,
    pub(crate) hidden: usize,
    /// Width of the word embedding.
    pub(crate) embedding: usize,
    pub(crate) activation: Act,
    pub(crate) epsilon: f32,
}

/// The word embedding's name in every family.
pub(crate) const WORD_EMBEDDING: &str = "embeddings.word_embeddings.weight";

impl LmHead {
    /// Adds the head and its output, the logits.
    pub(crate) fn build(&self, net: &mut Net<'_>, hidden: TensorId) -> Result<()> {
        let vocab = net.config.size("vocab_size")?;
        let x = net.linear("lm_head.dense", hidden, self.dense, [self.embedding, self.hidden])?;
        let x = net.activation("lm_head.activation", x, self.activation)?;
        let x = net.layer_norm("lm_head.norm", x, self.norm, self.embedding, self.epsilon)?;
        let weight = self.decoder_weight(net, vocab)?;
        let names = [format!("{}.bias", self.decoder), self.bias.to_owned()];
        let bias = net.first_weight(&names, &[vocab])?;
        let logits = net.linear_of("lm_head.decoder", x, weight, Some(bias))?;
        net.output(output::LOGITS, logits)
    }

    /// The decoder's own weight when it has one that differs from the word embedding; else the word embedding, if the
    /// configuration does not forbid it.
    fn decoder_weight(&self, net: &mut Net<'_>, vocab: usize) -> Result<TensorId> {
        let words = net.weight(WORD_EMBEDDING, &[vocab, self.embedding])?;
        let own = format!("{}.weight", self.decoder);
        let Some(stored) = net.weights().resolve(&own) else {
            if net.config.flag_or("tie_word_embeddings", true)? {
                return Ok(words);
            }
            return net.weight(&own, &[vocab, self.embedding]);
        };
        let data = net.load(&stored, &[vocab, self.embedding])?;
        if net.data(words) == Some(&data) {
            return Ok(words);
        }
        net.constant(stored, data)
    }
}

/// The task of the first weight that is there.
pub(crate) fn guess_task(has: &dyn Fn(&str) -> bool, signs: &[(&str, Task)]) -> Task {
    signs.iter().find(|(weight, _)| has(weight)).map_or(Task::Encoder, |(_, task)| *task)
}

/// The error for a task that a family has no head for.
pub(crate) fn no_such_head(net: &Net<'_>, family: &str, task: Task) -> ImportError {
    let reason = format!("{family} has no head for {task:?}");
    net.config.wrong("architectures", reason)
}
