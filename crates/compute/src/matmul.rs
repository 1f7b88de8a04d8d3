//! The linear layer: `y = x W^T` for one or several weight matrices that share the input.
//!
//! Block types: activations are quantized to 8 bits once, then multiplied as integers. Float types: f32
//! activations and f32 sums. Work is split by rows of the weights, never along a sum, so the result does not
//! depend on the number of threads.

use crate::activations::{Activations, Group};
use crate::error::same;
use crate::{Matrix, Pool, Result, block, dot, gemm};

/// Buffers that [`matmul`] reuses from call to call; keep one for each pool.
#[derive(Debug, Default)]
pub struct Scratch {
    of32: Activations,
    of256: Activations,
    packed32: gemm::Packed,
    packed256: gemm::Packed,
    rows: gemm::amx::Rows,
    float_rows: gemm::amx::FloatRows,
}

impl Scratch {
    /// Empty; grows to what the largest call needs.
    pub fn new() -> Self {
        Self::default()
    }
}

/// From this many activation rows on, unpacking weights into tiles pays.
const TILED_FROM: usize = 4;
/// Bytes of weights that one task of the few-rows path reads.
const TASK_BYTES: usize = 64 << 10;

/// How a type's activations are grouped; `None` for types multiplied in f32.
pub(crate) fn group(matrix: &Matrix) -> Option<Group> {
    let element_type = matrix.element_type();
    block::is_known(element_type).then(|| Group::of(element_type))
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
    check(weights, x, n, outputs)?;
    let Some(columns) = weights.first().map(Matrix::columns) else { return Ok(()) };
    if n == 0 {
        return Ok(());
    }
    let outputs: Vec<Shared> = outputs.iter_mut().map(|y| Shared::new(y)).collect();
    if n < TILED_FROM {
        few_rows(pool, scratch, weights, x, columns, &outputs);
    } else {
        many_rows(pool, scratch, weights, x, columns, &outputs);
    }
    Ok(())
}

/// Weight row by weight row, each multiplied with every activation row while it is in the cache.
fn few_rows(
    pool: &Pool,
    scratch: &mut Scratch,
    weights: &[Matrix],
    x: &[f32],
    columns: usize,
    outputs: &[Shared],
) {
    let (level, n) = (pool.level(), x.len() / columns);
    for (group, acts) in [(Group::Of32, &mut scratch.of32), (Group::Of256, &mut scratch.of256)] {
        if weights.iter().any(|w| self::group(w) == Some(group)) {
            acts.resize(group, columns, n);
            for i in 0..n {
                acts.quantize(level, group, columns, i, &x[i * columns..][..columns]);
            }
        }
    }
    let scratch = &*scratch;
    // Short enough to share evenly; threads take neighbouring tasks, so that memory streams across them.
    let task_rows = |w: &Matrix| (TASK_BYTES / w.row_bytes()).clamp(4, 256);
    for_each_task(pool, weights, task_rows, |k, first| {
        let w = &weights[k];
        let rows = task_rows(w).min(w.rows() - first);
        let data = &w.data()[first * w.row_bytes()..][..rows * w.row_bytes()];
        for i in 0..n {
            // SAFETY: this task alone writes rows first..first + rows of output k.
            let y = unsafe { outputs[k].slice(i * w.rows() + first, rows) };
            match group(w) {
                Some(Group::Of32) => {
                    let x = scratch.of32.row(Group::Of32, columns, i);
                    dot::rows(level, w.element_type(), data, x, y);
                }
                Some(Group::Of256) => {
                    let x = scratch.of256.row(Group::Of256, columns, i);
                    dot::rows(level, w.element_type(), data, x, y);
                }
                None => {
                    let x = &x[i * columns..][..columns];
                    match w.scales() {
                        None => dot::float_rows(level, w.element_type(), data, x, y),
                        Some(scales) => {
                            dot::scaled_rows(level, w.element_type(), data, (scales, first), x, y);
                        }
                    }
                    continue;
                }
            }
            if let Some(scales) = w.scales() {
                (first..).zip(y).for_each(|(row, y)| *y *= scales.row(row)[0]);
            }
        }
    });
}

