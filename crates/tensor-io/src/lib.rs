//! Containers and element types: open, map, decode, stream out. Knows nothing of models.

pub mod checkpoint;
pub mod decode;
mod element;
mod error;
pub mod gguf;
mod metadata;
pub mod output;
mod progress;

pub use checkpoint::{Checkpoint, Container, Tensor, TensorInfo};
pub use element::ElementType;
pub use error::{Error, ErrorKind, Result};
pub use metadata::{Array, Metadata, StringArray, Value};
pub use progress::{NoProgress, Progress};
