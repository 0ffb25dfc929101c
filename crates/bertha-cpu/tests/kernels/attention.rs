//! Attention, ragged and dense.

use bertha_cpu::isa::Isa;
use bertha_cpu::kernels::attention::{
    Attention, AttentionBias, AttentionShape, HeadLayout, HeadRows, Sequences, attention,
    attention_scratch_len,
};
use bertha_cpu::kernels::{Context, CuSeqlens};

use crate::common::{Rng, assert_close, context};

/// One query's result in f64: `scores` already scaled and biased, `value(key, column)`.
fn reference(scores: &[f64], dim: usize, value: &dyn Fn(usize, usize) -> f64) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return vec![0.0; dim];
    }
    let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    (0..dim)
        .map(|c| weights.iter().enumerate().map(|(key, w)| w * value(key, c)).sum::<f64>() / sum)
        .collect()
}

/// A ragged batch in one `[tokens, 3 * heads * dim]` buffer.
struct Ragged {
    heads: usize,
    dim: usize,
    scale: f32,
    offsets: Vec<u32>,
    qkv: Vec<f32>,
}

impl Ragged {
    fn new(rng: &mut Rng, heads: usize, dim: usize, lengths: &[usize], spread: f32) -> Self {
        let mut offsets = vec![0];
        for &len in lengths {
            offsets.push(offsets[offsets.len() - 1] + len as u32);
        }
        let tokens = offsets[offsets.len() - 1] as usize;
        let scale = 1.0 / (dim as f32).sqrt();
        Self { heads, dim, scale, offsets, qkv: rng.values(tokens * 3 * heads * dim, spread) }
    }

    fn width(&self) -> usize {
        self.heads * self.dim
    }

    fn run(&self, ctx: &mut Context, bias: AttentionBias<'_>) -> Vec<f32> {
        let width = self.width();
        let view = |part: usize| HeadRows {
            data: &self.qkv[(part * width).min(self.qkv.len())..],
            layout: HeadLayout::ragged(self.dim, 3 * width),
        };
        let cu = CuSeqlens::new(&self.offsets).expect("well formed");
        let shape = AttentionShape { scale: self.scale, ..AttentionShape::multi_head(self.heads, self.dim) };
        let args = Attention { shape, seqs: Sequences::Ragged(cu), q: view(0), k: view(1), v: view(2), bias };
        let mut out = vec![f32::NAN; cu.tokens() * width];
        attention(ctx, &args, HeadLayout::ragged(self.dim, width), &mut out);
        out
    }

    /// Value `column` of row `token` of Q (0), K (1) or V (2) of a head.
    fn at(&self, part: usize, token: usize, head: usize, column: usize) -> f64 {
        f64::from(self.qkv[(token * 3 + part) * self.width() + head * self.dim + column])
    }

    fn check(&self, out: &[f32], bias: &dyn Fn(usize, usize, usize, usize) -> f64) {
        let cu = CuSeqlens::new(&self.offsets).expect("well formed");
        for seq in 0..cu.sequences() {
            let (start, len) = cu.sequence(seq);
            for head in 0..self.heads {
                for query in 0..len {
                    let mut size = 0.0_f64;
                    let scores: Vec<f64> = (0..len)
                        .map(|key| {
                            let terms = (0..self.dim).map(|c| {
                                self.at(0, start + query, head, c) * self.at(1, start + key, head, c)
                            });
                            size = size.max(terms.clone().map(f64::abs).sum::<f64>() * f64::from(self.scale));
                            terms.sum::<f64>() * f64::from(self.scale) + bias(seq, head, query, key)
                        })
                        .collect();
                    let want = reference(&scores, self.dim, &|key, c| self.at(2, start + key, head, c));
                    let values = self.qkv.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                    let tolerance = 1e-6 * (1.0 + size) * f64::from(values);
                    for (c, &want) in want.iter().enumerate() {
                        let got = out[(start + query) * self.width() + head * self.dim + c];
                        assert_close(got, want, tolerance, &|| {
                            format!("sequence {seq} of {len}, head {head}, query {query}, column {c}")
                        });
                    }
                }
            }
        }
    }
}

