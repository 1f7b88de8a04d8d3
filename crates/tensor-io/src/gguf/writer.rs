//! Streaming GGUF v3 writer.
//!
//! The header is known before any data, so the file is written front to back: no seeking, no second pass,
//! and memory holds no more than the caller's current piece.

use std::path::Path;

use super::header;
use crate::output::{Existing, OutputFile};
use crate::stream::TensorStream;
use crate::{Metadata, Result, TensorPlan};

/// Writes header, metadata and tensor table at once, then the data of one tensor after the other, in
/// the planned order, each in as many pieces as the caller likes.
///
/// Every tensor, the last one too, is padded to `general.alignment` (32 bytes if the metadata has no such
/// key), as ggml does.
#[derive(Debug)]
pub struct Writer {
    stream: TensorStream,
}

impl Writer {
    /// Starts `path`: checks the plan (names, shapes, whole blocks, offsets), writes the header.
    pub fn create<'a>(
        path: &Path,
        metadata: &Metadata,
        tensors: &[TensorPlan],
        existing: impl Into<Existing<'a>>,
    ) -> Result<Self> {
        let header = header::encode(path, metadata, tensors)?;
        Self::start(OutputFile::create(path, existing)?, &header, tensors)
    }

    /// Appends bytes to the current tensor; moves on to the next when it is full. Bytes beyond the
    /// tensor's declared size are an error: one call cannot span two tensors.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        self.stream.write(data)
    }

    /// Checks that every tensor is complete, flushes, syncs and renames. Returns the file's size in bytes.
    pub fn finish(self) -> Result<u64> {
        self.stream.finish()
    }

    /// The size in bytes of the file that this metadata and these tensors make, without writing it.
    pub fn file_size(metadata: &Metadata, tensors: &[TensorPlan]) -> Result<u64> {
        Ok(header::encode(Path::new("(planned GGUF file)"), metadata, tensors)?.file_size)
    }

    fn start(output: OutputFile, header: &header::Header, tensors: &[TensorPlan]) -> Result<Self> {
        let stream = TensorStream::start(output, &header.bytes, tensors, &header.sizes, header.alignment)?;
        Ok(Self { stream })
    }
}
