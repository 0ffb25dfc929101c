//! Once warm, the generic kernels allocate nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bertha_cpu::generic::{Scratch, TensorMut, TensorRef, execute};
use bertha_graph::interp::{Precision, Value, eval};
use bertha_graph::{
    Activation, AttentionAttrs, BinaryOp, DType, GeluKind, Op, PadMode, PoolKind, ReduceOp, TensorData,
    UnaryOp, WeightLayout,
};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; the counter lives on the thread's own storage
// and never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn f32s(shape: &[usize]) -> TensorData {
    let values = (0..shape.iter().product()).map(|i: usize| (i % 7) as f32 * 0.25 + 0.5).collect();
    TensorData::from_vec(shape.to_vec(), values).unwrap()
}

fn f16s(shape: &[usize]) -> TensorData {
    let values = (0..shape.iter().product()).map(|i: usize| half::f16::from_f32((i % 5) as f32)).collect();
    TensorData::from_vec(shape.to_vec(), values).unwrap()
}

fn i64s(values: &[i64]) -> TensorData {
    TensorData::vector(values.to_vec())
}

fn u8s(shape: &[usize]) -> TensorData {
    TensorData::from_vec(shape.to_vec(), (0..shape.iter().product()).map(|i: usize| i as u8).collect())
        .unwrap()
}

/// One case of each kernel that needs working memory or lists of dimensions, and some of the others.
fn cases() -> Vec<(Op, Vec<TensorData>)> {
    let attention = AttentionAttrs {
        q_heads: 2,
        kv_heads: 1,
        scale: None,
        is_causal: true,
        softcap: 0.0,
        scores_mode: 3,
        softmax_precision: None,
    };
    let sum = Op::Reduce { op: ReduceOp::Sum, keep_dims: true, noop_with_empty_axes: false };
    let cu_seqlens = TensorData::vector(vec![0i32, 2, 6]);
    let gemm = Op::Gemm { alpha: 0.5, beta: 2.0, trans_a: true, trans_b: true };
    vec![
        (Op::Unary(UnaryOp::Exp), vec![f16s(&[3, 300])]),
        (Op::Gelu(GeluKind::Erf), vec![f32s(&[3, 5])]),
        (Op::Binary(BinaryOp::Add), vec![f16s(&[3, 1, 300]), f16s(&[4, 1])]),
        (Op::Binary(BinaryOp::Pow), vec![f32s(&[3]), i64s(&[2, 3, 1])]),
        (Op::Cast { to: DType::BF16 }, vec![f32s(&[9])]),
        (Op::Transpose { perm: vec![0, 3, 1, 2] }, vec![f32s(&[2, 3, 4, 20])]),
        (Op::Slice, vec![f32s(&[4, 6]), i64s(&[0, -1]), i64s(&[3, -9]), i64s(&[0, 1]), i64s(&[1, -2])]),
        (Op::Gather { axis: 0 }, vec![f32s(&[4, 6]), i64s(&[1, -1])]),
        (Op::Pad { mode: PadMode::Reflect }, vec![f32s(&[4, 6]), i64s(&[1, 2, 1, 0])]),
        (Op::Tile, vec![f32s(&[4, 6]), i64s(&[2, 3])]),
        (Op::Concat { axis: 1 }, vec![f32s(&[4, 6]), f32s(&[4, 2])]),
        (Op::Split { axis: 1, parts: 2 }, vec![f32s(&[4, 6])]),
        (sum.clone(), vec![f16s(&[4, 6]), i64s(&[0])]),
        (sum, vec![f16s(&[4, 6]), i64s(&[1])]),
        (Op::Softmax { axis: 0 }, vec![f16s(&[4, 6])]),
        (Op::LayerNorm { axis: -1, epsilon: 1e-5 }, vec![f16s(&[4, 6]), f16s(&[6]), f16s(&[6])]),
        (Op::MatMul, vec![f16s(&[2, 40, 70]), f16s(&[70, 300])]),
        (gemm, vec![f32s(&[7, 4]), f32s(&[3, 7]), f32s(&[3])]),
        (Op::MatMulInteger, vec![u8s(&[5, 7]), u8s(&[7, 3]), u8s(&[5])]),
        (Op::DynamicQuantizeLinear, vec![f32s(&[4, 6])]),
        (Op::Attention(attention), vec![f16s(&[1, 3, 8]), f16s(&[1, 5, 4]), f16s(&[1, 5, 4]), f16s(&[5])]),
        (
            Op::Linear { layout: WeightLayout::OutIn, activation: Activation::GeluErf },
            vec![f32s(&[4, 6]), f32s(&[3, 6]), f32s(&[3])],
        ),
        (
            Op::RaggedAttention { heads: 2, scale: 1.0, relative: None },
            vec![f32s(&[6, 4]), f32s(&[6, 4]), f32s(&[6, 4]), cu_seqlens.clone()],
        ),
        (Op::Pool(PoolKind::Mean), vec![f16s(&[6, 4]), cu_seqlens]),
        (Op::EmbeddingSum, vec![i64s(&[1, 0]), f16s(&[2, 4]), i64s(&[0, 1]), f16s(&[2, 4])]),
    ]
}

#[test]
fn a_second_run_allocates_nothing() {
    let cases = cases();
    let mut scratch = Scratch::new();
    for round in 0..2 {
        for (op, inputs) in &cases {
            let values: Vec<Value> = inputs.iter().map(Value::from_tensor).collect();
            let operands: Vec<Option<&Value>> = values.iter().map(Some).collect();
            let expected = eval(op, &operands, Precision::Native).unwrap();
            let mut buffers: Vec<Vec<u64>> = expected
                .iter()
                .map(|value| vec![0; (value.len() * value.dtype().size()).div_ceil(8)])
                .collect();
            let refs: Vec<Option<TensorRef>> = inputs
                .iter()
                .map(|x| Some(TensorRef { dtype: x.dtype(), shape: x.shape(), bytes: x.bytes() }))
                .collect();
            let mut outputs: Vec<Option<TensorMut>> = buffers
                .iter_mut()
                .zip(&expected)
                .map(|(buffer, value)| {
                    let len = value.len() * value.dtype().size();
                    let bytes = &mut bytemuck::cast_slice_mut(buffer)[..len];
                    Some(TensorMut { dtype: value.dtype(), shape: value.shape(), bytes })
                })
                .collect();
            let before = ALLOCATIONS.with(Cell::get);
            execute(op, &refs, &mut outputs, &mut scratch).unwrap();
            let allocations = ALLOCATIONS.with(Cell::get) - before;
            assert!(round == 0 || allocations == 0, "{} allocates {allocations} times", op.mnemonic());
        }
    }
}
