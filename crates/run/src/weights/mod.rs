//! The tensors of a checkpoint, found by role and checked against the config.
//!
//! Plain and block types stay where they are, in the memory map: a [`Weight`] is then an index into the
//! checkpoint. Packed layers (GPTQ, AWQ, bitsandbytes) and those that are quantized while loading become rows
//! of blocks in memory. Vectors (norms, biases) are decoded to f32.

mod lookup;

use std::sync::Arc;

use quern_compute::{Matrix, Pool};
use quern_model::architecture::{Block as BlockKind, Position};
use quern_model::{Config, TensorRole, View};
use quern_tensor_io::{Checkpoint, ElementType};

use crate::Result;
use crate::load::LoadIn;
use lookup::Lookup;

/// Where a matrix's numbers are.
#[derive(Clone, Debug)]
enum Storage {
    /// In the map.
    Mapped(Mapped),
    /// Rows of blocks made while loading.
    Owned(Arc<[u8]>),
}

/// A place in the map: bytes of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// Index into [`Checkpoint::tensors`].
    pub(crate) tensor: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// A matrix of the model.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    storage: Storage,
    pub(crate) element_type: ElementType,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Weight {
    /// A matrix in memory.
    pub(crate) fn owned(element_type: ElementType, rows: usize, columns: usize, data: Vec<u8>) -> Self {
        Self { storage: Storage::Owned(data.into()), element_type, rows, columns }
    }

    /// The numbers.
    pub(crate) fn matrix<'a>(&'a self, checkpoint: &'a Checkpoint) -> quern_compute::Result<Matrix<'a>> {
        let data = match &self.storage {
            Storage::Mapped(at) => &checkpoint.data(&checkpoint.tensors()[at.tensor])[at.start..at.end],
            Storage::Owned(data) => data,
        };
        Matrix::new(self.element_type, self.rows, self.columns, data)
    }

    /// Where in the map the numbers are, unless they were made while loading.
    pub(crate) fn mapped(&self) -> Option<Mapped> {
        match self.storage {
            Storage::Mapped(place) => Some(place),
            Storage::Owned(_) => None,
        }
    }

    /// Bytes of the numbers.
    pub(crate) fn bytes(&self) -> u64 {
        (self.element_type.row_bytes(self.columns).unwrap_or(0) * self.rows) as u64
    }
}

/// A linear layer: `y = W x (+ b)`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// The weight's name in the checkpoint.
    pub(crate) name: String,
    pub(crate) role: TensorRole,
    pub(crate) layer: Option<usize>,
    /// Which expert's it is.
    pub(crate) expert: Option<usize>,
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Vec<f32>>,
    /// Column `j` of the weight meets value `permutation[j]` of the input (act-order GPTQ).
    pub(crate) permutation: Option<Arc<[u32]>>,
}

/// Weight and bias of a norm.
#[derive(Clone, Debug)]
pub(crate) struct NormWeights {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Option<Vec<f32>>,
}

/// Norms of each query and key head: one weight for all heads, or (StableLM 2) one for each.
#[derive(Clone, Debug)]
pub(crate) struct HeadNorms {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
}

/// The projections to queries, keys and values.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a layer
pub(crate) enum Qkv {
    /// One matrix each.
    Separate { q: Linear, k: Linear, v: Linear },
    /// One for all: all queries, all keys, all values, or, `by_group`, those of each key head together.
    Fused { qkv: Linear, by_group: bool },
}

/// The projections into the feed-forward network.
#[derive(Clone, Debug)]
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
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Expert {
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// The tensors of one block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) attention_norm: NormWeights,
    /// The attention's own, where the block is parallel and the other is the network's.
    pub(crate) attention_norm_2: Option<NormWeights>,
    pub(crate) qkv: Qkv,
    pub(crate) head_norms: Option<HeadNorms>,
    pub(crate) attention_output: Linear,
    /// Of what attention adds.
    pub(crate) attention_post_norm: Option<NormWeights>,
    /// The network's own; a parallel block may share the attention's.
    pub(crate) ffn_norm: Option<NormWeights>,
    pub(crate) ffn: Ffn,
    /// Of what the network adds.
    pub(crate) ffn_post_norm: Option<NormWeights>,
}

impl Qkv {
    /// In the order of their outputs.
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Separate { q, k, v } => vec![q, k, v],
            Self::Fused { qkv, .. } => vec![qkv],
        }
    }

    /// The same, to be replaced.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Separate { q, k, v } => vec![q, k, v],
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

