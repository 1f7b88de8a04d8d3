//! The tensors of a checkpoint, found by role and checked against the config. Nothing large is copied: a
//! [`Weight`] is an index into the checkpoint, its numbers stay in the memory map. Only vectors (norms,
//! biases) are decoded to f32.

use std::collections::HashMap;

use quern_compute::Matrix;
use quern_model::{Config, ExpectedTensor, TensorRole};
use quern_tensor_io::{Checkpoint, ElementType, Error, ErrorKind, TensorInfo, decode};

use crate::Result;

/// A matrix of the checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    /// Index into [`Checkpoint::tensors`].
    tensor: usize,
    pub(crate) element_type: ElementType,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Weight {
    /// The numbers, in the map.
    pub(crate) fn matrix<'a>(&self, checkpoint: &'a Checkpoint) -> quern_compute::Result<Matrix<'a>> {
        let data = checkpoint.data(&checkpoint.tensors()[self.tensor]);
        Matrix::new(self.element_type, self.rows, self.columns, data)
    }
}

/// A linear layer: `y = W x (+ b)`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// The weight's name in the checkpoint.
    pub(crate) name: String,
    pub(crate) role: TensorRole,
    pub(crate) layer: Option<usize>,
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Vec<f32>>,
}

/// The tensors of one block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) attention_output: Linear,
    pub(crate) ffn_norm: Vec<f32>,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// All tensors of a model.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    pub(crate) embedding: Weight,
    pub(crate) blocks: Vec<Block>,
    pub(crate) output_norm: Vec<f32>,
    pub(crate) output: Linear,
}

impl Weights {
    /// Finds and checks every tensor `config` demands.
    ///
    /// # Errors
    /// A missing tensor, a shape that is not the config's, an element type that cannot be run, a vector that
    /// is not finite; always with file and tensor.
    pub(crate) fn resolve(checkpoint: &Checkpoint, config: &Config) -> Result<Self> {
        let finder = Finder::new(checkpoint, config);
        let embedding = finder.matrix(TensorRole::TokenEmbedding, None)?;
        let tied = finder.find(TensorRole::Output, None).is_none() && config.tied_embeddings;
        let output = if tied {
            // The head is the embedding, under its name.
            finder.linear(TensorRole::TokenEmbedding, None, None)?
        } else {
            finder.linear(TensorRole::Output, None, None)?
        };
        let block = |layer| {
            use TensorRole as R;
            let at = Some(layer);
            Ok(Block {
                attention_norm: finder.vector(R::AttentionNorm, at)?,
                q: finder.linear(R::AttentionQ, Some(R::AttentionQBias), at)?,
                k: finder.linear(R::AttentionK, Some(R::AttentionKBias), at)?,
                v: finder.linear(R::AttentionV, Some(R::AttentionVBias), at)?,
                attention_output: finder.linear(R::AttentionOutput, Some(R::AttentionOutputBias), at)?,
                ffn_norm: finder.vector(R::FfnNorm, at)?,
                gate: finder.linear(R::FfnGate, Some(R::FfnGateBias), at)?,
                up: finder.linear(R::FfnUp, Some(R::FfnUpBias), at)?,
                down: finder.linear(R::FfnDown, Some(R::FfnDownBias), at)?,
            })
        };
        Ok(Self {
            embedding,
            blocks: (0..config.layers).map(block).collect::<Result<_>>()?,
            output_norm: finder.vector(TensorRole::OutputNorm, None)?,
            output,
        })
    }

    /// Numbers in all of them; a tied head counts once.
    pub(crate) fn parameters(&self) -> u64 {
        let matrix = |w: &Weight| (w.rows * w.columns) as u64;
        let linear = |l: &Linear| matrix(&l.weight) + l.bias.as_ref().map_or(0, |b| b.len() as u64);
        let block = |b: &Block| {
            let linears = [&b.q, &b.k, &b.v, &b.attention_output, &b.gate, &b.up, &b.down];
            (b.attention_norm.len() + b.ffn_norm.len()) as u64 + linears.into_iter().map(linear).sum::<u64>()
        };
        let tied = self.output.weight.tensor == self.embedding.tensor;
        let head = if tied { 0 } else { linear(&self.output) };
        let outside = matrix(&self.embedding) + self.output_norm.len() as u64 + head;
        outside + self.blocks.iter().map(block).sum::<u64>()
    }
}

