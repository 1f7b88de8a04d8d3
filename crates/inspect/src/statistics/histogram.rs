//! A histogram in one pass over values whose range is not known beforehand.
//!
//! ```text
//! 4096 bins of equal width over [-2^e, 2^e), 0 is an edge
//! a value beyond them: e grows by one and neighbouring bins are added, until it fits
//! ```
//!
//! Edges of wider bins are edges of narrower ones, so the counts do not depend on the order of the values, and the
//! histograms of several tensors add up exactly.

/// Bins on either side of zero.
const HALF: i32 = 2048;
/// The smallest exponent: values below `2^-100` are all in the two bins beside zero.
const LOWEST: i32 = -100;

/// Counts of values in bins of equal width.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    exponent: i32,
    counts: Vec<u64>,
}

/// A histogram as it is drawn: some dozens of bins over the bulk of the values.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Bins {
    /// Where the first bin begins.
    pub start: f64,
    /// Width of each.
    pub width: f64,
    /// Values in each bin: its lower edge belongs to it.
    pub counts: Vec<u64>,
    /// Values below the first bin.
    pub below: u64,
    /// Values above the last one.
    pub above: u64,
}

impl Bins {
    /// Where bin `index` begins, and the one before ends.
    pub fn edge(&self, index: usize) -> f64 {
        self.start + self.width * index as f64
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { exponent: LOWEST, counts: vec![0; 2 * HALF as usize] }
    }
}

impl Histogram {
    /// Counts finite values, the largest magnitude of which is `largest`.
    pub(super) fn record(&mut self, values: &[f32], largest: f32) {
        self.grow(exponent_above(largest));
        // A power of two: the product is exact.
        let scale = 2f32.powi(11 - self.exponent);
        for &value in values {
            let bin = (value * scale).floor() as i32 + HALF;
            self.counts[bin.clamp(0, 2 * HALF - 1) as usize] += 1;
        }
    }

    /// Adds the counts of other values.
    pub(super) fn merge(&mut self, other: &Self) {
        self.grow(other.exponent);
        let shift = self.exponent - other.exponent;
        for (bin, &count) in (-HALF..HALF).zip(&other.counts).filter(|(_, count)| **count > 0) {
            self.counts[shifted(bin, shift)] += count;
        }
    }

    /// Widens the range to `2^exponent`.
    fn grow(&mut self, exponent: i32) {
        let shift = exponent - self.exponent;
        if shift <= 0 {
            return;
        }
        let mut counts = vec![0; self.counts.len()];
        for (bin, &count) in (-HALF..HALF).zip(&self.counts).filter(|(_, count)| **count > 0) {
            counts[shifted(bin, shift)] += count;
        }
        *self = Self { exponent, counts };
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// At most about `most` bins over the bulk of the values of all `histograms`, the same for each: all but one
    /// value in 2000 on either side, and a tenth as far again, are within them.
    pub fn bins(histograms: &[&Self], most: usize) -> Vec<Bins> {
        let mut all = Self::default();
        histograms.iter().for_each(|h| all.merge(h));
        let (low, high) = all.bulk();
        let step = ((high - low) as usize).div_ceil(most.max(1)).max(1) as i32;
        let (first, last) = (low.div_euclid(step), (high - 1).div_euclid(step));
        let width = 2f64.powi(all.exponent - 11);
        let of = |histogram: &&Self| {
            let mut widened = (*histogram).clone();
            widened.grow(all.exponent);
            let mut bins = Bins {
                start: (first * step) as f64 * width,
                width: step as f64 * width,
                counts: vec![0; (last - first + 1) as usize],
                below: 0,
                above: 0,
            };
            for (bin, &count) in (-HALF..HALF).zip(&widened.counts) {
                match bin.div_euclid(step) {
                    at if at < first => bins.below += count,
                    at if at > last => bins.above += count,
                    at => bins.counts[(at - first) as usize] += count,
                }
            }
            bins
        };
        histograms.iter().map(of).collect()
    }

    /// The bins, counted from zero, that hold the bulk of the values.
    fn bulk(&self) -> (i32, i32) {
        let occupied = |(_, count): &(i32, &u64)| **count > 0;
        let numbered = || (-HALF..HALF).zip(&self.counts);
        let Some((lowest, _)) = numbered().find(occupied) else { return (-1, 1) };
        let highest = numbered().rev().find(occupied).map_or(lowest, |(bin, _)| bin);
        let tail = self.count() / 2000;
        let (low, high) = (first_beyond(numbered(), tail), first_beyond(numbered().rev(), tail));
        let more = (high - low) / 10;
        ((low - more).max(lowest), (high + more).min(highest) + 1)
    }
}

/// The first bin up to which there are more than `tail` values.
fn first_beyond<'c>(mut bins: impl Iterator<Item = (i32, &'c u64)>, tail: u64) -> i32 {
    let mut passed = 0;
    let found = bins.find(|(_, count)| {
        passed += **count;
        passed > tail
    });
    found.map_or(0, |(bin, _)| bin)
}

