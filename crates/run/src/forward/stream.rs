//! Layers in RAM that are computed on a GPU: their weights are moved there one layer after the other, each while the one
//! before is computed.
//!
//! ```text
//! bus      layer 3 -> room 1 | layer 4 -> room 0 | layer 5 -> room 1 | …
//! GPU      layer 2 in room 0 | layer 3 in room 1 | layer 4 in room 0 | …
//! ```
//!
//! That pays for batches of many tokens, which the CPU computes slowly; for few it is faster to compute where the weights
//! are.

use quern_compute::{Executor, Room, Uploader};

use crate::weights::Block;
use crate::{Model, Result};

/// Tokens of a batch from which on layers in RAM are computed on the GPU.
pub(crate) const STREAMED_FROM: usize = 32;

/// Moves layers to one GPU.
#[derive(Debug)]
pub(crate) struct Streamer {
    uploader: Uploader,
    rooms: [Room; 2],
    /// The room used last.
    turn: usize,
    /// Bytes moved so far.
    moved: u64,
}

impl Streamer {
    /// For the layers of `model` that are not on a GPU, to the device of `executor`.
    pub(crate) fn new(model: &Model, executor: &Executor) -> Result<Self> {
        let largest = model.placement.off_gpu().map(|layer| model.weights.blocks[layer].gpu_bytes()).max();
        let uploader = Uploader::new(&executor.device(), &model.pool)?;
        let bytes = largest.unwrap_or(0);
        let rooms = [uploader.room(bytes)?, uploader.room(bytes)?];
        Ok(Self { uploader, rooms, turn: 0, moved: 0 })
    }

    /// Begins to move a layer, in place of the one before the last ([`Streamer::used`]).
    pub(crate) fn bring(&mut self, model: &Model, layer: usize) -> Result<Block> {
        self.turn = 1 - self.turn;
        self.uploader.begin_in(&self.rooms[self.turn])?;
        let block = model.weights.blocks[layer].upload(&mut self.uploader)?;
        self.moved += block.gpu_bytes() as u64;
        Ok(block)
    }

    /// All that uses the layer moved last was given to `executor`.
    pub(crate) fn used(&self, executor: &Executor) -> Result<()> {
        Ok(self.rooms[self.turn].used_by(executor)?)
    }

    /// Bytes moved so far.
    pub(crate) fn moved(&self) -> u64 {
        self.moved
    }

    /// Lets `executor` wait for the layers moved so far before what it is given next.
    pub(crate) fn arrived(&mut self, executor: &Executor) -> Result<()> {
        Ok(self.uploader.before(executor)?)
    }
}
