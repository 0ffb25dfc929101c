use super::stored::{StoredPlan, StoredWeight};
use super::*;
use crate::models::{EncoderConfig, Head};
use crate::program::lower;

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
    let program = lower(graph, precision, arch).unwrap();
    let kernels = kernels_in(&program, &everywhere(arch, multiprocessors));
    let cubins = kernels.iter().map(|kernel| (kernel.to_string(), image())).collect();
    let weights =
        program.weights.iter().map(|plan| weights::convert(graph, plan, precision).unwrap()).collect();
    CudaPlan { arch, precision, multiprocessors, program, cubins, weights }
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
    use bertha_graph::{DType, Dim, GraphBuilder, ReduceOp, shape};
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

#[test]
fn a_padded_graph_is_refused_by_its_inputs() {
    use bertha_graph::{DType, GraphBuilder, shape};
    let mut b = GraphBuilder::new("dense");
    let x = b.input("x", DType::F32, shape!["batch", 3]).unwrap();
    let y = b.relu(x).unwrap();
    b.output("y", y).unwrap();
    let error = lower(&b.finish().unwrap(), Precision::F32, Arch::Sm90a).unwrap_err().to_string();
    assert!(error.contains("ragged encoders only"), "{error}");
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
