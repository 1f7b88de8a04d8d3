//! Blocks on a `q4_0` grid: every value is `d q` with whole `q` from -8 to 7.
//!
//! The largest magnitude is `k |d|` with `k` from 1 to 8. For each `k` the interval of scales that explain the values so
//! far is narrowed value by value, and is empty after a value or two where there is no grid. Within the interval an f16
//! number is looked for, as the block stores one.

use super::rounding::{Interval, Rounding, Values, bits, nearest_f16};
use super::{Block, Fit};

/// Finds the grid that `values` are on.
pub(super) fn fit(values: &Values, rounding: Rounding) -> Fit {
    let top = values.iter().fold(0.0f32, |top, v| top.max(v.abs()));
    if top == 0.0 {
        return Fit::Trivial;
    }
    let mut near = Fit::Off;
    for largest in 1..=8 {
        let Some((scales, evidence)) = scales(values, top, largest, rounding) else { continue };
        let Some((negated, codes)) = codes(values, scales.middle(), largest) else { continue };
        let block = |d: f32| Block::Symmetric { d: if negated { -d } else { d }, codes };
        let exact = scales
            .f16_numbers()
            .map(block)
            .find(|block| block.values().iter().zip(values).all(|(&decoded, &v)| rounding.gives(decoded, v)));
        if let Some(block) = exact {
            return Fit::Exact(block, evidence);
        }
        if near == Fit::Off
            && let Some(d) = nearest_f16(scales.middle())
        {
            near = Fit::Near(block(d), evidence);
        }
    }
    near
}

/// The scales, all positive, under which the values are whole numbers, with `top`, the largest magnitude, being `largest`
/// steps from zero; and how unlikely it is that values off a grid fit, in bits.
fn scales(values: &Values, top: f32, largest: i32, rounding: Rounding) -> Option<(Interval, f32)> {
    let steps = f64::from(largest);
    let (low, high) = rounding.bounds(top);
    let mut scales = Interval { low: low / steps, high: high / steps };
    // The chance of values off a grid: of eight numbers of steps, and the largest value fits by itself.
    let (mut chance, mut first) = (8.0, true);
    for v in values.iter().map(|v| v.abs()).filter(|&v| v != 0.0) {
        let q = (f64::from(v) / scales.middle()).round();
        if q < 1.0 {
            return None;
        }
        let (least, most) = rounding.bounds(v);
        scales = scales.within(least / q, most / q)?;
        if v == top && first {
            first = false;
        } else {
            chance *= ((most - least) / scales.low).min(1.0);
        }
    }
    Some((scales, bits(chance)))
}

/// Whether the scale is negative, and codes from -8 to 7, if the values have some: not both 8 and -8 steps from zero.
fn codes(values: &Values, step: f64, largest: i32) -> Option<(bool, [i8; 32])> {
    let steps = |v: f32| (f64::from(v) / step).round() as i32;
    // The value that is 8 steps away has code -8, whichever its sign.
    let negated = largest == 8 && values.iter().any(|&v| steps(v) == 8);
    let sign = if negated { -1 } else { 1 };
    let mut codes = [0; 32];
    for (code, &v) in codes.iter_mut().zip(values) {
        let q = sign * steps(v);
        if !(-8..=7).contains(&q) {
            return None;
        }
        *code = q as i8;
    }
    Some((negated, codes))
}
