//! The sizes that placement is decided by, from the headers of a checkpoint: what each block and the head take in RAM and
//! on a GPU, keys and values per position, buffers per token.

use quern_compute::MOST_GPU_ABSORBED;
use quern_model::architecture::Layout;
use quern_model::contents::Place;
use quern_model::{Config, TensorRole, View, ViewTensor};
use quern_tensor_io::{ElementType, Error as FileError};

use crate::forward::{cache_shape, index_shape};
use crate::load::LoadIn;
use crate::weights::{convolved, plain_norms, state_sizes};
use crate::{KvType, Result};

/// Matrices and vectors begin at multiples of this on a GPU.
const ALIGNMENT: u64 = 256;
/// Positions of the cache are rounded up to a multiple of this.
const CACHE_GROUP: usize = 16;
/// Buffers on a GPU whose size does not depend on the batch: partial results of attention, tables, a library's own.
const GPU_BUFFERS: u64 = 32 << 20;
/// Buffers of one thread.
const THREAD_BUFFERS: u64 = 1 << 20;
/// What is used of them, measured on prompts.
const THREAD_BUFFERS_USED: u64 = 200 << 10;

/// Sizes of one block or the head, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitSize {
    /// In RAM: what stays in the mapped file and can be dropped and read again.
    pub mapped: u64,
    /// In RAM: what is made while loading (unpacked, quantized, decoded), which must stay.
    pub made: u64,
    /// On a GPU.
    pub gpu: u64,
    /// What generating one token reads of it: of a block's experts those chosen.
    pub touched: u64,
}

/// Sizes of buffers, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScratchSizes {
    /// In RAM, whatever the batch.
    pub ram: u64,
    /// In RAM for each token of the batch.
    pub ram_token: u64,
    /// On each GPU, whatever the batch.
    pub gpu: u64,
    /// On each GPU for each token of the batch.
    pub gpu_token: u64,
    /// What is used of [`ScratchSizes::ram`], as measured.
    pub ram_used: u64,
    /// What is used of [`ScratchSizes::ram_token`]: no layer needs all kinds of buffers.
    pub ram_token_used: u64,
}

impl ScratchSizes {
    /// In RAM for a batch.
    pub fn in_ram(&self, batch: usize) -> u64 {
        self.ram.saturating_add(self.ram_token.saturating_mul(batch as u64))
    }

    /// On each GPU for a batch.
    pub fn on_gpu(&self, batch: usize) -> u64 {
        self.gpu.saturating_add(self.gpu_token.saturating_mul(batch as u64))
    }
}

/// Sizes of a model, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The tables in front of the first block, which are always in RAM.
    pub embedding: UnitSize,
    /// What one token looks up in them.
    pub embedding_row: u64,
    /// The blocks in order, then the head.
    pub units: Vec<UnitSize>,
    /// What generating one token reads of each unit's matrices, by their type in memory.
    pub reads: Vec<Vec<(ElementType, u64)>>,
    /// The most bytes that a unit has in the file, in whatever scheme.
    pub largest_source: u64,
    /// The head is the table of the embedding.
    pub tied: bool,
    /// Keys and values of one position in one layer, on average of all layers.
    pub cache_position: u64,
    /// Buffers.
    pub scratch: ScratchSizes,
    /// Keys and values are always where the weights are.
    pub cache_stays: bool,
    /// One row of logits.
    pub logits_row: u64,
    /// Numbers in all tensors of the forward pass; a tied head counts once.
    pub parameters: u64,
    /// Bytes of the tensor files.
    pub file_size: u64,
}

/// How a model is to be run, as far as sizes depend on it.
#[derive(Clone, Copy, Debug)]
pub struct SizeOptions<'a> {
    /// Threads that compute.
    pub threads: usize,
    /// Quantizes matrices while they are loaded.
    pub load_in: Option<&'a dyn LoadIn>,
    /// How keys and values are kept.
    pub kv: KvType,
    /// When the types of `load_in` are made.
    pub made: Made,
}

