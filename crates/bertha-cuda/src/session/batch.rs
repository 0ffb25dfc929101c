//! A batch on its way to the card: checked, and written into one piece of pinned memory.

use super::capture::{Part, Parts};
use crate::kernels::{Rows, Setting, work_capacity};
use crate::program::{Attention, CudaStep, Input, Place, Program};

/// The inputs of a ragged encoder, all tokens of all sequences one after another.
#[derive(Clone, Copy, Debug, Default)]
pub struct RaggedInputs<'a> {
    /// Token ids, `[tokens]`.
    pub input_ids: &'a [i32],
    /// Segments, `[tokens]`, for models that take them.
    pub token_type_ids: &'a [i32],
    /// Rows of the position table, `[tokens]`, for models that take them.
    pub position_ids: &'a [i32],
    /// Where each sequence starts, then the number of tokens: `[sequences + 1]`.
    pub cu_seqlens: &'a [i32],
}

/// Why a batch cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// An input does not fit the others.
    #[error("input `{input}`: {why}")]
    Input {
        /// The input.
        input: &'static str,
        /// What does not fit.
        why: String,
    },
    /// An id that its table has no row for.
    #[error("input `{input}`: {id} at position {position} is not one of the {rows} rows of its table")]
    Id {
        /// The input.
        input: &'static str,
        /// The id.
        id: i32,
        /// Where.
        position: usize,
        /// Rows of the table.
        rows: usize,
    },
    /// A sequence that the table of biases by distance does not reach across.
    #[error(
        "sequence {sequence} has {tokens} tokens, but the model's biases by distance reach {longest}; truncate it"
    )]
    TooLong {
        /// Its number, from 0.
        sequence: usize,
        /// Its length.
        tokens: usize,
        /// The longest length that there are biases for.
        longest: usize,
    },
    /// A batch for which a kernel would need more blocks than CUDA launches at once.
    #[error(
        "{sequences} sequences of {tokens} tokens together take {blocks} blocks for `{node}`, more than a launch has; split the batch"
    )]
    TooLarge {
        /// Tokens of the batch.
        tokens: usize,
        /// Sequences of the batch.
        sequences: usize,
        /// The graph node whose launch would be too large.
        node: String,
        /// Blocks of that launch.
        blocks: u32,
    },
}

