//! What an error in the embedding's rows costs, by the gradients of the loss.

use quern_compute::parallel::{part_of, share};
use quern_compute::{Buffer, Device, Executor, PassKey, Pool, Values};
use quern_model::TensorRole;
use quern_run::placement::GpuRoom;
use quern_run::{
    GradientObserver, Gradients, LinearGradient, LinearInfo, Model, ObserverError, gradients_memory,
};

use super::Gram;
use crate::calibrated::Calibration;
use crate::gptq::Hessian;

/// Tokens that are run at least, if there are so many, …
const TOKENS: usize = 8192;
/// … and for each column.
const TOKENS_PER_COLUMN: usize = 4;
/// Tokens whose residual streams are kept at once, unless one sequence has more: one for each block.
const AT_ONCE: usize = 2048;
/// Bytes of RAM for these where a GPU computes: its blocks are moved once for all tokens that are kept at once.
const KEPT_FOR_GPU: u64 = 4 << 30;

/// Some of the calibration's sequences, spread evenly over them, in parts that are run at once.
pub(in super::super) struct Sample<'a> {
    parts: Vec<Vec<&'a Vec<u32>>>,
}

impl<'a> Sample<'a> {
    /// Those for an embedding with so many columns.
    pub fn of(calibration: &'a Calibration, columns: usize) -> Self {
        let sequences = &calibration.samples.sequences;
        let count = sequences.len().max(1);
        let all: usize = sequences.iter().map(Vec::len).sum();
        let wanted = TOKENS.max(TOKENS_PER_COLUMN * columns);
        let take = wanted.div_ceil((all / count).max(1)).min(count);
        let mut parts: Vec<Vec<&Vec<u32>>> = Vec::new();
        let mut room = 0;
        for sequence in (0..take).filter_map(|i| sequences.get(i * count / take)) {
            match parts.last_mut().filter(|_| sequence.len() <= room) {
                Some(part) => part.push(sequence),
                None => {
                    parts.push(vec![sequence]);
                    room = AT_ONCE;
                }
            }
            room = room.saturating_sub(sequence.len());
        }
        Self { parts }
    }

    /// Most tokens of a part.
    fn largest(&self) -> usize {
        self.parts.iter().map(|part| tokens(part)).max().unwrap_or(0)
    }

    /// Most tokens of a sequence.
    fn longest(&self) -> usize {
        self.parts.iter().flatten().map(|sequence| sequence.len()).max().unwrap_or(0)
    }
}

fn tokens(part: &[&Vec<u32>]) -> usize {
    part.iter().map(|sequence| sequence.len()).sum()
}

/// How a GPU computes the gradients of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct OnGpu {
    /// Which one.
    pub index: usize,
    /// Tokens that are run together, at most, unless one part has more.
    at_once: usize,
    /// Bytes in its memory.
    pub bytes: u64,
    /// Bytes of RAM beside the mapped model.
    pub ram: u64,
}

impl OnGpu {
    /// Where this GPU has the memory for it, and gradients are known.
    pub fn of(model: &Model, sample: &Sample<'_>, gpu: &GpuRoom) -> Option<Self> {
        if model.is_mixture() {
            return None;
        }
        let config = model.config();
        let (hidden, largest) = (config.hidden_size as u64, sample.largest());
        let all: usize = sample.parts.iter().map(|part| tokens(part)).sum();
        let of_token = 4 * (config.layers as u64 + 1) * hidden;
        let kept = usize::try_from(KEPT_FOR_GPU / of_token.max(1)).unwrap_or(usize::MAX);
        let longest = sample.longest() as u64;
        // The sum, and what is added to it.
        let sum = |at_once: usize| 4 * hidden * hidden + 12 * hidden * at_once as u64;
        let bytes = |at_once: usize| gradients_memory(model, at_once as u64, longest) + sum(at_once);
        let at_once = [kept.min(all).max(largest), largest].into_iter().find(|&n| bytes(n) <= gpu.room)?;
        // Logits and their gradients, and page-locked memory for what is copied.
        let ram = at_once as u64 * (of_token + 8 * hidden) + (1 << 30);
        Some(Self { index: gpu.index, at_once, bytes: bytes(at_once), ram })
    }
}

/// Bytes of memory for the gradients of a sample, beside the mapped model.
pub(in super::super) fn memory(model: &Model, sample: &Sample<'_>) -> u64 {
    let config = model.config();
    let tokens = sample.largest() as u64;
    let (hidden, ffn) = (config.hidden_size as u64, config.ffn_size as u64);
    let (query, key) = ((config.heads * config.head_dim) as u64, (config.kv_heads * config.head_dim) as u64);
    let streams = (config.layers as u64 + 3) * tokens * hidden;
    let activations = tokens * (6 * hidden + 4 * ffn + 4 * query + 6 * key);
    let block = hidden * (3 * ffn + 2 * query + 2 * key);
    // Logits with their gradients, a part of the head in two orders.
    let head = (config.vocab_size as u64 * 16).max(1 << 25) + 2 * 4096 * hidden;
    4 * (streams + activations + block + head)
}

