//! The tensors of one block, by role.

use quern_compute::{ExpertLayers, ExpertStacks, Norm, Vector};
use quern_model::architecture::Block as BlockKind;

use super::{Linear, Mixer};

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
    Dense {
        widen: Widen,
        down: Linear,
    },
    Experts(Box<Experts>),
    /// The block is its mixer alone.
    None,
}

/// A mixture of experts.
#[derive(Clone, Debug)]
pub(crate) struct Experts {
    pub(crate) router: Linear,
    /// Added to scores for the choice alone.
    pub(crate) choice_bias: Option<Vector>,
    pub(crate) experts: Vec<Expert>,
    /// What the share of each is multiplied with; empty for nothing.
    pub(crate) scales: Vec<f32>,
    /// Around all of them, where they read something narrower than the residual stream.
    pub(crate) latent: Option<Latent>,
    /// The same, where they follow each other on a GPU.
    pub(crate) stacks: Option<ExpertStacks>,
    /// The expert that all tokens use.
    pub(crate) shared: Option<SharedExpert>,
}

/// An expert that all tokens use.
#[derive(Clone, Debug)]
pub(crate) struct SharedExpert {
    pub(crate) expert: Expert,
    /// One output: the sigmoid of it is the token's share.
    pub(crate) router: Option<Linear>,
}

/// The way from the residual stream to what experts read, and from what they make back (Nemotron 3 Super).
#[derive(Clone, Debug)]
pub(crate) struct Latent {
    pub(crate) inward: Linear,
    pub(crate) outward: Linear,
}

/// Experts beside the dense network of a block, which read the same residual stream (Gemma 4).
#[derive(Clone, Debug)]
pub(crate) struct ExpertsBeside {
    pub(crate) experts: Experts,
    /// In front of the router.
    pub(crate) router_norm: Norm,
    /// In front of the experts.
    pub(crate) norm: Norm,
    /// Of what they make.
    pub(crate) post_norm: Norm,
    /// Of what the dense network makes.
    pub(crate) dense_norm: Norm,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Expert {
    pub(crate) widen: Widen,
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
    /// The first half.
    pub(crate) mixer: Mixer,
    /// Of what attention adds.
    pub(crate) attention_post_norm: Option<Norm>,
    /// The network's own; a parallel block may share the attention's.
    pub(crate) ffn_norm: Option<Norm>,
    pub(crate) ffn: Ffn,
    /// Of what the network adds.
    pub(crate) ffn_post_norm: Option<Norm>,
    /// Beside a dense network.
    pub(crate) beside: Option<Box<ExpertsBeside>>,
    /// What tokens add behind the network.
    pub(crate) per_layer: Option<Box<PerLayer>>,
    /// Parameters of the network's activation, where it has some.
    pub(crate) xielu: Option<[f32; 4]>,
    /// How streams are mixed, where there are several.
    pub(crate) streams: Option<Box<Streams>>,
    /// Where gates of the network are cut off, in standard deviations above their mean.
    pub(crate) cutoff: Option<f32>,
    /// What the residual stream is multiplied with at the end, where the model has such a number.
    pub(crate) scale: Option<f32>,
}

impl Widen {
    /// In the order of the computation.
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Gated { gate, up } => vec![gate, up],
            Self::Fused(linear) | Self::Plain(linear) => vec![linear],
        }
    }

    /// The gate alone.
    pub(crate) fn gate(&self) -> Option<&Linear> {
        match self {
            Self::Gated { gate, .. } => Some(gate),
            Self::Fused(_) | Self::Plain(_) => None,
        }
    }

    /// What it multiplies, or all there is.
    pub(crate) fn up(&self) -> &Linear {
        match self {
            Self::Gated { up, .. } => up,
            Self::Fused(linear) | Self::Plain(linear) => linear,
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

impl Expert {
    /// In the order of the computation.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.widen.gate().into_iter().chain([self.widen.up(), &self.down])
    }
}

impl Experts {
    /// What chooses and weights experts, which is never quantized.
    pub(crate) fn routers(&self) -> impl Iterator<Item = &Linear> {
        [&self.router].into_iter().chain(self.shared.as_ref().and_then(|shared| shared.router.as_ref()))
    }

    /// Gate, up and down of all experts, and the layers around them, in the order of the computation: the shared one is
    /// the last.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let shared = self.shared.iter().flat_map(|shared| shared.expert.linears());
        let inward = self.latent.iter().map(|latent| &latent.inward);
        let outward = self.latent.iter().map(|latent| &latent.outward);
        inward.chain(self.experts.iter().flat_map(Expert::linears)).chain(outward).chain(shared)
    }

    /// The layers of each expert that a router chooses.
    pub(crate) fn ops(&self) -> Vec<ExpertLayers<'_>> {
        let experts = self.experts.iter();
        let layers = experts.map(|e| (e.widen.gate().map(|gate| &gate.op), &e.widen.up().op, &e.down.op));
        layers.map(|(gate, up, down)| ExpertLayers { gate, up, down }).collect()
    }
}

impl Block {
    /// Width inside the network; 0 of a mixture.
    pub(crate) fn ffn_width(&self) -> usize {
        match &self.ffn {
            Ffn::Dense { down, .. } => down.op.weight.columns(),
            Ffn::Experts(_) | Ffn::None => 0,
        }
    }

    /// Its mixture of experts, alone or beside a dense network.
    pub(crate) fn mixture(&self) -> Option<&Experts> {
        match &self.ffn {
            Ffn::Experts(experts) => Some(experts),
            Ffn::Dense { .. } | Ffn::None => self.beside.as_ref().map(|beside| &beside.experts),
        }
    }

    /// Whether one token's pass on a GPU needs no answer from it.
    pub(crate) fn recordable(&self) -> bool {
        match &self.ffn {
            Ffn::Dense { .. } | Ffn::None => true,
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

    /// The linear layers, in the order of the computation; experts without their routers, which are
    /// never quantized.
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        let mut all = self.mixer.linears();
        match &self.ffn {
            Ffn::Dense { widen, down } => {
                all.extend(widen.linears());
                all.push(down);
            }
            Ffn::Experts(experts) => {
                all.extend(experts.linears());
            }
            Ffn::None => {}
        }
        all.extend(self.beside.iter().flat_map(|beside| beside.experts.linears()));
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
        let beside = self.beside.iter().flat_map(|beside| {
            let ExpertsBeside { router_norm, norm, post_norm, dense_norm, .. } = &**beside;
            [router_norm, norm, post_norm, dense_norm]
        });
        norms.into_iter().flatten().chain(own).chain(beside)
    }
}
