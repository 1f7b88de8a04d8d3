//! Element types: how one tensor's numbers are stored.
//!
//! Names, ids and sizes follow ggml (`enum ggml_type`) for everything a GGUF file can hold, and the
//! safetensors specification for the rest. A *block type* packs `block_elements` consecutive values of
//! a row into `block_bytes` bytes, laid out as [`crate::layout`] says; a plain type is a block of one.

use std::fmt;

macro_rules! element_types {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, ggml $id:expr, $elems:literal elements in $bytes:literal bytes;)*) => {
        /// How the numbers of one tensor are stored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ElementType { $($(#[$doc])* $variant,)* }

        impl ElementType {
            /// Every element type, in declaration order.
            pub const ALL: &'static [ElementType] = &[$(ElementType::$variant,)*];

            /// The field's name for it: ggml's spelling (`q4_K`, `iq4_xs`, `f16`).
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }

            /// The id in a GGUF tensor header, or `None` where GGUF has no such type.
            pub const fn ggml_id(self) -> Option<u32> { match self { $(Self::$variant => $id,)* } }

            /// Values per block: 1 for plain types.
            pub const fn block_elements(self) -> usize { match self { $(Self::$variant => $elems,)* } }

            /// Bytes per block.
            pub const fn block_bytes(self) -> usize { match self { $(Self::$variant => $bytes,)* } }
        }
    };
}

element_types! {
    /// IEEE 754 binary32.
    F32 = "f32", ggml Some(0), 1 elements in 4 bytes;
    /// IEEE 754 binary16.
    F16 = "f16", ggml Some(1), 1 elements in 2 bytes;
    /// bfloat16.
    BF16 = "bf16", ggml Some(30), 1 elements in 2 bytes;
    /// IEEE 754 binary64.
    F64 = "f64", ggml Some(28), 1 elements in 8 bytes;
    /// 8-bit float, 4 exponent and 3 mantissa bits, no infinities (safetensors only).
    F8E4M3 = "f8_e4m3", ggml None, 1 elements in 1 bytes;
    /// 8-bit float, 5 exponent and 2 mantissa bits (safetensors only).
    F8E5M2 = "f8_e5m2", ggml None, 1 elements in 1 bytes;
    /// Signed 8-bit integer.
    I8 = "i8", ggml Some(24), 1 elements in 1 bytes;
    /// Signed 16-bit integer.
    I16 = "i16", ggml Some(25), 1 elements in 2 bytes;
    /// Signed 32-bit integer.
    I32 = "i32", ggml Some(26), 1 elements in 4 bytes;
    /// Signed 64-bit integer.
    I64 = "i64", ggml Some(27), 1 elements in 8 bytes;
    /// Unsigned 8-bit integer (safetensors only).
    U8 = "u8", ggml None, 1 elements in 1 bytes;
    /// Unsigned 16-bit integer (safetensors only).
    U16 = "u16", ggml None, 1 elements in 2 bytes;
    /// Unsigned 32-bit integer (safetensors only).
    U32 = "u32", ggml None, 1 elements in 4 bytes;
    /// Unsigned 64-bit integer (safetensors only).
    U64 = "u64", ggml None, 1 elements in 8 bytes;
    /// One byte per truth value (safetensors only).
    Bool = "bool", ggml None, 1 elements in 1 bytes;
    /// 4 bits, one scale.
    Q4_0 = "q4_0", ggml Some(2), 32 elements in 18 bytes;
    /// 4 bits, scale and minimum.
    Q4_1 = "q4_1", ggml Some(3), 32 elements in 20 bytes;
    /// 5 bits, one scale.
    Q5_0 = "q5_0", ggml Some(6), 32 elements in 22 bytes;
    /// 5 bits, scale and minimum.
    Q5_1 = "q5_1", ggml Some(7), 32 elements in 24 bytes;
    /// 8 bits, one scale.
    Q8_0 = "q8_0", ggml Some(8), 32 elements in 34 bytes;
    /// 8 bits, scale and sum: activations only, never in a model file.
    Q8_1 = "q8_1", ggml Some(9), 32 elements in 36 bytes;
    /// 2 bits, 16 sub-blocks with 4-bit scales and minima.
    Q2K = "q2_K", ggml Some(10), 256 elements in 84 bytes;
    /// 3 bits, 16 sub-blocks with 6-bit scales.
    Q3K = "q3_K", ggml Some(11), 256 elements in 110 bytes;
    /// 4 bits, 8 sub-blocks with 6-bit scales and minima.
    Q4K = "q4_K", ggml Some(12), 256 elements in 144 bytes;
    /// 5 bits, 8 sub-blocks with 6-bit scales and minima.
    Q5K = "q5_K", ggml Some(13), 256 elements in 176 bytes;
    /// 6 bits, 16 sub-blocks with 8-bit scales.
    Q6K = "q6_K", ggml Some(14), 256 elements in 210 bytes;
    /// 8 bits with an f32 scale and block sums: activations only, never in a model file.
    Q8K = "q8_K", ggml Some(15), 256 elements in 292 bytes;
    /// 2.06 bits: a grid of 256 points, signs beside it.
    IQ2XXS = "iq2_xxs", ggml Some(16), 256 elements in 66 bytes;
    /// 2.31 bits: a grid of 512 points.
    IQ2XS = "iq2_xs", ggml Some(17), 256 elements in 74 bytes;
    /// 3.06 bits: a grid of 256 points of four.
    IQ3XXS = "iq3_xxs", ggml Some(18), 256 elements in 98 bytes;
    /// 1.56 bits: a ternary grid of 2048 points.
    IQ1S = "iq1_s", ggml Some(19), 256 elements in 50 bytes;
    /// 4 bits, a fixed non-linear table.
    IQ4NL = "iq4_nl", ggml Some(20), 32 elements in 18 bytes;
    /// 3.44 bits: a grid of 512 points of four.
    IQ3S = "iq3_s", ggml Some(21), 256 elements in 110 bytes;
    /// 2.56 bits: a grid of 1024 points.
    IQ2S = "iq2_s", ggml Some(22), 256 elements in 82 bytes;
    /// 4.25 bits: the table of `iq4_nl`, 8 sub-blocks with 6-bit scales.
    IQ4XS = "iq4_xs", ggml Some(23), 256 elements in 136 bytes;
    /// 1.75 bits: the grid of `iq1_s` with finer scales.
    IQ1M = "iq1_m", ggml Some(29), 256 elements in 56 bytes;
    /// Ternary, five values to a byte.
    TQ1_0 = "tq1_0", ggml Some(34), 256 elements in 54 bytes;
    /// Ternary, two bits a value.
    TQ2_0 = "tq2_0", ggml Some(35), 256 elements in 66 bytes;
    /// OCP microscaling FP4: E2M1 values under an E8M0 scale.
    MXFP4 = "mxfp4", ggml Some(39), 32 elements in 17 bytes;
    /// NVIDIA FP4: E2M1 values under UE4M3 scales of 16.
    NVFP4 = "nvfp4", ggml Some(40), 64 elements in 36 bytes;
    /// One sign bit a value, one scale for 128.
    Q1_0 = "q1_0", ggml Some(41), 128 elements in 18 bytes;
    /// Two bits a value, one scale for 64.
    Q2_0 = "q2_0", ggml Some(42), 64 elements in 18 bytes;
    /// bitsandbytes' NF4 in blocks of 32 with an f16 scale: in memory only, never in a file.
    NF4 = "nf4", ggml None, 32 elements in 18 bytes;
    /// bitsandbytes' FP4 in blocks of 32 with an f16 scale: in memory only, never in a file.
    FP4 = "fp4", ggml None, 32 elements in 18 bytes;
}

