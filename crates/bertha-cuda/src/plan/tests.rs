use std::collections::BTreeSet;

use bertha_graph::{DType, Dim, Shape, TensorType};

use super::stored::{StoredPlan, StoredTactic, StoredWeight};
use super::*;
use crate::models::{EncoderConfig, Head};
use crate::program::lower;
use crate::program::{CudaStep, Place};

/// The smallest file that is a cubin to `elf::check`.
fn image() -> Bytes {
    let mut image = vec![0u8; 64];
    image[..6].copy_from_slice(b"\x7fELF\x02\x01");
    image[18..20].copy_from_slice(&190u16.to_le_bytes());
    image.into()
}

fn graph() -> Graph {
    let mut config = EncoderConfig::named("minilm-l6").unwrap();
    config.layers = 1;
    config.vocabulary = 50;
    config.relative = true;
    config.heads_on_top = vec![Head::Pooler, Head::QuestionAnswering];
    let model = config.build(1).unwrap();
    bertha_compile::optimize_model(&model).unwrap().0.graph
}

/// A plan whose machine code is none, which is enough to write and read it.
fn plan(graph: &Graph) -> CudaPlan {
    let (arch, precision, multiprocessors) = (Arch::Sm90a, Precision::F16, 132);
    let lowered = build::checked(graph, arch, precision).unwrap();
    let kernels = lowered.kernels_in(&everywhere(arch, multiprocessors));
    let program = lowered.program;
    let cubins = kernels.iter().map(|kernel| (kernel.to_string(), image())).collect();
    let weights =
        program.weights.iter().map(|plan| weights::convert(graph, plan, precision).unwrap()).collect();
    CudaPlan { arch, precision, multiprocessors, program, graph: None, cubins, weights }
}

/// The list and the blob, as an engine file holds them.
fn stored(plan: &CudaPlan) -> (StoredPlan, Bytes) {
    let (stored, pieces) = plan.to_stored();
    let mut blob = Vec::new();
    for piece in pieces {
        blob.resize(blob.len().next_multiple_of(256), 0);
        blob.extend_from_slice(&piece);
    }
    (stored, blob.into())
}

fn refusal(graph: &Graph, stored: StoredPlan, blob: &Bytes) -> String {
    CudaPlan::from_stored(graph, stored, blob).unwrap_err().to_string()
}

#[test]
fn a_plan_comes_back_as_it_was_written() {
    let graph = graph();
    let plan = plan(&graph);
    let (stored, blob) = stored(&plan);
    let json = serde_json::to_vec(&stored).unwrap();
    let read: StoredPlan = serde_json::from_slice(&json).unwrap();
    assert_eq!(read, stored);
    let back = CudaPlan::from_stored(&graph, read, &blob).unwrap();
    assert_eq!(back.weights, plan.weights);
    assert_eq!(back.cubins, plan.cubins);
    assert_eq!((back.target(), back.multiprocessors), ("cuda-sm_90a-f16".to_owned(), 132));
}

#[test]
fn whatever_does_not_fit_is_refused_with_its_name() {
    let graph = graph();
    let (good, blob) = stored(&plan(&graph));
    let with = |change: &dyn Fn(&mut StoredPlan)| {
        let mut bad = good.clone();
        change(&mut bad);
        refusal(&graph, bad, &blob)
    };
    assert!(with(&|bad| bad.sources = "0".into()).contains("other kernels"));
    assert!(with(&|bad| bad.multiprocessors = usize::MAX).contains("multiprocessors"));
    for index in 0..good.cubins.len() {
        let name = &good.cubins[index].kernel;
        assert!(with(&|bad| drop(bad.cubins.remove(index))).contains(name.as_str()));
        assert!(with(&|bad| bad.cubins[index].length = 7).contains(name.as_str()));
        assert!(with(&|bad| bad.cubins[index].offset = u64::MAX).contains(name.as_str()));
    }
    for index in 0..good.weights.len() {
        let StoredWeight { name, .. } = &good.weights[index];
        assert!(with(&|bad| drop(bad.weights.remove(index))).contains(name.as_str()));
        assert!(with(&|bad| bad.weights[index].length -= 1).contains(name.as_str()));
        assert!(with(&|bad| bad.weights[index].offset = blob.len() as u64).contains(name.as_str()));
    }
    // A graph that the plan was not made for.
    let other = EncoderConfig::named("minilm-l6").unwrap().build(2).unwrap().graph;
    assert!(refusal(&other, good.clone(), &blob).contains("is missing"));
}

