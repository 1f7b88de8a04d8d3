//! What a streaming writer needs before the first byte of data.

use std::collections::HashSet;
use std::path::Path;

use crate::{ElementType, Error, Result};

/// One tensor that will be written, known before any data.
#[derive(Clone, Debug)]
pub struct TensorPlan {
    /// Name as the container spells it; under 64 bytes in GGUF.
    pub name: String,
    /// How its numbers will be stored.
    pub element_type: ElementType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl TensorPlan {
    /// Bytes of its data; `None` if a row is not a whole number of blocks or the size overflows.
    pub fn bytes(&self) -> Option<usize> {
        tensor_bytes(self.element_type, &self.shape)
    }
}

/// Bytes of a tensor of this shape (outermost dimension first); `None` if a row is not a whole number of
/// blocks, or if the number of values (with zero dimensions counted as one, so that the product of *any*
/// of the dimensions is representable) or of bytes passes 2^63 - 1.
pub(crate) fn tensor_bytes(element_type: ElementType, shape: &[usize]) -> Option<usize> {
    let product =
        |count: usize, &d: &usize| count.checked_mul(d.max(1)).filter(|&n| n <= isize::MAX as usize);
    shape.iter().try_fold(1, product)?;
    let columns = shape.last().copied().unwrap_or(1);
    let rows: usize = shape.iter().rev().skip(1).product();
    element_type.row_bytes(columns)?.checked_mul(rows).filter(|&n| n <= isize::MAX as usize)
}

/// The message about a shape for which [`tensor_bytes`] is `None`.
pub(crate) fn bad_shape(element_type: ElementType, shape: &[usize]) -> String {
    let columns = shape.last().copied().unwrap_or(1);
    let block = element_type.block_elements();
    if columns.is_multiple_of(block) {
        format!("shape {shape:?} of {element_type} overflows the address space")
    } else {
        format!("rows of {columns} values are not whole blocks: {element_type} packs {block} values a block")
    }
}

/// Checks the rules of every container for a plan: names present and unique, shapes that fit their type.
/// Returns the bytes of each tensor.
pub(crate) fn check(path: &Path, tensors: &[TensorPlan]) -> Result<Vec<u64>> {
    let mut names = HashSet::with_capacity(tensors.len());
    let mut sizes = Vec::with_capacity(tensors.len());
    for plan in tensors {
        let refused = |what: String| Err(Error::refused(path, what).with_tensor(&plan.name));
        if plan.name.is_empty() {
            return refused("a tensor needs a name".into());
        }
        if !names.insert(plan.name.as_str()) {
            return refused("planned twice: names must be unique".into());
        }
        match plan.bytes() {
            Some(bytes) => sizes.push(bytes as u64),
            None => return refused(bad_shape(plan.element_type, &plan.shape)),
        }
    }
    Ok(sizes)
}
