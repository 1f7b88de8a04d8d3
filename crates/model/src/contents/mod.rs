//! What a checkpoint holds, matched once against what its configuration demands: the one list that `inspect`,
//! `convert`, `run` and every quantizer read.
//!
//! ```text
//! tensors of the file ──names.rs──> names of the architecture ──┬─ demanded ──> HeldTensor (where its rows are)
//!                                                               ├─ harmless ──> LeftOut    (masks, buffers, zeros)
//!                                                               └─ neither  ──> Problem
//! demanded, but not in the file, or of another shape ─────────────────────────> Problem
//! ```
//!
//! A tensor is never dropped in silence: it is used, left out because it changes no result (with a note), or
//! refused.

mod extras;
mod names;
mod problem;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use quern_tensor_io::scheme::{PackedLayer, Packing};
use quern_tensor_io::{Checkpoint, Error, Remedy, Result, TensorInfo};

use crate::Config;
use crate::architecture::{AliasLayout, Convention, Layout, TensorRole};
use crate::config::ExpectedTensor;

pub use extras::{Extra, LeftOut};
pub use problem::{Problem, ProblemKind};

use extras::Extras;
use names::Names;

/// A checkpoint, matched against its configuration.
#[derive(Debug)]
pub struct Contents<'a> {
    checkpoint: &'a Checkpoint,
    config: Config,
    packing: Option<Packing>,
    tensors: Vec<HeldTensor>,
    left_out: Vec<LeftOut>,
    problems: Vec<Problem>,
}

/// A tensor that the configuration demands or allows, and where the checkpoint has it.
#[derive(Clone, Debug)]
pub struct HeldTensor {
    /// What was asked for; its name is the architecture's, which the file may spell with another prefix.
    pub expected: ExpectedTensor,
    /// Where it is.
    pub place: Place,
}

/// Where a tensor's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the file as they are.
    Plain(Span),
    /// In packed layer number so of [`Contents::packing`].
    Packed(usize),
    /// In some rows of one: a matrix of a stack of experts.
    PackedRows {
        /// Number of the layer.
        layer: usize,
        /// First row.
        first: usize,
        /// Number of rows.
        rows: usize,
    },
    /// In the file, at even distances.
    Woven(Woven),
}

impl Place {
    /// The number of the packed layer that has the rows.
    pub fn packed_layer(self) -> Option<usize> {
        match self {
            Self::Plain(_) | Self::Woven(_) => None,
            Self::Packed(layer) | Self::PackedRows { layer, .. } => Some(layer),
        }
    }
}

/// Plain values of one tensor of the checkpoint at even distances: a matrix that is transposed, or whose rows are between
/// those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woven {
    /// Where the values are, with others between them.
    pub span: Span,
    /// Which value of the span is the first.
    pub first: usize,
    /// Values from a row to the next.
    pub row_stride: usize,
    /// Values from a column to the next.
    pub column_stride: usize,
    /// So many rows are at even distances, then come others between them.
    pub run: usize,
    /// Values from the first row of so many to the first of the next.
    pub run_stride: usize,
}

impl Woven {
    /// The bytes of some rows of `columns` values, each of `size` bytes, one after the other, from those of the span.
    ///
    /// # Panics
    /// If the rows are not all in `data`, or `out` has another length.
    pub fn gather(&self, data: &[u8], rows: Range<usize>, (columns, size): (usize, usize), out: &mut [u8]) {
        /// Rows at a time: their values of a column are near each other.
        const TOGETHER: usize = 32;
        assert_eq!(out.len(), rows.len() * columns * size);
        let row_bytes = columns * size;
        let start = |row: usize| {
            let run = self.run.max(1);
            self.first + row / run * self.run_stride + row % run * self.row_stride
        };
        if self.column_stride == 1 {
            for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes.max(1))) {
                out.copy_from_slice(&data[start(row) * size..][..row_bytes]);
            }
            return;
        }
        for (some, out) in rows.step_by(TOGETHER).zip(out.chunks_mut((TOGETHER * row_bytes).max(1))) {
            for column in 0..columns {
                let across = column * self.column_stride;
                for (row, out) in (some..).zip(out.chunks_exact_mut(row_bytes)) {
                    let value = &data[(start(row) + across) * size..][..size];
                    out[column * size..][..size].copy_from_slice(value);
                }
            }
        }
    }
}

