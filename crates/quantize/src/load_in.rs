//! Quantizing an fp16 checkpoint while it is loaded for running: what `quern run --load-in` does.
//!
//! ```text
//! nf4, fp4, int8     the linear layers of the blocks, as transformers' load_in_4bit and load_in_8bit choose
//! q4_k_m, q8_0, …    every tensor the GGUF recipe quantizes, to the type it chooses
//! f32, f16, bf16     every matrix, also of a quantized checkpoint: a yardstick for what runs on packed weights
//! ```
//!
//! The weights are those a file of the scheme would have.

use std::collections::HashMap;

use quern_compute::simd::Level;
use quern_model::{Config, Contents, ExpectedTensor, FileType, TensorRole, View, ViewTensor};
use quern_run::LoadIn;
use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, ElementType, NoProgress, Remedy};

use crate::bitsandbytes::{Kind, encode_in_memory};
use crate::encode::{Grid, encode_rows_at, encode_rows_on_grid};
use crate::job::{self, Grids};

/// A scheme to load in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadScheme {
    /// NF4, FP4 or int8.
    Bitsandbytes(Kind),
    /// A GGUF file type.
    Gguf(FileType),
    /// Plain numbers of this type.
    Plain(ElementType),
}

impl LoadScheme {
    /// `nf4`, `fp4`, `int8`, a file type's name, `f32`, `f16` or `bf16`, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        if let Some(kind) = Kind::from_name(name) {
            return Some(Self::Bitsandbytes(kind));
        }
        let file_type = FileType::from_name(name)?;
        match file_type {
            FileType::F32 | FileType::F16 | FileType::BF16 => file_type.default_type().map(Self::Plain),
            _ => file_type.is_block().then_some(Self::Gguf(file_type)),
        }
    }
}

/// Which tensor of one checkpoint gets which type.
#[derive(Debug)]
pub struct Loader {
    scheme: LoadScheme,
    targets: HashMap<String, ElementType>,
    /// Tensors that are on a 4-bit grid, and how the source stores them.
    grids: HashMap<String, (Grid, ElementType)>,
    level: Level,
}

impl Loader {
    /// Chooses types for the tensors of `checkpoint`.
    ///
    /// # Errors
    /// A checkpoint that is quantized already, or cannot be described; a type that needs an importance matrix.
    pub fn new(checkpoint: &Checkpoint, scheme: LoadScheme) -> Result<Self, job::Error> {
        let config = Config::from_checkpoint(checkpoint)?;
        if !matches!(scheme, LoadScheme::Plain(_)) {
            let contents = Contents::matched(checkpoint, config.clone(), Packing::read(checkpoint)?);
            contents.refuse_quantized().map_err(|e| e.with_remedy(Remedy::LoadAsStored))?;
        }
        let mut grids = HashMap::new();
        let targets = match scheme {
            LoadScheme::Gguf(file_type) => from_recipe(checkpoint, file_type, &mut grids)?,
            LoadScheme::Bitsandbytes(kind) => matrices(&config, true, kind.in_memory()),
            LoadScheme::Plain(to) => matrices(&config, false, to),
        };
        Ok(Self { scheme, targets, grids, level: Level::detect() })
    }
}

/// The types that matrices have when a checkpoint of another scheme is loaded: for sizes, before there is one.
#[derive(Debug)]
pub struct BlockTypes(HashMap<String, ElementType>);

impl BlockTypes {
    /// The types that a GGUF file of this type has, from a checkpoint in plain numbers, seen under GGUF's names and under its
    /// own.
    ///
    /// # Errors
    /// The recipe does not suit the shapes.
    pub fn of_recipe(gguf: &View<'_>, stored: &View<'_>, file_type: FileType) -> Result<Self, job::Error> {
        from_views(gguf, stored, job::Options::new(file_type)).map(Self)
    }

    /// The linear layers of the blocks in one type, as GPTQ and bitsandbytes choose them.
    pub fn new(config: &Config, to: ElementType) -> Self {
        Self(matrices(config, true, to))
    }
}

impl LoadIn for BlockTypes {
    fn target(&self, name: &str) -> Option<ElementType> {
        self.0.get(name).copied()
    }

