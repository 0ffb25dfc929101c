//! `gemm_small_sm90a.cu`: few tokens on Hopper, made for latency.

use super::{Tactic, activation_number, fits_sm90a, norm_arguments};
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
/// Tokens up to which this kernel is the better one, and up to which it is for layers that narrow to so many features.
const MOST_TOKENS: usize = 192;
const MOST_TOKENS_NARROW: usize = 512;
const NARROW: usize = 1024;
/// Tokens up to which it is worth timing beside the other.
const MOST_TIMED_TOKENS: usize = 1024;
/// Tokens of the smallest tile, and the longest part of K of a block, that ever were among the fastest (of the layers of
/// BERT-base, [`crate::tune`] timed all on an H100).
const LEAST_TIMED_TILE: usize = 32;
const MOST_TIMED_K: usize = 1024;
/// Tokens beyond which only the widest tiles are left, whose parts of K may be twice as long: more blocks find no place.
const MANY_TIMED_TOKENS: usize = 512;
const WIDEST_TILE: usize = 256;

/// Rows up to which weights are not asked into the L2 ahead of the next layer, when they are smaller than this: its own
/// blocks start early enough then (measured on an H100).
const EARLY_ROWS: usize = 64;
const EARLY_BYTES: usize = 5 << 20;

/// Stages of a ring where not all of a block's part of K fits.
const RING: usize = 4;

/// How a layer is cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// Tokens of a tile.
    tokens: usize,
    /// Blocks along K.
    split: usize,
    /// Whether a deferred norm is applied.
    norm: bool,
}

impl Shape {
    /// Consumer warpgroups that share a tile's tokens out: two where a block finishes many of them.
    const fn groups(&self) -> usize {
        if self.tokens == 192 || self.tokens == 128 && self.split <= 3 { 2 } else { 1 }
    }

    const fn threads(&self) -> usize {
        2 * FEATURES * self.groups() + if self.norm { 64 } else { 32 }
    }

    fn shared_bytes(&self, stages: usize) -> usize {
        let owned = (self.tokens / self.groups() / 8).div_ceil(self.split) * self.groups();
        let received = owned * FEATURES * 32 * (self.split - 1);
        let norms = if self.norm { owned * 64 } else { 0 };
        stages * (FEATURES + self.tokens) * 128 + received + norms + 16 * stages + 8
    }

    /// As many stages as a block's part of K has where they fit, else a ring that leaves room for another block; `None`
    /// when not even two fit, or too few for the sums that take the ring's place.
    fn stages(&self, linear: &Linear, setting: &Setting) -> Option<usize> {
        let whole = linear.k.div_ceil(BLOCK_K).div_ceil(self.split).max(2);
        let fits = |stages: &usize| self.shared_bytes(*stages) <= setting.arch.shared_bytes();
        let stages = if fits(&whole) { whole } else { (2..=RING).rev().find(fits)? };
        let owned = (self.tokens / self.groups() / 8).div_ceil(self.split) * self.groups();
        let sums = owned * 8 * (FEATURES + 4) * 4;
        (sums <= stages * (FEATURES + self.tokens) * 128).then_some(stages)
    }
}

