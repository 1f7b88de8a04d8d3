//! A model's configuration: the sizes and constants that, with its [`Architecture`], define the forward pass
//! and which tensors of which shape there must be.
//!
//! Read from `config.json` beside safetensors (both transformers 5's `rope_parameters` and `dtype`, and the
//! older `rope_theta`, `rope_scaling` and `torch_dtype`), or from GGUF metadata; written as either.

pub(crate) mod beyond;
mod expected;
mod from_gguf;
mod from_hf;
mod gemma3n;
mod gemma4;
mod gguf_keys;
mod hf_rope;
mod hunyuan;
pub(crate) mod indexer;
mod latent;
mod layers;
pub(crate) mod llama4;
pub(crate) mod mixers;
mod mixture;
mod multimodal;
mod multipliers;
mod quirks;
mod rope;
mod rotation;
mod state_mixers;
pub(crate) mod to_hf;

use std::path::Path;

use quern_tensor_io::{Checkpoint, Container, ElementType, Error, Metadata, Result};

use crate::architecture::{Activation, Architecture, Block, Convention, Dim, RopeStyle, TensorRole};
use crate::architectures;
use crate::identify::nearest;

pub use expected::ExpectedTensor;
pub use indexer::Indexer;
pub use latent::Latent;
pub use layers::{KeyHeads, PerLayer, XIELU};
pub use mixture::{ExpertGroups, Experts, SharedExpert};
pub use multipliers::Multipliers;
pub(crate) use quirks::{minicpm3, unusual_query_scalar, unusual_window_pattern, window_pattern};
pub(crate) use rope::yarn_mscale;
pub use rope::{Rope, RopeScaling};
pub use state_mixers::{DeltaNet, Mamba2, ShortConv, StateMixer, States};

/// Larger sizes are treated as damage: no model is near them, and products of any three fit in 64 bits.
pub(crate) mod limit {
    pub const VOCAB: usize = 1 << 24;
    pub const HIDDEN: usize = 1 << 20;
    pub const LAYERS: usize = 1 << 12;
    pub const HEADS: usize = 1 << 14;
    pub const CONTEXT: usize = 1 << 30;
    pub const EXPERTS: usize = 1 << 12;
}

