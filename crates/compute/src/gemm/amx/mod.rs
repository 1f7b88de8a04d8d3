//! The tiled product on Intel's matrix unit (AMX), which does eight times the integer work of AVX-512 VNNI.
//!
//! A step multiplies 16 activation rows by 16 weight rows over up to 64 values into exact sums of 32 bits. The unit
//! is kept busy only if a step has 64 values and sums are scaled seldom; but weights of K-quants have a scale for
//! each 16 or 32 values. Their scales are integers under one factor for 256 values, so codes are multiplied by them
//! beforehand, and the products, of up to 13 bits, cut in two planes of signed bytes:
//!
//! ```text
//! scale * (code - zero) = 128 * high + low     low in 0..=127, high in -33..=33
//! sum over 256 values   = 128 * (sum of high * x) + (sum of low * x)     exact in 32 bits
//! value                 = dx * (d * sum + dmin * sum of minima)
//! ```
//!
//! The minima are multiplied with sums of activations on the unit too, as numbers of bf16: a sum of 16 activations is a
//! multiple of 16 and a rest, each of at most 7 bits, and all products and their sums are integers that f32 holds. Types
//! with a float scale for each 16 or 32 values stay with VNNI: in steps of 32 values, after each of which sums are scaled,
//! the unit had 0.8 to 1.1 times its speed on Sapphire Rapids.
//!
//! All activations of 256 columns are multiplied with all weight rows of a task before those of the next columns are: a
//! task reads them from the third-level cache once, as slow as memory on these processors, and while they are used
//! prefetches the next ones into the second-level cache.

mod floats;
mod planes;
mod rows;
mod scale;
#[cfg(test)]
mod tests;
mod unit;

use quern_tensor_io::ElementType;

pub(crate) use floats::{FloatRows, floats, takes as takes_floats};
pub(crate) use rows::Rows;
pub(crate) use unit::available;

use super::{DEPTH, Form, Kept, TASK_ROWS, Tile, store, unpack};
use crate::Matrix;
use crate::matmul::Shared;
use crate::simd::Level;
use planes::Planes;
use rows::{Block, FIRST_LEVEL, SECOND_LEVEL, prefetch};
use unit::Hardware;

/// Activation rows of a [`Block`].
pub(crate) const BLOCK_ROWS: usize = 16;
/// From this many activation rows on, the unit is faster than vectors.
pub(crate) const FROM: usize = 16;
/// The most pairs of weight tiles of a task: the sums of some hundred activation rows stay in the second-level cache.
pub(crate) const MOST_PAIRS: usize = 6;

/// Sums of a product: four tiles of `[16 activation rows][16 weight rows]`: activation block 0 with weight tiles 0 and
/// 1, then block 1 with both.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Sums([[[i32; 16]; BLOCK_ROWS]; 4]);

impl Sums {
    const ZERO: Sums = Sums([[[0; 16]; BLOCK_ROWS]; 4]);
}

/// What multiplies: the matrix unit, or in tests its specification. Tiles of 16 rows lie 64 bytes a row, and those of one
/// step 1024 bytes behind those of the last. A product that was started is finished before another one is.
pub(super) trait Unit {
    /// Starts two blocks of activations times two weight tiles, all signed: in each step 16 rows of 64 values, and 16
    /// rows of 4 values of 16 weight rows.
    ///
    /// # Safety
    /// The memory of all steps may be read.
    unsafe fn start(&self, a: [*const i8; 2], b: [*const u8; 2], steps: usize);

    /// Sets the sums of what [`Unit::start`] started.
    ///
    /// # Safety
    /// Something was started.
    unsafe fn finish(&self, sums: &mut Sums);

    /// Starts parts of sums of activations times minima: a step of 32 values of bf16.
    ///
    /// # Safety
    /// The memory of the step may be read.
    unsafe fn start_minima(&self, parts: *const u8, minima: [*const u8; 2]);

    /// Sets what [`Unit::start_minima`] started.
    ///
    /// # Safety
    /// That was started.
    unsafe fn finish_minima(&self, minima: &mut [[[f32; 16]; BLOCK_ROWS]; 2]);

