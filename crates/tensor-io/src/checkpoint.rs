//! A whole model on disk: one lazy, memory-mapped view of its tensors for every container.

use std::path::{Path, PathBuf};

use crate::{ElementType, Metadata, Result};

/// How the tensors of a checkpoint lie in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Container {
    /// One `.safetensors` file, or shards with an index.
    Safetensors,
    /// One `.gguf` file, or splits.
    Gguf,
}

/// Name, type and place of one tensor.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Name as the container spells it.
    pub name: String,
    /// How its numbers are stored.
    pub element_type: ElementType,
    /// Dimensions, outermost first as Hugging Face writes them: `[rows, columns]` for a linear layer's
    /// weight. (GGUF stores them the other way round.)
    pub shape: Vec<usize>,
    /// Index into [`Checkpoint::files`].
    pub file: usize,
    /// Byte offset of the data in that file.
    pub offset: u64,
    /// Bytes of data, checked against shape, type and file size when the checkpoint was opened.
    pub bytes: usize,
}

impl TensorInfo {
    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length of a row: the innermost dimension, 1 for a scalar.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows: the product of all but the innermost dimension.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }
}

/// One tensor: its description and its bytes in the memory map.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Name, type, shape.
    pub info: &'a TensorInfo,
    /// Exactly `info.bytes` bytes, straight from the map. No alignment is promised.
    pub data: &'a [u8],
}

/// An opened checkpoint. Opening reads headers only; every length, offset and type is checked then.
#[derive(Debug)]
pub struct Checkpoint {}

impl Checkpoint {
    /// Opens a file (`.safetensors`, `.gguf`, an index `.json`) or a directory holding one model.
    pub fn open(path: &Path) -> Result<Self> {
        todo!("{}", path.display())
    }

    /// The container found.
    pub fn container(&self) -> Container {
        todo!()
    }

    /// The path given to [`Checkpoint::open`].
    pub fn path(&self) -> &Path {
        todo!()
    }

    /// The directory of the model's files, where `config.json` and the tokenizer lie.
    pub fn directory(&self) -> &Path {
        todo!()
    }

    /// Tensor files in order.
    pub fn files(&self) -> &[PathBuf] {
        todo!()
    }

    /// Bytes of all tensor files together.
    pub fn file_size(&self) -> u64 {
        todo!()
    }

    /// GGUF metadata (of the first split), or safetensors' `__metadata__`.
    pub fn metadata(&self) -> &Metadata {
        todo!()
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        todo!()
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        todo!("{name}")
    }

    /// The bytes of a tensor listed by [`Checkpoint::tensors`].
    pub fn data(&self, info: &TensorInfo) -> &[u8] {
        todo!("{}", info.name)
    }
}
