//! Reads and writes the tensors of model checkpoints: GGUF, safetensors and PyTorch files.
//!
//! [`Checkpoint::open`] gives one view of any of them, memory-mapped, with every header field checked. Tensors decode to
//! f32 from every block type of GGUF models (`q4_K`, `iq2_xs`, `mxfp4` …), from float types, and from the packed layers of
//! GPTQ, AWQ, compressed-tensors and bitsandbytes. Writers stream one tensor at a time, and the output appears
//! under its name only when it is complete. What a tensor means to a model is not known here: that is `quern-model`.
//!
//! With the feature `ndarray`, a tensor of any checkpoint is an array in three lines:
//!
#![cfg_attr(feature = "ndarray", doc = "```")]
#![cfg_attr(not(feature = "ndarray"), doc = "```ignore")]
//! # let model = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/bookworm-4m"));
//! use quern_tensor_io::Checkpoint;
//!
//! let checkpoint = Checkpoint::open(model)?; // a directory, or a .gguf, .safetensors or .bin file
//! let weight = checkpoint.array("model.layers.0.mlp.up_proj.weight")?; // ndarray::ArrayD<f32>
//! println!("{:?}, mean {:?}", weight.shape(), weight.mean());
//! # assert_eq!((weight.shape(), weight.iter().any(|w| *w != 0.0)), (&[768, 256][..], true));
//! # Ok::<(), quern_tensor_io::Error>(())
//! ```
//!
//! Without it, bytes come straight from the memory map and are decoded into a buffer of yours:
//!
//! ```
//! # let model = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/bookworm-4m-Q4_K_M.gguf"));
//! use quern_tensor_io::{Checkpoint, decode};
//!
//! let checkpoint = Checkpoint::open(model)?;
//! for info in checkpoint.tensors() {
//!     println!("{} {} {:?}", info.name, info.element_type, info.shape);
//! }
//! let tensor = checkpoint.tensor("blk.0.ffn_up.weight").expect("it is there");
//! let mut values = vec![0.0; tensor.info.elements()];
//! assert!(decode::to_f32(tensor.info.element_type, tensor.data, &mut values));
//! # Ok::<(), quern_tensor_io::Error>(())
//! ```
//!
//! - [`checkpoint`]: opening, names, shapes, bytes
//! - [`decode`]: block types to f32, one file per family, each with its layout
//! - [`scheme`]: layers that GPTQ, AWQ, compressed-tensors and bitsandbytes keep in several tensors
//! - [`gguf`], [`safetensors`]: writers, splits and shards
//! - [`output`]: files and directories that appear complete or not at all
//! - [`small`]: configurations and texts, read only from regular files of a bounded size

#[cfg(feature = "ndarray")]
mod array;
mod budget;
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
mod names;
pub mod output;
pub mod pipeline;
mod plan;
mod progress;
mod pytorch;
mod remedy;
pub mod safetensors;
pub mod scheme;
pub mod small;
mod stream;
mod strided;
mod temporary;

pub use checkpoint::{Checkpoint, Container, Tensor, TensorInfo};
pub use element::ElementType;
pub use error::{Error, ErrorKind, Result};
pub use header::header_end;
pub use map::check_mapped_files;
pub use metadata::{Array, Metadata, StringArray, Value};
pub use plan::TensorPlan;
pub use progress::{NoProgress, Progress};
pub use remedy::Remedy;

#[cfg(all(doctest, feature = "ndarray"))]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