#[test]
fn a_graph_without_kernels_names_every_node() {
    use bertha_graph::{GraphBuilder, ReduceOp, shape};
    let mut b = GraphBuilder::new("odd");
    let ids = b.input("input_ids", DType::I32, shape!["tokens"]).unwrap();
    b.input("cu_seqlens", DType::I32, shape![Dim::from("batch") + 1]).unwrap();
    let table = b.constant(bertha_graph::TensorData::from_vec(vec![3, 8], vec![0f32; 24]).unwrap()).unwrap();
    let x = b.embedding(ids, table).unwrap();
    let y = b.named("over_rows").reduce(ReduceOp::Sum, x, &[0], true).unwrap();
    let z = b.named("product").reduce(ReduceOp::Prod, x, &[1], true).unwrap();
    b.output("y", y).unwrap();
    b.output("z", z).unwrap();
    let error = lower(&b.finish().unwrap(), Precision::F16, Arch::Sm90a).unwrap_err().to_string();
    assert!(error.contains("`over_rows`") && error.contains("`product`"), "{error}");
}

/// `relu(x * scale) * weight + x[.., ::-1, ..]`, with a row that broadcasts when there is one sequence only.
fn dense() -> Graph {
    use bertha_graph::{BinaryOp, GraphBuilder, Op, TensorData, Weight, shape};
    let mut b = GraphBuilder::new("dense");
    let x = b.input("x", DType::F32, shape!["batch", "seq", 8]).unwrap();
    let scale = b.input("scale", DType::F32, shape!["batch", 1, 1]).unwrap();
    let scaled = b.node(Op::Binary(BinaryOp::Mul), &[x, scale].map(Some)).unwrap();
    let y = b.relu(scaled).unwrap();
    let weight = b.constant(TensorData::from_vec(vec![8, 8], vec![0.5f32; 64]).unwrap()).unwrap();
    let y = b.named("product").linear(y, Weight::out_in(weight), None).unwrap();
    let mut bound = |value: i64| b.constant(TensorData::vector(vec![value])).unwrap();
    let (start, end, axis, step) = (bound(-1), bound(i64::MIN), bound(1), bound(-1));
    let turned = b.node(Op::Slice, &[x, start, end, axis, step].map(Some)).unwrap();
    let y = b.add(y, turned).unwrap();
    b.output("y", y).unwrap();
    b.finish().unwrap()
}

/// A plan without machine code, and the names of the kernels that it would have.
fn without_code(graph: &Graph, precision: Precision) -> (CudaPlan, BTreeSet<KernelSpec>) {
    let (arch, multiprocessors) = (Arch::Sm90a, 132);
    let lowered = build::checked(graph, arch, precision).unwrap();
    let kernels = lowered.kernels_in(&everywhere(arch, multiprocessors));
    let case::Lowered { program, base, .. } = lowered;
    let (cubins, weights) = (BTreeMap::new(), Vec::new());
    let plan = CudaPlan { arch, precision, multiprocessors, program, graph: base, cubins, weights };
    (plan, kernels)
}

fn ty(dtype: DType, dims: &[usize]) -> TensorType {
    TensorType::new(dtype, Shape(dims.iter().map(|dim| Dim::from(*dim)).collect()))
}

