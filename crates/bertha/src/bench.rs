//! Work to measure with: random token ids of given lengths, or random floats, as the model takes them.

use std::time::Duration;

use bertha_compile::{TacticTable, cost};
use bertha_graph::{
    Bindings, DType, Graph, Interface, Op, Shape, SplitMix64, TensorData, TensorType, ragged,
};

use crate::batch::RaggedBatch;
use crate::engine::Engine;
use crate::error::Error;
use crate::session::Session;

/// One batch, ready to run, and what it costs.
pub struct Workload {
    batch: Batch,
    /// The graph with the shapes that this batch gives it.
    graph: Graph,
    bindings: Bindings,
    sum_of_squares: f64,
    /// Tokens of each sequence.
    lengths: Vec<usize>,
}

enum Batch {
    Ragged(RaggedBatch),
    Dense(Vec<(String, TensorData)>),
}

impl Workload {
    /// Runs the batch once and drops the outputs.
    pub fn run(&self, session: &mut Session) -> Result<(), Error> {
        match &self.batch {
            Batch::Ragged(batch) => session.run_ragged(batch, &[], |_| {}),
            Batch::Dense(inputs) => {
                let inputs: Vec<(&str, &TensorData)> = named(inputs);
                session.run(&inputs, &[]).map(drop)
            }
        }
    }

    /// Queues the batch on the session's card and returns while it is at work; [`Self::wait`] drops the outputs.
    ///
    /// # Errors
    /// When the session is on no card, has a run under way, or the batch does not run there.
    pub fn submit(&self, session: &mut Session) -> Result<(), Error> {
        let (Batch::Ragged(batch), Some(card)) = (&self.batch, session.gpu()) else {
            return Err(Error::WrongTask("only ragged batches on a GPU can be queued".into()));
        };
        Ok(card.submit(&batch.as_inputs(), &[])?)
    }

    /// Waits for the batch that was queued on the session's card.
    ///
    /// # Errors
    /// When none was, or what the card says of it.
    pub fn wait(session: &mut Session) -> Result<(), Error> {
        session.gpu().map_or(Ok(()), |card| Ok(card.wait(|_| {})?))
    }

    /// Runs the batch once and returns the time of each step.
    pub fn profile(&self, session: &mut Session) -> Result<Vec<bertha_cpu::StepTime>, Error> {
        match &self.batch {
            Batch::Ragged(batch) => session.profile_ragged(batch, &[]),
            Batch::Dense(inputs) => session.profile(&named(inputs), &[]),
        }
    }

    /// Runs the batch once on the session's card, step by step, and returns the time of each.
    pub fn profile_gpu(&self, session: &mut Session) -> Result<Vec<bertha_cuda::StepTime>, Error> {
        let (Batch::Ragged(batch), Some(card)) = (&self.batch, session.gpu()) else { return Ok(Vec::new()) };
        Ok(card.profile(&batch.as_inputs(), &[])?)
    }

    /// The kernels that could run each step of `engine` on this CPU, with times for this batch on the session's threads. The
    /// alternatives of those that run are timed until `budget` is used up.
    ///
    /// # Errors
    /// When the engine cannot run the batch.
    pub fn tactics(
        &self,
        engine: &Engine,
        session: &mut Session,
        budget: Duration,
    ) -> Result<TacticTable, Error> {
        let inputs = self.inputs(engine)?;
        let steps = session.cpu.tactics(&named(&inputs), budget, &|node| self.node_flops(node))?;
        let threads = session.threads();
        let plural = if threads == 1 { "" } else { "s" };
        Ok(TacticTable {
            target: engine.cpu().isa().to_string(),
            batch: format!("{}, {threads} thread{plural}", self.batch_in_words()),
            steps,
        })
    }

