//! Attention over a q8_0 cache with integers: codes of keys times codes of queries, and codes of weights times those
//! of values.
//!
//! ```text
//! q = 1/32767 max|q| c        c: 16 bits, one scale for a head's query
//! score      = dq sum over blocks of  d_key (sum of c code)
//!
//! w = factor d_value          of each position and block, largest of 64 positions and of each row: 32767
//! result    += sum over 64 positions of  w code
//! ```
//!
//! Queries and weights have 16 bits: an error of at most half of 1/32767 of the largest, against half of 1/127 for keys
//! and values, so that what the cache's type costs stays what it was. (With queries of 8 bits the Kullback-Leibler
//! divergence of the model in `fixtures/` is 16 % above that of queries in f32.) Integer sums are exact: a block has
//! 32 products below `32767 * 127` and a block of positions 64 of them, less than 2^29.
//!
//! A product of two pairs, `vpmaddwd` or `vpdpwssd`, does twice the work of a fused step in f32, and codes are widened
//! by one instruction. The cache keeps such pairs side by side: two numbers of a key, two positions of a value.

use half::f16;

use super::KEYS;
use super::cache::KEY_GROUP;
use super::q8_0::{BLOCK, GROUP_BYTES};
use crate::float::f16_to_f32;
use crate::ops::{LANES, join, larger};
use crate::simd::{Level, Op, dispatch};

/// The largest code of queries and weights.
const MOST: f32 = 32767.0;
/// Adding it rounds half to even into the low mantissa bits.
const ROUND: f32 = 12_582_912.0;
/// Bytes of a group's scales, in front of its codes.
const SCALES: usize = KEY_GROUP * size_of::<f16>();

/// Groups of keys or values of at most [`KEYS`] positions, whole ones, of one head.
#[derive(Clone, Copy)]
pub(super) struct Groups<'a> {
    /// Of each 16 positions all blocks along head_dim, [`GROUP_BYTES`] each.
    pub bytes: &'a [u8],
    /// Blocks along head_dim.
    pub blocks: usize,
    /// Whether those that follow are to be prefetched.
    pub ask: bool,
}

impl Groups<'_> {
    fn count(&self) -> usize {
        self.bytes.len() / (self.blocks * GROUP_BYTES)
    }

    fn block(&self, group: usize, block: usize) -> &[u8; GROUP_BYTES] {
        &self.bytes.as_chunks().0[group * self.blocks + block]
    }

    /// Scale `i` of a block.
    #[inline(always)]
    fn scale(block: &[u8; GROUP_BYTES], i: usize) -> f32 {
        f16_to_f32(u16::from_le_bytes([block[2 * i], block[2 * i + 1]]))
    }
}

/// Queries as integers.
pub(super) struct Queries {
    /// `[rows][blocks][32]`
    codes: Vec<i16>,
    /// A scale for each row.
    d: Vec<f32>,
}

impl Queries {
    /// Of rows of `head_dim` numbers, `stride` apart.
    pub fn new(level: Level, q: &[f32], stride: usize, head_dim: usize) -> Self {
        let rows = q.len() / stride;
        let mut made =
            Self { codes: vec![0; rows * head_dim.next_multiple_of(BLOCK)], d: vec![0.0; rows] };
        dispatch(level, Quantize { q, stride, head_dim, made: &mut made });
        made
    }

