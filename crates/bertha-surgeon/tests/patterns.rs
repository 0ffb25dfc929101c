//! What patterns find, what they leave, what they say when they nearly match, and how mistakes are reported.

mod support;

use bertha_graph::TensorData;
use bertha_import::onnx::proto::{DataType, FunctionProto, GraphProto, ModelProto, OperatorSetIdProto};
use bertha_surgeon::{Model, Report, find_pattern, parse_patterns, rewrite};
use support::*;

/// How the parts of a layer norm may be written.
#[derive(Clone, Copy)]
struct Form {
    opset: i64,
    /// `d * d` instead of `d ^ 2`.
    product: bool,
    /// Operands of Add and Mul exchanged.
    swapped: bool,
    /// `d * (1 / root)` instead of `d / root`.
    reciprocal: bool,
    /// Gamma behind an Identity, as exporters share weights.
    shared_weights: bool,
    /// The axis counted from the front.
    positive_axis: bool,
}

const PLAIN: Form = Form {
    opset: 17,
    product: false,
    swapped: false,
    reciprocal: false,
    shared_weights: false,
    positive_axis: false,
};

/// The parts of `layer_norm(x) -> y`, with names that begin with `prefix`.
fn parts(form: Form, prefix: &str, x: &str, y: &str) -> GraphProto {
    let t = |name: &str| format!("{prefix}{name}");
    let (mean, d, sq, var, eps, root) = (t("mean"), t("d"), t("sq"), t("var"), t("vareps"), t("root"));
    let (unit, scaled) = (t("unit"), t("scaled"));
    let axis = if form.positive_axis { 2 } else { -1 };
    let mut initializers =
        vec![row(&t("gamma"), &noise(6, 7)), row(&t("beta"), &noise(6, 8)), scalar(&t("eps"), 1e-5)];
    if !form.product {
        initializers.push(scalar(&t("two"), 2.0));
    }
    let mut reduce = |input: &str, output: &str| {
        if form.opset >= 18 {
            let axes = format!("{output}_axes");
            initializers.push(constant(&axes, TensorData::vector(vec![axis])));
            node("ReduceMean", &format!("{input} {axes}"), output)
        } else {
            with(node("ReduceMean", input, output), vec![ints("axes", &[axis])])
        }
    };
    let pair = |a: &str, b: &str| if form.swapped { format!("{b} {a}") } else { format!("{a} {b}") };
    let mut nodes = vec![reduce(x, &mean), node("Sub", &format!("{x} {mean}"), &d)];
    nodes.push(match form.product {
        true => node("Mul", &format!("{d} {d}"), &sq),
        false => node("Pow", &format!("{d} {prefix}two"), &sq),
    });
    nodes.push(reduce(&sq, &var));
    nodes.push(node("Add", &pair(&var, &t("eps")), &eps));
    nodes.push(node("Sqrt", &eps, &root));
    if form.reciprocal {
        nodes.push(node("Reciprocal", &root, &t("inverse")));
        nodes.push(node("Mul", &pair(&d, &t("inverse")), &unit));
    } else {
        nodes.push(node("Div", &format!("{d} {root}"), &unit));
    }
    let mut gamma = t("gamma");
    if form.shared_weights {
        nodes.insert(0, node("Identity", &gamma, &t("gamma2")));
        gamma = t("gamma2");
    }
    nodes.push(node("Mul", &pair(&unit, &gamma), &scaled));
    nodes.push(node("Add", &pair(&scaled, &t("beta")), y));
    graph(nodes, Vec::new(), Vec::new(), initializers)
}

/// Two layer norms with a Relu between them.
fn two_norms(form: Form) -> ModelProto {
    let mut whole = parts(form, "p.", "x", "h");
    let second = parts(form, "q.", "r", "y");
    whole.node.push(node("Relu", "h", "r"));
    whole.node.extend(second.node);
    whole.initializer.extend(second.initializer);
    whole.input = vec![float("x", "batch seq 6")];
    whole.output = vec![float("y", "batch seq 6")];
    proto_of(whole, form.opset)
}

fn standard() -> bertha_surgeon::Pattern {
    pattern_file("layer-norm-standard.pattern").remove(0)
}

