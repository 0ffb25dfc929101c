//! The worked example of the surgeon and the plugins together: a speech encoder whose layer norms came in nine parts each
//! runs with one plugin node for each, and gives the same answers.

use std::path::{Path, PathBuf};

use bertha::graph::Op;
use bertha::import::npz::read_npz;
use bertha::plugin::{self, PluginSet};
use bertha::{Engine, Options, TensorData};
use bertha_surgeon::{Model, parse_patterns, rewrite};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The layer norms' shared library, which Cargo builds beside this test.
fn library() -> PathBuf {
    let name = format!("{}bertha_layernorm{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    std::env::current_exe().unwrap().parent().unwrap().join(name)
}

/// The outputs by name for the inputs in a file.
fn run(engine: &Engine, inputs: &Path) -> Vec<(String, TensorData)> {
    let inputs = read_npz(inputs).unwrap();
    let inputs: Vec<_> = inputs.iter().map(|(name, data)| (name.as_str(), data)).collect();
    let mut session = engine.session(1).unwrap();
    session.run(&inputs, &[]).unwrap()
}

/// The largest difference relative to the largest element.
fn difference(found: &TensorData, expected: &TensorData) -> f64 {
    assert_eq!(found.ty(), expected.ty());
    let (found, expected) = (found.to_f64(), expected.to_f64());
    let largest = expected.iter().fold(0f64, |max, value| max.max(value.abs()));
    let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    // NaN must not hide: it is larger than anything here.
    differences.fold(0f64, |max, value| if value <= max { max } else { value })
        / largest.max(f64::MIN_POSITIVE)
}

#[test]
fn a_speech_encoder_with_plugin_layer_norms_answers_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let conformer = repository("tests/onnx/conformer");
    let source = conformer.join("conformer_legacy16.onnx");
    let original = Engine::open(&source).unwrap();

    let mut model = Model::open(&source).unwrap();
    let text = std::fs::read_to_string(repository("patterns/layer-norm.pattern")).unwrap();
    let patterns = parse_patterns("layer-norm.pattern", &text).unwrap();
    let replaced: usize =
        patterns.iter().map(|pattern| rewrite(&mut model, pattern).unwrap().matches.len()).sum();
    assert_eq!(replaced, 6);
    let changed = folder.path().join("plugin.onnx");
    model.save(&changed).unwrap();

    // Without the plugin the file cannot run, and the message says what is missing.
    let error = Engine::open(&changed).unwrap_err().to_string();
    assert!(error.contains("bertha.plugins") && error.contains("--plugin"), "{error}");

    let mut plugins = PluginSet::new();
    plugin::load(library(), &mut plugins).unwrap();
    let options = Options { plugins, ..Options::default() };
    let compiled = Engine::open_with(&changed, &options).unwrap();
    let plugin_nodes = |engine: &Engine| {
        engine.graph().nodes().iter().filter(|node| matches!(node.op, Op::Plugin(_))).count()
    };
    assert_eq!((plugin_nodes(&original), plugin_nodes(&compiled)), (0, 6));
    compiled.save(folder.path().join("plugin.bertha")).unwrap();
    let opened = Engine::open_with(folder.path().join("plugin.bertha"), &options).unwrap();

    for batch in 0..3 {
        let inputs = conformer.join(format!("inputs.{batch}.npz"));
        let expected = run(&original, &inputs);
        let witness = read_npz(conformer.join(format!("conformer_legacy16.outputs.{batch}.npz"))).unwrap();
        for engine in [&compiled, &opened] {
            let found = run(engine, &inputs);
            assert_eq!(found.len(), 2);
            for ((name, found), (other, expected)) in found.iter().zip(&expected) {
                assert_eq!(name, other);
                let own = difference(found, expected);
                assert!(own <= 1e-5, "batch {batch}, {name}: {own:.2e} from the original");
                let (_, witness) = witness.iter().find(|(known, _)| *known == *name).unwrap();
                let outside = difference(found, witness);
                assert!(outside <= 1e-5, "batch {batch}, {name}: {outside:.2e} from ONNX Runtime");
                println!(
                    "batch {batch}, {name}: {own:.2e} from the original, {outside:.2e} from ONNX Runtime"
                );
            }
        }
    }
}