/// The place of a bin, counted from zero, where `2^shift` of them are one.
fn shifted(bin: i32, shift: i32) -> usize {
    ((bin >> shift.min(31)) + HALF) as usize
}

/// The smallest exponent of which the power of two is above `largest`.
fn exponent_above(largest: f32) -> i32 {
    let biased = (largest.abs().to_bits() >> 23) as i32;
    (biased - 126).max(LOWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(values: &[f32]) -> Histogram {
        let mut all = Histogram::default();
        for piece in values.chunks(7) {
            all.record(piece, piece.iter().fold(0.0, |m, v| m.max(v.abs())));
        }
        all
    }

    #[test]
    fn the_order_of_values_does_not_matter_and_every_value_is_in_its_bin() {
        let values: Vec<f32> = (0..500u32).map(|i| ((i * 7919 % 1009) as f32 - 500.0) * 0.01).collect();
        let backwards: Vec<f32> = values.iter().rev().copied().collect();
        let all = recorded(&values);
        assert_eq!(all, recorded(&backwards));
        let bins = Histogram::bins(&[&all], 40).remove(0);
        assert!(bins.counts.len() <= 42, "{}", bins.counts.len());
        for (index, &count) in bins.counts.iter().enumerate() {
            let within = |v: &&f32| (bins.edge(index)..bins.edge(index + 1)).contains(&f64::from(**v));
            assert_eq!(values.iter().filter(within).count() as u64, count, "bin {index}");
        }
        assert_eq!(bins.counts.iter().sum::<u64>() + bins.below + bins.above, 500);
    }

    #[test]
    fn powers_of_two_and_the_largest_numbers_have_bins() {
        let values = [1.0, -1.0, 0.5, f32::MAX, f32::MIN, 1e-45, -1e-45, 0.0];
        let all = recorded(&values);
        assert_eq!(all.count(), 8);
        let narrow = recorded(&[1.0, -1.0]);
        let bins = Histogram::bins(&[&narrow], 64).remove(0);
        assert_eq!((bins.below, bins.above, bins.counts.iter().sum::<u64>()), (0, 0, 2));
        assert!(bins.start <= -1.0 && bins.edge(bins.counts.len()) > 1.0, "{bins:?}");
    }

    #[test]
    fn two_histograms_are_drawn_over_the_same_bins() {
        let (small, large) = (recorded(&[0.1, 0.2, -0.1]), recorded(&[3.0, -5.0, 0.1]));
        let bins = Histogram::bins(&[&small, &large], 50);
        assert_eq!((bins[0].start, bins[0].width), (bins[1].start, bins[1].width));
        assert_eq!(bins[0].counts.len(), bins[1].counts.len());
        assert_eq!(bins[0].counts.iter().sum::<u64>(), 3);
        assert_eq!(Histogram::bins(&[&Histogram::default()], 10)[0].counts.iter().sum::<u64>(), 0);
    }
}