#[test]
fn every_form_of_a_layer_norm_is_found_and_runs_the_same() {
    let forms = [
        PLAIN,
        Form { opset: 18, ..PLAIN },
        Form { product: true, ..PLAIN },
        Form { swapped: true, ..PLAIN },
        Form { reciprocal: true, swapped: true, ..PLAIN },
        Form { shared_weights: true, opset: 18, ..PLAIN },
        Form { positive_axis: true, ..PLAIN },
        Form { positive_axis: true, opset: 18, product: true, ..PLAIN },
    ];
    for (at, form) in forms.into_iter().enumerate() {
        let mut model = open(&two_norms(form));
        let inputs = vec![("x".to_owned(), tensor(&[2, 3, 6], 5))];
        let before = run(&model, &inputs);
        let report = rewrite(&mut model, &standard()).unwrap();
        assert_eq!(report.matches.len(), 2, "form {at}: {report:?}");
        let norms = ops(&model).iter().filter(|op| *op == "LayerNormalization").count();
        assert_eq!(norms, 2);
        assert_eq!(model.graph.nodes.len(), if form.shared_weights { 5 } else { 3 });
        // What only the parts read is gone; gamma and beta are left.
        assert_eq!(model.graph.initializers.len(), 4, "form {at}");
        assert_same(&run(&model, &inputs), &before, 1e-6);
        for_onnxruntime(&format!("layer_norm_{at}"), &model, &inputs, &before);
        // There is nothing left to find.
        assert!(find_pattern(&model, &standard()).unwrap().matches.is_empty());
    }
}

#[test]
fn a_new_node_has_the_name_the_attributes_and_the_domain_that_the_pattern_says() {
    let mut model = open(&two_norms(PLAIN));
    let report = rewrite(&mut model, &pattern_file("layer-norm.pattern")[0]).unwrap();
    let node = &model.graph.nodes[0];
    assert_eq!((node.op().as_str(), node.name.as_str()), ("bertha.plugins::LayerNorm", "Add:h"));
    assert_eq!(node.inputs, ["x", "p.gamma", "p.beta"]);
    assert_eq!(node.outputs, ["h"]);
    assert!((node.attribute("epsilon").unwrap().value().f - 1e-5).abs() < 1e-10);
    assert_eq!(model.opset("bertha.plugins"), Some(1));
    let found = &report.matches[0];
    assert_eq!(found.tensors["epsilon"], "p.eps");
    assert_eq!((found.nodes.len(), found.removed.len()), (9, 9));
    assert_eq!(found.added, ["Add:h: bertha.plugins::LayerNorm"]);
}

/// The only near miss.
#[track_caller]
fn miss(model: &Model, pattern: &bertha_surgeon::Pattern) -> (String, String) {
    let report = find_pattern(model, pattern).unwrap();
    let misses: Vec<_> = report.near_misses.iter().filter(|miss| miss.root == "Add:h").collect();
    assert_eq!(misses.len(), 1, "{report:?}");
    (misses[0].node.clone(), misses[0].why.clone())
}

#[test]
fn near_misses_say_which_node_and_which_condition() {
    let change = |change: &dyn Fn(&mut GraphProto)| {
        let mut proto = two_norms(PLAIN);
        change(proto.graph.as_mut().unwrap());
        open(&proto)
    };
    let initializer = |graph: &mut GraphProto, name: &str, to: bertha_import::onnx::proto::TensorProto| {
        *graph.initializer.iter_mut().find(|tensor| tensor.name == name).unwrap() = to;
    };
    // A cube instead of a square.
    let cube = change(&|graph| initializer(graph, "p.two", scalar("p.two", 3.0)));
    let (node, why) = miss(&cube, &standard());
    assert!(node == "p.two" && why.contains("`p.two` is 3; 2 was expected"), "{node}: {why}");
    // The mean over another dimension.
    let axis = change(&|graph| graph.node[0].attribute = vec![ints("axes", &[1])]);
    let (node, why) = miss(&axis, &standard());
    assert_eq!((node.as_str(), why.as_str()), ("ReduceMean:p.mean", "its axes is [1]; [-1] was expected"));
    // A tensor in between that is an output too.
    let output = change(&|graph| graph.output.push(float("p.root", "batch seq 1")));
    let (node, why) = miss(&output, &standard());
    assert_eq!(node, "Sqrt:p.root");
    assert_eq!(why, "its result `p.root` is also needed by the output of the graph");
    // Another reader of the deviation.
    let reader = change(&|graph| {
        graph.node.push(support::node("Neg", "p.d", "n"));
        graph.output.push(float("n", "batch seq 6"));
    });
    let (node, why) = miss(&reader, &standard());
    assert_eq!(
        (node.as_str(), why.as_str()),
        ("Sub:p.d", "its result `p.d` is also needed by node `Neg:n` (Neg)")
    );
    // Two deviations.
    let other = change(&|graph| {
        graph.node.insert(2, support::node("Sub", "p.mean x", "e"));
        graph.node[3].input[0] = "e".into();
    });
    let (_, why) = miss(&other, &standard());
    assert!(why.contains("`deviation` would be both `p.d` and `e`"), "{why}");
    // A condition.
    let wide = change(&|graph| {
        initializer(
            graph,
            "p.gamma",
            constant("p.gamma", TensorData::from_vec(vec![1, 6], noise(6, 1)).unwrap()),
        );
    });
    let (_, why) = miss(&wide, &standard());
    assert!(why.contains("`gamma: constant, rank 1` does not hold: `p.gamma` has 2 dimensions"), "{why}");
    // In each case the other layer norm is still found.
    for model in [cube, axis, output, reader, other, wide] {
        assert_eq!(find_pattern(&model, &standard()).unwrap().matches.len(), 1);
    }
}

