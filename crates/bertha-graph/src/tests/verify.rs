//! Tests of the verifier: a sound graph, and each way of breaking it. A child of `graph`, to reach what is private.

use super::*;
use crate::shape;

fn sound() -> Graph {
    let lines = r#"graph g {
      input %x: f32[batch, seq]
      input %sizes: i64[2]
      const %weight: f32[] = 2.0
      %shape = shape(%x) {start: 0, end: none}
      %a = mul(%x, %weight)
      %b = reshape(%a, %sizes) {allow_zero: false}
      %c, %d = split(%b, _) {axis: 0, parts: 2}
      output c = %c
      output x = %x
    }"#;
    crate::text::parse(lines, &mut |_, _| None).unwrap()
}

/// Asserts that the broken graph is refused in words that hold every part.
#[track_caller]
fn refused(change: impl FnOnce(&mut Graph), parts: &[&str]) {
    let mut graph = sound();
    change(&mut graph);
    let message = graph.verify().unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not hold {part:?}");
    }
}

fn id(graph: &Graph, name: &str) -> TensorId {
    graph.find(name).unwrap()
}

fn set_type(graph: &mut Graph, name: &str, shape: crate::Shape) {
    let index = id(graph, name).index();
    graph.tensors[index].ty.shape = shape;
}

#[test]
fn sound_graphs_are_verified() {
    sound().verify().unwrap();
    // Data-dependent symbols may have any name, as long as it is one name.
    let mut renamed = sound();
    for (name, dim) in [("b", "?50"), ("c", "?77"), ("d", "?78")] {
        set_type(&mut renamed, name, shape![dim, "?51"]);
    }
    renamed.verify().unwrap();
}

#[test]
fn types_are_inferred_anew() {
    refused(
        |g| set_type(g, "a", shape!["batch", 4]),
        &["node `a` (mul)", "f32[batch, 4]", "f32[batch, seq]"],
    );
    refused(|g| set_type(g, "b", shape!["batch", "seq"]), &["node `b` (reshape)"]);
    refused(|g| set_type(g, "c", shape!["?0", "?1"]), &["node `c` (split)", "[?0, ?1]"]);
    refused(|g| g.tensors[4].ty.dtype = DType::F16, &["node `a` (mul)", "f16[batch, seq]"]);
    refused(|g| g.tensors[2].ty.dtype = DType::F16, &["tensor `weight`", "f16[]", "contents are f32[]"]);
    refused(|g| set_type(g, "x", shape!["a b", 1]), &["tensor `x`", "`a b` cannot be the name of a symbol"]);
    refused(|g| set_type(g, "x", shape![-1, 1]), &["tensor `x`", "negative dimension"]);
    let wide = (0..70).fold(Dim::from(1), |sum, n| &sum + &Dim::from(format!("s{n}").as_str()));
    refused(|g| set_type(g, "x", crate::Shape(vec![wide, Dim::from(1)])), &["too large a polynomial"]);
    refused(|g| g.tensors[3].value = Some(vec![Dim::from(1), Dim::from(2)]), &["contents of `shape`"]);
    refused(|g| g.tensors[2].value = Some(vec![Dim::from(1)]), &["tensor `weight`", "known contents"]);
    refused(|g| g.nodes[1].op = Op::MatMul, &["node `a` (matmul)", "at least one dimension"]);
}

#[test]
fn references_are_checked() {
    refused(|g| g.nodes[1].inputs[0] = Some(TensorId(99)), &["node `a` (mul)", "no tensor 99"]);
    refused(|g| g.nodes[1].inputs[0] = Some(TensorId(5)), &["node `a`", "`b` is computed only later"]);
    refused(|g| g.nodes.swap(1, 2), &["output 0 of node 1"]);
    refused(|g| g.nodes[1].outputs[0] = None, &["tensor `a`", "output 0 of node 1"]);
    refused(|g| g.nodes[1].outputs.push(Some(TensorId(0))), &["node `a`", "`x` has another origin"]);
    refused(|g| g.nodes[1].outputs.push(Some(TensorId(99))), &["node `a`", "no tensor 99"]);
    refused(|g| g.nodes[1].outputs.push(None), &["node `a` has 1 outputs, not 2"]);
    refused(
        |g| g.tensors[4].origin = Origin::Node { node: NodeId(77), output: 0 },
        &["tensor `a`", "node 77"],
    );
    refused(|g| g.tensors[4].origin = Origin::Input, &["tensor `a`", "not listed"]);
    refused(|g| g.inputs.push(TensorId(4)), &["tensor `a`", "another origin"]);
    refused(|g| g.inputs.push(TensorId(0)), &["tensor `x`", "twice"]);
    refused(|g| g.inputs.push(TensorId(99)), &["inputs", "no tensor 99"]);
    refused(|g| g.outputs[0].1 = TensorId(99), &["output `c`", "no tensor 99"]);
}

#[test]
fn names_are_checked() {
    refused(|g| g.tensors[4].name = "x".into(), &["there is a tensor `x` already"]);
    refused(|g| g.tensors[4].name = "new".into(), &["tensor `new`", "index of names"]);
    refused(|g| g.tensors[4].name = String::new(), &["needs a name"]);
    refused(|g| g.nodes[1].name = "b".into(), &["there is a node `b` already"]);
    refused(|g| g.nodes[1].name = "new".into(), &["node `new`", "index of names"]);
    refused(|g| g.outputs[0].0 = "x".into(), &["there is an output `x` already"]);
    refused(|g| g.outputs[0].0 = String::new(), &["needs a name"]);
}

#[test]
fn branches_are_verified() {
    let lines = r#"graph g {
      input %c: bool[]
      input %x: f32[n]
      %y = if(%c, %x)
        then graph a { input %x: f32[n] %t = sin(%x) output r = %t }
        else graph b { input %x: f32[n] output r = %x }
    }"#;
    let mut graph = crate::text::parse(lines, &mut |_, _| None).unwrap();
    graph.verify().unwrap();
    if let Op::If { then_branch, .. } = &mut graph.nodes[0].op {
        set_type(then_branch, "t", shape!["n", 1]);
    }
    let message = graph.verify().unwrap_err().to_string();
    assert!(
        message.contains("node `y` (if)") && message.contains("then-branch: node `t` (sin)"),
        "{message}"
    );
}