/// Consecutive bytes of one tensor of the checkpoint: all of it, or one matrix of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index into [`Checkpoint::tensors`].
    pub tensor: usize,
    /// First byte, counted from the tensor's own first.
    pub start: usize,
    /// Number of bytes.
    pub bytes: usize,
}

impl Span {
    /// The bytes, in the checkpoint this span was made for.
    ///
    /// # Panics
    /// If it was made for another checkpoint and reaches outside the tensor.
    pub fn data<'c>(&self, checkpoint: &'c Checkpoint) -> &'c [u8] {
        &checkpoint.data(self.info(checkpoint))[self.start..][..self.bytes]
    }

    /// The tensor it is part of.
    ///
    /// # Panics
    /// If it was made for another checkpoint that has more tensors.
    pub fn info<'c>(&self, checkpoint: &'c Checkpoint) -> &'c TensorInfo {
        &checkpoint.tensors()[self.tensor]
    }
}

impl<'a> Contents<'a> {
    /// Reads the configuration and the packed layers of `checkpoint` and matches its tensors.
    ///
    /// # Errors
    /// A configuration or a quantization that cannot be read. Tensors that are missing, unknown or of a wrong shape
    /// are no error here: see [`Contents::problems`] and [`Contents::require_sound`].
    pub fn read(checkpoint: &'a Checkpoint) -> Result<Self> {
        let config = Config::from_checkpoint(checkpoint)?;
        let packing = Packing::read(checkpoint)?;
        if let (Some(method), None) = (&config.quantization, &packing) {
            let what = format!(
                "config.json says the weights are quantized with {method}, but no quantized layer is there that \
                 quern reads; start from the original weights"
            );
            return Err(Error::unsupported(checkpoint.path(), what));
        }
        Ok(Self::matched(checkpoint, config, packing))
    }

    /// As [`Contents::read`], with a configuration and packed layers that were read before.
    pub fn matched(checkpoint: &'a Checkpoint, config: Config, packing: Option<Packing>) -> Self {
        let expected = config.expected_tensors(config.convention);
        let names = Names::new(&config, &expected);
        let found = Found::new(checkpoint, packing.as_ref(), &names);
        let mut matcher =
            Matcher { checkpoint, config: &config, packing: packing.as_ref(), found, used: HashSet::new() };
        let (mut tensors, mut problems) = (Vec::with_capacity(expected.len()), Vec::new());
        for want in expected {
            match matcher.place(&want) {
                Ok(Some(place)) => tensors.push(HeldTensor { expected: want, place }),
                Ok(None) if want.optional => {}
                Ok(None) => problems.push(Problem::missing(checkpoint, &want)),
                Err(problem) => problems.push(problem),
            }
        }
        let used = matcher.used;
        let extras = Extras::new(checkpoint, &config, packing.as_ref(), &names, &tensors);
        let left_out = extras.classify(&used, &mut problems);
        Self { checkpoint, config, packing, tensors, left_out, problems }
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its packed layers, where it has such.
    pub fn packing(&self) -> Option<&Packing> {
        self.packing.as_ref()
    }

    /// The tensors found, in the architecture's order.
    pub fn tensors(&self) -> &[HeldTensor] {
        &self.tensors
    }

    /// Number of values in them; of packed layers, of the weights they stand for.
    pub fn parameters(&self) -> u64 {
        let values = |t: &HeldTensor| t.expected.shape.iter().map(|&d| d as u64).product::<u64>();
        self.tensors.iter().map(values).sum()
    }

    /// What the file holds beyond them that changes no result.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// What is missing, misshapen or not part of such a model.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// One sentence on what is left out; `None` if nothing is.
    pub fn note(&self) -> Option<String> {
        extras::note(self.checkpoint, &self.left_out)
    }

    /// Refuses a checkpoint with [`Contents::problems`].
    ///
    /// # Errors
    /// The first problem, with the number of others.
    pub fn require_sound(&self) -> Result<()> {
        problem::first(self.checkpoint, &self.problems)
    }

    /// How the weights are quantized (`gptq`, `nf4`, `q4_K` …); `None` where they are plain numbers, or as the model was
    /// released (FP8).
    pub fn quantized_with(&self) -> Option<String> {
        quantized_with(self.checkpoint, &self.config, self.packing.as_ref())
    }

    /// Refuses a checkpoint whose weights are quantized.
    ///
    /// # Errors
    /// It is, with the method.
    pub fn refuse_quantized(&self) -> Result<()> {
        match self.quantized_with() {
            None => Ok(()),
            Some(method) => Err(already_quantized(self.checkpoint.path(), &method)),
        }
    }

    /// The packed layers, where the checkpoint has such.
    pub fn into_packing(self) -> Option<Packing> {
        self.packing
    }

    /// Takes it apart.
    pub(crate) fn into_parts(self) -> (Config, Option<Packing>, Vec<HeldTensor>) {
        (self.config, self.packing, self.tensors)
    }
}

/// The refusal to quantize once more what is quantized with `method`.
pub fn already_quantized(file: &Path, method: &str) -> Error {
    let what = format!(
        "the weights are already quantized with {method}, and quantizing them again would lose more quality"
    );
    Error::refused(file, what).with_remedy(Remedy::AllowRequantize)
}

/// How a checkpoint's weights are quantized; `None` where they are as the model was released.
fn quantized_with(checkpoint: &Checkpoint, config: &Config, packing: Option<&Packing>) -> Option<String> {
    if packing.is_some_and(Packing::is_as_released) {
        return None;
    }
    // MLX's configurations name no method.
    if let Some(method) = config.quantization.as_ref().filter(|method| *method != "unknown") {
        return Some(method.clone());
    }
    if let Some(packing) = packing.filter(|p| !p.layers().is_empty()) {
        return Some(packing.scheme().name().to_owned());
    }
    let block = checkpoint.tensors().iter().map(|t| t.element_type).find(|t| t.is_block());
    block.map(|t| t.name().to_owned())
}

/// The tensor or layer under each of the architecture's names, in file order.
struct Found {
    by_name: HashMap<String, Vec<Item>>,
}

/// A tensor of the file or a packed layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Item {
    Plain(usize),
    Packed(usize),
}

