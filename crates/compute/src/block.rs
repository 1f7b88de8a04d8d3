//! What every block type means, in one common form: the specification all kernels are tested against.
//!
//! A block of 32 to 256 values is unsigned codes `q` in sub-blocks of `sub` values, and
//!
//! ```text
//! value[i] = d * scale[j] * (q[i] - zero) - dmin * min[j]        j = i / sub
//! ```
//!
//! with integer `scale` and `min` (1 and 0 where a type has none). Its dot product with activations
//! `x[i] = xd * c[i]` is `xd * (d * I - dmin * M)` with the integers
//! `I = sum_j scale[j] * (sum q c - zero * sum c)` and `M = sum_j min[j] * sum c`: every kernel computes
//! these integers exactly, and differs only in the order of its float additions. Where activations have a
//! scale for each 32 values and a block is larger, that is done for each 32.
//!
//! Layouts are ggml's; `half` below is half of a 256-value block, `|` separates fields:
//!
//! ```text
//! q4_0  d | qs[16]                q4_1  d | m | qs[16]       low nibbles: values 0..16, high: 16..32
//! q5_0  d | qh[4] | qs[16]        q5_1  d | m | qh[4] | qs   bit i of qh: fifth bit of value i
//! q8_0  d | i8[32]                iq4_nl, nf4, fp4, mxfp4: as q4_0, nibbles index a table (`tables.rs`; nf4,
//!                                 fp4: d is absmax, in steps of the table; mxfp4: d is an E8M0 byte)
//! q2_K  scales[16] | qs[64] | d | dmin          per half 32 bytes, bits 2k: values 32k..32k+32
//! q3_K  hmask[32] | qs[64] | scales[12] | d     qs as q2_K; third bit: bit i/32 of hmask[i%32]
//! q4_K  d | dmin | scales[12] | qs[128]         per 64 values 32 bytes, low nibbles first
//! q5_K  d | dmin | scales[12] | qh[32] | qs[128]  fifth bit: bit i/32 of qh[i%32]
//! q6_K  ql[128] | qh[64] | i8 scales[16] | d    per half 64 bytes of ql, 32 of qh
//! iq4_xs  d | scales_h u16 | scales_l[4] | qs[128]  per 32 values 16 bytes, low nibbles first
//! q1_0  d | bits[16]: values +-d          q2_0  d | qs[16] two bits a value, lowest first
//! nvfp4 UE4M3[4] | qs[32]                 per 16 values 8 bytes, low nibbles first, table of mxfp4
//! iq1, iq2, iq3: `grid.rs`
//! tq1_0 qs[48] | qh[4] | d   (five or four trits a byte)      tq2_0 qs[64] | d   (as q2_K's qs)
//! ```

pub(crate) mod grid;
pub(crate) mod tables;
#[cfg(test)]
mod tests;

use quern_tensor_io::ElementType;

use crate::float::f16_to_f32;

/// One block in the common form.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Block {
    pub codes: [u8; 256],
    pub zero: i32,
    pub d: f32,
    pub dmin: f32,
    /// Values per sub-block.
    pub sub: usize,
    pub scale: [i32; 16],
    pub min: [i32; 16],
}

/// Whether `element_type` is a block type described here.
pub(crate) const fn is_known(element_type: ElementType) -> bool {
    use ElementType as T;
    matches!(
        element_type,
        T::Q4_0
            | T::Q4_1
            | T::Q5_0
            | T::Q5_1
            | T::Q8_0
            | T::Q2K
            | T::Q3K
            | T::Q4K
            | T::Q5K
            | T::Q6K
            | T::IQ4NL
            | T::IQ4XS
            | T::TQ1_0
            | T::TQ2_0
            | T::MXFP4
            | T::NF4
            | T::FP4
            | T::NVFP4
            | T::Q1_0
            | T::Q2_0
    ) || grid::zero(element_type).is_some()
}

/// E8M0 exponent byte of mxfp4 to half its power of two, 2^(e-128).
#[inline(always)]
pub(crate) fn e8m0_half(e: u8) -> f32 {
    f32::from_bits(match e {
        0 => 0x0020_0000,
        1 => 0x0040_0000,
        _ => (u32::from(e) - 1) << 23,
    })
}

