//! Causal convolution of each channel by itself: `y[t] = bias + sum over j of w[j] * x[t - taps + 1 + j]`.

use crate::error::same;
use crate::ops::{self, Activation};
use crate::parallel::{part_of, share};
use crate::simd::{Op, dispatch};
use crate::{Pool, Result};

/// Values of a state: the inputs of the last `taps - 1` tokens, `[taps - 1][channels]`.
pub fn conv_state(channels: usize, taps: usize) -> usize {
    taps.saturating_sub(1) * channels
}

/// The weights of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Taps<'a> {
    /// `[taps][channels]`, the last tap the token's own.
    pub weight: &'a [f32],
    /// Added to each channel.
    pub bias: Option<&'a [f32]>,
    /// Number of channels.
    pub channels: usize,
}

/// Convolves `x`, `[tokens][channels]`, in place, and applies `activation`. `state` has the inputs before the first token,
/// and then those before the token behind the last.
///
/// # Errors
/// Lengths that do not fit each other.
pub fn causal_conv(
    pool: &Pool,
    x: &mut [f32],
    Taps { weight, bias, channels }: Taps<'_>,
    state: &mut [f32],
    activation: Option<Activation>,
) -> Result<()> {
    if channels == 0 || x.is_empty() {
        return Ok(());
    }
    let (taps, tokens) = ((weight.len() / channels).max(1), x.len() / channels);
    same("convolution: weight", weight.len(), taps * channels)?;
    same("convolution: state", state.len(), conv_state(channels, taps))?;
    same("convolution: input", x.len(), tokens * channels)?;
    same("convolution: bias", bias.map_or(channels, <[f32]>::len), channels)?;

    // What each part needs of the rows in front of it, taken before they are overwritten.
    let part = part_of(pool, x.len(), channels);
    let starts = (0..x.len()).step_by(part);
    let mut before: Vec<Vec<f32>> = starts.map(|start| earlier(x, state, start)).collect();
    let last = earlier(x, state, x.len());
    state.copy_from_slice(&last);
    let parts = x.chunks_mut(part).zip(before.iter_mut());
    share(pool, parts, |(x, before)| {
        dispatch(pool.level(), Conv { x, before, weight, bias, channels });
        if let Some(activation) = activation {
            ops::activate(pool.level(), activation, x);
        }
    });
    Ok(())
}

/// As many values in front of `start` as a state has, from `x` and, where it begins later, from the state.
fn earlier(x: &[f32], state: &[f32], start: usize) -> Vec<f32> {
    let from_x = start.min(state.len());
    let mut all = state[from_x..].to_vec();
    all.extend_from_slice(&x[start - from_x..start]);
    all
}

struct Conv<'a> {
    x: &'a mut [f32],
    before: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    channels: usize,
}

impl Op for Conv<'_> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        let Self { x, before, weight, bias, channels } = self;
        let taps = weight.len() / channels;
        let own = &weight[(taps - 1) * channels..];
        // Backwards, so that what a token reads is not yet overwritten.
        for t in (0..x.len() / channels).rev() {
            let (earlier, rest) = x.split_at_mut(t * channels);
            let row = &mut rest[..channels];
            for (x, w) in row.iter_mut().zip(own) {
                *x *= w;
            }
            for (tap, weight) in weight.chunks_exact(channels).take(taps - 1).enumerate() {
                // How many tokens back.
                let back = taps - 1 - tap;
                let source = match t.checked_sub(back) {
                    Some(at) => &earlier[at * channels..][..channels],
                    None => &before[(taps - 1 + t - back) * channels..][..channels],
                };
                for ((x, w), s) in row.iter_mut().zip(weight).zip(source) {
                    *x += w * s;
                }
            }
            if let Some(bias) = bias {
                for (x, b) in row.iter_mut().zip(bias) {
                    *x += b;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    /// The definition, over the whole text at once.
    fn definition(x: &[f32], weight: &[f32], bias: &[f32], channels: usize) -> Vec<f32> {
        let taps = weight.len() / channels;
        let value = |at: usize| {
            let (t, c) = (at / channels, at % channels);
            let terms = (0..taps).filter(|&j| t + j + 1 >= taps);
            bias[c]
                + terms.map(|j| weight[j * channels + c] * x[(t + j + 1 - taps) * channels + c]).sum::<f32>()
        };
        (0..x.len()).map(value).collect()
    }

    #[test]
    fn pieces_of_a_text_give_what_the_whole_gives() {
        let mut random = Random::new(3);
        for (channels, taps, tokens) in [(5, 4, 9), (64, 3, 700), (7, 1, 4), (3, 4, 2)] {
            let mut values = |n: usize| (0..n).map(|_| random.float()).collect::<Vec<f32>>();
            let (x, weight, bias) = (values(tokens * channels), values(taps * channels), values(channels));
            let expected = definition(&x, &weight, &bias, channels);
            for (threads, piece) in [(1, tokens), (3, tokens), (2, 1), (1, 2)] {
                let pool = Pool::new(threads);
                let mut state = vec![0.0; conv_state(channels, taps)];
                let mut found = x.clone();
                for piece in found.chunks_mut(piece * channels) {
                    let taps = Taps { weight: &weight, bias: Some(&bias), channels };
                    causal_conv(&pool, piece, taps, &mut state, None).unwrap();
                }
                for (a, b) in found.iter().zip(&expected) {
                    assert!((a - b).abs() < 1e-5, "{channels} {taps} {tokens}: {a} {b}");
                }
            }
        }
    }
}
