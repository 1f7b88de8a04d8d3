//! Brings each unit of a model to the device that a plan gives it.

use std::ops::Range;
use std::sync::Arc;

use quern_compute::{Device, Pool, Uploader};
use quern_tensor_io::Checkpoint;

use super::Location;
use crate::weights::{Block, Linear, Weights};
use crate::{Error, Result};

/// Layers that follow each other on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Which of [`super::Placement::devices`].
    pub workspace: usize,
    pub layers: Range<usize>,
    /// Whether the head follows.
    pub head: bool,
    /// The device, a GPU, that has their keys and values and computes their attention, if it is another.
    pub remote: Option<usize>,
}

/// Where a model is: what [`super::Placement`] needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Resident {
    /// The devices in use, with the number of layers whose keys and values each has.
    pub devices: Vec<(Device, usize)>,
    /// All layers, in order.
    pub segments: Vec<Segment>,
    /// Of each layer, the place of its keys and values in its device's cache.
    pub slots: Vec<usize>,
}

/// Brings units to their devices as they are made: of weights that are made while loading, RAM holds those of one block
/// that goes to a GPU at a time.
pub(crate) struct Mover<'a> {
    checkpoint: &'a Checkpoint,
    /// Blocks in order, then the head.
    units: &'a [Location],
    gpus: &'a [Device],
    pool: &'a Arc<Pool>,
    /// One for each GPU that has anything.
    uploaders: Vec<Option<Uploader>>,
}

impl<'a> Mover<'a> {
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        units: &'a [Location],
        gpus: &'a [Device],
        pool: &'a Arc<Pool>,
    ) -> Self {
        Self { checkpoint, units, gpus, pool, uploaders: gpus.iter().map(|_| None).collect() }
    }

    fn uploader(&mut self, gpu: usize) -> Result<&mut Uploader> {
        match &mut self.uploaders[gpu] {
            Some(uploader) => Ok(uploader),
            none => {
                let made = Uploader::new(&self.gpus[gpu], self.pool).map_err(Error::from);
                let made = made.map_err(|error| error.on_gpu(|| "memory to copy weights with".to_owned()));
                Ok(none.insert(made?))
            }
        }
    }

    /// A block, where the plan has it.
    ///
    /// # Errors
    /// A GPU has no memory for it: names the block.
    pub(crate) fn block(&mut self, layer: usize, block: Block) -> Result<Block> {
        let Location::Gpu(gpu) = self.units[layer] else { return Ok(block) };
        let uploader = self.uploader(gpu)?;
        let begun = uploader.begin(block.gpu_bytes()).map_err(Error::from);
        let moved = begun.and_then(|()| block.upload(uploader));
        let moved = moved.map_err(|error| error.on_gpu(|| format!("the weights of block {layer}")))?;
        self.release(&block.linears());
        Ok(moved)
    }

    /// The head, where the plan has it.
    ///
    /// # Errors
    /// A GPU has no memory for it.
    pub(crate) fn head(&mut self, weights: &mut Weights) -> Result<()> {
        let Some(&Location::Gpu(gpu)) = self.units.last() else { return Ok(()) };
        let before = weights.output.clone();
        let uploader = self.uploader(gpu)?;
        let begun = uploader.begin(weights.head_gpu_bytes()).map_err(Error::from);
        let moved = begun.and_then(|()| weights.upload_head(uploader));
        moved.map_err(|error| error.on_gpu(|| "the weights of the head".to_owned()))?;
        self.release(&[&before]);
        Ok(())
    }

    /// Pages of the file that were read are not needed again.
    fn release(&self, linears: &[&Linear]) {
        for at in linears.iter().filter_map(|linear| linear.mapped) {
            let tensor = &self.checkpoint.tensors()[at.tensor];
            self.checkpoint.release(self.checkpoint.data(tensor)[at.start..at.end].as_ptr_range());
        }
    }

    /// Waits until everything has arrived.
    ///
    /// # Errors
    /// A GPU is lost.
    pub(crate) fn finish(self) -> Result<()> {
        for mut uploader in self.uploaders.into_iter().flatten() {
            uploader.finish()?;
        }
        Ok(())
    }
}

/// Where the units of a model are (blocks in order, then the head), as its passes need to know. `remote`: the first GPU in
/// use has keys and values of blocks that are elsewhere.
///
/// # Errors
/// That GPU has no memory for the norms of their heads and their sinks.
pub(crate) fn reside(
    weights: &mut Weights,
    units: &[Location],
    remote: bool,
    gpus: &[Device],
    pool: &Arc<Pool>,
) -> Result<Resident> {
    let layers = weights.blocks.len();
    let mut locations: Vec<Location> = Vec::new();
    let mut segments: Vec<Segment> = Vec::new();
    for (unit, &location) in units.iter().enumerate() {
        let location = if let Location::Gpu(_) = location { location } else { Location::Ram };
        let head = unit == layers;
        let workspace = locations.iter().position(|&l| l == location).unwrap_or_else(|| {
            locations.push(location);
            locations.len() - 1
        });
        match segments.last_mut() {
            Some(last) if last.workspace == workspace && head => last.head = true,
            Some(last) if last.workspace == workspace => last.layers.end += 1,
            _ => {
                let layers = unit..if head { unit } else { unit + 1 };
                segments.push(Segment { workspace, layers, head, remote: None });
            }
        }
    }
    let is_gpu = |location: &Location| matches!(location, Location::Gpu(_));
    let first_gpu = locations.iter().position(is_gpu).filter(|_| remote);
    for segment in &mut segments {
        if !is_gpu(&locations[segment.workspace]) {
            segment.remote = first_gpu;
        }
    }
    if let Some(Location::Gpu(gpu)) = first_gpu.map(|workspace| locations[workspace]) {
        // That device also normalizes their heads, and has their sinks.
        let elsewhere = segments.iter().filter(|s| s.remote.is_some()).flat_map(|s| s.layers.clone());
        let with_vectors: Vec<usize> =
            elsewhere.filter(|&layer| weights.blocks[layer].mixer.vector_values() > 0).collect();
        if !with_vectors.is_empty() {
            let mut uploader = Uploader::new(&gpus[gpu], pool)?;
            for layer in with_vectors {
                if let Some(attention) = weights.blocks[layer].mixer.attention_mut() {
                    attention.upload_vectors(&mut uploader)?;
                }
            }
            uploader.finish()?;
        }
    }
    let mut counts = vec![0; locations.len()];
    let mut slots = Vec::with_capacity(layers);
    for segment in &segments {
        let owner = segment.remote.unwrap_or(segment.workspace);
        for layer in segment.layers.clone() {
            slots.push(counts[owner]);
            // Other mixers have no keys and values.
            counts[owner] += usize::from(weights.blocks[layer].mixer.caches());
        }
    }
    let device = |location: &Location| match *location {
        Location::Gpu(index) => gpus[index].clone(),
        Location::Ram | Location::Disk => Device::Cpu(pool.clone()),
    };
    let devices = locations.iter().map(device).zip(counts).collect();
    Ok(Resident { devices, segments, slots })
}
