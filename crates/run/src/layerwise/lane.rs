//! One device with the sequences that it computes, and the block that it computes with.

use std::iter;
use std::ops::Range;

use quern_compute::{Buffer, Device, Executor, Norm, Room, Uploader, Values, bytes_of_linear, bytes_of_norm};

use crate::observer::{Inputs, observe};
use crate::weights::Mixer;
use crate::weights::{Block, Linear, Shown};
use crate::{Calibrator, Model, Result};

use super::steps::Steps;
use super::stream::{Keeps, Stream, Views};

/// Sequences that one device computes.
#[derive(Debug)]
pub(super) struct Lane<'m> {
    model: &'m Model,
    /// The tokens of each sequence among those of this lane.
    pub(super) sequences: Vec<Range<usize>>,
    /// Goes through replaced weights.
    pub(super) current: Stream,
    /// Goes through the model's own.
    pub(super) reference: Option<Stream>,
    pub(super) steps: Steps<'m>,
    /// What observers see of one sequence and no stream keeps.
    pub(super) views: Views,
    /// What the experts of a block make of all tokens, where the streams have no room for it.
    pub(super) made: Buffer,
    /// The tokens of all sequences, where layers need them.
    pub(super) texts: Vec<u32>,
    uploader: Uploader,
    /// The memory of a block's weights on a GPU.
    room: Room,
    held: Option<Held>,
}

/// A block on a lane's device.
#[derive(Debug)]
struct Held {
    /// With the model's weights.
    own: Block,
    /// With those that replaced them.
    block: Block,
}

impl Held {
    /// Each stream with the block that it goes through.
    fn with<'s>(
        &'s self,
        current: &'s mut Stream,
        reference: &'s mut Option<Stream>,
    ) -> impl Iterator<Item = (&'s Block, &'s mut Stream)> {
        iter::once((&self.block, current)).chain(reference.as_mut().map(|stream| (&self.own, stream)))
    }
}

impl<'m> Lane<'m> {
    pub(super) fn new(
        model: &'m Model,
        device: &Device,
        sequences: Vec<Range<usize>>,
        keeps: Keeps,
        with_reference: bool,
    ) -> Result<Self> {
        let config = &model.config;
        let longest = sequences.iter().map(Range::len).max().unwrap_or(0);
        let tokens = (sequences.last().map_or(0, |last| last.end), longest);
        let stream = || Stream::new(device, model, keeps, tokens);
        let uploader = Uploader::new(device, &model.pool)?;
        let largest = model.weights.blocks.iter().map(Block::gpu_bytes).max().unwrap_or(0);
        Ok(Self {
            model,
            current: stream()?,
            reference: match with_reference {
                true => {
                    let mut reference = stream()?;
                    reference.number = 1;
                    Some(reference)
                }
                false => None,
            },
            steps: Steps::new(model, device, longest)?,
            views: Views::new(device, config, longest, with_reference)?,
            made: Buffer::new(device),
            texts: Vec::new(),
            room: uploader.room(largest)?,
            uploader,
            held: None,
            sequences,
        })
    }

    /// Whether it computes on the CPU.
    pub(super) fn on_cpu(&self) -> bool {
        self.steps.executor.pool().is_some()
    }

    /// Brings a block to the device, and begins work on it.
    pub(super) fn enter(&mut self, original: &Block) -> Result<()> {
        self.held = None;
        let own = match self.on_cpu() {
            true => original.clone(),
            false => {
                self.uploader.begin_in(&self.room)?;
                let own = original.upload(&mut self.uploader)?;
                self.uploader.before(&self.steps.executor)?;
                own
            }
        };
        self.held = Some(Held { block: own.clone(), own });
        self.steps.begin()
    }

    /// The block is done with.
    pub(super) fn leave(&mut self) -> Result<()> {
        self.steps.end()?;
        self.held = None;
        Ok(())
    }

    /// Continues with another weight, which is in RAM, in the place that `of` gives.
    pub(super) fn put(
        &mut self,
        linear: &Linear,
        of: impl FnOnce(&mut Block) -> Option<&mut Linear>,
    ) -> Result<()> {
        let moved = match Mixer::reshapes(linear) {
            true => linear.clone(),
            false => self.moved(linear)?,
        };
        let on_cpu = self.on_cpu();
        if let Some(held) = &mut self.held {
            if let Some(place) = of(&mut held.block) {
                *place = moved;
            }
            if let (Mixer::Latent(latent), true) = (&mut held.block.mixer, Mixer::reshapes(linear) && !on_cpu)
            {
                latent.renew(&mut self.uploader)?;
                self.uploader.before(&self.steps.executor)?;
            }
        }
        Ok(())
    }