    /// The scores of all keys of the groups: `[rows][KEYS]`.
    ///
    /// # Panics
    /// If lengths do not fit each other.
    pub fn scores(&self, level: Level, keys: Groups, out: &mut [f32]) {
        let groups = keys.count();
        assert!(keys.bytes.len() == groups * keys.blocks * GROUP_BYTES && groups * KEY_GROUP <= KEYS);
        assert!(self.codes.len() == self.d.len() * keys.blocks * BLOCK);
        assert!(out.len() == self.d.len() * KEYS);
        #[cfg(target_arch = "x86_64")]
        match level.here() {
            // SAFETY: the CPU has the level, lengths are checked above.
            Level::Avx512Vnni | Level::Amx => return unsafe { vnni::scores(self, keys, out) },
            // SAFETY: as above.
            Level::Avx512 => return unsafe { avx512::scores(self, keys, out) },
            // SAFETY: as above.
            Level::Avx2 | Level::AvxVnni => return unsafe { avx2::scores(self, keys, out) },
            Level::Scalar => {}
        }
        let _ = level;
        let codes = self.codes.chunks_exact(keys.blocks * BLOCK);
        for ((codes, d), out) in codes.zip(&self.d).zip(out.chunks_exact_mut(KEYS)) {
            for (at, out) in out.iter_mut().take(groups * KEY_GROUP).enumerate() {
                let (group, lane) = (at / KEY_GROUP, at % KEY_GROUP);
                let sum = codes.as_chunks::<BLOCK>().0.iter().enumerate().map(|(b, codes)| {
                    let block = keys.block(group, b);
                    let code = |i: usize| block[SCALES + (i / 2 * KEY_GROUP + lane) * 2 + i % 2] as i8;
                    let sum: i32 = (0..BLOCK).map(|i| i32::from(codes[i]) * i32::from(code(i))).sum();
                    Groups::scale(block, lane) * sum as f32
                });
                *out = d * sum.sum::<f32>();
            }
        }
    }
}

struct Quantize<'a> {
    q: &'a [f32],
    stride: usize,
    head_dim: usize,
    made: &'a mut Queries,
}

impl Op for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Queries { codes, d } = self.made;
        let padded = self.head_dim.next_multiple_of(BLOCK);
        let rows = self.q.chunks_exact(self.stride).zip(codes.chunks_exact_mut(padded));
        for ((q, codes), d) in rows.zip(d) {
            let q = &q[..self.head_dim];
            // A NaN stays.
            let largest = q.iter().fold(0f32, |m, x| if x.abs() <= m { m } else { x.abs() + (m - m) });
            *d = largest / MOST;
            // What is next to nothing becomes nothing.
            let inverse = if largest > 1e-30 { MOST / largest } else { 0.0 };
            q.iter().zip(codes).for_each(|(x, code)| *code = (x * inverse + ROUND).to_bits() as i16);
        }
    }
}

/// Factors of values as integers, and the memory for them.
#[derive(Default)]
pub(super) struct Weights {
    /// Scales of values, the largest of each block 32767: `[blocks][KEYS]`
    shares: Vec<f32>,
    /// What this makes of 1: `[blocks]`
    units: Vec<f32>,
    /// `[rows][blocks][KEYS]`
    codes: Vec<i16>,
    /// `[rows][blocks]`
    d: Vec<f32>,
}

