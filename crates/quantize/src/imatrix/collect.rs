//! Measures an importance matrix: runs a text through the model, and sums the squares of the inputs of every
//! linear layer of the blocks by column.
//!
//! The text is cut as llama-imatrix cuts it:
//!
//! ```text
//! tokenized whole (with BOS, if the tokenizer adds one)    chunks of `context` tokens, no overlap
//! |-- chunk 0 --|-- chunk 1 --|-- chunk 2 --| …  rest      the first token of each becomes BOS
//! ```
//!
//! Squares are added in f32 over 16 tokens, then in f64, where the inputs are: in RAM, or on a GPU, whose results alone
//! are copied to RAM. So the sums do not depend on the number of threads, and on a device they differ only as far as the
//! inputs do.

use std::time::Instant;

use quern_compute::Executor;
use quern_model::{Config, EncodeOptions, TensorRole};
use quern_run::{
    Calibrator, KvType, Layerwise, LinearGroup, LinearInfo, Model, Observer, ObserverError, Replacement,
    SessionOptions, Wanted,
};
use quern_tensor_io::{Progress, Remedy};

use super::{Accumulator, AddError};
use crate::calibrated::Place;

/// Tokens computed at once.
const BATCH: usize = 512;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectOptions {
    /// Tokens in a chunk.
    pub context: usize,
    /// Chunks to run; `None` takes all there are.
    pub chunks: Option<usize>,
    /// Chunks at the beginning of the text to leave out.
    pub from_chunk: usize,
    /// Measure the head too. A head that is the token embedding has no entry, as in llama-imatrix.
    pub process_output: bool,
    /// How keys and values are kept.
    pub kv: KvType,
}

impl CollectOptions {
    /// The session that the text is run in.
    pub fn session(&self) -> SessionOptions {
        SessionOptions { context: self.context, batch: self.context.min(BATCH), kv: self.kv }
    }

    /// The most rows of logits that are computed together.
    pub fn rows(&self) -> usize {
        if self.process_output { self.context.min(BATCH) } else { 1 }
    }
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self { context: 512, chunks: None, from_chunk: 0, process_output: false, kv: KvType::F32 }
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Collected {
    /// The sums, under GGUF names.
    pub sums: Accumulator,
    /// Chunks run.
    pub chunks: usize,
    /// Tokens run.
    pub tokens: usize,
    /// Wall time.
    pub seconds: f64,
}

impl Collected {
    /// Experts with under a hundredth of the tokens that each would get if all were chosen equally: the tensor's GGUF
    /// name, the expert and its tokens.
    pub fn starved(&self) -> Vec<(&str, usize, u64)> {
        let mut starved = Vec::new();
        for entry in self.sums.iter().filter(|e| e.tokens.len() > 1) {
            let fair = entry.tokens.iter().sum::<u64>() / entry.tokens.len() as u64;
            for (expert, &tokens) in entry.tokens.iter().enumerate() {
                if tokens == 0 || tokens < fair / 100 {
                    starved.push((entry.name, expert, tokens));
                }
            }
        }
        starved
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The model cannot be run.
    #[error(transparent)]
    Run(quern_run::Error),
    /// A layer's input cannot be summed.
    #[error(transparent)]
    Add(#[from] AddError),
    /// The text has no whole chunk.
    #[error(
        "the text has {tokens} tokens; a chunk takes {context} and {from_chunk} are left out at the beginning"
    )]
    TextTooShort {
        /// Tokens of the text, BOS included.
        tokens: usize,
        /// Tokens in a chunk.
        context: usize,
        /// Chunks left out.
        from_chunk: usize,
    },
    /// An impossible option.
    #[error("{0}")]
    Option(String),
}

impl CollectError {
    /// What mends it, where a program must put it into words.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Run(error) => error.remedy(),
            Self::Add(error) => error.remedy(),
            Self::TextTooShort { .. } => Some(Remedy::LongerText),
            Self::Option(_) => None,
        }
    }
}

impl From<quern_run::Error> for CollectError {
    fn from(error: quern_run::Error) -> Self {
        match error {
            quern_run::Error::Observer(error) => match error.downcast::<AddError>() {
                Ok(own) => Self::Add(*own),
                Err(other) => Self::Run(quern_run::Error::Observer(other)),
            },
            other => Self::Run(other),
        }
    }
}

/// About how much RAM [`collect()`] takes beside the mapped model: keys and values, the activations of a batch, and the
/// sums. With a GPU only the sums are there, for what it computes is planned when the model is loaded.
pub fn memory_bytes(model: &Model, options: CollectOptions) -> u64 {
    let config = model.config();
    let wide = |n: usize| n as u64;
    let (context, batch) = (wide(options.context), wide(options.context.min(BATCH)));
    let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let cache = 4 * 2 * wide(config.layers * key) * context;
    let ffn = config.experts.map_or(0, |e| e.ffn_size * e.used).max(config.widest());
    let activations = 4 * batch * wide(4 * config.hidden_size + 2 * query + 2 * key + 3 * ffn);
    let computed = if model.uses_gpu() { 0 } else { cache + activations };
    computed + 2 * file_bytes(model)
}

