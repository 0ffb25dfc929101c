//! What the ONNX importer makes of names, types, odd forms and files that it must refuse.

use bertha_graph::interp::{Interpreter, Precision};
use bertha_graph::{Model, PoolKind, Pooling, Task, TensorData};
use bertha_import::ImportError;
use bertha_import::onnx::proto::*;
use bertha_import::onnx::{self, ImportOptions, tensor_proto};

/// `name` is `input_ids` or `input_ids:i32`; dimensions are numbers, names or nothing.
fn value(name: &str, data_type: DataType, dims: &[&str]) -> ValueInfoProto {
    let dim = dims.iter().map(|dim| Dimension {
        value: match (dim.parse(), dim.is_empty()) {
            (Ok(size), _) => Some(dimension::Value::DimValue(size)),
            (_, true) => None,
            (_, false) => Some(dimension::Value::DimParam((*dim).to_owned())),
        },
        ..Dimension::default()
    });
    let tensor = type_proto::Tensor {
        elem_type: data_type as i32,
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_owned(), r#type: Some(ty), ..ValueInfoProto::default() }
}

fn floats(name: &str) -> ValueInfoProto {
    value(name, DataType::Float, &["n"])
}

fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto {
        op_type: op_type.to_owned(),
        input: owned(inputs),
        output: owned(outputs),
        ..NodeProto::default()
    }
}

fn in_domain(mut node: NodeProto, domain: &str) -> NodeProto {
    node.domain = domain.to_owned();
    node
}

fn named(mut node: NodeProto, name: &str) -> NodeProto {
    node.name = name.to_owned();
    node
}

