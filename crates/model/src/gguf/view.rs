//! Tensors under their GGUF names, in GGUF's row order, straight from the memory map.

use quern_tensor_io::{Checkpoint, ElementType, Metadata, Result};

use crate::architecture::TensorRole;
use crate::Config;

/// One tensor as GGUF sees it.
#[derive(Clone, Debug)]
pub struct ViewTensor {
    /// GGUF name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How the source stores it.
    pub element_type: ElementType,
    /// Its name in the source; `None` for a tensor the view computed (`rope_freqs.weight`).
    pub source_name: Option<String>,
    /// What it is for.
    pub role: TensorRole,
    /// Its layer; `None` outside the blocks.
    pub layer: Option<usize>,
    /// Bytes per row.
    pub row_bytes: usize,
}

impl ViewTensor {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Values per row.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// Any checkpoint as a GGUF file would hold it.
#[derive(Debug)]
pub struct GgufView<'a> {
    checkpoint: &'a Checkpoint,
    config: Config,
    metadata: Metadata,
    tensors: Vec<ViewTensor>,
}

impl<'a> GgufView<'a> {
    /// Looks at `checkpoint` the GGUF way. A tensor missing or left over, or of another shape than the
    /// configuration demands, is an error.
    pub fn new(checkpoint: &'a Checkpoint) -> Result<Self> {
        let _ = checkpoint;
        todo!()
    }

    /// The checkpoint seen.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// The checkpoint's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The metadata to write.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors, in the order llama-quantize writes them: outside the blocks first, then by layer, each by name.
    pub fn tensors(&self) -> &[ViewTensor] {
        &self.tensors
    }

    /// The bytes of one row, in the source's element type, straight from the memory map.
    ///
    /// # Panics
    /// If there is no such tensor or row.
    pub fn row(&self, tensor: usize, row: usize) -> &[u8] {
        let _ = (tensor, row, self.checkpoint);
        todo!()
    }
}
