use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::interp::{Interpreter, Precision};
use crate::{DType, Dim, Graph, Op, TensorData, TensorType, text};

/// `y = factor * x`, then `repeats` copies of it, with whatever else a test wants it to say.
struct Scale {
    declaration: Declaration,
    shapes: Option<Vec<Vec<usize>>>,
    reference_shape: Option<Vec<usize>>,
    cuda: Option<CudaSource>,
}

impl Scale {
    fn new(signature: &str) -> Self {
        let declaration = Declaration {
            name: "scale".into(),
            version: 2,
            op_type: "Scale".into(),
            signature: signature.into(),
            fields: vec![
                FieldSpec::with_default("factor", Field::Float(2.0)).within(0.0, 10.0),
                FieldSpec::with_default("repeats", Field::Int(1)).within(1.0, 4.0),
            ],
            ..Declaration::default()
        };
        Scale { declaration, shapes: None, reference_shape: None, cuda: None }
    }
}

impl Plugin for Scale {
    fn declaration(&self) -> Declaration {
        self.declaration.clone()
    }

    fn shapes(&self, _: &Fields, _: &[Option<&[usize]>]) -> Option<Result<Vec<Vec<usize>>, String>> {
        self.shapes.clone().map(Ok)
    }

    fn reference(&self, fields: &Fields, inputs: &[Option<&F64Tensor>]) -> Result<Vec<F64Tensor>, String> {
        let x = inputs.first().copied().flatten().ok_or("no x")?;
        if x.values.contains(&13.0) {
            panic!("13 brings bad luck");
        }
        let factor = fields.float("factor")?;
        let shape = self.reference_shape.clone().unwrap_or_else(|| x.shape.clone());
        Ok(vec![F64Tensor { shape, values: x.values.iter().map(|v| v * factor).collect() }])
    }

    fn cuda(&self) -> Option<CudaSource> {
        self.cuda.clone()
    }

