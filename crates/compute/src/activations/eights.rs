//! Activations in eights of blocks of 32, arranged as kernels read them: see `dot/avx2/small.rs`.

/// Eight blocks of activations.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Eight {
    /// Of each pair of blocks a and b: values 0 .. 16 of a and of b, then 16 .. 32 of a and of b.
    pub codes: [[i8; 64]; 4],
    /// Scales of blocks 0, 2, 4, 6, 1, 3, 5, 7.
    pub d: [f32; 8],
    /// Scales times sums of codes, in the same order.
    pub sums: [f32; 8],
}

impl Eight {
    /// Zeros.
    pub const ZERO: Self = Self { codes: [[0; 64]; 4], d: [0.0; 8], sums: [0.0; 8] };
}

/// Where block `i` of eight has its scale.
const fn place(i: usize) -> usize {
    i % 2 * 4 + i / 2
}

/// Arranges the blocks of 32 of a row that is quantized; zeros fill the last eight.
pub(super) fn arrange(codes: &[i8], d: &[f32], sums: &[i16], out: &mut [Eight]) {
    let codes = codes.as_chunks::<16>().0.as_chunks::<2>().0.chunks(8);
    let sums = sums.as_chunks::<2>().0.chunks(8);
    for (eight, ((codes, d), sums)) in out.iter_mut().zip(codes.zip(d.chunks(8)).zip(sums)) {
        if codes.len() < 8 {
            *eight = Eight::ZERO;
        }
        for (i, ((codes, d), sums)) in codes.iter().zip(d).zip(sums).enumerate() {
            let pair = eight.codes[i / 2].as_chunks_mut::<16>().0;
            (pair[i % 2], pair[2 + i % 2]) = (codes[0], codes[1]);
            eight.d[place(i)] = *d;
            eight.sums[place(i)] = d * (i32::from(sums[0]) + i32::from(sums[1])) as f32;
        }
    }
}
