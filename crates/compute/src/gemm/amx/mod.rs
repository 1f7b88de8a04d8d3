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
//! The minima are multiplied with sums of activations on the unit too: a sum of 16 activations is `4 (a + b + c + d) +
//! rest` with four signed bytes and a rest of -3 to 3. Types with a float scale for each 32 values are multiplied in
//! steps of 32 values, after each of which sums are scaled: half the unit's speed.

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

use super::{DEPTH, Form, TASK_ROWS, Tile, store, unpack};
use crate::matmul::Shared;
use crate::simd::Level;
use crate::Matrix;
use floats::FloatSums;
use planes::Planes;
use rows::Block;
use unit::Hardware;

/// Activation rows of a [`Block`].
pub(crate) const BLOCK_ROWS: usize = 16;
/// From this many activation rows on, the unit is faster than vectors.
pub(crate) const FROM: usize = 16;

/// Sums of a product: four tiles of `[16 activation rows][16 weight rows]`: activation block 0 with weight tiles 0 and
/// 1, then block 1 with both.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Sums([[[i32; 16]; BLOCK_ROWS]; 4]);

impl Sums {
    const ZERO: Sums = Sums([[[0; 16]; BLOCK_ROWS]; 4]);
}

/// What multiplies: the matrix unit, or in tests its specification.
pub(super) trait Unit {
    /// Sets `sums` to activations times weights: for each step and each of the one or two `a`, a tile of 16 rows of the
    /// configured depth, 64 bytes apart, signed, and for each `b` a tile of depth / 4 rows of 64 bytes, 4 values of 16
    /// weight rows, signed or not. After a step, `a` advances by `a_step` bytes, `b` by `b_step`. With one `a` only the
    /// first two tiles of sums are set.
    ///
    /// # Safety
    /// The memory of all steps may be read.
    unsafe fn product<const SIGNED: bool>(
        &self,
        a: &[*const i8],
        b: [*const u8; 2],
        steps: usize,
        a_step: usize,
        b_step: usize,
        sums: &mut Sums,
    );

    /// Sets `sums` to one activation block times the low planes of two weight tiles, then times the high ones: four steps
    /// of 64 values, 1024 bytes each, all signed.
    ///
    /// # Safety
    /// The memory of all steps may be read.
    unsafe fn product_of_planes(&self, a: *const i8, planes: [[*const u8; 2]; 2], sums: &mut Sums);

    /// As [`Unit::product`] for pairs of bf16, 32 in a row of a tile of activations, with sums in f32. Each step says where its tiles
    /// begin: bytes from `a`, bytes from `b`.
    ///
    /// # Safety
    /// The memory of all steps may be read.
    unsafe fn product_of_floats(
        &self,
        a: &[*const u8],
        b: [*const u8; 2],
        steps: &[[usize; 2]],
        sums: &mut FloatSums,
    );
}

/// How a type is multiplied on the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Codes under one scale for 256 values: a plane.
    Whole { minima: bool },
    /// Codes under integer scales: two planes.
    Split { minima: bool },
    /// Float scales for 32 values, perhaps offsets.
    Of32 { offsets: bool },
}

impl Kind {
    /// None for types whose scales are floats for 16 values.
    pub fn of(form: Form) -> Option<Self> {
        match (form.sub, form.per32) {
            (256, false) => Some(Self::Whole { minima: form.offset != 0 }),
            (16 | 32, false) => Some(Self::Split { minima: form.offset != 0 }),
            (32, true) => Some(Self::Of32 { offsets: form.offset != 0 }),
            _ => None,
        }
    }

    /// Values of a step.
    fn depth(self) -> usize {
        if matches!(self, Self::Of32 { .. }) { 32 } else { 64 }
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
    let Some(unit) = Hardware::new(kind.depth()) else { return };
    // SAFETY: guaranteed by the caller.
    unsafe { blocks_on(&unit, level, (form, kind), w, (first, pairs), rows, n, y) };
}

/// The same on any unit, which is configured for the kind's depth.
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
    let mut weights = vec![[Planes::ZERO; 2]; pairs];
    let size = n.next_multiple_of(BLOCK_ROWS) * TASK_ROWS;
    let mut sums = vec![0f32; pairs * size];
    for depth in 0..w.columns().div_ceil(DEPTH) {
        for (i, planes) in weights.as_flattened_mut().iter_mut().enumerate() {
            unpack::tile(level, w, first + 16 * i, depth, &mut raw, &mut tile);
            planes.fill(level, form, kind, &tile);
        }
        let blocks = rows.blocks(depth);
        for (weights, sums) in weights.iter().zip(sums.chunks_exact_mut(size)) {
            match kind {
                Kind::Whole { minima } => whole(unit, level, minima, weights, blocks, sums),
                Kind::Split { minima } => split(unit, level, minima, weights, blocks, sums),
                Kind::Of32 { offsets } => of32(unit, level, offsets, weights, blocks, sums),
            }
        }
    }
    for (i, sums) in sums.chunks_exact(size).enumerate() {
        // SAFETY: guaranteed by the caller.
        unsafe { store(w, first + i * TASK_ROWS, sums, n, y) };
    }
}

