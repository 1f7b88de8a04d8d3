//! The scale searches, one value after another: the order of every sum is part of the format's definition
//! of "best", so none may be changed.

use crate::encode::numeric::{ZERO_BLOCK, nearest};
use crate::encode::table::IQ4;

/// The candidates of [`affine`]: `first + step * i` for `i` in `0..=last` is added to the largest code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    pub first: f32,
    pub step: f32,
    pub last: i32,
}

/// The value of largest magnitude with its sign, the first of equals, and that magnitude.
fn extreme(x: &[f32]) -> (f32, f32) {
    x.iter().fold(
        (0.0, 0.0),
        |(value, magnitude), &v| {
            if v.abs() > magnitude { (v, v.abs()) } else { (value, magnitude) }
        },
    )
}

/// Symmetric search: codes `-limit..limit` (stored with `limit` added) so that `scale * code` is closest to
/// `x` under weights `w`. Nineteen inverse scales around `-limit / extreme`, each scored by how much of the
/// weighted energy it explains: (sum w x l)^2 / sum w l^2. Returns the scale.
pub(crate) fn symmetric(x: &[f32], w: &[f32], limit: i32, codes: &mut [u8]) -> f32 {
    let (extreme, magnitude) = extreme(x);
    if magnitude < ZERO_BLOCK {
        codes.fill(0);
        return 0.0;
    }
    let code = |inverse: f32, v: f32| nearest(inverse * v).clamp(-limit, limit - 1);
    let sums = |inverse: f32| {
        x.iter().zip(w).fold((0.0f32, 0.0f32), |(lx, l2), (&x, &w)| {
            let l = code(inverse, x) as f32;
            (lx + w * x * l, l2 + w * l * l)
        })
    };
    let mut chosen = -(limit as f32) / extreme;
    let (lx, l2) = sums(chosen);
    let mut scale = if l2 != 0.0 { lx / l2 } else { 0.0 };
    let mut best = scale * lx;
    for step in (-9..=9).filter(|&step| step != 0) {
        let inverse = -(limit as f32 + 0.1 * step as f32) / extreme;
        let (lx, l2) = sums(inverse);
        if l2 > 0.0 && lx * lx > best * l2 {
            chosen = inverse;
            scale = lx / l2;
            best = scale * lx;
        }
    }
    for (c, &x) in codes.iter_mut().zip(x) {
        *c = (code(chosen, x) + limit) as u8;
    }
    scale
}