impl Block {
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
        all
    }

    fn norms(&self) -> impl Iterator<Item = &NormWeights> {
        let Self { attention_norm, attention_norm_2, attention_post_norm, ffn_norm, ffn_post_norm, .. } =
            self;
        let others = [attention_norm_2, attention_post_norm, ffn_norm, ffn_post_norm];
        std::iter::once(attention_norm).chain(others.into_iter().flatten())
    }
}

/// All tensors of a model.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    pub(crate) embedding: Weight,
    /// The table of learned positions.
    pub(crate) positions: Option<Weight>,
    /// From the embedding's width to the residual stream's and back, where they differ.
    pub(crate) embedding_in: Option<Linear>,
    pub(crate) embedding_out: Option<Linear>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) output_norm: Option<NormWeights>,
    pub(crate) output: Linear,
    /// The head is the embedding.
    pub(crate) tied: bool,
    /// Bytes of the linear layers and the embedding in the file.
    pub(crate) bytes_in_file: u64,
    /// Experts that a token chooses in each block.
    pub(crate) experts_used: usize,
}

impl Weights {
    /// Takes every tensor from `view`, which is the checkpoint as it is stored.
    ///
    /// # Errors
    /// An element type that cannot be run, a vector that is not finite, a tensor that this forward pass needs and
    /// the configuration does not demand; always with file and tensor.
    pub(crate) fn resolve(
        view: &View<'_>,
        config: &Config,
        load_in: Option<&dyn LoadIn>,
        pool: &Pool,
    ) -> Result<Self> {
        use TensorRole as R;
        let lookup = Lookup::new(view, load_in, pool);
        let (embedding, _) = lookup.matrix(R::TokenEmbedding, None, None)?;
        let tied = !lookup.has(R::Output, None) && config.tied_embeddings;
        let output = if tied {
            // The head is the embedding, under its name.
            lookup.tied(embedding.clone())?
        } else {
            lookup.linear(R::Output, Some(R::OutputBias), None)?
        };
        let positions = match config.architecture.position {
            Position::Learned { .. } => Some(lookup.matrix(R::PositionEmbedding, None, None)?.0),
            _ => None,
        };
        let projection = |role| match config.embedding_size == config.hidden_size {
            true => Ok(None),
            false => lookup.linear(role, None, None).map(Some),
        };
        let blocks = (0..config.layers).map(|layer| block(&lookup, config, layer)).collect::<Result<_>>()?;
        Ok(Self {
            embedding,
            positions,
            embedding_in: projection(R::EmbeddingIn)?,
            embedding_out: projection(R::EmbeddingOut)?,
            blocks,
            output_norm: lookup.norm_if(config.final_norm, R::OutputNorm, Some(R::OutputNormBias), None)?,
            output,
            tied,
            bytes_in_file: lookup.bytes(),
            experts_used: config.experts.map_or(0, |e| e.used),
        })
    }

    /// Bytes of the linear layers and the embedding as they are computed with.
    pub(crate) fn bytes(&self) -> u64 {
        let linears = self.blocks.iter().flat_map(Block::linears);
        let head = if self.tied { 0 } else { self.output.weight.bytes() };
        self.embedding.bytes() + head + linears.map(|l| l.weight.bytes()).sum::<u64>()
    }

    /// Bytes of weights that generating one token reads: every matrix but the embedding, of which it is a row,
    /// and of a block's experts those chosen.
    pub(crate) fn bytes_per_token(&self) -> u64 {
        let block = |block: &Block| {
            let all = block.linears().into_iter().map(|l| (l.expert.is_some(), l.weight.bytes()));
            let (experts, common): (Vec<_>, Vec<_>) = all.partition(|&(expert, _)| expert);
            let sum = |part: Vec<(bool, u64)>| part.into_iter().map(|(_, bytes)| bytes).sum::<u64>();
            let (chosen, router) = match &block.ffn {
                Ffn::Dense { .. } => (0, 0),
                Ffn::Experts(mixture) => {
                    let count = mixture.experts.len().max(1) as u64;
                    (sum(experts) / count * self.experts_used as u64, mixture.router.weight.bytes())
                }
            };
            sum(common) + chosen + router
        };
        let ends = [&self.embedding_in, &self.embedding_out].into_iter().flatten().chain([&self.output]);
        self.blocks.iter().map(block).sum::<u64>() + ends.map(|l| l.weight.bytes()).sum::<u64>()
    }