/// About how many bytes the file of an importance matrix of `model` has.
pub fn file_bytes(model: &Model) -> u64 {
    let config = model.config();
    let (ffn, experts) = config.experts.map_or((config.ffn_size, 1), |e| (e.ffn_size, e.count));
    // Q, K, V and output; gate, up and down.
    let columns = 3 * config.hidden_size + config.heads * config.head_dim;
    let shared = config.experts.and_then(|e| e.shared).map_or(0, |e| 2 * config.hidden_size + e.ffn_size);
    4 * (config.layers * (columns + shared + experts * (2 * config.hidden_size + ffn))) as u64
}

/// Runs `text` through `model`. Progress counts chunks.
///
/// # Errors
/// [`CollectError::TextTooShort`]; [`CollectError::Option`] for a context of 0 or no chunks; a context beyond
/// what the model was trained for; [`CollectError::Add`] for a layer whose input is not finite.
pub fn collect(
    model: &Model,
    text: &str,
    options: CollectOptions,
    progress: &dyn Progress,
) -> Result<Collected, CollectError> {
    let CollectOptions { context, from_chunk, .. } = options;
    let impossible = |what: &str| Err(CollectError::Option(what.to_owned()));
    if context == 0 {
        return impossible("context is 0, it must be at least 1");
    }
    if options.chunks == Some(0) {
        return impossible("chunks is 0, it must be at least 1");
    }
    let mut session = model.session(options.session())?;
    let tokenizer = model.tokenizer()?;
    let tokens = tokenizer
        .encode(text, EncodeOptions { add_special: true, parse_special: false })
        .map_err(quern_run::Error::from)
        .map_err(CollectError::Run)?;
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let available = (tokens.len() / context).saturating_sub(from_chunk);
    if available == 0 {
        return Err(CollectError::TextTooShort { tokens: tokens.len(), context, from_chunk });
    }
    let count = available.min(options.chunks.unwrap_or(usize::MAX));
    progress.total(count as u64);

    let mut collector = Collector::new(model, options.process_output);
    let wanted = collector.wanted();
    let started = Instant::now();
    let mut chunk = Vec::with_capacity(context);
    for part in tokens.chunks_exact(context).skip(from_chunk).take(count) {
        chunk.clear();
        chunk.extend_from_slice(part);
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        session.clear();
        session.forward_observed(&chunk, wanted, &mut collector)?;
        progress.advance(1);
    }
    let seconds = started.elapsed().as_secs_f64();
    model.checkpoint().check_files().map_err(quern_run::Error::from)?;
    Ok(Collected { sums: collector.sums, chunks: count, tokens: count * context, seconds })
}

/// The same over `sequences`, the samples of a calibration text; `process_output` as in [`CollectOptions`]. On GPUs all
/// sequences go through the model block by block, as in a calibration; where one has less memory than was expected, and on
/// the CPU, sequence by sequence. Progress counts blocks, the head or sequences.
///
/// # Errors
/// As [`collect`].
pub fn collect_samples(
    model: &Model,
    sequences: &[Vec<u32>],
    process_output: bool,
    place: &Place,
    progress: &dyn Progress,
) -> Result<Collected, CollectError> {
    let started = Instant::now();
    let collected = match place {
        Place::Cpu { .. } => by_sequence(model, sequences, process_output, progress),
        Place::Gpus { .. } => match by_block(model, sequences, process_output, place, progress) {
            Err(CollectError::Run(error)) if error.is_gpu_memory() => {
                by_sequence(model, sequences, process_output, progress)
            }
            done => done,
        },
    };
    let sums = collected?;
    let seconds = started.elapsed().as_secs_f64();
    model.checkpoint().check_files().map_err(quern_run::Error::from)?;
    let tokens = sequences.iter().map(Vec::len).sum();
    Ok(Collected { sums, chunks: sequences.len(), tokens, seconds })
}

fn by_sequence(
    model: &Model,
    sequences: &[Vec<u32>],
    process_output: bool,
    progress: &dyn Progress,
) -> Result<Accumulator, CollectError> {
    let context = sequences.iter().map(Vec::len).max().unwrap_or(0);
    let mut session =
        model.session(SessionOptions { context, batch: context.min(BATCH), kv: KvType::F32 })?;
    progress.total(sequences.len() as u64);
    let mut collector = Collector::new(model, process_output);
    let wanted = collector.wanted();
    for sequence in sequences {
        session.clear();
        session.forward_observed(sequence, wanted, &mut collector)?;
        progress.advance(1);
    }
    Ok(collector.sums)
}

