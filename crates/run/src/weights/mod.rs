//! The tensors of a checkpoint, found by role and checked against the config.
//!
//! Plain and block types stay where they are, in the memory map: a [`Weight`] then keeps the
//! checkpoint open. Packed layers (GPTQ, AWQ, bitsandbytes) and those that are quantized while loading become rows
//! of blocks in memory. Vectors (norms, biases) are decoded to f32.

mod block;
mod lookup;
mod mixers;
mod resolve;
mod upload;

use std::sync::Arc;

use quern_compute::{Bytes, Matrix, Norm, Permutation, Scales, Vector};
use quern_model::{Config, TensorRole};
use quern_tensor_io::{Checkpoint, ElementType};

pub(crate) use block::{Block, Expert, Experts, ExpertsBeside, Ffn, PerLayer, SharedExpert, Streams, Widen};
pub(crate) use mixers::{
    Attention, Beside, DeltaNet, DeltaProjections, HeadNorms, Indexer, LatentAttention, Mamba2, Mixer,
    Network, Qkv, Queries, ShortConv, Shown, Up, convolved, index_scratch, state_sizes,
};

/// A range of bytes of one tensor in the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// Index into [`Checkpoint::tensors`].
    pub(crate) tensor: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// A tensor of a checkpoint that stays open.
struct MappedTensor {
    checkpoint: Arc<Checkpoint>,
    tensor: usize,
}

impl Bytes for MappedTensor {
    fn bytes(&self) -> &[u8] {
        self.checkpoint.data(&self.checkpoint.tensors()[self.tensor])
    }
}

/// A matrix of the model.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    /// On the device that computes with it.
    pub(crate) matrix: quern_compute::Weight,
    /// Where in the map the numbers are, unless they were made while loading or moved to a GPU.
    pub(crate) mapped: Option<Mapped>,
}

impl Weight {
    /// A matrix in memory.
    ///
    /// # Errors
    /// As [`Matrix::new`].
    pub(crate) fn owned(
        element_type: ElementType,
        rows: usize,
        columns: usize,
        data: Vec<u8>,
    ) -> quern_compute::Result<Self> {
        let range = 0..data.len();
        let matrix = quern_compute::Weight::host(element_type, rows, columns, Arc::new(data), range)?;
        Ok(Self { matrix, mapped: None })
    }

    /// A matrix in the map.
    ///
    /// # Errors
    /// As [`Matrix::new`].
    pub(crate) fn mapped(
        checkpoint: &Arc<Checkpoint>,
        at: Mapped,
        element_type: ElementType,
        rows: usize,
        columns: usize,
    ) -> quern_compute::Result<Self> {
        let owner = Arc::new(MappedTensor { checkpoint: checkpoint.clone(), tensor: at.tensor });
        let matrix = quern_compute::Weight::host(element_type, rows, columns, owner, at.start..at.end)?;
        Ok(Self { matrix, mapped: Some(at) })
    }

    /// The same numbers times these.
    ///
    /// # Errors
    /// As [`Matrix::with_scales`].
    pub(crate) fn with_scales(self, scales: Scales) -> quern_compute::Result<Self> {
        Ok(Self { matrix: self.matrix.with_scales(Arc::new(scales))?, ..self })
    }

    /// The numbers, in RAM.
    pub(crate) fn host(&self) -> quern_compute::Result<Matrix<'_>> {
        self.matrix.matrix()
    }

    pub(crate) fn rows(&self) -> usize {
        self.matrix.rows()
    }

    pub(crate) fn columns(&self) -> usize {
        self.matrix.columns()
    }

    /// Bytes of the numbers, as the file or the load stored them.
    pub(crate) fn bytes(&self) -> u64 {
        let element_type = self.matrix.element_type();
        let scales = self.matrix.scales().map_or(0, |scales| scales.bytes());
        (element_type.row_bytes(self.columns()).unwrap_or(0) * self.rows() + scales) as u64
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
    /// Where in the map its weight is.
    pub(crate) mapped: Option<Mapped>,
    pub(crate) op: quern_compute::Linear,
}

impl Linear {
    /// Bytes of the weight, as the file or the load stored them.
    pub(crate) fn bytes(&self) -> u64 {
        Weight { matrix: self.op.weight.clone(), mapped: None }.bytes()
    }

    /// Computes with another weight from now on.
    pub(crate) fn replace(&mut self, weight: Weight, permutation: Option<Arc<[u32]>>) {
        self.mapped = weight.mapped;
        self.op.weight = weight.matrix;
        self.op.permutation = permutation.map(Permutation::Host);
    }
}

/// What tokens add in all layers (Gemma 4).
#[derive(Clone, Debug)]
pub(crate) struct PerLayerTable {
    /// Of each token the vectors of all layers, side by side.
    pub(crate) embedding: Weight,
    /// Of what is made of the token's embedding, in each layer.
    pub(crate) norm: Norm,
}

/// Whether norms of the residual stream have no weights in a checkpoint (OLMo).
pub(crate) fn plain_norms(config: &Config) -> bool {
    config.architecture.tensors.iter().all(|tensor| tensor.role != TensorRole::OutputNorm)
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
    /// What tokens add in each layer.
    pub(crate) per_layer: Option<PerLayerTable>,
    /// From the embedding to the other streams, and from them to the head.
    pub(crate) streams: Option<[Vec<Linear>; 2]>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) output_norm: Option<Norm>,
    pub(crate) output: Linear,
    /// The head is the embedding.
    pub(crate) tied: bool,
    /// Bytes of the linear layers and the embedding in the file.
    pub(crate) bytes_in_file: u64,
    /// Experts that a token chooses in each block.
    pub(crate) experts_used: usize,
    /// Norms have no weights in the checkpoint.
    pub(crate) plain_norms: bool,
}