/// Sums the products of gradients over the sample: of tokens drawn from the model, so that the sum is the curvature of
/// the divergence from it. With the head's share if it is `tied`. The sum is where they are computed.
pub(super) fn gram(
    model: &Model,
    sample: &Sample<'_>,
    tied: bool,
    on_gpu: Option<&OnGpu>,
) -> Result<Gram, quern_run::Error> {
    let (device, at_once) = match on_gpu {
        Some(gpu) => (Device::gpu(gpu.index)?, gpu.at_once),
        None => (model.cpu(), 0),
    };
    let executor = Executor::new(&device)?;
    let sum = Hessian::on(&executor, model.config().hidden_size)?;
    let mut sums = Sums { pool: model.pool(), sum, executor, moved: Buffer::new(&device), tied, tokens: 0 };
    let mut next = 0;
    while next < sample.parts.len() {
        let (mut texts, mut seeds, mut together) = (Vec::new(), Vec::new(), 0);
        // At least one part, and as many as may be run together. What is drawn does not depend on that.
        for (seed, part) in sample.parts.iter().enumerate().skip(next) {
            together += tokens(part);
            if !seeds.is_empty() && together > at_once {
                break;
            }
            texts.extend(part.iter().map(|&sequence| sequence.clone()));
            seeds.push((part.len(), seed as u64));
        }
        next += seeds.len();
        Gradients::on(model, &device, &texts)?.run_parts(&seeds, &mut sums)?;
    }
    Ok(Gram { sum: sums.sum, tokens: Some(sums.tokens) })
}

struct Sums<'a> {
    pool: &'a Pool,
    sum: Hessian,
    executor: Executor,
    /// What is added to a sum on a GPU.
    moved: Buffer,
    tied: bool,
    /// Tokens whose gradients were seen.
    tokens: u64,
}

impl Sums<'_> {
    /// Adds the products of rows.
    fn add(&mut self, rows: &[f32]) -> Result<(), quern_compute::Error> {
        let Self { sum, executor, moved, .. } = self;
        if executor.pool().is_some() {
            return sum.add_values(executor, Values::Host(rows));
        }
        moved.reserve(rows.len())?;
        let tokens = rows.len() / sum.columns().max(1);
        executor.begin(PassKey { segment: 0, tokens, first: 0, keep: 0, recordable: false })?;
        executor.upload(rows, moved.front_mut(rows.len()))?;
        sum.add_values(executor, moved.front(rows.len()))?;
        executor.end(None)
    }

    /// Whether the layer is a head that is the token embedding, and counts.
    fn is_tied(&self, linear: &LinearInfo<'_>) -> bool {
        self.tied
            && linear.layer.is_none()
            && linear.role == TensorRole::TokenEmbedding
            && linear.columns == self.sum.columns()
    }
}

impl GradientObserver for Sums<'_> {
    /// The head's share. An error `e` in row `r` changes the loss by `½ Σ_t δ_tr² (e x_t)²`. Rows that are read often as
    /// inputs are predicted about as often, so the sums over all rows stand for each of them.
    fn linear(&mut self, gradient: &LinearGradient<'_>) -> Result<(), ObserverError> {
        let linear = &gradient.linear;
        if !self.is_tied(linear) {
            return Ok(());
        }
        let (rows, columns) = (linear.rows, linear.columns);
        let mut weighted = gradient.inputs.to_vec();
        let tokens = (part_of(self.pool, gradient.gradients.len(), rows) / rows).max(1);
        let parts = weighted.chunks_mut(tokens * columns).zip(gradient.gradients.chunks(tokens * rows));
        share(self.pool, parts, |(inputs, gradients)| {
            for (x, d) in inputs.chunks_exact_mut(columns).zip(gradients.chunks_exact(rows)) {
                let weight = d.iter().map(|d| d * d).sum::<f32>().sqrt();
                x.iter_mut().for_each(|x| *x *= weight);
            }
        });
        Ok(self.add(&weighted)?)
    }

    fn wants(&self, linear: &LinearInfo<'_>) -> bool {
        self.is_tied(linear)
    }

    fn residual(&mut self, layer: usize, gradients: &[f32]) -> Result<(), ObserverError> {
        if layer == 0 {
            self.add(gradients)?;
            self.tokens += (gradients.len() / self.sum.columns()) as u64;
        }
        Ok(())
    }

    fn wants_residual(&self, layer: usize) -> bool {
        layer == 0
    }
}
