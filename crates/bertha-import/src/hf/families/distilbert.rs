//! DistilBERT: BERT's layers under other names, without token types and pooler; the epsilon is fixed.

use bertha_graph::{Attention, PositionIds, Task, TensorId};

use super::Family;
use crate::error::Result;
use crate::hf::activation::Act;
use crate::hf::checks;
use crate::hf::config::Config;
use crate::hf::heads::{self, LmHead, WORD_EMBEDDING};
use crate::hf::net::{Inputs, LayerSizes, LayerWeights, Net};

pub(crate) struct DistilBert;

/// Part of the model's definition; no field of config.json changes it.
const EPSILON: f32 = 1e-12;

impl Family for DistilBert {
    fn model_types(&self) -> &'static [&'static str] {
        &["distilbert"]
    }

    fn class_stems(&self) -> &'static [&'static str] {
        &["DistilBert"]
    }

    fn prefix(&self) -> &'static str {
        "distilbert."
    }

    fn position_ids(&self, _config: &Config) -> Result<PositionIds> {
        Ok(PositionIds::Absolute)
    }

    fn token_types(&self) -> bool {
        false
    }

    fn hidden(&self, config: &Config) -> Result<usize> {
        config.size("dim")
    }

    fn encoder(&self, net: &mut Net<'_>, inputs: &Inputs) -> Result<TensorId> {
        let config = net.config;
        let sizes = layer_sizes(config)?;
        let words = net.weight(WORD_EMBEDDING, &[config.size("vocab_size")?, sizes.hidden])?;
        // Sinusoidal positions are stored like learned ones.
        let rows = config.size("max_position_embeddings")?;
        let positions = net.weight("embeddings.position_embeddings.weight", &[rows, sizes.hidden])?;
        let parts = [(inputs.ids, words), (inputs.positions, positions)];
        let x = net.embedding_sum("embeddings", &parts)?;
        let x = net.layer_norm("embeddings.norm", x, "embeddings.LayerNorm", sizes.hidden, EPSILON)?;

        let attention = Attention::ragged(inputs.cu_seqlens, sizes.heads);
        let count = checks::layer_count(config, "n_layers")?;
        (0..count).try_fold(x, |x, index| {
            let names = layer_weights(&format!("transformer.layer.{index}"));
            net.scope(&format!("encoder.layer.{index}"), |net| {
                net.encoder_layer(x, &names, &sizes, &attention)
            })
        })
    }

    fn pooler(&self, _net: &mut Net<'_>, _hidden: TensorId, _inputs: &Inputs) -> Result<Option<TensorId>> {
        Ok(None)
    }

    fn head(
        &self,
        net: &mut Net<'_>,
        task: Task,
        hidden: TensorId,
        inputs: &Inputs,
    ) -> Result<Option<usize>> {
        let sizes = layer_sizes(net.config)?;
        let width = sizes.hidden;
        match task {
            Task::MaskedLm => {
                let head = LmHead {
                    dense: "vocab_transform",
                    norm: "vocab_layer_norm",
                    decoder: "vocab_projector",
                    bias: "vocab_projector.bias",
                    hidden: width,
                    embedding: width,
                    activation: sizes.activation,
                    epsilon: EPSILON,
                };
                head.build(net, hidden)?;
            }
            Task::SequenceClassification => {
                let at = ["pre_classifier", "classifier"];
                return heads::first_token_classifier(net, hidden, inputs, at, (width, Act::Relu)).map(Some);
            }
            Task::TokenClassification => {
                return heads::classifier(net, hidden, "classifier", width).map(Some);
            }
            Task::QuestionAnswering => heads::question_answering(net, hidden, width)?,
            _ => return Err(heads::no_such_head(net, "DistilBERT", task)),
        }
        Ok(None)
    }

    fn guess_task(&self, has: &dyn Fn(&str) -> bool) -> Task {
        heads::guess_task(
            has,
            &[
                ("vocab_transform.weight", Task::MaskedLm),
                ("qa_outputs.weight", Task::QuestionAnswering),
                ("pre_classifier.weight", Task::SequenceClassification),
                ("classifier.weight", Task::TokenClassification),
            ],
        )
    }

    fn head_weights(&self) -> &'static [&'static str] {
        &[
            "vocab_transform.",
            "vocab_layer_norm.",
            "vocab_projector.",
            "pre_classifier.",
            "classifier.",
            "qa_outputs.",
        ]
    }
}

fn layer_sizes(config: &Config) -> Result<LayerSizes> {
    checks::refuse_variants(config)?;
    let sizes = LayerSizes {
        hidden: config.size("dim")?,
        heads: config.size("n_heads")?,
        intermediate: config.size("hidden_dim")?,
        epsilon: EPSILON,
        activation: Act::of(config, "activation", Act::GeluErf)?,
    };
    sizes.check(config, "dim", "n_heads")?;
    Ok(sizes)
}

fn layer_weights(at: &str) -> LayerWeights {
    LayerWeights {
        query: format!("{at}.attention.q_lin"),
        key: format!("{at}.attention.k_lin"),
        value: format!("{at}.attention.v_lin"),
        attention_output: format!("{at}.attention.out_lin"),
        attention_norm: format!("{at}.sa_layer_norm"),
        intermediate: format!("{at}.ffn.lin1"),
        output: format!("{at}.ffn.lin2"),
        output_norm: format!("{at}.output_layer_norm"),
    }
}
