//! What distinguishes two checkpoints, in any container and scheme.
//!
//! ```text
//! A ──┐            ┌─> matching: pairs of tensors, tensors of one side ─> compare: pieces on all threads ─> TensorDiff
//!     ├─> views ───┤
//! B ──┘   in one   └─> (numbers that are equal in one naming are equal in the other)
//!         naming
//! ```
//!
//! | module | about |
//! |---|---|
//! | `views` | the one naming in which both are seen |
//! | `matching` | which tensor of A belongs to which tensor of B |
//! | `measure` | sums over two sets of values, and the figures that follow from them |
//! | `compare` | the streaming comparison |
//! | `report` | what is reported of tensors |

mod compare;
mod matching;
mod measure;
mod report;
mod views;

pub use compare::{Options, tensors};
pub use report::{Errors, Lone, NotFinite, Status, Stored, TensorDiff, TensorTotals, Tensors};
pub use views::Naming;
