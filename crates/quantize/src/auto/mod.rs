//! Types chosen by measurement: which tensor of a model gets which type, so that the file has the size that was asked for
//! and the model's predictions change as little as can be.
//!
//! ```text
//! measure()   each tensor rounded to one type, alone, everything else as it is: how far the predictions move
//!             (Kullback-Leibler divergence over some text), block by block, from the changed block on     sensitivity.rs
//!             the other types by their rounding errors, in proportion to the divergence                   rounding.rs
//!             on a GPU if there is one; rounding is done by the CPU                                       place.rs
//! choose()    the types whose divergences have the smallest sum within the bytes                          allocate.rs
//!             as a recipe, checked against the plan of the file                                           choose.rs
//! ```
//!
//! Divergences of small errors in different tensors add up, and grow with the square of an error: so few measurements say
//! what any choice will cost. Nothing here depends on the number of threads.

mod allocate;
mod candidates;
mod choose;
mod error;
mod place;
mod rounding;
mod sensitivity;

pub use allocate::{Version, allocate};
pub use candidates::{candidates, feedback_factor};
pub use choose::{Chosen, ChosenRow, Target, choose};
pub use error::Error;
pub use place::place;
pub use rounding::{RoundError, Rounding};
pub use sensitivity::{MeasureOptions, Sensitivity, TensorSensitivity, measure};