/// Tiles of weights, unpacked once for all activation rows.
fn many_rows(
    pool: &Pool,
    scratch: &mut Scratch,
    weights: &[Matrix],
    x: &[f32],
    columns: usize,
    outputs: &[Shared],
) {
    let (level, n) = (pool.level(), x.len() / columns);
    let on_unit = |w: &Matrix| gemm::amx::takes(level, w.element_type(), n);
    for (group, packed) in [(Group::Of32, &mut scratch.packed32), (Group::Of256, &mut scratch.packed256)] {
        if weights.iter().any(|w| self::group(w) == Some(group) && !on_unit(w)) {
            packed.fill(level, pool, group, x, columns, n);
        }
    }
    if weights.iter().any(on_unit) {
        scratch.rows.fill(level, pool, x, columns, n);
    }
    let floats_on_unit = gemm::amx::takes_floats(level, n);
    if floats_on_unit && weights.iter().any(|w| group(w).is_none()) {
        scratch.float_rows.fill(level, pool, x, columns, n);
    }
    let scratch = &*scratch;
    // Several pairs of tiles at a time shorten the activations' way through the caches; but each thread should have some
    // tasks, since threads of one core, and virtual machines of one host, slow each other down.
    let pairs: usize = weights.iter().map(|w| w.rows().div_ceil(gemm::TASK_ROWS)).sum();
    let pairs = pairs / (4 * pool.threads());
    let pairs_of = |w: &Matrix| match group(w) {
        Some(_) if on_unit(w) => pairs.clamp(1, gemm::amx::MOST_PAIRS),
        Some(_) => pairs.clamp(1, 2),
        None if floats_on_unit => pairs.clamp(1, gemm::amx::MOST_PAIRS),
        None => 1,
    };
    for_each_task(
        pool,
        weights,
        |w| pairs_of(w) * gemm::TASK_ROWS,
        |k, first| {
            let (w, y, pairs) = (&weights[k], &outputs[k], pairs_of(&weights[k]));
            // SAFETY: this task alone writes the rows from `first` on of output k.
            unsafe {
                match group(w) {
                    Some(_) if on_unit(w) => gemm::amx::blocks(level, w, first, pairs, &scratch.rows, n, y),
                    Some(Group::Of32) => gemm::blocks(level, w, first, pairs, &scratch.packed32, n, y),
                    Some(Group::Of256) => gemm::blocks(level, w, first, pairs, &scratch.packed256, n, y),
                    None if floats_on_unit => {
                        gemm::amx::floats(level, w, first, pairs, &scratch.float_rows, n, y);
                    }
                    None => gemm::floats(level, w, first, x, n, y),
                }
            }
        },
    );
}

/// One parallel region over pieces of `task_rows` rows of all matrices: `body(matrix, first row)`.
fn for_each_task(
    pool: &Pool,
    weights: &[Matrix],
    task_rows: impl Fn(&Matrix) -> usize + Sync,
    body: impl Fn(usize, usize) + Sync,
) {
    let tasks_of = |w: &Matrix| w.rows().div_ceil(task_rows(w));
    pool.run(weights.iter().map(tasks_of).sum(), |mut task| {
        for (k, w) in weights.iter().enumerate() {
            if task < tasks_of(w) {
                return body(k, task * task_rows(w));
            }
            task -= tasks_of(w);
        }
    });
}

fn check(weights: &[Matrix], x: &[f32], n: usize, outputs: &[&mut [f32]]) -> Result<()> {
    same("matmul: outputs, one for each matrix", weights.len(), outputs.len())?;
    for (w, y) in weights.iter().zip(outputs) {
        same("matmul: columns of the matrices", weights[0].columns(), w.columns())?;
        same("matmul: input", w.columns().saturating_mul(n), x.len())?;
        same("matmul: output", w.rows().saturating_mul(n), y.len())?;
    }
    Ok(())
}

/// An output that several tasks write, each its own part.
pub(crate) struct Shared {
    start: *mut f32,
    len: usize,
}

