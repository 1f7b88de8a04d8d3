//! Measures what is read and moved of layers that are not on GPUs.

use std::time::{Duration, Instant};

use super::report::{Source, Transfer};

/// Weights read for single tokens by the CPU, and moved to GPUs for batches.
#[derive(Debug)]
pub(super) struct Traffic {
    /// When the current unit was entered, by how many tokens.
    entered: Option<(Instant, usize)>,
    /// How often a token read each unit.
    reads: Vec<usize>,
    /// Bytes read and the time it took, of units in RAM and of those in the file.
    ram: (u64, Duration),
    disk: (u64, Duration),
    /// Bytes moved to a GPU, the time it took, and for how many tokens.
    moved: (u64, Duration, usize),
}

impl Traffic {
    /// For so many units.
    pub fn new(units: usize) -> Self {
        let nothing = (0, Duration::ZERO);
        Self {
            entered: None,
            reads: vec![0; units],
            ram: nothing,
            disk: nothing,
            moved: (0, Duration::ZERO, 0),
        }
    }

    /// A unit is about to be used by `tokens` tokens.
    pub fn enter(&mut self, tokens: usize) {
        self.entered = Some((Instant::now(), tokens));
    }

    /// The unit was used: one token reads `bytes` of it, from the file if it is `on_disk`.
    pub fn leave(&mut self, unit: usize, bytes: u64, on_disk: bool) {
        if let Some((since, 1)) = self.entered.take().filter(|_| bytes > 0) {
            let read = if on_disk { &mut self.disk } else { &mut self.ram };
            *read = (read.0 + bytes, read.1 + since.elapsed());
            self.reads[unit] += 1;
        }
    }

    /// Weights were moved to a GPU for this many tokens.
    pub fn moved(&mut self, bytes: u64, time: Duration, tokens: usize) {
        self.moved = (self.moved.0 + bytes, self.moved.1 + time, self.moved.2 + tokens);
    }

    /// All of it, per token. What the CPU reads from RAM is left out unless a GPU takes part (`split`).
    pub fn transfers(&self, split: bool) -> Vec<Transfer> {
        let tokens = self.reads.iter().copied().max().unwrap_or(0);
        let read = |from, (bytes, time): (u64, Duration)| {
            (bytes > 0).then(|| Transfer::measured(from, bytes, time, time, tokens))
        };
        let (bytes, time, count) = self.moved;
        let moved = (bytes > 0).then(|| Transfer::measured(Source::Ram, bytes, time, time, count));
        let ram = if split { read(Source::Cpu, self.ram) } else { None };
        [ram, moved, read(Source::Disk, self.disk)].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_per_token_and_by_source() {
        let mut traffic = Traffic::new(3);
        for _ in 0..4 {
            for (unit, bytes, on_disk) in [(0, 100, false), (1, 50, true), (2, 0, false)] {
                traffic.enter(1);
                traffic.leave(unit, bytes, on_disk);
            }
        }
        // Batches are not counted with the tokens.
        traffic.enter(7);
        traffic.leave(0, 100, false);
        traffic.moved(700, Duration::from_millis(10), 7);
        let all = traffic.transfers(true);
        let of = |from| all.iter().find(|t| t.from == from).map(|t| t.bytes_per_token);
        assert_eq!([Source::Cpu, Source::Disk, Source::Ram].map(of), [Some(100), Some(50), Some(100)]);
        assert_eq!(traffic.transfers(false).len(), 2);
        assert!(Traffic::new(3).transfers(true).is_empty());
    }
}
