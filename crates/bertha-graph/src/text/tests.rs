use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::dtype::DType;
use crate::interp::F64Tensor;
use crate::op::*;
use crate::plugin::{
    Declaration, FieldKind, FieldSpec, Fields, Parallel, Plugin, PluginSet, TensorView, TensorViewMut,
};
use crate::shape::TensorType;
use crate::{Graph, shape};

/// Prints, parses with the constants that were printed, and gives back what was read.
fn round_trip(graph: &Graph) -> Graph {
    let printed = print(graph);
    let mut resolve = |name: &str, _: &TensorType| {
        printed.constants.iter().find(|(other, _)| other == name).map(|(_, data)| data.clone())
    };
    parse_with(&printed.text, &plugins(), &mut resolve)
        .unwrap_or_else(|error| panic!("{error}\n{}", printed.text))
}

/// A plugin with a field of every kind.
struct EveryField;

impl Plugin for EveryField {
    fn declaration(&self) -> Declaration {
        let field = |name, kind| FieldSpec::required(name, kind);
        Declaration {
            name: "text_test".into(),
            version: 7,
            op_type: "TextTest".into(),
            signature: "x: f32[...] -> y: f32[...]".into(),
            fields: vec![
                field("a", FieldKind::Int),
                field("b_c", FieldKind::Float),
                field("d", FieldKind::Text),
                field("e", FieldKind::Ints),
                field("f", FieldKind::Floats),
                field("g", FieldKind::Ints),
                field("h", FieldKind::Floats),
            ],
            ..Declaration::default()
        }
    }

