//! Pieces: the codes of some rows, a tensor of what they left behind, or bytes copied as they are.
//!
//! ```text
//! codes, codes, …    made side by side; each leaves its scales (and zero points) with the tensor
//! ────────────────   a batch ends here: those of the tensor are complete
//! scales, [shape, zero points]
//! ```

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use quern_model::{View, ViewTensor};
use quern_tensor_io::{ElementType, Error, ErrorKind, Result, pipeline};

use super::plan::{RoundedPlan, scale_type};
use super::{BLOCK, Kind, Options, float8, integers};
use crate::finite::all_finite;
use crate::gptq::{Settings, SolveError};

use half::{bf16, f16};

/// Values a thread takes at once, unless the rows that belong together have more.
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
    /// The codes of piece number so: of these rows.
    Codes(usize, Range<usize>),
    /// Scales.
    Scales,
    /// Rows and columns.
    Shape,
    /// Zero points.
    ZeroPoints,
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
    /// Of each piece of codes: the bytes of its scales and zero points.
    left: Box<[OnceLock<[Vec<u8>; 2]>]>,
}

/// What is the same for all tensors.
pub(super) struct Encoder<'a> {
    view: &'a View<'a>,
    plan: &'a RoundedPlan,
    options: &'a Options,
    /// How integers are found.
    settings: Option<Settings>,
    /// Of each tensor of the output: its row.
    rows: Vec<usize>,
}

impl<'a> Encoder<'a> {
    /// Prepares a job.
    pub fn new(view: &'a View<'a>, plan: &'a RoundedPlan, options: &'a Options) -> Self {
        let rows = plan.parts.iter().enumerate().flat_map(|(row, &parts)| std::iter::repeat_n(row, parts));
        let settings = match options.kind {
            Kind::Float8 | Kind::BlockFloat8 => None,
            Kind::Integers { bits, group_size, symmetric } => {
                Some(integers::settings(bits, group_size, symmetric))
            }
        };
        Self { view, plan, options, settings, rows: rows.collect() }
    }

