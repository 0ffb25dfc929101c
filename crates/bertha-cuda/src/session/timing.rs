//! Times of launches on a session's memory, for choosing among kernels.

use crate::driver::{CudaError, Graph};
use crate::kernels::Launch;

use super::{CudaSession, RaggedInputs, RunError};

/// Seconds that the replays of one graph take together, about; no fewer than [`FEWEST`] and no more than [`MOST`].
const ENOUGH: f64 = 2e-3;
const FEWEST: usize = 3;
const MOST: usize = 15;

impl CudaSession {
    /// Runs the batch once, so that its counts and tensors are on the card for [`Self::time`].
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub(crate) fn settle(&mut self, batch: &RaggedInputs<'_>) -> Result<(), RunError> {
        self.run(batch, &[], |_| {})
    }

    /// Seconds that these launches of the program's steps take one after another, overlapping as in a run: the median of
    /// some replays of a graph. The batch must have been settled last; what the launches write is not handed out.
    ///
    /// # Errors
    /// What the card says of them.
    pub(crate) fn time(&mut self, batch: &RaggedInputs<'_>, launches: &[Launch]) -> Result<f64, RunError> {
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
        let first = self.workspace.replay_seconds(&graph)?;
        let count = ((ENOUGH / first.max(1e-9)) as usize).clamp(FEWEST, MOST);
        let times: Result<Vec<f64>, CudaError> =
            (0..count).map(|_| self.workspace.replay_seconds(&graph)).collect();
        let mut times = times?;
        times.sort_by(f64::total_cmp);
        Ok(times[count / 2])
    }
}
