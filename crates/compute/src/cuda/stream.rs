//! Streams (queues of work for a card), events within them, and copies.

use std::ffi::c_uint;

use cudarc::driver::sys::{CUevent, CUstream};

use super::card::Card;
use super::driver;
use super::error::CudaResult;
use super::memory::Memory;

/// A queue of work for one card, done in its order; several streams overlap.
#[derive(Debug)]
pub struct Stream {
    card: Card,
    raw: CUstream,
}

// SAFETY: the driver's streams may be used from all threads.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// A new stream, which waits for no other.
    ///
    /// # Errors
    ///
    /// The card is lost, or the driver lacks memory.
    pub fn new(card: &Card) -> CudaResult<Self> {
        card.enter()?;
        let mut raw = std::ptr::null_mut();
        // 1 is CU_STREAM_NON_BLOCKING: independent of the default stream.
        // SAFETY: `raw` is writable; the context is current.
        let code = unsafe { (card.driver().cuStreamCreate)(&raw mut raw, 1) };
        card.check(code, "cuStreamCreate")?;
        Ok(Self { card: card.clone(), raw })
    }

    /// The card that does the work.
    pub fn card(&self) -> &Card {
        &self.card
    }

    pub(super) fn raw(&self) -> CUstream {
        self.raw
    }

    /// Waits until all queued work is done. A fault of a kernel shows here.
    ///
    /// # Errors
    ///
    /// The card is lost.
    pub fn synchronize(&self) -> CudaResult<()> {
        self.card.enter()?;
        // SAFETY: the stream lives.
        let code = unsafe { (self.card.driver().cuStreamSynchronize)(self.raw) };
        self.card.check(code, "cuStreamSynchronize")
    }

    /// Whether all queued work is done.
    ///
    /// # Errors
    ///
    /// The card is lost.
    pub fn is_idle(&self) -> CudaResult<bool> {
        self.card.enter()?;
        // SAFETY: the stream lives.
        match unsafe { (self.card.driver().cuStreamQuery)(self.raw) } {
            driver::NOT_READY => Ok(false),
            code => self.card.check(code, "cuStreamQuery").map(|()| true),
        }
    }

    /// Copies bytes to the card, and waits for it.
    ///
    /// # Errors
    ///
    /// Bytes beyond the memory, memory of another card, or a lost card.
    pub fn upload(&self, to: &Memory, offset: usize, from: &[u8]) -> CudaResult<()> {
        // SAFETY: the copy is done before the borrow ends.
        unsafe { self.upload_later(to, offset, from) }?;
        self.synchronize()
    }

    /// Copies bytes from the card, after the work queued before, and waits for it.
    ///
    /// # Errors
    ///
    /// Bytes beyond the memory, memory of another card, or a lost card.
    pub fn download(&self, to: &mut [u8], from: &Memory, offset: usize) -> CudaResult<()> {
        // SAFETY: the copy is done before the borrow ends.
        unsafe { self.download_later(to, from, offset) }?;
        self.synchronize()
    }

    /// Queues a copy of bytes to the card. From [`Pinned`](super::Pinned) memory the host goes on at once; from other
    /// memory it may wait until the driver has a copy of its own.
    ///
    /// # Errors
    ///
    /// Bytes beyond the memory, memory of another card, or a lost card.
    ///
    /// # Safety
    ///
    /// `from` is neither changed nor freed before this copy is done; if it is captured in a graph, before each
    /// replay is done.
    pub unsafe fn upload_later(&self, to: &Memory, offset: usize, from: &[u8]) -> CudaResult<()> {
        self.card.same(to.card(), "memory to copy to")?;
        let pointer = to.range(offset, from.len())?;
        self.card.enter()?;
        // SAFETY: the range was checked; the caller keeps `from`.
        let code = unsafe {
            let copy = self.card.driver().cuMemcpyHtoDAsync_v2;
            copy(pointer.address(), from.as_ptr().cast(), from.len(), self.raw)
        };
        self.card.check(code, "cuMemcpyHtoDAsync")
    }

    /// Queues a copy of bytes from the card.
    ///
    /// # Errors
    ///
    /// Bytes beyond the memory, memory of another card, or a lost card.
    ///
    /// # Safety
    ///
    /// `to` is neither read, written nor freed before this copy is done; if it is captured in a graph, before each
    /// replay is done.
    pub unsafe fn download_later(&self, to: &mut [u8], from: &Memory, offset: usize) -> CudaResult<()> {
        self.card.same(from.card(), "memory to copy from")?;
        let pointer = from.range(offset, to.len())?;
        self.card.enter()?;
        // SAFETY: the range was checked; the caller keeps `to`.
        let code = unsafe {
            let copy = self.card.driver().cuMemcpyDtoHAsync_v2;
            copy(to.as_mut_ptr().cast(), pointer.address(), to.len(), self.raw)
        };
        self.card.check(code, "cuMemcpyDtoHAsync")
    }

    /// Queues a copy within the card's memory, or to or from another card's: directly where [`Card::enable_peer`] made
    /// that possible, through the host otherwise. Another card's work on that memory must be waited for (by an
    /// [`Event`]) on both sides.
    ///
    /// # Errors
    ///
    /// Bytes beyond the memory, or a lost card.
    pub fn copy(
        &self,
        (to, to_offset): (&Memory, usize),
        (from, from_offset): (&Memory, usize),
        bytes: usize,
    ) -> CudaResult<()> {
        let target = to.range(to_offset, bytes)?.address();
        let source = from.range(from_offset, bytes)?.address();
        self.card.enter()?;
        let driver = self.card.driver();
        if to.card() == from.card() {
            self.card.same(to.card(), "memory to copy")?;
            // SAFETY: both ranges were checked.
            let code = unsafe { (driver.cuMemcpyDtoDAsync_v2)(target, source, bytes, self.raw) };
            return self.card.check(code, "cuMemcpyDtoDAsync");
        }
        let (there, here) = (to.card().context(), from.card().context());
        // SAFETY: both ranges were checked, and belong to these contexts.
        let code = unsafe { (driver.cuMemcpyPeerAsync)(target, there, source, here, bytes, self.raw) };
        self.card.check(code, "cuMemcpyPeerAsync")
    }

    /// Queues setting `bytes` bytes from `offset` on to one value.
    ///
    /// # Errors
    ///
    /// Bytes beyond the memory, memory of another card, or a lost card.
    pub fn fill(&self, memory: &Memory, offset: usize, bytes: usize, value: u8) -> CudaResult<()> {
        self.card.same(memory.card(), "memory to fill")?;
        let pointer = memory.range(offset, bytes)?;
        self.card.enter()?;
        // SAFETY: the range was checked.
        let code = unsafe { (self.card.driver().cuMemsetD8Async)(pointer.address(), value, bytes, self.raw) };
        self.card.check(code, "cuMemsetD8Async")
    }

    /// Lets later work of this stream wait for what came before the event in its stream, also another card's.
    ///
    /// # Errors
    ///
    /// The card is lost.
    pub fn wait(&self, event: &Event) -> CudaResult<()> {
        self.card.enter()?;
        // SAFETY: stream and event live.
        let code = unsafe { (self.card.driver().cuStreamWaitEvent)(self.raw, event.raw, 0) };
        self.card.check(code, "cuStreamWaitEvent")
    }

    /// Puts an event behind all work queued so far.
    ///
    /// # Errors
    ///
    /// An event of another card, or a lost card.
    pub fn record(&self, event: &Event) -> CudaResult<()> {
        self.card.same(&event.card, "an event")?;
        self.card.enter()?;
        // SAFETY: stream and event live, and belong to the same context.
        let code = unsafe { (self.card.driver().cuEventRecord)(event.raw, self.raw) };
        self.card.check(code, "cuEventRecord")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.card.enter().is_ok() {
            // SAFETY: the stream was not destroyed yet; the driver finishes its queued work first.
            unsafe { (self.card.driver().cuStreamDestroy_v2)(self.raw) };
        }
    }
}

