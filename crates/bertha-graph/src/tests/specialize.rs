use proptest::prelude::*;

use super::{graph, ty};
use crate::{DType, Graph, GraphError, Origin, TensorType};

/// The specialised graph, verified, and the lines of its text without braces.
fn specialized(graph: &Graph, types: &[&str]) -> (Graph, String) {
    let types: Vec<TensorType> = types.iter().map(|text| ty(text)).collect();
    let special = graph.specialize(&types).unwrap_or_else(|error| panic!("{error}\n{graph}"));
    special.verify().unwrap_or_else(|error| panic!("{error}\n{special}"));
    let read = crate::text::parse(&special.to_text(), &mut |_, _| None).unwrap();
    assert_eq!(read, special);
    let text = special.to_text();
    let lines = text.trim().strip_prefix("graph g {\n").unwrap().strip_suffix("\n}").unwrap();
    let lines = lines.lines().map(|line| line.strip_prefix("  ").unwrap()).collect::<Vec<_>>().join("\n");
    (special, lines)
}

/// Heads are split as exporters do it: by shape arithmetic in the graph.
const SPLIT_HEADS: &str = r#"
  input %x: f32[batch, seq, 768]
  const %weight: f32[1] = [2.0]
  %shape: i64[3] = shape(%x) {start: 0, end: none}
  const %zero: i64[] = 0
  const %one: i64[] = 1
  const %axes: i64[1] = [0]
  %b: i64[] = gather(%shape, %zero) {axis: 0}
  %b1: i64[1] = unsqueeze(%b, %axes)
  %s: i64[] = gather(%shape, %one) {axis: 0}
  %s1: i64[1] = unsqueeze(%s, %axes)
  const %heads: i64[2] = [12, 64]
  %split_shape: i64[4] = concat(%b1, %s1, %heads) {axis: 0}
  %scaled: f32[batch, seq, 768] = mul(%x, %weight) from ["/Mul"]
  %split: f32[batch, seq, 12, 64] = reshape(%scaled, %split_shape) {allow_zero: false}
  output y = %split
"#;

#[test]
fn shape_arithmetic_becomes_a_constant() {
    let (_, text) = specialized(&graph(SPLIT_HEADS), &["f32[2, 7, 768]"]);
    let expected = r#"input %x: f32[2, 7, 768]
const %weight: f32[1] = [2.0]
const %split_shape: i64[4] = [2, 7, 12, 64]
%scaled: f32[2, 7, 768] = mul(%x, %weight) from ["/Mul"]
%split: f32[2, 7, 12, 64] = reshape(%scaled, %split_shape) {allow_zero: false}
output y = %split"#;
    assert_eq!(text, expected);
}

#[test]
fn weights_are_shared() {
    let original = graph(SPLIT_HEADS);
    let (special, _) = specialized(&original, &["f32[1, 1, 768]"]);
    let bytes = |graph: &Graph| match &graph.tensor(graph.find("weight").unwrap()).origin {
        Origin::Constant(data) => data.bytes().as_ptr(),
        other => panic!("{other:?}"),
    };
    assert_eq!(bytes(&original), bytes(&special));
}

