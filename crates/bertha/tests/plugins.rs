//! Plugins from an ONNX file to an answer and through an engine file: those of a library, and some that misbehave.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bertha::graph::interp::{Interpreter, Precision};
use bertha::import::hf;
use bertha::import::onnx::proto::*;
use bertha::import::onnx::{self, data_type, tensor_proto};
use bertha::plugin::{self, *};
use bertha::{DType, Engine, Error, Options, TensorData};
use half::f16;
use prost::Message;

/// The layer norms' shared library, which Cargo builds beside this test.
fn library() -> PathBuf {
    let name = format!("{}bertha_layernorm{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    std::env::current_exe().unwrap().parent().unwrap().join(name)
}

fn with_library(path: &Path) -> Options {
    let mut plugins = PluginSet::new();
    plugin::load(path, &mut plugins).unwrap_or_else(|error| panic!("{error}"));
    Options { plugins, ..Options::default() }
}

fn node(op_type: &str, domain: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op_type.into(),
        domain: domain.into(),
        name: format!("{output}_node"),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

fn epsilon(value: f32) -> AttributeProto {
    let r#type = AttributeType::Float as i32;
    AttributeProto { name: "epsilon".into(), r#type, f: value, ..AttributeProto::default() }
}

const HIDDEN: usize = 40;
const EPSILON: f32 = 1e-12;

/// Numbers between -1 and 1 that look random.
fn noise(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(dtype: DType, shape: &[usize], values: &[f64]) -> TensorData {
    let (shape, values) = (shape.to_vec(), values.iter());
    match dtype {
        DType::F16 => TensorData::from_vec(shape, values.map(|v| f16::from_f64(*v)).collect()),
        _ => TensorData::from_vec(shape, values.map(|v| *v as f32).collect()),
    }
    .unwrap()
}

fn input(name: &str, dtype: DType, dims: &[&str]) -> ValueInfoProto {
    let dim = |dim: &&str| Dimension {
        value: Some(match dim.parse() {
            Ok(size) => dimension::Value::DimValue(size),
            Err(_) => dimension::Value::DimParam((*dim).to_owned()),
        }),
        ..Dimension::default()
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: data_type(dtype) as i32, shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.into(), r#type: Some(ty), ..ValueInfoProto::default() }
}

/// `x -> Tanh -> norm -> Erf -> y`, with the nodes of `norm` from `h` to `n`, written to `folder`.
fn write_model(folder: &Path, name: &str, dtype: DType, norm: Vec<NodeProto>) -> PathBuf {
    let mut nodes = vec![node("Tanh", "", &["x"], "h")];
    nodes.extend(norm);
    nodes.push(node("Erf", "", &["n"], "y"));
    let rows = |seed, offset: f64| noise(HIDDEN, seed).iter().map(|v| v + offset).collect::<Vec<f64>>();
    let graph = GraphProto {
        name: "norm".into(),
        node: nodes,
        input: vec![input("x", dtype, &["batch", "seq", &HIDDEN.to_string()])],
        output: vec![ValueInfoProto { name: "y".into(), ..ValueInfoProto::default() }],
        initializer: vec![
            tensor_proto("gamma", &tensor(dtype, &[HIDDEN], &rows(3, 1.0))),
            tensor_proto("beta", &tensor(dtype, &[HIDDEN], &rows(4, 0.0))),
        ],
        ..GraphProto::default()
    };
    let opset = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
    let model = ModelProto {
        ir_version: 8,
        opset_import: vec![opset("", 17), opset("bertha.plugins", 1)],
        graph: Some(graph),
        ..ModelProto::default()
    };
    let path = folder.join(name);
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    path
}

fn with_epsilon(mut node: NodeProto) -> NodeProto {
    node.attribute = vec![epsilon(EPSILON)];
    node
}

/// Layer norm as ONNX has it, then in the three stages of the plugin.
fn norms() -> Vec<(&'static str, Vec<NodeProto>)> {
    let affine = ["h", "gamma", "beta"];
    let whole = |op_type, domain| vec![with_epsilon(node(op_type, domain, &affine, "n"))];
    let basic = vec![
        with_epsilon(node("LayerNormBasic", "bertha.plugins", &["h"], "normal")),
        node("Mul", "", &["normal", "gamma"], "scaled"),
        node("Add", "", &["scaled", "beta"], "n"),
    ];
    vec![
        ("onnx", whole("LayerNormalization", "")),
        ("basic", basic),
        ("fused", whole("LayerNormFused", "bertha.plugins")),
        ("optimised", whole("LayerNorm", "bertha.plugins")),
    ]
}

fn run(engine: &Engine, x: &TensorData) -> TensorData {
    engine.session(2).unwrap().run(&[("x", x)], &[]).unwrap().remove(0).1
}

/// The largest difference from `expected`, as a part of the largest of them.
fn error(actual: &TensorData, expected: &[f64]) -> f64 {
    let scale = expected.iter().fold(0f64, |max, v| max.max(v.abs()));
    let values = actual.to_f64();
    assert_eq!(values.len(), expected.len());
    values.iter().zip(expected).fold(0f64, |max, (a, e)| max.max((a - e).abs())) / scale
}

#[test]
fn plugin_nodes_give_what_layer_normalization_gives() {
    let folder = tempfile::tempdir().unwrap();
    let options = with_library(&library());
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 2e-3)] {
        let x = tensor(dtype, &[3, 5, HIDDEN], &noise(3 * 5 * HIDDEN, 9));
        let mut expected = Vec::new();
        for (stage, nodes) in norms() {
            let path = write_model(folder.path(), &format!("{stage}_{dtype}.onnx"), dtype, nodes);
            let engine = Engine::open_with(&path, &options).unwrap_or_else(|error| panic!("{error}"));
            let y = run(&engine, &x);
            assert_eq!((y.dtype(), y.shape()), (dtype, &[3, 5, HIDDEN][..]));
            if stage == "onnx" {
                expected = y.to_f64();
                continue;
            }
            assert!(error(&y, &expected) <= tolerance, "{stage} {dtype}: {}", error(&y, &expected));
            // The plugin's own reference agrees too.
            let exact =
                Interpreter::new(engine.graph(), Precision::F64).run_f64(&[("x", x.clone())]).unwrap();
            assert!(error(&y, &exact[0].1.values) <= tolerance, "{stage} {dtype}");
            // And so does the engine that is written and read again.
            let file = folder.path().join(format!("{stage}_{dtype}.bertha"));
            engine.save(&file).unwrap();
            let loaded = Engine::open_with(&file, &options).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(run(&loaded, &x), y, "{stage} {dtype}");
            assert!(loaded.notices().is_empty());
        }
    }
}

/// An exported checkpoint with plugin layer norms: the plugin promises to work row by row, so padding can go.
#[test]
fn a_padded_model_with_row_wise_plugins_becomes_ragged() {
    let checkpoint =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../bertha-import/tests/fixtures/hf/bert_encoder");
    let model = hf::import(&checkpoint, &hf::ImportOptions::default()).unwrap();
    let mut exported = onnx::export(&model, &onnx::ExportOptions { opset: 17 }).unwrap();
    let mut replaced = 0;
    for node in &mut exported.graph.as_mut().unwrap().node {
        if node.op_type == "LayerNormalization" {
            (node.op_type, node.domain) = ("LayerNorm".into(), "bertha.plugins".into());
            node.attribute.retain(|attribute| attribute.name == "epsilon");
            replaced += 1;
        }
    }
    assert!(replaced > 2);
    let options = with_library(&library());
    let import = onnx::ImportOptions { plugins: options.plugins.clone(), companions: false, task: None };
    let padded = onnx::import_model(&exported, "exported.onnx", &import).unwrap();
    assert_eq!(padded.info.interface, bertha::Interface::Dense);
    let engine = Engine::compile(padded, &options).unwrap();
    assert_eq!(engine.info().interface, bertha::Interface::Ragged, "{:?}", engine.log().near_misses);
    assert_eq!(engine.graph().plugins().len(), 1);
    // On a GPU each of them is a launch of the plugin's own kernel, in the engine's precision.
    let program = bertha::cuda::CudaPlan::launches_for(
        engine.graph(),
        bertha::cuda::Arch::Sm90a,
        bertha::Precision::F16,
        132,
        &[[8, 2, 4]],
    );
    let kernels: Vec<String> = program.unwrap().keys().map(ToString::to_string).collect();
    assert!(kernels.iter().any(|kernel| kernel.starts_with("LayerNorm@1:layer_norm_f16#")), "{kernels:?}");
    assert!(!kernels.iter().any(|kernel| kernel.starts_with("layer_norm?")), "{kernels:?}");
    let ids = TensorData::from_vec(vec![2, 4], vec![2i64, 41, 17, 3, 2, 9, 3, 0]).unwrap();
    let mask = TensorData::from_vec(vec![2, 4], vec![1i64; 8]).unwrap();
    let types = TensorData::from_vec(vec![2, 4], vec![0i64; 8]).unwrap();
    let inputs = [("input_ids", &ids), ("attention_mask", &mask), ("token_type_ids", &types)];
    let ours = engine.session(1).unwrap().run(&inputs, &["last_hidden_state"]).unwrap().remove(0).1;
    let original = Engine::compile(model, &options).unwrap();
    let theirs = original.session(1).unwrap().run(&inputs, &["last_hidden_state"]).unwrap().remove(0).1;
    assert_eq!(ours.shape(), theirs.shape());
    assert!(error(&ours, &theirs.to_f64()) <= 1e-5, "{}", error(&ours, &theirs.to_f64()));
}

#[test]
fn engines_name_the_plugins_that_they_need() {
    let folder = tempfile::tempdir().unwrap();
    let options = with_library(&library());
    let path = write_model(folder.path(), "norm.onnx", DType::F32, norms().remove(3).1);
    let without = Engine::open(&path).unwrap_err().to_string();
    for part in ["`n_node`", "bertha.plugins.LayerNorm", "--plugin"] {
        assert!(without.contains(part), "{without}");
    }
    let file = folder.path().join("norm.bertha");
    Engine::open_with(&path, &options).unwrap().save(&file).unwrap();

    let records = bertha::plugin_records(&bertha::engine_file::EngineFile::open(&file).unwrap()).unwrap();
    assert_eq!((records.len(), records[0].name.as_str(), records[0].version), (1, "LayerNorm", 1));
    let recorded = records[0].library.clone().unwrap();
    assert_eq!((recorded.abi, recorded.xxh3.len()), (plugin::abi::ABI_VERSION, 32));
    assert!(recorded.file.contains("bertha_layernorm"));

    let missing = Engine::open(&file).unwrap_err();
    assert!(matches!(missing, Error::Plugins { .. }));
    let missing = missing.to_string();
    for part in ["norm.bertha", "bertha_layernorm", "plugin `LayerNorm` version 1 is not loaded", "--plugin"]
    {
        assert!(missing.contains(part), "{missing}");
    }

    // Bytes behind the end of a library change its hash and nothing else.
    let other = folder.path().join(library().file_name().unwrap());
    let mut bytes = std::fs::read(library()).unwrap();
    bytes.extend_from_slice(b"another build");
    std::fs::write(&other, bytes).unwrap();
    let mut options = with_library(&other);
    let differs = Engine::open_with(&file, &options).unwrap_err().to_string();
    for part in
        ["plugin `LayerNorm` version 1", &recorded.xxh3, "build the engine again", "--any-plugin-build"]
    {
        assert!(differs.contains(part), "{differs}");
    }
    options.any_plugin_build = true;
    let engine = Engine::open_with(&file, &options).unwrap();
    assert_eq!(engine.notices().len(), 1);
    assert!(engine.notices()[0].contains(&recorded.xxh3), "{:?}", engine.notices());

    // A plugin of the program is no library's, whatever its name.
    let mut own = PluginSet::new();
    own.add(bertha_layernorm::LayerNorm).unwrap();
    let own = Options { plugins: own, ..Options::default() };
    assert!(Engine::open_with(&file, &own).unwrap_err().to_string().contains("is of this program"));
    // And in a graph of the program's own it needs no library.
    let engine = Engine::open_with(&path, &own).unwrap();
    engine.save(folder.path().join("own.bertha")).unwrap();
    assert!(Engine::open_with(folder.path().join("own.bertha"), &own).unwrap().notices().is_empty());
}

#[test]
fn nodes_that_do_not_fit_the_plugin_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let options = with_library(&library());
    let norm = || node("LayerNorm", "bertha.plugins", &["h", "gamma", "beta"], "n");
    let refusal = |node: NodeProto| {
        let path = write_model(folder.path(), "bad.onnx", DType::F32, vec![node]);
        let message = Engine::open_with(&path, &options).unwrap_err().to_string();
        assert!(message.contains("bad.onnx") && message.contains("`n_node`"), "{message}");
        message
    };
    let attribute = |change: fn(&mut AttributeProto)| {
        let mut node = with_epsilon(norm());
        change(&mut node.attribute[0]);
        refusal(node)
    };
    assert!(attribute(|a| a.name = "eps".into()).contains("no field `eps`; the fields are: epsilon"));
    assert!(attribute(|a| a.f = -1.0).contains("field `epsilon` is -1.0, outside of 0.0 to 1.0"));
    assert!(attribute(|a| a.r#type = AttributeType::String as i32).contains("takes float, not text"));
    assert!(attribute(|a| a.r#type = AttributeType::Tensor as i32).contains("attribute `epsilon`"));
    let inputs = |inputs: &[&str]| {
        let mut node = norm();
        node.input = inputs.iter().map(|name| (*name).to_owned()).collect();
        refusal(node)
    };
    assert!(inputs(&["h"]).contains("operand 1 (`gamma`) is missing"));
    assert!(inputs(&["h", "h", "beta"]).contains("expected 1 dimensions"));
    let mut two = norm();
    two.output.push("statistics".into());
    assert!(refusal(two).contains("1 outputs"));
}

/// A copy of its operand that misbehaves in one way.
#[derive(Clone, Copy, PartialEq)]
enum Copy {
    Honest,
    LiesAboutShapes,
    Panics,
    PanicsInATask,
    Refuses,
}

impl Plugin for Copy {
    fn declaration(&self) -> Declaration {
        Declaration {
            name: "Copy".into(),
            version: 1,
            domain: "bertha.plugins".into(),
            op_type: "Copy".into(),
            signature: "x: T[...] -> y: T[...]; T = f32 | f16".into(),
            ..Declaration::default()
        }
    }

    fn shapes(&self, _: &Fields, inputs: &[Option<&[usize]>]) -> Option<Result<Vec<Vec<usize>>, String>> {
        let mut shape = inputs[0]?.to_vec();
        // Only where it is too late to notice while the graph is made.
        shape[0] += usize::from(*self == Copy::LiesAboutShapes);
        Some(Ok(vec![shape]))
    }

    fn reference(&self, _: &Fields, inputs: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String> {
        Ok(vec![inputs[0].ok_or("x is missing")?.clone()])
    }

    fn run(
        &self,
        _: &Fields,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Option<TensorViewMut<'_>>],
        threads: &mut dyn Parallel,
    ) -> Result<(), String> {
        match self {
            Copy::Panics => panic!("no more copies"),
            Copy::PanicsInATask => threads.run(8, &|task| assert!(task != 5, "task 5 fails")),
            Copy::Refuses => return Err("x is not worth copying".into()),
            Copy::Honest | Copy::LiesAboutShapes => {}
        }
        let x = inputs[0].ok_or("x is missing")?;
        outputs[0].as_mut().ok_or("y is not wanted")?.bytes.copy_from_slice(x.bytes);
        Ok(())
    }
}

#[test]
fn what_a_plugin_does_wrong_is_an_error_of_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = vec![node("Copy", "bertha.plugins", &["h"], "n")];
    let path = write_model(folder.path(), "copy.onnx", DType::F32, nodes);
    let x = tensor(DType::F32, &[2, 1, HIDDEN], &noise(2 * HIDDEN, 1));
    let opened = |copy: Copy| {
        let mut plugins = PluginSet::new();
        plugins.add(copy).unwrap();
        Engine::open_with(&path, &Options { plugins, ..Options::default() }).unwrap()
    };
    let mut session = opened(Copy::Honest).session(2).unwrap();
    session.run(&[("x", &x)], &[]).unwrap();
    for (copy, parts) in [
        (Copy::LiesAboutShapes, &["planned as [2, 1, 40]", "[3, 1, 40]"][..]),
        (Copy::Panics, &["it panicked: no more copies"]),
        (Copy::PanicsInATask, &["it panicked: task 5 fails"]),
        (Copy::Refuses, &["x is not worth copying"]),
    ] {
        let mut session = opened(copy).session(3).unwrap();
        // Twice: a session survives its plugins.
        for _ in 0..2 {
            let message = session.run(&[("x", &x)], &[]).unwrap_err().to_string();
            for part in ["node `n_node`", "plugin `Copy`"].iter().chain(parts) {
                assert!(message.contains(part), "{message}");
            }
        }
    }
}

#[test]
fn a_plugin_comes_before_built_in_ops_and_functions() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_model(folder.path(), "norm.onnx", DType::F32, norms().remove(0).1);
    /// Negates, where ONNX would normalise.
    struct Negate;
    impl Plugin for Negate {
        fn declaration(&self) -> Declaration {
            Declaration {
                op_type: "LayerNormalization".into(),
                domain: String::new(),
                name: "Negate".into(),
                signature: "x: f32[...], g: f32[n], b: f32[n] -> y: f32[...]".into(),
                fields: vec![FieldSpec::required("epsilon", FieldKind::Float)],
                ..Copy::Honest.declaration()
            }
        }
        fn reference(&self, _: &Fields, _: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String> {
            Err("none is needed here".into())
        }
        fn run(
            &self,
            _: &Fields,
            inputs: &[Option<TensorView<'_>>],
            outputs: &mut [Option<TensorViewMut<'_>>],
            _: &mut dyn Parallel,
        ) -> Result<(), String> {
            let x = inputs[0].ok_or("x is missing")?.as_slice::<f32>()?;
            let y = outputs[0].as_mut().ok_or("y is not wanted")?.as_mut_slice::<f32>()?;
            y.iter_mut().zip(x).for_each(|(y, x)| *y = -x);
            Ok(())
        }
    }
    let mut plugins = PluginSet::new();
    let def = plugins.add(Negate).unwrap();
    assert!(def.op(BTreeMap::new()).unwrap_err().contains("`epsilon` (float) is missing"));
    let engine = Engine::open_with(&path, &Options { plugins, ..Options::default() }).unwrap();
    let x = tensor(DType::F32, &[1, 1, HIDDEN], &vec![0.5; HIDDEN]);
    // erf(-tanh(0.5)); a norm of a constant row would give 0.
    assert!(
        run(&engine, &x).to_f64().iter().all(|y| (y + 0.486_586_86).abs() < 1e-5),
        "{:?}",
        run(&engine, &x)
    );
}
