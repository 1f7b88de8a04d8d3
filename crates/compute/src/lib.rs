#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! - [`matmul`]: linear layers straight from the memory map, for every element type
//! - [`attention`]: causal attention over a key-value cache
//! - [`gram()`] and [`factor()`]: Hessians of linear layers and their Cholesky factors
//! - [`ops`]: norms, rotary embedding, activation functions, softmax
//! - [`cuda`]: NVIDIA cards, their memory and kernels (feature `cuda`, on by default)
//! - [`Pool`]: the threads, and the SIMD level, passed in by the caller
//! - [`simd`]: instruction levels, also for other crates' own loops

pub(crate) mod activations;
pub(crate) mod aligned;
pub mod attention;
pub(crate) mod block;
mod cores;
#[cfg(feature = "cuda")]
pub mod cuda;
pub(crate) mod dot;
mod error;
mod executor;
pub(crate) mod fgemm;
pub mod float;
pub(crate) mod gemm;
mod gram;
mod matmul;
mod matrix;
pub mod ops;
pub mod parallel;
mod pool;
mod sample;
mod scales;
pub mod simd;
pub mod states;
#[cfg(test)]
mod testing;

pub use attention::{AttentionShape, Chosen, IndexShape, LatentShape};
pub use cores::default_threads;
pub use error::{Error, Result};
pub use executor::{
    Attend, AttendLatent, Buffer, Bytes, CacheShape, Choice, ChoosePositions, Columns, Device, Executor,
    ExpertLayers, ExpertStacks, Gpu, GroupRank, Groups, Heads, Input, KvCache, KvType, LatentMatrices,
    Linear, MOST_GPU_ABSORBED, MOST_GPU_EXPERTS, MOST_GPU_HEAD, MOST_GPU_LATENT, MOST_GPU_LATENT_RANK,
    MOST_GPU_STATE, MOST_GPU_TAPS, Mixture, Mode, Norm, NormKind, Output, PassKey, Permutation, Recorded,
    Room, Rotate, Routing, RowLikelihood, Rows, Scores, Turn, Uploader, Values, ValuesMut, Vector, Waiting,
    Weight, bytes_of_linear, bytes_of_matrix, bytes_of_norm, bytes_of_stack, bytes_of_vector, gpus, mixers,
};
#[doc(hidden)]
pub use fgemm::{Product, multiply_add};
pub use gram::cross::cross;
pub use gram::factor::{BadPivot, factor};
pub use gram::factor64::factor_f64;
pub use gram::gram;
pub use gram::mirror::{lower_to_upper, upper_to_lower};
pub use matmul::{Scratch, matmul};
pub use matrix::{Matrix, get_row, supports};
pub use pool::Pool;
pub use sample::sample_weights;
pub use scales::Scales;
