//! Matrices in a card's memory, as planes (`kernels/decode.cuh`).

use quern_tensor_io::ElementType;

use super::formats::Format;
use super::vector::Region;
use super::{Card, Pointer};
use crate::Result;

/// Most planes of a format.
pub(super) const PLANES: usize = 5;

/// A matrix.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) region: Region,
}

impl Matrix {
    /// Bytes that a matrix of this type and shape takes on a card; `None` if the type has no kernels there.
    pub fn bytes_of(element_type: ElementType, rows: usize, columns: usize) -> usize {
        Format::of(element_type).bytes(rows, columns)
    }

    /// Its planes, as kernels take them, from row `first` on.
    pub(super) fn planes(&self, first: usize) -> [Pointer; PLANES] {
        let mut planes = [Pointer::NULL; PLANES];
        let start = self.region.pointer();
        for (pointer, plane) in planes.iter_mut().zip(self.format.planes(self.rows, self.columns)) {
            *pointer = start.at(plane.offset + first * plane.row_bytes);
        }
        planes
    }

    /// Refuses a matrix of another card.
    pub(super) fn on(&self, card: &Card) -> Result<&Self> {
        self.region.on(card)?;
        Ok(self)
    }
}
