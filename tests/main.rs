//! End-to-end tests of the binary: what a person at a shell sees.

mod chat;
mod common;
mod damage;
mod imatrix;
mod inspect;
mod quantize;
mod run;
mod schemes;
