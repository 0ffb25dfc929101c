//! `bertha surgeon` as a person or a script calls it.

mod support;

use std::path::{Path, PathBuf};

use bertha::import::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};
use prost::Message;
use support::{Work, bertha};

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: format!("node {output}"),
        input: inputs.iter().map(|name| (*name).into()).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

fn value(name: &str) -> ValueInfoProto {
    use bertha::import::onnx::proto::{Dimension, dimension};
    let dim = Dimension { value: Some(dimension::Value::DimParam("n".into())), ..Dimension::default() };
    let tensor = type_proto::Tensor { elem_type: 1, shape: Some(TensorShapeProto { dim: vec![dim] }) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.into(), r#type: Some(ty), ..ValueInfoProto::default() }
}

/// `y = softmax(x * sigmoid(x))`, and an op that nobody knows.
fn model(work: &Work) -> String {
    let mut softmax = node("Softmax", &["m"], "y");
    softmax.attribute =
        vec![AttributeProto { name: "axis".into(), r#type: 2, i: -1, ..AttributeProto::default() }];
    let mut odd = node("Odd", &["m"], "z");
    odd.domain = "vendor".into();
    let graph = GraphProto {
        name: "g".into(),
        node: vec![node("Sigmoid", &["x"], "s"), node("Mul", &["x", "s"], "m"), softmax, odd],
        input: vec![value("x")],
        output: vec![value("y"), value("z")],
        value_info: vec![value("m")],
        ..GraphProto::default()
    };
    let set = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
    let opset_import = vec![set("", 17), set("vendor", 4)];
    let model = ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..ModelProto::default() };
    let path = work.path("model.onnx");
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    path
}

fn ops(path: &str) -> Vec<String> {
    let model = ModelProto::decode(&std::fs::read(path).unwrap()[..]).unwrap();
    model.graph.unwrap().node.into_iter().map(|node| node.op_type).collect()
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

#[test]
fn summary_and_list_show_what_is_there() {
    let work = Work::new();
    let model = model(&work);
    let text = bertha(&["surgeon", "summary", &model]);
    let expected =
        "nodes          4\nparameters     0 tensors, 0 elements, 0 B\n\ninputs:\n  x  float32[n]\n";
    assert!(text.succeeds().stdout.contains(expected), "{}", text.stdout);
    assert!(text.stdout.contains("operator sets  ai.onnx 17, vendor 4\n"), "{}", text.stdout);
    let json = bertha(&["surgeon", "summary", &model, "--json"]).json();
    assert_eq!(json["opsets"]["vendor"], 4);
    assert_eq!(json["inputs"][0]["type"], "float32[n]");
    let list = bertha(&["surgeon", "list", &model, "--op", "Softmax"]);
    assert_eq!(
        list.succeeds().stdout,
        "position  op       name    inputs  outputs        attributes\n       2  Softmax  node y  m       y: float32[n]  \
         axis=-1\n1 node\n"
    );
    let json = bertha(&["surgeon", "list", &model, "--name", "[mz]$", "--json"]).json();
    let names: Vec<_> = json.as_array().unwrap().iter().map(|node| node["op"].as_str().unwrap()).collect();
    assert_eq!(names, ["Mul", "vendor::Odd"]);
}

#[test]
fn operations_write_a_new_file_and_leave_the_model_alone() {
    let work = Work::new();
    let model = model(&work);
    let before = std::fs::read(&model).unwrap();
    let out = work.path("out.onnx");
    let run = |args: &[&str]| bertha(&[&["surgeon", args[0], &model], &args[1..], &["-o", &out]].concat());
    let text = run(&["extract", "--from", "m", "--to", "y"]);
    assert!(text.succeeds().stdout.starts_with("kept 1 of 4 nodes\n"), "{}", text.stdout);
    assert!(text.stdout.ends_with(&format!("wrote {out}\n")), "{}", text.stdout);
    assert_eq!(ops(&out), ["Softmax"]);
    run(&["remove", "--op", "Softmax"]).succeeds();
    assert_eq!(ops(&out), ["Sigmoid", "Mul", "Odd"]);
    run(&[
        "replace",
        "--node",
        "node y",
        "--with",
        "vendor::Max",
        "--attribute",
        "axes=[0, 1]",
        "--drop",
        "axis",
    ])
    .succeeds();
    let list = bertha(&["surgeon", "list", &out, "--op", "vendor::Max", "--json"]).json();
    assert_eq!(list[0]["attributes"]["axes"], "[0, 1]");
    run(&["rename", "--tensor", "m=middle", "--input", "x=data", "--node", "node s=gate"]).succeeds();
    assert_eq!(bertha(&["surgeon", "summary", &out, "--json"]).json()["inputs"][0]["name"], "data");
    let json = run(&["shape", "x=8", "--json"]).json();
    assert_eq!(json["changes"][0], "`x`: float32[n] becomes float32[8]");
    assert_eq!(json["output"], out.as_str());
    run(&["shape", "--length", "n=tokens"]).succeeds();
    run(&["fold"]).succeeds();
    assert!(run(&["clean"]).succeeds().stdout.starts_with("nothing changed\n"));
    assert_eq!(std::fs::read(&model).unwrap(), before);

    // Over the model itself only when that is asked for.
    let refused = bertha(&["surgeon", "clean", &model, "-o", &model]);
    refused.fails(2, &["is the model itself", "--in-place"]);
    bertha(&["surgeon", "clean", &model]).fails(2, &["--output"]);
    bertha(&["surgeon", "remove", &model, "--op", "Softmax", "--in-place"]).succeeds();
    assert_ne!(std::fs::read(&model).unwrap(), before);
    let dry = bertha(&["surgeon", "remove", &out, "--op", "Odd", "--dry-run"]);
    assert!(dry.succeeds().stdout.ends_with("wrote nothing: this was a dry run\n"), "{}", dry.stdout);
}

#[test]
fn extract_takes_types_that_nobody_else_knows() {
    let work = Work::new();
    let model = model(&work);
    let odd = work.path("odd.onnx");
    let args =
        ["surgeon", "rewrite", &model, "-e", "m = Mul(x, s) replace m = vendor::Gate(x, s)", "-o", &odd];
    bertha(&args).succeeds();
    // The op is unknown, so nobody but the caller can say what it takes in.
    let mut proto = ModelProto::decode(&std::fs::read(&odd).unwrap()[..]).unwrap();
    proto.graph.as_mut().unwrap().value_info.clear();
    std::fs::write(&odd, proto.encode_to_vec()).unwrap();
    let out = work.path("out.onnx");
    let extract = ["surgeon", "extract", &odd, "--from", "m", "--to", "y", "-o", &out];
    bertha(&extract).fails(1, &["type of tensor `m`"]);
    bertha(&[&extract[..], &["--type", "m=float16[n, 3]"]].concat()).succeeds();
    assert_eq!(bertha(&["surgeon", "summary", &out, "--json"]).json()["inputs"][0]["type"], "float16[n, 3]");
    bertha(&[&extract[..], &["--type", "q=float16[n]"]].concat()).fails(1, &["no tensor `q`"]);
}

#[test]
fn patterns_are_found_and_replaced() {
    let work = Work::new();
    let model = model(&work);
    let out = work.path("out.onnx");
    let text = "y = Mul(x, Sigmoid(x)) replace y = vendor::Swish(x)";
    let found = bertha(&["surgeon", "match", &model, "-e", text]);
    assert_eq!(
        found.succeeds().stdout,
        "pattern: found 1 match\n  node m: 2 nodes -> node m: vendor::Swish\n"
    );
    let dry = bertha(&["surgeon", "rewrite", &model, "-e", text, "--dry-run"]);
    assert!(dry.succeeds().stdout.starts_with("pattern: would replace 1 match\n"), "{}", dry.stdout);
    let file = work.path("swish.pattern");
    std::fs::write(&file, format!("pattern swish:\n  {text}\n")).unwrap();
    let json = bertha(&["surgeon", "rewrite", &model, "--pattern-file", &file, "-o", &out, "--json"]).json();
    assert_eq!(json["patterns"][0]["matches"][0]["removed"][0], "node s");
    assert_eq!((&json["before"]["nodes"], &json["after"]["nodes"]), (&4.into(), &3.into()));
    assert_eq!(ops(&out), ["Swish", "Softmax", "Odd"]);

    // Near misses, and codes.
    let miss = bertha(&["surgeon", "match", &model, "-e", "y = Softmax(Mul(x, Tanh(x)))", "--require"]);
    assert_eq!(miss.code, 3);
    assert!(miss.stdout.contains("it is Sigmoid; Tanh was expected"), "{}", miss.stdout);
    assert_eq!(miss.stderr, "error: not found: `pattern`\n");
    let wrong = bertha(&["surgeon", "match", &model, "-e", "y = Mul(x,, y)"]);
    wrong.fails(2, &["error: pattern:1:11: expected an operator", "  y = Mul(x,, y)\n            ^"]);
    bertha(&["surgeon", "rewrite", &model, "-e", "y = Mul(x, z)", "-o", &out])
        .fails(2, &["has no `replace`"]);
    bertha(&["surgeon", "match", &model]).fails(2, &["--pattern-file"]);
    bertha(&["surgeon", "list", &file]).fails(1, &["swish.pattern"]);
    bertha(&["surgeon", "remove", &model, "--node", "node q", "-o", &out])
        .fails(1, &["no node `node q`", "nearest"]);
}

#[test]
fn the_speech_encoder_of_the_guide_loses_its_layer_norms() {
    let work = Work::new();
    let out = work.path("plugin.onnx");
    let model = repository("tests/onnx/conformer/conformer_legacy16.onnx");
    let patterns = repository("patterns/layer-norm.pattern");
    let (model, patterns) = (model.to_str().unwrap(), patterns.to_str().unwrap());
    let text = bertha(&["surgeon", "rewrite", model, "--pattern-file", patterns, "-o", &out]);
    assert!(text.succeeds().stdout.starts_with("layer-norm: replaced 6 matches\n"), "{}", text.stdout);
    assert_eq!(ops(&out).iter().filter(|op| *op == "LayerNorm").count(), 6);
}

#[test]
fn every_help_has_an_example() {
    for name in [
        "summary", "list", "extract", "fold", "clean", "shape", "rename", "remove", "replace", "match",
        "rewrite",
    ] {
        let help = bertha(&["surgeon", name, "--help"]);
        assert!(
            help.succeeds().stdout.contains(&format!("bertha surgeon {name} ")),
            "{name}: {}",
            help.stdout
        );
    }
}

#[test]
fn the_pattern_of_the_guide_is_one() {
    let guide = std::fs::read_to_string(repository("docs/surgeon.md")).unwrap();
    let start = guide.find("pattern layer-norm:").unwrap();
    let text = guide[start..].split("```").next().unwrap();
    let model = repository("tests/onnx/conformer/conformer_legacy16.onnx");
    let found = bertha(&["surgeon", "match", model.to_str().unwrap(), "-e", text, "--json"]).json();
    assert_eq!(found[0]["matches"].as_array().unwrap().len(), 6);
}
