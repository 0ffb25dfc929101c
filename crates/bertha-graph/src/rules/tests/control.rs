use super::*;
use crate::graph::Graph;
use crate::op::UnaryOp;

/// A branch that applies `op` to its one input and the given constants.
fn branch(input: &str, op: Op, constants: Vec<TensorData>) -> Box<Graph> {
    let mut graph = Graph::new("branch");
    let mut operands = vec![Some(graph.add_input("x", ty(input)).unwrap())];
    for (index, data) in constants.into_iter().enumerate() {
        operands.push(Some(graph.add_constant(format!("c{index}"), data).unwrap()));
    }
    graph.add_node("node", op, &operands, &["y"]).unwrap();
    let y = graph.find("y").unwrap();
    graph.add_output("y", y).unwrap();
    Box::new(graph)
}

fn identity(input: &str) -> Box<Graph> {
    branch(input, Op::Unary(UnaryOp::Identity), vec![])
}

fn condition(holds: bool) -> Option<Fact> {
    c(TensorData::from_bools(vec![], &[holds]).unwrap())
}

#[test]
fn branches_are_merged() {
    let squeeze = || branch("f32[b, 1, s]", Op::Squeeze, vec![TensorData::vector(vec![1i64])]);
    let op = |a, b| Op::If { then_branch: a, else_branch: b };
    let x = || t("f32[b, 1, s]");
    let same = || op(identity("f32[b, 1, s]"), identity("f32[b, 1, s]"));
    assert_eq!(types(same(), &[t("bool[]"), x()]), "f32[b, 1, s]");
    refused(
        op(squeeze(), identity("f32[b, 1, s]")),
        &[t("bool[]"), x()],
        &["f32[b, s]", "f32[b, 1, s]", "rank"],
    );
    assert_eq!(types(op(squeeze(), identity("f32[b, 1, s]")), &[condition(true), x()]), "f32[b, s]");
    assert_eq!(types(op(squeeze(), identity("f32[b, 1, s]")), &[condition(false), x()]), "f32[b, 1, s]");
    let transposed = branch("f32[b, s]", Op::Transpose { perm: vec![1, 0] }, vec![]);
    assert_eq!(types(op(transposed, identity("f32[b, s]")), &[t("bool[1]"), t("f32[b, s]")]), "f32[?0, ?1]");
}

#[test]
fn captured_tensors_must_fit() {
    let op = || Op::If { then_branch: identity("f32[b]"), else_branch: identity("f32[b]") };
    refused(op(), &[t("i64[]"), t("f32[b]")], &["bool", "condition"]);
    refused(op(), &[t("bool[2]"), t("f32[b]")], &["single element"]);
    refused(op(), &[], &["missing"]);
    refused(op(), &[t("bool[]"), t("i64[b]")], &["then-branch", "f32[b]", "i64[b]", "`x`"]);
    refused(op(), &[t("bool[]")], &["takes 1 tensors, but 0 are captured"]);
    // What is known outside is known inside.
    let captured = Op::If { then_branch: identity("i64[n]"), else_branch: identity("i64[n]") };
    assert_eq!(value(captured, &[t("bool[]"), v("seq, 3")]), "seq, 3");
}

#[test]
fn data_dependent_sizes_of_a_branch_are_its_own() {
    let mut graph = Graph::new("branch");
    let x = graph.add_input("x", ty("f32[?0]")).unwrap();
    let shape = graph.add_input("shape", ty("i64[2]")).unwrap();
    graph.add_node("node", Op::Reshape { allow_zero: false }, &[Some(x), Some(shape)], &["y"]).unwrap();
    let y = graph.find("y").unwrap();
    assert_eq!(graph.tensor(y).ty.to_string(), "f32[?1, ?2]");
}
