//! Streaming safetensors writer.
//!
//! Tensors are written in the planned order. (The `safetensors` crate sorts by type and name, and needs all data
//! in memory; readers accept any order.) The header is padded with spaces to a multiple of 8, as is usual.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use ::safetensors::tensor::TensorInfo as ReferenceInfo;

use super::{MAX_HEADER_BYTES, METADATA_KEY, dtype};
use crate::output::{Existing, OutputFile};
use crate::stream::TensorStream;
use crate::{Error, Metadata, Result, TensorPlan, plan};

/// Writes the header at once, then the data of one tensor after the other, in the planned order, each in as
/// many pieces as the caller likes.
#[derive(Debug)]
pub struct Writer {
    stream: TensorStream,
    metadata: Metadata,
    tensors: Vec<TensorPlan>,
    header_bytes: usize,
    /// Tensors became shorter than planned, so the header must be written again.
    shortened: bool,
}

impl Writer {
    /// Starts `path`: checks the plan, writes the header. All of `metadata` must be strings, since
    /// safetensors knows nothing else; if it is empty, the file has no `__metadata__`. (transformers needs
    /// `format` = `pt` there.)
    pub fn create<'a>(
        path: &Path,
        metadata: &Metadata,
        tensors: &[TensorPlan],
        existing: impl Into<Existing<'a>>,
    ) -> Result<Self> {
        let (header, sizes) = encode(path, metadata, tensors, 0)?;
        let stream = TensorStream::start(OutputFile::create(path, existing)?, &header, tensors, &sizes, 1)?;
        Ok(Self {
            stream,
            metadata: metadata.clone(),
            tensors: tensors.to_vec(),
            header_bytes: header.len(),
            shortened: false,
        })
    }

    /// Appends bytes to the current tensor; moves on to the next when it is full. Bytes beyond the
    /// tensor's declared size are an error: one call cannot span two tensors.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        self.stream.write(data)
    }

    /// Ends the tensor `name`, of one dimension, with what it has so far: for data whose length is known at
    /// the end only, planned with the most it may take. Does nothing if it is complete. Returns the bytes
    /// it was short of.
    pub fn end_tensor(&mut self, name: &str) -> Result<u64> {
        let Some((index, bytes, short)) = self.stream.end_early(name)? else { return Ok(0) };
        let tensor = &mut self.tensors[index];
        let element_bytes = tensor.element_type.block_bytes() as u64;
        if tensor.shape.len() != 1 || !bytes.is_multiple_of(element_bytes) {
            let what = format!("{bytes} bytes make no tensor of {} values", tensor.element_type);
            return Err(Error::refused(self.stream.path(), what).with_tensor(name));
        }
        tensor.shape[0] = (bytes / element_bytes) as usize;
        self.shortened = true;
        Ok(short)
    }

    /// Checks that every tensor is complete, flushes, syncs and renames. Returns the file's size in bytes.
    pub fn finish(mut self) -> Result<u64> {
        if self.shortened {
            // Shorter numbers make a shorter text: what was reserved stays, filled with spaces.
            let (header, _) = encode(self.stream.path(), &self.metadata, &self.tensors, self.header_bytes)?;
            self.stream.replace_header(&header)?;
        }
        self.stream.finish()
    }

    /// The size in bytes of the file that this metadata and these tensors make, without writing it.
    pub fn file_size(metadata: &Metadata, tensors: &[TensorPlan]) -> Result<u64> {
        let (header, sizes) = encode(Path::new("(planned safetensors file)"), metadata, tensors, 0)?;
        Ok(header.len() as u64 + sizes.iter().sum::<u64>())
    }
}

/// Writes a file with the header of these tensors and a hole for their data: it has its whole length, takes no more of the
/// disk than the header, and all its numbers are zero. It serves plans, which read shapes and no data.
///
/// # Errors
/// As [`Writer::create`]; the system refuses.
pub fn outline(path: &Path, metadata: &Metadata, tensors: &[TensorPlan]) -> Result<()> {
    let (header, sizes) = encode(path, metadata, tensors, 0)?;
    let length = header.len() as u64 + sizes.iter().sum::<u64>();
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(&header)?;
        file.set_len(length)
    });
    written.map_err(|e| Error::new(path, e))
}

/// Checks metadata and plan. Returns the header with its length in front, `least` bytes long or longer, and
/// the bytes of each tensor.
fn encode(
    path: &Path,
    metadata: &Metadata,
    tensors: &[TensorPlan],
    least: usize,
) -> Result<(Vec<u8>, Vec<u64>)> {
    let sizes = plan::check(path, tensors)?;
    let mut entries = Vec::with_capacity(tensors.len() + 1);
    if !metadata.is_empty() {
        entries.push(format!("{}:{}", json(path, METADATA_KEY)?, metadata_object(path, metadata)?));
    }
    let mut offset = 0usize;
    for (tensor, &size) in tensors.iter().zip(&sizes) {
        let refused = |what: String| Error::refused(path, what).with_tensor(&tensor.name);
        if tensor.name == METADATA_KEY {
            return Err(refused("this name is reserved".into()));
        }
        let Some(dtype) = dtype(tensor.element_type) else {
            let what = format!(
                "safetensors has no element type {}; decode it to f32 or f16 first",
                tensor.element_type
            );
            return Err(refused(what));
        };
        let Some(end) = offset.checked_add(size as usize).filter(|&end| end <= isize::MAX as usize) else {
            return Err(refused("the sizes of the tensors overflow".into()));
        };
        let info = ReferenceInfo { dtype, shape: tensor.shape.clone(), data_offsets: (offset, end) };
        entries.push(format!("{}:{}", json(path, &tensor.name)?, json(path, &info)?));
        offset = end;
    }
    let text = format!("{{{}}}", entries.join(","));
    let padded = text.len().next_multiple_of(8).max(least.saturating_sub(8));
    if padded as u64 > MAX_HEADER_BYTES {
        let what = format!("the header would take {padded} bytes, readers accept {MAX_HEADER_BYTES}");
        return Err(Error::refused(path, what));
    }
    let mut header = (padded as u64).to_le_bytes().to_vec();
    header.extend_from_slice(text.as_bytes());
    header.resize(8 + padded, b' ');
    Ok((header, sizes))
}

fn metadata_object(path: &Path, metadata: &Metadata) -> Result<String> {
    let mut entries = Vec::with_capacity(metadata.len());
    for (key, value) in metadata.iter() {
        let Some(text) = value.as_str() else {
            return Err(Error::refused(
                path,
                format!("metadata key {key:?} is not a string; safetensors holds only those"),
            ));
        };
        entries.push(format!("{}:{}", json(path, key)?, json(path, text)?));
    }
    Ok(format!("{{{}}}", entries.join(",")))
}

fn json(path: &Path, value: impl serde::Serialize) -> Result<String> {
    serde_json::to_string(&value).map_err(|e| Error::new(path, std::io::Error::from(e)))
}
