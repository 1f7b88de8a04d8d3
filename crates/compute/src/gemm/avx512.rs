//! The tiled product with AVX-512 VNNI: 32 weight rows times up to 8 activation rows.
//!
//! 16 integer sums are kept in registers. A step of 4 values is 2 loads of codes, and for each activation row
//! one broadcast of 4 bytes and 2 `vpdpbusd`; the core executes two of them a cycle. Float sums are
//! kept in the first-level cache between sub-blocks, which costs no time beside the integer work.

// Loops count sub-blocks and columns and index several things by them.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::{COLUMNS, Form, Pack, TASK_ROWS, Tile};

macro_rules! vnni {
    ($($item:item)*) => { $(
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512vbmi2")]
        $item
    )* };
}

/// Float sums of 2 x 16 rows for each column.
#[repr(align(64))]
struct Sums([[f32; TASK_ROWS]; COLUMNS]);

vnni! {
    /// Adds tiles times pack to `sums` (`[8][32]`), at least for the first `used` columns.
    pub(super) fn multiply(form: Form, tiles: &[Tile; 2], pack: &Pack, used: usize, sums: &mut [f32]) {
        let Some(sums) = sums.as_chunks_mut::<TASK_ROWS>().0.first_chunk_mut::<COLUMNS>() else { return };
        match (form.sub, form.offset, form.per32) {
            (32, 0, true) => columns::<32, 0, true>(form.zero, tiles, pack, used, sums),
            (32, 32, true) => columns::<32, 32, true>(form.zero, tiles, pack, used, sums),
            (32, 0, false) => columns::<32, 0, false>(form.zero, tiles, pack, used, sums),
            (32, 32, false) => columns::<32, 32, false>(form.zero, tiles, pack, used, sums),
            (16, 0, true) => columns::<16, 0, true>(form.zero, tiles, pack, used, sums),
            (16, 0, false) => columns::<16, 0, false>(form.zero, tiles, pack, used, sums),
            (256, 0, false) => columns::<256, 0, false>(form.zero, tiles, pack, used, sums),
            (256, 16, false) => columns::<256, 16, false>(form.zero, tiles, pack, used, sums),
            _ => unreachable!("no type has this form"),
        }
    }

    #[inline]
    fn columns<const SUB: usize, const OFFSET: usize, const PER32: bool>(
        zero: i32,
        tiles: &[Tile; 2],
        pack: &Pack,
        used: usize,
        sums: &mut [[f32; TASK_ROWS]; COLUMNS],
    ) {
        match used {
            0..=2 => block::<SUB, OFFSET, PER32, 2>(zero, tiles, pack, sums),
            3..=4 => block::<SUB, OFFSET, PER32, 4>(zero, tiles, pack, sums),
            5..=6 => block::<SUB, OFFSET, PER32, 6>(zero, tiles, pack, sums),
            _ => block::<SUB, OFFSET, PER32, 8>(zero, tiles, pack, sums),
        }
    }

    fn block<const SUB: usize, const OFFSET: usize, const PER32: bool, const N: usize>(
        zero: i32,
        tiles: &[Tile; 2],
        pack: &Pack,
        sums: &mut [[f32; TASK_ROWS]; COLUMNS],
    ) {
        let subs = 256 / SUB;
        // What the integer sums begin at, and sums of activations as floats, for each sub-block.
        let mut start = [[0i32; COLUMNS]; 16];
        if zero != 0 {
            let zero = _mm256_set1_epi32(-zero);
            for (j, start) in start[..subs].iter_mut().enumerate() {
                store8(start, _mm256_mullo_epi32(zero, sum8(pack, j, SUB)));
            }
        }
        let mut weights = [[0f32; COLUMNS]; 16];
        let offsets = 256usize.checked_div(OFFSET).unwrap_or(0);
        for (j, weights) in weights[..offsets].iter_mut().enumerate() {
            let mut x = _mm256_cvtepi32_ps(sum8(pack, j, OFFSET));
            if PER32 {
                x = _mm256_mul_ps(x, load8(&pack.d[j]));
            }
            store8(weights, _mm256_castps_si256(x));
        }
        let mut local = Sums([[0.0; TASK_ROWS]; COLUMNS]);
        for j in 0..subs {
            let mut acc: [[__m512i; N]; 2] = [[_mm512_setzero_si512(); N]; 2];
            for n in 0..N {
                let start = _mm512_set1_epi32(start[j][n]);
                (acc[0][n], acc[1][n]) = (start, start);
            }
            let steps = SUB / 4;
            for step in j * steps..(j + 1) * steps {
                let (a, b) = (load(&tiles[0].codes[step]), load(&tiles[1].codes[step]));
                for n in 0..N {
                    let x = _mm512_set1_epi32(i32::from_ne_bytes(pack.codes[step][n].map(|c| c as u8)));
                    acc[0][n] = _mm512_dpbusd_epi32(acc[0][n], a, x);
                    acc[1][n] = _mm512_dpbusd_epi32(acc[1][n], b, x);
                }
            }
            for half in 0..2 {
                let scale = load_ps(&tiles[half].scale[j]);
                let offset = if OFFSET == SUB { load_ps(&tiles[half].offset[j]) } else { _mm512_setzero_ps() };
                for n in 0..N {
                    let sum = &mut local.0[n][16 * half..];
                    let scale = if PER32 { _mm512_mul_ps(scale, _mm512_set1_ps(pack.d[j * SUB / 32][n])) } else { scale };
                    let mut x = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[half][n]), scale, load_part(sum));
                    if OFFSET == SUB {
                        x = _mm512_fmadd_ps(offset, _mm512_set1_ps(weights[j][n]), x);
                    }
                    store_part(sum, x);
                }
            }
        }
        for half in 0..2 {
            for n in 0..N {
                let mut x = load_part(&local.0[n][16 * half..]);
                if OFFSET != SUB {
                    for j in 0..offsets {
                        let weight = _mm512_set1_ps(weights[j][n]);
                        x = _mm512_fmadd_ps(load_ps(&tiles[half].offset[j]), weight, x);
                    }
                }
                let sum = &mut sums[n][16 * half..];
                let d = if PER32 { _mm512_set1_ps(1.0) } else { _mm512_set1_ps(pack.d[0][n]) };
                let x = _mm512_fmadd_ps(x, d, load_part(sum));
                store_part(sum, x);
            }
        }
    }

    /// The sums of the activations over sub-block j, for 8 columns.
    #[inline]
    fn sum8(pack: &Pack, j: usize, sub: usize) -> __m256i {
        let parts = sub / 16;
        let mut sum = _mm256_setzero_si256();
        for part in &pack.sums[j * parts..(j + 1) * parts] {
            // SAFETY: 8 values.
            sum = _mm256_add_epi32(sum, unsafe { _mm256_loadu_si256(part.as_ptr().cast()) });
        }
        sum
    }

    #[inline]
    fn load8(x: &[f32; 8]) -> __m256 {
        // SAFETY: 8 values.
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    }

    #[inline]
    fn store8<T>(out: &mut [T; 8], x: __m256i) {
        const { assert!(size_of::<T>() == 4) }
        // SAFETY: 8 values of 4 bytes, i32 or f32, of which every bit pattern is valid.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) }
    }

    #[inline]
    fn load(x: &[u32; 16]) -> __m512i {
        // SAFETY: 16 values.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[inline]
    fn load_ps(x: &[f32; 16]) -> __m512 {
        // SAFETY: 16 values.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline]
    fn load_part(x: &[f32]) -> __m512 {
        assert!(x.len() >= 16);
        // SAFETY: at least 16 values.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline]
    fn store_part(out: &mut [f32], x: __m512) {
        assert!(out.len() >= 16);
        // SAFETY: at least 16 values.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) }
    }
}
