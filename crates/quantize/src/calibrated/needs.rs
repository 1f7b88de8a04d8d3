//! Memory and disk space that a job takes, known before it begins.
//!
//! ```text
//! memory   all tokens     residual stream, inputs of the network, inputs of the next group; twice, where the
//!                         unquantized model is run too
//!          a sequence     its activations, keys and values, the packed inputs of the Hessian
//!          a group        the Hessian in its order and as it was; weights, their solution, the quantized layers
//! disk     unfinished     quantized layers, and while one residual stream is written, the one before
//!          output         quantized layers, and every other tensor
//! ```

use quern_run::Model;

use super::Calibration;

/// The layers that are worked on, by their largest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Largest {
    /// Inputs of a layer.
    pub columns: usize,
    /// Weights that are solved at once.
    pub weights: usize,
    /// Hessians of a group that are held at once, with those being factored and sums of other products.
    pub hessians: usize,
    /// Models that are run: with the unquantized one it is two.
    pub streams: usize,
}

/// Tokens that are run, all at once.
pub(super) fn tokens(calibration: &Calibration) -> u64 {
    calibration.samples.sequences.iter().map(|sequence| sequence.len() as u64).sum()
}

/// Bytes of memory beside the mapped model, where the CPU computes.
pub(super) fn memory(model: &Model, calibration: &Calibration, largest: Largest) -> u64 {
    let config = model.config();
    let tokens = tokens(calibration);
    let longest = calibration.samples.sequences.iter().map(Vec::len).max().unwrap_or(0) as u64;
    let (hidden, ffn) = (config.hidden_size as u64, config.ffn_size as u64);
    let (query, key) = ((config.heads * config.head_dim) as u64, (config.kv_heads * config.head_dim) as u64);
    let (columns, hessians) = (largest.columns as u64, largest.hessians as u64);
    let activations = largest.streams as u64 * tokens * (2 * hidden + ffn.max(query).max(hidden));
    let sequence = longest * (2 * hidden + 2 * query + 4 * key + columns);
    // In f32, as codes of a byte, and packed.
    let weights = largest.weights as u64;
    4 * (activations + sequence + hessians * columns * columns + 2 * weights)
}

/// Bytes on the disk of an unfinished run that keeps so many bytes of quantized layers.
pub(super) fn unfinished(model: &Model, calibration: &Calibration, quantized: u64, streams: u64) -> u64 {
    let hidden = streams * 4 * tokens(calibration) * model.config().hidden_size as u64;
    quantized + 2 * hidden
}
