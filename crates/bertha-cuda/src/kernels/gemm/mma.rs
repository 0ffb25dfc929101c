//! `gemm_mma.cu`: 16-bit products by warp instructions, for every shape and architecture.

use super::{Tactic, Tile, activation_number, best_tile, layer_time, tile_of, tiles_worth_timing};
use crate::arch::Arch;
use crate::kernels::{KernelSpec, Launch, LaunchArg, Operand, Setting};
use crate::program::{Linear, Storage};

/// The rest of a tile's macros.
#[derive(Clone, Copy, Debug)]
struct Blocking {
    block_k: usize,
    warps: [usize; 3],
    stages: usize,
}

/// The tiles that are meant, with their share of peak by estimate.
fn tiles(arch: Arch) -> Vec<(Tile, Blocking)> {
    let tile = |rows, columns, efficiency| Tile { rows, columns, efficiency };
    let wide = if arch == Arch::Sm75 { [2, 2, 1] } else { [2, 4, 1] };
    let mut tiles = vec![
        (tile(128, 128, 0.85), Blocking { block_k: 32, warps: wide, stages: 4 }),
        (tile(64, 64, 0.6), Blocking { block_k: 64, warps: [2, 2, 1], stages: 4 }),
        (tile(32, 64, 0.35), Blocking { block_k: 64, warps: [1, 2, 4], stages: 4 }),
        (tile(16, 64, 0.2), Blocking { block_k: 64, warps: [1, 2, 4], stages: 4 }),
    ];
    if arch != Arch::Sm75 {
        tiles.push((tile(128, 256, 1.0), Blocking { block_k: 32, warps: [2, 4, 1], stages: 3 }));
    }
    tiles.retain(|(tile, blocking)| shared_bytes(tile, blocking) <= arch.shared_bytes());
    tiles
}

fn shared_bytes(tile: &Tile, blocking: &Blocking) -> usize {
    let ring = blocking.stages * (tile.rows + tile.columns) * blocking.block_k * 2;
    let sums = (blocking.warps[2] - 1) * tile.rows * tile.columns * 4;
    ring.max(sums)
}

pub(super) fn rule(storage: Storage, linear: &Linear, setting: &Setting) -> Option<Tactic> {
    if !matches!(storage, Storage::F16 | Storage::Bf16) {
        return None;
    }
    let (rows, multiprocessors) = (setting.rows_to_choose_by(linear.rows), setting.planned_multiprocessors);
    let (tile, _) = best_tile(&tiles(setting.arch), rows, linear.n, multiprocessors)?;
    Some(Tactic::GemmMma { rows: tile.rows, columns: tile.columns })
}

pub(super) fn candidates(linear: &Linear, setting: &Setting) -> Vec<Tactic> {
    let tactic = |tile: Tile| Tactic::GemmMma { rows: tile.rows, columns: tile.columns };
    tiles_worth_timing(&tiles(setting.arch), linear, setting).into_iter().map(tactic).collect()
}

pub(super) fn estimate(size: (usize, usize), linear: &Linear, setting: &Setting) -> Option<f64> {
    tile_of(&tiles(setting.arch), size).map(|(tile, _)| layer_time(&tile, linear, setting))
}

pub(super) fn launch(
    size: (usize, usize),
    storage: Storage,
    linear: &Linear,
    setting: &Setting,
) -> Option<Launch> {
    if !matches!(storage, Storage::F16 | Storage::Bf16) {
        return None;
    }
    let rows = setting.rows(linear.rows);
    let (tile, blocking) = tile_of(&tiles(setting.arch), size)?;
    let [warps_m, warps_n, warps_k] = blocking.warps;
    let kernel = KernelSpec::file("gemm_mma")
        .element(storage)
        .with("N", linear.n)
        .with("K", linear.k)
        .with("BLOCK_M", tile.rows)
        .with("BLOCK_N", tile.columns)
        .with("BLOCK_K", blocking.block_k)
        .with("WARPS_M", warps_m)
        .with("WARPS_N", warps_n)
        .with("WARPS_K", warps_k)
        .with("STAGES", blocking.stages)
        .with("ACTIVATION", activation_number(linear.activation))
        .with("BIAS", 1)
        .with("RESIDUAL", u8::from(linear.residual.is_some()))
        .with("OUTPUT_F32", u8::from(linear.output_f32))
        .with("ROWS_ARE_SEQUENCES", 0);
    let threads = 32 * warps_m * warps_n * warps_k;
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
    Some(Launch { kernel, config, args })
}
