//! Computes the angles of rotary embedding: the cosines and sines that all layers of one pass share.
//!
//! Pair `i` of `d/2` at position `p` is rotated by `p * theta^(-2i/d) / factor_i` (Su et al., arXiv 2104.09864).
//! Linear and Llama 3 scaling only change the factors; YaRN (arXiv 2309.00071) blends the stretched and
//! the plain frequency by a ramp over the pairs and lengthens the vectors by one constant.

use quern_compute::Pool;
use quern_compute::parallel::share;
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
            dimensions: config.windowed_heads.map_or(rope.dimensions, |heads| heads.size),
        };
        let long = match &rope.scaling {
            RopeScaling::Long { long, original_context, .. } => {
                Some((*original_context, Angles::new(rope, Some(long), config.context_length)))
            }
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Dynamic { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::Yarn { .. } => None,
        };
        let short = rope.long_factors().map(|(_, short)| short);
        let global = Angles::new(rope, short, config.context_length);
        Self {
            global,
            local: rope.local_theta.map(|theta| Angles::new(&plain(theta), None, config.context_length)),
            long,
        }
    }

    /// Pairs per head, the most of any layer.
    pub(crate) fn pairs(&self) -> usize {
        self.local.as_ref().map_or(0, Angles::pairs).max(self.global.pairs())
    }

    /// Pairs per head of a layer; `windowed` if a sliding window limits it.
    pub(crate) fn pairs_of(&self, windowed: bool) -> usize {
        self.local.as_ref().filter(|_| windowed).unwrap_or(&self.global).pairs()
    }

    /// Writes the cosines and sines of `count` positions from `first` on.
    pub(crate) fn fill(&self, pool: &Pool, first: usize, count: usize, angles: &mut RotaryAngles) {
        let global = match &self.long {
            // As in transformers: by the length of the text so far, whatever the cache holds already.
            Some((original, long)) if first + count > *original => long,
            _ => &self.global,
        };
        global.fill(pool, first, count, &mut angles.global.0, &mut angles.global.1);
        angles.has_local = self.local.is_some();
        if let Some(local) = &self.local {
            local.fill(pool, first, count, &mut angles.local.0, &mut angles.local.1);
        }
    }
}

impl RotaryAngles {
    /// Cosines and sines of all layers, then those of layers under a window where they have their own.
    pub(crate) fn tables(&self) -> [&[f32]; 4] {
        let local = |values| if self.has_local { values } else { &[][..] };
        [&self.global.0, &self.global.1, local(&self.local.0), local(&self.local.1)]
    }

    /// Whether layers under a window have their own.
    pub(crate) fn has_local(&self) -> bool {
        self.has_local
    }
}

/// Multiplies the queries of the positions from `first` on (rows of `stride` values, of which the first `width` are
/// queries) with what they grow to; nothing in models whose queries do not.
pub(crate) fn grow_queries(config: &Config, first: usize, stride: usize, width: usize, rows: &mut [f32]) {
    let Some(growth) = config.query_growth else { return };
    for (at, row) in rows.chunks_exact_mut(stride).enumerate() {
        let factor = growth.at(first + at);
        if factor != 1.0 {
            row[..width].iter_mut().for_each(|value| *value *= factor);
        }
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
    /// The frequencies of `rope`, further divided by `factors` (one of LongRoPE's two sets), in a model of this
    /// context length.
    fn new(rope: &Rope, factors: Option<&[f32]>, context_length: usize) -> Self {
        let (d, theta) = (rope.dimensions, f64::from(rope.theta));
        let mut frequencies: Vec<f64> =
            (0..d / 2).map(|i| theta.powf(-((2 * i) as f64) / d as f64)).collect();
        match &rope.scaling {
            // Llama 3's divisors are in `Rope::factors`; dynamic scaling begins beyond the trained context, which no
            // session passes.
            RopeScaling::None
            | RopeScaling::Dynamic { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::Long { .. } => {}
            RopeScaling::Linear { factor } => {
                frequencies.iter_mut().for_each(|f| *f /= f64::from(*factor));
            }
            &RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
                // The (fractional) pair that makes `turns` rotations over the original context.
                let pair = |turns: f32| {
                    let wavelengths = original_context as f64 / (f64::from(turns) * std::f64::consts::TAU);
                    d as f64 * wavelengths.ln() / (2.0 * theta.ln())
                };
                let (mut low, mut high) = (pair(beta_fast), pair(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, high) = (low.max(0.0), high.min(d as f64 - 1.0));
                // A ramp of no width would divide by zero; transformers and llama.cpp widen it by a thousandth.
                let width = if high == low { 0.001 } else { high - low };
                for (i, frequency) in frequencies.iter_mut().enumerate() {
                    let stretched = ((i as f64 - low) / width).clamp(0.0, 1.0);
                    *frequency *= (1.0 - stretched) + stretched / f64::from(factor);
                }
            }
        }
        for factors in [rope.factors.as_deref(), factors].into_iter().flatten() {
            frequencies.iter_mut().zip(factors).for_each(|(f, &by)| *f /= f64::from(by));
        }
        Self { frequencies, scale: rope.scaling.attention_factor(context_length) }
    }

    /// Pairs per head.
    fn pairs(&self) -> usize {
        self.frequencies.len()
    }

    /// Writes the cosines and sines of `count` positions from `first` on: `count` rows of
    /// [`Self::pairs`] values each.
    fn fill(&self, pool: &Pool, first: usize, count: usize, cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
        let pairs = self.pairs();
        cos.resize(count * pairs, 0.0);
        sin.resize(count * pairs, 0.0);
        if pairs == 0 {
            return;
        }
        let rows = cos.chunks_exact_mut(pairs).zip(sin.chunks_exact_mut(pairs)).enumerate();
        let row = |(at, (cos, sin)): (usize, (&mut [f32], &mut [f32]))| {
            let position = (first + at) as f64;
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(&self.frequencies) {
                let (s, c) = (position * frequency).sin_cos();
                *cos = (c * self.scale) as f32;
                *sin = (s * self.scale) as f32;
            }
        };
        match count {
            0..=32 => rows.for_each(row),
            _ => share(pool, rows, row),
        }
    }
}

#[cfg(test)]
mod tests;
