//! The tiled product with AVX2: 16 weight rows times 4 activation rows at a time.
//!
//! `vpmaddubsw` multiplies 32 bytes and adds them up in pairs, in 16 bits. The sums of several steps fit those if codes
//! are small ([`Form::largest`]): of four bits, those of 8 steps do (16 products of at most 15 * 127), so that
//! `vpmaddwd`, which widens them, and the addition in 32 bits are needed once for a sub-block of 32 values. Of codes
//! above 128 not even two products fit, so these codes are widened and multiplied by `vpmaddwd`. (Signed values, with
//! `vpsignb` to move their signs to the activations, took longer: on Zen 4 that shares the multipliers' ports.)
//!
//! A register is 8 weight rows, 4 values each. 16 sums would fill all registers, so 8 are kept, and the float
//! sums in the first-level cache between sub-blocks.

// Loops count sub-blocks, rows and columns and index several things by them.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

mod vnni;

use super::{COLUMNS, DEPTH, Form, Pack, TASK_ROWS, Tile};

/// Activation rows in registers.
const N: usize = 4;
/// Registers of 8 weight rows: a tile's.
const R: usize = 2;

/// Integer sums: columns, rows.
type Integers = [[__m256i; R]; N];

/// What a sub-block's codes add up to.
trait Dot {
    /// A pack's activations, as they are multiplied.
    type Columns<'a>;

    /// Brings them into that form.
    ///
    /// # Safety
    /// The CPU has the level.
    unsafe fn columns(pack: &Pack) -> Self::Columns<'_>;

    /// Adds the products of `STEPS` steps from `step` on to `acc`.
    ///
    /// # Safety
    /// The CPU has the level; `first + N` is at most [`COLUMNS`], and the steps are a tile's.
    unsafe fn add<const STEPS: usize>(
        acc: &mut Integers,
        tile: &Tile,
        x: &Self::Columns<'_>,
        first: usize,
        step: usize,
    );
}

/// Codes that are small enough for `SUM` steps to be added up in 16 bits.
struct Small<const SUM: usize>;

/// Any codes.
struct Large;

/// # Safety
/// The CPU has AVX2, and `step` is of a tile.
#[inline(always)]
unsafe fn codes(tile: &Tile, step: usize) -> [__m256i; R] {
    let p = tile.codes.as_ptr().wrapping_add(step).cast::<__m256i>();
    // SAFETY: 16 words of codes.
    unsafe { [_mm256_load_si256(p), _mm256_load_si256(p.add(1))] }
}

/// # Safety
/// The CPU has AVX2, and the word is readable.
#[inline(always)]
unsafe fn broadcast(word: *const i32) -> __m256i {
    // SAFETY: guaranteed by the caller.
    unsafe { _mm256_set1_epi32(word.read()) }
}

/// # Safety
/// The CPU has AVX2, `step` is of a pack and `column` one of its columns.
#[inline(always)]
unsafe fn activations(pack: &Pack, step: usize, column: usize) -> __m256i {
    // SAFETY: a step's codes are 8 words.
    unsafe { broadcast(pack.codes.as_ptr().add(step).cast::<i32>().add(column)) }
}

/// Sums as they are, in registers: left to itself the compiler unrolls steps, adds each sum up as a tree, one sum after
/// the other, and spills the codes of all steps.
#[inline]
#[target_feature(enable = "avx2")]
fn keep(x: &mut Integers) {
    for n in 0..N {
        for r in 0..R {
            // SAFETY: there is no instruction in it.
            unsafe {
                std::arch::asm!("/* {0} */", inout(ymm_reg) x[n][r], options(nomem, nostack, preserves_flags))
            };
        }
    }
}

impl<const SUM: usize> Dot for Small<SUM> {
    type Columns<'a> = &'a Pack;

    #[inline(always)]
    unsafe fn columns(pack: &Pack) -> &Pack {
        pack
    }

    #[inline(always)]
    unsafe fn add<const STEPS: usize>(acc: &mut Integers, tile: &Tile, x: &&Pack, first: usize, step: usize) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            for step in (step..step + STEPS).step_by(SUM) {
                let mut sums = [[_mm256_setzero_si256(); R]; N];
                for i in 0..SUM {
                    let w = codes(tile, step + i);
                    for n in 0..N {
                        let x = activations(x, step + i, first + n);
                        for r in 0..R {
                            let products = _mm256_maddubs_epi16(w[r], x);
                            sums[n][r] =
                                if i == 0 { products } else { _mm256_add_epi16(sums[n][r], products) };
                        }
                    }
                    keep(&mut sums);
                }
                for n in 0..N {
                    for r in 0..R {
                        let sum = _mm256_madd_epi16(sums[n][r], _mm256_set1_epi16(1));
                        acc[n][r] = _mm256_add_epi32(acc[n][r], sum);
                    }
                }
            }
        }
    }
}

/// A pack's activations as 16 bits: columns, of each step the first and the third value, then the second and the fourth.
#[repr(align(64))]
struct Wide([[[i32; COLUMNS]; 2]; DEPTH / 4]);

