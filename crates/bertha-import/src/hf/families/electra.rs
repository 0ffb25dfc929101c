//! ELECTRA: BERT's layers over embeddings that may be narrower; a generator and a discriminator as heads.

use bertha_graph::{PositionIds, Task, TensorId, output};

use super::{Family, bert};
use crate::error::Result;
use crate::hf::activation::Act;
use crate::hf::config::Config;
use crate::hf::heads::{self, LmHead};
use crate::hf::net::{Inputs, Net};

pub(crate) struct Electra;

impl Family for Electra {
    fn model_types(&self) -> &'static [&'static str] {
        &["electra"]
    }

    fn class_stems(&self) -> &'static [&'static str] {
        &["Electra"]
    }

    fn prefix(&self) -> &'static str {
        "electra."
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
        let sizes = bert::layer_sizes(net.config)?;
        let width = net.config.size("embedding_size")?;
        let mut x = bert::embeddings(net, inputs, width, sizes.epsilon)?;
        if width != sizes.hidden {
            x = net.linear("embeddings.project", x, "embeddings_project", [sizes.hidden, width])?;
        }
        bert::layers(net, x, inputs, &sizes)
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
        let sizes = bert::layer_sizes(net.config)?;
        let width = sizes.hidden;
        match task {
            Task::MaskedLm => {
                let head = LmHead {
                    dense: "generator_predictions.dense",
                    norm: "generator_predictions.LayerNorm",
                    decoder: "generator_lm_head",
                    bias: "generator_lm_head.bias",
                    hidden: width,
                    embedding: net.config.size("embedding_size")?,
                    // Not that of the layers.
                    activation: Act::GeluErf,
                    epsilon: sizes.epsilon,
                };
                head.build(net, hidden)?;
            }
            Task::ReplacedTokenDetection => {
                let dense = "discriminator_predictions.dense";
                let x = net.linear("discriminator.dense", hidden, dense, [width, width])?;
                let x = net.activation("discriminator.activation", x, sizes.activation)?;
                let last = "discriminator_predictions.dense_prediction";
                let x = net.linear("discriminator.prediction", x, last, [1, width])?;
                let logits = net.column("discriminator.logits", x, 0)?;
                net.output(output::LOGITS, logits)?;
            }
            Task::SequenceClassification => {
                let at = ["classifier.dense", "classifier.out_proj"];
                return heads::first_token_classifier(net, hidden, inputs, at, (width, Act::GeluErf))
                    .map(Some);
            }
            Task::TokenClassification => {
                return heads::classifier(net, hidden, "classifier", width).map(Some);
            }
            Task::QuestionAnswering => heads::question_answering(net, hidden, width)?,
            _ => return Err(heads::no_such_head(net, "ELECTRA", task)),
        }
        Ok(None)
    }

    fn guess_task(&self, has: &dyn Fn(&str) -> bool) -> Task {
        heads::guess_task(
            has,
            &[
                ("generator_predictions.dense.weight", Task::MaskedLm),
                ("discriminator_predictions.dense.weight", Task::ReplacedTokenDetection),
                ("qa_outputs.weight", Task::QuestionAnswering),
                ("classifier.out_proj.weight", Task::SequenceClassification),
                ("classifier.weight", Task::TokenClassification),
            ],
        )
    }

    fn head_weights(&self) -> &'static [&'static str] {
        &[
            "generator_predictions.",
            "generator_lm_head.",
            "discriminator_predictions.",
            "classifier.",
            "qa_outputs.",
        ]
    }
}
