//! Streaming GGUF v3 writer.

use std::path::Path;

use crate::{ElementType, Metadata, Result};

/// One tensor that will be written, known before any data.
#[derive(Clone, Debug)]
pub struct TensorPlan {
    /// GGUF name, under 64 bytes.
    pub name: String,
    /// How its numbers will be stored.
    pub element_type: ElementType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

/// Writes header, metadata and tensor table at once, then the data of one tensor after the other, in
/// the planned order, each in as many pieces as the caller likes.
#[derive(Debug)]
pub struct Writer {}

impl Writer {
    /// Starts `path`: checks the plan (names, shapes, whole blocks, offsets), writes the header.
    pub fn create(path: &Path, metadata: &Metadata, tensors: &[TensorPlan], force: bool) -> Result<Self> {
        todo!("{} {} {} {force}", path.display(), metadata.len(), tensors.len())
    }

    /// Appends bytes to the current tensor; moves on to the next when it is full. Bytes beyond the
    /// tensor's declared size are an error.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        todo!("{}", data.len())
    }

    /// Checks that every tensor is complete, flushes, syncs and renames. Returns the file's size in bytes.
    pub fn finish(self) -> Result<u64> {
        todo!()
    }

    /// The size in bytes of the file that this metadata and these tensors make, without writing it.
    pub fn file_size(metadata: &Metadata, tensors: &[TensorPlan]) -> Result<u64> {
        todo!("{} {}", metadata.len(), tensors.len())
    }
}
