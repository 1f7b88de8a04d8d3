//! Writes a model as several GGUF files, as llama.cpp's gguf-split does.
//!
//! ```text
//! PREFIX-00001-of-00003.gguf    all metadata, split.no 0, first tensors
//! PREFIX-00002-of-00003.gguf    split.no 1, next tensors
//! ...                           each also split.tensors.count (of all parts), split.count
//! ```
//!
//! A part is full when the next tensor, padded, would make its tensors larger than the limit; metadata do not
//! count. The parts appear together: they are written in a hidden folder and get their names when all are complete, the
//! first one last, because readers are given the first; `crate::output::parts` says why that is safe at every step.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::split::SplitName;
use super::{DEFAULT_ALIGNMENT, header};
use crate::output::parts::Parts;
use crate::output::{Existing, OutputFile};
use crate::stream::TensorStream;
use crate::{Error, Metadata, Result, TensorPlan, Value, plan};

/// Most parts that `split.count`, a u16, and five digits can count.
const MAX_PARTS: usize = u16::MAX as usize;

/// Where to split. Without any limit there is one part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Bytes of tensors in a part at most, unless one tensor alone is larger.
    pub max_bytes: Option<u64>,
    /// Tensors in a part at most.
    pub max_tensors: Option<usize>,
}

/// One file of a split model.
#[derive(Clone, Debug)]
pub struct SplitPart {
    /// Its path.
    pub path: PathBuf,
    /// Its tensors.
    pub tensors: Vec<TensorPlan>,
    /// Its size in bytes.
    pub file_size: u64,
    metadata: Metadata,
}

impl Split {
    /// The parts of a model with these tensors. `prefix` is their path without `-00001-of-00003.gguf`.
    ///
    /// # Errors
    /// Whatever [`super::Writer::create`] refuses, for any of the parts; too many parts; a prefix that is itself
    /// the name of a part.
    pub fn parts(
        &self,
        prefix: &Path,
        metadata: &Metadata,
        tensors: &[TensorPlan],
    ) -> Result<Vec<SplitPart>> {
        let Some(name) = prefix.file_name().and_then(|n| n.to_str()) else {
            return Err(Error::refused(prefix, "not a file name in UTF-8; give the output another name"));
        };
        if SplitName::parse(&format!("{name}.gguf")).is_some() {
            let what = "the name of one part; omit its end (-00001-of-00003), every part gets its own";
            return Err(Error::refused(prefix, what));
        }
        let lengths = self.lengths(&plan::check(prefix, tensors)?);
        let count = lengths.len();
        if count > MAX_PARTS {
            let what = format!("{count} parts, but at most {MAX_PARTS} can be numbered; allow larger ones");
            return Err(Error::refused(prefix, what));
        }
        let name = SplitName { prefix: name, number: 1, count: count as u32 };
        let mut rest = tensors;
        let mut parts = Vec::with_capacity(count);
        for (index, length) in lengths.into_iter().enumerate() {
            let part;
            (part, rest) = rest.split_at(length);
            let path = prefix.with_file_name(name.sibling(index as u32 + 1));
            let mut metadata = if index == 0 { metadata.clone() } else { Metadata::new() };
            for (key, value) in [
                ("split.no", Value::U16(index as u16)),
                ("split.tensors.count", Value::I32(tensors.len().try_into().unwrap_or(i32::MAX))),
                ("split.count", Value::U16(count as u16)),
            ] {
                metadata.remove(key);
                metadata.set(key, value);
            }
            let file_size = header::encode(&path, &metadata, part)?.file_size;
            parts.push(SplitPart { path, tensors: part.to_vec(), file_size, metadata });
        }
        Ok(parts)
    }

