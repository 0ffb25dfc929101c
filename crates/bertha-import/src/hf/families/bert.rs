//! BERT. RoBERTa and ELECTRA have the same layers under the same names.

use bertha_graph::{Attention, PositionIds, Task, TensorId, output};

use super::Family;
use crate::error::Result;
use crate::hf::activation::Act;
use crate::hf::checks;
use crate::hf::config::Config;
use crate::hf::heads::{self, LmHead};
use crate::hf::net::{Inputs, LayerSizes, LayerWeights, Net};

pub(crate) struct Bert;

/// The epsilon of layer norms when config.json does not say.
pub(super) const DEFAULT_EPSILON: f32 = 1e-12;

impl Family for Bert {
    fn model_types(&self) -> &'static [&'static str] {
        &["bert"]
    }

    fn class_stems(&self) -> &'static [&'static str] {
        &["Bert"]
    }

    fn prefix(&self) -> &'static str {
        "bert."
    }

    fn position_ids(&self, _config: &Config) -> Result<PositionIds> {
        Ok(PositionIds::Absolute)
    }

    fn token_types(&self) -> bool {
        true
    }

    fn hidden(&self, config: &Config) -> Result<usize> {
        config.size("hidden_size")
    }

    fn encoder(&self, net: &mut Net<'_>, inputs: &Inputs) -> Result<TensorId> {
        let sizes = layer_sizes(net.config)?;
        let x = embeddings(net, inputs, sizes.hidden, sizes.epsilon)?;
        layers(net, x, inputs, &sizes)
    }

    fn pooler(&self, net: &mut Net<'_>, hidden: TensorId, inputs: &Inputs) -> Result<Option<TensorId>> {
        let width = self.hidden(net.config)?;
        heads::pooler(net, hidden, inputs, "pooler.dense", width)
    }

    fn head(
        &self,
        net: &mut Net<'_>,
        task: Task,
        hidden: TensorId,
        inputs: &Inputs,
    ) -> Result<Option<usize>> {
        let width = self.hidden(net.config)?;
        match task {
            Task::MaskedLm => masked_lm(net, hidden)?,
            Task::Pretraining => {
                masked_lm(net, hidden)?;
                next_sentence(net, hidden, inputs, width)?;
            }
            Task::NextSentence => next_sentence(net, hidden, inputs, width)?,
            Task::SequenceClassification => {
                let pooled = heads::required_pooler(net, hidden, inputs, "pooler.dense", width)?;
                return heads::classifier(net, pooled, "classifier", width).map(Some);
            }
            Task::TokenClassification => {
                return heads::classifier(net, hidden, "classifier", width).map(Some);
            }
            Task::QuestionAnswering => heads::question_answering(net, hidden, width)?,
            Task::Encoder | Task::ReplacedTokenDetection => {
                return Err(heads::no_such_head(net, "BERT", task));
            }
        }
        Ok(None)
    }

    fn guess_task(&self, has: &dyn Fn(&str) -> bool) -> Task {
        let masked_lm = has("cls.predictions.transform.dense.weight");
        let next_sentence = has("cls.seq_relationship.weight");
        match (masked_lm, next_sentence) {
            (true, true) => Task::Pretraining,
            (true, false) => Task::MaskedLm,
            (false, true) => Task::NextSentence,
            (false, false) if has("qa_outputs.weight") => Task::QuestionAnswering,
            // Both classifiers have one name; only the one over sequences needs the pooler.
            (false, false) if has("classifier.weight") && has("pooler.dense.weight") => {
                Task::SequenceClassification
            }
            (false, false) if has("classifier.weight") => Task::TokenClassification,
            (false, false) => Task::Encoder,
        }
    }

    fn head_weights(&self) -> &'static [&'static str] {
        &["cls.", "classifier.", "qa_outputs.", "pooler."]
    }
}

/// The sizes of the layers by BERT's field names.
pub(super) fn layer_sizes(config: &Config) -> Result<LayerSizes> {
    checks::refuse_variants(config)?;
    let sizes = LayerSizes {
        hidden: config.size("hidden_size")?,
        heads: config.size("num_attention_heads")?,
        intermediate: config.size("intermediate_size")?,
        epsilon: config.epsilon_or("layer_norm_eps", DEFAULT_EPSILON)?,
        activation: Act::of(config, "hidden_act", Act::GeluErf)?,
    };
    sizes.check(config, "hidden_size", "num_attention_heads")?;
    Ok(sizes)
}

/// Words, positions and token types (where the family has them), summed and normalised.
pub(super) fn embeddings(net: &mut Net<'_>, inputs: &Inputs, width: usize, epsilon: f32) -> Result<TensorId> {
    let config = net.config;
    let words = net.weight("embeddings.word_embeddings.weight", &[config.size("vocab_size")?, width])?;
    let positions = config.size("max_position_embeddings")?;
    let positions = net.weight("embeddings.position_embeddings.weight", &[positions, width])?;
    let mut parts = vec![(inputs.ids, words), (inputs.positions, positions)];
    if let Some(ids) = inputs.token_types {
        let types = config.optional_size("type_vocab_size")?.unwrap_or(2);
        parts.push((ids, net.weight("embeddings.token_type_embeddings.weight", &[types, width])?));
    }
    let sum = net.embedding_sum("embeddings", &parts)?;
    net.layer_norm("embeddings.norm", sum, "embeddings.LayerNorm", width, epsilon)
}

/// `num_hidden_layers` layers.
pub(super) fn layers(
    net: &mut Net<'_>,
    x: TensorId,
    inputs: &Inputs,
    sizes: &LayerSizes,
) -> Result<TensorId> {
    let attention = Attention::ragged(inputs.cu_seqlens, sizes.heads);
    let count = checks::layer_count(net.config, "num_hidden_layers")?;
    (0..count).try_fold(x, |x, index| {
        let at = format!("encoder.layer.{index}");
        let names = layer_weights(&at);
        net.scope(&at, |net| net.encoder_layer(x, &names, sizes, &attention))
    })
}

fn layer_weights(at: &str) -> LayerWeights {
    LayerWeights {
        query: format!("{at}.attention.self.query"),
        key: format!("{at}.attention.self.key"),
        value: format!("{at}.attention.self.value"),
        attention_output: format!("{at}.attention.output.dense"),
        attention_norm: format!("{at}.attention.output.LayerNorm"),
        intermediate: format!("{at}.intermediate.dense"),
        output: format!("{at}.output.dense"),
        output_norm: format!("{at}.output.LayerNorm"),
    }
}

fn masked_lm(net: &mut Net<'_>, hidden: TensorId) -> Result<()> {
    let sizes = layer_sizes(net.config)?;
    let head = LmHead {
        dense: "cls.predictions.transform.dense",
        norm: "cls.predictions.transform.LayerNorm",
        decoder: "cls.predictions.decoder",
        bias: "cls.predictions.bias",
        hidden: sizes.hidden,
        embedding: sizes.hidden,
        activation: sizes.activation,
        epsilon: sizes.epsilon,
    };
    head.build(net, hidden)
}

fn next_sentence(net: &mut Net<'_>, hidden: TensorId, inputs: &Inputs, width: usize) -> Result<()> {
    let pooled = heads::required_pooler(net, hidden, inputs, "pooler.dense", width)?;
    let logits = net.linear("next_sentence", pooled, "cls.seq_relationship", [2, width])?;
    net.output(output::SEQ_RELATIONSHIP_LOGITS, logits)
}
