//! Blocks of 16 weight rows to a [`Tile`].
//!
//! The raw words are transposed first, so that lane r of every vector is row r, and unpacked after: masks
//! and shifts on whole vectors, no shuffles, the same plain code at every level. A 4-byte word of packed
//! codes becomes 2 or 4 words of codes, each 4 consecutive values, which is the order tiles have.

use quern_tensor_io::ElementType;

use super::{DEPTH, Tile, transpose};
use crate::Matrix;
use crate::block::{IQ4_TABLE, MXFP4_TABLE, e8m0_half};
use crate::float::f16_to_f32;
use crate::simd::{Level, Op, dispatch};

/// What stands for 0 in q3_K's tiles: codes are `(scale - 32) * (q - 4) + 124`, from 0 to 252.
pub(super) const Q3_ZERO: i32 = 124;

type Lanes = [u32; 16];
type Floats = [f32; 16];

/// Transposed blocks: 8 of 32 values, one after the other, or one of 256.
struct Raw {
    /// Packed codes, in runs of 4 words.
    words: [Lanes; 64],
    /// The rest: scales and what does not come in fours.
    head: [Lanes; 16],
}

/// Where a type's words lie in a block: runs (byte, words) of packed codes, and bytes of single words.
fn places(element_type: ElementType) -> (&'static [(usize, usize)], &'static [usize]) {
    use ElementType as T;
    match element_type {
        T::Q4_0 | T::IQ4NL => (&[(2, 4)], &[0]),
        T::Q4_1 => (&[(4, 4)], &[0]),
        T::Q5_0 => (&[(6, 4)], &[0, 2]),
        T::Q5_1 => (&[(8, 4)], &[0, 4]),
        T::Q8_0 => (&[(2, 8)], &[0]),
        T::MXFP4 => (&[(1, 4)], &[0]),
        T::Q2K => (&[(0, 20)], &[80]),
        T::Q3K => (&[(0, 24), (92, 4)], &[108]),
        T::Q4K => (&[(0, 36)], &[]),
        T::Q5K => (&[(0, 44)], &[]),
        T::Q6K => (&[(0, 52)], &[208]),
        T::IQ4XS => (&[(8, 32)], &[0, 4]),
        T::TQ1_0 => (&[(0, 12)], &[48, 52]),
        T::TQ2_0 => (&[(0, 16)], &[64]),
        _ => (&[], &[]),
    }
}

/// Unpacks rows `first .. first + 16` (the last row again where there are fewer), columns
/// `256 * depth ..`; where a row ends earlier, scales and offsets are 0.
pub(super) fn tile(level: Level, w: &Matrix, first: usize, depth: usize, tile: &mut Tile) {
    let element_type = w.element_type();
    let (block, bytes) = (element_type.block_elements(), element_type.block_bytes());
    let begin = depth * DEPTH / block * bytes;
    let blocks = (DEPTH / block).min((w.row_bytes() - begin) / bytes);
    let rows: [&[u8]; 16] =
        std::array::from_fn(|r| &w.row((first + r).min(w.rows() - 1))[begin..begin + blocks * bytes]);
    let mut raw = Raw { words: [[0; 16]; 64], head: [[0; 16]; 16] };
    let (runs, singles) = places(element_type);
    let (mut word, mut head) = (0, 0);
    for b in 0..blocks {
        for &(at, count) in runs {
            let out = raw.words[word..word + count].as_flattened_mut();
            transpose::words(level, &rows, b * bytes + at, count, out, 16);
            word += count;
        }
        for &at in singles {
            raw.head[head] = transpose::heads(level, &rows, b * bytes + at, bytes - at);
            head += 1;
        }
    }
    dispatch(level, Unpack { element_type, raw: &raw, blocks, tile });
    let table = match element_type {
        ElementType::IQ4NL | ElementType::IQ4XS => IQ4_TABLE.map(|v| v as u8 ^ 0x80),
        ElementType::MXFP4 => MXFP4_TABLE.map(|v| (v + 12) as u8),
        _ => return,
    };
    look_up(level, &table, &mut tile.codes);
}

