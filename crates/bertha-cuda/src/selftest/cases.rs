//! The small models that the self test runs.

use bertha_graph::plugin::{PluginDef, PluginOp, PluginSet};
use bertha_graph::{DType, Dim, GeluKind, PoolKind, Shape, TensorType};

use crate::models::{EncoderConfig, Head};

/// A model and the batches that it runs.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is, in words.
    pub name: String,
    /// The model.
    pub config: EncoderConfig,
    /// Lengths of the sequences of each batch.
    pub batches: Vec<Vec<usize>>,
    /// Of weights and tokens.
    pub seed: u64,
}

fn config(hidden: usize, heads: usize) -> EncoderConfig {
    EncoderConfig {
        name: format!("{hidden} features in {heads} heads"),
        layers: 2,
        hidden,
        heads,
        intermediate: 4 * hidden,
        vocabulary: 99,
        positions: 600,
        gelu: GeluKind::Erf,
        relative: false,
        heads_on_top: Vec::new(),
        norm: None,
    }
}

/// Ragged batches: single tokens, odd lengths, several classes of lengths, and batches at and around tile sizes.
fn batches(long: bool) -> Vec<Vec<usize>> {
    let mut batches = vec![
        vec![1],
        vec![7],
        vec![32],
        vec![33, 1, 64, 5, 17],
        vec![128],
        vec![129, 3],
        vec![100, 80, 64, 33, 16, 8, 4, 2, 1],
    ];
    if long {
        batches.extend([vec![200, 57], vec![300, 130], vec![300, 200, 40], vec![513, 600, 2]]);
    }
    batches
}

/// Models whose layer norms are those of plugins: one for each plugin with CUDA source that takes a layer norm's operands
/// and works row by row.
pub fn plugin_cases(plugins: &PluginSet) -> Vec<Case> {
    let norms = plugins.iter().filter_map(as_norm);
    norms
        .enumerate()
        .map(|(index, op)| {
            let def = op.def();
            let name = format!("layer norms by plugin {} version {}", def.name(), def.version());
            let config = EncoderConfig { name: name.clone(), norm: Some(op), ..config(64, 2) };
            Case { name, config, batches: batches(false), seed: 100 + index as u64 }
        })
        .collect()
}

/// The plugin's op with its fields' defaults, if it can stand where a layer norm stands and runs on GPUs.
fn as_norm(def: &std::sync::Arc<PluginDef>) -> Option<PluginOp> {
    let op = def.op(Default::default()).ok()?;
    let ty = |dims: Vec<Dim>| TensorType::new(DType::F32, Shape(dims));
    let (x, row) = (ty(vec![Dim::symbol("tokens"), Dim::from(64usize)]), ty(vec![Dim::from(64usize)]));
    let results = op.result_types(&[Some(&x), Some(&row), Some(&row)]).ok()?;
    (def.cuda().is_some() && def.declaration().row_wise && results == [x]).then_some(op)
}

/// Every case. `quick` leaves out wide models and long sequences.
pub fn cases(quick: bool) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut add = |config: EncoderConfig, what: &str, batches: Vec<Vec<usize>>| {
        let seed = cases.len() as u64 + 1;
        cases.push(Case { name: format!("{}{what}", config.name), config, batches, seed });
    };
    for (hidden, heads) in [(64, 2), (64, 4), (128, 2), (128, 1), (72, 3), (40, 5)] {
        add(config(hidden, heads), "", batches(!quick && hidden == 64));
    }
    add(EncoderConfig { relative: true, ..config(64, 2) }, ", bias by distance", batches(!quick));
    add(
        EncoderConfig { gelu: GeluKind::Tanh, intermediate: 96, ..config(64, 2) },
        ", tanh GELU",
        batches(false),
    );
    let heads =
        |heads_on_top: &[Head]| EncoderConfig { heads_on_top: heads_on_top.to_vec(), ..config(64, 2) };
    add(heads(&[Head::Pooler, Head::MaskedLm]), ", pooler and masked LM", batches(false));
    add(heads(&[Head::QuestionAnswering]), ", question answering", batches(false));
    add(heads(&[Head::Classifier(3)]), ", classifier", batches(false));
    for kind in [
        PoolKind::Cls,
        PoolKind::Mean,
        PoolKind::Max,
        PoolKind::MeanSqrtLen,
        PoolKind::WeightedMean,
        PoolKind::LastToken,
    ] {
        add(heads(&[Head::Embedding(kind)]), &format!(", {kind:?} pooling"), vec![vec![5, 70, 1], vec![40]]);
    }
    if !quick {
        add(
            EncoderConfig { layers: 1, ..config(768, 12) },
            ", one layer",
            vec![vec![128], vec![300, 77], vec![31]],
        );
        add(EncoderConfig { layers: 1, ..config(1024, 16) }, ", one layer", vec![vec![40], vec![200]]);
    }
    cases
}
