//! The plan: what becomes of every tensor, before any work is done.

use std::path::PathBuf;

use quern_compute::simd::Level;
use quern_model::View;
use quern_model::contents::already_quantized;
use quern_model::provenance::Provenance;
use quern_tensor_io::output::Inputs;
use quern_tensor_io::{Container, ElementType, Error as FileError, Metadata, TensorPlan, decode, gguf};

use super::grids::{self, Grids};
use super::{Error, metadata};
use crate::imatrix::Imatrix;
use crate::recipe::{self, Choice, FileType, ModelFacts, Override, Recipe, RecipeOptions, TensorFacts};

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The target.
    pub file_type: FileType,
    /// How strongly each column counts.
    pub imatrix: Option<Imatrix>,
    /// The columns' importance is measured by a calibration, whose results the job gets: recipes choose as with an
    /// importance matrix.
    pub calibrated: bool,
    /// Tensors that are on a grid of 4 bits: they are encoded without error, where llama-quantize loses the grid.
    pub grids: Grids,
    /// No mix: every tensor that may be quantized gets the default type.
    pub pure: bool,
    /// The output head keeps its type.
    pub leave_output_tensor: bool,
    /// The type of the output head.
    pub output_tensor_type: Option<ElementType>,
    /// The type of the token embeddings.
    pub token_embedding_type: Option<ElementType>,
    /// Types by tensor name; the first match wins.
    pub overrides: Vec<Override>,
    /// Takes the place of the file type's mix.
    pub recipe: Option<Recipe>,
    /// Whether tensors that are quantized already may be quantized again.
    pub allow_requantize: bool,
    /// How the output is made, recorded in its metadata with what the job measures. `None` records nothing, and the
    /// file is the one that llama-quantize writes.
    pub provenance: Option<Provenance>,
    /// Whether an existing output file may be replaced.
    pub force: bool,
    /// What the command reads beside the source and the importance matrix: never replaced.
    pub inputs: Inputs,
    /// Threads that encode; 0 for as many as there are processors. The output does not depend on it.
    pub threads: usize,
    /// Instructions that are used, or the best of the CPU if that is lower. The output does not depend on it.
    pub level: Level,
}

impl Options {
    /// `file_type` with everything else as llama-quantize has it by default.
    pub fn new(file_type: FileType) -> Self {
        Self {
            file_type,
            imatrix: None,
            calibrated: false,
            grids: Grids::default(),
            pure: false,
            leave_output_tensor: false,
            output_tensor_type: None,
            token_embedding_type: None,
            overrides: Vec::new(),
            recipe: None,
            allow_requantize: false,
            provenance: None,
            force: false,
            inputs: Inputs::default(),
            threads: 0,
            level: Level::detect(),
        }
    }

    /// Whether the type of this tensor is left to a recipe or mix.
    pub fn is_open(&self, name: &str, shape: &[usize]) -> bool {
        let options =
            RecipeOptions { recipe: Some(Recipe::all(ElementType::Q8_0)), ..self.for_recipe(false) };
        recipe::is_open(name, shape, &options)
    }

    fn for_recipe(&self, widen_rest: bool) -> RecipeOptions {
        RecipeOptions {
            file_type: self.file_type,
            pure: self.pure,
            leave_output_tensor: self.leave_output_tensor,
            output_tensor_type: self.output_tensor_type,
            token_embedding_type: self.token_embedding_type,
            overrides: self.overrides.clone(),
            recipe: self.recipe.clone(),
            has_imatrix: self.imatrix.is_some() || self.calibrated,
            widen_rest,
        }
    }
}

/// What becomes of one tensor: a row of the dry-run table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizeRow {
    /// GGUF name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The numbers that are quantized: of packed layers, the decoded ones.
    pub from: ElementType,
    /// How the source stores it: an element type, or a scheme and its bits (`fp8`, `gptq 4-bit`).
    pub stored: String,
    /// How the output stores it.
    pub to: ElementType,
    /// Bytes in the source.
    pub source_bytes: u64,
    /// Bytes in the output.
    pub bytes: u64,
    /// The type the recipe wanted, where the rows are not whole blocks of it.
    pub instead_of: Option<ElementType>,
    /// Index into [`View::tensors`].
    pub(crate) index: usize,
    /// Whether the importance matrix has an entry that will be used.
    pub weighted: bool,
}

