//! How much there is to do when a model is loaded, unit by unit, and how much of it is done.

use quern_tensor_io::Progress;

use super::{Location, Sizes};

/// The bytes that loading makes or moves.
pub(crate) struct Work<'a> {
    progress: &'a dyn Progress,
    /// The tables in front of the first block.
    embedding: u64,
    /// Blocks in order, then the head.
    units: Vec<u64>,
}

impl<'a> Work<'a> {
    /// What is to be done for a model of these sizes, placed like this. Announces it, if it is anything.
    pub(crate) fn new(sizes: &Sizes, places: &[Location], progress: &'a dyn Progress) -> Self {
        let units = sizes.units.iter().zip(places).map(|(size, place)| match place {
            Location::Gpu(_) => size.gpu,
            Location::Ram | Location::Disk => size.made,
        });
        let work = Self { progress, embedding: sizes.embedding.made, units: units.collect() };
        let total = work.embedding + work.units.iter().sum::<u64>();
        if total > 0 {
            progress.total(total);
        }
        work
    }

    /// The tables are there.
    pub(crate) fn embedding_done(&self) {
        self.progress.advance(self.embedding);
    }

    /// A block is where it belongs.
    pub(crate) fn block_done(&self, layer: usize) {
        self.progress.advance(self.units.get(layer).copied().unwrap_or(0));
    }

    /// The head is where it belongs.
    pub(crate) fn head_done(&self) {
        self.progress.advance(self.units.last().copied().unwrap_or(0));
    }

    /// A block is next.
    pub(crate) fn block(&self, layer: usize) {
        self.progress.step(&format!("block {layer}"));
    }
}
