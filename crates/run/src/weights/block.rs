//! The tensors of one block, by role.

use quern_compute::{ExpertStacks, Norm};
use quern_model::architecture::Block as BlockKind;

use super::Linear;

/// Norms of queries and keys: of each head with one weight for all heads, or (StableLM 2) one for each; or of all heads
/// of a token together.
#[derive(Clone, Debug)]
pub(crate) struct HeadNorms {
    pub(crate) q: Norm,
    pub(crate) k: Norm,
    /// Of each head's values (Gemma 4).
    pub(crate) v: Option<Norm>,
    /// All heads of a token are normalized together (OLMo 2).
    pub(crate) whole: bool,
}

impl HeadNorms {
    /// Those that are of each head.
    pub(crate) fn of_heads(&self) -> Option<(&Norm, &Norm)> {
        (!self.whole).then_some((&self.q, &self.k))
    }
}

/// The projections to queries, keys and values.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a layer
pub(crate) enum Qkv {
    /// One matrix each.
    Separate { q: Linear, k: Linear, v: Linear },
    /// Values are the keys, before norm and rotation.
    KeysAsValues { q: Linear, k: Linear },
    /// Keys and values are those of an earlier layer.
    Queries { q: Linear },
    /// One for all: all queries, all keys, all values, or, `by_group`, those of each key head together.
    Fused { qkv: Linear, by_group: bool },
}

/// The projections into the feed-forward network.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a layer
pub(crate) enum Widen {
    /// `act(gate) * up`.
    Gated { gate: Linear, up: Linear },
    /// The same, both in one matrix, gate first.
    Fused(Linear),
    /// `act(up)`.
    Plain(Linear),
}

/// The feed-forward network.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a layer
pub(crate) enum Ffn {
    Dense { widen: Widen, down: Linear },
    Experts(Box<Experts>),
}

/// A mixture of experts.
#[derive(Clone, Debug)]
pub(crate) struct Experts {
    pub(crate) router: Linear,
    pub(crate) experts: Vec<Expert>,
    /// The same, where they follow each other on a GPU.
    pub(crate) stacks: Option<ExpertStacks>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Expert {
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// What each token adds in a layer, by a vector of its own and one made of its embedding (Gemma 4).
#[derive(Clone, Debug)]
pub(crate) struct PerLayer {
    /// From the embedding to the vector made of it: this layer's rows of one matrix for all.
    pub(crate) context: Linear,
    /// From the residual stream to what the vectors are multiplied with.
    pub(crate) gate: Linear,
    /// From the vectors to the residual stream.
    pub(crate) output: Linear,
    /// Of what is added.
    pub(crate) norm: Norm,
}

/// How the residual streams are mixed before and behind a block (AltUp), and a second way beside attention (Laurel).
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    pub(crate) router_norm: Norm,
    pub(crate) router: Linear,
    pub(crate) predict: Linear,
    pub(crate) correct: Linear,
    /// What the first stream is multiplied with for what tokens add.
    pub(crate) scale: Vec<f32>,
    pub(crate) laurel_in: Linear,
    pub(crate) laurel_out: Linear,
    pub(crate) laurel_norm: Norm,
}

/// The tensors of one block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// None where norms are of what attention and network add alone (OLMo 2).
    pub(crate) attention_norm: Option<Norm>,
    /// The attention's own, where the block is parallel and the other is the network's.
    pub(crate) attention_norm_2: Option<Norm>,
    pub(crate) qkv: Qkv,
    pub(crate) head_norms: Option<HeadNorms>,
    pub(crate) attention_output: Linear,
    /// Of what attention adds.
    pub(crate) attention_post_norm: Option<Norm>,
    /// The network's own; a parallel block may share the attention's.
    pub(crate) ffn_norm: Option<Norm>,
    pub(crate) ffn: Ffn,
    /// Of what the network adds.
    pub(crate) ffn_post_norm: Option<Norm>,
    /// What tokens add behind the network.
    pub(crate) per_layer: Option<Box<PerLayer>>,
    /// Parameters of the network's activation, where it has some.
    pub(crate) xielu: Option<[f32; 4]>,
    /// How streams are mixed, where there are several.
    pub(crate) streams: Option<Box<Streams>>,
    /// Where gates of the network are cut off, in standard deviations above their mean.
    pub(crate) cutoff: Option<f32>,
    /// What the residual stream is multiplied with at the end.
    pub(crate) scale: f32,
}

