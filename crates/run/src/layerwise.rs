//! A model run block by block over many sequences, so that its weights can be replaced in between: how calibrated
//! quantization (GPTQ) runs a model.
//!
//! In each block, for each group of linear layers that share an input, in the order of the computation:
//!
//! ```text
//! every sequence's inputs    ->  Observer::observe      collects what it needs (Hessians)
//! all sequences were seen    ->  Calibrator::replace    gives the weights to continue with
//! the layers run, once, with the new weights; what follows sees their outputs
//! ```
//!
//! so each linear layer runs once in all. Memory: the residual stream of all tokens, and the inputs of the
//! next group of layers (`[tokens][heads * head_dim]` or `[tokens][ffn]`) and of the network, in f32.

mod head;

use std::ops::Range;

use ndarray::Array2;
use quern_compute::{Executor, Input, KvCache, KvType, Values, ValuesMut};
use quern_tensor_io::ElementType;

use crate::forward::{
    AttentionBuffers, BeforeGroup, KvTarget, Phases, cache_shape, embed, run_experts, wide,
};
use crate::matrix::{rows_of_mut, values_of, values_of_mut};
use crate::observer::{describe, observe};
use crate::rope::RotaryAngles;
use crate::weights::{Block, Experts, Ffn, Linear, Weight};
use crate::{Error, LinearInfo, Model, Observer, ObserverError, Result};

/// A weight to continue with.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// How its numbers are stored.
    pub element_type: ElementType,
    /// Rows of that type, as many and as long as those of the layer.
    pub data: Vec<u8>,
    /// Column `j` of the data is column `permutation[j]` of the layer; `None` for the layer's own order.
    pub permutation: Option<Vec<u32>>,
}

/// Observes the inputs of each group of a block's linear layers, then replaces the weights of the group.
///
/// A group is observed once for each sequence, in order; a mixture's experts once, with the tokens of all sequences,
/// or never if no token chose the expert.
pub trait Calibrator: Observer {
    /// All inputs of the group were observed. Returns one replacement for each layer, or `None` to keep it.
    ///
    /// # Errors
    /// Any: the run stops, and its error is [`Error::Observer`] with this one.
    fn replace(&mut self, linears: &[LinearInfo<'_>]) -> Result<Vec<Option<Replacement>>, ObserverError>;
}

/// Many sequences that are run through a model block by block.
#[derive(Debug)]
pub struct Layerwise<'m> {
    model: &'m Model,
    /// The tokens of each sequence among all tokens.
    sequences: Vec<Range<usize>>,
    /// The residual stream, `[all tokens][hidden]`.
    hidden: Array2<f32>,
    /// Inputs of the feed-forward network, `[all tokens][hidden]`.
    network: Array2<f32>,
    /// Room for the inputs of the output or the down projection, `[all tokens][width]`.
    inputs: Vec<f32>,
    cache: KvCache,
    angles: RotaryAngles,
    executor: Executor,
    batch: Buffers,
}

/// Memory for one sequence.
#[derive(Debug, Default)]
struct Buffers {
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    qkv: Vec<f32>,
    projected: Vec<f32>,
}

impl<'m> Layerwise<'m> {
    /// Looks up the embeddings of `texts`, each a sequence of its own that begins at position 0.
    ///
    /// # Errors
    /// No sequence, an empty one or one beyond what the model was trained for, a token outside the vocabulary.
    pub fn new(model: &'m Model, texts: &[Vec<u32>]) -> Result<Self> {
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        model.check_context(longest)?;
        if texts.iter().any(Vec::is_empty) {
            return Err(Error::Option("an empty sequence cannot be run".into()));
        }
        let vocabulary = model.vocabulary();
        if let Some(&token) = texts.iter().flatten().find(|&&t| t as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        let config = &model.config;
        let mut total = 0;
        let mut next = |text: &Vec<u32>| {
            let start = total;
            total += text.len();
            start..total
        };
        let sequences: Vec<Range<usize>> = texts.iter().map(&mut next).collect();
        let mut hidden = Array2::zeros((total, config.hidden_size));
        for (text, tokens) in texts.iter().zip(&sequences) {
            embed(model, text, 0, values_of_mut(hidden.view_mut(), tokens))?;
        }
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let buffer = |width: usize| vec![0f32; longest * width];
        let batch = Buffers {
            normed: buffer(config.hidden_size),
            q: buffer(query),
            k: buffer(key),
            v: buffer(key),
            qkv: buffer(if model.fused_qkv() { query + 2 * key } else { 0 }),
            projected: buffer(config.hidden_size),
        };
        let mut angles = RotaryAngles::default();
        model.rotation.fill(&model.pool, 0, longest, &mut angles);
        let cpu = model.cpu();
        Ok(Self {
            model,
            sequences,
            network: Array2::zeros(hidden.dim()),
            hidden,
            inputs: vec![0f32; total * query.max(wide(config)).max(config.hidden_size)],
            cache: KvCache::new(&cpu, cache_shape(config, 1, longest, KvType::F32))?,
            angles,
            executor: Executor::new(&cpu)?,
            batch,
        })
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        self.model.config.layers
    }

    /// All tokens.
    pub fn tokens(&self) -> usize {
        self.hidden.nrows()
    }

    /// The residual stream, `[tokens][hidden]`: what the next block receives.
    pub fn hidden(&self) -> &[f32] {
        values_of(self.hidden.view(), &(0..self.tokens()))
    }

    /// Sets the residual stream to what [`Layerwise::hidden`] once returned: continues another run.
    ///
    /// # Panics
    /// If it has another length.
    pub fn set_hidden(&mut self, hidden: &[f32]) {
        let all = 0..self.tokens();
        values_of_mut(self.hidden.view_mut(), &all).copy_from_slice(hidden);
    }

    /// Runs block `layer` over all sequences.
    ///
    /// # Errors
    /// Those of the forward pass and of `calibrator`. The residual stream is then of no use any more.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn block(&mut self, layer: usize, calibrator: &mut dyn Calibrator) -> Result<()> {
        let model = self.model;
        let original = &model.weights.blocks[layer];
        model.placement.enter(layer, self.tokens());
        let mut block = original.clone();
        let attended = self.attention(layer, &mut block, calibrator);
        let done = attended.and_then(|()| match &original.ffn {
            Ffn::Dense { .. } => self.dense(layer, &mut block, calibrator),
            Ffn::Experts(experts) => self.experts(&block, experts, calibrator),
        });
        model.placement.leave(layer);
        model.checkpoint().check_read()?;
        done
    }

