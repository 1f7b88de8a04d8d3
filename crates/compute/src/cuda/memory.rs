//! Memory of a card, and page-locked memory of the host.

use std::ops::{Deref, DerefMut};

use super::card::Card;
use super::driver;
use super::error::{CudaError, CudaResult, MemoryError};

/// An address in a card's memory, as kernels take it; no more than a number to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Pointer(u64);

impl Pointer {
    /// The null pointer, which kernels take for an argument that is left out.
    pub const NULL: Self = Self(0);

    /// The address `bytes` further on.
    #[must_use]
    pub fn at(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes as u64))
    }

    /// The address `bytes` before.
    #[must_use]
    pub fn before(self, bytes: usize) -> Self {
        Self(self.0.wrapping_sub(bytes as u64))
    }

    /// The address as a number.
    pub fn address(self) -> u64 {
        self.0
    }
}

/// An allocation in a card's memory, aligned to at least 256 bytes; freed when it is dropped, after the work on the card
/// that was queued before.
#[derive(Debug)]
pub struct Memory {
    card: Card,
    pointer: Pointer,
    bytes: usize,
}

impl Memory {
    /// Allocates memory; its contents are whatever was there.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Card`] with the amounts if the card has too little; or the card is lost.
    pub fn new(card: &Card, bytes: usize) -> CudaResult<Self> {
        card.enter()?;
        let mut address = 0;
        // An allocation of no bytes would be refused.
        // SAFETY: `address` is writable; the context is current.
        match unsafe { (card.driver().cuMemAlloc_v2)(&raw mut address, bytes.max(1)) } {
            driver::OUT_OF_MEMORY => {
                let (free, total) = card.free_and_total()?;
                Err(MemoryError::Card { card: card.card_name(), asked: bytes as u64, free, total }.into())
            }
            code => {
                card.check(code, "cuMemAlloc")?;
                card.count_allocated(bytes as u64);
                Ok(Self { card: card.clone(), pointer: Pointer(address), bytes })
            }
        }
    }

    /// Address of the first byte.
    pub fn pointer(&self) -> Pointer {
        self.pointer
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The card it is on.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Address of `bytes` bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// They are not all within the allocation.
    pub fn range(&self, offset: usize, bytes: usize) -> CudaResult<Pointer> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(self.pointer.at(offset)),
            _ => {
                let (card, size) = (self.card.card_name(), self.bytes);
                Err(CudaError::Bounds { card, offset, bytes, size })
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.card.count_freed(self.bytes as u64);
        if self.card.enter().is_ok() {
            // A fault of earlier work may show here; it is remembered for the next call that can report it.
            // SAFETY: this allocation was not freed yet; `cuMemFree` waits for work that uses it.
            let code = unsafe { (self.card.driver().cuMemFree_v2)(self.pointer.0) };
            let _ = self.card.check(code, "cuMemFree");
        }
    }
}

/// Page-locked memory of the host, which the card reads and writes at the full rate of its bus while the host goes on;
/// aligned to a page.
#[derive(Debug)]
pub struct Pinned {
    card: Card,
    start: std::ptr::NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns its bytes, as a `Box<[u8]>` would.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Allocates page-locked memory that all cards can use; zeroed.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Pinned`] if there is too little RAM; or the card is lost.
    pub fn new(card: &Card, bytes: usize) -> CudaResult<Self> {
        card.enter()?;
        let mut start = std::ptr::null_mut();
        // 1 is CU_MEMHOSTALLOC_PORTABLE: page-locked for the contexts of all cards.
        // SAFETY: `start` is writable; the context is current.
        match unsafe { (card.driver().cuMemHostAlloc)(&raw mut start, bytes.max(1), 1) } {
            driver::OUT_OF_MEMORY => {}
            code => card.check(code, "cuMemHostAlloc")?,
        }
        let Some(start) = std::ptr::NonNull::new(start.cast::<u8>()) else {
            return Err(MemoryError::Pinned { card: card.card_name(), asked: bytes as u64 }.into());
        };
        // SAFETY: the driver allocated this many bytes.
        unsafe { start.write_bytes(0, bytes.max(1)) };
        Ok(Self { card: card.clone(), start, bytes })
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: allocated with this length and written in `new`; whoever queues a copy into it promises not to look
        // before the copy is done.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.card.enter().is_ok() {
            // SAFETY: allocated by `cuMemHostAlloc` and not freed yet; copies that use it are done, as whoever queued
            // them promised.
            let code = unsafe { (self.card.driver().cuMemFreeHost)(self.start.as_ptr().cast()) };
            let _ = self.card.check(code, "cuMemFreeHost");
        }
    }
}
