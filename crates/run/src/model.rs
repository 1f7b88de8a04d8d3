//! A loaded model: the checkpoint it lives in, its tensors by role, its threads.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use quern_compute::{
    Device, MOST_GPU_EXPERTS, MOST_GPU_HEAD, MOST_GPU_LATENT, MOST_GPU_LATENT_RANK, MOST_GPU_STATE,
    MOST_GPU_TAPS, Pool,
};
use quern_model::architecture::Hybrid;
use quern_model::{Config, RopeScaling, StateMixer, Tokenizer, View};
use quern_tensor_io::{Checkpoint, Error as FileError, NoProgress, Progress};

use crate::forward::{cache_shape, index_shape};
use crate::load::LoadIn;
use crate::placement::{
    self, Capacity, GpuLayers, GpuRoom, Location, Made, MemoryPlan, Mover, Placement, Plan, SizeOptions,
    Sizes, Transfer, Work, ram_room,
};
use crate::rope::Rotation;
use crate::weights::{Qkv, Weights, state_sizes};
use crate::{Error, KvType, Result, Session, SessionOptions};

/// How to load.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// Threads that compute, at least 1. The default is one per core the process may use.
    pub threads: usize,
    /// Quantizes the matrices that it names while they are loaded; by default all stay as they are stored.
    pub load_in: Option<&'a dyn LoadIn>,
    /// Bytes of resident memory to run within, everything counted. Mapped weights that do not fit are read from the
    /// file again for every pass; [`Model::memory_plan`] says how many. Without a bound the same is done for a model
    /// larger than what the system has free.
    pub max_memory: Option<u64>,
    /// How the model is divided among GPUs and RAM; by default the CPU computes alone.
    pub placing: Option<Placing<'a>>,
    /// Receives the progress, in bytes of what is decoded, quantized or copied to GPUs; what stays in the mapped file
    /// does not count.
    pub progress: &'a dyn Progress,
}

impl fmt::Debug for LoadOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions")
            .field("threads", &self.threads)
            .field("load_in", &self.load_in)
            .field("max_memory", &self.max_memory)
            .field("placing", &self.placing)
            .finish_non_exhaustive()
    }
}

/// GPUs to use, and the session they must have room for.
#[derive(Clone, Copy)]
pub struct Placing<'a> {
    /// The GPUs; with none the CPU computes alone.
    pub gpus: &'a [GpuRoom],
    /// How many layers they hold.
    pub layers: GpuLayers,
    /// The session that is planned for.
    pub session: &'a dyn Fn(&Config) -> SessionOptions,
    /// Most rows of logits that are wanted together.
    pub rows: usize,
}

/// Memory of one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// Its number.
    pub index: usize,
    /// Bytes in use, by everybody.
    pub used: u64,
    /// The most bytes that this process had allocated there.
    pub own_peak: u64,
}

impl fmt::Debug for Placing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placing")
            .field("gpus", &self.gpus)
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        let threads = quern_compute::default_threads();
        Self { threads, load_in: None, max_memory: None, placing: None, progress: &NoProgress }
    }
}

/// A model that can run. Plain matrices stay in the checkpoint's memory map; loading reads only names, shapes
/// and the small vectors. The packed layers of a GPTQ, AWQ or bitsandbytes checkpoint become rows of blocks.
#[derive(Debug)]
pub struct Model {
    pub(crate) checkpoint: Arc<Checkpoint>,
    pub(crate) config: Config,
    pub(crate) weights: Weights,
    pub(crate) rotation: Rotation,
    pub(crate) pool: Arc<Pool>,
    pub(crate) placement: Placement,
    sizes: Sizes,
    notes: Vec<String>,
    tokenizer: OnceLock<Tokenizer>,
}