#[test]
fn a_tensor_that_may_be_shared_stays_with_what_it_needs() {
    let mut proto = two_norms(PLAIN);
    let graph = proto.graph.as_mut().unwrap();
    graph.node.push(node("Neg", "p.d", "n"));
    graph.output.push(float("n", "batch seq 6"));
    let text = std::fs::read_to_string(repository("patterns/layer-norm-standard.pattern")).unwrap();
    let text = text.replace("where", "where\n  mean: shared; deviation: shared");
    let mut model = open(&proto);
    let inputs = vec![("x".to_owned(), tensor(&[2, 3, 6], 5))];
    let before = run(&model, &inputs);
    let report = rewrite(&mut model, &pattern(&text)).unwrap();
    assert_eq!(report.matches.len(), 2);
    assert_eq!(report.matches[0].removed.len(), 7);
    assert_eq!(ops(&model), ["ReduceMean", "Sub", "LayerNormalization", "Relu", "LayerNormalization", "Neg"]);
    assert_same(&run(&model, &inputs), &before, 1e-6);
    for_onnxruntime("shared", &model, &inputs, &before);
}

#[test]
fn exported_files_lose_their_parts_and_run_the_same() {
    let mut norms = 0;
    let files = exported_files();
    for path in &files {
        let name = path.file_stem().unwrap().display().to_string();
        let mut model = Model::open(path).unwrap();
        let count = |report: &Report| report.matches.len();
        let original = Model::open(path).unwrap();
        let inputs = token_inputs(&original);
        // Each Erf belongs to one GELU.
        let erfs = ops(&model).iter().filter(|op| *op == "Erf").count();
        let gelus = pattern_file("gelu.pattern");
        let gelus: usize = gelus.iter().map(|pattern| count(&rewrite(&mut model, pattern).unwrap())).sum();
        assert_eq!(gelus, erfs, "{name}");
        let before = run(&original, &inputs);
        assert_same(&run(&model, &inputs), &before, 1e-6);
        if name.starts_with("distilbert") || name.starts_with("bert_eager") {
            for_onnxruntime(&format!("{name}_gelu"), &model, &inputs, &before);
        }
        for pattern in pattern_file("layer-norm.pattern") {
            norms += count(&rewrite(&mut model, &pattern).unwrap());
        }
        let again = Model::from_bytes("again.onnx", model.to_bytes()).unwrap();
        assert_eq!(again.to_bytes(), model.to_bytes());
    }
    // The legacy exporter writes layer norms in parts up to opset 14, six and more in each file but ModernBERT's, whose have
    // no shift.
    assert!(files.is_empty() || norms >= 60, "{norms}");
}

/// `y = relu(x)` under conditions that change.
fn relu_model() -> Model {
    let nodes = vec![
        node("Cast", "x", "c"),
        node("Relu", "c", "r"),
        node("Split", "r", "s t"),
        with(node("Softmax", "s", "u"), vec![int("axis", 1)]),
        node("Add", "u t", "y"),
    ];
    let nodes = nodes.into_iter().map(|node| match node.op_type.as_str() {
        "Cast" => with(node, vec![int("to", 1)]),
        _ => node,
    });
    model_of(graph(nodes.collect(), vec![float("x", "n 4")], vec![float("y", "n 2")], Vec::new()), 17)
}