    /// How many tensors each part has, given their bytes: none of the parts is empty, unless all are.
    fn lengths(&self, sizes: &[u64]) -> Vec<usize> {
        let max_bytes = self.max_bytes.unwrap_or(u64::MAX);
        let max_tensors = self.max_tensors.unwrap_or(usize::MAX);
        let mut lengths = Vec::new();
        let (mut count, mut bytes) = (0, 0u64);
        for &size in sizes {
            let size = size.next_multiple_of(DEFAULT_ALIGNMENT);
            if count > 0 && (count >= max_tensors || bytes.saturating_add(size) > max_bytes) {
                lengths.push(count);
                (count, bytes) = (0, 0);
            }
            count += 1;
            bytes = bytes.saturating_add(size);
        }
        lengths.push(count);
        lengths
    }
}

/// Writes the parts of a model one after the other, each as [`super::Writer`] writes its one file. Dropped before
/// [`SplitWriter::finish`], nothing remains.
#[derive(Debug)]
pub struct SplitWriter {
    waiting: VecDeque<SplitPart>,
    current: Option<TensorStream>,
    files: Parts,
    /// The last part that is complete.
    last: PathBuf,
    written: u64,
}

impl SplitWriter {
    /// Starts the parts, got from [`Split::parts`].
    ///
    /// # Errors
    /// One of the files exists (unless `existing` allows to replace it), is an input, or cannot be written.
    pub fn create<'a>(parts: Vec<SplitPart>, existing: impl Into<Existing<'a>>) -> Result<Self> {
        // Checked before hours of work, not when a part is written.
        let files = Parts::create(parts.iter().map(|part| part.path.clone()).collect(), existing.into())?;
        let mut writer =
            Self { waiting: parts.into(), current: None, files, last: PathBuf::new(), written: 0 };
        writer.advance()?;
        Ok(writer)
    }

    /// Appends bytes to the current tensor; moves on to the next, and the next file, when it is full. One call
    /// cannot span two tensors.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let Some(stream) = &mut self.current else {
            let what = format!("{} bytes more than all planned tensors take", data.len());
            return Err(Error::refused(&self.last, what));
        };
        stream.write(data).map_err(|e| self.files.named(e))?;
        self.advance()
    }

    /// Checks that every tensor is complete and gives all files their names. Returns their bytes.
    pub fn finish(mut self) -> Result<u64> {
        if let Some(stream) = self.current.take() {
            // which names the tensor that is not complete
            stream.finish().map_err(|e| self.files.named(e))?;
        }
        crate::map::check_open_files()?;
        self.files.publish()?;
        Ok(self.written)
    }

    /// Closes a file that has all its tensors and starts the next.
    fn advance(&mut self) -> Result<()> {
        loop {
            match self.current.take() {
                Some(stream) if stream.is_complete() => {
                    self.written += stream.finish().map_err(|e| self.files.named(e))?;
                }
                waiting @ Some(_) => {
                    self.current = waiting;
                    return Ok(());
                }
                None => {}
            }
            let Some(part) = self.waiting.pop_front() else { return Ok(()) };
            let header = header::encode(&part.path, &part.metadata, &part.tensors)?;
            let start = || {
                let output = OutputFile::create(&self.files.place(&part.path), false)?;
                TensorStream::start(output, &header.bytes, &part.tensors, &header.sizes, header.alignment)
            };
            self.current = Some(start().map_err(|e| self.files.named(e))?);
            self.last = part.path;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_filled_in_order_and_never_empty() {
        let by_bytes = |max| Split { max_bytes: Some(max), max_tensors: None }.lengths(&[64, 40, 1, 300, 32]);
        assert_eq!(by_bytes(128), [2, 1, 1, 1]); // 40 bytes count as 64
        assert_eq!(by_bytes(160), [3, 1, 1]);
        assert_eq!(by_bytes(1), [1; 5]);
        assert_eq!(by_bytes(u64::MAX), [5]);
        let by_count = |max| Split { max_bytes: None, max_tensors: Some(max) }.lengths(&[8; 5]);
        assert_eq!(by_count(2), [2, 2, 1]);
        assert_eq!(by_count(5), [5]);
        assert_eq!(Split { max_bytes: Some(64), max_tensors: Some(3) }.lengths(&[32; 5]), [2, 2, 1]);
        assert_eq!(Split::default().lengths(&[]), [0]);
    }
}
