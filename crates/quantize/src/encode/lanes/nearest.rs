//! The nearest of a group's candidates, sixteen candidates side by side.

use quern_compute::simd::lanes::{LANES, Lanes};

use super::super::codebook::TILE;

const _: () = assert!(TILE == LANES);

/// The first of the candidates with the smallest error: the sum of `w (scale value(q) - x)^2` in order, where
/// `q` is 2 level + 1. As in the specification the first candidate if no error is a number below `f32::MAX`.
#[inline(always)]
pub(super) fn point<S: Lanes, const W: usize>(
    s: S,
    near: &[[u16; TILE]],
    tiles: &[[[u8; TILE]; W]],
    x: &[f32; W],
    w: &[f32; W],
    scale: f32,
    value: impl Fn(S::F) -> S::F,
) -> u16 {
    const LANE: [f32; LANES] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
    let scale = s.splat(scale);
    let lane = s.load(&LANE);
    let mut best = s.splat(f32::MAX);
    let mut place = lane;
    for (number, tile) in tiles.iter().enumerate() {
        let mut error = s.splat(0.0);
        for ((q, &x), &w) in tile.iter().zip(x).zip(w) {
            let diff = scale * value(s.load_bytes(q)) - s.splat(x);
            error = error + s.splat(w) * diff * diff;
        }
        let better = s.less(error, best);
        best = s.select(better, error, best);
        place = s.select(better, lane + s.splat((number * LANES) as f32), place);
    }
    let (mut errors, mut places) = ([0.0; LANES], [0.0; LANES]);
    s.store(best, &mut errors);
    s.store(place, &mut places);
    // Neither is negative, so their bits are in the order of their values, and as whole numbers the compiler
    // compares them side by side.
    let (errors, places) = (errors.map(f32::to_bits), places.map(f32::to_bits));
    let least = errors.iter().fold(u32::MAX, |least, &error| least.min(error));
    let first = errors
        .iter()
        .zip(&places)
        .fold(u32::MAX, |first, (&error, &place)| first.min(if error == least { place } else { u32::MAX }));
    let place = if least == f32::MAX.to_bits() { 0 } else { f32::from_bits(first) as usize };
    near[place / TILE][place % TILE]
}