impl Weights {
    /// Bytes of the linear layers and the embedding as they are computed with.
    pub(crate) fn bytes(&self) -> u64 {
        let linears = self.blocks.iter().flat_map(Block::linears);
        let head = if self.tied { 0 } else { self.output.bytes() };
        let table = self.per_layer.as_ref().map_or(0, |table| table.embedding.bytes());
        let context = self.blocks.iter().filter_map(|block| block.per_layer.as_ref());
        let context = context.map(|per_layer| per_layer.context.bytes()).sum::<u64>();
        self.embedding.bytes() + head + table + context + linears.map(|l| l.bytes()).sum::<u64>()
    }

    /// Bytes of weights that generating one token reads: every matrix but the embedding, of which it is a row,
    /// and of a block's experts those chosen.
    pub(crate) fn bytes_per_token(&self) -> u64 {
        let block = |block: &Block| {
            // The matrices of single heads are read by every token.
            let expert = |l: &Linear| {
                l.expert.is_some() && ![TensorRole::AttentionKUp, TensorRole::AttentionVUp].contains(&l.role)
            };
            let all = block.linears().into_iter().map(|l| (expert(l), l.bytes()));
            let (experts, common): (Vec<_>, Vec<_>) = all.partition(|&(expert, _)| expert);
            let sum = |part: Vec<(bool, u64)>| part.into_iter().map(|(_, bytes)| bytes).sum::<u64>();
            let (chosen, router) = match block.mixture() {
                None => (0, 0),
                Some(mixture) => {
                    let count = mixture.experts.len().max(1) as u64;
                    // The one row that weights a shared expert counts with the vectors.
                    let router = mixture.router.bytes();
                    (sum(experts) / count * self.experts_used as u64, router)
                }
            };
            let context = block.per_layer.as_ref().map_or(0, |per_layer| per_layer.context.bytes());
            let streams = block.streams.as_ref().map_or(0, |s| {
                let linears = [&s.router, &s.predict, &s.correct, &s.laurel_in, &s.laurel_out];
                linears.into_iter().map(Linear::bytes).sum::<u64>()
            });
            sum(common) + chosen + router + context + streams
        };
        let ends = [&self.embedding_in, &self.embedding_out].into_iter().flatten().chain([&self.output]);
        let ends = ends.chain(self.streams.iter().flatten().flatten());
        self.blocks.iter().map(block).sum::<u64>() + ends.map(|l| l.bytes()).sum::<u64>()
    }

    /// Numbers for each token in front of a mixer's output layer, at most.
    pub(crate) fn mixed_width(&self) -> usize {
        self.blocks.iter().map(|block| block.mixer.width()).max().unwrap_or(0)
    }

    /// Memory for each token that mixers compute in, at most.
    pub(crate) fn mixer_scratch(&self) -> usize {
        self.blocks.iter().map(|block| block.mixer.scratch()).max().unwrap_or(0)
    }

    /// Whether any layer keeps a state of a text.
    pub(crate) fn has_states(&self) -> bool {
        self.blocks.iter().any(|block| block.mixer.state() > 0)
    }

    /// Numbers in all of them that the checkpoint has; a tied head counts once.
    pub(crate) fn parameters(&self) -> u64 {
        let matrix = |w: &Weight| (w.rows() * w.columns()) as u64;
        let linear = |l: &Linear| {
            let (weight, bias) = (&l.op.weight, l.op.bias.as_ref());
            (weight.rows() * weight.columns()) as u64 + bias.map_or(0, |b| b.len() as u64)
        };
        let norm = |n: &Norm| match self.plain_norms {
            true => 0,
            false => (n.weight.len() + n.bias.as_ref().map_or(0, Vector::len)) as u64,
        };
        let block = |b: &Block| {
            let router = b.mixture().map_or(0, |experts| {
                let bias = experts.choice_bias.as_ref().map_or(0, |bias| bias.len() as u64);
                bias + experts.scales.len() as u64 + experts.routers().map(linear).sum::<u64>()
            });
            let own = b.per_layer.as_ref().map_or(0, |own| linear(&own.context));
            let own = own
                + b.streams.as_ref().map_or(0, |s| {
                    let linears = [&s.router, &s.predict, &s.correct, &s.laurel_in, &s.laurel_out];
                    linears.into_iter().map(linear).sum::<u64>()
                        + norm(&s.router_norm)
                        + norm(&s.laurel_norm)
                        + s.scale.len() as u64
                });
            // The factor behind a block is a tensor where there are such.
            let scale = u64::from(b.scale.is_some()) + 4 * u64::from(b.xielu.is_some());
            b.mixer.vector_values() as u64
                + router
                + own
                + scale
                + b.norms().map(norm).sum::<u64>()
                + b.linears().into_iter().map(linear).sum::<u64>()
        };
        let head = if self.tied { 0 } else { linear(&self.output) };
        let projections = [&self.embedding_in, &self.embedding_out].into_iter().flatten().map(linear);
        let outside = matrix(&self.embedding)
            + self.positions.as_ref().map_or(0, matrix)
            + self.per_layer.as_ref().map_or(0, |table| matrix(&table.embedding) + norm(&table.norm))
            + self.streams.iter().flatten().flatten().map(linear).sum::<u64>()
            + projections.sum::<u64>()
            + self.output_norm.as_ref().map_or(0, norm)
            + head;
        outside + self.blocks.iter().map(block).sum::<u64>()
    }
}
