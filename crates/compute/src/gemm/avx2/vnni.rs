//! The same product with AVX-VNNI: `vpdpbusd` multiplies codes of any size and adds four products up in 32 bits.

use std::arch::x86_64::*;

use super::{Dot, Form, Integers, N, Pack, R, Tile, activations, codes, keep, tiles as tiles_of};

/// `vpdpbusd` as a function.
trait Instruction {
    /// # Safety
    /// The CPU has the instruction.
    unsafe fn add(acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
}

/// As AVX-VNNI has it.
struct Vex;

impl Instruction for Vex {
    #[inline(always)]
    unsafe fn add(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_dpbusd_avx_epi32(acc, w, x) }
    }
}

/// Products that `I` adds up.
struct Vnni<I>(std::marker::PhantomData<I>);

impl<I: Instruction> Dot for Vnni<I> {
    type Columns<'a> = &'a Pack;

    #[inline(always)]
    unsafe fn columns(pack: &Pack) -> &Pack {
        pack
    }

    #[inline(always)]
    unsafe fn add<const STEPS: usize>(acc: &mut Integers, tile: &Tile, x: &&Pack, first: usize, step: usize) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            for step in step..step + STEPS {
                let w = codes(tile, step);
                for n in 0..N {
                    let x = activations(x, step, first + n);
                    for r in 0..R {
                        acc[n][r] = I::add(acc[n][r], w[r], x);
                    }
                }
                keep(acc);
            }
        }
    }
}

/// `multiply` with the instruction of a feature.
macro_rules! multiply {
    ($name:ident, $features:literal, $instruction:ty) => {
        /// Adds tiles times pack to `sums` (`[8][32]`), at least for the first `used` columns.
        #[target_feature(enable = $features)]
        pub(in crate::gemm) fn $name(
            form: Form,
            tiles: &[Tile; 2],
            pack: &Pack,
            used: usize,
            sums: &mut [f32],
        ) {
            #[target_feature(enable = $features)]
            fn run<const SUB: usize, const OFFSET: usize, const PER32: bool>(
                form: Form,
                tiles: &[Tile; 2],
                pack: &Pack,
                used: usize,
                sums: &mut [f32],
            ) {
                // SAFETY: the CPU has the instruction.
                unsafe {
                    tiles_of::<Vnni<$instruction>, SUB, OFFSET, PER32>(form, tiles, pack, used, sums);
                }
            }
            let run = match (form.sub, form.offset, form.per32) {
                (32, 0, true) => run::<32, 0, true>,
                (32, 32, true) => run::<32, 32, true>,
                (32, 0, false) => run::<32, 0, false>,
                (32, 32, false) => run::<32, 32, false>,
                (16, 0, true) => run::<16, 0, true>,
                (16, 0, false) => run::<16, 0, false>,
                (256, 0, false) => run::<256, 0, false>,
                (256, 16, false) => run::<256, 16, false>,
                _ => unreachable!("no type has this form"),
            };
            run(form, tiles, pack, used, sums);
        }
    };
}

multiply!(multiply, "avx2,fma,f16c,bmi1,bmi2,avxvnni", Vex);

/// The instruction as AVX-512 has it: how tests run these kernels on CPUs that have no other.
#[cfg(test)]
pub(super) mod evex {
    use super::*;

    struct Evex;

    impl Instruction for Evex {
        #[inline(always)]
        unsafe fn add(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
            // SAFETY: guaranteed by the caller.
            unsafe { _mm256_dpbusd_epi32(acc, w, x) }
        }
    }

    multiply!(multiply, "avx2,fma,f16c,bmi1,bmi2,avx512f,avx512vl,avx512vnni", Evex);
}
