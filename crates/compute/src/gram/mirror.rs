//! Copies one triangle of a square matrix to the other, on all threads.

use crate::Pool;
use crate::gemm::transpose;
use crate::matmul::Shared;
use crate::simd::Level;

/// Rows and columns of a piece: its lines are whole cache lines, and each is touched once.
const PIECE: usize = 16;

/// Copies what is below the diagonal of `a` (`[n][n]`) above it.
///
/// # Panics
/// If `a` is not square.
pub fn lower_to_upper(pool: &Pool, a: &mut [f32], n: usize) {
    copy(pool, a, n, true);
}

/// Copies what is above the diagonal of `a` (`[n][n]`) below it.
///
/// # Panics
/// If `a` is not square.
pub fn upper_to_lower(pool: &Pool, a: &mut [f32], n: usize) {
    copy(pool, a, n, false);
}

fn copy(pool: &Pool, a: &mut [f32], n: usize, up: bool) {
    assert_eq!(a.len(), n * n, "a square matrix");
    let (level, pieces) = (pool.level(), n.div_ceil(PIECE));
    let shared = Shared::new(a);
    pool.run(pieces, |task| {
        // The longest rows of pieces first.
        let rows = (pieces - 1 - task) * PIECE;
        let height = PIECE.min(n - rows);
        for columns in (0..rows).step_by(PIECE) {
            // SAFETY: this task alone has this piece below the diagonal and its mirror image above it.
            let lower = |i: usize| unsafe { shared.slice((rows + i) * n + columns, PIECE) };
            // SAFETY: as above.
            let upper = |j: usize| unsafe { shared.slice((columns + j) * n + rows, height) };
            let mut from = [[0f32; PIECE]; PIECE];
            match up {
                true => (0..height).for_each(|i| from[i].copy_from_slice(lower(i))),
                false => (0..PIECE).for_each(|j| from[j][..height].copy_from_slice(upper(j))),
            }
            let to = transposed(level, &from);
            match up {
                true => (0..PIECE).for_each(|j| upper(j).copy_from_slice(&to[j][..height])),
                false => (0..height).for_each(|i| lower(i).copy_from_slice(&to[i])),
            }
        }
        // SAFETY: this task alone has the square on the diagonal.
        let at = |i: usize, j: usize| unsafe { &mut shared.slice((rows + i) * n + rows + j, 1)[0] };
        for (i, j) in (0..height).flat_map(|i| (0..i).map(move |j| (i, j))) {
            let (lower, upper) = (at(i, j), at(j, i));
            match up {
                true => *upper = *lower,
                false => *lower = *upper,
            }
        }
    });
}

fn transposed(level: Level, from: &[[f32; PIECE]; PIECE]) -> [[f32; PIECE]; PIECE] {
    let mut to = [[0f32; PIECE]; PIECE];
    transpose::floats(level, &from.each_ref().map(|row| &row[..]), to.as_flattened_mut(), PIECE);
    to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fewer;

    #[test]
    fn both_triangles_are_the_one_that_is_kept() {
        for &n in fewer(&[0, 1, 15, 16, 17, 50, 130], 4) {
            let a: Vec<f32> = (0..n * n).map(|i| i as f32).collect();
            for level in Level::available() {
                let pool = Pool::with_level(2, level);
                let (mut up, mut down) = (a.clone(), a.clone());
                lower_to_upper(&pool, &mut up, n);
                upper_to_lower(&pool, &mut down, n);
                for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
                    let (low, high) = (i.max(j) * n + i.min(j), i.min(j) * n + i.max(j));
                    assert_eq!(
                        (up[i * n + j], down[i * n + j]),
                        (low as f32, high as f32),
                        "{n} {i} {j} {level:?}"
                    );
                }
            }
        }
    }
}
