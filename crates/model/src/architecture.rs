//! An architecture is data: what the forward pass, the converter and the checks need to know of a family
//! of models, as one constant per family in [`crate::architectures`].
//!
//! A tensor is described once, by a [`TensorTemplate`]: its role, its Hugging Face and GGUF names with `{layer}`
//! for the layer number, its shape in terms of the configuration's sizes, and how Hugging Face's layout differs
//! from GGUF's.
//!
//! ```text
//! role         Hugging Face                              GGUF                    shape
//! AttentionQ   model.layers.{layer}.self_attn.q_proj…    blk.{layer}.attn_q…     [heads * head_dim, hidden]
//! ```

mod keys;
mod mixture;
mod role;

use std::fmt;

pub use keys::{Accepted, Field, GgufKey, HfKey, HfLimit, Silence};
pub use mixture::{GroupRank, MixtureRules, Scores};
pub use role::TensorRole;

/// A family of models that share one forward pass.
pub struct Architecture {
    /// GGUF's name (`general.architecture`), also the prefix of its metadata keys.
    pub name: &'static str,
    /// What distinguishes this family from others of the same GGUF name (mixtures of experts under `llama`).
    pub has_experts: bool,
    /// Why llama.cpp cannot load such a model, where it cannot: GGUF files are then refused with this reason.
    pub no_gguf: Option<&'static str>,
    /// Values of `architectures` in `config.json` it serves; the first is written.
    pub hf_architectures: &'static [&'static str],
    /// Values of `model_type` in `config.json` it serves; the first is written.
    pub hf_model_types: &'static [&'static str],
    /// Multimodal releases with such a text model: the class around it (`architectures` in `config.json`) and the
    /// text model's own `model_type`.
    pub hf_multimodal: &'static [(&'static str, &'static str)],
    /// What Hugging Face's tensor names begin with in a model with a head, and lack in one saved without
    /// (`transformer.` of GPT-2).
    pub hf_prefix: &'static str,
    /// The normalisation in front of attention, feed-forward network and head.
    pub norm: Norm,
    /// Whether Hugging Face stores a norm's weight less one (Gemma); GGUF stores the weight itself.
    pub norm_plus_one: bool,
    /// How positions enter.
    pub position: Position,
    /// The order of the pairs that rotary embedding rotates, in GGUF files of this architecture.
    pub gguf_rope_style: RopeStyle,
    /// The same in Hugging Face's checkpoints.
    pub hf_rope_style: RopeStyle,
    /// The order in the queries and keys of an indexer, in both.
    pub indexer_rope_style: RopeStyle,
    /// How attention and feed-forward network follow each other, where `config.json` does not say.
    pub block: Block,
    /// Whether attention's result is multiplied by the sigmoid of a gate, which the query projection computes beside each
    /// head's query (Qwen3-Next).
    pub gated_attention: bool,
    /// Whether norms of queries and keys are computed behind their rotation (Hunyuan).
    pub norms_after_rotation: bool,
    /// Whether each head's values are normalized, without a weight (Gemma 4).
    pub normalized_values: bool,
    /// Whether the embeddings are multiplied by the square root of the hidden size.
    pub scaled_embeddings: bool,
    /// Which layers do not rotate queries and keys, where `config.json` does not list them.
    pub unrotated: Unrotated,
    /// Which layers a sliding window limits, where `config.json` does not list them.
    pub sliding: Sliding,
    /// How layers are made where some of them, or all, keep a state.
    pub hybrid: Hybrid,
    /// Those layers see the positions of their own part of the text, which is cut at the multiples of the window (Llama 4).
    pub chunked: bool,
    /// The feed-forward network's activation functions that models of this family may name.
    pub activations: &'static [Activation],
    /// Whether the network multiplies the activated gate with a second projection.
    pub gated: bool,
    /// Whether the head is the embedding where `config.json` does not say.
    pub tied_by_default: bool,
    /// Of its mixtures of experts, if it has any.
    pub mixture: MixtureRules,
    /// The keys of `config.json`, and the meaning of an absent key.
    pub hf_keys: &'static [HfKey],
    /// Keys of `config.json` that change the computation in ways quern does not know, unless they have certain
    /// values.
    pub hf_limits: &'static [HfLimit],
    /// The metadata keys that llama.cpp's converter writes, in its order.
    pub gguf_keys: &'static [GgufKey],
    /// Every tensor a model may have.
    pub tensors: &'static [TensorTemplate],
    /// Other names under which Hugging Face files hold some of them.
    pub hf_aliases: &'static [Alias],
    /// Files for Hugging Face hold experts under the names of `hf_aliases`; those of `tensors` are of one expert and occur
    /// where layers are packed one by one (gpt-oss).
    pub hf_woven: bool,
}

