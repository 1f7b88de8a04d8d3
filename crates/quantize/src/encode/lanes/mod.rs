//! The encoders in lanes: sixteen blocks (or sixteen values) at once, with the bytes of `scalar`.

use std::marker::PhantomData;

use quern_compute::simd::Level;
use quern_compute::simd::lanes::{LaneOp, dispatch_wide};
use quern_tensor_io::{ElementType, layout};

mod batch;
mod blocks;
mod direct;
mod grids;
mod nearest;
mod nonlinear;
mod search;
mod super_blocks;
mod ternary_grid;
mod tile;

/// Encodes whole rows of block types and f16. The caller has checked type, lengths and divisibility. `false`,
/// and nothing done, if `level` has no registers for the lanes or the type needs none.
pub(super) fn encode_rows(
    level: Level,
    element_type: ElementType,
    columns: usize,
    rows: &[f32],
    weights: Option<&[f32]>,
    out: &mut [u8],
) -> bool {
    use ElementType as T;
    macro_rules! searched {
        ($encoder:expr) => {
            run(level, batch::Encode { encoder: $encoder, columns, rows, weights, out })
        };
    }
    macro_rules! direct {
        ($encoder:expr) => {
            run(level, direct::Encode { encoder: $encoder, rows, out })
        };
    }
    match (element_type, weights.is_some()) {
        (T::Q2K, _) => searched!(super_blocks::Q2K),
        (T::Q3K, _) => searched!(super_blocks::Q3K),
        (T::Q4K, _) => searched!(super_blocks::Q4K),
        (T::Q5K, _) => searched!(super_blocks::Q5K),
        (T::Q6K, _) => searched!(super_blocks::Q6K),
        (T::IQ2XXS, _) => searched!(grids::Iq2Xxs),
        (T::IQ2XS, _) => searched!(grids::Iq2Xs),
        (T::IQ2S, _) => searched!(grids::Iq2S),
        (T::IQ3XXS, _) => searched!(grids::Iq3Xxs),
        (T::IQ3S, _) => searched!(grids::Iq3S),
        (T::IQ1S, _) => searched!(ternary_grid::Iq1::<32>),
        (T::IQ1M, _) => searched!(ternary_grid::Iq1::<16>),
        (T::IQ4XS, _) => searched!(super_blocks::Iq4Xs),
        (T::IQ4NL, _) => searched!(blocks::Iq4Nl),
        (T::Q4_0, true) => searched!(blocks::Symmetric(PhantomData::<layout::Q4_0>)),
        (T::Q5_0, true) => searched!(blocks::Symmetric(PhantomData::<layout::Q5_0>)),
        (T::Q4_1, true) => searched!(blocks::Affine(PhantomData::<layout::Q4_1>)),
        (T::Q5_1, true) => searched!(blocks::Affine(PhantomData::<layout::Q5_1>)),
        (T::Q4_0, false) => direct!(direct::Symmetric(PhantomData::<layout::Q4_0>)),
        (T::Q5_0, false) => direct!(direct::Symmetric(PhantomData::<layout::Q5_0>)),
        (T::Q4_1, false) => direct!(direct::Affine(PhantomData::<layout::Q4_1>)),
        (T::Q5_1, false) => direct!(direct::Affine(PhantomData::<layout::Q5_1>)),
        (T::Q8_0, _) => direct!(direct::Q8_0),
        (T::TQ1_0, _) => direct!(direct::Tq1_0),
        (T::TQ2_0, _) => direct!(direct::Tq2_0),
        (T::MXFP4, _) => direct!(direct::Mxfp4),
        (T::F16, _) => run(level, direct::F16 { rows, out }),
        // Blocks of 64 and 128 are encoded one after the other, plain types without lanes.
        (T::NVFP4 | T::Q1_0 | T::Q2_0 | T::F32 | T::BF16, _) => false,
        (T::F64 | T::F8E4M3 | T::F8E5M2 | T::Q8_1 | T::Q8K | T::NF4 | T::FP4, _) => false,
        (T::I8 | T::I16 | T::I32 | T::I64 | T::U8 | T::U16 | T::U32 | T::U64 | T::Bool, _) => false,
    }
}

fn run(level: Level, op: impl LaneOp<Output = ()>) -> bool {
    dispatch_wide(level, op).is_ok()
}
