//! Rotary embedding and how it is stretched beyond the trained context.
//!
//! Pair `i` of `dimensions / 2` turns by `position * theta^(-2i/dimensions) / factor_i`, where
//! `factor_i` is 1, one constant (linear), or one value per pair (Llama 3).

/// Rotary embedding's constants.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// Values of each head that are turned (even, at most `head_dim`).
    pub dimensions: usize,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
    /// What each pair's frequency is divided by, `dimensions / 2` values, finite and positive: computed from
    /// [`RopeScaling::Llama3`], or read from a GGUF file's `rope_freqs.weight` (where `scaling` is then
    /// [`RopeScaling::None`]). [`RopeScaling::Linear`] is not part of it.
    pub factors: Option<Vec<f32>>,
    /// Base of the frequencies in layers under a sliding window, where it differs (Gemma 3). No stretching
    /// there.
    pub local_theta: Option<f32>,
}

impl Rope {
    /// The divisors for long contexts and for short ones, where the scaling has both.
    pub fn long_factors(&self) -> Option<(&[f32], &[f32])> {
        match &self.scaling {
            RopeScaling::Long { long, short, .. } => Some((long, short)),
            _ => None,
        }
    }
}

/// How frequencies are stretched for contexts longer than the trained one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency is divided by `factor`.
    Linear {
        /// Divisor.
        factor: f32,
    },
    /// Llama 3.1: low frequencies are divided by `factor`, high ones kept, smoothed between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low` are low frequencies.
        low: f32,
        /// Wavelengths below `original_context / high` are high frequencies.
        high: f32,
        /// The context trained for at first.
        original_context: usize,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// Stretch of the context.
        factor: f32,
        /// The context trained for at first.
        original_context: usize,
        /// Multiplies the attention; `None` means `0.1 ln(factor) + 1`.
        attention_factor: Option<f32>,
        /// Rotations above which a dimension is not interpolated.
        beta_fast: f32,
        /// Rotations below which a dimension is fully interpolated.
        beta_slow: f32,
    },
    /// LongRoPE (arXiv 2402.13753), as Phi-3 has it: one divisor per pair, another set beyond the context trained
    /// for at first.
    Long {
        /// Divisors within `original_context`, `dimensions / 2` values.
        short: Vec<f32>,
        /// Divisors beyond.
        long: Vec<f32>,
        /// The context trained for at first.
        original_context: usize,
        /// Multiplies queries and keys; `None` means `sqrt(1 + ln(context / original) / ln(original))`.
        attention_factor: Option<f32>,
    },
}

impl RopeScaling {
    /// The divisor of each pair's frequency under Llama 3 scaling; `None` for the others.
    ///
    /// With wavelength `w = 2π / frequency` and `smooth = (original_context / w - low) / (high - low)`:
    /// 1 for short waves, `factor` for long ones, else `1 / ((1 - smooth) / factor + smooth)`.
    pub(crate) fn llama3_factors(&self, theta: f32, dimensions: usize) -> Option<Vec<f32>> {
        let &Self::Llama3 { factor, low, high, original_context } = self else { return None };
        let context = original_context as f32;
        let pairs = (0..dimensions / 2).map(|i| {
            let frequency = 1.0 / theta.powf((2 * i) as f32 / dimensions as f32);
            let wavelength = 2.0 * std::f32::consts::PI / frequency;
            if wavelength < context / high {
                1.0
            } else if wavelength > context / low {
                factor
            } else {
                let smooth = (context / wavelength - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        });
        Some(pairs.collect())
    }
}