/// Replaces every code by its entry.
fn look_up(level: Level, table: &[u8; 16], codes: &mut [Lanes; 64]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        #[target_feature(enable = "avx2")]
        fn avx2(table: &[u8; 16], codes: &mut [Lanes; 64]) {
            // SAFETY: 16 bytes; 32 bytes at a time of memory that is a multiple of 32 long.
            unsafe {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                for half in codes.as_flattened_mut().as_chunks_mut::<8>().0 {
                    let p = half.as_mut_ptr().cast();
                    _mm256_storeu_si256(p, _mm256_shuffle_epi8(table, _mm256_loadu_si256(p)));
                }
            }
        }
        if level.min(Level::best()) >= Level::Avx2 {
            // SAFETY: the CPU has AVX2.
            return unsafe { avx2(table, codes) };
        }
    }
    let _ = level;
    for word in codes.as_flattened_mut() {
        *word = u32::from_le_bytes(word.to_le_bytes().map(|code| table[usize::from(code & 15)]));
    }
}

struct Unpack<'a> {
    element_type: ElementType,
    raw: &'a Raw,
    blocks: usize,
    tile: &'a mut Tile,
}

/// Applies `f` lane by lane.
#[inline(always)]
fn map(x: &Lanes, f: impl Fn(u32) -> u32) -> Lanes {
    let mut out = [0; 16];
    for l in 0..16 {
        out[l] = f(x[l]);
    }
    out
}

/// Applies `f` to two vectors lane by lane.
#[inline(always)]
fn map2(x: &Lanes, y: &Lanes, f: impl Fn(u32, u32) -> u32) -> Lanes {
    let mut out = [0; 16];
    for l in 0..16 {
        out[l] = f(x[l], y[l]);
    }
    out
}

/// The f16 in the low half of each lane.
#[inline(always)]
fn halves(x: &Lanes) -> Floats {
    let mut out = [0.0; 16];
    for l in 0..16 {
        out[l] = f16_to_f32(x[l] as u16);
    }
    out
}

/// `d` times an integer, lane by lane.
#[inline(always)]
fn scaled(d: &Floats, x: &Lanes) -> Floats {
    let mut out = [0.0; 16];
    for l in 0..16 {
        out[l] = d[l] * x[l] as i32 as f32;
    }
    out
}

#[inline(always)]
fn negated(x: &Floats) -> Floats {
    x.map(|x| -x)
}

/// Four bits to the lowest bits of four bytes.
#[inline(always)]
fn spread(bits: u32) -> u32 {
    (bits & 15).wrapping_mul(0x0020_4081) & 0x0101_0101
}

const NIBBLES: u32 = 0x0f0f_0f0f;
const CRUMBS: u32 = 0x0303_0303;
const BITS: u32 = 0x0101_0101;
const EVEN: u32 = 0x00ff_00ff;

impl Op for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { element_type, raw, blocks, tile } = self;
        let w = &raw.words;
        match element_type {
            ElementType::Q2K => q2_k(w, &raw.head[0], tile),
            ElementType::Q3K => q3_k(w, &raw.head[0], tile),
            ElementType::Q4K => q4_q5_k(w, None, &w[4..36], tile),
            ElementType::Q5K => q4_q5_k(w, Some(&w[4..12]), &w[12..44], tile),
            ElementType::Q6K => q6_k(w, &raw.head[0], tile),
            ElementType::IQ4XS => iq4_xs(w, &raw.head, tile),
            ElementType::TQ1_0 => tq1_0(w, &raw.head, tile),
            ElementType::TQ2_0 => {
                tile.scale[0] = halves(&raw.head[0]);
                crumbs(&w[..16], &mut tile.codes);
            }
            small => {
                for b in 0..blocks {
                    self::small(small, raw, b, tile);
                }
                for b in blocks..8 {
                    tile.scale[b] = [0.0; 16];
                    tile.offset[b] = [0.0; 16];
                }
            }
        }
    }
}

