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

    /// Quantizes and packs `x` (`[n][columns]`); what is missing to whole packs is zero.
    pub fn fill(&mut self, level: Level, pool: &Pool, group: Group, x: &[f32], columns: usize, n: usize) {
        let (depths, groups) = (columns.div_ceil(DEPTH), n.div_ceil(COLUMNS));
        self.packs.resize(depths * groups, Pack::ZERO);
        self.groups = groups;
        let slots = Slots(self.packs.as_mut_ptr());
        let slots = &slots;
        pool.run(groups, |i| {
            let mut codes = vec![0i8; columns];
            let mut d = vec![0f32; columns / group.len()];
            let mut sums = vec![0i16; columns / 16];
            for column in 0..COLUMNS {
                let row = i * COLUMNS + column;
                if row < n {
                    let x = &x[row * columns..][..columns];
                    quantize_row(level, group, x, &mut codes, &mut d, &mut sums);
                } else {
                    codes.fill(0);
                    d.fill(0.0);
                    sums.fill(0);
                }
                for depth in 0..depths {
                    // SAFETY: packs of group i belong to task i alone, and there are depths * groups.
                    let pack = unsafe { &mut *slots.0.add(depth * groups + i) };
                    place(pack, column, depth, group, &codes, &d, &sums);
                }
            }
        });
    }
}

/// Writes one activation row's part of a pack.
fn place(pack: &mut Pack, column: usize, depth: usize, group: Group, codes: &[i8], d: &[f32], sums: &[i16]) {
    let part = |len: usize, per: usize| depth * DEPTH / per..len.min((depth + 1) * DEPTH / per);
    let codes = codes[part(codes.len(), 1)].as_chunks::<4>().0;
    for (step, slot) in pack.codes.iter_mut().enumerate() {
        slot[column] = codes.get(step).copied().unwrap_or([0; 4]);
    }
    let sums = &sums[part(sums.len(), 16)];
    for (j, slot) in pack.sums.iter_mut().enumerate() {
        slot[column] = sums.get(j).map_or(0, |&s| s.into());
    }
    let d = &d[part(d.len(), group.len())];
    for (j, slot) in pack.d.iter_mut().enumerate() {
        slot[column] = d.get(j).copied().unwrap_or(0.0);
    }
}