impl Architecture {
    /// The family's name for people: its class in transformers without the head (`Llama`, `GPTNeoX`).
    pub fn family(&self) -> &'static str {
        let class = self.hf_architectures.first().copied().unwrap_or(self.name);
        let endings = ["ForCausalLM", "LMHeadModel", "ForConditionalGeneration"];
        endings.iter().find_map(|end| class.strip_suffix(end)).unwrap_or(class)
    }
}

impl Architecture {
    /// The metadata key of the norms' epsilon: of layer norms their own, unless the family has the other's (Phi-MoE).
    pub(crate) fn gguf_epsilon(&self) -> (GgufKey, &'static str) {
        let own = self.norm == Norm::Layer && self.gguf_keys.contains(&GgufKey::LayerNormEpsilon);
        match own {
            true => (GgufKey::LayerNormEpsilon, "attention.layer_norm_epsilon"),
            false => (GgufKey::RmsEpsilon, "attention.layer_norm_rms_epsilon"),
        }
    }
}

impl fmt::Debug for Architecture {
    /// Its name: all of it would fill pages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Architecture").field(&self.name).finish()
    }
}

/// Kind of normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// `x / sqrt(mean(x²) + ε) * weight`.
    Rms,
    /// `(x - mean) / sqrt(variance + ε) * weight + bias`.
    Layer,
}

/// How positions enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Queries and keys are rotated.
    Rotary,
    /// A learned vector is added to the embedding: row `position + offset` of the table.
    Learned {
        /// Rows in front of the first position's (2 for OPT).
        offset: usize,
    },
}

/// Which two of a head's values rotary embedding rotates as a pair (`d` = rotated dimensions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Value `i` with value `i + d/2`: Hugging Face, GPT-NeoX.
    HalfSplit,
    /// Value `2i` with value `2i + 1`: the original paper, GGUF's llama.
    Interleaved,
}

/// How attention and feed-forward network follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// `x += attention(norm(x)); x += ffn(norm(x))`.
    Sequential,
    /// `x += attention(n) + ffn(m)`, `n` and `m` norms of the same `x`, or one norm where there is but one.
    Parallel,
    /// `x = norm(x + attention(x)); x = norm(x + ffn(x))`: OPT with `do_layer_norm_before` off.
    PostNorm,
    /// `x += norm(attention(x)); x += norm(ffn(x))`: OLMo 2, EXAONE 4.
    OutputNorm,
}

/// Which layers a sliding window limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sliding {
    /// All, where there is a window.
    All,
    /// All, unless `config.json` lists the kinds of layer (Mistral).
    AllUnlessListed,
    /// All but each `n`-th: layer `i` sees everything if `(i + 1) % n == 0`.
    ButEvery(usize),
    /// All but the first of each `n`: layer `i` sees everything if `i % n == 0` (CWM).
    ButFirstOf(usize),
    /// None, unless `use_sliding_window` is on (Qwen): then those from `max_window_layers` on.
    FromLayer,
}

/// Which layers do not rotate queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrotated {
    /// None.
    None,
    /// All (Nemotron-H).
    All,
    /// Each `n`-th: layer `i` if `(i + 1) % n == 0` (SmolLM3).
    Every(usize),
    /// Those that a sliding window does not limit, where there is a window (Cohere 2, EXAONE 4).
    Unwindowed,
    /// Those whose entry in a list of bases of rope is zero (`layer_rope_theta` of GraniteSWA).
    WithoutBase,
}

/// How the layers are made of a family whose mixers keep a state in all layers or some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hybrid {
    /// Each layer has a mixer, attention or one with a state, and a network behind it.
    Either,
    /// Each layer is one thing: a mixer or a network (Nemotron-H).
    Single,
    /// Each layer is a mixer with a state, and nothing else (Mamba-2).
    Alone,
    /// Each layer has attention and a mixer with a state, which read the same input, and a network behind them
    /// (Falcon-H1).
    Beside,
}

/// Activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Φ(x)`.
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    ReluSquared,
    /// xIELU, with four parameters in each layer (Apertus).
    Xielu,
    /// Of a gate `x` and what it multiplies, `y`: `min(x, 7) * sigmoid(1.702 * min(x, 7)) * (clamp(y, -7, 7) + 1)`
    /// (gpt-oss).
    ClampedSwiglu,
}