#[track_caller]
fn matches(model: &Model, text: &str) -> usize {
    find_pattern(model, &pattern(text)).unwrap().matches.len()
}

#[test]
fn the_language_finds_what_it_says() {
    let model = relu_model();
    for (text, count) in [
        ("y = Relu(x)", 1),
        ("y = Relu(Cast?(x))", 1),
        ("y = Relu(Neg?(x))", 1),
        ("y = Relu(Neg(x))", 0),
        ("y = Relu(_)", 1),
        ("y = _(x)", 3), // of one operand: Cast, Relu, Split by its first output, Softmax; matches do not share nodes
        ("y = Add(a, Softmax(b))", 1),
        ("y = Add(Softmax(b), a)", 1),
        ("y = Softmax(x, axis=1)", 1),
        ("y = Softmax(x, axis=-1)", 1),
        ("y = Softmax(x, axis=0)", 0),
        ("y = Softmax(x, axis=k) where k == 1", 1),
        ("y = Softmax(x, axis=k) where k in [2, 3]", 0),
        ("y = Softmax(x, axis=_)", 1),
        ("y = Softmax(x, beta=_)", 0),
        ("a, b = Split(x)", 1),
        ("a, b = Split(Relu(x)); y = Add(Softmax(a), b)", 1),
        ("a, b = Split(Relu(x)); y = Add(Softmax(b), a)", 0),
        ("y = Add(...)", 1),
        ("y = Add(x)", 0),
        ("y = Relu(x) | Softmax(x)", 2),
        ("y = Relu(x)\n  | Softmax(x)", 2),
        ("y = Relu(x) where x: float32, rank 2", 1),
        ("y = Relu(x) where x: rank 3", 0),
        ("y = Relu(x) where x: not rank 3", 1),
        ("y = Relu(x) where x: shape [_, 4]", 1),
        ("y = Relu(x) where x: constant", 0),
        ("y = Cast(x, to=1)", 1),
        ("y = ai.onnx::Relu(x)", 1),
        ("y = vendor::Relu(x)", 0),
    ] {
        assert_eq!(matches(&model, text), count, "{text}");
    }
}

#[test]
fn results_of_several_nodes_are_replaced_together() {
    // Three products of one tensor become one node with three results.
    let nodes = vec![node("MatMul", "x a", "q"), node("MatMul", "x b", "k"), node("MatMul", "x c", "v")];
    let square = |name: &str, seed| constant(name, tensor(&[4, 4], seed));
    let outputs = ["q", "k", "v"].map(|name| float(name, "n 4")).to_vec();
    let weights = vec![square("a", 1), square("b", 2), square("c", 3)];
    let mut model = model_of(graph(nodes, vec![float("x", "n 4")], outputs, weights), 17);
    let text = "pattern qkv:
        q = MatMul(x, a); k = MatMul(x, b); v = MatMul(x, c)
        where a: constant; b: constant; c: constant
        replace q, k, v = vendor::Qkv@2(x, a, b, c)";
    let report = rewrite(&mut model, &pattern(text)).unwrap();
    assert_eq!(report.matches.len(), 1);
    assert_eq!(ops(&model), ["vendor::Qkv"]);
    assert_eq!(model.graph.nodes[0].outputs, ["q", "k", "v"]);
    assert_eq!(model.opset("vendor"), Some(2));
}

#[test]
fn forwarding_takes_nodes_out() {
    let transpose =
        |input: &str, output: &str| with(node("Transpose", input, output), vec![ints("perm", &[1, 0])]);
    let nodes = vec![
        node("Neg", "x", "a"),
        transpose("a", "b"),
        transpose("b", "c"),
        node("Relu", "c", "y"),
        transpose("y", "d"),
        transpose("d", "z"),
    ];
    let outputs = vec![float("y", "n 4"), float("z", "n 4")];
    let mut model = model_of(graph(nodes, vec![float("x", "n 4")], outputs, Vec::new()), 17);
    let inputs = vec![("x".to_owned(), tensor(&[3, 4], 1))];
    let before = run(&model, &inputs);
    let text = "y = Transpose(Transpose(x, perm=[1, 0]), perm=[1, 0]) replace y = x";
    assert_eq!(rewrite(&mut model, &pattern(text)).unwrap().matches.len(), 2);
    // The output keeps its name.
    assert_eq!(ops(&model), ["Neg", "Relu", "Identity"]);
    assert_same(&run(&model, &inputs), &before, 0.0);
    for_onnxruntime("forward", &model, &inputs, &before);
}

