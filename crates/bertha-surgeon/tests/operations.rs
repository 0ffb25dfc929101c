//! Operations on generated graphs and on exported files: what they change, what they leave, and that the results run
//! equal to the original.

mod support;

use bertha_graph::TensorData;
use bertha_import::onnx::proto::{DataType, StringStringEntryProto, TensorAnnotation};
use bertha_surgeon::{
    FoldOptions, Length, Model, Replacement, Role, Selection, clean, declare_type, extract, fold, list,
    remove, rename_node, rename_tensor, replace, set_length, set_shapes, summary,
};
use support::*;

fn names(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn op(op: &str) -> Selection {
    Selection { ops: names(&[op]), ..Selection::default() }
}

fn named(name: &str) -> Selection {
    Selection { names: names(&[name]), ..Selection::default() }
}

/// `x -> a = relu(x) -> b = a * w -> c = b + a -> y = tanh(c)`, and a second output.
fn chain() -> Model {
    let nodes = vec![
        node("Relu", "x", "a"),
        node("Mul", "a w", "b"),
        node("Add", "b a", "c"),
        node("Tanh", "c", "y"),
        node("Neg", "other", "z"),
    ];
    let inputs = vec![float("x", "batch 4"), float("other", "batch 2")];
    let outputs = vec![float("y", "batch 4"), float("z", "batch 2")];
    let mut graph = graph(nodes, inputs, outputs, vec![row("w", &[1., 2., 3., 4.]), row("unread", &[0.])]);
    graph.value_info = vec![float("a", "batch 4"), float("b", "batch 4"), float("c", "batch 4")];
    model_of(graph, 17)
}

#[test]
fn extract_cuts_between_tensors() {
    let inputs = vec![("x".to_owned(), tensor(&[3, 4], 1)), ("other".to_owned(), tensor(&[3, 2], 2))];
    // `b` and `a` as inputs: the multiplication and its weight are gone.
    let mut part = chain();
    let changes = extract(&mut part, &names(&["b", "a"]), &names(&["y"])).unwrap();
    assert_eq!(ops(&part), ["Add", "Tanh"]);
    assert_eq!(changes.changes[0], "kept 2 of 5 nodes");
    assert!(part.graph.initializers.is_empty());
    assert_eq!(part.graph.value_infos.iter().map(|value| value.name()).collect::<Vec<_>>(), ["c"]);
    // The two parts one after the other are the whole.
    let mut front = chain();
    extract(&mut front, &[], &names(&["b", "a"])).unwrap();
    assert_eq!(summary(&front).inputs.len(), 1);
    let between = run(&front, &inputs);
    let expected = run(&chain(), &inputs);
    assert_same(&run(&part, &between), &expected[..1].to_vec(), 0.0);
    for_onnxruntime("extract", &part, &between, &expected[..1].to_vec());
}

#[test]
fn extract_says_what_is_missing() {
    let fails = |inputs: &[&str], outputs: &[&str], what: &str| {
        let error = extract(&mut chain(), &names(inputs), &names(outputs)).unwrap_err().to_string();
        assert!(error.contains(what), "`{error}` does not say `{what}`");
    };
    fails(&["b"], &["y"], "depend on `x`, not through");
    fails(&[], &["cc"], "no tensor `cc`; the nearest name is `c`");
    fails(&["other"], &["y"], "do not depend on `other`");
    fails(&["a"], &["a"], "`a` is named as input and as output");
    fails(&["a", "a"], &["y"], "named twice as input");
}

#[test]
fn extract_finds_types_that_the_file_does_not_say() {
    for path in
        exported_files().into_iter().filter(|path| path.to_string_lossy().contains("bert_eager_legacy14"))
    {
        let whole = Model::open(&path).unwrap();
        let outputs =
            whole.graph.nodes.iter().filter(|node| node.op_type == "Softmax").flat_map(|node| &node.outputs);
        let softmax: Vec<String> = outputs.cloned().collect();
        let mut part = Model::open(&path).unwrap();
        extract(&mut part, &[], &softmax[..1]).unwrap();
        let port = &summary(&part).outputs[0];
        assert!(port.ty.starts_with("float32[") && !port.ty.contains('?'), "{}", port.ty);
        assert!(part.graph.nodes.len() < whole.graph.nodes.len() / 2);
        let inputs = token_inputs(&whole);
        let result = run(&part, &inputs);
        assert_eq!(result[0].1.shape(), [2, 4, 7, 7]);
        for_onnxruntime(&format!("{}_softmax", path.file_stem().unwrap().display()), &part, &inputs, &result);
    }
}

#[test]
fn a_type_that_nobody_knows_can_be_said() {
    let odd = || {
        let nodes = vec![node("vendor::Odd", "x", "h"), node("Relu", "h", "y")];
        model_of(graph(nodes, vec![float("x", "n 4")], vec![float("y", "n 4")], Vec::new()), 17)
    };
    let error = extract(&mut odd(), &[], &names(&["h"])).unwrap_err().to_string();
    assert!(error.contains("type of tensor `h`") && error.contains("h=float32[batch, 128]"), "{error}");
    let mut model = odd();
    declare_type(&mut model, "h", "float16[n, 4]").unwrap();
    extract(&mut model, &names(&["h"]), &[]).unwrap();
    assert_eq!(summary(&model).inputs[0].ty, "float16[n, 4]");
    let mut model = odd();
    for (name, ty, what) in [
        ("g", "bool[]", "no tensor `g`"),
        ("h", "float32", "no type"),
        ("h", "f[2]", "no type"),
        ("h", "bool[-1]", "no length"),
    ] {
        let error = declare_type(&mut model, name, ty).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    declare_type(&mut model, "h", "int64[]").unwrap();
}

#[test]
fn rename_reaches_everything_that_has_the_name() {
    let mut proto = decode(&chain());
    let graph = proto.graph.as_mut().unwrap();
    graph.quantization_annotation = vec![TensorAnnotation {
        tensor_name: "a".into(),
        quant_parameter_tensor_names: vec![StringStringEntryProto {
            key: "SCALE_TENSOR".into(),
            value: "unread".into(),
        }],
    }];
    // A branch that reads `a` from outside, and gives it back.
    let branch =
        |name: &str| support::graph(Vec::new(), Vec::new(), vec![float(name, "batch 4")], Vec::new());
    let body =
        support::graph(vec![node("Neg", "a", "n")], Vec::new(), vec![float("n", "batch 4")], Vec::new());
    graph.initializer.push(constant("yes", TensorData::from_bools(vec![], &[true]).unwrap()));
    graph.node.push(with(
        node("If", "yes", "chosen"),
        vec![graph_attribute("then_branch", branch("a")), graph_attribute("else_branch", body)],
    ));
    graph.output.push(float("chosen", "batch 4"));
    let mut model = open(&proto);
    let inputs = vec![("x".to_owned(), tensor(&[3, 4], 1)), ("other".to_owned(), tensor(&[3, 2], 2))];
    let before = run(&model, &inputs);
    rename_tensor(&mut model, Role::Tensor, "a", "first").unwrap();
    rename_tensor(&mut model, Role::Tensor, "unread", "scale").unwrap();
    let text = format!("{:?}", decode(&model));
    assert!(!text.contains("\"a\"") && !text.contains("\"unread\""), "{text}");
    assert_same(&run(&model, &inputs), &before, 0.0);

    rename_tensor(&mut model, Role::Input, "x", "data").unwrap();
    rename_tensor(&mut model, Role::Output, "y", "result").unwrap();
    rename_node(&mut model, "Relu:a", "the relu").unwrap();
    assert_eq!(model.graph.nodes[0].name, "the relu");
    let renamed = vec![("data".to_owned(), inputs[0].1.clone()), inputs[1].clone()];
    assert_eq!(run(&model, &renamed)[0], ("result".to_owned(), before[0].1.clone()));

    let fails = |role, old: &str, new: &str, what: &str| {
        let error = rename_tensor(&mut chain(), role, old, new).unwrap_err().to_string();
        assert!(error.contains(what), "`{error}` does not say `{what}`");
    };
    fails(Role::Tensor, "nothing", "b", "no tensor `nothing`");
    fails(Role::Tensor, "a", "b", "a tensor `b` already");
    fails(Role::Input, "a", "q", "no input `a`");
    fails(Role::Output, "x", "q", "no output `x`");
    fails(Role::Tensor, "a", "", "empty");
}

#[test]
fn a_tensor_of_an_inner_graph_is_renamed_there() {
    let body =
        |name: &str| graph(vec![node("Neg", "x", name)], Vec::new(), vec![float(name, "4")], Vec::new());
    let nodes = vec![with(
        node("If", "yes", "y"),
        vec![graph_attribute("then_branch", body("inside")), graph_attribute("else_branch", body("other"))],
    )];
    let yes = constant("yes", TensorData::from_bools(vec![], &[true]).unwrap());
    let mut model = model_of(graph(nodes, vec![float("x", "4")], vec![float("y", "4")], vec![yes]), 17);
    let before = decode(&model);
    rename_tensor(&mut model, Role::Tensor, "inside", "within").unwrap();
    let after = decode(&model);
    let branch = |proto: &bertha_import::onnx::proto::ModelProto, at: usize| {
        proto.graph.as_ref().unwrap().node[0].attribute[at].g.clone().unwrap()
    };
    assert_eq!(branch(&after, 0).node[0].output, ["within"]);
    assert_eq!(branch(&after, 0).output[0].name, "within");
    assert_eq!(branch(&after, 1), branch(&before, 1));
}

#[test]
fn remove_lets_readers_read_what_the_node_read() {
    let inputs = vec![("x".to_owned(), tensor(&[3, 4], 1)), ("other".to_owned(), tensor(&[3, 2], 2))];
    // In the middle: the weight goes with the multiplication; the unread constant, which was there, stays.
    let mut model = chain();
    remove(&mut model, &op("Mul"), 0).unwrap();
    assert_eq!(ops(&model), ["Relu", "Add", "Tanh", "Neg"]);
    assert_eq!(model.graph.initializers.len(), 1);
    assert_eq!(model.graph.nodes[1].inputs, ["a", "a"]);
    // At an output: the name is handed on to the node before.
    let mut model = chain();
    remove(&mut model, &named("Tanh:y"), 0).unwrap();
    assert_eq!(ops(&model), ["Relu", "Mul", "Add", "Neg"]);
    assert_eq!(model.graph.nodes[2].outputs, ["y"]);
    run(&model, &inputs);
    // Between an input and an output no name can be handed on.
    let mut model = chain();
    let changes = remove(&mut model, &op("Neg"), 0).unwrap();
    assert_eq!(ops(&model)[4], "Identity");
    assert!(changes.changes[0].contains("is now an Identity"), "{changes:?}");
    assert_eq!(run(&model, &inputs)[1].1, inputs[1].1);
    // Through the other input.
    let mut model = chain();
    remove(&mut model, &op("Add"), 1).unwrap();
    assert_eq!(ops(&model), ["Relu", "Tanh", "Neg"]);

    let fails = |nodes: &Selection, via: usize, what: &str| {
        let error = remove(&mut chain(), nodes, via).unwrap_err().to_string();
        assert!(error.contains(what), "`{error}` does not say `{what}`");
    };
    fails(&op("Relu"), 1, "has 1 inputs");
    fails(&op("Conv"), 0, "no node is of this kind");
    fails(&named("Relu:b"), 0, "no node `Relu:b`");
    fails(&Selection::default(), 0, "say which nodes");
}

#[test]
fn identities_of_exported_files_can_all_go() {
    for path in exported_files().into_iter().filter(|path| path.to_string_lossy().contains("legacy")) {
        let mut model = Model::open(&path).unwrap();
        let inputs = token_inputs(&model);
        let before = run(&model, &inputs);
        if !ops(&model).contains(&"Identity".to_owned()) {
            continue;
        }
        remove(&mut model, &op("Identity"), 0).unwrap();
        assert!(!ops(&model).contains(&"Identity".to_owned()));
        assert_same(&run(&model, &inputs), &before, 0.0);
        for_onnxruntime(
            &format!("{}_identities", path.file_stem().unwrap().display()),
            &model,
            &inputs,
            &before,
        );
    }
}

#[test]
fn replace_changes_op_domain_and_attributes() {
    let mut proto = decode(&chain());
    proto.graph.as_mut().unwrap().node[3].attribute = vec![int("mode", 1), int("size", 2)];
    let mut model = open(&proto);
    let replacement = Replacement {
        op_type: Some("FastTanh".into()),
        domain: Some("com.example".into()),
        version: 3,
        drop_attributes: vec!["mode".into()],
        attributes: vec![ints("axes", &[1, 2])],
        ..Replacement::default()
    };
    replace(&mut model, &op("Tanh"), &replacement).unwrap();
    let node = &model.graph.nodes[3];
    assert_eq!(node.op(), "com.example::FastTanh");
    assert_eq!(node.attributes.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["size", "axes"]);
    assert_eq!(model.opset("com.example"), Some(3));
    assert_eq!((&node.inputs[..], &node.outputs[..]), (&names(&["c"])[..], &names(&["y"])[..]));
    // Back again: the domain that nothing uses is forgotten.
    let back = Replacement {
        op_type: Some("Tanh".into()),
        domain: Some(String::new()),
        clear_attributes: true,
        ..Default::default()
    };
    replace(&mut model, &op("com.example::FastTanh"), &back).unwrap();
    assert_eq!(decode(&model), decode(&chain()));
    let missing = Replacement { drop_attributes: vec!["mode".into()], ..Replacement::default() };
    let error = replace(&mut model, &op("Tanh"), &missing).unwrap_err().to_string();
    assert!(error.contains("no attribute `mode`"), "{error}");
}

#[test]
fn shapes_are_set_and_named() {
    let parse = |text: &str| text.split(',').map(|text| Length::parse(text).unwrap()).collect::<Vec<_>>();
    let mut model = chain();
    let changes = set_shapes(&mut model, &[("x".into(), parse("8,4"))]).unwrap();
    let types = |model: &Model| -> Vec<String> {
        let summary = summary(model);
        summary.inputs.into_iter().chain(summary.outputs).map(|port| port.ty).collect()
    };
    // The other input has the same batch, so has everything between.
    assert_eq!(types(&model), ["float32[8, 4]", "float32[8, 2]", "float32[8, 4]", "float32[8, 2]"]);
    assert!(changes.changes.iter().any(|change| change.contains("3 tensors in between")), "{changes:?}");
    assert_eq!(bertha_surgeon::describe_type(&model.graph.value_infos[0]), "float32[8, 4]");
    // From a number back to a name: what is between is not known any more.
    let changes = set_shapes(&mut model, &[("x".into(), parse("n,4")), ("y".into(), parse("n,?"))]).unwrap();
    assert_eq!(types(&model), ["float32[n, 4]", "float32[8, 2]", "float32[n, ?]", "float32[8, 2]"]);
    assert!(model.graph.value_infos.is_empty() && changes.notes.len() == 2);
    set_length(&mut model, "n", &Length::Named("rows".into())).unwrap();
    assert_eq!(types(&model)[0], "float32[rows, 4]");

    let fails = |shapes: &[(&str, &str)], what: &str| {
        let shapes: Vec<_> = shapes.iter().map(|(name, text)| ((*name).to_owned(), parse(text))).collect();
        let error = set_shapes(&mut chain(), &shapes).unwrap_err().to_string();
        assert!(error.contains(what), "`{error}` does not say `{what}`");
    };
    fails(&[("x", "1,2,3")], "of 2 dimensions; 3 lengths are given");
    fails(&[("X", "1,2")], "the nearest name is `x`");
    fails(&[("x", "1,4"), ("other", "2,2")], "`batch` is given two values");
    assert!(Length::parse("-1").is_err() && Length::parse("").is_err() && Length::parse("3x").is_err());
    assert!(set_length(&mut chain(), "seq", &Length::Fixed(1)).is_err());
}

#[test]
fn a_fixed_shape_lets_shape_arithmetic_fold() {
    for path in
        exported_files().into_iter().filter(|path| path.to_string_lossy().contains("bert_eager_legacy14"))
    {
        let mut model = Model::open(&path).unwrap();
        let inputs = token_inputs(&model);
        let before = run(&model, &inputs);
        let fixed = model.graph.inputs.iter().map(|value| value.name().to_owned());
        let shapes: Vec<_> = fixed.map(|name| (name, vec![Length::Fixed(2), Length::Fixed(7)])).collect();
        set_shapes(&mut model, &shapes).unwrap();
        let count = model.graph.nodes.len();
        fold(&mut model, &FoldOptions::default()).unwrap();
        assert!(model.graph.nodes.len() + 10 < count, "{count} became {}", model.graph.nodes.len());
        assert_same(&run(&model, &inputs), &before, 1e-6);
        for_onnxruntime(&format!("{}_fixed", path.file_stem().unwrap().display()), &model, &inputs, &before);
    }
}

#[test]
fn fold_computes_what_depends_on_constants_only() {
    let two = TensorData::scalar(2f32);
    let shape = TensorData::vector(vec![2i64, 2]);
    let nodes = vec![
        with(node("Constant", "", "two"), vec![tensor_attribute("value", &two)]),
        node("Mul", "w two", "doubled"),
        node("Reshape", "doubled shape", "square"),
        node("MatMul", "x square", "m"),
        node("vendor::Odd", "two", "odd"),
        node("Add", "odd two", "p"),
        node("Add", "m p", "y"),
    ];
    let initializers = vec![row("w", &[1., 2., 3., 4.]), constant("shape", shape)];
    let proto = proto_of(graph(nodes, vec![float("x", "n 2")], vec![float("y", "n 2")], initializers), 17);
    let mut model = open(&proto);
    let changes = fold(&mut model, &FoldOptions::default()).unwrap();
    // The unknown op and what depends on it stay, and so does the constant it reads.
    assert_eq!(ops(&model), ["Constant", "MatMul", "vendor::Odd", "Add", "Add"]);
    assert_eq!(model.graph.initializers.len(), 1);
    let square = model.graph.initializer("square").unwrap();
    let data = model.externals().tensor(&square.proto()).unwrap();
    assert_eq!((data.shape(), data.to_f64()), (&[2, 2][..], vec![2., 4., 6., 8.]));
    assert!(changes.notes.iter().any(|note| note.contains("vendor::Odd")), "{changes:?}");
    // Bounded: nothing that would take more room than allowed.
    let mut model = open(&proto);
    fold(&mut model, &FoldOptions { max_bytes: 8, ..FoldOptions::default() }).unwrap();
    assert_eq!(ops(&model).len(), 7);
    // A constant that a caller may replace is none.
    let mut overridable = proto;
    overridable.graph.as_mut().unwrap().input.push(float("w", "4"));
    let mut model = open(&overridable);
    fold(&mut model, &FoldOptions::default()).unwrap();
    assert!(ops(&model).contains(&"Mul".to_owned()));
}

#[test]
fn folded_exports_give_the_same_answers() {
    for path in exported_files() {
        let name = path.file_stem().unwrap().display().to_string();
        if !name.starts_with("modernbert_sdpa") && !name.starts_with("roberta_eager") {
            continue;
        }
        let mut model = Model::open(&path).unwrap();
        let inputs = token_inputs(&model);
        let before = run(&model, &inputs);
        let count = model.graph.nodes.len();
        fold(&mut model, &FoldOptions::default()).unwrap();
        clean(&mut model);
        // The newer exporter folds what it can by itself.
        assert!(model.graph.nodes.len() < count || name.contains("dynamo"), "{name}");
        assert_same(&run(&model, &inputs), &before, 1e-6);
        for_onnxruntime(&format!("{name}_folded"), &model, &inputs, &before);
    }
}

#[test]
fn clean_takes_out_what_nothing_uses() {
    let mut proto = decode(&chain());
    let graph = proto.graph.as_mut().unwrap();
    graph.node.push(node("vendor::Log", "c", "lost"));
    graph.value_info.push(float("lost", "batch 4"));
    graph.value_info.push(float("never", "batch 4"));
    proto
        .opset_import
        .push(bertha_import::onnx::proto::OperatorSetIdProto { domain: "vendor".into(), version: 2 });
    proto.functions.push(bertha_import::onnx::proto::FunctionProto {
        name: "Unused".into(),
        domain: "local".into(),
        ..Default::default()
    });
    let mut model = open(&proto);
    let changes = clean(&mut model);
    assert_eq!(ops(&model).len(), 5);
    assert!(model.graph.initializer("unread").is_none() && model.graph.initializer("w").is_some());
    assert_eq!((model.graph.value_infos.len(), model.opset("vendor"), model.functions.len()), (3, None, 0));
    assert_eq!(changes.changes.len(), 4, "{changes:?}");
    assert!(clean(&mut model).changes.is_empty());
}

#[test]
fn clean_keeps_functions_of_either_name_of_the_default_domain() {
    let mut proto = decode(&chain());
    let function = |domain: &str, name: &str, op: &str| bertha_import::onnx::proto::FunctionProto {
        name: name.into(),
        domain: domain.into(),
        input: vec!["i".into()],
        output: vec!["o".into()],
        node: vec![node(op, "i", "o")],
        ..Default::default()
    };
    // The graph calls `Outer` without a domain, and that the other two.
    proto.graph.as_mut().unwrap().node[3].op_type = "Outer".into();
    proto.functions = vec![
        function("ai.onnx", "Outer", "Inner"),
        function("ai.onnx", "Inner", "local::Last"),
        function("local", "Last", "Relu"),
        function("local", "Outer", "Relu"),
    ];
    let mut model = open(&proto);
    clean(&mut model);
    let left: Vec<_> = model.functions.iter().map(|function| function.name.as_str()).collect();
    assert_eq!(left, ["Outer", "Inner", "Last"]);
}

#[test]
fn clean_keeps_inputs_with_a_default_and_files_for_training() {
    let mut proto = decode(&chain());
    proto.graph.as_mut().unwrap().input.push(float("unread", "1"));
    let mut model = open(&proto);
    clean(&mut model);
    assert_eq!(model.graph.inputs.len(), 3);
    assert!(model.graph.initializer("unread").is_some());
    // Before version 4 of the format it is no input, but how a constant had to be listed.
    proto.ir_version = 3;
    let mut model = open(&proto);
    clean(&mut model);
    assert_eq!(model.graph.inputs.len(), 2);
    assert!(model.graph.initializer("unread").is_none());

    proto.training_info.push(Default::default());
    let mut model = open(&proto);
    let before = model.to_bytes();
    let changes = clean(&mut model);
    assert_eq!(model.to_bytes(), before);
    assert!(changes.notes[0].contains("training"), "{changes:?}");
}

#[test]
fn operator_sets_that_were_unused_before_stay() {
    let mut proto = decode(&chain());
    let set =
        |domain: &str| bertha_import::onnx::proto::OperatorSetIdProto { domain: domain.into(), version: 2 };
    proto.opset_import.extend([set("idle"), set("vendor")]);
    proto.graph.as_mut().unwrap().node[3].domain = "vendor".into();
    let mut model = open(&proto);
    remove(&mut model, &op("vendor::Tanh"), 0).unwrap();
    assert_eq!((model.opset("idle"), model.opset("vendor")), (Some(2), None));
}

#[test]
fn fold_stops_at_a_total_and_at_lengths_that_are_none() {
    let nodes = vec![
        node("Neg", "w", "a"),
        node("Abs", "w", "b"),
        node("Shape", "x", "s"),
        node("Sum", "a b x", "y"),
        node("Identity", "s", "z"),
    ];
    let mut whole = graph(
        nodes,
        vec![float("x", "-1 4")],
        vec![float("y", "n 4"), value("z", DataType::Int64, "2")],
        vec![row("w", &[1., 2., 3., 4.])],
    );
    whole.value_info = Vec::new();
    let proto = proto_of(whole, 17);
    let mut model = open(&proto);
    fold(&mut model, &FoldOptions::default()).unwrap();
    assert_eq!(ops(&model), ["Shape", "Sum", "Identity"]);
    // Room for one of the two constants.
    let mut model = open(&proto);
    let changes = fold(&mut model, &FoldOptions { max_total_bytes: 40, ..FoldOptions::default() }).unwrap();
    assert_eq!(ops(&model), ["Abs", "Shape", "Sum", "Identity"]);
    assert!(changes.notes.iter().any(|note| note.contains("more than 40 bytes together")), "{changes:?}");
}

#[test]
fn lists_and_summaries_tell_what_is_there() {
    let model = chain();
    let all = summary(&model);
    assert_eq!(
        (all.nodes, all.parameters.tensors, all.parameters.elements, all.parameters.bytes),
        (5, 2, 5, 20)
    );
    assert_eq!(all.opsets["ai.onnx"], 17);
    assert_eq!((all.inputs[0].name.as_str(), all.inputs[0].ty.as_str()), ("x", "float32[batch, 4]"));
    let lines = list(&model, &op("Add"));
    assert_eq!(lines.len(), 1);
    assert_eq!((lines[0].position, lines[0].types[0].as_str()), (2, "float32[batch, 4]"));
    let by_name =
        Selection { pattern: Some(regex::Regex::new("^(Relu|Neg):").unwrap()), ..Selection::default() };
    assert_eq!(list(&model, &by_name).len(), 2);
    let by_tensor = Selection { makes: names(&["b"]), ..Selection::default() };
    assert_eq!(list(&model, &by_tensor)[0].op, "Mul");
    assert_eq!(list(&model, &Selection::default()).len(), 5);
}

#[test]
fn nodes_of_one_name_or_none_are_told_apart() {
    let mut proto = decode(&chain());
    let graph = proto.graph.as_mut().unwrap();
    graph.node[0].name.clear();
    graph.node[1].name = "same".into();
    graph.node[2].name = "same".into();
    let mut model = open(&proto);
    let error = remove(&mut model, &named("same"), 0).unwrap_err().to_string();
    assert!(error.contains("2 nodes are called `same`") && error.contains("`b`"), "{error}");
    let one = Selection { names: names(&["same"]), makes: names(&["b"]), ..Selection::default() };
    remove(&mut model, &one, 0).unwrap();
    remove(&mut model, &named("Relu_0"), 0).unwrap();
    assert_eq!(ops(&model), ["Add", "Tanh", "Neg"]);
}

#[test]
fn a_tensor_made_twice_is_an_error_where_it_matters() {
    let mut proto = decode(&chain());
    proto.graph.as_mut().unwrap().node[1].output = vec!["a".into()];
    let mut model = open(&proto);
    assert_eq!(summary(&model).nodes, 5);
    let error = extract(&mut model, &[], &names(&["y"])).unwrap_err().to_string();
    assert!(error.contains("`a` is made twice, by node `Relu:a` and by node `Mul:b`"), "{error}");
    assert!(remove(&mut model, &op("Tanh"), 0).is_err());
    assert!(fold(&mut model, &FoldOptions::default()).is_err());
}

#[test]
fn a_model_too_large_to_write_copies_no_external_data() {
    let folder = tempfile::tempdir().unwrap();
    let mut proto = decode(&chain());
    let initializers = &mut proto.graph.as_mut().unwrap().initializer;
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let bytes = std::mem::take(&mut initializers[0].raw_data);
    initializers[0].external_data = vec![entry("location", "weights.bin")];
    initializers[0].data_location = 1;
    std::fs::write(folder.path().join("weights.bin"), &bytes).unwrap();
    let large = TensorData::from_vec(vec![4 << 20], vec![0f32; 4 << 20]).unwrap();
    initializers.push(constant("large", large));
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, prost::Message::encode_to_vec(&proto)).unwrap();

    let mut model = Model::open(&path).unwrap();
    // Clones share the mapped bytes, so that 2 GiB of them take no memory.
    let large = model.graph.initializer("large").unwrap().clone();
    model.graph.initializers.extend(std::iter::repeat_n(large, 128));
    let elsewhere = tempfile::tempdir().unwrap();
    let error = model.save(elsewhere.path().join("out.onnx")).unwrap_err().to_string();
    assert!(error.contains("2 GiB"), "{error}");
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn external_data_stay_external_and_go_along() {
    let folder = tempfile::tempdir().unwrap();
    let mut proto = decode(&chain());
    let graph = proto.graph.as_mut().unwrap();
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
    let weight = &mut graph.initializer[0];
    let bytes = std::mem::take(&mut weight.raw_data);
    weight.external_data =
        vec![entry("location", "weights.bin"), entry("offset", "4"), entry("length", "16")];
    weight.data_location = 1;
    assert_eq!(weight.data_type, DataType::Float as i32);
    std::fs::write(folder.path().join("weights.bin"), [&[9u8; 4][..], &bytes[..]].concat()).unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, prost::Message::encode_to_vec(&proto)).unwrap();

    let mut model = Model::open(&path).unwrap();
    assert_eq!(summary(&model).parameters.external, 1);
    rename_tensor(&mut model, Role::Tensor, "w", "weight").unwrap();
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    model.save(elsewhere.join("renamed.onnx")).unwrap();
    let again = Model::open(elsewhere.join("renamed.onnx")).unwrap();
    let weight = again.graph.initializer("weight").unwrap().proto();
    assert_eq!(weight.external_data.len(), 3);
    assert_eq!(again.externals().tensor(&weight).unwrap().to_f64(), [1., 2., 3., 4.]);
    // Another file of that name is not written over.
    std::fs::write(elsewhere.join("weights.bin"), "mine").unwrap();
    let error = model.save(elsewhere.join("again.onnx")).unwrap_err().to_string();
    assert!(error.contains("weights.bin") && error.contains("another file"), "{error}");
    assert!(!elsewhere.join("again.onnx").exists());
    // In its own folder, over itself: the data stay where they are.
    model.save(&path).unwrap();
    let again = Model::open(&path).unwrap();
    assert!(again.graph.initializer("weight").is_some());
}
