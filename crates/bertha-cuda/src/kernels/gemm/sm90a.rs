//! `gemm_sm90a.cu`: many tokens on Hopper.

use super::{
    Tactic, Tile, activation_number, best_tile, fits_sm90a, layer_time, norm_arguments, tiles_worth_timing,
};
use crate::driver::TensorMapDesc;
use crate::kernels::{KernelSpec, Launch, LaunchArg, Operand, Setting};
use crate::program::{Linear, Storage};
use bertha_graph::Activation;

/// Rows of a tile: two consumers of 64.
const TILE_M: usize = 128;
const BLOCK_K: usize = 64;
const THREADS: u32 = 384;
const STORE_BYTES: usize = 8192;

/// Bytes that a stage of the ring takes.
fn stage_bytes(tile_n: usize) -> usize {
    (TILE_M + tile_n) * BLOCK_K * 2
}

/// Bytes for the norms of two tiles' rows.
const NORM_BYTES: usize = 2 * TILE_M * 8 + 32;

fn shared_bytes(tile_n: usize, stages: usize, store_buffers: usize) -> usize {
    stages * stage_bytes(tile_n) + 2 * store_buffers * STORE_BYTES + 16 * stages
}

/// As many stages as fit, up to what hides the memory's latency.
fn stages(tile_n: usize, store_buffers: usize, limit: usize) -> usize {
    (2..=8).rev().find(|stages| shared_bytes(tile_n, *stages, store_buffers) <= limit).unwrap_or(2)
}

/// Widths of tiles, with their share of peak by estimate.
const TILES: [(Tile, usize); 4] = [
    (Tile { rows: TILE_M, columns: 256, efficiency: 1.0 }, 256),
    (Tile { rows: TILE_M, columns: 192, efficiency: 0.97 }, 192),
    (Tile { rows: TILE_M, columns: 128, efficiency: 0.9 }, 128),
    (Tile { rows: TILE_M, columns: 64, efficiency: 0.6 }, 64),
];

const WIDEST: usize = 256;

/// Tiles from this width on are worth finishing between the products of the next one, with more than two tiles a block
/// (measured on an H100).
const NARROWEST_DEFERRED: usize = 192;

/// What an activation that is finished between the blocks of K leaves of a tile's efficiency where there are fewer of those
/// than one for each 16 columns (measured on an H100).
const CROWDED: f64 = 0.95;

/// [`TILES`], as they serve this layer.
fn tiles_for(linear: &Linear) -> [(Tile, usize); 4] {
    TILES.map(|(tile, columns)| {
        let crowded = linear.activation != Activation::None && linear.k.div_ceil(BLOCK_K) * 16 < columns;
        let efficiency = if crowded { CROWDED * tile.efficiency } else { tile.efficiency };
        (Tile { efficiency, ..tile }, columns)
    })
}

/// Staging tiles of 64 columns for each consumer: the whole tile where that leaves the ring four stages.
fn store_buffers(tile_n: usize, output_f32: bool) -> usize {
    match (output_f32, tile_n) {
        (true, _) => 0,
        (false, WIDEST) => 2,
        (false, _) => tile_n / 64,
    }
}

/// Whether the kernel can finish a tile between the products of the next.
fn can_defer(tile_n: usize, linear: &Linear) -> bool {
    let shape = tile_n >= 128 && linear.k >= 2 * tile_n;
    shape && linear.residual.is_none() && linear.stats.is_none() && !linear.output_f32
}

fn tiles(rows: usize, linear: &Linear, tile_n: usize) -> usize {
    rows.div_ceil(TILE_M) * linear.n.div_ceil(tile_n)
}

pub(super) fn rule(storage: Storage, linear: &Linear, setting: &Setting) -> Option<Tactic> {
    if !fits_sm90a(storage, linear, setting) {
        return None;
    }
    let rows = setting.rows_to_choose_by(linear.rows);
    let (_, columns) = best_tile(&tiles_for(linear), rows, linear.n, setting.planned_multiprocessors)?;
    let defer = columns >= NARROWEST_DEFERRED
        && tiles(rows, linear, columns) > 2 * setting.planned_multiprocessors
        && can_defer(columns, linear);
    Some(Tactic::GemmSm90a { columns, defer })
}