#[test]
fn one_node_becomes_several() {
    let nodes = vec![node("HardSwish", "x", "y")];
    let mut model = model_of(graph(nodes, vec![float("x", "n 4")], vec![float("y", "n 4")], Vec::new()), 17);
    let text =
        "y = HardSwish(x) replace gate = HardSigmoid(x) { alpha = 0.16666667, beta = 0.5 }; y = Mul(x, gate)";
    rewrite(&mut model, &pattern(text)).unwrap();
    assert_eq!(ops(&model), ["HardSigmoid", "Mul"]);
    assert_eq!(model.graph.nodes[1].inputs[0], "x");
    assert_eq!(model.graph.nodes[1].inputs[1], model.graph.nodes[0].outputs[0]);
    let inputs = vec![("x".to_owned(), tensor(&[3, 4], 1))];
    let expected: Vec<f32> =
        inputs[0].1.to_f64().iter().map(|x| (x * (x / 6.0 + 0.5).clamp(0.0, 1.0)) as f32).collect();
    let outputs = vec![("y".to_owned(), TensorData::from_vec(vec![3, 4], expected).unwrap())];
    for_onnxruntime("several", &model, &inputs, &outputs);
}

#[test]
fn inner_graphs_and_functions_are_searched_too() {
    let branch = |at: &str| {
        let nodes = vec![
            node("Sigmoid", "x", &format!("{at}s")),
            node("Mul", &format!("x {at}s"), &format!("{at}y")),
        ];
        graph(nodes, Vec::new(), vec![float(&format!("{at}y"), "n 4")], Vec::new())
    };
    let nodes = vec![with(
        node("If", "yes", "y"),
        vec![graph_attribute("then_branch", branch("t")), graph_attribute("else_branch", branch("e"))],
    )];
    let yes = constant("yes", TensorData::from_bools(vec![], &[true]).unwrap());
    let mut proto = proto_of(graph(nodes, vec![float("x", "n 4")], vec![float("y", "n 4")], vec![yes]), 17);
    proto.functions.push(FunctionProto {
        name: "Silu".into(),
        domain: "local".into(),
        input: vec!["i".into()],
        output: vec!["o".into()],
        node: vec![node("Sigmoid", "i", "s"), node("Mul", "i s", "o")],
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
        ..FunctionProto::default()
    });
    let mut model = open(&proto);
    let report = rewrite(&mut model, &pattern("y = Mul(x, Sigmoid(x)) replace y = vendor::Silu(x)")).unwrap();
    let places: Vec<_> = report.matches.iter().map(|found| found.within.as_str()).collect();
    assert_eq!(places, ["If:y/", "If:y/", "function local::Silu/"]);
    let after = decode(&model);
    let text = format!("{after:?}");
    assert!(!text.contains("Sigmoid"), "{text}");
    assert!(after.functions[0].opset_import.iter().any(|set| set.domain == "vendor"));
    assert_eq!(after.functions[0].output, ["o"]);
}

#[test]
fn a_tensor_that_an_inner_graph_reads_is_not_taken_away() {
    let body = || graph(vec![node("Neg", "s", "n")], Vec::new(), vec![float("n", "n 4")], Vec::new());
    let nodes = vec![
        node("Sigmoid", "x", "s"),
        node("Mul", "x s", "m"),
        with(
            node("If", "yes", "y"),
            vec![graph_attribute("then_branch", body()), graph_attribute("else_branch", body())],
        ),
    ];
    let yes = constant("yes", TensorData::from_bools(vec![], &[true]).unwrap());
    let outputs = vec![float("y", "n 4"), float("m", "n 4")];
    let mut model = model_of(graph(nodes, vec![float("x", "n 4")], outputs, vec![yes]), 17);
    let before = model.to_bytes();
    let report = rewrite(&mut model, &pattern("y = Mul(x, Sigmoid(x)) replace y = Swish(x)")).unwrap();
    assert!(report.matches.is_empty());
    assert!(report.near_misses[0].why.contains("also needed by node `If:y` (If)"), "{report:?}");
    assert_eq!(model.to_bytes(), before);
}