    /// A layer on the device.
    pub(super) fn moved(&mut self, linear: &Linear) -> Result<Linear> {
        moved(&mut self.uploader, &self.steps.executor, linear)
    }

    /// A norm on the device.
    pub(super) fn norm(&mut self, norm: &Norm) -> Result<Norm> {
        self.uploader.begin(bytes_of_norm(norm))?;
        let norm = self.uploader.norm(norm)?;
        self.uploader.before(&self.steps.executor)?;
        Ok(norm)
    }

    /// Brings a sequence to the device, where it waits in RAM.
    pub(super) fn load(&mut self, tokens: &Range<usize>) -> Result<()> {
        let executor = &mut self.steps.executor;
        self.current.load(executor, tokens)?;
        self.reference.as_mut().map_or(Ok(()), |reference| reference.load(executor, tokens))
    }

    /// Takes it back.
    pub(super) fn store(&mut self, tokens: &Range<usize>) -> Result<()> {
        let executor = &mut self.steps.executor;
        self.current.store(executor, tokens)?;
        self.reference.as_mut().map_or(Ok(()), |reference| reference.store(executor, tokens))
    }

    /// Shows the inputs of the mixer (`linears`).
    pub(super) fn show_mixer_inputs(
        &mut self,
        linears: &[&Linear],
        tokens: &Range<usize>,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        let Self { current, reference, steps, views, held, model, .. } = self;
        let Some(Held { own, block }) = held else { return Ok(()) };
        let values = tokens.len() * model.config.hidden_size;
        steps.mixer_input(block, current.hidden_of(tokens), views.normed.front_mut(values))?;
        let mut inputs = Inputs::from(views.normed.front(values));
        if let Some(reference) = reference {
            let normed = views.reference.front_mut(values);
            steps.mixer_input(own, reference.hidden_of(tokens), normed)?;
            inputs.reference = Some(views.reference.front(values));
        }
        observe(calibrator, &mut steps.executor, linears, inputs)
    }

    /// Shows the inputs of a layer within the mixer.
    pub(super) fn show_within(
        &mut self,
        (which, linear): (Shown, &Linear),
        tokens: &Range<usize>,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        let Self { current, reference, steps, views, held, .. } = self;
        let Some(Held { own, block }) = held else { return Ok(()) };
        let values = tokens.len() * linear.op.weight.columns();
        views.normed.reserve(values)?;
        let layer = linear.layer.unwrap_or(0);
        steps.inputs_within(
            (which, layer, block),
            current.hidden_of(tokens),
            views.normed.front_mut(values),
        )?;
        if let Some(reference) = reference {
            views.reference.reserve(values)?;
            steps.inputs_within(
                (which, layer, own),
                reference.hidden_of(tokens),
                views.reference.front_mut(values),
            )?;
        }
        let mut inputs = Inputs::from(views.normed.front(values));
        inputs.reference = reference.is_some().then(|| views.reference.front(values));
        observe(calibrator, &mut steps.executor, &[linear], inputs)
    }

    /// The mixer; shows the inputs of its output layer (`linear`). `directly`: its outputs are added to the residual
    /// stream with nothing in between.
    pub(super) fn show_mixed(
        &mut self,
        (layer, linear): (usize, &Linear),
        tokens: &Range<usize>,
        directly: bool,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        let Self { current, reference, steps, views, held, .. } = self;
        let Some(Held { own, block }) = held else { return Ok(()) };
        let width = block.mixer.width();
        steps.mix((layer, block), current, tokens)?;
        // Of a mixer with two output layers more than this one's inputs are kept.
        let own_inputs = 0..tokens.len() * linear.op.weight.columns();
        let mut inputs = Inputs::from(current.inputs_of(width, tokens).slice(own_inputs.clone()));
        if let Some(reference) = reference {
            steps.mix((layer, own), reference, tokens)?;
            inputs.reference = Some(reference.inputs_of(width, tokens).slice(own_inputs.clone()));
            if directly {
                inputs.drift = Some(views.drift(&mut steps.executor, current, reference, tokens)?);
            }
        }
        observe(calibrator, &mut steps.executor, &[linear], inputs)
    }