/// The configuration of a model.
#[derive(Clone, Debug)]
pub struct Config {
    /// The family.
    pub architecture: &'static Architecture,
    /// The format whose names the checkpoint's tensors have.
    pub convention: Convention,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the embedding; projected to `hidden_size` where it differs (OPT-350m).
    pub embedding_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// `head_dim` was given, not computed from the other two.
    pub head_dim_given: bool,
    /// Width inside the feed-forward network.
    pub ffn_size: usize,
    /// Positions the model was trained for.
    pub context_length: usize,
    /// ε of the normalisation.
    pub norm_epsilon: f32,
    /// Rotary embedding; without meaning where positions are learned.
    pub rope: Rope,
    /// Which values of a head rope rotates as pairs, in this checkpoint's weights.
    pub rope_style: RopeStyle,
    /// The base of rope was stretched by a constant that `config.json` states beside it (Hunyuan).
    pub rope_stretched: bool,
    /// Attention of [`Config::sliding_layers`] sees only this many positions back.
    pub sliding_window: Option<usize>,
    /// Which layers the window limits, one flag a layer; all false without a window.
    pub sliding_layers: Vec<bool>,
    /// How attention and feed-forward network follow each other.
    pub block: Block,
    /// The head is the embedding (there may still be a tensor with a copy).
    pub tied_embeddings: bool,
    /// Q, K and V projections have biases.
    pub qkv_bias: bool,
    /// The attention's output projection has a bias.
    pub output_bias: bool,
    /// The feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Each head of queries and keys is normalised.
    pub qk_norm: bool,
    /// Each block has a second norm: the network's own, or (Falcon) the attention's own.
    pub second_norm: bool,
    /// There is a norm in front of the head.
    pub final_norm: bool,
    /// Attention scores `s` become `c * tanh(s / c)`.
    pub attention_softcap: Option<f32>,
    /// Logits likewise.
    pub final_softcap: Option<f32>,
    /// Scores are divided by the square root of this; of `head_dim` if `None`.
    pub query_scalar: Option<f32>,
    /// Scores are multiplied by this, whatever the head's size and the query scalar are (Granite).
    pub attention_multiplier: Option<f32>,
    /// Embeddings are multiplied by this, beside [`Architecture::scaled_embeddings`].
    pub embedding_multiplier: f32,
    /// What attention and network add to the residual stream is multiplied by this.
    pub residual_multiplier: f32,
    /// Logits are divided by this, before their soft cap.
    pub logit_divisor: f32,
    /// Logits are multiplied by this, likewise.
    pub logit_multiplier: f32,
    /// What the outputs of single layers are multiplied with, where the weights do not say it (Falcon-H1).
    pub multipliers: Option<Multipliers>,
    /// Layers that do not rotate queries and keys, one flag a layer.
    pub unrotated_layers: Vec<bool>,
    /// Queries are multiplied with a number that grows with their position (Ministral 3).
    pub query_growth: Option<QueryGrowth>,
    /// Queries, keys and values are cut off beyond this and its negative (OLMo).
    pub qkv_limit: Option<f32>,
    /// Scores of layer `i` are also divided by `i + 1` (GPT-2 with `scale_attn_by_inverse_layer_idx`).
    pub scaled_by_layer: bool,
    /// Latent attention, in place of keys and values for each head. `head_dim` is then the size of a query.
    pub latent: Option<Latent>,
    /// What chooses the positions that attention reads, if not all.
    pub indexer: Option<Indexer>,
    /// Key heads and their size in layers under the window, where they differ from those of the others, which
    /// [`Config::kv_heads`] and [`Config::head_dim`] then are (Gemma 4).
    pub windowed_heads: Option<KeyHeads>,
    /// Last layers that use keys and values of an earlier layer of their kind (Gemma 4).
    pub shared_kv_layers: usize,
    /// The network of those is twice as wide.
    pub shared_ffn_doubled: bool,
    /// Values of layers without a window are their keys, before norm and rotation.
    pub keys_as_values: bool,
    /// What each token adds in each layer (Gemma 4).
    pub per_layer: Option<PerLayer>,
    /// xIELU's parameters in each layer, in the order of [`XIELU`], of GGUF files; Hugging Face has them in tensors.
    pub xielu: Vec<[f32; 4]>,
    /// Residual streams, of which blocks compute the first (Gemma 3n).
    pub streams: usize,
    /// Width of a second way beside attention; 0 without one.
    pub laurel_rank: usize,
    /// How many standard deviations above the mean the network's gates are cut off, layer by layer; not finite where they
    /// are not, and empty where no layer's are.
    pub cutoffs: Vec<f32>,
    /// The mixture of experts in place of the feed-forward network, in [`Config::sparse_layers`].
    pub experts: Option<Experts>,
    /// The layers whose mixer keeps a state, where there are such.
    pub states: Option<States>,
    /// Which layers are mixtures, one flag a layer; all false without experts.
    pub sparse_layers: Vec<bool>,
    /// The feed-forward network's activation.
    pub activation: Activation,
    /// Element type the weights were published in, where `config.json` says so.
    pub dtype: Option<ElementType>,
    /// Pairs of a head that follow time, height and width of an image (M-RoPE); text rotates all of them alike.
    pub rope_sections: Option<[u32; 4]>,
    /// Layers to whose outputs a vision tower adds its own (Qwen3-VL); text knows none of them.
    pub deepstack_layers: u32,
    /// Layers behind the model's own that predict further tokens: they are left out.
    pub speculative_layers: usize,
    /// The checkpoint is a multimodal release of which this is the text model: tensors of towers may be beside its
    /// own.
    pub multimodal: bool,
    /// `quantization_config.quant_method` of a quantized Hugging Face checkpoint (`gptq`, `bitsandbytes`, `awq`).
    pub quantization: Option<String>,
}

/// How queries grow with their position `p`: they are multiplied with `1 + beta * ln(1 + floor((p + offset) / context))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryGrowth {
    /// How fast.
    pub beta: f32,
    /// Positions up to which they do not.
    pub context: usize,
    /// What is added to the position.
    pub offset: usize,
    /// They grow in layers alone that do not rotate (Llama 4).
    pub unrotated: bool,
}

impl QueryGrowth {
    /// Whether any of the first `positions` queries grows.
    pub fn reaches(self, positions: usize) -> bool {
        self.beta != 0.0 && positions + self.offset > self.context
    }

    /// What the query at `position` is multiplied with.
    pub fn at(self, position: usize) -> f32 {
        1.0 + self.beta * ((1 + (position + self.offset) / self.context.max(1)) as f32).ln()
    }
}

