//! Looks in a checkpoint for the tensors that its configuration demands, under the architecture's names and others.

use std::collections::{HashMap, HashSet};

use quern_tensor_io::scheme::{PackedLayer, Packing};
use quern_tensor_io::{Checkpoint, TensorInfo};

use crate::Config;
use crate::architecture::{AliasLayout, Convention, Layout, TensorRole};
use crate::config::ExpectedTensor;

use super::names::Names;
use super::place::{Place, Span, Woven};
use super::problem::{self, Problem, ProblemKind};

/// The tensor or layer under each of the architecture's names, in file order.
pub(super) struct Found {
    by_name: HashMap<String, Vec<Item>>,
}

/// A tensor of the file or a packed layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Item {
    Plain(usize),
    Packed(usize),
}

impl Found {
    pub fn new(checkpoint: &Checkpoint, packing: Option<&Packing>, names: &Names) -> Self {
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

/// Looks for what the configuration demands.
pub(super) struct Matcher<'a, 'c> {
    pub checkpoint: &'a Checkpoint,
    pub config: &'c Config,
    pub packing: Option<&'c Packing>,
    pub found: Found,
    /// What is used.
    pub used: HashSet<Item>,
}

impl Matcher<'_, '_> {
    /// Where `want` is; `None` if nowhere.
    pub fn place(&mut self, want: &ExpectedTensor) -> Result<Option<Place>, Problem> {
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
            R::ExpertsGateUp,
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
