//! Results of tiles, 16 columns of a head's state each, as rows of heads.

use crate::Pool;
use crate::ops::LANES;
use crate::parallel::{part_of, share};

/// Copies `made`, `[head][tile][tokens][16]`, to `out`, `[tokens][head][dim]`.
pub(super) fn gather(pool: &Pool, (heads, dim): (usize, usize), made: &[f32], out: &mut [f32]) {
    let (row, tiles) = (heads * dim, dim.div_ceil(LANES));
    let tokens = out.len() / row.max(1);
    let part = part_of(pool, out.len(), row);
    share(pool, out.chunks_mut(part).enumerate(), |(number, out)| {
        for (at, row) in out.chunks_exact_mut(row).enumerate() {
            let t = number * part / (heads * dim) + at;
            for (head, values) in row.chunks_exact_mut(dim).enumerate() {
                for (tile, values) in values.chunks_mut(LANES).enumerate() {
                    let from = ((head * tiles + tile) * tokens + t) * LANES;
                    values.copy_from_slice(&made[from..from + values.len()]);
                }
            }
        }
    });
}
