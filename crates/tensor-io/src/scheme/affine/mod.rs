//! Layers of integer codes with a scale and a zero point by group of columns: GPTQ, AWQ and compressed-tensors.
//!
//! ```text
//!            GPTQ, b bits             AWQ, 4 bits                           compressed-tensors, b bits
//! qweight    [in b/32][out],          [in][out/8], codes along a row, a     [out][in b/32],
//!            codes down               word's eight in the order             codes along a row
//!                                     0 2 4 6 1 3 5 7
//! qzeros     [groups][out b/32],      [groups][out/8], in that order too    [out b/32][groups],
//!            along a row                                                    codes down
//! scales     [groups][out]            [groups][out]                         [out][groups]
//!
//! W[o, k] = scales[g, o] (q[k, o] - z[g, o]),  g = the group of column k
//! ```
//!
//! The first two store a column's codes of neighbouring outputs side by side, but blocks need an output's codes
//! of neighbouring columns. So [`TILE`] outputs are read at a time, 32 columns by 32 columns: whole cache lines
//! are read, and the codes are transposed in the first-level cache.

mod blocks;
mod exact;
mod gather;
mod view;

use std::ops::{Range, RangeInclusive};

pub use view::AffineLayer;

use super::BlockForm;
use super::stream::{self, Place, mask};
use crate::{Checkpoint, ElementType};

/// Outputs taken at a time. Each column's codes are on a page of their own: many outputs a visit keep the cost of
/// address translation down.
pub(super) const TILE: usize = 256;

/// Columns of a block.
pub(super) const RUN: usize = 32;

/// Codes of a run of columns: `[RUN][TILE]`.
pub(super) type Codes = [[u8; TILE]; RUN];

/// How codes are packed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Layout {
    Gptq {
        bits: u32,
        /// Zero points as they are, not less one.
        v2: bool,
    },
    Awq,
    /// compressed-tensors: an output's codes in a row.
    Rows {
        bits: u32,
        /// No code spans two words.
        padded: bool,
    },
}

/// Which group a column belongs to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Groups {
    /// Column `k` to group `k / size`.
    Even(usize),
    /// As `g_idx` says, every entry below the number of groups.
    Listed(Vec<u32>),
}

/// The order in which a layer's columns make blocks that are within one group each.
#[derive(Debug)]
pub(super) enum Order {
    /// As they are.
    Kept,
    /// Sorted by group: column `j` is column `order[j]` of the layer.
    Sorted(Vec<u32>),
    /// In none.
    None,
}

/// A layer, its tensors given by their indices in [`Checkpoint::tensors`], shapes and types checked.
#[derive(Debug)]
pub(super) struct Affine {
    pub layout: Layout,
    pub rows: usize,
    pub columns: usize,
    pub group_count: usize,
    pub groups: Groups,
    pub qweight: usize,
    /// Looked at only where zero points differ.
    pub qzeros: usize,
    pub scales: usize,
    /// The zero point, where all are the same.
    pub zero: Option<u8>,
}

impl Layout {
    pub fn is_gptq(self) -> bool {
        matches!(self, Self::Gptq { .. })
    }

    /// Place of code `k` in its stream, of [`Layout::Rows`].
    fn place(bits: u32, padded: bool, k: usize) -> Place {
        match padded {
            false => stream::place(k, bits),
            true => stream::padded_place(k, bits),
        }
    }
}

impl Affine {
    pub fn bits(&self) -> u32 {
        match self.layout {
            Layout::Gptq { bits, .. } | Layout::Rows { bits, .. } => bits,
            Layout::Awq => 4,
        }
    }

    /// Whether zero points are all in the middle.
    pub fn symmetric(&self) -> bool {
        self.zero == Some(1 << (self.bits() - 1))
    }

    /// The group of a column.
    pub fn group(&self, column: usize) -> usize {
        match &self.groups {
            Groups::Even(size) => column / size,
            Groups::Listed(groups) => groups[column] as usize,
        }
    }

