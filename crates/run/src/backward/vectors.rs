//! Vectors on the device that computes, whose memory is used again.

use std::sync::{Arc, Mutex, PoisonError};

use quern_compute::{Buffer, Device, Values, ValuesMut};

use crate::Result;

/// Memory that vectors leave behind.
#[derive(Clone, Debug)]
pub(super) struct Spare {
    device: Device,
    buffers: Arc<Mutex<Vec<Buffer>>>,
}

/// Numbers in memory that goes back to [`Spare`] when they are dropped.
#[derive(Debug)]
pub(super) struct Vectors {
    buffer: Buffer,
    length: usize,
    home: Spare,
}

impl Spare {
    pub(super) fn new(device: &Device) -> Self {
        Self { device: device.clone(), buffers: Arc::default() }
    }

    /// So many numbers; what they are is not known.
    pub(super) fn take(&self, length: usize) -> Result<Vectors> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is long enough, and not much too long.
        let fits = |buffer: &Buffer| buffer.len() >= length && buffer.len() / 2 <= length;
        let best = (0..buffers.len()).filter(|&i| fits(&buffers[i])).min_by_key(|&i| buffers[i].len());
        let mut buffer = match best {
            Some(index) => buffers.swap_remove(index),
            None => Buffer::new(&self.device),
        };
        match buffer.reserve(length) {
            // What is spare is of other lengths.
            Err(error) if error.is_gpu_memory() && !buffers.is_empty() => {
                buffers.clear();
                buffer.reserve(length)?;
            }
            done => done?,
        }
        drop(buffers);
        Ok(Vectors { buffer, length, home: self.clone() })
    }
}

impl Vectors {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn values(&self) -> Values<'_> {
        self.buffer.front(self.length)
    }

    pub(super) fn values_mut(&mut self) -> ValuesMut<'_> {
        self.buffer.front_mut(self.length)
    }
}

impl Drop for Vectors {
    fn drop(&mut self) {
        let buffer = std::mem::replace(&mut self.buffer, Buffer::Host(Vec::new()));
        let mut buffers = self.home.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.push(buffer);
    }
}
