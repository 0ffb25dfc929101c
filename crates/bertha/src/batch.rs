//! Batches without padding, and the boundary where padded tensors enter and leave.

use bertha_cpu::TensorRef;
use bertha_graph::{DType, ModelInfo, PositionIds, TensorData, ragged};

use crate::error::Error;

/// Padded callers' name for what is a token (not 0) and what is padding (0).
pub(crate) const ATTENTION_MASK: &str = "attention_mask";

/// Sequences of token ids one after another, as encoder graphs take them: `[tokens]` arrays and the running sum of
/// the lengths. Filling a batch again reuses its memory.
///
/// ```no_run
/// # fn main() -> Result<(), bertha::Error> {
/// # let engine = bertha::Engine::open("path/to/model")?;
/// let mut batch = bertha::RaggedBatch::new();
/// batch.push(engine.info(), &[101, 7592, 102], None)?;
/// batch.push(engine.info(), &[101, 102], None)?;
/// assert_eq!(batch.cu_seqlens(), [0, 3, 5]);
/// assert_eq!(batch.rows(1), 3..5); // the second sequence's rows of an output per token
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaggedBatch {
    input_ids: Vec<i32>,
    token_type_ids: Vec<i32>,
    position_ids: Vec<i32>,
    cu_seqlens: Vec<i32>,
    /// Shapes of the arrays above, kept so that views of them can be handed out.
    token_shape: [usize; 1],
    offset_shape: [usize; 1],
}

impl Default for RaggedBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl RaggedBatch {
    /// A batch with no sequence.
    pub fn new() -> Self {
        RaggedBatch {
            input_ids: Vec::new(),
            token_type_ids: Vec::new(),
            position_ids: Vec::new(),
            cu_seqlens: vec![0],
            token_shape: [0],
            offset_shape: [1],
        }
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    /// Whether there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens of all sequences together.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Where each sequence starts, then the number of tokens: `len() + 1` values.
    pub fn cu_seqlens(&self) -> &[i32] {
        &self.cu_seqlens
    }

    /// The tokens of sequence `index`, as a range of rows.
    ///
    /// # Panics
    /// When there is no such sequence.
    pub fn rows(&self, index: usize) -> std::ops::Range<usize> {
        self.cu_seqlens[index] as usize..self.cu_seqlens[index + 1] as usize
    }

    /// Removes all sequences and keeps the memory.
    pub fn clear(&mut self) {
        self.input_ids.clear();
        self.token_type_ids.clear();
        self.position_ids.clear();
        self.cu_seqlens.clear();
        self.cu_seqlens.push(0);
        self.update_shapes();
    }

    /// Appends a sequence. `types` gives the segment of each token; all 0 when there are none. Positions follow from
    /// `info`.
    ///
    /// # Errors
    /// When it is longer than the model takes, an id does not fit 32 bits, or `types` has another length. The batch is
    /// then as it was.
    pub fn push(&mut self, info: &ModelInfo, ids: &[u32], types: Option<&[u32]>) -> Result<(), Error> {
        let too_long = info.max_tokens.is_some_and(|max| ids.len() > max);
        if let (true, Some(max)) = (too_long, info.max_tokens) {
            return Err(Error::TooLong { sequence: self.len(), tokens: ids.len(), max });
        }
        if let Some(types) = types
            && types.len() != ids.len()
        {
            let why = format!("{} token types for {} tokens", types.len(), ids.len());
            return Err(Error::Input { name: ragged::TOKEN_TYPE_IDS.into(), why });
        }
        check_ids(ragged::INPUT_IDS, ids)?;
        check_ids(ragged::TOKEN_TYPE_IDS, types.unwrap_or_default())?;
        let start = self.tokens();
        self.input_ids.extend(ids.iter().map(|id| *id as i32));
        match types {
            Some(types) => self.token_type_ids.extend(types.iter().map(|segment| *segment as i32)),
            None => self.token_type_ids.resize(self.input_ids.len(), 0),
        }
        match info.position_ids {
            PositionIds::None | PositionIds::Absolute => self.position_ids.extend(0..ids.len() as i32),
            PositionIds::AfterPad { pad_id } => {
                after_pad(&self.input_ids[start..], pad_id as i32, &mut self.position_ids);
            }
        }
        self.end_sequence();
        Ok(())
    }

    fn end_sequence(&mut self) {
        self.cu_seqlens.push(self.input_ids.len() as i32);
        self.update_shapes();
    }

    fn update_shapes(&mut self) {
        self.token_shape = [self.input_ids.len()];
        self.offset_shape = [self.cu_seqlens.len()];
    }

    /// The batch as owned tensors, those that `graph` takes.
    pub(crate) fn to_tensors(&self, graph: &bertha_graph::Graph) -> Result<Vec<(String, TensorData)>, Error> {
        let mut tensors = Vec::new();
        for id in graph.inputs() {
            let name = &graph.tensor(*id).name;
            if let Some(view) = self.input(name) {
                let bytes = bytes::Bytes::copy_from_slice(view.bytes);
                tensors.push((name.clone(), TensorData::from_bytes(view.dtype, view.shape.to_vec(), bytes)?));
            }
        }
        Ok(tensors)
    }

    /// The batch as sessions on a card take it.
    pub(crate) fn as_inputs(&self) -> bertha_cuda::RaggedInputs<'_> {
        bertha_cuda::RaggedInputs {
            input_ids: &self.input_ids,
            token_type_ids: &self.token_type_ids,
            position_ids: &self.position_ids,
            cu_seqlens: &self.cu_seqlens,
        }
    }

