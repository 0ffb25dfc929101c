//! Token ids through a session, whatever the model's interface is.

use bertha::{DType, Interface, RaggedBatch, Session, TensorData};

use crate::error::TextError;
use crate::tokenizer::Encoded;

/// Tokens that are run at once: enough to fill the machine, few enough to bound memory.
const TOKEN_BUDGET: usize = 4096;

/// What an output has a row for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Per {
    Token,
    Sequence,
}

/// An output by name, and what it has a row for.
pub(crate) type Wanted = (&'static str, Per);

/// The rows of one output that belong to one sequence.
pub(crate) struct Rows<'a> {
    /// Its number among the sequences given.
    pub(crate) sequence: usize,
    /// `[rows, width]`, row-major: one row a token, or a single row for outputs per sequence.
    pub(crate) values: &'a [f32],
    /// Values in a row.
    pub(crate) width: usize,
}

/// Runs all sequences, in groups, and hands the rows of the wanted output to `take`, one sequence at a time but in no
/// particular order.
///
/// A sequence's rows do not depend on the others: ragged batches have no padding, and dense models are only ever
/// given sequences of equal length together.
pub(crate) fn forward(
    session: &mut Session,
    sequences: &[Encoded],
    wanted: Wanted,
    mut take: impl FnMut(Rows<'_>) -> Result<(), TextError>,
) -> Result<(), TextError> {
    // Longest first: the first group sets the memory that later ones reuse.
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(sequences[*index].ids.len()));
    let dense = session.info().interface == Interface::Dense;
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let (group, others) = rest.split_at(group_size(sequences, rest, dense));
        rest = others;
        if dense {
            run_dense(session, sequences, group, wanted, &mut take)?;
        } else {
            run_ragged(session, sequences, group, wanted, &mut take)?;
        }
    }
    Ok(())
}

/// How many of the next sequences run together.
fn group_size(sequences: &[Encoded], order: &[usize], equal_lengths: bool) -> usize {
    let mut tokens = 0;
    let first = sequences[order[0]].ids.len();
    let fits = |index: &&usize| {
        let length = sequences[**index].ids.len();
        tokens += length;
        tokens <= TOKEN_BUDGET && (!equal_lengths || length == first)
    };
    order.iter().take_while(fits).count().max(1)
}

fn run_ragged(
    session: &mut Session,
    sequences: &[Encoded],
    group: &[usize],
    wanted: Wanted,
    take: &mut impl FnMut(Rows<'_>) -> Result<(), TextError>,
) -> Result<(), TextError> {
    let mut batch = RaggedBatch::new();
    for index in group {
        let sequence = &sequences[*index];
        batch.push(session.info(), &sequence.ids, Some(&sequence.types))?;
    }
    let mut result = Ok(());
    session.run_ragged(&batch, &[wanted.0], |tensor| {
        let ranges = (0..batch.len()).map(|index| match wanted.1 {
            Per::Token => batch.rows(index),
            Per::Sequence => index..index + 1,
        });
        result = as_floats(tensor.dtype, tensor.as_f32(), tensor.name)
            .and_then(|values| hand_out(values, tensor.shape, group, ranges, take));
    })?;
    result
}

fn run_dense(
    session: &mut Session,
    sequences: &[Encoded],
    group: &[usize],
    wanted: Wanted,
    take: &mut impl FnMut(Rows<'_>) -> Result<(), TextError>,
) -> Result<(), TextError> {
    let columns = sequences[group[0]].ids.len();
    let mut inputs = Vec::new();
    for (name, dtype, _) in session.inputs() {
        let cell = |index: usize, column: usize| match name.as_str() {
            "input_ids" => Some(i64::from(sequences[index].ids[column])),
            "attention_mask" => Some(1),
            "token_type_ids" => Some(i64::from(sequences[index].types[column])),
            "position_ids" => Some(column as i64),
            _ => None,
        };
        let mut cells = Vec::with_capacity(group.len() * columns);
        for index in group {
            for column in 0..columns {
                let why = "text tasks know input_ids, attention_mask, token_type_ids and position_ids only";
                cells.push(
                    cell(*index, column)
                        .ok_or_else(|| bertha::Error::Input { name: name.clone(), why: why.into() })?,
                );
            }
        }
        let data = integers(dtype, vec![group.len(), columns], cells).ok_or_else(|| {
            bertha::Error::Input { name: name.clone(), why: format!("{dtype} is not an integer type") }
        })?;
        inputs.push((name, data));
    }
    let inputs: Vec<(&str, &TensorData)> = inputs.iter().map(|(name, data)| (name.as_str(), data)).collect();
    for (name, data) in session.run(&inputs, &[wanted.0])? {
        let values = as_floats(data.dtype(), data.as_slice::<f32>().ok(), &name)?;
        let rows = match wanted.1 {
            Per::Token => columns,
            Per::Sequence => 1,
        };
        let ranges = (0..group.len()).map(|index| index * rows..(index + 1) * rows);
        hand_out(values, data.shape(), group, ranges, take)?;
    }
    Ok(())
}

fn integers(dtype: DType, shape: Vec<usize>, cells: Vec<i64>) -> Option<TensorData> {
    match dtype {
        DType::I64 => TensorData::from_vec(shape, cells).ok(),
        DType::I32 => TensorData::from_vec(shape, cells.into_iter().map(|cell| cell as i32).collect()).ok(),
        _ => None,
    }
}

fn as_floats<'a>(dtype: DType, values: Option<&'a [f32]>, name: &str) -> Result<&'a [f32], TextError> {
    values.ok_or_else(|| {
        TextError::Run(bertha::Error::WrongTask(format!("output `{name}` is {dtype}; text tasks read f32")))
    })
}

/// Cuts an output into the rows of each sequence.
fn hand_out(
    values: &[f32],
    shape: &[usize],
    group: &[usize],
    ranges: impl Iterator<Item = std::ops::Range<usize>>,
    take: &mut impl FnMut(Rows<'_>) -> Result<(), TextError>,
) -> Result<(), TextError> {
    let ranges: Vec<_> = ranges.collect();
    let rows = ranges.last().map_or(0, |range| range.end);
    let width = values.len().checked_div(rows).unwrap_or(0);
    if width * rows != values.len() {
        let why = format!("the output's shape {shape:?} is not one row a token or a sequence");
        return Err(TextError::Run(bertha::Error::WrongTask(why)));
    }
    for (sequence, range) in group.iter().zip(ranges) {
        let values = &values[range.start * width..range.end * width];
        take(Rows { sequence: *sequence, values, width })?;
    }
    Ok(())
}
