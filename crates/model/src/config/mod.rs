//! A model's configuration: the sizes and constants that, with its [`Architecture`], define the forward pass
//! and which tensors of which shape there must be.
//!
//! Read from `config.json` beside safetensors (both transformers 5's `rope_parameters` and `dtype`, and the
//! older `rope_theta`, `rope_scaling` and `torch_dtype`), or from GGUF metadata.

mod expected;
mod from_gguf;
mod from_hf;
mod rope;

use std::path::Path;

use quern_tensor_io::{Checkpoint, Container, ElementType, Error, Result};

use crate::architecture::{Activation, Architecture, RopeStyle, World};
use crate::architectures;

pub use expected::ExpectedTensor;
pub use rope::{Rope, RopeScaling};

/// Sizes beyond these are taken for damage: no model is near them, and products of any three fit in 64 bits.
pub(crate) mod limit {
    pub const VOCAB: usize = 1 << 24;
    pub const HIDDEN: usize = 1 << 20;
    pub const LAYERS: usize = 1 << 12;
    pub const HEADS: usize = 1 << 14;
    pub const CONTEXT: usize = 1 << 30;
}

/// What a model is, in numbers.
#[derive(Clone, Debug)]
pub struct Config {
    /// The family.
    pub architecture: &'static Architecture,
    /// The world the checkpoint's tensors are named in.
    pub world: World,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Width inside the feed-forward network.
    pub ffn_size: usize,
    /// Positions the model was trained for.
    pub context_length: usize,
    /// ε of the normalisation.
    pub norm_epsilon: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Which values of a head rope turns together, in this checkpoint's weights.
    pub rope_style: RopeStyle,
    /// Attention sees only this many positions back.
    pub sliding_window: Option<usize>,
    /// The head is the embedding (there may still be a tensor with a copy).
    pub tied_embeddings: bool,
    /// Q, K, V and output projections have biases.
    pub attention_bias: bool,
    /// The feed-forward projections have biases.
    pub mlp_bias: bool,
    /// The feed-forward network's activation.
    pub activation: Activation,
    /// Element type the weights were published in, where `config.json` says so.
    pub dtype: Option<ElementType>,
    /// `quantization_config.quant_method` of a quantized Hugging Face checkpoint (`gptq`, `bitsandbytes`, `awq`).
    pub quantization: Option<String>,
}

impl Config {
    /// Reads the configuration that belongs to `checkpoint`. Every value is checked; errors name file and key.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        match checkpoint.container() {
            Container::Gguf => from_gguf::read(checkpoint.metadata_file(), checkpoint.metadata(), checkpoint),
            _ => Self::from_config_json(&checkpoint.directory().join("config.json")),
        }
    }

    /// Reads a Hugging Face `config.json`.
    pub fn from_config_json(file: &Path) -> Result<Self> {
        from_hf::read(file)
    }

    /// The rules that hold in both worlds.
    fn checked(self, file: &Path) -> Result<Self> {
        let bad = |what: String| Err(Error::malformed(file, what));
        if !self.heads.is_multiple_of(self.kv_heads) {
            return bad(format!(
                "{} attention heads cannot share {} key-value heads evenly",
                self.heads, self.kv_heads
            ));
        }
        if !self.rope.dimensions.is_multiple_of(2) || self.rope.dimensions > self.head_dim {
            return bad(format!(
                "rope cannot turn {} dimensions of heads of {}",
                self.rope.dimensions, self.head_dim
            ));
        }
        if !(self.norm_epsilon.is_finite() && self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0) {
            return bad(format!("{} is no epsilon for a norm", self.norm_epsilon));
        }
        if !(self.rope.theta.is_finite() && self.rope.theta > 0.0) {
            return bad(format!("{} is no base for rope", self.rope.theta));
        }
        if !self.architecture.activations.contains(&self.activation) {
            return Err(Error::unsupported(
                file,
                format!(
                    "{} models with activation {:?} are not supported",
                    self.architecture.name, self.activation
                ),
            ));
        }
        Ok(self)
    }
}

/// The error for an architecture quern does not know.
fn unknown_architecture(file: &Path, found: &str) -> Error {
    let mut known = Vec::new();
    for architecture in architectures::ALL {
        known.push(format!("{} ({})", architecture.name, architecture.hf_architectures.join(", ")));
    }
    let found: String = found.chars().take(60).collect();
    Error::unsupported(
        file,
        format!("the architecture {found:?} is not supported; quern knows {}", known.join("; ")),
    )
}
