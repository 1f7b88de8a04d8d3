//! The kernels of x86-64: a pair of products in each 32 bits of a register, by `vpdpwssd` or `vpmaddwd` and an addition.

use std::arch::x86_64::__m512i;

/// A module with both products for one set of vectors, `$per` of which hold 16 numbers: `$rows` rows at a time, and as
/// many sixteens of a value's block as `$sixteens` says.
macro_rules! kernel {
    ($name:ident, $features:literal, $int:ty, $float:ty, $lanes:literal lanes, $per:literal per16, $rows:literal rows,
     $sixteens:literal sixteens, $codes:expr, $pair:ident, $dot:expr, $scales:expr, $zero:ident, $zeros:ident,
     $set:ident, $convert:ident, $fma:ident, $mul:ident, $load:ident, $store:ident, $most:expr, $narrow:expr) => {
        #[allow(unreachable_patterns, reason = "where four rows are the most")]
        pub(super) mod $name {
            use std::arch::x86_64::*;

            use super::super::{
                BLOCK, GROUP_BYTES, Groups, KEY_GROUP, KEYS, Queries, SCALES, Weights, share_all,
            };

            /// From a group to the same place of that which is 64 positions further.
            fn further(groups: &Groups) -> usize {
                KEYS / KEY_GROUP * groups.blocks * GROUP_BYTES
            }

            /// # Safety
            /// Lengths are as [`Queries::scores`] checks them.
            #[target_feature(enable = $features)]
            pub(in crate::attention::integers) unsafe fn scores(q: &Queries, keys: Groups, out: &mut [f32]) {
                let (rows, groups) = (q.d.len(), keys.count());
                let out = out.as_mut_ptr();
                let mut g = 0;
                while g < groups {
                    let together = if groups - g >= 2 && rows < $rows { 2 } else { 1 };
                    let mut r = 0;
                    while r < rows {
                        // SAFETY: rows r.. and groups g.. exist as the match and `together` make sure.
                        unsafe {
                            r += match (rows - r, together) {
                                ($rows.., 1) => of_keys::<$rows, 1>(q, keys, (r, g), out),
                                (4.., 1) => of_keys::<4, 1>(q, keys, (r, g), out),
                                (2.., 1) => of_keys::<2, 1>(q, keys, (r, g), out),
                                (_, 1) => of_keys::<1, 1>(q, keys, (r, g), out),
                                (4.., _) => of_keys::<4, 2>(q, keys, (r, g), out),
                                (2.., _) => of_keys::<2, 2>(q, keys, (r, g), out),
                                (_, _) => of_keys::<1, 2>(q, keys, (r, g), out),
                            };
                        }
                    }
                    g += together;
                }
            }

            /// The scores of `R` rows over `G` groups; returns `R`.
            ///
            /// # Safety
            /// Rows `r .. r + R` and groups `g .. g + G` exist.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn of_keys<const R: usize, const G: usize>(
                q: &Queries,
                keys: Groups,
                (r, g): (usize, usize),
                out: *mut f32,
            ) -> usize {
                let (blocks, ask) = (keys.blocks, keys.ask && r == 0);
                let mut sums: [[[$float; $per]; G]; R] = [[[$zeros(); $per]; G]; R];
                for b in 0..blocks {
                    // SAFETY: groups and rows that the caller guarantees; prefetches may point anywhere.
                    unsafe {
                        let at: [*const u8; G] = std::array::from_fn(|i| {
                            keys.bytes.as_ptr().add(((g + i) * blocks + b) * GROUP_BYTES)
                        });
                        let q = q.codes.as_ptr().add((r * blocks + b) * BLOCK);
                        let mut ints: [[[$int; $per]; G]; R] = [[[$zero(); $per]; G]; R];
                        for s in 0..BLOCK / 2 {
                            let mut codes: [[$int; $per]; G] = [[$zero(); $per]; G];
                            for (at, codes) in at.iter().zip(&mut codes) {
                                if ask && s % 2 == 0 {
                                    let line = at.wrapping_add(further(&keys) + s * 32);
                                    _mm_prefetch::<_MM_HINT_T0>(line.cast());
                                }
                                for (v, codes) in codes.iter_mut().enumerate() {
                                    *codes = $codes(at.add(SCALES + 2 * (s * KEY_GROUP + v * $lanes)).cast());
                                }
                            }
                            for (r, ints) in ints.iter_mut().enumerate() {
                                let pair = q.add(r * blocks * BLOCK + 2 * s).cast::<i32>().read_unaligned();
                                let pair = $pair(pair);
                                for (sum, codes) in
                                    ints.as_flattened_mut().iter_mut().zip(codes.as_flattened())
                                {
                                    *sum = $dot(*sum, *codes, pair);
                                }
                            }
                        }
                        for (i, at) in at.iter().enumerate() {
                            for v in 0..$per {
                                let scales = $scales(at.add(2 * v * $lanes).cast());
                                for (sums, ints) in sums.iter_mut().zip(&ints) {
                                    sums[i][v] = $fma($convert(ints[i][v]), scales, sums[i][v]);
                                }
                            }
                        }
                    }
                }
                for (row, sums) in (r..).zip(&sums) {
                    // SAFETY: as above.
                    unsafe {
                        let (d, out) = ($set(*q.d.get_unchecked(row)), out.add(row * KEYS + g * KEY_GROUP));
                        for (v, sum) in sums.as_flattened().iter().enumerate() {
                            $store(out.add(v * $lanes), $mul(d, *sum));
                        }
                    }
                }
                R
            }

            /// As `weigh` of the definition.
            ///
            /// # Safety
            /// Lengths are as [`Weights::add_values`] makes them.
            #[target_feature(enable = $features)]
            unsafe fn weigh(factors: &[f32], w: &mut Weights) {
                const VECTORS: usize = KEYS / $lanes;
                let blocks = w.units.len();
                for (row, factors) in factors.as_chunks::<KEYS>().0.iter().enumerate() {
                    // SAFETY: KEYS factors, and as many shares and codes of each block.
                    unsafe {
                        let mut x: [$float; VECTORS] =
                            std::array::from_fn(|v| $load(factors.as_ptr().add(v * $lanes)));
                        let most = $most(&x);
                        let inverse = $set(if most > 0.0 { 1.0 / most } else { 0.0 });
                        x.iter_mut().for_each(|x| *x = $mul(*x, inverse));
                        for b in 0..blocks {
                            let shares = w.shares.as_ptr().add(b * KEYS);
                            let codes = w.codes.as_mut_ptr().add((row * blocks + b) * KEYS);
                            for (i, x) in x.as_chunks::<$per>().0.iter().enumerate() {
                                let made: [$float; $per] = std::array::from_fn(|v| {
                                    $mul(x[v], $load(shares.add(16 * i + v * $lanes)))
                                });
                                $narrow(made, codes.add(16 * i).cast::<__m256i>());
                            }
                            *w.d.get_unchecked_mut(row * blocks + b) = most * w.units.get_unchecked(b);
                        }
                    }
                }
            }

            /// # Safety
            /// Lengths are as [`Weights::add_values`] checks them.
            #[target_feature(enable = $features)]
            pub(in crate::attention::integers) unsafe fn values(
                w: &mut Weights,
                (factors, count): (&[f32], usize),
                values: Groups,
                result: &mut [f32],
            ) {
                let rows = w.d.len() / values.blocks;
                share_all(values, count, w, |bits, by, shares| {
                    for v in 0..KEYS / $lanes {
                        // SAFETY: KEYS of both.
                        unsafe {
                            let scales = $scales(bits.as_ptr().add(v * $lanes).cast());
                            $store(shares.as_mut_ptr().add(v * $lanes), $mul($set(by), scales));
                        }
                    }
                });
                // SAFETY: guaranteed by the caller.
                unsafe { weigh(factors, w) };
                let result = result.as_mut_ptr();
                for b in 0..values.blocks {
                    for part in (0..BLOCK).step_by(16 * $sixteens) {
                        let (mut r, at) = (0, (b, part));
                        while r < rows {
                            // SAFETY: rows r.. exist as the match makes sure.
                            unsafe {
                                r += match rows - r {
                                    $rows.. => of_values::<$rows>(w, values, r, at, result),
                                    4.. => of_values::<4>(w, values, r, at, result),
                                    2.. => of_values::<2>(w, values, r, at, result),
                                    _ => of_values::<1>(w, values, r, at, result),
                                };
                            }
                        }
                    }
                }
            }

            /// Adds a part of block `b` of all values to `R` rows of the result; returns `R`.
            ///
            /// # Safety
            /// Rows `r .. r + R` and the part exist.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn of_values<const R: usize>(
                w: &Weights,
                values: Groups,
                r: usize,
                (b, part): (usize, usize),
                result: *mut f32,
            ) -> usize {
                let (blocks, ask) = (values.blocks, values.ask && r == 0 && part == 0);
                // SAFETY: groups and rows that the caller guarantees; prefetches may point anywhere.
                unsafe {
                    let mut ints: [[[$int; $per]; $sixteens]; R] = [[[$zero(); $per]; $sixteens]; R];
                    let codes_of_rows = w.codes.as_ptr().add((r * blocks + b) * KEYS);
                    for g in 0..values.count() {
                        let at = values.bytes.as_ptr().add((g * blocks + b) * GROUP_BYTES);
                        let weights = codes_of_rows.add(g * KEY_GROUP);
                        for s in 0..KEY_GROUP / 2 {
                            if ask {
                                let line = at.wrapping_add(further(&values) + s * 64);
                                _mm_prefetch::<_MM_HINT_T0>(line.cast());
                            }
                            let mut codes: [[$int; $per]; $sixteens] = [[$zero(); $per]; $sixteens];
                            for (v, codes) in codes.as_flattened_mut().iter_mut().enumerate() {
                                *codes = $codes(at.add(SCALES + 2 * (s * BLOCK + part + v * $lanes)).cast());
                            }
                            for (r, ints) in ints.iter_mut().enumerate() {
                                let pair =
                                    weights.add(r * blocks * KEYS + 2 * s).cast::<i32>().read_unaligned();
                                let pair = $pair(pair);
                                for (sum, codes) in
                                    ints.as_flattened_mut().iter_mut().zip(codes.as_flattened())
                                {
                                    *sum = $dot(*sum, *codes, pair);
                                }
                            }
                        }
                    }
                    for (row, ints) in (r..).zip(&ints) {
                        let d = $set(*w.d.get_unchecked(row * blocks + b));
                        let out = result.add((row * blocks + b) * BLOCK + part);
                        for (v, sum) in ints.as_flattened().iter().enumerate() {
                            let out = out.add(v * $lanes);
                            $store(out, $fma($convert(*sum), d, $load(out)));
                        }
                    }
                }
                R
            }
        }
    };
}