/// Checks that the plan of a dense graph has all kernels and weights for inputs of these types.
fn is_held(graph: &Graph, precision: Precision, types: &[TensorType]) -> Program {
    let (plan, held) = without_code(graph, precision);
    let case = plan.case(types).unwrap();
    for launch in case.program.launches(&base_setting(Arch::Sm90a, 132)) {
        assert!(held.contains(&launch.kernel), "{} for {types:?}", launch.kernel);
    }
    for (weight, constant) in case.program.weights.iter().zip(&case.constants) {
        let is_of_case = matches!(constant, Constant::OfCase(_));
        let in_graph = graph.find(&weight.name).is_some_and(|id| graph.tensor(id).constant().is_some());
        assert!(!(in_graph && is_of_case), "{} is copied for each shape", weight.name);
    }
    case.program
}

#[test]
fn a_dense_graph_has_the_kernels_of_its_plan_for_every_shape() {
    let graph = dense();
    for precision in Precision::ALL {
        for (batch, seq) in [(1, 1), (1, 5), (3, 1), (4, 33), (70, 200)] {
            let types = [ty(DType::F32, &[batch, seq, 8]), ty(DType::F32, &[batch, 1, 1])];
            let program = is_held(&graph, precision, &types);
            // The product may read and write whole tiles.
            let setting = base_setting(Arch::Sm90a, 132);
            let (offsets, end) = program.arena.offsets(&setting);
            for step in &program.steps {
                let CudaStep::Linear(linear) = &step.step else { continue };
                for (tensor, width) in [(linear.x, linear.k), (linear.y, linear.n)] {
                    let tensor = &program.tensors[tensor];
                    let Place::Slot(slot) = tensor.place else { panic!("{} is in no slot", tensor.name) };
                    let room = offsets.get(slot + 1).unwrap_or(&end) - offsets[slot];
                    assert!(room >= setting.allocated(linear.rows) * width * tensor.storage.bytes());
                }
            }
        }
    }
}

#[test]
fn exported_dense_graphs_have_the_kernels_of_their_plans_for_short_and_long_inputs() {
    let optimised = |path: &std::path::Path| {
        let model = bertha_import::onnx::import(path, &Default::default()).unwrap();
        bertha_compile::optimize_model(&model).unwrap().0.graph
    };
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for name in ["conformer_legacy16", "conformer_legacy17", "conformer_dynamo18"] {
        let graph = optimised(&root.join(format!("tests/onnx/conformer/{name}.onnx")));
        for (batch, frames) in [(1, 7), (2, 100), (3, 120)] {
            let types = [ty(DType::F32, &[batch, frames, 80]), ty(DType::I32, &[batch])];
            is_held(&graph, Precision::F16, &types);
        }
    }
    let exports = std::fs::read_dir(root.join("../shared/onnx")).into_iter().flatten();
    let paths = exports.map(|entry| entry.unwrap().path());
    for path in paths.filter(|path| path.to_string_lossy().contains("modernbert")) {
        let graph = optimised(&path);
        for (batch, seq) in [(1, 1), (3, 37), (2, 130), (1, 600)] {
            let types = [ty(DType::I64, &[batch, seq]), ty(DType::I64, &[batch, seq])];
            is_held(&graph, Precision::F16, &types);
        }
    }
}

#[test]
fn the_self_tests_dense_graphs_have_the_kernels_of_their_plans() {
    for case in crate::selftest::dense_cases().unwrap() {
        let (graph, _) = bertha_compile::optimize(&case.graph).unwrap();
        for shape in &case.shapes {
            let inputs = case.inputs(*shape, 1).unwrap();
            let types: Vec<TensorType> = inputs.iter().map(|(_, data)| data.ty()).collect();
            is_held(&graph, Precision::F16, &types);
        }
    }
}

#[test]
fn a_dense_graph_takes_no_shapes_but_its_own() {
    let (plan, _) = without_code(&dense(), Precision::F16);
    let wrong = plan.case(&[ty(DType::F32, &[2, 3, 9]), ty(DType::F32, &[2, 1, 1])]).err().unwrap();
    assert!(wrong.to_string().contains("`x`"), "{wrong}");
}