impl Config {
    /// Reads the configuration that belongs to `checkpoint`. Every value is checked; errors name file and key.
    ///
    /// # Errors
    /// Of an architecture that quern does not know, with what its nearest description lacks.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        let stated = checkpoint.stated_architecture().and_then(architectures::named);
        let read = match checkpoint.container() {
            Container::Gguf => from_gguf::read(checkpoint.metadata_file(), checkpoint.metadata(), checkpoint),
            Container::Safetensors | Container::PyTorch => {
                from_hf::read(&checkpoint.directory().join("config.json"), stated)
            }
        };
        read.map_err(|error| nearest::explained(checkpoint, error))
    }

    /// The configuration of `checkpoint` if it were of this family.
    pub(crate) fn as_family(checkpoint: &Checkpoint, family: &'static Architecture) -> Result<Self> {
        from_hf::read(&checkpoint.directory().join("config.json"), Some(family))
    }

    /// Reads the configuration that `metadata` would give the GGUF file `checkpoint` in place of its own.
    pub fn from_gguf_metadata(checkpoint: &Checkpoint, metadata: &Metadata) -> Result<Self> {
        from_gguf::read(checkpoint.metadata_file(), metadata, checkpoint)
    }

    /// Reads a Hugging Face `config.json`.
    pub fn from_config_json(file: &Path) -> Result<Self> {
        from_hf::read(file, None)
    }

    /// Positions back that attention of this layer sees; `None` for all, and where it sees its own part of the text.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.limit(layer).filter(|_| !self.architecture.chunked)
    }

    /// Positions of the parts into which the text is cut for attention of this layer, which sees its own part alone.
    pub fn chunk(&self, layer: usize) -> Option<usize> {
        self.limit(layer).filter(|_| self.architecture.chunked)
    }

    fn limit(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|_| self.sliding_layers.get(layer).copied().unwrap_or(false))
    }

    /// How queries of this layer grow with their position.
    pub fn growth(&self, layer: usize) -> Option<QueryGrowth> {
        self.query_growth.filter(|growth| !growth.unrotated || !self.rotates(layer))
    }

    /// What attention scores of this layer are multiplied with.
    pub fn attention_scale(&self, layer: usize) -> f32 {
        let usual = || self.query_scalar.unwrap_or(self.head_dim as f32).sqrt().recip();
        let own = self.multipliers.map_or(1.0, |multipliers| multipliers.scores());
        let scale = self.attention_multiplier.unwrap_or_else(usual) * self.yarn_score_factor() * own;
        if self.scaled_by_layer { scale / (layer + 1) as f32 } else { scale }
    }

    /// What [`Config::attention_scale`] is, if that is not the usual `1 / sqrt(head_dim)` in all layers.
    pub fn unusual_attention_scale(&self) -> Option<f32> {
        let scalar = self.query_scalar.filter(|&scalar| scalar != self.head_dim as f32);
        let usual = (self.head_dim as f32).sqrt().recip();
        let multiplier = self.attention_multiplier.filter(|&multiplier| multiplier != usual);
        let factor = self.yarn_score_factor() != 1.0;
        let unusual = scalar.is_some() || multiplier.is_some() || factor || self.scaled_by_layer;
        unusual.then(|| self.attention_scale(0))
    }

    /// What YaRN multiplies scores of latent attention with.
    fn yarn_score_factor(&self) -> f32 {
        self.latent.map_or(1.0, |latent| latent.score_factor(&self.rope.scaling))
    }

    /// Numbers of what attention gathers for a token: the input of its output projection.
    pub fn attended(&self) -> usize {
        self.heads * self.latent.map_or(self.head_dim, |latent| latent.value_dim)
    }

    /// Whether this layer rotates queries and keys, where positions enter so.
    pub fn rotates(&self, layer: usize) -> bool {
        !self.unrotated_layers.get(layer).copied().unwrap_or(false)
    }

    /// Whether norms of queries and keys are of all heads together, not of each.
    pub fn qk_norm_whole(&self) -> bool {
        let query = self.architecture.tensors.iter().find(|t| t.role == TensorRole::AttentionQNorm);
        self.qk_norm && query.is_some_and(|t| t.shape == [Dim::Query])
    }

    /// What embeddings are multiplied by.
    pub fn embedding_scale(&self) -> f32 {
        let usual = if self.architecture.scaled_embeddings { (self.hidden_size as f32).sqrt() } else { 1.0 };
        usual * self.embedding_multiplier
    }

    /// The layers that do not rotate by the architecture's rule, where the files do not list them.
    pub(crate) fn usual_unrotated_layers(&self) -> Vec<bool> {
        use crate::architecture::Unrotated;
        let unrotated = |layer: usize| match self.architecture.unrotated {
            Unrotated::None | Unrotated::WithoutBase => false,
            Unrotated::All => true,
            Unrotated::Every(n) => (layer + 1).is_multiple_of(n),
            Unrotated::Unwindowed => self.sliding_window.is_some() && self.window(layer).is_none(),
        };
        (0..self.layers).map(unrotated).collect()
    }

    /// Which layers a window limits by the architecture's rule, where the files do not list them.
    pub(crate) fn usual_sliding_layers(&self) -> Vec<bool> {
        use crate::architecture::Sliding;
        let limited = |layer: usize| match self.architecture.sliding {
            Sliding::All | Sliding::AllUnlessListed => true,
            Sliding::ButEvery(n) => !(layer + 1).is_multiple_of(n),
            Sliding::ButFirstOf(n) => !layer.is_multiple_of(n),
            Sliding::FromLayer => false,
        };
        (0..self.layers).map(|layer| self.sliding_window.is_some() && limited(layer)).collect()
    }

    /// The rules that hold for both formats.
    fn checked(self, file: &Path) -> Result<Self> {
        let bad = |what: String| Err(Error::malformed(file, what));
        if !self.heads.is_multiple_of(self.kv_heads) {
            return bad(format!(
                "{} attention heads cannot share {} key-value heads evenly",
                self.heads, self.kv_heads
            ));
        }
        if let Some(KeyHeads { count, size }) = self.windowed_heads
            && (!self.heads.is_multiple_of(count) || !size.is_multiple_of(2))
        {
            return bad(format!(
                "{} attention heads cannot share {count} key-value heads of {size} under a window",
                self.heads
            ));
        }
        if let Some(layer) = (self.layers.saturating_sub(self.shared_kv_layers)..self.layers)
            .find(|&layer| self.kv_source(layer).is_none())
        {
            return bad(format!(
                "layer {layer} shares keys and values with an earlier one of its kind, and there is none"
            ));
        }
        if !self.rope.dimensions.is_multiple_of(2) || self.rope.dimensions > self.head_dim {
            return bad(format!(
                "rope cannot rotate {} dimensions of heads of {}",
                self.rope.dimensions, self.head_dim
            ));
        }
        if !(self.norm_epsilon.is_finite() && self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0) {
            return bad(format!("{} is not a valid epsilon for a norm", self.norm_epsilon));
        }
        for theta in [Some(self.rope.theta), self.rope.local_theta].into_iter().flatten() {
            if !(theta.is_finite() && theta > 0.0) {
                return bad(format!("{theta} is not a valid base for rope"));
            }
        }
        if matches!(self.rope.scaling, RopeScaling::Yarn { .. }) && self.rope.theta <= 1.0 {
            return bad(format!("{} is not a valid base for rope with yarn scaling", self.rope.theta));
        }
        for (what, value) in [
            ("attention soft cap", self.attention_softcap),
            ("soft cap of the logits", self.final_softcap),
            ("query scalar", self.query_scalar),
            ("multiplier of attention", self.attention_multiplier),
            ("limit of queries, keys and values", self.qkv_limit),
            ("multiplier of embeddings", Some(self.embedding_multiplier)),
            ("multiplier of the residual stream", Some(self.residual_multiplier)),
            ("divisor of the logits", Some(self.logit_divisor)),
            ("multiplier of the logits", Some(self.logit_multiplier)),
        ] {
            if value.is_some_and(|v| !(v.is_finite() && v > 0.0)) {
                return bad(format!("{} is not a valid {what}", value.unwrap_or_default()));
            }
        }
        if let Some(QueryGrowth { beta, .. }) = self.query_growth
            && !(beta.is_finite() && (0.0..=100.0).contains(&beta))
        {
            return bad(format!("{beta} is not a valid growth of queries with their position"));
        }
        indexer::check(&self, file)?;
        if let Some(Err(what)) = self.states.as_ref().map(|states| states.check(self.layers)) {
            return bad(what);
        }
        if self.multipliers.is_some_and(|multipliers| !multipliers.are_valid()) {
            return bad("the multipliers of layers are not numbers above zero".to_owned());
        }
        if let Some(what) = self.experts.and_then(|experts| experts.impossible()) {
            return bad(what);
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
