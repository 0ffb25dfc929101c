//! The passes on graphs of checkpoints, which are ragged from the start: same function before and after.

use std::path::Path;

use bertha_compile::optimize_model;
use bertha_graph::interp::{Interpreter, Precision};
use bertha_graph::{Graph, Op, PositionIds, TensorData, ragged};
use bertha_import::hf::{ImportOptions, import};

const LENGTHS: [i32; 4] = [5, 1, 3, 4];

fn batch(graph: &Graph, positions: PositionIds) -> Vec<(&'static str, TensorData)> {
    let tokens: i32 = LENGTHS.iter().sum();
    let first = match positions {
        PositionIds::AfterPad { pad_id } => pad_id as i32 + 1,
        PositionIds::None | PositionIds::Absolute => 0,
    };
    let ids = (0..tokens).map(|at| 2 + (at * 5 + 3) % 9).collect();
    let places = LENGTHS.iter().flat_map(|length| (0..*length).map(|at| first + at)).collect();
    let mut ends = vec![0];
    ends.extend(LENGTHS.iter().scan(0, |sum, length| {
        *sum += length;
        Some(*sum)
    }));
    let all = [
        (ragged::INPUT_IDS, ids),
        (ragged::TOKEN_TYPE_IDS, vec![0; tokens as usize]),
        (ragged::POSITION_IDS, places),
        (ragged::CU_SEQLENS, ends),
    ];
    let wanted = all.into_iter().filter(|(name, _)| graph.find(name).is_some());
    wanted.map(|(name, values)| (name, TensorData::vector::<i32>(values))).collect()
}

#[test]
fn optimized_checkpoints_give_the_same() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bertha-import/tests/fixtures/hf");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.join("config.json").is_file() {
            continue;
        }
        let before = import(&path, &ImportOptions::default()).unwrap();
        let (after, log) = optimize_model(&before).unwrap();
        after.graph.verify().unwrap();
        let run = |graph: &Graph| {
            let inputs = batch(graph, before.info.position_ids);
            Interpreter::new(graph, Precision::F64).run_f64(&inputs).unwrap()
        };
        for ((name, expected), (_, found)) in run(&before.graph).iter().zip(run(&after.graph)) {
            let largest = expected.values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            let pairs = expected.values.iter().zip(&found.values);
            let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(difference <= 1e-6 * largest, "{}: {name}: {difference}\n{log}", path.display());
        }
        let attentions = |wanted: fn(&[Option<bertha_graph::TensorId>]) -> bool| {
            let nodes = after.graph.nodes().iter();
            nodes.filter(|node| matches!(node.op, Op::RaggedAttention { .. }) && wanted(&node.inputs)).count()
        };
        assert_eq!(attentions(|inputs| inputs[1].is_some()), 0, "{}\n{log}", path.display());
        assert!(attentions(|inputs| inputs[1].is_none()) > 0, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 10, "only {seen} checkpoints in {}", folder.display());
}
