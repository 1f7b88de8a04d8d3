//! The safetensors container.
//!
//! ```text
//! u64 n (little endian)
//! n bytes of JSON: {"__metadata__": {"key": "text", ...},
//!                   "name": {"dtype": "F16", "shape": [rows, columns], "data_offsets": [begin, end]}, ...}
//! data: offsets count from here; tensors follow one another without gaps and fill the file
//! ```
//!
//! Several files make a model through `model.safetensors.index.json`: `{"weight_map": {"name": "file", ...}}`.
//!
//! The reader is quern's own, because it must name the tensor that is wrong and may take only as much memory as the
//! file justifies. It refuses everything that the `safetensors` crate, the format's reference, refuses, which the
//! tests check against that crate, and duplicate keys.

pub(crate) mod json;
pub(crate) mod reader;
mod sharded;
mod writer;

use ::safetensors::Dtype;

pub use crate::plan::TensorPlan;
pub use sharded::ShardedWriter;
pub use writer::{Writer, outline};

use crate::ElementType;

/// The largest header that readers of the format accept, in bytes.
pub(crate) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The key in the header that is not a tensor.
pub(crate) const METADATA_KEY: &str = "__metadata__";

const DTYPES: [(ElementType, Dtype); 15] = [
    (ElementType::F64, Dtype::F64),
    (ElementType::F32, Dtype::F32),
    (ElementType::F16, Dtype::F16),
    (ElementType::BF16, Dtype::BF16),
    (ElementType::F8E4M3, Dtype::F8_E4M3),
    (ElementType::F8E5M2, Dtype::F8_E5M2),
    (ElementType::I64, Dtype::I64),
    (ElementType::I32, Dtype::I32),
    (ElementType::I16, Dtype::I16),
    (ElementType::I8, Dtype::I8),
    (ElementType::U64, Dtype::U64),
    (ElementType::U32, Dtype::U32),
    (ElementType::U16, Dtype::U16),
    (ElementType::U8, Dtype::U8),
    (ElementType::Bool, Dtype::BOOL),
];

/// The element type of a safetensors type that quern knows.
pub(crate) fn element_type(dtype: Dtype) -> Option<ElementType> {
    DTYPES.iter().find(|(_, d)| *d == dtype).map(|(t, _)| *t)
}

/// The safetensors type of an element type, if it has one: block types have none.
pub fn dtype(element_type: ElementType) -> Option<Dtype> {
    DTYPES.iter().find(|(t, _)| *t == element_type).map(|(_, d)| *d)
}
