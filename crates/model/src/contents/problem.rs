//! What is wrong with a checkpoint's tensors, each with its file.

use std::fmt;
use std::path::{Path, PathBuf};

use quern_tensor_io::scheme::PackedLayer;
use quern_tensor_io::{Checkpoint, ElementType, Error, Remedy, Result};

use crate::config::ExpectedTensor;

/// One thing that is wrong with the tensors of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The tensor, as the file (or, where it is missing, the architecture) spells it.
    pub tensor: String,
    /// The file that holds it, or should.
    pub file: PathBuf,
    /// What is wrong.
    pub kind: ProblemKind,
}

/// What is wrong with a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The configuration demands it with this shape, and it is not there.
    Missing {
        /// Dimensions, outermost first.
        shape: Vec<usize>,
    },
    /// It has another shape than the configuration demands.
    Shape {
        /// Dimensions in the file, outermost first.
        found: Vec<usize>,
        /// Dimensions by the configuration.
        demanded: Vec<usize>,
    },
    /// It should hold floating-point numbers.
    NotFloat(ElementType),
    /// Its rows are not whole blocks of its type.
    PartialBlocks(ElementType),
    /// It is packed, with queries, keys and values of each key head together.
    PackedTogether,
    /// A bias that such a model does not have, and that is not all zero.
    Bias {
        /// The architecture.
        architecture: &'static str,
    },
    /// The first of several tensors in layers that the configuration does not have.
    Beyond {
        /// How many tensors there are.
        tensors: usize,
        /// Layers by the configuration.
        layers: usize,
        /// The number of layers in the tensors' names.
        found: usize,
        /// The key of the configuration that gives their number.
        key: &'static str,
    },
    /// The file also holds the same tensor under another spelling, with other values.
    Twice {
        /// The other spelling.
        other: String,
    },
    /// Such a model has no such tensor.
    Unknown {
        /// The architecture.
        architecture: &'static str,
        /// Layers by the configuration.
        layers: usize,
    },
}

impl Problem {
    pub(super) fn missing(checkpoint: &Checkpoint, want: &ExpectedTensor) -> Self {
        // With several shards it is not known which one lacks it.
        let file = match checkpoint.files() {
            [file] => file,
            _ => checkpoint.path(),
        };
        let kind = ProblemKind::Missing { shape: want.shape.clone() };
        Self { tensor: want.name.clone(), file: file.to_path_buf(), kind }
    }

    pub(super) fn shape(tensor: &str, file: &Path, found: &[usize], demanded: &[usize]) -> Self {
        let kind = ProblemKind::Shape { found: found.to_vec(), demanded: demanded.to_vec() };
        Self { tensor: tensor.to_owned(), file: file.to_path_buf(), kind }
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { shape } => {
                write!(f, "it is missing; the configuration demands it with shape {shape:?}")
            }
            Self::Shape { found, demanded } => {
                write!(f, "its shape is {found:?}, the configuration demands {demanded:?}")
            }
            Self::NotFloat(found) => write!(f, "its type is {found}, a floating-point type is expected"),
            Self::PackedTogether => f.write_str(
                "queries, keys and values are packed as one layer, the rows of each key head together, which is not read; \
                 start from the original weights",
            ),
            Self::PartialBlocks(found) => write!(f, "its rows are not whole blocks of {found}"),
            Self::Bias { architecture } => write!(
                f,
                "a {architecture} model of this configuration has no such bias, and its values are not zero: leaving \
                 it out would change the results"
            ),
            Self::Beyond { tensors, layers, found, key } => write!(
                f,
                "the configuration has {layers} layers, the file holds {tensors} tensors of layers up to number {}; \
                 set {key} to {found}, or remove them",
                found - 1
            ),
            Self::Twice { other } => {
                write!(f, "the file holds the same tensor as {other:?} too, with other values")
            }
            Self::Unknown { architecture, layers } => {
                write!(f, "a {architecture} model of {layers} layers has no such tensor")
            }
        }
    }
}

/// The file that holds a packed layer.
pub(super) fn file_of_layer<'c>(checkpoint: &'c Checkpoint, layer: &PackedLayer) -> &'c Path {
    let first = layer.parts.first().and_then(|&part| checkpoint.tensors().get(part));
    first.map_or(checkpoint.path(), |info| checkpoint.file_of(info))
}

/// The first of some problems as an error, with the number of the others.
pub(super) fn first(checkpoint: &Checkpoint, problems: &[Problem]) -> Result<()> {
    let Some(first) = problems.first() else { return Ok(()) };
    let others = match problems.len() - 1 {
        0 => String::new(),
        n => format!(" ({n} more of its tensors are missing, misshapen or unknown)"),
    };
    let missing = problems.iter().filter(|p| matches!(p.kind, ProblemKind::Missing { .. }));
    let unknown = problems.iter().find(|p| matches!(p.kind, ProblemKind::Unknown { .. }));
    // Where many are missing and many unknown, the names are the problem.
    let foreign = unknown.filter(|_| missing.count() * 2 > checkpoint.tensors().len());
    let names = foreign.map_or_else(String::new, |p| {
        format!("; the tensors have names of another kind, such as {:?}", p.tensor)
    });
    let what = format!("{}{names}{others}", first.kind);
    let error = Error::malformed(&first.file, what).with_tensor(&first.tensor);
    Err(if others.is_empty() { error } else { error.with_remedy(Remedy::ListProblems) })
}