impl ElementType {
    /// The type with this GGUF id; removed and unknown ids give `None`.
    pub fn from_ggml_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.ggml_id() == Some(id))
    }

    /// The type of this name, in any case (`Q4_K`, `q4_k`, `F16`).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Whether values are packed in blocks of more than one.
    pub const fn is_block(self) -> bool {
        self.block_elements() > 1
    }

    /// Whether this is one of the plain floating-point types.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::F64 | Self::F8E4M3 | Self::F8E5M2)
    }

    /// Bits per value, scales included.
    pub fn bits_per_element(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_elements() as f64
    }

    /// Bytes of one row of `columns` values; `None` if the row is not a whole number of blocks or the
    /// size overflows.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        if !columns.is_multiple_of(self.block_elements()) {
            return None;
        }
        (columns / self.block_elements()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_lead_back_to_the_type() {
        for &t in ElementType::ALL {
            assert_eq!(ElementType::from_name(&t.name().to_uppercase()), Some(t));
            if let Some(id) = t.ggml_id() {
                assert_eq!(ElementType::from_ggml_id(id), Some(t));
            }
        }
        for removed in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(ElementType::from_ggml_id(removed), None);
        }
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(ElementType::Q4K.row_bytes(512), Some(288));
        assert_eq!(ElementType::Q4K.row_bytes(300), None);
        assert_eq!(ElementType::F64.row_bytes(usize::MAX), None);
    }
}
