//! The meaning of every block type in one common form: the specification that all kernels are tested against.
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
//! [`quern_tensor_io::layout`] describes where the bits are.

pub(crate) mod grid;
pub(crate) mod tables;
#[cfg(test)]
mod tests;

pub(crate) use quern_tensor_io::decode::mxfp4::half_scale as e8m0_half;

use quern_tensor_io::ElementType;
use quern_tensor_io::layout::{
    self, F16, FP4, IQ4NL, IQ4XS, MXFP4, NF4, NVFP4, Q1_0, Q2_0, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K,
    Q6K, Q8_0, TQ1_0, TQ2_0,
};

use crate::float::f16_to_f32;

/// As a pattern: the element types that no kernel of a block type is for. Plain types, and blocks for activations.
macro_rules! no_block {
    () => {
        quern_tensor_io::ElementType::F32
            | quern_tensor_io::ElementType::F16
            | quern_tensor_io::ElementType::BF16
            | quern_tensor_io::ElementType::F64
            | quern_tensor_io::ElementType::F8E4M3
            | quern_tensor_io::ElementType::F8E5M2
            | quern_tensor_io::ElementType::I8
            | quern_tensor_io::ElementType::I16
            | quern_tensor_io::ElementType::I32
            | quern_tensor_io::ElementType::I64
            | quern_tensor_io::ElementType::U8
            | quern_tensor_io::ElementType::U16
            | quern_tensor_io::ElementType::U32
            | quern_tensor_io::ElementType::U64
            | quern_tensor_io::ElementType::Bool
            | quern_tensor_io::ElementType::Q8_1
            | quern_tensor_io::ElementType::Q8K
    };
}
pub(crate) use no_block;

/// As a pattern: the element types whose values are points of a grid.
macro_rules! grid_types {
    () => {
        quern_tensor_io::ElementType::IQ1S
            | quern_tensor_io::ElementType::IQ1M
            | quern_tensor_io::ElementType::IQ2XXS
            | quern_tensor_io::ElementType::IQ2XS
            | quern_tensor_io::ElementType::IQ2S
            | quern_tensor_io::ElementType::IQ3XXS
            | quern_tensor_io::ElementType::IQ3S
    };
}
pub(crate) use grid_types;

/// As a pattern: the block types with plain codes.
macro_rules! code_types {
    () => {
        quern_tensor_io::ElementType::Q4_0
            | quern_tensor_io::ElementType::Q4_1
            | quern_tensor_io::ElementType::Q5_0
            | quern_tensor_io::ElementType::Q5_1
            | quern_tensor_io::ElementType::Q8_0
            | quern_tensor_io::ElementType::IQ4NL
            | quern_tensor_io::ElementType::MXFP4
            | quern_tensor_io::ElementType::NF4
            | quern_tensor_io::ElementType::FP4
            | quern_tensor_io::ElementType::NVFP4
            | quern_tensor_io::ElementType::Q1_0
            | quern_tensor_io::ElementType::Q2_0
            | quern_tensor_io::ElementType::Q2K
            | quern_tensor_io::ElementType::Q3K
            | quern_tensor_io::ElementType::Q4K
            | quern_tensor_io::ElementType::Q5K
            | quern_tensor_io::ElementType::Q6K
            | quern_tensor_io::ElementType::IQ4XS
            | quern_tensor_io::ElementType::TQ1_0
            | quern_tensor_io::ElementType::TQ2_0
    };
}
pub(crate) use code_types;

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
    !matches!(element_type, no_block!())
}

