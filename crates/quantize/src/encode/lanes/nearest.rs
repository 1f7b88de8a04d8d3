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
    let scale = s.splat(scale);
    let mut best = s.splat(f32::MAX);
    let mut first = s.splat(0.0);
    for (number, tile) in tiles.iter().enumerate() {
        let mut error = s.splat(0.0);
        for ((q, &x), &w) in tile.iter().zip(x).zip(w) {
            let diff = scale * value(s.load_bytes(q)) - s.splat(x);
            error = error + s.splat(w) * diff * diff;
        }
        let better = s.less(error, best);
        best = s.select(better, error, best);
        first = s.select(better, s.splat(number as f32), first);
    }
    let (mut errors, mut tile) = ([0.0; LANES], [0.0; LANES]);
    s.store(best, &mut errors);
    s.store(first, &mut tile);
    // Errors are not negative, so their bits are in the order of their values.
    let bits = errors.map(f32::to_bits);
    let least = bits.iter().fold(u32::MAX, |least, &b| least.min(b));
    let mut place = u32::MAX;
    for lane in 0..LANES {
        let at = tile[lane] as u32 * LANES as u32 + lane as u32;
        place = place.min(if bits[lane] == least { at } else { u32::MAX });
    }
    if least == f32::MAX.to_bits() {
        place = 0;
    }
    near[place as usize / TILE][place as usize % TILE]
}