/// Those that finish tiles at the end, and, where tiles are wide, those that do so between the products of the next.
pub(super) fn candidates(linear: &Linear, setting: &Setting) -> Vec<Tactic> {
    let rows = setting.rows_to_choose_by(linear.rows);
    // One row of tiles leaves most of the card idle with wide ones.
    let most = if rows <= TILE_M { 64 } else { WIDEST };
    let forms = |tile: Tile| {
        let columns = tile.columns;
        let may_defer =
            columns >= NARROWEST_DEFERRED && tiles(rows, linear, columns) > setting.planned_multiprocessors;
        let deferred = may_defer.then_some(Tactic::GemmSm90a { columns, defer: true });
        [Some(Tactic::GemmSm90a { columns, defer: false }), deferred].into_iter().flatten()
    };
    let tiles = tiles_worth_timing(&tiles_for(linear), linear, setting).into_iter();
    tiles.filter(|tile| tile.columns <= most).flat_map(forms).collect()
}

pub(super) fn estimate(tile_n: usize, linear: &Linear, setting: &Setting) -> Option<f64> {
    let (tile, _) = TILES.iter().find(|(_, columns)| *columns == tile_n)?;
    Some(layer_time(tile, linear, setting))
}

pub(super) fn launch(
    (tile_n, defer): (usize, bool),
    storage: Storage,
    linear: &Linear,
    setting: &Setting,
) -> Option<Launch> {
    let has_tile = TILES.iter().any(|(_, columns)| *columns == tile_n);
    if !has_tile || !fits_sm90a(storage, linear, setting) || defer && !can_defer(tile_n, linear) {
        return None;
    }
    let capacity = setting.allocated(linear.rows);
    let store_buffers = store_buffers(tile_n, linear.output_f32);
    let norm_bytes = if linear.norm.is_some() { NORM_BYTES } else { 0 };
    let stages = stages(tile_n, store_buffers, setting.arch.shared_bytes() - norm_bytes);
    let kernel = KernelSpec::file("gemm_sm90a")
        .element(storage)
        .with("N", linear.n)
        .with("K", linear.k)
        .with("TILE_N", tile_n)
        .with("STAGES", stages)
        .with("STORE_BUFFERS", store_buffers)
        .with("ACTIVATION", activation_number(linear.activation))
        .flag("RESIDUAL", linear.residual.is_some())
        .flag("OUTPUT_F32", linear.output_f32)
        .flag("DEFER", defer)
        .norms(linear);
    let blocks = tiles(capacity, linear, tile_n).min(setting.multiprocessors);
    let config = setting.config(blocks, THREADS, norm_bytes + shared_bytes(tile_n, stages, store_buffers));
    let bf16 = storage == Storage::Bf16;
    let map = |rows: usize, columns: usize, box_rows: usize| TensorMapDesc {
        bf16,
        rows: rows as u64,
        columns: columns as u64,
        box_size: [BLOCK_K as u32, box_rows as u32],
    };
    let a = LaunchArg::Map(Operand::Tensor(linear.x), map(capacity, linear.k, TILE_M));
    let w = LaunchArg::Map(Operand::Weight(linear.weight), map(linear.n, linear.k, tile_n));
    // A map that is not used has to be there all the same.
    let d = match linear.output_f32 {
        true => a,
        false => LaunchArg::Map(Operand::Tensor(linear.y), map(capacity, linear.n, 64)),
    };
    let r = match linear.residual {
        None => a,
        Some(residual) => LaunchArg::Map(Operand::Tensor(residual), map(capacity, linear.n, TILE_M)),
    };
    let mut args = vec![
        a,
        w,
        d,
        r,
        LaunchArg::Address(Operand::Weight(linear.bias)),
        LaunchArg::Address(Operand::Tensor(linear.y)),
        LaunchArg::Address(Operand::Batch(linear.rows)),
        LaunchArg::Int(capacity as i32),
    ];
    args.extend(norm_arguments(linear));
    Some(Launch { kernel, config, args })
}
