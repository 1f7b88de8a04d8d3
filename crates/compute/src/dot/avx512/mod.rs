//! AVX-512 with VNNI and VBMI: one weight row at a time, with exact integers; memory bandwidth is the limit.
//!
//! A core that reads 6 bytes a cycle has some 24 cycles for a q4_K block, so unpacking is counted in single
//! instructions. Codes come out in their natural order (activations are then plain memory operands): a
//! 32-byte group is loaded into both halves of a register, and each half is shifted its own way.

mod bits;
mod f8;
mod float;
mod grid;
mod iq1;
mod large;
mod mid;
mod small;

/// Adds the features of [`crate::simd::Level::Avx512Vnni`] to functions.
macro_rules! vnni {
    ($($item:item)*) => { $(
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2")]
        $item
    )* };
}
use vnni;

super::kernel_tables!();
