//! Activations quantized and laid out for the tiled product.

use super::{COLUMNS, DEPTH, Pack};
use crate::Pool;
use crate::activations::{Group, quantize_row};
use crate::simd::Level;

/// All activations of a product: `[depth][n / 8]` packs.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    packs: Vec<Pack>,
    groups: usize,
}

struct Slots(*mut Pack);
// SAFETY: each task writes its own packs.
unsafe impl Sync for Slots {}

impl Packed {
    /// Eight rows from `8 * i` on, columns from `256 * depth` on.
    pub fn get(&self, depth: usize, i: usize) -> &Pack {
        &self.packs[depth * self.groups + i]
    }

    /// Prefetches a pack that will be used soon, if there is one.
    #[inline]
    pub fn prefetch(&self, depth: usize, i: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(pack) = self.packs.get(depth * self.groups + i) {
            use std::arch::x86_64::*;
            let start = std::ptr::from_ref(pack).cast::<i8>();
            for at in (0..size_of::<Pack>()).step_by(64) {
                // SAFETY: a prefetch reads nothing, and the address is within the pack.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(start.add(at)) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (depth, i);
    }

    /// Quantizes and packs `x` (`[n][columns]`); what is missing to whole packs is zero.
    pub fn fill(&mut self, level: Level, pool: &Pool, group: Group, x: &[f32], columns: usize, n: usize) {
        let (depths, groups) = (columns.div_ceil(DEPTH), n.div_ceil(COLUMNS));
        self.packs.resize(depths * groups, Pack::ZERO);
        self.groups = groups;
        let slots = Slots(self.packs.as_mut_ptr());
        let slots = &slots;
        let scales = columns / group.len();
        pool.run(groups, |i| {
            // Rows are padded to whole packs, so that copying needs no checks.
            let width = depths * DEPTH;
            let mut codes = vec![0i8; COLUMNS * width];
            let mut d = vec![0f32; COLUMNS * width / group.len()];
            let mut sums = vec![0i16; COLUMNS * width / 16];
            for row in 0..COLUMNS.min(n - i * COLUMNS) {
                quantize_row(
                    level,
                    group,
                    &x[(i * COLUMNS + row) * columns..][..columns],
                    &mut codes[row * width..][..columns],
                    &mut d[row * width / group.len()..][..scales],
                    &mut sums[row * width / 16..][..columns / 16],
                );
            }
            for depth in 0..depths {
                // SAFETY: packs of group i belong to task i alone, and there are depths * groups.
                let pack = unsafe { &mut *slots.0.add(depth * groups + i) };
                place(pack, depth, group, &codes, &d, &sums);
            }
        });
    }
}

/// Fills one pack from eight rows of quantized activations.
fn place(pack: &mut Pack, depth: usize, group: Group, codes: &[i8], d: &[f32], sums: &[i16]) {
    let rows = |len: usize, per: usize| {
        let start = depth * DEPTH / per;
        move |row: usize| row * (len / COLUMNS) + start..row * (len / COLUMNS) + start + DEPTH / per
    };
    let at = rows(codes.len(), 1);
    let words: [&[[i8; 4]]; COLUMNS] = std::array::from_fn(|row| codes[at(row)].as_chunks::<4>().0);
    for (step, slot) in pack.codes.iter_mut().enumerate() {
        for (slot, words) in slot.iter_mut().zip(&words) {
            *slot = words[step];
        }
    }
    let at = rows(sums.len(), 16);
    let per_row: [&[i16]; COLUMNS] = std::array::from_fn(|row| &sums[at(row)]);
    for (j, slot) in pack.sums.iter_mut().enumerate() {
        *slot = std::array::from_fn(|row| per_row[row][j].into());
    }
    let at = rows(d.len(), group.len());
    let per_row: [&[f32]; COLUMNS] = std::array::from_fn(|row| &d[at(row)]);
    for (j, slot) in pack.d.iter_mut().enumerate().take(DEPTH / group.len()) {
        *slot = std::array::from_fn(|row| per_row[row][j]);
    }
}
