//! Blocks of 256 values with plain codes: the K types, iq4_xs and the ternary types. A half is 128 values.
//!
//! ```text
//! 2-bit codes   q2_K, q3_K, tq2_0 (and the upper bits of q6_K): 32 bytes a half; bits 0-1, 2-3, 4-5, 6-7 of byte l
//!               are values l, l + 32, l + 64, l + 96
//! 4-bit codes   q4_K, q5_K: 32 bytes for 64 values; low nibble of byte l = value l, high nibble = value l + 32
//!               q6_K: 64 bytes a half; low nibble of byte l = value l, high nibble = value l + 64
//!               iq4_xs: 16 bytes for 32 values; low nibble of byte l = value l, high nibble = value l + 16
//! single bits   q3_K, q5_K: bit k of byte l = value 32 k + l
//! ```

use super::scales::{Scales6, ScalesMinima6};
use super::{F16, U16, layouts};

layouts! {
    /// `(d sc) q - dmin m` in sub-blocks of 16, scales and minima of 4 bits.
    Q2K {
        /// Low nibble: scale of a sub-block; high nibble: its minimum.
        scales: [u8; 16],
        /// 2-bit codes.
        qs: [u8; 64],
        /// Scale of the scales.
        d: F16,
        /// Scale of the minima.
        dmin: F16,
    }

    /// `(d (sc - 32)) (q - 4)` in sub-blocks of 16, scales of 6 bits.
    Q3K {
        /// Third bits of the codes, as single bits.
        hmask: [u8; 32],
        /// The two bits below.
        qs: [u8; 64],
        /// Scales of the sub-blocks.
        scales: Scales6,
        /// Scale of the scales.
        d: F16,
    }

    /// `(d sc) q - dmin m` in sub-blocks of 32, scales and minima of 6 bits.
    Q4K {
        /// Scale of the scales.
        d: F16,
        /// Scale of the minima.
        dmin: F16,
        /// Scales and minima of the sub-blocks.
        scales: ScalesMinima6,
        /// 4-bit codes.
        qs: [u8; 128],
    }

    /// `(d sc) q - dmin m` in sub-blocks of 32, scales and minima of 6 bits.
    Q5K {
        /// Scale of the scales.
        d: F16,
        /// Scale of the minima.
        dmin: F16,
        /// Scales and minima of the sub-blocks.
        scales: ScalesMinima6,
        /// Fifth bits of the codes, as single bits.
        qh: [u8; 32],
        /// The four bits below.
        qs: [u8; 128],
    }

    /// `(d sc) (q - 32)` in sub-blocks of 16, scales of 8 bits.
    Q6K {
        /// The low four bits of the codes.
        ql: [u8; 128],
        /// The upper two, as 2-bit codes.
        qh: [u8; 64],
        /// Scales of the sub-blocks.
        scales: [i8; 16],
        /// Scale of the scales.
        d: F16,
    }

    /// `(d (sc - 32)) T[q]` in sub-blocks of 32, scales of 6 bits, `T` the table of [`super::IQ4NL`].
    IQ4XS {
        /// Scale of the scales.
        d: F16,
        /// Upper two bits of the scales: those of sub-block j from bit 2 j on.
        scales_h: U16,
        /// The four bits below: nibble j % 2 of byte j / 2.
        scales_l: [u8; 4],
        /// 4-bit codes.
        qs: [u8; 128],
    }

    /// `(t - 1) d`, five ternary digits `t` a byte.
    ///
    /// A byte holds ceil(256 n / 243) of a number n of five digits in base 3, the first value its highest digit.
    /// Multiplying the byte by 3^k (mod 256), then by 3, leaves digit k in the carry above it.
    TQ1_0 {
        /// Digit k of byte m < 32 = value 32 k + m; of byte 32 + m = value 160 + 16 k + m.
        qs: [u8; 48],
        /// Digit k (0 to 3) of byte m = value 240 + 4 k + m.
        qh: [u8; 4],
        /// Scale.
        d: F16,
    }

    /// `(q - 1) d`.
    TQ2_0 {
        /// 2-bit codes.
        qs: [u8; 64],
        /// Scale.
        d: F16,
    }
}

impl IQ4XS {
    /// The scales, less the 32 they are stored with.
    #[inline]
    pub fn scales(&self) -> [i8; 8] {
        let high = self.scales_h.get();
        std::array::from_fn(|j| {
            let low = self.scales_l[j / 2] >> (j % 2 * 4) & 15;
            (low | ((high >> (2 * j) & 3) as u8) << 4) as i8 - 32
        })
    }

    /// Stores scales of six bits (32 added).
    #[inline]
    pub fn set_scales(&mut self, scales: &[u8; 8]) {
        let high = scales.iter().rev().fold(0, |bits, &s| bits << 2 | u16::from(s >> 4));
        self.scales_h = high.into();
        self.scales_l = std::array::from_fn(|j| scales[2 * j] & 15 | scales[2 * j + 1] << 4);
    }
}