/// Half of a UE4M3 scale, in units of 2^-10: an integer.
fn ue4m3(code: u8) -> i32 {
    let (exponent, mantissa) = (code >> 3 & 15, i32::from(code & 7));
    match exponent {
        _ if code == 0x7f => 0,
        0 => mantissa,
        _ => (8 + mantissa) << (exponent - 1),
    }
}

/// The 6-bit scales and mins of q4_K and q5_K.
fn scales_min_6bit(s: &[u8], scale: &mut [i32; 16], min: &mut [i32; 16]) {
    for j in 0..4 {
        scale[j] = (s[j] & 63).into();
        min[j] = (s[j + 4] & 63).into();
        scale[j + 4] = (s[j + 8] & 15 | s[j] >> 6 << 4).into();
        min[j + 4] = (s[j + 8] >> 4 | s[j + 4] >> 6 << 4).into();
    }
}

impl Block {
    /// Reads one block; `b` is exactly one block's bytes.
    ///
    /// # Panics
    /// If `b` has another length or the type is not known here.
    pub fn read(element_type: ElementType, b: &[u8]) -> Self {
        use ElementType as T;
        assert_eq!(b.len(), element_type.block_bytes());
        let half = |at: usize| f16_to_f32(u16::from_le_bytes([b[at], b[at + 1]]));
        let mut codes = [0u8; 256];
        let mut o = Self { codes, zero: 0, d: 0.0, dmin: 0.0, sub: 32, scale: [1; 16], min: [0; 16] };
        let nibbles = |codes: &mut [u8; 256], qs: &[u8]| {
            for (i, &q) in qs.iter().enumerate() {
                codes[i] = q & 15;
                codes[i + 16] = q >> 4;
            }
        };
        let two_bits = |codes: &mut [u8; 256], qs: &[u8]| {
            for (i, code) in codes.iter_mut().enumerate() {
                *code = qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
            }
        };
        let fifth = |codes: &mut [u8; 256], qh: &[u8]| {
            for i in 0..32 {
                codes[i] |= (qh[i / 8] >> (i % 8) & 1) << 4;
            }
        };
        match element_type {
            T::Q4_0 => {
                (o.d, o.zero) = (half(0), 8);
                nibbles(&mut codes, &b[2..18]);
            }
            T::Q4_1 => {
                (o.d, o.dmin, o.min) = (half(0), -half(2), [1; 16]);
                nibbles(&mut codes, &b[4..20]);
            }
            T::Q5_0 => {
                (o.d, o.zero) = (half(0), 16);
                nibbles(&mut codes, &b[6..22]);
                fifth(&mut codes, &b[2..6]);
            }
            T::Q5_1 => {
                (o.d, o.dmin, o.min) = (half(0), -half(2), [1; 16]);
                nibbles(&mut codes, &b[8..24]);
                fifth(&mut codes, &b[4..8]);
            }
            T::Q8_0 => {
                (o.d, o.zero) = (half(0), 128);
                (0..32).for_each(|i| codes[i] = b[2 + i] ^ 0x80);
            }
            T::IQ4NL | T::NF4 | T::FP4 => {
                let (table, step) = match element_type {
                    T::NF4 => (&tables::NF4, tables::NF4_STEP),
                    T::FP4 => (&tables::FP4, tables::FP4_STEP),
                    _ => (&tables::IQ4, 1.0),
                };
                (o.d, o.zero) = (half(0) * step, 128);
                nibbles(&mut codes, &b[2..18]);
                (0..32).for_each(|i| codes[i] = table[usize::from(codes[i])] as u8 ^ 0x80);
            }
            T::MXFP4 => {
                (o.d, o.zero) = (e8m0_half(b[0]), 12);
                nibbles(&mut codes, &b[1..17]);
                (0..32).for_each(|i| codes[i] = (tables::MXFP4[usize::from(codes[i])] + 12) as u8);
            }
            T::NVFP4 => {
                (o.d, o.zero, o.sub) = (1.0 / 1024.0, 12, 16);
                (0..4).for_each(|j| o.scale[j] = ue4m3(b[j]));
                for (i, code) in codes[..64].iter_mut().enumerate() {
                    let q = b[4 + i / 16 * 8 + i % 8] >> (i % 16 / 8 * 4) & 15;
                    *code = (tables::MXFP4[usize::from(q)] + 12) as u8;
                }
            }
            T::Q1_0 => {
                (o.d, o.zero) = (half(0), 1);
                (0..128).for_each(|i| codes[i] = (b[2 + i / 8] >> (i % 8) & 1) * 2);
            }
            T::Q2_0 => {
                (o.d, o.zero) = (half(0), 1);
                (0..64).for_each(|i| codes[i] = b[2 + i / 4] >> (i % 4 * 2) & 3);
            }
            T::Q2K => {
                (o.d, o.dmin, o.sub) = (half(80), half(82), 16);
                two_bits(&mut codes, &b[16..80]);
                o.scale = std::array::from_fn(|j| (b[j] & 15).into());
                o.min = std::array::from_fn(|j| (b[j] >> 4).into());
            }
            T::Q3K => {
                (o.d, o.zero, o.sub) = (half(108), 4, 16);
                two_bits(&mut codes, &b[32..96]);
                (0..256).for_each(|i| codes[i] |= (b[i % 32] >> (i / 32) & 1) << 2);
                let s = &b[96..108];
                for j in 0..16 {
                    let low = if j < 8 { s[j] & 15 } else { s[j - 8] >> 4 };
                    let high = s[8 + j % 4] >> (j / 4 * 2) & 3;
                    o.scale[j] = i32::from(low | high << 4) - 32;
                }
            }
            T::Q4K | T::Q5K => {
                (o.d, o.dmin) = (half(0), half(2));
                scales_min_6bit(&b[4..16], &mut o.scale, &mut o.min);
                let qs = &b[b.len() - 128..];
                for (i, code) in codes.iter_mut().enumerate() {
                    *code = qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
                    if element_type == T::Q5K {
                        *code |= (b[16 + i % 32] >> (i / 32) & 1) << 4;
                    }
                }
            }
            T::Q6K => {
                (o.d, o.zero, o.sub) = (half(208), 32, 16);
                for (i, code) in codes.iter_mut().enumerate() {
                    let (h, i) = (i / 128, i % 128);
                    let low = b[h * 64 + i % 64] >> (i / 64 * 4) & 15;
                    *code = low | (b[128 + h * 32 + i % 32] >> (i / 32 * 2) & 3) << 4;
                }
                (0..16).for_each(|j| o.scale[j] = (b[192 + j] as i8).into());
            }
            T::IQ4XS => {
                (o.d, o.zero) = (half(0), 128);
                let high = u16::from_le_bytes([b[2], b[3]]);
                for j in 0..8 {
                    let low = b[4 + j / 2] >> (j % 2 * 4) & 15;
                    o.scale[j] = i32::from(low) + i32::from(high >> (2 * j) & 3) * 16 - 32;
                    for i in 0..16 {
                        let q = b[8 + j * 16 + i];
                        codes[j * 32 + i] = tables::IQ4[usize::from(q & 15)] as u8 ^ 0x80;
                        codes[j * 32 + 16 + i] = tables::IQ4[usize::from(q >> 4)] as u8 ^ 0x80;
                    }
                }
            }
            T::TQ1_0 => {
                (o.d, o.zero, o.sub) = (half(52), 1, 256);
                const POW3: [u8; 5] = [1, 3, 9, 27, 81];
                for (i, code) in codes.iter_mut().enumerate() {
                    let (byte, trit) = match i {
                        0..160 => (b[i % 32], i / 32),
                        160..240 => (b[32 + (i - 160) % 16], (i - 160) / 16),
                        _ => (b[48 + (i - 240) % 4], (i - 240) / 4),
                    };
                    *code = ((u16::from(byte.wrapping_mul(POW3[trit])) * 3) >> 8) as u8;
                }
            }
            T::TQ2_0 => {
                (o.d, o.zero, o.sub) = (half(64), 1, 256);
                two_bits(&mut codes, &b[..64]);
            }
            _ if grid::zero(element_type).is_some() => {
                grid::read(element_type, b, &mut o);
                return o;
            }
            _ => panic!("{element_type} has no description in block.rs"),
        }
        o.codes = codes;
        o
    }
}
