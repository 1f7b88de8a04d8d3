//! What a layer should make up for: the difference between the inputs it will see and those of the unquantized model,
//! and what the residual stream has lost before it (GPTAQ, Li et al. 2025; QEP, Arai and Ichikawa 2025).
//!
//! With `X` the inputs in the unquantized model, `X~` those of the model quantized so far, and `R` the drift (the
//! residual stream of the unquantized model less the current one where the layer's output is added to it), the layer
//! should give `W X + R` for `X~`:
//!
//! ```text
//! |(W - Q) X~ + W (X - X~) + R|²        M = W (X - X~) X~ᵀ + R X~ᵀ,  H = X~ X~ᵀ = U Uᵀ
//!   = |(W - Q) U + Y|² + const          Y Uᵀ = M
//! ```
//!
//! so `Y` is where the residuals of the column loop begin.

use quern_compute::{Pool, Product, cross, multiply_add};

/// Sums over the calibration tokens.
#[derive(Clone, Debug)]
pub struct Shift {
    columns: usize,
    /// `(X - X~) X~ᵀ`, `[columns][columns]`.
    inputs: Vec<f32>,
    /// `R X~ᵀ`, `[rows][columns]`; empty without drift.
    drift: Vec<f32>,
    difference: Vec<f32>,
}

impl Shift {
    /// Sums of 0 for inputs of this length (a multiple of 16): takes `4 * columns²` bytes.
    pub fn new(columns: usize) -> Self {
        Self { columns, inputs: vec![0.0; columns * columns], drift: Vec::new(), difference: Vec::new() }
    }

    /// Adds the inputs of some tokens: `[tokens][columns]` in both models, and the drift, `[tokens][rows]`.
    ///
    /// # Panics
    /// If lengths do not fit together.
    pub fn add(&mut self, pool: &Pool, x: &[f32], reference: &[f32], drift: Option<&[f32]>) {
        let columns = self.columns;
        assert_eq!(x.len(), reference.len(), "the same tokens");
        self.difference.clear();
        self.difference.extend(reference.iter().zip(x).map(|(r, x)| r - x));
        cross(pool, (&self.difference, columns), (x, columns), &mut self.inputs)
            .expect("lengths are checked");
        if let Some(drift) = drift {
            let rows = drift.len() / (x.len() / columns).max(1);
            self.drift.resize(rows * columns, 0.0);
            cross(pool, (drift, rows), (x, columns), &mut self.drift).expect("lengths are checked");
        }
    }

    /// `M` for these weights, `[rows][columns]`, the first of which is the layer's row `first`: `inputs` and `drift` say
    /// how much of each counts.
    pub fn target(&self, pool: &Pool, weights: &[f32], first: usize, inputs: f32, drift: f32) -> Vec<f32> {
        const ROWS: usize = 32;
        let columns = self.columns;
        let mut target = vec![0f32; weights.len()];
        let parts: Vec<_> = target.chunks_mut(ROWS * columns).map(std::sync::Mutex::new).collect();
        let scaled: Vec<f32> = weights.iter().map(|w| w * inputs).collect();
        pool.run(parts.len(), |p| {
            let mut part = parts[p].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let rows = part.len() / columns;
            multiply_add(
                pool.level(),
                Product {
                    rows,
                    depth: columns,
                    width: columns,
                    a: &scaled[p * ROWS * columns..],
                    a_stride: columns,
                    b: &self.inputs,
                    c: &mut part,
                    c_stride: columns,
                },
            );
            if let Some(own) = self.drift.get((first + p * ROWS) * columns..).filter(|own| !own.is_empty()) {
                for (to, from) in part.iter_mut().zip(own) {
                    *to += drift * from;
                }
            }
        });
        drop(parts);
        target
    }
}
