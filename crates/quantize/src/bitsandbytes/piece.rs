//! Pieces: the codes of some values, a tensor of scales, or bytes copied as they are.
//!
//! ```text
//! codes, codes, …   made side by side; each leaves its scales with the tensor
//! ─────────────── a batch ends here: the scales of the tensor are complete
//! absmax, [nested_absmax, nested_quant_map,] quant_map, quant_state        or SCB, weight_format
//! ```

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use quern_compute::simd::Level;
use quern_model::{View, ViewTensor};
use quern_tensor_io::{Error, ErrorKind, Result, decode, pipeline};

use super::code::{Code, dynamic_map};
use super::nested::{Nested, Quantizer};
use super::plan::{BitsandbytesPlan, state};
use super::{Kind, Options, four_bit, int8};
use crate::finite::all_finite;

/// Values a thread takes at once, unless a row of int8 is longer; a multiple of every block size.
pub(super) const PIECE: usize = 64 * 1024;
/// Bytes of a tensor that is copied, at once.
const COPY_BYTES: usize = 8 << 20;

/// Some bytes of the output.
pub(super) type Piece<'a> = pipeline::Piece<'a, Work>;

/// What a piece is made from.
#[derive(Debug)]
pub(super) struct Work {
    tensor: Arc<Quantized>,
    part: Part,
}

/// Which part of a quantized tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// The codes of piece number so: of these values of the tensor.
    Codes(usize, Range<usize>),
    /// A scale for each block or row; quantized themselves with double quantization.
    Scales,
    /// The scales of the quantized scales.
    NestedScales,
    /// The values of the scales' code.
    NestedMap,
    /// The values of the weights' code.
    Map,
    /// The text that describes the tensor.
    State,
    /// How int8 orders its rows.
    Format,
    /// These rows of a tensor that stays as it is and is not all in one place in the file.
    Rows(Range<usize>),
}

impl Work {
    /// Whether all codes of its tensor must be made before.
    pub fn needs_codes(&self) -> bool {
        self.part == Part::Scales
    }
}

/// A tensor that is being quantized.
#[derive(Debug)]
struct Quantized {
    /// Its row in the plan.
    row: usize,
    /// Of each piece of codes: the scales it found.
    scales: Box<[OnceLock<Vec<f32>>]>,
    nested: OnceLock<Nested>,
}

impl Quantized {
    fn scales(&self) -> Vec<f32> {
        self.scales.iter().filter_map(OnceLock::get).flatten().copied().collect()
    }
}

/// What a thread keeps from piece to piece.
#[derive(Default)]
pub(super) struct Scratch {
    values: Vec<f32>,
    codes: Vec<u8>,
}

/// What is the same for all tensors.
pub(super) struct Encoder<'a> {
    view: &'a View<'a>,
    plan: &'a BitsandbytesPlan,
    options: &'a Options,
    /// Of each row of the plan: its tensor's bytes, for the source holds plain numbers only; none of one that stays as it
    /// is and is not all in one place.
    data: Vec<Option<&'a [u8]>>,
    /// Of each tensor of the output: its row.
    rows: Vec<usize>,
    level: Level,
    code: Option<Code>,
    nested_map: [f32; 256],
    nested: Quantizer,
}

impl<'a> Encoder<'a> {
    /// Prepares a job.
    ///
    /// # Errors
    /// A tensor to be quantized whose values are not one after the other in the file.
    pub fn new(view: &'a View<'a>, plan: &'a BitsandbytesPlan, options: &'a Options) -> Result<Self> {
        let data = |(row, &number): (usize, &usize)| match plan.rows[row].to {
            None => Ok(view.contiguous(number)),
            Some(_) => view.require_contiguous(number).map(Some),
        };
        let rows = plan.parts.iter().enumerate().flat_map(|(row, &parts)| std::iter::repeat_n(row, parts));
        let nested_map = dynamic_map();
        Ok(Self {
            view,
            plan,
            options,
            data: plan.order.iter().enumerate().map(data).collect::<Result<_>>()?,
            rows: rows.collect(),
            level: options.level,
            code: Code::new(options.scheme),
            nested_map,
            nested: Quantizer::new(&nested_map),
        })
    }

