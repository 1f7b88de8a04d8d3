//! Rotary embedding and how it is scaled beyond the trained context.
//!
//! Pair `i` of `dimensions / 2` is rotated by `position * theta^(-2i/dimensions) / factor_i`, where
//! `factor_i` is 1, one constant (linear), or one value per pair (Llama 3).

/// Rotary embedding's constants.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// Values of each head that are rotated (even, at most `head_dim`).
    pub dimensions: usize,
    /// How the frequencies are scaled.
    pub scaling: RopeScaling,
    /// What each pair's frequency is divided by, `dimensions / 2` values, finite and positive: computed from
    /// [`RopeScaling::Llama3`], or read from a GGUF file's `rope_freqs.weight` (where `scaling` is then
    /// [`RopeScaling::None`]). [`RopeScaling::Linear`] is not part of it.
    pub factors: Option<Vec<f32>>,
    /// Base of the frequencies in layers under a sliding window, where it differs (Gemma 3). There is no scaling
    /// in these layers.
    pub local_theta: Option<f32>,
}

impl Rope {
    /// The divisors for long contexts and for short ones, where the scaling has both.
    pub fn long_factors(&self) -> Option<(&[f32], &[f32])> {
        match &self.scaling {
            RopeScaling::Long { long, short, .. } => Some((long, short)),
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Dynamic { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::Yarn { .. } => None,
        }
    }
}

/// How frequencies are scaled for contexts longer than the trained one.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency is divided by `factor`.
    Linear {
        /// Divisor.
        factor: f32,
    },
    /// NTK scaling by the length of the text: within the trained context not at all, beyond it the base grows with
    /// the length. quern runs no text beyond the trained context, so this computes what [`RopeScaling::None`]
    /// does.
    Dynamic {
        /// The factor by which the context is extended.
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
        /// The factor by which the context is extended.
        factor: f32,
        /// The context trained for at first.
        original_context: usize,
        /// Multiplies queries and keys, where the files give it or the constants it follows from (`mscale`);
        /// `None` means `0.1 ln(factor) + 1`.
        attention_factor: Option<f32>,
        /// Rotations above which a dimension is not interpolated.
        beta_fast: f32,
        /// Rotations below which a dimension is fully interpolated.
        beta_slow: f32,
        /// The bounds between which dimensions are interpolated in part are rounded to whole pairs.
        truncate: bool,
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

/// YaRN's `0.1 * mscale * ln(factor) + 1`, 1 for a factor of at most 1.
pub(crate) fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// LongRoPE's `sqrt(1 + ln(factor) / ln(original))`, 1 for a factor of at most 1.
pub(crate) fn long_mscale(factor: f64, original: f64) -> f64 {
    if factor > 1.0 && original > 1.0 { (1.0 + factor.ln() / original.ln()).sqrt() } else { 1.0 }
}

impl RopeScaling {
    /// What queries and keys are multiplied with after rotation, in a model of this context length.
    pub fn attention_factor(&self, context_length: usize) -> f64 {
        match *self {
            Self::None | Self::Linear { .. } | Self::Dynamic { .. } | Self::Llama3 { .. } => 1.0,
            Self::Yarn { factor, attention_factor, .. } => {
                attention_factor.map_or_else(|| yarn_mscale(factor.into(), 1.0), f64::from)
            }
            Self::Long { original_context, attention_factor, .. } => {
                let original = original_context as f64;
                attention_factor
                    .map_or_else(|| long_mscale(context_length as f64 / original, original), f64::from)
            }
        }
    }

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
            } else if wavelength > context / low || low == high {
                factor
            } else {
                let smooth = (context / wavelength - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        });
        Some(pairs.collect())
    }
}
