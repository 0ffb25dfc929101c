use bertha_graph::{Activation, DType, Op, PoolKind, RelativeBuckets, TensorData, WeightLayout};
use proptest::prelude::*;

use crate::support::{FLOATS, Random, check, check_all, config, ints};

/// Bounds of a few sequences, and the number of tokens.
fn sequences(random: &mut Random, shortest: usize) -> (TensorData, usize) {
    let mut bounds = vec![0];
    for _ in 0..1 + random.below(4) {
        let longest = random.pick(&[3, 40]);
        bounds.push(bounds[bounds.len() - 1] + (shortest + random.below(longest)) as i64);
    }
    (ints(DType::I32, &[bounds.len()], &bounds), bounds[bounds.len() - 1] as usize)
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn embedding_sum(seed: u64) {
        let mut random = Random::new(seed);
        let dtype = random.pick(&FLOATS);
        let (ids_shape, hidden) = (random.shape(2), random.dim());
        let tables: Vec<TensorData> = (0..1 + random.below(3)).map(|_| random.tensor(dtype, &[7, hidden])).collect();
        let ids: Vec<TensorData> = tables
            .iter()
            .map(|_| {
                let index = random.pick(&[DType::I32, DType::I64]);
                random.within(index, &ids_shape, 0, 6)
            })
            .collect();
        let inputs: Vec<&TensorData> = ids.iter().zip(&tables).flat_map(|(ids, table)| [ids, table]).collect();
        check_all(&Op::EmbeddingSum, &inputs);
    }

    #[test]
    fn embedding_layer_norm(seed: u64) {
        let mut random = Random::new(seed);
        let dtype = random.pick(&FLOATS);
        let (ids_shape, hidden) = (random.shape(2), random.dim());
        let tables: Vec<TensorData> = (0..1 + random.below(3)).map(|_| random.tensor(dtype, &[7, hidden])).collect();
        let ids: Vec<TensorData> =
            tables.iter().map(|_| random.within(DType::I64, &ids_shape, 0, 6)).collect();
        let (gamma, beta) = (random.tensor(dtype, &[hidden]), random.tensor(dtype, &[hidden]));
        let pairs = ids.iter().zip(&tables).flat_map(|(ids, table)| [ids, table]);
        let inputs: Vec<&TensorData> = pairs.chain([&gamma, &beta]).collect();
        check_all(&Op::EmbeddingLayerNorm { epsilon: 1e-3 }, &inputs);
    }

    #[test]
    fn linear(seed: u64) {
        let mut random = Random::new(seed);
        let dtype = random.pick(&FLOATS);
        let (lead, k, n) = (random.shape(2), random.dim(), random.dim());
        let layout = random.pick(&[WeightLayout::OutIn, WeightLayout::InOut]);
        let activation = random.pick(&[
            Activation::None,
            Activation::Relu,
            Activation::Tanh,
            Activation::GeluErf,
            Activation::GeluTanh,
            Activation::Silu,
        ]);
        let x = random.tensor(dtype, &[&lead[..], &[k]].concat());
        let weight = random.tensor(dtype, &if layout == WeightLayout::OutIn { [n, k] } else { [k, n] });
        let bias = random.tensor(dtype, &[n]);
        let residual = random.tensor(dtype, &[&lead[..], &[n]].concat());
        let inputs =
            [Some(&x), Some(&weight), random.flip().then_some(&bias), random.flip().then_some(&residual)];
        check(&Op::Linear { layout, activation }, &inputs);
    }

    #[test]
    fn ragged_attention(seed: u64) {
        let mut random = Random::new(seed);
        let dtype = random.pick(&FLOATS);
        let (cu_seqlens, tokens) = sequences(&mut random, 0);
        let (heads, dim) = (1 + random.below(3), 1 + random.below(20));
        let [q, k, v] = [0; 3].map(|_| random.tensor(dtype, &[tokens, heads * dim]));
        let relative = random.flip().then_some(RelativeBuckets { buckets: 8, max_distance: 16 });
        let table = random.tensor(dtype, &[8, heads]);
        let op = Op::RaggedAttention { heads, scale: 0.25, relative };
        check(&op, &[Some(&q), Some(&k), Some(&v), Some(&cu_seqlens), relative.map(|_| &table)]);
        let packed = random.tensor(dtype, &[tokens, 3 * heads * dim]);
        check(&op, &[Some(&packed), None, None, Some(&cu_seqlens), relative.map(|_| &table)]);
    }

    #[test]
    fn pool(seed: u64) {
        let mut random = Random::new(seed);
        let dtype = random.pick(&FLOATS);
        let (cu_seqlens, tokens) = sequences(&mut random, 1);
        let hidden = random.dim();
        let x = random.tensor(dtype, &[tokens, hidden]);
        for kind in [
            PoolKind::Cls,
            PoolKind::Mean,
            PoolKind::Max,
            PoolKind::MeanSqrtLen,
            PoolKind::WeightedMean,
            PoolKind::LastToken,
        ] {
            check_all(&Op::Pool(kind), &[&x, &cu_seqlens]);
        }
    }
}