/// When the types that a [`LoadIn`] names are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Made {
    /// While the checkpoint is loaded, from the types that it has.
    #[default]
    WhileLoading,
    /// Before, in a file of rows of these types, which is mapped.
    InFile,
    /// Before, in a file of packed layers (GPTQ, bitsandbytes), which are unpacked while it is loaded.
    Packed,
}

/// More than any card has. Sizes of matrices end here, so that sums of them stay numbers.
const BEYOND_CARDS: u64 = 1 << 43;

/// Bytes that a matrix takes on a GPU. Types that no GPU kernel reads are widened.
pub fn device_bytes(element_type: ElementType, rows: usize, columns: usize) -> u64 {
    (quern_compute::bytes_of_matrix(element_type, rows, columns) as u64).min(BEYOND_CARDS)
}

fn matrix_bytes(element_type: ElementType, rows: usize, columns: usize) -> u64 {
    (element_type.row_bytes(columns).unwrap_or(0) as u64).saturating_mul(rows as u64)
}

impl Sizes {
    /// The sizes of a checkpoint as it is stored. Headers are enough: no data of tensors is read.
    ///
    /// # Errors
    /// The configuration is not known.
    pub fn of(view: &View<'_>, options: SizeOptions<'_>) -> Result<Self> {
        let Some(config) = view.config() else {
            let what = "its configuration is not known";
            return Err(FileError::unsupported(view.checkpoint().path(), what).into());
        };
        let has_head = view.tensors().iter().any(|tensor| tensor.role == Some(TensorRole::Output));
        let tied = config.tied_embeddings && !has_head;
        let mut sizes = Self {
            units: vec![UnitSize::default(); config.layers + 1],
            reads: vec![Vec::new(); config.layers + 1],
            tied,
            scratch: scratch(config, options.threads, fused(view)),
            cache_stays: config.latent.is_some(),
            logits_row: 4 * config.vocab_size as u64,
            file_size: view.checkpoint().file_size(),
            ..Self::default()
        };
        let mut sources = vec![0; sizes.units.len()];
        for tensor in view.tensors() {
            let Some(place) = Part::of(tensor) else { continue };
            sizes.parameters += (tensor.rows() * tensor.columns()) as u64;
            let (element_type, size) = size(view, config, options, tensor);
            let source = match options.made != Made::WhileLoading || tensor.packed {
                // A packed layer takes in its file about what it takes unpacked.
                true => size.mapped + size.made,
                false => (tensor.rows() * tensor.row_bytes) as u64,
            };
            let head = sizes.blocks();
            match place {
                Part::Block(layer) => sizes.add(layer, element_type, size),
                Part::Head => sizes.add(head, element_type, size),
                Part::Table | Part::Rows => {
                    sizes.embedding.add(UnitSize { gpu: 0, touched: 0, ..size });
                    sizes.embedding_row += (size.mapped + size.made) / (tensor.rows() as u64).max(1);
                    if tied && place == Part::Table {
                        // The bytes in RAM are the table's, and made but once.
                        sizes.add(head, element_type, UnitSize { made: 0, ..size });
                    }
                }
                // A whole matrix, read for every token.
                Part::Projection => {
                    sizes.embedding.add(UnitSize { gpu: 0, ..size });
                    sizes.embedding_row += size.touched;
                }
            }
            let unit = match place {
                Part::Block(layer) => Some(layer),
                Part::Head => Some(head),
                Part::Table if tied => Some(head),
                Part::Table | Part::Rows | Part::Projection => None,
            };
            unit.and_then(|unit| sources.get_mut(unit)).into_iter().for_each(|sum| *sum += source);
        }
        if plain_norms(config) {
            sizes.add_plain_norms(config.hidden_size);
        }
        sizes.largest_source = sources.into_iter().max().unwrap_or(0);
        Ok(sizes.with_cache(config, options.kv))
    }

