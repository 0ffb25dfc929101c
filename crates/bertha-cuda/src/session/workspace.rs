//! What every session has for itself on a card.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use super::capture::Bases;
use crate::driver::{Context, CudaError, DeviceBuffer, Event, Graph, PinnedBuffer, Stream};
use crate::model::CudaModel;
use crate::program::Program;

/// A stream, memory on both sides, and events around a run.
#[derive(Debug)]
pub(super) struct Workspace {
    // The stream comes first: dropping it waits for work that uses what follows.
    pub(super) stream: Stream,
    /// The host's copy of `inputs`.
    pub(super) staging: PinnedBuffer,
    /// What every run brings along.
    pub(super) inputs: DeviceBuffer,
    /// Slots of intermediate tensors and results.
    arena: DeviceBuffer,
    /// Results that were copied back.
    pub(super) results: PinnedBuffer,
    start: Event,
    end: Event,
    /// Whether the events stand around a run that was queued.
    pub(super) has_run: bool,
}

impl Workspace {
    pub(super) fn new(context: &Context) -> Result<Self, CudaError> {
        Ok(Workspace {
            stream: Stream::new(context)?,
            staging: PinnedBuffer::new(context, 0)?,
            inputs: DeviceBuffer::new(context, 0, "inputs")?,
            arena: DeviceBuffer::new(context, 0, "activations")?,
            results: PinnedBuffer::new(context, 0)?,
            start: Event::new(context)?,
            end: Event::new(context)?,
            has_run: false,
        })
    }

    /// Bytes of the card's memory.
    pub(super) fn bytes(&self) -> usize {
        self.arena.bytes() + self.inputs.bytes()
    }

    /// Grows the memory of inputs and activations to so many bytes. What was captured holds addresses, so it goes with it.
    pub(super) fn make_room<K, V>(
        &mut self,
        inputs: usize,
        arena: usize,
        captured: &mut Kept<K, V>,
    ) -> Result<(), CudaError> {
        if inputs <= self.inputs.bytes() && arena <= self.arena.bytes() {
            return Ok(());
        }
        let context = self.stream.context().clone();
        self.stream.synchronize()?;
        captured.clear();
        if inputs > self.inputs.bytes() {
            self.staging = PinnedBuffer::new(&context, inputs)?;
            self.inputs = DeviceBuffer::new(&context, inputs, "inputs")?;
        }
        if arena > self.arena.bytes() {
            // The old one first: the card may not have room for both.
            self.arena = DeviceBuffer::new(&context, 0, "activations")?;
            self.arena = DeviceBuffer::new(&context, arena, "activations")?;
        }
        Ok(())
    }

    /// Grows the memory of results to so many bytes. No run may be under way.
    pub(super) fn make_room_for_results(&mut self, bytes: usize) -> Result<(), CudaError> {
        if bytes > self.results.bytes() {
            self.results = PinnedBuffer::new(self.stream.context(), bytes)?;
        }
        Ok(())
    }

    /// Where a program runs, with the address of each of its weights.
    pub(super) fn bases<'a>(
        &'a self,
        model: &'a CudaModel,
        program: &'a Program,
        weights: &'a dyn Fn(usize) -> u64,
    ) -> Bases<'a> {
        let (inputs, arena) = (self.inputs.address(), self.arena.address());
        Bases { stream: &self.stream, model, program, weights, inputs, arena }
    }

    /// Queues a captured graph between the two events.
    pub(super) fn replay(&self, graph: &Graph) -> Result<(), CudaError> {
        self.start.record(&self.stream)?;
        self.stream.replay(graph)?;
        self.end.record(&self.stream)
    }

    /// Replays a graph, waits for it, and gives the seconds between the two events.
    pub(super) fn replay_seconds(&self, graph: &Graph) -> Result<f64, CudaError> {
        self.replay(graph)?;
        self.end.wait()?;
        self.end.seconds_since(&self.start)
    }

    /// Seconds that the card worked on the last run; `None` before a run.
    pub(super) fn device_seconds(&self) -> Result<Option<f64>, CudaError> {
        if !self.has_run {
            return Ok(None);
        }
        Ok(Some(self.end.seconds_since(&self.start)?))
    }

    /// Fills the memory of intermediate tensors and results with NaN.
    pub(super) fn poison(&mut self) -> Result<(), CudaError> {
        self.arena.fill(&self.stream, 0xff)?;
        self.stream.synchronize()?;
        self.results.as_mut_slice().fill(0xff);
        Ok(())
    }
}

/// Captured graphs that a session keeps; for one more, the one captured first goes.
const KEPT_GRAPHS: usize = 64;

/// What was captured for each key, for the last so many keys.
#[derive(Debug)]
pub(super) struct Kept<K, V> {
    values: HashMap<K, V>,
    /// The keys in the order in which they came.
    oldest: VecDeque<K>,
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Kept { values: HashMap::new(), oldest: VecDeque::new() }
    }
}

impl<K, V> Kept<K, V> {
    fn clear(&mut self) {
        self.values.clear();
        self.oldest.clear();
    }
}

impl<K: Clone + Eq + Hash, V> Kept<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key)
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.values.contains_key(key)
    }

    /// Lets the oldest go where there are as many as are kept, before the next is made.
    pub(super) fn make_room(&mut self) {
        if self.oldest.len() >= KEPT_GRAPHS
            && let Some(oldest) = self.oldest.pop_front()
        {
            self.values.remove(&oldest);
        }
    }

    /// Adds the value of a key that has none.
    pub(super) fn insert(&mut self, key: K, value: V) {
        self.values.insert(key.clone(), value);
        self.oldest.push_back(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_keys_are_kept_and_all_go_together() {
        let mut kept = Kept::default();
        for key in 0..KEPT_GRAPHS + 3 {
            assert!(!kept.contains(&key));
            kept.make_room();
            kept.insert(key, 10 * key);
        }
        assert_eq!([0, 2, 3, KEPT_GRAPHS + 2].map(|key| kept.get(&key).copied()), {
            [None, None, Some(30), Some(10 * (KEPT_GRAPHS + 2))]
        });
        assert_eq!((kept.values.len(), kept.oldest.len()), (KEPT_GRAPHS, KEPT_GRAPHS));
        kept.clear();
        assert!(!kept.contains(&3));
        kept.insert(3, 1);
        assert_eq!((kept.get(&3), kept.oldest.len()), (Some(&1), 1));
    }
}
