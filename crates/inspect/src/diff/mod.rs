//! What distinguishes two checkpoints, in any container and scheme.
//!
//! ```text
//! A ──┐            ┌─> matching: pairs of tensors, tensors of one side ─> compare: pieces on all threads ─> TensorDiff
//!     ├─> views ───┤
//! B ──┘   in one   └─> (numbers that are equal in one naming are equal in the other)
//!         naming
//! ```
//!
//! | module | about |
//! |---|---|
//! | `views` | the one naming in which both are seen |
//! | `matching` | which tensor of A belongs to which tensor of B |
//! | `measure` | sums over two sets of values, and the figures that follow from them |
//! | `compare` | the streaming comparison |
//! | `report` | what is reported of tensors |
//! | `config` | configurations as quern understands them |
//! | `metadata` | GGUF keys; `config.json` and `generation_config.json` |
//! | `tokenizer` | vocabulary, merges, special tokens, templates |

mod compare;
mod config;
mod entry;
mod matching;
mod measure;
mod metadata;
mod report;
mod tokenizer;
mod views;

use quern_model::Config;
use quern_tensor_io::{Checkpoint, Container, Progress, Result};
use serde::Serialize;

pub use compare::{Options, tensors};
pub use entry::Entry;
pub use report::{Errors, Lone, NotFinite, Status, Stored, TensorDiff, TensorTotals, Tensors};
pub use tokenizer::{ItemDiff, ListDiff, TokenizerDiff};
pub use views::Naming;

/// Everything that distinguishes two checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// Nothing that counts differs.
    pub same: bool,
    /// The tensors.
    #[serde(flatten)]
    pub tensors: Tensors,
    /// What the forward pass computes with.
    pub configuration: Vec<Entry>,
    /// Keys of `config.json`, of two directories.
    pub config_json: Vec<Entry>,
    /// Keys of GGUF metadata, of two GGUF files, without the tokenizer's.
    pub metadata: Vec<Entry>,
    /// Recommended settings for generation.
    pub generation: Vec<Entry>,
    /// The tokenizers.
    pub tokenizer: TokenizerDiff,
}

/// Compares two checkpoints whole. Progress as in [`tensors`].
///
/// # Errors
/// As [`tensors`].
pub fn diff(a: &Checkpoint, b: &Checkpoint, options: &Options, progress: &dyn Progress) -> Result<Diff> {
    let tensors = tensors(a, b, options, progress)?;
    let configs = (Config::from_checkpoint(a).ok(), Config::from_checkpoint(b).ok());
    let (of_a, of_b) = (configs.0.as_ref(), configs.1.as_ref());
    let gguf = |checkpoint: &Checkpoint| checkpoint.container() == Container::Gguf;
    let configuration = match (of_a, of_b) {
        (Some(of_a), Some(of_b)) => config::compare(of_a, of_b, gguf(a) != gguf(b)),
        (Some(one), None) => vec![Entry::new("architecture", Some(one.architecture.family()), None, true)],
        (None, Some(one)) => vec![Entry::new("architecture", None, Some(one.architecture.family()), true)],
        (None, None) => Vec::new(),
    };
    let config_json = metadata::config_json(a, b, of_a.is_some() && of_b.is_some());
    let metadata = metadata::gguf(a, b);
    let generation = metadata::generation(a, b);
    let tokenizer = tokenizer::compare((a, of_a), (b, of_b));
    [a, b].into_iter().try_for_each(Checkpoint::check_files)?;
    let lists = [&configuration, &config_json, &metadata, &generation];
    let same =
        tensors.same() && tokenizer.same() && lists.iter().all(|list| list.iter().all(|entry| !entry.counts));
    Ok(Diff { same, tensors, configuration, config_json, metadata, generation, tokenizer })
}
