//! Vectors and parameters in a card's memory.

use std::ops::Range;
use std::sync::Arc;

use super::{Card, CudaResult, Memory, Pointer};
use crate::{Error, Result};

/// Memory for f32 vectors between operations. Grows only.
#[derive(Debug)]
pub struct Buffer {
    card: Card,
    memory: Option<Memory>,
    length: usize,
}

impl Buffer {
    /// An empty one.
    pub fn empty(card: &Card) -> Self {
        Self { card: card.clone(), memory: None, length: 0 }
    }

    /// Makes room for `length` values; what it held is lost if it must grow.
    ///
    /// # Errors
    /// The card has too little memory.
    pub fn reserve(&mut self, length: usize) -> Result<()> {
        if self.length < length {
            // The old one goes first: both together may not fit.
            self.memory = None;
            self.length = 0;
            self.memory = Some(Memory::new(&self.card, 4 * length)?);
            self.length = length;
        }
        Ok(())
    }

    /// Its values.
    pub fn values(&self) -> Values<'_> {
        Values { memory: self.memory.as_ref(), start: 0, length: self.length }
    }
}

/// Some f32 values of a [`Buffer`].
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    memory: Option<&'a Memory>,
    start: usize,
    length: usize,
}

impl<'a> Values<'a> {
    /// The first values of an allocation that has as many.
    pub(super) fn of(memory: &'a Memory, length: usize) -> Self {
        debug_assert!(4 * length <= memory.bytes());
        Self { memory: Some(memory), start: 0, length }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Some of them.
    ///
    /// # Panics
    /// If the range ends beyond them.
    pub fn slice(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.length, "{range:?} of {} values", self.length);
        Self { start: self.start + range.start, length: range.len(), ..self }
    }

    /// Address of the first.
    pub fn pointer(&self) -> Pointer {
        self.memory.map_or(Pointer::NULL, |memory| memory.pointer().at(4 * self.start))
    }

    /// The memory they are in, and the offset in bytes of the first.
    pub(super) fn place(&self) -> Option<(&'a Memory, usize)> {
        self.memory.map(|memory| (memory, 4 * self.start))
    }
}

/// Parameters of a model: some bytes of an allocation that others share.
#[derive(Clone, Debug)]
pub struct Region {
    memory: Arc<Memory>,
    offset: usize,
    bytes: usize,
}

impl Region {
    /// The whole of an allocation.
    pub(super) fn whole(memory: Arc<Memory>) -> Self {
        let bytes = memory.bytes();
        Self { memory, offset: 0, bytes }
    }

    /// Some of its bytes.
    ///
    /// # Errors
    /// The range ends beyond it.
    pub(super) fn part(&self, range: Range<usize>) -> CudaResult<Self> {
        self.memory.range(self.offset + range.start, range.len())?;
        Ok(Self { memory: self.memory.clone(), offset: self.offset + range.start, bytes: range.len() })
    }

    /// Address of the first byte.
    pub fn pointer(&self) -> Pointer {
        self.memory.pointer().at(self.offset)
    }

    /// Number of bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The allocation, and the offset of the first byte.
    pub(super) fn place(&self) -> (&Memory, usize) {
        (&self.memory, self.offset)
    }

    /// The card that it is on.
    pub(super) fn card(&self) -> &Card {
        self.memory.card()
    }

    /// Refuses parameters of another card.
    pub(super) fn on(&self, card: &Card) -> Result<&Self> {
        if self.memory.card() == card { Ok(self) } else { Err(Error::Device) }
    }
}
