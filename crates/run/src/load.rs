//! Weights that are made while loading: packed layers unpacked to rows of blocks, floats quantized.
//!
//! Rows are worked on by all threads; the pages of the file that were read are released as they are used,
//! so that memory holds the result and not its source as well.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use quern_compute::{Pool, Scales};
use quern_tensor_io::scheme::{BlockForm, InFile, PackedLayer};
use quern_tensor_io::{Checkpoint, ElementType, Error, ErrorKind, decode};

use crate::weights::{Mapped, Weight};
use crate::{Replacement, Result};
use quern_compute::parallel::share;

/// Converts matrices to another type while they are loaded, as bitsandbytes' `load_in_4bit` does.
pub trait LoadIn: Debug + Sync {
    /// The type that the matrix of this name (as the checkpoint spells it) gets; `None` keeps it.
    fn target(&self, name: &str) -> Option<ElementType>;

    /// Encodes whole rows of finite values. `out` is `target`'s bytes of as many rows.
    ///
    /// # Errors
    /// In words, if the rows do not fit the type.
    fn encode(
        &self,
        name: &str,
        target: ElementType,
        columns: usize,
        rows: &[f32],
        out: &mut [u8],
    ) -> Result<(), String>;
}

/// Values one task decodes: some 256 KiB of f32, which stay in a core's own cache.
const TASK_VALUES: usize = 1 << 16;

impl Replacement {
    /// A packed layer as rows of blocks, made on all threads of `pool`.
    pub fn unpack(checkpoint: &Checkpoint, layer: &PackedLayer, pool: &Pool) -> Self {
        let mut form = layer.block_form(checkpoint);
        if form.factor != 1.0 {
            // Numbers that have a factor beside them are multiplied out.
            (form.element_type, form.factor) = (ElementType::F16, 1.0);
        }
        let data = blocks(checkpoint, layer, &form, 0..layer.rows, pool);
        Self { element_type: form.element_type, data, permutation: form.permutation }
    }
}

/// Some rows of a packed layer in this form, made on all threads.
fn blocks(
    checkpoint: &Checkpoint,
    layer: &PackedLayer,
    form: &BlockForm,
    own: Range<usize>,
    pool: &Pool,
) -> Vec<u8> {
    let row_bytes = form.element_type.row_bytes(layer.columns).unwrap_or(0);
    let mut data = vec![0u8; row_bytes * own.len()];
    // Packed words hold many columns of one output: rows are cheap in multiples of 16.
    let step = (TASK_VALUES / layer.columns.max(1)).next_multiple_of(16);
    for_rows(pool, &mut data, row_bytes, step, |rows, out| {
        layer.blocks(checkpoint, form, own.start + rows.start..own.start + rows.end, out);
    });
    data
}

/// Some rows of a packed layer as rows of blocks, with the order of their columns where that is not the file's.
pub(crate) fn unpacked(
    checkpoint: &Checkpoint,
    layer: &PackedLayer,
    rows: Range<usize>,
    pool: &Pool,
) -> Result<(Weight, Option<Arc<[u32]>>)> {
    let form = layer.block_form(checkpoint);
    let data = blocks(checkpoint, layer, &form, rows.clone(), pool);
    for &part in &layer.parts {
        checkpoint.release(checkpoint.data(&checkpoint.tensors()[part]).as_ptr_range());
    }
    if form.element_type == ElementType::NVFP4 && has_damaged_scale(&data) {
        let what = "one of its scales is NaN: the file is damaged; download or make it again";
        return Err(Error::malformed(checkpoint.path(), what).with_tensor(&layer.name).into());
    }
    let weight = Weight::owned(form.element_type, rows.len(), layer.columns, data)?;
    let weight = match form.factor == 1.0 {
        true => weight,
        false => weight.with_scales(Scales::uniform(form.factor))?,
    };
    Ok((weight, form.permutation.map(Arc::from)))
}

/// Whether a scale in e4m3 is NaN, which GGUF's block reads as zero.
fn has_damaged_scale(blocks: &[u8]) -> bool {
    const NAN: u8 = 0x7f;
    let bytes = ElementType::NVFP4.block_bytes();
    blocks.chunks_exact(bytes).any(|block| block[..4].contains(&NAN))
}

