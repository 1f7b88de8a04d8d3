//! Uploading ordinary memory, such as a mapped file, at the rate of the bus.
//!
//! From memory that is not page-locked the driver copies at a fifth of that rate, and page-locking costs more than one
//! copy (on an H100's host 0.4 s a GiB). So bytes go through a few page-locked chunks: while the card takes one, the
//! next is written.

use super::card::Card;
use super::error::CudaResult;
use super::memory::{Memory, Pinned};
use super::stream::{Event, Stream};

/// Page-locked chunks that bytes go through on their way to a card.
#[derive(Debug)]
pub struct Staging {
    card: Card,
    chunks: Vec<Chunk>,
    /// Which chunk comes next.
    next: usize,
}

#[derive(Debug)]
struct Chunk {
    bytes: Pinned,
    /// Behind the last copy from it.
    taken: Event,
}

impl Staging {
    /// So many chunks of so many bytes each; both at least 1. Four of 4 MiB are enough for the full rate.
    ///
    /// # Errors
    ///
    /// Too little RAM that can be page-locked, or a lost card.
    pub fn new(card: &Card, chunks: usize, bytes: usize) -> CudaResult<Self> {
        let chunk = |_| Ok(Chunk { bytes: Pinned::new(card, bytes.max(1))?, taken: Event::new(card)? });
        Ok(Self {
            card: card.clone(),
            chunks: (0..chunks.max(1)).map(chunk).collect::<CudaResult<_>>()?,
            next: 0,
        })
    }

    /// Queues an upload; afterwards `from` may change. Bytes for the last chunks may still be on their way.
    ///
    /// # Errors
    ///
    /// Bytes beyond the memory, memory of another card, or a lost card.
    pub fn upload(&mut self, stream: &Stream, to: &Memory, offset: usize, from: &[u8]) -> CudaResult<()> {
        self.upload_with(stream, to, offset, from.len(), |chunk, at| {
            chunk.copy_from_slice(&from[at..at + chunk.len()]);
        })
    }

    /// As [`upload`](Self::upload), with bytes made in place: `write` is given a part of a chunk, to be written whole,
    /// and where among all `bytes` it begins.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn upload_with(
        &mut self,
        stream: &Stream,
        to: &Memory,
        offset: usize,
        bytes: usize,
        mut write: impl FnMut(&mut [u8], usize),
    ) -> CudaResult<()> {
        self.card.same(stream.card(), "a stream")?;
        to.range(offset, bytes)?;
        let mut at = 0;
        while at < bytes {
            let chunk = &mut self.chunks[self.next];
            chunk.taken.synchronize()?;
            let length = chunk.bytes.len().min(bytes - at);
            write(&mut chunk.bytes[..length], at);
            // SAFETY: the chunk is written again, or freed, only after the event behind this copy.
            unsafe { stream.upload_later(to, offset + at, &chunk.bytes[..length])? };
            stream.record(&chunk.taken)?;
            self.next = (self.next + 1) % self.chunks.len();
            at += length;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for chunk in &self.chunks {
            // On a lost card nothing runs any more, and the chunk is not freed.
            let _ = chunk.taken.synchronize();
        }
    }
}
