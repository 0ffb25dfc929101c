use proptest::prelude::*;

use super::*;
use crate::dim::Bindings;
use crate::op::{BinaryOp, PadMode};
use crate::rules::dims;

fn any_dim() -> impl Strategy<Value = Dim> {
    prop_oneof![
        (0i64..5).prop_map(Dim::from),
        prop_oneof!["batch", "seq"].prop_map(|name| Dim::symbol(&name)),
        (0i64..4).prop_map(|n| &Dim::from("seq") + &Dim::from(n)),
    ]
}

fn any_shape() -> impl Strategy<Value = Vec<Dim>> {
    prop::collection::vec(any_dim(), 0..5)
}

fn bindings(batch: i64, seq: i64) -> Bindings {
    Bindings::from([("batch".into(), batch), ("seq".into(), seq)])
}

proptest! {
    #[test]
    fn broadcasting_commutes(a in any_shape(), b in any_shape()) {
        let one = dims::broadcast_dims(&a, &b, &mut FreshSymbols::starting_at(0));
        let other = dims::broadcast_dims(&b, &a, &mut FreshSymbols::starting_at(0));
        prop_assert_eq!(one, other);
    }

    /// What is said of symbols holds for their values: binding first or last gives the same, where the shapes fit.
    #[test]
    fn symbolic_broadcasting_holds_when_bound(a in any_shape(), b in any_shape(), batch in 0i64..4, seq in 0i64..4) {
        let values = bindings(batch, seq);
        let bind = |dims: &[Dim]| dims.iter().map(|dim| dim.substitute(&values)).collect::<Vec<_>>();
        let symbolic = dims::broadcast_dims(&a, &b, &mut FreshSymbols::starting_at(0));
        let concrete = dims::broadcast_dims(&bind(&a), &bind(&b), &mut FreshSymbols::starting_at(0));
        if let Some(concrete) = concrete {
            // A symbol meeting a number other than 1 was taken to be that number; it may have been 1, so may not be 0.
            let symbolic = symbolic.expect("a shape that fits when bound");
            for (symbolic, concrete) in bind(&symbolic).iter().zip(&concrete) {
                let known = symbolic.is_const();
                prop_assert!(!known || symbolic == concrete, "{symbolic} is not {concrete}");
            }
        }
    }

    #[test]
    fn comparisons_hold_when_bound(a in any_dim(), b in any_dim(), batch in 0i64..9, seq in 0i64..9) {
        let values = bindings(batch, seq);
        let (x, y) = (a.eval(&values).unwrap(), b.eval(&values).unwrap());
        if let Some(greater) = dims::greater(&a, &b) { prop_assert_eq!(greater, x > y); }
        if let Some(equal) = dims::equal(&a, &b) { prop_assert_eq!(equal, x == y); }
        if let Some(max) = dims::max(&a, &b) { prop_assert_eq!(max.eval(&values).unwrap(), x.max(y)); }
        if let Some(min) = dims::min(&a, &b) { prop_assert_eq!(min.eval(&values).unwrap(), x.min(y)); }
    }

    #[test]
    fn reshape_keeps_the_number_of_elements(sizes in prop::collection::vec(1usize..6, 1..5), keep in 0usize..5) {
        let total: usize = sizes.iter().product();
        let keep = keep.min(sizes.len());
        let mut requested: Vec<i64> = sizes[..keep].iter().map(|size| *size as i64).collect();
        requested.push(-1);
        let x = Fact::of(TensorType::new(DType::F32, sizes.iter().copied().collect()));
        let y = facts(&Op::Reshape { allow_zero: false }, &[Some(x), c(TensorData::vector(requested))]);
        prop_assert_eq!(y[0].ty.shape.elements(), Dim::from(total));
    }

    /// A slice of symbolic bounds, where it is known, is that of the numbers.
    #[test]
    fn symbolic_slices_hold_when_bound(
        size in any_dim(), start in any_dim(), end in any_dim(), negate: bool, step in 1i64..3,
        batch in 0i64..5, seq in 0i64..5,
    ) {
        let values = bindings(batch, seq);
        let end = if negate { &Dim::from(0) - &end } else { end };
        let vector = |dim: Dim| Some(Fact::with_value(DType::I64, crate::shape![1], Some(vec![dim])));
        let run = |size: Dim, start: Dim, end: Dim| {
            let x = Some(Fact::of(TensorType::new(DType::F32, Shape(vec![size]))));
            let op = Op::Slice;
            let y = facts(&op, &[x, vector(start), vector(end), v("0"), vector(Dim::from(step))]);
            y[0].ty.shape.dims()[0].clone()
        };
        let symbolic = run(size.clone(), start.clone(), end.clone()).substitute(&values);
        let bind = |dim: Dim| dim.substitute(&values);
        let concrete = run(bind(size), bind(start), bind(end));
        prop_assert!(!symbolic.is_const() || symbolic == concrete, "{symbolic} is not {concrete}");
    }

    /// No operands make a rule panic, whatever the op.
    #[test]
    fn nothing_panics(
        which in 0usize..22, kinds in prop::collection::vec(any_operand(), 0..6), axis in any_axis(), count in any_count(),
    ) {
        let op = match which {
            0 => Op::Clip,
            1 => Op::Where,
            2 => Op::Reshape { allow_zero: count % 2 == 0 },
            3 => Op::Squeeze,
            4 => Op::Unsqueeze,
            5 => Op::Concat { axis },
            6 => Op::Split { axis, parts: count },
            7 => Op::Slice,
            8 => Op::Gather { axis },
            9 => Op::GatherElements { axis },
            10 => Op::GatherNd { batch_dims: count },
            11 => Op::Expand,
            12 => Op::Tile,
            13 => Op::Pad { mode: PadMode::Constant },
            14 => Op::Shape { start: axis, end: Some(axis.wrapping_add(count as i64)) },
            15 => Op::Range,
            16 => Op::QuantizeLinear { axis, block_size: count, to: DType::I8 },
            17 => Op::LayerNorm { axis, epsilon: 0.0 },
            18 => Op::MatMul,
            19 => Op::RotaryEmbedding { interleaved: false, heads: count, rotary_dim: axis as usize },
            20 => Op::RaggedAttention { heads: count, scale: 1.0, relative: None },
            _ => Op::Binary(BinaryOp::ALL[count % BinaryOp::ALL.len()]),
        };
        let _ = infer(&op, &kinds, &mut FreshSymbols::starting_at(0));
    }
}

fn any_axis() -> impl Strategy<Value = i64> {
    prop_oneof![-4i64..4, Just(i64::MIN), Just(i64::MAX), any::<i64>()]
}

fn any_count() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..5, Just(usize::MAX), Just(1usize << 40)]
}

fn any_operand() -> impl Strategy<Value = Option<Fact>> {
    let size = prop_oneof![any_dim(), Just(Dim::from(i64::MAX)), Just(Dim::from("?3"))];
    let shape = prop::collection::vec(size, 0..5);
    let typed = (shape, prop_oneof![Just(DType::F32), Just(DType::I64), Just(DType::Bool)])
        .prop_map(|(dims, dtype)| Some(Fact::of(TensorType::new(dtype, Shape(dims)))));
    let number = prop_oneof![any_axis().prop_map(Dim::from), any_dim()];
    let valued = prop::collection::vec(number, 0..5)
        .prop_map(|dims| Some(Fact::with_value(DType::I64, Shape(vec![Dim::from(dims.len())]), Some(dims))));
    prop_oneof![Just(None), typed, valued.clone(), valued]
}
