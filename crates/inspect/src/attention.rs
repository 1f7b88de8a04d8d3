//! The configuration of positions and attention beyond sizes: rotary embedding and how it is scaled, sliding
//! windows, soft caps, an unusual scale of the scores.

use quern_model::architecture::Position;
use quern_model::{Config, RopeScaling};
use serde::Serialize;

/// Positions and attention of a model.
#[derive(Debug, Default, Serialize)]
pub struct Attention {
    /// Rotary embedding; `None` where positions are learned.
    pub rope: Option<Rope>,
    /// The sliding window, if one limits any layer.
    pub sliding_window: Option<Window>,
    /// Scores `s` become `c * tanh(s / c)`.
    pub attention_softcap: Option<f32>,
    /// Logits likewise.
    pub final_softcap: Option<f32>,
    /// What scores are multiplied with, where that is not `1 / sqrt(head_dim)`.
    pub attention_scale: Option<f32>,
    /// Scores of layer `i` are also divided by `i + 1`.
    pub attention_scaled_by_layer: bool,
    /// Layers that do not rotate queries and keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unrotated_layers: Vec<usize>,
    /// What embeddings are multiplied with, where that is not one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_multiplier: Option<f32>,
    /// What attention and network add is multiplied with, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residual_multiplier: Option<f32>,
    /// What logits are multiplied with, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logit_multiplier: Option<f32>,
}

/// Rotary embedding.
#[derive(Debug, Serialize)]
pub struct Rope {
    /// Base of the frequencies.
    pub base: f32,
    /// Base in layers under a sliding window, where it is another.
    pub local_base: Option<f32>,
    /// Values of each head that are rotated.
    pub dimensions: usize,
    /// How the frequencies are scaled for long contexts; `None` if they are not.
    pub scaling: Option<Scaling>,
}

/// Scaling of the frequencies, with every parameter that counts.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[allow(missing_docs)] // named as in `config.json`
pub enum Scaling {
    Linear {
        factor: f32,
    },
    Dynamic {
        factor: f32,
    },
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: usize,
    },
    Yarn {
        factor: f32,
        original_context: usize,
        attention_factor: f32,
        beta_fast: f32,
        beta_slow: f32,
        truncate: bool,
    },
    Longrope {
        original_context: usize,
        attention_factor: f32,
        short_factor: Vec<f32>,
        long_factor: Vec<f32>,
    },
    /// A divisor for each pair of dimensions, as GGUF's `rope_freqs.weight` has them.
    Factors {
        factors: Vec<f32>,
    },
}

/// A sliding window.
#[derive(Debug, Serialize)]
pub struct Window {
    /// Positions that attention sees.
    pub size: usize,
    /// The layers it limits.
    pub layers: Vec<usize>,
}

impl Attention {
    pub(crate) fn of(config: &Config) -> Self {
        let layers: Vec<usize> = (0..config.layers).filter(|&layer| config.window(layer).is_some()).collect();
        Self {
            rope: match config.architecture.position {
                Position::Learned { .. } => None,
                Position::Rotary => Some(Rope {
                    base: config.rope.theta,
                    local_base: config.rope.local_theta,
                    dimensions: config.rope.dimensions,
                    scaling: scaling(config),
                }),
            },
            sliding_window: config
                .sliding_window
                .filter(|_| !layers.is_empty())
                .map(|size| Window { size, layers }),
            attention_softcap: config.attention_softcap,
            final_softcap: config.final_softcap,
            attention_scale: config.unusual_attention_scale(),
            attention_scaled_by_layer: config.scaled_by_layer,
            unrotated_layers: match config.architecture.position {
                Position::Learned { .. } => Vec::new(),
                Position::Rotary => (0..config.layers).filter(|&layer| !config.rotates(layer)).collect(),
            },
            embedding_multiplier: unusual(config.embedding_multiplier),
            residual_multiplier: unusual(config.residual_multiplier),
            logit_multiplier: unusual(config.logit_multiplier / config.logit_divisor),
        }
    }
}

fn unusual(multiplier: f32) -> Option<f32> {
    (multiplier != 1.0).then_some(multiplier)
}

fn scaling(config: &Config) -> Option<Scaling> {
    let attention_factor = config.rope.scaling.attention_factor(config.context_length) as f32;
    match &config.rope.scaling {
        RopeScaling::None => config.rope.factors.clone().map(|factors| Scaling::Factors { factors }),
        &RopeScaling::Linear { factor } => Some(Scaling::Linear { factor }),
        &RopeScaling::Dynamic { factor } => Some(Scaling::Dynamic { factor }),
        &RopeScaling::Llama3 { factor, low, high, original_context } => {
            Some(Scaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_context })
        }
        &RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
            Some(Scaling::Yarn { factor, original_context, attention_factor, beta_fast, beta_slow, truncate })
        }
        RopeScaling::Long { short, long, original_context, .. } => Some(Scaling::Longrope {
            original_context: *original_context,
            attention_factor,
            short_factor: short.clone(),
            long_factor: long.clone(),
        }),
    }
}