    fn reference(&self, _: &Fields, _: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String> {
        Err("only its text is of interest".into())
    }

    fn run(
        &self,
        _: &Fields,
        _: &[Option<TensorView<'_>>],
        _: &mut [Option<TensorViewMut<'_>>],
        _: &mut dyn Parallel,
    ) -> Result<(), String> {
        Err("only its text is of interest".into())
    }
}

fn plugins() -> PluginSet {
    let mut set = PluginSet::new();
    set.add(EveryField).unwrap();
    set
}

fn read(text: &str) -> Result<Graph, ParseError> {
    parse_with(text, &plugins(), &mut |_, _| None)
}

/// The error of a text of one graph with these lines.
fn error(lines: &str) -> ParseError {
    match read(&format!("graph g {{\n{lines}\n}}")) {
        Ok(graph) => panic!("expected an error, read\n{graph}"),
        Err(error) => error,
    }
}

const EXAMPLE: &str = r#"graph bert {
  input %input_ids: i32[tokens]
  input %cu_seqlens: i32[batch + 1]
  const %word_embeddings: f32[30522, 4] = @word_embeddings
  %h0: f32[tokens, 4] = embedding_sum(%input_ids, %word_embeddings) @embeddings from ["/bert/Gather"]
  const %gamma: f32[4] = [1.0, -0.5, 1e-12, inf]
  %"/bert/norm/out": f32[tokens, 4] = layer_norm(%h0, %gamma, _) {axis: -1, epsilon: 1e-12}
  %a: f32[tokens, 3], _ = split(%"/bert/norm/out", _) {axis: 1, parts: 2} @"two \"halves\""
  output last_hidden_state = %a
  output "odd name" = %"/bert/norm/out"
}
"#;

fn example() -> Graph {
    let text = EXAMPLE.replace("[tokens, 3]", "[tokens, 2]");
    let table = TensorData::from_vec(vec![30522, 4], vec![0.5f32; 30522 * 4]).unwrap();
    parse(&text, &mut |name, _| (name == "word_embeddings").then(|| table.clone())).unwrap()
}

#[test]
fn a_graph_is_printed_as_it_was_written() {
    let graph = example();
    assert_eq!(graph.to_text(), EXAMPLE.replace("[tokens, 3]", "[tokens, 2]"));
    assert_eq!(graph.to_string(), graph.to_text());
    assert_eq!(round_trip(&graph), graph);
    graph.verify().unwrap();
}

#[test]
fn types_must_be_what_the_rules_infer() {
    let table = TensorData::from_vec(vec![30522, 4], vec![0.5f32; 30522 * 4]).unwrap();
    let error = parse(EXAMPLE, &mut |_, _| Some(table.clone())).unwrap_err();
    assert_eq!((error.line, error.column), (8, 3));
    assert!(error.message.contains("f32[tokens, 3]") && error.message.contains("f32[tokens, 2]"), "{error}");
}

#[test]
fn errors_say_where_and_what() {
    let cases = [
        ("input %x", 3, 1, "expected `:`"),
        ("input %x: f33[2]", 2, 11, "unknown dtype `f33`"),
        ("input %x: f32[2, %]", 2, 18, "dimension `%`"),
        ("input %x: f32[2 3]", 2, 15, "expected one dimension, found `2 3`"),
        ("input %x: f32[-2]", 2, 15, "expected a size, found -2"),
        ("input %x: f32[2]\ninput %x: f32[2]", 3, 7, "there is a tensor `x` already"),
        ("const %x: f32[n] = [1]", 2, 11, "numbers"),
        ("const %x: f32[2] = [1]", 2, 20, "takes 8 bytes, but there are 4"),
        ("const %x: i8[1] = [300]", 2, 20, "i8"),
        ("const %x: f32[] = 1e60", 2, 19, "out of range"),
        ("const %x: f32[3000] = @table", 2, 24, "contents of `table` (f32[3000]) are missing"),
        ("const %x: f32[2] = 1", 2, 20, "expected `[` or `@`"),
        ("%y = tanh(%x)", 2, 11, "no tensor `x` before"),
        ("input %x: f32[2]\n%y = tan(%x)", 3, 6, "unknown operation `tan`"),
        ("input %x: f32[2]\n%y = softmax(%x)", 3, 6, "attribute `axis` is missing"),
        ("input %x: f32[2]\n%y = softmax(%x) {axis: 0, b: 1}", 3, 6, "no attribute `b`"),
        ("input %x: f32[2]\n%y = softmax(%x) {axis: 0, axis: 1}", 3, 28, "occurs twice"),
        ("input %x: f32[2]\n%y = softmax(%x) {axis: 0.5}", 3, 6, "`0.5` is not a number that fits"),
        ("input %x: f32[2]\n%y = gelu(%x) {kind: exact}", 3, 6, "unknown variant `exact`"),
        ("input %x: i32[2]\n  %y = tanh(%x)", 3, 3, "node `y` (tanh): expected a float type"),
        ("input %x: f32[2]\n_ = tanh(%x)", 4, 1, "expected `@` and a name"),
        ("input %x: f32[2]\n%a, %b = tanh(%x)", 3, 1, "has 1 outputs, not 2"),
        ("output a = %x", 2, 12, "no tensor `x`"),
        ("surprise", 2, 1, "expected a statement or `}`, found `surprise`"),
        ("input %\"x: f32[2]", 2, 8, "closing"),
        ("input %\"\\q\": f32[2]", 2, 9, "expected one of"),
        ("input %c: bool[]\n%y = if(%c) then graph a { }", 4, 1, "expected `else` and a branch"),
    ];
    for (lines, line, column, message) in cases {
        let error = error(lines);
        assert_eq!((error.line, error.column), (line, column), "{lines}\n{error}");
        assert!(error.message.contains(message), "{lines}\n{error}");
    }
    assert_eq!(
        read("").unwrap_err().to_string(),
        "line 1, column 1: expected `graph`, found the end of the text"
    );
    assert!(read("graph a { } graph b { }").unwrap_err().message.contains("the end of the text"));
}

#[test]
fn nesting_is_bounded() {
    let deep = "[".repeat(100_000);
    assert!(error(&format!("input %x: f32[]\n%y = plugin(%x) {{name: {deep}")).message.contains("nesting"));
    let mut text = String::from("graph g { input %c: bool[] ");
    text.push_str(&"%y = if(%c) then graph g { input %c: bool[] ".repeat(10_000));
    assert!(read(&text).unwrap_err().message.contains("branches within one another"));
}

#[test]
fn branches_and_their_constants_round_trip() {
    let branch = |factor: f32| {
        let mut graph = Graph::new("a branch");
        let x = graph.add_input("x", TensorType::new(DType::F32, shape!["n", 20])).unwrap();
        let w = graph.add_constant("w", TensorData::vector(vec![factor; 20])).unwrap();
        graph.add_node("mul", Op::Binary(BinaryOp::Mul), &[Some(x), Some(w)], &["y"]).unwrap();
        let y = graph.find("y").unwrap();
        graph.add_output("y", y).unwrap();
        Box::new(graph)
    };
    let mut graph = Graph::new("g");
    let condition = graph.add_input("c", TensorType::new(DType::Bool, shape![])).unwrap();
    let x = graph.add_input("x", TensorType::new(DType::F32, shape!["n", 20])).unwrap();
    graph.add_constant("w", TensorData::vector(vec![0f32; 20])).unwrap();
    let op = Op::If { then_branch: branch(1.0), else_branch: branch(2.0) };
    graph.add_node("choose", op, &[Some(condition), Some(x)], &["y"]).unwrap();
    graph.add_output("y", graph.find("y").unwrap()).unwrap();
    let names: Vec<String> = print(&graph).constants.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["w", "choose/then/w", "choose/else/w"]);
    assert_eq!(round_trip(&graph), graph);
    graph.verify().unwrap();
}

#[test]
fn data_dependent_symbols_may_have_other_names() {
    let lines =
        "input %x: f32[n, 4]\ninput %s: i64[2]\n%y: f32[?7, ?8] = reshape(%x, %s) {allow_zero: false}\n";
    let text = format!("graph g {{ {lines} %z: f32[?7 + ?7, ?8] = concat(%y, %y) {{axis: 0}} }}");
    assert_eq!(
        read(&text).unwrap().tensor(read(&text).unwrap().find("z").unwrap()).ty.to_string(),
        "f32[2*?0, ?1]"
    );
    let wrong = format!("graph g {{ {lines} %z: f32[?7, ?7] = tanh(%y) }}");
    assert!(read(&wrong).unwrap_err().message.contains("said to be f32[?7, ?7]"));
}

/// Operations with attributes that are not the usual ones, and operands on which they work.
const EVERY_OP: &str = r#"graph ops {
  input %speech: f32[batch, 2, frames, 4]
  input %window: f32[6, 1, 2, 3]
  input %f: f32[2, 4]
  input %i: i64[2, 4]
  input %b: bool[2, 4]
  input %u: u8[2, 4]
  input %v: i8[4, 3]
  input %ragged: f32[tokens, 4]
  input %cu: i32[batch + 1]
  input %ids: i32[tokens]
  input %table: f32[9, 4]
  input %q: f32[1, 2, 3, 4]
  const %one: i64[1] = [1]
  const %eight: i64[2] = [8, 1]
  const %two: i64[2] = [2, 1]
  const %step: i64[] = 1
  const %four: i64[3] = [3, 2, 4]
  const %nd: i64[2, 1, 1] = [0, 1]
  const %pads: i64[4] = [0, 1, 0, 1]
  const %caches: f32[1, 3, 1] = [0.5, 0.5, 0.5]
  const %zero: i64[] = 0
  const %scale: f32[] = 0.5
  const %bias: f32[8, 2] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]
  const %byte: u8[] = 3
  const %sbyte: i8[] = -3
  %y0 = gelu(%f) {kind: tanh}
  %y1 = clip(%f, _, %scale)
  %y2 = where(%b, %f, %f)
  %y3 = cast(%f) {to: bf16}
  %y4 = reshape(%f, %eight) {allow_zero: true} @unused
  %y5 = transpose(%f) {perm: [1, 0]}
  %y6 = unsqueeze(%f, %one)
  %y7 = squeeze(%y6, %one)
  %y8 = concat(%f, %f) {axis: -1}
  %y9, %y10 = split(%f, _) {axis: 1, parts: 2}
  %y11 = slice(%f, %one, %one, %one, %one)
  %y12 = gather(%f, %i) {axis: 0}
  %y13 = gather_elements(%f, %i) {axis: -2}
  %y14 = gather_nd(%f, %nd) {batch_dims: 1}
  %y15 = expand(%f, %four)
  %y16 = tile(%f, %two)
  %y17 = pad(%f, %pads) {mode: reflect}
  %y18 = shape(%f) {start: -1, end: none}
  %y19 = shape(%f) {start: 0, end: -1}
  %y20 = constant_of_shape(%two) {value: f16[1](-0.5)}
  %y21 = range(%zero, %zero, %step)
  %y22 = reduce_mean(%f, %one) {keep_dims: true, noop_with_empty_axes: false}
  %y23 = reduce_prod(%i) {keep_dims: false, noop_with_empty_axes: true}
  %y24 = reduce_sum(%i) {keep_dims: false, noop_with_empty_axes: false}
  %y25 = cumsum(%i, %zero) {exclusive: true, reverse: false}
  %y26 = softmax(%f) {axis: 0}
  %y27 = layer_norm(%f, %scale, _) {axis: 0, epsilon: 1e-5}
  %y28 = matmul(%f, %y5)
  %y29 = gemm(%f, %f, _) {alpha: 0.25, beta: -0.0, trans_a: false, trans_b: true}
  %y30 = matmul_integer(%u, %v)
  %y31 = qlinear_matmul(%u, %scale, %byte, %v, %scale, %sbyte, %scale, %byte)
  %y32 = quantize_linear(%f, %scale) {axis: 1, block_size: 0, to: i16}
  %y33 = dequantize_linear(%u, %scale) {axis: 1, block_size: 0, to: f64}
  %y34, _, %y35 = dynamic_quantize_linear(%f)
  %y36 = rotary_embedding(%q, %caches, %caches) {interleaved: true, heads: 0, rotary_dim: 2}
  %y37, _, _, %y38 = attention(%q, %q, %q) {q_heads: 0, kv_heads: 0, scale: none, is_causal: true, softcap: 0.5, scores_mode: 3, softmax_precision: f16}
  %y39 = attention(%q, %q, %q) {q_heads: 0, kv_heads: 0, scale: 0.125, is_causal: false, softcap: 0.0, scores_mode: 0, softmax_precision: none}
  %y40 = embedding_sum(%ids, %table)
  %y41 = linear(%ragged, %table) {layout: out_in, activation: gelu_erf}
  %y42 = ragged_attention(%ragged, %ragged, %ragged, %cu, %bias) {heads: 2, scale: 0.125, relative: {buckets: 8, max_distance: 128}}
  %y43 = ragged_attention(%ragged, %ragged, %ragged, %cu) {heads: 2, scale: inf, relative: none}
  %y44 = pool(%ragged, %cu) {kind: mean_sqrt_len}
  %y45 = l2_normalize(%ragged) {epsilon: 1e-12}
  %y47: f32[batch, 6, floor((frames + 1)/4) + 1, 7] = conv(%speech, %window) {groups: 2, strides: [4, 1], dilations: [1, 2], pads: [2, 3, 1, 4]}
  %y48 = conv(%speech, %window) {groups: 2, strides: [1, 1], dilations: [1, 1], pads: same_lower}
  %y46 = plugin(%f) {name: "text_test", version: 7, fields: {a: 1, b_c: 2.0, d: "t\n", e: ints[], f: floats[], g: ints[-1, 2], h: floats[-inf, 0.1]}}
}"#;

