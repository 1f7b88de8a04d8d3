//! Model files that were cut or changed while a command read them.

use crate::commands::Outcome;

/// The outcome, unless such a file explains it: what was made from it is no result, and zeros in place of weights, or a
/// system call that cannot read them, lead to errors that say something else.
pub fn checked(outcome: Outcome) -> Outcome {
    match quern_tensor_io::check_mapped_files() {
        Ok(()) => outcome,
        Err(error) => Err(error.into()),
    }
}
