//! Plain IEEE types and bfloat16, little endian: exact, except that f64 rounds to nearest even.

use half::f16;
use half::slice::HalfFloatSliceExt;

pub(super) fn f32(data: &[u8], out: &mut [f32]) {
    each(data, out, f32::from_le_bytes);
}

/// Through `half`'s slice conversion, which finds the machine's own instruction at run time.
pub(super) fn f16(data: &[u8], out: &mut [f32]) {
    const STEP: usize = 1024; // the map guarantees no alignment, so values pass through this buffer
    let mut buffer = [f16::ZERO; STEP];
    let pairs = data.as_chunks::<2>().0;
    for (pairs, out) in pairs.chunks(STEP).zip(out.chunks_mut(STEP)) {
        let buffer = &mut buffer[..pairs.len()];
        buffer.iter_mut().zip(pairs).for_each(|(v, &b)| *v = f16::from_le_bytes(b));
        buffer.convert_to_f32_slice(out);
    }
}

/// bfloat16 is the upper half of an f32.
pub(super) fn bf16(data: &[u8], out: &mut [f32]) {
    each(data, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));
}

pub(super) fn f64(data: &[u8], out: &mut [f32]) {
    each(data, out, |b| f64::from_le_bytes(b) as f32);
}

fn each<const N: usize>(data: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    out.iter_mut().zip(data.as_chunks().0).for_each(|(v, &b)| *v = decode(b));
}
