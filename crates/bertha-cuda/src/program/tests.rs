//! What lowering refuses, on graphs that the type rules accept.

use bertha_graph::{
    Attention, DType, Dim, Graph, GraphBuilder, GraphError, TensorData, TensorId, Weight, ragged, shape,
};

use super::*;

/// A graph over ids and offsets with the output that `body` makes of them.
fn graph(body: impl FnOnce(&mut GraphBuilder, TensorId, TensorId) -> Result<TensorId, GraphError>) -> Graph {
    let mut b = GraphBuilder::new("refused");
    let ids = b.input(ragged::INPUT_IDS, DType::I32, shape!["tokens"]).unwrap();
    let cu_seqlens = b.input(ragged::CU_SEQLENS, DType::I32, shape![Dim::from("batch") + 1]).unwrap();
    let y = body(&mut b, ids, cu_seqlens).unwrap();
    b.output("y", y).unwrap();
    b.finish().unwrap()
}

fn table(b: &mut GraphBuilder, rows: usize, width: usize) -> TensorId {
    b.constant(TensorData::from_vec(vec![rows, width], vec![0.5f32; rows * width]).unwrap()).unwrap()
}

fn refusal(graph: &Graph) -> String {
    lower(graph, Precision::F16).unwrap_err().to_string()
}

#[test]
fn attentions_of_one_shape_are_lowered_and_those_of_two_refused() {
    let twice = |second: usize| {
        graph(|b, ids, cu_seqlens| {
            let table = table(b, 3, 64);
            let x = b.embedding(ids, table)?;
            let y = b.attention(x, x, x, &Attention::ragged(cu_seqlens, 2))?;
            b.named("second").attention(y, y, y, &Attention::ragged(cu_seqlens, second))
        })
    };
    lower(&twice(2), Precision::F16).unwrap();
    let why = refusal(&twice(4));
    assert!(why.contains("`second`") && why.contains("attentions of different shapes"), "{why}");
}

#[test]
fn ids_that_are_not_one_for_each_token_are_refused() {
    let why = refusal(&graph(|b, _, cu_seqlens| {
        let table = table(b, 3, 64);
        b.embedding_sum(&[(cu_seqlens, table)])
    }));
    assert!(why.contains("ids that are not one for each token"), "{why}");
}

#[test]
fn rows_of_no_features_are_refused_before_anything_is_made_for_them() {
    let why = refusal(&graph(|b, ids, _| {
        let table = table(b, 3, 0);
        b.embedding_sum(&[(ids, table)])
    }));
    assert!(why.contains("rows of no features"), "{why}");
    // A bias of 2^60 zeros would be made for this layer.
    let why = refusal(&graph(|b, ids, _| {
        let table = table(b, 3, 8);
        let x = b.embedding_sum(&[(ids, table)])?;
        let nothing = b.slice(x, 1, 0, 0)?;
        let weight = b.constant(TensorData::from_vec(vec![1 << 60, 0], Vec::<f32>::new()).unwrap())?;
        b.linear(nothing, Weight::out_in(weight), None)
    }));
    assert!(why.contains("rows of no features"), "{why}");
}

#[test]
fn slices_of_nothing_are_lowered() {
    let graph = graph(|b, ids, _| {
        let table = table(b, 3, 8);
        let x = b.embedding_sum(&[(ids, table)])?;
        let nothing = b.slice(x, 1, 0, 0)?;
        let mut bound = |value: i64| b.constant(TensorData::vector(vec![value]));
        let (start, end, axis, step) = (bound(-1)?, bound(i64::MIN)?, bound(1)?, bound(-1)?);
        b.node(bertha_graph::Op::Slice, &[nothing, start, end, axis, step].map(Some))
    });
    lower(&graph, Precision::F32).unwrap();
}

#[test]
fn outputs_have_the_type_of_their_bytes() {
    let graph = graph(|b, ids, _| {
        let table = b.constant(TensorData::from_vec(vec![3, 8], vec![half::f16::ONE; 24]).unwrap())?;
        b.embedding_sum(&[(ids, table)])
    });
    assert_eq!(graph.dtype(graph.outputs()[0].1), DType::F16);
    for precision in Precision::ALL {
        assert_eq!(lower(&graph, precision).unwrap().outputs[0].dtype, DType::F32);
    }
}
