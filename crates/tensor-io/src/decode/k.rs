//! K types: super-blocks of 256 values, sub-blocks of 16 or 32 with small integer scales under an f16 `d`
//! (and minima under an f16 `dmin`).
//!
//! ```text
//! q2_K   scales[16]  qs[64]  d  dmin              v = (d sc) q - dmin m      sub-blocks of 16
//! q3_K   hmask[32]  qs[64]  scales[12]  d         v = (d (sc - 32)) (q - 4)  sub-blocks of 16
//! q4_K   d  dmin  scales[12]  qs[128]             v = (d sc) q - dmin m      sub-blocks of 32
//! q5_K   d  dmin  scales[12]  qh[32]  qs[128]     v = (d sc) q - dmin m      sub-blocks of 32
//! q6_K   ql[128]  qh[64]  scales[16] (i8)  d      v = (d sc) (q - 32)        sub-blocks of 16
//!
//! q2_K scales: low nibble sc, high nibble m.
//! 2-bit codes (q2_K, q3_K): per half of 128 values 32 bytes; bits 0-1, 2-3, 4-5, 6-7 of byte l are values
//!     l, l + 32, l + 64, l + 96. q3_K's third bit is bit j / 32 of hmask[j % 32].
//! 4-bit codes (q4_K, q5_K): per 64 values 32 bytes; low nibbles the first 32, high nibbles the next.
//!     q5_K's fifth bit: bit 2k of qh[l] for value 64 k + l, bit 2k + 1 for value 64 k + 32 + l.
//! 6-bit codes: per half, ql[l] = values l and l + 64, ql[l + 32] = l + 32 and l + 96 (low, high nibble);
//!     qh[l]'s 2-bit fields are the upper bits of l, l + 32, l + 64, l + 96.
//! ```

use super::half_at;

pub(super) fn q2(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (sub, (out, &scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        let (dl, ml) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        let (bytes, shift) = two_bit(qs, sub);
        out.iter_mut().zip(bytes).for_each(|(v, &q)| *v = dl * f32::from(q >> shift & 3) - ml);
    }
}

pub(super) fn q3(block: &[u8; 110], out: &mut [f32; 256]) {
    let (hmask, qs) = (&block[..32], &block[32..96]);
    let scales = q3_scales(&block[96..108]);
    let d = half_at(block, 108);
    for (sub, (out, &scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(&scales).enumerate() {
        let dl = d * f32::from(scale);
        let (bytes, shift) = two_bit(qs, sub);
        let (third, bit) = (&hmask[sub % 2 * 16..][..16], sub / 2);
        for ((v, &q), &h) in out.iter_mut().zip(bytes).zip(third) {
            let code = (q >> shift & 3) | (h >> bit & 1) << 2;
            *v = dl * f32::from(code as i8 - 4);
        }
    }
}

/// The bytes and the shift of the 2-bit codes of a sub-block of 16.
fn two_bit(qs: &[u8], sub: usize) -> (&[u8], usize) {
    let (half, field, part) = (sub / 8, sub % 8 / 2, sub % 2);
    (&qs[half * 32 + part * 16..][..16], field * 2)
}

/// q3_K's 16 scales: low 4 bits in the nibbles of the first 8 bytes (low nibbles first), the top 2 bits of
/// scale j at bit 2 (j / 4) of byte 8 + j % 4. Returned less their bias of 32.
fn q3_scales(packed: &[u8]) -> [i8; 16] {
    std::array::from_fn(|j| {
        let low = packed[j % 8] >> (j / 8 * 4) & 15;
        let high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    })
}

pub(super) fn q4(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let qs = block[16..].as_chunks::<32>().0;
    for (k, (out, qs)) in out.as_chunks_mut::<64>().0.iter_mut().zip(qs).enumerate() {
        for (nibble, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (sc, m) = scale_and_min(&block[4..16], 2 * k + nibble);
            let (dl, ml) = (d * sc, dmin * m);
            out.iter_mut().zip(qs).for_each(|(v, &q)| *v = dl * f32::from(q >> (4 * nibble) & 15) - ml);
        }
    }
}

pub(super) fn q5(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let qh = &block[16..48];
    let qs = block[48..].as_chunks::<32>().0;
    for (k, (out, qs)) in out.as_chunks_mut::<64>().0.iter_mut().zip(qs).enumerate() {
        for (nibble, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (sc, m) = scale_and_min(&block[4..16], 2 * k + nibble);
            let (dl, ml) = (d * sc, dmin * m);
            for ((v, &q), &h) in out.iter_mut().zip(qs).zip(qh) {
                let code = (q >> (4 * nibble) & 15) | (h >> (2 * k + nibble) & 1) << 4;
                *v = dl * f32::from(code) - ml;
            }
        }
    }
}

/// Scale and minimum of sub-block `j` of q4_K and q5_K, 6 bits each:
///
/// ```text
/// j < 4    sc = byte j, m = byte j + 4, their low 6 bits
/// j >= 4   sc = low nibble of byte j + 4, with the top 2 bits of byte j - 4 above it
///          m = high nibble of byte j + 4, with the top 2 bits of byte j above it
/// ```
fn scale_and_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (sc, m) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(sc), f32::from(m))
}

pub(super) fn q6(block: &[u8; 210], out: &mut [f32; 256]) {
    let scales = &block[192..208];
    let d = half_at(block, 208);
    for (half, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let (ql, qh) = (&block[half * 64..][..64], &block[128 + half * 32..][..32]);
        for (quarter, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let low = &ql[quarter % 2 * 32..][..32];
            let (nibble, field) = (quarter / 2 * 4, quarter * 2);
            for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let dl = d * f32::from(scales[half * 8 + quarter * 2 + part] as i8);
                let codes = low[part * 16..].iter().zip(&qh[part * 16..]);
                for (v, (&l, &h)) in out.iter_mut().zip(codes) {
                    let code = (l >> nibble & 15) | (h >> field & 3) << 4;
                    *v = dl * f32::from(code as i8 - 32);
                }
            }
        }
    }
}
