//! NF4 and FP4 blocks.
//!
//! A whole block is scaled by `1 / absmax`, the short one at a tensor's end divided by its absmax: as
//! bitsandbytes' reference backend does, which is what runs on CPUs.

use quern_compute::simd::Level;
use quern_compute::simd::lanes::{LANES, LaneOp, Lanes, dispatch};

use super::code::Code;

/// absmax counts as at least this where it divides.
const LEAST: f32 = 1e-38;

/// Encodes `values`, whole blocks and at most one short block at the end: packs the codes into `out`
/// (`ceil(values / 2)` bytes) and writes a block's largest magnitude to `absmax`. `codes` is scratch.
///
/// # Panics
/// If the block size is not a multiple of 32, or a length does not fit.
pub(super) fn encode(
    level: Level,
    code: &Code,
    block_size: usize,
    values: &[f32],
    codes: &mut Vec<u8>,
    out: &mut [u8],
    absmax: &mut [f32],
) {
    assert!(block_size.is_multiple_of(2 * LANES), "blocks of whole lanes");
    assert_eq!(out.len(), values.len().div_ceil(2), "bytes of codes");
    assert_eq!(absmax.len(), values.len().div_ceil(block_size), "number of blocks");
    codes.resize(values.len().next_multiple_of(2), 0);
    // what a missing last value counts as
    if let Some(last) = codes.last_mut() {
        *last = code.order[code.edges[..15].iter().filter(|&&edge| edge <= 0.0).count()];
    }
    dispatch(level, Blocks { code, block_size, values, codes, absmax });
    for (byte, pair) in out.iter_mut().zip(codes.as_chunks::<2>().0) {
        *byte = pair[0] << 4 | pair[1];
    }
}

/// Codes one to a byte.
struct Blocks<'a> {
    code: &'a Code,
    block_size: usize,
    values: &'a [f32],
    codes: &'a mut [u8],
    absmax: &'a mut [f32],
}

impl LaneOp for Blocks<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let Self { code, block_size, values, codes, absmax } = self;
        let whole = values.len() / block_size * block_size;
        let blocks = values[..whole].chunks_exact(block_size).zip(codes.chunks_exact_mut(block_size));
        for ((values, codes), absmax) in blocks.zip(absmax.iter_mut()) {
            *absmax = largest(s, values);
            let scale = s.splat(1.0 / absmax.max(LEAST));
            for (x, codes) in values.as_chunks::<LANES>().0.iter().zip(codes.as_chunks_mut().0) {
                s.store_index(s.steps_reached(&code.edges, s.load(x) * scale), codes);
            }
        }
        if let (rest @ [_, ..], Some(absmax)) = (&values[whole..], absmax.last_mut()) {
            *absmax = rest.iter().fold(LEAST, |max, x| max.max(x.abs()));
            let divisor = s.splat(*absmax);
            for (x, codes) in rest.chunks(LANES).zip(codes[whole..].chunks_mut(LANES)) {
                let mut padded = [0.0; LANES];
                padded[..x.len()].copy_from_slice(x);
                let mut found = [0; LANES];
                s.store_index(s.steps_reached(&code.edges, s.load(&padded) / divisor), &mut found);
                codes[..x.len()].copy_from_slice(&found[..x.len()]);
            }
        }
        // sorted position to index: nothing to do for NF4
        if code.order != IN_ORDER {
            let codes = &mut codes[..values.len()];
            codes.iter_mut().for_each(|c| *c = code.order[usize::from(*c & 15)]);
        }
    }
}

const IN_ORDER: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// The largest magnitude of a whole number of double lanes.
#[inline(always)]
pub(super) fn largest<S: Lanes>(s: S, values: &[f32]) -> f32 {
    let (mut a, mut b) = (s.splat(0.0), s.splat(0.0));
    for pair in values.as_chunks::<{ 2 * LANES }>().0 {
        let (x, y) = pair.split_at(LANES);
        if let (Some(x), Some(y)) = (x.first_chunk(), y.first_chunk()) {
            a = s.max(s.abs(s.load(x)), a);
            b = s.max(s.abs(s.load(y)), b);
        }
    }
    let mut lanes = [0.0; LANES];
    s.store(s.max(a, b), &mut lanes);
    lanes.into_iter().fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    /// One value after another: what the lanes must do.
    fn plainly(code: &Code, block_size: usize, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let (mut codes, mut absmax) = (Vec::new(), Vec::new());
        for block in values.chunks(block_size) {
            let max = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            if block.len() == block_size {
                absmax.push(max);
                codes.extend(block.iter().map(|x| code.nearest(x * (1.0 / max.max(LEAST)))));
            } else {
                absmax.push(max.max(LEAST));
                codes.extend(block.iter().map(|x| code.nearest(x / max.max(LEAST))));
            }
        }
        if codes.len() % 2 == 1 {
            codes.push(code.nearest(0.0));
        }
        (codes.chunks(2).map(|c| c[0] << 4 | c[1]).collect(), absmax)
    }

    #[test]
    fn every_level_encodes_as_the_plain_version() {
        let values: Vec<f32> = (0..1000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0)
            .map(|x| x * x * x * 0.1)
            .collect();
        for kind in [Kind::Nf4, Kind::Fp4] {
            let code = Code::new(kind).unwrap();
            for (block_size, count) in [(32, 1000), (64, 999), (64, 64), (128, 1), (256, 1000), (64, 0)] {
                let mut values = values[..count].to_vec();
                // a block of zeros, and values on the edges of the code
                values.iter_mut().take(block_size).for_each(|x| *x = 0.0);
                for (x, edge) in values.iter_mut().skip(block_size).zip([1.0].iter().chain(&code.edges[..15]))
                {
                    *x = edge.next_down();
                }
                let expected = plainly(&code, block_size, &values);
                for level in Level::available() {
                    let mut out = vec![0; values.len().div_ceil(2)];
                    let mut absmax = vec![0.0; values.len().div_ceil(block_size)];
                    encode(level, &code, block_size, &values, &mut vec![9; 3], &mut out, &mut absmax);
                    assert_eq!(
                        (&out, &absmax),
                        (&expected.0, &expected.1),
                        "{kind:?} {block_size} {level:?}"
                    );
                }
            }
        }
    }
}
