//! Sixteen blocks side by side: the transposition that puts one block in each lane, and back.

use std::ops::{Deref, DerefMut};

use quern_compute::simd::lanes::{LANES, Lanes};

/// `N` values of sixteen blocks: `tile[i][lane]` is value `i` of the block in `lane`.
pub(super) type Tile<const N: usize> = [[f32; LANES]; N];

/// On a cache line's boundary: a 512-bit load that straddles two lines costs twice.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Aligned<T>(pub T);

impl<T> Deref for Aligned<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Aligned<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Puts `blocks[lane]` into each lane.
#[inline(always)]
pub(super) fn load<S: Lanes, const N: usize>(s: S, blocks: &[&[f32; N]; LANES], tile: &mut Tile<N>) {
    for (at, columns) in tile.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut rows = [s.splat(0.0); LANES];
        for (row, block) in rows.iter_mut().zip(blocks) {
            *row = s.load(&block.as_chunks::<LANES>().0[at]);
        }
        for (column, line) in columns.iter_mut().zip(s.transpose(rows)) {
            s.store(line, column);
        }
    }
}

/// The bytes of the codes in `tile`, block by block.
#[inline(always)]
pub(super) fn codes<S: Lanes, const N: usize>(s: S, tile: &Tile<N>, blocks: &mut [[u8; N]; LANES]) {
    for (at, columns) in tile.as_chunks::<LANES>().0.iter().enumerate() {
        let mut rows = [s.splat(0.0); LANES];
        for (row, column) in rows.iter_mut().zip(columns) {
            *row = s.load(column);
        }
        for (block, line) in blocks.iter_mut().zip(s.transpose(rows)) {
            s.store_bytes(line, &mut block.as_chunks_mut::<LANES>().0[at]);
        }
    }
}
