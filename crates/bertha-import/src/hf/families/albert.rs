//! ALBERT: narrow embeddings, and few sets of weights that many layers share.

use bertha_graph::{Attention, PositionIds, Task, TensorId, output};

use super::{Family, bert};
use crate::error::Result;
use crate::hf::activation::Act;
use crate::hf::checks;
use crate::hf::config::Config;
use crate::hf::heads::{self, LmHead};
use crate::hf::net::{Inputs, LayerSizes, LayerWeights, Net};

pub(crate) struct Albert;

impl Family for Albert {
    fn model_types(&self) -> &'static [&'static str] {
        &["albert"]
    }

    fn class_stems(&self) -> &'static [&'static str] {
        &["Albert"]
    }

    fn prefix(&self) -> &'static str {
        "albert."
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
        let width = net.config.size("embedding_size")?;
        let x = bert::embeddings(net, inputs, width, sizes.epsilon)?;
        let x = net.linear(
            "embeddings.project",
            x,
            "encoder.embedding_hidden_mapping_in",
            [sizes.hidden, width],
        )?;

        let attention = Attention::ragged(inputs.cu_seqlens, sizes.heads);
        layer_groups(net.config)?.into_iter().enumerate().try_fold(x, |x, (index, (group, inner))| {
            let names = layer_weights(&format!("encoder.albert_layer_groups.{group}.albert_layers.{inner}"));
            net.scope(&format!("encoder.layer.{index}"), |net| {
                net.encoder_layer(x, &names, &sizes, &attention)
            })
        })
    }

    fn pooler(&self, net: &mut Net<'_>, hidden: TensorId, inputs: &Inputs) -> Result<Option<TensorId>> {
        let width = self.hidden(net.config)?;
        heads::pooler(net, hidden, inputs, "pooler", width)
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
                // ALBERT predicts the order of sentences where BERT predicts the next one.
                let pooled = heads::required_pooler(net, hidden, inputs, "pooler", width)?;
                let logits = net.linear("sentence_order", pooled, "sop_classifier.classifier", [2, width])?;
                net.output(output::SEQ_RELATIONSHIP_LOGITS, logits)?;
            }
            Task::SequenceClassification => {
                let pooled = heads::required_pooler(net, hidden, inputs, "pooler", width)?;
                return heads::classifier(net, pooled, "classifier", width).map(Some);
            }
            Task::TokenClassification => {
                return heads::classifier(net, hidden, "classifier", width).map(Some);
            }
            Task::QuestionAnswering => heads::question_answering(net, hidden, width)?,
            _ => return Err(heads::no_such_head(net, "ALBERT", task)),
        }
        Ok(None)
    }

    fn guess_task(&self, has: &dyn Fn(&str) -> bool) -> Task {
        let classifier =
            if has("pooler.weight") { Task::SequenceClassification } else { Task::TokenClassification };
        heads::guess_task(
            has,
            &[
                ("sop_classifier.classifier.weight", Task::Pretraining),
                ("predictions.dense.weight", Task::MaskedLm),
                ("qa_outputs.weight", Task::QuestionAnswering),
                ("classifier.weight", classifier),
            ],
        )
    }

    fn head_weights(&self) -> &'static [&'static str] {
        &["predictions.", "sop_classifier.", "classifier.", "qa_outputs.", "pooler."]
    }
}

fn layer_sizes(config: &Config) -> Result<LayerSizes> {
    let activation = Act::of(config, "hidden_act", Act::GeluTanh)?;
    Ok(LayerSizes { activation, ..bert::layer_sizes(config)? })
}

/// For each layer that runs, the group of weights it uses and the number of the layer within the group.
fn layer_groups(config: &Config) -> Result<Vec<(usize, usize)>> {
    let layers = checks::layer_count(config, "num_hidden_layers")?;
    let groups = config.optional_size("num_hidden_groups")?.unwrap_or(1);
    let inner = config.optional_size("inner_group_num")?.unwrap_or(1);
    if groups > layers {
        let reason = format!("expected at most `num_hidden_layers`, which is {layers}; found {groups}");
        return Err(config.wrong("num_hidden_groups", reason));
    }
    checks::bounded_layers(config, "inner_group_num", layers.saturating_mul(inner))?;
    // Layer i belongs to group floor(i / (layers / groups)), with a quotient that need not be whole.
    Ok((0..layers)
        .flat_map(|layer| (0..inner).map(move |number| (layer * groups / layers, number)))
        .collect())
}

fn layer_weights(at: &str) -> LayerWeights {
    LayerWeights {
        query: format!("{at}.attention.query"),
        key: format!("{at}.attention.key"),
        value: format!("{at}.attention.value"),
        attention_output: format!("{at}.attention.dense"),
        attention_norm: format!("{at}.attention.LayerNorm"),
        intermediate: format!("{at}.ffn"),
        output: format!("{at}.ffn_output"),
        output_norm: format!("{at}.full_layer_layer_norm"),
    }
}

fn masked_lm(net: &mut Net<'_>, hidden: TensorId) -> Result<()> {
    let sizes = layer_sizes(net.config)?;
    let head = LmHead {
        dense: "predictions.dense",
        norm: "predictions.LayerNorm",
        decoder: "predictions.decoder",
        bias: "predictions.bias",
        hidden: sizes.hidden,
        embedding: net.config.size("embedding_size")?,
        activation: sizes.activation,
        epsilon: sizes.epsilon,
    };
    head.build(net, hidden)
}