/// One of eight blocks of 32.
#[inline(always)]
fn small(element_type: ElementType, raw: &Raw, b: usize, tile: &mut Tile) {
    use ElementType as T;
    let (runs, singles) = (if element_type == T::Q8_0 { 8 } else { 4 }, 1 + usize::from(matches!(element_type, T::Q5_0 | T::Q5_1)));
    let words = &raw.words[b * runs..];
    let head = &raw.head[b * singles..];
    tile.scale[b] = halves(&head[0]);
    match element_type {
        T::MXFP4 => {
            for l in 0..16 {
                tile.scale[b][l] = e8m0_half(head[0][l] as u8);
            }
        }
        T::Q4_1 | T::Q5_1 => tile.offset[b] = halves(&map(&head[0], |x| x >> 16)),
        _ => {}
    }
    let codes = &mut tile.codes[8 * b..8 * b + 8];
    if element_type == T::Q8_0 {
        for i in 0..8 {
            codes[i] = map(&words[i], |x| x ^ 0x8080_8080);
        }
        return;
    }
    for i in 0..4 {
        codes[i] = map(&words[i], |x| x & NIBBLES);
        codes[i + 4] = map(&words[i], |x| x >> 4 & NIBBLES);
    }
    if matches!(element_type, T::Q5_0 | T::Q5_1) {
        for i in 0..8 {
            codes[i] = map2(&codes[i], &head[1], |q, h| q | spread(h >> (4 * i)) << 4);
        }
    }
}

/// Byte j of a run of words.
#[inline(always)]
fn byte(words: &[Lanes], j: usize) -> Lanes {
    map(&words[j / 4], |x| x >> (j % 4 * 8) & 255)
}

#[inline(always)]
fn q4_q5_k(w: &[Lanes; 64], fifth: Option<&[Lanes]>, qs: &[Lanes], tile: &mut Tile) {
    let d = halves(&w[0]);
    let dmin = negated(&halves(&map(&w[0], |x| x >> 16)));
    let s = &w[1..4];
    for j in 0..4 {
        let (low, mid, high) = (byte(s, j), byte(s, j + 4), byte(s, j + 8));
        tile.scale[j] = scaled(&d, &map(&low, |x| x & 63));
        tile.offset[j] = scaled(&dmin, &map(&mid, |x| x & 63));
        tile.scale[j + 4] = scaled(&d, &map2(&high, &low, |h, l| h & 15 | l >> 6 << 4));
        tile.offset[j + 4] = scaled(&dmin, &map2(&high, &mid, |h, m| h >> 4 | m >> 6 << 4));
    }
    for g in 0..4 {
        for i in 0..8 {
            let x = &qs[8 * g + i];
            let (mut low, mut high) = (map(x, |x| x & NIBBLES), map(x, |x| x >> 4 & NIBBLES));
            if let Some(fifth) = fifth {
                low = map2(&low, &fifth[i], |q, h| q | (h >> (2 * g) & BITS) << 4);
                high = map2(&high, &fifth[i], |q, h| q | (h >> (2 * g + 1) & BITS) << 4);
            }
            tile.codes[16 * g + i] = low;
            tile.codes[16 * g + 8 + i] = high;
        }
    }
}

#[inline(always)]
fn q6_k(w: &[Lanes; 64], d: &Lanes, tile: &mut Tile) {
    let d = halves(d);
    for j in 0..16 {
        tile.scale[j] = scaled(&d, &map(&byte(&w[48..52], j), |x| x as i8 as u32));
    }
    for half in 0..2 {
        let (ql, qh) = (&w[16 * half..16 * half + 16], &w[32 + 8 * half..40 + 8 * half]);
        let codes = &mut tile.codes[32 * half..32 * half + 32];
        for i in 0..8 {
            codes[i] = map2(&ql[i], &qh[i], |l, h| l & NIBBLES | (h & CRUMBS) << 4);
            codes[i + 8] = map2(&ql[i + 8], &qh[i], |l, h| l & NIBBLES | (h >> 2 & CRUMBS) << 4);
            codes[i + 16] = map2(&ql[i], &qh[i], |l, h| l >> 4 & NIBBLES | (h >> 4 & CRUMBS) << 4);
            codes[i + 24] = map2(&ql[i + 8], &qh[i], |l, h| l >> 4 & NIBBLES | (h >> 6 & CRUMBS) << 4);
        }
    }
}

/// Two-bit codes.
#[inline(always)]
fn crumbs(qs: &[Lanes], codes: &mut [Lanes; 64]) {
    for half in 0..2 {
        for i in 0..8 {
            for k in 0..4 {
                codes[32 * half + 8 * k + i] = map(&qs[8 * half + i], |x| x >> (2 * k) & CRUMBS);
            }
        }
    }
}