    /// All pieces, in the order of the output.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'a>> {
        let mut first = 0;
        (0..self.plan.rows.len()).flat_map(move |row| {
            let tensor = first;
            first += self.plan.parts[row];
            match (self.plan.rows[row].to, self.data[row]) {
                (None, Some(data)) => {
                    data.chunks(COPY_BYTES).map(|data| Piece::mapped(tensor, data)).collect()
                }
                (None, None) => self.of_rows(row, tensor),
                (Some(_), _) => self.of_quantized(row, tensor),
            }
        })
    }

    /// The pieces of a quantized tensor, whose first tensor in the output is number `first`.
    fn of_quantized(&self, row: usize, first: usize) -> Vec<Piece<'a>> {
        let info = self.info(row);
        let (values, value_bytes) = (info.rows() * info.columns(), info.element_type.block_bytes());
        let step = self.step(info);
        let count = values.div_ceil(step);
        let scales = std::iter::repeat_with(OnceLock::new).take(count).collect();
        let tensor = Arc::new(Quantized { row, scales, nested: OnceLock::new() });
        let work = |part| Work { tensor: tensor.clone(), part };
        let codes = (0..count).map(|piece| {
            let of = piece * step..values.min((piece + 1) * step);
            let (bytes, counted) = (of.len().div_ceil(self.per_byte()), of.len() * value_bytes);
            Piece::made(first, bytes, counted, work(Part::Codes(piece, of)))
        });
        let parts: &[Part] = match (self.options.scheme, self.options.double_quant) {
            (Kind::Int8, _) => &[Part::Scales, Part::Format],
            (_, true) => &[Part::Scales, Part::NestedScales, Part::NestedMap, Part::Map, Part::State],
            (_, false) => &[Part::Scales, Part::Map, Part::State],
        };
        let others = parts.iter().zip(first + 1..).map(|(part, tensor)| {
            // The text is made by the writer.
            let bytes = if *part == Part::State { 0 } else { self.bytes(tensor) };
            Piece::made(tensor, bytes, 0, work(part.clone()))
        });
        codes.chain(others).collect()
    }

    /// The pieces of a tensor that stays as it is and is not all in one place in the file.
    fn of_rows(&self, row: usize, number: usize) -> Vec<Piece<'a>> {
        let info = self.info(row);
        let tensor = Arc::new(Quantized { row, scales: Box::default(), nested: OnceLock::new() });
        let step = (COPY_BYTES / info.row_bytes.max(1)).max(1).next_multiple_of(info.together.max(1));
        let pieces = (0..info.rows()).step_by(step).map(|from| {
            let of = from..info.rows().min(from + step);
            let bytes = of.len() * info.row_bytes;
            Piece::made(number, bytes, bytes, Work { tensor: tensor.clone(), part: Part::Rows(of) })
        });
        pieces.collect()
    }

    /// The tensor of a row, in the source.
    fn info(&self, row: usize) -> &'a ViewTensor {
        &self.view.tensors()[self.plan.order[row]]
    }

    /// Bytes of a tensor of the output.
    fn bytes(&self, tensor: usize) -> usize {
        self.plan.tensors[tensor].bytes().unwrap_or_default()
    }

    /// Values that share a scale.
    fn unit(&self, info: &ViewTensor) -> usize {
        if self.code.is_some() { self.options.block_size } else { info.columns().max(1) }
    }

    /// Values a thread takes: whole blocks or rows.
    fn step(&self, info: &ViewTensor) -> usize {
        let unit = self.unit(info);
        if self.code.is_some() { PIECE } else { (PIECE / unit).max(1) * unit }
    }

    /// Codes to a byte.
    pub fn per_byte(&self) -> usize {
        if self.code.is_some() { 2 } else { 1 }
    }

    /// The name in the source of what becomes tensor number `tensor` of the output.
    pub fn row_name(&self, tensor: usize) -> &str {
        &self.plan.rows[self.rows[tensor]].name
    }

    /// The name of tensor number `tensor` of the output.
    pub fn tensor_name(&self, tensor: usize) -> &str {
        &self.plan.tensors[tensor].name
    }

    /// Makes the bytes of a piece.
    ///
    /// # Errors
    /// A value that is not finite, or becomes so.
    pub fn encode(&self, work: &Work, scratch: &mut Scratch, out: &mut [u8]) -> Result<()> {
        let Work { tensor, part } = work;
        match part {
            Part::Codes(piece, of) => {
                let mut scales = vec![0.0; of.len().div_ceil(self.unit(self.info(tensor.row)))];
                self.codes(tensor.row, of, scratch, out, &mut scales)?;
                // Every piece is made once.
                let _ = tensor.scales[*piece].set(scales);
            }
            Part::Scales if self.doubly() => out.copy_from_slice(&self.nested(tensor).codes),
            Part::Scales => floats(&tensor.scales(), out),
            Part::NestedScales => floats(&self.nested(tensor).absmax, out),
            Part::NestedMap => floats(&self.nested_map, out),
            Part::Map => floats(self.code.as_ref().map_or(&[], |code| &code.values), out),
            Part::State => {}
            Part::Format => out.fill(0),
            Part::Rows(of) => self.view.read(self.plan.order[tensor.row], of.clone(), out),
        }
        Ok(())
    }

    /// Whether scales are themselves quantized.
    fn doubly(&self) -> bool {
        self.options.double_quant && self.code.is_some()
    }

    /// The quantized scales; called when all codes are made.
    fn nested<'t>(&self, tensor: &'t Quantized) -> &'t Nested {
        tensor.nested.get_or_init(|| self.nested.quantize(&tensor.scales()))
    }

    /// The text of a piece that is one.
    pub fn state_text(&self, work: &Work) -> Option<String> {
        let Work { tensor, part: Part::State } = work else { return None };
        let offset = self.doubly().then(|| self.nested(tensor).offset);
        Some(state(self.info(tensor.row), self.options.scheme, self.options).text(offset))
    }

    /// Gives back the source's pages from one piece of codes to another.
    pub fn release_codes(&self, first: &Work, last: &Work) {
        match (&first.part, &last.part) {
            (Part::Codes(_, from), Part::Codes(_, to)) => {
                let data = self.values(first.tensor.row, &(from.start..to.end));
                self.view.checkpoint().release(data.as_ptr_range());
            }
            (Part::Rows(from), Part::Rows(to)) => {
                self.view.release(self.plan.order[first.tensor.row], from.start..to.end);
            }
            _ => {}
        }
    }

    /// The bytes of some values of a tensor.
    fn values(&self, row: usize, of: &Range<usize>) -> &'a [u8] {
        let value_bytes = self.info(row).element_type.block_bytes();
        &self.data[row].unwrap_or_default()[of.start * value_bytes..of.end * value_bytes]
    }

    /// Encodes these values of a tensor.
    fn codes(
        &self,
        row: usize,
        of: &Range<usize>,
        scratch: &mut Scratch,
        codes: &mut [u8],
        scales: &mut [f32],
    ) -> Result<()> {
        let Scratch { values, codes: scratch } = scratch;
        let info = self.info(row);
        values.resize(of.len(), 0.0);
        if !decode::to_f32(info.element_type, self.values(row, of), values) {
            let what = format!("{} cannot be decoded", info.element_type);
            return Err(self.view.error(info, ErrorKind::Unsupported(what)));
        }
        if let Some(at) = first_not_finite(values) {
            let what = "a model with values that are not finite cannot be quantized";
            return Err(self.bad_value(info, of.start + at, format!("the value is {}; {what}", values[at])));
        }
        let Some(code) = &self.code else {
            int8::through_f16(values);
            if let Some(at) = first_not_finite(values) {
                // What it was before.
                let _ = decode::to_f32(info.element_type, self.values(row, of), values);
                let what = "int8 goes through f16, which ends at 65504; choose nf4 or fp4";
                let what = format!("the value is {}: {what}", values[at]);
                return Err(self.bad_value(info, of.start + at, what));
            }
            let columns = info.columns();
            let rows = values.chunks_exact(columns).zip(codes.chunks_exact_mut(columns));
            for ((row, codes), scale) in rows.zip(scales) {
                *scale = int8::encode_row(self.level, row, codes);
            }
            return Ok(());
        };
        four_bit::encode(self.level, code, self.options.block_size, values, scratch, codes, scales);
        Ok(())
    }

    fn bad_value(&self, info: &ViewTensor, index: usize, what: String) -> Error {
        let (row, column) = (index / info.columns(), index % info.columns());
        let what = format!("row {row}, column {column}: {what}");
        self.view.error(info, ErrorKind::Malformed(what))
    }
}

/// Writes values as little-endian f32.
fn floats(values: &[f32], out: &mut [u8]) {
    out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(bytes, v)| *bytes = v.to_le_bytes());
}

/// The place of the first value that is not finite.
fn first_not_finite(values: &[f32]) -> Option<usize> {
    if all_finite(values) { None } else { values.iter().position(|v| !v.is_finite()) }
}
