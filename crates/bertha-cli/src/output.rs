//! Printing that survives a closed pipe.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, TableStyle};
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

/// A table in the house's style, for [`print_table`]: no frames, columns that line up.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    table
}

/// Prints a table. Columns in `numeric` stand to the right, so that digits line up.
pub(crate) fn print_table(mut table: Table, numeric: impl IntoIterator<Item = usize>) -> Result<(), Failure> {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for index in numeric {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().try_for_each(|text| line(text.trim_end()))
}

/// A number of bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(f64, &str); 3] = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let unit = UNITS.into_iter().find(|(size, _)| count as f64 >= *size);
    unit.map_or_else(|| format!("{count} B"), |(size, unit)| format!("{:.1} {unit}", count as f64 / size))
}

/// `1 batch`, `2 batches`.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
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

/// What a precision changes, in words.
pub(crate) fn rounding_error(precision: bertha::Precision, error: &bertha::RoundingError) -> String {
    format!(
        "{precision} changes {} by {:.2e} of its norm, {:.2e} at most (random sequences of {} tokens)",
        error.output,
        error.relative,
        error.max_abs,
        error.lengths.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )
}
