//! K types: super-blocks of 256 values, sub-blocks of 16 or 32 with small integer scales under an f16 `d`
//! (and minima under an f16 `dmin`).

use crate::layout::scales::ScalesMinima6;
use crate::layout::{F16, Q2K, Q3K, Q4K, Q5K, Q6K};

pub(super) fn q2(block: &Q2K, out: &mut [f32; 256]) {
    let (d, dmin) = (block.d.to_f32(), block.dmin.to_f32());
    for (sub, (out, &scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(&block.scales).enumerate() {
        let (dl, ml) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        let (bytes, shift) = two_bit(&block.qs, sub);
        out.iter_mut().zip(bytes).for_each(|(v, &q)| *v = dl * f32::from(q >> shift & 3) - ml);
    }
}

pub(super) fn q3(block: &Q3K, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    for (sub, (out, scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(block.scales.unpack()).enumerate() {
        let dl = d * f32::from(scale);
        let (bytes, shift) = two_bit(&block.qs, sub);
        let (third, bit) = (&block.hmask[sub % 2 * 16..][..16], sub / 2);
        for ((v, &q), &h) in out.iter_mut().zip(bytes).zip(third) {
            let code = (q >> shift & 3) | (h >> bit & 1) << 2;
            *v = dl * f32::from(code as i8 - 4);
        }
    }
}

/// The bytes and the shift of the 2-bit codes of a sub-block of 16.
fn two_bit(qs: &[u8; 64], sub: usize) -> (&[u8], usize) {
    let (half, field, part) = (sub / 8, sub % 8 / 2, sub % 2);
    (&qs[half * 32 + part * 16..][..16], field * 2)
}

/// Scales and minima of the eight sub-blocks of q4_K and q5_K.
fn scales_and_minima(d: F16, dmin: F16, packed: &ScalesMinima6) -> [(f32, f32); 8] {
    let (d, dmin, (scales, minima)) = (d.to_f32(), dmin.to_f32(), packed.unpack());
    std::array::from_fn(|j| (d * f32::from(scales[j]), dmin * f32::from(minima[j])))
}

pub(super) fn q4(block: &Q4K, out: &mut [f32; 256]) {
    let scales = scales_and_minima(block.d, block.dmin, &block.scales);
    let qs = block.qs.as_chunks::<32>().0;
    for (k, (out, qs)) in out.as_chunks_mut::<64>().0.iter_mut().zip(qs).enumerate() {
        for (nibble, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (dl, ml) = scales[2 * k + nibble];
            out.iter_mut().zip(qs).for_each(|(v, &q)| *v = dl * f32::from(q >> (4 * nibble) & 15) - ml);
        }
    }
}

pub(super) fn q5(block: &Q5K, out: &mut [f32; 256]) {
    let scales = scales_and_minima(block.d, block.dmin, &block.scales);
    let qs = block.qs.as_chunks::<32>().0;
    for (k, (out, qs)) in out.as_chunks_mut::<64>().0.iter_mut().zip(qs).enumerate() {
        for (nibble, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (dl, ml) = scales[2 * k + nibble];
            for ((v, &q), &h) in out.iter_mut().zip(qs).zip(&block.qh) {
                let code = (q >> (4 * nibble) & 15) | (h >> (2 * k + nibble) & 1) << 4;
                *v = dl * f32::from(code) - ml;
            }
        }
    }
}

pub(super) fn q6(block: &Q6K, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    let halves = block.ql.as_chunks::<64>().0.iter().zip(block.qh.as_chunks::<32>().0);
    for (half, (out, (ql, qh))) in out.as_chunks_mut::<128>().0.iter_mut().zip(halves).enumerate() {
        for (quarter, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let low = &ql[quarter % 2 * 32..][..32];
            let (nibble, field) = (quarter / 2 * 4, quarter * 2);
            for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let dl = d * f32::from(block.scales[half * 8 + quarter * 2 + part]);
                let codes = low[part * 16..].iter().zip(&qh[part * 16..]);
                for (v, (&l, &h)) in out.iter_mut().zip(codes) {
                    let code = (l >> nibble & 15) | (h >> field & 3) << 4;
                    *v = dl * f32::from(code as i8 - 32);
                }
            }
        }
    }
}
