//! What both writers share: planned tensors, filled one after the other in pieces of any size.

use std::path::Path;

use crate::output::OutputFile;
use crate::{Error, Result, TensorPlan};

/// The data section under construction.
#[derive(Debug)]
pub(crate) struct TensorStream {
    output: OutputFile,
    /// Name and bytes, in order.
    tensors: Vec<(String, u64)>,
    /// The tensor being filled.
    current: usize,
    /// Bytes it has so far.
    filled: u64,
    /// Every tensor is padded to a multiple of this.
    alignment: u64,
    written: u64,
}

impl TensorStream {
    /// Writes `header` and waits for the data of `tensors`, whose sizes are `sizes`.
    pub fn start(
        mut output: OutputFile,
        header: &[u8],
        tensors: &[TensorPlan],
        sizes: &[u64],
        alignment: u64,
    ) -> Result<Self> {
        output.append(header)?;
        let tensors = tensors.iter().map(|t| t.name.clone()).zip(sizes.iter().copied()).collect();
        let mut stream =
            Self { output, tensors, current: 0, filled: 0, alignment, written: header.len() as u64 };
        stream.skip_complete()?;
        Ok(stream)
    }

    /// Appends bytes to the current tensor.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let length = data.len() as u64;
        let Some((name, size)) = self.tensors.get(self.current) else {
            return Err(self.refused(format!("{length} bytes more than all planned tensors take")));
        };
        let room = size - self.filled;
        if length > room {
            let what = format!("{length} bytes given, but only {room} of its {size} are still to come");
            return Err(self.refused(what).with_tensor(name));
        }
        self.put(data)?;
        self.filled += length;
        self.skip_complete()
    }

    /// Ends the tensor being filled, if it is called `name`, with the bytes it has so far. Returns its place
    /// in the plan, its new size, and the bytes it was short of.
    pub fn end_early(&mut self, name: &str) -> Result<Option<(usize, u64, u64)>> {
        let (current, filled) = (self.current, self.filled);
        let Some((_, size)) = self.tensors.get_mut(current).filter(|(found, _)| found == name) else {
            return Ok(None);
        };
        let short = *size - filled;
        *size = filled;
        self.skip_complete()?;
        Ok(Some((current, filled, short)))
    }

    /// Writes another header of the same length.
    pub fn replace_header(&mut self, header: &[u8]) -> Result<()> {
        self.output.overwrite_start(header)
    }

    /// Commits the file if every tensor is complete. Returns its size.
    pub fn finish(self) -> Result<u64> {
        self.check_complete()?;
        self.output.commit()?;
        Ok(self.written)
    }

    fn check_complete(&self) -> Result<()> {
        if let Some((name, size)) = self.tensors.get(self.current) {
            let what = format!("{} of its {size} bytes were written; the file is not complete", self.filled);
            return Err(self.refused(what).with_tensor(name));
        }
        Ok(())
    }

    /// Whether every tensor is complete.
    pub fn is_complete(&self) -> bool {
        self.current == self.tensors.len()
    }

    /// Pads and leaves behind every tensor that is full, empty ones included.
    fn skip_complete(&mut self) -> Result<()> {
        while let Some(&(_, size)) = self.tensors.get(self.current)
            && size == self.filled
        {
            let mut padding = size.next_multiple_of(self.alignment) - size;
            while padding > 0 {
                let zeros = [0; 4096];
                let n = padding.min(zeros.len() as u64);
                self.put(&zeros[..n as usize])?;
                padding -= n;
            }
            self.current += 1;
            self.filled = 0;
        }
        Ok(())
    }

    fn put(&mut self, data: &[u8]) -> Result<()> {
        self.output.append(data)?;
        self.written += data.len() as u64;
        Ok(())
    }

    fn refused(&self, what: String) -> Error {
        Error::refused(self.path(), what)
    }

    /// The file's final name.
    pub fn path(&self) -> &Path {
        self.output.path()
    }
}
