//! ONNX files on the CPU give the answers of ONNX Runtime and of the onnx package's operator cases, through everything
//! that a user's run goes through: compiled and as imported, and from an engine file.

use bertha::{Engine, Options, TensorData};
use bertha_graph::Model;

#[path = "../../../tests/onnx/harness.rs"]
mod harness;

fn run(engine: &Engine, inputs: &[(&str, TensorData)]) -> Result<harness::Outputs, String> {
    let inputs: Vec<(&str, &TensorData)> = inputs.iter().map(|(name, data)| (*name, data)).collect();
    let mut session = engine.session(2).map_err(|error| error.to_string())?;
    session.run(&inputs, &[]).map_err(|error| error.to_string())
}

fn compiled(model: &Model, inputs: &[(&str, TensorData)]) -> Result<harness::Outputs, String> {
    let engine = Engine::compile(model.clone(), &Options::default()).map_err(|error| error.to_string())?;
    run(&engine, inputs)
}

fn as_imported(model: &Model, inputs: &[(&str, TensorData)]) -> Result<harness::Outputs, String> {
    let options = Options { optimize: false, ..Options::default() };
    run(&Engine::compile(model.clone(), &options).map_err(|error| error.to_string())?, inputs)
}

fn from_file(model: &Model, inputs: &[(&str, TensorData)]) -> Result<harness::Outputs, String> {
    let engine = Engine::compile(model.clone(), &Options::default()).map_err(|error| error.to_string())?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("model.bertha");
    engine.save(&path).map_err(|error| error.to_string())?;
    run(&Engine::open(&path).map_err(|error| error.to_string())?, inputs)
}

#[test]
fn operator_cases() {
    run_operator_cases("conformance.json", 500);
}

#[test]
fn old_forms() {
    run_operator_cases("forms.json", 50);
}

#[test]
fn ops_of_onnx_runtime() {
    run_operator_cases("contrib.json", 50);
}

fn run_operator_cases(list: &str, at_least: usize) {
    let Some(folder) = harness::cases(list) else { return };
    for (name, backend) in [("as imported", as_imported as harness::Run), ("compiled", compiled)] {
        let report = harness::run_conformance(&folder, list, &backend);
        println!("{name}:\n{}", report.table());
        assert!(report.passed > at_least, "only {} cases passed", report.passed);
        assert!(report.failed.is_empty(), "{} cases failed", report.failed.len());
    }
}

#[test]
fn whole_models() {
    let backends =
        [("as imported", as_imported as harness::Run), ("compiled", compiled), ("from a file", from_file)];
    for (folder, list) in harness::model_lists() {
        for (name, backend) in backends {
            let report = harness::run_models(&folder, list, &backend);
            println!("{name}:\n{}", report.table());
            assert!(report.passed > 0);
            assert!(report.failed.is_empty(), "{} cases failed", report.failed.len());
        }
    }
}
