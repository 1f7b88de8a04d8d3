//! The memory that reading the headers of a model may take, kept by counting what every entry costs.
//!
//! A header is a list of small entries, and what an entry becomes in memory is many times what it has in the file:
//! 28 bytes of GGUF describe a tensor that takes hundreds. A real model pays for that with its data, which is far
//! larger; a file that is all header is refused. So a checkpoint may spend
//!
//! ```text
//! bytes of its files + SPARE
//! ```
//!
//! on its headers: their own bytes, which are mapped and touched, and what their entries cost. Every entry is paid for
//! before memory is taken for it.

/// What a checkpoint may take beyond the size of its files. With what the program itself takes, it stays below 64 MiB.
const SPARE: u64 = 40 << 20;

/// The most tensors of a model. One of 60 layers with 512 experts, each in three matrices of four tensors (GPTQ,
/// unstacked), has 370 000.
pub(crate) const MOST_TENSORS: u64 = 1 << 20;

/// What a tensor costs beside its name and shape: its description here (some 200 bytes), in the table of names, and in
/// the lists that commands make of it. `quern diff` takes the most, 1200 bytes.
const TENSOR: u64 = 1536;

/// What a dimension of a tensor costs in the same lists.
const DIMENSION: u64 = 128;

/// What an entry of the metadata costs beside its key and value: the same, in fewer lists.
const ENTRY: u64 = 1024;

/// How often text and numbers of the metadata are in memory at once: read, changed, and encoded again.
const COPIES: u64 = 2;

/// What is left to spend.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u64,
}

/// The budget does not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded;

impl Exceeded {
    /// What to say of it.
    pub const WHAT: &str = "the file lists far more than a file of its size can need, and reading that would take many \
                            times its size in memory: it is damaged or was made for this; download the model again";
}

impl Budget {
    /// Of a checkpoint whose files are not known yet.
    pub fn new() -> Self {
        Self { left: SPARE }
    }

    /// Of a single file of so many bytes.
    pub fn of(bytes: u64) -> Self {
        let mut budget = Self::new();
        budget.add(bytes);
        budget
    }

    /// A further file of the model.
    pub fn add(&mut self, bytes: u64) {
        self.left = self.left.saturating_add(bytes);
    }

    /// Pays for so many bytes.
    pub fn spend(&mut self, bytes: u64) -> Result<(), Exceeded> {
        self.left = self.left.checked_sub(bytes).ok_or(Exceeded)?;
        Ok(())
    }

    /// Pays for a tensor.
    pub fn tensor(&mut self, name: &str) -> Result<(), Exceeded> {
        self.spend(TENSOR + 8 * name.len() as u64)
    }

    /// Pays for the shape of a tensor.
    pub fn shape(&mut self, dimensions: usize) -> Result<(), Exceeded> {
        self.spend(DIMENSION * dimensions as u64)
    }

    /// Pays for an entry of the metadata, without its value.
    pub fn entry(&mut self, key: &str) -> Result<(), Exceeded> {
        self.spend(ENTRY + COPIES * key.len() as u64)
    }

    /// Pays for a value of so many bytes.
    pub fn value(&mut self, bytes: u64) -> Result<(), Exceeded> {
        self.spend(bytes.saturating_mul(COPIES))
    }
}
