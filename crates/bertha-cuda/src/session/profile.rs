//! The time of each step.

use crate::driver::Event;

use super::{CudaSession, RaggedInputs, RunError};

/// Time that one step took.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTime {
    /// The graph node.
    pub node: String,
    /// What the step does.
    pub step: &'static str,
    /// The kernel with its macros.
    pub kernel: String,
    /// Seconds.
    pub seconds: f64,
}

impl CudaSession {
    /// Runs the batch once more, step by step with an event after each, and gives their times. Kernels do not overlap
    /// then as they do in a run, so the sum is more than a run takes. A batch without tokens has no steps to time.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn profile(&mut self, batch: &RaggedInputs<'_>, wanted: &[&str]) -> Result<Vec<StepTime>, RunError> {
        self.run(batch, wanted, |_| {})?;
        if batch.tokens() == 0 {
            // Nothing was launched, and the counts on the card are those of another batch or none.
            return Ok(Vec::new());
        }
        let key = self.key(batch, wanted)?;
        let Some(captured) = self.captured.get(&key) else { return Ok(Vec::new()) };
        let context = self.model.context();
        let events: Vec<Event> =
            (0..=captured.launches.len()).map(|_| Event::new(context)).collect::<Result<_, _>>()?;
        events[0].record(&self.workspace.stream)?;
        for (launch, event) in captured.launches.iter().zip(&events[1..]) {
            // SAFETY: the same launch as in the captured graph, whose operands are still where they were.
            unsafe { self.workspace.stream.launch(&launch.kernel, &launch.config, &launch.args)? };
            event.record(&self.workspace.stream)?;
        }
        self.workspace.stream.synchronize()?;
        let program = self.model.program();
        let names = program.launches(&key.setting);
        let mut times = Vec::with_capacity(captured.launches.len());
        for (launch, pair) in captured.launches.iter().zip(events.windows(2)) {
            let step = &program.steps[launch.step];
            times.push(StepTime {
                node: step.node.clone(),
                step: step.step.name(),
                kernel: names[launch.step].kernel.to_string(),
                seconds: pair[1].seconds_since(&pair[0])?,
            });
        }
        Ok(times)
    }
}
