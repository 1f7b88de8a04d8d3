//! Models as they are run: logits against references, sessions, caches, placement.
//!
//! One program, so that what is tested is linked once. Tests that count memory, or need a card, are programs of their own.

#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod architectures;
mod generate;
mod gpt_oss;
mod gradients;
mod kv;
mod latent;
mod layerwise;
mod placement;
mod reference;
mod session;
mod sparse;
mod states;
mod streams;
mod tiny;
