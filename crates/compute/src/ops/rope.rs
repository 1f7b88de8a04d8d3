//! Rotary position embedding (Su et al. 2021) from a table of cosines and sines.

use crate::simd::{Level, Op, dispatch};

/// Which two values of a head form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// `i` and `i + rotated / 2`: Hugging Face checkpoints, GPT-NeoX.
    HalfSplit,
    /// `2 i` and `2 i + 1`: GGUF files of the llama architecture ("norm").
    Interleaved,
}

/// Rotates `x` (`[n][heads][head_dim]`) in place. `cos` and `sin` are `[n][rotated / 2]`, one row for the
/// position of each of the `n` rows; values of a head beyond `rotated` stay as they are (partial rotary).
///
/// # Panics
/// If the lengths do not fit.
pub fn rope(
    level: Level,
    style: RopeStyle,
    x: &mut [f32],
    heads: usize,
    head_dim: usize,
    cos: &[f32],
    sin: &[f32],
) {
    assert!(heads > 0 && head_dim > 0 && x.len().is_multiple_of(heads * head_dim), "rope: whole rows");
    let n = x.len() / (heads * head_dim);
    if n == 0 {
        return;
    }
    let half = cos.len() / n;
    assert!(cos.len() == n * half && sin.len() == cos.len(), "rope: one row of cos and sin for each row");
    assert!(2 * half <= head_dim, "rope: at most head_dim values are rotated");
    dispatch(level, Rope { style, x, heads, head_dim, half, cos, sin });
}

struct Rope<'a> {
    style: RopeStyle,
    x: &'a mut [f32],
    heads: usize,
    head_dim: usize,
    half: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Op for Rope<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let half = self.half;
        for (i, row) in self.x.chunks_exact_mut(self.heads * self.head_dim).enumerate() {
            let (cos, sin) = (&self.cos[i * half..][..half], &self.sin[i * half..][..half]);
            for head in row.chunks_exact_mut(self.head_dim) {
                match self.style {
                    RopeStyle::HalfSplit => {
                        let (a, b) = head[..2 * half].split_at_mut(half);
                        for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                            (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
                        }
                    }
                    RopeStyle::Interleaved => {
                        for ((pair, c), s) in head[..2 * half].chunks_exact_mut(2).zip(cos).zip(sin) {
                            let (a, b) = (pair[0], pair[1]);
                            (pair[0], pair[1]) = (a * c - b * s, a * s + b * c);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_rotate_the_same_pairs() {
        let (heads, dim, half, n) = (3, 10, 4, 2);
        let angle = |i: usize| i as f32 * 0.3 + 0.1;
        let cos: Vec<f32> = (0..n * half).map(|i| angle(i).cos()).collect();
        let sin: Vec<f32> = (0..n * half).map(|i| angle(i).sin()).collect();
        let split: Vec<f32> = (0..n * heads * dim).map(|i| (i as f32).sin()).collect();
        let place = |i: usize| if i < 2 * half { i % half * 2 + i / half } else { i };
        let mut woven = split.clone();
        for h in 0..n * heads {
            (0..dim).for_each(|i| woven[h * dim + place(i)] = split[h * dim + i]);
        }
        let before = split.clone();
        let woven_before = woven.clone();
        for (level, h) in Level::available().flat_map(|level| (0..n * heads).map(move |h| (level, h))) {
            let (mut split, mut woven) = (before.clone(), woven_before.clone());
            rope(level, RopeStyle::HalfSplit, &mut split, heads, dim, &cos, &sin);
            rope(level, RopeStyle::Interleaved, &mut woven, heads, dim, &cos, &sin);
            for i in 0..dim {
                assert_eq!(split[h * dim + i], woven[h * dim + place(i)]);
            }
            let (a, b) = (before[h * dim], before[h * dim + half]);
            let (c, s) = (cos[h / heads * half], sin[h / heads * half]);
            assert_eq!(split[h * dim], a * c - b * s);
            assert_eq!(split[h * dim + half], a * s + b * c);
            assert_eq!(split[h * dim + 2 * half..][..2], before[h * dim + 2 * half..][..2]);
        }
    }
}
