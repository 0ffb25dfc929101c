//! Products with weights: which kernel for which shape.
//!
//! A [`Tactic`] is a kernel with the sizes that it is specialised to. Each kernel's file says which of its tactics its rule
//! takes for a layer, which others are worth timing on a card, and how one is launched. The first kernel of [`RULES`] that
//! can run a layer runs it, so the list goes from the special to the general. A new kernel is one file here, one variant of
//! [`Tactic`], and an arm in each `match` below.

mod choice;
mod f32;
mod mma;
mod sm90a;
mod small_sm90a;

use bertha_graph::Activation;
use serde::{Deserialize, Serialize};

use super::row::STATS_COLUMNS;
use super::{KernelSpec, Launch, LaunchArg, Operand, Setting};
use crate::arch::Arch;
use crate::program::{DeferredNorm, Linear, NormOf, Storage};

pub use choice::Tactics;
pub(crate) use choice::layer_name;

/// A kernel for a linear layer, and the sizes that tell its variants apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kernel", rename_all = "snake_case", deny_unknown_fields)]
pub enum Tactic {
    /// `gemm_small_sm90a.cu`.
    GemmSmallSm90a {
        /// Tokens of a tile.
        tokens: usize,
        /// Blocks along K.
        split: usize,
    },
    /// `gemm_sm90a.cu`, tiles of 128 rows.
    GemmSm90a {
        /// Features of a tile.
        columns: usize,
        /// Whether a tile is finished between the products of the next.
        defer: bool,
    },
    /// `gemm_mma.cu`.
    GemmMma {
        /// Rows of a tile.
        rows: usize,
        /// Features of a tile.
        columns: usize,
    },
    /// `gemm_f32.cu`.
    GemmF32 {
        /// Rows of a tile.
        rows: usize,
        /// Features of a tile.
        columns: usize,
    },
}

/// What a kernel's rule takes for a layer; `None` when the kernel cannot run it, or not well.
type Rule = fn(Storage, &Linear, &Setting) -> Option<Tactic>;

/// From the special to the general; one of the last two takes every layer.
const RULES: &[Rule] = &[small_sm90a::rule, sm90a::rule, mma::rule, f32::rule];

impl Tactic {
    /// What is taken for a layer where nothing was timed.
    fn by_rule(storage: Storage, linear: &Linear, setting: &Setting) -> Option<Self> {
        RULES.iter().find_map(|rule| rule(storage, linear, setting))
    }

    /// How the layer is launched with this tactic; `None` when it cannot be.
    pub(crate) fn launch(self, storage: Storage, linear: &Linear, setting: &Setting) -> Option<Launch> {
        let knows_norms = matches!(self, Tactic::GemmSm90a { .. } | Tactic::GemmSmallSm90a { .. });
        if !knows_norms && (linear.norm.is_some() || linear.stats.is_some()) {
            return None;
        }
        match self {
            Tactic::GemmSmallSm90a { tokens, split } => {
                small_sm90a::launch((tokens, split), storage, linear, setting)
            }
            Tactic::GemmSm90a { columns, defer } => sm90a::launch((columns, defer), storage, linear, setting),
            Tactic::GemmMma { rows, columns } => mma::launch((rows, columns), storage, linear, setting),
            Tactic::GemmF32 { rows, columns } => f32::launch((rows, columns), storage, linear, setting),
        }
    }
}

/// The launch of a layer, with the tactic that was chosen for it, or else the rule's.
pub(crate) fn launch(storage: Storage, linear: &Linear, setting: &Setting, tactics: &Tactics) -> Launch {
    let chosen = tactics.get(storage, linear, setting);
    if let Some(launch) = chosen.and_then(|tactic| tactic.launch(storage, linear, setting)) {
        return launch;
    }
    let tactic = Tactic::by_rule(storage, linear, setting);
    let found = tactic.and_then(|tactic| tactic.launch(storage, linear, setting));
    // The SIMT kernel's smallest tile fits every shape and architecture.
    found.unwrap_or_else(|| f32::smallest(linear, setting))
}

