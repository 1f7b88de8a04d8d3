//! Summing and writing importance matrices, in both formats that `gguf` and `legacy` read.
//!
//! Both list the tensors in byte order of their names, as llama-imatrix does. The modern format stores sums
//! and counts as they are. The legacy one stores `mean * calls`, where `calls` is the number of chunks begun.

use std::collections::BTreeMap;
use std::path::Path;

use quern_tensor_io::{
    Array, ElementType, Metadata, Result, StringArray, TensorPlan, Value, gguf as container,
    output::OutputFile,
};

use super::gguf::{COUNTS, SUMS};

/// How a matrix is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// What llama-imatrix writes today.
    #[default]
    Gguf,
    /// `imatrix.dat`, for old programs.
    Dat,
}

/// What a file says beside the sums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Its format.
    pub format: Format,
    /// Names of the texts. The legacy format has room for the last one.
    pub datasets: Vec<String>,
    /// Tokens in a chunk: the number of chunks is counted in these.
    pub chunk_size: u32,
    /// Replace an existing file.
    pub force: bool,
}

/// One tensor's inputs so far.
#[derive(Clone, Debug)]
struct Sums {
    squares: Vec<f64>,
    tokens: u64,
}

/// Sums of squares of the inputs of a model's linear layers.
#[derive(Clone, Debug, Default)]
pub struct Accumulator {
    tensors: BTreeMap<String, Sums>,
}

/// Why sums were not added.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AddError {
    /// The tensor had another number of columns before.
    #[error("tensor {tensor:?}: {found} columns now, {expected} before")]
    Columns {
        /// GGUF name of the tensor.
        tensor: String,
        /// Sums given.
        found: usize,
        /// Sums held.
        expected: usize,
    },
    /// A sum is NaN, infinite or negative.
    #[error(
        "tensor {tensor:?}: the sum of squares of input column {column} is {sum}; the model computes NaN or \
         infinite values (quern inspect --check shows whether its weights do)"
    )]
    NotFinite {
        /// GGUF name of the tensor.
        tensor: String,
        /// The first such column.
        column: usize,
        /// The sum.
        sum: f64,
    },
}

impl Accumulator {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what `tokens` more tokens brought to the tensor of this GGUF name: for each of its columns, the
    /// sum of the squares of that input.
    ///
    /// # Errors
    /// [`AddError`]; nothing is added then.
    pub fn add<S: Copy + Into<f64>>(
        &mut self,
        gguf_name: &str,
        sums_of_squares: &[S],
        tokens: u64,
    ) -> Result<(), AddError> {
        let tensor = || gguf_name.to_owned();
        let wrong = |sum: f64| !sum.is_finite() || sum < 0.0;
        if let Some(column) = sums_of_squares.iter().position(|&s| wrong(s.into())) {
            let sum = sums_of_squares[column].into();
            return Err(AddError::NotFinite { tensor: tensor(), column, sum });
        }
        let found = sums_of_squares.len();
        match self.tensors.get_mut(gguf_name) {
            Some(held) if held.squares.len() != found => {
                let expected = held.squares.len();
                return Err(AddError::Columns { tensor: tensor(), found, expected });
            }
            Some(held) => {
                held.tokens += tokens;
                for (sum, &more) in held.squares.iter_mut().zip(sums_of_squares) {
                    *sum += more.into();
                }
            }
            None => {
                let squares = sums_of_squares.iter().map(|&s| s.into()).collect();
                self.tensors.insert(tensor(), Sums { squares, tokens });
            }
        }
        Ok(())
    }

    /// Tensors spoken about.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Each tensor's GGUF name, sums of squares and tokens, in byte order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[f64], u64)> {
        self.tensors.iter().map(|(name, sums)| (name.as_str(), sums.squares.as_slice(), sums.tokens))
    }

    /// Writes the matrix to `path`, whole or not at all. Returns its size in bytes.
    ///
    /// # Errors
    /// An existing file without `force`, a folder that does not exist, a full disk; no tensors or chunks of
    /// no tokens.
    pub fn write(&self, path: &Path, options: &WriteOptions) -> Result<u64> {
        if self.is_empty() || options.chunk_size == 0 {
            let what = "there is nothing to write: no linear layer was seen, or chunks have no tokens";
            return Err(quern_tensor_io::Error::refused(path, what));
        }
        match options.format {
            Format::Gguf => self.write_gguf(path, options),
            Format::Dat => self.write_dat(path, options),
        }
    }

    /// Whole chunks of the tensor that saw most.
    fn chunks(&self, chunk_size: u32) -> u64 {
        self.tensors.values().map(|s| s.tokens).max().unwrap_or(0) / u64::from(chunk_size)
    }

    fn write_gguf(&self, path: &Path, options: &WriteOptions) -> Result<u64> {
        let mut metadata = Metadata::new();
        let datasets: StringArray = options.datasets.iter().collect();
        metadata.set("general.type", "imatrix");
        metadata.set("imatrix.datasets", Value::Array(Array::String(datasets)));
        let chunks = self.chunks(options.chunk_size).try_into().unwrap_or(u32::MAX);
        metadata.set("imatrix.chunk_count", Value::U32(chunks));
        metadata.set("imatrix.chunk_size", Value::U32(options.chunk_size));
        let plan =
            |name: String, length| TensorPlan { name, element_type: ElementType::F32, shape: vec![length] };
        let plans: Vec<TensorPlan> = self
            .iter()
            .flat_map(|(name, sums, _)| {
                [plan(format!("{name}{SUMS}"), sums.len()), plan(format!("{name}{COUNTS}"), 1)]
            })
            .collect();
        let mut writer = container::Writer::create(path, &metadata, &plans, options.force)?;
        for (_, sums, tokens) in self.iter() {
            writer.write(&bytes(sums.iter().map(|&s| s as f32)))?;
            writer.write(&(tokens as f32).to_le_bytes())?;
        }
        writer.finish()
    }

    fn write_dat(&self, path: &Path, options: &WriteOptions) -> Result<u64> {
        let number = |n: u64| i32::try_from(n).unwrap_or(i32::MAX);
        let mut out = Vec::new();
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend(number(text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        };
        out.extend(number(self.len() as u64).to_le_bytes());
        for (name, sums, tokens) in self.iter() {
            let calls = number(tokens.div_ceil(options.chunk_size.into()));
            text(&mut out, name);
            out.extend(calls.to_le_bytes());
            out.extend(number(sums.len() as u64).to_le_bytes());
            // as llama-imatrix rounds: sum, mean and product are f32
            let value = |&sum: &f64| match tokens {
                0 => calls as f32,
                _ => sum as f32 / tokens as f32 * calls as f32,
            };
            out.extend(bytes(sums.iter().map(value)));
        }
        out.extend(number(self.chunks(options.chunk_size)).to_le_bytes());
        text(&mut out, options.datasets.last().map_or("", String::as_str));
        let mut file = OutputFile::create(path, options.force)?;
        file.append(&out)?;
        file.commit()?;
        Ok(out.len() as u64)
    }
}

fn bytes(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}