impl Model {
    /// Loads the model of an opened checkpoint.
    ///
    /// # Errors
    /// A config that cannot be read or asks for something unsupported; a tensor that is missing, has another
    /// shape than the config demands, or an element type without kernels. Each names the file and the tensor.
    /// With [`LoadOptions::load_in`], values that are not finite and rows that do not fit the type asked for;
    /// [`Error::Option`] for 0 threads, or if what is made while loading takes more than
    /// [`LoadOptions::max_memory`].
    pub fn load(checkpoint: Arc<Checkpoint>, options: LoadOptions<'_>) -> Result<Self> {
        let LoadOptions { threads, load_in, max_memory, placing, progress } = options;
        let view = View::stored(&checkpoint)?;
        let Some(config) = view.config().cloned() else {
            let what = "its configuration is not known";
            return Err(FileError::unsupported(checkpoint.path(), what).into());
        };
        let rotation = Rotation::new(&config);
        if threads == 0 {
            return Err(Error::Option("threads is 0, it must be at least 1".into()));
        }
        let kv = KvType::default();
        let sizes = Sizes::of(&view, SizeOptions { threads, load_in, kv, made: Made::WhileLoading })?;
        let mut notes = view.notes().to_vec();
        let placing = placing.filter(|placing| !placing.gpus.is_empty());
        let beyond = placing.and_then(|_| beyond_gpus(&config));
        notes.extend(beyond.as_ref().map(|why| format!("the CPU computes all layers: {why}")));
        let (units, remote, gpus) = match placing {
            Some(placing) if beyond.is_none() => plan(&config, &sizes, &placing, max_memory)?,
            _ => (vec![Location::Ram; config.layers + 1], false, Vec::new()),
        };
        if let Some(limit) = max_memory {
            placement::check_made(&view, load_in, &units, limit)?;
        }
        let pool = Arc::new(Pool::new(threads));
        let mut mover = Mover::new(&checkpoint, &units, &gpus, &pool);
        let work = Work::new(&sizes, &units, progress);
        let weights = Weights::resolve(&view, &checkpoint, &config, load_in, &pool, (&mut mover, &work));
        // Zeros in place of weights may lead to any error.
        checkpoint.check_files()?;
        let mut weights = weights?;
        mover.finish()?;
        let resident = placement::reside(&mut weights, &units, remote, &gpus, &pool)?;
        let placement = Placement::new(&checkpoint, &weights, resident, max_memory);
        drop(view);
        let tokenizer = OnceLock::new();
        Ok(Self { checkpoint, config, weights, rotation, pool, placement, sizes, notes, tokenizer })
    }