/// `q3_K` without importance: one rounding, then up to five rounds in which each code in turn moves to the
/// best value given all others, weighted by x^2. Codes `-limit..limit`, stored with `limit` added.
pub(crate) fn descent(x: &[f32], limit: i32, codes: &mut [u8]) -> f32 {
    let (extreme, magnitude) = extreme(x);
    if magnitude < ZERO_BLOCK {
        codes.fill(0);
        return 0.0;
    }
    let inverse = -(limit as f32) / extreme;
    let clamped = |v: f32| nearest(v).clamp(-limit, limit - 1);
    let (mut lx, mut l2) = (0.0f32, 0.0f32);
    for (c, &x) in codes.iter_mut().zip(x) {
        let l = clamped(inverse * x);
        *c = (l + limit) as u8;
        let (w, l) = (x * x, l as f32);
        lx += w * x * l;
        l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (c, &x) in codes.iter_mut().zip(x) {
            let w = x * x;
            let old = (i32::from(*c) - limit) as f32;
            let mut rest_lx = lx - w * x * old;
            if rest_lx > 0.0 {
                let mut rest_l2 = l2 - w * old * old;
                let l = clamped(x * rest_l2 / rest_lx);
                let new = l as f32;
                if new != old {
                    rest_lx += w * x * new;
                    rest_l2 += w * new * new;
                    if rest_l2 > 0.0 && rest_lx * rest_lx * l2 > lx * lx * rest_l2 {
                        *c = (l + limit) as u8;
                        (lx, l2) = (rest_lx, rest_l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    if l2 > 0.0 { lx / l2 } else { 0.0 }
}

/// Affine search: codes `0..=max_code` so that `scale * code - min` is closest to `x` under weights `w`, with
/// `min >= 0`. From a plain min-max fit, tries each of `steps` with the closed-form least-squares scale and
/// minimum for its codes and keeps strict improvements; an accepted minimum moves the candidates after it.
/// Returns (scale, min).
pub(crate) fn affine(
    x: &[f32],
    w: &[f32],
    max_code: i32,
    steps: Steps,
    absolute: bool,
    codes: &mut [u8],
) -> (f32, f32) {
    let (mut min, mut max) = (x[0], x[0]);
    let mut sum_w = w[0];
    let mut sum_x = sum_w * x[0];
    for (&x, &w) in x.iter().zip(w).skip(1) {
        min = if x < min { x } else { min };
        max = if x > max { x } else { max };
        sum_w += w;
        sum_x += w * x;
    }
    if min > 0.0 {
        min = 0.0;
    }
    if max <= min {
        codes.fill(0);
        return (0.0, -min);
    }
    let code = |inverse: f32, min: f32, v: f32| nearest(inverse * (v - min)).clamp(0, max_code);
    let error = |codes: &[u8], scale: f32, min: f32| {
        x.iter().zip(w).zip(codes).fold(0.0f32, |sum, ((&x, &w), &l)| {
            let diff = scale * f32::from(l) + min - x;
            sum + w * if absolute { diff.abs() } else { diff * diff }
        })
    };
    let inverse = max_code as f32 / (max - min);
    for (c, &x) in codes.iter_mut().zip(x) {
        *c = code(inverse, min, x) as u8;
    }
    let mut scale = 1.0 / inverse;
    let mut best = error(codes, scale, min);
    let mut tried = [0u8; 32];
    let tried = &mut tried[..codes.len()];
    for step in 0..=steps.last {
        let inverse = (steps.first + steps.step * step as f32 + max_code as f32) / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for ((t, &x), &w) in tried.iter_mut().zip(x).zip(w) {
            *t = code(inverse, min, x) as u8;
            let l = f32::from(*t);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut new_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if new_min > 0.0 {
                new_min = 0.0;
                new_scale = sum_xl / sum_l2;
            }
            let new_error = error(tried, new_scale, new_min);
            if new_error < best {
                codes.copy_from_slice(tried);
                (best, scale, min) = (new_error, new_scale, new_min);
            }
        }
    }
    (scale, -min)
}

/// Search for values that are never negative (the scales and minima of sub-blocks): codes `0..=max_code`,
/// nine inverse scales by weighted squared error, then up to five rounds of coordinate descent.
pub(crate) fn positive(x: &[f32], w: &[f32], max_code: i32, codes: &mut [u8]) -> f32 {
    let max = x.iter().fold(0.0f32, |max, &x| if max > x { max } else { x });
    if max < ZERO_BLOCK {
        codes.fill(0);
        return 0.0;
    }
    // The first candidate is not capped and its codes pass through a byte.
    let mut chosen = max_code as f32 / max;
    let scale = 1.0 / chosen;
    let mut best = x.iter().zip(w).fold(0.0f32, |sum, (&x, &w)| {
        let diff = x - scale * f32::from(nearest(chosen * x) as u8);
        sum + w * diff * diff
    });
    for step in (-4..=4).filter(|&step| step != 0) {
        let inverse = (0.1 * step as f32 + max_code as f32) / max;
        let scale = 1.0 / inverse;
        let error = x.iter().zip(w).fold(0.0f32, |sum, (&x, &w)| {
            let diff = x - scale * nearest(inverse * x).min(max_code) as f32;
            sum + w * diff * diff
        });
        if error < best {
            (best, chosen) = (error, inverse);
        }
    }
    let (mut lx, mut l2) = (0.0f32, 0.0f32);
    for ((c, &x), &w) in codes.iter_mut().zip(x).zip(w) {
        let l = nearest(chosen * x).min(max_code);
        *c = l as u8;
        let l = l as f32;
        lx += w * x * l;
        l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((c, &x), &w) in codes.iter_mut().zip(x).zip(w) {
            let old = f32::from(*c);
            let mut rest_lx = lx - w * x * old;
            let mut rest_l2 = l2 - w * old * old;
            if rest_lx > 0.0 && rest_l2 > 0.0 {
                let l = nearest(x * rest_l2 / rest_lx).min(max_code);
                let new = l as f32;
                if new != old {
                    rest_lx += w * x * new;
                    rest_l2 += w * new * new;
                    if rest_lx * rest_lx * l2 > lx * lx * rest_l2 {
                        *c = l as u8;
                        (lx, l2) = (rest_lx, rest_l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    if l2 > 0.0 { lx / l2 } else { 0.0 }
}

/// Search over the non-linear table of `iq4_nl`: sixteen inverse scales, scored as in [`symmetric`].
pub(crate) fn nonlinear(x: &[f32], w: &[f32]) -> f32 {
    let (extreme, magnitude) = extreme(x);
    if magnitude < ZERO_BLOCK {
        return 0.0;
    }
    let sums = |inverse: f32| {
        x.iter().zip(w).fold((0.0f32, 0.0f32), |(qx, q2), (&x, &w)| {
            let q = f32::from(IQ4[nonlinear_code(inverse * x) as usize]);
            (qx + w * q * x, q2 + w * q * q)
        })
    };
    let first = f32::from(IQ4[0]);
    let (qx, q2) = sums(1.0 / (-extreme / first));
    let mut scale = if q2 > 0.0 { qx / q2 } else { 0.0 };
    let mut best = scale * qx;
    for step in -7..=7 {
        let (qx, q2) = sums((step as f32 + first) / extreme);
        if q2 > 0.0 && qx * qx > best * q2 {
            scale = qx / q2;
            best = scale * qx;
        }
    }
    scale
}

/// Index of the table entry nearest to `v`, the upper of equals; NaN gives the last, as in ggml.
pub(crate) fn nonlinear_code(v: f32) -> u8 {
    if v <= f32::from(IQ4[0]) {
        return 0;
    }
    let above = IQ4.iter().skip(1).position(|&entry| v < f32::from(entry)).map_or(15, |at| at + 1);
    let (low, high) = (f32::from(IQ4[above - 1]), f32::from(IQ4[above]));
    if v - low < high - v { above as u8 - 1 } else { above as u8 }
}
