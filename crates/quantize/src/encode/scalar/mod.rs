//! The encoders one value after another: the specification that the lane encoders are tested against, and the
//! code that runs where there are no wide registers.

use quern_tensor_io::ElementType;

mod blocks;
mod grids;
pub(crate) mod search;
mod super_blocks;
pub(crate) mod ternary_grid;

/// Encodes one block of a legacy type, given importance and the row's mean square, if any.
type LegacyBlock = fn(&[f32; 32], Option<(&[f32], f32)>, &mut [u8]);

/// Encodes one row. The caller has checked type, lengths and divisibility.
pub(crate) fn encode_row(element_type: ElementType, x: &[f32], qw: Option<&[f32]>, out: &mut [u8]) {
    use ElementType as T;
    let row_sigma2 = || super_blocks::energy(x) / x.len() as f32;
    let legacy = |block: LegacyBlock, out: &mut [u8]| {
        let sigma2 = if qw.is_some() { row_sigma2() } else { 0.0 };
        each(element_type, x, qw, out, |x, qw, out| block(x, qw.map(|qw| (qw, sigma2)), out));
    };
    match element_type {
        T::Q4_0 => legacy(blocks::q4_0, out),
        T::Q4_1 => legacy(blocks::q4_1, out),
        T::Q5_0 => legacy(blocks::q5_0, out),
        T::Q5_1 => legacy(blocks::q5_1, out),
        T::Q8_0 => each(element_type, x, None, out, |x, _, out| blocks::q8_0(x, out)),
        T::IQ4NL => each(element_type, x, qw, out, blocks::iq4_nl),
        T::MXFP4 => each(element_type, x, None, out, |x, _, out| blocks::mxfp4(x, out)),
        T::Q2K => each(element_type, x, qw, out, super_blocks::q2_k),
        T::Q3K => each(element_type, x, qw, out, super_blocks::q3_k),
        T::Q4K => each(element_type, x, qw, out, super_blocks::q4_k),
        T::Q5K => each(element_type, x, qw, out, super_blocks::q5_k),
        T::Q6K => each(element_type, x, qw, out, super_blocks::q6_k),
        T::IQ4XS => each(element_type, x, qw, out, super_blocks::iq4_xs),
        T::TQ1_0 => each(element_type, x, None, out, |x, _, out| blocks::tq1_0(x, out)),
        T::TQ2_0 => each(element_type, x, None, out, |x, _, out| blocks::tq2_0(x, out)),
        T::NVFP4 => each(element_type, x, None, out, |x, _, out| blocks::nvfp4(x, out)),
        T::Q1_0 => each(element_type, x, None, out, |x, _, out| blocks::q1_0(x, out)),
        T::Q2_0 => each(element_type, x, None, out, |x, _, out| blocks::q2_0(x, out)),
        T::IQ2XXS => each(element_type, x, qw, out, grids::iq2_xxs),
        T::IQ2XS => each(element_type, x, qw, out, grids::iq2_xs),
        T::IQ2S => each(element_type, x, qw, out, grids::iq2_s),
        T::IQ3XXS => each(element_type, x, qw, out, grids::iq3_xxs),
        T::IQ3S => each(element_type, x, qw, out, grids::iq3_s),
        T::IQ1S => each(element_type, x, qw, out, ternary_grid::iq1_s),
        T::IQ1M => each(element_type, x, qw, out, ternary_grid::iq1_m),
        _ => unreachable!("the caller checks that {element_type} is a block type with an encoder"),
    }
}

/// Calls `block` for each block of `N` values with its importance and its bytes.
fn each<const N: usize>(
    element_type: ElementType,
    x: &[f32],
    qw: Option<&[f32]>,
    out: &mut [u8],
    block: impl Fn(&[f32; N], Option<&[f32]>, &mut [u8]),
) {
    let blocks = x.as_chunks::<N>().0.iter().zip(out.chunks_exact_mut(element_type.block_bytes()));
    for (i, (x, out)) in blocks.enumerate() {
        block(x, qw.map(|qw| &qw[i * N..(i + 1) * N]), out);
    }
}
