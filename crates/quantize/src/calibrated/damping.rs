//! How much a Hessian is damped, and when it says too little to be used at all.

use super::Calibration;

/// A layer that saw less than this share of the calibration tokens is rounded without error feedback.
const LEAST_SHARE: f64 = 0.005;

/// Damping of at least `damp`, more where there are few tokens for the columns.
pub(super) fn least_damp(damp: f64, columns: usize, tokens: u64) -> f64 {
    damp.max(columns as f64 / tokens.max(1) as f64).min(1.0)
}

/// Why so few tokens are not enough for a Hessian; `None` if they are.
pub(super) fn too_few(calibration: &Calibration, tokens: u64) -> Option<String> {
    let all = calibration.samples.tokens;
    ((tokens as f64) < LEAST_SHARE * all as f64).then(|| format!("it saw only {tokens} of {all} tokens"))
}

/// The warning for a layer whose Hessian needed much more damping than it was given.
pub(super) fn warning(layer: &str, wanted: f64, taken: f64) -> Option<String> {
    (taken > 1.5 * wanted).then(|| {
        format!("{layer}: its Hessian needed damping of {taken:.3}: more or other calibration text may help")
    })
}

/// The most such warnings that are shown.
pub(super) const MOST_WARNINGS: usize = 8;
