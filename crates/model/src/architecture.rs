//! An architecture is data: what the forward pass, the converter and the checks need to know of a family
//! of models, as one constant per family in [`crate::architectures`].
//!
//! A tensor is described once, by a [`TensorTemplate`]: its role, its name in both worlds with `{layer}` for
//! the layer number, and its shape in terms of the configuration's sizes.
//!
//! ```text
//! role         Hugging Face                              GGUF                    shape
//! AttentionQ   model.layers.{layer}.self_attn.q_proj…    blk.{layer}.attn_q…     [heads * head_dim, hidden]
//! ```

/// A family of models that share one forward pass.
#[derive(Debug)]
pub struct Architecture {
    /// GGUF's name (`general.architecture`), also the prefix of its metadata keys.
    pub name: &'static str,
    /// Values of `architectures` in `config.json` it serves.
    pub hf_architectures: &'static [&'static str],
    /// Values of `model_type` in `config.json` it serves.
    pub hf_model_types: &'static [&'static str],
    /// The normalisation in front of attention, feed-forward network and head.
    pub norm: Norm,
    /// How positions enter.
    pub position: Position,
    /// The order of the pairs that rotary embedding turns, in GGUF files of this architecture. (Hugging
    /// Face's weights are always [`RopeStyle::HalfSplit`].)
    pub gguf_rope_style: RopeStyle,
    /// How attention and feed-forward network follow each other.
    pub block: Block,
    /// The feed-forward network's activation functions that models of this family may name.
    pub activations: &'static [Activation],
    /// Whether the network multiplies the activated gate with a second projection.
    pub gated: bool,
    /// Every tensor a model may have.
    pub tensors: &'static [TensorTemplate],
}

/// Kind of normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Norm {
    /// `x / sqrt(mean(x²) + ε) * weight`.
    Rms,
    /// `(x - mean) / sqrt(variance + ε) * weight + bias`.
    Layer,
}

/// How positions enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Position {
    /// Queries and keys are rotated.
    Rotary,
    /// A learned vector is added to the embedding.
    Learned,
}

/// Which two of a head's values rotary embedding turns together (`d` = rotated dimensions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Value `i` with value `i + d/2`: Hugging Face, GPT-NeoX.
    HalfSplit,
    /// Value `2i` with value `2i + 1`: the original paper, GGUF's llama.
    Interleaved,
}

/// How attention and feed-forward network follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Block {
    /// `x += attention(norm(x)); x += ffn(norm(x))`.
    Sequential,
    /// `x += attention(n) + ffn(n)` with one `n = norm(x)`.
    Parallel,
}

/// Activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Φ(x)`.
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// The function behind a `hidden_act` of Hugging Face.
    pub fn from_hf(name: &str) -> Option<Self> {
        match name {
            "silu" | "swish" => Some(Self::Silu),
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "relu" => Some(Self::Relu),
            _ => None,
        }
    }
}

/// What a tensor is for, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum TensorRole {
    TokenEmbedding,
    OutputNorm,
    Output,
    RopeFactors,
    AttentionNorm,
    AttentionQ,
    AttentionK,
    AttentionV,
    AttentionOutput,
    AttentionQBias,
    AttentionKBias,
    AttentionVBias,
    AttentionOutputBias,
    FfnNorm,
    FfnGate,
    FfnUp,
    FfnDown,
    FfnGateBias,
    FfnUpBias,
    FfnDownBias,
}

/// The two naming worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Hugging Face transformers: safetensors and PyTorch files beside a `config.json`.
    HuggingFace,
    /// GGUF.
    Gguf,
}

/// A size of the configuration, as a dimension of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dim {
    /// `vocab_size`.
    Vocab,
    /// `hidden_size`.
    Hidden,
    /// `heads * head_dim`.
    Query,
    /// `kv_heads * head_dim`.
    KeyValue,
    /// `ffn_size`.
    Ffn,
    /// Half of `rope.dimensions`.
    RopeHalf,
}

/// Which models have a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Presence {
    /// All.
    Always,
    /// Those whose head is not the embedding; a tied model may still carry a copy.
    UnlessTied,
    /// Those with `attention_bias`.
    AttentionBias,
    /// Those with `mlp_bias`.
    FfnBias,
    /// GGUF files of models whose rope has factors; Hugging Face computes them from the config.
    RopeFactors,
}

/// How the rows of a tensor are reordered between the worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// Not at all.
    Same,
    /// Within each query head, from half-split to interleaved pairs.
    QueryHeads,
    /// Within each key head, likewise.
    KeyHeads,
}

/// One tensor of an architecture.
#[derive(Debug)]
pub struct TensorTemplate {
    /// What it is for.
    pub role: TensorRole,
    /// Its name in the Hugging Face world, `{layer}` for the layer; `None` where that world has none.
    pub hf: Option<&'static str>,
    /// Its name in the GGUF world, `{layer}` for the layer.
    pub gguf: &'static str,
    /// Dimensions, outermost first.
    pub shape: &'static [Dim],
    /// Which models have it.
    pub presence: Presence,
    /// How GGUF orders its rows.
    pub rows: RowOrder,
}

impl TensorTemplate {
    /// The name template in `world`.
    pub fn name(&self, world: World) -> Option<&'static str> {
        match world {
            World::HuggingFace => self.hf,
            World::Gguf => Some(self.gguf),
        }
    }

    /// Whether there is one per layer.
    pub fn per_layer(&self) -> bool {
        self.gguf.contains("{layer}")
    }
}
