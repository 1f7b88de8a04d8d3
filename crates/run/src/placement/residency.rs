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
    /// The place of the first of them in that device's cache.
    pub slot: usize,
    /// Whether the head follows.
    pub head: bool,
}

/// Devices with the number of layers each has, and the segments in order.
pub(crate) type Resident = (Vec<(Device, usize)>, Vec<Segment>);

/// Moves the weights of `units` (blocks in order, then the head) to GPUs where the plan says so.
///
/// # Errors
/// A GPU has no memory for a unit: names the layer.
pub(crate) fn reside(
    weights: &mut Weights,
    units: &[Location],
    gpus: &[Device],
    pool: &Arc<Pool>,
) -> Result<Resident> {
    upload(weights, units, gpus, pool)?;
    let layers = weights.blocks.len();
    let mut devices: Vec<(Location, usize)> = Vec::new();
    let mut segments: Vec<Segment> = Vec::new();
    for (unit, &location) in units.iter().enumerate() {
        let location = if let Location::Gpu(_) = location { location } else { Location::Ram };
        let head = unit == layers;
        let workspace = devices.iter().position(|&(l, _)| l == location).unwrap_or_else(|| {
            devices.push((location, 0));
            devices.len() - 1
        });
        let slot = devices[workspace].1;
        match segments.last_mut() {
            Some(last) if last.workspace == workspace && head => last.head = true,
            Some(last) if last.workspace == workspace => last.layers.end += 1,
            _ => {
                let layers = unit..if head { unit } else { unit + 1 };
                segments.push(Segment { workspace, layers, slot, head });
            }
        }
        if !head {
            devices[workspace].1 += 1;
        }
    }
    let device = |location| match location {
        Location::Gpu(index) => gpus[index].clone(),
        Location::Ram | Location::Disk => Device::Cpu(pool.clone()),
    };
    Ok((devices.into_iter().map(|(l, layers)| (device(l), layers)).collect(), segments))
}

fn upload(weights: &mut Weights, units: &[Location], gpus: &[Device], pool: &Arc<Pool>) -> Result<()> {
    let layers = weights.blocks.len();
    for (index, gpu) in gpus.iter().enumerate() {
        let own =
            || units.iter().enumerate().filter(|&(_, &l)| l == Location::Gpu(index)).map(|(unit, _)| unit);
        if own().next().is_none() {
            continue;
        }
        let failed = |unit: usize, error: Error| error.on_gpu(unit, layers);
        let mut uploader = Uploader::new(gpu, pool)?;
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
            done.map_err(|error| failed(unit, error))?;
        }
        uploader.finish()?;
    }
    Ok(())
}
