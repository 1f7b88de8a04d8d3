//! One text in a model: its keys and values, and the memory a pass over it needs, allocated once.

mod kept;

use quern_compute::{KvCache, KvType, Values};

use crate::forward::{LogitsTo, Pass, Staging, Workspace, cache_shape, index_shape};
use crate::placement::Needs;
use crate::weights::state_sizes;
use crate::{Error, Model, Observer, Result};

pub(crate) use kept::KeptLogits;

/// Size and precision of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Positions there is room for.
    pub context: usize,
    /// Most tokens that go through the layers together (llama.cpp's ubatch). Larger batches read the weights
    /// less often and need more memory.
    pub batch: usize,
    /// How keys and values are kept.
    pub kv: KvType,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { context: 512, batch: 512, kv: KvType::F16 }
    }
}

/// Which of the tokens given to [`Session::forward`] logits are wanted for: the head is a matrix as large as
/// the vocabulary, and most of a prompt needs none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The last one.
    Last,
    /// Those from this index on.
    From(usize),
    /// All.
    All,
    /// None: only keys and values are wanted, for more to come.
    Nothing,
}

/// A text being run.
#[derive(Debug)]
pub struct Session<'m> {
    model: &'m Model,
    options: SessionOptions,
    length: usize,
    workspaces: Vec<Workspace>,
    staging: Staging,
    logits: Vec<f32>,
    /// The last states that were kept.
    kept: Option<KeptStates>,
}

/// Copies of the states of a text.
#[derive(Debug)]
struct KeptStates {
    /// Tokens that it had.
    length: usize,
    /// Of each workspace, its layers'.
    states: Vec<Vec<Vec<f32>>>,
}

/// Smaller batches read the weights so often that memory is better spent on them.
const SMALLEST_BATCH: usize = 32;

impl<'m> Session<'m> {
    pub(crate) fn new(model: &'m Model, options: SessionOptions) -> Result<Self> {
        let (options, needs) = Self::fitting(model, options)?;
        model.placement.plan(needs)?;
        let mut workspaces = Vec::new();
        for (device, layers) in model.placement.devices() {
            let work = Workspace::new(model, device, layers, options.context, options.kv);
            let mut work = work.map_err(|error| {
                error
                    .on_gpu(|| format!("keys and values of {} positions in {layers} layers", options.context))
            })?;
            if device.is_gpu() {
                // What does not fit is better said now than in the middle of a text.
                let reserved = work.reserve(model, options.batch);
                reserved.map_err(|error| error.on_gpu(|| format!("buffers for {} tokens", options.batch)))?;
            }
            if model.placement.bounded() {
                // From here on only weights are loaded and dropped.
                work.cache.touch();
                work.index.iter_mut().for_each(KvCache::touch);
                work.reserve(model, options.batch)?;
            }
            workspaces.push(work);
        }
        let staging = Staging::default();
        Ok(Self { model, options, length: 0, workspaces, staging, logits: Vec::new(), kept: None })
    }

    /// Checks the options, and makes the batch smaller where the model's memory bound demands it; what the
    /// session then needs.
    pub(crate) fn fitting(model: &Model, mut options: SessionOptions) -> Result<(SessionOptions, Needs)> {
        model.check_context(options.context)?;
        if options.batch == 0 {
            return Err(Error::Option("batch is 0, it must be at least 1".into()));
        }
        // No pass is longer than the context.
        let in_ram = model.placement.layers_cached_in_ram();
        // Also where a GPU has the states, what was kept of them is in RAM.
        let states = 2 * 4 * state_sizes(&model.config).0 as u64;
        let index = index_shape(&model.config, options.context, options.kv);
        let index = index.map_or(0, |shape| shape.position_bytes() as u64);
        let needs = |batch: usize| Needs {
            tokens: batch,
            keys_and_values:
                (cache_shape(&model.config, in_ram, options.context, options.kv).position_bytes() as u64
                    + index)
                    .saturating_mul(options.context as u64)
                    .saturating_add(states),
            buffers: Workspace::bytes(model, batch) + 4 * model.vocabulary() as u64,
        };
        let mut batch = options.batch.min(options.context);
        while batch > SMALLEST_BATCH && model.placement.plan(needs(batch)).is_err() {
            batch = (batch / 2).max(SMALLEST_BATCH);
        }
        let needs = needs(batch);
        options.batch = batch;
        Ok((options, needs))
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Most tokens that go through the layers together.
    pub fn batch(&self) -> usize {
        self.options.batch
    }

    /// Positions there is room for.
    pub fn context(&self) -> usize {
        self.options.context
    }

    /// Removes the tokens from position `length` on, and returns how many are then held. A model with states cannot go
    /// back by single tokens: it goes back to where [`Session::keep`] was called last, if that is not behind `length`,
    /// or to the beginning.
    pub fn truncate(&mut self, length: usize) -> usize {
        if length >= self.length {
            return self.length;
        }
        self.length = match self.has_states() {
            false => length,
            true => self.restore(length).unwrap_or(0),
        };
        // What is kept of more tokens is of another text from here on.
        self.kept = self.kept.take().filter(|kept| kept.length <= self.length);
        self.length
    }

    /// Whether any layer keeps a state, so that [`Session::truncate`] may hold fewer tokens than were asked for.
    pub fn has_states(&self) -> bool {
        self.model.weights.has_states()
    }

    /// Keeps copies of the states as they are, to go back to. Does nothing for a model without states.
    ///
    /// # Errors
    /// A GPU that has states is lost.
    pub fn keep(&mut self) -> Result<()> {
        if self.has_states() {
            let copies = |work: &mut Workspace| work.states.copies(&mut work.executor);
            let states = self.workspaces.iter_mut().map(copies).collect::<Result<_>>()?;
            self.kept = Some(KeptStates { length: self.length, states });
        }
        Ok(())
    }

    /// Goes back to the states that were kept, if they are of at most `length` tokens; of how many they are.
    fn restore(&mut self, length: usize) -> Option<usize> {
        let kept = self.kept.as_ref().filter(|kept| kept.length <= length)?;
        for (work, states) in self.workspaces.iter_mut().zip(&kept.states) {
            work.states.restore(&mut work.executor, states).ok()?;
        }
        Some(kept.length)
    }

    /// Removes all tokens; the memory stays allocated.
    pub fn clear(&mut self) {
        self.length = 0;
        self.kept = None;
    }

    /// Appends `tokens` and returns the logits wanted: one row of [`Model::vocabulary`] values per token, in
    /// order. They may be changed (sampling does) and are valid until the next call.
    ///
    /// # Errors
    /// [`Error::ContextFull`], [`Error::Token`] or [`Error::Option`] (no tokens, or `From` beyond them), all
    /// before anything is computed; the session is then as it was. [`Error::File`] if a file was cut while its weights
    /// were read.
    pub fn forward(&mut self, tokens: &[u32], wanted: Wanted) -> Result<&mut [f32]> {
        self.run(tokens, wanted, None, false)?;
        Ok(&mut self.logits)
    }

    /// [`Session::forward`] with an `observer`, which sees the inputs of every layer for every token.
    ///
    /// # Errors
    /// As [`Session::forward`]; [`Error::Observer`] if the observer returns an error. The tokens are then not held.
    pub fn forward_observed(
        &mut self,
        tokens: &[u32],
        wanted: Wanted,
        observer: &mut dyn Observer,
    ) -> Result<&mut [f32]> {
        self.run(tokens, wanted, Some(observer), false)?;
        Ok(&mut self.logits)
    }

    /// [`Session::forward`] whose logits stay where the head is: in RAM, or in a GPU's memory.
    ///
    /// # Errors
    /// As [`Session::forward`].
    pub(crate) fn forward_kept(&mut self, tokens: &[u32], wanted: Wanted) -> Result<KeptLogits<'_>> {
        let head = self.model.placement.head();
        let on_gpu = self.workspaces[head].executor.pool().is_none();
        let values = self.run(tokens, wanted, None, on_gpu)?;
        let Workspace { executor, logits, .. } = &mut self.workspaces[head];
        let values = if on_gpu { logits.front(values) } else { Values::Host(&self.logits) };
        Ok(KeptLogits { model: self.model, executor, values })
    }