#[test]
fn untouched_nodes_keep_their_bytes() {
    let mut model = open(&two_norms(PLAIN));
    let before = decode(&model);
    rewrite(&mut model, &pattern("y = Relu(x) replace y = vendor::Relu(x)")).unwrap();
    let after = decode(&model);
    let (before, after) = (before.graph.unwrap(), after.graph.unwrap());
    assert_eq!(before.initializer, after.initializer);
    let same = before.node.iter().zip(&after.node).filter(|(a, b)| a == b).count();
    assert_eq!(same, before.node.len() - 1);
}

#[test]
fn mistakes_are_reported_with_their_place() {
    for (text, line, column, what) in [
        ("", 1, 1, "expected a pattern"),
        ("y = Add(a b)", 1, 11, "expected `,` or `)`, found `b`"),
        ("y = Add(a,\n  b", 2, 4, "expected `,` or `)`, found the end"),
        ("y Add(a)", 1, 3, "expected `=` after the name, found `Add`"),
        ("y = ", 1, 5, "expected an operator such as"),
        (
            "y = Add(a, b) where c: constant",
            1,
            21,
            "`c`, which the pattern does not define; the names of the pattern are `a`, `b`, `y`",
        ),
        ("y = Add(a, b) where a: blue", 1, 24, "expected `constant`, `scalar`"),
        ("y = Add(a, b) where a", 1, 22, "expected `:` and a fact"),
        ("y = Add(a, b) replace z = Mul(a, b)", 1, 23, "nothing of what the pattern found is replaced"),
        ("y = Add(a, b) replace a = Mul(a, b)", 1, 23, "`a` comes from outside"),
        ("y = Add(a, b) replace y = Mul(a, c)", 1, 34, "`c` is no tensor that the pattern found"),
        ("y = Add(a, b) replace y = Mul(a) { k = e }", 1, 40, "`e` is nothing that the pattern captures"),
        ("y = Add(a, b) replace y = Mul(2)", 1, 31, "operands of new nodes are tensors"),
        ("y = Add(y, b)", 1, 1, "`y` is made from itself"),
        ("y = Add(a, b)\ny = Mul(a, b)", 2, 1, "`y` is defined twice"),
        ("z = Neg(a)\ny = Add(a, b)", 1, 1, "`z` leads to nothing"),
        ("pattern p\ny = Neg(a)", 1, 10, "expected `:` after the pattern's name"),
        ("pattern p: y = Neg(a) pattern p: y = Neg(a)", 1, 23, "a pattern `p` already"),
        ("y = Softmax(x, axis=1, z)", 1, 24, "operands come first"),
        ("y = Softmax(x, axis=k) where k: constant", 1, 30, "`k` is an attribute's value"),
        ("y = Softmax(k, axis=k)", 1, 13, "`k` is an attribute's value, not a tensor"),
        ("y = Relu(k)\nz = Softmax(y, axis=k)", 2, 21, "`k` is a tensor, not an attribute's value"),
        ("y = Neg(\"open", 1, 9, "a closing `\"` was expected"),
        ("y = Neg($)", 1, 9, "`$` has no meaning here"),
        ("y = Neg(1.2.3)", 1, 9, "`1.2.3` is no number"),
        ("a, b = c", 1, 4, "several results come from one node only"),
        ("y = Neg?()", 1, 5, "needs an operand to stand in its place"),
        ("y = Neg(x) replace y = Neg@0(x)", 1, 28, "expected a version of 1 or more"),
        ("y = Neg(x) replace", 1, 19, "expected what takes the place"),
        ("y = Neg(x) replace y = Neg(x) where x: constant", 1, 31, "`where` stands once, before `replace`"),
    ] {
        let error = parse_patterns("file.pattern", text).expect_err(text);
        assert_eq!((error.line, error.column), (line, column), "{text}: {error}");
        assert!(error.message.contains(what), "{text}: `{}` does not say `{what}`", error.message);
        let shown = error.to_string();
        assert!(shown.starts_with(&format!("file.pattern:{line}:{column}: ")), "{shown}");
    }
}

#[test]
fn the_text_shows_where_a_mistake_is() {
    let error = parse_patterns("p", "# a comment\n  y = Add(ä, b c)").unwrap_err();
    assert_eq!(
        error.to_string(),
        "p:2:16: expected `,` or `)`, found `c`\n    y = Add(ä, b c)\n                 ^"
    );
}

