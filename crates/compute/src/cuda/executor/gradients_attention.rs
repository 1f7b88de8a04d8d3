//! Attention over whole sequences and its gradients: launches of `kernels/gradients_attention.cu`.

use std::ops::Range;

use super::super::Generation;
use super::super::gradient_args::AttentionGradientArgs;
use super::{Executor, Geometry};
use crate::attention::AttentionShape;
use crate::error::same;
use crate::executor::{Recorded, Values, ValuesMut};
use crate::{Error, Result};

/// Heads of so many numbers at most, in tiles of so many queries and keys.
#[derive(Clone, Copy)]
struct Tiles {
    dim: usize,
    rows: usize,
}

impl Tiles {
    /// Bytes of shared memory for so many tiles of vectors and of scores.
    fn shared(self, vectors: usize, scores: usize) -> u32 {
        (4 * (vectors * self.rows * (self.dim + 4) + scores * self.rows * (self.rows + 1))) as u32
    }
}

impl Executor {
    /// Values of a head that attention takes here, at most.
    pub fn most_gradient_head(&self) -> usize {
        // Tiles of longer heads need more shared memory than these cards have.
        match self.generation() {
            Ok(generation) if generation >= Generation::Ampere => 256,
            Ok(_) => 128,
            Err(_) => 0,
        }
    }

    fn tiles(&self, dim: usize) -> Result<Tiles> {
        let most = self.most_gradient_head();
        match dim {
            0..=64 if most > 0 => Ok(Tiles { dim: 64, rows: 32 }),
            65..=128 if most > 128 => Ok(Tiles { dim: 128, rows: 32 }),
            65..=128 if most > 0 => Ok(Tiles { dim: 128, rows: 16 }),
            129..=256 if most >= 256 => Ok(Tiles { dim: 256, rows: 16 }),
            _ => {
                let what = "gradients of attention: values of a head, at most";
                Err(Error::Lengths { what, expected: most, found: dim })
            }
        }
    }

    /// Arguments for all tokens.
    fn recorded(
        &self,
        shape: &AttentionShape,
        sequences: &[Range<usize>],
        recorded: Recorded<'_>,
    ) -> Result<AttentionGradientArgs> {
        let &AttentionShape { heads, kv_heads, head_dim, scale, window, chunk, softcap } = shape;
        let tokens = sequences.iter().map(|s| s.end).max().unwrap_or(0);
        let address = |values: Values<'_>, width: usize| -> Result<u64> {
            let values = self.own(values)?;
            same("gradients of attention: numbers of all tokens", tokens * width, values.len())?;
            Ok(values.pointer().address())
        };
        let (query, key) = (heads * head_dim, kv_heads * head_dim);
        let Recorded { q, k, v, out, sinks, log_sums } = recorded;
        if sinks.is_some() {
            return Err(Error::NoGpuKernel { what: "gradients of attention with sinks" });
        }
        if chunk.is_some() {
            return Err(Error::NoGpuKernel { what: "gradients of attention within parts of a text" });
        }
        Ok(AttentionGradientArgs {
            q: address(q, query)?,
            k: address(k, key)?,
            v: address(v, key)?,
            out: address(out, query)?,
            log_sums: address(log_sums, heads)?,
            heads: heads as i32,
            kv_heads: kv_heads as i32,
            dim: head_dim as i32,
            scale,
            softcap: softcap.unwrap_or(0.0),
            window: window.map_or(0, |window| window.min(i32::MAX as usize) as i32),
            ..AttentionGradientArgs::default()
        })
    }

    /// Launches a kernel for one sequence.
    ///
    /// # Safety
    /// All addresses of `all` that the kernel reads or writes are those of numbers of the tokens of all sequences.
    unsafe fn over(
        &mut self,
        (kernel, shared): (&str, u32),
        tiles: Tiles,
        sequence: &Range<usize>,
        heads: i32,
        all: &AttentionGradientArgs,
    ) -> Result<()> {
        if sequence.is_empty() {
            return Ok(());
        }
        let from = |address: u64, width: i32| {
            if address == 0 { 0 } else { address + (4 * sequence.start * width as usize) as u64 }
        };
        let (query, key) = (all.heads * all.dim, all.kv_heads * all.dim);
        let arguments = AttentionGradientArgs {
            q: from(all.q, query),
            k: from(all.k, key),
            v: from(all.v, key),
            out: from(all.out, query),
            log_sums: from(all.log_sums, all.heads),
            d_out: from(all.d_out, query),
            owed: from(all.owed, all.heads),
            d_q: from(all.d_q, query),
            d_k: from(all.d_k, key),
            d_v: from(all.d_v, key),
            tokens: sequence.len() as i32,
            ..*all
        };
        let kernel = format!("attention_{kernel}_{}_{}", tiles.dim, tiles.rows);
        let grid = [sequence.len().div_ceil(tiles.rows) as u32, heads as u32, 1];
        let geometry = Geometry { grid, block: 256, shared };
        // SAFETY: as the caller promises.
        unsafe { self.launch("gradients_attention", &kernel, geometry, &arguments) }
    }

    /// As [`crate::Executor::attention`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit, heads too long.
    pub fn attention(
        &mut self,
        shape: &AttentionShape,
        sequences: &[Range<usize>],
        recorded: Recorded<'_>,
    ) -> Result<()> {
        let tiles = self.tiles(shape.head_dim)?;
        let all = self.recorded(shape, sequences, recorded)?;
        for sequence in sequences {
            // SAFETY: the lengths were checked.
            unsafe { self.over(("forward", tiles.shared(3, 1)), tiles, sequence, all.heads, &all)? };
        }
        Ok(())
    }

    /// As [`crate::Executor::attention_backward`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit, heads too long.
    pub fn attention_backward(
        &mut self,
        shape: &AttentionShape,
        sequences: &[Range<usize>],
        recorded: Recorded<'_>,
        d_out: Values<'_>,
        to: [ValuesMut<'_>; 3],
    ) -> Result<()> {
        let tiles = self.tiles(shape.head_dim)?;
        let all = self.recorded(shape, sequences, recorded)?;
        let (d_out, to) = (self.own(d_out)?, to.each_ref().map(|values| self.own(values.as_values())));
        let [d_q, d_k, d_v] = to;
        let (d_q, d_k, d_v) = (d_q?, d_k?, d_v?);
        for (expected, found) in
            [(recorded.q, d_out), (recorded.q, d_q), (recorded.k, d_k), (recorded.v, d_v)]
        {
            same("gradients of attention: numbers of all tokens", expected.len(), found.len())?;
        }
        let owed = self.workspace.vectors[0].of(&self.stream, 4 * recorded.log_sums.len())?;
        let all = AttentionGradientArgs {
            d_out: d_out.pointer().address(),
            owed: owed.address(),
            d_q: d_q.pointer().address(),
            d_k: d_k.pointer().address(),
            d_v: d_v.pointer().address(),
            ..all
        };
        for sequence in sequences {
            // SAFETY: the lengths were checked.
            unsafe {
                self.over(("queries", tiles.shared(4, 1)), tiles, sequence, all.heads, &all)?;
                self.over(("keys", tiles.shared(4, 2)), tiles, sequence, all.kv_heads, &all)?;
            }
        }
        Ok(())
    }
}