    /// From the residual stream to the inputs of the network.
    fn attention(&mut self, layer: usize, block: &mut Block, calibrator: &mut dyn Calibrator) -> Result<()> {
        let model = self.model;
        let config = &model.config;
        let (width, query) = (config.hidden_size, config.heads * config.head_dim);
        let original = &model.weights.blocks[layer];
        let Self { sequences, hidden, network, inputs, cache, angles, executor, batch, .. } = self;
        let [cos, sin, local_cos, local_sin] = angles.tables();
        let windowed = config.window(layer).is_some() && angles.has_local();
        let (cos, sin) = if windowed { (local_cos, local_sin) } else { (cos, sin) };
        let pairs = model.rotation.pairs();

        // Inputs of Q, K and V.
        for tokens in &*sequences {
            let mut phases = Phases { model, block: original, executor, observer: None };
            let normed = &mut batch.normed[..tokens.len() * width];
            phases.attention_input(values_of(hidden.view(), tokens).into(), ValuesMut::Host(normed))?;
            observe(calibrator, &original.qkv.linears(), normed)?;
        }
        replace(calibrator, &mut block.qkv.linears_mut())?;

        // Attention, and the inputs of the output projection.
        let mut attended = rows_of_mut(inputs, query);
        for tokens in &*sequences {
            let n = tokens.len();
            let mut phases = Phases { model, block, executor, observer: None };
            let angles = (Values::Host(&cos[..n * pairs]), Values::Host(&sin[..n * pairs]));
            let target = KvTarget { cache, slot: 0, layer, first: 0, angles, remote: None };
            let buffers = AttentionBuffers {
                q: ValuesMut::Host(&mut batch.q),
                k: ValuesMut::Host(&mut batch.k),
                v: ValuesMut::Host(&mut batch.v),
                qkv: ValuesMut::Host(&mut batch.qkv),
            };
            let attended = values_of_mut(attended.view_mut(), tokens);
            let x = values_of(hidden.view(), tokens).into();
            phases.attend(x, 0, target, buffers, ValuesMut::Host(attended))?;
            observe(calibrator, &[&original.attention_output], attended)?;
        }
        replace(calibrator, &mut [&mut block.attention_output])?;

        // The output projection, and the inputs of the network.
        for tokens in &*sequences {
            let mut phases = Phases { model, block, executor, observer: None };
            let x = values_of_mut(hidden.view_mut(), tokens);
            let normed = values_of_mut(network.view_mut(), tokens);
            let projected = &mut batch.projected[..tokens.len() * width];
            phases.before_project(Values::Host(x), ValuesMut::Host(normed))?;
            let attended = values_of(attended.view(), tokens).into();
            phases.project(attended, ValuesMut::Host(projected), ValuesMut::Host(x))?;
            phases.normed_input(Values::Host(x), ValuesMut::Host(normed))?;
        }
        Ok(())
    }