/// A place in a stream's queue, to wait for or to take the time at.
#[derive(Debug)]
pub struct Event {
    card: Card,
    raw: CUevent,
    timed: bool,
}

// SAFETY: the driver's events may be used from all threads.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event to wait for.
    ///
    /// # Errors
    ///
    /// The card is lost, or the driver lacks memory.
    pub fn new(card: &Card) -> CudaResult<Self> {
        // CU_EVENT_DISABLE_TIMING
        Self::with_flags(card, 2)
    }

    /// An event that also notes the time.
    ///
    /// # Errors
    ///
    /// The card is lost, or the driver lacks memory.
    pub fn timed(card: &Card) -> CudaResult<Self> {
        Self::with_flags(card, 0)
    }

    fn with_flags(card: &Card, flags: c_uint) -> CudaResult<Self> {
        card.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is writable; the context is current.
        let code = unsafe { (card.driver().cuEventCreate)(&raw mut raw, flags) };
        card.check(code, "cuEventCreate")?;
        Ok(Self { card: card.clone(), raw, timed: flags == 0 })
    }

    /// Waits until the work before the event is done.
    ///
    /// # Errors
    ///
    /// The card is lost.
    pub fn synchronize(&self) -> CudaResult<()> {
        self.card.enter()?;
        // SAFETY: the event lives.
        let code = unsafe { (self.card.driver().cuEventSynchronize)(self.raw) };
        self.card.check(code, "cuEventSynchronize")
    }

    /// Whether the work before the event is done.
    ///
    /// # Errors
    ///
    /// The card is lost.
    pub fn is_done(&self) -> CudaResult<bool> {
        self.card.enter()?;
        // SAFETY: the event lives.
        match unsafe { (self.card.driver().cuEventQuery)(self.raw) } {
            driver::NOT_READY => Ok(false),
            code => self.card.check(code, "cuEventQuery").map(|()| true),
        }
    }

    /// Seconds from this event to a later one, which is waited for; both [timed](Self::timed) and recorded. `None` where
    /// they were not timed, or the driver cannot say.
    ///
    /// # Errors
    ///
    /// One of them was not recorded, or the card is lost.
    pub fn seconds_until(&self, end: &Self) -> CudaResult<Option<f64>> {
        end.synchronize()?;
        let driver = self.card.driver();
        let (Some(elapsed), true) =
            (driver.cuEventElapsedTime.or(driver.cuEventElapsedTime_v2), self.timed && end.timed)
        else {
            return Ok(None);
        };
        let mut milliseconds = 0.0;
        // SAFETY: `milliseconds` is writable, both events live.
        let code = unsafe { elapsed(&raw mut milliseconds, self.raw, end.raw) };
        self.card.check(code, "cuEventElapsedTime")?;
        Ok(Some(f64::from(milliseconds) / 1e3))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.card.enter().is_ok() {
            // SAFETY: the event was not destroyed yet.
            unsafe { (self.card.driver().cuEventDestroy_v2)(self.raw) };
        }
    }
}
