//! AVX-512 with VNNI and VBMI: one weight row at a time, integers exact, memory the limit.
//!
//! A core that reads 6 bytes a cycle has some 24 cycles for a q4_K block, so unpacking is counted in single
//! instructions. Codes come out in their natural order (activations are then plain memory operands): a
//! 32-byte group is loaded into both halves of a register, and each half is shifted its own way.

mod float;
mod large;
mod small;

use quern_tensor_io::ElementType;

use super::{FloatKernel, Kernel};

/// Adds the features of [`crate::simd::Level::Avx512Vnni`] to functions.
macro_rules! vnni {
    ($($item:item)*) => { $(
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2")]
        $item
    )* };
}
use vnni;

/// How far ahead of the block in work the memory is asked for.
const AHEAD: usize = 1024;

/// The kernel for a block type.
pub(super) fn kernel(element_type: ElementType) -> Option<Kernel> {
    use ElementType as T;
    Some(match element_type {
        T::Q4_0 => small::q4_0,
        T::Q4_1 => small::q4_1,
        T::Q5_0 => small::q5_0,
        T::Q5_1 => small::q5_1,
        T::Q8_0 => small::q8_0,
        T::IQ4NL => small::iq4_nl,
        T::MXFP4 => small::mxfp4,
        T::Q2K => large::q2_k,
        T::Q3K => large::q3_k,
        T::Q4K => large::q4_k,
        T::Q5K => large::q5_k,
        T::Q6K => large::q6_k,
        T::IQ4XS => large::iq4_xs,
        T::TQ1_0 => large::tq1_0,
        T::TQ2_0 => large::tq2_0,
        _ => return None,
    })
}

/// The kernel for a float type.
pub(super) fn float_kernel(element_type: ElementType) -> Option<FloatKernel> {
    use ElementType as T;
    Some(match element_type {
        T::F32 => float::f32,
        T::F16 => float::f16,
        T::BF16 => float::bf16,
        _ => return None,
    })
}
