//! Times of launches on a session's memory, for choosing among kernels.

use crate::driver::{CudaError, Graph};
use crate::kernels::Launch;

use super::{CudaSession, RaggedInputs, RunError};

/// Seconds that the replays of one graph take together, about; no fewer than [`FEWEST`] and no more than [`MOST`].
const ENOUGH: f64 = 2e-3;
const FEWEST: usize = 5;
const MOST: usize = 15;

/// Launches of the program's steps one after another, overlapping as in a run, captured to be timed. It works on the memory
/// of its session, which therefore takes no other batch meanwhile.
pub(crate) struct Rehearsal<'a> {
    session: &'a CudaSession,
    graph: Graph,
}

impl CudaSession {
    /// Runs the batch once, so that its counts and tensors are on the card for [`Self::rehearse`].
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub(crate) fn settle(&mut self, batch: &RaggedInputs<'_>) -> Result<(), RunError> {
        self.run(batch, &[], |_| {})
    }

    /// Captures these launches of the program's steps for the batch, which must have been settled last; what they write is not
    /// handed out.
    ///
    /// # Errors
    /// What the card says of them.
    pub(crate) fn rehearse(
        &self,
        batch: &RaggedInputs<'_>,
        launches: &[Launch],
    ) -> Result<Rehearsal<'_>, RunError> {
        let key = self.key(batch, &[])?;
        let captured = self.captured.get(&key).ok_or(RunError::Order("no batch was settled"))?;
        let (model, stream) = (&self.model, &self.workspace.stream);
        let weights = |index| model.weight_address(index);
        let bound = captured.bind(self.workspace.bases(model, model.program(), &weights), launches)?;
        let graph: Graph = stream.capture(|| {
            bound.iter().try_for_each(|launch| {
                // SAFETY: the operands are the session's own, of the capacity that the launches were made for; see
                // `Captured::new`.
                unsafe { stream.launch(&launch.kernel, &launch.config, &launch.args) }
            })
        })?;
        // The first replay uploads the graph.
        stream.replay(&graph)?;
        Ok(Rehearsal { session: self, graph })
    }
}

impl Rehearsal<'_> {
    /// Seconds that the launches take: the median of some replays.
    ///
    /// # Errors
    /// What the card says of them.
    pub(crate) fn seconds(&self) -> Result<f64, CudaError> {
        let times: Result<Vec<f64>, CudaError> = (0..self.replays()?).map(|_| self.replay()).collect();
        Ok(median(times?))
    }

    /// Seconds that the launches take, and those that others take, in turns: a card's clock goes up and down with what it
    /// has done before.
    ///
    /// # Errors
    /// What the card says of them.
    pub(crate) fn against(&self, other: &Self) -> Result<[f64; 2], CudaError> {
        let (mut times, mut others) = (Vec::new(), Vec::new());
        for _ in 0..self.replays()? {
            times.push(self.replay()?);
            others.push(other.replay()?);
        }
        Ok([median(times), median(others)])
    }

    /// How many replays are enough.
    fn replays(&self) -> Result<usize, CudaError> {
        let first = self.replay()?;
        Ok(((ENOUGH / first.max(1e-9)) as usize).clamp(FEWEST, MOST))
    }

    /// Seconds of one replay.
    fn replay(&self) -> Result<f64, CudaError> {
        self.session.workspace.replay_seconds(&self.graph)
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::INFINITY)
}