    /// The number of logits, which are in RAM or, if they are `kept`, in the buffer of the GPU that has the head.
    fn run(
        &mut self,
        tokens: &[u32],
        wanted: Wanted,
        mut observer: Option<&mut dyn Observer>,
        kept: bool,
    ) -> Result<usize> {
        let first = self.check(tokens, wanted)?;
        let vocabulary = self.model.vocabulary();
        let batch = tokens.len().min(self.options.batch);
        let values = (tokens.len() - first) * vocabulary;
        let in_ram = if kept { 0 } else { values };
        let growth = in_ram.saturating_sub(self.logits.capacity());
        self.model.placement.begin(batch, 4 * growth as u64 + Workspace::kernels(self.model, batch))?;
        // Every row is written below; only growth costs anything.
        self.logits.resize(in_ram, 0.0);
        if kept {
            // Batches fill it one after the other: it must not grow between them.
            let reserved = self.workspaces[self.model.placement.head()].reserve_logits(values);
            reserved
                .map_err(|error| error.on_gpu(|| format!("logits of {} tokens", tokens.len() - first)))?;
        }
        for (index, batch) in tokens.chunks(self.options.batch).enumerate() {
            let start = index * self.options.batch;
            let end = start + batch.len();
            let from = first.clamp(start, end);
            let rows = (from - first.min(from)) * vocabulary..(end - first.min(end)) * vocabulary;
            let mut pass = Pass {
                model: self.model,
                workspaces: &mut self.workspaces,
                staging: &mut self.staging,
                observer: observer.as_mut().map(|o| &mut **o as &mut dyn Observer),
            };
            let logits = match kept {
                true => LogitsTo::Gpu(rows.start),
                false => LogitsTo::Ram(&mut self.logits[rows]),
            };
            let done = pass.run(batch, self.length + start, from - start, logits);
            // What was computed from zeros in place of weights is no result, and no error of its own.
            let read = self.model.checkpoint().check_read();
            if (read.is_err() || done.is_err()) && self.has_states() {
                // States have some of the tokens in some layers: nothing can be continued.
                self.clear();
            }
            read?;
            done?;
        }
        self.length += tokens.len();
        Ok(values)
    }

    /// Checks a request; the index of the first token whose logits are wanted.
    fn check(&self, tokens: &[u32], wanted: Wanted) -> Result<usize> {
        let (held, context, wants) = (self.length, self.options.context, tokens.len());
        if wants > context - held {
            return Err(Error::ContextFull { held, wanted: wants, context });
        }
        let vocabulary = self.model.vocabulary();
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        let first = match wanted {
            Wanted::Last => wants.checked_sub(1),
            Wanted::From(first) => Some(first),
            Wanted::All => Some(0),
            Wanted::Nothing => return Ok(wants),
        };
        let first = first.filter(|&first| first < wants);
        first.ok_or_else(|| {
            Error::Option(format!("logits {wanted:?} of {wants} tokens were asked for: there are none"))
        })
    }
}
