//! Which of several GPUs holds which of consecutive units.
//!
//! Every boundary between two GPUs costs a transfer per token, and only one GPU works at a time: so one GPU holds all
//! units where one can, and otherwise as few as can. Each then holds consecutive units, in the order of the GPUs,
//! so that all are filled to about the same share of their memory.

use std::ops::Range;

/// Shares of memory are tried in steps of one in this many.
const STEPS: u64 = 4096;

/// The memory of some GPUs, and what is needed beside the units.
pub(super) struct Rooms<'a> {
    /// Bytes that may be used on each.
    pub rooms: &'a [u64],
    /// Bytes that every GPU in use needs beside its units.
    pub each: u64,
    /// Bytes that the first GPU in use needs besides.
    pub first: u64,
}

impl Rooms<'_> {
    /// The GPUs in use, each with its units (of these sizes in bytes); `None` if they do not fit.
    pub fn spread(&self, units: &[u64]) -> Option<Vec<(usize, Range<usize>)>> {
        if units.is_empty() {
            return Some(Vec::new());
        }
        let all =
            units.iter().fold(self.each.saturating_add(self.first), |sum, &unit| sum.saturating_add(unit));
        if let Some(gpu) = self.rooms.iter().position(|&room| all <= room) {
            return Some(vec![(gpu, 0..units.len())]);
        }
        let mut by_room: Vec<usize> = (0..self.rooms.len()).collect();
        by_room.sort_by_key(|&gpu| std::cmp::Reverse(self.rooms[gpu]));
        (2..=self.rooms.len()).find_map(|count| {
            let mut gpus = by_room[..count].to_vec();
            gpus.sort_unstable();
            self.evenly(units, &gpus)
        })
    }

    /// The units over these GPUs, so that the fullest is as empty as can be.
    fn evenly(&self, units: &[u64], gpus: &[usize]) -> Option<Vec<(usize, Range<usize>)>> {
        self.filled(units, gpus, STEPS)?;
        // What fits into a share of all memories fits into any larger one.
        let (mut too_little, mut enough) = (0, STEPS);
        while enough - too_little > 1 {
            let share = too_little.midpoint(enough);
            match self.filled(units, gpus, share) {
                Some(_) => enough = share,
                None => too_little = share,
            }
        }
        self.filled(units, gpus, enough)
    }

    /// The units over these GPUs, each filled one after the other up to a share of its memory.
    fn filled(&self, units: &[u64], gpus: &[usize], share: u64) -> Option<Vec<(usize, Range<usize>)>> {
        let mut ranges = Vec::new();
        let mut next = 0;
        for &gpu in gpus {
            let room = (u128::from(self.rooms[gpu]) * u128::from(share) / u128::from(STEPS)) as u64;
            let beside = if ranges.is_empty() { self.each.saturating_add(self.first) } else { self.each };
            let mut left = room.saturating_sub(beside);
            let start = next;
            while let Some(&unit) = units.get(next).filter(|&&unit| unit <= left) {
                left -= unit;
                next += 1;
            }
            if next > start {
                ranges.push((gpu, start..next));
            }
        }
        (next == units.len()).then_some(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(units: &[u64], rooms: &[u64], each: u64, first: u64) -> Option<Vec<(usize, Range<usize>)>> {
        Rooms { rooms, each, first }.spread(units)
    }

    #[test]
    fn one_gpu_where_one_can_hold_all() {
        assert_eq!(spread(&[10; 8], &[50, 90, 100], 5, 5), Some(vec![(1, 0..8)]));
        assert_eq!(spread(&[10; 8], &[80], 0, 0), Some(vec![(0, 0..8)]));
        assert_eq!(spread(&[10; 8], &[80], 1, 0), None);
        assert_eq!(spread(&[10; 8], &[80], 0, 1), None);
        assert_eq!(spread(&[], &[], 7, 7), Some(vec![]));
        assert_eq!(spread(&[1], &[], 0, 0), None);
    }

    #[test]
    fn as_few_gpus_as_can_filled_evenly() {
        assert_eq!(spread(&[10; 8], &[60, 60], 0, 0), Some(vec![(0, 0..4), (1, 4..8)]));
        assert_eq!(spread(&[10; 9], &[30, 60, 60], 0, 0), Some(vec![(1, 0..5), (2, 5..9)]), "two largest");
        // In proportion to the memory: 2 to 1.
        assert_eq!(spread(&[10; 9], &[80, 40], 0, 0), Some(vec![(0, 0..6), (1, 6..9)]));
        // What every GPU needs, and what only the first needs.
        assert_eq!(spread(&[10; 8], &[60, 60], 5, 20), Some(vec![(0, 0..3), (1, 3..8)]));
        assert_eq!(spread(&[10; 8], &[45, 45], 6, 0), None);
        assert_eq!(spread(&[10; 9], &[30, 30, 30], 0, 0).map(|ranges| ranges.len()), Some(3));
        assert_eq!(spread(&[10; 10], &[30, 30, 30], 0, 0), None);
    }

    #[test]
    fn units_of_different_sizes_stay_in_order() {
        let units = [1, 1, 1, 1, 20];
        assert_eq!(spread(&units, &[10, 21], 0, 0), Some(vec![(0, 0..4), (1, 4..5)]));
        assert_eq!(spread(&units, &[21, 10], 0, 0), None, "the large one is last");
        let total = |range: &Range<usize>| units[range.clone()].iter().sum::<u64>();
        for room in 1..40u64 {
            for (gpu, range) in spread(&units, &[room, 22], 0, 0).unwrap_or_default() {
                assert!(total(&range) <= [room, 22][gpu], "room {room}: {range:?}");
            }
        }
    }
}