impl Qkv {
    /// In the order of their outputs.
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Separate { q, k, v } => vec![q, k, v],
            Self::KeysAsValues { q, k } => vec![q, k],
            Self::Queries { q } => vec![q],
            Self::Fused { qkv, .. } => vec![qkv],
        }
    }

    /// The same, to be replaced.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Separate { q, k, v } => vec![q, k, v],
            Self::KeysAsValues { q, k } => vec![q, k],
            Self::Queries { q } => vec![q],
            Self::Fused { qkv, .. } => vec![qkv],
        }
    }
}

impl Widen {
    /// In the order of the computation.
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Gated { gate, up } => vec![gate, up],
            Self::Fused(linear) | Self::Plain(linear) => vec![linear],
        }
    }

    /// The same, to be replaced.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Gated { gate, up } => vec![gate, up],
            Self::Fused(linear) | Self::Plain(linear) => vec![linear],
        }
    }
}

impl Experts {
    /// Gate, up and down of each expert.
    pub(crate) fn ops(&self) -> Vec<[&quern_compute::Linear; 3]> {
        self.experts.iter().map(|e| [&e.gate.op, &e.up.op, &e.down.op]).collect()
    }
}

impl Block {
    /// Values of all queries of a token.
    pub(crate) fn query_width(&self) -> usize {
        self.attention_output.op.weight.columns()
    }

    /// Width inside the network; 0 of a mixture.
    pub(crate) fn ffn_width(&self) -> usize {
        match &self.ffn {
            Ffn::Dense { down, .. } => down.op.weight.columns(),
            Ffn::Experts(_) => 0,
        }
    }

    /// Whether one token's pass on a GPU needs no answer from it.
    pub(crate) fn recordable(&self) -> bool {
        match &self.ffn {
            Ffn::Dense { .. } => true,
            Ffn::Experts(experts) => experts.stacks.is_some(),
        }
    }

    /// The norm of the feed-forward network.
    pub(crate) fn network_norm(&self) -> Option<&Norm> {
        self.ffn_norm.as_ref().or(self.attention_norm.as_ref())
    }

    /// The norm in front of attention, where there is one.
    pub(crate) fn norm_of_attention(&self, kind: BlockKind) -> Option<&Norm> {
        match kind {
            BlockKind::PostNorm | BlockKind::OutputNorm => None,
            BlockKind::Sequential | BlockKind::Parallel => {
                self.attention_norm_2.as_ref().or(self.attention_norm.as_ref())
            }
        }
    }

    /// The linear layers, in the order of the computation; experts without their router, which is never
    /// quantized.
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        let mut all = self.qkv.linears();
        all.push(&self.attention_output);
        match &self.ffn {
            Ffn::Dense { widen, down } => {
                all.extend(widen.linears());
                all.push(down);
            }
            Ffn::Experts(experts) => {
                all.extend(experts.experts.iter().flat_map(|e| [&e.gate, &e.up, &e.down]));
            }
        }
        if let Some(per_layer) = &self.per_layer {
            all.extend([&per_layer.gate, &per_layer.output]);
        }
        all
    }

    pub(super) fn norms(&self) -> impl Iterator<Item = &Norm> {
        let Self { attention_norm, attention_norm_2, attention_post_norm, ffn_norm, ffn_post_norm, .. } =
            self;
        let own = self.per_layer.as_ref().map(|per_layer| &per_layer.norm);
        let norms = [attention_norm, attention_norm_2, attention_post_norm, ffn_norm, ffn_post_norm];
        norms.into_iter().flatten().chain(own)
    }
}
