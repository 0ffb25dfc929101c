//! Printing that survives a closed pipe.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, TableStyle};
use serde::Serialize;

use crate::commands::Failure;

/// Prints a line to the standard output. A reader that went away (`| head`) ends the command quietly.
pub(crate) fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    finish(writeln!(io::stdout().lock(), "{text}"))
}

/// Prints JSON, indented.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Other(error.to_string()))?;
    line(text)
}

/// A table in the house's style: no frames, columns that line up.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    table
}

fn finish(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::Other(format!("cannot write the output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Prints JSON on one line, for long lists of numbers.
pub(crate) fn json_compact(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::Other(error.to_string()))?;
    line(text)
}