impl Dot for Large {
    type Columns<'a> = Wide;

    #[inline(always)]
    unsafe fn columns(pack: &Pack) -> Wide {
        let mut wide = Wide([[[0; COLUMNS]; 2]; DEPTH / 4]);
        for (out, x) in wide.0.iter_mut().zip(&pack.codes) {
            // SAFETY: 32 bytes each.
            unsafe {
                let x = _mm256_load_si256(x.as_ptr().cast());
                let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
                _mm256_store_si256(out[0].as_mut_ptr().cast(), even);
                _mm256_store_si256(out[1].as_mut_ptr().cast(), _mm256_srai_epi16::<8>(x));
            }
        }
        wide
    }

    #[inline(always)]
    unsafe fn add<const STEPS: usize>(acc: &mut Integers, tile: &Tile, x: &Wide, first: usize, step: usize) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            for step in step..step + STEPS {
                let w = codes(tile, step);
                for part in 0..2 {
                    let mut half = w;
                    for r in 0..R {
                        half[r] = match part {
                            0 => _mm256_and_si256(w[r], _mm256_set1_epi16(255)),
                            _ => _mm256_srli_epi16::<8>(w[r]),
                        };
                    }
                    for n in 0..N {
                        let x =
                            broadcast(x.0.as_ptr().add(step).cast::<i32>().add(COLUMNS * part + first + n));
                        for r in 0..R {
                            acc[n][r] = _mm256_add_epi32(acc[n][r], _mm256_madd_epi16(half[r], x));
                        }
                    }
                }
                keep(acc);
            }
        }
    }
}

/// What depends on the activations alone, for each sub-block.
struct Starts {
    /// What the integer sums begin at.
    integers: [[i32; COLUMNS]; 16],
    /// What offsets are multiplied with.
    weights: [[f32; COLUMNS]; 16],
}

impl Starts {
    #[inline(always)]
    fn of<const SUB: usize, const OFFSET: usize, const PER32: bool>(zero: i32, pack: &Pack) -> Self {
        let mut starts = Self { integers: [[0; COLUMNS]; 16], weights: [[0.0; COLUMNS]; 16] };
        let sum = |j: usize, sub: usize, n: usize| -> i32 {
            pack.sums[j * sub / 16..(j + 1) * sub / 16].iter().map(|s| s[n]).sum()
        };
        for j in 0..DEPTH / SUB {
            for n in 0..COLUMNS {
                starts.integers[j][n] = -zero * sum(j, SUB, n);
            }
        }
        for j in 0..DEPTH.checked_div(OFFSET).unwrap_or(0) {
            for n in 0..COLUMNS {
                let d = if PER32 { pack.d[j][n] } else { 1.0 };
                starts.weights[j][n] = sum(j, OFFSET, n) as f32 * d;
            }
        }
        starts
    }
}

/// Float sums: columns, rows.
#[repr(align(64))]
struct Sums([[[f32; 8]; R]; N]);

/// A tile times `N` columns of a pack, from `first` on, added to `sums` (`[N][TASK_ROWS]`, of which 16 rows count).
///
/// # Safety
/// The CPU has the level that `D` is of.
#[inline(always)]
unsafe fn block<D: Dot, const SUB: usize, const OFFSET: usize, const PER32: bool>(
    starts: &Starts,
    tile: &Tile,
    (pack, x): (&Pack, &D::Columns<'_>),
    first: usize,
    sums: &mut [f32],
) {
    assert!(first + N <= COLUMNS && sums.len() >= (N - 1) * TASK_ROWS + 8 * R);
    let mut local = Sums([[[0.0; 8]; R]; N]);
    // SAFETY: the CPU has the level; steps, columns and rows are those of a tile, a pack and of `sums`, as asserted.
    unsafe {
        let row = |x: &[f32; 16], r: usize| _mm256_load_ps(x.as_ptr().add(8 * r));
        for j in 0..DEPTH / SUB {
            let mut acc: Integers = [[_mm256_setzero_si256(); R]; N];
            if OFFSET == 0 {
                for n in 0..N {
                    acc[n] = [_mm256_set1_epi32(starts.integers[j][first + n]); R];
                }
            }
            match SUB {
                16 => D::add::<4>(&mut acc, tile, x, first, 4 * j),
                32 => D::add::<8>(&mut acc, tile, x, first, 8 * j),
                _ => (0..DEPTH / 4).step_by(8).for_each(|step| D::add::<8>(&mut acc, tile, x, first, step)),
            }
            for n in 0..N {
                let d = _mm256_set1_ps(if PER32 { pack.d[j * SUB / 32][first + n] } else { 1.0 });
                let weight = _mm256_set1_ps(starts.weights[j][first + n]);
                for r in 0..R {
                    let scale = row(&tile.scale[j], r);
                    let scale = if PER32 { _mm256_mul_ps(scale, d) } else { scale };
                    let sum = &mut local.0[n][r];
                    let mut x =
                        _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[n][r]), scale, _mm256_load_ps(sum.as_ptr()));
                    if OFFSET == SUB {
                        x = _mm256_fmadd_ps(row(&tile.offset[j], r), weight, x);
                    }
                    _mm256_store_ps(sum.as_mut_ptr(), x);
                }
            }
        }
        for n in 0..N {
            let d = _mm256_set1_ps(if PER32 { 1.0 } else { pack.d[0][first + n] });
            for r in 0..R {
                let mut x = _mm256_load_ps(local.0[n][r].as_ptr());
                if OFFSET != SUB {
                    for j in 0..DEPTH.checked_div(OFFSET).unwrap_or(0) {
                        let weight = _mm256_set1_ps(starts.weights[j][first + n]);
                        x = _mm256_fmadd_ps(row(&tile.offset[j], r), weight, x);
                    }
                }
                let sum = sums.as_mut_ptr().add(n * TASK_ROWS + 8 * r);
                _mm256_storeu_ps(sum, _mm256_fmadd_ps(x, d, _mm256_loadu_ps(sum)));
            }
        }
    }
}