impl Activation {
    /// The function behind a `hidden_act` of Hugging Face.
    pub fn from_hf(name: &str) -> Option<Self> {
        match name {
            "silu" | "swish" => Some(Self::Silu),
            "gelu" | "gelu_python" => Some(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh" | "gelu_python_tanh" => {
                Some(Self::GeluTanh)
            }
            "relu" => Some(Self::Relu),
            "relu2" => Some(Self::ReluSquared),
            "xielu" => Some(Self::Xielu),
            "clamped_swiglu" => Some(Self::ClampedSwiglu),
            _ => None,
        }
    }

    /// Its name in Hugging Face's configurations; of the clamped one, which no configuration names, its own.
    pub fn hf_name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_pytorch_tanh",
            Self::Relu => "relu",
            Self::ReluSquared => "relu2",
            Self::Xielu => "xielu",
            Self::ClampedSwiglu => "clamped_swiglu",
        }
    }
}

/// The two formats that name and lay out tensors in their own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// Hugging Face transformers: safetensors and PyTorch files beside a `config.json`.
    HuggingFace,
    /// GGUF.
    Gguf,
}

/// A size of the configuration, as a dimension of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// `vocab_size`.
    Vocab,
    /// `hidden_size`.
    Hidden,
    /// `heads * head_dim`.
    Query,
    /// `kv_heads * head_dim`.
    KeyValue,
    /// Queries, keys and values together: `(heads + 2 * kv_heads) * head_dim`.
    Qkv,
    /// `heads`.
    Heads,
    /// `kv_heads`.
    KvHeads,
    /// Queries and their gates: `2 * heads * head_dim`.
    QueryGate,
    /// `head_dim`.
    HeadDim,
    /// `ffn_size`.
    Ffn,
    /// Gate and up projection together: `2 * ffn_size`.
    GateUp,
    /// Half of `rope.dimensions`.
    RopeHalf,
    /// Rows of the table of positions.
    Positions,
    /// Width of the embedding where it differs from the residual stream's (OPT-350m).
    Embedding,
    /// `experts`.
    Experts,
    /// `expert_ffn_size`.
    ExpertFfn,
    /// What an expert reads and makes: `experts.latent`, or `hidden_size`.
    ExpertHidden,
    /// Gate and up projection of an expert together: `2 * expert_ffn_size`.
    ExpertGateUp,
    /// Queries, keys and values of a delta net.
    DeltaQkv,
    /// Values of a delta net: all its value heads.
    DeltaValues,
    /// Value heads of a delta net.
    DeltaHeads,
    /// Values in one of them.
    DeltaHeadDim,
    /// Queries, keys, values and gates of a delta net.
    DeltaIn,
    /// Two numbers for each value head of a delta net.
    DeltaPairs,
    /// Positions that a convolution reads.
    ConvTaps,
    /// All that Mamba-2 computes from its input.
    MambaIn,
    /// Inputs, `b` and `c` of Mamba-2.
    MambaConv,
    /// Inputs of Mamba-2: all its heads.
    MambaInner,
    /// Heads of Mamba-2.
    MambaHeads,
    /// Groups of heads of Mamba-2.
    MambaGroups,
    /// Inputs of one of them.
    MambaGroup,
    /// `3 * hidden_size`.
    TripleHidden,
    /// `latent.query_rank`.
    QueryRank,
    /// Queries of all heads of an indexer: `indexer.heads * indexer.head_dim`.
    IndexerQueries,
    /// `indexer.head_dim`.
    IndexerHead,
    /// `indexer.heads`.
    IndexerHeads,
    /// `latent.rank`.
    LatentRank,
    /// The latent vector and the rotated part of keys: `latent.rank + latent.rope_dim`.
    LatentCached,
    /// Keys and values of all heads: `heads * (latent.nope_dim + latent.value_dim)`.
    LatentUp,
    /// `latent.nope_dim`.
    LatentNope,
    /// `latent.value_dim`.
    LatentValue,
    /// Values of all heads: `heads * latent.value_dim`.
    LatentValues,
    /// Width inside the shared expert.
    SharedFfn,
    /// Its gate and up projection together: `2 * SharedFfn`.
    SharedGateUp,
    /// 1: one number, or the one output of a shared expert's router.
    One,
    /// `per_layer.size`: what each layer receives of each token beside the residual stream.
    PerLayer,
    /// The same for all layers together.
    PerLayerAll,
    /// `per_layer.vocab`.
    PerLayerVocab,
    /// `streams`.
    Streams,
    /// Its square.
    StreamPairs,
    /// Streams beside the first.
    OtherStreams,
    /// `laurel_rank`.
    Laurel,
}

