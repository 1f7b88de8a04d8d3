//! A residual stream of all tokens with what is kept between the groups of a block; and what observers see of one
//! sequence beside that.

use std::ops::Range;

use quern_compute::{Buffer, Device, Executor, Values, ValuesMut};
use quern_model::Config;

use crate::forward::wide;
use crate::{Model, Result};

use super::rows::{Keep, Rows};

/// Which of a stream's vectors are kept for all tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keeps {
    /// The residual stream.
    pub(super) hidden: Keep,
    /// The inputs of the network.
    pub(super) network: Keep,
    /// The inputs of the output and the down projection.
    pub(super) inputs: Keep,
}

/// What is kept of all tokens.
#[derive(Debug)]
pub(super) struct Stream {
    width: usize,
    /// Values of all residual streams of a token.
    all: usize,
    /// The residual stream, `[tokens][hidden]`; of several those of a sequence one after the other.
    pub(super) hidden: Rows,
    /// A block's input, where there are several.
    pub(super) before: Rows,
    /// Inputs of the feed-forward network, `[tokens][hidden]`.
    pub(super) network: Rows,
    /// Inputs of the output or the down projection, `[tokens][width]`.
    pub(super) inputs: Rows,
    /// Which of the lane's streams it is: keys and values that later layers share are kept for each.
    pub(super) number: usize,
}

impl Stream {
    /// Room for a stream of so many tokens in all, and in the longest sequence.
    pub(super) fn new(device: &Device, model: &Model, keeps: Keeps, tokens: (usize, usize)) -> Result<Self> {
        let config = &model.config;
        let hidden = config.hidden_size;
        Ok(Self {
            width: hidden,
            all: config.stream_width(),
            hidden: Rows::new(device, keeps.hidden, config.stream_width(), tokens)?,
            before: Rows::new(device, keeps.hidden, if config.streams > 1 { hidden } else { 0 }, tokens)?,
            network: Rows::new(device, keeps.network, hidden, tokens)?,
            inputs: Rows::new(device, keeps.inputs, inputs_width(model), tokens)?,
            number: 0,
        })
    }

    /// The residual stream of some tokens.
    pub(super) fn hidden_of(&self, tokens: &Range<usize>) -> Values<'_> {
        self.hidden.of(self.all, tokens).slice(0..tokens.len() * self.width)
    }

    /// All residual streams of some tokens with their block's input and the network's.
    pub(super) fn all_of(&mut self, tokens: &Range<usize>) -> [ValuesMut<'_>; 3] {
        [
            self.hidden.of_mut(self.all, tokens),
            self.before.of_mut(self.width, tokens),
            self.network.of_mut(self.width, tokens),
        ]
    }

    /// The network's inputs of some tokens.
    pub(super) fn network_of(&self, tokens: &Range<usize>) -> Values<'_> {
        self.network.of(self.width, tokens)
    }

    /// The inputs of the next group, of this width, of some tokens.
    pub(super) fn inputs_of(&self, width: usize, tokens: &Range<usize>) -> Values<'_> {
        self.inputs.of(width, tokens)
    }

    /// The same, to be written, with the residual stream and the network's inputs beside them.
    pub(super) fn parts(&mut self, width: usize, tokens: &Range<usize>) -> Parts<'_> {
        Parts {
            hidden: self.hidden.of_mut(self.all, tokens).slice(0..tokens.len() * self.width),
            network: self.network.of_mut(self.width, tokens),
            inputs: self.inputs.of_mut(width, tokens),
        }
    }

    /// Brings a sequence's residual stream, and what is kept of its network's inputs, to the device.
    pub(super) fn load(&mut self, executor: &mut Executor, tokens: &Range<usize>) -> Result<()> {
        self.hidden.load(executor, self.all, tokens)?;
        self.network.load(executor, self.width, tokens)
    }

    /// Takes both back to where they are kept.
    pub(super) fn store(&mut self, executor: &mut Executor, tokens: &Range<usize>) -> Result<()> {
        self.hidden.store(executor, self.all, tokens)?;
        self.network.store(executor, self.width, tokens)
    }
}

/// Width of the widest of what is kept as inputs.
pub(super) fn inputs_width(model: &Model) -> usize {
    model.weights.mixed_width().max(wide(&model.config)).max(model.config.hidden_size)
}

/// A stream's numbers of one sequence.
pub(super) struct Parts<'a> {
    pub(super) hidden: ValuesMut<'a>,
    pub(super) network: ValuesMut<'a>,
    pub(super) inputs: ValuesMut<'a>,
}

/// Memory for one sequence: what is given to observers and belongs to no stream. All `[tokens][hidden]`.
#[derive(Debug)]
pub(super) struct Views {
    /// Outputs of a norm.
    pub(super) normed: Buffer,
    /// The same in the reference; empty without one, as is the next.
    pub(super) reference: Buffer,
    /// The reference's residual stream less the current one.
    drift: Buffer,
}

impl Views {
    pub(super) fn new(
        device: &Device,
        config: &Config,
        longest: usize,
        with_reference: bool,
    ) -> Result<Self> {
        let values = longest * config.hidden_size.max(config.embedding_size);
        let mut buffers = [0; 3].map(|_| Buffer::new(device));
        for (buffer, used) in buffers.iter_mut().zip([true, with_reference, with_reference]) {
            buffer.reserve(if used { values } else { 0 })?;
        }
        let [normed, reference, drift] = buffers;
        Ok(Self { normed, reference, drift })
    }

    /// How far the current stream is from the reference in these tokens.
    pub(super) fn drift(
        &mut self,
        executor: &mut Executor,
        current: &Stream,
        reference: &Stream,
        tokens: &Range<usize>,
    ) -> Result<Values<'_>> {
        let (current, reference) = (current.hidden_of(tokens), reference.hidden_of(tokens));
        let values = current.len();
        executor.subtract(reference, current, self.drift.front_mut(values))?;
        Ok(self.drift.front(values))
    }
}
