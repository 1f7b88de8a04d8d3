//! Looks tensors up by role, in whatever world and layout the checkpoint has them.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use quern_compute::Pool;
use quern_model::architecture::Layout;
use quern_model::{Config, ExpectedTensor, TensorRole, World};
use quern_tensor_io::scheme::{PackedLayer, Packing};
use quern_tensor_io::{Checkpoint, ElementType, Error, ErrorKind, TensorInfo, decode};

use super::{Linear, NormWeights, Storage, Weight};
use crate::Result;
use crate::load::{LoadIn, encoded, repacked, unpacked};

type Key = (TensorRole, Option<usize>, Option<usize>);

pub(super) struct Finder<'a> {
    checkpoint: &'a Checkpoint,
    world: World,
    expected: HashMap<Key, ExpectedTensor>,
    packed: HashMap<&'a str, &'a PackedLayer>,
    load_in: Option<&'a dyn LoadIn>,
    pool: &'a Pool,
    /// Bytes found so far.
    bytes: Cell<u64>,
}

/// A matrix as the checkpoint holds it.
pub(super) enum Source<'a> {
    Plain(usize, &'a TensorInfo),
    Packed(&'a PackedLayer),
}

impl<'a> Finder<'a> {
    pub fn new(
        checkpoint: &'a Checkpoint,
        config: &Config,
        packing: Option<&'a Packing>,
        load_in: Option<&'a dyn LoadIn>,
        pool: &'a Pool,
    ) -> Self {
        let expected = config.expected_tensors(config.world);
        let expected = expected.into_iter().map(|e| ((e.role, e.layer, e.part), e)).collect();
        let layers = packing.into_iter().flat_map(Packing::layers);
        let packed = layers.map(|l| (l.name.as_str(), l)).collect();
        Self { checkpoint, world: config.world, expected, packed, load_in, pool, bytes: Cell::new(0) }
    }

    /// Bytes of all matrices found.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether the configuration demands such a tensor (or its first part).
    pub fn demanded(&self, role: TensorRole, layer: Option<usize>) -> bool {
        [None, Some(0)].into_iter().any(|part| self.expected.contains_key(&(role, layer, part)))
    }

    /// Whether this checkpoint has queries, keys and values of each key head together.
    pub fn by_group(&self, role: TensorRole, layer: Option<usize>) -> bool {
        let expected = self.expected.get(&(role, layer, None));
        self.world == World::HuggingFace && expected.is_some_and(|e| e.template.layout == Layout::QkvByHead)
    }

    /// The expectation and what meets it by name, if both exist. A packed layer comes first: bitsandbytes
    /// keeps its codes under the weight's own name.
    pub fn find(
        &self,
        role: TensorRole,
        layer: Option<usize>,
        part: Option<usize>,
    ) -> Option<(&ExpectedTensor, Source<'a>)> {
        let expected = self.expected.get(&(role, layer, part))?;
        if let Some(packed) = self.packed.get(expected.name.as_str()) {
            return Some((expected, Source::Packed(packed)));
        }
        let index = self.checkpoint.index_of(&expected.name)?;
        Some((expected, Source::Plain(index, &self.checkpoint.tensors()[index])))
    }

    /// As [`Self::find`], with the shape checked; an error if it must be there and is not.
    fn need(
        &self,
        role: TensorRole,
        layer: Option<usize>,
        part: Option<usize>,
    ) -> Result<(&ExpectedTensor, Source<'a>)> {
        let Some((expected, source)) = self.find(role, layer, part) else {
            let name = self.expected.get(&(role, layer, part));
            let name = name.map_or_else(|| format!("{role:?}"), |e| e.name.clone());
            let what = "the config demands this tensor and the file does not have it";
            return Err(Error::malformed(self.checkpoint.path(), what).with_tensor(name).into());
        };
        let (shape, turned) = match &source {
            Source::Plain(_, info) => (info.shape.clone(), false),
            // GPT-2's transposed matrices are turned before they are packed.
            Source::Packed(layer) => {
                (vec![layer.rows, layer.columns], self.layout(expected) == Layout::Transposed)
            }
        };
        let fits = match turned {
            true => shape.iter().rev().eq(&expected.shape),
            false => shape == expected.shape,
        };
        if !fits {
            let what = format!("its shape is {shape:?}, the config demands {:?}", expected.shape);
            let file = match &source {
                Source::Plain(_, info) => self.checkpoint.file_of(info),
                Source::Packed(_) => self.checkpoint.path(),
            };
            return Err(Error::malformed(file, what).with_tensor(&expected.name).into());
        }
        Ok((expected, source))
    }

    /// How this checkpoint lays the tensor out.
    fn layout(&self, expected: &ExpectedTensor) -> Layout {
        match self.world {
            World::HuggingFace => expected.template.layout,
            World::Gguf => Layout::Same,
        }
    }

    pub fn matrix(
        &self,
        role: TensorRole,
        layer: Option<usize>,
        part: Option<usize>,
    ) -> Result<(Weight, Option<Arc<[u32]>>)> {
        let (expected, source) = self.need(role, layer, part)?;
        let name = expected.name.as_str();
        let target = self.load_in.and_then(|l| Some((l, l.target(name)?)));
        let (index, info) = match source {
            Source::Plain(index, info) => (index, info),
            Source::Packed(packed) => {
                self.bytes.set(self.bytes.get() + packed.bytes as u64);
                return match target {
                    None => Ok(unpacked(self.checkpoint, packed, self.pool)),
                    Some((l, to)) => Ok((repacked(self.checkpoint, packed, l, to, self.pool)?, None)),
                };
            }
        };
        self.bytes.set(self.bytes.get() + info.bytes as u64);
        let transposed = self.layout(expected) == Layout::Transposed;
        if let Some((load_in, target)) = target {
            let turned = transposed.then(|| transposed_bytes(info, self.checkpoint.data(info)));
            return Ok((encoded(self.checkpoint, info, turned, load_in, target, self.pool)?, None));
        }
        self.check_type(info)?;
        let element_type = info.element_type;
        if transposed {
            let (rows, columns) = (info.columns(), info.rows());
            let data = transposed_bytes(info, self.checkpoint.data(info));
            self.checkpoint.release(self.checkpoint.data(info).as_ptr_range());
            return Ok((Weight::owned(element_type, rows, columns, data), None));
        }
        let (rows, columns) = (info.rows(), info.columns());
        Ok((Weight { storage: Storage::Mapped(index), element_type, rows, columns }, None))
    }

    fn check_type(&self, info: &TensorInfo) -> Result<()> {
        if quern_compute::supports(info.element_type) {
            return Ok(());
        }
        let what = format!(
            "its element type {} cannot be run yet; convert the model to f16, q8_0 or a K-quant",
            info.element_type
        );
        Err(self.error(info, ErrorKind::Unsupported(what)))
    }

    pub fn linear(&self, role: TensorRole, bias: Option<TensorRole>, layer: Option<usize>) -> Result<Linear> {
        let (weight, permutation) = self.matrix(role, layer, None)?;
        let name = self.expected[&(role, layer, None)].name.clone();
        let bias = match bias {
            Some(bias) => self.optional(bias, layer)?,
            None => None,
        };
        Ok(Linear { name, role, layer, expert: None, weight, bias, permutation })
    }

    /// One expert's matrix: a tensor of its own, or its part of a stack.
    pub fn expert(&self, role: TensorRole, layer: usize, expert: usize) -> Result<Linear> {
        let at = Some(layer);
        if self.expected.contains_key(&(role, at, Some(expert))) {
            let (weight, permutation) = self.matrix(role, at, Some(expert))?;
            let name = self.expected[&(role, at, Some(expert))].name.clone();
            return Ok(Linear {
                name,
                role,
                layer: at,
                expert: Some(expert),
                weight,
                bias: None,
                permutation,
            });
        }
        let (expected, source) = self.need(role, at, None)?;
        let name = expected.name.clone();
        let Source::Plain(index, info) = source else {
            let what = "a stack of experts is packed, it must be plain numbers or blocks";
            return Err(Error::malformed(self.checkpoint.path(), what).with_tensor(name).into());
        };
        let count = info.shape.first().copied().unwrap_or(1).max(1);
        let (rows, columns, element_type) = (info.rows() / count, info.columns(), info.element_type);
        let bytes = info.bytes / count;
        self.bytes.set(self.bytes.get() + bytes as u64);
        let weight = match self.load_in.and_then(|l| Some((l, l.target(&name)?))) {
            Some((load_in, target)) => {
                let mut part = info.clone();
                part.shape = vec![rows, columns];
                part.offset += (expert * bytes) as u64;
                part.bytes = bytes;
                encoded(self.checkpoint, &part, None, load_in, target, self.pool)?
            }
            None => {
                self.check_type(info)?;
                Weight { storage: Storage::Part(index, expert * bytes), element_type, rows, columns }
            }
        };
        Ok(Linear { name, role, layer: at, expert: Some(expert), weight, bias: None, permutation: None })
    }

    /// A head that is the embedding.
    pub fn tied(&self, weight: Weight) -> Linear {
        let role = TensorRole::TokenEmbedding;
        let name = self.expected[&(role, None, None)].name.clone();
        Linear { name, role, layer: None, expert: None, weight, bias: None, permutation: None }
    }

    /// A norm and, where the file has one, its bias.
    pub fn norm(
        &self,
        role: TensorRole,
        bias: Option<TensorRole>,
        layer: Option<usize>,
    ) -> Result<NormWeights> {
        let weight = self.vector(role, layer)?;
        let bias = match bias {
            Some(bias) => self.optional(bias, layer)?,
            None => None,
        };
        Ok(NormWeights { weight, bias })
    }

    /// The same, if there is to be one.
    pub fn norm_if(
        &self,
        there: bool,
        role: TensorRole,
        bias: Option<TensorRole>,
        layer: Option<usize>,
    ) -> Result<Option<NormWeights>> {
        match there {
            true => self.norm(role, bias, layer).map(Some),
            false => Ok(None),
        }
    }

    /// A vector that is demanded by the config, or there although it need not be.
    fn optional(&self, role: TensorRole, layer: Option<usize>) -> Result<Option<Vec<f32>>> {
        match self.expected.get(&(role, layer, None)) {
            Some(e) if !e.optional || self.checkpoint.index_of(&e.name).is_some() => {
                self.vector(role, layer).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// A vector, or the parts of one, in f32.
    pub fn vector(&self, role: TensorRole, layer: Option<usize>) -> Result<Vec<f32>> {
        let parts = (0..).map(Some).take_while(|&part| self.expected.contains_key(&(role, layer, part)));
        let mut parts: Vec<Option<usize>> = parts.collect();
        if parts.is_empty() {
            parts.push(None);
        }
        let mut all = Vec::new();
        for part in parts {
            let (expected, Source::Plain(_, info)) = self.need(role, layer, part)? else {
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
            if self.layout(expected) == Layout::PlusOne {
                values.iter_mut().for_each(|v| *v += 1.0);
            }
            all.append(&mut values);
        }
        Ok(all)
    }

    fn error(&self, info: &TensorInfo, kind: ErrorKind) -> crate::Error {
        Error::new(self.checkpoint.file_of(info), kind).with_tensor(&info.name).into()
    }
}

/// The bytes of a matrix of plain values, turned.
fn transposed_bytes(info: &TensorInfo, data: &[u8]) -> Vec<u8> {
    let (rows, columns, size) = (info.rows(), info.columns(), element_bytes(info.element_type));
    let mut out = vec![0; data.len()];
    for (row, values) in data.chunks_exact((columns * size).max(1)).enumerate() {
        for (column, value) in values.chunks_exact(size).enumerate() {
            out[(column * rows + row) * size..][..size].copy_from_slice(value);
        }
    }
    out
}

/// Bytes of one plain value; of blocks (which Hugging Face's files never have) as good as any.
fn element_bytes(element_type: ElementType) -> usize {
    element_type.block_bytes()
}