    /// Adds norms that no tensor is for: two of each block, and that of the head.
    fn add_plain_norms(&mut self, hidden: usize) {
        let made = 4 * hidden as u64;
        let norm = UnitSize { made, gpu: made.next_multiple_of(ALIGNMENT), ..UnitSize::default() };
        for (index, unit) in self.units.iter_mut().rev().enumerate() {
            unit.add(norm);
            if index > 0 {
                unit.add(norm);
            }
        }
    }

    /// The same with keys and values kept in another way.
    pub fn with_cache(mut self, config: &Config, kv: KvType) -> Self {
        let own = cache_shape(config, config.attention_layers(), 1, kv).position_bytes() as u64;
        // Keys of indexers too, which only texts longer than what attention reads have.
        let index = index_shape(config, usize::MAX, kv).map_or(0, |shape| shape.position_bytes() as u64);
        let position = own + index;
        self.cache_position = position.div_ceil((config.layers as u64).max(1));
        self
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.units.len().saturating_sub(1)
    }

    /// Keys and values of one layer.
    pub fn layer_cache(&self, context: usize) -> u64 {
        let positions = context.checked_next_multiple_of(CACHE_GROUP).unwrap_or(usize::MAX);
        self.cache_position.saturating_mul(positions as u64)
    }

    /// Adds a tensor to a unit. A layer that the configuration does not have is no unit.
    fn add(&mut self, unit: usize, element_type: ElementType, size: UnitSize) {
        let Some((whole, reads)) = self.units.get_mut(unit).zip(self.reads.get_mut(unit)) else { return };
        whole.add(size);
        if size.touched == 0 {
            return;
        }
        match reads.iter_mut().find(|(known, _)| *known == element_type) {
            Some((_, bytes)) => *bytes += size.touched,
            None => reads.push((element_type, size.touched)),
        }
    }
}

impl UnitSize {
    fn add(&mut self, other: Self) {
        self.mapped += other.mapped;
        self.made += other.made;
        self.gpu += other.gpu;
        self.touched += other.touched;
    }
}

/// Where a tensor belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Block(usize),
    Head,
    /// The table of the embedding.
    Table,
    /// Another table of which a token reads a row: of positions, or what tokens add in each layer.
    Rows,
    /// From the embedding's width to the residual stream's.
    Projection,
}

impl Part {
    /// `None` for what is no weight of the forward pass.
    fn of(tensor: &ViewTensor) -> Option<Self> {
        use TensorRole as R;
        match (tensor.role?, tensor.layer) {
            (_, Some(layer)) => Some(Self::Block(layer)),
            (R::TokenEmbedding, None) => Some(Self::Table),
            (R::PerLayerContext | R::PerLayerContextNorm | R::StreamsIn | R::StreamsOut, None) => {
                Some(Self::Projection)
            }
            (R::PositionEmbedding | R::PerLayerEmbedding, None) => Some(Self::Rows),
            (R::EmbeddingIn, None) => Some(Self::Projection),
            (R::EmbeddingOut | R::OutputNorm | R::OutputNormBias | R::Output | R::OutputBias, None) => {
                Some(Self::Head)
            }
            _ => None,
        }
    }
}

/// Whether queries, keys and values come from one matrix.
fn fused(view: &View<'_>) -> bool {
    view.tensors().iter().any(|tensor| tensor.role == Some(TensorRole::AttentionQkv))
}

