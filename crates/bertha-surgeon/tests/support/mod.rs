//! What the tests of this crate share: small models, running them, and files beside the checkout.

#![allow(dead_code)] // not every test uses all of it

use std::path::{Path, PathBuf};

use bertha_graph::TensorData;
use bertha_graph::interp::{Interpreter, Precision};
use bertha_import::npz::write_npz;
use bertha_import::onnx::proto::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, dimension, type_proto,
};
use bertha_import::onnx::{ImportOptions, import_model, tensor_proto};
use bertha_surgeon::{Model, Pattern, parse_patterns};
use prost::Message;

/// The files that PyTorch's exporters wrote, beside the checkout; none with a printed note when they are absent.
pub(crate) fn exported_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/onnx");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("skipped: there is no folder {}", folder.display());
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    files.sort();
    files
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The patterns of a file in the folder `patterns`.
pub(crate) fn pattern_file(name: &str) -> Vec<Pattern> {
    let path = repository("patterns").join(name);
    parse_patterns(name, &std::fs::read_to_string(path).unwrap()).unwrap_or_else(|error| panic!("{error}"))
}

/// The one pattern in a text.
#[track_caller]
pub(crate) fn pattern(text: &str) -> Pattern {
    let mut patterns = parse_patterns("test", text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(patterns.len(), 1);
    patterns.remove(0)
}

/// `node("Add", "a b", "c")`: names with blanks between them; `-` is an operand left out.
pub(crate) fn node(op: &str, inputs: &str, outputs: &str) -> NodeProto {
    let names = |names: &str| -> Vec<String> {
        names.split_whitespace().map(|name| if name == "-" { "" } else { name }.to_owned()).collect()
    };
    let (domain, op_type) = op.split_once("::").unwrap_or(("", op));
    NodeProto {
        op_type: op_type.into(),
        domain: domain.into(),
        input: names(inputs),
        output: names(outputs),
        name: format!("{op_type}:{}", outputs.split_whitespace().next().unwrap_or_default()),
        ..NodeProto::default()
    }
}

pub(crate) fn with(mut node: NodeProto, attributes: Vec<AttributeProto>) -> NodeProto {
    node.attribute = attributes;
    node
}

pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i: value, ..Default::default() }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: values.to_vec(),
        ..Default::default()
    }
}

pub(crate) fn tensor_attribute(name: &str, data: &TensorData) -> AttributeProto {
    let t = Some(tensor_proto("", data));
    AttributeProto { name: name.into(), r#type: AttributeType::Tensor as i32, t, ..Default::default() }
}

pub(crate) fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    let g = Some(Box::new(graph));
    AttributeProto { name: name.into(), r#type: AttributeType::Graph as i32, g, ..Default::default() }
}

/// `value("x", DataType::Float, "batch 4")`; `?` is an unknown length.
pub(crate) fn value(name: &str, data_type: DataType, lengths: &str) -> ValueInfoProto {
    let dim = lengths.split_whitespace().map(|length| Dimension {
        value: match length.parse() {
            Ok(number) => Some(dimension::Value::DimValue(number)),
            Err(_) if length == "?" => None,
            Err(_) => Some(dimension::Value::DimParam(length.into())),
        },
        ..Default::default()
    });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let tensor = type_proto::Tensor { elem_type: data_type as i32, shape };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.into(), r#type: Some(ty), ..Default::default() }
}

pub(crate) fn float(name: &str, lengths: &str) -> ValueInfoProto {
    value(name, DataType::Float, lengths)
}

pub(crate) fn constant(name: &str, data: TensorData) -> TensorProto {
    tensor_proto(name, &data)
}

pub(crate) fn row(name: &str, values: &[f32]) -> TensorProto {
    constant(name, TensorData::vector(values.to_vec()))
}

pub(crate) fn scalar(name: &str, value: f32) -> TensorProto {
    constant(name, TensorData::scalar(value))
}

/// A graph from its parts.
pub(crate) fn graph(
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    initializers: Vec<TensorProto>,
) -> GraphProto {
    GraphProto {
        name: "test".into(),
        node: nodes,
        input: inputs,
        output: outputs,
        initializer: initializers,
        ..GraphProto::default()
    }
}

pub(crate) fn model_of(graph: GraphProto, opset: i64) -> Model {
    open(&proto_of(graph, opset))
}

pub(crate) fn proto_of(graph: GraphProto, opset: i64) -> ModelProto {
    let mut opset_import = vec![OperatorSetIdProto { domain: String::new(), version: opset }];
    let mut domains: Vec<_> =
        graph.node.iter().map(|node| node.domain.clone()).filter(|d| !d.is_empty()).collect();
    domains.dedup();
    opset_import.extend(domains.into_iter().map(|domain| OperatorSetIdProto { domain, version: 1 }));
    ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..ModelProto::default() }
}