pub(crate) fn check(isa: Isa) {
    let mut rng = Rng::new(31);
    for threads in [1, 3] {
        let mut ctx = context(isa, threads);
        for (heads, dim, lengths) in [
            (1, 1, &[1][..]),
            (2, 64, &[1, 2, 0, 3, 17, 33]),
            (3, 32, &[128, 5]),
            (2, 5, &[7, 31, 15]),
            (1, 80, &[70]),
            (4, 33, &[16, 1]),
            (1, 8, &[]),
        ] {
            for spread in [1.0, 8.0] {
                let batch = Ragged::new(&mut rng, heads, dim, lengths, spread);
                batch.check(&batch.run(&mut ctx, AttentionBias::None), &|_, _, _, _| 0.0);
            }
            biased(&mut ctx, &mut rng, heads, dim, lengths);
        }
        dense(&mut ctx, &mut rng);
    }
    sequences_are_independent(isa);
    no_scratch_beyond_the_declared(isa);
}

/// Relative positions and full additive biases, ragged.
fn biased(ctx: &mut Context, rng: &mut Rng, heads: usize, dim: usize, lengths: &[usize]) {
    let batch = Ragged::new(rng, heads, dim, lengths, 2.0);
    let max = lengths.iter().copied().max().unwrap_or(1) + 3;
    let table = rng.values(heads * (2 * max - 1), 3.0);
    let out = batch.run(ctx, AttentionBias::Relative { table: &table, max });
    batch.check(&out, &|_, head, q, k| f64::from(table[head * (2 * max - 1) + k + max - 1 - q]));

    let full = rng.values(heads * max * max, 3.0);
    let bias =
        AttentionBias::Additive { data: &full, seq_stride: 0, head_stride: max * max, row_stride: max };
    batch.check(&batch.run(ctx, bias), &|_, head, q, k| f64::from(full[(head * max + q) * max + k]));
}

/// Dense batches: other layouts, lengths, head sharing, masks.
fn dense(ctx: &mut Context, rng: &mut Rng) {
    for (batch, heads, kv_heads, q_len, kv_len, dim, v_dim) in
        [(2, 4, 2, 5, 9, 16, 16), (3, 2, 2, 1, 40, 7, 19), (1, 3, 1, 33, 1, 64, 3), (2, 2, 2, 30, 35, 8, 33)]
    {
        // [batch, heads, len, dim].
        let q = rng.values(batch * heads * q_len * dim, 1.0);
        let k = rng.values(batch * kv_heads * kv_len * dim, 1.0);
        let v = rng.values(batch * kv_heads * kv_len * v_dim, 1.0);
        let rows = |heads: usize, len: usize, dim: usize| HeadLayout {
            seq_stride: heads * len * dim,
            head_stride: len * dim,
            row_stride: dim,
        };
        let scale = 0.3;
        let mut keep: Vec<u8> = (0..batch * kv_len).map(|_| rng.below(3).min(1) as u8).collect();
        keep[..kv_len].fill(0); // The first sequence has nothing to attend to.
        let additive = rng.values(heads * q_len * kv_len, 2.0);
        for masked in [false, true] {
            let bias = if masked {
                AttentionBias::Keep { data: &keep, seq_stride: kv_len, head_stride: 0, row_stride: 0 }
            } else {
                AttentionBias::Additive {
                    data: &additive,
                    seq_stride: 0,
                    head_stride: q_len * kv_len,
                    row_stride: kv_len,
                }
            };
            let args = Attention {
                shape: AttentionShape { heads, kv_heads, head_dim: dim, v_head_dim: v_dim, scale },
                seqs: Sequences::Dense { batch, q_len, kv_len },
                q: HeadRows { data: &q, layout: rows(heads, q_len, dim) },
                k: HeadRows { data: &k, layout: rows(kv_heads, kv_len, dim) },
                v: HeadRows { data: &v, layout: rows(kv_heads, kv_len, v_dim) },
                bias,
            };
            // [batch, q_len, heads, v_dim].
            let layout = HeadLayout {
                seq_stride: q_len * heads * v_dim,
                head_stride: v_dim,
                row_stride: heads * v_dim,
            };
            let mut out = vec![f32::NAN; batch * q_len * heads * v_dim];
            attention(ctx, &args, layout, &mut out);
            for (row, out) in out.chunks(v_dim).enumerate() {
                let (b, query, head) = (row / heads / q_len, row / heads % q_len, row % heads);
                let kv = b * kv_heads + head / (heads / kv_heads);
                let scores: Vec<f64> = (0..kv_len)
                    .map(|key| {
                        let dot: f64 = (0..dim)
                            .map(|c| {
                                f64::from(q[((b * heads + head) * q_len + query) * dim + c])
                                    * f64::from(k[(kv * kv_len + key) * dim + c])
                            })
                            .sum();
                        let score = dot * f64::from(scale);
                        match masked {
                            true if keep[b * kv_len + key] == 0 => f64::NEG_INFINITY,
                            true => score,
                            false => score + f64::from(additive[(head * q_len + query) * kv_len + key]),
                        }
                    })
                    .collect();
                let value = |key: usize, c: usize| f64::from(v[(kv * kv_len + key) * v_dim + c]);
                for (c, (&got, want)) in out.iter().zip(reference(&scores, v_dim, &value)).enumerate() {
                    assert_close(got, want, 4e-6, &|| {
                        format!("batch {b}, head {head}, query {query}, column {c}")
                    });
                }
            }
        }
    }
}

