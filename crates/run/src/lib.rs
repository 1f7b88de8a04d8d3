//! Running models on the CPU: forward pass, KV cache, sampling, generation, perplexity, bench.
//!
//! ```text
//! Checkpoint ──> Model ──> Session ──forward(tokens)──> logits ──> Sampler ──> token
//!  (the map)    weights     keys and values,                └────> perplexity
//!               by role     scratch memory
//! ```
//!
//! The forward pass ([`Session::forward`]) is one program that reads the architecture's description; an
//! [`Observer`] may watch the input of every linear layer. Results do not depend on the number of threads.

mod bench;
mod cache;
mod chat;
mod error;
mod forward;
mod generate;
mod layerwise;
mod load;
mod memory;
mod model;
mod observer;
mod parallel;
mod perplexity;
pub mod random;
mod rope;
mod sampling;
mod session;
pub mod statistics;
mod weights;

pub use bench::{BenchOptions, BenchReport, bench};
pub use chat::Chat;
pub use error::{Error, Result};
pub use generate::{
    GenerateOptions, GenerateReport, Generator, Listener, Logprob, Stop, TokenLogprobs, generate,
    generate_from_tokens,
};
pub use layerwise::{Layerwise, LayerwiseError, LinearInfo, Replacement, Stages};
pub use load::LoadIn;
pub use memory::peak_memory_bytes;
pub use model::{LoadOptions, Model};
pub use observer::{LinearInput, Observer};
pub use perplexity::{Divergence, PerplexityOptions, PerplexityReport, perplexity, perplexity_of_tokens};
pub use sampling::{DryOptions, Mirostat, MirostatVersion, Sampler, SamplingOptions, Stage};
pub use session::{KvType, Session, SessionOptions, Wanted};
