//! The tensors of a checkpoint, found by role and checked against the config.
//!
//! Plain and block types stay where they are, in the memory map: a [`Weight`] is then an index into the
//! checkpoint. Packed layers (GPTQ, AWQ, bitsandbytes) and those that are quantized while loading become rows
//! of blocks in memory. Vectors (norms, biases) are decoded to f32.

mod block;
mod lookup;
mod resolve;

use std::sync::Arc;

use quern_compute::Matrix;
use quern_model::TensorRole;
use quern_tensor_io::{Checkpoint, ElementType};

pub(crate) use block::{Block, Experts, Ffn, Qkv, Widen};

/// Where a matrix's numbers are.
#[derive(Clone, Debug)]
enum Storage {
    /// In the map.
    Mapped(Mapped),
    /// Rows of blocks made while loading.
    Owned(Arc<[u8]>),
}

/// A range of bytes of one tensor in the map.
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
            Storage::Mapped(range) => Some(range),
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
    /// Column `j` of the weight multiplies value `permutation[j]` of the input (act-order GPTQ).
    pub(crate) permutation: Option<Arc<[u32]>>,
}

/// Weight and bias of a norm.
#[derive(Clone, Debug)]
pub(crate) struct NormWeights {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Option<Vec<f32>>,
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