/// Tokens of a tile, and blocks along K: so many that most of the card has work, and some is left for the blocks of the
/// next layer, whose weights arrive meanwhile. The rule meets nearly all optima measured on an H100 in layers of
/// BERT-base and -large (`bench/runs/2026-11-24-h100-few-tokens.json`, `2026-11-24-h100-latency.json`).
fn tile_and_split(rows: usize, linear: &Linear, multiprocessors: usize) -> (usize, usize) {
    let square = linear.n <= NARROW && linear.k <= NARROW;
    let (half, most) = (multiprocessors * 11 / 20, multiprocessors * 3 / 4);
    let across = |tokens: usize| linear.n.div_ceil(FEATURES) * rows.div_ceil(tokens);
    let whole = || TOKENS.into_iter().find(|tokens| rows <= *tokens).unwrap_or(128);
    // A quarter of the rows, or as much more as leaves two blocks along K their places.
    let quarter = || {
        let fits = |tokens: &usize| 4 * tokens >= rows && 2 * across(*tokens) <= most;
        TOKENS.into_iter().find(fits).unwrap_or_else(whole)
    };
    let tokens = match rows {
        33.. if square => quarter(),
        ..=192 => whole(),
        385.. => 256,
        // Whichever covers the rows with less beyond them.
        _ if rows.next_multiple_of(192) <= rows.next_multiple_of(128) => 192,
        _ => 128,
    };
    let across = across(tokens);
    let possible = |split: &usize| *split <= linear.k.div_ceil(BLOCK_K);
    let largest = |most: usize| {
        SPLITS.into_iter().rev().filter(possible).find(|split| split * across <= most).unwrap_or(1)
    };
    let split = largest(if square || rows <= 32 { half } else { most });
    // Half of an empty card is worse than a crowded one.
    let split = if split == 1 && 2 * across <= multiprocessors { largest(multiprocessors) } else { split };
    (tokens, split)
}

fn shape((tokens, split): (usize, usize), linear: &Linear) -> Shape {
    Shape { tokens, split, norm: linear.norm.is_some() }
}

pub(super) fn rule(storage: Storage, linear: &Linear, setting: &Setting) -> Option<Tactic> {
    let rows = setting.rows(linear.rows);
    let most = if linear.n <= NARROW { MOST_TOKENS_NARROW } else { MOST_TOKENS };
    if !fits_sm90a(storage, linear, setting) || rows > most {
        return None;
    }
    let (tokens, split) = tile_and_split(rows, linear, setting.planned_multiprocessors);
    shape((tokens, split), linear).stages(linear, setting).map(|_| Tactic::GemmSmallSm90a { tokens, split })
}

/// Tiles that hold the batch in few whole parts, and splits of K with which the blocks keep a third of the card busy at least
/// and all run at once, each with no more of K than pays.
pub(super) fn candidates(linear: &Linear, setting: &Setting) -> Vec<Tactic> {
    let rows = setting.rows(linear.rows);
    if rows > MOST_TIMED_TOKENS {
        return Vec::new();
    }
    let multiprocessors = setting.planned_multiprocessors;
    let whole = TOKENS.into_iter().find(|tokens| rows <= *tokens).unwrap_or(WIDEST_TILE);
    let longest = if rows > MANY_TIMED_TOKENS { 2 * MOST_TIMED_K } else { MOST_TIMED_K };
    let mut found = Vec::new();
    let is_fit = |tokens: &usize| {
        (LEAST_TIMED_TILE..=whole).contains(tokens) && rows.is_multiple_of(*tokens) && rows / tokens <= 4
    };
    for tokens in TOKENS.into_iter().filter(is_fit) {
        let across = linear.n.div_ceil(FEATURES) * rows.div_ceil(tokens);
        for split in SPLITS.into_iter().filter(|split| linear.k.div_ceil(*split) <= longest) {
            let blocks = split * across;
            if 3 * blocks >= multiprocessors && blocks <= multiprocessors {
                found.push(Tactic::GemmSmallSm90a { tokens, split });
            }
        }
    }
    found
}

