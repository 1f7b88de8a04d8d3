//! Plain codes of one and two bits under one scale.

use crate::layout::{Q1_0, Q2_0};

pub(super) fn q1_0(block: &Q1_0, out: &mut [f32; 128]) {
    let d = block.d.to_f32();
    for (out, &q) in out.as_chunks_mut::<8>().0.iter_mut().zip(&block.qs) {
        out.iter_mut().enumerate().for_each(|(bit, v)| *v = if q >> bit & 1 != 0 { d } else { -d });
    }
}

pub(super) fn q2_0(block: &Q2_0, out: &mut [f32; 64]) {
    let d = block.d.to_f32();
    for (out, &q) in out.as_chunks_mut::<4>().0.iter_mut().zip(&block.qs) {
        out.iter_mut()
            .enumerate()
            .for_each(|(field, v)| *v = f32::from((q >> (2 * field) & 3) as i8 - 1) * d);
    }
}