/// Something the user should know before the job runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// A tensor gets another type because its rows are not whole blocks.
    #[error("tensor {tensor:?}: rows are not whole blocks of {wanted}, falling back to {to}")]
    Fallback {
        /// The tensor.
        tensor: String,
        /// The type the recipe wanted.
        wanted: ElementType,
        /// The type it gets.
        to: ElementType,
    },
    /// Tensors without an entry in the importance matrix. (Embeddings and output head, which seldom have
    /// one, are not counted.)
    #[error("{} has no entry for {} of the tensors: {}", file.display(), tensors.len(), some(tensors))]
    NoImportance {
        /// The importance matrix.
        file: PathBuf,
        /// The tensors.
        tensors: Vec<String>,
    },
    /// Entries of the importance matrix that no tensor uses.
    #[error("{}: {} of its entries match no tensor: {}", file.display(), entries.len(), some(entries))]
    UnusedImportance {
        /// The importance matrix.
        file: PathBuf,
        /// The entries.
        entries: Vec<String>,
    },
    /// An entry for the token embeddings has another length and is not used.
    #[error("{}: the entry for {tensor:?} has {found} values instead of {expected} and is not used", file.display())]
    EmbeddingImportance {
        /// The importance matrix.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Values in the entry.
        found: usize,
        /// Values needed.
        expected: usize,
    },
    /// The job cannot run without an importance matrix, though it can be planned.
    #[error("{} tensors need an importance matrix: {}", tensors.len(), some(tensors))]
    NeedsImatrix {
        /// The tensors.
        tensors: Vec<String>,
    },
}

/// The first few of many names.
fn some(names: &[String]) -> String {
    let shown = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 3 { format!("{shown} and {} more", names.len() - 3) } else { shown }
}

/// A job, ready to run.
#[derive(Debug)]
pub struct QuantizePlan<'a> {
    pub(crate) view: &'a View<'a>,
    pub(crate) options: Options,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorPlan>,
    rows: Vec<QuantizeRow>,
    warnings: Vec<Warning>,
    needs_imatrix: Vec<usize>,
    file_size: u64,
}

impl QuantizePlan<'_> {
    /// One row a tensor, in the order they are written.
    pub fn rows(&self) -> &[QuantizeRow] {
        &self.rows
    }

    /// What the user should know.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The metadata the output will carry.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Bytes of the source as it is stored: smaller than [`source_bytes`](Self::source_bytes) where its layers are
    /// packed.
    pub fn stored_bytes(&self) -> u64 {
        let stored = self.view.checkpoint().tensors().iter().map(|tensor| tensor.bytes as u64).sum();
        self.source_bytes().min(stored)
    }

    /// Bytes of all tensors in the source, of packed layers decoded: the total of the job's progress.
    pub fn source_bytes(&self) -> u64 {
        self.rows.iter().map(|r| r.source_bytes).sum()
    }

    /// Bytes of all tensors in the output.
    pub fn tensor_bytes(&self) -> u64 {
        self.rows.iter().map(|r| r.bytes).sum()
    }

    /// Bytes of the output file.
    pub fn file_size(&self) -> u64 {
        self.file_size
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        parameters(&self.rows)
    }

    /// Bits per weight over all tensors; 0 for a model without weights.
    pub fn bits_per_weight(&self) -> f64 {
        bits_per_weight(&self.rows)
    }

    /// Refuses what can be planned but not run.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for row in &self.rows {
            let tensor = || row.name.clone();
            if row.from == row.to {
                if row.to.ggml_id().is_none() {
                    return Err(Error::NoGgufType { tensor: tensor(), element_type: row.to });
                }
                continue;
            }
            if !decode::can_decode(row.from) {
                return Err(Error::Undecodable { tensor: tensor(), element_type: row.from, to: row.to });
            }
            if row.from.is_block() && !self.options.allow_requantize {
                let source = self.view.checkpoint().path();
                return Err(already_quantized(source, row.from.name()).with_tensor(tensor()).into());
            }
        }
        match self.needs_imatrix.first() {
            Some(&i) => {
                let row = &self.rows[i];
                Err(Error::NeedsImatrix { tensor: row.name.clone(), element_type: row.to })
            }
            None => Ok(()),
        }
    }
}

fn parameters(rows: &[QuantizeRow]) -> u64 {
    rows.iter().map(|r| r.shape.iter().map(|&d| d as u64).product::<u64>()).sum()
}

pub(super) fn bits_per_weight(rows: &[QuantizeRow]) -> f64 {
    match parameters(rows) {
        0 => 0.0,
        n => rows.iter().map(|r| r.bytes).sum::<u64>() as f64 * 8.0 / n as f64,
    }
}

