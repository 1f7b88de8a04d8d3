//! How much the predictions of a model suffer from each type of each tensor.
//!
//! A tensor is rounded to one type, and the model is run from its block on with it; the divergence of the predictions is
//! measured. For all types the rounding errors of some of the rows are compared: weighted by the mean squares of the
//! inputs, they are the squared error of a layer's outputs. The divergence is in proportion to it. (Measuring with a second
//! type, or taking what was measured of that one type as it is, chose no better on bookworm-27m.)
//!
//! Of models with many layers only some are run; the sensitivity of the others is between theirs (`Effort`).

use std::collections::BTreeMap;

use quern_compute::simd::Level;
use quern_compute::{Device, Matrix};
use quern_model::{Convention, TensorRole};
use quern_run::{Effect, LinearInfo, Model, Probe, Replacement};
use quern_tensor_io::{ElementType, Progress};

use super::candidates::probe;
use super::rounding::Rounding;
use super::{Error, RoundError};
use crate::calibrated::Place;
use crate::imatrix::Imatrix;

/// Values of a tensor whose rounding errors are compared, about.
const SAMPLE: usize = 1 << 16;
/// Tokens of a sequence that are run, at most.
const CONTEXT: usize = 512;
/// Sequences that are run.
const SEQUENCES: usize = 4;
const FEWEST_SEQUENCES: usize = 2;
/// Layers that are run at least, where not all are.
const FEWEST_LAYERS: usize = 8;
/// Tokens that all runs together may take through the whole model: as many as an importance matrix does. A model with
/// many layers is run on fewer sequences.
const PASSES: usize = 128 * 512;
/// Bytes of logits that are kept, at most.
const LOGITS: usize = 256 << 20;
/// A divergence below this is rounding of the forward pass.
const LEAST: f64 = 1e-12;

/// What to measure.
pub struct MeasureOptions<'a> {
    /// Tokens to run the model on.
    pub sequences: &'a [Vec<u32>],
    /// How strongly each column counts.
    pub imatrix: Option<&'a Imatrix>,
    /// The types that a tensor of this GGUF name and row length may get; none for one that is left alone.
    pub types: &'a dyn Fn(&str, usize) -> Vec<ElementType>,
    /// Bits per weight that are aimed at: measured most precisely near them.
    pub bits: f64,
    /// By what the encoder that will be used multiplies the divergence that plain rounding of a tensor of this name to this
    /// type causes: 1 for plain rounding.
    pub factor: &'a dyn Fn(&str, ElementType) -> f64,
    /// Instructions that are used. The result does not depend on them.
    pub level: Level,
    /// Where the model is run, as [`place`](super::place()) says.
    pub place: &'a Place,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensitivity {
    /// The tensors, by name.
    pub tensors: BTreeMap<String, TensorSensitivity>,
    /// Tokens that were run.
    pub tokens: usize,
    /// Layers that were run with changes.
    pub layers: usize,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSensitivity {
    /// The mean divergence of the model's predictions, in nats, if only this tensor has this type.
    pub costs: Vec<(ElementType, f64)>,
}

/// Rounding errors of a tensor, as shares of its squares, and the divergence measured.
struct Measured {
    name: String,
    layer: Option<usize>,
    errors: Vec<(ElementType, f64)>,
    divergence: Option<(ElementType, f64)>,
}

/// One matrix of a tensor.
#[derive(Clone, Copy)]
struct Part<'a> {
    matrix: Matrix<'a>,
    name: &'a str,
    expert: Option<usize>,
}

/// How much is run.
pub(super) struct Effort {
    pub(super) sequences: Vec<Vec<u32>>,
    pub(super) stride: usize,
    layers: Vec<usize>,
}

/// Measures a model. Progress counts its layers, and one for the embeddings and the head. Where a GPU has less memory than
/// was expected, the CPU measures.
///
/// # Errors
/// [`Error::NoText`]; those of the forward pass; [`Error::Round`] for weights that are not finite.
pub fn measure(
    model: &Model,
    options: &MeasureOptions<'_>,
    progress: &dyn Progress,
) -> Result<Sensitivity, Error> {
    match measured(model, options, &options.place.device(model)?, progress) {
        Err(Error::Run(error)) if options.place.gpu_bytes() > 0 && error.is_gpu_memory() => {
            measured(model, options, &model.cpu(), progress)
        }
        done => done,
    }
}