impl Found {
    fn new(checkpoint: &Checkpoint, packing: Option<&Packing>, names: &Names) -> Self {
        let mut by_name: HashMap<String, Vec<Item>> = HashMap::new();
        let layers = packing.map_or(&[] as &[PackedLayer], Packing::layers);
        let parts: HashSet<usize> = layers.iter().flat_map(|l| l.parts.iter().copied()).collect();
        let packed = layers.iter().enumerate().map(|(n, l)| (l.name.as_str(), Item::Packed(n)));
        let plain = checkpoint.tensors().iter().enumerate().filter(|(i, _)| !parts.contains(i));
        let plain = plain.map(|(i, t)| (t.name.as_str(), Item::Plain(i)));
        for (name, item) in packed.chain(plain) {
            if let Some(known) = names.known(name) {
                by_name.entry(known).or_default().push(item);
            }
        }
        Self { by_name }
    }
}

struct Matcher<'a, 'c> {
    checkpoint: &'a Checkpoint,
    config: &'c Config,
    packing: Option<&'c Packing>,
    found: Found,
    /// What is used.
    used: HashSet<Item>,
}

impl Matcher<'_, '_> {
    /// Where `want` is; `None` if nowhere.
    fn place(&mut self, want: &ExpectedTensor) -> Result<Option<Place>, Problem> {
        if let Some(&item) = self.found.by_name.get(&want.name).and_then(|items| items.first()) {
            self.used.insert(item);
            return match item {
                Item::Packed(number) => self.packed(want, number).map(Some),
                Item::Plain(index) => self.plain(want, index).map(Some),
            };
        }
        let aliases = self.config.architecture.hf_aliases.iter();
        let mut refused = None;
        for alias in
            aliases.filter(|a| a.role == want.role && self.config.convention == Convention::HuggingFace)
        {
            let Some(name) = self.config.fill(alias.name, want.layer, want.part) else { continue };
            let Some(&item) = self.found.by_name.get(&name).and_then(|items| items.first()) else { continue };
            self.used.insert(item);
            let place = match (alias.layout, item) {
                (AliasLayout::Same, Item::Plain(index)) => self.plain(want, index),
                (AliasLayout::Same, Item::Packed(number)) => self.packed(want, number),
                (AliasLayout::Stack { of, which }, Item::Plain(index)) => self.slice(want, index, of, which),
                (AliasLayout::Stack { of, which }, Item::Packed(number)) => {
                    self.packed_slice(want, number, of, which)
                }
                (AliasLayout::Woven { of, which }, Item::Plain(index)) => {
                    self.woven(want, index, (of, which, of))
                }
                (AliasLayout::Beside { of, which }, Item::Plain(index)) => {
                    let rows = want.shape.first().copied().unwrap_or(0);
                    self.woven(want, index, (of, which * rows, 1))
                }
                (AliasLayout::Grouped { which }, Item::Plain(index)) => self.grouped(want, index, which),
                (AliasLayout::Grouped { .. }, Item::Packed(number)) => {
                    Err(self.packed_together(want, number))
                }
                // Layers that are packed one by one are found by their own names.
                (AliasLayout::Woven { .. } | AliasLayout::Beside { .. }, Item::Packed(_)) => continue,
            };
            match place {
                Ok(place) => return Ok(Some(place)),
                // Another layout under the same name may fit.
                Err(problem) => refused = Some(problem),
            }
        }
        refused.map_or(Ok(None), Err)
    }

