//! The encoders one value after another: the specification that the lane encoders are tested against, and the
//! code that runs where there are no wide registers.

use quern_tensor_io::ElementType;
use quern_tensor_io::layout::{self, Block};

mod blocks;
mod grids;
pub(crate) mod search;
mod super_blocks;
pub(crate) mod ternary_grid;

/// Encodes one row. The caller has checked type, lengths and divisibility.
pub(crate) fn encode_row(element_type: ElementType, x: &[f32], qw: Option<&[f32]>, out: &mut [u8]) {
    use ElementType as T;
    match element_type {
        T::Q4_0 => legacy(x, qw, out, blocks::symmetric::<layout::Q4_0>),
        T::Q4_1 => legacy(x, qw, out, blocks::affine::<layout::Q4_1>),
        T::Q5_0 => legacy(x, qw, out, blocks::symmetric::<layout::Q5_0>),
        T::Q5_1 => legacy(x, qw, out, blocks::affine::<layout::Q5_1>),
        T::Q8_0 => each(x, None, out, |x, _| blocks::q8_0(x)),
        T::IQ4NL => each(x, qw, out, blocks::iq4_nl),
        T::MXFP4 => each(x, None, out, |x, _| blocks::mxfp4(x)),
        T::Q2K => each(x, qw, out, super_blocks::q2_k),
        T::Q3K => each(x, qw, out, super_blocks::q3_k),
        T::Q4K => each(x, qw, out, super_blocks::q4_k),
        T::Q5K => each(x, qw, out, super_blocks::q5_k),
        T::Q6K => each(x, qw, out, super_blocks::q6_k),
        T::IQ4XS => each(x, qw, out, super_blocks::iq4_xs),
        T::TQ1_0 => each(x, None, out, |x, _| blocks::tq1_0(x)),
        T::TQ2_0 => each(x, None, out, |x, _| blocks::tq2_0(x)),
        T::NVFP4 => each(x, None, out, |x, _| blocks::nvfp4(x)),
        T::Q1_0 => each(x, None, out, |x, _| blocks::q1_0(x)),
        T::Q2_0 => each(x, None, out, |x, _| blocks::q2_0(x)),
        T::IQ2XXS => each(x, qw, out, grids::iq2_xxs),
        T::IQ2XS => each(x, qw, out, grids::iq2_xs),
        T::IQ2S => each(x, qw, out, grids::iq2_s),
        T::IQ3XXS => each(x, qw, out, grids::iq3_xxs),
        T::IQ3S => each(x, qw, out, grids::iq3_s),
        T::IQ1S => each(x, qw, out, ternary_grid::iq1_s),
        T::IQ1M => each(x, qw, out, ternary_grid::iq1_m),
        T::F32 | T::F16 | T::BF16 | T::F64 | T::F8E4M3 | T::F8E5M2 => none(element_type),
        T::I8 | T::I16 | T::I32 | T::I64 | T::U8 | T::U16 | T::U32 | T::U64 | T::Bool => none(element_type),
        T::Q8_1 | T::Q8K | T::NF4 | T::FP4 => none(element_type),
    }
}

/// For types that `can_encode` denies, and those without blocks.
fn none(element_type: ElementType) {
    unreachable!("the caller checks that {element_type} is a block type with an encoder")
}

/// Calls `block` for each block of `N` values with its importance, and stores what it gives.
fn each<B: Block, const N: usize>(
    x: &[f32],
    qw: Option<&[f32]>,
    out: &mut [u8],
    block: impl Fn(&[f32; N], Option<&[f32]>) -> B,
) {
    let blocks = x.as_chunks::<N>().0.iter().zip(layout::blocks_mut(out));
    for (i, (x, out)) in blocks.enumerate() {
        *out = block(x, qw.map(|qw| &qw[i * N..(i + 1) * N]));
    }
}

/// [`each`] block of a legacy type, which is given importance together with the row's mean square.
fn legacy<B: Block>(
    x: &[f32],
    qw: Option<&[f32]>,
    out: &mut [u8],
    block: impl Fn(&[f32; 32], Option<(&[f32], f32)>) -> B,
) {
    let sigma2 = if qw.is_some() { super_blocks::energy(x) / x.len() as f32 } else { 0.0 };
    each(x, qw, out, |x, qw| block(x, qw.map(|qw| (qw, sigma2))));
}
