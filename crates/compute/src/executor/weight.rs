//! Parameters of a model, bound to the device that computes with them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use quern_tensor_io::ElementType;

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::{Error, Matrix, Result, Scales};

/// Bytes that stay valid as long as this is held: a part of a memory map, or of a vector.
pub trait Bytes: Send + Sync {
    /// The bytes; always the same.
    fn bytes(&self) -> &[u8];
}

impl Bytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A matrix, `rows` outputs of `columns` inputs.
#[derive(Clone, Debug)]
pub struct Weight {
    element_type: ElementType,
    rows: usize,
    columns: usize,
    storage: Storage,
    /// What the numbers in RAM are multiplied with. On a GPU they are multiplied already.
    scales: Option<Arc<Scales>>,
}

#[derive(Clone)]
enum Storage {
    Host {
        owner: Arc<dyn Bytes>,
        range: Range<usize>,
    },
    #[cfg(feature = "cuda")]
    Cuda(Arc<cuda::Matrix>),
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { range, .. } => write!(f, "Host({range:?})"),
            #[cfg(feature = "cuda")]
            Self::Cuda(matrix) => matrix.fmt(f),
        }
    }
}

impl Weight {
    /// A matrix in RAM: bytes `range` of `owner`.
    ///
    /// # Errors
    /// As [`Matrix::new`]; [`Error::Shape`] too if the range ends beyond the bytes.
    pub fn host(
        element_type: ElementType,
        rows: usize,
        columns: usize,
        owner: Arc<dyn Bytes>,
        range: Range<usize>,
    ) -> Result<Self> {
        let bytes = range.len();
        let data = owner.bytes().get(range.clone());
        let data = data.ok_or(Error::Shape { element_type, rows, columns, bytes })?;
        Matrix::new(element_type, rows, columns, data)?;
        Ok(Self { element_type, rows, columns, storage: Storage::Host { owner, range }, scales: None })
    }

    /// The same numbers in RAM, times these scales.
    ///
    /// # Errors
    /// As [`Matrix::with_scales`]; [`Error::Device`] if the matrix is on a GPU.
    pub fn with_scales(self, scales: Arc<Scales>) -> Result<Self> {
        self.matrix()?.with_scales(&scales)?;
        Ok(Self { scales: Some(scales), ..self })
    }

    /// What the numbers are multiplied with, if they are.
    pub fn scales(&self) -> Option<&Arc<Scales>> {
        self.scales.as_ref()
    }

    /// The type that the numbers have on a GPU before they are stored as [`crate::bytes_of_matrix`] counts them: blocks
    /// with scales are multiplied out.
    pub fn device_type(&self) -> ElementType {
        match &self.scales {
            Some(_) if self.element_type.is_block() => ElementType::F16,
            _ => self.element_type,
        }
    }

    /// How the numbers are stored in the file.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The matrix in RAM.
    ///
    /// # Errors
    /// [`Error::Device`] if it is on a GPU.
    pub fn matrix(&self) -> Result<Matrix<'_>> {
        match &self.storage {
            Storage::Host { owner, range } => {
                let data = &owner.bytes()[range.clone()];
                let matrix = Matrix::checked(self.element_type, self.rows, self.columns, data);
                match &self.scales {
                    None => Ok(matrix),
                    Some(scales) => matrix.with_scales(scales),
                }
            }
            #[cfg(feature = "cuda")]
            Storage::Cuda(_) => Err(Error::Device),
        }
    }

    /// The matrix on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda(&self) -> Result<&cuda::Matrix> {
        match &self.storage {
            Storage::Host { .. } => Err(Error::Device),
            Storage::Cuda(matrix) => Ok(matrix),
        }
    }

    /// This matrix, which is in RAM, on a GPU.
    ///
    /// # Errors
    /// [`Error::Cuda`] if the GPU has no memory for it.
    #[cfg(feature = "cuda")]
    pub fn upload(&self, loader: &mut cuda::Loader) -> Result<Self> {
        Ok(self.moved(loader.matrix(&self.matrix()?)?))
    }

    /// The same, where it was moved to a GPU.
    #[cfg(feature = "cuda")]
    pub(super) fn moved(&self, matrix: cuda::Matrix) -> Self {
        Self { storage: Storage::Cuda(Arc::new(matrix)), scales: None, ..*self }
    }
}

/// A vector of parameters.
#[derive(Clone, Debug)]
pub enum Vector {
    /// In RAM.
    Host(Arc<[f32]>),
    /// In a GPU's memory.
    #[cfg(feature = "cuda")]
    Cuda(cuda::Region),
}

