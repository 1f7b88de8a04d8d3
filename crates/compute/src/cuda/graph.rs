//! Graphs: work of a stream recorded once, and replayed with one call.

use cudarc::driver::sys::CUgraphExec;

use super::card::Card;
use super::error::{CudaError, CudaResult};
use super::stream::Stream;

/// Recorded work, ready to be replayed.
#[derive(Debug)]
pub struct Graph {
    card: Card,
    raw: CUgraphExec,
    nodes: usize,
}

// SAFETY: a graph may be launched from any thread; the driver documents that one must not be used by two at a time,
// and `launch` takes `&mut self`.
unsafe impl Send for Graph {}

impl Stream {
    /// Records what `work` queues in this stream, without doing it. Launches marked as overlapping stay so. `work` must
    /// not wait for the stream, and have all its kernels and memory beforehand.
    ///
    /// # Errors
    ///
    /// Those of `work`, something queued that cannot be recorded, or a lost card.
    pub fn capture<E: From<CudaError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Graph, E> {
        self.begin_capture()?;
        let done = work();
        let graph = self.end_capture();
        done?;
        Ok(graph?)
    }

    /// From here on what is queued in this stream is recorded and not done, until [`Stream::end_capture`].
    ///
    /// # Errors
    ///
    /// A capture is going on already, or the card is lost.
    pub fn begin_capture(&self) -> CudaResult<()> {
        let card = self.card();
        card.enter()?;
        // 1 is CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile.
        // SAFETY: the stream lives.
        let code = unsafe { (card.driver().cuStreamBeginCapture_v2)(self.raw(), 1) };
        card.check(code, "cuStreamBeginCapture")
    }

    /// Ends a recording, so that the stream does its work again.
    ///
    /// # Errors
    ///
    /// Something was queued that cannot be recorded, or the card is lost.
    pub fn end_capture(&self) -> CudaResult<Graph> {
        let card = self.card();
        card.enter()?;
        let mut graph = std::ptr::null_mut();
        // SAFETY: `graph` is writable.
        let code = unsafe { (card.driver().cuStreamEndCapture)(self.raw(), &raw mut graph) };
        card.check(code, "cuStreamEndCapture")?;
        let mut raw = std::ptr::null_mut();
        let mut nodes = 0;
        // SAFETY: the graph was just made and is destroyed here, once it is instantiated or not; the outputs are
        // writable; no nodes are asked for, only their number.
        let code = unsafe {
            let driver = card.driver();
            (driver.cuGraphGetNodes)(graph, std::ptr::null_mut(), &raw mut nodes);
            let code = (driver.cuGraphInstantiateWithFlags)(&raw mut raw, graph, 0);
            (driver.cuGraphDestroy)(graph);
            code
        };
        card.check(code, "cuGraphInstantiate")?;
        Ok(Graph { card: card.clone(), raw, nodes })
    }
}

impl Graph {
    /// How many kernels, copies and other pieces of work it has.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Queues all its work in a stream.
    ///
    /// # Errors
    ///
    /// A stream of another card, or a lost card.
    ///
    /// # Safety
    ///
    /// What the recorded launches and copies use still holds: memory, pinned memory and streams' other work as their
    /// own safety sections say.
    pub unsafe fn launch(&mut self, stream: &Stream) -> CudaResult<()> {
        self.card.same(stream.card(), "a stream")?;
        self.card.enter()?;
        // SAFETY: the graph lives; the caller vouches for its contents.
        let code = unsafe { (self.card.driver().cuGraphLaunch)(self.raw, stream.raw()) };
        self.card.check(code, "cuGraphLaunch")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.card.enter().is_ok() {
            // SAFETY: not destroyed yet; the driver waits with it until running replays are done.
            unsafe { (self.card.driver().cuGraphExecDestroy)(self.raw) };
        }
    }
}