impl<'a> RaggedInputs<'a> {
    /// An input by name.
    pub(crate) fn get(&self, input: Input) -> &'a [i32] {
        match input {
            Input::InputIds => self.input_ids,
            Input::TokenTypeIds => self.token_type_ids,
            Input::PositionIds => self.position_ids,
            Input::CuSeqlens => self.cu_seqlens,
        }
    }

    /// Number of tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Number of sequences.
    pub(crate) fn sequences(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    /// The longest sequence.
    pub(crate) fn longest(&self) -> usize {
        self.lengths().max().unwrap_or(0)
    }

    fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.cu_seqlens.windows(2).map(|pair| pair[1].saturating_sub(pair[0]).max(0) as usize)
    }

    /// Checks everything that kernels rely on: lengths, offsets, and that every id has a row in its table.
    pub(crate) fn check(&self, program: &Program) -> Result<(), BatchError> {
        let tokens = self.tokens();
        let wrong = |input: Input, why: String| BatchError::Input { input: input.name(), why };
        if self.cu_seqlens.first() != Some(&0) {
            return Err(wrong(Input::CuSeqlens, "it must start with 0".into()));
        }
        if let Some(at) = self.cu_seqlens.windows(2).position(|pair| pair[1] < pair[0]) {
            return Err(wrong(Input::CuSeqlens, format!("it decreases at {}", at + 1)));
        }
        let end = self.cu_seqlens.last().copied().unwrap_or(0);
        if usize::try_from(end) != Ok(tokens) {
            return Err(wrong(
                Input::CuSeqlens,
                format!("it ends with {end}, but there are {tokens} tokens"),
            ));
        }
        // Those that the model does not take may be left out, but are written with the others where they are there.
        for input in Input::ALL.into_iter().filter(|input| *input != Input::CuSeqlens) {
            let is_taken = program.tensors.iter().any(|tensor| tensor.place == Place::Input(input));
            let length = self.get(input).len();
            if length != tokens && (is_taken || length != 0) {
                return Err(wrong(input, format!("{length} values for {tokens} tokens")));
            }
        }
        for step in &program.steps {
            let embedding = match &step.step {
                CudaStep::Embedding(embedding) => embedding,
                CudaStep::Attention(Attention { relative: Some(relative), .. }) => {
                    self.check_lengths(relative.longest)?;
                    continue;
                }
                _ => continue,
            };
            for lookup in &embedding.lookups {
                let Place::Input(input) = program.tensors[lookup.ids].place else { continue };
                let rows = lookup.rows;
                let outside = |id: &i32| usize::try_from(*id).map_or(true, |id| id >= rows);
                if let Some(position) = self.get(input).iter().position(outside) {
                    let id = self.get(input)[position];
                    return Err(BatchError::Id { input: input.name(), id, position, rows });
                }
            }
        }
        Ok(())
    }

    fn check_lengths(&self, longest: usize) -> Result<(), BatchError> {
        match self.lengths().enumerate().find(|(_, tokens)| *tokens > longest) {
            Some((sequence, tokens)) => Err(BatchError::TooLong { sequence, tokens, longest }),
            None => Ok(()),
        }
    }

    /// Checks that every launch for batches of this capacity, the batch's own, is one that CUDA takes.
    pub(crate) fn check_capacity(&self, program: &Program, setting: &Setting) -> Result<(), BatchError> {
        let Some((node, blocks)) = program.too_large(setting) else { return Ok(()) };
        let (tokens, sequences) = (self.tokens(), self.sequences());
        Err(BatchError::TooLarge { tokens, sequences, node: node.to_owned(), blocks })
    }
}

/// Where the parts of a batch lie in its piece of memory, in bytes, for one capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Offset of each input, in the order of [`Input::ALL`].
    inputs: [usize; 4],
    work_list: usize,
    work_capacity: usize,
    /// Rows of queries in an item of the work list; 0 for a program without attention.
    query_block: usize,
    pub(crate) bytes: usize,
}

/// `Batch` for steps over tokens at 0, and for steps over sequences behind it.
const BATCH_BYTES: usize = 16;
const SEQUENCE_BATCH: usize = BATCH_BYTES;
const ALIGNMENT: usize = 256;

impl Layout {
    /// The layout for batches of a capacity.
    pub(crate) fn new(setting: &Setting, query_block: Option<usize>) -> Self {
        let mut end = 2 * BATCH_BYTES;
        let mut place = |bytes: usize| {
            let offset = end.next_multiple_of(ALIGNMENT);
            end = offset + bytes;
            offset
        };
        let inputs = Input::ALL.map(|input| match input {
            Input::CuSeqlens => place(4 * (setting.sequences + 1)),
            Input::InputIds | Input::TokenTypeIds | Input::PositionIds => place(4 * setting.tokens),
        });
        let query_block = query_block.unwrap_or(0);
        let work_capacity = work_capacity(setting, query_block);
        let work_list = place(8 * work_capacity);
        Layout { inputs, work_list, work_capacity, query_block, bytes: end.next_multiple_of(ALIGNMENT) }
    }

    pub(crate) fn input(&self, input: Input) -> usize {
        let index = Input::ALL.into_iter().position(|other| other == input).unwrap_or(0);
        self.inputs[index]
    }

    /// Writes a checked batch that fits the capacity. `order` is scratch.
    pub(crate) fn write(&self, batch: &RaggedInputs<'_>, memory: &mut [u8], order: &mut Vec<u32>) {
        for input in Input::ALL {
            let values: &[u8] = bytemuck::cast_slice(batch.get(input));
            let at = self.input(input);
            memory[at..at + values.len()].copy_from_slice(values);
        }
        let list = &mut memory[self.work_list..self.work_list + 8 * self.work_capacity];
        let items = work_list(batch, self.query_block, list, order);
        let counts =
            |tokens: usize| [tokens, batch.sequences(), items, batch.longest()].map(|count| count as i32);
        memory[..BATCH_BYTES].copy_from_slice(bytemuck::cast_slice(&counts(batch.tokens())));
        memory[BATCH_BYTES..2 * BATCH_BYTES]
            .copy_from_slice(bytemuck::cast_slice(&counts(batch.sequences())));
    }
}

