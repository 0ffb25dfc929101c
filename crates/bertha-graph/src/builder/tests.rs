use super::*;
use crate::op::{GeluKind, PoolKind, ReduceOp};
use crate::shape;

fn zeros(shape: &[usize]) -> TensorData {
    TensorData::from_vec(shape.to_vec(), vec![0f32; shape.iter().product()]).unwrap()
}

fn builder() -> (GraphBuilder, TensorId) {
    let mut b = GraphBuilder::new("test");
    let x = b.input("x", DType::F32, shape!["tokens", 8]).unwrap();
    (b, x)
}

#[test]
fn names_follow_scope_operation_and_number() {
    let (mut b, x) = builder();
    b.scope("encoder", |b| {
        b.scope("layer.0", |b| {
            b.relu(x).unwrap();
            b.relu(x).unwrap();
            b.named("gate").relu(x).unwrap();
        })
    });
    b.tanh(x).unwrap();
    let names: Vec<&str> = b.graph().nodes().iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["encoder.layer.0.relu", "encoder.layer.0.relu_2", "encoder.layer.0.gate", "tanh"]);
    assert!(b.graph().find("encoder.layer.0.gate").is_some());
}

#[test]
fn a_given_name_is_kept_or_refused() {
    let (mut b, x) = builder();
    b.named("twice").relu(x).unwrap();
    let error = b.named("twice").relu(x).unwrap_err();
    assert_eq!(error, GraphError::DuplicateNode { name: "twice".into() });
    // The refused name does not stick to the next node.
    let y = b.relu(x).unwrap();
    assert_eq!(b.graph().tensor(y).name, "relu");
}

#[test]
fn a_linear_layer_that_does_not_fit_names_node_and_shapes() {
    let (mut b, x) = builder();
    let w = b.weight("w", zeros(&[4, 8])).unwrap();
    let y = b.linear(x, Weight::out_in(w), None).unwrap();
    assert_eq!(b.ty(y).to_string(), "f32[tokens, 4]");
    let message = b.named("wrong").linear(x, Weight::in_out(w), None).unwrap_err().to_string();
    assert!(message.contains("wrong") && message.contains('8') && message.contains('4'), "{message}");
}

#[test]
fn heads_must_divide_the_width() {
    let (mut b, x) = builder();
    let cu = b.input("cu_seqlens", DType::I32, shape!["batch1"]).unwrap();
    let message = b.attention(x, x, x, &Attention::ragged(cu, 3)).unwrap_err().to_string();
    assert!(message.contains("multiple of 3"), "{message}");
    assert!(b.attention(x, x, x, &Attention::ragged(cu, 0)).is_err());
}

#[test]
fn what_an_attention_cannot_take_is_refused() {
    let (mut b, x) = builder();
    let cu = b.input("cu_seqlens", DType::I32, shape![crate::Dim::from("batch") + 1]).unwrap();
    let y = b.attention(x, x, x, &Attention::ragged(cu, 2).scale(0.5)).unwrap();
    assert_eq!(b.ty(y).to_string(), "f32[tokens, 8]");
    let message = b.attention(x, x, x, &Attention::ragged(cu, 2).mask(x)).unwrap_err().to_string();
    assert!(message.contains("no mask"), "{message}");
    let buckets = crate::RelativeBuckets { buckets: 32, max_distance: 128 };
    let table = b.weight("table", zeros(&[32, 2])).unwrap();
    assert!(b.attention(x, x, x, &Attention::ragged(cu, 2).relative(table, buckets)).is_ok());
    let message =
        b.attention(x, x, x, &Attention::dense(2).relative(table, buckets)).unwrap_err().to_string();
    assert!(message.contains("relative"), "{message}");
    let dense = b.input("dense", DType::F32, shape!["batch", "seq", 8]).unwrap();
    let y = b.attention(dense, dense, dense, &Attention::dense(2)).unwrap();
    assert_eq!(b.ty(y).to_string(), "f32[batch, seq, 8]");
}

#[test]
fn layout_calls_give_the_shapes_they_say() {
    let (mut b, x) = builder();
    let heads = b.shuffle(x, &Shuffle::new().reshape([0, 2, 4]).transpose([1, 0, 2])).unwrap();
    assert_eq!(b.shape(heads).to_string(), "[2, tokens, 4]");
    let back = b.shuffle(heads, &Shuffle::new().transpose([1, 0, 2]).reshape([0, -1])).unwrap();
    assert_eq!(b.shape(back).to_string(), "[tokens, 8]");
    let part = b.slice(x, 1, 2, -1).unwrap();
    assert_eq!(b.shape(part).to_string(), "[tokens, 5]");
    let all = b.slice(x, -1, 0, None).unwrap();
    assert_eq!(b.shape(all).to_string(), "[tokens, 8]");
    let mean = b.reduce(ReduceOp::Mean, x, &[-1], true).unwrap();
    assert_eq!(b.shape(mean).to_string(), "[tokens, 1]");
    let pieces = b.split(x, 1, &[3, 5]).unwrap();
    let widths: Vec<String> = pieces.iter().map(|p| b.shape(*p).to_string()).collect();
    assert_eq!(widths, ["[tokens, 3]", "[tokens, 5]"]);
    let joined = b.concat(&pieces, 1).unwrap();
    assert_eq!(b.shape(joined).to_string(), "[tokens, 8]");
    let first = b.scalar(0i64).unwrap();
    let column = b.gather(x, first, 1).unwrap();
    assert_eq!(b.shape(column).to_string(), "[tokens]");
}

#[test]
fn scale_takes_the_type_of_its_operand() {
    let mut b = GraphBuilder::new("test");
    for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
        let x = b.input(dtype.name(), dtype, shape![2]).unwrap();
        let y = b.scale(x, 0.5).unwrap();
        assert_eq!(b.ty(y).dtype, dtype);
    }
    let ids = b.input("ids", DType::I64, shape![2]).unwrap();
    assert!(b.scale(ids, 0.5).unwrap_err().to_string().contains("i64[2]"));
}

#[test]
fn a_graph_without_outputs_is_refused() {
    let (mut b, x) = builder();
    b.gelu(x, GeluKind::Tanh).unwrap();
    assert!(b.finish().unwrap_err().to_string().contains("output"));
}

#[test]
fn pooling_makes_one_row_for_each_sequence() {
    let (mut b, x) = builder();
    let cu = b.input("cu_seqlens", DType::I32, shape![crate::Dim::from("batch") + 1]).unwrap();
    let pooled = b.pool(x, cu, PoolKind::Mean).unwrap();
    assert_eq!(b.ty(pooled).to_string(), "f32[batch, 8]");
}
