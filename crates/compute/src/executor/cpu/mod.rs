//! The CPU's half of the executor. Between the linear layers everything works row by row, so the threads share rows
//! and the result does not depend on their number.

mod attend;
mod cache;
mod experts;
mod gradients;
mod latent;
mod linear;
mod mixers;
mod routing;
mod rows;
mod statistics;
mod sums;

use std::sync::Arc;

use crate::matmul::Scratch;
use crate::{Pool, Result, gram};

use super::{Values, ValuesMut};

pub(super) use cache::{Cache, bytes, row};

/// Threads, and memory that operations reuse.
#[derive(Debug)]
pub(super) struct Executor {
    pool: Arc<Pool>,
    matmul: Scratch,
    /// An input, normalized.
    normed: Vec<f32>,
    /// An input in the order of a weight's columns.
    permuted: Vec<f32>,
    /// Results that are not stored as they are.
    first: Vec<f32>,
    second: Vec<f32>,
    /// Queries, keys and values taken apart.
    heads: Vec<f32>,
    /// Inputs of Gram matrices, packed.
    gram: gram::Scratch,
}

impl Executor {
    pub fn new(pool: &Arc<Pool>) -> Self {
        Self {
            pool: pool.clone(),
            matmul: Scratch::new(),
            normed: Vec::new(),
            permuted: Vec::new(),
            first: Vec::new(),
            second: Vec::new(),
            heads: Vec::new(),
            gram: gram::Scratch::default(),
        }
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn copy(&mut self, from: Values<'_>, to: ValuesMut<'_>) -> Result<()> {
        to.host()?.copy_from_slice(from.host()?);
        Ok(())
    }

    pub fn clear(&mut self, x: ValuesMut<'_>) -> Result<()> {
        x.host()?.fill(0.0);
        Ok(())
    }

    pub fn fill<E: From<crate::Error>>(
        &mut self,
        to: ValuesMut<'_>,
        write: impl FnOnce(&mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        write(to.host()?)
    }

    pub fn upload(&mut self, from: &[f32], to: ValuesMut<'_>) -> Result<()> {
        to.host()?.copy_from_slice(from);
        Ok(())
    }

    pub fn download(&mut self, from: Values<'_>, to: &mut [f32]) -> Result<()> {
        to.copy_from_slice(from.host()?);
        Ok(())
    }
}

/// The first `length` values of a buffer, which grows if it is shorter.
fn front(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}