#[test]
fn a_value_that_is_not_constant_cannot_become_an_attribute() {
    let mut model = relu_model();
    let error = rewrite(&mut model, &pattern("y = Relu(x) replace y = vendor::R(x) { k = x }"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("attribute `k`: `c` is no small constant"), "{error}");
    assert!(error.contains("match at node `Relu:r`"), "{error}");
}

#[test]
fn constants_become_attributes_of_the_type_that_is_asked_for() {
    let nodes = vec![node("Clip", "x low high", "a"), node("Pad", "a pads", "y")];
    let initializers = vec![
        scalar("low", 0.0),
        scalar("high", 6.0),
        constant("pads", TensorData::vector(vec![0i64, 1, 0, 1])),
    ];
    let mut model =
        model_of(graph(nodes, vec![float("x", "n 4")], vec![float("y", "n 6")], initializers), 17);
    let text = "y = Pad(Clip(x, low, high), p)
        where low == 0; high > 5
        replace y = vendor::Op(x) { low = int(low), high = high, pads = p, floats = floats(p), t = tensor(p), s = \"text\" }";
    rewrite(&mut model, &pattern(text)).unwrap();
    let value = |name: &str| model.graph.nodes[0].attribute(name).unwrap().value();
    assert_eq!((value("low").i, value("high").f), (0, 6.0));
    assert_eq!(value("pads").ints, [0, 1, 0, 1]);
    assert_eq!(value("floats").floats, [0., 1., 0., 1.]);
    assert_eq!(value("t").t.unwrap().dims, [4]);
    assert_eq!(&value("s").s[..], b"text");
    assert!(model.graph.initializers.is_empty());
}

#[test]
fn a_pattern_of_many_ways_ends() {
    // Sums in every order: each level doubles the ways.
    let nodes: Vec<_> =
        (0..30).map(|at| node("Add", &format!("t{at} u{at}"), &format!("t{}", at + 1))).collect();
    let mut inputs: Vec<_> = (0..30).map(|at| float(&format!("u{at}"), "4")).collect();
    inputs.push(float("t0", "4"));
    let model = model_of(graph(nodes, inputs, vec![float("t30", "4")], Vec::new()), 17);
    let mut text = "a".to_owned();
    for at in 0..25 {
        text = format!("Add({text}, b{at})");
    }
    assert!(matches(&model, &format!("y = {text}")) <= 1);
    assert!(matches(&model, &format!("y = {text} where a: constant")) == 0);
}

#[test]
fn forwards_that_follow_each_other_lead_to_the_last() {
    // Chains of Identity nodes, in the middle and at an output, and read by a branch.
    let branch = || graph(vec![node("Neg", "c", "n")], Vec::new(), vec![float("n", "n 4")], Vec::new());
    let nodes = vec![
        node("Identity", "x", "a"),
        node("Identity", "a", "b"),
        node("Identity", "b", "c"),
        node("Relu", "c", "r"),
        node("Identity", "r", "s"),
        node("Identity", "s", "y"),
        with(
            node("If", "yes", "z"),
            vec![graph_attribute("then_branch", branch()), graph_attribute("else_branch", branch())],
        ),
    ];
    let yes = constant("yes", TensorData::from_bools(vec![], &[true]).unwrap());
    let outputs = vec![float("y", "n 4"), float("z", "n 4")];
    let mut model = model_of(graph(nodes, vec![float("x", "n 4")], outputs, vec![yes]), 17);
    let inputs = vec![("x".to_owned(), tensor(&[3, 4], 1))];
    let before = run(&model, &inputs);
    let report = rewrite(&mut model, &pattern("y = Identity(x) replace y = x")).unwrap();
    assert_eq!(report.matches.len(), 5);
    assert_eq!(ops(&model), ["Relu", "If", "Identity"]);
    assert_eq!(model.graph.nodes[0].inputs, ["x"]);
    assert_same(&run(&model, &inputs), &before, 0.0);

    // Pairs of transpositions one after another.
    let transpose =
        |input: &str, output: &str| with(node("Transpose", input, output), vec![ints("perm", &[1, 0])]);
    let nodes = vec![
        transpose("x", "a"),
        transpose("a", "b"),
        transpose("b", "c"),
        transpose("c", "d"),
        node("Relu", "d", "y"),
    ];
    let mut model = model_of(graph(nodes, vec![float("x", "n 4")], vec![float("y", "n 4")], Vec::new()), 17);
    let text = "y = Transpose(Transpose(x, perm=[1, 0]), perm=[1, 0]) replace y = x";
    assert_eq!(rewrite(&mut model, &pattern(text)).unwrap().matches.len(), 2);
    assert_eq!((ops(&model), model.graph.nodes[0].inputs[0].as_str()), (vec!["Relu".to_owned()], "x"));
}

#[test]
fn what_a_replacement_reads_stays_also_under_a_free_name() {
    let nodes = vec![node("Relu", "x", "r"), node("Add", "r r", "y")];
    let mut model = model_of(graph(nodes, vec![float("x", "n 4")], vec![float("y", "n 4")], Vec::new()), 17);
    rewrite(&mut model, &pattern("y = Add(a, Relu(b)) replace y = vendor::Foo(a, b)")).unwrap();
    assert_eq!(ops(&model), ["Relu", "vendor::Foo"]);
    assert_eq!(model.graph.nodes[1].inputs, ["r", "x"]);
}

#[test]
fn a_replacement_that_leaves_readers_without_a_tensor_is_refused() {
    // Forwarded to itself, `y` is made by nothing any more.
    let nodes = vec![node("Identity", "x", "a"), node("Relu", "a", "y")];
    let mut model = model_of(graph(nodes, vec![float("x", "n 4")], vec![float("y", "n 4")], Vec::new()), 17);
    let before = model.to_bytes();
    let error = rewrite(&mut model, &pattern("y = Identity(x) replace y = y")).unwrap_err().to_string();
    assert!(error.contains("`a` would be forwarded to itself"), "{error}");
    assert_eq!(model.to_bytes(), before);
}

#[test]
fn any_operator_of_a_domain_is_of_that_domain_only() {
    let nodes = vec![node("Relu", "x", "a"), node("vendor::Odd", "a", "b"), node("other::Odd", "b", "y")];
    let model = model_of(graph(nodes, vec![float("x", "n 4")], vec![float("y", "n 4")], Vec::new()), 17);
    for (text, count) in
        [("y = vendor::_(x)", 1), ("y = ai.onnx::_(x)", 1), ("y = absent::_(x)", 0), ("y = _(x)", 3)]
    {
        assert_eq!(matches(&model, text), count, "{text}");
    }
}

#[test]
fn axes_of_a_result_count_in_its_rank() {
    let nodes = vec![
        with(node("Unsqueeze", "x", "u"), vec![ints("axes", &[-1])]),
        with(node("OneHot", "i depth values", "h"), vec![int("axis", -1)]),
    ];
    let initializers = vec![
        constant("depth", TensorData::scalar(5i64)),
        constant("values", TensorData::vector(vec![0f32, 1.])),
    ];
    let inputs = vec![float("x", "n 4"), value("i", DataType::Int64, "n 4")];
    let outputs = vec![float("u", "n 4 1"), float("h", "n 4 5")];
    let model = model_of(graph(nodes, inputs, outputs, initializers), 12);
    for (text, count) in [
        ("y = Unsqueeze(x, axes=[2])", 1),
        ("y = Unsqueeze(x, axes=[-1])", 1),
        ("y = Unsqueeze(x, axes=[1])", 0),
        ("y = OneHot(i, d, v, axis=2)", 1),
        ("y = OneHot(i, d, v, axis=1)", 0),
    ] {
        assert_eq!(matches(&model, text), count, "{text}");
    }
}

#[test]
fn chains_of_alternatives_are_looked_at_once() {
    // Two ways at each of many steps: one look at each way would never end.
    let model = relu_model();
    let mut text = "s0 = Tanh(x)\n".to_owned();
    for at in 1..100 {
        text += &format!("s{at} = s{} | s{}\n", at - 1, at - 1);
    }
    assert_eq!(matches(&model, &text), 0);
}

#[test]
fn a_mistake_far_to_the_right_is_shown_with_what_is_around_it() {
    let text = format!("y = Neg({}$)", " ".repeat(70_000));
    let error = parse_patterns("p", &text).unwrap_err();
    assert_eq!(error.column, 70_009);
    let shown = error.to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("p:1:70009: ") && lines.iter().all(|line| line.len() < 200), "{shown}");
    assert_eq!(lines[1].find('$'), lines[2].find('^'), "{shown}");
}
