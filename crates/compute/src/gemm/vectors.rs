//! 16 rows side by side: the few vector operations unpacking needs, spelled out for each level (left to the
//! compiler, it vectorises across the wrong loop).

use crate::float::f16_to_f32;
use crate::simd::Level;

/// One word of each of 16 rows.
pub(super) type Words = [u32; 16];
/// One number of each of 16 rows.
pub(super) type Numbers = [f32; 16];

/// Operations on 16 lanes. A value of such a type is the proof that the CPU has the instructions.
pub(super) trait Vectors: Copy {
    /// 16 words of 32 bits.
    type U: Copy;
    /// 16 f32.
    type F: Copy;

    fn load(self, x: &Words) -> Self::U;
    fn store(self, x: Self::U, out: &mut Words);
    fn splat(self, x: u32) -> Self::U;
    fn and(self, a: Self::U, b: Self::U) -> Self::U;
    fn or(self, a: Self::U, b: Self::U) -> Self::U;
    fn xor(self, a: Self::U, b: Self::U) -> Self::U;
    fn add(self, a: Self::U, b: Self::U) -> Self::U;
    fn mul(self, a: Self::U, b: Self::U) -> Self::U;
    /// Left by `n` below 32.
    fn shl(self, x: Self::U, n: usize) -> Self::U;
    /// Right by `n` below 32, zeros coming in.
    fn shr(self, x: Self::U, n: usize) -> Self::U;
    /// Signed integers to f32.
    fn numbers(self, x: Self::U) -> Self::F;
    /// The f16 in the low half of each word.
    fn halves(self, x: Self::U) -> Self::F;
    /// The product.
    fn times(self, a: Self::F, b: Self::F) -> Self::F;
    fn store_numbers(self, x: Self::F, out: &mut Numbers);

    /// `x & mask`.
    #[inline(always)]
    fn mask(self, x: Self::U, mask: u32) -> Self::U {
        self.and(x, self.splat(mask))
    }
}

/// Something to compute: implement `call` with `#[inline(always)]`, and so everything it calls. That leaves
/// out closures used in several places or passed to `map`: each operation in them would become a call.
pub(super) trait VectorOp {
    fn call<S: Vectors>(self, s: S);
}

