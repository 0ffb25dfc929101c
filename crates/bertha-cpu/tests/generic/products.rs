use bertha_graph::{AttentionAttrs, ConvAttrs, ConvPadding, DType, Op, TensorData};
use proptest::prelude::*;

use crate::support::{FLOATS, NUMBERS, Random, check, check_all, config};

/// Sizes on both sides of the kernels' blocks, now and then.
fn size(random: &mut Random) -> usize {
    match random.below(8) {
        0 => 30 + random.below(10),
        1 => 60 + random.below(10),
        2 => 250 + random.below(20),
        _ => random.below(7),
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn matmul(seed: u64) {
        let mut random = Random::new(seed);
        let dtype = random.pick(&NUMBERS);
        let (m, k, n) = (size(&mut random), size(&mut random), size(&mut random));
        let lead: Vec<usize> = (0..random.below(3)).map(|_| 1 + random.below(3)).collect();
        let lead_a = if random.flip() { lead.clone() } else { random.broadcastable(&lead) };
        let lead_b = random.broadcastable(&lead);
        let a = if random.below(6) == 0 { vec![k] } else { [&lead_a[..], &[m, k]].concat() };
        let b = if random.below(6) == 0 { vec![k] } else { [&lead_b[..], &[k, n]].concat() };
        check_all(&Op::MatMul, &[&random.tensor(dtype, &a), &random.tensor(dtype, &b)]);
    }

    #[test]
    fn gemm(seed: u64) {
        let mut random = Random::new(seed);
        let dtype = random.pick(&NUMBERS);
        let (m, k, n) = (size(&mut random), size(&mut random), size(&mut random));
        let (trans_a, trans_b) = (random.flip(), random.flip());
        let a = random.tensor(dtype, &if trans_a { [k, m] } else { [m, k] });
        let b = random.tensor(dtype, &if trans_b { [n, k] } else { [k, n] });
        let c = random.broadcastable(&[m, n]);
        let c = random.tensor(dtype, &c);
        let (alpha, beta) = (random.pick(&[1.0, 0.5]), random.pick(&[1.0, -0.25, 0.0]));
        check(&Op::Gemm { alpha, beta, trans_a, trans_b }, &[Some(&a), Some(&b), random.flip().then_some(&c)]);
    }

    #[test]
    fn conv(seed: u64) {
        let mut random = Random::new(seed);
        let dtype = random.pick(&FLOATS);
        let dimensions = random.below(4);
        let (groups, part, each) = (1 + random.below(3), 1 + random.below(3), 1 + random.below(3));
        let mut lists = [vec![], vec![], vec![]];
        let (mut pads, mut sizes) = (vec![0; 2 * dimensions], vec![]);
        for d in 0..dimensions {
            let (kernel, stride, dilation) = (1 + random.below(4), 1 + random.below(3), 1 + random.below(2));
            let extent = (kernel - 1) * dilation + 1;
            (pads[d], pads[d + dimensions]) = (random.below(extent + 1), random.below(extent + 1));
            sizes.push(extent + random.below(9));
            for (list, value) in lists.iter_mut().zip([kernel, stride, dilation]) {
                list.push(value);
            }
        }
        let [kernel, strides, dilations] = lists;
        let padding = match random.below(4) {
            0 => ConvPadding::SameUpper,
            1 => ConvPadding::SameLower,
            _ => ConvPadding::Explicit(pads),
        };
        let op = Op::Conv(ConvAttrs { groups, strides, dilations, padding });
        let shape = [&[1 + random.below(2), groups * part], &sizes[..]].concat();
        let x = random.tensor(dtype, &shape);
        let weight = random.tensor(dtype, &[&[groups * each, part], &kernel[..]].concat());
        let bias = random.tensor(dtype, &[groups * each]);
        check(&op, &[Some(&x), Some(&weight), random.flip().then_some(&bias)]);
    }

    #[test]
    fn attention(seed: u64) {
        let mut random = Random::new(seed);
        let dtype = random.pick(&FLOATS);
        let (batch, kv_heads, group) = (1 + random.below(2), 1 + random.below(2), 1 + random.below(3));
        let (queries, keys, past) = (1 + random.below(5), 1 + random.below(20), random.below(4));
        let (dim, dim_v) = (1 + random.below(20), 1 + random.below(20));
        let heads = kv_heads * group;
        let rows = random.flip();
        let shape = |heads: usize, seq: usize, dim: usize| match rows {
            true => vec![batch, seq, heads * dim],
            false => vec![batch, heads, seq, dim],
        };
        let q = random.tensor(dtype, &shape(heads, queries, dim));
        let k = random.tensor(dtype, &shape(kv_heads, keys, dim));
        let v = random.tensor(dtype, &shape(kv_heads, keys, dim_v));
        let cached = random.below(3) == 0;
        let total = if cached { keys + past } else { keys };
        let mask = mask(&mut random, dtype, &[batch, heads, queries, total]);
        let past_k = random.tensor(dtype, &[batch, kv_heads, past, dim]);
        let past_v = random.tensor(dtype, &[batch, kv_heads, past, dim_v]);
        let lengths = random.within(DType::I64, &[batch], 0, total as i64);
        let attrs = AttentionAttrs {
            q_heads: if rows { heads } else { 0 },
            kv_heads: if rows { kv_heads } else { 0 },
            scale: random.flip().then_some(0.3),
            is_causal: random.flip(),
            softcap: random.pick(&[0.0, 1.5]),
            scores_mode: random.below(4) as u8,
            softmax_precision: None,
        };
        let inputs = [
            Some(&q),
            Some(&k),
            Some(&v),
            mask.as_ref(),
            cached.then_some(&past_k),
            cached.then_some(&past_v),
            (!cached && random.below(3) == 0).then_some(&lengths),
        ];
        check(&Op::Attention(attrs), &inputs);
    }

    #[test]
    fn rotary_embedding(seed: u64) {
        let mut random = Random::new(seed);
        let dtype = random.pick(&FLOATS);
        let (batch, seq, heads, half) =
            (1 + random.below(3), 1 + random.below(4), 1 + random.below(3), 1 + random.below(4));
        let rest = if random.flip() { random.below(3) } else { 0 };
        let dim = 2 * half + rest;
        let rows = random.flip();
        let shape = if rows { vec![batch, seq, heads * dim] } else { vec![batch, heads, seq, dim] };
        let op = Op::RotaryEmbedding {
            interleaved: random.flip(),
            heads: if rows { heads } else { 0 },
            rotary_dim: if rest > 0 { 2 * half } else { 0 },
        };
        let x = random.tensor(dtype, &shape);
        let by_position = random.flip();
        let cache = if by_position { vec![9, half] } else { vec![random.pick(&[1, batch]), seq, half] };
        let (cos, sin) = (random.tensor(dtype, &cache), random.tensor(dtype, &cache));
        let ids = random.within(DType::I64, &[batch, seq], 0, 8);
        check(&op, &[Some(&x), Some(&cos), Some(&sin), by_position.then_some(&ids)]);
    }
}

/// No mask, one of booleans or one to add, of a shape that broadcasts; it may have too few keys.
fn mask(random: &mut Random, dtype: DType, scores: &[usize; 4]) -> Option<TensorData> {
    let mut shape = random.broadcastable(scores);
    if shape.is_empty() {
        return None;
    }
    let keys = shape.len() - 1;
    shape[keys] = scores[3] - if random.below(4) == 0 { random.below(scores[3]) } else { 0 };
    match random.below(3) {
        0 => None,
        1 => Some(random.tensor(DType::Bool, &shape)),
        _ => Some(random.tensor(dtype, &shape)),
    }
}