    /// `1 sequence of 128 tokens` (of positions for a model that takes no token ids), as [`TacticTable::batch`] says what it is for.
    pub fn batch_in_words(&self) -> String {
        let plural =
            |number: usize, one: &str| format!("{number} {one}{}", if number == 1 { "" } else { "s" });
        let tokens: usize = self.lengths.iter().sum();
        let unit = if self.graph.find(ragged::INPUT_IDS).is_some() { "token" } else { "position" };
        match self.lengths.as_slice() {
            [first, rest @ ..] if rest.iter().all(|length| length == first) => {
                format!("{} of {}", plural(self.lengths.len(), "sequence"), plural(*first, unit))
            }
            _ => {
                format!("{} of {} together", plural(self.lengths.len(), "sequence"), plural(tokens, unit))
            }
        }
    }

    /// Floating-point operations of its matrix products and attentions.
    pub fn flops(&self) -> f64 {
        cost::flops(&self.graph, &self.bindings, self.sum_of_squares)
    }

    /// The same for the node called `name`; 0 when it is no product.
    pub fn node_flops(&self, name: &str) -> f64 {
        let node = self.graph.nodes().iter().find(|node| node.name == name);
        node.and_then(|node| cost::node_flops(&self.graph, node, &self.bindings, self.sum_of_squares))
            .unwrap_or(0.0)
    }

    /// The batch as named tensors, as the engine's graph takes them: padded for a dense model, `[tokens]` with
    /// `cu_seqlens` for a ragged one.
    pub fn inputs(&self, engine: &Engine) -> Result<Vec<(String, TensorData)>, Error> {
        match &self.batch {
            Batch::Dense(inputs) => Ok(inputs.clone()),
            Batch::Ragged(batch) => batch.to_tensors(engine.graph()),
        }
    }
}

fn named(inputs: &[(String, TensorData)]) -> Vec<(&str, &TensorData)> {
    inputs.iter().map(|(name, data)| (name.as_str(), data)).collect()
}

/// A batch of sequences of the given lengths with random token ids. The same seed gives the same ids. A dense model
/// gets them padded to the longest, with an attention mask where it takes one, and floats between -1 and 1 where it takes
/// floats (all open sizes of such inputs but the batch are that of the longest sequence), with `..lengths` where it takes
/// those.
///
/// # Errors
/// When the model takes other inputs, or refuses the lengths.
pub fn random_workload(engine: &Engine, lengths: &[usize], seed: u64) -> Result<Workload, Error> {
    let mut random = SplitMix64::new(seed);
    let vocabulary = vocabulary(engine.graph());
    let sequences: Vec<Vec<u32>> = lengths
        .iter()
        .map(|length| (0..*length).map(|_| random.below(vocabulary) as u32).collect())
        .collect();
    let sum_of_squares = lengths.iter().map(|length| (length * length) as f64).sum();
    if engine.info().interface == Interface::Ragged {
        let mut batch = RaggedBatch::new();
        for ids in &sequences {
            batch.push(engine.info(), ids, None)?;
        }
        let bindings =
            Bindings::from([("tokens".into(), batch.tokens() as i64), ("batch".into(), batch.len() as i64)]);
        return Ok(Workload {
            batch: Batch::Ragged(batch),
            graph: engine.graph().clone(),
            bindings,
            sum_of_squares,
            lengths: lengths.to_vec(),
        });
    }
    let inputs = padded_inputs(engine.graph(), &sequences, &mut random)?;
    let types: Vec<TensorType> = inputs
        .iter()
        .map(|(_, data)| TensorType::new(data.dtype(), data.shape().iter().copied().collect::<Shape>()))
        .collect();
    let graph = engine.graph().specialize(&types)?;
    let (batch, lengths) = (Batch::Dense(inputs), lengths.to_vec());
    Ok(Workload { batch, graph, bindings: Bindings::new(), sum_of_squares, lengths })
}

