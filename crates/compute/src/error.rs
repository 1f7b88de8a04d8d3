//! Errors of this crate.

use quern_tensor_io::ElementType;

/// Result of everything here that checks its arguments.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A request that cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No kernel for weights of this type.
    #[error(
        "no kernel multiplies weights of type {element_type}; convert or quantize the model to another type"
    )]
    Unsupported {
        /// The type asked for.
        element_type: ElementType,
    },
    /// Bytes, shape and type of a matrix do not belong together.
    #[error("{bytes} bytes cannot be {rows} rows of {columns} values of type {element_type}")]
    Shape {
        /// How the numbers are stored.
        element_type: ElementType,
        /// Rows asked for.
        rows: usize,
        /// Values in a row.
        columns: usize,
        /// Bytes given.
        bytes: usize,
    },
    /// Two slices that should fit do not.
    #[error("{what}: expected {expected} values, found {found}")]
    Lengths {
        /// Which slice.
        what: &'static str,
        /// Length it should have.
        expected: usize,
        /// Length it has.
        found: usize,
    },
    /// No memory for keys and values.
    #[error("there is no memory for keys and values of {context} positions")]
    CacheMemory {
        /// Positions asked for.
        context: usize,
    },
    /// Only processors compute it.
    #[error("GPUs have no kernel for {what}; compute the model on the CPU")]
    NoGpuKernel {
        /// What was asked for.
        what: &'static str,
    },
    /// The arguments of an operation are not all on the device that runs it: a fault of the caller.
    #[error("an operation was given numbers that are on another device")]
    Device,
    /// An NVIDIA card or its driver.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(Box<crate::cuda::CudaError>),
    /// Built without the feature `cuda`.
    #[error("this program was built without support for GPUs")]
    NoGpuSupport,
}

/// Refuses two lengths that should be equal and are not.
pub(crate) fn same(what: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::Lengths { what, expected, found }) }
}

impl Error {
    /// What mends it, where a program must put it into words.
    pub fn remedy(&self) -> Option<quern_tensor_io::Remedy> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(error) => error.remedy(),
            _ => None,
        }
    }

    /// Whether a GPU has too little memory, or RAM for transfers to it.
    pub fn is_gpu_memory(&self) -> bool {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(error) => matches!(**error, crate::cuda::CudaError::Memory(_)),
            _ => false,
        }
    }

    /// Whether a GPU or its driver is the cause.
    pub fn is_gpu(&self) -> bool {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => true,
            Self::NoGpuSupport => true,
            _ => false,
        }
    }
}

#[cfg(feature = "cuda")]
impl From<crate::cuda::CudaError> for Error {
    fn from(error: crate::cuda::CudaError) -> Self {
        Self::Cuda(Box::new(error))
    }
}