impl Parts for Layout {
    fn offset(&self, part: Part) -> usize {
        match part {
            Part::Input(input) => self.input(input),
            Part::Batch(Rows::Sequences) => SEQUENCE_BATCH,
            Part::WorkList => self.work_list,
            Part::Batch(Rows::Tokens | Rows::Fixed(_)) | Part::Given(_) | Part::Fault => 0,
        }
    }
}

/// Writes pairs of sequence and query block, those of longer sequences first, so that the last blocks to start are
/// short ones; gives their number.
fn work_list(batch: &RaggedInputs<'_>, query_block: usize, list: &mut [u8], order: &mut Vec<u32>) -> usize {
    if query_block == 0 {
        return 0;
    }
    let cu = batch.cu_seqlens;
    let length = |sequence: u32| (cu[sequence as usize + 1] - cu[sequence as usize]) as usize;
    order.clear();
    order.extend(0..batch.sequences() as u32);
    order.sort_unstable_by_key(|sequence| (std::cmp::Reverse(length(*sequence)), *sequence));
    let mut items = 0;
    for sequence in order.iter() {
        for block in 0..length(*sequence).div_ceil(query_block) as i32 {
            list[8 * items..8 * items + 8].copy_from_slice(bytemuck::cast_slice(&[*sequence as i32, block]));
            items += 1;
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::kernels::buckets::{sequence_bucket, token_bucket};
    use crate::models::EncoderConfig;
    use crate::program::lower;

    fn cu_seqlens(lengths: &[usize]) -> Vec<i32> {
        let mut cu = vec![0];
        for length in lengths {
            cu.push(cu[cu.len() - 1] + *length as i32);
        }
        cu
    }

    /// Lengths of all kinds: empty, one, ragged, whole blocks.
    fn batches() -> Vec<Vec<usize>> {
        let mut seed = 7u64;
        let mut next = |bound: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((seed >> 33) % bound) as usize
        };
        let mut batches = vec![vec![1], vec![0, 0, 5], vec![64, 128, 64], vec![512; 8]];
        batches.extend((0..50).map(|_| (0..1 + next(40)).map(|_| next(300)).collect()));
        batches
    }

    #[test]
    fn the_work_list_covers_every_query_once_and_fits_its_capacity() {
        for lengths in batches() {
            let cu = cu_seqlens(&lengths);
            let tokens: usize = lengths.iter().sum();
            let ids = vec![1; tokens];
            let batch =
                RaggedInputs { input_ids: &ids, token_type_ids: &ids, position_ids: &ids, cu_seqlens: &cu };
            let setting = Setting {
                tokens: token_bucket(tokens),
                sequences: sequence_bucket(lengths.len()),
                ..Setting::typical(Arch::Sm90a)
            };
            for query_block in [16, 64, 128] {
                let layout = Layout::new(&setting, Some(query_block));
                let mut memory = vec![0xffu8; layout.bytes];
                layout.write(&batch, &mut memory, &mut Vec::new());
                let counts: Vec<i32> = bytemuck::pod_collect_to_vec(&memory[..32]);
                assert_eq!(&counts[..2], [tokens as i32, lengths.len() as i32]);
                assert_eq!(counts[4], lengths.len() as i32);
                let items = counts[2] as usize;
                let list: Vec<[i32; 2]> =
                    bytemuck::pod_collect_to_vec(&memory[layout.work_list..][..8 * items]);
                let mut seen: Vec<[i32; 2]> = list.clone();
                seen.sort_unstable();
                let expected: Vec<[i32; 2]> = lengths
                    .iter()
                    .enumerate()
                    .flat_map(|(at, length)| {
                        (0..length.div_ceil(query_block)).map(move |b| [at as i32, b as i32])
                    })
                    .collect();
                assert_eq!(seen, expected);
                let ordered =
                    list.windows(2).all(|pair| lengths[pair[0][0] as usize] >= lengths[pair[1][0] as usize]);
                assert!(ordered, "longest first");
            }
        }
    }

    fn program(positions: usize, relative: bool) -> Program {
        let mut config = EncoderConfig::named("minilm-l6").unwrap();
        (config.layers, config.vocabulary, config.positions, config.relative) = (1, 50, positions, relative);
        let model = bertha_compile::optimize_model(&config.build(1).unwrap()).unwrap().0;
        lower(&model.graph, bertha_compile::Precision::F16, crate::arch::Arch::Sm90a).unwrap()
    }

    #[test]
    fn sequences_longer_than_the_table_of_biases_are_refused() {
        let program = program(40, true);
        let ids = vec![1; 100];
        let check = |cu: &[i32]| {
            RaggedInputs { input_ids: &ids, token_type_ids: &ids, position_ids: &ids, cu_seqlens: cu }
                .check(&program)
        };
        assert_eq!(check(&[0, 40, 80, 100]), Ok(()));
        assert_eq!(
            check(&[0, 40, 81, 100]),
            Err(BatchError::TooLong { sequence: 1, tokens: 41, longest: 40 })
        );
    }

    #[test]
    fn inputs_of_another_length_are_refused_whether_the_model_takes_them_or_not() {
        let mut program = program(40, false);
        let (ids, long) = ([1; 5], [1; 6]);
        let inputs = |types, positions| RaggedInputs {
            input_ids: &ids,
            token_type_ids: types,
            position_ids: positions,
            cu_seqlens: &[0, 5],
        };
        let why = inputs(&long, &ids).check(&program).unwrap_err().to_string();
        assert!(why.contains("token_type_ids") && why.contains("6 values for 5 tokens"), "{why}");
        assert!(inputs(&[], &ids).check(&program).is_err());
        program.tensors.retain(|tensor| tensor.place != Place::Input(Input::TokenTypeIds));
        program.steps.clear();
        assert_eq!(inputs(&[], &ids).check(&program), Ok(()));
        assert_eq!(inputs(&ids, &ids).check(&program), Ok(()));
        let why = inputs(&long, &ids).check(&program).unwrap_err().to_string();
        assert!(why.contains("token_type_ids") && why.contains("6 values for 5 tokens"), "{why}");
    }

    #[test]
    fn a_batch_of_more_blocks_than_a_launch_has_is_refused_by_the_node() {
        let program = program(40, false);
        let cu: Vec<i32> = (0..=40_000).collect();
        let ids = vec![1; 40_000];
        let batch = RaggedInputs { input_ids: &ids, cu_seqlens: &cu, ..RaggedInputs::default() };
        let base = Setting::typical(Arch::Sm90a);
        let setting = |sequences| base.for_batch(40_000, sequences, 1);
        assert_eq!(batch.check_capacity(&program, &setting(30_000)), Ok(()));
        let why = batch.check_capacity(&program, &setting(40_000)).unwrap_err().to_string();
        assert!(why.contains("attention") && why.contains("split the batch"), "{why}");
    }

    #[test]
    fn parts_of_a_layout_do_not_overlap() {
        let setting = Setting { tokens: 96, sequences: 16, ..Setting::typical(Arch::Sm80) };
        let layout = Layout::new(&setting, Some(64));
        let mut parts: Vec<(usize, usize)> = Input::ALL
            .iter()
            .map(|input| (layout.input(*input), if *input == Input::CuSeqlens { 68 } else { 4 * 96 }))
            .collect();
        parts.push((layout.work_list, 8 * work_capacity(&setting, 64)));
        parts.push((0, 2 * BATCH_BYTES));
        parts.sort_unstable();
        assert!(parts.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
        assert!(parts.iter().all(|(start, bytes)| start + bytes <= layout.bytes));
    }
}