#[test]
fn an_input_of_a_type_that_the_card_does_not_take_is_named() {
    use bertha_graph::{GraphBuilder, shape};
    let mut b = GraphBuilder::new("dense");
    let x = b.input("x", DType::F64, shape!["batch", 3]).unwrap();
    b.output("y", x).unwrap();
    let graph = b.finish().unwrap();
    let why = build::checked(&graph, Arch::Sm90a, Precision::F32).err().unwrap().to_string();
    assert!(why.contains("x: f64["), "{why}");
}

#[test]
fn names_of_plans_round_trip() {
    for arch in Arch::ALL {
        for precision in Precision::ALL {
            assert_eq!(parse_target(&target_name(arch, precision)), Some((arch, precision)));
        }
    }
    assert_eq!(parse_target("cpu"), None);
    assert_eq!(parse_target("cuda-sm_1-f16"), None);
}

#[test]
fn a_plan_holds_the_kernels_of_every_batch() {
    let graph = graph();
    let plan = plan(&graph);
    let base = base_setting(plan.arch(), plan.planned_multiprocessors());
    let sizes = [1, 7, 33, 100, 129, 250, 300, 400, 700, 1000, 2000, 4000, 5000, 9000, 20_000, 100_000];
    for tokens in sizes {
        for sequences in [1, 9, 40, 5000, 40_000] {
            for longest in [1, 32, 64, 100, 256, 300, 1000].into_iter().filter(|longest| *longest <= tokens) {
                let setting = base.for_batch(tokens, sequences, longest);
                let is_refused = plan.program().too_large(&setting).is_some();
                assert_eq!(is_refused, sequences > 32_768, "{tokens} tokens, {sequences} sequences");
                for launch in plan.program().launches(&setting) {
                    assert!(is_refused || launch.config.grid[1..].iter().all(|blocks| *blocks <= 65_535));
                    let found = plan.cubin(&launch.kernel).is_some();
                    assert!(found, "{} for {tokens} tokens, {sequences} sequences, {longest}", launch.kernel);
                }
            }
        }
    }
}

#[test]
fn choices_of_tactics_are_kept_and_illegal_ones_refused() {
    let graph = graph();
    let mut plan = plan(&graph);
    let base = base_setting(Arch::Sm90a, 132);
    let tactic = crate::kernels::Tactic::GemmSm90a { columns: 128, defer: false };
    let layer = plan.tactics(None)[0].steps[0].step.clone();
    let choice = (layer, 32, tactic);
    crate::tune::take(&mut plan.program, base, std::iter::once(choice)).unwrap();
    let mut lowered = build::checked(&graph, Arch::Sm90a, Precision::F16).unwrap();
    lowered.program = plan.program.clone();
    let kernels = lowered.kernels_in(&everywhere(Arch::Sm90a, 132));
    plan.cubins = kernels.iter().map(|kernel| (kernel.to_string(), image())).collect();
    let (list, blob) = stored(&plan);
    assert_eq!(list.tactics.len(), 1);
    let text = serde_json::to_string(&list).unwrap();
    let read = CudaPlan::from_stored(&graph, serde_json::from_str(&text).unwrap(), &blob).unwrap();
    assert_eq!(read.program.tactics, plan.program.tactics);
    assert_ne!(read.program.launches(&base), self::plan(&graph).program.launches(&base));

    let refuse = |change: &dyn Fn(&mut StoredTactic), what: &str| {
        let mut list = list.clone();
        change(&mut list.tactics[0]);
        let error = CudaPlan::from_stored(&graph, list, &blob).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    refuse(&|one| one.tokens += 1, "tokens");
    refuse(&|one| one.layer.push('x'), "no layer");
    let unknown = crate::kernels::Tactic::GemmSmallSm90a { tokens: 7, split: 5 };
    refuse(&|one| one.tactic = unknown, "7 tokens");
    refuse(&|one| one.tactic = crate::kernels::Tactic::GemmF32 { rows: 32, columns: 32 }, "gemm_f32");
}
