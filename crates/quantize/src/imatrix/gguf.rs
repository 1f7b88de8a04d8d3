//! The GGUF importance matrix.
//!
//! ```text
//! general.type = "imatrix"   imatrix.datasets [string]   imatrix.chunk_count u32   imatrix.chunk_size u32
//! NAME.in_sum2   f32 [matrices, columns]   sum of x² over all tokens
//! NAME.counts    f32 [matrices, 1]         number of tokens
//! ```

use std::path::Path;

use quern_tensor_io::{Checkpoint, ElementType, Error, Result, Tensor, decode};

use super::Imatrix;

pub(super) const SUMS: &str = ".in_sum2";
pub(super) const COUNTS: &str = ".counts";

pub(super) fn open(path: &Path) -> Result<Imatrix> {
    let checkpoint = Checkpoint::open(path)?;
    let metadata = checkpoint.metadata();
    if metadata.str("general.type") != Some("imatrix") {
        return Err(Error::malformed(path, "not an importance matrix: general.type is not \"imatrix\""));
    }
    let mut imatrix = Imatrix::new(path);
    imatrix.chunks = metadata.u64("imatrix.chunk_count").and_then(|n| n.try_into().ok()).unwrap_or(0);
    if let Some(names) = metadata.strings("imatrix.datasets") {
        imatrix.datasets = names.iter().map(str::to_owned).collect();
    }
    for info in checkpoint.tensors() {
        let Some(name) = info.name.strip_suffix(SUMS) else {
            let orphan = info.name.strip_suffix(COUNTS).is_none_or(|name| !has(&checkpoint, name, SUMS));
            if orphan {
                return Err(bad(path, &info.name, "expected NAME.in_sum2 with NAME.counts beside it"));
            }
            continue;
        };
        let Some(counts) = checkpoint.tensor(&format!("{name}{COUNTS}")) else {
            return Err(bad(path, &info.name, "its .counts are missing"));
        };
        let sums = floats(path, Tensor { info, data: checkpoint.data(info) })?;
        let counts = floats(path, counts)?;
        if counts.is_empty() || sums.len() % counts.len() != 0 {
            let what = format!("{} sums do not divide among {} counts", sums.len(), counts.len());
            return Err(bad(path, &info.name, &what));
        }
        if let Some(count) = counts.iter().find(|c| !c.is_finite()) {
            return Err(bad(path, &info.name, &format!("a count is {count}")));
        }
        imatrix.insert(name, means(sums, &counts))?;
        // They are in memory now: the map's pages are not needed any more.
        checkpoint.release(checkpoint.data(info).as_ptr_range());
    }
    checkpoint.check_files()?;
    Ok(imatrix)
}

/// Divides each matrix's sums by its count; ones where nothing was counted.
pub(super) fn means(mut sums: Vec<f32>, counts: &[f32]) -> Vec<f32> {
    let columns = (sums.len() / counts.len()).max(1);
    for (row, &count) in sums.chunks_mut(columns).zip(counts) {
        for sum in row {
            *sum = if count > 0.0 { *sum / count } else { 1.0 };
        }
    }
    sums
}

fn has(checkpoint: &Checkpoint, name: &str, suffix: &str) -> bool {
    checkpoint.tensor(&format!("{name}{suffix}")).is_some()
}

fn floats(path: &Path, tensor: Tensor<'_>) -> Result<Vec<f32>> {
    let mut out = vec![0.0; tensor.info.elements()];
    let is_f32 = tensor.info.element_type == ElementType::F32;
    if is_f32 && decode::to_f32(ElementType::F32, tensor.data, &mut out) {
        return Ok(out);
    }
    Err(bad(path, &tensor.info.name, &format!("is {}, expected f32", tensor.info.element_type)))
}

fn bad(path: &Path, tensor: &str, what: &str) -> Error {
    Error::malformed(path, what).with_tensor(tensor)
}
