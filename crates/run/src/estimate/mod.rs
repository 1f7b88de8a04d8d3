//! What a run of a planned placement will take, before anything is loaded: memory at its peak, time for a token.
//!
//! ```text
//! Sizes (headers) ──> Plan ──┬──> MemoryEstimate      + what the process and the driver take, as measured
//!                            └──> seconds_per_token   + MachineSpeed: rates of this machine, measured
//! ```
//!
//! Constants in this module were measured on the machines that `docs/choosing.md` names, with the tables that show how
//! close the estimates are.

mod machine;
mod memory;
mod speed;

pub use machine::{Costs, MachineSpeed, Matrices};
pub use memory::{DeviceMemory, GPU_CONTEXT, MemoryEstimate, ram_beside};
pub use speed::{TokenTime, region_bytes, token_time};
