//! The tensors of a checkpoint, found by role and checked against the config.
//!
//! Plain and block types stay where they are, in the memory map: a [`Weight`] is then an index into the
//! checkpoint. Packed layers (GPTQ, AWQ, bitsandbytes) and those that are quantized while loading become rows
//! of blocks in memory. Vectors (norms, biases) are decoded to f32.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use quern_compute::{Matrix, Pool};
use quern_model::{Config, ExpectedTensor, TensorRole};
use quern_tensor_io::scheme::{PackedLayer, Packing};
use quern_tensor_io::{Checkpoint, ElementType, Error, ErrorKind, TensorInfo, decode};

use crate::Result;
use crate::load::{LoadIn, encoded, repacked, unpacked};

/// Where a matrix's numbers are.
#[derive(Clone, Debug)]
enum Storage {
    /// In the map: index into [`Checkpoint::tensors`].
    Mapped(usize),
    /// Rows of blocks made while loading.
    Owned(Arc<[u8]>),
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
            Storage::Mapped(tensor) => checkpoint.data(&checkpoint.tensors()[*tensor]),
            Storage::Owned(data) => data,
        };
        Matrix::new(self.element_type, self.rows, self.columns, data)
    }

    /// Bytes of the numbers.
    fn bytes(&self) -> u64 {
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
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Vec<f32>>,
    /// Column `j` of the weight meets value `permutation[j]` of the input (act-order GPTQ).
    pub(crate) permutation: Option<Arc<[u32]>>,
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

impl Block {
    /// The linear layers, in the order of the computation.
    pub(crate) fn linears(&self) -> [&Linear; 7] {
        let Self { q, k, v, attention_output, gate, up, down, .. } = self;
        [q, k, v, attention_output, gate, up, down]
    }
}

/// All tensors of a model.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    pub(crate) embedding: Weight,
    pub(crate) blocks: Vec<Block>,
    pub(crate) output_norm: Vec<f32>,
    pub(crate) output: Linear,
    /// The head is the embedding.
    tied: bool,
    /// Bytes of the linear layers and the embedding in the file.
    pub(crate) bytes_in_file: u64,
}

impl Weights {
    /// Finds and checks every tensor `config` demands.
    ///
    /// # Errors
    /// A missing tensor, a shape that is not the config's, an element type that cannot be run, a vector that
    /// is not finite; always with file and tensor.
    pub(crate) fn resolve(
        checkpoint: &Checkpoint,
        config: &Config,
        packing: Option<&Packing>,
        load_in: Option<&dyn LoadIn>,
        pool: &Pool,
    ) -> Result<Self> {
        let finder = Finder::new(checkpoint, config, packing, load_in, pool);
        let (embedding, _) = finder.matrix(TensorRole::TokenEmbedding, None)?;
        let tied = finder.find(TensorRole::Output, None).is_none() && config.tied_embeddings;
        let output = if tied {
            // The head is the embedding, under its name.
            finder.tied(embedding.clone())
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
        let blocks = (0..config.layers).map(block).collect::<Result<_>>()?;
        let output_norm = finder.vector(TensorRole::OutputNorm, None)?;
        let bytes_in_file = finder.bytes.get();
        Ok(Self { embedding, blocks, output_norm, output, tied, bytes_in_file })
    }

    /// Bytes of the linear layers and the embedding as they are computed with.
    pub(crate) fn bytes(&self) -> u64 {
        let linears = self.blocks.iter().flat_map(Block::linears);
        let head = if self.tied { 0 } else { self.output.weight.bytes() };
        self.embedding.bytes() + head + linears.map(|l| l.weight.bytes()).sum::<u64>()
    }

    /// Numbers in all of them; a tied head counts once.
    pub(crate) fn parameters(&self) -> u64 {
        let matrix = |w: &Weight| (w.rows * w.columns) as u64;
        let linear = |l: &Linear| matrix(&l.weight) + l.bias.as_ref().map_or(0, |b| b.len() as u64);
        let block = |b: &Block| {
            let norms = (b.attention_norm.len() + b.ffn_norm.len()) as u64;
            norms + b.linears().into_iter().map(linear).sum::<u64>()
        };
        let head = if self.tied { 0 } else { linear(&self.output) };
        let outside = matrix(&self.embedding) + self.output_norm.len() as u64 + head;
        outside + self.blocks.iter().map(block).sum::<u64>()
    }
}

/// Looks tensors up by role.
struct Finder<'a> {
    checkpoint: &'a Checkpoint,
    expected: HashMap<(TensorRole, Option<usize>), ExpectedTensor>,
    packed: HashMap<&'a str, &'a PackedLayer>,
    load_in: Option<&'a dyn LoadIn>,
    pool: &'a Pool,
    /// Bytes found so far.
    bytes: Cell<u64>,
}