#[test]
fn every_operation_round_trips() {
    let mut text = EVERY_OP.to_owned();
    for (index, op) in UnaryOp::ALL.into_iter().enumerate() {
        let operand = if op == UnaryOp::Not { "%b" } else { "%f" };
        text = text.replacen("\n}", &format!("\n  %u{index} = {}({operand})\n}}", op.mnemonic()), 1);
    }
    for (index, op) in BinaryOp::ALL.into_iter().enumerate() {
        let operand = if op == BinaryOp::And { "%b" } else { "%f" };
        let line = format!("\n  %b{index} = {}({operand}, {operand})\n}}", op.mnemonic());
        text = text.replacen("\n}", &line, 1);
    }
    let graph = read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    graph.verify().unwrap();
    let again = round_trip(&graph);
    // NaN differs from itself, so the texts are compared too.
    assert_eq!(again.to_text(), graph.to_text());
    let operations: Vec<String> = graph.nodes().iter().map(|node| format!("{:?}", node.op)).collect();
    let read_again: Vec<String> = again.nodes().iter().map(|node| format!("{:?}", node.op)).collect();
    assert_eq!(operations, read_again);
}

#[test]
fn canonical_text_knows_no_names() {
    let graph = example();
    let canonical = graph.to_text_canonical();
    let renamed =
        graph.to_text().replace("h0", "other").replace("gamma", "weight").replace("@embeddings", "@e");
    let table = graph.tensor(graph.find("word_embeddings").unwrap()).constant().unwrap().clone();
    let renamed = parse(&renamed, &mut |_, _| Some(table.clone())).unwrap();
    assert_ne!(renamed.to_text(), graph.to_text());
    assert_eq!(renamed.to_text_canonical(), canonical);
    let other = TensorData::from_vec(vec![30522, 4], vec![0.25f32; 30522 * 4]).unwrap();
    let other = parse(&graph.to_text(), &mut |_, _| Some(other.clone())).unwrap();
    assert_ne!(other.to_text_canonical(), canonical, "other weights must show");
    assert!(canonical.contains("output last_hidden_state = %"), "{canonical}");
}