/// Whether a tensor is computed with as a matrix; all others are decoded to f32 while loading.
fn is_matrix(role: TensorRole) -> bool {
    use TensorRole as R;
    [
        R::TokenEmbedding,
        R::PositionEmbedding,
        R::EmbeddingIn,
        R::EmbeddingOut,
        R::Output,
        R::AttentionQ,
        R::AttentionK,
        R::AttentionV,
        R::AttentionQkv,
        R::AttentionOutput,
        R::AttentionGate,
        R::StateIn,
        R::DeltaQkv,
        R::DeltaGate,
        R::DeltaBeta,
        R::DeltaAlpha,
        R::DeltaBetaAlpha,
        R::StateOut,
        R::AttentionQDown,
        R::AttentionQUp,
        R::AttentionKvDown,
        R::AttentionKvUp,
        R::AttentionKUp,
        R::AttentionVUp,
        R::IndexerQ,
        R::IndexerK,
        R::IndexerWeights,
        R::FfnGate,
        R::FfnUp,
        R::FfnGateUp,
        R::FfnDown,
        R::PerLayerEmbedding,
        R::PerLayerContext,
        R::PerLayerGate,
        R::StreamsIn,
        R::StreamsOut,
        R::StreamRouter,
        R::StreamPredict,
        R::StreamCorrect,
        R::LaurelIn,
        R::LaurelOut,
        R::PerLayerOutput,
        R::Router,
        R::ExpertsGate,
        R::ExpertsIn,
        R::ExpertsOut,
        R::ExpertsUp,
        R::ExpertsGateUp,
        R::ExpertsDown,
        R::SharedGate,
        R::SharedUp,
        R::SharedGateUp,
        R::SharedDown,
    ]
    .contains(&role)
}

/// What one tensor takes, and its type in memory.
fn size(
    view: &View<'_>,
    config: &Config,
    options: SizeOptions<'_>,
    tensor: &ViewTensor,
) -> (ElementType, UnitSize) {
    let SizeOptions { load_in, made, .. } = options;
    let (rows, columns) = (tensor.rows(), tensor.columns());
    let Some(role) = tensor.role.filter(|&role| is_matrix(role)) else {
        let made = 4 * (rows * columns) as u64;
        let gpu = made.next_multiple_of(ALIGNMENT);
        return (ElementType::F32, UnitSize { mapped: 0, made, gpu, touched: 0 });
    };
    let (rows, columns) = match tensor.layout == Layout::Transposed {
        true => (columns, rows),
        false => (rows, columns),
    };
    let layer = match tensor.place {
        Some(Place::Packed(number) | Place::PackedRows { layer: number, .. }) => {
            view.packing().and_then(|packing| packing.layers().get(number))
        }
        Some(Place::Plain(_) | Place::Woven(_)) | None => None,
    };
    let woven = matches!(tensor.place, Some(Place::Woven(_)));
    let in_file = layer.and_then(|layer| layer.in_file_type());
    let form = layer.filter(|_| in_file.is_none()).map(|layer| layer.block_form(view.checkpoint()));
    let target = load_in.and_then(|load_in| load_in.target(&tensor.name));
    let stored = form.as_ref().map(|form| form.element_type).or(in_file).unwrap_or(tensor.element_type);
    let element_type = target.unwrap_or(stored);
    // Blocks with scales beside them are multiplied out on a GPU.
    let with_scales = in_file.is_some() || form.as_ref().is_some_and(|form| form.factor != 1.0);
    // So are the matrices within latent attention, which it has in a form of their own.
    use TensorRole as R;
    let reshaped = [R::AttentionKvUp, R::AttentionKUp, R::AttentionVUp].contains(&role)
        && !matches!(element_type, ElementType::F32 | ElementType::BF16);
    let on_card = match reshaped || (target.is_none() && with_scales && element_type.is_block()) {
        true => ElementType::F16,
        false => element_type,
    };
    let scales = match (target, layer) {
        (None, Some(layer)) => {
            // Of one expert's rows of a stack, their share.
            let all = 4 * layer.in_file_scales() as u64;
            (all * rows as u64).checked_div(layer.rows as u64).unwrap_or(0)
        }
        _ => 0,
    };
    let bytes = matrix_bytes(element_type, rows, columns);
    let made = match made {
        Made::InFile => false,
        Made::WhileLoading | Made::Packed => {
            target.is_some() || form.is_some() || woven || tensor.layout == Layout::Transposed
        }
    };
    let permutation = form.filter(|_| target.is_none()).and_then(|form| form.permutation);
    let order = permutation.map_or(0, |order| 4 * order.len() as u64);
    // Of a mixture's experts a token reads those it chooses: as many of them, all being of one size.
    let experts = [R::ExpertsGate, R::ExpertsUp, R::ExpertsGateUp, R::ExpertsDown].contains(&role);
    let touched = match config.experts.filter(|_| experts) {
        Some(mixture) => match tensor.part {
            Some(expert) if expert < mixture.used => bytes,
            Some(_) => 0,
            None => bytes / (mixture.count as u64).max(1) * mixture.used as u64,
        },
        None => bytes,
    };
    // Keys' rows of latent attention are made once more, transposed, at two bytes a number or as they are.
    let again = match config.latent.filter(|_| role == TensorRole::AttentionKvUp) {
        Some(latent) => {
            let size = if element_type == ElementType::F32 { 4 } else { 2 };
            size * (config.heads * latent.nope_dim * latent.rank) as u64
        }
        None => 0,
    };
    let size = UnitSize {
        mapped: if made { 0 } else { bytes },
        made: again + scales + if made { bytes + order } else { 0 },
        gpu: device_bytes(on_card, rows, columns) + order,
        touched,
    };
    (element_type, size)
}

