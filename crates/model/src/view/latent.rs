//! Keys' and values' projections of latent attention, which the formats divide differently.
//!
//! ```text
//! Hugging Face   kv_b_proj   [heads * (nope + value)][rank]     keys, then values of each head
//! GGUF           attn_k_b    [heads][rank][nope]                each head's keys, transposed
//!                attn_v_b    [heads][value][rank]
//! ```
//!
//! Plain numbers keep their type; blocks and packed layers are decoded where their rows are columns of the other
//! format.

use std::ops::Range;

use quern_tensor_io::{Checkpoint, ElementType, Result, TensorInfo, decode};

use crate::Config;
use crate::config::ExpectedTensor;

use super::View;
use super::ViewTensor;
use super::data::{Data, Part, unpack};
use super::values::{tensor_of, undecodable};

/// Numbers of the rows of one head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    rank: usize,
    nope: usize,
    value: usize,
}

impl Sizes {
    pub fn of(config: &Config) -> Option<Self> {
        let latent = config.latent?;
        Some(Self { rank: latent.rank, nope: latent.nope_dim, value: latent.value_dim })
    }

    fn head(self) -> usize {
        self.nope + self.value
    }
}

/// Rows of keys in Hugging Face's layout, as GGUF has them.
#[derive(Debug)]
pub(super) struct Keys<'a> {
    /// All rows of keys and values.
    pub part: Part<'a>,
    /// How the source stores them; `f32` for packed layers.
    pub stored: ElementType,
    pub sizes: Sizes,
}

/// GGUF's keys and values, as Hugging Face has them.
#[derive(Debug)]
pub(super) struct Both<'a> {
    keys: &'a [u8],
    keys_type: ElementType,
    values: &'a [u8],
    values_type: ElementType,
    sizes: Sizes,
}

/// The type of what is made of numbers stored as `stored`.
pub(super) fn made_of(stored: ElementType) -> ElementType {
    if stored.is_block() { ElementType::F32 } else { stored }
}

impl<'a> Keys<'a> {
    /// The rows `rows` of `[heads * rank][nope]`, in the type that is made.
    pub fn read(&self, view: &View<'_>, rows: Range<usize>, out: &mut [u8]) {
        let Sizes { rank, nope, .. } = self.sizes;
        let size = made_of(self.stored).block_bytes();
        let mut rest = out;
        let mut at = rows.start;
        while at < rows.end {
            let (head, start) = (at / rank, at % rank);
            let end = rank.min(start + rows.end - at);
            let own = head * self.sizes.head()..head * self.sizes.head() + nope;
            let source = self.rows(view, own);
            let (out, others) = rest.split_at_mut((end - start) * nope * size);
            for (column, out) in (start..end).zip(out.chunks_exact_mut(nope * size)) {
                for (row, out) in out.chunks_exact_mut(size).enumerate() {
                    out.copy_from_slice(&source[(row * rank + column) * size..][..size]);
                }
            }
            rest = others;
            at += end - start;
        }
    }

    /// Some rows of the source, in the type that is made.
    fn rows(&self, view: &View<'_>, rows: Range<usize>) -> Vec<u8> {
        let rank = self.sizes.rank;
        match &self.part {
            Part::Bytes(data) => {
                let bytes = self.stored.row_bytes(rank).unwrap_or_default();
                as_made(self.stored, &data[rows.start * bytes..rows.end * bytes], rows.len() * rank)
            }
            Part::Woven { data, woven, stored } => {
                let mut gathered = vec![0; rows.len() * rank * stored.block_bytes()];
                woven.gather(data, rows, (rank, stored.block_bytes()), &mut gathered);
                gathered
            }
            Part::Packed { layer, first, .. } => {
                let rows = first + rows.start..first + rows.end;
                match view.packing.as_ref().and_then(|p| p.layers().get(*layer)) {
                    Some(layer) => unpack(view.checkpoint, layer, None, rows, rank * 4),
                    None => vec![0; rows.len() * rank * 4],
                }
            }
        }
    }
}

impl<'a> Both<'a> {
    /// The tensor `want` of Hugging Face, made of two of GGUF's.
    pub fn tensor(
        checkpoint: &'a Checkpoint,
        config: &Config,
        want: &ExpectedTensor,
        (keys, values): (&'a TensorInfo, &'a TensorInfo),
    ) -> Result<Option<(ViewTensor, Data<'a>)>> {
        let Some(sizes) = Sizes::of(config) else { return Ok(None) };
        for info in [keys, values] {
            if !decode::can_decode(info.element_type) {
                return Err(undecodable(checkpoint, info));
            }
        }
        let made = Self {
            keys: checkpoint.data(keys),
            keys_type: keys.element_type,
            values: checkpoint.data(values),
            values_type: values.element_type,
            sizes,
        };
        let names = vec![keys.name.clone(), values.name.clone()];
        Ok(Some((tensor_of(want, made.element_type(), names), Data::LatentBoth(made))))
    }

    /// The type of its rows: that of both, if they are plain numbers of the same.
    fn element_type(&self) -> ElementType {
        match self.keys_type == self.values_type {
            true => made_of(self.keys_type),
            false => ElementType::F32,
        }
    }

    /// The rows `rows` of `[heads * (nope + value)][rank]`.
    pub fn read(&self, rows: Range<usize>, out: &mut [u8]) {
        let Sizes { rank, nope, value } = self.sizes;
        let made = self.element_type();
        let size = made.block_bytes();
        let part = |stored: ElementType, data: &[u8], rows: Range<usize>, columns: usize| {
            let bytes = stored.row_bytes(columns).unwrap_or_default();
            let data = &data[rows.start * bytes..rows.end * bytes];
            if stored == made { data.to_vec() } else { as_f32(stored, data, rows.len() * columns) }
        };
        let mut of_head: Option<(usize, Vec<u8>)> = None;
        for (row, out) in rows.zip(out.chunks_exact_mut((rank * size).max(1))) {
            let (head, within) = (row / (nope + value), row % (nope + value));
            if let Some(within) = within.checked_sub(nope) {
                let at = head * value + within;
                out.copy_from_slice(&part(self.values_type, self.values, at..at + 1, rank));
                continue;
            }
            if of_head.as_ref().is_none_or(|(known, _)| *known != head) {
                let keys = part(self.keys_type, self.keys, head * rank..(head + 1) * rank, nope);
                of_head = Some((head, keys));
            }
            let keys = of_head.as_ref().map_or(&[] as &[u8], |(_, keys)| keys);
            for (column, out) in out.chunks_exact_mut(size).enumerate() {
                out.copy_from_slice(&keys[(column * nope + within) * size..][..size]);
            }
        }
    }

    /// All bytes that it is made of.
    pub fn spans(&self) -> Vec<&'a [u8]> {
        vec![self.keys, self.values]
    }
}

/// Plain numbers as they are, blocks in f32.
fn as_made(stored: ElementType, data: &[u8], count: usize) -> Vec<u8> {
    if stored.is_block() { as_f32(stored, data, count) } else { data.to_vec() }
}

fn as_f32(stored: ElementType, data: &[u8], count: usize) -> Vec<u8> {
    let mut values = vec![0f32; count];
    // Types without decoder were refused when the view was made.
    let _ = decode::to_f32(stored, data, &mut values);
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
