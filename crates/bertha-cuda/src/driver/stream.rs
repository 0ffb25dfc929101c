//! Streams, events and graphs: the order in which the card works.

use std::fmt;

use super::check;
use super::context::Context;
use super::error::CudaError;
use super::sys::{self, CUevent, CUgraphExec, CUstream};

/// A queue of work for the card.
pub struct Stream {
    context: Context,
    raw: CUstream,
}

// SAFETY: driver streams may be used from any thread; calls lock inside the driver.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// A queue of its own, which waits for no other.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn new(context: &Context) -> Result<Self, CudaError> {
        let api = context.bind()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer is to a local that lives through the call.
        check(api, "making a stream", unsafe { (api.stream_create)(&mut raw, sys::STREAM_NON_BLOCKING) })?;
        Ok(Stream { context: context.clone(), raw })
    }

    /// Its context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn raw(&self) -> CUstream {
        self.raw
    }

    /// Waits until everything queued is done. An error of an earlier kernel shows here.
    ///
    /// # Errors
    /// What the driver says of the work.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        let api = self.context.bind()?;
        // SAFETY: the stream lives as long as `self`.
        check(api, "running the model", unsafe { (api.stream_synchronize)(self.raw) })
    }

    /// Records what `work` queues on this stream, without running it.
    ///
    /// # Errors
    /// What `work` returns, or what the driver says.
    pub fn capture<E: From<CudaError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Graph, E> {
        let api = self.context.bind()?;
        // SAFETY: the stream lives as long as `self`.
        check(api, "beginning a graph", unsafe {
            (api.stream_begin_capture)(self.raw, sys::CAPTURE_MODE_THREAD_LOCAL)
        })?;
        let result = work();
        let mut graph = std::ptr::null_mut();
        // Capture has to end whatever `work` said, or the stream could not be used again.
        // SAFETY: the pointer is to a local that lives through the call.
        let ended = check(api, "ending a graph", unsafe { (api.stream_end_capture)(self.raw, &mut graph) });
        result?;
        ended?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: `graph` was made by the call above; the pointer is to a local.
        let made =
            check(api, "instantiating a graph", unsafe { (api.graph_instantiate)(&mut raw, graph, 0) });
        // SAFETY: the instance does not need the graph it was made from.
        unsafe { (api.graph_destroy)(graph) };
        made?;
        Ok(Graph { context: self.context.clone(), raw })
    }

    /// Queues a recorded graph.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn replay(&self, graph: &Graph) -> Result<(), CudaError> {
        let api = self.context.bind()?;
        // SAFETY: both live as long as the borrows.
        check(api, "launching a graph", unsafe { (api.graph_launch)(graph.raw, self.raw) })
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bind() {
            // SAFETY: made by `new`, destroyed once. Waiting first keeps buffers alive that queued work uses.
            unsafe {
                (api.stream_synchronize)(self.raw);
                (api.stream_destroy)(self.raw);
            }
        }
    }
}

/// Recorded work that is launched as one.
///
/// It holds the addresses that its kernels were given; who replays it keeps those buffers alive.
pub struct Graph {
    context: Context,
    raw: CUgraphExec,
}

// SAFETY: an instance may be launched from any thread, one at a time, which `&mut` sessions ensure.
unsafe impl Send for Graph {}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Graph")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bind() {
            // SAFETY: made by `capture`, destroyed once.
            unsafe { (api.graph_exec_destroy)(self.raw) };
        }
    }
}

/// A point in a stream's work, with its time.
pub struct Event {
    context: Context,
    raw: CUevent,
}

// SAFETY: driver events may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// An event that nothing has recorded yet.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn new(context: &Context) -> Result<Self, CudaError> {
        let api = context.bind()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer is to a local that lives through the call; 0 keeps the time.
        check(api, "making an event", unsafe { (api.event_create)(&mut raw, 0) })?;
        Ok(Event { context: context.clone(), raw })
    }

    /// Marks the end of what `stream` has queued so far.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        let api = self.context.bind()?;
        // SAFETY: both live as long as the borrows.
        check(api, "recording an event", unsafe { (api.event_record)(self.raw, stream.raw()) })
    }

    /// Whether the point has been passed.
    ///
    /// # Errors
    /// What the driver says of the work before it.
    pub fn is_done(&self) -> Result<bool, CudaError> {
        let api = self.context.bind()?;
        // SAFETY: the event lives as long as `self`.
        match unsafe { (api.event_query)(self.raw) } {
            sys::CUDA_ERROR_NOT_READY => Ok(false),
            status => check(api, "running the model", status).map(|()| true),
        }
    }

    /// Waits for the point.
    ///
    /// # Errors
    /// What the driver says of the work before it.
    pub fn wait(&self) -> Result<(), CudaError> {
        let api = self.context.bind()?;
        // SAFETY: the event lives as long as `self`.
        check(api, "running the model", unsafe { (api.event_synchronize)(self.raw) })
    }

    /// Seconds from `earlier` to this event; both must have been passed.
    ///
    /// # Errors
    /// When one of them was not recorded or not passed.
    pub fn seconds_since(&self, earlier: &Event) -> Result<f64, CudaError> {
        let api = self.context.bind()?;
        let mut milliseconds = 0f32;
        // SAFETY: the pointer is to a local that lives through the call.
        check(api, "reading a time", unsafe {
            (api.event_elapsed)(&mut milliseconds, earlier.raw, self.raw)
        })?;
        Ok(f64::from(milliseconds) * 1e-3)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Event")
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(api) = self.context.bind() {
            // SAFETY: made by `new`, destroyed once.
            unsafe { (api.event_destroy)(self.raw) };
        }
    }
}
