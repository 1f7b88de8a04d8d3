//! Summing and writing importance matrices, in both formats that `gguf` and `legacy` read.
//!
//! Both list the tensors in byte order of their names, as llama-imatrix does. The modern format stores sums
//! and counts as they are. The legacy one stores `mean * calls`, where `calls` is the number of chunks begun.

use std::collections::BTreeMap;
use std::path::Path;

use quern_model::provenance::{GGUF_KEY, Provenance};
use quern_tensor_io::{
    Array, ElementType, Metadata, Remedy, Result, StringArray, TensorPlan, Value, gguf as container,
    output::{Inputs, OutputFile},
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
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Its format.
    pub format: Format,
    /// Names of the texts. The legacy format stores only the last one.
    pub datasets: Vec<String>,
    /// Tokens in a chunk: the number of chunks is counted in these.
    pub chunk_size: u32,
    /// How it is made, recorded in the metadata. The legacy format has no place for it.
    pub provenance: Option<Provenance>,
    /// Replace an existing file.
    pub force: bool,
    /// What the measurement reads, the model and its text: never replaced.
    pub inputs: Inputs,
}

/// One tensor's inputs so far.
#[derive(Clone, Debug)]
struct Sums {
    /// `[matrices][columns]`: one matrix, or one an expert.
    squares: Vec<f64>,
    /// Of each matrix.
    tokens: Vec<u64>,
}

/// A tensor's sums, as [`Accumulator::iter`] gives them.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// GGUF name.
    pub name: &'a str,
    /// Sums of squares, `[matrices][columns]`: one matrix, or one an expert.
    pub squares: &'a [f64],
    /// The number of tokens of each matrix.
    pub tokens: &'a [u64],
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
         infinite values"
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

impl AddError {
    /// What mends it, where a program must put it into words.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::NotFinite { .. } => Some(Remedy::CheckWeights),
            Self::Columns { .. } => None,
        }
    }
}

impl Accumulator {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the sums over `tokens` more tokens to the tensor of this GGUF name: for each of its columns, the
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
        self.add_expert(gguf_name, (0, 1), sums_of_squares, tokens)
    }

    /// The same for one of the matrices stacked in a tensor: expert `expert` of `count`.
    ///
    /// # Errors
    /// [`AddError`]; nothing is added then.
    ///
    /// # Panics
    /// If `expert` is not below `count`.
    pub fn add_expert<S: Copy + Into<f64>>(
        &mut self,
        gguf_name: &str,
        (expert, count): (usize, usize),
        sums_of_squares: &[S],
        tokens: u64,
    ) -> Result<(), AddError> {
        assert!(expert < count, "expert {expert} of {count}");
        let tensor = || gguf_name.to_owned();
        let wrong = |sum: f64| !sum.is_finite() || sum < 0.0;
        if let Some(column) = sums_of_squares.iter().position(|&s| wrong(s.into())) {
            let sum = sums_of_squares[column].into();
            return Err(AddError::NotFinite { tensor: tensor(), column, sum });
        }
        let found = sums_of_squares.len();
        let none = || Sums { squares: vec![0.0; found * count], tokens: vec![0; count] };
        let held = self.tensors.entry(gguf_name.to_owned()).or_insert_with(none);
        if held.squares.len() != found * count || held.tokens.len() != count {
            let expected = held.squares.len() / held.tokens.len();
            return Err(AddError::Columns { tensor: tensor(), found, expected });
        }
        held.tokens[expert] += tokens;
        for (sum, &more) in held.squares[expert * found..].iter_mut().zip(sums_of_squares) {
            *sum += more.into();
        }
        Ok(())
    }

    /// Tensors with an entry.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The sums of each tensor, in byte order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        self.tensors.iter().map(|(name, sums)| Entry { name, squares: &sums.squares, tokens: &sums.tokens })
    }

    /// Writes the matrix to `path`, completely or not at all. Returns its size in bytes.
    ///
    /// # Errors
    /// An existing file without `force`, one of the inputs, a folder that does not exist, a full disk; no tensors or chunks of
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

    /// Whole chunks of the tensor with the most tokens.
    fn chunks(&self, chunk_size: u32) -> u64 {
        let of_tensor = |sums: &Sums| sums.tokens.iter().copied().max().unwrap_or(0);
        self.tensors.values().map(of_tensor).max().unwrap_or(0) / u64::from(chunk_size)
    }

    fn write_gguf(&self, path: &Path, options: &WriteOptions) -> Result<u64> {
        let mut metadata = Metadata::new();
        let datasets: StringArray = options.datasets.iter().collect();
        metadata.set("general.type", "imatrix");
        metadata.set("imatrix.datasets", Value::Array(Array::String(datasets)));
        let chunks: u32 = self.chunks(options.chunk_size).try_into().unwrap_or(u32::MAX);
        metadata.set("imatrix.chunk_count", Value::U32(chunks));
        metadata.set("imatrix.chunk_size", Value::U32(options.chunk_size));
        if let Some(provenance) = &options.provenance {
            let figures = [("entries", self.len() as f64), ("chunks", chunks.into())];
            metadata.set(GGUF_KEY, provenance.clone().with_figures(figures).to_json().as_str());
        }
        let plan = |name: String, matrices: usize, length| {
            // One matrix is written without the dimension of the experts.
            let shape = if matrices == 1 { vec![length] } else { vec![matrices, length] };
            TensorPlan { name, element_type: ElementType::F32, shape }
        };
        let plans: Vec<TensorPlan> = self
            .iter()
            .flat_map(|Entry { name, squares, tokens }| {
                let matrices = tokens.len();
                [
                    plan(format!("{name}{SUMS}"), matrices, squares.len() / matrices),
                    plan(format!("{name}{COUNTS}"), matrices, 1),
                ]
            })
            .collect();
        let mut writer =
            container::Writer::create(path, &metadata, &plans, options.inputs.unless_read(options.force))?;
        for Entry { squares, tokens, .. } in self.iter() {
            writer.write(&bytes(squares.iter().map(|&s| s as f32)))?;
            writer.write(&bytes(tokens.iter().map(|&n| n as f32)))?;
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
        for Entry { name, squares, tokens } in self.iter() {
            let most = tokens.iter().copied().max().unwrap_or(0);
            let calls = number(most.div_ceil(options.chunk_size.into()));
            text(&mut out, name);
            out.extend(calls.to_le_bytes());
            out.extend(number(squares.len() as u64).to_le_bytes());
            let columns = squares.len() / tokens.len();
            for (sums, &tokens) in squares.chunks_exact(columns.max(1)).zip(tokens) {
                // as llama-imatrix rounds: sum, mean and product are f32
                let value = |&sum: &f64| match tokens {
                    0 => calls as f32,
                    _ => sum as f32 / tokens as f32 * calls as f32,
                };
                out.extend(bytes(sums.iter().map(value)));
            }
        }
        out.extend(number(self.chunks(options.chunk_size)).to_le_bytes());
        text(&mut out, options.datasets.last().map_or("", String::as_str));
        let mut file = OutputFile::create(path, options.inputs.unless_read(options.force))?;
        file.append(&out)?;
        file.commit()?;
        Ok(out.len() as u64)
    }
}

fn bytes(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}
