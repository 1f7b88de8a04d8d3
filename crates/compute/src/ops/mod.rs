//! The operations of a forward pass between its linear layers, on f32 rows. Row-wise operations take any whole
//! number of rows; they run on the calling thread (call them from a [`crate::Pool`] region for many rows), with
//! the instructions of a level (the pool has one).

mod backward;
mod exp;
mod gated;
mod norm;
mod rope;
mod softmax;
mod statistics;
mod xielu;

pub use backward::{activate_backward, activate_mul_backward, layer_norm_backward, rms_norm_backward};
pub(crate) use exp::exp;
pub use gated::{Activation, activate, activate_mul, softcap};
pub use norm::{layer_norm, rms_norm};
pub use rope::{RopeStyle, rope};
pub use softmax::{argmax, log_softmax_at, softmax};
pub use statistics::{kl_divergence, log_sum_exp, top1};
pub use xielu::Xielu;

use crate::simd::{Level, Op, dispatch};

/// Independent partial results side by side: what the compiler may vectorise.
pub(crate) const LANES: usize = 16;

/// Joins 16 partial results in a fixed order, pairs of pairs: four steps deep instead of fifteen.
#[inline(always)]
pub(crate) fn join(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}

/// The larger of two, the second if one is NaN.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `x += y`, element by element (a residual connection).
///
/// # Panics
/// If the lengths differ.
pub fn add(level: Level, x: &mut [f32], y: &[f32]) {
    struct Add<'a>(&'a mut [f32], &'a [f32]);
    impl Op for Add<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            for (x, y) in self.0.iter_mut().zip(self.1) {
                *x += y;
            }
        }
    }
    assert_eq!(x.len(), y.len(), "add: lengths");
    dispatch(level, Add(x, y));
}

/// Adds `bias` (one row) to every row of `x`.
///
/// # Panics
/// If `x` is not a whole number of rows of `bias.len()` values.
pub fn add_bias(level: Level, x: &mut [f32], bias: &[f32]) {
    assert!(!bias.is_empty() && x.len().is_multiple_of(bias.len()), "add_bias: lengths");
    for row in x.chunks_exact_mut(bias.len()) {
        add(level, row, bias);
    }
}