/// Some rows of a packed layer as they are in the file, with their scales; `None` if kernels need another form.
pub(crate) fn in_file(
    open: &Arc<Checkpoint>,
    layer: &PackedLayer,
    rows: Range<usize>,
) -> Result<Option<Weight>> {
    let Some(InFile { element_type, tensor, scales, block }) = layer.in_file(open) else { return Ok(None) };
    let row_bytes = element_type.row_bytes(layer.columns).unwrap_or(0);
    let place = Mapped { tensor, start: rows.start * row_bytes, end: rows.end * row_bytes };
    let weight = Weight::mapped(open, place, element_type, rows.len(), layer.columns)?;
    let across = layer.columns.div_ceil(block[1].max(1));
    let own = rows.start / block[0] * across..rows.end.div_ceil(block[0]) * across;
    let scales = scales.get(own).unwrap_or_default().to_vec();
    Ok(Some(weight.with_scales(Scales::new(scales, [rows.len(), layer.columns], block)?)?))
}

/// A matrix of plain values or blocks.
pub(crate) struct PlainMatrix<'a> {
    /// Its name, as [`LoadIn::target`] knows it.
    pub name: &'a str,
    pub element_type: ElementType,
    pub rows: usize,
    pub columns: usize,
    /// `rows * columns` values.
    pub data: &'a [u8],
}

/// A matrix in another type.
pub(crate) fn encoded(
    matrix: &PlainMatrix<'_>,
    load_in: &dyn LoadIn,
    target: ElementType,
    pool: &Pool,
) -> Result<Weight, ErrorKind> {
    let &PlainMatrix { name, element_type, rows, columns, data } = matrix;
    let row_bytes = element_type.row_bytes(columns).filter(|_| decode::can_decode(element_type));
    let Some(row_bytes) = row_bytes else {
        return Err(ErrorKind::Unsupported(format!("its element type {element_type} cannot be decoded")));
    };
    let read = |rows: Range<usize>, out: &mut [f32]| {
        let bytes = &data[rows.start * row_bytes..rows.end * row_bytes];
        let decoded = decode::to_f32(element_type, bytes, out);
        debug_assert!(decoded, "the type can be decoded and the length fits");
    };
    encode(name, (rows, columns), read, load_in, target, pool)
}

/// Some rows of a packed layer in another type.
pub(crate) fn repacked(
    checkpoint: &Checkpoint,
    layer: &PackedLayer,
    rows: Range<usize>,
    load_in: &dyn LoadIn,
    target: ElementType,
    pool: &Pool,
) -> Result<Weight> {
    let first = rows.start;
    let read = |rows: Range<usize>, out: &mut [f32]| {
        layer.decode(checkpoint, first + rows.start..first + rows.end, out);
    };
    let weight = encode(&layer.name, (rows.len(), layer.columns), read, load_in, target, pool);
    Ok(weight.map_err(|kind| Error::new(checkpoint.path(), kind).with_tensor(&layer.name))?)
}

/// Reads rows as f32 and encodes them, on all threads.
fn encode(
    name: &str,
    (rows, columns): (usize, usize),
    read: impl Fn(Range<usize>, &mut [f32]) + Sync,
    load_in: &dyn LoadIn,
    target: ElementType,
    pool: &Pool,
) -> Result<Weight, ErrorKind> {
    let Some(row_bytes) = target.row_bytes(columns) else {
        return Err(ErrorKind::Unsupported(format!(
            "rows of {columns} values are not whole blocks of {target}"
        )));
    };
    let mut data = vec![0u8; row_bytes * rows];
    let failure = Mutex::new(None);
    let step = (TASK_VALUES / columns.max(1)).next_multiple_of(16);
    for_rows(pool, &mut data, row_bytes, step, |rows, out| {
        let mut values = vec![0f32; rows.len() * columns];
        read(rows.clone(), &mut values);
        let problem = match values.iter().position(|v| !v.is_finite()) {
            Some(at) => {
                let (row, column) = (rows.start + at / columns, at % columns);
                Some(format!("row {row}, column {column} is {}: it cannot be quantized", values[at]))
            }
            None => load_in.encode(name, target, columns, &values, out).err(),
        };
        if let Some(problem) = problem {
            let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
            // The first row's error, whichever thread found it first.
            if failure.as_ref().is_none_or(|&(row, _)| rows.start < row) {
                *failure = Some((rows.start, problem));
            }
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, what)) => Err(ErrorKind::Malformed(what)),
        None => Weight::owned(target, rows, columns, data).map_err(|e| ErrorKind::Unsupported(e.to_string())),
    }
}

/// Calls `body` for pieces of `step` rows of `data`, on all threads.
fn for_rows(
    pool: &Pool,
    data: &mut [u8],
    row_bytes: usize,
    step: usize,
    body: impl Fn(Range<usize>, &mut [u8]) + Sync,
) {
    let pieces = data.chunks_mut((step * row_bytes).max(1)).enumerate();
    share(pool, pieces, |(piece, out)| {
        let first = piece * step;
        body(first..first + out.len() / row_bytes.max(1), out);
    });
}
