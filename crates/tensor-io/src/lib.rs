//! Containers and element types: open, map, decode, stream out. Knows nothing of models.

pub mod checkpoint;
pub mod decode;
mod discover;
mod element;
mod error;
pub mod gguf;
mod header;
mod index;
pub mod layout;
mod map;
mod metadata;
pub mod output;
mod plan;
mod progress;
mod pytorch;
pub mod safetensors;
pub mod scheme;
mod stream;
mod strided;
mod temporary;

pub use checkpoint::{Checkpoint, Container, Tensor, TensorInfo};
pub use element::ElementType;
pub use error::{Error, ErrorKind, Result};
pub use header::header_end;
pub use metadata::{Array, Metadata, StringArray, Value};
pub use plan::TensorPlan;
pub use progress::{NoProgress, Progress};