    /// Starts a block of activations times the low planes of two weight tiles, and times the high ones: four steps of 64
    /// values, all signed. [`Unit::finish`] sets it.
    ///
    /// # Safety
    /// The memory of all steps may be read.
    unsafe fn start_planes(&self, a: *const i8, planes: [[*const u8; 2]; 2]);

    /// Adds two blocks of activations, each in three parts of bf16, times two weight tiles in `parts` parts, of 32 values a
    /// step and 8 steps a part: the products of part i and part j with i + j below 3. Sums of a block are 16 rows of 32.
    ///
    /// # Safety
    /// The memory of all steps may be read, that of the sums read and written.
    unsafe fn add_product_of_floats(
        &self,
        a: [*const u8; 2],
        b: [*const u8; 2],
        steps_and_parts: (usize, usize),
        sums: [*mut f32; 2],
    );
}

/// How a type is multiplied on the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Codes under one scale for 256 values: a plane.
    Whole { minima: bool },
    /// Codes under integer scales: two planes.
    Split { minima: bool },
}

impl Kind {
    /// None for types whose scales are floats for fewer values.
    pub fn of(form: Form) -> Option<Self> {
        match (form.sub, form.per32) {
            (256, false) => Some(Self::Whole { minima: form.offset != 0 }),
            (16 | 32, false) => Some(Self::Split { minima: form.offset != 0 }),
            _ => None,
        }
    }
}

/// Whether `n` activation rows and weights of this type are multiplied on the unit.
pub(crate) fn takes(level: Level, element_type: ElementType, n: usize) -> bool {
    level == Level::Amx && n >= FROM && Form::of(element_type).and_then(Kind::of).is_some()
}

/// Multiplies `pairs` times 32 weight rows from `first` on (or as many as there are) with all activations. `y` is the
/// output `[n][rows]`; only these rows are written.
///
/// # Safety
/// Nobody else uses these rows of `y`.
pub(crate) unsafe fn blocks(
    level: Level,
    w: &Matrix,
    first: usize,
    pairs: usize,
    rows: &Rows,
    n: usize,
    y: &Shared,
) {
    let Some(form) = Form::of(w.element_type()) else { return };
    let Some(kind) = Kind::of(form) else { return };
    let Some(unit) = Hardware::new() else { return };
    // SAFETY: guaranteed by the caller.
    unsafe { blocks_on(&unit, level, (form, kind), w, (first, pairs), rows, n, y) };
}

/// The same on any unit.
///
/// # Safety
/// Nobody else uses these rows of `y`.
#[allow(clippy::too_many_arguments)]
unsafe fn blocks_on<U: Unit>(
    unit: &U,
    level: Level,
    (form, kind): (Form, Kind),
    w: &Matrix,
    (first, pairs): (usize, usize),
    rows: &Rows,
    n: usize,
    y: &Shared,
) {
    let pairs = pairs.min((w.rows() - first).div_ceil(TASK_ROWS));
    let mut raw = unpack::Raw::ZERO;
    let mut tile = Tile::ZERO;
    let mut weights = [Planes::ZERO; 2];
    let mut kept = Kept::take();
    let size = n.next_multiple_of(BLOCK_ROWS) * TASK_ROWS;
    // Set by the first depth.
    let sums = kept.unset_sums(pairs * size);
    for depth in 0..w.columns().div_ceil(DEPTH) {
        for (pair, sums) in sums.chunks_exact_mut(size).enumerate() {
            for (half, planes) in weights.iter_mut().enumerate() {
                let row = first + pair * TASK_ROWS + 16 * half;
                unpack::tile(level, w, row, depth, &mut raw, &mut tile);
                planes.fill(level, form, kind, &tile);
            }
            let next = rows.blocks(depth + 1);
            let next = &next[next.len() * pair / pairs..next.len() * (pair + 1) / pairs];
            let work = Work { first: depth == 0, weights: &weights, blocks: rows.blocks(depth), next };
            match kind {
                Kind::Whole { minima } => whole(unit, level, minima, work, sums),
                Kind::Split { minima: true } => split::<U, true>(unit, level, work, sums),
                Kind::Split { minima: false } => split::<U, false>(unit, level, work, sums),
            }
        }
    }
    for (i, sums) in sums.chunks_exact(size).enumerate() {
        // SAFETY: guaranteed by the caller.
        unsafe { store(w, first + i * TASK_ROWS, sums, n, y) };
    }
}

