//! Two views of the same tensors, read side by side: piece by piece on all threads, in memory that does not grow with
//! the models.
//!
//! ```text
//! pairs ──> pieces of rows ──> rounds of pieces ──all threads──> results, taken in order
//!                                     └──> pages of both sides are released after each round
//! ```
//!
//! Pieces depend on shapes and types alone: results do not depend on the number of threads.

use std::ops::Range;

use quern_tensor_io::Progress;
use rayon::ThreadPool;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::{View, ViewTensor};

/// Values of a piece that is decoded.
const VALUES: usize = 64 * 1024;
/// Bytes of a piece that both sides have in their maps.
const BYTES: usize = 2 << 20;
/// Outputs of a packed layer that share their reads.
const PACKED_ROWS: usize = 256;
/// Pieces between which pages are released, and of which every thread has several.
const ROUND: usize = 16;
const ROUND_EACH: usize = 4;

/// A tensor of one view, and the tensor of the same shape of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Its number in the first view.
    pub a: usize,
    /// Its number in the second.
    pub b: usize,
}

/// Two views to be read side by side.
#[derive(Clone, Copy, Debug)]
pub struct SideBySide<'v, 'a, 'b> {
    /// The first.
    pub a: &'v View<'a>,
    /// The second.
    pub b: &'v View<'b>,
}

impl<'v> SideBySide<'v, '_, '_> {
    /// The two tensors of a pair.
    ///
    /// # Panics
    /// If there are no such tensors.
    pub fn tensors(&self, pair: Pair) -> (&'v ViewTensor, &'v ViewTensor) {
        (&self.a.tensors()[pair.a], &self.b.tensors()[pair.b])
    }

    /// The bytes of both sides, where both have them in their maps, in the same type and with the same numbers.
    pub fn mapped(&self, pair: Pair) -> Option<(&'v [u8], &'v [u8])> {
        let (a, b) = self.tensors(pair);
        let unchanged = a.changed.is_none() && b.changed.is_none();
        if a.element_type != b.element_type || !unchanged {
            return None;
        }
        Some((self.a.contiguous(pair.a)?, self.b.contiguous(pair.b)?))
    }

    /// Bytes that [`SideBySide::walk`] reports as progress: of the second view's tensors.
    pub fn bytes(&self, pairs: &[Pair]) -> u64 {
        let bytes = |pair: &Pair| {
            let tensor = &self.b.tensors()[pair.b];
            tensor.row_bytes as u64 * tensor.rows() as u64
        };
        pairs.iter().map(bytes).sum()
    }

    /// Ranges of a pair's rows, in order.
    fn pieces(&self, pair: Pair, scattered: bool) -> impl Iterator<Item = Range<usize>> + use<> {
        let (a, b) = self.tensors(pair);
        let few = (VALUES / a.columns().max(1)).max(1);
        let step = if self.mapped(pair).is_some() && !scattered {
            (BYTES / a.row_bytes.max(1)).max(1)
        } else if a.packed || b.packed {
            few.next_multiple_of(PACKED_ROWS)
        } else if transposed_blocks(self.a, a) || transposed_blocks(self.b, b) {
            // They are decoded anew for every piece.
            a.rows()
        } else {
            few
        };
        let step = step.max(1).next_multiple_of(a.together.max(b.together));
        let height = if a.columns() == 0 { 0 } else { a.rows() };
        (0..height).step_by(step).map(move |start| start..height.min(start + step))
    }

    /// Reads all pairs: `piece` gets the number of the pair and some of its rows, on any thread; `take` its results
    /// in the order of pairs and rows. `scattered` says of a pair that its rows are read from the second view in
    /// another order.
    pub fn walk<S: Default, R: Send>(
        &self,
        pairs: &[Pair],
        scattered: impl Fn(Pair) -> bool,
        (pool, progress): (&ThreadPool, &dyn Progress),
        piece: impl Fn(&mut S, usize, Range<usize>) -> R + Sync,
        mut take: impl FnMut(usize, R),
    ) {
        let of_pair = |(number, &pair): (usize, &Pair)| {
            self.pieces(pair, scattered(pair)).map(move |rows| (number, rows))
        };
        let pieces: Vec<(usize, Range<usize>)> = pairs.iter().enumerate().flat_map(of_pair).collect();
        for round in pieces.chunks(ROUND.max(ROUND_EACH * pool.current_num_threads())) {
            if let Some((first, _)) = round.first() {
                progress.step(&self.a.tensors()[pairs[*first].a].name);
            }
            let results: Vec<R> = pool.install(|| {
                let one = |scratch: &mut S, (number, rows): &(usize, Range<usize>)| {
                    let result = piece(scratch, *number, rows.clone());
                    let row_bytes = self.b.tensors()[pairs[*number].b].row_bytes;
                    progress.advance((rows.len() * row_bytes) as u64);
                    result
                };
                round.into_par_iter().map_init(S::default, one).collect()
            });
            for ((number, _), result) in round.iter().zip(results) {
                take(*number, result);
            }
            for of_pair in round.chunk_by(|a, b| a.0 == b.0) {
                if let [(number, first), ..] = of_pair
                    && let [.., (_, last)] = of_pair
                {
                    self.release(pairs[*number], first.start..last.end, scattered(pairs[*number]));
                }
            }
        }
    }

    fn release(&self, pair: Pair, rows: Range<usize>, scattered: bool) {
        let height = self.b.tensors()[pair.b].rows();
        let last = rows.end == height;
        self.a.release(pair.a, rows.clone());
        match scattered {
            false => self.b.release(pair.b, rows),
            true if last => self.b.release(pair.b, 0..height),
            true => {}
        }
    }
}

/// Whether a tensor of plain values is the transpose of blocks.
fn transposed_blocks(view: &View<'_>, tensor: &ViewTensor) -> bool {
    let block =
        |name: &String| view.checkpoint().tensor(name).is_some_and(|t| t.info.element_type.is_block());
    !tensor.element_type.is_block() && tensor.sources.iter().any(block)
}
