//! Brings each unit of a model to the device that a plan gives it.

use std::ops::Range;
use std::sync::Arc;

use quern_compute::{Device, Pool, Uploader};

use super::Location;
use crate::weights::Weights;
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
    /// Of each layer, which device has its keys and values, and their place in its cache.
    pub caches: Vec<(usize, usize)>,
    /// Of each unit, where it is.
    pub units: Vec<Location>,
}

/// Moves the weights of `units` (blocks in order, then the head) to GPUs where the plan says so. `remote`: the first GPU
/// in use has keys and values of the others.
///
/// # Errors
/// A GPU has no memory for a unit: names the layer.
pub(crate) fn reside(
    weights: &mut Weights,
    units: &[Location],
    remote: bool,
    gpus: &[Device],
    pool: &Arc<Pool>,
) -> Result<Resident> {
    upload(weights, units, gpus, pool)?;
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
        // That device also normalizes their heads.
        let mut uploader = Uploader::new(&gpus[gpu], pool)?;
        for segment in segments.iter().filter(|segment| segment.remote.is_some()) {
            for block in &mut weights.blocks[segment.layers.clone()] {
                block.upload_head_norms(&mut uploader)?;
            }
        }
        uploader.finish()?;
    }
    let mut counts = vec![0; locations.len()];
    let mut caches = Vec::with_capacity(layers);
    for segment in &segments {
        let owner = segment.remote.unwrap_or(segment.workspace);
        for _ in segment.layers.clone() {
            caches.push((owner, counts[owner]));
            counts[owner] += 1;
        }
    }
    let device = |location: &Location| match *location {
        Location::Gpu(index) => gpus[index].clone(),
        Location::Ram | Location::Disk => Device::Cpu(pool.clone()),
    };
    let devices = locations.iter().map(device).zip(counts).collect();
    Ok(Resident { devices, segments, caches, units: units.to_vec() })
}

fn upload(weights: &mut Weights, units: &[Location], gpus: &[Device], pool: &Arc<Pool>) -> Result<()> {
    let layers = weights.blocks.len();
    for (index, gpu) in gpus.iter().enumerate() {
        let own =
            || units.iter().enumerate().filter(|&(_, &l)| l == Location::Gpu(index)).map(|(unit, _)| unit);
        if own().next().is_none() {
            continue;
        }
        let what = |unit: usize| match unit == layers {
            true => "the weights of the head".to_owned(),
            false => format!("the weights of block {unit}"),
        };
        let uploader = Uploader::new(gpu, pool).map_err(Error::from);
        let mut uploader =
            uploader.map_err(|error| error.on_gpu(|| "memory to copy weights with".to_owned()))?;
        for unit in own() {
            let done = match unit == layers {
                true => {
                    let bytes = weights.head_gpu_bytes();
                    let begun = uploader.begin(bytes).map_err(Error::from);
                    begun.and_then(|()| weights.upload_head(&mut uploader))
                }
                false => {
                    let block = &weights.blocks[unit];
                    let begun = uploader.begin(block.gpu_bytes()).map_err(Error::from);
                    let block = begun.and_then(|()| block.upload(&mut uploader));
                    block.map(|block| weights.blocks[unit] = block)
                }
            };
            done.map_err(|error| error.on_gpu(|| what(unit)))?;
        }
        uploader.finish()?;
    }
    Ok(())
}