    /// The output layer, and the inputs of the network: in a parallel block of the same residual stream.
    pub(super) fn project(&mut self, layer: usize, tokens: &Range<usize>) -> Result<()> {
        let Self { current, reference, steps, held, .. } = self;
        let Some(held) = held else { return Ok(()) };
        for (block, stream) in held.with(current, reference) {
            if !stream.inputs.stay() {
                steps.mix((layer, block), stream, tokens)?;
            }
            steps.before_project(block, stream, tokens)?;
            steps.project(block, stream, tokens)?;
            steps.laurel(block, stream, tokens)?;
            steps.network_input(block, stream, tokens)?;
        }
        self.store(tokens)
    }

    /// Shows the inputs of the network's first layers (`linears`).
    pub(super) fn show_network_inputs(
        &mut self,
        linears: &[&Linear],
        tokens: &Range<usize>,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        let mut inputs = Inputs::from(self.current.network_of(tokens));
        inputs.reference = self.reference.as_ref().map(|stream| stream.network_of(tokens));
        observe(calibrator, &mut self.steps.executor, linears, inputs)
    }

    /// The network's first layers; shows the inputs of the down projection (`linear`). `directly` as above.
    pub(super) fn show_widened(
        &mut self,
        linear: &Linear,
        tokens: &Range<usize>,
        directly: bool,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        self.widen(tokens)?;
        let Self { current, reference, steps, views, .. } = self;
        let ffn = linear.op.weight.columns();
        let mut inputs = Inputs::from(current.inputs_of(ffn, tokens));
        if let Some(reference) = reference {
            inputs.reference = Some(reference.inputs_of(ffn, tokens));
            if directly {
                inputs.drift = Some(views.drift(&mut steps.executor, current, reference, tokens)?);
            }
        }
        observe(calibrator, &mut steps.executor, &[linear], inputs)
    }

    fn widen(&mut self, tokens: &Range<usize>) -> Result<()> {
        let Self { current, reference, steps, held, .. } = self;
        let Some(held) = held else { return Ok(()) };
        for (block, stream) in held.with(current, reference) {
            if !stream.network.stay() {
                steps.network_input(block, stream, tokens)?;
            }
            steps.widen(block, stream, tokens)?;
        }
        Ok(())
    }

    /// The down projection: the block's end.
    pub(super) fn narrow(&mut self, tokens: &Range<usize>) -> Result<()> {
        if !self.current.inputs.stay() {
            self.widen(tokens)?;
        }
        let Self { current, reference, steps, held, .. } = self;
        let Some(held) = held else { return Ok(()) };
        for (block, stream) in held.with(current, reference) {
            steps.narrow(block, stream, tokens)?;
        }
        self.store(tokens)
    }

    /// What the dense network makes beside experts, where its inputs were.
    pub(super) fn dense_beside(&mut self, tokens: &Range<usize>) -> Result<()> {
        let Self { current, reference, steps, held, .. } = self;
        let Some(held) = held else { return Ok(()) };
        for (block, stream) in held.with(current, reference) {
            steps.dense_beside(block, stream, tokens)?;
        }
        self.store(tokens)
    }

    /// Mixes the streams in front of a block.
    pub(super) fn predict(&mut self, tokens: &Range<usize>) -> Result<()> {
        let Self { current, reference, steps, held, .. } = self;
        let Some(held) = held else { return Ok(()) };
        for (block, stream) in held.with(current, reference) {
            steps.predict(block, stream, tokens)?;
        }
        self.store(tokens)
    }

    /// Brings what a block changed to all streams.
    pub(super) fn correct(&mut self, tokens: &Range<usize>) -> Result<()> {
        let Self { current, reference, steps, held, .. } = self;
        let Some(held) = held else { return Ok(()) };
        for (block, stream) in held.with(current, reference) {
            steps.correct(block, stream, tokens)?;
        }
        self.store(tokens)
    }

