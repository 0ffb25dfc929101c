//! MPNet: RoBERTa's positions and heads, no token types, and a bias by relative distance shared by all layers.

use bertha_graph::{Attention, PositionIds, RelativeBuckets, Task, TensorId};

use super::{Family, bert};
use crate::error::Result;
use crate::hf::activation::Act;
use crate::hf::checks;
use crate::hf::config::Config;
use crate::hf::heads::{self, LmHead};
use crate::hf::net::{Inputs, LayerWeights, Net};

pub(crate) struct MpNet;

/// Part of the model's definition: positions count up from here, whatever `pad_token_id` says.
const PAD: u32 = 1;
/// Likewise the buckets; `relative_attention_num_buckets` sets the rows of the table alone.
const BUCKETS: RelativeBuckets = RelativeBuckets { buckets: 32, max_distance: 128 };

impl Family for MpNet {
    fn model_types(&self) -> &'static [&'static str] {
        &["mpnet"]
    }

    fn class_stems(&self) -> &'static [&'static str] {
        &["MPNet"]
    }

    fn prefix(&self) -> &'static str {
        "mpnet."
    }

    fn position_ids(&self, _config: &Config) -> Result<PositionIds> {
        Ok(PositionIds::AfterPad { pad_id: PAD })
    }

    fn token_types(&self) -> bool {
        false
    }

    fn hidden(&self, config: &Config) -> Result<usize> {
        config.size("hidden_size")
    }

    fn encoder(&self, net: &mut Net<'_>, inputs: &Inputs) -> Result<TensorId> {
        let config = net.config;
        let sizes = bert::layer_sizes(config)?;
        let x = bert::embeddings(net, inputs, sizes.hidden, sizes.epsilon)?;

        let rows = config.optional_size("relative_attention_num_buckets")?.unwrap_or(BUCKETS.buckets);
        if rows != BUCKETS.buckets {
            let reason =
                format!("expected {}, the number that MPNet's attention uses; found {rows}", BUCKETS.buckets);
            return Err(config.wrong("relative_attention_num_buckets", reason));
        }
        let table = net.weight("encoder.relative_attention_bias.weight", &[rows, sizes.heads])?;
        let attention = Attention::ragged(inputs.cu_seqlens, sizes.heads).relative(table, BUCKETS);
        let count = checks::layer_count(config, "num_hidden_layers")?;
        (0..count).try_fold(x, |x, index| {
            let at = format!("encoder.layer.{index}");
            let names = layer_weights(&at);
            net.scope(&at, |net| net.encoder_layer(x, &names, &sizes, &attention))
        })
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
            _ => return Err(heads::no_such_head(net, "MPNet", task)),
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

fn layer_weights(at: &str) -> LayerWeights {
    LayerWeights {
        query: format!("{at}.attention.attn.q"),
        key: format!("{at}.attention.attn.k"),
        value: format!("{at}.attention.attn.v"),
        attention_output: format!("{at}.attention.attn.o"),
        attention_norm: format!("{at}.attention.LayerNorm"),
        intermediate: format!("{at}.intermediate.dense"),
        output: format!("{at}.output.dense"),
        output_norm: format!("{at}.output.LayerNorm"),
    }
}