fn measured(
    model: &Model,
    options: &MeasureOptions<'_>,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Sensitivity, Error> {
    let effort = Effort::new(model, options.sequences)?;
    progress.total(model.config().layers as u64 + 1);
    let mut probe = Probe::on(model, device, &effort.sequences, effort.stride)?;
    let measuring = Measuring { model, options };
    let mut all = Vec::new();
    progress.step("token embedding and output head");
    let config = model.config();
    let end = |role| config.tensor_name(Convention::Gguf, role, None);
    if let Some(name) = end(TensorRole::TokenEmbedding) {
        let part = Part { matrix: model.embedding()?, name: &name, expert: None };
        let mut run = |_: &[Part<'_>], mut rounded: Vec<Replacement>| match rounded.pop() {
            Some(rounded) => probe.embedding(rounded),
            None => Ok(Effect::default()),
        };
        all.extend(measuring.tensor(&name, None, &[part], Some(&mut run))?);
    }
    if let (Some(head), Some(name)) = (model.head(), end(TensorRole::Output)) {
        let part = Part { matrix: head.matrix()?, name: head.name, expert: None };
        let mut run = |_: &[Part<'_>], mut rounded: Vec<Replacement>| match rounded.pop() {
            Some(rounded) => probe.head(rounded),
            None => Ok(Effect::default()),
        };
        all.extend(measuring.tensor(&name, None, &[part], Some(&mut run))?);
    }
    progress.advance(1);
    loop {
        let layer = probe.layer();
        progress.step(&format!("block {layer}"));
        let linears = model.linears(layer);
        // With the part that each has of what rounding the layer does.
        let mut tensors: Vec<(String, f64, Vec<Part<'_>>)> = Vec::new();
        for linear in &linears {
            let names = config.gguf_names(linear.role, linear.layer);
            let share = 1.0 / names.len() as f64;
            for name in names {
                let part = Part { matrix: linear.matrix()?, name: linear.name, expert: linear.expert };
                match tensors.iter_mut().find(|(known, ..)| *known == name) {
                    Some((.., parts)) => parts.push(part),
                    None => tensors.push((name, share, vec![part])),
                }
            }
        }
        let probed = effort.layers.contains(&layer);
        for (name, share, parts) in tensors {
            let mut run = |parts: &[Part<'_>], rounded: Vec<Replacement>| {
                let change = |linear: &LinearInfo<'_>| {
                    let at = parts.iter().position(|p| p.name == linear.name && p.expert == linear.expert)?;
                    rounded.get(at).cloned()
                };
                probe.block(&change)
            };
            let run = probed.then_some(&mut run as &mut Run<'_>);
            let measured = measuring.tensor(&name, Some(layer), &parts, run)?;
            all.extend(measured.map(|measured| measured.scaled(share)));
        }
        progress.advance(1);
        if !probe.next_block()? {
            break;
        }
    }
    model.checkpoint().check_files().map_err(quern_run::Error::from)?;
    let costs = all.iter().filter_map(|tensor| Some((tensor.name.clone(), costs(tensor, &all, options)?)));
    let tokens = effort.sequences.iter().map(Vec::len).sum();
    Ok(Sensitivity { tensors: costs.collect(), tokens, layers: effort.layers.len() })
}

/// Runs the model with some matrices rounded.
type Run<'r> = dyn FnMut(&[Part<'_>], Vec<Replacement>) -> quern_run::Result<Effect> + 'r;

struct Measuring<'m> {
    model: &'m Model,
    options: &'m MeasureOptions<'m>,
}

