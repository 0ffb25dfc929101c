//! Batches without padding: token ids in, the rows of each sequence out, and what padding would have cost.
//!
//! ```text
//! cargo run --release --example 04_ragged_batches -- MODEL
//! ```
//!
//! MODEL is any encoder that [`bertha::Engine::open`] takes; the token ids are made up.

use std::error::Error;
use std::path::{Path, PathBuf};

use bertha::{Engine, RaggedBatch, TensorData};

fn main() -> Result<(), Box<dyn Error>> {
    let model = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: 04_ragged_batches MODEL")?;
    for sequence in run(&model, &[&[2, 41, 17, 8, 98, 3], &[2, 3], &[2, 9, 9, 3]])? {
        println!("{} tokens, output begins {:?}", sequence.tokens, sequence.first);
    }
    Ok(())
}

/// What came out for one sequence.
pub struct Sequence {
    /// Its length.
    pub tokens: usize,
    /// The first values of its first row.
    pub first: Vec<f32>,
}

/// Runs the sequences as one batch, without padding and with it.
pub fn run(model: &Path, sequences: &[&[u32]]) -> Result<Vec<Sequence>, Box<dyn Error>> {
    let engine = Engine::open(model)?;
    let mut session = engine.session(0)?;

    // All sequences lie one after another in one row of tokens; `cu_seqlens` says where each begins.
    let mut batch = RaggedBatch::new();
    for ids in sequences {
        batch.push(engine.info(), ids, None)?;
    }
    let longest = sequences.iter().map(|ids| ids.len()).max().unwrap_or(0);
    println!("cu_seqlens {:?}", batch.cu_seqlens());
    println!("{} tokens; padded it would be {}", batch.tokens(), longest * sequences.len());

    // Outputs are handed out where they lie in the session's memory. This one has a row for each token.
    let (output, _) = engine.graph().outputs().first().ok_or("the model has no output")?.clone();
    let mut found = Vec::new();
    session.run_ragged(&batch, &[&output], |tensor| {
        let Some(values) = tensor.as_f32() else { return };
        let rows = tensor.shape.first().copied().unwrap_or(0);
        let width = values.len().checked_div(rows).unwrap_or(0);
        for index in 0..batch.len() {
            let first_row = if rows == batch.tokens() { batch.rows(index).start } else { index };
            let row = &values[first_row * width..(first_row + 1) * width];
            found.push(Sequence {
                tokens: batch.rows(index).len(),
                first: row.iter().take(4).copied().collect(),
            });
        }
    })?;

    // Padded tensors work too. Padding is taken out before the run and put back after it, so it costs nothing.
    let mut ids = vec![0i64; sequences.len() * longest];
    let mut mask = ids.clone();
    for (row, sequence) in sequences.iter().enumerate() {
        for (column, id) in sequence.iter().enumerate() {
            ids[row * longest + column] = i64::from(*id);
            mask[row * longest + column] = 1;
        }
    }
    let shape = vec![sequences.len(), longest];
    let (ids, mask) = (TensorData::from_vec(shape.clone(), ids)?, TensorData::from_vec(shape, mask)?);
    for (name, data) in session.run(&[("input_ids", &ids), ("attention_mask", &mask)], &[])? {
        println!("{name}: {:?}", data.shape());
    }
    Ok(found)
}