#[inline(always)]
fn q2_k(w: &[Lanes; 64], d: &Lanes, tile: &mut Tile) {
    tile.scale[0] = halves(d);
    let dmin = negated(&halves(&map(d, |x| x >> 16)));
    crumbs(&w[4..20], &mut tile.codes);
    for j in 0..16 {
        let packed = byte(&w[..4], j);
        let scale = map(&packed, |x| x & 15);
        tile.offset[j] = scaled(&dmin, &map(&packed, |x| x >> 4));
        // At most 3 * 15 = 45: no carry from one byte to the next.
        for q in &mut tile.codes[4 * j..4 * j + 4] {
            *q = map2(q, &scale, |q, s| q.wrapping_mul(s));
        }
    }
}

#[inline(always)]
fn q3_k(w: &[Lanes; 64], d: &Lanes, tile: &mut Tile) {
    tile.scale[0] = halves(d);
    let s = &w[25..28];
    crumbs(&w[8..24], &mut tile.codes);
    for j in 0..16 {
        let low = map(&byte(s, j % 8), |x| x >> (j / 8 * 4) & 15);
        let high = map(&byte(s, 8 + j % 4), |x| x >> (j / 4 * 2) & 3);
        let scale = map2(&low, &high, |l, h| (l | h << 4).wrapping_sub(32));
        // (s - 32) (q - 4) + 124 = (s - 32) q + 124 - 4 (s - 32), two bytes at a time in 16-bit halves:
        // linear, so that borrows between the halves cancel.
        let offset = map(&scale, |s| 124u32.wrapping_sub(s.wrapping_mul(4)).wrapping_mul(0x0001_0001));
        for step in 4 * j..4 * j + 4 {
            let third = map(&w[step % 8], |h| (h >> (step / 8) & BITS) << 2);
            let q = map2(&tile.codes[step], &third, |q, h| q | h);
            let even = map2(&map(&q, |q| q & EVEN), &scale, |q, s| q.wrapping_mul(s));
            let odd = map2(&map(&q, |q| q >> 8 & EVEN), &scale, |q, s| q.wrapping_mul(s));
            let even = map2(&even, &offset, |x, o| x.wrapping_add(o));
            let odd = map2(&odd, &offset, |x, o| x.wrapping_add(o) << 8);
            tile.codes[step] = map2(&even, &odd, |e, o| e | o);
        }
    }
}

#[inline(always)]
fn iq4_xs(w: &[Lanes; 64], head: &[Lanes; 16], tile: &mut Tile) {
    let d = halves(&head[0]);
    for j in 0..8 {
        let low = map(&head[1], |x| x >> (4 * j) & 15);
        let scale = map2(&low, &head[0], |l, h| (l | (h >> (16 + 2 * j) & 3) << 4).wrapping_sub(32));
        tile.scale[j] = scaled(&d, &scale);
        for i in 0..4 {
            tile.codes[8 * j + i] = map(&w[4 * j + i], |x| x & NIBBLES);
            tile.codes[8 * j + 4 + i] = map(&w[4 * j + i], |x| x >> 4 & NIBBLES);
        }
    }
}

#[inline(always)]
fn tq1_0(w: &[Lanes; 64], head: &[Lanes; 16], tile: &mut Tile) {
    tile.scale[0] = halves(&head[1]);
    let trit = |x: u32, power: u32| {
        let times = |x: u32| (x.wrapping_mul(power) & EVEN).wrapping_mul(3) >> 8 & EVEN;
        times(x & EVEN) | times(x >> 8 & EVEN) << 8
    };
    for (t, power) in [1, 3, 9, 27, 81].into_iter().enumerate() {
        for i in 0..8 {
            tile.codes[8 * t + i] = map(&w[i], |x| trit(x, power));
        }
        for i in 0..4 {
            tile.codes[40 + 4 * t + i] = map(&w[8 + i], |x| trit(x, power));
        }
        if t < 4 {
            tile.codes[60 + t] = map(&head[0], |x| trit(x, power));
        }
    }
}
