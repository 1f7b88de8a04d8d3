//! Which tensors of a model are on a `q4_0` or `q4_1` grid: models that were trained for such a type, published in plain
//! numbers, or quantized before.
//!
//! A row of each tensor tells after two or three blocks that it is none of them. Only where rows spread over the tensor
//! are on a grid is all of it read, by all threads, as every block is counted before the types are chosen.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use quern_model::View;
use quern_tensor_io::{Progress, pipeline};
use rayon::prelude::*;

use super::{Error, Options, QuantizePlan, QuantizeRow};
use crate::encode::lattice::{self, BLOCK, Fit, Grid};
use crate::recipe::{Choice, FileType, is_quantizable};

/// Of this many blocks one may be on no grid; it is encoded as usual.
const BLOCKS_FOR_ONE: u64 = 100;
/// How unlikely it must be that values on no grid fit, in bits.
const EVIDENCE: u64 = 64;
/// Rows of a tensor that are looked at first.
const SAMPLES: usize = 8;
/// Values that a thread takes at a time.
const VALUES: usize = 256 * 1024;

/// A tensor that is on a grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorGrid {
    /// The grid.
    pub grid: Grid,
    /// Blocks of 32.
    pub blocks: u64,
    /// Blocks whose scale is not an f16 number, which is what a block stores: it is rounded, and the codes are kept.
    pub rounded: u64,
    /// Blocks that are on no grid.
    pub off: u64,
}

impl TensorGrid {
    /// Whether every block is encoded without error.
    pub fn is_exact(&self) -> bool {
        self.rounded == 0 && self.off == 0
    }
}

/// The tensors of a model that are on a grid, by their names in GGUF.
#[derive(Clone, Debug, Default)]
pub struct Grids(HashMap<String, TensorGrid>);

impl Grids {
    /// Looks at every matrix of `view` that is stored in plain numbers, and reads those that seem to be on a grid, on
    /// `threads` threads (0 for as many as there are processors). Progress is counted in bytes of those.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn find(view: &View<'_>, threads: usize, progress: &dyn Progress) -> Result<Self, Error> {
        let seeming = Self::seeming(view);
        if seeming.is_empty() {
            return Ok(Self::default());
        }
        let bytes = |&(tensor, _): &(usize, Grid)| {
            let tensor = &view.tensors()[tensor];
            tensor.rows() as u64 * tensor.row_bytes as u64
        };
        progress.total(seeming.iter().map(bytes).sum());
        let pool = pipeline::pool(threads, view.checkpoint().path())?;
        let mut found = HashMap::new();
        for candidate in seeming {
            let (tensor, grid) = candidate;
            let name = &view.tensors()[tensor].name;
            progress.step(name);
            if let Some(on_grid) = pool.install(|| whole(view, tensor, grid, progress)) {
                found.insert(name.clone(), on_grid);
            }
        }
        Ok(Self(found))
    }

    /// The tensors whose rows, as far as a few of each were looked at, are on a grid, by their index in the view.
    pub fn seeming(view: &View<'_>) -> Vec<(usize, Grid)> {
        let tensors = view.tensors().iter().enumerate();
        let matrices = tensors.filter(|(_, t)| {
            let whole_blocks = t.columns() > 0 && t.columns().is_multiple_of(BLOCK);
            t.element_type.is_float() && whole_blocks && is_quantizable(&t.name, &t.shape)
        });
        let grids = [Grid::Q4_0, Grid::Q4_1];
        matrices
            .filter_map(|(i, _)| Some((i, grids.into_iter().find(|&grid| seems(view, i, grid))?)))
            .collect()
    }

    /// What was found of the tensor with this name in GGUF.
    pub fn get(&self, name: &str) -> Option<&TensorGrid> {
        self.0.get(name)
    }

    /// Whether no tensor is on a grid.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a job makes of the tensors that are on a grid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GridReport {
    /// The grid of most of them.
    pub grid: Option<Grid>,
    /// Tensors on a grid.
    pub tensors: usize,
    /// Matrices that the job quantizes, on a grid or not.
    pub matrices: usize,
    /// Tensors that are encoded without error.
    pub exact: usize,
    /// Tensors whose codes are kept, with scales rounded to f16 or, in at most one of a hundred blocks, encoded as usual.
    pub nearly: usize,
    /// Tensors that get a type that does not hold their grid.
    pub lost: usize,
}

/// Gives tensors on a grid its own type, where the mix of `q4_0` or `q4_1` has one that does not hold the grid (`q6_K`
/// for embeddings and output head) and the user has asked for no other.
pub(super) fn choose(view: &View<'_>, choices: &mut [Choice], options: &Options) {
    if !matches!(options.file_type, FileType::Q4_0 | FileType::Q4_1) {
        return;
    }
    for choice in choices {
        let tensor = &view.tensors()[choice.index];
        let Some(on_grid) = options.grids.get(&tensor.name) else { continue };
        let target = on_grid.grid.element_type();
        let quantized = choice.element_type.is_block();
        if quantized
            && on_grid.off == 0
            && !on_grid.grid.fits(choice.element_type)
            && !asked_for(options, &tensor.name)
        {
            *choice =
                Choice { element_type: target, instead_of: None, needs_imatrix: false, ..choice.clone() };
        }
    }
}