    fn encode(&self, _: &str, _: ElementType, _: usize, _: &[f32], _: &mut [u8]) -> Result<(), String> {
        Err("these types are for sizes only".to_owned())
    }
}

/// All matrices, or only those within the blocks.
fn matrices(config: &Config, in_blocks: bool, to: ElementType) -> HashMap<String, ElementType> {
    let expected = config.expected_tensors(config.convention).into_iter();
    // Routers, tables of positions, convolutions and the biases of experts stay as they are, as with every scheme.
    let left = [
        TensorRole::Router,
        TensorRole::ChoiceBias,
        TensorRole::SharedRouter,
        TensorRole::PositionEmbedding,
        TensorRole::StateConv,
        TensorRole::ExpertsGateBias,
        TensorRole::ExpertsUpBias,
        TensorRole::ExpertsDownBias,
    ];
    let matrix = |e: &ExpectedTensor| e.shape.len() >= 2 && !left.contains(&e.role);
    let head_norm =
        |e: &ExpectedTensor| [TensorRole::AttentionQNorm, TensorRole::AttentionKNorm].contains(&e.role);
    let wanted = expected.filter(|e| matrix(e) && !head_norm(e) && (e.layer.is_some() || !in_blocks));
    wanted.map(|e| (e.name, to)).collect()
}

/// The types a GGUF file would have, by the checkpoint's own names; `on_grid` gets the tensors that are on a grid.
fn from_recipe(
    checkpoint: &Checkpoint,
    file_type: FileType,
    on_grid: &mut HashMap<String, (Grid, ElementType)>,
) -> Result<HashMap<String, ElementType>, job::Error> {
    let (view, stored) = (View::gguf_without_tokenizer(checkpoint)?, View::stored(checkpoint)?);
    let grids = Grids::find(&view, 0, &NoProgress)?;
    for tensor in view.tensors() {
        if let Some(found) = grids.get(&tensor.name) {
            let sources = tensor.sources.iter().cloned();
            on_grid.extend(sources.map(|name| (name, (found.grid, tensor.element_type))));
        }
    }
    from_views(&view, &stored, job::Options { grids, ..job::Options::new(file_type) })
}

fn from_views(
    view: &View<'_>,
    stored: &View<'_>,
    options: job::Options,
) -> Result<HashMap<String, ElementType>, job::Error> {
    let plan = job::plan(view, options)?;
    let sources: HashMap<_, _> = view.tensors().iter().map(|t| (t.name.as_str(), &t.sources)).collect();
    let rows = plan.rows().iter().filter(|r| r.to.is_block());
    let types = rows.filter_map(|r| Some((sources.get(r.name.as_str())?, r.to)));
    let by_source: HashMap<&str, ElementType> =
        types.flat_map(|(names, to)| names.iter().map(move |name| (name.as_str(), to))).collect();
    // A file may spell the names in another way, and keep all experts in one tensor.
    let target = |t: &ViewTensor| Some((t.name.clone(), *by_source.get(t.sources.first()?.as_str())?));
    Ok(stored.tensors().iter().filter_map(target).collect())
}

impl LoadIn for Loader {
    fn target(&self, name: &str) -> Option<ElementType> {
        self.targets.get(name).copied()
    }

    fn encode(
        &self,
        name: &str,
        target: ElementType,
        columns: usize,
        rows: &[f32],
        out: &mut [u8],
    ) -> Result<(), String> {
        match self.scheme {
            LoadScheme::Gguf(_) | LoadScheme::Plain(_) => {
                let done = match self.grids.get(name) {
                    Some(&on_grid) => {
                        encode_rows_on_grid(self.level, on_grid, target, columns, rows, None, out)
                    }
                    None => encode_rows_at(self.level, target, columns, rows, None, out),
                };
                done.map_err(|e| e.to_string())?;
            }
            LoadScheme::Bitsandbytes(kind) => {
                encode_in_memory(self.level, kind, columns, rows, out).map_err(|e| e.to_string())?;
            }
        }
        match job::bad_block(target, out) {
            None => Ok(()),
            Some(block) => Err(format!(
                "row {}: the values are too large for {target}",
                block * target.block_elements() / columns.max(1)
            )),
        }
    }
}
