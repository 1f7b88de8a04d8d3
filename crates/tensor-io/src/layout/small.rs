//! Blocks of 32, 64 and 128 values under one scale (nvfp4: four).
//!
//! ```text
//! qs of 4 bits    byte j: low nibble = value j, high nibble = value j + 16
//! qh              bit j = fifth bit of value j
//! ```

use super::{F16, U32, layouts};

layouts! {
    /// 32 values `(q - 8) d`.
    Q4_0 {
        /// Scale.
        d: F16,
        /// Codes.
        qs: [u8; 16],
    }

    /// 32 values `q d + m`.
    Q4_1 {
        /// Scale.
        d: F16,
        /// Minimum.
        m: F16,
        /// Codes.
        qs: [u8; 16],
    }

    /// 32 values `(q - 16) d`.
    Q5_0 {
        /// Scale.
        d: F16,
        /// Fifth bits.
        qh: U32,
        /// The four bits below.
        qs: [u8; 16],
    }

    /// 32 values `q d + m`.
    Q5_1 {
        /// Scale.
        d: F16,
        /// Minimum.
        m: F16,
        /// Fifth bits.
        qh: U32,
        /// The four bits below.
        qs: [u8; 16],
    }

    /// 32 values `q d`.
    Q8_0 {
        /// Scale.
        d: F16,
        /// Signed codes.
        qs: [i8; 32],
    }

    /// 32 values `d T[q]`, `T` the table of the non-linear types.
    IQ4NL {
        /// Scale.
        d: F16,
        /// Codes.
        qs: [u8; 16],
    }

    /// 32 values `K[q] 2^(e - 128)`, `K` the E2M1 numbers, doubled so that they are whole.
    MXFP4 {
        /// Scale: an E8M0 exponent.
        e: u8,
        /// Codes.
        qs: [u8; 16],
    }

    /// 32 values `d T[q]`, `T` bitsandbytes' NF4 numbers. In memory only.
    NF4 {
        /// The largest magnitude.
        d: F16,
        /// Codes.
        qs: [u8; 16],
    }

    /// 32 values `d T[q]`, `T` bitsandbytes' FP4 numbers. In memory only.
    FP4 {
        /// The largest magnitude.
        d: F16,
        /// Codes.
        qs: [u8; 16],
    }

    /// 64 values `K[q] (d / 2)`, `K` as in [`MXFP4`], in sub-blocks of 16.
    NVFP4 {
        /// Scales of the sub-blocks, UE4M3.
        d: [u8; 4],
        /// Codes, 8 bytes a sub-block: low nibble of byte j = value j, high nibble = value j + 8.
        qs: [[u8; 8]; 4],
    }

    /// 128 values: `d` where the bit is set, else `-d`.
    Q1_0 {
        /// Scale.
        d: F16,
        /// A bit a value, the lowest first.
        qs: [u8; 16],
    }

    /// 64 values `(q - 1) d`.
    Q2_0 {
        /// Scale.
        d: F16,
        /// Two bits a value, the lowest first.
        qs: [u8; 16],
    }
}
