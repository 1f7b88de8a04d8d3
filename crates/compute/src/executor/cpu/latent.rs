//! Latent attention: rotation, storage of latent vectors, and the sum over them.

use super::Executor;
use crate::attention::{AttentionShape, IndexShape, LatentUp, choose_positions, latent_attention};
use crate::error::same;
use crate::executor::{AttendLatent, ChoosePositions, KvCache, LatentMatrices, Linear, Rotate};
use crate::parallel::{part_of, share};
use crate::simd::Level;
use crate::{Matrix, Result, ops};

impl Executor {
    pub fn attend_latent(&mut self, cache: &mut KvCache, attend: AttendLatent<'_>) -> Result<()> {
        let AttendLatent { shape, up, slot, first, skip, rotate, chosen, q, latent, out } = attend;
        let (pool, cache) = (&*self.pool, cache.cpu()?);
        let (q, latent, out) = (q.host()?, latent.host()?, out.host()?);
        let (query, cached) = (shape.nope + shape.rope, shape.rank + shape.rope);
        let width = shape.heads * query;
        let n = latent.len() / cached.max(1);
        same("latent attention: rows of latent vectors", n * cached, latent.len())?;
        same("latent attention: a row of queries for each latent vector", n * width, q.len())?;
        if let Some(Rotate { style, pairs, cos, sin }) = rotate.filter(|r| r.pairs > 0) {
            let (cos, sin) = (cos.host()?, sin.host()?);
            same("latent attention: rotated numbers", 2 * pairs, shape.rope)?;
            let part = part_of(pool, q.len(), width) / width;
            let rows = q.chunks_mut(part * width).zip(latent.chunks_mut(part * cached));
            let table = cos.chunks(part * pairs).zip(sin.chunks(part * pairs));
            let level = pool.level();
            share(pool, rows.zip(table), |((q, latent), (cos, sin))| {
                let rows = q.chunks_exact_mut(width).zip(latent.chunks_exact_mut(cached));
                let table = cos.chunks_exact(pairs).zip(sin.chunks_exact(pairs));
                for ((q, latent), (cos, sin)) in rows.zip(table) {
                    for head in q.chunks_exact_mut(query) {
                        tail(level, style, &mut head[shape.nope..], cos, sin);
                    }
                    tail(level, style, &mut latent[shape.rank..], cos, sin);
                }
            });
        }
        let cached = AttentionShape {
            heads: shape.heads,
            kv_heads: 1,
            head_dim: cached,
            scale: shape.scale,
            window: None,
            chunk: None,
            softcap: None,
        };
        cache.store(pool, (slot, &cached), first, latent, &[])?;
        if out.is_empty() {
            return Ok(());
        }
        let (keys, _) = cache.layer(slot, &cached)?;
        let (whole, order, first_part, second_part);
        let up = match &up {
            LatentMatrices::Joined { both, absorbed } => {
                whole = both.weight.matrix()?;
                order = both.permutation.as_ref().map(|order| order.host().cloned()).transpose()?;
                first_part = matrices(absorbed)?;
                LatentUp::Joined { both: whole, order: order.as_deref(), absorbed: &first_part }
            }
            LatentMatrices::Split { keys, values } => {
                first_part = matrices(keys)?;
                second_part = matrices(values)?;
                LatentUp::Split { keys: &first_part, values: &second_part }
            }
            LatentMatrices::Card { .. } => return Err(crate::Error::Device),
        };
        latent_attention(pool, &shape, &up, (&q[skip * width..], first + skip), (keys, chosen), out)
    }

    pub fn choose_positions(&mut self, cache: &mut KvCache, choose: ChoosePositions<'_>) -> Result<()> {
        let ChoosePositions { shape, slot, first, rotate, q, keys, weights, chosen } = choose;
        let (pool, cache) = (&*self.pool, cache.cpu()?);
        let (q, keys, weights) = (q.host()?, keys.host()?, weights.host()?);
        let IndexShape { heads, dim, .. } = shape;
        let n = keys.len() / dim.max(1);
        same("indexer: rows of keys", n * dim, keys.len())?;
        same("indexer: a row of queries for each key", n * heads * dim, q.len())?;
        if let Some(Rotate { style, pairs, cos, sin }) = rotate.filter(|r| r.pairs > 0) {
            let (cos, sin) = (cos.host()?, sin.host()?);
            same("indexer: rotated numbers", dim.min(2 * pairs), 2 * pairs)?;
            let (cos, sin) = (&cos[..n * pairs], &sin[..n * pairs]);
            ops::rope(pool.level(), style, q, heads, dim, cos, sin);
            ops::rope(pool.level(), style, keys, 1, dim, cos, sin);
        }
        let stored = AttentionShape {
            heads,
            kv_heads: 1,
            head_dim: dim,
            scale: 1.0,
            window: None,
            chunk: None,
            softcap: None,
        };
        cache.store(pool, (slot, &stored), first, keys, &[])?;
        let Some(chosen) = chosen else { return Ok(()) };
        let (stored, _) = cache.layer(slot, &stored)?;
        choose_positions(pool, &shape, (q, weights), first, stored, chosen)
    }
}

fn matrices<'a>(linears: &[&'a Linear]) -> Result<Vec<Matrix<'a>>> {
    linears.iter().map(|linear| linear.weight.matrix()).collect()
}

/// Rotates the numbers of one head.
fn tail(level: Level, style: ops::RopeStyle, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let dim = x.len();
    ops::rope(level, style, x, 1, dim, cos, sin);
}
