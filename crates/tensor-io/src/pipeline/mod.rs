//! The streaming job: pieces of the output are made by all threads and written in order by a thread of its own.
//!
//! ```text
//! caller    assemble batch ──> [ pieces, made by the pool ] ──full──> writer thread ──> output
//!                ▲                                                         │
//!                └──────────────────────── empty ──────────────────────────┘
//! ```
//!
//! Where the system refuses the thread that writes, the caller writes each batch before it makes the next one.
//!
//! Three batches go round, so making and writing overlap and memory stays bounded: three batches of output, the
//! source pages of the pieces in them, one scratch value for each thread. Pieces whose bytes are in the map as they are
//! to be written are not copied: the writer takes them from there. Every piece is made alone, so neither the number of
//! threads nor the size of batches changes a byte, and of several errors the first in the order of the output is
//! returned.

mod run;
mod threads;

#[cfg(test)]
mod tests;

pub use run::run;
pub use threads::{Threads, pool};

use crate::{Error, Result};

/// Some bytes of one tensor of the output, the unit of work of one thread.
#[derive(Clone, Debug)]
pub struct Piece<'m, W> {
    /// Number of the tensor in the output.
    pub tensor: usize,
    /// Bytes in the output.
    pub bytes: usize,
    /// Bytes that the progress counts; a batch takes a bounded number of them.
    pub counted: usize,
    /// Where the bytes come from.
    pub content: Content<'m, W>,
}

/// Where the bytes of a piece come from.
#[derive(Clone, Debug)]
pub enum Content<'m, W> {
    /// From the mapped source, as they are; there are [`Piece::bytes`] of them.
    Mapped(&'m [u8]),
    /// [`Job::make`] makes them from this.
    Made(W),
}

impl<'m, W> Piece<'m, W> {
    /// A piece that is written from the map.
    pub fn mapped(tensor: usize, data: &'m [u8]) -> Self {
        Self { tensor, bytes: data.len(), counted: data.len(), content: Content::Mapped(data) }
    }

    /// A piece of so many bytes that is made from `work`.
    pub fn made(tensor: usize, bytes: usize, counted: usize, work: W) -> Self {
        Self { tensor, bytes, counted, content: Content::Made(work) }
    }

    /// What it is made from; `None` if it is written from the map.
    pub fn work(&self) -> Option<&W> {
        match &self.content {
            Content::Mapped(_) => None,
            Content::Made(work) => Some(work),
        }
    }
}

/// When a batch is full: whichever comes first. A batch has one piece at least.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the pieces that are made.
    pub made: usize,
    /// [`Piece::counted`] of all pieces.
    pub counted: usize,
}

/// What is made of the pieces.
pub trait Job: Sync {
    /// What a piece is made from.
    type Work: Send + Sync;
    /// What a thread keeps from piece to piece.
    type Scratch: Default + Send;
    /// What the pieces of a batch share, kept from batch to batch.
    type Shared: Default + Sync;
    /// Where the bytes go.
    type Output: Send;
    /// Why a piece cannot be made.
    type Error: From<Error> + Send;

    /// What tensor number `tensor` of the output is called in the progress; several may have one name.
    fn name(&self, tensor: usize) -> &str;

    /// Whether `next` may be made together with the pieces of a batch that begins with `first`.
    fn joins(&self, first: &Piece<'_, Self::Work>, next: &Piece<'_, Self::Work>) -> bool {
        let _ = (first, next);
        true
    }

    /// Prepares what the pieces of the batch that begins with `first` share. Everything before it is made.
    ///
    /// # Errors
    /// It cannot be prepared.
    fn share(&self, first: &Piece<'_, Self::Work>, shared: &mut Self::Shared) -> Result<(), Self::Error> {
        let _ = (first, shared);
        Ok(())
    }

    /// Makes the bytes of a piece of tensor number `tensor`; `out` has room for exactly them.
    ///
    /// # Errors
    /// The piece cannot be made.
    fn make(
        &self,
        tensor: usize,
        work: &Self::Work,
        shared: &Self::Shared,
        scratch: &mut Self::Scratch,
        out: &mut [u8],
    ) -> Result<(), Self::Error>;

    /// Gives back the source pages of the pieces from `first` to `last` of one tensor: they are made.
    fn release(&self, tensor: usize, first: &Self::Work, last: &Self::Work);

    /// Writes `data`, the bytes of consecutive pieces of one tensor, of which `last` is the last one.
    ///
    /// # Errors
    /// The output cannot be written.
    fn write(
        &self,
        output: &mut Self::Output,
        last: &Piece<'_, Self::Work>,
        data: &[u8],
    ) -> Result<(), Error>;
}