pub(crate) fn open(proto: &ModelProto) -> Model {
    Model::from_bytes("test.onnx", proto.encode_to_vec().into()).unwrap()
}

/// The model as messages, for looking at what came out.
pub(crate) fn decode(model: &Model) -> ModelProto {
    ModelProto::decode(model.to_bytes()).unwrap()
}

pub(crate) fn ops(model: &Model) -> Vec<String> {
    model.graph.nodes.iter().map(|node| node.op()).collect()
}

pub(crate) type Tensors = Vec<(String, TensorData)>;

/// Runs a model in the interpreter.
#[track_caller]
pub(crate) fn run(model: &Model, inputs: &Tensors) -> Tensors {
    let options = ImportOptions { companions: false, ..ImportOptions::default() };
    let imported =
        import_model(&decode(model), model.path(), &options).unwrap_or_else(|error| panic!("{error}"));
    let wanted = imported.graph.inputs().iter().map(|id| imported.graph.tensor(*id).name.clone());
    let inputs: Vec<(String, TensorData)> = wanted
        .map(|name| {
            inputs.iter().find(|(given, _)| *given == name).cloned().unwrap_or_else(|| panic!("no {name}"))
        })
        .collect();
    let inputs: Vec<_> = inputs.iter().map(|(name, data)| (name.as_str(), data.clone())).collect();
    Interpreter::new(&imported.graph, Precision::Native).run(&inputs).unwrap()
}

/// The two are the same to the last bit or, for floats, to `tolerance` of the largest element.
#[track_caller]
pub(crate) fn assert_same(found: &Tensors, expected: &Tensors, tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for ((name, found), (other, expected)) in found.iter().zip(expected) {
        assert_eq!((name, found.ty()), (other, expected.ty()));
        let (found, expected) = (found.to_f64(), expected.to_f64());
        let largest = expected.iter().fold(0f64, |max, value| max.max(value.abs()));
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() <= tolerance * largest || a == b, "{name}: {a} instead of {b}");
        }
    }
}

/// Inputs of an exported BERT model: two rows of seven tokens, the second one padded.
pub(crate) fn token_inputs(model: &Model) -> Tensors {
    let ids: Vec<i64> = (0..14).map(|at| (at * 37 + 5) % 99).collect();
    let mask: Vec<i64> = (0..14).map(|at| i64::from(at < 11)).collect();
    let types: Vec<i64> = (0..14).map(|at| i64::from(at % 7 > 3)).collect();
    let mut tensors = Tensors::new();
    for value in &model.graph.inputs {
        let values = match value.name() {
            "input_ids" => &ids,
            "attention_mask" => &mask,
            _ => &types,
        };
        tensors.push((value.name().to_owned(), TensorData::from_vec(vec![2, 7], values.clone()).unwrap()));
    }
    tensors
}

/// Numbers that look random: the same each time.
pub(crate) fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) as f32 / (1u64 << 31) as f32) * 2.0 - 1.0
    };
    (0..count).map(next).collect()
}

pub(crate) fn tensor(shape: &[usize], seed: u64) -> TensorData {
    TensorData::from_vec(shape.to_vec(), noise(shape.iter().product(), seed)).unwrap()
}

/// With the environment variable `BERTHA_ONNX_EXPORTS`, writes a model there with inputs and expected outputs, for
/// `tests/onnx/check_exports.py` to run through ONNX's checker and ONNX Runtime.
pub(crate) fn for_onnxruntime(name: &str, model: &Model, inputs: &Tensors, outputs: &Tensors) {
    // ONNX Runtime's RotaryEmbedding does not broadcast as the operator set says, so it cannot run the original either.
    if name.contains("modernbert_sdpa_dynamo23") {
        return;
    }
    let Some(folder) = std::env::var_os("BERTHA_ONNX_EXPORTS") else { return };
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder).unwrap();
    model.save(folder.join(format!("surgeon_{name}.onnx"))).unwrap();
    for (tensors, what) in [(inputs, "inputs"), (outputs, "outputs")] {
        let tensors: Vec<_> = tensors.iter().map(|(name, data)| (name.as_str(), data)).collect();
        write_npz(folder.join(format!("surgeon_{name}.0.{what}.npz")), tensors).unwrap();
    }
}