#[test]
fn inputs_must_agree_with_what_is_declared() {
    let graph = graph(
        "input %ids: i64[batch, seq]\n input %mask: f32[batch, seq]\n input %cu: i32[batch + 1]\n input %fixed: f32[2*n, 3]",
    );
    let specialize = |types: [&str; 4]| graph.specialize(&types.map(ty)).map_err(|error| error.to_string());
    let fits = specialize(["i64[2, 5]", "f32[2, 5]", "i32[3]", "f32[8, 3]"]).unwrap();
    assert_eq!(fits.tensor(fits.inputs()[1]).ty, ty("f32[2, 5]"));
    let refused = |types, expected: &[&str]| {
        let message = specialize(types).unwrap_err();
        for part in expected {
            assert!(message.contains(part), "{message:?} does not hold {part:?}");
        }
    };
    let (ids, mask, cu, fixed) = ("i64[2, 5]", "f32[2, 5]", "i32[3]", "f32[8, 3]");
    refused(["i32[2, 5]", mask, cu, fixed], &["`ids`: expected i64[batch, seq], got i32[2, 5]"]);
    refused(["i64[2]", mask, cu, fixed], &["`ids`", "i64[2]", "numbers of dimensions"]);
    refused(
        [ids, "f32[2, 6]", cu, fixed],
        &["`mask`", "f32[batch, seq]", "f32[2, 6]", "seq, is 5 elsewhere"],
    );
    refused([ids, mask, "i32[4]", fixed], &["`cu`", "batch + 1, is 3 elsewhere"]);
    refused([ids, mask, cu, "f32[8, 4]"], &["`fixed`", "dimension 1 must be 3"]);
    refused([ids, mask, cu, "f32[7, 3]"], &["`fixed`", "dimension 0 cannot be 2*n"]);
    refused(["i64[batch, 5]", mask, cu, fixed], &["`ids`", "dimension 0 is not a size"]);
    assert_eq!(graph.specialize(&[]), Err(GraphError::InputCount { expected: 4, found: 0 }));
    let bound = graph.bind_inputs(&[ids, mask, cu, fixed].map(ty)).unwrap();
    let bound: Vec<_> = bound.iter().map(|(name, value)| (&**name, *value)).collect();
    assert_eq!(bound, [("batch", 2), ("n", 4), ("seq", 5)]);
}

#[test]
fn nodes_that_cannot_work_on_the_shapes_are_named() {
    let graph = graph("input %a: f32[n]\n input %b: f32[m]\n %sum = add(%a, %b)\n output y = %sum");
    specialized(&graph, &["f32[3]", "f32[1]"]);
    let error = graph.specialize(&[ty("f32[3]"), ty("f32[4]")]).unwrap_err().to_string();
    assert!(error.contains("node `sum` (add)") && error.contains("[3] and [4]"), "{error}");
}

const CHOOSE: &str = r#"
  input %x: f32[batch, seq]
  const %one: i64[] = 1
  %shape = shape(%x) {start: 1, end: none}
  const %axes: i64[1] = [0]
  %seq = squeeze(%shape, %axes)
  %single = equal(%seq, %one)
  %picked = if(%single, %x, %shape) @choose
    then graph then_branch {
      input %x: f32[batch, seq]
      input %shape: i64[1]
      %inner = tanh(%x) @inner
      %result = neg(%inner) @negate
      output result = %result
    }
    else graph else_branch {
      input %x: f32[batch, seq]
      input %shape: i64[1]
      output result = %x
    }
  %y = relu(%picked)
  output y = %y
  output picked = %picked
"#;

#[test]
fn a_known_condition_leaves_one_branch() {
    let graph = graph(CHOOSE);
    let (_, text) = specialized(&graph, &["f32[4, 1]"]);
    let expected = r#"input %x: f32[4, 1]
%"choose/inner": f32[4, 1] = tanh(%x)
%picked: f32[4, 1] = neg(%"choose/inner") @"choose/negate"
%y: f32[4, 1] = relu(%picked)
output y = %y
output picked = %picked"#;
    assert_eq!(text, expected);
    let (_, text) = specialized(&graph, &["f32[4, 9]"]);
    assert_eq!(text, "input %x: f32[4, 9]\n%y: f32[4, 9] = relu(%x)\noutput y = %y\noutput picked = %x");
}

