//! Finding the tensors of a layer and checking what they are.

use crate::{Checkpoint, ElementType, Error, Result, TensorInfo};

/// A tensor of a packed layer.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    checkpoint: &'a Checkpoint,
    /// Index into [`Checkpoint::tensors`].
    pub index: usize,
    pub info: &'a TensorInfo,
}

/// The tensor `prefix` + `suffix`, which must be there.
pub(super) fn need<'a>(checkpoint: &'a Checkpoint, prefix: &str, suffix: &str) -> Result<Part<'a>> {
    find(checkpoint, prefix, suffix).ok_or_else(|| {
        let file = checkpoint.files().first().map_or(checkpoint.path(), |f| f);
        let what = format!(
            "is missing, though other tensors of the quantized layer {prefix} are there; the download may be \
             incomplete"
        );
        Error::malformed(file, what).with_tensor(format!("{prefix}{suffix}"))
    })
}

/// The tensor `prefix` + `suffix`, if it is there.
pub(super) fn find<'a>(checkpoint: &'a Checkpoint, prefix: &str, suffix: &str) -> Option<Part<'a>> {
    let index = checkpoint.index_of(&format!("{prefix}{suffix}"))?;
    Some(Part { checkpoint, index, info: &checkpoint.tensors()[index] })
}

impl<'a> Part<'a> {
    /// Its bytes.
    pub fn data(self) -> &'a [u8] {
        self.checkpoint.data(self.info)
    }

    /// An error about this tensor.
    pub fn malformed(self, what: impl Into<String>) -> Error {
        Error::malformed(self.checkpoint.file_of(self.info), what).with_tensor(&self.info.name)
    }

    /// An error about this tensor: sound, but not read.
    pub fn unsupported(self, what: impl Into<String>) -> Error {
        Error::unsupported(self.checkpoint.file_of(self.info), what).with_tensor(&self.info.name)
    }

    /// Checks the element type.
    pub fn of(self, types: &[ElementType]) -> Result<Self> {
        if types.contains(&self.info.element_type) {
            return Ok(self);
        }
        let names = types.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ");
        Err(self.malformed(format!("is of type {}; expected {names}", self.info.element_type)))
    }

    /// Checks the shape.
    pub fn shaped(self, shape: &[usize]) -> Result<Self> {
        match self.info.shape == shape {
            true => Ok(self),
            false => Err(self.malformed(format!("has shape {:?}, expected {shape:?}", self.info.shape))),
        }
    }

    /// The two dimensions of a matrix that holds something.
    pub fn matrix(self) -> Result<[usize; 2]> {
        match *self.info.shape {
            [rows, columns] if rows > 0 && columns > 0 => Ok([rows, columns]),
            _ => Err(self.malformed(format!("has shape {:?}, expected a matrix", self.info.shape))),
        }
    }
}
