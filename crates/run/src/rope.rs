//! Angles of rotary embedding: the cosines and sines that all layers of one pass share.
//!
//! Pair `i` of `d/2` at position `p` is rotated by `p * theta^(-2i/d) / factor_i` (Su et al., arXiv 2104.09864).
//! Linear and Llama 3 scaling only change the factors; YaRN (arXiv 2309.00071) blends the stretched and
//! the plain frequency by a ramp over the pairs and lengthens the vectors by one constant.

use quern_model::{Config, Rope, RopeScaling};

/// How a model rotates queries and keys: one set of frequencies for all its layers, or several.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    global: Angles,
    /// Of the layers under a sliding window, where they have a base of their own (Gemma 3).
    local: Option<Angles>,
    /// In place of `global` once positions pass the first number (LongRoPE).
    long: Option<(usize, Angles)>,
}

/// Cosines and sines of one batch, `[tokens][pairs]`.
#[derive(Debug, Default)]
pub(crate) struct RotaryAngles {
    global: (Vec<f32>, Vec<f32>),
    local: (Vec<f32>, Vec<f32>),
    has_local: bool,
}

impl Rotation {
    /// The frequencies of a model.
    pub(crate) fn new(config: &Config) -> Self {
        let rope = &config.rope;
        let plain = |theta| Rope {
            theta,
            scaling: RopeScaling::None,
            factors: None,
            local_theta: None,
            dimensions: rope.dimensions,
        };
        let long = match &rope.scaling {
            RopeScaling::Long { long, original_context, .. } => {
                Some((*original_context, Angles::stretched(rope, long, config.context_length)))
            }
            _ => None,
        };
        let global = match &rope.scaling {
            RopeScaling::Long { short, .. } => Angles::stretched(rope, short, config.context_length),
            _ => Angles::new(rope),
        };
        Self { global, local: rope.local_theta.map(|theta| Angles::new(&plain(theta))), long }
    }

    /// Pairs per head.
    pub(crate) fn pairs(&self) -> usize {
        self.global.pairs()
    }

    /// Writes the cosines and sines of `count` positions from `first` on.
    pub(crate) fn fill(&self, first: usize, count: usize, angles: &mut RotaryAngles) {
        let global = match &self.long {
            // As transformers has it: by how far the text has come, whatever stands in the cache already.
            Some((original, long)) if first + count > *original => long,
            _ => &self.global,
        };
        global.fill(first, count, &mut angles.global.0, &mut angles.global.1);
        angles.has_local = self.local.is_some();
        if let Some(local) = &self.local {
            local.fill(first, count, &mut angles.local.0, &mut angles.local.1);
        }
    }
}

impl RotaryAngles {
    /// Cosines and sines for a layer; `windowed` if a sliding window limits it.
    pub(crate) fn of(&self, windowed: bool) -> (&[f32], &[f32]) {
        let (cos, sin) = if windowed && self.has_local { &self.local } else { &self.global };
        (cos, sin)
    }
}

/// One set of frequencies.
#[derive(Clone, Debug)]
struct Angles {
    /// Radians per position, one for each pair. In f64: at position 100 000 an f32 product is off by 0.01.
    frequencies: Vec<f64>,
    /// Multiplies cosines and sines (YaRN's attention factor, else 1).
    scale: f64,
}

impl Angles {
    /// The frequencies of `rope`; of LongRoPE's without its factors.
    fn new(rope: &Rope) -> Self {
        let (d, theta) = (rope.dimensions, f64::from(rope.theta));
        let mut frequencies: Vec<f64> =
            (0..d / 2).map(|i| theta.powf(-((2 * i) as f64) / d as f64)).collect();
        let mut scale = 1.0;
        match &rope.scaling {
            // Llama 3's divisors are in `factors`.
            RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Long { .. } => {}
            RopeScaling::Linear { factor } => {
                frequencies.iter_mut().for_each(|f| *f /= f64::from(*factor));
            }
            &RopeScaling::Yarn { factor, original_context, attention_factor, beta_fast, beta_slow } => {
                // The (fractional) pair that makes `turns` rotations over the original context.
                let pair = |turns: f32| {
                    let wavelengths = original_context as f64 / (f64::from(turns) * std::f64::consts::TAU);
                    d as f64 * wavelengths.ln() / (2.0 * theta.ln())
                };
                let low = pair(beta_fast).floor().max(0.0);
                let high = pair(beta_slow).ceil().min(d as f64 - 1.0);
                // A ramp of no width would divide by zero; HF and llama.cpp widen it by a thousandth.
                let width = if high > low { high - low } else { 0.001 };
                for (i, frequency) in frequencies.iter_mut().enumerate() {
                    let stretched = ((i as f64 - low) / width).clamp(0.0, 1.0);
                    *frequency *= (1.0 - stretched) + stretched / f64::from(factor);
                }
                scale = attention_factor.map_or_else(|| 0.1 * f64::from(factor).ln() + 1.0, f64::from);
            }
            // A kind of scaling that the model crate reads and this does not know.
            other => debug_assert!(false, "{other:?}"),
        }
        if let Some(factors) = &rope.factors {
            frequencies.iter_mut().zip(factors).for_each(|(f, &by)| *f /= f64::from(by));
        }
        Self { frequencies, scale }
    }

