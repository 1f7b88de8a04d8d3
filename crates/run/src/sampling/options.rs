//! The options of sampling, under the names they have in llama.cpp and transformers.

use crate::{Error, Result};

/// One step between logits and the draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Repeat, presence and frequency penalty.
    Penalties,
    /// The penalty on repeated sequences.
    Dry,
    /// Top-nσ.
    TopNSigma,
    /// Top-k.
    TopK,
    /// Locally typical.
    Typical,
    /// Top-p.
    TopP,
    /// Min-p.
    MinP,
    /// XTC.
    Xtc,
    /// Temperature.
    Temperature,
}

impl Stage {
    /// All stages, in llama.cpp's order.
    pub const DEFAULT_ORDER: [Self; 9] = [
        Self::Penalties,
        Self::Dry,
        Self::TopNSigma,
        Self::TopK,
        Self::Typical,
        Self::TopP,
        Self::MinP,
        Self::Xtc,
        Self::Temperature,
    ];

    /// llama.cpp's name (`top_k`, `typ_p`, `temperature` …).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Penalties => "penalties",
            Self::Dry => "dry",
            Self::TopNSigma => "top_n_sigma",
            Self::TopK => "top_k",
            Self::Typical => "typ_p",
            Self::TopP => "top_p",
            Self::MinP => "min_p",
            Self::Xtc => "xtc",
            Self::Temperature => "temperature",
        }
    }

    /// The stage of that name; `-` is as good as `_`, and `typical`, `typical_p` and `temp` are understood.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase().replace('-', "_");
        match name.as_str() {
            "typical" | "typical_p" => Some(Self::Typical),
            "temp" => Some(Self::Temperature),
            name => Self::DEFAULT_ORDER.into_iter().find(|stage| stage.name() == name),
        }
    }
}

/// DRY ("don't repeat yourself"): a penalty on tokens that would continue a sequence that occurred before,
/// `multiplier * base ^ (length - allowed_length)` for a sequence of `length` tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct DryOptions {
    /// Strength; 0 does nothing.
    pub multiplier: f32,
    /// How fast the penalty grows with the length.
    pub base: f32,
    /// Shorter sequences are not penalized.
    pub allowed_length: usize,
    /// How many recent tokens are considered; `usize::MAX` for all.
    pub window: usize,
    /// Texts that no sequence extends across.
    pub breakers: Vec<String>,
}

impl Default for DryOptions {
    fn default() -> Self {
        let breakers = ["\n", ":", "\"", "*"].map(str::to_owned).to_vec();
        Self { multiplier: 0.0, base: 1.75, allowed_length: 2, window: 64, breakers }
    }
}

/// Mirostat (Basu et al., 2021): cuts the candidates so that the surprise of what is drawn stays near a target.
/// It takes the place of every filter; penalties and temperature stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirostat {
    /// The paper's first algorithm, which estimates the exponent of Zipf's law, or the second, which cuts at the
    /// surprise itself.
    pub version: MirostatVersion,
    /// The surprise aimed at, in bits.
    pub tau: f32,
    /// How fast the cut is corrected.
    pub eta: f32,
}

/// Which of the two algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirostatVersion {
    /// Mirostat.
    One,
    /// Mirostat 2.0.
    Two,
}

/// The options of sampling. The defaults are llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits before the draw; 0 (or less) is greedy.
    pub temperature: f32,
    /// Keep the `top_k` highest logits; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most probable tokens whose probabilities reach `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less probable than `min_p` times the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Keep the tokens whose surprise is nearest to the expected one, until their probabilities reach this
    /// (Meister et al., 2022); 1 keeps all.
    pub typical_p: f32,
    /// Drop logits more than this many standard deviations below the highest (Tang et al., 2024); 0 (or less)
    /// keeps all.
    pub top_n_sigma: f32,
    /// The chance of applying XTC at each token; 0 never.
    pub xtc_probability: f32,
    /// XTC drops all tokens at least this probable but the least probable of them; above 0.5 it does nothing.
    pub xtc_threshold: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 does nothing.
    pub repeat_penalty: f32,
    /// Is subtracted from the logits of recent tokens.
    pub presence_penalty: f32,
    /// Is subtracted from the logits of recent tokens, once for each time they occurred.
    pub frequency_penalty: f32,
    /// How many recent tokens (prompt included) these penalties consider; `usize::MAX` for all.
    pub repeat_window: usize,
    /// The penalty on repeated sequences.
    pub dry: DryOptions,
    /// Mirostat instead of the filters.
    pub mirostat: Option<Mirostat>,
    /// The stages that act, in their order.
    pub stages: Vec<Stage>,
    /// Seed of the draw.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: 0.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_window: 64,
            dry: DryOptions::default(),
            mirostat: None,
            stages: Stage::DEFAULT_ORDER.to_vec(),
            seed: 0,
        }
    }
}

impl SamplingOptions {
    /// Greedy decoding: always the highest logit.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks that every number makes sense.
    ///
    /// # Errors
    /// [`Error::Option`] naming the option and its range.
    pub fn check(&self) -> Result<()> {
        let finite = ("a finite number", f32::is_finite as fn(f32) -> bool);
        let share = ("from 0 to 1", (|v| (0.0..=1.0).contains(&v)) as fn(f32) -> bool);
        let reach = ("above 0, at most 1", (|v| v > 0.0 && v <= 1.0) as fn(f32) -> bool);
        let above = ("a finite number above 0", (|v| v > 0.0 && v.is_finite()) as fn(f32) -> bool);
        let not_below = ("a finite number, 0 or more", (|v| v >= 0.0 && v.is_finite()) as fn(f32) -> bool);
        let base = ("a finite number, 1 or more", (|v| v >= 1.0 && v.is_finite()) as fn(f32) -> bool);
        let mirostat = self.mirostat;
        let rules = [
            ("temp", self.temperature, finite),
            ("top-p", self.top_p, reach),
            ("min-p", self.min_p, share),
            ("typical-p", self.typical_p, reach),
            ("top-n-sigma", self.top_n_sigma, finite),
            ("xtc-probability", self.xtc_probability, share),
            ("xtc-threshold", self.xtc_threshold, share),
            ("repeat-penalty", self.repeat_penalty, above),
            ("presence-penalty", self.presence_penalty, finite),
            ("frequency-penalty", self.frequency_penalty, finite),
            ("dry-multiplier", self.dry.multiplier, not_below),
            ("dry-base", self.dry.base, base),
            ("mirostat-ent", mirostat.map_or(1.0, |m| m.tau), above),
            ("mirostat-lr", mirostat.map_or(1.0, |m| m.eta), above),
        ];
        for (name, value, (rule, holds)) in rules {
            if !holds(value) {
                return Err(Error::Option(format!("{name} is {value}, it must be {rule}")));
            }
        }
        if self.dry.breakers.iter().any(String::is_empty) {
            return Err(Error::Option("a dry-sequence-breaker is empty, it must be some text".into()));
        }
        Ok(())
    }
}
