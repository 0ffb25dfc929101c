//! Imported ONNX files give the answers of ONNX Runtime and of the onnx package's operator cases, run by the reference
//! interpreter.

use bertha_graph::interp::{Interpreter, Precision};
use bertha_graph::{Model, TensorData};

#[path = "../../../tests/onnx/harness.rs"]
mod harness;

fn interpreter(model: &Model, inputs: &[(&str, TensorData)]) -> Result<harness::Outputs, String> {
    Interpreter::new(&model.graph, Precision::Native).run(inputs).map_err(|error| error.to_string())
}

#[test]
fn operator_cases() {
    let Some(folder) = harness::cases("conformance.json") else { return };
    let report = harness::run_conformance(&folder, "conformance.json", &interpreter);
    println!("{}", report.table());
    assert!(report.passed > 500, "only {} cases passed", report.passed);
    assert!(report.failed.is_empty(), "{} cases failed", report.failed.len());
    // What is left out is written down, case by case.
    let documented = include_str!("../../../docs/onnx.md");
    for (name, reason) in &report.skipped {
        assert!(documented.contains(&format!("| `{name}` | {reason} |")), "{name} is not in docs/onnx.md");
    }
    assert_eq!(
        documented.matches("\n| `test_").count(),
        report.skipped.len(),
        "docs/onnx.md lists others too"
    );
}

#[test]
fn old_forms_and_ops_of_onnx_runtime() {
    for list in ["forms.json", "contrib.json"] {
        let Some(folder) = harness::cases(list) else { continue };
        let report = harness::run_conformance(&folder, list, &interpreter);
        println!("{}", report.table());
        assert!(report.passed > 50, "only {} cases of {list} passed", report.passed);
        assert!(report.failed.is_empty(), "{} cases of {list} failed", report.failed.len());
    }
}

#[test]
fn whole_models() {
    for (folder, list) in harness::model_lists() {
        let report = harness::run_models(&folder, list, &interpreter);
        println!("{}", report.table());
        assert!(report.passed > 0);
        assert!(report.failed.is_empty(), "{} cases failed", report.failed.len());
    }
}
