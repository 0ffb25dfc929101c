//! `bertha export`.

use std::path::Path;

use bertha::import::{hf, onnx};

use super::Failure;
use crate::args::ExportArgs;
use crate::output;
use crate::progress::Spinner;

pub(crate) fn run(args: ExportArgs) -> Result<(), Failure> {
    let spinner = Spinner::new(format!("exporting {}", args.folder.display()));
    write(&args.folder, &onnx::ExportOptions { opset: args.opset }, &args.output)?;
    drop(spinner);
    let size = output::bytes(std::fs::metadata(&args.output).map_or(0, |file| file.len()));
    output::line(format!("{}: {size}, opset {}", args.output.display(), args.opset))
}

/// Writes the checkpoint in `folder` as the ONNX file `output`, with external data when it passes 2 GB.
pub(crate) fn write(folder: &Path, options: &onnx::ExportOptions, output: &Path) -> Result<(), Failure> {
    let model = hf::import(folder, &hf::ImportOptions::default())?;
    let proto = onnx::export(&model, options)?;
    onnx::write_onnx(&proto, &onnx::ExternalFiles::none(output), output, onnx::ExternalData::WhenNeeded)?;
    Ok(())
}
