//! Padded attention in every form that exporters write, against the reference interpreter, on every tier.

use std::sync::Arc;

use bertha_cpu::isa::Isa;
use bertha_cpu::{CpuModel, TensorRef};
use bertha_graph::interp::{Interpreter, Precision};
use bertha_graph::{AttentionAttrs, Graph, Op, SplitMix64, TensorData, TensorType};

/// So that every run tests the same numbers.
struct Random(SplitMix64);

impl Random {
    fn tensor(&mut self, shape: &[usize]) -> TensorData {
        let count = shape.iter().product();
        let values = (0..count).map(|_| (self.0.bits() >> 40) as f32 / (1 << 22) as f32 - 2.0).collect();
        TensorData::from_vec(shape.to_vec(), values).unwrap()
    }
}

/// Sizes of one attention.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    dim: usize,
    v_dim: usize,
}

/// What hides keys.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mask {
    None,
    /// -inf and finite values, of the shape where `true` says that a dimension is whole.
    Added([bool; 3]),
    /// Flags, likewise; the first query of the first head has no key left.
    Flags([bool; 3]),
    /// Only the last dimension.
    Row,
}

fn attention(
    sizes: Sizes,
    split: bool,
    mask: Mask,
    random: &mut Random,
) -> (Graph, Vec<(&'static str, TensorData)>) {
    let Sizes { batch, heads, kv_heads, queries, keys, dim, v_dim } = sizes;
    let shape = |heads: usize, rows: usize, dim: usize| match split {
        true => vec![batch, heads, rows, dim],
        false => vec![batch, rows, heads * dim],
    };
    let mut inputs = vec![
        ("q", random.tensor(&shape(heads, queries, dim))),
        ("k", random.tensor(&shape(kv_heads, keys, dim))),
        ("v", random.tensor(&shape(kv_heads, keys, v_dim))),
    ];
    let whole = |dims: [bool; 3]| {
        let sizes = [batch, heads, queries];
        let mut shape: Vec<usize> =
            dims.iter().zip(sizes).map(|(whole, size)| if *whole { size } else { 1 }).collect();
        shape.push(keys);
        shape
    };
    match mask {
        Mask::None => {}
        Mask::Added(dims) => {
            let mut data = random.tensor(&whole(dims)).as_slice::<f32>().unwrap().to_vec();
            data.iter_mut()
                .enumerate()
                .filter(|(at, _)| at % 3 == 1)
                .for_each(|(_, value)| *value = f32::NEG_INFINITY);
            inputs.push(("mask", TensorData::from_vec(whole(dims), data).unwrap()));
        }
        Mask::Flags(dims) => {
            let count: usize = whole(dims).iter().product();
            let flags: Vec<bool> =
                (0..count).map(|at| at >= keys && !random.0.bits().is_multiple_of(4)).collect();
            inputs.push(("mask", TensorData::from_bools(whole(dims), &flags).unwrap()));
        }
        Mask::Row => inputs.push(("mask", random.tensor(&[keys]))),
    }
    let mut graph = Graph::new("attention");
    let ids: Vec<_> = inputs
        .iter()
        .map(|(name, data)| {
            let ty = TensorType::new(data.dtype(), data.shape().iter().copied().collect());
            Some(graph.add_input(*name, ty).unwrap())
        })
        .collect();
    let attrs = AttentionAttrs {
        q_heads: if split { 0 } else { heads },
        kv_heads: if split { 0 } else { kv_heads },
        scale: sizes.queries.is_multiple_of(2).then_some(0.3),
        is_causal: false,
        softcap: 0.0,
        scores_mode: 0,
        softmax_precision: None,
    };
    let node = graph.add_node("attention", Op::Attention(attrs), &ids, &["y"]).unwrap();
    let y = graph.node(node).outputs[0].unwrap();
    graph.add_output("y", y).unwrap();
    (graph, inputs)
}

#[test]
fn every_form_gives_the_reference_answer() {
    let sizes = [
        (1, 1, 1, 1, 1, 8, 8),
        (2, 3, 3, 5, 5, 16, 16),
        (1, 4, 2, 7, 19, 24, 8),
        (3, 2, 1, 33, 18, 5, 7),
        (1, 2, 2, 80, 130, 32, 32),
    ];
    let masks = [
        Mask::None,
        Mask::Row,
        Mask::Added([true, false, false]),
        Mask::Added([false, true, true]),
        Mask::Added([true, true, true]),
        Mask::Added([false, false, false]),
        Mask::Flags([true, false, true]),
        Mask::Flags([false, false, true]),
        Mask::Flags([true, true, true]),
    ];
    let mut random = Random(SplitMix64::new(7));
    for (batch, heads, kv_heads, queries, keys, dim, v_dim) in sizes {
        let sizes = Sizes { batch, heads, kv_heads, queries, keys, dim, v_dim };
        for (mask, split) in masks.iter().flat_map(|mask| [(*mask, true), (*mask, false)]) {
            let (graph, inputs) = attention(sizes, split, mask, &mut random);
            let expected = Interpreter::new(&graph, Precision::F64).run_f64(&inputs).unwrap();
            for isa in Isa::available() {
                let model = Arc::new(CpuModel::new(graph.clone(), isa).unwrap());
                let steps = model.steps().unwrap();
                assert_eq!(
                    steps[0].1, "dense_attention",
                    "{sizes:?} {mask:?} {split} takes the plain kernel"
                );
                for threads in [1, 2] {
                    check(
                        &model,
                        threads,
                        &inputs,
                        &expected[0].1.values,
                        &format!("{sizes:?} {mask:?} {split}"),
                    );
                }
            }
        }
    }
}

fn check(model: &Arc<CpuModel>, threads: usize, inputs: &[(&str, TensorData)], expected: &[f64], what: &str) {
    let views: Vec<_> = inputs
        .iter()
        .map(|(name, data)| {
            (*name, TensorRef { dtype: data.dtype(), shape: data.shape(), bytes: data.bytes() })
        })
        .collect();
    let mut session = model.session(threads).unwrap();
    session
        .run(&views, &[], |output| {
            let found = output.to_data()?.to_f64();
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= 2e-5 * expected.abs().max(1.0),
                    "{what}: {found} for {expected}"
                );
            }
            Ok(())
        })
        .unwrap();
}
