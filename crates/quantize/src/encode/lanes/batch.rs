//! Sixteen blocks at a time through a block encoder.
//!
//! Rows follow each other without gaps and are whole blocks, so the blocks of all rows form one sequence and
//! a batch may span rows. The last batch is filled up with zero blocks, whose results are dropped: give
//! `encode_rows` many rows at a time and this costs nothing.

use quern_compute::simd::lanes::{LANES, LaneOp, Lanes};
use quern_tensor_io::layout::{self, Block};

use super::tile::{self, Tile};

/// Sixteen blocks of `N` values, one in each lane. (Every tile is a multiple of 64 bytes: all are aligned.)
#[repr(C, align(64))]
pub(super) struct Batch<const N: usize> {
    /// Values.
    pub x: Tile<N>,
    /// Importance of the same columns, if `weighted`.
    pub qw: Tile<N>,
    /// Where the encoder leaves codes.
    pub codes: Tile<N>,
    /// Mean square of the row each block is in, if the encoder asked for it.
    pub row_sigma2: [f32; LANES],
    /// Whether there is importance.
    pub weighted: bool,
}

/// Encodes sixteen blocks at once.
pub(super) trait BlockEncoder<const N: usize>: Copy {
    /// What a block is stored as.
    type Block: Block;
    /// Whether importance weights involve the mean square of the whole row.
    const ROW_SIGMA2: bool = false;
    /// Encodes the batch; `out` are the first blocks of it, at most sixteen.
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<N>, out: &mut [Self::Block]);
}

/// All blocks of some rows.
pub(super) struct Encode<'a, E, const N: usize> {
    pub encoder: E,
    pub columns: usize,
    pub rows: &'a [f32],
    pub weights: Option<&'a [f32]>,
    pub out: &'a mut [u8],
}

impl<E: BlockEncoder<N>, const N: usize> LaneOp for Encode<'_, E, N> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let blocks = self.rows.as_chunks::<N>().0;
        let importance = self.weights.map(|w| w.as_chunks::<N>().0);
        let per_row = self.columns / N;
        let sigma2 = match self.weights {
            Some(_) if E::ROW_SIGMA2 => row_sigma2(s, self.columns, self.rows),
            _ => Vec::new(),
        };
        let zero = [0.0; N];
        let mut batch = Batch {
            x: [[0.0; LANES]; N],
            qw: [[0.0; LANES]; N],
            weighted: importance.is_some(),
            row_sigma2: [0.0; LANES],
            codes: [[0.0; LANES]; N],
        };
        let outs = layout::blocks_mut::<E::Block>(self.out).chunks_mut(LANES);
        for (index, (blocks, out)) in blocks.chunks(LANES).zip(outs).enumerate() {
            let mut lanes = [&zero; LANES];
            for (lane, block) in lanes.iter_mut().zip(blocks) {
                *lane = block;
            }
            tile::load(s, &lanes, &mut batch.x);
            if let Some(importance) = importance {
                for (i, lane) in lanes.iter_mut().enumerate() {
                    let block = index * LANES + i;
                    *lane = &importance[block % per_row];
                    if let Some(&sigma2) = sigma2.get(block / per_row) {
                        batch.row_sigma2[i] = sigma2;
                    }
                }
                tile::load(s, &lanes, &mut batch.qw);
            }
            self.encoder.encode(s, &mut batch, out);
        }
    }
}

/// Mean square of each row, summed in order, sixteen rows at once.
#[inline(always)]
fn row_sigma2<S: Lanes>(s: S, columns: usize, rows: &[f32]) -> Vec<f32> {
    let count = rows.len() / columns;
    let mut means = vec![0.0; count.next_multiple_of(LANES)];
    let zero = [0.0; LANES];
    for (at, means) in means.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut sum = s.splat(0.0);
        for column in (0..columns).step_by(LANES) {
            let mut tile = [s.splat(0.0); LANES];
            for (i, row) in tile.iter_mut().enumerate() {
                let start = (at * LANES + i) * columns + column;
                let values = rows.get(start..).and_then(|rest| rest.first_chunk::<LANES>());
                *row = s.load(values.unwrap_or(&zero));
            }
            for x in s.transpose(tile) {
                sum = sum + x * x;
            }
        }
        s.store(sum / s.splat(columns as f32), means);
    }
    means
}