// SAFETY: access goes through `slice`, whose callers guarantee disjoint ranges.
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
        // SAFETY: in bounds as asserted, exclusive as the caller guarantees.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;
    use crate::testing::{Random, fewer, random_row};
    use quern_tensor_io::ElementType;

    /// Numbers with scales beside them: FP8 in blocks, by output and as a whole, and a block type with a factor.
    #[test]
    fn scales_multiply_at_every_level() {
        use crate::Scales;
        let mut random = Random::new(3);
        let (rows, columns) = (70usize, 320usize);
        let blocks = [[16, 128], [1, 320], [70, 320], [32, 48], [1, 32]];
        let types = [ElementType::F8E4M3, ElementType::F8E5M2, ElementType::BF16, ElementType::NVFP4];
        for (element_type, block) in types.iter().flat_map(|t| blocks.map(|b| (*t, b))) {
            if element_type.is_block() && block[1] < columns {
                continue;
            }
            let data: Vec<u8> =
                (0..rows).flat_map(|_| random_row(&mut random, element_type, columns, false)).collect();
            let count = rows.div_ceil(block[0]) * columns.div_ceil(block[1]);
            let values = (0..count).map(|_| random.float() * 1e-5).collect();
            let scales = Scales::new(values, [rows, columns], block).unwrap();
            let w = Matrix::new(element_type, rows, columns, &data).unwrap().with_scales(&scales).unwrap();
            for &n in fewer(&[1, 3, 9], 1) {
                let x: Vec<f32> = (0..n * columns).map(|_| random.float()).collect();
                for level in Level::available() {
                    let mut results = Vec::new();
                    for threads in [1, 3] {
                        let mut y = vec![f32::NAN; n * rows];
                        let (pool, mut scratch) = (Pool::with_level(threads, level), Scratch::new());
                        matmul(&pool, &mut scratch, &[w], &x, n, &mut [&mut y]).unwrap();
                        results.push(y);
                    }
                    assert_eq!(results[0], results[1], "{element_type}: threads change the result");
                    let error = if element_type.is_block() { 4.0e-3 } else { 1e-6 };
                    for (at, y) in results[0].iter().enumerate() {
                        let (i, row) = (at / rows, at % rows);
                        let (e, size) = reference(&w, &x[i * columns..][..columns], row);
                        let off = (f64::from(*y) - e).abs();
                        assert!(off <= size * error, "{element_type} {block:?} {level:?} {n}: {y} {e}");
                    }
                }
            }
        }
        // A code that is no number makes its row none, wherever it is.
        for at in [0, 63, 64, 100, 139] {
            let mut data = vec![0x38u8; 3 * 140];
            data[140 + at] = 0xff;
            let scales = Scales::new(vec![1.0; 6], [3, 140], [1, 70]).unwrap();
            let w = Matrix::new(ElementType::F8E4M3, 3, 140, &data).unwrap().with_scales(&scales).unwrap();
            for (n, level) in [1, 8].into_iter().flat_map(|n| Level::available().map(move |l| (n, l))) {
                let (pool, mut scratch) = (Pool::with_level(1, level), Scratch::new());
                let mut y = vec![0f32; 3 * n];
                matmul(&pool, &mut scratch, &[w], &vec![1.0; 140 * n], n, &mut [&mut y]).unwrap();
                assert!(
                    y.chunks(3).all(|y| y[0] == 140.0 && y[1].is_nan() && y[2] == 140.0),
                    "{level:?} {at}"
                );
            }
        }
        let scales = Scales::new(vec![1.0; 2], [2, 64], [2, 32]).unwrap();
        let (floats, codes) = ([0u8; 128], [0u8; 72]);
        let of = |t, data| Matrix::new(t, 2, 64, data).unwrap().with_scales(&scales);
        assert!(of(ElementType::F8E4M3, &floats[..]).is_ok());
        assert!(of(ElementType::NVFP4, &codes[..]).is_err());
    }

    /// The product in f64 of decoded weights and unquantized activations.
    fn reference(w: &Matrix, x: &[f32], row: usize) -> (f64, f64) {
        let mut values = vec![0f32; w.columns()];
        crate::get_row(w, row, &mut values).unwrap();
        let terms = values.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
        let size = terms.clone().map(f64::abs).sum();
        (terms.sum(), size)
    }

    #[test]
    fn every_type_multiplies_at_every_level_and_length() {
        let mut random = Random::new(1);
        let all = ElementType::ALL.iter().copied();
        for element_type in all
            .filter(|&t| group_of(t) || matches!(t, ElementType::F32 | ElementType::F16 | ElementType::BF16))
            .step_by(if cfg!(miri) { 9 } else { 1 })
        {
            // Where blocks are smaller than 256 values, not a multiple of that.
            let columns = match element_type.block_elements() {
                256 => 512,
                128 => 384,
                64 => 320,
                _ => 352,
            };
            let (rows_a, rows_b) = (if cfg!(miri) { 34 } else { 70 }, 9);
            let mut random_data = |rows| -> Vec<u8> {
                (0..rows).flat_map(|_| random_row(&mut random, element_type, columns, false)).collect()
            };
            let (a, b) = (random_data(rows_a), random_data(rows_b));
            let weights = [
                Matrix::new(element_type, rows_a, columns, &a).unwrap(),
                Matrix::new(element_type, rows_b, columns, &b).unwrap(),
            ];
            for &n in fewer(&[1, 11, 2, 4], 2) {
                let x: Vec<f32> = (0..n * columns).map(|_| random.float()).collect();
                for level in Level::available() {
                    let mut results = Vec::new();
                    for threads in [1, 2, 3] {
                        let (mut ya, mut yb) = (vec![f32::NAN; n * rows_a], vec![f32::NAN; n * rows_b]);
                        let (pool, mut scratch) = (Pool::with_level(threads, level), Scratch::new());
                        matmul(&pool, &mut scratch, &weights, &x, n, &mut [&mut ya, &mut yb]).unwrap();
                        results.push((ya, yb));
                    }
                    assert!(
                        results.iter().all(|r| *r == results[0]),
                        "{element_type}: threads change the result"
                    );
                    // 8-bit activations: an error of up to 1/254 of the largest in each term.
                    let error = match element_type {
                        // And numbers in integer steps: off by up to 0.0037 absmax, or about 1 % of the
                        // values' mean size, where all errors agree.
                        ElementType::NF4 | ElementType::FP4 => 1.2e-2,
                        _ if group_of(element_type) => 4.0e-3,
                        _ => 1e-6,
                    };
                    for (w, y) in weights.iter().zip([&results[0].0, &results[0].1]) {
                        for i in 0..n {
                            for row in 0..w.rows() {
                                let (e, size) = reference(w, &x[i * columns..][..columns], row);
                                let y = f64::from(y[i * w.rows() + row]);
                                assert!(
                                    (y - e).abs() <= size * error,
                                    "{element_type} {level:?} {n}: {y} {e} {size}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    fn group_of(element_type: ElementType) -> bool {
        block::is_known(element_type)
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let data = [0u8; 34 * 3];
        assert!(Matrix::new(ElementType::Q8_0, 3, 33, &data).is_err());
        assert!(Matrix::new(ElementType::Q8_0, 4, 32, &data).is_err());
        assert!(Matrix::new(ElementType::I64, 1, 1, &data[..8]).is_err());
        let w = [Matrix::new(ElementType::Q8_0, 3, 32, &data).unwrap()];
        let (pool, mut s) = (Pool::new(1), Scratch::new());
        let mut y = [0f32; 3];
        assert!(matmul(&pool, &mut s, &w, &[0.0; 32], 1, &mut []).is_err());
        assert!(matmul(&pool, &mut s, &w, &[0.0; 31], 1, &mut [&mut y]).is_err());
        assert!(matmul(&pool, &mut s, &w, &[0.0; 64], 2, &mut [&mut y]).is_err());
        assert!(matmul(&pool, &mut s, &w, &[0.0; 32], 1, &mut [&mut y]).is_ok());
    }
}