    fn packed(&self, want: &ExpectedTensor, number: usize) -> Result<Place, Problem> {
        let Some(layer) = self.packing.and_then(|p| p.layers().get(number)) else {
            return Err(Problem::missing(self.checkpoint, want));
        };
        let shape = [layer.rows, layer.columns];
        // GPT-2's transposed matrices are stored the usual way round once they are packed.
        let transposed = want.template.layout == Layout::Transposed && want.shape.iter().rev().eq(&shape);
        // A stack of experts is one layer of all their rows.
        let stacked = match want.shape.as_slice() {
            [outer @ .., columns] => [outer.iter().product(), *columns] == shape,
            [] => false,
        };
        match stacked || transposed {
            true => Ok(Place::Packed(number)),
            false => {
                let file = problem::file_of_layer(self.checkpoint, layer);
                Err(Problem::shape(&layer.name, file, &shape, &want.shape))
            }
        }
    }

    fn plain(&self, want: &ExpectedTensor, index: usize) -> Result<Place, Problem> {
        let info = &self.checkpoint.tensors()[index];
        if info.shape != want.shape {
            return Err(Problem::shape(&info.name, self.checkpoint.file_of(info), &info.shape, &want.shape));
        }
        self.check_type(info)?;
        Ok(Place::Plain(Span { tensor: index, start: 0, bytes: info.bytes }))
    }

    /// The matrix of part `want.part` in a stack that holds `of` of them for each part, this one at `which`.
    fn slice(&self, want: &ExpectedTensor, index: usize, of: usize, which: usize) -> Result<Place, Problem> {
        let info = &self.checkpoint.tensors()[index];
        let parts = want.part.map(|_| self.parts(want.role));
        let &[rows, columns] = want.shape.as_slice() else {
            return Err(Problem::missing(self.checkpoint, want));
        };
        let demanded: Vec<usize> = parts.into_iter().chain([of * rows, columns]).collect();
        let (part, parts) = (want.part.unwrap_or(0), parts.unwrap_or(1));
        if info.shape != demanded {
            return Err(Problem::shape(&info.name, self.checkpoint.file_of(info), &info.shape, &demanded));
        }
        self.check_type(info)?;
        let bytes = info.bytes / (parts * of).max(1);
        Ok(Place::Plain(Span { tensor: index, start: (part * of + which) * bytes, bytes }))
    }

