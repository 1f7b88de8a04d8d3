//! Lanes in a pair of 256-bit registers.
//!
//! Every method is inlined into [`run`], which has the features; outside of it no [`Avx2`] exists.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::{LANES, LaneOp, Lanes};

/// Proof that the CPU has AVX2.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Sixteen values, lanes 0..8 and 8..16; exists only where an [`Avx2`] does.
#[derive(Clone, Copy)]
pub(super) struct Values([__m256; 2]);

/// Sixteen indices; exists only where an [`Avx2`] does.
#[derive(Clone, Copy)]
pub(super) struct Indices([__m256i; 2]);

/// Runs `op` compiled for these registers.
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn run<O: LaneOp>(op: O) -> O::Output {
    op.call(Avx2(()))
}

/// The same instruction on both registers of each operand. No closures: they would be compiled without the
/// features, and are not always inlined.
macro_rules! pair {
    ($instruction:expr; $a:expr) => {{
        let a = $a;
        // SAFETY: only used where a value of this module proves the features.
        unsafe { [$instruction(a[0]), $instruction(a[1])] }
    }};
    ($instruction:expr; $a:expr, $b:expr) => {{
        let (a, b) = ($a, $b);
        // SAFETY: as above.
        unsafe { [$instruction(a[0], b[0]), $instruction(a[1], b[1])] }
    }};
    ($instruction:expr; $a:expr, $b:expr, $c:expr) => {{
        let (a, b, c) = ($a, $b, $c);
        // SAFETY: as above.
        unsafe { [$instruction(a[0], b[0], c[0]), $instruction(a[1], b[1], c[1])] }
    }};
}

macro_rules! operators {
    ($($trait:ident $method:ident $intrinsic:ident;)*) => { $(
        impl $trait for Values {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(pair!($intrinsic; self.0, other.0))
            }
        }
    )* };
}
operators! { Add add _mm256_add_ps; Sub sub _mm256_sub_ps; Mul mul _mm256_mul_ps; Div div _mm256_div_ps; }

// SAFETY of every block below: `self` (or an operand) proves the features; loads and stores are unaligned and go through
// references to arrays of exactly the registers' size.
impl Lanes for Avx2 {
    type F = Values;
    type M = Values;
    type I = Indices;