/// A sequence's result is the same to the bit alone, in any batch and on any number of threads.
fn sequences_are_independent(isa: Isa) {
    let mut rng = Rng::new(32);
    let lengths = [40, 1, 150, 13, 29];
    let batch = Ragged::new(&mut rng, 2, 24, &lengths, 3.0);
    let bits = |out: Vec<f32>| out.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let whole = bits(batch.run(&mut context(isa, 1), AttentionBias::None));
    let width = batch.width();
    for threads in [1, 2, 7] {
        let mut ctx = context(isa, threads);
        assert_eq!(bits(batch.run(&mut ctx, AttentionBias::None)), whole, "{threads} threads");
        for (seq, &len) in lengths.iter().enumerate() {
            let start = batch.offsets[seq] as usize;
            let alone = Ragged {
                offsets: vec![0, len as u32],
                qkv: batch.qkv[start * 3 * width..(start + len) * 3 * width].to_vec(),
                ..batch
            };
            let got = bits(alone.run(&mut ctx, AttentionBias::None));
            assert_eq!(got, whole[start * width..(start + len) * width], "sequence {seq}, {threads} threads");
        }
    }
}

/// What `attention_scratch_len` says is enough: nothing grows after a reservation.
fn no_scratch_beyond_the_declared(isa: Isa) {
    let mut rng = Rng::new(33);
    let batch = Ragged::new(&mut rng, 2, 24, &[70, 12], 1.0);
    let mut ctx = context(isa, 2);
    ctx.reserve(attention_scratch_len(isa.tier(), &AttentionShape::multi_head(2, 24), 70));
    let before = ctx.scratch_bytes();
    assert!(before > 0);
    batch.run(&mut ctx, AttentionBias::None);
    assert_eq!(ctx.scratch_bytes(), before);
}

#[test]
fn overlapping_output_rows_are_refused() {
    let offsets = [0, 4];
    let x = [0.5_f32; 4 * 2 * 8];
    let view = HeadRows { data: &x, layout: HeadLayout::ragged(8, 16) };
    let args = Attention {
        shape: AttentionShape::multi_head(2, 8),
        seqs: Sequences::Ragged(CuSeqlens::new(&offsets).expect("well formed")),
        q: view,
        k: view,
        v: view,
        bias: AttentionBias::None,
    };
    let run = |layout: HeadLayout| {
        std::panic::catch_unwind(|| {
            let mut out = vec![0.0; x.len()];
            attention(&mut context(Isa::detect(), 1), &args, layout, &mut out);
        })
    };
    assert!(run(HeadLayout::ragged(8, 16)).is_ok());
    assert!(
        run(HeadLayout { seq_stride: 0, head_stride: 32, row_stride: 8 }).is_ok(),
        "[heads, tokens, dim]"
    );
    for (head_stride, row_stride) in [(8, 8), (7, 16), (8, 15), (31, 8)] {
        assert!(
            run(HeadLayout { seq_stride: 0, head_stride, row_stride }).is_err(),
            "{head_stride}, {row_stride}"
        );
    }
}
