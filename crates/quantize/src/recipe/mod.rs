//! Recipes: which tensor gets which element type.
//!
//! A pure function from facts about the model, its tensors and the user's options to one [`Choice`] a
//! tensor, by llama-quantize's rules:
//!
//! ```text
//! may it be quantized at all?        select.rs     no -> it keeps its type
//!   --token-embedding-type           ┐
//!   --output-tensor-type             │ the first that applies to the tensor wins
//!   --tensor-type REGEX=TYPE         │
//!   the lines of a recipe file       │ file.rs
//!   the mix of the file type         ┘ mix.rs      (skipped by --pure)
//! do its rows hold whole blocks?     fallback.rs   no -> a type of smaller blocks
//! ```

mod fallback;
mod file;
mod mix;
mod overrides;
mod select;

use quern_tensor_io::{ElementType, Metadata, Remedy, Value};

pub use fallback::fallback;
pub use file::{Recipe, RecipeLine};
pub use overrides::Override;
pub use quern_model::FileType;
pub use select::is_quantizable;

use crate::encode::{needs_weights, wants_weights};
use mix::{Mix, MixSetup};
use select::{Category, layer};

/// Errors of recipes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// An [`Override`] could not be read.
    #[error("{}: {why}", quern_model::pattern::shown(.text))]
    BadOverride {
        /// The argument as given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A type was asked for that weights in a GGUF file cannot have.
    #[error("{element_type} is not a type for weights in a GGUF file")]
    NotAModelType {
        /// The type asked for.
        element_type: ElementType,
    },
    /// The rows of a tensor are not whole blocks of its type and nothing can take its place.
    #[error(
        "tensor {tensor:?}: rows of {columns} values are not whole blocks of {element_type} ({} values)",
        element_type.block_elements()
    )]
    NoFit {
        /// The tensor.
        tensor: String,
        /// Its row length.
        columns: usize,
        /// The type that does not fit.
        element_type: ElementType,
    },
    /// A model with experts has a feed-forward tensor without a layer number in its name.
    #[error(
        "tensor {tensor:?}: expected blk.N. with N below {layers} in the name of an expert model's tensor"
    )]
    NoLayer {
        /// The tensor.
        tensor: String,
        /// Number of layers.
        layers: usize,
    },
    /// The metadata lacks what the mixes need.
    #[error(
        "the metadata key {key:?} is missing or not a whole number, so this is not a whole model; give the file of the model"
    )]
    NoFact {
        /// The key.
        key: String,
    },
    /// A recipe file cannot be read.
    #[error(transparent)]
    Read(#[from] quern_tensor_io::Error),
    /// A line of a recipe file says nothing that can be done.
    #[error("{file}, line {line}: {what}")]
    File {
        /// The file.
        file: String,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong, and what to write.
        what: String,
    },
    /// A recipe is for models of another architecture.
    #[error(
        "the recipe is for models of architecture {recipe} and this is one of {model}, whose tensors have other names; make \
         one for it with --to auto, or take the line out that names the architecture"
    )]
    Architecture {
        /// What the recipe names.
        recipe: String,
        /// What the model is.
        model: String,
    },
}

impl RecipeError {
    /// What mends it, where a program must put it into words.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::NoFit { .. } => Some(Remedy::ChooseTensorType),
            Self::Read(error) => error.remedy(),
            Self::BadOverride { .. }
            | Self::File { .. }
            | Self::Architecture { .. }
            | Self::NotAModelType { .. }
            | Self::NoLayer { .. }
            | Self::NoFact { .. } => None,
        }
    }
}

/// What the mix rules need to know about a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// GGUF architecture name (`llama`, `falcon`).
    pub architecture: String,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads of the first layer, 0 for none.
    pub heads: usize,
    /// Key-value heads of the first layer, 0 for none.
    pub kv_heads: usize,
    /// Experts, 0 for a dense model.
    pub experts: usize,
}