impl From<Vec<f32>> for Vector {
    fn from(values: Vec<f32>) -> Self {
        Self::Host(values.into())
    }
}

impl Vector {
    /// How many numbers.
    pub fn len(&self) -> usize {
        match self {
            Self::Host(values) => values.len(),
            #[cfg(feature = "cuda")]
            Self::Cuda(region) => region.bytes() / 4,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers in RAM.
    ///
    /// # Errors
    /// [`Error::Device`] if they are on a GPU.
    pub fn host(&self) -> Result<&[f32]> {
        match self {
            Self::Host(values) => Ok(values),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Err(Error::Device),
        }
    }

    /// The numbers on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda(&self) -> Result<&cuda::Region> {
        match self {
            Self::Host(_) => Err(Error::Device),
            Self::Cuda(values) => Ok(values),
        }
    }

    /// These numbers on a GPU; where they are already, they stay.
    ///
    /// # Errors
    /// As [`Weight::upload`].
    #[cfg(feature = "cuda")]
    pub fn upload(&self, loader: &mut cuda::Loader) -> Result<Self> {
        match self {
            Self::Host(values) => Ok(Self::Cuda(loader.floats(values)?)),
            // Already there: the loader's card is checked where the vector is used.
            Self::Cuda(region) => Ok(Self::Cuda(region.clone())),
        }
    }
}

/// An order of columns.
#[derive(Clone, Debug)]
pub enum Permutation {
    /// In RAM.
    Host(Arc<[u32]>),
    /// In a GPU's memory.
    #[cfg(feature = "cuda")]
    Cuda(cuda::Region),
}

impl Permutation {
    /// The order in RAM.
    ///
    /// # Errors
    /// [`Error::Device`] if it is on a GPU.
    pub fn host(&self) -> Result<&Arc<[u32]>> {
        match self {
            Self::Host(order) => Ok(order),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Err(Error::Device),
        }
    }

    /// The order on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda(&self) -> Result<&cuda::Region> {
        match self {
            Self::Host(_) => Err(Error::Device),
            Self::Cuda(order) => Ok(order),
        }
    }

    /// This order on a GPU.
    ///
    /// # Errors
    /// As [`Weight::upload`].
    #[cfg(feature = "cuda")]
    pub fn upload(&self, loader: &mut cuda::Loader) -> Result<Self> {
        Ok(Self::Cuda(loader.indices(self.host()?)?))
    }
}

/// A linear layer: `y = W x (+ b)`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `W`.
    pub weight: Weight,
    /// `b`.
    pub bias: Option<Vector>,
    /// Column `j` of the weight multiplies value `permutation[j]` of the input (act-order GPTQ).
    pub permutation: Option<Permutation>,
}

impl Linear {
    /// Its bias on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda_bias(&self) -> Result<Option<&cuda::Region>> {
        self.bias.as_ref().map(Vector::cuda).transpose()
    }

    /// Its order of columns on a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda_permutation(&self) -> Result<Option<&cuda::Region>> {
        self.permutation.as_ref().map(Permutation::cuda).transpose()
    }

    /// This layer on a GPU.
    ///
    /// # Errors
    /// As [`Weight::upload`].
    #[cfg(feature = "cuda")]
    pub fn upload(&self, loader: &mut cuda::Loader) -> Result<Self> {
        Ok(Self {
            weight: self.weight.upload(loader)?,
            bias: self.bias.as_ref().map(|bias| bias.upload(loader)).transpose()?,
            permutation: self.permutation.as_ref().map(|order| order.upload(loader)).transpose()?,
        })
    }
}

/// What a norm computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / rms(x)` (Zhang and Sennrich 2019).
    Rms,
    /// `(x - mean) / deviation` (Ba et al. 2016).
    Layer,
}

/// A norm with its parameters.
#[derive(Clone, Debug)]
pub struct Norm {
    /// What it computes.
    pub kind: NormKind,
    /// Added to the mean square or variance.
    pub epsilon: f32,
    /// What each number is multiplied with afterwards.
    pub weight: Vector,
    /// What is added to it.
    pub bias: Option<Vector>,
}

impl Norm {
    /// This norm on a GPU.
    ///
    /// # Errors
    /// As [`Weight::upload`].
    #[cfg(feature = "cuda")]
    pub fn upload(&self, loader: &mut cuda::Loader) -> Result<Self> {
        Ok(Self {
            weight: self.weight.upload(loader)?,
            bias: self.bias.as_ref().map(|bias| bias.upload(loader)).transpose()?,
            ..*self
        })
    }
}