/// Which models have a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// All.
    Always,
    /// Those whose head is not the embedding; a tied model may still carry a copy.
    UnlessTied,
    /// Those with `qkv_bias`.
    QkvBias,
    /// Those with `output_bias`.
    OutputBias,
    /// Those with `mlp_bias`.
    FfnBias,
    /// Those with `qk_norm`.
    QkNorm,
    /// Those with `second_norm`.
    SecondNorm,
    /// Those without `second_norm`.
    OneNorm,
    /// Those with `final_norm`.
    FinalNorm,
    /// Those whose embedding is not as wide as the residual stream.
    EmbeddingProjection,
    /// Layers with attention, where others have none.
    AttentionLayers,
    /// Layers whose mixer keeps a state.
    StateLayers,
    /// The same, of models whose convolution has a bias.
    StateConvBias,
    /// Layers whose mixer normalizes what a state gives.
    StateNorm,
    /// Layers that are a network alone.
    NetworkLayers,
    /// Layers with keys of their own; others may carry some that nothing reads (Gemma 4).
    OwnKeys,
    /// Layers with values of their own that are not their keys, likewise.
    OwnValues,
    /// Those with `per_layer`.
    PerLayer,
    /// Hugging Face's checkpoints; GGUF has the numbers in its metadata.
    HuggingFace,
    /// GGUF files of models whose rope has factors; Hugging Face computes them from the config.
    RopeFactors,
    /// GGUF files of models with long and short rope factors (Phi-3); Hugging Face has them in the config.
    LongRope,
    /// Those with `latent.query_rank`.
    QueryRank,
    /// Those without.
    NoQueryRank,
    /// Layers with an indexer.
    Indexer,
    /// Hugging Face's checkpoints, and GGUF files with `latent.joined_in_gguf`.
    JoinedUp,
    /// GGUF files without `latent.joined_in_gguf`.
    SplitUp,
    /// Layers with one feed-forward network, of models where others are mixtures of experts.
    DenseLayers,
    /// Layers that are mixtures of experts, of models where others may not be.
    SparseLayers,
    /// Layers that are mixtures whose experts read something narrower than the residual stream.
    ExpertLatent,
    /// Layers that are mixtures with a shared expert.
    SharedExpert,
    /// The same, whose result is multiplied with a gate.
    SharedRouter,
    /// Layers that are mixtures whose choice has a bias.
    ChoiceBias,
}

/// How Hugging Face's layout of a tensor differs from GGUF's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In the same way.
    Same,
    /// Rows of each query head in half-split order; GGUF interleaves the pairs.
    QueryHeads,
    /// Rows of each key head, likewise.
    KeyHeads,
    /// As the transposed matrix (GPT-2's Conv1D).
    Transposed,
    /// Less one: the weight of a norm that adds one (Gemma).
    PlusOne,
    /// As one matrix per expert, `{expert}` in the name; GGUF stacks them.
    Experts,
    /// As one vector per head, `{expert}` in the name for the head (StableLM 2's norms of queries and keys);
    /// GGUF stacks them.
    HeadNorms,
    /// As the first rows of each head in the tensor of [`TensorRole::AttentionKvUp`]; GGUF has each head's matrix
    /// transposed, in a tensor of its own.
    KeyUp,
    /// As the last rows of each head there; GGUF has them in a tensor of their own.
    ValueUp,
    /// Query, key and value rows head by head, with as many query heads per key head as there are (GPT-NeoX,
    /// Falcon); GGUF has all queries, all keys, all values.
    QkvByHead,
    /// With a dimension of 1 between channels and taps: the weight of a convolution.
    Conv,
    /// As one vector; GGUF has a matrix of the same numbers.
    Flat,
    /// The same, and as the logarithm of what GGUF has, less its sign.
    FlatDecay,
    /// Queries, keys and values of a delta net, the value heads of one key head together; GGUF has the first value head
    /// of each key head, then the second of each.
    DeltaQkv,
    /// The same of a convolution.
    DeltaConv,
    /// Rows of value heads of a delta net, likewise.
    DeltaValues,
    /// One row or one value for each value head of a delta net, likewise.
    DeltaHeads,
    /// The same, and as the logarithm of what GGUF has, less its sign.
    DeltaDecay,
    /// Columns for the values of a delta net, likewise.
    DeltaColumns,
    /// As rows of the tensor of [`TensorRole::StateIn`], which has the queries, keys, values and gates of one key head
    /// together; GGUF has queries, keys and values in a tensor of their own.
    DeltaInQkv,
    /// The same for the gates.
    DeltaInGate,
    /// As the first half of the rows of the tensor that has gate and up projection; GGUF has a tensor of its own.
    GateRows,
    /// As the second half.
    UpRows,
    /// As it is before its rows are multiplied with numbers of the configuration (Falcon-H1).
    Multiplied,
}