/// Whether the user has named the type of this tensor.
fn asked_for(options: &Options, name: &str) -> bool {
    let output = name == "output.weight" && options.output_tensor_type.is_some();
    let embeddings = name.ends_with("token_embd.weight")
        && (options.token_embedding_type.is_some() || options.output_tensor_type.is_some());
    output || embeddings || options.overrides.iter().any(|o| o.matches(name))
}

impl QuantizePlan<'_> {
    /// What becomes of the tensors that are on a grid.
    pub fn grids(&self) -> GridReport {
        let mut report = GridReport::default();
        let mut fours = 0;
        for row in self.rows().iter().filter(|row| row.from != row.to && row.to.is_block()) {
            report.matrices += 1;
            let Some(found) = self.options.grids.get(&row.name) else { continue };
            report.tensors += 1;
            fours += usize::from(found.grid == Grid::Q4_0);
            if !found.grid.fits(row.to) {
                report.lost += 1;
            } else if found.is_exact() {
                report.exact += 1;
            } else {
                report.nearly += 1;
            }
        }
        let of_most = if 2 * fours >= report.tensors { Grid::Q4_0 } else { Grid::Q4_1 };
        report.grid = (report.tensors > 0).then_some(of_most);
        report
    }

    /// The grid that the blocks of this row's tensor are encoded on.
    pub(crate) fn grid(&self, row: &QuantizeRow) -> Option<&TensorGrid> {
        self.options.grids.get(&row.name).filter(|found| found.grid.fits(row.to))
    }
}

/// Blocks counted by what became of them.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    blocks: u64,
    rounded: u64,
    off: u64,
    evidence: u64,
}

impl Count {
    fn add(&mut self, fit: Fit) {
        self.blocks += 1;
        match fit {
            Fit::Trivial => {}
            Fit::Exact(_, evidence) => self.evidence += evidence.max(0.0) as u64,
            Fit::Near(_, evidence) => {
                self.rounded += 1;
                self.evidence += evidence.max(0.0) as u64;
            }
            Fit::Off => self.off += 1,
        }
    }

    fn with(self, other: Self) -> Self {
        Self {
            blocks: self.blocks + other.blocks,
            rounded: self.rounded + other.rounded,
            off: self.off + other.off,
            evidence: self.evidence + other.evidence,
        }
    }
}

/// Whether the first blocks of some rows are on this grid.
fn seems(view: &View<'_>, tensor: usize, grid: Grid) -> bool {
    let described = &view.tensors()[tensor];
    let rows = described.rows();
    let samples = SAMPLES.min(rows);
    let mut values = vec![0.0; described.columns()];
    let mut count = Count::default();
    for sample in 0..samples {
        let row = (2 * sample + 1) * rows / (2 * samples);
        if !view.decode(tensor, row..row + 1, &mut values) {
            return false;
        }
        for block in values.as_chunks::<BLOCK>().0 {
            count.add(lattice::fit(grid, block, described.element_type));
            // Two, or a twentieth of many.
            if count.off > 1 + count.blocks / 20 {
                return false;
            }
        }
    }
    count.evidence >= EVIDENCE
}

/// Counts all blocks of a tensor; `None` if it is not on the grid.
fn whole(view: &View<'_>, tensor: usize, grid: Grid, progress: &dyn Progress) -> Option<TensorGrid> {
    let described = &view.tensors()[tensor];
    let (rows, columns) = (described.rows(), described.columns());
    let most_off = (rows * columns / BLOCK) as u64 / BLOCKS_FOR_ONE;
    let off = AtomicU64::new(0);
    let step = (VALUES / columns).max(1);
    let count =
        (0..rows.div_ceil(step)).into_par_iter().map(|piece| piece * step..rows.min((piece + 1) * step));
    let count = count.map_init(Vec::new, |values: &mut Vec<f32>, rows: Range<usize>| {
        let mut count = Count::default();
        if off.load(Ordering::Relaxed) <= most_off {
            values.resize(rows.len() * columns, 0.0);
            view.decode(tensor, rows.clone(), values);
            values
                .as_chunks::<BLOCK>()
                .0
                .iter()
                .for_each(|b| count.add(lattice::fit(grid, b, described.element_type)));
            off.fetch_add(count.off, Ordering::Relaxed);
            view.release(tensor, rows.clone());
        }
        progress.advance((rows.len() * described.row_bytes) as u64);
        count
    });
    let count = count.reduce(Count::default, Count::with);
    let Count { blocks, rounded, off: _, evidence } = count;
    let off = off.into_inner();
    (off <= most_off && evidence >= EVIDENCE).then_some(TensorGrid { grid, blocks, rounded, off })
}
