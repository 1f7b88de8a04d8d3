//! End-to-end tests of the binary: what a person at a shell sees.

mod chat;
mod checkpoints;
mod common;
mod configuration;
mod convert;
mod damage;
mod diff;
mod fake_hub;
mod fit;
mod hub;
mod identify;
mod imatrix;
mod inspect;
mod patterns;
mod placement;
mod progress;
mod provenance;
mod quantize;
mod report;
mod requantize;
mod run;
mod schemes;