/// Products of 16 activation rows and a depth before they are scaled: of low planes, then high ones; of minima.
struct Products {
    planes: Sums,
    minima: Sums,
}

/// Adds all activations times a pair of weight tiles to `sums` (`[activation rows][32]`), with one scale for 256 values
/// and two planes.
fn split<U: Unit>(
    unit: &U,
    level: Level,
    minima: bool,
    weights: &[Planes; 2],
    blocks: &[Block],
    sums: &mut [f32],
) {
    const ZERO: Products = Products { planes: Sums::ZERO, minima: Sums::ZERO };
    // Two sets: the vectors scale one while the unit fills the other.
    let mut products = [ZERO; 2];
    let fill = |products: &mut Products, block: &Block| {
        let low = weights.each_ref().map(|w| w.low.as_ptr().cast());
        let high = weights.each_ref().map(|w| w.high.as_ptr().cast());
        // SAFETY: four steps of codes, two of parts and minima, as the fields' types say.
        unsafe {
            unit.product_of_planes(block.codes.as_ptr().cast(), [low, high], &mut products.planes);
            if minima {
                let minima = weights.each_ref().map(|w| w.minima.as_ptr().cast());
                let parts = [block.parts.as_ptr().cast()];
                unit.product::<false>(&parts, minima, 2, 1024, 1024, &mut products.minima);
            }
        }
    };
    if let Some(first) = blocks.first() {
        fill(&mut products[0], first);
    }
    for (i, sums) in sums.chunks_mut(BLOCK_ROWS * TASK_ROWS).enumerate() {
        if let Some(next) = blocks.get(i + 1) {
            if let Some(one_after) = blocks.get(i + 2) {
                one_after.prefetch();
            }
            fill(&mut products[(i + 1) % 2], next);
        }
        let Products { planes, minima: of_minima } = &products[i % 2];
        let exact = scale::Exact {
            low: &planes.0[..2],
            high: Some(&planes.0[2..]),
            minima: minima.then_some(&of_minima.0[..2]),
        };
        scale::of256(level, weights, &blocks[i], exact, sums);
    }
}

/// The same with one plane.
fn whole<U: Unit>(
    unit: &U,
    level: Level,
    minima: bool,
    weights: &[Planes; 2],
    blocks: &[Block],
    sums: &mut [f32],
) {
    let (mut codes, mut of_minima) = (Sums::ZERO, Sums::ZERO);
    for (blocks, sums) in blocks.chunks(2).zip(sums.chunks_mut(2 * BLOCK_ROWS * TASK_ROWS)) {
        let low = weights.each_ref().map(|w| w.low.as_ptr().cast());
        let start = |at: fn(&Block) -> *const i8| [at(&blocks[0]), at(&blocks[blocks.len() - 1])];
        let a = start(|b| b.codes.as_ptr().cast());
        // SAFETY: four steps of codes, two of parts and minima, as the fields' types say.
        unsafe {
            unit.product::<true>(&a[..blocks.len()], low, 4, 1024, 1024, &mut codes);
            if minima {
                let minima = weights.each_ref().map(|w| w.minima.as_ptr().cast());
                let parts = start(|b| b.parts.as_ptr().cast());
                unit.product::<false>(&parts[..blocks.len()], minima, 2, 1024, 1024, &mut of_minima);
            }
        }
        for (i, (block, sums)) in blocks.iter().zip(sums.chunks_mut(BLOCK_ROWS * TASK_ROWS)).enumerate() {
            let tiles = 2 * i..2 * i + 2;
            let exact = scale::Exact {
                low: &codes.0[tiles.clone()],
                high: None,
                minima: minima.then_some(&of_minima.0[tiles]),
            };
            scale::of256(level, weights, block, exact, sums);
        }
    }
}

/// The same with a scale for each 32 values.
fn of32<U: Unit>(
    unit: &U,
    level: Level,
    offsets: bool,
    weights: &[Planes; 2],
    blocks: &[Block],
    sums: &mut [f32],
) {
    let mut exact = [Sums::ZERO, Sums::ZERO];
    for (blocks, sums) in blocks.chunks(2).zip(sums.chunks_mut(2 * BLOCK_ROWS * TASK_ROWS)) {
        let fill = |j: usize, exact: &mut Sums| {
            // Half of a row of 64 values, and 8 of 64 steps of 4 values.
            let at = |b: &Block| b.codes[j / 2].as_ptr().cast::<i8>().wrapping_add(j % 2 * 32);
            let a = [at(&blocks[0]), at(&blocks[blocks.len() - 1])];
            let b = [0, 1].map(|half: usize| weights[half].low[8 * j..].as_ptr().cast());
            // SAFETY: one step, as the fields' types say.
            unsafe { unit.product::<true>(&a[..blocks.len()], b, 1, 0, 0, exact) };
        };
        fill(0, &mut exact[0]);
        for j in 0..8 {
            if j < 7 {
                fill(j + 1, &mut exact[(j + 1) % 2]);
            }
            scale::of32(level, weights, blocks, j, &exact[j % 2], offsets, sums);
        }
    }
}
