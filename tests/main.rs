//! End-to-end tests of the binary: what a person at a shell sees.

mod chat;
mod checkpoints;
mod common;
mod convert;
mod damage;
mod fake_hub;
mod hub;
mod imatrix;
mod inspect;
mod quantize;
mod requantize;
mod run;
mod schemes;