    pub fn decode(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [f32]) {
        let mut codes = [[0; TILE]; RUN];
        for (tile, out) in tiles(rows).zip(out.chunks_mut(TILE * self.columns)) {
            let parameters = self.parameters(checkpoint, &tile);
            let width = tile.len();
            for first in (0..self.columns).step_by(RUN) {
                let columns = first..self.columns.min(first + RUN);
                self.codes(checkpoint, &tile, columns.clone(), &mut codes);
                let groups: Vec<_> = columns.clone().map(|k| self.group(k) * width).collect();
                let one_group = groups.iter().all(|g| *g == groups[0]);
                for (o, row) in (0..TILE).zip(out.chunks_exact_mut(self.columns)) {
                    let own: [u8; RUN] = std::array::from_fn(|c| codes[c][o]);
                    let values = row[columns.clone()].iter_mut().zip(&own);
                    if one_group {
                        let at = groups[0] + o;
                        let (scale, zero) = (parameters.scales[at], i16::from(parameters.zeros[at]));
                        values.for_each(|(v, q)| *v = scale * f32::from(i16::from(*q) - zero));
                    } else {
                        for ((v, q), group) in values.zip(&groups) {
                            let zero = i16::from(parameters.zeros[group + o]);
                            *v = parameters.scales[group + o] * f32::from(i16::from(*q) - zero);
                        }
                    }
                }
            }
        }
    }

    pub fn block_form(&self) -> BlockForm {
        let plain =
            BlockForm { element_type: ElementType::F16, exact: false, permutation: None, factor: 1.0 };
        if !self.columns.is_multiple_of(RUN) {
            return plain;
        }
        let permutation = match self.order() {
            Order::Kept => None,
            Order::Sorted(order) => Some(order),
            Order::None => return plain,
        };
        let zeros = self.zero.map_or(0..=mask(self.bits()), |zero| zero..=zero);
        let element_type = match (fitting(&self.differences(zeros)), self.bits()) {
            (Some(ElementType::Q4_0), _) => ElementType::Q4_0,
            (_, 4) => ElementType::Q4_1,
            (Some(fitting), _) => fitting,
            (None, _) => return plain,
        };
        BlockForm { element_type, exact: true, permutation, factor: 1.0 }
    }

    /// How blocks of 32 columns, all of them full, are arranged within groups.
    fn order(&self) -> Order {
        if self.group_count == 1 {
            return Order::Kept;
        }
        match &self.groups {
            Groups::Even(size) if size.is_multiple_of(RUN) => Order::Kept,
            Groups::Even(_) => Order::None,
            Groups::Listed(groups) => {
                if groups.chunks(RUN).all(|run| run.iter().all(|g| *g == run[0])) {
                    return Order::Kept;
                }
                let mut order: Vec<u32> = (0..self.columns as u32).collect();
                order.sort_by_key(|&k| groups[k as usize]);
                let group = |k: &u32| groups[*k as usize];
                match order.chunks_exact(RUN).all(|run| group(&run[0]) == group(&run[RUN - 1])) {
                    true => Order::Sorted(order),
                    false => Order::None,
                }
            }
        }
    }

    /// What `q - z` can be where zero points are in `zeros`.
    fn differences(&self, zeros: RangeInclusive<u8>) -> RangeInclusive<i16> {
        let [least, most, mask] = [*zeros.start(), *zeros.end(), mask(self.bits())].map(i16::from);
        -most..=mask - least
    }
}

/// The smallest block type of one scale that holds these steps.
fn fitting(steps: &RangeInclusive<i16>) -> Option<ElementType> {
    let within = |least, most| *steps.start() >= least && *steps.end() <= most;
    match () {
        _ if within(-8, 7) => Some(ElementType::Q4_0),
        _ if within(-16, 15) => Some(ElementType::Q5_0),
        _ if within(-128, 127) => Some(ElementType::Q8_0),
        _ => None,
    }
}

/// `rows` in pieces of at most [`TILE`].
pub(super) fn tiles(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(TILE).map(move |start| start..end.min(start + TILE))
}
