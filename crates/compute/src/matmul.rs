//! The linear layer: `y = x W^T` for one or several weight matrices that share the input.
//!
//! Block types: activations are quantized to 8 bits once, then multiplied as integers. Float types: f32
//! activations and f32 sums. Work is cut by rows of the weights, never along a sum, so the result does not
//! depend on the number of threads.

use crate::activations::{Activations, Group, quantize_row};
use crate::simd::Level;
use crate::{Error, Matrix, Pool, Result, block, dot};

/// Buffers that [`matmul`] reuses from call to call; keep one for each pool.
#[derive(Debug, Default)]
pub struct Scratch {
    of32: Activations,
    of256: Activations,
}

impl Scratch {
    /// Empty; grows to what the largest call needs.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Bytes of weights that one task of the few-rows path reads.
const TASK_BYTES: usize = 32 << 10;

/// How a type's activations are grouped; `None` for types multiplied in f32.
pub(crate) fn group(matrix: &Matrix) -> Option<Group> {
    let element_type = matrix.element_type();
    block::is_known(element_type).then(|| match element_type.block_elements() {
        32 => Group::Of32,
        _ => Group::Of256,
    })
}

/// Multiplies the `n` rows of `x` (`[n][columns]`) by every matrix of `weights`, all with the same number
/// of columns: `outputs[k]` (`[n][rows of k]`) becomes `x * weights[k]^T`. The input is quantized once and
/// all matrices are one parallel region. The result does not depend on the number of threads.
pub fn matmul(
    pool: &Pool,
    scratch: &mut Scratch,
    weights: &[Matrix],
    x: &[f32],
    n: usize,
    outputs: &mut [&mut [f32]],
) -> Result<()> {
    matmul_at(Level::detect(), pool, scratch, weights, x, n, outputs)
}

/// [`matmul`] at a given level, for tests and benchmarks.
#[doc(hidden)]
pub fn matmul_at(
    level: Level,
    pool: &Pool,
    scratch: &mut Scratch,
    weights: &[Matrix],
    x: &[f32],
    n: usize,
    outputs: &mut [&mut [f32]],
) -> Result<()> {
    check(weights, x, n, outputs)?;
    let Some(columns) = weights.first().map(Matrix::columns) else { return Ok(()) };
    if n == 0 {
        return Ok(());
    }
    for (group, acts) in [(Group::Of32, &mut scratch.of32), (Group::Of256, &mut scratch.of256)] {
        if weights.iter().any(|w| self::group(w) == Some(group)) {
            acts.resize(group, columns, n);
            for i in 0..n {
                quantize_row(
                    level,
                    group,
                    &x[i * columns..][..columns],
                    &mut acts.codes[i * columns..][..columns],
                    &mut acts.d[i * (columns / group.len())..][..columns / group.len()],
                    &mut acts.sums[i * (columns / 16)..][..columns / 16],
                );
            }
        }
    }
    // A task is some rows of one matrix: long enough for the memory to stream, short enough to share evenly.
    let rows_of = |w: &Matrix| (TASK_BYTES / w.row_bytes()).clamp(4, 256);
    let tasks_of = |w: &Matrix| w.rows().div_ceil(rows_of(w));
    let tasks = weights.iter().map(tasks_of).sum();
    let outputs: Vec<Shared> = outputs.iter_mut().map(|y| Shared::new(y)).collect();
    let scratch = &*scratch;
    pool.run(tasks, |mut task| {
        let mut k = 0;
        while task >= tasks_of(&weights[k]) {
            task -= tasks_of(&weights[k]);
            k += 1;
        }
        let w = &weights[k];
        let first = task * rows_of(w);
        let rows = rows_of(w).min(w.rows() - first);
        let data = &w.data()[first * w.row_bytes()..][..rows * w.row_bytes()];
        for i in 0..n {
            // SAFETY: this task alone writes rows first..first + rows of output k.
            let y = unsafe { outputs[k].slice(i * w.rows() + first, rows) };
            match self::group(w) {
                Some(group) => {
                    let acts = if group == Group::Of32 { &scratch.of32 } else { &scratch.of256 };
                    dot::rows(level, w.element_type(), data, acts.row(group, columns, i), y);
                }
                None => {
                    let x = &x[i * columns..][..columns];
                    dot::float_rows(level, w.element_type(), data, x, y);
                }
            }
        }
    });
    Ok(())
}

fn check(weights: &[Matrix], x: &[f32], n: usize, outputs: &[&mut [f32]]) -> Result<()> {
    let lengths = |what, expected, found| match expected == found {
        true => Ok(()),
        false => Err(Error::Lengths { what, expected, found }),
    };
    lengths("matmul: outputs, one for each matrix", weights.len(), outputs.len())?;
    for (w, y) in weights.iter().zip(outputs) {
        lengths("matmul: columns of the matrices", weights[0].columns(), w.columns())?;
        lengths("matmul: input", w.columns().saturating_mul(n), x.len())?;
        lengths("matmul: output", w.rows().saturating_mul(n), y.len())?;
    }
    Ok(())
}

/// An output that several tasks write, each its own part.
pub(crate) struct Shared {
    start: *mut f32,
    len: usize,
}

// SAFETY: access goes through `slice`, whose callers promise disjoint ranges.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Shared {
    pub fn new(y: &mut [f32]) -> Self {
        Self { start: y.as_mut_ptr(), len: y.len() }
    }

    /// A part of the output.
    ///
    /// # Safety
    /// The slice this was made from is still borrowed for it, and no other part in use overlaps.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, first: usize, len: usize) -> &mut [f32] {
        assert!(first.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: in bounds as asserted, exclusive as promised.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}
