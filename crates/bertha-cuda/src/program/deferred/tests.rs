//! Which norms are deferred, and that what they need stays.

use bertha_compile::Precision;
use bertha_graph::{GraphBuilder, GraphError, TensorData, TensorId, Weight};

use super::super::tests::{graph, table};
use super::super::{CudaStep, Linear, NormOf, Program, Step, lower};
use crate::arch::Arch;
use crate::models::{EncoderConfig, Head};

/// The program of a small encoder of two layers.
fn encoder(hidden: usize, heads_on_top: Vec<Head>, arch: Arch, precision: Precision) -> Program {
    let heads = hidden / if hidden == 72 { 24 } else { 32 };
    let config = EncoderConfig { layers: 2, hidden, heads, heads_on_top, ..small() };
    let (model, _) = bertha_compile::optimize_model(&config.build(3).unwrap()).unwrap();
    lower(&model.graph, precision, arch).unwrap()
}

fn small() -> EncoderConfig {
    EncoderConfig { vocabulary: 96, intermediate: 192, ..EncoderConfig::named("minilm-l6").unwrap() }
}

fn norms(program: &Program) -> usize {
    let is_norm = |step: &CudaStep| match step {
        CudaStep::LayerNorm { .. } => true,
        CudaStep::Embedding(embedding) => embedding.norm.is_some(),
        _ => false,
    };
    program.steps.iter().filter(|step| is_norm(&step.step)).count()
}

#[test]
fn norms_between_products_of_hopper_have_no_kernel() {
    // Behind the embeddings and twice a layer; what the caller or a pooler gets is normalised by the last.
    for heads in [Vec::new(), vec![Head::Pooler]] {
        for precision in [Precision::F16, Precision::Bf16] {
            assert_eq!(norms(&encoder(64, heads.clone(), Arch::Sm90a, precision)), 1);
            assert_eq!(norms(&encoder(64, heads.clone(), Arch::Sm80, precision)), 5);
        }
        assert_eq!(norms(&encoder(64, heads.clone(), Arch::Sm90a, Precision::F32)), 5);
    }
    // Chunks of 64 columns do not divide these.
    assert_eq!(norms(&encoder(72, Vec::new(), Arch::Sm90a, Precision::F16)), 5);
    assert_eq!(norms(&encoder(1088, Vec::new(), Arch::Sm90a, Precision::F16)), 5);
    // The masked LM's head reads the last norms as products do.
    assert_eq!(norms(&encoder(64, vec![Head::MaskedLm], Arch::Sm90a, Precision::F16)), 1);
}

#[test]
fn rows_and_their_statistics_live_until_the_last_layer_that_normalises_them() {
    let program = encoder(128, vec![Head::MaskedLm, Head::Pooler], Arch::Sm90a, Precision::F16);
    let slot = |tensor: usize| program.tensors[tensor].place;
    let written = |step: &Step| {
        let mut tensors = Vec::new();
        step.step.writes(|tensor| tensors.push(tensor));
        tensors
    };
    let mut checked = 0;
    for (at, step) in program.steps.iter().enumerate() {
        let CudaStep::Linear(Linear { norm: Some(norm), x, residual, .. }) = step.step else { continue };
        let rows = if norm.of == NormOf::Input { x } else { residual.unwrap() };
        let maker = program.steps[..at].iter().rposition(|step| written(step).contains(&rows)).unwrap();
        assert_eq!(written(&program.steps[maker]), [rows, norm.stats]);
        for between in &program.steps[maker + 1..=at] {
            for tensor in written(between) {
                assert!(slot(tensor) != slot(rows) && slot(tensor) != slot(norm.stats), "{}", between.node);
            }
        }
        checked += 1;
    }
    assert!(checked >= 8, "{checked}");
}

#[test]
fn norms_that_others_read_too_keep_their_kernel() {
    let deferred = |others: &dyn Fn(&mut GraphBuilder, TensorId) -> Result<TensorId, GraphError>,
                    scale: f32| {
        let graph = graph(|b, ids, _| {
            let table = table(b, 3, 64);
            let x = b.embedding_sum(&[(ids, table)])?;
            let gamma = b.constant(TensorData::vector(vec![scale; 64]))?;
            let beta = b.constant(TensorData::vector(vec![0f32; 64]))?;
            let y = b.layer_norm(x, gamma, Some(beta), 1e-5)?;
            let weight = b.constant(TensorData::from_vec(vec![64, 64], vec![0.1f32; 64 * 64]).unwrap())?;
            let z = b.linear(y, Weight::out_in(weight), None)?;
            let other = others(b, y)?;
            b.add(z, other)
        });
        norms(&lower(&graph, Precision::F16, Arch::Sm90a).unwrap()) == 0
    };
    let product = |b: &mut GraphBuilder, y: TensorId| {
        let weight = b.constant(TensorData::from_vec(vec![64, 64], vec![0.2f32; 64 * 64]).unwrap())?;
        b.linear(y, Weight::out_in(weight), None)
    };
    assert!(deferred(&product, 1.0));
    assert!(!deferred(&|b, y| b.relu(y), 1.0));
    // Products of this scale with weights would leave f16.
    assert!(!deferred(&product, 1e3) && !deferred(&product, 1e-4));
}