    /// The batch as the named inputs of a ragged graph; the graph says which of them it takes.
    pub(crate) fn input(&self, name: &str) -> Option<TensorRef<'_>> {
        let tokens = |values| Some(view(&self.token_shape, values));
        match name {
            ragged::INPUT_IDS => tokens(&self.input_ids),
            ragged::TOKEN_TYPE_IDS => tokens(&self.token_type_ids),
            ragged::POSITION_IDS => tokens(&self.position_ids),
            ragged::CU_SEQLENS => Some(view(&self.offset_shape, &self.cu_seqlens)),
            _ => None,
        }
    }
}

fn view<'a>(shape: &'a [usize], values: &'a [i32]) -> TensorRef<'a> {
    TensorRef { dtype: DType::I32, shape, bytes: bytemuck::cast_slice(values) }
}

/// Ids and segments are 32-bit integers with a sign in the graph.
fn check_ids(name: &str, ids: &[u32]) -> Result<(), Error> {
    match ids.iter().position(|id| i32::try_from(*id).is_err()) {
        None => Ok(()),
        Some(at) => {
            let why = format!("{} at {at} does not fit 32 bits", ids[at]);
            Err(Error::Input { name: name.into(), why })
        }
    }
}

/// Positions that count up from `pad_id + 1` over the tokens that are not padding. An absurd `pad_id` wraps around to
/// positions that no table has, which the lookup refuses.
fn after_pad(ids: &[i32], pad_id: i32, positions: &mut Vec<i32>) {
    let mut next = pad_id.wrapping_add(1);
    for id in ids {
        if *id == pad_id {
            positions.push(pad_id);
        } else {
            positions.push(next);
            next = next.wrapping_add(1);
        }
    }
}

/// A padded batch on its way through a ragged graph: which cells of `[batch, seq]` are tokens.
#[derive(Debug)]
pub(crate) struct Padded {
    pub(crate) batch: RaggedBatch,
    /// Rows and columns of the padded tensors.
    pub(crate) shape: [usize; 2],
    /// For every token of the batch, its cell: `row * seq + column`.
    cells: Vec<usize>,
}

