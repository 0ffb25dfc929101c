//! The kernels that could run a model, with their times, on the demo model.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use bertha::bench::random_workload;
use bertha::isa::Isa;
use bertha::{Engine, Options, Precision, TacticTable};

const PLENTY: Duration = Duration::from_secs(60);

fn table(precision: Precision, budget: Duration) -> (Engine, TacticTable) {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    let engine = Engine::open_with(model, &Options { precision, ..Options::default() }).unwrap();
    let workload = random_workload(&engine, &[7], 0).unwrap();
    let table = workload.tactics(&engine, &mut engine.session(1).unwrap(), budget).unwrap();
    (engine, table)
}

#[test]
fn every_step_is_told_once_with_the_kernel_that_runs_it_and_all_tiers() {
    let (engine, table) = table(Precision::F32, PLENTY);
    let steps: HashSet<String> = engine.cpu().steps().unwrap().into_iter().map(|(node, _)| node).collect();
    let told: Vec<&String> = table.steps.iter().flat_map(|step| &step.nodes).collect();
    assert_eq!(told.len(), steps.len());
    assert!(told.iter().all(|node| steps.contains(*node)), "{table}");
    // Layers are alike.
    assert!(table.steps.len() < steps.len() / 2, "{table}");
    let tiers = Isa::available().len();
    let bf16 = usize::from(Isa::detect().has_bf16());
    for step in &table.steps {
        let chosen: Vec<_> = step.tactics.iter().filter(|tactic| tactic.chosen).collect();
        assert!(matches!(chosen.as_slice(), [one] if one.seconds.is_some()), "{table}");
        let names: HashSet<&str> = step.tactics.iter().map(|tactic| tactic.kernel.as_str()).collect();
        assert_eq!(names.len(), step.tactics.len(), "{table}");
        let all_timed = step.tactics.iter().all(|tactic| tactic.seconds.is_some_and(f64::is_finite));
        assert!(all_timed, "{table}");
        let is_product = step.step.starts_with("linear") || step.step.starts_with("attention");
        if is_product {
            assert_eq!(step.tactics.len(), tiers + bf16, "{table}");
            assert!(step.flops > 0.0 && chosen[0].kernel.contains("-f32-"), "{table}");
            let other = step.tactics.iter().find(|tactic| tactic.kernel.contains("-bf16-"));
            assert!(other.is_none_or(|tactic| tactic.note == "--precision bf16"), "{table}");
        }
    }
    let embeddings = table.steps.iter().filter(|step| step.step.contains("layer norm"));
    assert!(embeddings.clone().any(|step| step.step.starts_with("embedding")), "{table}");
}

#[test]
fn a_model_in_bf16_runs_on_the_kernels_for_it() {
    if !Isa::detect().has_bf16() {
        return eprintln!("skipped: this CPU has no bf16 instructions");
    }
    let (_, table) = table(Precision::Bf16, PLENTY);
    for step in table.steps.iter().filter(|step| step.step.starts_with("linear")) {
        let chosen = step.tactics.iter().find(|tactic| tactic.chosen).unwrap();
        assert!(chosen.kernel.contains("-bf16-gemm"), "{table}");
    }
    let attention = table.steps.iter().find(|step| step.step.starts_with("attention")).unwrap();
    let chosen = attention.tactics.iter().find(|tactic| tactic.chosen).unwrap();
    assert!(chosen.kernel.contains("-bf16-attention"), "{table}");
}

#[test]
fn without_time_for_others_the_chosen_kernels_are_timed_still() {
    let (_, table) = table(Precision::F32, Duration::ZERO);
    for step in &table.steps {
        for tactic in &step.tactics {
            assert_eq!(tactic.seconds.is_some(), tactic.chosen, "{table}");
            assert!(tactic.chosen || tactic.note.starts_with("not timed"), "{table}");
        }
    }
}

#[test]
fn models_that_take_floats_are_timed_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/onnx/conformer");
    for name in ["conformer_legacy16.onnx", "conformer_dynamo18.onnx"] {
        let engine = Engine::open(folder.join(name)).unwrap();
        let workload = random_workload(&engine, &[40, 31], 0).unwrap();
        let inputs = workload.inputs(&engine).unwrap();
        let find = |end: &str| &inputs.iter().find(|(name, _)| name.ends_with(end)).unwrap().1;
        assert_eq!(find("lengths").to_i64().unwrap(), [40, 31]);
        let features = inputs.iter().find(|(_, data)| data.dtype().is_float()).unwrap();
        assert!(features.1.shape()[..2] == [2, 40] && features.1.to_f64().iter().any(|value| *value < 0.0));
        assert_eq!(workload.batch_in_words(), "2 sequences of 71 positions together");
        let table = workload.tactics(&engine, &mut engine.session(1).unwrap(), Duration::ZERO).unwrap();
        let is_timed = |start: &str| {
            let step = table.steps.iter().find(|step| step.step.starts_with(start));
            step.is_some_and(|step| {
                step.tactics.iter().any(|tactic| tactic.chosen && tactic.seconds.is_some())
            })
        };
        assert!(is_timed("linear") && is_timed("conv"), "{table}");
    }
}