impl Weights {
    /// Adds the first `count` values of the groups, each times its factor (`[rows][KEYS]`), to the result, rows of
    /// `width`.
    ///
    /// # Panics
    /// If lengths do not fit each other.
    pub fn add_values(
        &mut self,
        level: Level,
        (factors, count): (&[f32], usize),
        values: Groups,
        (result, width): (&mut [f32], usize),
    ) {
        let (rows, groups, blocks) = (factors.len() / KEYS, values.count(), values.blocks);
        assert!(values.bytes.len() == groups * blocks * GROUP_BYTES && groups * KEY_GROUP <= KEYS);
        assert!(count <= groups * KEY_GROUP && factors.len() == rows * KEYS);
        assert!(width == blocks * BLOCK && result.len() == rows * width);
        self.shares.resize(blocks * KEYS, 0.0);
        self.units.resize(blocks, 0.0);
        self.codes.resize(rows * blocks * KEYS, 0);
        self.d.resize(rows * blocks, 0.0);
        dispatch(level, Weigh { factors, count, values, made: self });
        #[cfg(target_arch = "x86_64")]
        match level.here() {
            // SAFETY: the CPU has the level, lengths are checked above.
            Level::Avx512Vnni | Level::Amx => return unsafe { vnni::values(self, values, result) },
            // SAFETY: as above.
            Level::Avx512 => return unsafe { avx512::values(self, values, result) },
            // SAFETY: as above.
            Level::Avx2 | Level::AvxVnni => return unsafe { avx2::values(self, values, result) },
            Level::Scalar => {}
        }
        let codes = self.codes.as_chunks::<KEYS>().0.iter();
        for ((b, (codes, d)), out) in codes.zip(&self.d).enumerate().zip(result.as_chunks_mut::<BLOCK>().0) {
            for (i, out) in out.iter_mut().enumerate() {
                let code = |position: usize| {
                    let (group, lane) = (position / KEY_GROUP, position % KEY_GROUP);
                    values.block(group, b % blocks)[SCALES + (lane / 2 * BLOCK + i) * 2 + lane % 2] as i8
                };
                let products = (0..groups * KEY_GROUP).map(|p| i32::from(codes[p]) * i32::from(code(p)));
                *out += d * products.sum::<i32>() as f32;
            }
        }
    }
}

struct Weigh<'a> {
    factors: &'a [f32],
    count: usize,
    values: Groups<'a>,
    made: &'a mut Weights,
}

/// The largest of [`KEYS`] numbers that are not negative; a NaN if the last of its lane is one.
#[inline(always)]
fn largest(x: &[f32; KEYS]) -> f32 {
    let mut lanes = [0f32; LANES];
    for x in x.as_chunks::<LANES>().0 {
        for l in 0..LANES {
            lanes[l] = larger(lanes[l], x[l]);
        }
    }
    join(lanes, larger)
}

impl Op for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Weights { shares, units, codes, d } = self.made;
        let blocks = self.values.blocks;
        let shares = shares.as_chunks_mut::<KEYS>().0;
        for (b, (shares, unit)) in shares.iter_mut().zip(units.iter_mut()).enumerate() {
            for (group, shares) in shares.as_chunks_mut::<KEY_GROUP>().0.iter_mut().enumerate() {
                // Scales of positions that are not there are not looked at.
                let there = self.count.saturating_sub(group * KEY_GROUP).min(KEY_GROUP);
                if there == 0 {
                    shares.fill(0.0);
                    continue;
                }
                let block = self.values.block(group, b);
                for i in 0..KEY_GROUP {
                    shares[i] = Groups::scale(block, i);
                }
                shares[there..].fill(0.0);
            }
            // A NaN shows in the unit, whichever position has it.
            let any: f32 = if shares.iter().any(|x| x.is_nan()) { f32::NAN } else { 0.0 };
            let largest = largest(shares) + any;
            let inverse = if largest > 0.0 { MOST / largest } else { 0.0 };
            *unit = largest / MOST;
            shares.iter_mut().for_each(|x| *x *= inverse);
        }
        let rows = self.factors.as_chunks::<KEYS>().0.iter();
        let made = codes.chunks_exact_mut(blocks * KEYS).zip(d.chunks_exact_mut(blocks));
        for (factors, (codes, d)) in rows.zip(made) {
            let largest = largest(factors);
            let inverse = if largest > 0.0 { 1.0 / largest } else { 0.0 };
            let mut factors = *factors;
            factors.iter_mut().for_each(|x| *x *= inverse);
            let of_blocks = shares.iter().zip(units.iter()).zip(codes.as_chunks_mut::<KEYS>().0);
            for (((shares, unit), codes), d) in of_blocks.zip(d) {
                *d = largest * unit;
                for i in 0..KEYS {
                    codes[i] = (factors[i] * shares[i] + ROUND).to_bits() as i16;
                }
            }
        }
    }
}

