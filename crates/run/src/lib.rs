#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! ```text
//! Checkpoint ──> Model ──> Session ──forward(tokens)──> logits ──> Sampler ──> token
//!  (the map)    weights     key-value cache,                └────> perplexity
//!               by role     buffers
//! ```
//!
//! The forward pass ([`Session::forward`]) is one program that reads the architecture's description. An
//! [`Observer`] may see the input of every linear layer; calibration is such an observer. Results do not depend on
//! the number of threads.

mod backward;
mod bandwidth;
mod bench;
mod chat;
mod error;
pub mod estimate;
mod forward;
mod generate;
mod layerwise;
mod load;
mod matrix;
mod memory;
mod model;
mod observer;
mod perplexity;
pub mod placement;
mod probe;
pub mod random;
mod rope;
mod sampling;
mod session;
pub mod statistics;
mod weights;

pub use backward::{GradientObserver, Gradients, LinearGradient, Loss, Target, gradients_memory};
pub use bandwidth::{Bandwidths, MemorySpeed, ReadLimit, gpu_bandwidth, read_bandwidth};
pub use bench::{BenchOptions, BenchReport, BenchTest, Speed, bench};
pub use chat::{Chat, ChatNote};
pub use error::{Error, Result};
pub use generate::{
    GenerateOptions, GenerateReport, Generator, Listener, Logprob, Stop, TokenLogprobs, generate,
    generate_from_tokens,
};
pub use layerwise::{Calibrator, Layerwise, LayerwiseMemory, Replacement};
pub use load::LoadIn;
pub use memory::{Resident, available_memory, last_level_cache, peak_memory_bytes, require_memory, resident};
pub use model::{GpuMemory, LoadOptions, Model, Placing, check_context, default_context};
pub use observer::{LinearGroup, LinearInfo, Observer, ObserverError};
pub use perplexity::{Divergence, PerplexityOptions, PerplexityReport, perplexity, perplexity_of_tokens};
pub use placement::MemoryPlan;
pub use probe::{Effect, Probe, probe_memory};
pub use quern_compute::{KvType, default_threads};
pub use sampling::{DryOptions, Mirostat, MirostatVersion, Sampler, SamplingOptions, Stage};
pub use session::{Session, SessionOptions, Wanted};