    /// All pieces, in the order of the output.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'a>> {
        let mut first = 0;
        (0..self.plan.rows.len()).flat_map(move |row| {
            let tensor = first;
            first += self.plan.parts[row];
            match (self.plan.rows[row].quantized, self.view.contiguous(self.plan.order[row])) {
                (false, Some(data)) => {
                    data.chunks(COPY_BYTES).map(|data| Piece::mapped(tensor, data)).collect()
                }
                (false, None) => self.of_rows(row, tensor),
                (true, _) => self.of_quantized(row, tensor),
            }
        })
    }

    /// The pieces of a quantized tensor, whose first tensor in the output is number `first`.
    fn of_quantized(&self, row: usize, first: usize) -> Vec<Piece<'a>> {
        let info = self.info(row);
        let height = info.rows();
        let step = self.step(info.columns());
        let count = height.div_ceil(step);
        let left = std::iter::repeat_with(OnceLock::new).take(count).collect();
        let tensor = Arc::new(Quantized { row, left });
        let work = |part| Work { tensor: tensor.clone(), part };
        let row_bytes = self.bytes(first) / height.max(1);
        let codes = (0..count).map(|piece| {
            let of = piece * step..height.min((piece + 1) * step);
            let (bytes, counted) = (of.len() * row_bytes, of.len() * info.row_bytes);
            Piece::made(first, bytes, counted, work(Part::Codes(piece, of)))
        });
        let parts: &[Part] = match self.options.kind {
            Kind::Float8 | Kind::BlockFloat8 => &[Part::Scales],
            Kind::Integers { symmetric: true, .. } => &[Part::Scales, Part::Shape],
            Kind::Integers { symmetric: false, .. } => &[Part::Scales, Part::Shape, Part::ZeroPoints],
        };
        let small = parts.iter().zip(first + 1..);
        let small =
            small.map(|(part, tensor)| Piece::made(tensor, self.bytes(tensor), 0, work(part.clone())));
        codes.chain(small).collect()
    }

    /// The pieces of a tensor that stays as it is and is not all in one place in the file.
    fn of_rows(&self, row: usize, number: usize) -> Vec<Piece<'a>> {
        let info = self.info(row);
        let tensor = Arc::new(Quantized { row, left: Box::default() });
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

    /// Rows a thread takes: those that share scales, or words of zero points.
    fn step(&self, columns: usize) -> usize {
        let together = match self.options.kind {
            Kind::Float8 => 1,
            Kind::BlockFloat8 => BLOCK,
            Kind::Integers { .. } => integers::ROWS,
        };
        (PIECE / columns.max(1)).max(1).next_multiple_of(together)
    }

    /// The name in the source of what becomes tensor number `tensor` of the output.
    pub fn row_name(&self, tensor: usize) -> &str {
        &self.plan.rows[self.rows[tensor]].name
    }

    /// Makes the bytes of a piece. `values` are a thread's own.
    ///
    /// # Errors
    /// A value that is not finite, or too large.
    pub fn encode(&self, work: &Work, values: &mut Vec<f32>, out: &mut [u8]) -> Result<()> {
        let Work { tensor, part } = work;
        match part {
            Part::Codes(piece, of) => {
                let left = self.codes(tensor.row, of, values, out)?;
                // Every piece is made once.
                let _ = tensor.left[*piece].set(left);
            }
            Part::Rows(of) => self.view.read(self.plan.order[tensor.row], of.clone(), out),
            Part::Scales => gather(&tensor.left, 0, out),
            Part::ZeroPoints => gather(&tensor.left, 1, out),
            Part::Shape => {
                let info = self.info(tensor.row);
                let numbers = [info.rows() as i64, info.columns() as i64].map(i64::to_le_bytes);
                out.copy_from_slice(numbers.as_flattened());
            }
        }
        Ok(())
    }

    /// Gives back the source's pages from one piece of codes to another.
    pub fn release_codes(&self, first: &Work, last: &Work) {
        if let (Part::Codes(_, from) | Part::Rows(from), Part::Codes(_, to) | Part::Rows(to)) =
            (&first.part, &last.part)
        {
            self.view.release(self.plan.order[first.tensor.row], from.start..to.end);
        }
    }

    /// Encodes these rows of a tensor; what they leave behind.
    fn codes(
        &self,
        row: usize,
        of: &Range<usize>,
        values: &mut Vec<f32>,
        out: &mut [u8],
    ) -> Result<[Vec<u8>; 2]> {
        let info = self.info(row);
        let (rows, columns, level) = (of.len(), info.columns(), self.options.level);
        values.resize(rows * columns, 0.0);
        if !self.view.decode(self.plan.order[row], of.clone(), values) {
            let what = format!("{} cannot be decoded", info.element_type);
            return Err(self.view.error(info, ErrorKind::Unsupported(what)));
        }
        if !all_finite(values)
            && let Some(at) = values.iter().position(|v| !v.is_finite())
        {
            let what = "a model with values that are not finite cannot be quantized";
            let (row, column) = (of.start + at / columns, at % columns);
            return Err(self.bad(info, row, column, format!("the value is {}; {what}", values[at])));
        }
        let scale_type = scale_type(info, self.options.kind);
        if let Some(settings) = &self.settings {
            let shape = integers::Shape { rows, columns, scale_type };
            return integers::encode(level, settings, &shape, values, out).map_err(|why| match why {
                SolveError::Weight { row, column, value } => {
                    let what = format!("the value {value} is too large for an f16 scale; skip the layer");
                    self.bad(info, of.start + row, column, what)
                }
                why => self.view.error(info, ErrorKind::Unsupported(why.to_string())),
            });
        }
        let (height, run) = match self.options.kind {
            Kind::BlockFloat8 => (BLOCK, BLOCK),
            Kind::Float8 | Kind::Integers { .. } => (1, columns.max(1)),
        };
        let mut scales = Vec::new();
        let mut own = vec![0.0; columns.div_ceil(run)];
        let slabs = values.chunks(height * columns.max(1)).zip(out.chunks_mut(height * columns.max(1)));
        for (values, out) in slabs {
            own.fill(0.0);
            float8::raise(level, values, columns, run, &mut own);
            own.iter_mut().for_each(|largest| *largest = float8::scale(*largest, scale_type));
            float8::encode(level, values, columns, run, &own, out);
            own.iter().for_each(|scale| push(&mut scales, *scale, scale_type));
        }
        Ok([scales, Vec::new()])
    }

    fn bad(&self, info: &ViewTensor, row: usize, column: usize, what: String) -> Error {
        self.view.error(info, ErrorKind::Malformed(format!("row {row}, column {column}: {what}")))
    }
}

/// Appends a scale that its type holds.
fn push(bytes: &mut Vec<u8>, scale: f32, element_type: ElementType) {
    match element_type {
        ElementType::F16 => bytes.extend(f16::from_f32(scale).to_le_bytes()),
        ElementType::BF16 => bytes.extend(bf16::from_f32(scale).to_le_bytes()),
        _ => bytes.extend(scale.to_le_bytes()),
    }
}

/// What all pieces of a tensor have left behind of one kind.
fn gather(left: &[OnceLock<[Vec<u8>; 2]>], kind: usize, out: &mut [u8]) {
    let mut rest = out;
    for bytes in left.iter().filter_map(OnceLock::get).map(|left| &left[kind]) {
        let (own, behind) = rest.split_at_mut(bytes.len());
        own.copy_from_slice(bytes);
        rest = behind;
    }
}
