//! `gemm_small_sm90a.cu`: few tokens on Hopper, made for latency.

use super::activation_number;
use crate::arch::Arch;
use crate::driver::TensorMapDesc;
use crate::kernels::{KernelSpec, Launch, LaunchArg, Operand, Setting};
use crate::program::{Linear, Storage};

const BLOCK_K: usize = 64;
/// Features of a tile: one wgmma high.
const FEATURES: usize = 64;
/// Widths of tiles in tokens.
const TOKENS: [usize; 8] = [8, 16, 32, 64, 96, 128, 192, 256];
/// Blocks along K, at most: a portable cluster.
const MOST_SPLITS: usize = 8;
/// Tokens up to which this kernel is the better one.
const MOST_TOKENS: usize = 384;

fn shared_bytes(tokens: usize, split: usize, stages: usize) -> usize {
    let owned = (tokens / 8).div_ceil(split);
    stages * (FEATURES + tokens) * 128 + owned * FEATURES * (32 * (split - 1) + 16) + 16 * stages + 8
}

/// Tokens of a tile, and blocks along K. Measured on an H100 for the layers of BERT-base and -large: up to 32 tokens K is
/// split as far as blocks fit; around 128, wide layers have blocks enough without a split, long ones need it, square ones
/// do best with narrow tiles of tokens.
fn tile_and_split(
    rows: usize,
    tiles: usize,
    k_blocks: usize,
    multiprocessors: usize,
) -> Option<(usize, usize)> {
    let tokens = match rows {
        0..=64 => TOKENS.into_iter().find(|tokens| rows <= *tokens)?,
        65..=128 if k_blocks > 24 => 128,
        65..=128 if tiles >= 30 => 64,
        65..=128 => 32,
        _ => 128,
    };
    let across = tiles * rows.div_ceil(tokens);
    let most = match rows {
        0..=64 => (multiprocessors + multiprocessors / 8) / across.max(1),
        65..=128 if tokens == 128 => 6,
        65..=128 if tokens == 32 => 4,
        _ => multiprocessors / across.max(1),
    };
    Some((tokens, even_split(k_blocks, most)))
}

/// The largest number of equal parts, up to `most` and what a cluster holds.
fn even_split(k_blocks: usize, most: usize) -> usize {
    let most = most.clamp(1, MOST_SPLITS.min(k_blocks.max(1)));
    (1..=most).rev().find(|split| k_blocks.is_multiple_of(*split)).unwrap_or(1)
}

pub(super) fn launch(storage: Storage, linear: &Linear, setting: &Setting) -> Option<Launch> {
    let rows = setting.rows(linear.rows);
    let fits = setting.arch == Arch::Sm90a
        && matches!(storage, Storage::F16 | Storage::Bf16)
        && linear.n.is_multiple_of(8)
        && linear.k.is_multiple_of(8)
        && rows <= MOST_TOKENS;
    if !fits {
        return None;
    }
    let k_blocks = linear.k.div_ceil(BLOCK_K);
    let tiles = linear.n.div_ceil(FEATURES);
    let (tokens, split) = tile_and_split(rows, tiles, k_blocks, setting.planned_multiprocessors)?;
    let whole = k_blocks.div_ceil(split);
    let stages = (2..=whole.max(2))
        .rev()
        .find(|stages| shared_bytes(tokens, split, *stages) <= setting.arch.shared_bytes())?;
    let kernel = KernelSpec::file("gemm_small_sm90a")
        .element(storage)
        .with("N", linear.n)
        .with("K", linear.k)
        .with("TOKENS", tokens)
        .with("FEATURES", FEATURES)
        .with("SPLIT", split)
        .with("SHARE", 1)
        .with("STAGES", stages)
        .with("ACTIVATION", activation_number(linear.activation))
        .flag("RESIDUAL", linear.residual.is_some())
        .flag("OUTPUT_F32", linear.output_f32);
    let capacity = setting.allocated(linear.rows);
    let mut config = setting.config(1, (2 * FEATURES + 32) as u32, shared_bytes(tokens, split, stages));
    config.grid = [split as u32, tiles as u32, rows.div_ceil(tokens) as u32];
    config.cluster = [split as u32, 1];
    let map = |rows: usize, columns: usize, box_rows: usize| TensorMapDesc {
        bf16: storage == Storage::Bf16,
        rows: rows as u64,
        columns: columns as u64,
        box_size: [BLOCK_K as u32, box_rows as u32],
    };
    let args = vec![
        LaunchArg::Map(Operand::Tensor(linear.x), map(capacity, linear.k, tokens)),
        LaunchArg::Map(Operand::Weight(linear.weight), map(linear.n, linear.k, FEATURES)),
        LaunchArg::Address(Operand::Weight(linear.bias)),
        LaunchArg::Address(linear.residual.map_or(Operand::Null, Operand::Tensor)),
        LaunchArg::Address(Operand::Tensor(linear.y)),
        LaunchArg::Address(Operand::Batch(linear.rows)),
        LaunchArg::Address(linear.next.map_or(Operand::Null, |next| Operand::Weight(next.weight))),
        LaunchArg::Int(linear.next.map_or(0, |next| i32::try_from(next.bytes).unwrap_or(0))),
    ];
    Some(Launch { kernel, config, args })
}
