//! Lanes in one 512-bit register.
//!
//! Every method is inlined into [`run`], which has the features; outside of it no [`Avx512`] exists.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::{LANES, LaneOp, Lanes};

/// Proof that the CPU has AVX-512 F, BW, CD, DQ and VL.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Sixteen values; exists only where an [`Avx512`] does.
#[derive(Clone, Copy)]
pub(super) struct Values(__m512);

/// Sixteen indices; exists only where an [`Avx512`] does.
#[derive(Clone, Copy)]
pub(super) struct Indices(__m512i);

/// Runs `op` compiled for these registers.
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
pub(super) fn run<O: LaneOp>(op: O) -> O::Output {
    op.call(Avx512(()))
}

macro_rules! operators {
    ($($trait:ident $method:ident $intrinsic:ident;)*) => { $(
        impl $trait for Values {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: a `Values` proves the feature.
                Self(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    )* };
}
operators! { Add add _mm512_add_ps; Sub sub _mm512_sub_ps; Mul mul _mm512_mul_ps; Div div _mm512_div_ps; }

// SAFETY of every block below: `self` proves the features; loads and stores are unaligned and go through
// references to arrays of exactly the register's size.
impl Lanes for Avx512 {
    type F = Values;
    type M = __mmask16;
    type I = Indices;

    #[inline(always)]
    fn splat(self, x: f32) -> Values {
        // SAFETY: see above.
        Values(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Values {
        // SAFETY: see above.
        Values(unsafe { _mm512_loadu_ps(x.as_ptr()) })
    }
    #[inline(always)]
    fn load_bytes(self, x: &[u8; LANES]) -> Values {
        // SAFETY: see above.
        Values(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) })
    }
    #[inline(always)]
    fn store(self, x: Values, out: &mut [f32; LANES]) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x.0) }
    }
    #[inline(always)]
    fn less(self, a: Values, b: Values) -> __mmask16 {
        // SAFETY: see above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a.0, b.0) }
    }
    #[inline(always)]
    fn equal(self, a: Values, b: Values) -> __mmask16 {
        // SAFETY: see above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a.0, b.0) }
    }
    #[inline(always)]
    fn both(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }
    #[inline(always)]
    fn but_not(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & !b
    }
    #[inline(always)]
    fn any(self, m: __mmask16) -> bool {
        m != 0
    }
    #[inline(always)]
    fn select(self, m: __mmask16, yes: Values, no: Values) -> Values {
        // SAFETY: see above.
        Values(unsafe { _mm512_mask_blend_ps(m, no.0, yes.0) })
    }
    #[inline(always)]
    fn min(self, a: Values, b: Values) -> Values {
        // SAFETY: see above.
        Values(unsafe { _mm512_min_ps(a.0, b.0) })
    }
    #[inline(always)]
    fn max(self, a: Values, b: Values) -> Values {
        // SAFETY: see above.
        Values(unsafe { _mm512_max_ps(a.0, b.0) })
    }
    #[inline(always)]
    fn abs(self, x: Values) -> Values {
        // SAFETY: see above.
        Values(unsafe { _mm512_abs_ps(x.0) })
    }
    #[inline(always)]
    fn with_sign(self, magnitude: Values, sign: Values) -> Values {
        // SAFETY: see above.
        Values(unsafe { _mm512_or_ps(magnitude.0, _mm512_and_ps(sign.0, _mm512_set1_ps(-0.0))) })
    }
    #[inline(always)]
    fn sqrt(self, x: Values) -> Values {
        // SAFETY: see above.
        Values(unsafe { _mm512_sqrt_ps(x.0) })
    }
    #[inline(always)]
    fn mantissa(self, x: Values) -> Values {
        // 0xea = (a & b) | c.
        // SAFETY: see above.
        unsafe {
            let (low, exponent) = (_mm512_set1_epi32(0x007f_ffff), _mm512_set1_epi32(0x4b00_0000));
            let bits = _mm512_ternarylogic_epi32::<0xea>(_mm512_castps_si512(x.0), low, exponent);
            Values(_mm512_castsi512_ps(bits))
        }
    }
    #[inline(always)]
    fn store_bytes(self, x: Values, out: &mut [u8; LANES]) {
        // SAFETY: see above.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(x.0))) }
    }
    #[inline(always)]
    fn store_f16(self, x: Values, out: &mut [u16; LANES]) {
        // SAFETY: see above.
        unsafe {
            let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x.0);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), halves);
        }
    }
    #[inline(always)]
    fn low_byte(self, x: Values) -> Values {
        // SAFETY: see above.
        unsafe {
            let byte = _mm512_and_si512(_mm512_cvttps_epi32(x.0), _mm512_set1_epi32(0xff));
            Values(_mm512_cvtepi32_ps(byte))
        }
    }
    #[inline(always)]
    fn steps_reached(self, edges: &[f32; LANES], x: Values) -> Indices {
        let edges = self.load(edges).0;
        // Binary search: from `i` reached, is edge `i + step - 1` reached too?
        // SAFETY: see above.
        unsafe {
            let mut i = _mm512_setzero_si512();
            macro_rules! step {
                ($step:literal) => {
                    let edge =
                        _mm512_permutexvar_ps(_mm512_add_epi32(i, _mm512_set1_epi32($step - 1)), edges);
                    let reached = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x.0, edge);
                    i = _mm512_mask_add_epi32(i, reached, i, _mm512_set1_epi32($step));
                };
            }
            step!(8);
            step!(4);
            step!(2);
            step!(1);
            Indices(i)
        }
    }
    #[inline(always)]
    fn take(self, table: &[f32; LANES], index: Indices) -> Values {
        // SAFETY: see above.
        Values(unsafe { _mm512_permutexvar_ps(index.0, self.load(table).0) })
    }
    #[inline(always)]
    fn store_index(self, index: Indices, out: &mut [u8; LANES]) {
        // SAFETY: see above.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(index.0)) }
    }
    #[inline(always)]
    fn transpose(self, r: [Values; LANES]) -> [Values; LANES] {
        // Four rounds: pairs of values, pairs of pairs within 128-bit quarters, then quarters twice.
        // SAFETY: see above.
        unsafe {
            let mut a = [_mm512_setzero_ps(); LANES];
            for i in 0..8 {
                a[2 * i] = _mm512_unpacklo_ps(r[2 * i].0, r[2 * i + 1].0);
                a[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i].0, r[2 * i + 1].0);
            }
            // b[4g + k]: rows 4g..4g+4, columns k, k+4, k+8, k+12 (one per quarter).
            let mut b = [_mm512_setzero_ps(); LANES];
            for g in 0..4 {
                let a = &a[4 * g..4 * g + 4];
                let pd = |x| _mm512_castps_pd(x);
                b[4 * g] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(a[0]), pd(a[2])));
                b[4 * g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(a[0]), pd(a[2])));
                b[4 * g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(a[1]), pd(a[3])));
                b[4 * g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(a[1]), pd(a[3])));
            }
            let mut out = r;
            for k in 0..4 {
                // Even quarters (columns k, k+8) and odd ones (k+4, k+12) of row groups 0,1 and 2,3.
                let even_low = _mm512_shuffle_f32x4::<0x88>(b[k], b[4 + k]);
                let odd_low = _mm512_shuffle_f32x4::<0xdd>(b[k], b[4 + k]);
                let even_high = _mm512_shuffle_f32x4::<0x88>(b[8 + k], b[12 + k]);
                let odd_high = _mm512_shuffle_f32x4::<0xdd>(b[8 + k], b[12 + k]);
                out[k].0 = _mm512_shuffle_f32x4::<0x88>(even_low, even_high);
                out[k + 8].0 = _mm512_shuffle_f32x4::<0xdd>(even_low, even_high);
                out[k + 4].0 = _mm512_shuffle_f32x4::<0x88>(odd_low, odd_high);
                out[k + 12].0 = _mm512_shuffle_f32x4::<0xdd>(odd_low, odd_high);
            }
            out
        }
    }
}