#[test]
fn inlined_names_give_way_to_those_outside() {
    let taken = CHOOSE
        .replace("%single = equal", "%\"choose/inner\" = tanh(%x) @\"choose/negate\"\n %single = equal")
        .replace("output picked", "output other = %\"choose/inner\"\n output picked");
    let (_, text) = specialized(&graph(&taken), &["f32[4, 1]"]);
    assert!(text.contains(r#"%"choose/inner_2": f32[4, 1] = tanh(%x) @"choose/inner""#), "{text}");
    assert!(text.contains(r#"%picked: f32[4, 1] = neg(%"choose/inner_2") @"choose/negate_2""#), "{text}");
}

#[test]
fn branches_that_stay_are_specialised() {
    let lines = CHOOSE
        .replace("%single = equal(%seq, %one)", "")
        .replace("const %one", "input %single: bool[]\n  const %one")
        .replace("neg(%inner)", "expand(%inner, %size)")
        .replace("%inner = tanh", "%batch = shape(%x) {start: 0, end: 1}\n %size = concat(%batch, %shape) {axis: 0}\n %inner = tanh");
    let (_, text) = specialized(&graph(&lines), &["f32[4, 9]", "bool[]"]);
    let expected = r#"%picked: f32[4, 9] = if(%single, %x) @choose then graph then_branch {
  input %x: f32[4, 9]
  const %size: i64[2] = [4, 9]
  %inner: f32[4, 9] = tanh(%x)
  %result: f32[4, 9] = expand(%inner, %size) @negate
  output result = %result
} else graph else_branch {
  input %x: f32[4, 9]
  output result = %x
}"#;
    assert!(text.contains(expected), "{text}");
}

#[test]
fn nested_branches_are_inlined() {
    let lines = r#"
      input %x: f32[n]
      const %yes: bool[] = true
      %y = if(%yes, %x, %yes) @outer
        then graph a {
          input %x: f32[n]
          input %yes: bool[]
          %r = if(%yes, %x) @inner
            then graph b { input %x: f32[n] %t = sin(%x) %r = cos(%t) output r = %r }
            else graph c { input %x: f32[n] output r = %x }
          output r = %r
        }
        else graph d { input %x: f32[n] input %yes: bool[] output r = %x }
      output y = %y"#;
    let (_, text) = specialized(&graph(lines), &["f32[3]"]);
    let expected = r#"input %x: f32[3]
%"outer/inner/t": f32[3] = sin(%x)
%y: f32[3] = cos(%"outer/inner/t") @"outer/inner/r"
output y = %y"#;
    assert_eq!(text, expected);
}

#[test]
fn data_dependent_sizes_stay_symbols() {
    let lines = r#"
      input %x: f32[n, 4]
      input %sizes: i64[2]
      %dead = reshape(%x, %sizes) {allow_zero: false}
      %y = reshape(%x, %sizes) {allow_zero: false}
      %z = concat(%y, %y) {axis: 0}
      output z = %z"#;
    let (special, _) = specialized(&graph(lines), &["f32[3, 4]", "i64[2]"]);
    assert_eq!(special.tensor(special.find("z").unwrap()).ty.to_string(), "f32[2*?0, ?1]");
    assert_eq!(special.find("dead"), None);
}

#[test]
fn an_output_that_is_known_becomes_a_constant() {
    let lines = "input %x: f32[n, 4]\n %s = shape(%x) {start: 0, end: none}\n %c = cast(%s) {to: i32}\n output size = %c";
    let (_, text) = specialized(&graph(lines), &["f32[3, 4]"]);
    assert_eq!(text, "input %x: f32[3, 4]\nconst %c: i32[2] = [3, 4]\noutput size = %c");
}

/// What must hold for any sizes: the types are those of the symbolic graph with the symbols bound.
fn bound_types_agree(lines: &str, sizes: &[(&str, i64)]) -> Result<(), TestCaseError> {
    let graph = graph(lines);
    let bindings = sizes.iter().map(|(name, size)| ((*name).into(), *size)).collect();
    let types: Vec<TensorType> = graph
        .inputs()
        .iter()
        .map(|id| graph.tensor(*id).ty.clone())
        .map(|ty| TensorType::new(ty.dtype, ty.shape.substitute(&bindings)))
        .collect();
    let special = graph.specialize(&types).unwrap();
    for tensor in special.tensors() {
        let symbolic = &graph.tensor(graph.find(&tensor.name).unwrap()).ty;
        prop_assert_eq!(&tensor.ty.shape, &symbolic.shape.substitute(&bindings));
    }
    prop_assert!(
        special.tensors().iter().all(|tensor| tensor.ty.dtype != DType::I64 || tensor.constant().is_some())
    );
    Ok(())
}

proptest! {
    #[test]
    fn specialising_binds_the_symbols(batch in 0i64..5, seq in 0i64..5) {
        bound_types_agree(SPLIT_HEADS, &[("batch", batch), ("seq", seq)])?;
    }
}
