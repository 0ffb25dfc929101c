use super::*;
use crate::arch::Arch;
use crate::kernels::{LaunchArg, Operand, Rows, buckets};

fn layer(n: usize, k: usize) -> Linear {
    Linear {
        x: 0,
        weight: 0,
        bias: 1,
        residual: Some(1),
        norm: None,
        y: 2,
        stats: None,
        n,
        k,
        activation: Activation::GeluErf,
        rows: Rows::Tokens,
        output_f32: false,
        next: None,
    }
}

/// Shapes of base, large and small models, and ones that nothing divides.
const SHAPES: [(usize, usize); 9] = [
    (2304, 768),
    (768, 768),
    (3072, 768),
    (768, 3072),
    (4096, 1024),
    (30522, 384),
    (2, 768),
    (7, 20),
    (1000, 37),
];

#[test]
fn every_layer_has_a_launch_that_fits_every_card_and_covers_its_rows() {
    for arch in Arch::ALL {
        for storage in [Storage::F32, Storage::F16] {
            for (n, k) in SHAPES {
                for tokens in buckets::token_buckets() {
                    let setting = Setting { tokens, ..Setting::typical(arch) };
                    let launch = launch(storage, &layer(n, k), &setting, &Tactics::default());
                    let what = format!("{arch} {n}x{k} {tokens} {}", launch.kernel);
                    assert!(launch.config.shared_bytes as usize <= arch.shared_bytes(), "{what}");
                    assert!(launch.config.block <= 1024 && launch.config.block.is_multiple_of(32), "{what}");
                    let [x, y] = launch.config.cluster;
                    assert!(
                        launch.config.grid[0].is_multiple_of(x) && launch.config.grid[1].is_multiple_of(y),
                        "{what}"
                    );
                    assert!(
                        launch.args.contains(&LaunchArg::Address(Operand::Batch(Rows::Tokens))),
                        "{what}"
                    );
                }
            }
        }
    }
}

#[test]
fn hopper_takes_its_own_kernels_for_what_they_can_do() {
    let entry = |tokens, n, k| {
        let setting = Setting { tokens, ..Setting::typical(Arch::Sm90a) };
        launch(Storage::F16, &layer(n, k), &setting, &Tactics::default()).kernel.entry
    };
    assert_eq!(entry(32, 768, 768), "gemm_small_sm90a");
    assert_eq!(entry(4224, 2304, 768), "gemm_sm90a");
    // Maps need rows of whole 16 bytes.
    assert_eq!(entry(4224, 7, 20), "gemm_mma");
}

#[test]
fn tiles_are_chosen_by_whole_waves() {
    let tile = |rows, columns, efficiency| (Tile { rows, columns, efficiency }, ());
    let tiles = [tile(128, 256, 1.0), tile(128, 192, 0.97), tile(64, 64, 0.6)];
    // 33 x 12 tiles of 192 columns are three waves of 132, 33 x 9 of 256 are two and a quarter, so three.
    assert_eq!(best_tile(&tiles, 4224, 2304, 132).unwrap().0.columns, 192);
    // One row of tiles: small tiles spread it over the card.
    assert_eq!(best_tile(&tiles, 64, 768, 132).unwrap().0.columns, 64);
}
