//! Percentiles of magnitudes, in one pass.
//!
//! Magnitudes are counted by the upper 16 bits of their f32, which are a bf16: 32640 counts, whatever the number of
//! values. A percentile is then exact to the 8 significant bits of a bf16 (0.8 %), rounded towards zero; of bf16 values
//! it is exact.

/// Patterns of the upper 16 bits that are finite and not negative.
const FINITE: usize = 0x7f80;

/// How many values have each magnitude.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Magnitudes(Vec<u64>);

impl Default for Magnitudes {
    fn default() -> Self {
        Self(vec![0; FINITE])
    }
}

impl Magnitudes {
    /// Counts finite values.
    pub fn record(&mut self, values: &[f32]) {
        for value in values {
            let pattern = (value.to_bits() >> 16) as usize & 0x7fff;
            if let Some(count) = self.0.get_mut(pattern) {
                *count += 1;
            }
        }
    }

    /// Adds the counts of other values.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(count, more)| *count += more);
    }

    /// The magnitudes that so many percent of the values do not exceed, for ascending `percents`.
    pub fn percentiles(&self, percents: &[f64]) -> Vec<f32> {
        let all: u64 = self.0.iter().sum();
        let mut counts = self.0.iter().enumerate();
        let (mut passed, mut pattern) = (0, 0);
        let of = |percent: &f64| {
            let rank = ((all as f64 * percent / 100.0).ceil() as u64).clamp(1, all.max(1));
            while passed < rank
                && let Some((next, count)) = counts.next()
            {
                (passed, pattern) = (passed + count, next);
            }
            f32::from_bits((pattern as u32) << 16)
        };
        if all == 0 { vec![0.0; percents.len()] } else { percents.iter().map(of).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_bf16_values_are_exact() {
        let mut all = Magnitudes::default();
        let values: Vec<f32> = (1..=100).map(|i| if i % 2 == 0 { i as f32 } else { -(i as f32) }).collect();
        values.chunks(9).for_each(|piece| all.record(piece));
        assert_eq!(all.percentiles(&[1.0, 50.0, 99.0, 99.9, 100.0]), [1.0, 50.0, 99.0, 100.0, 100.0]);
        assert_eq!(Magnitudes::default().percentiles(&[50.0]), [0.0]);
    }

    #[test]
    fn others_are_rounded_towards_zero() {
        let mut all = Magnitudes::default();
        all.record(&[0.3, -0.3, 0.3]);
        let half = all.percentiles(&[50.0])[0];
        assert!(half <= 0.3 && half > 0.3 * (1.0 - 1.0 / 128.0), "{half}");
    }
}