/// Runs `op` with the vectors of `level`.
pub(super) fn dispatch<O: VectorOp>(level: Level, op: O) {
    match level.here() {
        Level::Scalar => op.call(Portable),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the CPU has the level.
        Level::Avx2 | Level::AvxVnni => unsafe { x86::avx2(op) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 | Level::Avx512Vnni | Level::Amx => unsafe { x86::avx512(op) },
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::AvxVnni | Level::Avx512 | Level::Avx512Vnni | Level::Amx => op.call(Portable),
    }
}

/// Plain Rust: the specification.
#[derive(Clone, Copy)]
struct Portable;

#[inline(always)]
fn each(a: Words, b: Words, f: impl Fn(u32, u32) -> u32) -> Words {
    let mut out = a;
    out.iter_mut().zip(b).for_each(|(a, b)| *a = f(*a, b));
    out
}

impl Vectors for Portable {
    type U = Words;
    type F = Numbers;

    fn load(self, x: &Words) -> Words {
        *x
    }
    fn store(self, x: Words, out: &mut Words) {
        *out = x;
    }
    fn splat(self, x: u32) -> Words {
        [x; 16]
    }
    fn and(self, a: Words, b: Words) -> Words {
        each(a, b, |a, b| a & b)
    }
    fn or(self, a: Words, b: Words) -> Words {
        each(a, b, |a, b| a | b)
    }
    fn xor(self, a: Words, b: Words) -> Words {
        each(a, b, |a, b| a ^ b)
    }
    fn add(self, a: Words, b: Words) -> Words {
        each(a, b, u32::wrapping_add)
    }
    fn mul(self, a: Words, b: Words) -> Words {
        each(a, b, u32::wrapping_mul)
    }
    fn shl(self, x: Words, n: usize) -> Words {
        x.map(|x| x << n)
    }
    fn shr(self, x: Words, n: usize) -> Words {
        x.map(|x| x >> n)
    }
    fn numbers(self, x: Words) -> Numbers {
        x.map(|x| x as i32 as f32)
    }
    fn halves(self, x: Words) -> Numbers {
        x.map(|x| f16_to_f32(x as u16))
    }
    fn times(self, mut a: Numbers, b: Numbers) -> Numbers {
        a.iter_mut().zip(b).for_each(|(a, b)| *a *= b);
        a
    }
    fn store_numbers(self, x: Numbers, out: &mut Numbers) {
        *out = x;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Numbers, VectorOp, Vectors, Words};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
    pub(super) fn avx2<O: VectorOp>(op: O) {
        op.call(Avx2);
    }

    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
    pub(super) fn avx512<O: VectorOp>(op: O) {
        op.call(Avx512);
    }

    /// Made only by [`avx512`].
    #[derive(Clone, Copy)]
    struct Avx512;

    /// Made only by [`avx2`].
    #[derive(Clone, Copy)]
    struct Avx2;

    /// Methods whose body may use the level's instructions.
    macro_rules! methods {
        ($(fn $name:ident(self $(, $arg:ident: $ty:ty)*) $(-> $out:ty)? { $body:expr })*) => { $(
            #[inline(always)]
            fn $name(self $(, $arg: $ty)*) $(-> $out)? {
                // SAFETY: a value of `Self` exists only where the CPU has the instructions; memory is
                // accessed through references to 64 bytes.
                unsafe { $body }
            }
        )* };
    }

    impl Vectors for Avx512 {
        type U = __m512i;
        type F = __m512;
        methods! {
            fn load(self, x: &Words) -> __m512i { _mm512_loadu_si512(x.as_ptr().cast()) }
            fn store(self, x: __m512i, out: &mut Words) { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) }
            fn splat(self, x: u32) -> __m512i { _mm512_set1_epi32(x as i32) }
            fn and(self, a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
            fn or(self, a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
            fn xor(self, a: __m512i, b: __m512i) -> __m512i { _mm512_xor_si512(a, b) }
            fn add(self, a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
            fn mul(self, a: __m512i, b: __m512i) -> __m512i { _mm512_mullo_epi32(a, b) }
            fn shl(self, x: __m512i, n: usize) -> __m512i { _mm512_sll_epi32(x, _mm_cvtsi32_si128(n as i32)) }
            fn shr(self, x: __m512i, n: usize) -> __m512i { _mm512_srl_epi32(x, _mm_cvtsi32_si128(n as i32)) }
            fn numbers(self, x: __m512i) -> __m512 { _mm512_cvtepi32_ps(x) }
            fn halves(self, x: __m512i) -> __m512 { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)) }
            fn times(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
            fn store_numbers(self, x: __m512, out: &mut Numbers) { _mm512_storeu_ps(out.as_mut_ptr(), x) }
        }
    }

    /// Two registers at once.
    macro_rules! both {
        ($f:ident, $a:ident, $b:ident) => {
            [$f($a[0], $b[0]), $f($a[1], $b[1])]
        };
        ($f:ident, $a:ident; $b:expr) => {
            [$f($a[0], $b), $f($a[1], $b)]
        };
    }

    /// The low halves of words, as f32.
    ///
    /// # Safety
    /// The CPU has AVX2 and F16C.
    #[inline(always)]
    unsafe fn low_halves(x: __m256i) -> __m256 {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let x = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(x, x));
            _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
        }
    }

    impl Vectors for Avx2 {
        type U = [__m256i; 2];
        type F = [__m256; 2];
        methods! {
            fn load(self, x: &Words) -> [__m256i; 2] {
                [_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(8).cast())]
            }
            fn store(self, x: [__m256i; 2], out: &mut Words) {{
                _mm256_storeu_si256(out.as_mut_ptr().cast(), x[0]);
                _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), x[1]);
            }}
            fn splat(self, x: u32) -> [__m256i; 2] { [_mm256_set1_epi32(x as i32); 2] }
            fn and(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] { both!(_mm256_and_si256, a, b) }
            fn or(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] { both!(_mm256_or_si256, a, b) }
            fn xor(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] { both!(_mm256_xor_si256, a, b) }
            fn add(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] { both!(_mm256_add_epi32, a, b) }
            fn mul(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] { both!(_mm256_mullo_epi32, a, b) }
            fn shl(self, x: [__m256i; 2], n: usize) -> [__m256i; 2] {
                both!(_mm256_sll_epi32, x; _mm_cvtsi32_si128(n as i32))
            }
            fn shr(self, x: [__m256i; 2], n: usize) -> [__m256i; 2] {
                both!(_mm256_srl_epi32, x; _mm_cvtsi32_si128(n as i32))
            }
            fn numbers(self, x: [__m256i; 2]) -> [__m256; 2] {
                [_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])]
            }
            fn halves(self, x: [__m256i; 2]) -> [__m256; 2] { [low_halves(x[0]), low_halves(x[1])] }
            fn times(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] { both!(_mm256_mul_ps, a, b) }
            fn store_numbers(self, x: [__m256; 2], out: &mut Numbers) {{
                _mm256_storeu_ps(out.as_mut_ptr(), x[0]);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), x[1]);
            }}
        }
    }
}