    /// The matrix or vector of part `want.part` of a tensor that holds those of `of` roles, transposed: its first value
    /// among those of the part, and the values from one row to the next.
    fn woven(
        &self,
        want: &ExpectedTensor,
        index: usize,
        (of, first, row): (usize, usize, usize),
    ) -> Result<Place, Problem> {
        let info = &self.checkpoint.tensors()[index];
        let parts = self.parts(want.role);
        let missing = || Problem::missing(self.checkpoint, want);
        let part = want.part.ok_or_else(missing)?;
        let (demanded, row_stride, column_stride) = match *want.shape.as_slice() {
            [rows, columns] => (vec![parts, columns, of * rows], row, of * rows),
            [values] => (vec![parts, of * values], 0, of),
            _ => return Err(missing()),
        };
        if info.shape != demanded {
            return Err(Problem::shape(&info.name, self.checkpoint.file_of(info), &info.shape, &demanded));
        }
        self.check_type(info)?;
        let bytes = info.bytes / parts.max(1);
        let span = Span { tensor: index, start: part * bytes, bytes };
        Ok(match (row_stride, column_stride) {
            (0, 1) => Place::Plain(span),
            _ => {
                let (run, run_stride) = (usize::MAX, 0);
                Place::Woven(Woven { span, first, row_stride, column_stride, run, run_stride })
            }
        })
    }

    /// The rows of queries, keys or values (0, 1, 2) in a matrix that has those of each key head together.
    fn grouped(&self, want: &ExpectedTensor, index: usize, which: usize) -> Result<Place, Problem> {
        let info = &self.checkpoint.tensors()[index];
        let Config { heads, kv_heads, head_dim, .. } = *self.config;
        let &[_, columns] = want.shape.as_slice() else {
            return Err(Problem::missing(self.checkpoint, want));
        };
        let demanded = [(heads + 2 * kv_heads) * head_dim, columns];
        if info.shape != demanded {
            return Err(Problem::shape(&info.name, self.checkpoint.file_of(info), &info.shape, &demanded));
        }
        self.check_type(info)?;
        let queries = heads / kv_heads;
        let before = if which == 0 { 0 } else { queries + which - 1 };
        let size = head_dim * columns;
        Ok(Place::Woven(Woven {
            span: Span { tensor: index, start: 0, bytes: info.bytes },
            first: before * size,
            row_stride: columns,
            column_stride: 1,
            run: if which == 0 { queries * head_dim } else { head_dim },
            run_stride: (queries + 2) * size,
        }))
    }

    /// The same of a packed stack.
    fn packed_slice(
        &self,
        want: &ExpectedTensor,
        number: usize,
        of: usize,
        which: usize,
    ) -> Result<Place, Problem> {
        let (part, parts) = want.part.map_or((0, 1), |part| (part, self.parts(want.role)));
        let layer = self.packing.and_then(|p| p.layers().get(number));
        let (&[rows, columns], Some(layer)) = (want.shape.as_slice(), layer) else {
            return Err(Problem::missing(self.checkpoint, want));
        };
        let demanded = [parts * of * rows, columns];
        if [layer.rows, layer.columns] != demanded {
            let file = problem::file_of_layer(self.checkpoint, layer);
            return Err(Problem::shape(&layer.name, file, &[layer.rows, layer.columns], &demanded));
        }
        Ok(Place::PackedRows { layer: number, first: (part * of + which) * rows, rows })
    }

    /// Why rows of a packed layer that belong to several layers cannot be taken.
    fn packed_together(&self, want: &ExpectedTensor, number: usize) -> Problem {
        let Some(layer) = self.packing.and_then(|p| p.layers().get(number)) else {
            return Problem::missing(self.checkpoint, want);
        };
        let file = problem::file_of_layer(self.checkpoint, layer).to_path_buf();
        Problem { tensor: layer.name.clone(), file, kind: ProblemKind::PackedTogether }
    }

    fn parts(&self, role: TensorRole) -> usize {
        use TensorRole as R;
        let experts = [
            R::ExpertsGate,
            R::ExpertsUp,
            R::ExpertsDown,
            R::ExpertsGateBias,
            R::ExpertsUpBias,
            R::ExpertsDownBias,
        ];
        match experts.contains(&role) {
            true => self.config.experts.as_ref().map_or(1, |e| e.count),
            false => 1,
        }
    }

    fn check_type(&self, info: &TensorInfo) -> Result<(), Problem> {
        let file = self.checkpoint.file_of(info);
        let kind = match info.element_type {
            t if self.config.convention == Convention::HuggingFace && !t.is_float() => {
                ProblemKind::NotFloat(t)
            }
            t if t.row_bytes(info.columns()).is_none() => ProblemKind::PartialBlocks(t),
            _ => return Ok(()),
        };
        Err(Problem { tensor: info.name.clone(), file: file.to_path_buf(), kind })
    }
}
