//! Page-locked memory through which weights and codes go: from there a card copies several times as fast as from other
//! memory. It is kept for the next layer, as page-locking takes longer than a layer's copy.

use std::sync::{Mutex, PoisonError};

use super::super::{Card, Event, Memory, Pinned, Stream};
use crate::parallel::share;
use crate::{Pool, Result};

/// Bytes that are copied at a time.
const PART: usize = 8 << 20;
/// Bytes that a thread copies at a time.
const PIECE: usize = 512 << 10;
/// Parts on their way at the same time.
const PARTS: usize = 3;

/// Page-locked memory of a part, and the end of the copy that uses it.
#[derive(Debug)]
struct Part {
    bytes: Pinned,
    done: Event,
}

/// What no column loop uses now.
static SPARE: Mutex<Vec<(Card, Vec<Part>)>> = Mutex::new(Vec::new());

/// The page-locked memory of a column loop.
#[derive(Debug)]
pub(super) struct Staging<'a> {
    card: Card,
    pool: &'a Pool,
    parts: Vec<Part>,
}

impl<'a> Staging<'a> {
    /// For copies to and from a card, with the threads of `pool`.
    ///
    /// # Errors
    /// There is too little RAM, or the card is lost.
    pub fn of(card: &Card, pool: &'a Pool) -> Result<Self> {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let at = spare.iter().position(|(own, _)| own == card);
        let kept = at.map(|at| spare.swap_remove(at));
        drop(spare);
        let parts = match kept {
            Some((_, parts)) => parts,
            None => {
                let part = |_| -> Result<Part> {
                    Ok(Part { bytes: Pinned::new(card, PART)?, done: Event::new(card)? })
                };
                (0..PARTS).map(part).collect::<Result<_>>()?
            }
        };
        Ok(Self { card: card.clone(), pool, parts })
    }

    /// Copies bytes to the card. When it returns, `from` was read, and the copy is queued.
    ///
    /// # Errors
    /// Bytes beyond the memory, or a lost card.
    pub fn upload(&mut self, stream: &Stream, (to, offset): (&Memory, usize), from: &[u8]) -> Result<()> {
        for (i, chunk) in from.chunks(PART).enumerate() {
            let Part { bytes, done } = &mut self.parts[i % PARTS];
            // Of an event that was never recorded nothing is to be waited for.
            done.synchronize()?;
            let pieces = bytes[..chunk.len()].chunks_mut(PIECE).zip(chunk.chunks(PIECE));
            share(self.pool, pieces, |(to, from)| to.copy_from_slice(from));
            // SAFETY: the part is changed again only after its event.
            unsafe { stream.upload_later(to, offset + i * PART, &bytes[..chunk.len()])? };
            stream.record(done)?;
        }
        Ok(())
    }

    /// Copies bytes from the card, after the work queued before, and waits for it.
    ///
    /// # Errors
    /// Bytes beyond the memory, or a lost card.
    pub fn download(
        &mut self,
        stream: &Stream,
        (from, offset): (&Memory, usize),
        to: &mut [u8],
    ) -> Result<()> {
        let count = to.len().div_ceil(PART);
        for i in 0..count + PARTS - 1 {
            if i < count {
                let Part { bytes, done } = &mut self.parts[i % PARTS];
                let length = PART.min(to.len() - i * PART);
                // SAFETY: the part is read only after its event, and written again only after it was read.
                unsafe { stream.download_later(&mut bytes[..length], from, offset + i * PART)? };
                stream.record(done)?;
            }
            // The oldest one is read while others are on their way.
            let Some(at) = (i + 1).checked_sub(PARTS) else { continue };
            if at < count {
                let Part { bytes, done } = &self.parts[at % PARTS];
                done.synchronize()?;
                let end = to.len().min((at + 1) * PART);
                let to = &mut to[at * PART..end];
                let pieces = to.chunks_mut(PIECE).zip(bytes[..].chunks(PIECE));
                share(self.pool, pieces, |(to, from)| to.copy_from_slice(&from[..to.len()]));
            }
        }
        Ok(())
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        let parts = std::mem::take(&mut self.parts);
        // What is still on its way must end before another stream uses the memory.
        if parts.iter().all(|part| part.done.synchronize().is_ok()) {
            SPARE.lock().unwrap_or_else(PoisonError::into_inner).push((self.card.clone(), parts));
        }
    }
}