/// A module with both products for one set of vectors, `$per` of which hold 16 numbers: `$rows` rows at a time, and as
/// many sixteens of a value's block as `$sixteens` says.
macro_rules! kernel {
    ($name:ident, $features:literal, $int:ty, $float:ty, $lanes:literal lanes, $per:literal per16, $rows:literal rows,
     $sixteens:literal sixteens, $codes:expr, $pair:ident, $dot:expr, $scales:expr, $zero:ident, $zeros:ident,
     $set:ident, $convert:ident, $fma:ident, $mul:ident, $load:ident, $store:ident) => {
        #[cfg(target_arch = "x86_64")]
        #[allow(unreachable_patterns, reason = "where four rows are the most")]
        mod $name {
            use std::arch::x86_64::*;

            use super::{BLOCK, GROUP_BYTES, Groups, KEY_GROUP, KEYS, Queries, SCALES, Weights};

            /// From a group to the same place of that which is 64 positions further.
            fn further(groups: &Groups) -> usize {
                KEYS / KEY_GROUP * groups.blocks * GROUP_BYTES
            }

            /// # Safety
            /// Lengths are as [`Queries::scores`] checks them.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn scores(q: &Queries, keys: Groups, out: &mut [f32]) {
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
                        let at: [*const u8; G] =
                            std::array::from_fn(|i| keys.bytes.as_ptr().add(((g + i) * blocks + b) * GROUP_BYTES));
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
                                for (sum, codes) in ints.as_flattened_mut().iter_mut().zip(codes.as_flattened()) {
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

            /// # Safety
            /// Lengths are as [`Weights::add_values`] checks them.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn values(w: &Weights, values: Groups, result: &mut [f32]) {
                let rows = w.d.len() / values.blocks;
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
                                let pair = weights.add(r * blocks * KEYS + 2 * s).cast::<i32>().read_unaligned();
                                let pair = $pair(pair);
                                for (sum, codes) in ints.as_flattened_mut().iter_mut().zip(codes.as_flattened()) {
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

kernel!(vnni, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", __m512i, __m512, 16 lanes, 1 per16, 8 rows,
    2 sixteens, |x: *const __m256i| _mm512_cvtepi8_epi16(_mm256_loadu_si256(x)), _mm512_set1_epi32,
    |sum, a, b| _mm512_dpwssd_epi32(sum, a, b), |x: *const __m256i| _mm512_cvtph_ps(_mm256_loadu_si256(x)),
    _mm512_setzero_si512, _mm512_setzero_ps, _mm512_set1_ps, _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_mul_ps,
    _mm512_loadu_ps, _mm512_storeu_ps);
kernel!(avx512, "avx2,fma,f16c,avx512f,avx512bw,avx512vl", __m512i, __m512, 16 lanes, 1 per16, 8 rows,
    2 sixteens, |x: *const __m256i| _mm512_cvtepi8_epi16(_mm256_loadu_si256(x)), _mm512_set1_epi32,
    |sum, a, b| _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)),
    |x: *const __m256i| _mm512_cvtph_ps(_mm256_loadu_si256(x)),
    _mm512_setzero_si512, _mm512_setzero_ps, _mm512_set1_ps, _mm512_cvtepi32_ps, _mm512_fmadd_ps, _mm512_mul_ps,
    _mm512_loadu_ps, _mm512_storeu_ps);
kernel!(avx2, "avx2,fma,f16c", __m256i, __m256, 8 lanes, 2 per16, 4 rows,
    1 sixteens, |x: *const __m128i| _mm256_cvtepi8_epi16(_mm_loadu_si128(x)), _mm256_set1_epi32,
    |sum, a, b| _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)),
    |x: *const __m128i| _mm256_cvtph_ps(_mm_loadu_si128(x)),
    _mm256_setzero_si256, _mm256_setzero_ps, _mm256_set1_ps, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_mul_ps,
    _mm256_loadu_ps, _mm256_storeu_ps);