pub(super) fn launch(
    (tokens, split): (usize, usize),
    storage: Storage,
    linear: &Linear,
    setting: &Setting,
) -> Option<Launch> {
    let is_known = TOKENS.contains(&tokens) && SPLITS.contains(&split);
    if !is_known || split > linear.k.div_ceil(BLOCK_K) || !fits_sm90a(storage, linear, setting) {
        return None;
    }
    let rows = setting.rows(linear.rows);
    let tiles = linear.n.div_ceil(FEATURES);
    let shape = shape((tokens, split), linear);
    let stages = shape.stages(linear, setting)?;
    let kernel = KernelSpec::file("gemm_small_sm90a")
        .element(storage)
        .with("N", linear.n)
        .with("K", linear.k)
        .with("TOKENS", tokens)
        .with("FEATURES", FEATURES)
        .with("GROUPS", shape.groups())
        .with("SPLIT", split)
        .with("SHARE", 1)
        .with("STAGES", stages)
        .with("ACTIVATION", activation_number(linear.activation))
        .flag("RESIDUAL", linear.residual.is_some())
        .flag("OUTPUT_F32", linear.output_f32)
        .norms(linear);
    let capacity = setting.allocated(linear.rows);
    let mut config = setting.config(1, shape.threads() as u32, shape.shared_bytes(stages));
    config.grid = [split as u32, tiles as u32, rows.div_ceil(tokens) as u32];
    config.cluster = [split as u32, 1];
    let map = |rows: usize, columns: usize, box_rows: usize| TensorMapDesc {
        bf16: storage == Storage::Bf16,
        rows: rows as u64,
        columns: columns as u64,
        box_size: [BLOCK_K as u32, box_rows as u32],
    };
    let ahead = linear.next.filter(|next| rows > EARLY_ROWS || next.bytes >= EARLY_BYTES);
    let mut args = vec![
        LaunchArg::Map(Operand::Tensor(linear.x), map(capacity, linear.k, tokens)),
        LaunchArg::Map(Operand::Weight(linear.weight), map(linear.n, linear.k, FEATURES)),
        LaunchArg::Address(Operand::Weight(linear.bias)),
        LaunchArg::Address(linear.residual.map_or(Operand::Null, Operand::Tensor)),
        LaunchArg::Address(Operand::Tensor(linear.y)),
        LaunchArg::Address(Operand::Batch(linear.rows)),
        LaunchArg::Address(ahead.map_or(Operand::Null, |next| Operand::Weight(next.weight))),
        LaunchArg::Int(ahead.map_or(0, |next| i32::try_from(next.bytes).unwrap_or(0))),
    ];
    args.extend(norm_arguments(linear));
    Some(Launch { kernel, config, args })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::kernels::{Rows, buckets};
    use crate::program::NextWeight;

    /// Linear layers of BERT-base and BERT-large.
    const LAYERS: [(usize, usize); 8] = [
        (2304, 768),
        (768, 768),
        (3072, 768),
        (768, 3072),
        (3072, 1024),
        (1024, 1024),
        (4096, 1024),
        (1024, 4096),
    ];

    fn layer(n: usize, k: usize) -> Linear {
        Linear {
            x: 0,
            weight: 0,
            bias: 1,
            residual: None,
            norm: None,
            y: 1,
            stats: None,
            n,
            k,
            activation: bertha_graph::Activation::None,
            rows: Rows::Tokens,
            output_f32: false,
            next: None,
        }
    }

    /// The token of a tile that row `row` of the block of rank `split` is: `Owned` of the kernel; `None` where it is none.
    fn token(shape: Shape, split: usize, row: usize) -> Option<usize> {
        let group_tokens = shape.tokens / shape.groups();
        let columns = group_tokens / 8;
        let owned = columns.div_ceil(shape.split);
        let own_columns = (split * owned + owned).min(columns) - (split * owned).min(columns);
        let (group, within) = (row / (owned * 8), row % (owned * 8));
        (group < shape.groups() && within < own_columns * 8)
            .then(|| group * group_tokens + split * owned * 8 + within)
    }

    #[test]
    fn the_blocks_of_a_cluster_finish_every_token_once() {
        for tokens in TOKENS {
            for split in SPLITS {
                let shape = Shape { tokens, split, norm: false };
                assert_eq!(tokens % (8 * shape.groups()), 0);
                let rows = (0..split).flat_map(|rank| (0..tokens).map(move |row| (rank, row)));
                let mut found: Vec<usize> = rows.filter_map(|(rank, row)| token(shape, rank, row)).collect();
                found.sort_unstable();
                assert_eq!(found, (0..tokens).collect::<Vec<_>>(), "{shape:?}");
            }
        }
    }

    #[test]
    fn the_layers_of_encoders_run_in_one_go_and_have_a_place_for_their_sums() {
        for (n, k) in LAYERS {
            let most = if n <= NARROW { MOST_TOKENS_NARROW } else { MOST_TOKENS };
            for rows in buckets::token_buckets().filter(|rows| *rows <= most) {
                let setting = Setting { tokens: rows, ..Setting::typical(Arch::Sm90a) };
                let linear = layer(n, k);
                let cut = tile_and_split(rows, &linear, 132);
                let blocks = cut.1 * n.div_ceil(FEATURES) * rows.div_ceil(cut.0);
                assert!((48..=132).contains(&blocks), "{n}x{k} {rows}: {cut:?} is {blocks} blocks");
                let shape = Shape { norm: true, ..shape(cut, &linear) };
                let stages = shape.stages(&linear, &setting).unwrap();
                assert!(shape.shared_bytes(stages) <= Arch::Sm90a.shared_bytes());
                assert!(shape.threads() <= 320);
            }
        }
    }

    #[test]
    fn weights_are_asked_for_ahead_unless_their_own_blocks_are_early() {
        let asks = |rows, bytes| {
            let setting = Setting { tokens: rows, ..Setting::typical(Arch::Sm90a) };
            let linear = Linear { next: Some(NextWeight { weight: 7, bytes }), ..layer(768, 768) };
            let launch = launch((32, 4), Storage::F16, &linear, &setting).unwrap();
            launch.args.contains(&LaunchArg::Address(Operand::Weight(7)))
        };
        assert!(asks(128, 1 << 20) && asks(32, 6 << 20) && !asks(32, 4 << 20));
    }

    #[test]
    fn the_layers_that_narrow_are_timed_with_wide_tiles_too() {
        let at = |rows, n, k| {
            let setting = Setting { tokens: rows, ..Setting::typical(Arch::Sm90a) };
            candidates(&layer(n, k), &setting)
        };
        assert!(at(512, 768, 3072).contains(&Tactic::GemmSmallSm90a { tokens: 256, split: 4 }));
        assert!(at(1024, 768, 3072).contains(&Tactic::GemmSmallSm90a { tokens: 256, split: 2 }));
        assert!(at(1024, 3072, 768).is_empty() && at(1536, 768, 3072).is_empty());
    }

    #[test]
    fn cuts_are_those_that_were_the_fastest_in_layers() {
        let cut = |rows, n, k| tile_and_split(rows, &layer(n, k), 132);
        assert_eq!(cut(32, 2304, 768), (32, 2));
        assert_eq!(cut(32, 768, 3072), (32, 6));
        assert_eq!(cut(128, 2304, 768), (128, 2));
        assert_eq!(cut(128, 768, 768), (32, 2));
        assert_eq!(cut(128, 1024, 1024), (64, 2));
        assert_eq!(cut(128, 4096, 1024), (128, 2));
        // Eight blocks along K would fill the card, and be slower by 2 us of 25.
        assert_eq!(cut(128, 1024, 4096), (128, 6));
        assert_eq!(cut(384, 768, 3072), (192, 4));
        assert_eq!(cut(512, 768, 3072), (256, 4));
        let square = [64, 192, 256, 384, 512].map(|rows| cut(rows, 768, 768));
        assert_eq!(square, [(16, 2), (64, 2), (64, 2), (96, 2), (128, 2)]);
        assert_eq!(cut(384, 1024, 1024), (128, 2));
        let takes = |rows, n, k| {
            let setting = Setting { tokens: rows, ..Setting::typical(Arch::Sm90a) };
            rule(Storage::F16, &layer(n, k), &setting).is_some()
        };
        assert!(
            takes(512, 768, 3072) && takes(192, 3072, 768) && !takes(256, 3072, 768) && !takes(768, 768, 768)
        );
    }
}