fn by_block(
    model: &Model,
    sequences: &[Vec<u32>],
    process_output: bool,
    place: &Place,
    progress: &dyn Progress,
) -> Result<Accumulator, CollectError> {
    let device = place.device(model)?;
    let mut run = Layerwise::on(model, &[device], sequences, false, place.waits())?;
    let mut collector = Collector::new(model, process_output);
    progress.total((run.layers() + usize::from(process_output)) as u64);
    for layer in 0..run.layers() {
        run.block(layer, &mut collector)?;
        progress.advance(1);
    }
    if process_output {
        run.head(&mut collector)?;
        progress.advance(1);
    }
    Ok(collector.sums)
}

/// Whether GGUF files have keys' and values' projections of latent attention in one matrix.
fn heads_joined(config: &Config) -> bool {
    config.latent.is_some_and(|latent| latent.joined_in_gguf)
}

/// Adds the squares of each group's inputs to the entries of its layers.
struct Collector<'m> {
    model: &'m Model,
    process_output: bool,
    sums: Accumulator,
    /// Sums of squares of one group's inputs.
    squares: Vec<f64>,
}

impl<'m> Collector<'m> {
    fn new(model: &'m Model, process_output: bool) -> Self {
        Self { model, process_output, sums: Accumulator::new(), squares: Vec::new() }
    }

    /// The tokens whose logits must be computed, so that the head's inputs are seen.
    fn wanted(&self) -> Wanted {
        if self.process_output { Wanted::All } else { Wanted::Last }
    }

    /// The names under which a layer has entries, if it has such: one for each tensor of GGUF that has rows of it.
    fn entries(&self, linear: &LinearInfo<'_>) -> Vec<String> {
        let wanted = linear.layer.is_some() || (self.process_output && linear.role == TensorRole::Output);
        let config = self.model.config();
        let role = match linear.role {
            TensorRole::AttentionKvUp if !heads_joined(config) => TensorRole::AttentionVUp,
            role => role,
        };
        if wanted { config.gguf_names(role, linear.layer) } else { Vec::new() }
    }
}

/// The values of some columns, in another order.
pub(crate) fn in_order<T: Copy>(values: &[T], order: &[u32]) -> Vec<T> {
    order.iter().map(|&column| values[column as usize]).collect()
}

impl Observer for Collector<'_> {
    fn observe(&mut self, executor: &mut Executor, group: &LinearGroup<'_>) -> Result<(), ObserverError> {
        let named = |linear| self.entries(linear).into_iter().map(move |name| (linear, name));
        let entries: Vec<_> = group.linears.iter().flat_map(named).collect();
        if entries.is_empty() {
            return Ok(());
        }
        executor.column_squares(group.values, group.columns, &mut self.squares)?;
        // The entry is of the columns as GGUF has them.
        let role = group.linears.first().map(|linear| linear.role);
        if let Some(order) = role.and_then(|role| self.model.config().gguf_column_order(role)) {
            self.squares = in_order(&self.squares, &order);
        }
        let config = self.model.config();
        for (linear, name) in entries {
            let heads = [TensorRole::AttentionKUp, TensorRole::AttentionVUp].contains(&linear.role);
            let count = if heads { config.heads } else { config.experts.map_or(1, |e| e.count) };
            match linear.expert {
                // The values' part of it has a matrix for each head, which all read the same.
                None if linear.role == TensorRole::AttentionKvUp && !heads_joined(config) => {
                    for head in 0..config.heads {
                        self.sums.add_expert(
                            &name,
                            (head, config.heads),
                            &self.squares,
                            group.rows as u64,
                        )?;
                    }
                }
                expert => {
                    let expert = expert.map_or((0, 1), |expert| (expert, count));
                    self.sums.add_expert(&name, expert, &self.squares, group.rows as u64)?;
                }
            }
        }
        Ok(())
    }
}

/// Nothing is replaced.
impl Calibrator for Collector<'_> {
    fn replace(&mut self, linears: &[LinearInfo<'_>]) -> Result<Vec<Option<Replacement>>, ObserverError> {
        Ok(vec![None; linears.len()])
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use quern_run::LoadOptions;
    use quern_tensor_io::{Checkpoint, NoProgress};

    use super::*;

    #[test]
    fn blocks_of_all_sequences_have_the_sums_of_sequences_of_all_blocks() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fixtures/architectures/qwen3/model.safetensors");
        let options = LoadOptions { threads: 2, ..LoadOptions::default() };
        let model = Model::load(Arc::new(Checkpoint::open(&path).unwrap()), options).unwrap();
        let sequences: Vec<Vec<u32>> = (1..4).map(|s| (0..20 * s).map(|i| i * 7 % 250).collect()).collect();
        let expected = by_sequence(&model, &sequences, true, &NoProgress).unwrap();
        let found = by_block(&model, &sequences, true, &Place::Cpu { why: None }, &NoProgress).unwrap();
        assert_eq!((found.len(), found.is_empty()), (expected.len(), false));
        for (found, expected) in found.iter().zip(expected.iter()) {
            assert_eq!((found.name, found.tokens), (expected.name, expected.tokens));
            for (a, b) in found.squares.iter().zip(expected.squares) {
                assert!((a - b).abs() <= 1e-5 * b.abs(), "{}: {a} {b}", found.name);
            }
        }
    }
}
