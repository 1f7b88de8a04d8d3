//! A loaded model: the checkpoint it lives in, its tensors by role, its threads.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use quern_compute::Pool;
use quern_model::{Config, RopeScaling, Tokenizer, View};
use quern_tensor_io::{Checkpoint, Error as FileError};

use crate::load::LoadIn;
use crate::placement::{self, MemoryPlan, Placement, SizeOptions, Sizes};
use crate::rope::Rotation;
use crate::weights::Weights;
use crate::{Error, KvType, Result, Session, SessionOptions};

/// How to load.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions<'a> {
    /// Threads that compute, at least 1. The default is one per core the process may use.
    pub threads: usize,
    /// Quantizes the matrices that it names while they are loaded; by default all stay as they are stored.
    pub load_in: Option<&'a dyn LoadIn>,
    /// Bytes of resident memory to run within, everything counted. Mapped weights that do not fit are read from the
    /// file again for every pass; [`Model::memory_plan`] says how many. Without a bound the same is done for a model
    /// larger than what the system has free.
    pub max_memory: Option<u64>,
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Self { threads, load_in: None, max_memory: None }
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
    pub(crate) pool: Pool,
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
        let LoadOptions { threads, load_in, max_memory } = options;
        let view = View::stored(&checkpoint)?;
        let Some(config) = view.config().cloned() else {
            let what = "its configuration is not known";
            return Err(FileError::unsupported(checkpoint.path(), what).into());
        };
        let rotation = Rotation::new(&config);
        if threads == 0 {
            return Err(Error::Option("threads is 0, it must be at least 1".into()));
        }
        if let Some(limit) = max_memory {
            placement::check_made(&view, load_in, limit)?;
        }
        let sizes = Sizes::of(&view, SizeOptions { threads, load_in, kv: KvType::default() })?;
        let pool = Pool::new(threads);
        let weights = Weights::resolve(&view, &config, load_in, &pool)?;
        let placement = Placement::new(&checkpoint, &weights, max_memory);
        let notes = view.notes().to_vec();
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
        // A window reads less of the cache in its layers.
        let layers = (0..self.config.layers).map(|layer| {
            let seen = self.config.window(layer).map_or(position + 1, |w| w.min(position + 1));
            seen as u64 * kv.position_bytes(&self.config) as u64
        });
        let keys_and_values = layers.sum::<u64>() / (self.config.layers as u64).max(1);
        self.weights.bytes_per_token() + keys_and_values
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

    /// Whether queries, keys and values come from one matrix.
    pub(crate) fn fused_qkv(&self) -> bool {
        self.weights.blocks.first().is_some_and(|b| matches!(b.qkv, crate::weights::Qkv::Fused { .. }))
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
