//! The specification of the tiled product.

use super::{COLUMNS, DEPTH, Form, Pack, TASK_ROWS, Tile};

/// Adds tiles times pack to `sums` (`[8][32]`).
pub(super) fn multiply(form: Form, tiles: &[Tile; 2], pack: &Pack, sums: &mut [f32]) {
    for column in 0..COLUMNS {
        for row in 0..TASK_ROWS {
            let (tile, lane) = (&tiles[row / 16], row % 16);
            let mut total = 0f32;
            for j in 0..DEPTH / form.sub {
                let d = if form.per32 { pack.d[j * form.sub / 32][column] } else { 1.0 };
                total += integer(form, tile, lane, pack, column, j) as f32 * (tile.scale[j][lane] * d);
            }
            for j in 0..DEPTH.checked_div(form.offset).unwrap_or(0) {
                let parts = form.offset / 16;
                let sum: i32 = (0..parts).map(|i| pack.sums[j * parts + i][column]).sum();
                let d = if form.per32 { pack.d[j][column] } else { 1.0 };
                total += tile.offset[j][lane] * (sum as f32 * d);
            }
            sums[column * TASK_ROWS + row] += if form.per32 { total } else { total * pack.d[0][column] };
        }
    }
}

/// The exact sum over sub-block j, the zero point taken off.
pub(super) fn integer(form: Form, tile: &Tile, lane: usize, pack: &Pack, column: usize, j: usize) -> i32 {
    let mut sum = 0i32;
    for step in j * form.sub / 4..(j + 1) * form.sub / 4 {
        let codes = tile.codes[step][lane].to_le_bytes();
        for (w, x) in codes.into_iter().zip(pack.codes[step][column]) {
            sum += (i32::from(w) - form.zero) * i32::from(x);
        }
    }
    sum
}