impl Measuring<'_> {
    /// One tensor, of one matrix or one an expert; `None` if nothing can be chosen for it.
    fn tensor(
        &self,
        name: &str,
        layer: Option<usize>,
        parts: &[Part<'_>],
        run: Option<&mut Run<'_>>,
    ) -> Result<Option<Measured>, Error> {
        let Some(columns) = parts.first().map(|part| part.matrix.columns()) else { return Ok(None) };
        let types = (self.options.types)(name, columns);
        if types.is_empty() {
            return Ok(None);
        }
        let rounding = Rounding { pool: self.model.pool(), level: self.options.level };
        let entry = self.options.imatrix.and_then(|imatrix| imatrix.get(name));
        let weights = |index: usize| entry?.get(index * columns..(index + 1) * columns);
        let failed = |part: &Part<'_>| {
            let tensor = part.name.to_owned();
            move |source: RoundError| Error::Round { tensor, source }
        };
        // Some rows of each matrix, evenly.
        let mut sums = vec![0.0; types.len()];
        let mut squares = 0.0;
        for (index, part) in parts.iter().enumerate() {
            let rows = part.matrix.rows();
            let count = (SAMPLE / parts.len() / columns).clamp(1, rows);
            let some: Vec<usize> = (0..count).map(|i| i * rows / count).collect();
            let (errors, all) =
                rounding.errors(part.matrix, &some, &types, weights(index)).map_err(failed(part))?;
            sums.iter_mut().zip(errors).for_each(|(sum, error)| *sum += error);
            squares += all;
        }
        let share = |error: f64| if squares > 0.0 { error / squares } else { 0.0 };
        let errors: Vec<_> = types.iter().copied().zip(sums.into_iter().map(share)).collect();
        let probe = probe(columns, self.options.bits).filter(|to| types.contains(to));
        let divergence = match run.zip(probe) {
            Some((run, to)) => {
                let round = |(index, part): (usize, &Part<'_>)| {
                    rounding.rounded(part.matrix, to, weights(index)).map_err(failed(part))
                };
                let rounded = parts.iter().enumerate().map(round).collect::<Result<Vec<_>, _>>()?;
                Some((to, run(parts, rounded)?.kl.max(LEAST)))
            }
            None => None,
        };
        Ok(Some(Measured { name: name.to_owned(), layer, errors, divergence }))
    }
}

impl Measured {
    /// With a part of the divergence.
    fn scaled(self, share: f64) -> Self {
        Self { divergence: self.divergence.map(|(to, divergence)| (to, share * divergence)), ..self }
    }

    /// The divergence for an error of one.
    fn slope(&self) -> Option<f64> {
        let (to, divergence) = self.divergence?;
        let error = self.errors.iter().find(|(t, _)| *t == to)?.1;
        (error > 0.0).then_some(divergence / error)
    }

    /// What the name says behind the layer.
    fn kind(&self) -> &str {
        let rest = self.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        rest.map_or(&self.name, |(_, rest)| rest)
    }
}

/// What each type costs; `None` if nothing says so.
fn costs(tensor: &Measured, all: &[Measured], options: &MeasureOptions<'_>) -> Option<TensorSensitivity> {
    let slope = tensor.slope().or_else(|| between(tensor, all))?;
    let cost = |&(to, error): &(ElementType, f64)| (to, (options.factor)(&tensor.name, to) * slope * error);
    Some(TensorSensitivity { costs: tensor.errors.iter().map(cost).collect() })
}

/// The slope of a tensor in a layer that was not run: between those of the nearest layers that were, by ratio.
fn between(tensor: &Measured, all: &[Measured]) -> Option<f64> {
    let layer = tensor.layer?;
    let same = all.iter().filter(|other| other.layer.is_some() && other.kind() == tensor.kind());
    let known: Vec<(usize, f64)> =
        same.filter_map(|other| Some((other.layer?, other.slope()?.ln()))).collect();
    let below = known.iter().filter(|(l, _)| *l < layer).max_by_key(|(l, _)| *l);
    let above = known.iter().filter(|(l, _)| *l > layer).min_by_key(|(l, _)| *l);
    match (below, above) {
        (Some(&(low, a)), Some(&(high, b))) => {
            let share = (layer - low) as f64 / (high - low) as f64;
            Some((a + (b - a) * share).exp())
        }
        (Some(&(_, only)), None) | (None, Some(&(_, only))) => Some(only.exp()),
        (None, None) => None,
    }
}

