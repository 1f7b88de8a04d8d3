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

#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vectors;

use half::f16;

use super::KEYS;
use super::cache::KEY_GROUP;
use super::q8_0::{BLOCK, GROUP_BYTES};
use crate::float::f16_to_f32;
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
        let mut made = Self { codes: vec![0; rows * head_dim.next_multiple_of(BLOCK)], d: vec![0.0; rows] };
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
            Level::Avx512Vnni | Level::Amx => return unsafe { vectors::vnni::scores(self, keys, out) },
            // SAFETY: as above.
            Level::Avx512 => return unsafe { vectors::avx512::scores(self, keys, out) },
            // SAFETY: as above.
            Level::Avx2 | Level::AvxVnni => return unsafe { vectors::avx2::scores(self, keys, out) },
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
            let largest = largest(&q[..self.head_dim]);
            *d = largest / MOST;
            // What is next to nothing becomes nothing.
            let inverse = if largest > 1e-30 { MOST / largest } else { 0.0 };
            q[..self.head_dim]
                .iter()
                .zip(codes)
                .for_each(|(x, code)| *code = (x * inverse + ROUND).to_bits() as i16);
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
        #[cfg(target_arch = "x86_64")]
        {
            let of = (factors, count);
            match level.here() {
                // SAFETY: the CPU has the level, lengths are checked above.
                Level::Avx512Vnni | Level::Amx => unsafe { vectors::vnni::values(self, of, values, result) },
                // SAFETY: as above.
                Level::Avx512 => unsafe { vectors::avx512::values(self, of, values, result) },
                // SAFETY: as above.
                Level::Avx2 | Level::AvxVnni => unsafe { vectors::avx2::values(self, of, values, result) },
                Level::Scalar => self.add_values_plainly((factors, count), values, result),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = level;
            self.add_values_plainly((factors, count), values, result);
        }
    }

    /// The definition.
    fn add_values_plainly(&mut self, (factors, count): (&[f32], usize), values: Groups, result: &mut [f32]) {
        let (groups, blocks) = (values.count(), values.blocks);
        share_all(values, count, self, |bits, by, shares| {
            shares.iter_mut().zip(bits).for_each(|(share, &bits)| *share = by * f16_to_f32(bits));
        });
        weigh(factors, self);
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

/// The largest magnitude; not a number if any is none.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    // Bits without a sign are in the order of the numbers, and what is no number comes last.
    f32::from_bits(x.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7fff_ffff)))
}

/// Scales of the first `count` values to shares, by `widen`: those of [`KEYS`] halves times a number.
#[inline(always)]
fn share_all(
    values: Groups,
    count: usize,
    made: &mut Weights,
    widen: impl Fn(&[u16; KEYS], f32, &mut [f32; KEYS]),
) {
    let Weights { shares, units, .. } = made;
    for (b, (shares, unit)) in shares.as_chunks_mut::<KEYS>().0.iter_mut().zip(units).enumerate() {
        let mut bits = [0u16; KEYS];
        for (group, bits) in bits.as_chunks_mut::<KEY_GROUP>().0.iter_mut().enumerate().take(values.count()) {
            let scales = values.block(group, b).as_chunks::<2>().0;
            bits.iter_mut().zip(scales).for_each(|(bits, scale)| *bits = u16::from_le_bytes(*scale) & 0x7fff);
        }
        // Scales of positions that are not there are not looked at.
        bits[count..].fill(0);
        // As above, of halves.
        let largest = f16_to_f32(bits.iter().fold(0, |most, &x| most.max(x)));
        let inverse = if largest > 0.0 { MOST / largest } else { 0.0 };
        *unit = largest / MOST;
        widen(&bits, inverse, shares);
    }
}

/// Weights of all rows, from the factors and the shares.
fn weigh(factors: &[f32], made: &mut Weights) {
    let Weights { shares, units, codes, d } = made;
    let (shares, blocks) = (shares.as_chunks::<KEYS>().0, units.len());
    let rows = codes.chunks_exact_mut(blocks * KEYS).zip(d.chunks_exact_mut(blocks));
    for (factors, (codes, d)) in factors.as_chunks::<KEYS>().0.iter().zip(rows) {
        let largest = largest(factors);
        let inverse = if largest > 0.0 { 1.0 / largest } else { 0.0 };
        let of_blocks = codes.chunks_exact_mut(KEYS).zip(d).zip(shares.iter().zip(units.iter()));
        for ((codes, d), (shares, unit)) in of_blocks {
            *d = largest * unit;
            for ((code, factor), share) in codes.iter_mut().zip(factors).zip(shares) {
                *code = (factor * inverse * share + ROUND).to_bits() as i16;
            }
        }
    }
}
