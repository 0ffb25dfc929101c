//! RoBERTa, XLM-RoBERTa and CamemBERT: BERT's layers, positions that start after the pad token's, other heads.

use bertha_graph::{PositionIds, Task, TensorId};

use super::{Family, bert};
use crate::error::Result;
use crate::hf::activation::Act;
use crate::hf::config::Config;
use crate::hf::heads::{self, LmHead};
use crate::hf::net::{Inputs, Net};

pub(crate) struct Roberta;

/// The id of the pad token when config.json does not say.
const DEFAULT_PAD: u32 = 1;

impl Family for Roberta {
    fn model_types(&self) -> &'static [&'static str] {
        &["roberta", "xlm-roberta", "camembert"]
    }

    fn class_stems(&self) -> &'static [&'static str] {
        &["Roberta", "XLMRoberta", "Camembert"]
    }

    fn prefix(&self) -> &'static str {
        "roberta."
    }

    fn position_ids(&self, config: &Config) -> Result<PositionIds> {
        Ok(PositionIds::AfterPad { pad_id: config.id_or("pad_token_id", DEFAULT_PAD)? })
    }

    fn token_types(&self) -> bool {
        true
    }

    fn hidden(&self, config: &Config) -> Result<usize> {
        config.size("hidden_size")
    }

    fn encoder(&self, net: &mut Net<'_>, inputs: &Inputs) -> Result<TensorId> {
        let sizes = bert::layer_sizes(net.config)?;
        let x = bert::embeddings(net, inputs, sizes.hidden, sizes.epsilon)?;
        bert::layers(net, x, inputs, &sizes)
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
        let sizes = bert::layer_sizes(net.config)?;
        let width = sizes.hidden;
        match task {
            Task::MaskedLm => {
                let head = LmHead {
                    dense: "lm_head.dense",
                    norm: "lm_head.layer_norm",
                    decoder: "lm_head.decoder",
                    bias: "lm_head.bias",
                    hidden: width,
                    embedding: width,
                    // Not that of the layers.
                    activation: Act::GeluErf,
                    epsilon: sizes.epsilon,
                };
                head.build(net, hidden)?;
            }
            Task::SequenceClassification => {
                let at = ["classifier.dense", "classifier.out_proj"];
                return heads::first_token_classifier(net, hidden, inputs, at, (width, Act::Tanh)).map(Some);
            }
            Task::TokenClassification => {
                return heads::classifier(net, hidden, "classifier", width).map(Some);
            }
            Task::QuestionAnswering => heads::question_answering(net, hidden, width)?,
            _ => return Err(heads::no_such_head(net, "RoBERTa", task)),
        }
        Ok(None)
    }

    fn guess_task(&self, has: &dyn Fn(&str) -> bool) -> Task {
        heads::guess_task(
            has,
            &[
                ("lm_head.dense.weight", Task::MaskedLm),
                ("qa_outputs.weight", Task::QuestionAnswering),
                ("classifier.out_proj.weight", Task::SequenceClassification),
                ("classifier.weight", Task::TokenClassification),
            ],
        )
    }

    fn head_weights(&self) -> &'static [&'static str] {
        &["lm_head.", "classifier.", "qa_outputs.", "pooler."]
    }
}
