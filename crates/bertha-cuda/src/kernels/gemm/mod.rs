//! Products with weights: which kernel for which shape.
//!
//! Every kernel is a tactic: given a layer and a setting it says how it would run it, or that it cannot. The first tactic
//! of the list that can wins, so the list goes from the special to the general. A new kernel is one file here and one entry
//! in [`TACTICS`].

mod f32;
mod mma;
mod sm90a;
mod small_sm90a;

use bertha_graph::Activation;

use super::{Launch, Setting};
use crate::program::{Linear, Storage};

/// How a kernel would run a layer; `None` when it cannot, or not well.
type Tactic = fn(Storage, &Linear, &Setting) -> Option<Launch>;

/// For 16-bit types, from the special to the general; the last takes every layer.
const TACTICS: &[Tactic] = &[small_sm90a::launch, sm90a::launch, mma::launch];

/// The launch of a layer.
pub(crate) fn launch(storage: Storage, linear: &Linear, setting: &Setting) -> Launch {
    let found = TACTICS.iter().find_map(|tactic| tactic(storage, linear, setting));
    // f32 has one kernel, for every shape and architecture.
    found.unwrap_or_else(|| f32::launch(linear, setting))
}

/// `ACTIVATION` of `activation.cuh`.
fn activation_number(activation: Activation) -> u8 {
    match activation {
        Activation::None => 0,
        Activation::Relu => 1,
        Activation::Tanh => 2,
        Activation::GeluErf => 3,
        Activation::GeluTanh => 4,
        Activation::Silu => 5,
    }
}

/// A tile size, and how near to the arithmetic's peak blocks of it come.
#[derive(Clone, Copy, Debug)]
struct Tile {
    rows: usize,
    columns: usize,
    efficiency: f64,
}

/// The tile with which `rows x columns` results take the least time on so many multiprocessors, when each works on one
/// tile after another: whole waves of tiles, each as long as its area over its efficiency.
fn best_tile<T: Copy>(
    candidates: &[(Tile, T)],
    rows: usize,
    columns: usize,
    multiprocessors: usize,
) -> Option<(Tile, T)> {
    let time = |tile: &Tile| {
        let tiles = rows.div_ceil(tile.rows) * columns.div_ceil(tile.columns);
        let waves = tiles.div_ceil(multiprocessors.max(1));
        waves as f64 * (tile.rows * tile.columns) as f64 / tile.efficiency
    };
    candidates.iter().copied().min_by(|(a, _), (b, _)| time(a).total_cmp(&time(b)))
}

#[cfg(test)]
mod tests;
