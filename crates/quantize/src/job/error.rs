//! Why a job was refused or stopped.

use std::path::PathBuf;

use quern_tensor_io::{ElementType, Remedy};

use crate::recipe::RecipeError;

/// Why a job was refused or stopped. Whatever it is, no output file exists under its name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] quern_tensor_io::Error),
    /// No recipe could be made.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A source tensor has a type that cannot be decoded.
    #[error("tensor {tensor:?}: {element_type} cannot be decoded, so it cannot become {to}")]
    Undecodable {
        /// The tensor.
        tensor: String,
        /// Its type.
        element_type: ElementType,
        /// What it should become.
        to: ElementType,
    },
    /// A tensor would keep a type that GGUF does not know.
    #[error(
        "tensor {tensor:?}: GGUF has no type {element_type}; name the type to convert to (F32, F16 or BF16)"
    )]
    NoGgufType {
        /// The tensor.
        tensor: String,
        /// Its type.
        element_type: ElementType,
    },
    /// A tensor would be garbage without an importance matrix.
    #[error(
        "tensor {tensor:?}: {element_type} needs an importance matrix here, with an entry for this tensor"
    )]
    NeedsImatrix {
        /// The first tensor concerned.
        tensor: String,
        /// Its type.
        element_type: ElementType,
    },
    /// An entry of the importance matrix belongs to a tensor of another shape.
    #[error(
        "{}: the entry for tensor {tensor:?} has {found} values, but the tensor needs {expected}: it was \
         made for another model",
        file.display()
    )]
    ImatrixShape {
        /// The importance matrix.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Values in the entry.
        found: usize,
        /// Values needed: columns times stacked matrices.
        expected: usize,
    },
    /// A weight is NaN or infinite.
    #[error(
        "tensor {tensor:?}, row {row}, column {column}: the value is {value}; a model with values that are not \
         finite cannot be quantized"
    )]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The row, counted over all dimensions but the innermost.
        row: usize,
        /// The column.
        column: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// Encoding gave a block whose scale is not finite: the values are too large for the type.
    #[error(
        "tensor {tensor:?}, row {row}, values from column {column}: too large for {element_type} (the scale \
         or value overflows)"
    )]
    Overflow {
        /// The tensor.
        tensor: String,
        /// The row.
        row: usize,
        /// First column of the block.
        column: usize,
        /// The type it should have become.
        element_type: ElementType,
    },
    /// A tensor that is copied as it is holds a block with a broken scale.
    #[error(
        "tensor {tensor:?}, row {row}, values from column {column}: the {element_type} source block is corrupt"
    )]
    CorruptSource {
        /// The tensor.
        tensor: String,
        /// The row.
        row: usize,
        /// First column of the block.
        column: usize,
        /// Its type.
        element_type: ElementType,
    },
    /// An encoder refused its input.
    #[error("tensor {tensor:?}: {source}")]
    Encode {
        /// The tensor.
        tensor: String,
        /// What the encoder said.
        source: crate::encode::EncodeError,
    },
}

impl Error {
    /// What mends it, where a program must put it into words.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::File(error) => error.remedy(),
            Self::Recipe(error) => error.remedy(),
            Self::NeedsImatrix { .. } => Some(Remedy::GiveImatrix),
            Self::Overflow { .. } => Some(Remedy::ChooseTensorType),
            Self::Undecodable { .. }
            | Self::NoGgufType { .. }
            | Self::ImatrixShape { .. }
            | Self::NotFinite { .. }
            | Self::CorruptSource { .. }
            | Self::Encode { .. } => None,
        }
    }
}
