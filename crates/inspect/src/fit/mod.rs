//! Which schemes of a model fit a machine, where its layers would be, how fast it would be and how good: from headers
//! alone.
//!
//! ```text
//! headers ──> scheme.rs     the types that each scheme gives          ┐
//! machine ──> limits        memory of each device, measured rates     ├──> Candidate ──> choose.rs  the one to take
//! quality.json              KL divergence of each scheme, measured    ┘
//! catalogue.json            models by family, for when no model is given
//! ```

mod catalogue;
mod choose;
mod quality;
mod scheme;

use quern_model::{Config, View};
use quern_quantize::bitsandbytes::Kind;
use quern_quantize::load_in::BlockTypes;
use quern_run::estimate::{
    MachineSpeed, Matrices, MemoryEstimate, TokenTime, ram_beside, region_bytes, token_time,
};
use quern_run::placement::{
    Capacity, GpuLayers, GpuRoom, Location, Made, Plan, RamRoom, Session, SizeOptions, Sizes,
};
use quern_run::{KvType, LoadIn, default_context};
use quern_tensor_io::{Checkpoint, ElementType};

pub use catalogue::{CatalogueModel, Surveyed, catalogue, survey};
pub use choose::{ACCEPTABLE, Wishes, best};
pub use quality::{Quality, quality};
pub use scheme::Scheme;

/// Errors of this module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// A file of the model breaks a rule of its format.
    #[error(transparent)]
    File(#[from] quern_tensor_io::Error),
    /// The scheme cannot be planned.
    #[error(transparent)]
    Plan(#[from] quern_quantize::job::Error),
    /// The architecture, or the form its tensors are in, has no place in GGUF files.
    #[error("{0}")]
    NoGguf(String),
    /// The sizes of the model cannot be known.
    #[error(transparent)]
    Run(#[from] quern_run::Error),
    /// The catalogue that comes with quern is broken.
    #[error("the catalogue: {0}")]
    Catalogue(String),
}

/// Plans that are tried until the estimate is within the memory.
const PLANS: usize = 4;

/// The machine, or the limits that stand for one.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// GPUs to use.
    pub gpus: Vec<GpuRoom>,
    /// Bytes a second that the memory of each GPU delivers; `None` where it is not known.
    pub gpu_bandwidths: Vec<Option<f64>>,
    /// Bytes of RAM that a process may use; `None` if nobody knows.
    pub ram: Option<u64>,
    /// Bytes a second that the disk delivers; `None` if nobody measured.
    pub disk: Option<f64>,
}

/// How the model is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    /// Positions of the context; `None` for what `quern run` takes.
    pub context: Option<usize>,
    /// How keys and values are kept.
    pub kv: KvType,
    /// Tokens computed together at most.
    pub batch: usize,
}

/// A scheme on a machine.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The scheme.
    pub scheme: Scheme,
    /// Bits per weight of its file.
    pub bits_per_weight: f64,
    /// Bytes of its tensors in the file.
    pub file_size: u64,
    /// Positions of the context.
    pub context: usize,
    /// Where it would be; `None` if it fits nowhere.
    pub placed: Option<Placed>,
    /// Bytes of RAM that it needs at least, where it fits nowhere.
    pub needed: u64,
    /// How close to the original it is.
    pub quality: Option<Quality>,
}

/// Where a candidate would be.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Layers on GPUs, the head counted as one.
    pub gpu_layers: usize,
    /// Layers read from the disk for every token.
    pub disk_layers: usize,
    /// All layers, the head counted as one.
    pub layers: usize,
    /// Memory at its peak.
    pub memory: MemoryEstimate,
    /// Time for a token near the beginning of a text; `None` if the speed of a device is not known.
    pub time: Option<TokenTime>,
}

impl Placed {
    /// Whether everything is on GPUs.
    pub fn on_gpus(&self) -> bool {
        self.gpu_layers == self.layers
    }

    /// Whether nothing is read from the disk while it runs.
    pub fn in_memory(&self) -> bool {
        self.disk_layers == 0
    }

    /// Tokens generated a second.
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.time.map(|time| time.tokens_per_second())
    }
}

/// What is known of a model before schemes are chosen.
#[derive(Debug)]
pub struct Subject<'a> {
    stored: View<'a>,
    /// Under GGUF's names; or why there is no such view.
    gguf: Result<View<'a>, quern_tensor_io::Error>,
    config: Config,
}

impl<'a> Subject<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    /// No model, or one whose configuration quern does not know.
    pub fn new(checkpoint: &'a Checkpoint) -> Result<Self, FitError> {
        let config = Config::from_checkpoint(checkpoint)?;
        let stored = View::stored(checkpoint)?;
        Ok(Self { stored, gguf: View::gguf_without_tokenizer(checkpoint), config })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether it is stored in plain numbers, of which any scheme can be made.
    pub fn is_plain(&self) -> bool {
        let is_block = |tensor: &quern_model::ViewTensor| tensor.packed || tensor.element_type.is_block();
        !self.stored.tensors().iter().any(is_block)
    }

    /// The sizes that a scheme gives.
    ///
    /// # Errors
    /// The scheme does not fit the model's shapes.
    pub fn sizes(&self, scheme: Scheme, kv: KvType, threads: usize) -> Result<Sizes, FitError> {
        let of = |load_in: Option<&dyn LoadIn>, made: Made| {
            Sizes::of(&self.stored, SizeOptions { threads, load_in, kv, made })
        };
        Ok(match scheme {
            Scheme::Stored => of(None, Made::WhileLoading)?,
            Scheme::Gguf { file_type, .. } => {
                let gguf = self.gguf.as_ref().map_err(|error| FitError::NoGguf(error.to_string()))?;
                let types = BlockTypes::of_recipe(gguf, &self.stored, file_type)?;
                of(Some(&types), Made::InFile)?
            }
            Scheme::Gptq { .. } | Scheme::Bitsandbytes(_) => {
                let types = BlockTypes::new(&self.config, scheme.block_type());
                of(Some(&types), Made::Packed)?
            }
        })
    }

    /// Judges one scheme on a machine.
    ///
    /// # Errors
    /// As [`Subject::sizes`].
    pub fn candidate(
        &self,
        scheme: Scheme,
        machine: &Machine,
        how: Use,
        speed: &mut MachineSpeed,
    ) -> Result<Candidate, FitError> {
        let sizes = self.sizes(scheme, how.kv, speed.threads())?;
        Ok(judge(&self.config, scheme, &sizes, machine, how, speed))
    }
}