/// One tensor of an architecture.
#[derive(Clone, Copy, Debug)]
pub struct TensorTemplate {
    /// What it is for.
    pub role: TensorRole,
    /// Its Hugging Face name, `{layer}` for the layer, `{expert}` for the expert; `None` where Hugging Face has no
    /// such tensor.
    pub hf: Option<&'static str>,
    /// Its GGUF name, `{layer}` for the layer; empty where GGUF has only parts of it.
    pub gguf: &'static str,
    /// Dimensions in GGUF, outermost first.
    pub shape: &'static [Dim],
    /// Which models have it.
    pub presence: Presence,
    /// Its layout in Hugging Face checkpoints.
    pub layout: Layout,
}

/// Another name, and maybe another layout, under which Hugging Face files hold the tensors of a role.
#[derive(Clone, Copy, Debug)]
pub struct Alias {
    /// What they are for.
    pub role: TensorRole,
    /// The name, with `{layer}` and `{expert}` as in [`TensorTemplate::hf`].
    pub name: &'static str,
    /// How they are stored under this name.
    pub layout: AliasLayout,
}

/// How an [`Alias`] stores its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AliasLayout {
    /// As under the usual name.
    Same,
    /// All experts in one tensor `[experts, of * rows, columns]`: `of` matrices of each expert below each other,
    /// of which this role is number `which`. A role that is not of experts has the same without their dimension.
    Stack {
        /// Matrices of one expert in the tensor.
        of: usize,
        /// Which of them, counted from 0.
        which: usize,
    },
    /// All experts in one tensor, transposed: of each expert the matrices of `of` roles beside each other
    /// (`[experts, columns, of * rows]`), of which this one is number `which`.
    Beside {
        /// Roles in the tensor.
        of: usize,
        /// Which of them, counted from 0.
        which: usize,
    },
    /// Queries (0), keys (1) and values (2) in one matrix: of each key head the rows of its query heads, its own, and those of
    /// its values.
    Grouped {
        /// Which of them.
        which: usize,
    },
    /// All experts in one tensor: of each expert the rows of `of` roles in turn, of which this one is number `which`,
    /// transposed (`[experts, columns, of * rows]`), or the numbers of vectors (`[experts, of * numbers]`).
    Woven {
        /// Roles in the tensor.
        of: usize,
        /// Which of them, counted from 0.
        which: usize,
    },
}

impl TensorTemplate {
    /// The name template of the format `convention`.
    pub fn name(&self, convention: Convention) -> Option<&'static str> {
        match convention {
            Convention::HuggingFace => self.hf,
            Convention::Gguf => Some(self.gguf).filter(|name| !name.is_empty()),
        }
    }

    /// The role of the tensor that this one is a part of in Hugging Face's files, if it is one.
    pub fn whole(&self) -> Option<TensorRole> {
        match (self.layout, self.role) {
            (Layout::KeyUp | Layout::ValueUp, _) => Some(TensorRole::AttentionKvUp),
            (Layout::DeltaInQkv | Layout::DeltaInGate, _) => Some(TensorRole::StateIn),
            (Layout::GateRows | Layout::UpRows, TensorRole::SharedGate | TensorRole::SharedUp) => {
                Some(TensorRole::SharedGateUp)
            }
            (Layout::GateRows | Layout::UpRows, _) => Some(TensorRole::FfnGateUp),
            (
                Layout::Same
                | Layout::QueryHeads
                | Layout::KeyHeads
                | Layout::Transposed
                | Layout::PlusOne
                | Layout::Experts
                | Layout::HeadNorms
                | Layout::QkvByHead
                | Layout::Conv
                | Layout::Flat
                | Layout::FlatDecay
                | Layout::DeltaQkv
                | Layout::DeltaConv
                | Layout::DeltaValues
                | Layout::DeltaHeads
                | Layout::DeltaDecay
                | Layout::DeltaColumns
                | Layout::Multiplied,
                _,
            ) => None,
        }
    }

    /// Whether there is one per layer.
    pub fn per_layer(&self) -> bool {
        self.gguf.contains("{layer}") || self.hf.is_some_and(|name| name.contains("{layer}"))
    }
}
