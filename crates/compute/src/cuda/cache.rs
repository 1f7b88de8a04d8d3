//! The cache of keys and values in a card's memory, in the layout of `attention_plan.rs`.

use super::attention_plan::CacheLayout;
use super::{Card, Memory, Pointer, Stream};
use crate::executor::CacheShape;
use crate::{Error, Result};

/// A cache.
#[derive(Debug)]
pub struct Cache {
    memory: Option<Memory>,
    layout: CacheLayout,
    layer_bytes: usize,
}

/// The layout of one layer of a cache.
fn layout(shape: CacheShape) -> CacheLayout {
    let CacheShape { kv_heads, head_dim, context, kv, keys_only, layers: _ } = shape;
    CacheLayout { numbers: kv, kv_heads, head_dim, context, keys_only }
}

impl Cache {
    /// Zeros.
    ///
    /// # Errors
    /// The card has too little memory.
    pub fn new(card: &Card, shape: CacheShape) -> Result<Self> {
        let too_large = Error::CacheMemory { context: shape.context };
        let layout = layout(shape);
        let layer_bytes = layout.bytes().and_then(|bytes| usize::try_from(bytes).ok());
        let layer_bytes = layer_bytes.ok_or(too_large.clone())?;
        let bytes = layer_bytes.checked_mul(shape.layers).ok_or(too_large)?;
        let memory = match bytes {
            0 => None,
            _ => {
                let memory = Memory::new(card, bytes)?;
                // Rows have padding, which must be zero.
                let stream = Stream::new(card)?;
                stream.fill(&memory, 0, bytes, 0)?;
                stream.synchronize()?;
                Some(memory)
            }
        };
        Ok(Self { memory, layout, layer_bytes })
    }

    pub(super) fn layout(&self) -> CacheLayout {
        self.layout
    }

    /// Where a layer begins.
    pub(super) fn layer(&self, slot: usize) -> Result<Pointer> {
        let memory = self.memory.as_ref().ok_or(Error::Device)?;
        Ok(memory.range(slot * self.layer_bytes, self.layer_bytes)?)
    }
}
