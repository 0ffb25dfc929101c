//! Compile once, start fast ever after: an engine file from a model, and the model's answers from the file.
//!
//! ```text
//! cargo run --release --example 03_engine_file -- MODEL FILE.bertha
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bertha::{Engine, Options, RaggedBatch, TensorData};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let usage = "usage: 03_engine_file MODEL FILE.bertha";
    let (model, file) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    build_and_compare(&model, &file)
}

/// Writes MODEL's engine to `file`, loads it again in two ways, and checks that nothing changed.
pub fn build_and_compare(model: &Path, file: &Path) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let compiled = Engine::open(model)?; // reads the weights, optimises the graph, packs the weights for this CPU
    println!("compiled in {:?}", start.elapsed());
    compiled.save(file)?; // atomically: `file` is never half written

    let start = Instant::now();
    let mapped = Engine::open(file)?; // maps the file; its weights are read when they are first used
    println!("mapped in {:?}", start.elapsed());
    for notice in mapped.notices() {
        println!("note: {notice}"); // such as: built on a machine with another instruction set
    }

    // An engine may also be part of a program: `include_bytes!`, or bytes from anywhere.
    let embedded = Engine::from_bytes(std::fs::read(file)?.into(), &Options::default())?;

    let expected = answer(&compiled)?;
    for engine in [mapped, embedded] {
        if answer(&engine)? != expected {
            return Err("the file answers otherwise than the engine that wrote it".into());
        }
    }
    println!("the same bits in {} outputs", expected.len());
    Ok(())
}

/// All outputs for a short sequence of token ids.
fn answer(engine: &Engine) -> Result<Vec<(String, TensorData)>, Box<dyn Error>> {
    let mut batch = RaggedBatch::new();
    batch.push(engine.info(), &[2, 9, 41, 3], None)?;
    let mut outputs = Vec::new();
    engine.session(1)?.run_ragged(&batch, &[], |output| {
        outputs.push((output.name.to_owned(), output.to_data()));
    })?;
    outputs.into_iter().map(|(name, data)| Ok((name, data?))).collect()
}