/// Rows of the first table that token ids look up, or a number that every vocabulary has.
fn vocabulary(graph: &Graph) -> usize {
    const SMALLEST: usize = 99;
    let tables = graph.nodes().iter().filter_map(|node| {
        let table = match node.op {
            Op::EmbeddingSum | Op::EmbeddingLayerNorm { .. } => node.inputs.get(1).copied().flatten(),
            Op::Gather { axis: 0 } => node.inputs.first().copied().flatten(),
            _ => None,
        };
        let shape = &graph.tensor(table?).ty.shape;
        shape.dims().first()?.as_const().filter(|_| shape.rank() == 2)
    });
    tables.max().filter(|rows| u32::try_from(*rows).is_ok()).map_or(SMALLEST, |rows| rows as usize).max(1)
}

/// Values for all inputs of a dense graph: what is known of its integers, and random floats such as pixels and features.
fn padded_inputs(
    graph: &Graph,
    sequences: &[Vec<u32>],
    random: &mut SplitMix64,
) -> Result<Vec<(String, TensorData)>, Error> {
    let columns = sequences.iter().map(Vec::len).max().unwrap_or(0);
    let bindings = sizes(graph, sequences.len(), columns);
    let mut inputs = Vec::new();
    for id in graph.inputs() {
        let tensor = graph.tensor(*id);
        let unknown = || Error::Input {
            name: tensor.name.clone(),
            why: format!("no random values are known for {}; give the inputs as an .npz", tensor.ty),
        };
        if tensor.ty.dtype == DType::F32 {
            let shape = tensor.ty.shape.substitute(&bindings).as_const().ok_or_else(unknown)?;
            bertha_graph::byte_count(DType::F32, &shape)?;
            let values = (0..shape.iter().product()).map(|_| (random.unit() * 2.0 - 1.0) as f32).collect();
            inputs.push((tensor.name.clone(), TensorData::from_vec(shape, values)?));
            continue;
        }
        let known = match tensor.ty.shape.rank() {
            1 => lengths(&tensor.name, sequences).map(|values| (vec![sequences.len()], values)),
            2 => {
                cells(&tensor.name, sequences, columns).map(|values| (vec![sequences.len(), columns], values))
            }
            _ => None,
        };
        let (shape, values) = known.ok_or_else(unknown)?;
        let data = match tensor.ty.dtype {
            DType::I64 => TensorData::from_vec(shape, values)?,
            DType::I32 => {
                TensorData::from_vec(shape, values.into_iter().map(|value| value as i32).collect())?
            }
            _ => return Err(unknown()),
        };
        inputs.push((tensor.name.clone(), data));
    }
    Ok(inputs)
}

/// The contents of an input `[batch, seq]`, where its name tells them.
fn cells(name: &str, sequences: &[Vec<u32>], columns: usize) -> Option<Vec<i64>> {
    let cell = |row: &Vec<u32>, column: usize| match name {
        "input_ids" => Some(row.get(column).map_or(0, |id| i64::from(*id))),
        "attention_mask" => Some(i64::from(column < row.len())),
        "token_type_ids" => Some(0),
        "position_ids" => Some(column as i64),
        _ => None,
    };
    sequences.iter().flat_map(|row| (0..columns).map(move |column| cell(row, column))).collect()
}

/// The contents of an input `[batch]`, where its name says that they are lengths.
fn lengths(name: &str, sequences: &[Vec<u32>]) -> Option<Vec<i64>> {
    name.ends_with("lengths").then(|| sequences.iter().map(|row| row.len() as i64).collect())
}

/// The symbols of the inputs' shapes: what an input begins with is the batch, and what else is open is as long as a sequence.
fn sizes(graph: &Graph, batch: usize, columns: usize) -> Bindings {
    let shapes = graph.inputs().iter().map(|id| graph.tensor(*id).ty.shape.dims());
    let mut bindings = Bindings::new();
    for (axis, dim) in shapes.flat_map(|dims| dims.iter().enumerate()) {
        let size = if axis == 0 { batch } else { columns };
        for symbol in dim.symbols() {
            bindings.entry(symbol).or_insert(size as i64);
        }
    }
    bindings
}