/// A stored f16.
fn half(x: F16) -> f32 {
    f16_to_f32(x.bits())
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

/// Codes of 16 bytes: low nibbles, then high ones.
fn nibbles(codes: &mut [u8], qs: &[u8; 16]) {
    for (i, &q) in qs.iter().enumerate() {
        codes[i] = q & 15;
        codes[i + 16] = q >> 4;
    }
}

/// Codes of 64 bytes, two bits each.
fn two_bits(codes: &mut [u8; 256], qs: &[u8; 64]) {
    for (i, code) in codes.iter_mut().enumerate() {
        *code = qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    }
}

/// Codes of 128 bytes, a nibble each.
fn four_bits(codes: &mut [u8; 256], qs: &[u8; 128]) {
    for (i, code) in codes.iter_mut().enumerate() {
        *code = qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
    }
}

/// Adds one bit of 32 bytes to each code, as `1 << to`.
fn single_bits(codes: &mut [u8; 256], bits: &[u8; 32], to: usize) {
    (0..256).for_each(|i| codes[i] |= (bits[i % 32] >> (i / 32) & 1) << to);
}

/// Adds fifth bits to 32 codes.
fn fifth(codes: &mut [u8; 256], qh: u32) {
    (0..32).for_each(|i| codes[i] |= (qh >> i & 1) as u8 * 16);
}

impl Block {
    /// Reads one block; `b` is exactly one block's bytes.
    ///
    /// # Panics
    /// If `b` has another length or the type is not known here.
    pub fn read(element_type: ElementType, b: &[u8]) -> Self {
        use ElementType as T;
        assert_eq!(b.len(), element_type.block_bytes());
        let codes = [0u8; 256];
        let mut o = Self { codes, zero: 0, d: 0.0, dmin: 0.0, sub: 32, scale: [1; 16], min: [0; 16] };
        match element_type {
            T::Q4_0 => o.q4_0(view(b)),
            T::Q4_1 => o.q4_1(view(b)),
            T::Q5_0 => o.q5_0(view(b)),
            T::Q5_1 => o.q5_1(view(b)),
            T::Q8_0 => o.q8_0(view(b)),
            T::IQ4NL => {
                let IQ4NL { d, qs } = view(b);
                o.table(*d, 1.0, qs, &tables::IQ4);
            }
            T::NF4 => {
                let NF4 { d, qs } = view(b);
                o.table(*d, tables::NF4_STEP, qs, &tables::NF4);
            }
            T::FP4 => {
                let FP4 { d, qs } = view(b);
                o.table(*d, tables::FP4_STEP, qs, &tables::FP4);
            }
            T::MXFP4 => o.mxfp4(view(b)),
            T::NVFP4 => o.nvfp4(view(b)),
            T::Q1_0 => o.q1_0(view(b)),
            T::Q2_0 => o.q2_0(view(b)),
            T::Q2K => o.q2_k(view(b)),
            T::Q3K => o.q3_k(view(b)),
            T::Q4K => o.q4_k(view(b)),
            T::Q5K => o.q5_k(view(b)),
            T::Q6K => o.q6_k(view(b)),
            T::IQ4XS => o.iq4_xs(view(b)),
            T::TQ1_0 => o.tq1_0(view(b)),
            T::TQ2_0 => o.tq2_0(view(b)),
            grid_types!() => grid::read(element_type, b, &mut o),
            no_block!() => panic!("{element_type} has no description in block.rs"),
        }
        o
    }

    fn q4_0(&mut self, b: &Q4_0) {
        (self.d, self.zero) = (half(b.d), 8);
        nibbles(&mut self.codes, &b.qs);
    }

    fn q4_1(&mut self, b: &Q4_1) {
        (self.d, self.dmin, self.min) = (half(b.d), -half(b.m), [1; 16]);
        nibbles(&mut self.codes, &b.qs);
    }

    fn q5_0(&mut self, b: &Q5_0) {
        (self.d, self.zero) = (half(b.d), 16);
        nibbles(&mut self.codes, &b.qs);
        fifth(&mut self.codes, b.qh.get());
    }

    fn q5_1(&mut self, b: &Q5_1) {
        (self.d, self.dmin, self.min) = (half(b.d), -half(b.m), [1; 16]);
        nibbles(&mut self.codes, &b.qs);
        fifth(&mut self.codes, b.qh.get());
    }

    fn q8_0(&mut self, b: &Q8_0) {
        (self.d, self.zero) = (half(b.d), 128);
        self.codes.iter_mut().zip(b.qs).for_each(|(code, q)| *code = q as u8 ^ 0x80);
    }

    /// iq4_nl, nf4 and fp4: `d` is in steps of the table.
    fn table(&mut self, d: F16, step: f32, qs: &[u8; 16], table: &[i8; 16]) {
        (self.d, self.zero) = (half(d) * step, 128);
        nibbles(&mut self.codes, qs);
        self.codes[..32].iter_mut().for_each(|code| *code = table[usize::from(*code)] as u8 ^ 0x80);
    }

    fn mxfp4(&mut self, b: &MXFP4) {
        (self.d, self.zero) = (e8m0_half(b.e), 12);
        nibbles(&mut self.codes, &b.qs);
        self.codes[..32].iter_mut().for_each(|code| *code = (tables::MXFP4[usize::from(*code)] + 12) as u8);
    }

    fn nvfp4(&mut self, b: &NVFP4) {
        (self.d, self.zero, self.sub) = (1.0 / 1024.0, 12, 16);
        (0..4).for_each(|j| self.scale[j] = ue4m3(b.d[j]));
        for (i, code) in self.codes[..64].iter_mut().enumerate() {
            let q = b.qs[i / 16][i % 8] >> (i % 16 / 8 * 4) & 15;
            *code = (tables::MXFP4[usize::from(q)] + 12) as u8;
        }
    }

    fn q1_0(&mut self, b: &Q1_0) {
        (self.d, self.zero) = (half(b.d), 1);
        (0..128).for_each(|i| self.codes[i] = (b.qs[i / 8] >> (i % 8) & 1) * 2);
    }

    fn q2_0(&mut self, b: &Q2_0) {
        (self.d, self.zero) = (half(b.d), 1);
        (0..64).for_each(|i| self.codes[i] = b.qs[i / 4] >> (i % 4 * 2) & 3);
    }

    fn q2_k(&mut self, b: &Q2K) {
        (self.d, self.dmin, self.sub) = (half(b.d), half(b.dmin), 16);
        two_bits(&mut self.codes, &b.qs);
        self.scale = b.scales.map(|s| (s & 15).into());
        self.min = b.scales.map(|s| (s >> 4).into());
    }

    fn q3_k(&mut self, b: &Q3K) {
        (self.d, self.zero, self.sub) = (half(b.d), 4, 16);
        two_bits(&mut self.codes, &b.qs);
        single_bits(&mut self.codes, &b.hmask, 2);
        self.scale = b.scales.unpack().map(i32::from);
    }

    fn q4_k(&mut self, b: &Q4K) {
        (self.d, self.dmin) = (half(b.d), half(b.dmin));
        self.scales_and_minima(&b.scales);
        four_bits(&mut self.codes, &b.qs);
    }

    fn q5_k(&mut self, b: &Q5K) {
        (self.d, self.dmin) = (half(b.d), half(b.dmin));
        self.scales_and_minima(&b.scales);
        four_bits(&mut self.codes, &b.qs);
        single_bits(&mut self.codes, &b.qh, 4);
    }

    fn scales_and_minima(&mut self, packed: &layout::scales::ScalesMinima6) {
        let (scales, minima) = packed.unpack();
        for j in 0..8 {
            (self.scale[j], self.min[j]) = (scales[j].into(), minima[j].into());
        }
    }

    fn q6_k(&mut self, b: &Q6K) {
        (self.d, self.zero, self.sub) = (half(b.d), 32, 16);
        for (i, code) in self.codes.iter_mut().enumerate() {
            let (h, i) = (i / 128, i % 128);
            let low = b.ql[h * 64 + i % 64] >> (i / 64 * 4) & 15;
            *code = low | (b.qh[h * 32 + i % 32] >> (i / 32 * 2) & 3) << 4;
        }
        self.scale = b.scales.map(i32::from);
    }

    fn iq4_xs(&mut self, b: &IQ4XS) {
        (self.d, self.zero) = (half(b.d), 128);
        self.scale[..8].copy_from_slice(&b.scales().map(i32::from));
        let parts = self.codes.as_chunks_mut::<32>().0.iter_mut().zip(b.qs.as_chunks().0);
        parts.for_each(|(codes, qs)| nibbles(codes, qs));
        self.codes.iter_mut().for_each(|code| *code = tables::IQ4[usize::from(*code)] as u8 ^ 0x80);
    }

    fn tq1_0(&mut self, b: &TQ1_0) {
        (self.d, self.zero, self.sub) = (half(b.d), 1, 256);
        const POW3: [u8; 5] = [1, 3, 9, 27, 81];
        for (i, code) in self.codes.iter_mut().enumerate() {
            let (byte, trit) = match i {
                0..160 => (b.qs[i % 32], i / 32),
                160..240 => (b.qs[32 + (i - 160) % 16], (i - 160) / 16),
                240.. => (b.qh[(i - 240) % 4], (i - 240) / 4),
            };
            *code = ((u16::from(byte.wrapping_mul(POW3[trit])) * 3) >> 8) as u8;
        }
    }

    fn tq2_0(&mut self, b: &TQ2_0) {
        (self.d, self.zero, self.sub) = (half(b.d), 1, 256);
        two_bits(&mut self.codes, &b.qs);
    }
}

/// The block that these bytes are.
pub(crate) fn view<B: layout::Block>(b: &[u8]) -> &B {
    &layout::blocks(b)[0]
}