/// Looks tensors up by role.
struct Finder<'a> {
    checkpoint: &'a Checkpoint,
    expected: HashMap<(TensorRole, Option<usize>), ExpectedTensor>,
}

impl<'a> Finder<'a> {
    fn new(checkpoint: &'a Checkpoint, config: &Config) -> Self {
        let expected =
            config.expected_tensors(config.world).into_iter().map(|e| ((e.role, e.layer), e)).collect();
        Self { checkpoint, expected }
    }

    /// The expectation and the tensor that meets it by name, if both exist.
    fn find(&self, role: TensorRole, layer: Option<usize>) -> Option<(&ExpectedTensor, usize)> {
        let expected = self.expected.get(&(role, layer))?;
        Some((expected, self.checkpoint.index_of(&expected.name)?))
    }

    /// As [`Self::find`], with the shape checked; an error if it must be there and is not.
    fn need(&self, role: TensorRole, layer: Option<usize>) -> Result<(usize, &'a TensorInfo)> {
        let Some((expected, index)) = self.find(role, layer) else {
            let name =
                self.expected.get(&(role, layer)).map_or_else(|| format!("{role:?}"), |e| e.name.clone());
            let what = "the config demands this tensor and the file does not have it";
            return Err(Error::malformed(self.checkpoint.path(), what).with_tensor(name).into());
        };
        let info = &self.checkpoint.tensors()[index];
        if info.shape != expected.shape {
            let what = format!("its shape is {:?}, the config demands {:?}", info.shape, expected.shape);
            return Err(self.error(info, ErrorKind::Malformed(what)));
        }
        Ok((index, info))
    }

    fn matrix(&self, role: TensorRole, layer: Option<usize>) -> Result<Weight> {
        let (tensor, info) = self.need(role, layer)?;
        if !quern_compute::supports(info.element_type) {
            let what = format!(
                "its element type {} cannot be run yet; convert the model to f16, q8_0 or a K-quant",
                info.element_type
            );
            return Err(self.error(info, ErrorKind::Unsupported(what)));
        }
        Ok(Weight { tensor, element_type: info.element_type, rows: info.rows(), columns: info.columns() })
    }

    fn linear(&self, role: TensorRole, bias: Option<TensorRole>, layer: Option<usize>) -> Result<Linear> {
        let weight = self.matrix(role, layer)?;
        let name = self.checkpoint.tensors()[weight.tensor].name.clone();
        let bias = match bias.and_then(|role| self.expected.get(&(role, layer))) {
            // Demanded by the config, or there although it need not be.
            Some(e) if !e.optional || self.checkpoint.index_of(&e.name).is_some() => {
                Some(self.vector(e.role, layer)?)
            }
            _ => None,
        };
        Ok(Linear { name, role, layer, weight, bias })
    }

    fn vector(&self, role: TensorRole, layer: Option<usize>) -> Result<Vec<f32>> {
        let (_, info) = self.need(role, layer)?;
        let mut values = vec![0.0; info.elements()];
        if !decode::to_f32(info.element_type, self.checkpoint.data(info), &mut values) {
            let what = format!("its element type {} cannot be read as numbers", info.element_type);
            return Err(self.error(info, ErrorKind::Unsupported(what)));
        }
        if values.iter().any(|v| !v.is_finite()) {
            let what = "it holds NaN or infinite values".into();
            return Err(self.error(info, ErrorKind::Malformed(what)));
        }
        Ok(values)
    }

    fn error(&self, info: &TensorInfo, kind: ErrorKind) -> crate::Error {
        Error::new(self.checkpoint.file_of(info), kind).with_tensor(&info.name).into()
    }
}
