//! Matrices in a card's memory, as planes (`kernels/decode.cuh`).

use quern_tensor_io::ElementType;

use super::formats::{Format, MAX_PLANES};
use super::vector::Region;
use super::{Card, Pointer};
use crate::{Error, Matrix as HostMatrix, Result};

/// Shared memory that the matrix-vector kernels declare themselves, at most.
const STATIC_SHARED: usize = 17 << 10;

/// A matrix.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// How the numbers are stored on the card.
    pub(super) element_type: ElementType,
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) region: Region,
    /// First row in the matrices that share the region, and rows of all of them ([`super::Loader::stack`]).
    pub(super) place: (usize, usize),
}

/// The type that numbers of a type are stored as on a card: their own, or the smallest that holds them all.
///
/// # Errors
/// [`Error::Unsupported`] for types that are no weights.
pub(super) fn stored(element_type: ElementType) -> Result<(ElementType, Format)> {
    use ElementType as T;
    let stored = match element_type {
        T::F8E4M3 | T::F8E5M2 => T::F16,
        T::F64 | T::I8 | T::I16 | T::I32 | T::I64 | T::U8 | T::U16 | T::U32 | T::U64 | T::Bool => T::F32,
        other => other,
    };
    let format = Format::of(stored).ok_or(Error::Unsupported { element_type })?;
    Ok((stored, format))
}

/// The same of a matrix: scales beside the numbers are multiplied with them, which blocks cannot store.
///
/// # Errors
/// As [`stored`].
pub(super) fn stored_matrix(matrix: &HostMatrix<'_>) -> Result<(ElementType, Format)> {
    match matrix.scales() {
        Some(_) if matrix.element_type().is_block() => stored(ElementType::F16),
        _ => stored(matrix.element_type()),
    }
}

impl Matrix {
    /// Bytes that a matrix of this type and shape takes on a card; the largest number if they cannot be counted, or the
    /// type has no kernels there.
    pub fn bytes_of(element_type: ElementType, rows: usize, columns: usize) -> usize {
        let format = stored(element_type).ok().map(|(_, format)| format);
        format.and_then(|format| format.bytes(rows, columns)).unwrap_or(usize::MAX)
    }

    /// Its planes, as kernels take them, from row `first` on.
    pub(super) fn planes(&self, first: usize) -> [Pointer; MAX_PLANES] {
        let mut planes = [Pointer::NULL; MAX_PLANES];
        let padded = self.format.padded(self.columns);
        let (before, all) = self.place;
        let (starts, _) = self.format.layout(all, self.columns).unwrap_or_default();
        for ((pointer, plane), start) in planes.iter_mut().zip(self.format.planes()).zip(starts) {
            let row = padded / plane.values * plane.bytes;
            *pointer = self.region.pointer().at(start + (before + first) * row);
        }
        planes
    }

    /// Whether it is number `index` of the matrices of one shape that `first` begins.
    pub(crate) fn follows(&self, first: &Self, index: usize) -> bool {
        let (own, other) = (self.place, first.place);
        self.region.pointer() == first.region.pointer()
            && (self.format, self.rows, self.columns) == (first.format, first.rows, first.columns)
            && own == (other.0 + index * self.rows, other.1)
    }

    /// Whether it can be the gate of `up` in one launch.
    pub(crate) fn pairs_with(&self, up: &Self) -> bool {
        (self.format, self.rows, self.columns) == (up.format, up.rows, up.columns)
    }

    /// How many inputs a matrix-vector launch takes at once; 0 if one does not fit into a block's shared memory.
    pub(crate) fn most_vectors(&self) -> usize {
        let shared = self.region.card().info().shared_memory.saturating_sub(STATIC_SHARED);
        self.format.matvec_vectors(self.columns, shared)
    }

    /// Refuses a matrix of another card.
    pub(super) fn on(&self, card: &Card) -> Result<&Self> {
        self.region.on(card)?;
        Ok(self)
    }
}
