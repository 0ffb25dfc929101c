//! What stands behind the mask.
//!
//! ```text
//! cargo run --release --example 05_fill_mask -- ['The capital of France is [MASK].'] [MODEL]
//! ```
//!
//! Without MODEL, the small English model that comes with the repository answers.

use std::error::Error;
use std::path::{Path, PathBuf};

use bertha::Engine;
use bertha_text::tasks::fill_mask::{Fill, FillMask};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let text = arguments.next().unwrap_or_else(|| "The capital of France is [MASK].".into());
    let model = arguments.next().map_or_else(demo_model, PathBuf::from);

    println!("{text}");
    for (number, fills) in fill(&model, &text)?.iter().enumerate() {
        println!("mask {}:", number + 1);
        for fill in fills {
            println!("  {:.4}  {}", fill.score, fill.sequence);
        }
    }
    Ok(())
}

/// The five best fills of each mask in `text`, best first.
pub fn fill(model: &Path, text: &str) -> Result<Vec<Vec<Fill>>, Box<dyn Error>> {
    let engine = Engine::open(model)?;
    let mut task = FillMask::new(&engine, 0)?;
    let answers = task.fill(&[text], 5)?; // for each text, for each of its masks
    Ok(answers.into_iter().flatten().collect())
}

/// The model in `models/demo`.
pub fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo")
}
