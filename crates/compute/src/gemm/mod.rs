//! Multiplies many activation rows with weights: for reading a prompt.
//!
//! A task takes 32 or 64 weight rows. For every 256 columns it unpacks them once into pairs of [`Tile`]s,
//! whatever their type, and multiplies the tiles, which stay in the first-level cache, with all activations:
//!
//! ```text
//! value = scale * (code - zero) + offset      code: u8; scale, offset: f32 for 16, 32 or 256 values
//! Tile.codes [64 steps][16 rows][4 values]    one 512-bit register: 4 consecutive values of 16 rows
//! Pack.codes [64 steps][8 columns][4 values]  broadcast 4 bytes: an activation row's share of a step
//! ```
//!
//! so that one integer instruction multiplies 64 values. Sums over 16, 32 or 256 values are exact integers
//! that begin at `-zero * (sum of the activations)`; then they are scaled and added in f32.

pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod floats;
mod pack;
mod scalar;
#[cfg(test)]
mod tests;
pub(crate) mod transpose;
mod unpack;
mod vectors;

use quern_tensor_io::ElementType;

use crate::aligned::Aligned;
use crate::matmul::Shared;
use crate::simd::Level;
use crate::{Matrix, block};

pub(crate) use pack::Packed;
use unpack::Q3_ZERO;

/// Weight rows of a pair of tiles.
pub(crate) const TASK_ROWS: usize = 32;
/// Columns of a tile.
pub(crate) const DEPTH: usize = 256;
/// Activation rows (columns of the product) in a [`Pack`].
pub(crate) const COLUMNS: usize = 8;

/// 16 weight rows, 256 columns, in the common form.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Tile {
    pub codes: [[u32; 16]; 64],
    pub scale: [[f32; 16]; 16],
    pub offset: [[f32; 16]; 16],
    /// Of types whose scales and offsets are integers under one factor for 256 values: the factors and the integers,
    /// `scale = d * steps` and `offset = dmin * minima`; elsewhere without meaning.
    pub d: [f32; 16],
    pub dmin: [f32; 16],
    /// Signed.
    pub steps: [[u32; 16]; 16],
    pub minima: [[u32; 16]; 16],
}

impl Tile {
    const ZERO: Tile = Tile {
        codes: [[0; 16]; 64],
        scale: [[0.0; 16]; 16],
        offset: [[0.0; 16]; 16],
        d: [0.0; 16],
        dmin: [0.0; 16],
        steps: [[0; 16]; 16],
        minima: [[0; 16]; 16],
    };
}

/// 8 activation rows, 256 columns.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Pack {
    pub codes: [[[i8; 4]; COLUMNS]; 64],
    /// Sums of 16 codes.
    pub sums: [[i32; COLUMNS]; 16],
    /// Scales: of each 32 values, or only the first for all 256.
    pub d: [[f32; COLUMNS]; 8],
}

impl Pack {
    pub const ZERO: Pack =
        Pack { codes: [[[0; 4]; COLUMNS]; 64], sums: [[0; COLUMNS]; 16], d: [[0.0; COLUMNS]; 8] };
}

/// How a type's tiles are to be multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// Values under one scale: 16, 32 or 256.
    pub sub: usize,
    /// Values under one offset: 16, 32, or 0 for none.
    pub offset: usize,
    /// Whether activations have a scale for each 32 values, not one for 256.
    pub per32: bool,
    /// What a code of value 0 is.
    pub zero: i32,
    /// The largest code.
    pub largest: i32,
}

impl Form {
    /// The form of a block type.
    pub fn of(element_type: ElementType) -> Option<Form> {
        use ElementType as T;
        let form = |sub, offset, per32, zero, largest| Some(Form { sub, offset, per32, zero, largest });
        match element_type {
            T::Q4_0 => form(32, 0, true, 8, 15),
            T::Q5_0 => form(32, 0, true, 16, 31),
            T::Q8_0 | T::IQ4NL | T::NF4 | T::FP4 => form(32, 0, true, 128, 255),
            T::MXFP4 => form(32, 0, true, 12, 24),
            T::Q4_1 => form(32, 32, true, 0, 15),
            T::Q5_1 => form(32, 32, true, 0, 31),
            T::Q4K => form(32, 32, false, 0, 15),
            T::Q5K => form(32, 32, false, 0, 31),
            T::IQ4XS => form(32, 0, false, 128, 255),
            T::Q6K => form(16, 0, false, 32, 63),
            // Codes times integer scales still fit a byte: one scale is left for the block.
            T::Q2K => form(256, 16, false, 0, 3 * 15),
            T::Q3K => form(256, 0, false, unpack::Q3_ZERO, unpack::Q3_ZERO + 4 * 32),
            // A trit of 3 is in no file that an encoder has written.
            T::TQ1_0 | T::TQ2_0 => form(256, 0, false, 1, 3),
            T::Q1_0 => form(32, 0, true, 1, 2),
            T::Q2_0 => form(32, 0, true, 1, 3),
            T::NVFP4 => form(16, 0, true, 12, 24),
            block::grid_types!() => {
                let grid = block::grid::constants(element_type)?;
                form(grid.sub, 0, false, grid.zero, 2 * grid.zero)
            }
            block::no_block!() => None,
        }
    }
}