/// A pair of weight tiles and all activations of 256 columns.
#[derive(Clone, Copy)]
struct Work<'a> {
    /// Whether these are the first columns, so that sums are set.
    first: bool,
    weights: &'a [Planes; 2],
    blocks: &'a [Block],
    /// Activations of the next columns that are to be prefetched meanwhile.
    next: &'a [Block],
}

/// Adds all activations times a pair of weight tiles to `sums` (`[activation rows][32]`), with one scale for 256 values
/// and two planes. While vectors scale one product the unit computes the next.
fn split<U: Unit, const MINIMA: bool>(unit: &U, level: Level, work: Work<'_>, sums: &mut [f32]) {
    let Work { first, weights, blocks, next } = work;
    let (mut planes, mut minima) = (Sums::ZERO, [[[0.0; 16]; BLOCK_ROWS]; 2]);
    let start = |block: &Block| {
        let low = weights.each_ref().map(|w| w.low.as_ptr().cast());
        let high = weights.each_ref().map(|w| w.high.as_ptr().cast());
        // SAFETY: four steps of codes, one of parts and minima, as the fields' types say.
        unsafe {
            unit.start_planes(block.codes.as_ptr().cast(), [low, high]);
            if MINIMA {
                let minima = weights.each_ref().map(|w| w.minima.as_ptr().cast());
                unit.start_minima(block.parts.as_ptr().cast(), minima);
            }
        }
    };
    let finish = |planes: &mut Sums, minima: &mut [_; 2]| {
        // SAFETY: it was started.
        unsafe {
            unit.finish(planes);
            if MINIMA {
                unit.finish_minima(minima);
            }
        }
    };
    let Some(block) = blocks.first() else { return };
    start(block);
    finish(&mut planes, &mut minima);
    for (i, sums) in sums.chunks_mut(BLOCK_ROWS * TASK_ROWS).enumerate() {
        let following = blocks.get(i + 1);
        if let Some(following) = following {
            start(following);
        }
        prefetch::<FIRST_LEVEL, _>(blocks.get(i + 2..i + 3).unwrap_or_default(), 0, 1);
        prefetch::<SECOND_LEVEL, _>(next, i, blocks.len());
        let exact = scale::Exact {
            low: &planes.0[..2],
            high: Some(&planes.0[2..]),
            minima: MINIMA.then_some(&minima[..]),
        };
        scale::of256(level, first, weights, &blocks[i], exact, sums);
        if following.is_some() {
            finish(&mut planes, &mut minima);
        }
    }
}

/// The same with one plane.
fn whole<U: Unit>(unit: &U, level: Level, minima: bool, work: Work<'_>, sums: &mut [f32]) {
    let Work { first, weights, blocks, next } = work;
    let mut codes = Sums::ZERO;
    let mut of_minima = [[[[0.0; 16]; BLOCK_ROWS]; 2]; 2];
    let steps = blocks.len().div_ceil(2);
    for (step, sums) in sums.chunks_mut(2 * BLOCK_ROWS * TASK_ROWS).enumerate() {
        prefetch::<SECOND_LEVEL, _>(next, step, steps);
        let blocks = &blocks[2 * step..blocks.len().min(2 * step + 2)];
        let low = weights.each_ref().map(|w| w.low.as_ptr().cast());
        let a = [&blocks[0], &blocks[blocks.len() - 1]].map(|block| block.codes.as_ptr().cast());
        // SAFETY: four steps of codes, one of parts and minima, as the fields' types say.
        unsafe {
            unit.start(a, low, 4);
            unit.finish(&mut codes);
            for (block, products) in blocks.iter().zip(&mut of_minima).filter(|_| minima) {
                let minima = weights.each_ref().map(|w| w.minima.as_ptr().cast());
                unit.start_minima(block.parts.as_ptr().cast(), minima);
                unit.finish_minima(products);
            }
        }
        for (i, (block, sums)) in blocks.iter().zip(sums.chunks_mut(BLOCK_ROWS * TASK_ROWS)).enumerate() {
            let exact = scale::Exact {
                low: &codes.0[2 * i..2 * i + 2],
                high: None,
                minima: minima.then_some(&of_minima[i][..]),
            };
            scale::of256(level, first, weights, block, exact, sums);
        }
    }
}