impl ModelFacts {
    /// Reads the facts from GGUF metadata.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, RecipeError> {
        let missing = |key: &str| RecipeError::NoFact { key: key.to_owned() };
        let architecture =
            metadata.str("general.architecture").ok_or_else(|| missing("general.architecture"))?.to_owned();
        let number = |part: &str| {
            let key = format!("{architecture}.{part}");
            match metadata.get(&key) {
                None => Ok(None),
                Some(value) => first(value).map(Some).ok_or_else(|| missing(&key)),
            }
        };
        let layers = number("block_count")?.ok_or_else(|| missing(&format!("{architecture}.block_count")))?;
        let heads = number("attention.head_count")?.unwrap_or(0);
        let kv_heads = number("attention.head_count_kv")?.unwrap_or(heads);
        let experts = number("expert_count")?.unwrap_or(0);
        Ok(Self { architecture, layers, heads, kv_heads, experts })
    }

    /// Query heads that share one key-value head; 0 where there is no attention in the first layer.
    pub fn heads_per_kv_head(&self) -> usize {
        self.heads.checked_div(self.kv_heads).unwrap_or(0)
    }

    /// Whether llama.cpp takes the model for a "70B", whose `attn_v` gets more bits.
    fn is_70b(&self) -> bool {
        match self.architecture.as_str() {
            "llama" => self.layers == 80 && self.heads != self.kv_heads,
            "qwen2" | "olmo" | "deci" => self.layers == 80,
            "jais2" => self.layers == 68,
            _ => false,
        }
    }
}

/// A whole number, or the first of an array of them (one a layer).
fn first(value: &Value) -> Option<usize> {
    use quern_tensor_io::Array as A;
    let number = match value {
        Value::Array(A::U32(v)) => (*v.first()?).into(),
        Value::Array(A::I32(v)) => (*v.first()?).try_into().ok()?,
        Value::Array(A::U64(v)) => *v.first()?,
        Value::Array(A::I64(v)) => (*v.first()?).try_into().ok()?,
        other => other.as_u64()?,
    };
    number.try_into().ok()
}

/// One tensor of the source.
#[derive(Clone, Debug)]
pub struct TensorFacts {
    /// GGUF name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How its numbers are stored now.
    pub element_type: ElementType,
}

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct RecipeOptions {
    /// The target.
    pub file_type: FileType,
    /// No mix: every tensor that may be quantized gets the default type.
    pub pure: bool,
    /// The output head keeps its type.
    pub leave_output_tensor: bool,
    /// The type of the output head (and of embeddings that serve as one).
    pub output_tensor_type: Option<ElementType>,
    /// The type of the token embeddings.
    pub token_embedding_type: Option<ElementType>,
    /// Types by name; the first match wins. Used by block file types only.
    pub overrides: Vec<Override>,
    /// Takes the place of the file type's mix.
    pub recipe: Option<Recipe>,
    /// Whether there is an importance matrix: some rules depend on it.
    pub has_imatrix: bool,
    /// Whether plain floating-point tensors that are not quantized become f32, as GGUF files have them:
    /// true for sources that are not GGUF.
    pub widen_rest: bool,
}

impl RecipeOptions {
    /// `file_type` as it is.
    pub fn new(file_type: FileType) -> Self {
        Self {
            file_type,
            pure: false,
            leave_output_tensor: false,
            output_tensor_type: None,
            token_embedding_type: None,
            overrides: Vec::new(),
            recipe: None,
            has_imatrix: false,
            widen_rest: false,
        }
    }
}

/// What becomes of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Index into the tensors given.
    pub index: usize,
    /// The type it gets.
    pub element_type: ElementType,
    /// The type it should have had, where its rows are not whole blocks of that.
    pub instead_of: Option<ElementType>,
    /// Whether this cannot be done without an importance matrix, or llama-quantize refuses to.
    pub needs_imatrix: bool,
}

/// Indices of `tensors` in the order llama-quantize visits and writes them: tensors outside the layers,
/// then layer by layer, by name within each.
pub fn in_file_order(tensors: &[TensorFacts]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|&a, &b| {
        let key = |i: usize| (layer(&tensors[i].name), tensors[i].name.as_str());
        key(a).cmp(&key(b))
    });
    order
}

