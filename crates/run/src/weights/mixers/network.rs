//! The tensors of a network in a mixer's place: a layer of Nemotron-H that is nothing else.

use quern_compute::Uploader;
use quern_model::TensorRole;

use super::super::Linear;
use super::super::lookup::Lookup;
use crate::Result;

/// A plain network: `down(act(up(x)))`.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

impl Network {
    /// Takes the tensors of a layer.
    pub(super) fn resolve(lookup: &Lookup<'_, '_>, layer: usize) -> Result<Self> {
        let linear = |role| lookup.linear(role, None, Some(layer));
        Ok(Self { up: linear(TensorRole::FfnUp)?, down: linear(TensorRole::FfnDown)? })
    }

    /// The same on another device.
    pub(super) fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        Ok(Self { up: self.up.upload(uploader)?, down: self.down.upload(uploader)? })
    }
}
