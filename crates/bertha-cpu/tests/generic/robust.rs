//! Operands that do not fit give errors, never a panic.

use bertha_cpu::generic::{ExecuteError, Scratch, TensorMut, execute};
use bertha_graph::{
    Activation, AttentionAttrs, BinaryOp, DType, GeluKind, Op, PadMode, PoolKind, ReduceOp, RelativeBuckets,
    TensorData, UnaryOp, WeightLayout,
};
use proptest::prelude::*;

use crate::support::{Buffer, Random, config, i64s, tensor_ref};

/// Some op with attributes that may make no sense.
fn any_op(random: &mut Random) -> Op {
    let axis = random.between(-4, 4);
    let (to, flag, size) = (random.pick(&DType::ALL), random.flip(), random.below(4));
    match random.below(36) {
        0 => Op::Unary(random.pick(&UnaryOp::ALL)),
        1 => Op::Binary(random.pick(&BinaryOp::ALL)),
        2 => Op::Gelu(GeluKind::Erf),
        3 => Op::Clip,
        4 => Op::Where,
        5 => Op::Cast { to },
        6 => Op::Reshape { allow_zero: flag },
        7 => Op::Transpose { perm: (0..size).map(|_| random.below(4)).collect() },
        8 => Op::Squeeze,
        9 => Op::Unsqueeze,
        10 => Op::Concat { axis },
        11 => Op::Split { axis, parts: size },
        12 => Op::Slice,
        13 => Op::Gather { axis },
        14 => Op::GatherElements { axis },
        15 => Op::GatherNd { batch_dims: size },
        16 => Op::Expand,
        17 => Op::Tile,
        18 => Op::Pad {
            mode: random.pick(&[PadMode::Constant, PadMode::Reflect, PadMode::Edge, PadMode::Wrap]),
        },
        19 => Op::Shape { start: axis, end: Some(random.between(-4, 4)) },
        20 => Op::ConstantOfShape { value: random.tensor(to, &[1]) },
        21 => Op::Range,
        22 => Op::Reduce {
            op: random.pick(&ReduceOp::ALL),
            keep_dims: flag,
            noop_with_empty_axes: random.flip(),
        },
        23 => Op::CumSum { exclusive: flag, reverse: random.flip() },
        24 => Op::Softmax { axis },
        25 => Op::LayerNorm { axis, epsilon: 0.0 },
        26 => Op::MatMul,
        27 => Op::Gemm { alpha: 1.0, beta: 1.0, trans_a: flag, trans_b: random.flip() },
        28 if flag => Op::MatMulInteger,
        28 => Op::QLinearMatMul,
        29 => Op::QuantizeLinear { axis, block_size: size, to },
        30 => Op::DequantizeLinear { axis, block_size: size, to },
        31 => Op::RotaryEmbedding { interleaved: flag, heads: size, rotary_dim: random.below(4) },
        32 => Op::Attention(AttentionAttrs {
            q_heads: size,
            kv_heads: random.below(3),
            scale: None,
            is_causal: flag,
            softcap: 0.0,
            scores_mode: random.below(5) as u8,
            softmax_precision: None,
        }),
        33 if flag => Op::EmbeddingSum,
        33 => Op::Linear { layout: WeightLayout::OutIn, activation: Activation::None },
        34 => Op::RaggedAttention {
            heads: size,
            scale: 1.0,
            relative: flag.then_some(RelativeBuckets { buckets: size, max_distance: random.below(3) }),
        },
        _ => Op::Pool(PoolKind::Mean),
    }
}

/// Mostly tensors of one small shape and dtype, so that many checks are passed before one fails.
fn any_tensor(random: &mut Random, dtype: DType, shape: &[usize]) -> TensorData {
    let dtype = match random.below(4) {
        0 => random.pick(&DType::ALL),
        1 => DType::I64,
        _ => dtype,
    };
    let shape = match random.below(4) {
        0 => random.shape(3),
        1 => vec![random.below(4)],
        2 => random.broadcastable(shape),
        _ => shape.to_vec(),
    };
    random.tensor(dtype, &shape)
}

proptest! {
    #![proptest_config(config(20_000))]

    #[test]
    fn nothing_panics(seed: u64) {
        let mut random = Random::new(seed);
        let op = any_op(&mut random);
        let (dtype, shape) = (random.pick(&DType::ALL), random.shape(3));
        let inputs: Vec<Option<TensorData>> = (0..random.below(8))
            .map(|_| (random.below(8) > 0).then(|| any_tensor(&mut random, dtype, &shape)))
            .collect();
        let plans: Vec<TensorData> = (0..random.below(5)).map(|_| any_tensor(&mut random, dtype, &shape)).collect();
        let mut buffers: Vec<Buffer> = plans.iter().map(|plan| Buffer::new(plan.bytes().len())).collect();
        let mut outputs: Vec<Option<TensorMut>> = buffers
            .iter_mut()
            .zip(&plans)
            .map(|(buffer, plan)| Some(TensorMut { dtype: plan.dtype(), shape: plan.shape(), bytes: buffer.bytes() }))
            .collect();
        let refs: Vec<_> = inputs.iter().map(|input| input.as_ref().map(tensor_ref)).collect();
        // Whether it fits or not, it returns.
        let outcome = execute(&op, &refs, &mut outputs, &mut Scratch::new());
        if let Err(error) = outcome {
            prop_assert!(error.to_string().starts_with(op.mnemonic()));
        }
    }
}

fn run(op: &Op, inputs: &[&TensorData], plan: (DType, &[usize])) -> Result<(), ExecuteError> {
    let refs: Vec<_> = inputs.iter().map(|input| Some(tensor_ref(input))).collect();
    let mut buffer = Buffer::new(plan.1.iter().product::<usize>() * plan.0.size());
    let output = TensorMut { dtype: plan.0, shape: plan.1, bytes: buffer.bytes() };
    execute(op, &refs, &mut [Some(output)], &mut Scratch::new())
}

#[test]
fn indices_out_of_range_are_errors() {
    let x = TensorData::vector(vec![1f32, 2.0, 3.0]);
    for bad in [3, -4, i64::MIN, i64::MAX] {
        let error = run(&Op::Gather { axis: 0 }, &[&x, &i64s(&[bad])], (DType::F32, &[1])).unwrap_err();
        assert!(matches!(&error, ExecuteError::Operands { op: "gather", .. }), "{error}");
        assert!(error.to_string().contains(&bad.to_string()));
        assert!(run(&Op::GatherElements { axis: 0 }, &[&x, &i64s(&[bad])], (DType::F32, &[1])).is_err());
    }
}

#[test]
fn a_plan_that_disagrees_is_an_error() {
    let x = TensorData::vector(vec![1f32, 2.0, 3.0]);
    assert!(run(&Op::Unary(UnaryOp::Exp), &[&x], (DType::F32, &[4])).is_err());
    assert!(run(&Op::Unary(UnaryOp::Exp), &[&x], (DType::F64, &[3])).is_err());
    let shape = [1usize; 17];
    assert!(run(&Op::Expand, &[&x], (DType::F32, &shape)).unwrap_err().to_string().contains("16"));
}

#[test]
fn what_has_no_kernel_is_refused() {
    let flags = TensorData::from_bools(vec![1], &[true]).unwrap();
    assert!(matches!(
        run(&Op::Unary(UnaryOp::Exp), &[&flags], (DType::Bool, &[1])),
        Err(ExecuteError::Unsupported { .. })
    ));
}