    /// LongRoPE's, with one of its sets of factors.
    fn stretched(rope: &Rope, factors: &[f32], context: usize) -> Self {
        let mut angles = Self::new(rope);
        angles.frequencies.iter_mut().zip(factors).for_each(|(f, &by)| *f /= f64::from(by));
        if let RopeScaling::Long { original_context, attention_factor, .. } = rope.scaling {
            let (context, original) = (context as f64, original_context as f64);
            angles.scale = match attention_factor {
                Some(factor) => factor.into(),
                None if context > original && original > 1.0 => {
                    (1.0 + (context / original).ln() / original.ln()).sqrt()
                }
                None => 1.0,
            };
        }
        angles
    }

    /// Pairs per head.
    fn pairs(&self) -> usize {
        self.frequencies.len()
    }

    /// Writes the cosines and sines of `count` positions from `first` on: `count` rows of
    /// [`Self::pairs`] values each.
    fn fill(&self, first: usize, count: usize, cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
        cos.clear();
        sin.clear();
        for position in first..first + count {
            for frequency in &self.frequencies {
                let (s, c) = (position as f64 * frequency).sin_cos();
                cos.push((c * self.scale) as f32);
                sin.push((s * self.scale) as f32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling, factors: Option<Vec<f32>>) -> Rope {
        Rope { theta: 10_000.0, dimensions: 64, scaling, factors, local_theta: None }
    }

    fn row(rope: &Rope, position: usize) -> (Vec<f32>, Vec<f32>) {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        Angles::new(rope).fill(position, 1, &mut cos, &mut sin);
        (cos, sin)
    }

    #[test]
    fn plain_angles_are_the_papers() {
        let (cos, sin) = row(&rope(RopeScaling::None, None), 7);
        assert_eq!(cos.len(), 32);
        for i in [0usize, 1, 15, 31] {
            let angle = 7.0 * 10_000f64.powf(-(i as f64) / 32.0);
            assert!((f64::from(cos[i]) - angle.cos()).abs() < 1e-7);
            assert!((f64::from(sin[i]) - angle.sin()).abs() < 1e-7);
        }
    }

    #[test]
    fn linear_scaling_slows_positions_and_factors_divide() {
        let plain = row(&rope(RopeScaling::None, None), 5);
        assert_eq!(row(&rope(RopeScaling::Linear { factor: 4.0 }, None), 20), plain);
        assert_eq!(row(&rope(RopeScaling::None, Some(vec![4.0; 32])), 20), plain);
    }

    #[test]
    fn yarn_keeps_fast_pairs_stretches_slow_ones_and_lengthens() {
        let yarn = RopeScaling::Yarn {
            factor: 8.0,
            original_context: 2048,
            attention_factor: None,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        let angles = Angles::new(&rope(yarn, None));
        let plain = Angles::new(&rope(RopeScaling::None, None));
        assert_eq!(angles.frequencies[0], plain.frequencies[0]);
        assert!((angles.frequencies[31] * 8.0 / plain.frequencies[31] - 1.0).abs() < 1e-12);
        // d ln(L / (turns 2 pi)) / (2 ln theta): pairs 8.06 and 20.10, so the ramp runs from 8 to 21.
        let stretched = (14.0 - 8.0) / 13.0;
        let expected = plain.frequencies[14] * (1.0 - stretched + stretched / 8.0);
        assert!((angles.frequencies[14] / expected - 1.0).abs() < 1e-12);
        assert!((angles.scale - (0.1 * 8f64.ln() + 1.0)).abs() < 1e-12);
    }
}