fn int(name: &str, i: i64) -> AttributeProto {
    let r#type = AttributeType::Int as i32;
    AttributeProto { name: name.to_owned(), r#type, i, ..AttributeProto::default() }
}

fn branch(name: &str, graph: GraphProto) -> AttributeProto {
    let r#type = AttributeType::Graph as i32;
    AttributeProto { name: name.to_owned(), r#type, g: Some(Box::new(graph)), ..AttributeProto::default() }
}

fn graph(nodes: Vec<NodeProto>, inputs: Vec<ValueInfoProto>, outputs: &[&str]) -> GraphProto {
    let output = outputs.iter().map(|name| ValueInfoProto { name: (*name).to_owned(), ..Default::default() });
    GraphProto { node: nodes, input: inputs, output: output.collect(), ..GraphProto::default() }
}

fn model(graph: GraphProto) -> ModelProto {
    with_opset(graph, 17)
}

fn with_opset(graph: GraphProto, version: i64) -> ModelProto {
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn import(model: &ModelProto) -> Result<Model, ImportError> {
    onnx::import_model(model, "model.onnx", &ImportOptions { companions: false, ..Default::default() })
}

fn refused(model: &ModelProto) -> String {
    import(model).expect_err("the model must be refused").to_string()
}

fn run(model: &Model, inputs: &[(&str, TensorData)]) -> Vec<(String, Vec<f64>)> {
    let outputs = Interpreter::new(&model.graph, Precision::Native).run(inputs).expect("the model runs");
    outputs.into_iter().map(|(name, data)| (name, data.to_f64())).collect()
}

/// `input_ids + 10 * attention_mask + 100 * token_type_ids`, with the inputs declared in a given order.
fn weighted_inputs(order: [&str; 3]) -> ModelProto {
    let nodes = vec![
        node("Mul", &["attention_mask", "ten"], &["mask"]),
        node("Mul", &["token_type_ids", "hundred"], &["types"]),
        node("Add", &["input_ids", "mask"], &["sum"]),
        node("Add", &["sum", "types"], &["y"]),
    ];
    let inputs = order.map(|name| value(name, DataType::Int64, &["batch", "seq"])).to_vec();
    let mut graph = graph(nodes, inputs, &["y"]);
    graph.initializer.push(tensor_proto("ten", &TensorData::scalar(10i64)));
    graph.initializer.push(tensor_proto("hundred", &TensorData::scalar(100i64)));
    model(graph)
}

#[test]
fn inputs_go_by_name_whatever_their_order_in_the_file() {
    let matrix = |values: [i64; 2]| TensorData::from_vec(vec![1, 2], values.to_vec()).unwrap();
    let given = [
        ("token_type_ids", matrix([0, 1])),
        ("input_ids", matrix([7, 8])),
        ("attention_mask", matrix([1, 0])),
    ];
    let orders = [
        ["input_ids", "attention_mask", "token_type_ids"],
        ["input_ids", "token_type_ids", "attention_mask"],
        ["attention_mask", "token_type_ids", "input_ids"],
    ];
    for order in orders {
        let imported = import(&weighted_inputs(order)).unwrap();
        assert_eq!(run(&imported, &given), [("y".to_owned(), vec![17.0, 108.0])], "{order:?}");
        assert!(imported.info.token_types);
    }
}

#[test]
fn inputs_of_another_type_or_name_are_refused() {
    let imported = import(&weighted_inputs(["input_ids", "attention_mask", "token_type_ids"])).unwrap();
    let interpreter = Interpreter::new(&imported.graph, Precision::Native);
    let long = |values: [i64; 2]| TensorData::from_vec(vec![1, 2], values.to_vec()).unwrap();
    let short = TensorData::from_vec(vec![1, 2], vec![0i32, 1]).unwrap();
    let rest = [("input_ids", long([7, 8])), ("attention_mask", long([1, 1]))];
    for wrong in [("token_type_ids", short), ("segment_ids", long([0, 1]))] {
        let mut given = rest.to_vec();
        given.push(wrong.clone());
        let error = interpreter.run(&given).unwrap_err().to_string();
        assert!(error.contains(wrong.0), "{error}");
    }
}

#[test]
fn dimensions_become_symbols() {
    let inputs = vec![
        value("a", DataType::Float, &["batch size", "", "4"]),
        value("b", DataType::Float, &["batch size", "", "-1"]),
        value("c", DataType::Float, &["2*seq", "a_1"]),
    ];
    let nodes = ["a", "b", "c"].map(|name| node("Neg", &[name], &[&format!("-{name}")])).to_vec();
    let imported = import(&model(graph(nodes, inputs, &["-a"]))).unwrap();
    let shape = |name: &str| {
        let id = imported.graph.find(name).unwrap();
        imported.graph.tensor(id).ty.shape.to_string()
    };
    assert_eq!(shape("a"), "[batch_size, a_1_2, 4]"); // `a_1` is a name of the file
    assert_eq!(shape("b"), "[batch_size, b_1, b_2]");
    assert_eq!(shape("c"), "[_2_seq, a_1]");
}

#[test]
fn nodes_keep_their_names_and_say_where_they_come_from() {
    let nodes = vec![
        named(node("Neg", &["x"], &["a"]), "first"),
        node("Abs", &["a"], &["b"]),
        node("Max", &["a", "b", "x"], &["y"]),
    ];
    let imported = import(&model(graph(nodes, vec![floats("x")], &["y"]))).unwrap();
    let names: Vec<_> = imported.graph.nodes().iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["first", "Abs_1", "Max_2/max_1", "Max_2"]);
    let sources: Vec<_> = imported.graph.nodes().iter().map(|node| node.sources.join(",")).collect();
    assert_eq!(sources, ["first", "Abs_1", "Max_2", "Max_2"]);
    assert_eq!(imported.graph.outputs()[0].0, "y");
}

#[test]
fn all_unsupported_nodes_are_listed_in_one_error() {
    let inner = graph(vec![named(node("NonZero", &["x"], &["z"]), "inside")], vec![], &["z"]);
    let mut choose = named(node("If", &["c"], &["w"]), "choose");
    choose.attribute = vec![branch("then_branch", inner.clone()), branch("else_branch", inner)];
    let nodes = vec![
        node("LSTM", &["x"], &["a"]),
        named(in_domain(node("GroupQueryAttention", &["a", "a"], &["b"]), "com.microsoft"), "fused"),
        node("Neg", &["b"], &["y"]),
        choose,
        in_domain(node("Own", &["y"], &["v"]), "own"),
        named(node("Attention", &["y", "y", "y"], &["u"]), "too_new"),
    ];
    let mut model = model(graph(nodes, vec![floats("x"), value("c", DataType::Bool, &[])], &["y"]));
    model.functions = vec![FunctionProto {
        name: "Own".into(),
        domain: "own".into(),
        input: vec!["p".into()],
        output: vec!["q".into()],
        node: vec![node("GRU", &["p", "p"], &["q"])],
        ..FunctionProto::default()
    }];
    let Err(ImportError::UnsupportedNodes { nodes, .. }) = import(&model) else {
        panic!("the nodes must be refused");
    };
    let found: Vec<_> = nodes.iter().map(|node| (node.name.as_str(), node.op_type.as_str())).collect();
    let expected = [
        ("LSTM_0", "LSTM"),
        ("fused", "GroupQueryAttention"),
        ("choose/inside", "NonZero"),
        ("choose/inside", "NonZero"),
        ("Own_4/GRU_0", "GRU"),
        ("too_new", "Attention"),
    ];
    assert_eq!(found, expected);
    assert_eq!(nodes[1].domain, "com.microsoft");
    let message = refused(&model);
    assert!(expected.iter().all(|(name, _)| message.contains(name)), "{message}");
    assert!(message.contains("17") && message.contains("23"), "{message}");
}

#[test]
fn operator_sets_out_of_range_are_named() {
    let graph = || graph(vec![node("Add", &["x", "x"], &["y"])], vec![floats("x")], &["y"]);
    for version in [6, 29, 1000] {
        let message = refused(&with_opset(graph(), version));
        assert!(message.contains(&format!("operator set {version}")), "{message}");
    }
    for version in [7, 11, 23, 28] {
        assert!(import(&with_opset(graph(), version)).is_ok(), "{version}");
    }
    let mut without = model(graph());
    without.opset_import.clear();
    assert!(refused(&without).contains("does not say which version"));
    let mut long_name = model(graph());
    long_name.opset_import[0].domain = "ai.onnx".into();
    assert!(import(&long_name).is_ok());
}

#[test]
fn types_without_support_are_named() {
    let weight = TensorProto {
        name: "w".into(),
        dims: vec![2],
        data_type: DataType::Float8e4m3fn as i32,
        raw_data: vec![0u8, 1].into(),
        ..TensorProto::default()
    };
    let with_weight = |used: &str| {
        let mut graph = graph(vec![node("Add", &["x", used], &["y"])], vec![floats("x")], &["y"]);
        graph.initializer.push(weight.clone());
        model(graph)
    };
    let message = refused(&with_weight("w"));
    assert!(message.contains("`w`") && message.contains("FLOAT8E4M3FN"), "{message}");
    assert!(import(&with_weight("x")).is_ok(), "what is not used does not matter");

    let text = value("text", DataType::String, &["n"]);
    let message = refused(&model(graph(vec![node("Identity", &["text"], &["y"])], vec![text], &["y"])));
    assert!(message.contains("`text`") && message.contains("STRING"), "{message}");

    let list = type_proto::Value::SequenceType(Box::new(type_proto::Sequence { elem_type: None }));
    let mut input = floats("list");
    input.r#type = Some(TypeProto { value: Some(list), ..TypeProto::default() });
    let message = refused(&model(graph(vec![node("Identity", &["list"], &["y"])], vec![input], &["y"])));
    assert!(message.contains("`list`") && message.contains("not a tensor"), "{message}");

    let mut cast = named(node("Cast", &["x"], &["y"]), "to_int4");
    cast.attribute = vec![int("to", DataType::Int4 as i64)];
    let message = refused(&model(graph(vec![cast], vec![floats("x")], &["y"])));
    assert!(message.contains("`to_int4`") && message.contains("INT4"), "{message}");
}

#[test]
fn graphs_that_do_not_hold_together_are_refused() {
    let refused_with = |nodes: Vec<NodeProto>, outputs: &[&str], expected: &[&str]| {
        let message = refused(&model(graph(nodes, vec![floats("x")], outputs)));
        assert!(expected.iter().all(|part| message.contains(part)), "{message} lacks {expected:?}");
    };
    let neg = |input: &str, output: &str| node("Neg", &[input], &[output]);
    refused_with(vec![neg("nothing", "y")], &["y"], &["Neg_0", "`nothing`"]);
    refused_with(vec![neg("b", "a"), neg("x", "b")], &["a"], &["Neg_0", "`b`"]);
    refused_with(vec![neg("x", "y"), neg("x", "y")], &["y"], &["Neg_1", "`y`", "already"]);
    refused_with(vec![neg("x", "x")], &["x"], &["`x`", "already"]);
    refused_with(vec![neg("x", "y")], &["z"], &["`z`"]);
    refused_with(vec![node("Neg", &["x", "x"], &["y"])], &["y"], &["Neg_0", "2 inputs"]);
    refused_with(vec![node("Neg", &[], &["y"])], &["y"], &["Neg_0", "0 inputs"]);
    refused_with(vec![node("Neg", &["x"], &["y", "z"])], &["y"], &["Neg_0", "2 outputs"]);
    refused_with(vec![node("Add", &["x", ""], &["y"])], &["y"], &["Add_0", "input 1"]);
    let mut odd = neg("x", "y");
    odd.attribute = vec![int("axis", 1)];
    refused_with(vec![odd], &["y"], &["Neg_0", "`axis`"]);
    let mut wrong_type = node("Concat", &["x", "x"], &["y"]);
    wrong_type.attribute = vec![AttributeProto { r#type: AttributeType::Float as i32, ..int("axis", 0) }];
    refused_with(vec![wrong_type], &["y"], &["Concat_0", "`axis`", "integer"]);
    refused_with(vec![node("Constant", &[], &["y"])], &["y"], &["Constant_0", "one"]);
}

/// `n` functions, each of which calls the one before it twice: 2^n nodes.
fn doubling_functions(n: usize) -> ModelProto {
    let call = |level: usize, input: &str, output: &str| {
        let name = format!("F{level}");
        in_domain(
            node(if level == 0 { "Neg" } else { &name }, &[input], &[output]),
            if level == 0 { "" } else { "own" },
        )
    };
    let function = |level: usize| FunctionProto {
        name: format!("F{level}"),
        domain: "own".into(),
        input: vec!["p".into()],
        output: vec!["q".into()],
        node: vec![call(level - 1, "p", "m"), call(level - 1, "m", "q")],
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        ..FunctionProto::default()
    };
    let mut model = model(graph(vec![call(n, "x", "y")], vec![floats("x")], &["y"]));
    model.functions = (1..=n).map(function).collect();
    model
}

#[test]
fn functions_are_written_out_within_limits() {
    let imported = import(&doubling_functions(4)).unwrap();
    assert_eq!(imported.graph.nodes().len(), 16);
    let x = TensorData::vector(vec![1f32, -2.0]);
    assert_eq!(run(&imported, &[("x", x)]), [("y".to_owned(), vec![1.0, -2.0])]);
    assert!(refused(&doubling_functions(40)).contains("deep"));

    let mut endless = doubling_functions(1);
    endless.functions[0].node = vec![in_domain(node("F1", &["p"], &["q"]), "own")];
    assert!(refused(&endless).contains("deep"));
}

#[test]
fn branches_take_what_they_use_as_inputs() {
    let then_branch = graph(vec![node("Add", &["h", "w"], &["a"])], vec![], &["a"]);
    let else_branch = graph(vec![node("Sub", &["x", "h"], &["b"])], vec![], &["b"]);
    let mut choose = named(node("If", &["c"], &["y"]), "choose");
    choose.attribute = vec![branch("then_branch", then_branch), branch("else_branch", else_branch)];
    let inputs = vec![value("c", DataType::Bool, &[]), floats("x")];
    let mut graph = graph(vec![node("Neg", &["x"], &["h"]), choose], inputs, &["y"]);
    graph.initializer.push(tensor_proto("w", &TensorData::vector(vec![10f32])));
    let imported = import(&model(graph)).unwrap();
    let node = imported.graph.node(imported.graph.find_node("choose").unwrap());
    let captured: Vec<_> =
        node.inputs.iter().map(|id| imported.graph.tensor(id.unwrap()).name.as_str()).collect();
    assert_eq!(captured, ["c", "h", "x"]); // the weight is part of the branch
    for (condition, expected) in [(true, [9.0, 8.0]), (false, [2.0, 4.0])] {
        let condition = TensorData::from_bools(vec![], &[condition]).unwrap();
        let x = TensorData::vector(vec![1f32, 2.0]);
        assert_eq!(run(&imported, &[("c", condition), ("x", x)])[0].1, expected);
    }
}

#[test]
fn the_task_shows_in_names_and_shapes() {
    let with_outputs = |outputs: &[(&str, &[&str])]| {
        let nodes = outputs.iter().map(|(name, _)| node("Neg", &[&format!("{name}_in")], &[name]));
        let inputs = outputs.iter().map(|(name, dims)| value(&format!("{name}_in"), DataType::Float, dims));
        let names: Vec<_> = outputs.iter().map(|(name, _)| *name).collect();
        import(&model(graph(nodes.collect(), inputs.collect(), &names))).unwrap().info
    };
    let task = |outputs: &[(&str, &[&str])]| with_outputs(outputs).task;
    assert_eq!(task(&[("logits", &["b", "3"])]), Task::SequenceClassification);
    assert_eq!(task(&[("logits", &["b", "s", "9"])]), Task::TokenClassification);
    assert_eq!(task(&[("start_logits", &["b", "s"]), ("end_logits", &["b", "s"])]), Task::QuestionAnswering);
    let info = with_outputs(&[("last_hidden_state", &["b", "s", "32"]), ("pooler_output", &["b", "32"])]);
    assert_eq!((info.task, info.hidden), (Task::Encoder, Some(32)));
    let options = ImportOptions { task: Some(Task::MaskedLm), companions: false, ..ImportOptions::default() };
    let model = model(graph(vec![node("Neg", &["x"], &["y"])], vec![floats("x")], &["y"]));
    let told = onnx::import_model(&model, "model.onnx", &options).unwrap();
    assert_eq!(told.info.task, Task::MaskedLm);
}

/// A model in the folder `onnx` of a checkpoint, with `outputs` and the checkpoint's files.
fn beside_files(outputs: &[(&str, &[&str])], files: &[(&str, &str)]) -> bertha_graph::ModelInfo {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let nodes = outputs.iter().map(|(name, _)| node("Neg", &[&format!("{name}_in")], &[name])).collect();
    let inputs = outputs.iter().map(|(name, dims)| value(&format!("{name}_in"), DataType::Float, dims));
    let names: Vec<_> = outputs.iter().map(|(name, _)| *name).collect();
    let path = folder.path().join("onnx/model.onnx");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let model = model(graph(nodes, inputs.collect(), &names));
    let none = onnx::ExternalFiles::none(&path);
    onnx::write_onnx(&model, &none, &path, onnx::ExternalData::WhenNeeded).unwrap();
    let imported = onnx::import(&path, &ImportOptions::default()).unwrap();
    let has_tokenizer = files.iter().any(|(name, _)| *name == "tokenizer.json");
    assert_eq!(imported.tokenizer.is_some(), has_tokenizer);
    imported.info
}

#[test]
fn files_of_the_checkpoint_around_describe_the_model() {
    let classes = r#"{"model_type": "roberta", "architectures": ["RobertaForSequenceClassification"], "hidden_size": 16,
        "max_position_embeddings": 26, "pad_token_id": 1, "id2label": {"0": "no", "1": "yes"},
        "problem_type": "multi_label_classification"}"#;
    let info =
        beside_files(&[("logits", &["b", "2"])], &[("config.json", classes), ("tokenizer.json", "{}")]);
    assert_eq!((info.task, info.hidden, info.max_tokens), (Task::SequenceClassification, Some(16), Some(24)));
    assert_eq!((info.labels, info.multi_label), (vec!["no".to_owned(), "yes".to_owned()], true));

    // Names for another number of classes are not those of this output.
    let info = beside_files(&[("logits", &["b", "3"])], &[("config.json", classes)]);
    assert_eq!(info.labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);

    let masked = r#"{"model_type": "bert", "architectures": ["BertForMaskedLM"]}"#;
    let modules = r#"[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#;
    let pooling = r#"{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}"#;
    let files = [
        ("config.json", masked),
        ("modules.json", modules),
        ("1_Pooling/config.json", pooling),
        ("tokenizer.json", "{}"),
    ];
    let info = beside_files(&[("last_hidden_state", &["b", "s", "8"])], &files);
    assert_eq!(info.task, Task::Encoder, "the output says more than the configuration");
    let pooling = Pooling { kind: PoolKind::Mean, normalize: true };
    assert_eq!((info.pooling, info.hidden), (Some(pooling), Some(8)));
    let info = beside_files(&[("logits", &["b", "s", "8"])], &files);
    assert_eq!(info.task, Task::MaskedLm);
}

#[test]
fn settings_that_cannot_be_followed_do_not_keep_the_graph_from_running() {
    let modules = r#"[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_CNN", "type": "sentence_transformers.models.CNN"}]"#;
    let info = beside_files(&[("last_hidden_state", &["b", "s", "8"])], &[("modules.json", modules)]);
    assert!(info.pooling.is_none());
    assert!(info.source.contains("no pooling") && info.source.contains("CNN"), "{}", info.source);
    assert!(info.source.contains("no tokenizer"), "{}", info.source);
}

/// A file with one node of ONNX Runtime's own; constants are zeros of these shapes.
fn contrib(
    op_type: &str,
    inputs: &[&str],
    attributes: Vec<AttributeProto>,
    constants: &[(&str, &[usize])],
) -> ModelProto {
    let mut only = in_domain(node(op_type, inputs, &["y"]), "com.microsoft");
    only.attribute = attributes;
    let values = vec![
        value("x", DataType::Float, &["batch", "seq", "6"]),
        value("lengths", DataType::Int32, &["other"]),
        value("mask", DataType::Int32, &["batch", "1", "seq", "seq"]),
    ];
    let mut graph = graph(vec![only], values, &["y"]);
    for (name, shape) in constants {
        let zeros = vec![0f32; shape.iter().product()];
        let data = TensorData::from_vec(shape.to_vec(), zeros).unwrap();
        graph.initializer.push(tensor_proto(*name, &data));
    }
    let mut model = model(graph);
    model.opset_import.push(OperatorSetIdProto { domain: "com.microsoft".into(), version: 1 });
    model
}

#[test]
fn forms_of_onnx_runtimes_ops_that_are_not_supported_say_so() {
    let weight: &[(&str, &[usize])] = &[("w", &[6, 18]), ("b", &[18]), ("p", &[2, 1, 2, 3, 3])];
    let heads = || vec![int("num_heads", 2)];
    let with = |name, value| [heads(), vec![int(name, value)]].concat();
    let attention = |inputs: &[&str], attributes| refused(&contrib("Attention", inputs, attributes, weight));
    assert!(import(&contrib("Attention", &["x", "w", "b"], heads(), weight)).is_ok());
    for (message, expected) in [
        (attention(&["x", "w", "b"], vec![]), "`num_heads` is missing"),
        (attention(&["x", "w", "b", "", "p"], heads()), "`past` is for decoders"),
        (attention(&["x", "w", "b"], with("do_rotary", 1)), "`do_rotary` is for decoders"),
        (attention(&["x", "w", "b"], with("surprise", 1)), "`surprise` is not one of this op's attributes"),
        (attention(&["x", "w", "b", "mask"], heads()), "masks of one to three dimensions"),
        (attention(&["x", "w", "b", "lengths"], heads()), "other elements for a batch of batch"),
        (attention(&["x", "x", "b"], heads()), "expected a matrix [in, out]"),
        (refused(&contrib("MultiHeadAttention", &["p"], heads(), weight)), "expected 3, 3 and 3"),
        (refused(&contrib("MatMulNBits", &["x", "w", "b"], vec![int("K", 6)], weight)), "`N` is missing"),
        (
            refused(&contrib("GroupQueryAttention", &["x"], heads(), weight)),
            "ONNX Runtime's ops for encoders",
        ),
    ] {
        assert!(message.contains(expected), "{message}");
    }
    let four_bits =
        [("N", 3), ("K", 6), ("block_size", 16), ("bits", 4)].map(|(name, value)| int(name, value));
    let of_floats = refused(&contrib("MatMulNBits", &["x", "w", "b"], four_bits.to_vec(), weight));
    assert!(of_floats.contains("3 blocks of 8 bytes"), "{of_floats}");
    let run_time = refused(&contrib("MatMulNBits", &["x", "x", "b"], four_bits.to_vec(), weight));
    assert!(run_time.contains("`B` must be a constant"), "{run_time}");
}

#[test]
fn blocks_of_bits_that_no_machine_can_hold_are_refused() {
    let huge =
        [("N", 3), ("K", 6), ("block_size", 1 << 62), ("bits", 8)].map(|(name, value)| int(name, value));
    let weight: &[(&str, &[usize])] = &[("w", &[6, 18]), ("b", &[18])];
    let message = refused(&contrib("MatMulNBits", &["x", "w", "b"], huge.to_vec(), weight));
    assert!(message.contains("`block_size` is 4611686018427387904"), "{message}");
}

#[test]
fn onnx_runtimes_quantizer_has_an_axis_in_every_operator_set() {
    // One scale per row, which the axis alone can say: the default operator set has no axis before version 13.
    let mut only = in_domain(node("DequantizeLinear", &["w", "scale"], &["y"]), "com.microsoft");
    only.attribute = vec![int("axis", 0)];
    let mut whole = graph(vec![node("Identity", &["x"], &["z"]), only], vec![floats("x")], &["y", "z"]);
    let w = TensorData::from_vec(vec![2, 3], vec![1i8, 2, 3, 4, 5, 6]).unwrap();
    whole.initializer =
        vec![tensor_proto("w", &w), tensor_proto("scale", &TensorData::vector(vec![2f32, 10.]))];
    let mut model = with_opset(whole, 11);
    model.opset_import.push(OperatorSetIdProto { domain: "com.microsoft".into(), version: 1 });
    let results = run(&import(&model).unwrap(), &[("x", TensorData::vector(vec![0f32]))]);
    assert_eq!(results[0].1, [2., 4., 6., 40., 50., 60.]);
    // ONNX's own has none there.
    model.graph.as_mut().unwrap().node[1].domain.clear();
    assert!(import(&model).is_err());
}