/// Multiplies `pairs` times 32 weight rows from `first` on (or as many as there are) with all packed
/// activations: for block types. `y` is the output `[n][rows]`; only these rows are written.
///
/// # Safety
/// Nobody else uses these rows of `y`.
pub(crate) unsafe fn blocks(
    level: Level,
    w: &Matrix,
    first: usize,
    pairs: usize,
    packed: &Packed,
    n: usize,
    y: &Shared,
) {
    debug_assert!(block::is_known(w.element_type()));
    let Some(form) = Form::of(w.element_type()) else { return };
    let pairs = pairs.min((w.rows() - first).div_ceil(TASK_ROWS));
    let mut raw = unpack::Raw::ZERO;
    let mut kept = Kept::take();
    let size = n.next_multiple_of(COLUMNS) * TASK_ROWS;
    let (tiles, sums) = kept.of(pairs, pairs * size);
    for depth in 0..w.columns().div_ceil(DEPTH) {
        for (i, tile) in tiles.as_flattened_mut().iter_mut().enumerate() {
            unpack::tile(level, w, first + 16 * i, depth, &mut raw, tile);
        }
        for (i, start) in (0..size).step_by(COLUMNS * TASK_ROWS).enumerate() {
            let used = (n - i * COLUMNS).min(COLUMNS);
            packed.prefetch(depth, i + 1);
            for (tiles, sums) in tiles.iter().zip(sums.chunks_exact_mut(size)) {
                let sums = &mut sums[start..start + COLUMNS * TASK_ROWS];
                multiply(level, form, tiles, packed.get(depth, i), used, sums);
            }
        }
    }
    for (i, sums) in sums.chunks_exact(size).enumerate() {
        // SAFETY: guaranteed by the caller.
        unsafe { store(w, first + i * TASK_ROWS, sums, n, y) };
    }
}

/// What a task needs, kept by its thread for the next one: the allocator would give so much memory back to the system each
/// time, and the pages' first use would cost more than the product of few rows, most of all where many threads do that.
#[derive(Default)]
struct Kept {
    tiles: Vec<[Tile; 2]>,
    sums: Aligned,
}

thread_local! {
    static KEPT: std::cell::Cell<Option<Box<Kept>>> = const { std::cell::Cell::new(None) };
}

/// Gives what was taken back when it is dropped.
struct Taken(Box<Kept>);

impl Drop for Taken {
    fn drop(&mut self) {
        let kept = std::mem::take(&mut self.0);
        KEPT.set(Some(kept));
    }
}

impl Kept {
    /// This thread's, or a new one if another task of it is under way.
    fn take() -> Taken {
        Taken(KEPT.take().unwrap_or_default())
    }
}

impl Taken {
    /// So many pairs of tiles, whatever they hold, and zeros.
    fn of(&mut self, pairs: usize, sums: usize) -> (&mut [[Tile; 2]], &mut [f32]) {
        let kept = &mut *self.0;
        let tiles = at_least(&mut kept.tiles, pairs, &[Tile::ZERO; 2]);
        (tiles, kept.sums.zeroed(sums))
    }

    /// So many numbers, whatever they are.
    fn unset_sums(&mut self, sums: usize) -> &mut [f32] {
        self.0.sums.at_least(sums)
    }

    /// Zeros.
    fn sums(&mut self, sums: usize) -> &mut [f32] {
        self.0.sums.zeroed(sums)
    }
}

fn at_least<'a, T: Clone>(values: &'a mut Vec<T>, count: usize, value: &T) -> &'a mut [T] {
    if values.len() < count {
        values.resize(count, value.clone());
    }
    &mut values[..count]
}

/// Adds tiles times pack to `sums` (`[8][32]`), at least for the first `used` columns.
fn multiply(level: Level, form: Form, tiles: &[Tile; 2], pack: &Pack, used: usize, sums: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    match level.here() {
        // SAFETY: the CPU has the level.
        Level::Avx512Vnni | Level::Amx => return unsafe { avx512::multiply(form, tiles, pack, used, sums) },
        // SAFETY: as above.
        Level::AvxVnni => return unsafe { avx2::multiply_vnni(form, tiles, pack, used, sums) },
        // SAFETY: as above.
        Level::Avx512 | Level::Avx2 => return unsafe { avx2::multiply(form, tiles, pack, used, sums) },
        Level::Scalar => {}
    }
    let _ = (level, used);
    scalar::multiply(form, tiles, pack, sums);
}

/// The same for types multiplied in f32: `x` is `[n][columns]`.
///
/// # Safety
/// Nobody else uses these rows of `y`.
pub(crate) unsafe fn floats(level: Level, w: &Matrix, first: usize, x: &[f32], n: usize, y: &Shared) {
    let mut kept = Kept::take();
    let sums = kept.sums(n * TASK_ROWS);
    floats::multiply(level, w, first, x, n, sums);
    // SAFETY: guaranteed by the caller.
    unsafe { store(w, first, sums, n, y) };
}

/// Copies `sums` (`[n][32]`) to rows `first..` of the output.
///
/// # Safety
/// Nobody else uses these rows of `y`.
unsafe fn store(w: &Matrix, first: usize, sums: &[f32], n: usize, y: &Shared) {
    let rows = (w.rows() - first).min(TASK_ROWS);
    // Those of floats are in the product already.
    let scales = w.scales().filter(|_| block::is_known(w.element_type()));
    for (i, sums) in sums.chunks_exact(TASK_ROWS).take(n).enumerate() {
        // SAFETY: guaranteed by the caller.
        let y = unsafe { y.slice(i * w.rows() + first, rows) };
        match (y.first_chunk_mut::<TASK_ROWS>(), sums.first_chunk()) {
            // Of known length, without a call.
            (Some(y), Some(sums)) => *y = *sums,
            _ => y.copy_from_slice(&sums[..rows]),
        }
        if let Some(scales) = scales {
            (first..).zip(y).for_each(|(row, y)| *y *= scales.row(row)[0]);
        }
    }
}
