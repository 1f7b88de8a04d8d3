//! Count, extremes and the first four moments of values, in one pass.
//!
//! Every piece of up to some thousand values is measured about its own mean, and pieces are joined by the formulas of
//! Chan et al. (1979) and Pébay (2008) for central moments. So nothing is lost where the mean is large beside the
//! spread, as in the weights of norms. Pieces must be joined in the order of the tensor: floating-point sums depend on
//! it, the number of threads must not.

/// Count, extremes and central moments of finite values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moments {
    /// Finite values.
    pub count: u64,
    /// Values that are NaN or infinite: they count nowhere else.
    pub not_finite: u64,
    /// Values that are exactly zero.
    pub zeros: u64,
    /// The smallest value; infinite while there is none.
    pub min: f32,
    /// The largest value; minus infinity while there is none.
    pub max: f32,
    /// Their mean.
    pub mean: f64,
    /// `Σ (v - mean)²`, and likewise the third and the fourth power.
    m2: f64,
    m3: f64,
    m4: f64,
}

impl Default for Moments {
    fn default() -> Self {
        Self {
            count: 0,
            not_finite: 0,
            zeros: 0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            mean: 0.0,
            m2: 0.0,
            m3: 0.0,
            m4: 0.0,
        }
    }
}

/// Sums are formed in so many lanes, which SIMD registers can hold.
const LANES: usize = 8;

impl Moments {
    /// Of values of which `not_finite` were left out before.
    pub fn of(values: &[f32], not_finite: u64) -> Self {
        if values.is_empty() {
            return Self { not_finite, ..Self::default() };
        }
        let (mut sums, mut min, mut max) =
            ([0.0f64; LANES], [f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let mut zeros = 0;
        for chunk in values.chunks(LANES) {
            for (lane, &value) in chunk.iter().enumerate() {
                sums[lane] += f64::from(value);
                min[lane] = if value < min[lane] { value } else { min[lane] };
                max[lane] = if value > max[lane] { value } else { max[lane] };
                zeros += u64::from(value == 0.0);
            }
        }
        let mean = sums.iter().sum::<f64>() / values.len() as f64;
        let (mut m2, mut m3, mut m4) = ([0.0f64; LANES], [0.0f64; LANES], [0.0f64; LANES]);
        for chunk in values.chunks(LANES) {
            for (lane, &value) in chunk.iter().enumerate() {
                let d = f64::from(value) - mean;
                let square = d * d;
                m2[lane] += square;
                m3[lane] += square * d;
                m4[lane] += square * square;
            }
        }
        Self {
            count: values.len() as u64,
            not_finite,
            zeros,
            min: min.into_iter().fold(f32::INFINITY, f32::min),
            max: max.into_iter().fold(f32::NEG_INFINITY, f32::max),
            mean,
            m2: m2.iter().sum(),
            m3: m3.iter().sum(),
            m4: m4.iter().sum(),
        }
    }

    /// Adds the values that follow.
    pub fn merge(&mut self, next: &Self) {
        let not_finite = self.not_finite + next.not_finite;
        if self.count == 0 || next.count == 0 {
            if self.count == 0 {
                *self = *next;
            }
            self.not_finite = not_finite;
            return;
        }
        let (a, b) = (self.count as f64, next.count as f64);
        let (n, d) = (a + b, next.mean - self.mean);
        let (d2, ab) = (d * d, a * b);
        let m4 = self.m4
            + next.m4
            + d2 * d2 * ab * (a * a - ab + b * b) / (n * n * n)
            + 6.0 * d2 * (a * a * next.m2 + b * b * self.m2) / (n * n)
            + 4.0 * d * (a * next.m3 - b * self.m3) / n;
        let m3 =
            self.m3 + next.m3 + d2 * d * ab * (a - b) / (n * n) + 3.0 * d * (a * next.m2 - b * self.m2) / n;
        *self = Self {
            count: self.count + next.count,
            not_finite,
            zeros: self.zeros + next.zeros,
            min: self.min.min(next.min),
            max: self.max.max(next.max),
            mean: self.mean + d * b / n,
            m2: self.m2 + next.m2 + d2 * ab / n,
            m3,
            m4,
        };
    }

    /// The standard deviation, of the values as the whole population.
    pub fn standard_deviation(&self) -> f64 {
        (self.m2 / self.count.max(1) as f64).sqrt()
    }

    /// The square root of the mean square.
    pub fn rms(&self) -> f64 {
        (self.m2 / self.count.max(1) as f64 + self.mean * self.mean).sqrt()
    }

    /// The fourth central moment over the squared variance: 3 for a normal distribution. `None` for values that are
    /// all equal.
    pub fn kurtosis(&self) -> Option<f64> {
        (self.m2 > 0.0).then(|| self.count as f64 * self.m4 / (self.m2 * self.m2)).filter(|k| k.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in two passes over everything.
    fn plain(values: &[f32]) -> (f64, f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let power = |p| values.iter().map(|&v| (f64::from(v) - mean).powi(p)).sum::<f64>() / n;
        (mean, power(2).sqrt(), power(4) / (power(2) * power(2)))
    }

    #[test]
    fn joined_pieces_have_the_moments_of_the_whole() {
        // Far from zero, skewed, in pieces of unequal lengths.
        let values: Vec<f32> = (0..1000u32).map(|i| 1e4 + (i * i % 97) as f32 * 0.25).collect();
        let mut joined = Moments::default();
        for piece in [&values[..3], &values[3..400], &[], &values[400..]] {
            joined.merge(&Moments::of(piece, 0));
        }
        let (mean, deviation, kurtosis) = plain(&values);
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs();
        assert!(near(joined.mean, mean) && near(joined.standard_deviation(), deviation), "{joined:?}");
        assert!(near(joined.kurtosis().unwrap(), kurtosis), "{:?} {kurtosis}", joined.kurtosis());
        assert_eq!((joined.count, joined.min, joined.max), (1000, 1e4, 1e4 + 24.0));
    }

    #[test]
    fn nothing_and_equal_values_have_no_kurtosis() {
        assert_eq!(Moments::default().kurtosis(), None);
        assert_eq!(Moments::of(&[2.0; 50], 0).kurtosis(), None);
        let mut all = Moments::of(&[], 3);
        all.merge(&Moments::of(&[0.0, 1.0], 1));
        assert_eq!((all.not_finite, all.zeros, all.rms()), (4, 1, 0.5f64.sqrt()));
    }
}
