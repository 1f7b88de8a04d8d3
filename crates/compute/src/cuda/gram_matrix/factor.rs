//! The Cholesky factor: three launches for each block of rows.

use super::super::Memory;
use super::super::sums_args::{FactorArgs, PACKED_SQUARE, ProductsArgs};
use super::{BLOCK, GramMatrix};
use crate::{BadPivot, Result};

/// Side of a tile of products.
const TILE: usize = 128;

impl GramMatrix {
    /// As [`crate::factor()`], with the same bits, in the lower triangle; waits for it.
    ///
    /// # Errors
    /// The card has no memory left, or is lost. The inner result is that of [`crate::factor()`].
    pub fn factor(&mut self, least: f32) -> Result<Result<(), BadPivot>> {
        let n = self.n;
        let scratch = Memory::new(self.card(), 256 + 4 * PACKED_SQUARE)?;
        self.stream.fill(&scratch, 0, 4, 0xff)?;
        let [stop, square] = [0, 256].map(|at| scratch.pointer().at(at).address());
        let mut end = n;
        while end > 0 {
            let start = (end - 1) / BLOCK * BLOCK;
            let arguments = FactorArgs {
                a: self.address(),
                stop,
                n: n as u32,
                start: start as u32,
                end: end as u32,
                least,
                square,
            };
            // SAFETY: the block is within the matrix, which has n rows; the scratch lives until all is done.
            unsafe { self.launch("factor_square", [1, 1], 1024, &arguments)? };
            if start > 0 {
                // SAFETY: as above.
                unsafe { self.launch("factor_solve", [start.div_ceil(32), 1], 32, &arguments)? };
                let rows = self.memory.pointer().at(4 * start * n).address();
                let arguments = ProductsArgs {
                    a: rows,
                    b: rows,
                    sum: self.address(),
                    rows: start as u32,
                    columns: start as u32,
                    depth: (end - start) as u32,
                    a_stride: n as u32,
                    b_stride: n as u32,
                    stride: n as u32,
                    triangle: 1,
                    sign: -1.0,
                    stop,
                };
                let tiles = start.div_ceil(TILE);
                // SAFETY: as above; the rows read are not those written.
                unsafe { self.launch("factor_update", [tiles * tiles, 1], 256, &arguments)? };
            }
            end = start;
        }
        let mut index = [0; 4];
        self.stream.download(&mut index, &scratch, 0)?;
        Ok(match u32::from_le_bytes(index) {
            u32::MAX => Ok(()),
            index => Err(BadPivot { index: index as usize }),
        })
    }
}