/// All blocks of two tiles and a pack.
///
/// # Safety
/// The CPU has the level that `D` is of.
#[inline(always)]
unsafe fn tiles<D: Dot, const SUB: usize, const OFFSET: usize, const PER32: bool>(
    form: Form,
    tiles: &[Tile; 2],
    pack: &Pack,
    used: usize,
    sums: &mut [f32],
) {
    let starts = Starts::of::<SUB, OFFSET, PER32>(form.zero, pack);
    // SAFETY: guaranteed by the caller.
    let x = unsafe { D::columns(pack) };
    for (half, tile) in tiles.iter().enumerate() {
        for first in (0..used).step_by(N) {
            let sums = &mut sums[first * TASK_ROWS + 16 * half..];
            // SAFETY: guaranteed by the caller.
            unsafe { block::<D, SUB, OFFSET, PER32>(&starts, tile, (pack, &x), first, sums) };
        }
    }
}

/// Adds tiles times pack to `sums` (`[8][32]`), at least for the first `used` columns.
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn multiply(form: Form, tiles: &[Tile; 2], pack: &Pack, used: usize, sums: &mut [f32]) {
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
    fn run<D: Dot, const SUB: usize, const OFFSET: usize, const PER32: bool>(
        form: Form,
        tiles: &[Tile; 2],
        pack: &Pack,
        used: usize,
        sums: &mut [f32],
    ) {
        // SAFETY: the CPU has AVX2.
        unsafe { self::tiles::<D, SUB, OFFSET, PER32>(form, tiles, pack, used, sums) }
    }
    let steps = match i16::MAX as i32 / (2 * 127 * form.largest) {
        8.. => 8,
        4.. => 4,
        steps => steps,
    };
    let run = match (form.sub, form.offset, form.per32, steps) {
        (32, 0, true, 8) => run::<Small<8>, 32, 0, true>,
        (32, 0, true, 4) => run::<Small<4>, 32, 0, true>,
        (32, 0, true, _) => run::<Large, 32, 0, true>,
        (32, 32, true, 8) => run::<Small<8>, 32, 32, true>,
        (32, 32, true, 4) => run::<Small<4>, 32, 32, true>,
        (32, 32, false, 8) => run::<Small<8>, 32, 32, false>,
        (32, 32, false, 4) => run::<Small<4>, 32, 32, false>,
        (32, 0, false, 4 | 8) => run::<Small<4>, 32, 0, false>,
        (32, 0, false, 1..4) => run::<Small<1>, 32, 0, false>,
        (32, 0, false, _) => run::<Large, 32, 0, false>,
        (16, 0, true, 4 | 8) => run::<Small<4>, 16, 0, true>,
        (16, 0, false, 4 | 8) => run::<Small<4>, 16, 0, false>,
        (16, 0, false, 2..4) => run::<Small<2>, 16, 0, false>,
        (16, 0, false, 1) => run::<Small<1>, 16, 0, false>,
        (256, 16, false, 2..) => run::<Small<2>, 256, 16, false>,
        (256, 0, false, 8) => run::<Small<8>, 256, 0, false>,
        (256, 0, false, _) => run::<Large, 256, 0, false>,
        _ => unreachable!("no type has this form"),
    };
    run(form, tiles, pack, used, sums);
}

/// The same with AVX-VNNI.
///
/// # Safety
/// The CPU has [`Level::AvxVnni`](crate::simd::Level::AvxVnni).
pub(super) unsafe fn multiply_vnni(
    form: Form,
    tiles: &[Tile; 2],
    pack: &Pack,
    used: usize,
    sums: &mut [f32],
) {
    #[cfg(test)]
    if !std::arch::is_x86_feature_detected!("avxvnni") {
        // SAFETY: where tests take the level for one the CPU has, it has the instruction in either form.
        return unsafe { vnni::evex::multiply(form, tiles, pack, used, sums) };
    }
    // SAFETY: guaranteed by the caller.
    unsafe { vnni::multiply(form, tiles, pack, used, sums) }
}