#[test]
fn a_node_without_outputs_keeps_its_place() {
    let text = "graph g {\n  input %x: f32[2]\n  () = tanh(%x) @nothing\n  _ = sin(%x) @little\n  %y: f32[2] = cos(%x)\n}\n";
    assert_eq!(read(text).unwrap().to_text(), text);
}

fn any_data() -> impl Strategy<Value = TensorData> {
    let shape =
        prop_oneof![Just(vec![]), (0usize..20).prop_map(|n| vec![n]), (0usize..4).prop_map(|n| vec![n, 2])];
    (shape, prop::sample::select(DType::ALL.to_vec()), prop::collection::vec(any::<u64>(), 20)).prop_map(
        |(shape, dtype, bits)| {
            let count: usize = shape.iter().product();
            let mut bytes = Vec::new();
            for bits in bits.iter().take(count) {
                let element = if dtype == DType::Bool { bits % 2 } else { *bits };
                bytes.extend_from_slice(&element.to_le_bytes()[..dtype.size()]);
            }
            TensorData::from_bytes(dtype, shape, bytes.into()).unwrap()
        },
    )
}

/// A few nodes over randomly named tensors.
fn any_graph() -> impl Strategy<Value = Graph> {
    let name = prop_oneof!["[a-z]{1,3}", "[/a-z:\"\\\\ \n.%@é]{1,8}"];
    let node =
        (0usize..6, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<f32>(), name.clone());
    let constants = prop::collection::vec((name.clone(), any_data()), 0..4);
    (name, constants, prop::collection::vec(node, 0..12)).prop_map(|(name, constants, nodes)| {
        let mut graph = Graph::new(name.clone());
        let x = graph.add_input(&name, TensorType::new(DType::F32, shape!["batch", "seq", 4])).unwrap();
        let mut floats = vec![x];
        for (name, data) in constants {
            graph.add_constant(graph.fresh_name(&name), data).unwrap();
        }
        let sizes =
            graph.add_input(graph.fresh_name("sizes"), TensorType::new(DType::I64, shape![3])).unwrap();
        for (which, a, b, number, name) in nodes {
            let (a, b) = (*a.get(&floats), *b.get(&floats));
            let (op, inputs) = match which {
                0 => (Op::Binary(BinaryOp::Add), vec![Some(a), Some(b)]),
                1 => (Op::Reshape { allow_zero: false }, vec![Some(a), Some(sizes)]),
                2 => (Op::Concat { axis: 1 }, vec![Some(a), Some(b)]),
                3 => (Op::LayerNorm { axis: 0, epsilon: number }, vec![Some(a), Some(a), None]),
                4 => (Op::Transpose { perm: vec![2, 0, 1] }, vec![Some(a)]),
                _ => (Op::L2Normalize { epsilon: number }, vec![Some(a)]),
            };
            let output = graph.fresh_name(&name);
            // Operands that do not fit make no node.
            if let Ok(node) = graph.add_node(graph.fresh_node_name(&name), op, &inputs, &[&output]) {
                graph.set_sources(node, vec![name]);
                floats.push(graph.find(&output).unwrap());
            }
        }
        graph.add_output("y", *floats.last().unwrap()).unwrap();
        graph
    })
}