    fn run(
        &self,
        fields: &Fields,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [Option<TensorViewMut<'_>>],
        _: &mut dyn Parallel,
    ) -> Result<(), String> {
        let factor = fields.float("factor")? as f32;
        let x = inputs[0].ok_or("no x")?.as_slice::<f32>()?;
        let y = outputs[0].as_mut().ok_or("no y")?.as_mut_slice::<f32>()?;
        y.iter_mut().zip(x).for_each(|(y, x)| *y = x * factor);
        Ok(())
    }
}

const SAME: &str = "x: T[...] -> y: T[...]; T = f32 | f16";

fn def(plugin: Scale) -> Arc<PluginDef> {
    PluginSet::new().add(plugin).unwrap()
}

fn ty(text: &str) -> TensorType {
    let (dtype, dims) = text.split_once('[').unwrap();
    let dims = dims.trim_end_matches(']').split(',').filter(|dim| !dim.is_empty());
    TensorType::new(dtype.parse().unwrap(), crate::Shape(dims.map(|dim| dim.parse().unwrap()).collect()))
}

/// The types of the results, or the error.
fn types(signature: &str, inputs: &[Option<&str>]) -> Result<String, String> {
    let signature = Signature::parse(signature, &["heads"])?;
    let inputs: Vec<Option<TensorType>> = inputs.iter().map(|input| input.map(ty)).collect();
    let inputs: Vec<Option<&TensorType>> = inputs.iter().map(Option::as_ref).collect();
    let binding = signature.bind(&[("heads", 3)], &inputs)?;
    let results = signature.results(&binding)?.into_iter().map(|(dtype, dims)| {
        let dims: Vec<String> = dims.iter().map(|d| d.as_ref().map_or("?".into(), Dim::to_string)).collect();
        format!("{dtype}[{}]", dims.join(", "))
    });
    Ok(results.collect::<Vec<_>>().join("; "))
}

#[test]
fn signatures_infer_types() {
    let norm = "x: T[..., hidden], gamma: T[hidden], beta?: T[hidden] -> y: T[..., hidden]; T = f32 | f16";
    let of = |inputs: &[&str]| types(norm, &inputs.iter().copied().map(Some).collect::<Vec<_>>());
    assert_eq!(of(&["f32[b, s, 256]", "f32[256]", "f32[256]"]).unwrap(), "f32[b, s, 256]");
    assert_eq!(of(&["f16[2*b + 1, h]", "f16[h]"]).unwrap(), "f16[2*b + 1, h]");
    // A symbol that meets a number is that number.
    assert_eq!(of(&["f32[b, h]", "f32[256]"]).unwrap(), "f32[b, 256]");
    assert_eq!(types(norm, &[Some("f32[4]"), Some("f32[4]"), None]).unwrap(), "f32[4]");
    let heads = "x: f32[...rows, hidden], w: f32[heads, hidden] -> y: f32[...rows, 2*heads*hidden + 1, ?]";
    assert_eq!(types(heads, &[Some("f32[t, 5]"), Some("f32[3, 5]")]).unwrap(), "f32[t, 31, ?]");
    let two = "x: i64[n] -> a: i64[n], b: bool[]";
    assert_eq!(types(two, &[Some("i64[7]")]).unwrap(), "i64[7]; bool[]");
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let norm = "x: T[..., hidden], gamma: T[hidden], beta?: T[hidden] -> y: T[..., hidden]; T = f32 | f16";
    for (inputs, parts) in [
        (vec![Some("f32[b, 8]"), None], vec!["operand 1 (`gamma`) is missing"]),
        (vec![Some("f32[b, 8]"), Some("f32[9]")], vec!["`gamma`", "f32[9]", "`hidden` = 8", "found 9"]),
        (vec![Some("f32[b, 8]"), Some("f16[8]")], vec!["`gamma`", "expected f32"]),
        (vec![Some("i64[b, 8]"), Some("i64[8]")], vec!["`x`", "T = f32 or f16"]),
        (vec![Some("f32[]"), Some("f32[8]")], vec!["`x`", "at least 1 dimensions"]),
        (vec![Some("f32[8]"), Some("f32[1, 8]")], vec!["`gamma`", "expected 1 dimensions"]),
        (vec![Some("f32[8]"); 4], vec!["4 operands", "at most 3"]),
    ] {
        let error = types(norm, &inputs).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let heads = "x: f32[heads, n], z: f32[n, 2] -> y: f32[n]";
    assert!(types(heads, &[Some("f32[4, n]"), Some("f32[n, 2]")]).unwrap_err().contains("`heads` = 3"));
    assert!(types(heads, &[Some("f32[3, n]"), Some("f32[n, 3]")]).unwrap_err().contains("dimension of 2"));
    let run = "x: f32[...], z: f32[...] -> y: f32[...]";
    assert!(types(run, &[Some("f32[4, n]"), Some("f32[4]")]).unwrap_err().contains("[4, n]"));
}

#[test]
fn signatures_that_make_no_sense_are_refused() {
    for (signature, part) in [
        ("x: f32[n]", "no `->`"),
        ("x: f32[n] -> ", "0 results"),
        ("x: f32[n] -> y f32[n]", "name: dtype[dims]"),
        ("x: f33[n] -> y: f32[n]", "`f33` is neither a dtype"),
        ("x: T[n] -> y: T[n]; T", "`T` is not of the form"),
        ("x: T[n] -> y: T[n]; T = f32 | q8", "q8"),
        ("x: f32[n -> y: f32[n]", "not closed"),
        ("x: f32[n]] -> y: f32[n]", "bracket too many"),
        ("x: f32[n] -> x: f32[n]", "called `x`"),
        ("x: f32[n] -> y: f32[m]", "`m`"),
        ("x?: f32[n] -> y: f32[n]", "`n`"),
        ("x?: T[n] -> y: T[2]; T = f32", "dtype T"),
        ("x: f32[n] -> y: f32[...]", "`...`"),
        ("x: f32[..., n, ...m] -> y: f32[n]", "at most one run"),
        ("x: f32[-1] -> y: f32[2]", "below 0"),
        ("x: f32[n], -> y: f32[n]", "name: dtype[dims]"),
    ] {
        let error = Signature::parse(signature, &[]).unwrap_err();
        assert!(error.contains(part), "{signature}: {error}");
    }
    assert!(Signature::parse(&"x".repeat(5000), &[]).unwrap_err().contains("longer"));
}

#[test]
fn declarations_are_checked_when_added() {
    let with = |change: fn(&mut Declaration)| {
        let mut plugin = Scale::new(SAME);
        change(&mut plugin.declaration);
        PluginSet::new().add(plugin).map(drop).unwrap_err().to_string()
    };
    assert!(with(|d| d.name = "a b".into()).contains("its name"));
    assert!(with(|d| d.op_type.clear()).contains("op type"));
    assert!(with(|d| d.signature.clear()).contains("plugin `scale`"));
    assert!(with(|d| d.fields[0].name = "factor 1".into()).contains("`factor 1`"));
    assert!(with(|d| d.fields[1].name = "factor".into()).contains("`factor` twice"));
    assert!(with(|d| d.fields[0].min = 3.0).contains("default of field `factor` is 2.0"));
    assert!(with(|d| d.fields[0].max = f64::NAN).contains("nothing is within"));
}

#[test]
fn fields_are_checked() {
    let def = def(Scale::new(SAME));
    let with = |name: &str, field| def.op(BTreeMap::from([(name.to_owned(), field)]));
    assert_eq!(def.op(BTreeMap::new()).unwrap().fields().float("factor"), Ok(2.0));
    assert_eq!(with("factor", Field::Int(3)).unwrap().fields().float("factor"), Ok(3.0));
    assert_eq!(with("repeats", Field::Int(4)).unwrap().fields().int("repeats"), Ok(4));
    for (name, field, part) in [
        ("repeats", Field::Float(1.0), "takes int, not float"),
        ("factor", Field::Text("1".into()), "takes float, not text"),
        ("factor", Field::Float(10.5), "10.5, outside of 0.0 to 10.0"),
        ("factor", Field::Float(f64::NAN), "outside"),
        ("factr", Field::Float(1.0), "no field `factr`; the fields are: factor, repeats"),
    ] {
        let error = with(name, field).unwrap_err();
        assert!(error.contains("plugin `scale`") && error.contains(part), "{error}");
    }
    let required = FieldSpec::required("axis", FieldKind::Ints);
    assert!(Fields::new(&[required], BTreeMap::new()).unwrap_err().contains("`axis` (ints) is missing"));
}

#[test]
fn sets_tell_plugins_apart() {
    let mut set = PluginSet::new();
    set.add(Scale::new(SAME)).unwrap();
    let twice = set.add(Scale::new(SAME)).map(drop).unwrap_err().to_string();
    assert!(twice.contains("`scale` version 2 is there twice"), "{twice}");
    let mut newer = Scale::new(SAME);
    newer.declaration.version = 5;
    set.add(newer).unwrap();
    assert_eq!(set.for_onnx("", "Scale").unwrap().version(), 5);
    assert!(set.for_onnx("other", "Scale").is_none());
    let mut other = Scale::new(SAME);
    other.declaration.name = "rescale".into();
    let contested = set.add(other).map(drop).unwrap_err().to_string();
    assert!(
        contested.contains("`rescale`") && contested.contains("`scale`") && contested.contains("nodes Scale")
    );
    assert!(set.find("scale", 3).is_none());
    assert!(set.missing("scale", 3).contains("loaded: version 2, 5"));
    let library = |hash: &str| Library { file: "l.so".into(), abi: 1, hash: hash.into() };
    let mut loaded = PluginSet::new();
    loaded.add_from(Some(library("a")), Box::new(Scale::new(SAME))).unwrap();
    loaded.add_from(Some(library("a")), Box::new(Scale::new(SAME))).unwrap();
    assert_eq!(loaded.len(), 1);
    assert!(loaded.add_from(Some(library("b")), Box::new(Scale::new(SAME))).is_err());
}

fn graph_of(def: &Arc<PluginDef>, x: &str) -> Result<Graph, crate::GraphError> {
    let mut graph = Graph::new("test");
    let x = graph.add_input("x", ty(x))?;
    let op = Op::Plugin(def.op(BTreeMap::new()).unwrap());
    graph.add_node("scaled", op, &[Some(x)], &["y"])?;
    graph.add_output("y", graph.find("y").unwrap())?;
    Ok(graph)
}

#[test]
fn the_reference_runs_and_the_text_round_trips() {
    let mut set = PluginSet::new();
    let def = set.add(Scale::new(SAME)).unwrap();
    let graph = graph_of(&def, "f32[n]").unwrap();
    graph.verify().unwrap();
    let printed = graph.to_text();
    let read = text::parse_with(&printed, &set, &mut |_, _| None).unwrap();
    assert_eq!(read, graph);
    let alone = text::parse(&printed, &mut |_, _| None).unwrap_err().to_string();
    assert!(
        alone.contains("plugin `scale` version 2 is not loaded") && alone.contains("--plugin"),
        "{alone}"
    );
    let bad = text::parse_with(&printed.replace("2.0", "77.0"), &set, &mut |_, _| None).unwrap_err();
    assert!(bad.message.contains("field `factor` is 77.0"), "{bad}");
    let x = TensorData::vector(vec![1f32, -3.0]);
    let outputs = Interpreter::new(&read, Precision::Native).run(&[("x", x)]).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [2.0, -6.0]);
    let unlucky = Interpreter::new(&read, Precision::F64).run(&[("x", TensorData::vector(vec![13f32]))]);
    let error = unlucky.unwrap_err().to_string();
    assert!(error.contains("`scaled`") && error.contains("it panicked: 13 brings bad luck"), "{error}");
}

#[test]
fn a_rule_that_lies_is_found() {
    // With sizes known, the rule is asked while the graph is made.
    let mut lying = Scale::new(SAME);
    lying.shapes = Some(vec![vec![3]]);
    let lying = def(lying);
    let error = graph_of(&lying, "f32[2]").unwrap_err().to_string();
    for part in ["`scaled`", "result 0 (`y`) must be [2]", "its shape rule says [3]"] {
        assert!(error.contains(part), "{error}");
    }
    // With symbols, when it runs.
    let graph = graph_of(&lying, "f32[n]").unwrap();
    let run = Interpreter::new(&graph, Precision::F64).run(&[("x", TensorData::vector(vec![1f32, 2.0]))]);
    assert!(run.unwrap_err().to_string().contains("its shape rule says [3]"));
    let op = lying.op(BTreeMap::new()).unwrap();
    let (x, mut y) = ([1f32, 2.0], [0f32; 2]);
    let view = TensorView { dtype: DType::F32, shape: &[2], bytes: bytemuck::cast_slice(&x) };
    let result = TensorViewMut { dtype: DType::F32, shape: &[2], bytes: bytemuck::cast_slice_mut(&mut y) };
    let error = op.run(&[Some(view)], &mut [Some(result)], &mut Sequential).unwrap_err();
    assert!(error.contains("planned as [2]") && error.contains("[3]"), "{error}");
    // And so is a reference of another shape.
    let mut other = Scale::new(SAME);
    other.reference_shape = Some(vec![1, 2]);
    let graph = graph_of(&def(other), "f32[n]").unwrap();
    let run = Interpreter::new(&graph, Precision::F64).run(&[("x", TensorData::vector(vec![1f32, 2.0]))]);
    assert!(run.unwrap_err().to_string().contains("its reference says [1, 2]"));
}

#[test]
fn open_dimensions_come_from_the_rule() {
    let mut plugin = Scale::new("x: f32[n] -> y: f32[?]");
    plugin.shapes = Some(vec![vec![2]]);
    let graph = graph_of(&def(plugin), "f32[n]").unwrap();
    assert_eq!(graph.tensor(graph.find("y").unwrap()).ty.to_string(), "f32[?0]");
    let known = graph.specialize(&[ty("f32[2]")]).unwrap();
    assert_eq!(known.tensor(known.find("y").unwrap()).ty.to_string(), "f32[2]");
    let silent = def(Scale::new("x: f32[n] -> y: f32[?]"));
    assert!(graph_of(&silent, "f32[2]").unwrap_err().to_string().contains("leaves a dimension open"));
}

#[test]
fn cuda_sources_are_checked_and_launched_by_the_signature() {
    let source = CudaSource {
        source: "extern \"C\" __global__ void scale_f32() {}".into(),
        entry: "scale_{T}".into(),
        block: 128,
        items: "2*rows*width".into(),
        items_per_block: 64,
        shared_bytes: 0,
    };
    let signature = "x: T[...rows, width] -> y: T[...rows, width]; T = f32 | f16";
    let with = |change: fn(&mut CudaSource)| {
        let mut plugin = Scale::new(signature);
        let mut cuda = source.clone();
        change(&mut cuda);
        plugin.cuda = Some(cuda);
        PluginSet::new().add(plugin)
    };
    let def = with(|_| ()).unwrap();
    let op = def.op(BTreeMap::new()).unwrap();
    let binding = op.bind(&[Some(&ty("f16[b, 3, 8]"))]).unwrap();
    let cuda = def.cuda().unwrap();
    assert_eq!(cuda.entry_of(def.signature(), &binding), "scale_f16");
    assert_eq!(cuda.items_of(&binding).unwrap(), "48*b".parse().unwrap());
    let refusal = |change| with(change).map(drop).unwrap_err().to_string();
    assert!(refusal(|cuda| cuda.source.clear()).contains("source is empty"));
    assert!(refusal(|cuda| cuda.block = 2048).contains("2048 threads"));
    assert!(refusal(|cuda| cuda.items_per_block = 0).contains("0 items"));
    assert!(refusal(|cuda| cuda.items = "rows*height".into()).contains("no `height`"));
    assert!(refusal(|cuda| cuda.items = "rows //".into()).contains("`rows //`"));
    assert!(refusal(|cuda| cuda.entry = "scale_{U}".into()).contains("no dtype variable `U`"));
    assert!(refusal(|cuda| cuda.entry.clear()).contains("no name"));
}
