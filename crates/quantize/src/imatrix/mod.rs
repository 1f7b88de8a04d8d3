//! Importance matrices: how large the inputs are in each column of each weight.
//!
//! For a weight of `columns` inputs (and `matrices` stacked experts) an entry holds the mean of `x²` over
//! the calibration text, one value a column and expert. Two formats, distinguished by the first bytes:
//!
//! - GGUF, as llama-imatrix writes today (`gguf`): sums and counts;
//! - the legacy `.dat` (`legacy`): means times the number of calls.
//!
//! Both are divided in the order of llama-quantize, because the quotients determine the bytes of the output. An
//! expert that no token reached has a count of 0 and gets ones.
//!
//! [`collect()`] measures one; an [`Accumulator`] sums and writes it.

mod collect;
mod gguf;
mod legacy;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::calibration::hex;
pub(crate) use collect::in_order;
pub use collect::{
    CollectError, CollectOptions, Collected, collect, collect_samples, file_bytes, memory_bytes,
};
use quern_tensor_io::{Error, Result, small};
use sha2::{Digest, Sha256};

pub use write::{Accumulator, AddError, Format, WriteOptions};

/// An importance matrix, read and checked: every value is finite and not negative.
#[derive(Clone, Debug)]
pub struct Imatrix {
    file: PathBuf,
    entries: BTreeMap<String, Vec<f32>>,
    chunks: u32,
    datasets: Vec<String>,
}

impl Imatrix {
    /// Reads `path`, whichever of the two formats it is in.
    pub fn open(path: &Path) -> Result<Self> {
        let imatrix = match small::start(path, 4)?.as_slice() {
            b"GGUF" => gguf::open(path)?,
            _ => legacy::open(path)?,
        };
        if imatrix.entries.is_empty() {
            return Err(Error::malformed(path, "the importance matrix has no entries"));
        }
        Ok(imatrix)
    }

    /// One that was just measured, as if it were written and read again. `name` is that of the text.
    ///
    /// # Errors
    /// A sum beyond what f32 holds.
    pub fn measured(name: &str, collected: &Collected) -> Result<Self> {
        let mut imatrix = Self::new(Path::new(""));
        imatrix.datasets.push(name.to_owned());
        imatrix.chunks = collected.chunks.try_into().unwrap_or(u32::MAX);
        for entry in collected.sums.iter() {
            let counts: Vec<f32> = entry.tokens.iter().map(|&n| n as f32).collect();
            let sums = entry.squares.iter().map(|&sum| sum as f32).collect();
            imatrix.insert(entry.name, gguf::means(sums, &counts))?;
        }
        Ok(imatrix)
    }

    /// Whether it was read from a file, and not just measured.
    pub fn is_file(&self) -> bool {
        !self.file.as_os_str().is_empty()
    }

    /// The file it was read from; empty for one that was just measured.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// SHA-256 of the file, in lower-case hexadecimal digits.
    ///
    /// # Errors
    /// It can no longer be read.
    pub fn sha256(&self) -> Result<String> {
        let mut file = small::open(&self.file)?;
        let mut hash = Sha256::new();
        std::io::copy(&mut file, &mut hash).map_err(|e| Error::new(&self.file, e))?;
        Ok(hex(hash))
    }

    /// Mean squares for the tensor of this GGUF name: `columns` values for each stacked matrix.
    pub fn get(&self, tensor: &str) -> Option<&[f32]> {
        self.entries.get(tensor).map(Vec::as_slice)
    }

    /// Names of the tensors it has entries for, in byte order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none (never so after [`Imatrix::open`]).
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Chunks of text it was computed from, 0 if the file does not say.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Names of the texts it was computed from.
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    fn new(file: &Path) -> Self {
        Self { file: file.to_path_buf(), entries: BTreeMap::new(), chunks: 0, datasets: Vec::new() }
    }

    /// Adds an entry after the checks both formats need.
    fn insert(&mut self, tensor: &str, means: Vec<f32>) -> Result<()> {
        let bad = |what: String| Err(Error::malformed(&self.file, what).with_tensor(tensor));
        if means.is_empty() {
            return bad("the entry has no values".into());
        }
        if let Some(i) = means.iter().position(|m| !m.is_finite() || *m < 0.0) {
            return bad(format!("value {i} is {}: a mean of squares is finite and not negative", means[i]));
        }
        if self.entries.insert(tensor.to_owned(), means).is_some() {
            return bad("two entries for one tensor".into());
        }
        Ok(())
    }
}
