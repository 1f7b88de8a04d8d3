//! Blocks on a `q4_1` grid: every value is `d q + m` with whole `q` from 0 to 15.
//!
//! The span of the values is `k d` with `k` from 1 to 15. Where the values are whole steps from the smallest one, within
//! what rounding explains, an f16 minimum is looked for among those that the smallest value allows (which may itself be
//! some steps above the minimum), and for each an f16 scale.

use super::rounding::{Interval, Rounding, Values, bits, nearest_f16};
use super::{Block, Fit};

/// Finds the grid that `values` are on.
pub(super) fn fit(values: &Values, rounding: Rounding) -> Fit {
    let least = values.iter().copied().fold(f32::MAX, f32::min);
    let most = values.iter().copied().fold(f32::MIN, f32::max);
    if least >= most {
        return equal(least, rounding);
    }
    let mut near = Fit::Off;
    for span in 1..=15 {
        let Some(steps) = Steps::between(values, least, most, span, rounding) else { continue };
        if let Some(block) = steps.exact(values, rounding) {
            return Fit::Exact(block, steps.evidence);
        }
        if near == Fit::Off
            && let Some(block) = steps.near()
        {
            near = Fit::Near(block, steps.evidence);
        }
    }
    near
}

/// Of equal values, which say nothing of a grid: the minimum, and where it has too few digits one step to the value.
fn equal(value: f32, rounding: Rounding) -> Fit {
    let m = half::f16::from_f32(value).to_f32();
    let d = half::f16::from_f32(value - m).to_f32();
    let block = Block::Affine { d, m, codes: [u8::from(d != 0.0); 32] };
    match m.is_finite() {
        false => Fit::Off,
        true if value == 0.0 => Fit::Trivial,
        true if rounding.gives(d + m, value) => Fit::Exact(block, 0.0),
        true => Fit::Near(block, 0.0),
    }
}

/// Whole steps from the smallest value.
struct Steps {
    least: f64,
    /// How far rounding may have moved the smallest value, and the length of a step.
    least_slack: f64,
    step_slack: f64,
    step: f64,
    span: u8,
    codes: [u8; 32],
    /// How unlikely it is that values off a grid fit, in bits.
    evidence: f32,
}

impl Steps {
    /// With `span` steps between the smallest and the largest value.
    fn between(values: &Values, least: f32, most: f32, span: u8, rounding: Rounding) -> Option<Self> {
        let step = (f64::from(most) - f64::from(least)) / f64::from(span);
        let least_slack = rounding.half_step(least);
        let most_slack = rounding.half_step(most);
        let step_slack = (most_slack + least_slack) / f64::from(span);
        let mut codes = [0; 32];
        // Of fifteen numbers of steps; the two ends fit by themselves, and so do equal values.
        let (mut chance, mut seen) = (15.0, 1u32 | 1 << span);
        for (code, &v) in codes.iter_mut().zip(values) {
            let from_least = f64::from(v) - f64::from(least);
            let q = (from_least / step).round();
            let part = q / f64::from(span);
            let slack = rounding.half_step(v) + (1.0 - part) * least_slack + part * most_slack;
            // All may have been halfway between two numbers.
            let slack = slack * (1.0 + 1e-9);
            // Steps must be far longer than what rounding blurs.
            if slack > step / 6.0 || (from_least - q * step).abs() > slack {
                return None;
            }
            *code = q as u8;
            if seen & (1 << *code) == 0 {
                seen |= 1 << *code;
                chance *= 2.0 * slack / step;
            }
        }
        Some(Self { least: least.into(), least_slack, step_slack, step, span, codes, evidence: bits(chance) })
    }

    /// Minimum and scale in f16 that give every value.
    fn exact(&self, values: &Values, rounding: Rounding) -> Option<Block> {
        (0..=15 - self.span).find_map(|below| {
            let codes = self.codes.map(|q| q + below);
            let mut last = None;
            self.minima(below).find_map(|m| {
                if last.replace(m) == Some(m) {
                    return None;
                }
                scales(values, &codes, m, rounding)?.f16_numbers().find_map(|d| {
                    let gives = |(&q, &v): (&u8, &f32)| rounding.gives(f32::from(q) * d + m, v);
                    codes.iter().zip(values).all(gives).then_some(Block::Affine { d, m, codes })
                })
            })
        })
    }

    /// The f16 numbers that the minimum can be, if the smallest value is `below` steps above it.
    fn minima(&self, below: u8) -> impl Iterator<Item = f32> + use<> {
        /// Of more than twice so many, every second or third is tried.
        const MOST: f64 = 64.0;
        let below = f64::from(below);
        let middle = self.least - below * self.step;
        let slack = self.least_slack + below * self.step_slack;
        // f16 numbers are an 1024th to a 2048th of themselves apart, down to its subnormal numbers.
        let apart = (middle.abs() / 2048.0).max(1.0 / (1 << 24) as f64);
        let to_each_side = (2.0 * slack / apart).ceil().clamp(1.0, MOST);
        let around = (-(to_each_side as i32)..=to_each_side as i32)
            .map(move |i| middle + slack * f64::from(i) / to_each_side);
        std::iter::once(middle)
            .chain(around)
            .map(half::f16::from_f64)
            .filter(|m| m.is_finite())
            .map(f32::from)
    }

    /// The nearest minimum and scale that f16 has.
    fn near(&self) -> Option<Block> {
        let m = half::f16::from_f64(self.least);
        let d = nearest_f16(self.step)?;
        m.is_finite().then(|| Block::Affine { d, m: m.to_f32(), codes: self.codes })
    }
}

/// The scales that give every value over the minimum `m`.
fn scales(values: &Values, codes: &[u8; 32], m: f32, rounding: Rounding) -> Option<Interval> {
    let mut scales = Interval { low: 0.0, high: f64::MAX };
    for (&q, &v) in codes.iter().zip(values) {
        let (least, most) = rounding.signed_bounds(v);
        let (least, most) = (least - f64::from(m), most - f64::from(m));
        if q == 0 {
            if least > 0.0 || most < 0.0 {
                return None;
            }
        } else {
            scales = scales.within(least / f64::from(q), most / f64::from(q))?;
        }
    }
    Some(scales)
}