/// Chooses a type for every tensor, in [`in_file_order`].
pub fn choose(
    model: &ModelFacts,
    tensors: &[TensorFacts],
    options: &RecipeOptions,
) -> Result<Vec<Choice>, RecipeError> {
    for element_type in [options.output_tensor_type, options.token_embedding_type].into_iter().flatten() {
        if !overrides::is_writable(element_type) {
            return Err(RecipeError::NotAModelType { element_type });
        }
    }
    if let Some(recipe) = &options.recipe {
        recipe.check(&model.architecture)?;
    }
    let setup = MixSetup {
        file_type: options.file_type,
        default: options.file_type.default_type().unwrap_or(ElementType::F32),
        model,
        has_imatrix: options.has_imatrix,
        output_type: options.output_tensor_type,
    };
    let mut mix = Mix::new(setup, tensors.iter().map(|t| t.name.as_str()));
    in_file_order(tensors)
        .into_iter()
        .map(|index| choose_one(&mut mix, index, &tensors[index], (model, options)))
        .collect()
}

fn choose_one(
    mix: &mut Mix<'_>,
    index: usize,
    tensor: &TensorFacts,
    (model, options): (&ModelFacts, &RecipeOptions),
) -> Result<Choice, RecipeError> {
    let name = tensor.name.as_str();
    let columns = tensor.shape.last().copied().unwrap_or(1);
    let keep = |element_type| Choice { index, element_type, instead_of: None, needs_imatrix: false };
    if !is_quantizable(name, &tensor.shape) {
        let widen = options.widen_rest && tensor.element_type.is_float();
        return Ok(keep(if widen { ElementType::F32 } else { tensor.element_type }));
    }
    let Some(default) = options.file_type.default_type() else { return Ok(keep(tensor.element_type)) };
    if options.leave_output_tensor && name == "output.weight" {
        return Ok(keep(tensor.element_type));
    }
    let category = Category::of(name);
    let Pinned { whole, pinned } = pinned(name, options);
    let (wanted, element_type) = match whole {
        Some(t) if columns.is_multiple_of(t.block_elements()) => (t, t),
        Some(t) => return Err(no_fit(tensor, columns, t)),
        None => {
            let recipe = options.recipe.as_ref().map(|recipe| recipe.type_of(name, model.layers));
            let wanted = match pinned.or(recipe) {
                Some(t) => t,
                None if options.pure || !options.file_type.is_block() => default,
                None => mix.next(name, columns, experts(&tensor.shape))?,
            };
            (wanted, fallback(wanted, columns).ok_or_else(|| no_fit(tensor, columns, wanted))?)
        }
    };
    // What is good enough for embeddings and output is the user's choice, as long as it can be done.
    let needs_imatrix = match category {
        Category::Embedding | Category::Output => needs_weights(element_type),
        _ => {
            wants_weights(element_type)
                || (element_type, options.file_type) == (ElementType::Q2K, FileType::Q2KS)
        }
    };
    Ok(Choice { index, element_type, instead_of: (wanted != element_type).then_some(wanted), needs_imatrix })
}

/// Whether the type of a tensor that may be quantized is left open: neither `--tensor-type` nor an option for embeddings
/// or head says what it is.
pub fn is_open(name: &str, shape: &[usize], options: &RecipeOptions) -> bool {
    let Pinned { whole, pinned } = pinned(name, options);
    let left = options.leave_output_tensor && name == "output.weight";
    is_quantizable(name, shape) && !left && whole.is_none() && pinned.is_none()
}

/// What the user pinned for a tensor.
struct Pinned {
    /// By the option for embeddings or for the head.
    whole: Option<ElementType>,
    /// By its name.
    pinned: Option<ElementType>,
}

fn pinned(name: &str, options: &RecipeOptions) -> Pinned {
    let pinned = options.overrides.iter().find(|o| o.matches(name)).map(Override::element_type);
    let pinned = pinned.filter(|_| options.recipe.is_some() || options.file_type.is_block());
    // a --tensor-type that names the per-layer embeddings is not undone by the option for embeddings
    let embedding_type =
        options.token_embedding_type.filter(|_| pinned.is_none() || name != "per_layer_token_embd.weight");
    let whole = match Category::of(name) {
        Category::Embedding => embedding_type,
        Category::Output => options.output_tensor_type,
        _ => None,
    };
    Pinned { whole, pinned }
}

/// ggml's `ne2`: the third dimension from the inside.
fn experts(shape: &[usize]) -> usize {
    shape.len().checked_sub(3).map_or(1, |i| shape[i])
}

fn no_fit(tensor: &TensorFacts, columns: usize, element_type: ElementType) -> RecipeError {
    RecipeError::NoFit { tensor: tensor.name.clone(), columns, element_type }
}
