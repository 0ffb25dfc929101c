//! Damaged and hostile files and patterns give errors.

mod support;

use bertha_graph::TensorData;
use bertha_import::onnx::proto::{ModelProto, StringStringEntryProto};
use bertha_surgeon::testing::{fuzz_pattern, fuzz_surgery};
use bertha_surgeon::{Model, SurgeryError, find_pattern, parse_patterns, remove, summary};
use bytes::Bytes;
use prost::Message;
use support::*;

/// A model with a bit of everything: inner graphs, constants in both forms, an unknown op, types.
fn everything() -> ModelProto {
    let branch = |op: &str, name: &str| {
        graph(vec![node(op, "m", name)], Vec::new(), vec![float(name, "n 2")], Vec::new())
    };
    let nodes = vec![
        with(node("Constant", "", "two"), vec![tensor_attribute("value", &TensorData::scalar(2f32))]),
        node("Add", "x w", "a"),
        node("Mul", "a two", "m"),
        node("vendor::Odd", "m -", "o"),
        with(node("Split", "m", "s t"), vec![int("axis", 1)]),
        with(node("ReduceMean", "m", "r"), vec![ints("axes", &[-1])]),
        node("Identity", "r", "i"),
        with(
            node("If", "yes", "y"),
            vec![
                graph_attribute("then_branch", branch("Neg", "p")),
                graph_attribute("else_branch", branch("Abs", "q")),
            ],
        ),
    ];
    let yes = constant("yes", TensorData::from_bools(vec![], &[true]).unwrap());
    let outputs =
        vec![float("y", "n 2"), float("i", "n 1"), float("o", "?"), float("s", "n 1"), float("t", "n 1")];
    let mut graph = graph(nodes, vec![float("x", "n 2")], outputs, vec![row("w", &[1., 2.]), yes]);
    graph.value_info = vec![float("a", "n 2")];
    proto_of(graph, 17)
}

#[test]
fn damaged_files_give_errors_or_models_that_can_be_written() {
    let bytes = everything().encode_to_vec();
    fuzz_surgery(&bytes);
    for length in 0..bytes.len() {
        fuzz_surgery(&bytes[..length]);
    }
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff, bytes[at] ^ 1, bytes[at] ^ 0x40] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            fuzz_surgery(&damaged);
        }
    }
}

#[test]
fn damaged_patterns_give_errors() {
    let model = everything().encode_to_vec();
    for name in ["layer-norm.pattern", "layer-norm-standard.pattern", "gelu.pattern"] {
        let text = std::fs::read(repository("patterns").join(name)).unwrap();
        fuzz_pattern(&text, &model);
        for at in (0..text.len()).step_by(3) {
            fuzz_pattern(&text[..at], &model);
            let mut damaged = text.clone();
            damaged[at] = b"(){}[],;=|?@x1\n\""[at % 16];
            fuzz_pattern(&damaged, &model);
            damaged.remove(at);
            fuzz_pattern(&damaged, &model);
        }
    }
}

#[test]
fn the_corpus_of_the_fuzzers_is_replayed() {
    let model = everything().encode_to_vec();
    for (name, replay) in [
        ("surgery", &fuzz_surgery as &dyn Fn(&[u8])),
        ("pattern", &|input: &[u8]| fuzz_pattern(input, &model)),
    ] {
        let folder = repository("fuzz/corpus").join(name);
        let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty(), "{}", folder.display());
        files.iter().for_each(|path| replay(&std::fs::read(path).unwrap()));
    }
}