proptest! {
    #[test]
    fn random_graphs_round_trip(graph in any_graph()) {
        graph.verify().unwrap();
        prop_assert_eq!(round_trip(&graph), graph);
    }

    #[test]
    fn constants_round_trip_bit_for_bit(data in any_data()) {
        let mut graph = Graph::new("g");
        graph.add_constant("c", data).unwrap();
        prop_assert_eq!(round_trip(&graph), graph);
    }

    #[test]
    fn half_precision_text_is_exact(bits: u16) {
        for data in [TensorData::scalar(f16::from_bits(bits)), TensorData::scalar(bf16::from_bits(bits))] {
            let texts = literal::element_texts(&data).unwrap();
            let mut bytes = Vec::new();
            literal::push_element(data.dtype(), &texts[0], &mut bytes).unwrap();
            prop_assert_eq!(&bytes[..], &data.bytes()[..], "{}", texts[0]);
        }
    }

    /// Damaged texts give an error or a graph, and no panic.
    #[test]
    fn damage_is_survived(at in 0usize..6000, len in 0usize..8, insert in "[ -~é\n]{0,6}") {
        let mut text: Vec<char> = EVERY_OP.chars().collect();
        let at = at.min(text.len());
        let end = (at + len).min(text.len());
        text.splice(at..end, insert.chars());
        let text: String = text.into_iter().collect();
        let _ = read(&text);
    }
}
