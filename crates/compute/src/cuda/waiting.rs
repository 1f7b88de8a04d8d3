//! Vectors that wait in RAM for a card.

use std::ops::Range;

use super::{Card, Event, Pinned, Stream, Values};
use crate::error::same;
use crate::{Error, Result};

/// f32 vectors in page-locked memory. Copies to and from a card are queued; whoever looks at the vectors, changes or frees
/// them waits for the copies first.
#[derive(Debug)]
pub struct Waiting {
    pinned: Pinned,
    /// Behind the last copy.
    copied: Event,
    length: usize,
}

impl Waiting {
    /// `length` zeros for this card.
    ///
    /// # Errors
    /// The system cannot lock so much memory.
    pub fn new(card: &Card, length: usize) -> Result<Self> {
        Ok(Self { pinned: Pinned::new(card, 4 * length)?, copied: Event::new(card)?, length })
    }

    /// The vectors.
    ///
    /// # Errors
    /// The card is lost.
    pub fn values(&self) -> Result<&[f32]> {
        self.copied.synchronize()?;
        // SAFETY: page-locked memory begins at a page, and any bits are an f32.
        Ok(&unsafe { self.pinned.align_to::<f32>().1 }[..self.length])
    }

    /// The vectors, to be written.
    ///
    /// # Errors
    /// The card is lost.
    pub fn values_mut(&mut self) -> Result<&mut [f32]> {
        self.copied.synchronize()?;
        // SAFETY: as above.
        Ok(&mut unsafe { self.pinned.align_to_mut::<f32>().1 }[..self.length])
    }

    /// Queues a copy of some values to the card.
    pub(super) fn upload(&self, stream: &Stream, range: Range<usize>, to: Values<'_>) -> Result<()> {
        same("waiting vectors: values to copy", range.len(), to.len())?;
        let bytes = self.pinned.get(4 * range.start..4 * range.end).ok_or(Error::Lengths {
            what: "waiting vectors: values",
            expected: range.end,
            found: self.length,
        })?;
        let Some((memory, offset)) = to.place() else { return Ok(()) };
        // SAFETY: the bytes are neither changed nor freed before `copied`, which is recorded behind the copy.
        unsafe { stream.upload_later(memory, offset, bytes)? };
        Ok(stream.record(&self.copied)?)
    }

    /// Queues a copy of some values from the card.
    pub(super) fn download(&mut self, stream: &Stream, from: Values<'_>, range: Range<usize>) -> Result<()> {
        same("waiting vectors: values to copy", range.len(), from.len())?;
        let length = self.length;
        let bytes = self.pinned.get_mut(4 * range.start..4 * range.end).ok_or(Error::Lengths {
            what: "waiting vectors: values",
            expected: range.end,
            found: length,
        })?;
        let Some((memory, offset)) = from.place() else { return Ok(()) };
        // SAFETY: the bytes are not looked at before `copied`, which is recorded behind the copy.
        unsafe { stream.download_later(bytes, memory, offset)? };
        Ok(stream.record(&self.copied)?)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A lost card copies nothing any more.
        let _ = self.copied.synchronize();
    }
}
