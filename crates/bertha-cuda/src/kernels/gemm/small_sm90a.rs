//! `gemm_small_sm90a.cu`: few tokens on Hopper, made for latency.

use super::{Tactic, activation_number, fits_sm90a};
use crate::driver::TensorMapDesc;
use crate::kernels::{KernelSpec, Launch, LaunchArg, Operand, Setting};
use crate::program::{Linear, Storage};

const BLOCK_K: usize = 64;
/// Features of a tile: one wgmma high.
const FEATURES: usize = 64;
/// Widths of tiles in tokens.
const TOKENS: [usize; 8] = [8, 16, 32, 64, 96, 128, 192, 256];
/// Numbers of blocks along K, up to a portable cluster.
const SPLITS: [usize; 6] = [1, 2, 3, 4, 6, 8];
/// Tokens up to which this kernel is the better one.
const MOST_TOKENS: usize = 256;
/// Whether the kernel applies deferred norms and stores statistics, as `gemm_sm90a.cu` does.
pub(super) const TAKES_NORMS: bool = true;

fn shared_bytes(tokens: usize, split: usize, stages: usize) -> usize {
    let owned = (tokens / 8).div_ceil(split);
    stages * (FEATURES + tokens) * 128 + owned * FEATURES * (32 * (split - 1) + 16) + 16 * stages + 8
}

/// Tokens of a tile, and blocks along K: as many as let the whole grid run at once. The rule meets nearly all optima
/// measured on an H100 for BERT-base and -large (`bench/runs/2026-11-24-h100-gemm.json`).
fn tile_and_split(rows: usize, linear: &Linear, multiprocessors: usize) -> (usize, usize) {
    let square = linear.n <= 1024 && linear.k <= 1024;
    let widest = if square { 64 } else { 128 };
    let tokens =
        TOKENS.into_iter().find(|tokens| rows <= *tokens).map_or(widest, |tokens| tokens.min(widest));
    let across = linear.n.div_ceil(FEATURES) * rows.div_ceil(tokens);
    let fits = |split: &usize| *split <= linear.k.div_ceil(BLOCK_K) && split * across <= multiprocessors;
    (tokens, SPLITS.into_iter().rev().find(fits).unwrap_or(1))
}

fn takes(storage: Storage, linear: &Linear, setting: &Setting) -> bool {
    fits_sm90a(storage, linear, setting) && linear.norm.is_none() && linear.stats.is_none()
}

pub(super) fn rule(storage: Storage, linear: &Linear, setting: &Setting) -> Option<Tactic> {
    let rows = setting.rows(linear.rows);
    if !takes(storage, linear, setting) || rows > MOST_TOKENS {
        return None;
    }
    let (tokens, split) = tile_and_split(rows, linear, setting.planned_multiprocessors);
    stages(tokens, split, linear, setting).map(|_| Tactic::GemmSmallSm90a { tokens, split })
}

/// As many stages as a block's part of K has, or as fit; `None` when not even two do.
fn stages(tokens: usize, split: usize, linear: &Linear, setting: &Setting) -> Option<usize> {
    let whole = linear.k.div_ceil(BLOCK_K).div_ceil(split);
    (2..=whole.max(2))
        .rev()
        .find(|stages| shared_bytes(tokens, split, *stages) <= setting.arch.shared_bytes())
}

pub(super) fn launch(
    (tokens, split): (usize, usize),
    storage: Storage,
    linear: &Linear,
    setting: &Setting,
) -> Option<Launch> {
    let is_known = TOKENS.contains(&tokens) && SPLITS.contains(&split);
    if !is_known || split > linear.k.div_ceil(BLOCK_K) || !takes(storage, linear, setting) {
        return None;
    }
    let rows = setting.rows(linear.rows);
    let tiles = linear.n.div_ceil(FEATURES);
    let stages = stages(tokens, split, linear, setting)?;
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
