//! The model families, one file each.

mod albert;
mod bert;
mod distilbert;
mod electra;
mod mpnet;
mod roberta;

use bertha_graph::{PositionIds, Task, TensorId};

use super::config::Config;
use super::net::{Inputs, Net};
use crate::error::Result;

/// Every family, in the order in which they are asked whether a checkpoint is theirs.
pub(crate) static FAMILIES: [&dyn Family; 6] = [
    &bert::Bert,
    &distilbert::DistilBert,
    &roberta::Roberta,
    &electra::Electra,
    &mpnet::MpNet,
    &albert::Albert,
];

/// What the importer asks of a family of models.
pub(crate) trait Family: Sync {
    /// Values of `model_type` in config.json.
    fn model_types(&self) -> &'static [&'static str];

    /// What class names in `architectures` start with, before `Model` and `For...`.
    fn class_stems(&self) -> &'static [&'static str];

    /// What stands before the encoder's weights in models with heads: `bert.`.
    fn prefix(&self) -> &'static str;

    /// How positions are made.
    fn position_ids(&self, config: &Config) -> Result<PositionIds>;

    /// Whether the encoder adds an embedding of token types.
    fn token_types(&self) -> bool;

    /// Width of the hidden states.
    fn hidden(&self, config: &Config) -> Result<usize>;

    /// The hidden states of the last layer, `[tokens, hidden]`.
    fn encoder(&self, net: &mut Net<'_>, inputs: &Inputs) -> Result<TensorId>;

    /// The output of the pooler, `[batch, hidden]`; `None` when the family or the checkpoint has none.
    fn pooler(&self, net: &mut Net<'_>, hidden: TensorId, inputs: &Inputs) -> Result<Option<TensorId>>;

    /// Adds the outputs of a task's head. Gives the number of classes where the task has classes.
    ///
    /// # Errors
    /// When the family has no such head, or the checkpoint lacks its weights.
    fn head(&self, net: &mut Net<'_>, task: Task, hidden: TensorId, inputs: &Inputs)
    -> Result<Option<usize>>;

    /// The task whose head a checkpoint has, for configurations that do not say.
    fn guess_task(&self, has: &dyn Fn(&str) -> bool) -> Task;

    /// What the names of heads' weights start with: they may be there unused.
    fn head_weights(&self) -> &'static [&'static str];
}

/// The family with this `model_type`.
pub(crate) fn by_model_type(model_type: &str) -> Option<&'static dyn Family> {
    FAMILIES.into_iter().find(|family| family.model_types().contains(&model_type))
}

/// The family of a class such as `BertForMaskedLM`, and what stands after its stem.
pub(crate) fn by_class(class: &str) -> Option<(&'static dyn Family, &str)> {
    FAMILIES.into_iter().find_map(|family| {
        family.class_stems().iter().find_map(|stem| {
            let rest = class.strip_prefix(stem)?;
            (rest == "Model" || rest.starts_with("For")).then_some((family, rest))
        })
    })
}