    /// Opens `path` (file or directory) and loads it.
    ///
    /// # Errors
    /// As [`quern_model::identify::open`] and [`Model::load`].
    pub fn open(path: &Path, options: LoadOptions<'_>) -> Result<Self> {
        Self::load(Arc::new(quern_model::identify::open(path)?), options)
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Arc<Checkpoint> {
        &self.checkpoint
    }

    /// The config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Length of a row of logits.
    pub fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    /// Why the kernels of GPUs cannot compute it, if so.
    pub fn beyond_gpus(&self) -> Option<String> {
        beyond_gpus(&self.config)
    }

    /// Whether its blocks, or some of them, are mixtures of experts.
    pub fn is_mixture(&self) -> bool {
        self.weights.blocks.iter().any(|block| block.mixture().is_some())
    }

    /// Numbers in all tensors of the forward pass; a tied head counts once.
    pub fn parameters(&self) -> u64 {
        self.weights.parameters()
    }

    /// Bytes of the matrices in the file, and as they are computed with: they differ where packed layers were
    /// unpacked to blocks or weights were quantized while loading.
    pub fn weight_bytes(&self) -> (u64, u64) {
        (self.weights.bytes_in_file, self.weights.bytes())
    }

    /// Bytes that generating a token at this position reads: weights, keys and values of the positions before.
    pub fn bytes_per_token(&self, position: usize, kv: KvType) -> u64 {
        let bytes = cache_shape(&self.config, 1, 1, kv).position_bytes() as u64;
        // A window reads less of the cache in its layers; a state is read and written as a whole.
        let layers = (0..self.config.layers).map(|layer| match self.config.has_attention(layer) {
            false => 0,
            true => {
                let limit = self.config.window(layer).or(self.config.chunk(layer));
                let seen = limit.map_or(position + 1, |w| w.min(position + 1));
                seen as u64 * bytes
            }
        });
        let states = 8 * state_sizes(&self.config).0 as u64;
        let index = index_shape(&self.config, position + 1, kv).map_or(0, |shape| shape.position_bytes());
        self.weights.bytes_per_token() + layers.sum::<u64>() + states + (index * (position + 1)) as u64
    }

    /// How the weights of a session with these options are placed, if the model has a bound: the one it was
    /// loaded with, or the system's memory where that is less than the model.
    ///
    /// # Errors
    /// [`Error::Memory`] with the numbers if not even one layer at a time fits.
    pub fn memory_plan(&self, options: SessionOptions) -> Result<Option<MemoryPlan>> {
        self.placement.plan(Session::fitting(self, options)?.1)
    }

    /// The sizes that placement counts, with keys and values kept as `kv`.
    pub fn sizes(&self, kv: KvType) -> Sizes {
        self.sizes.clone().with_cache(&self.config, kv)
    }

    /// What was read or moved so far for layers that are not on GPUs, and for those that are not in RAM.
    pub fn transfers(&self) -> Vec<Transfer> {
        self.placement.transfers()
    }

    /// Whether a GPU has any of its layers.
    pub fn uses_gpu(&self) -> bool {
        self.placement.devices().any(|(device, _)| device.is_gpu())
    }

    /// Memory of the GPUs in use, now.
    pub fn gpu_memory(&self) -> Vec<GpuMemory> {
        let gpus = self.placement.devices().filter_map(|(device, _)| {
            let (index, (_, own_peak)) = (device.gpu_index()?, device.memory_use()?);
            let (free, total) = device.free_and_total().ok()??;
            Some(GpuMemory { index, used: total.saturating_sub(free), own_peak })
        });
        gpus.collect()
    }

    /// What a user should know of the checkpoint: labels that contradict the tensors and the like.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The threads that compute.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Bytes of the tensor files together.
    pub fn file_size(&self) -> u64 {
        self.checkpoint.file_size()
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// As the function [`default_context`].
    pub fn default_context(&self) -> usize {
        default_context(&self.config)
    }

    /// The tokenizer, read when first asked for (a model without one can be benchmarked).
    ///
    /// # Errors
    /// The tokenizer's files or metadata are missing or broken.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let tokenizer = Tokenizer::from_checkpoint(&self.checkpoint)?;
        Ok(self.tokenizer.get_or_init(|| tokenizer))
    }

    /// A session for one text: its keys and values, and the memory one pass needs.
    ///
    /// # Errors
    /// [`Error::Option`] for a context of 0 or beyond what the model was trained for, or a batch of 0.
    pub fn session(&self, options: SessionOptions) -> Result<Session<'_>> {
        Session::new(self, options)
    }

    /// The CPU, with this model's threads.
    pub fn cpu(&self) -> Device {
        Device::Cpu(self.pool.clone())
    }

    /// Whether queries, keys and values come from one matrix.
    pub(crate) fn fused_qkv(&self) -> bool {
        let fused = |qkv: &Qkv| matches!(qkv, Qkv::Fused { .. });
        self.weights.blocks.iter().filter_map(|b| b.mixer.attention()).any(|attention| fused(&attention.qkv))
    }

    /// As the function [`check_context`].
    pub(crate) fn check_context(&self, context: usize) -> Result<()> {
        check_context(&self.config, context)
    }
}

/// Refuses a context of 0 or beyond what the model was trained for.
///
/// # Errors
/// [`Error::Option`] with the range.
pub fn check_context(config: &Config, context: usize) -> Result<()> {
    let trained = config.context_length;
    if context == 0 || context > trained {
        let dynamic = match config.rope.scaling {
            RopeScaling::Dynamic { .. } => "; dynamic rope scaling beyond it is not supported",
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::Yarn { .. }
            | RopeScaling::Long { .. } => "",
        };
        return Err(Error::Option(format!(
            "context is {context}, it must be from 1 to {trained}, what the model was trained for{dynamic}"
        )));
    }
    Ok(())
}

