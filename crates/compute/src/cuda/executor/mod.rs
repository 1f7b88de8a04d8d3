//! The GPU's half of the executor: operations become launches in one stream.
//!
//! Everything is queued; [`Executor::end`] waits. A pass of one token is a few hundred launches, which take longer to
//! queue than to do: the second pass with the same key is recorded as a graph, and from then on replayed with one call
//! (`replay.rs`). What changes from token to token (the input, its position, the angles of rotation) is copied from
//! page-locked memory by the graph itself.

mod attend;
mod experts;
mod few;
mod gates;
mod gradients;
mod gradients_attention;
mod latent;
mod linear;
mod many;
mod mixers;
mod mixture;
mod replay;
mod rows;
mod statistics;
mod sums;
#[cfg(test)]
mod tests;
mod workspace;

use std::collections::HashMap;
use std::ops::Range;

use super::{Card, Event, Function, Generation, Launch, Memory, Stream};
use crate::executor::{Values, ValuesMut};
use crate::{Error, Result};

use experts::Routed;
use replay::{Recording, Upload};
use workspace::Workspace;

/// Runs operations on one card.
#[derive(Debug)]
pub struct Executor {
    card: Card,
    stream: Stream,
    /// By module and name.
    functions: HashMap<String, HashMap<String, Function>>,
    workspace: Workspace,
    /// What `workspace.routed` holds.
    routed: Routed,
    /// Two i32: the position of the first token, and of the first whose results are wanted.
    position: Memory,
    /// Positions that attention's launches must serve in this pass.
    depth: usize,
    /// Copies to the card, in the order of a pass: of passes of one token, whose memory stays where it is, and of others.
    uploads: [Vec<Upload>; 2],
    /// Which of the two, and the next of them.
    upload: (usize, usize),
    /// Results of each segment, likewise.
    results: Vec<[Upload; 2]>,
    recording: Recording,
    /// The segment of this pass.
    segment: usize,
}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    grid: [u32; 3],
    block: u32,
    shared: u32,
}

impl Geometry {
    /// Blocks of 256 threads, without dynamic shared memory.
    fn rows(grid: [u32; 3]) -> Self {
        Self { grid, block: 256, shared: 0 }
    }
}

impl Executor {
    /// An executor on `card`.
    ///
    /// # Errors
    /// The card has no memory for it, or is lost.
    pub fn new(card: &Card) -> Result<Self> {
        Ok(Self {
            card: card.clone(),
            stream: Stream::new(card)?,
            functions: HashMap::new(),
            workspace: Workspace::new(card),
            routed: Routed::default(),
            position: Memory::new(card, 16)?,
            depth: 0,
            uploads: [Vec::new(), Vec::new()],
            upload: (0, 0),
            results: Vec::new(),
            recording: Recording::default(),
            segment: 0,
        })
    }

    /// An event behind all that was queued so far.
    ///
    /// # Errors
    /// The card is lost, or the driver lacks memory.
    pub fn event(&self) -> Result<Event> {
        let event = Event::new(&self.card)?;
        self.record(&event)?;
        Ok(event)
    }

    /// Puts `event` behind all that was queued so far.
    ///
    /// # Errors
    /// The card is lost.
    pub fn record(&self, event: &Event) -> Result<()> {
        Ok(self.stream.record(event)?)
    }

    /// As [`crate::Executor::bring`].
    ///
    /// # Errors
    /// Lengths that do not fit, or a lost card.
    pub fn bring(&mut self, from: &super::Waiting, range: Range<usize>, to: ValuesMut<'_>) -> Result<()> {
        from.upload(&self.stream, range, to.cuda()?)
    }

    /// As [`crate::Executor::take_back`].
    ///
    /// # Errors
    /// As [`Executor::bring`].
    pub fn take_back(
        &mut self,
        from: Values<'_>,
        to: &mut super::Waiting,
        range: Range<usize>,
    ) -> Result<()> {
        to.download(&self.stream, from.cuda()?, range)
    }

    /// Lets what is queued from now on wait for an event.
    ///
    /// # Errors
    /// The card is lost.
    pub fn wait(&self, event: &Event) -> Result<()> {
        Ok(self.stream.wait(event)?)
    }

    fn generation(&self) -> Result<Generation> {
        Generation::of(self.card.info().capability).ok_or(Error::Device)
    }

    /// Queues a kernel, which takes `arguments` by value.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and their pointers are to memory of the size it expects, which lives until
    /// the work is done and, if the pass is recorded, until `Card::frees` changes.
    unsafe fn launch<A: Copy>(
        &mut self,
        module: &str,
        kernel: &str,
        geometry: Geometry,
        arguments: &A,
    ) -> Result<()> {
        let Geometry { grid: [x, y, z], block, shared } = geometry;
        let known = self.functions.get(module).and_then(|kernels| kernels.get(kernel));
        let function = match known {
            Some(function) => function,
            None => {
                let function = self.card.function(module, kernel)?;
                let kernels = self.functions.entry(module.to_owned()).or_default();
                kernels.entry(kernel.to_owned()).or_insert(function)
            }
        };
        // Beyond 48 KiB together with what a kernel declares itself, which is never more than 24 KiB.
        if shared > 24 << 10 {
            function.allow_shared(shared as usize)?;
        }
        // May start before the kernel ahead of it has ended, and waits for it by itself.
        let launch = Launch::new(function).grid(x, y, z).block(block).shared(shared).overlapping(true);
        // SAFETY: as the caller promises.
        unsafe { launch.run(&self.stream, arguments)? };
        Ok(())
    }
}