    /// Shows the input of the gate of what tokens add (`linear`): the residual stream, or what several leave where the
    /// network's inputs were.
    pub(super) fn show_hidden(
        &mut self,
        linear: &Linear,
        tokens: &Range<usize>,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        fn of<'s>(stream: &'s Stream, several: bool, tokens: &Range<usize>) -> Values<'s> {
            if several { stream.network_of(tokens) } else { stream.hidden_of(tokens) }
        }
        let several = self.model.config.streams > 1;
        let mut inputs = Inputs::from(of(&self.current, several, tokens));
        inputs.reference = self.reference.as_ref().map(|stream| of(stream, several, tokens));
        observe(calibrator, &mut self.steps.executor, &[linear], inputs)
    }

    /// Computes what tokens add in a layer up to its last projection (`linear`), and shows that one's inputs.
    pub(super) fn show_own(
        &mut self,
        (layer, linear): (usize, &Linear),
        tokens: &Range<usize>,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        let Self { current, reference, steps, held, texts, .. } = self;
        let Some(held) = held else { return Ok(()) };
        let text = &texts[tokens.clone()];
        for (block, stream) in held.with(current, reference) {
            steps.gate_own((layer, block), stream, (tokens, text))?;
        }
        let width = linear.op.weight.columns();
        let mut inputs = Inputs::from(current.inputs_of(width, tokens));
        inputs.reference = reference.as_ref().map(|stream| stream.inputs_of(width, tokens));
        observe(calibrator, &mut steps.executor, &[linear], inputs)
    }

    /// Adds it to the residual stream.
    pub(super) fn add_own(&mut self, tokens: &Range<usize>) -> Result<()> {
        let Self { current, reference, steps, held, .. } = self;
        let Some(held) = held else { return Ok(()) };
        for (block, stream) in held.with(current, reference) {
            steps.add_own(block, stream, tokens)?;
        }
        self.store(tokens)
    }

    /// Multiplies the residual stream with the factor behind the block.
    pub(super) fn scale(&mut self, tokens: &Range<usize>) -> Result<()> {
        let Self { current, reference, steps, held, .. } = self;
        let Some(held) = held else { return Ok(()) };
        for (block, stream) in held.with(current, reference) {
            steps.scale(block, stream, tokens)?;
        }
        self.store(tokens)
    }

    /// What runs a mixture of experts over all tokens at once: [`super::experts`].
    pub(super) fn mixture(&mut self) -> Option<Mixed<'_, 'm>> {
        let Self { current, reference, steps, uploader, made, held, .. } = self;
        let Held { own, block } = held.as_ref()?;
        Some(Mixed { own, block, current, reference: reference.as_mut(), steps, uploader, made })
    }

    /// The residual stream of some tokens, of the reference or of the current stream, copied to RAM.
    pub(super) fn read(&mut self, of_reference: bool, tokens: &Range<usize>, to: &mut [f32]) -> Result<()> {
        let width = self.model.config.stream_width();
        let stream = if of_reference { self.reference.as_ref() } else { Some(&self.current) };
        stream.map_or(Ok(()), |stream| stream.hidden.read(&mut self.steps.executor, width, tokens, to))
    }

    /// Replaces a sequence's residual stream.
    pub(super) fn write(&mut self, of_reference: bool, tokens: &Range<usize>, from: &[f32]) -> Result<()> {
        let width = self.model.config.stream_width();
        self.steps.begin()?;
        let stream = if of_reference { self.reference.as_mut() } else { Some(&mut self.current) };
        if let Some(stream) = stream {
            stream.hidden.write(&mut self.steps.executor, width, tokens, from)?;
        }
        self.steps.end()
    }
}

/// The parts of a lane that a mixture of experts needs.
pub(super) struct Mixed<'l, 'm> {
    pub(super) own: &'l Block,
    pub(super) block: &'l Block,
    pub(super) current: &'l mut Stream,
    pub(super) reference: Option<&'l mut Stream>,
    pub(super) steps: &'l mut Steps<'m>,
    pub(super) uploader: &'l mut Uploader,
    pub(super) made: &'l mut Buffer,
}

/// A layer in RAM on the device of `executor`.
pub(super) fn moved(uploader: &mut Uploader, executor: &Executor, linear: &Linear) -> Result<Linear> {
    if executor.pool().is_some() {
        return Ok(linear.clone());
    }
    uploader.begin(bytes_of_linear(&linear.op))?;
    let moved = linear.upload(uploader)?;
    uploader.before(executor)?;
    Ok(moved)
}