/// `vpdpwssd`: written out, because the compiler makes two instructions of the intrinsic.
///
/// # Safety
/// The CPU has VNNI.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
unsafe fn add_pairs(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: it works on registers alone, and the CPU has it.
    unsafe {
        std::arch::asm!("vpdpwssd {}, {}, {}", inout(zmm_reg) sum, in(zmm_reg) a, in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

kernel!(vnni, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", __m512i, __m512, 16 lanes, 1 per16, 8 rows,
    2 sixteens, |x: *const __m256i| _mm512_cvtepi8_epi16(_mm256_loadu_si256(x)), _mm512_set1_epi32,
    |sum, a, b| super::add_pairs(sum, a, b), |x: *const __m256i| _mm512_cvtph_ps(_mm256_loadu_si256(x)),
    _mm512_setzero_si512, _mm512_setzero_ps, _mm512_set1_ps, _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_mul_ps,
    _mm512_loadu_ps, _mm512_storeu_ps,
    |x: &[__m512; 4]| _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3]))),
    |x: [__m512; 1], to| _mm256_storeu_si256(to, _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(x[0]))));
kernel!(avx512, "avx2,fma,f16c,avx512f,avx512bw,avx512vl", __m512i, __m512, 16 lanes, 1 per16, 8 rows,
    2 sixteens, |x: *const __m256i| _mm512_cvtepi8_epi16(_mm256_loadu_si256(x)), _mm512_set1_epi32,
    |sum, a, b| _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)),
    |x: *const __m256i| _mm512_cvtph_ps(_mm256_loadu_si256(x)),
    _mm512_setzero_si512, _mm512_setzero_ps, _mm512_set1_ps, _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_mul_ps,
    _mm512_loadu_ps, _mm512_storeu_ps,
    |x: &[__m512; 4]| _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3]))),
    |x: [__m512; 1], to| _mm256_storeu_si256(to, _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(x[0]))));
kernel!(avx2, "avx2,fma,f16c", __m256i, __m256, 8 lanes, 2 per16, 4 rows,
1 sixteens, |x: *const __m128i| _mm256_cvtepi8_epi16(_mm_loadu_si128(x)), _mm256_set1_epi32,
|sum, a, b| _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)),
|x: *const __m128i| _mm256_cvtph_ps(_mm_loadu_si128(x)),
_mm256_setzero_si256, _mm256_setzero_ps, _mm256_set1_ps, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_mul_ps,
_mm256_loadu_ps, _mm256_storeu_ps,
|x: &[__m256; 8]| {
    let max = |i: usize| _mm256_max_ps(x[i], x[i + 1]);
    let x = _mm256_max_ps(_mm256_max_ps(max(0), max(2)), _mm256_max_ps(max(4), max(6)));
    crate::attention::softmax::reduce_max8(x)
},
|x: [__m256; 2], to| {
    let both = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
    _mm256_storeu_si256(to, _mm256_permute4x64_epi64::<0b11_01_10_00>(both));
});