    /// Numbers in all of them; a tied head counts once.
    pub(crate) fn parameters(&self) -> u64 {
        let matrix = |w: &Weight| (w.rows * w.columns) as u64;
        let linear = |l: &Linear| matrix(&l.weight) + l.bias.as_ref().map_or(0, |b| b.len() as u64);
        let norm = |n: &NormWeights| (n.weight.len() + n.bias.as_ref().map_or(0, Vec::len)) as u64;
        let block = |b: &Block| {
            let heads = b.head_norms.as_ref().map_or(0, |n| (n.q.len() + n.k.len()) as u64);
            let router = match &b.ffn {
                Ffn::Experts(experts) => linear(&experts.router),
                Ffn::Dense { .. } => 0,
            };
            heads
                + router
                + b.norms().map(norm).sum::<u64>()
                + b.linears().into_iter().map(linear).sum::<u64>()
        };
        let head = if self.tied { 0 } else { linear(&self.output) };
        let projections = [&self.embedding_in, &self.embedding_out].into_iter().flatten().map(linear);
        let outside = matrix(&self.embedding)
            + self.positions.as_ref().map_or(0, matrix)
            + projections.sum::<u64>()
            + self.output_norm.as_ref().map_or(0, norm)
            + head;
        outside + self.blocks.iter().map(block).sum::<u64>()
    }
}

fn block(lookup: &Lookup<'_, '_>, config: &Config, layer: usize) -> Result<Block> {
    use TensorRole as R;
    let at = Some(layer);
    let has = |role| lookup.has(role, at);
    let qkv = match has(R::AttentionQkv) {
        true => Qkv::Fused {
            qkv: lookup.linear(R::AttentionQkv, Some(R::AttentionQkvBias), at)?,
            by_group: lookup.by_group(R::AttentionQkv, at),
        },
        false => Qkv::Separate {
            q: lookup.linear(R::AttentionQ, Some(R::AttentionQBias), at)?,
            k: lookup.linear(R::AttentionK, Some(R::AttentionKBias), at)?,
            v: lookup.linear(R::AttentionV, Some(R::AttentionVBias), at)?,
        },
    };
    let head_norms = match config.qk_norm {
        true => Some(HeadNorms {
            q: lookup.vector(R::AttentionQNorm, at)?,
            k: lookup.vector(R::AttentionKNorm, at)?,
        }),
        false => None,
    };
    let ffn = match &config.experts {
        Some(experts) => Ffn::Experts(Box::new(Experts {
            router: lookup.linear(R::Router, None, at)?,
            experts: (0..experts.count).map(|e| expert(lookup, layer, e)).collect::<Result<_>>()?,
        })),
        None => {
            let widen = if has(R::FfnGateUp) {
                Widen::Fused(lookup.linear(R::FfnGateUp, None, at)?)
            } else if config.architecture.gated {
                Widen::Gated {
                    gate: lookup.linear(R::FfnGate, Some(R::FfnGateBias), at)?,
                    up: lookup.linear(R::FfnUp, Some(R::FfnUpBias), at)?,
                }
            } else {
                Widen::Plain(lookup.linear(R::FfnUp, Some(R::FfnUpBias), at)?)
            };
            Ffn::Dense { widen, down: lookup.linear(R::FfnDown, Some(R::FfnDownBias), at)? }
        }
    };
    let norm = |role, bias| lookup.norm_if(has(role), role, Some(bias), at);
    let attention_norm = norm(R::AttentionNorm, R::AttentionNormBias)?;
    let ffn_norm = norm(R::FfnNorm, R::FfnNormBias)?;
    // Only a parallel block can share the attention's.
    let ffn_norm = match ffn_norm {
        None if config.block != BlockKind::Parallel => Some(lookup.norm(R::FfnNorm, None, at)?),
        found => found,
    };
    Ok(Block {
        // Every architecture has it: the error names it where the file does not.
        attention_norm: match attention_norm {
            Some(norm) => norm,
            None => lookup.norm(R::AttentionNorm, None, at)?,
        },
        attention_norm_2: norm(R::AttentionNorm2, R::AttentionNorm2Bias)?,
        qkv,
        head_norms,
        attention_output: lookup.linear(R::AttentionOutput, Some(R::AttentionOutputBias), at)?,
        attention_post_norm: lookup.norm_if(has(R::AttentionPostNorm), R::AttentionPostNorm, None, at)?,
        ffn_norm,
        ffn,
        ffn_post_norm: lookup.norm_if(has(R::FfnPostNorm), R::FfnPostNorm, None, at)?,
    })
}

fn expert(lookup: &Lookup<'_, '_>, layer: usize, expert: usize) -> Result<Expert> {
    let linear = |role| lookup.expert(role, layer, expert);
    Ok(Expert {
        gate: linear(TensorRole::ExpertsGate)?,
        up: linear(TensorRole::ExpertsUp)?,
        down: linear(TensorRole::ExpertsDown)?,
    })
}