/// Memory of a GPU for latent attention, whatever the batch: queries that took up the keys' matrices, and what was gathered.
pub(crate) fn latent_buffers(config: &Config) -> u64 {
    let Some(latent) = config.latent else { return 0 };
    let row = config.heads * latent.rank;
    2 * 4 * (MOST_GPU_ABSORBED.max(8 * row) as u64).next_power_of_two()
}

/// Buffers of a forward pass.
fn scratch(config: &Config, threads: usize, fused: bool) -> ScratchSizes {
    let (query, key) = config.widest_heads();
    let wide = config.widest();
    let qkv = query + 2 * key;
    let (states, mixers) = state_sizes(config);
    let streams = if config.streams > 1 { config.stream_width() + 3 * config.hidden_size } else { 0 };
    let per_layer = streams + config.per_layer.map_or(0, |own| config.hidden_size + 2 * own.size);
    let own = per_layer + mixers + 3 * config.hidden_size + 2 * query + 2 * key + 3 * wide;
    // Beside a dense network two more vectors wait.
    let waiting = if config.has_dense_beside() { 4 } else { 2 };
    let latent = config.experts.and_then(|e| e.latent).unwrap_or(0);
    let experts = config.experts.map_or(0, |e| e.count + 2 * (wide + latent) + waiting * config.hidden_size);
    let rest = own + 4 * (config.rope.dimensions / 2);
    let floats = rest + experts;
    // A GPU has the rows of all experts of a batch at once; memory for them grows by doubling.
    let rows = config
        .experts
        .map_or(0, |e| e.count + e.used * (e.ffn_size + config.hidden_size + 5) + config.hidden_size);
    let gpu_floats = rest + 2 * (rows + convolved(config));
    let columns = wide.max(config.hidden_size).max(query);
    ScratchSizes {
        ram: THREAD_BUFFERS * threads as u64 + 4 * states as u64,
        // The input of a layer in 8 bits, in two layouts, or permuted.
        ram_token: (4 * (floats + if fused { qkv } else { 0 }) + 8 * columns) as u64,
        gpu: GPU_BUFFERS + 4 * states as u64 + latent_buffers(config),
        // Queries, keys and values always come from one launch; the input of a layer in f16, with its scale.
        gpu_token: (4 * (gpu_floats + qkv) + 2 * columns.next_multiple_of(128) + 4) as u64,
        ram_used: THREAD_BUFFERS_USED * threads as u64 + 4 * states as u64,
        ram_token_used: {
            let layer = 4 * config.hidden_size + 2 * query + 2 * key + 2 * wide;
            let angles = 2 * (config.rope.dimensions / 2);
            let floats = mixers + layer + angles + experts + if fused { qkv } else { 0 };
            // 8-bit codes with a scale for 32 of them and a sum for 16, in two groupings.
            (4 * floats + 5 * columns / 2) as u64
        },
    }
}
