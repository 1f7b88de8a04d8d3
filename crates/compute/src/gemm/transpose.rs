//! Transposes words of 16 rows to lanes: `out[w][row] = row[4 w .. 4 w + 4]`.

use crate::simd::Level;

/// Reads `count` words (a multiple of 4) at byte `at` of each row. `out` gets one group of 16 every `stride`
/// words.
///
/// # Panics
/// If a row or `out` is too short.
pub(super) fn words(
    level: Level,
    rows: &[&[u8]; 16],
    at: usize,
    count: usize,
    out: &mut [u32],
    stride: usize,
) {
    assert!(count.is_multiple_of(4) && stride >= 16);
    assert!(rows.iter().all(|r| r.len() >= at + 4 * count));
    assert!(count == 0 || out.len() >= (count - 1) * stride + 16);
    #[cfg(target_arch = "x86_64")]
    match level.here() {
        Level::Scalar => {}
        // SAFETY: the CPU has the level, lengths are checked above.
        Level::Avx2 | Level::AvxVnni => return unsafe { avx2(rows, at, count, out, stride) },
        Level::Avx512 | Level::Avx512Vnni | Level::Amx => {
            // SAFETY: as above.
            return unsafe { avx512(rows, at, count, out, stride) };
        }
    }
    let _ = level;
    for (r, row) in rows.iter().enumerate() {
        for (w, word) in row[at..at + 4 * count].as_chunks::<4>().0.iter().enumerate() {
            out[w * stride + r] = u32::from_le_bytes(*word);
        }
    }
}

/// Four words at a time: rows a, a + 4, a + 8, a + 12 share a register, so that a 4 x 4 transposition within
/// each 128-bit lane leaves the rows in order.
///
/// # Safety
/// Every row has `at + 4 * count` bytes, `out` `(count - 1) * stride + 16` words.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512(rows: &[&[u8]; 16], at: usize, count: usize, out: &mut [u32], stride: usize) {
    use std::arch::x86_64::*;
    for w in (0..count).step_by(4) {
        // SAFETY: in bounds as the caller guarantees.
        let load = |r: usize| unsafe { _mm_loadu_si128(rows[r].as_ptr().add(at + 4 * w).cast()) };
        let four = |a: usize| {
            let x = _mm512_castsi128_si512(load(a));
            let x = _mm512_inserti32x4::<1>(x, load(a + 4));
            let x = _mm512_inserti32x4::<2>(x, load(a + 8));
            _mm512_inserti32x4::<3>(x, load(a + 12))
        };
        let (a, b, c, d) = (four(0), four(1), four(2), four(3));
        let (ab0, ab1) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd0, cd1) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        let lanes = [
            _mm512_unpacklo_epi64(ab0, cd0),
            _mm512_unpackhi_epi64(ab0, cd0),
            _mm512_unpacklo_epi64(ab1, cd1),
            _mm512_unpackhi_epi64(ab1, cd1),
        ];
        for (i, lanes) in lanes.into_iter().enumerate() {
            // SAFETY: in bounds as the caller guarantees.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().add((w + i) * stride).cast(), lanes) };
        }
    }
}

/// Four words of eight rows at a time: rows a and a + 4 share a register.
///
/// # Safety
/// Every row has `at + 4 * count` bytes, `out` `(count - 1) * stride + 16` words.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(rows: &[&[u8]; 16], at: usize, count: usize, out: &mut [u32], stride: usize) {
    use std::arch::x86_64::*;
    for w in (0..count).step_by(4) {
        for half in 0..2 {
            // SAFETY: in bounds as the caller guarantees.
            let load =
                |r: usize| unsafe { _mm_loadu_si128(rows[8 * half + r].as_ptr().add(at + 4 * w).cast()) };
            let two = |a: usize| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(a)), load(a + 4));
            let (a, b, c, d) = (two(0), two(1), two(2), two(3));
            let (ab0, ab1) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (cd0, cd1) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            let lanes = [
                _mm256_unpacklo_epi64(ab0, cd0),
                _mm256_unpackhi_epi64(ab0, cd0),
                _mm256_unpacklo_epi64(ab1, cd1),
                _mm256_unpackhi_epi64(ab1, cd1),
            ];
            for (i, lanes) in lanes.into_iter().enumerate() {
                // SAFETY: in bounds as the caller guarantees.
                unsafe {
                    _mm256_storeu_si256(out.as_mut_ptr().add((w + i) * stride + 8 * half).cast(), lanes)
                };
            }
        }
    }
}

/// One word of each row at byte `at`; only `left` (2 or more) bytes belong to it, what is missing is 0.
pub(super) fn heads(level: Level, rows: &[&[u8]; 16], at: usize, left: usize) -> [u32; 16] {
    #[cfg(target_arch = "x86_64")]
    if left >= 4 && level.here() >= Level::Avx512 {
        assert!(rows.iter().all(|r| r.len() >= at + 4));
        // SAFETY: the CPU has the level, every row the 4 bytes.
        return unsafe { gather(rows, at) };
    }
    let mut out = [0; 16];
    if left >= 4 {
        let word = |r: &[u8]| r[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        rows.iter().zip(&mut out).for_each(|(r, out)| *out = word(r));
    } else {
        let half = |r: &[u8]| r[at..].first_chunk().map_or(0, |b| u16::from_le_bytes(*b));
        rows.iter().zip(&mut out).for_each(|(r, out)| *out = half(r).into());
    }
    let _ = level;
    out
}

/// # Safety
/// Every row has `at + 4` bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn gather(rows: &[&[u8]; 16], at: usize) -> [u32; 16] {
    use std::arch::x86_64::*;
    let mut out = [0; 16];
    let places: [u64; 16] = std::array::from_fn(|r| rows[r].as_ptr().expose_provenance() as u64);
    for half in 0..2 {
        // SAFETY: addresses of rows, whose bytes at `at` exist as the caller guarantees; 8 words of `out`.
        unsafe {
            let places = _mm512_loadu_si512(places.as_ptr().add(8 * half).cast());
            let words = _mm512_i64gather_epi32::<1>(places, std::ptr::without_provenance(at));
            _mm256_storeu_si256(out.as_mut_ptr().add(8 * half).cast(), words);
        }
    }
    out
}

/// Transposes 16 rows of f32, all of one length: `out[i * stride + row] = rows[row][i]`.
///
/// # Panics
/// If `out` is too short.
pub(crate) fn floats(level: Level, rows: &[&[f32]; 16], out: &mut [f32], stride: usize) {
    let len = rows[0].len();
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if level.here() > Level::Scalar {
        done = len / 4 * 4;
        words(level, &rows.map(as_bytes), 0, done, as_words(out), stride);
    }
    let _ = level;
    for (r, row) in rows.iter().enumerate() {
        (done..len).for_each(|i| out[i * stride + r] = row[i]);
    }
}

#[cfg(target_arch = "x86_64")]
fn as_bytes(x: &[f32]) -> &[u8] {
    // SAFETY: f32 has no padding, u8 no alignment or invalid values; same memory, same lifetime.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), size_of_val(x)) }
}

#[cfg(target_arch = "x86_64")]
fn as_words(x: &mut [f32]) -> &mut [u32] {
    // SAFETY: f32 and u32 have the same size and alignment, and every bit pattern is valid in both.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), x.len()) }
}
