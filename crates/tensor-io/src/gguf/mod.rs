//! The GGUF container.
//!
//! ```text
//! "GGUF"  u32 version   u64 tensor count   u64 metadata count
//! metadata, each    string key, u32 value type, value
//! tensors, each     string name, u32 n, n x u64 dimensions (innermost first), u32 type id, u64 offset
//! padding to general.alignment (32 unless said otherwise)
//! data              each tensor at its offset from here, padded to the alignment, no gaps
//!
//! string = u64 length, UTF-8 bytes       array = u32 element type, u64 count, elements
//! ```
//!
//! Everything is little endian. Versions 2 and 3 share this layout; 1 had 32-bit counts and is not supported.
//!
//! The reader (`reader`) is our own and checks every length before use. ggus, the crate chosen for
//! GGUF, is used for what it does soundly, putting header fields into bytes ([`Writer`]). Its reader takes
//! unknown type ids for enum values and panics on or overflows with hostile sizes, its table of types
//! lacks six and missizes four, and its file-name parser panics on names such as `x-0x7B-y.gguf`.

mod cursor;
mod header;
pub(crate) mod reader;
pub(crate) mod split;
mod split_writer;
mod writer;

pub use crate::plan::TensorPlan;
pub use split::SplitName;
pub use split_writer::{Split, SplitPart, SplitWriter};
pub use writer::Writer;

use crate::budget::Budget;

/// Alignment of the data section and of each tensor where `general.alignment` is absent.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The metadata key that changes it.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

/// Tensor names are shorter than this (`GGML_MAX_NAME`, which counts C's closing zero).
pub(crate) const MAX_NAME_BYTES: usize = 64;

/// Most dimensions a tensor can have (`GGML_MAX_DIMS`).
pub(crate) const MAX_DIMENSIONS: usize = 4;

/// Most bytes in a string and most elements in an array: ggml refuses more.
pub(crate) const MAX_LENGTH: u64 = 1 << 30;

/// Values of `general.architecture` that are no language model's: vision and audio projectors, control vectors.
const COMPANION_ARCHITECTURES: [&str; 2] = ["clip", "controlvector"];

/// Whether the file at `path` says that it is no model of its own: an adapter, a projector, an importance matrix, a
/// vocabulary. A file that cannot be read says nothing.
pub(crate) fn is_companion(path: &std::path::Path) -> bool {
    let header = crate::map::MappedFile::open(path)
        .and_then(|file| reader::read(path, file.bytes(), 0, &mut Budget::new()));
    let Ok(reader::Header { metadata, tensors, names: _ }) = header else { return false };
    let other_type = metadata.str("general.type").is_some_and(|kind| kind != "model");
    let other_architecture =
        metadata.str("general.architecture").is_some_and(|name| COMPANION_ARCHITECTURES.contains(&name));
    // The first of several parts may be without tensors.
    let vocabulary = tensors.is_empty() && metadata.get("split.count").is_none();
    other_type || other_architecture || vocabulary
}

/// Checks a value for `general.alignment`; the error is the rule it breaks.
pub(crate) fn check_alignment(value: &crate::Value) -> Result<u64, String> {
    match *value {
        crate::Value::U32(v) if v.is_power_of_two() => Ok(v.into()),
        crate::Value::U32(v) => Err(format!("{ALIGNMENT_KEY} is {v}, it must be a power of two")),
        _ => Err(format!("{ALIGNMENT_KEY} must be a u32")),
    }
}