/// Judges a scheme by the sizes that it gives.
fn judge(
    config: &Config,
    scheme: Scheme,
    sizes: &Sizes,
    machine: &Machine,
    how: Use,
    speed: &mut MachineSpeed,
) -> Candidate {
    let context = how.context.unwrap_or_else(|| default_context(config));
    let session = Session { gpu_layers: GpuLayers::Auto, context, batch: how.batch.min(context), rows: 1 };
    let file_size = file_bytes(sizes, scheme);
    let placed =
        plan(config, sizes, machine, session).map(|plan| placed(config, sizes, &plan, machine, speed));
    let needed = Plan::new(sizes, &Capacity::default(), session)
        .map_or(0, |plan| MemoryEstimate::new(sizes, &plan, config.vocab_size).ram.total());
    Candidate {
        scheme,
        bits_per_weight: file_size as f64 * 8.0 / sizes.parameters.max(1) as f64,
        file_size,
        context,
        placed,
        needed,
        quality: quality(scheme),
    }
}

/// The placement whose estimate is within the memory of the machine; `None` if there is none.
fn plan(config: &Config, sizes: &Sizes, machine: &Machine, session: Session) -> Option<Plan> {
    let beside = ram_beside(config.vocab_size, !machine.gpus.is_empty());
    let mut bound = machine.ram;
    for _ in 0..PLANS {
        let room = |bound| RamRoom { bound, other: beside, asked: true }.with_units(sizes.units.len());
        let capacity = Capacity { gpus: machine.gpus.clone(), ram: bound.map(room) };
        let plan = Plan::fitting(sizes, &capacity, session).ok()?;
        let expected = MemoryEstimate::new(sizes, &plan, config.vocab_size).ram.total();
        // A plan keeps to a bound while it runs; the estimate also counts loading, and all pages of the embedding.
        match machine.ram.and_then(|ram| expected.checked_sub(ram)).filter(|&over| over > 0) {
            Some(over) => bound = bound.map(|bound| bound.saturating_sub(over)),
            None => return Some(plan),
        }
    }
    None
}

fn placed(
    config: &Config,
    sizes: &Sizes,
    plan: &Plan,
    machine: &Machine,
    speed: &mut MachineSpeed,
) -> Placed {
    let memory = MemoryEstimate::new(sizes, plan, config.vocab_size);
    let on_cpu = |unit: &Location| !matches!(unit, Location::Gpu(_));
    let reads = plan.units.iter().zip(&sizes.reads).filter(|(unit, _)| on_cpu(unit));
    let mut types: Vec<ElementType> = Vec::new();
    let mut bytes = 0;
    for (element_type, count) in reads.flat_map(|(_, reads)| reads) {
        bytes += count;
        if !types.contains(element_type) {
            types.push(*element_type);
        }
    }
    let matrices =
        Matrices { bytes_per_token: bytes, piece: region_bytes(sizes), columns: config.hidden_size };
    let mut costs = speed.costs(&types, matrices);
    costs.gpus = machine.gpu_bandwidths.clone();
    costs.disk = machine.disk;
    Placed {
        gpu_layers: plan.gpu_units(),
        disk_layers: plan.units.iter().filter(|unit| **unit == Location::Disk).count(),
        layers: plan.units.len(),
        memory,
        time: token_time(sizes, plan, &costs),
    }
}

/// Bytes of the tensors in a file of the scheme.
fn file_bytes(sizes: &Sizes, scheme: Scheme) -> u64 {
    let bytes = |unit: &quern_run::placement::UnitSize| unit.mapped + unit.made;
    let all = bytes(&sizes.embedding) + sizes.units.iter().map(bytes).sum::<u64>();
    // A tied head is the table once more.
    let tied = if sizes.tied { sizes.embedding.mapped } else { 0 };
    let all = all.saturating_sub(tied);
    let Some(bits) = scheme.packed_bits() else { return all };
    let target = scheme.block_type();
    let in_memory: u64 =
        sizes.reads.iter().flatten().filter(|(t, _)| *t == target).map(|(_, bytes)| bytes).sum();
    let bits_in_memory = target.block_bytes() as f64 * 8.0 / target.block_elements() as f64;
    all - in_memory + (in_memory as f64 * bits / bits_in_memory) as u64
}

/// The schemes that are judged for a model in plain numbers.
pub fn schemes() -> Vec<Scheme> {
    let mut all = scheme::gguf_schemes();
    let gptq = [(8, 128), (4, 32), (4, 128), (3, 32), (3, 128), (2, 32)];
    all.extend(gptq.map(|(bits, group)| Scheme::Gptq { bits, group }));
    all.extend([Kind::Int8, Kind::Nf4, Kind::Fp4].map(Scheme::Bitsandbytes));
    all
}