/// The context to use where nobody asked for one: what the model was trained for, 4096 at most.
pub fn default_context(config: &Config) -> usize {
    config.context_length.min(4096)
}

/// Why the kernels of GPUs cannot compute a model, if so.
fn beyond_gpus(config: &Config) -> Option<String> {
    if config.architecture.hybrid == Hybrid::Beside {
        return Some("GPUs do not support attention and Mamba-2 side by side".to_owned());
    }
    if let Some(why) = config.state_mixer().and_then(states_beyond_gpus) {
        return Some(why);
    }
    if config.windowed_heads.is_some()
        || config.per_layer.is_some()
        || config.shared_kv_layers > 0
        || config.streams > 1
    {
        let what = "heads of different sizes, keys and values that layers share, and what tokens add in each layer are \
                    computed by the CPU only";
        return Some(what.into());
    }
    let (dim, experts) = (config.head_dim, config.experts.map_or(0, |experts| experts.count));
    if let Some(latent) = &config.latent {
        let cached = latent.cached();
        if cached > MOST_GPU_LATENT || latent.rank > MOST_GPU_LATENT_RANK {
            return Some(format!(
                "GPUs support latent attention over up to {MOST_GPU_LATENT} values of a position, \
                 {MOST_GPU_LATENT_RANK} of them its vector, and these have {cached} and {}",
                latent.rank
            ));
        }
    } else if dim > MOST_GPU_HEAD || !dim.is_multiple_of(2) {
        return Some(format!(
            "GPUs support heads of an even size up to {MOST_GPU_HEAD}, and these have {dim} values"
        ));
    }
    if config.indexer.is_some() {
        return Some("GPUs do not support attention to the positions that an indexer chooses".to_owned());
    }
    if config.experts.is_some_and(|experts| experts.latent.is_some()) {
        let what = "GPUs do not compute experts that read something narrower than the residual stream";
        return Some(what.to_owned());
    }
    if config.has_dense_beside() {
        return Some("GPUs do not compute experts beside a dense network".to_owned());
    }
    if config.qkv_limit.is_some() {
        return Some("GPUs do not cut off queries, keys and values".to_owned());
    }
    if config.architecture.chunked {
        return Some("GPUs do not compute attention within parts of a text".to_owned());
    }
    (experts > MOST_GPU_EXPERTS)
        .then(|| format!("GPUs support up to {MOST_GPU_EXPERTS} experts, and there are {experts}"))
}

/// Why the kernels of GPUs cannot compute layers with a state, if so.
fn states_beyond_gpus(mixer: &StateMixer) -> Option<String> {
    let (taps, rows) = match mixer {
        StateMixer::DeltaNet(net) => (net.taps, net.key_dim),
        StateMixer::ShortConv(conv) => (conv.taps, 0),
        StateMixer::Mamba2(mamba) => (mamba.taps, mamba.state),
    };
    if taps > MOST_GPU_TAPS {
        return Some(format!("GPUs support convolutions over up to {MOST_GPU_TAPS} positions, not {taps}"));
    }
    (rows > MOST_GPU_STATE)
        .then(|| format!("GPUs support states of up to {MOST_GPU_STATE} rows, and these have {rows}"))
}

/// Where each unit goes, whether a GPU has keys and values of units in RAM, and the GPUs.
fn plan(
    config: &Config,
    sizes: &Sizes,
    placing: &Placing<'_>,
    max_memory: Option<u64>,
) -> Result<(Vec<Location>, bool, Vec<Device>)> {
    let options = (placing.session)(config);
    let sizes = sizes.clone().with_cache(config, options.kv);
    let capacity = Capacity { gpus: placing.gpus.to_vec(), ram: ram_room(max_memory, sizes.units.len()) };
    let session = placement::Session {
        gpu_layers: placing.layers,
        context: options.context,
        batch: options.batch.min(options.context),
        rows: placing.rows,
    };
    let plan = Plan::fitting(&sizes, &capacity, session)?;
    let gpus = placing.gpus.iter().map(|gpu| Device::gpu(gpu.index)).collect::<Result<Vec<_>, _>>()?;
    Ok((plan.units, plan.remote, gpus))
}
