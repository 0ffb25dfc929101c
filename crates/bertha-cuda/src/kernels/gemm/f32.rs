//! `gemm_f32.cu`: products in f32 by fused multiply-adds, for every shape and architecture.

use super::{Tactic, Tile, activation_number, best_tile, layer_time, tile_of, tiles_worth_timing};
use crate::kernels::{KernelSpec, Launch, LaunchArg, Operand, Setting};
use crate::program::{Linear, Storage};

/// The rest of a tile's macros.
#[derive(Clone, Copy, Debug)]
struct Blocking {
    block_k: usize,
    /// Rows and columns of a thread.
    thread: usize,
    k_parts: usize,
}

const TILES: [(Tile, Blocking); 2] = [
    (Tile { rows: 128, columns: 128, efficiency: 0.8 }, Blocking { block_k: 16, thread: 8, k_parts: 1 }),
    (Tile { rows: 32, columns: 32, efficiency: 0.4 }, Blocking { block_k: 32, thread: 4, k_parts: 4 }),
];

fn shared_bytes(tile: &Tile, blocking: &Blocking) -> usize {
    let buffers = 2 * blocking.block_k * (tile.rows + tile.columns + 8);
    buffers.max((blocking.k_parts - 1) * tile.rows * tile.columns) * 4
}

pub(super) fn rule(storage: Storage, linear: &Linear, setting: &Setting) -> Option<Tactic> {
    if storage != Storage::F32 {
        return None;
    }
    let (rows, multiprocessors) = (setting.rows_to_choose_by(linear.rows), setting.planned_multiprocessors);
    let (tile, _) = best_tile(&TILES, rows, linear.n, multiprocessors)?;
    Some(Tactic::GemmF32 { rows: tile.rows, columns: tile.columns })
}

pub(super) fn candidates(linear: &Linear, setting: &Setting) -> Vec<Tactic> {
    let tactic = |tile: Tile| Tactic::GemmF32 { rows: tile.rows, columns: tile.columns };
    tiles_worth_timing(&TILES, linear, setting).into_iter().map(tactic).collect()
}

pub(super) fn estimate(size: (usize, usize), linear: &Linear, setting: &Setting) -> Option<f64> {
    tile_of(&TILES, size).map(|(tile, _)| layer_time(&tile, linear, setting))
}

pub(super) fn launch(
    size: (usize, usize),
    storage: Storage,
    linear: &Linear,
    setting: &Setting,
) -> Option<Launch> {
    let found = tile_of(&TILES, size).filter(|_| storage == Storage::F32);
    found.map(|found| with_tile(found, linear, setting))
}

/// The launch with the smallest tile, which every layer has.
pub(super) fn smallest(linear: &Linear, setting: &Setting) -> Launch {
    with_tile(TILES[1], linear, setting)
}

fn with_tile((tile, blocking): (Tile, Blocking), linear: &Linear, setting: &Setting) -> Launch {
    let rows = setting.rows(linear.rows);
    let kernel = KernelSpec::file("gemm_f32")
        .flag("ELEMENT_F32", true)
        .with("N", linear.n)
        .with("K", linear.k)
        .with("THREAD_M", blocking.thread)
        .with("THREAD_N", blocking.thread)
        .with("BLOCK_M", tile.rows)
        .with("BLOCK_N", tile.columns)
        .with("BLOCK_K", blocking.block_k)
        .with("K_PARTS", blocking.k_parts)
        .with("ACTIVATION", activation_number(linear.activation))
        .with("BIAS", 1)
        .with("RESIDUAL", u8::from(linear.residual.is_some()))
        .with("ROWS_ARE_SEQUENCES", 0);
    let threads = tile.rows / blocking.thread * (tile.columns / blocking.thread) * blocking.k_parts;
    let mut config = setting.config(1, threads as u32, shared_bytes(&tile, &blocking));
    config.grid = [linear.n.div_ceil(tile.columns) as u32, rows.div_ceil(tile.rows).max(1) as u32, 1];
    let args = vec![
        LaunchArg::Address(Operand::Tensor(linear.y)),
        LaunchArg::Address(Operand::Tensor(linear.x)),
        LaunchArg::Address(Operand::Weight(linear.weight)),
        LaunchArg::Address(Operand::Weight(linear.bias)),
        LaunchArg::Address(linear.residual.map_or(Operand::Null, Operand::Tensor)),
        LaunchArg::Address(Operand::Batch(linear.rows)),
    ];
    Launch { kernel, config, args }
}