/// Whether all kernels that run products of whole tokens there can apply deferred norms and store statistics.
pub(crate) fn takes_norms(arch: Arch, storage: Storage) -> bool {
    arch == Arch::Sm90a && matches!(storage, Storage::F16 | Storage::Bf16)
}

/// Whether a deferred norm's rows may be so wide.
pub(crate) fn takes_norms_of(width: usize) -> bool {
    width.is_multiple_of(STATS_COLUMNS) && (STATS_COLUMNS..=WIDEST_NORM).contains(&width)
}

/// Whether the kernels of Hopper run products with so many features of input or output.
pub(crate) fn takes_size(features: usize) -> bool {
    features > 0 && features.is_multiple_of(8)
}

/// The widest row whose statistics a kernel merges.
const WIDEST_NORM: usize = 1024;

/// Whether Hopper's own kernels can run a layer.
fn fits_sm90a(storage: Storage, linear: &Linear, setting: &Setting) -> bool {
    setting.arch == Arch::Sm90a
        && matches!(storage, Storage::F16 | Storage::Bf16)
        && takes_size(linear.n)
        && takes_size(linear.k)
}

impl KernelSpec {
    /// The macros of deferred norms.
    fn norms(self, linear: &Linear) -> Self {
        let of = linear.norm.map(|norm| norm.of);
        self.flag("NORM_INPUT", of == Some(NormOf::Input))
            .flag("NORM_RESIDUAL", matches!(of, Some(NormOf::Residual { .. })))
            .flag("STATS_OUTPUT", linear.stats.is_some())
    }
}

/// The arguments of deferred norms: statistics, gamma, epsilon, and statistics to write.
fn norm_arguments(linear: &Linear) -> [LaunchArg; 4] {
    let gamma = match linear.norm {
        Some(DeferredNorm { of: NormOf::Residual { gamma }, .. }) => Operand::Weight(gamma),
        _ => Operand::Null,
    };
    [
        LaunchArg::Address(linear.norm.map_or(Operand::Null, |norm| Operand::Tensor(norm.stats))),
        LaunchArg::Address(gamma),
        LaunchArg::Float(linear.norm.map_or(0.0, |norm| norm.epsilon)),
        LaunchArg::Address(linear.stats.map_or(Operand::Null, Operand::Tensor)),
    ]
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
    let time = |tile: &Tile| tile_time(tile, rows, columns, multiprocessors);
    candidates.iter().copied().min_by(|(a, _), (b, _)| time(a).total_cmp(&time(b)))
}

/// The tile of so many rows and columns.
fn tile_of<T: Copy>(tiles: &[(Tile, T)], size: (usize, usize)) -> Option<(Tile, T)> {
    tiles.iter().copied().find(|(tile, _)| (tile.rows, tile.columns) == size)
}

/// What [`best_tile`] compares.
fn tile_time(tile: &Tile, rows: usize, columns: usize, multiprocessors: usize) -> f64 {
    let tiles = rows.div_ceil(tile.rows) * columns.div_ceil(tile.columns);
    let waves = tiles.div_ceil(multiprocessors.max(1));
    waves as f64 * (tile.rows * tile.columns) as f64 / tile.efficiency
}

/// As [`tile_time`], for a layer in a setting.
fn layer_time(tile: &Tile, linear: &Linear, setting: &Setting) -> f64 {
    let rows = setting.rows_to_choose_by(linear.rows);
    tile_time(tile, rows, linear.n, setting.planned_multiprocessors)
}

/// The tiles whose times are near the best one's by estimate.
fn tiles_worth_timing<T: Copy>(tiles: &[(Tile, T)], linear: &Linear, setting: &Setting) -> Vec<Tile> {
    let times = tiles.iter().map(|(tile, _)| (*tile, layer_time(tile, linear, setting)));
    let times: Vec<(Tile, f64)> = times.collect();
    let best = times.iter().map(|(_, time)| *time).fold(f64::INFINITY, f64::min);
    times.into_iter().filter(|(_, time)| *time <= choice::WORTH_TIMING * best).map(|(tile, _)| tile).collect()
}

#[cfg(test)]
mod tests;
