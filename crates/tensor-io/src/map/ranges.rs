//! The addresses of all maps, for the handler of SIGBUS.
//!
//! A signal comes at any moment, also while this thread or another holds a lock or enters a range, so the handler reads
//! nothing but atomic numbers:
//!
//! ```text
//! CHUNK ──> 64 slots ──next──> 64 slots ──next──> …     grows, never shrinks; a slot is used again
//! slot      taken, version, start, end, lost
//! ```
//!
//! A slot is written by the one map that has taken it: the version is odd meanwhile. A reader that finds it odd, or
//! changed after it has read both ends, ignores the slot: it is not the slot of the map whose access failed, which
//! was entered before its first byte was read and stays until nobody can read it any more.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

const SLOTS: usize = 64;

#[derive(Debug)]
struct Slot {
    taken: AtomicBool,
    version: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    lost: AtomicBool,
}

#[derive(Debug)]
struct Chunk {
    slots: [Slot; SLOTS],
    next: OnceLock<Box<Chunk>>,
}

static CHUNK: Chunk = Chunk::new();

impl Slot {
    const fn new() -> Self {
        Self {
            taken: AtomicBool::new(false),
            version: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        }
    }

    /// Whether it was free, and is now the caller's.
    fn take(&self) -> bool {
        self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Writes both ends; only for the one that has taken it.
    fn write(&self, range: &Range<usize>) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(range.start, Ordering::Relaxed);
        self.end.store(range.end, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// Both ends; nothing while they are written.
    fn read(&self) -> Option<Range<usize>> {
        let version = self.version.load(Ordering::Acquire);
        let range = self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        (version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version).then_some(range)
    }
}

impl Chunk {
    const fn new() -> Self {
        Self { slots: [const { Slot::new() }; SLOTS], next: OnceLock::new() }
    }
}

/// Addresses that are entered as long as it exists.
#[derive(Debug)]
pub(super) struct Entered(&'static Slot);

impl Entered {
    /// Enters them: whole pages.
    pub fn new(range: &Range<usize>) -> Self {
        let mut chunk = &CHUNK;
        let slot = loop {
            if let Some(slot) = chunk.slots.iter().find(|slot| slot.take()) {
                break slot;
            }
            chunk = chunk.next.get_or_init(|| Box::new(Chunk::new()));
        };
        slot.lost.store(false, Ordering::Relaxed);
        slot.write(range);
        Self(slot)
    }

    /// Whether pages of it were lost.
    pub fn is_lost(&self) -> bool {
        self.0.lost.load(Ordering::Acquire)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.write(&(0..0));
        self.0.taken.store(false, Ordering::Release);
    }
}

/// The entered range that holds `address`, which is marked as lost. Made of atomic loads and a store: a signal handler
/// may call it.
pub(super) fn lose(address: usize) -> Option<Range<usize>> {
    let mut chunk = Some(&CHUNK);
    while let Some(Chunk { slots, next }) = chunk {
        for slot in slots {
            if let Some(range) = slot.read().filter(|range| range.contains(&address)) {
                slot.lost.store(true, Ordering::Release);
                return Some(range);
            }
        }
        chunk = next.get().map(|next| &**next);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses that no map has: these are made up, and never touched.
    const FAR: usize = usize::MAX / 2;

    #[test]
    fn ranges_are_found_as_long_as_they_are_entered() {
        let ranges = |i: usize| FAR + i * 0x2000..FAR + i * 0x2000 + 0x1000;
        // More than a chunk.
        let mut entered: Vec<_> = (0..3 * SLOTS).map(|i| Entered::new(&ranges(i))).collect();
        for (i, one) in entered.iter().enumerate().step_by(7) {
            assert!(!one.is_lost());
            assert_eq!(lose(ranges(i).start), Some(ranges(i)));
            assert!(one.is_lost());
            assert_eq!(lose(ranges(i).end - 1), Some(ranges(i)));
            assert_eq!(lose(ranges(i).end), None);
        }
        assert!(!entered[1].is_lost());
        drop(entered.swap_remove(0));
        assert_eq!(lose(ranges(0).start), None);
        let again = Entered::new(&ranges(0));
        assert!(!again.is_lost());
        assert_eq!(lose(ranges(0).start), Some(ranges(0)));
        drop(again);
        entered.clear();
        assert!((0..3 * SLOTS).all(|i| lose(ranges(i).start).is_none()));
    }

    #[test]
    fn a_slot_that_changes_is_never_read_half() {
        let far = FAR + (1 << 30);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..2usize {
                let stop = &stop;
                scope.spawn(move || {
                    let mut i = 0;
                    while !stop.load(Ordering::Relaxed) {
                        // Ranges of one page each, at addresses that grow: half of one and half of another is long.
                        let start = far + (thread * 1000 + i % 1000) * 0x10000;
                        drop(Entered::new(&(start..start + 0x1000)));
                        i += 1;
                    }
                });
            }
            let rounds = if cfg!(miri) { 20 } else { 20_000 };
            for i in 0..rounds {
                let address = far + (i % 2000) * 0x10000;
                if let Some(range) = lose(address) {
                    assert_eq!(range, address..address + 0x1000);
                }
                assert_eq!(lose(address + 0x8000), None);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