/// A matrix as the checkpoint holds it.
enum Source<'a> {
    Plain(usize, &'a TensorInfo),
    Packed(&'a PackedLayer),
}

impl<'a> Finder<'a> {
    fn new(
        checkpoint: &'a Checkpoint,
        config: &Config,
        packing: Option<&'a Packing>,
        load_in: Option<&'a dyn LoadIn>,
        pool: &'a Pool,
    ) -> Self {
        let expected =
            config.expected_tensors(config.world).into_iter().map(|e| ((e.role, e.layer), e)).collect();
        let layers = packing.into_iter().flat_map(Packing::layers);
        let packed = layers.map(|l| (l.name.as_str(), l)).collect();
        Self { checkpoint, expected, packed, load_in, pool, bytes: Cell::new(0) }
    }

    /// The expectation and what meets it by name, if both exist. A packed layer comes first: bitsandbytes
    /// keeps its codes under the weight's own name.
    fn find(&self, role: TensorRole, layer: Option<usize>) -> Option<(&ExpectedTensor, Source<'a>)> {
        let expected = self.expected.get(&(role, layer))?;
        if let Some(packed) = self.packed.get(expected.name.as_str()) {
            return Some((expected, Source::Packed(packed)));
        }
        let index = self.checkpoint.index_of(&expected.name)?;
        Some((expected, Source::Plain(index, &self.checkpoint.tensors()[index])))
    }

    /// As [`Self::find`], with the shape checked; an error if it must be there and is not.
    fn need(&self, role: TensorRole, layer: Option<usize>) -> Result<(&ExpectedTensor, Source<'a>)> {
        let Some((expected, source)) = self.find(role, layer) else {
            let name =
                self.expected.get(&(role, layer)).map_or_else(|| format!("{role:?}"), |e| e.name.clone());
            let what = "the config demands this tensor and the file does not have it";
            return Err(Error::malformed(self.checkpoint.path(), what).with_tensor(name).into());
        };
        let shape = match &source {
            Source::Plain(_, info) => info.shape.clone(),
            Source::Packed(layer) => vec![layer.rows, layer.columns],
        };
        if shape != expected.shape {
            let what = format!("its shape is {shape:?}, the config demands {:?}", expected.shape);
            let file = match &source {
                Source::Plain(_, info) => self.checkpoint.file_of(info),
                Source::Packed(_) => self.checkpoint.path(),
            };
            return Err(Error::malformed(file, what).with_tensor(&expected.name).into());
        }
        Ok((expected, source))
    }

    fn matrix(&self, role: TensorRole, layer: Option<usize>) -> Result<(Weight, Option<Arc<[u32]>>)> {
        let (expected, source) = self.need(role, layer)?;
        let name = expected.name.as_str();
        let target = self.load_in.and_then(|l| Some((l, l.target(name)?)));
        let (mapped, info) = match (source, target) {
            (Source::Packed(packed), target) => {
                self.bytes.set(self.bytes.get() + packed.bytes as u64);
                return match target {
                    None => Ok(unpacked(self.checkpoint, packed, self.pool)),
                    Some((l, to)) => Ok((repacked(self.checkpoint, packed, l, to, self.pool)?, None)),
                };
            }
            (Source::Plain(index, info), None) => (index, info),
            (Source::Plain(_, info), Some((load_in, target))) => {
                self.bytes.set(self.bytes.get() + info.bytes as u64);
                return Ok((encoded(self.checkpoint, info, load_in, target, self.pool)?, None));
            }
        };
        if !quern_compute::supports(info.element_type) {
            let what = format!(
                "its element type {} cannot be run yet; convert the model to f16, q8_0 or a K-quant",
                info.element_type
            );
            return Err(self.error(info, ErrorKind::Unsupported(what)));
        }
        self.bytes.set(self.bytes.get() + info.bytes as u64);
        let storage = Storage::Mapped(mapped);
        let (rows, columns) = (info.rows(), info.columns());
        Ok((Weight { storage, element_type: info.element_type, rows, columns }, None))
    }

    fn linear(&self, role: TensorRole, bias: Option<TensorRole>, layer: Option<usize>) -> Result<Linear> {
        let (weight, permutation) = self.matrix(role, layer)?;
        let name = self.expected[&(role, layer)].name.clone();
        let bias = match bias.and_then(|role| self.expected.get(&(role, layer))) {
            // Demanded by the config, or there although it need not be.
            Some(e) if !e.optional || self.checkpoint.index_of(&e.name).is_some() => {
                Some(self.vector(e.role, layer)?)
            }
            _ => None,
        };
        Ok(Linear { name, role, layer, weight, bias, permutation })
    }

    /// A head that is the embedding.
    fn tied(&self, weight: Weight) -> Linear {
        let role = TensorRole::TokenEmbedding;
        let name = self.expected[&(role, None)].name.clone();
        Linear { name, role, layer: None, weight, bias: None, permutation: None }
    }

    fn vector(&self, role: TensorRole, layer: Option<usize>) -> Result<Vec<f32>> {
        let (_, Source::Plain(_, info)) = self.need(role, layer)? else {
            let what = format!("{role:?} is packed, it must be plain numbers");
            return Err(Error::malformed(self.checkpoint.path(), what).into());
        };
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
