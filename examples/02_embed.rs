//! Texts as vectors, and which of them are alike.
//!
//! ```text
//! cargo run --release --example 02_embed -- MODEL TEXT TEXT...
//! ```
//!
//! MODEL is a sentence encoder such as all-MiniLM-L6-v2: a checkpoint folder, an `.onnx` file with its
//! `tokenizer.json` beside it, or a `.bertha` engine. Pooling and normalisation are the model's own.

use std::error::Error;
use std::path::{Path, PathBuf};

use bertha::Engine;
use bertha_text::tasks::embed::Embed;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = PathBuf::from(arguments.next().ok_or("usage: 02_embed MODEL TEXT TEXT...")?);
    let texts: Vec<String> = arguments.collect();

    let cosines = cosines(&model, &texts)?;
    for (index, (text, row)) in texts.iter().zip(&cosines).enumerate() {
        let row: Vec<String> = row.iter().map(|cosine| format!("{cosine:6.3}")).collect();
        println!("{index:>3}  {}  {text}", row.join(" "));
    }
    Ok(())
}

/// The cosine of each text's vector with each other's.
pub fn cosines(model: &Path, texts: &[String]) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let engine = Engine::open(model)?;
    let vectors = Embed::new(&engine, 0)?.embed(texts)?; // on all cores; texts of any lengths, none padded
    let row = |a: &Vec<f32>| vectors.iter().map(|b| cosine(a, b)).collect();
    Ok(vectors.iter().map(row).collect())
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
