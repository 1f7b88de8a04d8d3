//! NVIDIA cards, through the driver that is found at run time.
//!
//! Nothing of CUDA is needed to build: the kernels (`kernels/`, compiled ahead by `tools/build_kernels.py`) are in this
//! binary as machine code for some cards, and as PTX, which the driver compiles, for all others. The driver's functions
//! are looked up when a card is first asked for. Drivers of CUDA 12.4 and later work, and cards of compute capability 7.5
//! and later.
//!
//! - [`cards`] lists what there is, [`Card::open`] opens one
//! - [`Memory`] and [`Pinned`] hold bytes, [`Stream`] queues copies and launches, [`Event`] orders streams
//! - [`Loader`] brings a model's parameters to a card, [`Executor`] computes with them
//! - [`GramMatrix`] is a matrix of sums, ordered, damped and factored
//! - [`Card::function`] gives a kernel, [`Launch`] launches it, [`Stream::capture`] records a [`Graph`]
//!
//! Every call returns an error rather than panic, and says once that a card is lost: after a fault of a kernel all later
//! calls return that same error.

mod args;
mod attention_plan;
mod bandwidth;
mod cache;
mod card;
pub mod column_loop;
mod driver;
mod error;
mod executor;
mod formats;
mod generation;
mod gradient_args;
mod gram_matrix;
mod graph;
mod image;
mod images;
mod launch;
mod loader;
mod matmul_args;
mod matmul_plan;
mod matrix;
mod memory;
mod mixer_args;
mod module;
mod stream;
mod sums_args;
mod vector;
mod waiting;

pub use cache::Cache;
pub use card::{Card, CardInfo, MemoryUse, OLDEST_CAPABILITY, cards};
pub use error::{CardName, Code, CudaError, CudaResult, MemoryError, Version};
pub use executor::Executor;
use generation::Generation;
pub use gram_matrix::{DiagonalSquare, GramMatrix};
pub use graph::Graph;
pub use launch::Launch;
pub use loader::Loader;
pub use matrix::Matrix;
pub use memory::{Memory, Pinned, Pointer};
pub use module::Function;
pub use stream::{Event, Stream};
pub use vector::{Buffer, Region, Values};
pub use waiting::Waiting;