impl Padded {
    /// Takes the padding out of named `[batch, seq]` tensors: `input_ids`, and if given `attention_mask` (0 is
    /// padding), `token_type_ids`, `position_ids`.
    pub(crate) fn from_tensors(info: &ModelInfo, inputs: &[(&str, &TensorData)]) -> Result<Self, Error> {
        let known = [ragged::INPUT_IDS, ATTENTION_MASK, ragged::TOKEN_TYPE_IDS, ragged::POSITION_IDS];
        if let Some((name, _)) = inputs.iter().find(|(name, _)| !known.contains(name)) {
            let why = format!("not an input; the model takes {}", known.join(", "));
            return Err(Error::Input { name: (*name).into(), why });
        }
        let find = |name: &str| inputs.iter().find(|(n, _)| *n == name).map(|(_, data)| *data);
        let ids = find(ragged::INPUT_IDS)
            .ok_or_else(|| Error::Input { name: ragged::INPUT_IDS.into(), why: "missing".into() })?;
        let [rows, columns] = *ids.shape() else {
            let why = format!("expected [batch, seq], found {:?}", ids.shape());
            return Err(Error::Input { name: ragged::INPUT_IDS.into(), why });
        };
        let shape = [rows, columns];
        let same_shape = |name: &str| find(name).map(|data| integers(name, data, shape)).transpose();
        let ids = integers(ragged::INPUT_IDS, ids, shape)?;
        let types = same_shape(ragged::TOKEN_TYPE_IDS)?;
        let positions = same_shape(ragged::POSITION_IDS)?;
        let mask = find(ATTENTION_MASK).map(|data| mask_cells(ATTENTION_MASK, data, shape)).transpose()?;

        let mut padded = Padded { batch: RaggedBatch::new(), shape, cells: Vec::new() };
        let mut own_positions = Vec::with_capacity(columns);
        for row in 0..rows {
            let cells = row * columns..(row + 1) * columns;
            own_positions.clear();
            match (&positions, info.position_ids) {
                (Some(given), _) => own_positions.extend_from_slice(&given[cells.clone()]),
                (None, PositionIds::AfterPad { pad_id }) => {
                    after_pad(&ids[cells.clone()], pad_id as i32, &mut own_positions);
                }
                (None, PositionIds::Absolute | PositionIds::None) => own_positions.extend(0..columns as i32),
            }
            for (column, cell) in cells.enumerate() {
                if mask.as_ref().is_some_and(|mask| !mask[cell]) {
                    continue;
                }
                padded.batch.input_ids.push(ids[cell]);
                padded.batch.token_type_ids.push(types.as_ref().map_or(0, |types| types[cell]));
                padded.batch.position_ids.push(own_positions[column]);
                padded.cells.push(cell);
            }
            padded.batch.end_sequence();
        }
        padded.check_length(info)?;
        Ok(padded)
    }

    fn check_length(&self, info: &ModelInfo) -> Result<(), Error> {
        let Some(max) = info.max_tokens else { return Ok(()) };
        for sequence in 0..self.batch.len() {
            let tokens = self.batch.rows(sequence).len();
            if tokens > max {
                return Err(Error::TooLong { sequence, tokens, max });
            }
        }
        Ok(())
    }

    /// Puts per-token rows back into their cells: `[tokens, ..]` becomes `[batch, seq, ..]`, zero where padding was.
    pub(crate) fn scatter(&self, dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<TensorData, Error> {
        let row_bytes = bytes.len().checked_div(self.cells.len()).unwrap_or(0);
        let mut padded_shape = self.shape.to_vec();
        padded_shape.extend_from_slice(&shape[1..]);
        let length = bertha_graph::byte_count(dtype, &padded_shape)?;
        let mut padded = vec![0u8; length];
        for (token, cell) in self.cells.iter().enumerate() {
            padded[cell * row_bytes..(cell + 1) * row_bytes]
                .copy_from_slice(&bytes[token * row_bytes..(token + 1) * row_bytes]);
        }
        Ok(TensorData::from_bytes(dtype, padded_shape, padded.into())?)
    }
}

/// An integer tensor of the wanted shape as 32-bit values.
fn integers(name: &str, data: &TensorData, shape: [usize; 2]) -> Result<Vec<i32>, Error> {
    let wrong = |why: String| Error::Input { name: name.into(), why };
    if data.shape() != shape {
        return Err(wrong(format!("expected the shape {shape:?} of input_ids, found {:?}", data.shape())));
    }
    let values = data.to_i64().ok_or_else(|| wrong(format!("expected integers, found {}", data.dtype())))?;
    let narrow =
        |value: &i64| i32::try_from(*value).map_err(|_| wrong(format!("{value} does not fit 32 bits")));
    values.iter().map(narrow).collect()
}

/// Which cells the mask keeps. Any number but 0 keeps a cell.
fn mask_cells(name: &str, data: &TensorData, shape: [usize; 2]) -> Result<Vec<bool>, Error> {
    if data.shape() != shape {
        let why = format!("expected the shape {shape:?} of input_ids, found {:?}", data.shape());
        return Err(Error::Input { name: name.into(), why });
    }
    Ok(data.to_f64().into_iter().map(|value| value != 0.0).collect())
}