impl Effort {
    pub(super) fn new(model: &Model, sequences: &[Vec<u32>]) -> Result<Self, Error> {
        let config = model.config();
        let long = || sequences.iter().filter(|s| s.len() >= 2);
        let available = long().count();
        if available == 0 {
            return Err(Error::NoText);
        }
        let count = Self::sequences(model).min(available);
        let cut = |s: &Vec<u32>| s[..s.len().min(CONTEXT)].to_vec();
        let all: Vec<&Vec<u32>> = long().collect();
        let sequences: Vec<_> = (0..count).map(|i| cut(all[i * available / count])).collect();
        let tokens: usize = sequences.iter().map(Vec::len).sum();
        // Every second prediction is as good as all; fewer where the logits would fill the memory.
        let stride = (4 * tokens * model.vocabulary()).div_ceil(LOGITS).max(2).min(tokens);
        // Of the 7 tensors of a layer, half of the blocks are run, on average.
        let layers = (2 * PASSES / 7 / tokens).clamp(FEWEST_LAYERS.min(config.layers), config.layers);
        Ok(Self { sequences, stride, layers: spread(config.layers, layers) })
    }

    /// Sequences to run: fewer where there are many layers.
    fn sequences(model: &Model) -> usize {
        (2 * PASSES / 7 / CONTEXT / model.config().layers.max(1)).clamp(FEWEST_SEQUENCES, SEQUENCES)
    }
}

/// `count` of the numbers below `all`, first and last among them, evenly; those at the ends differ most, so two of each.
fn spread(all: usize, count: usize) -> Vec<usize> {
    if count >= all || all < 5 || count < 5 {
        return (0..all).collect();
    }
    let mut chosen = vec![0, 1, all - 2, all - 1];
    let inner = count - 4;
    chosen.extend((1..=inner).map(|i| 1 + i * (all - 3) / (inner + 1)));
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use ElementType as E;

    #[test]
    fn layers_are_spread_from_end_to_end() {
        assert_eq!(spread(4, 8), [0, 1, 2, 3]);
        assert_eq!(spread(22, 8), [0, 1, 4, 8, 12, 16, 20, 21]);
        assert_eq!(spread(80, 8).len(), 8);
        assert_eq!(spread(9, 8), [0, 1, 2, 3, 4, 5, 7, 8]);
    }

    fn measured(layer: usize, divergence: Option<f64>) -> Measured {
        let name = format!("blk.{layer}.attn_q.weight");
        let errors = vec![(E::Q3K, 0.04), (E::Q4K, 0.01), (E::Q5K, 0.0025)];
        Measured { name, layer: Some(layer), errors, divergence: divergence.map(|kl| (E::Q4K, kl)) }
    }

    #[test]
    fn types_that_were_not_measured_follow_their_errors() {
        let all = [measured(0, Some(0.02)), measured(1, None), measured(2, Some(0.08)), measured(3, None)];
        let options = MeasureOptions {
            sequences: &[],
            imatrix: None,
            types: &|_, _| Vec::new(),
            bits: 4.0,
            factor: &|_, to| if to == E::Q5K { 0.5 } else { 1.0 },
            level: Level::Scalar,
            place: &Place::Cpu { why: None },
        };
        let of = |index: usize| costs(&all[index], &all, &options).unwrap().costs;
        let close = |found: Vec<(E, f64)>, expected: [f64; 3]| {
            for ((to, found), expected) in found.into_iter().zip(expected) {
                assert!((found / expected - 1.0).abs() < 1e-12, "{to}: {found}, {expected}");
            }
        };
        close(of(0), [0.08, 0.02, 0.5 * 2.0 * 0.0025]);
        close(of(2), [0.32, 0.08, 0.5 * 8.0 * 0.0025]);
        close(of(1), [4.0 * 0.04, 4.0 * 0.01, 0.5 * 4.0 * 0.0025]);
        close(of(3), [8.0 * 0.04, 8.0 * 0.01, 0.5 * 8.0 * 0.0025]);
    }
}
