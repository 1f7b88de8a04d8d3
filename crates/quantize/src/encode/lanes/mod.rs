//! The encoders in lanes: sixteen blocks (or sixteen values) at once, with the bytes of `scalar`.

use quern_compute::simd::{Level, Op, dispatch as dispatch_op, lanes::dispatch};
use quern_tensor_io::ElementType;

use super::numeric;

mod batch;
mod blocks;
mod direct;
mod search;
mod super_blocks;
mod tile;

/// Encodes whole rows. The caller has checked type, lengths and divisibility.
pub(super) fn encode_rows(
    level: Level,
    element_type: ElementType,
    columns: usize,
    rows: &[f32],
    weights: Option<&[f32]>,
    out: &mut [u8],
) {
    use ElementType as T;
    macro_rules! searched {
        ($encoder:expr) => {
            dispatch(level, batch::Encode { encoder: $encoder, columns, rows, weights, out })
        };
    }
    macro_rules! direct {
        ($encoder:expr) => {
            dispatch(level, direct::Encode { encoder: $encoder, rows, out })
        };
    }
    match (element_type, weights.is_some()) {
        (T::Q2K, _) => searched!(super_blocks::Q2K),
        (T::Q3K, _) => searched!(super_blocks::Q3K),
        (T::Q4K, _) => searched!(super_blocks::Q4K),
        (T::Q5K, _) => searched!(super_blocks::Q5K),
        (T::Q6K, _) => searched!(super_blocks::Q6K),
        (T::IQ4XS, _) => searched!(super_blocks::Iq4Xs),
        (T::IQ4NL, _) => searched!(blocks::Iq4Nl),
        (T::Q4_0, true) => searched!(blocks::Symmetric::<4>),
        (T::Q5_0, true) => searched!(blocks::Symmetric::<5>),
        (T::Q4_1, true) => searched!(blocks::Affine::<4>),
        (T::Q5_1, true) => searched!(blocks::Affine::<5>),
        (T::Q4_0, false) => direct!(direct::Symmetric::<4>),
        (T::Q5_0, false) => direct!(direct::Symmetric::<5>),
        (T::Q4_1, false) => direct!(direct::Affine::<4>),
        (T::Q5_1, false) => direct!(direct::Affine::<5>),
        (T::Q8_0, _) => direct!(direct::Q8_0),
        (T::TQ1_0, _) => direct!(direct::Ternary::<true>),
        (T::TQ2_0, _) => direct!(direct::Ternary::<false>),
        (T::MXFP4, _) => direct!(direct::Mxfp4),
        (T::F16, _) => dispatch(level, direct::F16 { rows, out }),
        (T::BF16, _) => dispatch_op(level, Bf16 { rows, out }),
        (T::F32, _) => dispatch_op(level, F32 { rows, out }),
        _ => unreachable!("the caller checks that {element_type} has an encoder"),
    }
}

struct Bf16<'a> {
    rows: &'a [f32],
    out: &'a mut [u8],
}

impl Op for Bf16<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (out, &x) in self.out.as_chunks_mut().0.iter_mut().zip(self.rows) {
            *out = numeric::bf16_bits(x).to_le_bytes();
        }
    }
}

struct F32<'a> {
    rows: &'a [f32],
    out: &'a mut [u8],
}

impl Op for F32<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (out, x) in self.out.as_chunks_mut().0.iter_mut().zip(self.rows) {
            *out = x.to_le_bytes();
        }
    }
}
