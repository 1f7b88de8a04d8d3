//! The sources of a view's rows.

use std::ops::Range;

use quern_tensor_io::scheme::{ExactForm, PackedLayer};
use quern_tensor_io::{Checkpoint, ElementType, decode};

use crate::contents::Woven;

use super::fused::Fused;
use super::joined::Joined;
use super::multiplied::Multiplied;
use super::order::RowOrder;
use super::{View, ViewTensor};
use super::{latent, mxfp4};

/// A tensor's rows.
#[derive(Debug)]
pub(super) enum Data<'a> {
    /// Rows of one or several sources of the same height, one after the other, in an order of their own.
    Rows { parts: Vec<Part<'a>>, order: Option<RowOrder> },
    /// The columns of a matrix of plain values, or of rows of blocks.
    Transposed { data: &'a [u8], stored: ElementType },
    /// Matrices or vectors of parts and roles in turn, as one tensor has them ([`super::fused`]).
    Fused(Fused<'a>),
    /// Codes or scales of such parts in MXFP4.
    Mxfp4(mxfp4::Split<'a>),
    /// Rows whose values are in another order; of blocks and packed layers, decoded.
    Columns { part: Part<'a>, stored: ElementType, order: RowOrder },
    /// Keys' projection of latent attention, each head's transposed.
    LatentKeys(latent::Keys<'a>),
    /// Keys' and values' projections of latent attention in one matrix.
    LatentBoth(latent::Both<'a>),
    /// A matrix made of the rows of others.
    Joined(Joined<'a>),
    /// Rows times numbers of the configuration.
    Multiplied(Multiplied<'a>),
    /// Plain rows in the map, and rows of zeros behind them.
    Padded(&'a [u8]),
    /// Heads of several sources in turn, of so many rows each, in an order of their own.
    Heads { parts: Vec<(Part<'a>, Option<RowOrder>)>, height: usize },
    /// Computed, small.
    Owned(Vec<u8>),
}

/// One source of rows.
#[derive(Debug)]
pub(super) enum Part<'a> {
    /// In the map.
    Bytes(&'a [u8]),
    /// In the map at even distances: of a span's bytes, values of this type.
    Woven { data: &'a [u8], woven: Woven, stored: ElementType },
    /// Rows of a packed layer of [`View::packing`] from `first` on, decoded to f32 or, with a form, to blocks.
    Packed { layer: usize, first: usize, form: Option<ExactForm> },
}

impl<'a> Data<'a> {
    /// Bytes in the map, in order.
    pub fn plain(data: &'a [u8]) -> Self {
        Self::Rows { parts: vec![Part::Bytes(data)], order: None }
    }

    pub fn contiguous(&self) -> Option<&[u8]> {
        match self {
            Self::Rows { parts, order: None } => match parts.as_slice() {
                [Part::Bytes(data)] => Some(data),
                _ => None,
            },
            Self::Owned(data) => Some(data),
            _ => None,
        }
    }

    /// The source's row of each of a matrix's rows, of `rows` in all parts together; `None` if they are the same.
    pub fn order(&self, rows: usize) -> Option<Vec<u32>> {
        let Self::Rows { parts, order: Some(order) } = self else { return None };
        let height = rows / parts.len().max(1);
        Some((0..height).map(|row| order.source(row) as u32).collect())
    }

    /// What each of a matrix's rows is multiplied with; `None` if they are as the source has them.
    pub fn row_factors(&self, rows: usize) -> Option<Vec<f32>> {
        let Self::Multiplied(multiplied) = self else { return None };
        Some((0..rows).map(|row| multiplied.factor(row)).collect())
    }

    /// The source's column of each of a row's columns; `None` if they are the same.
    pub fn column_order(&self, columns: usize) -> Option<Vec<u32>> {
        let Self::Columns { order, .. } = self else { return None };
        Some((0..columns).map(|column| order.source(column) as u32).collect())
    }

    pub fn read(&self, view: &View<'_>, tensor: &ViewTensor, rows: Range<usize>, out: &mut [u8]) {
        let row_bytes = tensor.row_bytes;
        match self {
            Self::Owned(data) => out.copy_from_slice(&data[rows.start * row_bytes..rows.end * row_bytes]),
            Self::Padded(data) => {
                let [start, end] = [rows.start, rows.end].map(|row| (row * row_bytes).min(data.len()));
                let (own, rest) = out.split_at_mut(end - start);
                own.copy_from_slice(&data[start..end]);
                rest.fill(0);
            }
            Self::Fused(fused) => fused.read(view, rows, out),
            Self::Mxfp4(split) => split.read(rows, out),
            Self::Transposed { data, stored } if !stored.is_block() => {
                let (columns, size) = (tensor.columns(), stored.block_bytes());
                let height = tensor.rows();
                for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes.max(1))) {
                    for (column, out) in (0..columns).zip(out.chunks_exact_mut(size)) {
                        let at = (column * height + row) * size;
                        out.copy_from_slice(&data[at..at + size]);
                    }
                }
            }
            // Blocks run along the source's rows: every one of them is decoded for the values it has here.
            Self::Transposed { data, stored } => {
                let columns = tensor.columns();
                let source_bytes = data.len() / columns.max(1);
                let mut values = vec![0.0; tensor.rows()];
                for (column, source) in data.chunks_exact(source_bytes.max(1)).enumerate() {
                    // Types without decoder were refused when the view was made.
                    let _ = decode::to_f32(*stored, source, &mut values);
                    for (place, row) in rows.clone().enumerate() {
                        let at = (place * columns + column) * 4;
                        out[at..at + 4].copy_from_slice(&values[row].to_le_bytes());
                    }
                }
            }
            Self::Columns { part, stored, order } => {
                let columns = tensor.columns();
                let size = tensor.element_type.block_bytes();
                let mut source = vec![0; out.len()];
                match part {
                    Part::Bytes(data) if stored.is_block() => {
                        let bytes = stored.row_bytes(columns).unwrap_or_default();
                        let mut values = vec![0f32; rows.len() * columns];
                        // Types without decoder were refused when the view was made.
                        let _ =
                            decode::to_f32(*stored, &data[rows.start * bytes..rows.end * bytes], &mut values);
                        for (value, out) in values.iter().zip(source.chunks_exact_mut(4)) {
                            out.copy_from_slice(&value.to_le_bytes());
                        }
                    }
                    Part::Bytes(_) | Part::Woven { .. } | Part::Packed { .. } => {
                        read_part(view, part, None, row_bytes, rows, &mut source);
                    }
                }
                let source = source.chunks_exact(row_bytes.max(1));
                for (source, out) in source.zip(out.chunks_exact_mut(row_bytes.max(1))) {
                    for (column, out) in out.chunks_exact_mut(size).enumerate() {
                        out.copy_from_slice(&source[order.source(column) * size..][..size]);
                    }
                }
            }
            Self::LatentKeys(keys) => keys.read(view, rows, out),
            Self::LatentBoth(both) => both.read(rows, out),
            Self::Joined(joined) => joined.read(view, rows, out),
            Self::Multiplied(multiplied) => multiplied.read(view, rows, out),
            Self::Heads { parts, height } => {
                for (part, rows, out) in by_part(*height, rows, row_bytes, out) {
                    let (part, order) = &parts[part];
                    read_part(view, part, order.as_ref(), row_bytes, rows, out);
                }
            }
            Self::Rows { parts, order } => {
                let height = (tensor.rows() / parts.len().max(1)).max(1);
                for (part, rows, out) in by_part(height, rows, row_bytes, out) {
                    read_part(view, &parts[part], order.as_ref(), row_bytes, rows, out);
                }
            }
        }
    }

    pub fn decode(&self, view: &View<'_>, tensor: &ViewTensor, rows: Range<usize>, out: &mut [f32]) -> bool {
        if let Self::Rows { parts, order: None } = self
            && let [Part::Packed { layer, first, form: None }] = parts.as_slice()
            && let Some(layer) = layer_of(view, *layer)
        {
            layer.decode(view.checkpoint, first + rows.start..first + rows.end, out);
            return true;
        }
        if let Some(data) = self.contiguous() {
            let data = &data[rows.start * tensor.row_bytes..rows.end * tensor.row_bytes];
            return decode::to_f32(tensor.element_type, data, out);
        }
        // All rows at once: what is packed or transposed is decoded for several of them together.
        let mut bytes = vec![0; tensor.row_bytes * rows.len()];
        self.read(view, tensor, rows, &mut bytes);
        decode::to_f32(tensor.element_type, &bytes, out)
    }

    /// The range of the map's bytes that these rows come from, with any bytes between them.
    pub fn spans(&self, view: &View<'a>, tensor: &ViewTensor, rows: Range<usize>) -> Vec<&'a [u8]> {
        match self {
            Self::Owned(_) => Vec::new(),
            Self::Padded(data) => {
                let [start, end] = [rows.start, rows.end].map(|row| (row * tensor.row_bytes).min(data.len()));
                vec![&data[start..end]]
            }
            Self::Fused(fused) => fused.spans(rows.end == tensor.rows()),
            Self::Joined(joined) => joined.spans(rows.end == tensor.rows()),
            Self::Mxfp4(split) => split.spans(rows.end == tensor.rows()),
            // Every row is spread over all of it.
            Self::Transposed { data, .. } if rows.end == tensor.rows() => vec![data],
            Self::Transposed { .. } => Vec::new(),
            Self::Columns { part: Part::Bytes(data), stored, .. }
            | Self::Multiplied(Multiplied { part: Part::Bytes(data), stored, .. }) => {
                let bytes = stored.row_bytes(tensor.columns()).unwrap_or_default();
                vec![&data[rows.start * bytes..rows.end * bytes]]
            }
            Self::Columns { part: Part::Packed { layer, .. }, .. }
            | Self::Multiplied(Multiplied { part: Part::Packed { layer, .. }, .. })
                if rows.end == tensor.rows() =>
            {
                packed_spans(view.checkpoint, layer_of(view, *layer))
            }
            Self::Columns { .. } | Self::Multiplied(_) => Vec::new(),
            // Read by the values' tensor, too.
            Self::LatentKeys(_) => Vec::new(),
            Self::LatentBoth(both) if rows.end == tensor.rows() => both.spans(),
            Self::LatentBoth(_) => Vec::new(),
            Self::Heads { parts, height } => {
                let mut spans = Vec::new();
                for (part, range) in ranges_by_part(*height, rows) {
                    match &parts[part].0 {
                        Part::Bytes(data) | Part::Woven { data, .. } if range.end == *height => {
                            spans.push(*data);
                        }
                        Part::Bytes(_) | Part::Woven { .. } | Part::Packed { .. } => {}
                    }
                }
                spans
            }
            Self::Rows { parts, order } => {
                let height = (tensor.rows() / parts.len().max(1)).max(1);
                let mut spans = Vec::new();
                for (part, range) in ranges_by_part(height, rows) {
                    match &parts[part] {
                        Part::Bytes(data) => {
                            let span = source_span(order.as_ref(), range);
                            spans.push(&data[span.start * tensor.row_bytes..span.end * tensor.row_bytes]);
                        }
                        // Every row is spread over all of it.
                        Part::Woven { data, .. } if range.end == height => spans.push(data),
                        Part::Woven { .. } => {}
                        // Codes of all rows are adjacent.
                        Part::Packed { layer, .. } if range.end == height => {
                            spans.extend(packed_spans(view.checkpoint, layer_of(view, *layer)));
                        }
                        Part::Packed { .. } => {}
                    }
                }
                spans
            }
        }
    }
}

fn packed_spans<'a>(checkpoint: &'a Checkpoint, layer: Option<&PackedLayer>) -> Vec<&'a [u8]> {
    let parts = layer.into_iter().flat_map(|l| &l.parts);
    parts.map(|&part| checkpoint.data(&checkpoint.tensors()[part])).collect()
}

fn layer_of<'v>(view: &'v View<'_>, layer: usize) -> Option<&'v PackedLayer> {
    view.packing.as_ref()?.layers().get(layer)
}

/// The rows of the source from the first to the last that these rows of the view need.
fn source_span(order: Option<&RowOrder>, rows: Range<usize>) -> Range<usize> {
    let Some(order) = order else { return rows };
    let bounds = rows.map(|row| order.source(row)).fold(None, |bounds: Option<(usize, usize)>, row| {
        let (low, high) = bounds.unwrap_or((row, row));
        Some((low.min(row), high.max(row)))
    });
    bounds.map_or(0..0, |(low, high)| low..high + 1)
}

/// Rows of a stack, part by part.
fn ranges_by_part(height: usize, rows: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut at = rows.start;
    std::iter::from_fn(move || {
        (at < rows.end).then(|| {
            let part = at / height;
            let end = rows.end.min((part + 1) * height);
            let range = at - part * height..end - part * height;
            at = end;
            (part, range)
        })
    })
}

/// The same, each with its share of the output.
fn by_part(
    height: usize,
    rows: Range<usize>,
    row_bytes: usize,
    mut out: &mut [u8],
) -> Vec<(usize, Range<usize>, &mut [u8])> {
    let mut all = Vec::new();
    for (part, range) in ranges_by_part(height, rows) {
        let (own, rest) = out.split_at_mut(range.len() * row_bytes);
        all.push((part, range, own));
        out = rest;
    }
    all
}

pub(super) fn read_part(
    view: &View<'_>,
    part: &Part<'_>,
    order: Option<&RowOrder>,
    row_bytes: usize,
    rows: Range<usize>,
    out: &mut [u8],
) {
    let span = source_span(order, rows.clone());
    let owned;
    let source: &[u8] = match part {
        Part::Bytes(data) => &data[span.start * row_bytes..span.end * row_bytes],
        Part::Woven { data, woven, stored } => {
            let size = stored.block_bytes();
            let mut gathered = vec![0; span.len() * row_bytes];
            woven.gather(data, span.clone(), (row_bytes / size.max(1), size), &mut gathered);
            owned = gathered;
            &owned
        }
        Part::Packed { layer, first, form } => {
            let Some(layer) = layer_of(view, *layer) else { return };
            let rows = first + span.start..first + span.end;
            owned = unpack(view.checkpoint, layer, form.as_ref(), rows, row_bytes);
            &owned
        }
    };
    match order {
        None => out.copy_from_slice(source),
        Some(order) => {
            for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes.max(1))) {
                let at = (order.source(row) - span.start) * row_bytes;
                out.copy_from_slice(&source[at..at + row_bytes]);
            }
        }
    }
}

/// Rows of a packed layer, as blocks or as f32.
pub(super) fn unpack(
    checkpoint: &Checkpoint,
    layer: &PackedLayer,
    form: Option<&ExactForm>,
    rows: Range<usize>,
    row_bytes: usize,
) -> Vec<u8> {
    let mut out = vec![0; rows.len() * row_bytes];
    match form {
        Some(form) => layer.exact_blocks(checkpoint, form, rows, &mut out),
        None => {
            let mut values = vec![0.0; rows.len() * layer.columns];
            layer.decode(checkpoint, rows, &mut values);
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                *out = f32::to_le_bytes(value);
            }
        }
    }
    out
}