#[test]
fn what_is_no_model_is_said_to_be_none() {
    for (bytes, what) in [
        (&b""[..], "it is empty"),
        (b"<html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"\x08\x08", "no graph"),
        (b"\x08\x08\x3a\x05", "cut off"),
        (b"\x08\x08\x3a\x02\x0b\x0b", "wire type"),
        (b"\x08\x08\x3a\x00\x3a\x00", "two graphs"),
    ] {
        let error = Model::from_bytes("m.onnx", Bytes::from_static(bytes)).unwrap_err().to_string();
        assert!(error.starts_with("m.onnx: ") && error.contains(what), "`{error}` does not say `{what}`");
    }
    assert!(Model::open("no/such/file.onnx").is_err());
}

#[test]
fn graphs_nested_without_end_are_refused() {
    let mut inner = graph(vec![node("Neg", "x", "y")], Vec::new(), vec![float("y", "2")], Vec::new());
    for _ in 0..200 {
        inner = graph(
            vec![with(node("If", "c", "y"), vec![graph_attribute("then_branch", inner)])],
            Vec::new(),
            Vec::new(),
            Vec::new(),
        );
    }
    let bytes = proto_of(inner, 17).encode_to_vec();
    let error = Model::from_bytes("deep.onnx", bytes.into()).unwrap_err().to_string();
    assert!(error.contains("nested"), "{error}");
}

#[test]
fn patterns_nested_without_end_are_refused() {
    for (open, close) in [("Neg(", ")"), ("(", ")")] {
        let text = format!("y = {}x{}", open.repeat(100_000), close.repeat(100_000));
        let error = parse_patterns("deep", &text).unwrap_err();
        assert!(error.message.contains("nested too deeply"), "{error}");
    }
    let lists = format!("y = Neg(x, a={})", "[".repeat(100_000));
    assert!(parse_patterns("deep", &lists).unwrap_err().message.contains("nested"));
    let many = "y = Neg(x)\n".repeat(2);
    assert!(parse_patterns("many", &many).is_err());
    let statements: String = (0..1000).map(|at| format!("t{} = Neg(t{at})\n", at + 1)).collect();
    assert!(parse_patterns("long", &statements).unwrap_err().message.contains("statements"));
}

#[test]
fn the_longest_pattern_that_is_allowed_can_be_matched() {
    let name = |at: usize| format!("n{at}");
    let nodes = (0..256).map(|at| node("Neg", &name(at), &name(at + 1))).collect();
    let whole = graph(nodes, vec![float("n0", "2")], vec![float("n256", "2")], Vec::new());
    let model = model_of(whole, 17);
    // Operators behind one another, in a few statements or one in each; one operator more is refused.
    for in_each in [32, 1] {
        let deep: String = (0..256 / in_each)
            .map(|at| format!("t{} = {}t{at}{}\n", at + 1, "Neg(".repeat(in_each), ")".repeat(in_each)))
            .collect();
        let found = find_pattern(&model, &pattern(&deep)).unwrap();
        assert_eq!((found.matches.len(), found.matches[0].nodes.len()), (1, 256));
    }
    let one_more = format!("y = Neg(t)\nt = {}x{}", "Neg(".repeat(32), ")".repeat(32)).replace('x', "s");
    let rest = format!("s = Add({}x)", "Neg(x), ".repeat(223));
    let error = parse_patterns("deep", &format!("{one_more}\n{rest}")).unwrap_err();
    assert_eq!(error.line, 3);
    assert!(error.message.contains("at most 256 operators"), "{error}");
    let ways = format!("y = Neg(x){}", " | Neg(x)".repeat(300));
    assert!(parse_patterns("ways", &ways).unwrap_err().message.contains("at most 256 operators"));
}

#[test]
fn an_identity_that_reads_itself_is_followed_to_no_end() {
    let nodes = vec![node("Identity", "b", "a"), node("Identity", "a", "b"), node("Relu", "b", "y")];
    let mut model = model_of(graph(nodes, Vec::new(), vec![float("y", "2")], Vec::new()), 17);
    let pattern = pattern("y = Relu(x) where x: constant");
    assert!(find_pattern(&model, &pattern).unwrap().matches.is_empty());
    let nodes = bertha_surgeon::Selection { ops: vec!["Relu".into()], ..Default::default() };
    // The circle is in the file; what sorts nodes says so.
    let error = remove(&mut model, &nodes, 0).unwrap_err();
    assert!(matches!(&error, SurgeryError::Request(why) if why.contains("own result")), "{error}");
}

#[test]
fn external_data_outside_of_the_folder_are_not_copied() {
    let folder = tempfile::tempdir().unwrap();
    let mut proto = everything();
    let tensor = &mut proto.graph.as_mut().unwrap().initializer[0];
    tensor.raw_data = Bytes::new();
    tensor.data_location = 1;
    tensor.external_data =
        vec![StringStringEntryProto { key: "location".into(), value: "../../etc/passwd".into() }];
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, proto.encode_to_vec()).unwrap();
    let model = Model::open(&path).unwrap();
    assert_eq!(summary(&model).parameters.external, 1);
    let other = tempfile::tempdir().unwrap();
    let error = model.save(other.path().join("out.onnx")).unwrap_err().to_string();
    assert!(error.contains("../../etc/passwd"), "{error}");
    assert!(!other.path().join("out.onnx").exists());
}
