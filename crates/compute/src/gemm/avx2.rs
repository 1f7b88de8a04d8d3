//! The tiled product with AVX2: 16 weight rows times 4 activation rows at a time.
//!
//! Codes below 128 are multiplied by `vpmaddubsw`, whose pairs of products then fit 16 bits. Larger ones
//! would saturate, so they are split into even and odd bytes, widened, and multiplied by `vpmaddwd`.

use std::arch::x86_64::*;

use super::{COLUMNS, Form, Pack, TASK_ROWS, Tile};

/// Activation rows in registers.
const N: usize = 4;

/// Adds tiles times pack to `sums` (`[8][32]`), at least for the first `used` columns.
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn multiply(form: Form, tiles: &[Tile; 2], pack: &Pack, used: usize, sums: &mut [f32]) {
    for first in (0..used).step_by(N) {
        for (half, tile) in tiles.iter().enumerate() {
            let sums = &mut sums[first * TASK_ROWS + 16 * half..];
            if form.zero < 100 {
                block::<true>(form, tile, pack, first, sums);
            } else {
                block::<false>(form, tile, pack, first, sums);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
fn block<const SMALL: bool>(form: Form, tile: &Tile, pack: &Pack, first: usize, sums: &mut [f32]) {
    assert!(first + N <= COLUMNS && sums.len() >= (N - 1) * TASK_ROWS + 16);
    let mut local = [[_mm256_setzero_ps(); 2]; N];
    let subs = 256 / form.sub;
    for j in 0..subs {
        let mut acc: [[__m256i; 2]; N] = [[_mm256_setzero_si256(); 2]; N];
        for (n, acc) in acc.iter_mut().enumerate() {
            *acc = [_mm256_set1_epi32(-form.zero * sum(pack, j, form.sub, first + n)); 2];
        }
        let steps = form.sub / 4;
        for step in j * steps..(j + 1) * steps {
            // SAFETY: 16 words of codes.
            let w: [__m256i; 2] =
                unsafe { [0, 8].map(|i| _mm256_loadu_si256(tile.codes[step].as_ptr().add(i).cast())) };
            for (n, acc) in acc.iter_mut().enumerate() {
                let x = pack.codes[step][first + n].map(|c| c as u8);
                let x = _mm256_set1_epi32(i32::from_ne_bytes(x));
                for (w, acc) in w.into_iter().zip(acc) {
                    *acc = _mm256_add_epi32(*acc, dot::<SMALL>(w, x));
                }
            }
        }
        for (n, local) in local.iter_mut().enumerate() {
            let d = if form.per32 { pack.d[j * form.sub / 32][first + n] } else { 1.0 };
            for (i, x) in local.iter_mut().enumerate() {
                let scale = _mm256_mul_ps(load(&tile.scale[j], i), _mm256_set1_ps(d));
                *x = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[n][i]), scale, *x);
            }
        }
    }
    for j in 0..256usize.checked_div(form.offset).unwrap_or(0) {
        for (n, local) in local.iter_mut().enumerate() {
            let d = if form.per32 { pack.d[j][first + n] } else { 1.0 };
            let weight = _mm256_set1_ps(sum(pack, j, form.offset, first + n) as f32 * d);
            for (i, x) in local.iter_mut().enumerate() {
                *x = _mm256_fmadd_ps(load(&tile.offset[j], i), weight, *x);
            }
        }
    }
    for (n, local) in local.into_iter().enumerate() {
        let d = if form.per32 { 1.0 } else { pack.d[0][first + n] };
        for (i, x) in local.into_iter().enumerate() {
            // SAFETY: 8 sums, checked above.
            unsafe {
                let sum = sums.as_mut_ptr().add(n * TASK_ROWS + 8 * i);
                _mm256_storeu_ps(sum, _mm256_fmadd_ps(x, _mm256_set1_ps(d), _mm256_loadu_ps(sum)));
            }
        }
    }
}

/// Four products each, added up.
#[inline]
#[target_feature(enable = "avx2")]
fn dot<const SMALL: bool>(w: __m256i, x: __m256i) -> __m256i {
    if SMALL {
        return _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1));
    }
    let even_w = _mm256_and_si256(w, _mm256_set1_epi16(255));
    let even_x = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
    let (odd_w, odd_x) = (_mm256_srli_epi16::<8>(w), _mm256_srai_epi16::<8>(x));
    _mm256_add_epi32(_mm256_madd_epi16(even_w, even_x), _mm256_madd_epi16(odd_w, odd_x))
}

/// The sum of the activations of column `n` over sub-block `j`.
#[inline]
fn sum(pack: &Pack, j: usize, sub: usize, n: usize) -> i32 {
    let parts = sub / 16;
    pack.sums[j * parts..(j + 1) * parts].iter().map(|s| s[n]).sum()
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(x: &[f32; 16], half: usize) -> __m256 {
    // SAFETY: half of 16 values.
    unsafe { _mm256_loadu_ps(x[8 * half..8 * half + 8].as_ptr()) }
}
