//! Kernels that hold a row in registers: `layer_norm.cu`, `embedding.cu`, `pool.cu`.

use bertha_graph::PoolKind;

use super::{KernelSpec, Launch, LaunchArg, Operand, Rows, Setting};
use crate::program::{Embedding, Norm, Storage};

/// The widest row that fits the registers of a block.
pub(crate) const WIDEST_ROW: usize = 8192;

/// Columns of a chunk of a row that has its own statistics (`row_stats.cuh`).
pub(crate) const STATS_COLUMNS: usize = 64;

/// Tables that one lookup kernel sums.
pub(crate) const MOST_TABLES: usize = 3;

/// Blocks that are launched at most for each multiprocessor: gamma and beta stay in registers from row to row.
const BLOCKS_PER_MULTIPROCESSOR: usize = 8;

/// How many threads share a row, and how many rows a block has at a time.
fn row_shape(width: usize) -> (usize, usize) {
    match width {
        0..=1024 => (32, 4),
        1025..=4096 => (128, 1),
        _ => (256, 1),
    }
}

fn row_spec(file: &str, storage: Storage, width: usize) -> KernelSpec {
    let (threads, rows) = row_shape(width);
    KernelSpec::file(file)
        .element(storage)
        .with("HIDDEN", width)
        .with("ROW_THREADS", threads)
        .with("ROWS", rows)
}

fn row_config(setting: &Setting, rows: usize, width: usize) -> crate::driver::LaunchConfig {
    let (threads, at_a_time) = row_shape(width);
    // Below a block for each multiprocessor a row a block spreads the work widest; the kernel takes any grid.
    let blocks = rows.div_ceil(at_a_time).min(setting.multiprocessors * BLOCKS_PER_MULTIPROCESSOR);
    setting.config(blocks, (threads * at_a_time) as u32, 0)
}

/// Normalises the rows of `x`.
pub(crate) fn layer_norm(
    storage: Storage,
    [x, y]: [usize; 2],
    norm: &Norm,
    width: usize,
    rows: Rows,
    output_f32: bool,
    setting: &Setting,
) -> Launch {
    Launch {
        kernel: row_spec("layer_norm", storage, width)
            .with("RESIDUAL", 0)
            .with("OUTPUT_F32", u8::from(output_f32)),
        config: row_config(setting, setting.rows(rows), width),
        args: vec![
            LaunchArg::Address(Operand::Tensor(y)),
            LaunchArg::Address(Operand::Tensor(x)),
            LaunchArg::Address(Operand::Null),
            LaunchArg::Address(Operand::Weight(norm.gamma)),
            LaunchArg::Address(Operand::Weight(norm.beta)),
            LaunchArg::Float(norm.epsilon),
            LaunchArg::Address(Operand::Batch(rows)),
        ],
    }
}

/// Sums table rows and normalises them.
pub(crate) fn embedding(storage: Storage, step: &Embedding, setting: &Setting) -> Launch {
    let Embedding { lookups, norm, y, stats, width } = step;
    let kernel = row_spec("embedding", storage, *width)
        .with("TABLES", lookups.len())
        .with("LAYER_NORM", u8::from(norm.is_some()))
        .with("STATS", u8::from(stats.is_some()))
        .with("POSITIONS", -1)
        .with("POSITION_OFFSET", 0);
    let mut args = vec![LaunchArg::Address(Operand::Tensor(*y))];
    for index in 0..MOST_TABLES {
        let (ids, table) = match lookups.get(index) {
            Some(lookup) => (Operand::Tensor(lookup.ids), Operand::Weight(lookup.table)),
            None => (Operand::Null, Operand::Null),
        };
        args.extend([LaunchArg::Address(ids), LaunchArg::Address(table)]);
    }
    let (gamma, beta, epsilon) = match norm {
        Some(norm) => (Operand::Weight(norm.gamma), Operand::Weight(norm.beta), norm.epsilon),
        None => (Operand::Null, Operand::Null, 0.0),
    };
    args.extend([
        LaunchArg::Address(gamma),
        LaunchArg::Address(beta),
        LaunchArg::Float(epsilon),
        LaunchArg::Address(Operand::CuSeqlens),
        LaunchArg::Address(Operand::Batch(Rows::Tokens)),
        LaunchArg::Address(stats.map_or(Operand::Null, Operand::Tensor)),
    ]);
    Launch { kernel, config: row_config(setting, setting.tokens, *width), args }
}

/// `pool.cu`'s number for a kind.
fn pool_number(kind: PoolKind) -> u8 {
    match kind {
        PoolKind::Cls => 0,
        PoolKind::Mean => 1,
        PoolKind::Max => 2,
        PoolKind::MeanSqrtLen => 3,
        PoolKind::WeightedMean => 4,
        PoolKind::LastToken => 5,
    }
}

/// One row for each sequence.
pub(crate) fn pool(
    storage: Storage,
    kind: PoolKind,
    [x, y]: [usize; 2],
    width: usize,
    output_f32: bool,
    setting: &Setting,
) -> Launch {
    let threads = if width <= 4096 { 128 } else { 256 };
    let one_row = matches!(kind, PoolKind::Cls | PoolKind::LastToken);
    let slices = match (one_row, threads) {
        (true, _) => 1,
        (false, 128) => 4,
        (false, _) => 2,
    };
    let kernel = KernelSpec::file("pool")
        .element(storage)
        .with("HIDDEN", width)
        .with("ROW_THREADS", threads)
        .with("SLICES", slices)
        .with("POOL", pool_number(kind))
        .with("NORMALISE", 0)
        .with("OUTPUT_F32", u8::from(output_f32));
    Launch {
        kernel,
        config: setting.config(setting.sequences, (threads * slices) as u32, (slices - 1) * width * 4),
        args: vec![
            LaunchArg::Address(Operand::Tensor(y)),
            LaunchArg::Address(Operand::Tensor(x)),
            LaunchArg::Address(Operand::CuSeqlens),
            LaunchArg::Float(0.0),
            LaunchArg::Address(Operand::Batch(Rows::Tokens)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;

    #[test]
    fn a_thread_holds_at_most_32_elements_of_a_row() {
        for width in 1..=WIDEST_ROW {
            let (threads, rows) = row_shape(width);
            assert!(width.div_ceil(threads) <= 32, "{width}");
            assert!(threads * rows <= 256);
        }
    }

    #[test]
    fn grids_cover_small_batches_and_do_not_outgrow_the_card() {
        let setting = Setting::typical(Arch::Sm90a);
        let norm = Norm { gamma: 0, beta: 1, epsilon: 1e-12 };
        let blocks = |tokens| {
            let setting = Setting { tokens, ..setting };
            layer_norm(Storage::F16, [0, 1], &norm, 768, Rows::Tokens, false, &setting).config.grid[0]
                as usize
        };
        assert_eq!(blocks(32), 8);
        assert_eq!(blocks(1 << 20), 132 * BLOCKS_PER_MULTIPROCESSOR);
    }
}
