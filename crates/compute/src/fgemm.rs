//! The f32 building block under float weights and attention: `C += A B` on small, cache-sized pieces.

use crate::simd::{Level, Op, dispatch};

/// Columns of B and C are a whole number of these.
pub(crate) const LANES: usize = 16;

/// A piece of a product: `c[r][j] += sum over i < depth of a[r][i] * b[i][j]`, for `r < rows`, `j < width`.
pub(crate) struct Product<'a> {
    pub rows: usize,
    pub depth: usize,
    /// A multiple of [`LANES`].
    pub width: usize,
    /// Row r begins at `r * a_stride`.
    pub a: &'a [f32],
    pub a_stride: usize,
    /// `[depth][width]`
    pub b: &'a [f32],
    /// Row r begins at `r * c_stride`.
    pub c: &'a mut [f32],
    pub c_stride: usize,
}

/// Adds the product to `c`. Every sum runs over `i` in order.
///
/// # Panics
/// If a slice is too short or the width is not a whole number of lanes.
pub(crate) fn multiply_add(level: Level, p: Product) {
    if p.rows == 0 || p.width == 0 {
        return;
    }
    assert!(p.width.is_multiple_of(LANES));
    assert!(p.b.len() >= p.depth * p.width);
    assert!(p.a.len() >= (p.rows - 1) * p.a_stride + p.depth);
    assert!(p.c.len() >= (p.rows - 1) * p.c_stride + p.width);
    dispatch(level, Plain(p));
}

struct Plain<'a>(Product<'a>);

impl Op for Plain<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let p = self.0;
        for r in 0..p.rows {
            let a = &p.a[r * p.a_stride..][..p.depth];
            let c = &mut p.c[r * p.c_stride..][..p.width];
            for (j, c) in c.chunks_exact_mut(LANES).enumerate() {
                let mut sum = [0f32; LANES];
                sum.copy_from_slice(c);
                for (a, b) in a.iter().zip(p.b.chunks_exact(p.width)) {
                    let b = &b[j * LANES..][..LANES];
                    for l in 0..LANES {
                        sum[l] += a * b[l];
                    }
                }
                c.copy_from_slice(&sum);
            }
        }
    }
}