    /// The network of a block, from its inputs to the residual stream.
    fn dense(&mut self, layer: usize, block: &mut Block, calibrator: &mut dyn Calibrator) -> Result<()> {
        let model = self.model;
        let (width, ffn) = (model.config.hidden_size, model.config.ffn_size);
        let Self { sequences, hidden, network, inputs, executor, batch, .. } = self;
        let Ffn::Dense { widen: original, down: original_down } = &model.weights.blocks[layer].ffn else {
            return Ok(());
        };
        for tokens in &*sequences {
            observe(calibrator, &original.linears(), values_of(network.view(), tokens))?;
        }
        if let Ffn::Dense { widen, .. } = &mut block.ffn {
            replace(calibrator, &mut widen.linears_mut())?;
        }
        let mut wide = rows_of_mut(inputs, ffn);
        for tokens in &*sequences {
            let mut phases = Phases { model, block, executor, observer: None };
            let wide = values_of_mut(wide.view_mut(), tokens);
            let input = Input::Values(values_of(network.view(), tokens).into());
            phases.widen(input, ValuesMut::Host(wide))?;
            observe(calibrator, &[original_down], wide)?;
        }
        if let Ffn::Dense { down, .. } = &mut block.ffn {
            replace(calibrator, &mut [down])?;
        }
        for tokens in &*sequences {
            let mut phases = Phases { model, block, executor, observer: None };
            let x = values_of_mut(hidden.view_mut(), tokens);
            let projected = &mut batch.projected[..tokens.len() * width];
            let wide = values_of(wide.view(), tokens).into();
            phases.narrow(wide, ValuesMut::Host(projected), ValuesMut::Host(x))?;
        }
        Ok(())
    }

    /// The experts of a block, one after the other, each over the tokens that chose it.
    fn experts(&mut self, block: &Block, experts: &Experts, calibrator: &mut dyn Calibrator) -> Result<()> {
        let model = self.model;
        let all = 0..self.tokens();
        let Self { hidden, network, inputs, executor, .. } = self;
        let made = &mut inputs[..hidden.len()];
        let normed = values_of(network.view(), &all).into();
        let out = ValuesMut::Host(&mut *made);
        run_experts(model, executor, &mut Calibrated(calibrator), experts, normed, out)?;
        let mut phases = Phases { model, block, executor, observer: None };
        let x = values_of_mut(hidden.view_mut(), &all);
        phases.finish(ValuesMut::Host(made), ValuesMut::Host(x))
    }
}

impl Model {
    /// Names, roles and weights of a block's linear layers, in the order of the computation.
    ///
    /// # Errors
    /// As the forward pass.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn linears(&self, layer: usize) -> Result<Vec<LinearInfo<'_>>> {
        describe(&self.weights.blocks[layer].linears())
    }
}

/// What happens before an expert's layers run under calibration.
struct Calibrated<'c>(&'c mut dyn Calibrator);

impl BeforeGroup for Calibrated<'_> {
    /// Their weights are replaced all the same.
    const UNCHOSEN: bool = true;

    fn before<const N: usize>(
        &mut self,
        linears: [&Linear; N],
        input: Values<'_>,
    ) -> Result<Option<[Linear; N]>> {
        if !input.is_empty() {
            observe(self.0, &linears, input.host()?)?;
        }
        let mut own = linears.map(Linear::clone);
        replace(self.0, &mut own.each_mut())?;
        Ok(Some(own))
    }
}

/// Replaces the weights of a group by those that `calibrator` gives.
fn replace(calibrator: &mut dyn Calibrator, linears: &mut [&mut Linear]) -> Result<()> {
    let current: Vec<&Linear> = linears.iter().map(|linear| &**linear).collect();
    let replacements = calibrator.replace(&describe(&current)?).map_err(Error::Observer)?;
    for (linear, replacement) in linears.iter_mut().zip(replacements) {
        if let Some(Replacement { element_type, data, permutation }) = replacement {
            let (rows, columns) = (linear.op.weight.rows(), linear.op.weight.columns());
            // Refuses data of another shape here, and not in the middle of the pass.
            let weight = Weight::owned(element_type, rows, columns, data)?;
            linear.replace(weight, permutation.map(Into::into));
        }
    }
    Ok(())
}