    #[inline(always)]
    fn splat(self, x: f32) -> Values {
        // SAFETY: see above.
        Values([unsafe { _mm256_set1_ps(x) }; 2])
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Values {
        // SAFETY: see above.
        Values(unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] })
    }
    #[inline(always)]
    fn load_bytes(self, x: &[u8; LANES]) -> Values {
        // SAFETY: see above.
        unsafe {
            let bytes = _mm_loadu_si128(x.as_ptr().cast());
            let (low, high) =
                (_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_bsrli_si128::<8>(bytes)));
            Values([_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)])
        }
    }
    #[inline(always)]
    fn store(self, x: Values, out: &mut [f32; LANES]) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), x.0[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), x.0[1]);
        }
    }
    #[inline(always)]
    fn less(self, a: Values, b: Values) -> Values {
        Values(pair!(_mm256_cmp_ps::<_CMP_LT_OQ>; a.0, b.0))
    }
    #[inline(always)]
    fn equal(self, a: Values, b: Values) -> Values {
        Values(pair!(_mm256_cmp_ps::<_CMP_EQ_OQ>; a.0, b.0))
    }
    #[inline(always)]
    fn both(self, a: Values, b: Values) -> Values {
        Values(pair!(_mm256_and_ps; a.0, b.0))
    }
    #[inline(always)]
    fn but_not(self, a: Values, b: Values) -> Values {
        Values(pair!(_mm256_andnot_ps; b.0, a.0))
    }
    #[inline(always)]
    fn any(self, m: Values) -> bool {
        // SAFETY: see above.
        unsafe { _mm256_movemask_ps(_mm256_or_ps(m.0[0], m.0[1])) != 0 }
    }
    #[inline(always)]
    fn select(self, m: Values, yes: Values, no: Values) -> Values {
        Values(pair!(_mm256_blendv_ps; no.0, yes.0, m.0))
    }
    #[inline(always)]
    fn min(self, a: Values, b: Values) -> Values {
        Values(pair!(_mm256_min_ps; a.0, b.0))
    }
    #[inline(always)]
    fn max(self, a: Values, b: Values) -> Values {
        Values(pair!(_mm256_max_ps; a.0, b.0))
    }
    #[inline(always)]
    fn abs(self, x: Values) -> Values {
        Values(pair!(_mm256_andnot_ps; self.splat(-0.0).0, x.0))
    }
    #[inline(always)]
    fn with_sign(self, magnitude: Values, sign: Values) -> Values {
        Values(pair!(_mm256_or_ps; magnitude.0, pair!(_mm256_and_ps; sign.0, self.splat(-0.0).0)))
    }
    #[inline(always)]
    fn sqrt(self, x: Values) -> Values {
        Values(pair!(_mm256_sqrt_ps; x.0))
    }
    #[inline(always)]
    fn mantissa(self, x: Values) -> Values {
        let low = self.splat(f32::from_bits(0x007f_ffff)).0;
        let exponent = self.splat(f32::from_bits(0x4b00_0000)).0;
        Values(pair!(_mm256_or_ps; pair!(_mm256_and_ps; x.0, low), exponent))
    }
    #[inline(always)]
    fn store_bytes(self, x: Values, out: &mut [u8; LANES]) {
        self.store_index(Indices(pair!(_mm256_cvttps_epi32; x.0)), out);
    }
    #[inline(always)]
    fn store_f16(self, x: Values, out: &mut [u16; LANES]) {
        let halves = pair!(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>; x.0);
        // SAFETY: see above.
        unsafe {
            _mm_storeu_si128(out.as_mut_ptr().cast(), halves[0]);
            _mm_storeu_si128(out.as_mut_ptr().add(8).cast(), halves[1]);
        }
    }
    #[inline(always)]
    fn low_byte(self, x: Values) -> Values {
        // SAFETY: see above.
        let byte = unsafe { [_mm256_set1_epi32(0xff); 2] };
        let bytes = pair!(_mm256_and_si256; pair!(_mm256_cvttps_epi32; x.0), byte);
        Values(pair!(_mm256_cvtepi32_ps; bytes))
    }
    #[inline(always)]
    fn steps_reached(self, edges: &[f32; LANES], x: Values) -> Indices {
        // Binary search; each round asks one of at most eight edges, so one register holds a round's table:
        // after `k` rounds with `r` the bits found so far, edge (2r + 1) * 2^(3-k) - 1.
        let e = edges;
        let rounds = [
            [e[7]; 8],
            [e[3], e[11], e[3], e[11], e[3], e[11], e[3], e[11]],
            [e[1], e[5], e[9], e[13], e[1], e[5], e[9], e[13]],
            [e[0], e[2], e[4], e[6], e[8], e[10], e[12], e[14]],
        ];
        // SAFETY: see above.
        let mut found = unsafe { [_mm256_setzero_si256(); 2] };
        for table in &rounds {
            // SAFETY: see above.
            let table = unsafe { [_mm256_loadu_ps(table.as_ptr()); 2] };
            let edge = pair!(_mm256_permutevar8x32_ps; table, found);
            let reached = pair!(_mm256_castps_si256; pair!(_mm256_cmp_ps::<_CMP_NLT_UQ>; x.0, edge));
            // Subtracting the mask adds one where it is set.
            found = pair!(_mm256_sub_epi32; pair!(_mm256_add_epi32; found, found), reached);
        }
        Indices(found)
    }
    #[inline(always)]
    fn take(self, table: &[f32; LANES], index: Indices) -> Values {
        // Bit 3 of the index, moved to the sign, chooses between the halves.
        let table = self.load(table).0;
        let low = pair!(_mm256_permutevar8x32_ps; [table[0]; 2], index.0);
        let high = pair!(_mm256_permutevar8x32_ps; [table[1]; 2], index.0);
        let upper = pair!(_mm256_castsi256_ps; pair!(_mm256_slli_epi32::<28>; index.0));
        Values(pair!(_mm256_blendv_ps; low, high, upper))
    }
    #[inline(always)]
    fn store_index(self, index: Indices, out: &mut [u8; LANES]) {
        // SAFETY: see above.
        unsafe {
            let byte = _mm256_set1_epi32(0xff);
            let (low, high) = (_mm256_and_si256(index.0[0], byte), _mm256_and_si256(index.0[1], byte));
            // Packing works within 128-bit halves; the permutation puts them back in order.
            let words = _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi32(low, high));
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        }
    }
    #[inline(always)]
    fn transpose(self, r: [Values; LANES]) -> [Values; LANES] {
        let mut out = r;
        for rows in 0..2 {
            for columns in 0..2 {
                let mut tile = [r[0].0[0]; 8];
                for (i, row) in tile.iter_mut().enumerate() {
                    *row = r[8 * rows + i].0[columns];
                }
                // SAFETY: see above.
                let tile = unsafe { transpose_8(tile) };
                for (j, column) in tile.into_iter().enumerate() {
                    out[8 * columns + j].0[rows] = column;
                }
            }
        }
        out
    }
}

/// Transposes eight rows of eight.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_8(r: [__m256; 8]) -> [__m256; 8] {
    let pd = |x| _mm256_castps_pd(x);
    let mut b = r;
    for g in 0..2 {
        let r = &r[4 * g..4 * g + 4];
        let (a0, a1) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
        let (a2, a3) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
        b[4 * g] = _mm256_castpd_ps(_mm256_unpacklo_pd(pd(a0), pd(a2)));
        b[4 * g + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(pd(a0), pd(a2)));
        b[4 * g + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(pd(a1), pd(a3)));
        b[4 * g + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(pd(a1), pd(a3)));
    }
    let mut out = r;
    for k in 0..4 {
        out[k] = _mm256_permute2f128_ps::<0x20>(b[k], b[4 + k]);
        out[k + 4] = _mm256_permute2f128_ps::<0x31>(b[k], b[4 + k]);
    }
    out
}
