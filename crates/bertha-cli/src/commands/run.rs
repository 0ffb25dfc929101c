//! `bertha run`.

use bertha::TensorData;
use bertha::import::npz::{read_npz, write_npz};

use super::Failure;
use crate::args::RunArgs;
use crate::output;

pub(crate) fn run(args: RunArgs) -> Result<(), Failure> {
    let inputs = read_npz(&args.inputs)?;
    let engine = args.run.open(&args.model)?;
    let mut session = engine.session(args.run.threads())?;
    let inputs: Vec<(&str, &TensorData)> = inputs.iter().map(|(name, data)| (name.as_str(), data)).collect();
    let only: Vec<&str> = args.only.iter().map(String::as_str).collect();
    let outputs = session.run(&inputs, &only)?;
    write_npz(&args.outputs, outputs.iter().map(|(name, data)| (name.as_str(), data)))?;
    for (name, data) in &outputs {
        output::line(format!("{name}: {}{:?}", data.dtype(), data.shape()))?;
    }
    Ok(())
}