/// Plans a job: chooses types, sizes and metadata, and looks for whatever can be known to go wrong.
/// Reads no weights.
pub fn plan<'a>(view: &'a View<'a>, options: Options) -> Result<QuantizePlan<'a>, Error> {
    let facts: Vec<TensorFacts> = view
        .tensors()
        .iter()
        .map(|t| TensorFacts { name: t.name.clone(), shape: t.shape.clone(), element_type: t.element_type })
        .collect();
    let recipe_options = options.for_recipe(view.checkpoint().container() != Container::Gguf);
    let model = if options.recipe.is_some() || (options.file_type.is_block() && !options.pure) {
        let named = |e: recipe::RecipeError| {
            Error::File(FileError::malformed(view.checkpoint().path(), e.to_string()))
        };
        ModelFacts::from_metadata(view.metadata()).map_err(named)?
    } else {
        ModelFacts::default()
    };
    let mut choices = recipe::choose(&model, &facts, &recipe_options)?;
    grids::choose(view, &mut choices, &options);

    let mut warnings = Vec::new();
    let mut needs_imatrix = Vec::new();
    let mut rows = Vec::with_capacity(choices.len());
    for choice in &choices {
        let row = plan_row(view, choice, &options, &mut warnings)?;
        let unmet = choice.needs_imatrix && !row.weighted && !options.calibrated;
        if unmet && row.from != row.to {
            needs_imatrix.push(rows.len());
        }
        rows.push(row);
    }
    warn(&rows, &needs_imatrix, options.imatrix.as_ref(), &mut warnings);

    let mut metadata = metadata::output(view.metadata(), options.file_type, &rows, options.imatrix.as_ref());
    if let Some(provenance) = &options.provenance {
        metadata::record(&mut metadata, provenance, &rows, view.checkpoint());
    }
    let tensors: Vec<TensorPlan> = rows
        .iter()
        .map(|r| TensorPlan { name: r.name.clone(), element_type: r.to, shape: r.shape.clone() })
        .collect();
    // sizes are known for GGUF's own types only; a tensor that has none is refused by `run`
    let writable = rows.iter().all(|r| r.to.ggml_id().is_some());
    let file_size = if writable { gguf::Writer::file_size(&metadata, &tensors)? } else { 0 };
    Ok(QuantizePlan { view, options, metadata, tensors, rows, warnings, needs_imatrix, file_size })
}

fn plan_row(
    view: &View<'_>,
    choice: &Choice,
    options: &Options,
    warnings: &mut Vec<Warning>,
) -> Result<QuantizeRow, Error> {
    let tensor = &view.tensors()[choice.index];
    let (name, from, to) = (&tensor.name, tensor.element_type, choice.element_type);
    if let Some(wanted) = choice.instead_of {
        warnings.push(Warning::Fallback { tensor: name.clone(), wanted, to });
    }
    let quantized = from != to && to.is_block();
    let weighted = match &options.imatrix {
        Some(imatrix) if quantized => fits(imatrix, name, &tensor.shape, warnings)?,
        _ => false,
    };
    let row_bytes = to.row_bytes(tensor.columns());
    let row_bytes = row_bytes.ok_or_else(|| recipe::RecipeError::NoFit {
        tensor: name.clone(),
        columns: tensor.columns(),
        element_type: to,
    })?;
    Ok(QuantizeRow {
        name: name.clone(),
        shape: tensor.shape.clone(),
        from,
        stored: view.stored_as(tensor),
        to,
        source_bytes: tensor.row_bytes as u64 * tensor.rows() as u64,
        bytes: row_bytes as u64 * tensor.rows() as u64,
        instead_of: choice.instead_of,
        index: choice.index,
        weighted,
    })
}

/// Whether the importance matrix has an entry of the right length; another length is an error, except for
/// token embeddings.
fn fits(imatrix: &Imatrix, name: &str, shape: &[usize], warnings: &mut Vec<Warning>) -> Result<bool, Error> {
    let Some(entry) = imatrix.get(name) else { return Ok(false) };
    let (columns, matrices) = (shape.last().copied().unwrap_or(1), matrices(shape));
    let (found, expected) = (entry.len(), columns * matrices);
    if found == expected {
        return Ok(true);
    }
    let (file, tensor) = (imatrix.file().to_path_buf(), name.to_owned());
    if is_embedding(name) {
        warnings.push(Warning::EmbeddingImportance { file, tensor, found, expected });
        return Ok(false);
    }
    Err(Error::ImatrixShape { file, tensor, found, expected })
}

/// Stacked matrices (experts) of a tensor: its third dimension from the inside.
pub(crate) fn matrices(shape: &[usize]) -> usize {
    shape.len().checked_sub(3).map_or(1, |i| shape[i])
}

fn is_embedding(name: &str) -> bool {
    matches!(name, "token_embd.weight" | "per_layer_token_embd.weight")
}

fn warn(
    rows: &[QuantizeRow],
    needs_imatrix: &[usize],
    imatrix: Option<&Imatrix>,
    warnings: &mut Vec<Warning>,
) {
    let names = |filter: &dyn Fn(&QuantizeRow) -> bool| -> Vec<String> {
        rows.iter().filter(|r| filter(r)).map(|r| r.name.clone()).collect()
    };
    if let Some(imatrix) = imatrix {
        let file = imatrix.file().to_path_buf();
        let tensors = names(&|r| {
            let quantized = r.from != r.to && r.to.is_block();
            quantized && imatrix.get(&r.name).is_none() && !is_embedding(&r.name) && r.name != "output.weight"
        });
        if !tensors.is_empty() {
            warnings.push(Warning::NoImportance { file: file.clone(), tensors });
        }
        let known: std::collections::HashSet<&str> = rows.iter().map(|r| r.name.as_str()).collect();
        let entries: Vec<String> =
            imatrix.names().filter(|n| !known.contains(n)).map(str::to_owned).collect();
        if !entries.is_empty() {
            warnings.push(Warning::UnusedImportance { file, entries });
        }
    }
    if !needs_imatrix.is_empty() {
        let tensors = needs_imatrix.iter().map(|&i| rows[i].name.clone()).collect();
        warnings.push(Warning::NeedsImatrix { tensors });
    }
}
