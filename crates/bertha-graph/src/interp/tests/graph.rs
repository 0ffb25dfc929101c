use super::*;
use crate::interp::Interpreter;
use crate::op::{BinaryOp, ReduceOp, UnaryOp};
use crate::{Graph, Shape, TensorType, shape};

fn floats(shape: Shape) -> TensorType {
    TensorType::new(DType::F32, shape)
}

/// `y = (x + 1) * (x + 1)`, `s = sum(y)`.
fn squares() -> Graph {
    let mut graph = Graph::new("squares");
    let x = graph.add_input("x", floats(shape!["n", 2])).unwrap();
    let one = graph.add_constant("one", TensorData::scalar(1f32)).unwrap();
    graph.add_node("add", Op::Binary(BinaryOp::Add), &[Some(x), Some(one)], &["sum"]).unwrap();
    let sum = graph.find("sum").unwrap();
    graph.add_node("mul", Op::Binary(BinaryOp::Mul), &[Some(sum), Some(sum)], &["y"]).unwrap();
    let y = graph.find("y").unwrap();
    let reduce = Op::Reduce { op: ReduceOp::Sum, keep_dims: false, noop_with_empty_axes: false };
    graph.add_node("total", reduce, &[Some(y)], &["s"]).unwrap();
    graph.add_output("squares", y).unwrap();
    graph.add_output("total", graph.find("s").unwrap()).unwrap();
    graph
}

#[test]
fn graphs_run_by_name() {
    let graph = squares();
    let x = TensorData::from_vec(vec![2, 2], vec![0f32, 1.0, 2.0, -1.0]).unwrap();
    let outputs = Interpreter::new(&graph, Precision::Native).run(&[("x", x.clone())]).unwrap();
    assert_eq!(outputs[0].0, "squares");
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [1.0, 4.0, 9.0, 0.0]);
    assert_eq!(outputs[1].1, TensorData::scalar(14f32));
    let mut seen = Vec::new();
    Interpreter::new(&graph, Precision::F64)
        .run_with(&[("x", x)], |name, _| seen.push(name.to_owned()))
        .unwrap();
    assert_eq!(seen, ["sum", "y", "s"]);
}

#[test]
fn the_oracle_does_not_round() {
    let graph = squares();
    let x = TensorData::from_vec(vec![1, 2], vec![1e-5f32, 0.0]).unwrap();
    let exact = Interpreter::new(&graph, Precision::F64).run_f64(&[("x", x.clone())]).unwrap();
    let expected = (f64::from(1e-5f32) + 1.0).powi(2);
    assert_eq!(exact[0].1.values, [expected, 1.0]);
    let rounded = Interpreter::new(&graph, Precision::Native).run(&[("x", x)]).unwrap();
    assert_eq!(rounded[0].1.as_slice::<f32>().unwrap()[0], (1e-5f32 + 1.0) * (1e-5 + 1.0));
}

#[test]
fn inputs_are_checked() {
    let graph = squares();
    let run = |inputs: &[(&str, TensorData)]| {
        Interpreter::new(&graph, Precision::Native).run(inputs).unwrap_err().to_string()
    };
    let good = TensorData::from_vec(vec![1, 2], vec![0f32; 2]).unwrap();
    assert!(run(&[]).contains("`x`"));
    assert!(run(&[("z", good.clone())]).contains("`z`"));
    assert!(run(&[("x", good.clone()), ("x", good.clone())]).contains("twice"));
    assert!(run(&[("x", TensorData::from_vec(vec![2], vec![0f32; 2]).unwrap())]).contains("f32[n, 2]"));
    assert!(run(&[("x", TensorData::from_vec(vec![1, 3], vec![0f32; 3]).unwrap())]).contains("[1, 3]"));
    assert!(run(&[("x", TensorData::from_vec(vec![1, 2], vec![0f64; 2]).unwrap())]).contains("f64"));
}

#[test]
fn symbols_must_agree_between_inputs() {
    let mut graph = Graph::new("two");
    let a = graph.add_input("a", floats(shape!["n"])).unwrap();
    let b = graph.add_input("b", floats(shape!["n"])).unwrap();
    graph.add_node("add", Op::Binary(BinaryOp::Add), &[Some(a), Some(b)], &["y"]).unwrap();
    graph.add_output("y", graph.find("y").unwrap()).unwrap();
    let inputs = [("a", TensorData::vector(vec![1f32, 2.0])), ("b", TensorData::vector(vec![1f32]))];
    let error = Interpreter::new(&graph, Precision::Native).run(&inputs).unwrap_err().to_string();
    assert!(error.contains("`b`") && error.contains("n = 2"), "{error}");
}

#[test]
fn failing_nodes_are_named() {
    let mut graph = Graph::new("gather");
    let at = graph.add_input("at", TensorType::new(DType::I64, shape!["n"])).unwrap();
    let table = graph.add_constant("table", TensorData::vector(vec![1f32, 2.0])).unwrap();
    graph.add_node("look up", Op::Gather { axis: 0 }, &[Some(table), Some(at)], &["y"]).unwrap();
    graph.add_output("y", graph.find("y").unwrap()).unwrap();
    let inputs = [("at", TensorData::vector(vec![0i64, 2]))];
    let error = Interpreter::new(&graph, Precision::Native).run(&inputs).unwrap_err().to_string();
    for part in ["look up", "gather", "`at`", "`table`", "index 2"] {
        assert!(error.contains(part), "{error:?} does not tell {part:?}");
    }
}

#[test]
fn branches_take_captured_tensors() {
    let branch = |op| {
        let mut graph = Graph::new("branch");
        let x = graph.add_input("inner", floats(shape!["n"])).unwrap();
        graph.add_node("op", Op::Unary(op), &[Some(x)], &["out"]).unwrap();
        graph.add_output("out", graph.find("out").unwrap()).unwrap();
        Box::new(graph)
    };
    let op = Op::If { then_branch: branch(UnaryOp::Neg), else_branch: branch(UnaryOp::Abs) };
    let x = f32s(&[2], &[-1.0, 2.0]);
    assert_eq!(result(&op, &[&booleans(&[], &[true]), &x]), f32s(&[2], &[1.0, -2.0]));
    assert_eq!(result(&op, &[&booleans(&[1], &[false]), &x]), f32s(&[2], &[1.0, 2.0]));
    assert!(eval(&op, &[Some(&booleans(&[], &[true]))], Precision::Native).is_err());
    assert!(eval(&op, &[Some(&x), Some(&x)], Precision::Native).is_err());
}
