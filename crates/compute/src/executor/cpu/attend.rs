//! Attention: norms of heads, rotation, storage of keys and values, and the sum over them.

use super::rows::norm_heads;
use super::{Executor, front};
use crate::Result;
use crate::attention::{AttentionShape, attention};
use crate::error::same;
use crate::executor::{Attend, Heads, KvCache, Rotate};
use crate::ops;
use crate::parallel::{part_of, share};

impl Executor {
    pub fn attend(&mut self, cache: &mut KvCache, attend: Attend<'_>) -> Result<()> {
        let Attend { shape, slot, first, skip, norms, norms_last, rotate, sinks, heads: given, out } = attend;
        let (pool, cache) = (&*self.pool, cache.cpu()?);
        let out = out.host()?;
        let (heads, kv_heads, dim) = (shape.heads, shape.kv_heads, shape.head_dim);
        let (q, k, v) = match given {
            Heads::Separate { q, k, v } => (q.host()?, k.host()?, v.host()?),
            Heads::Queries { q } => (q.host()?, &mut [][..], &mut [][..]),
            Heads::Joined { qkv, by_group } => split(&shape, by_group, qkv.host()?, &mut self.heads)?,
        };
        if let Some((query, key)) = norms.filter(|_| !norms_last) {
            norm_heads(pool, query, heads, dim, q)?;
            norm_heads(pool, key, kv_heads, dim, k)?;
        }
        if let Some(Rotate { style, pairs, cos, sin }) = rotate.filter(|r| r.pairs > 0) {
            let level = pool.level();
            let part = part_of(pool, q.len(), heads * dim) / (heads * dim);
            let table = cos.host()?.chunks(part * pairs).zip(sin.host()?.chunks(part * pairs));
            if k.is_empty() {
                share(pool, q.chunks_mut(part * heads * dim).zip(table), |(q, (cos, sin))| {
                    ops::rope(level, style, q, heads, dim, cos, sin);
                });
            } else {
                let rows = q.chunks_mut(part * heads * dim).zip(k.chunks_mut(part * kv_heads * dim));
                share(pool, rows.zip(table), |((q, k), (cos, sin))| {
                    ops::rope(level, style, q, heads, dim, cos, sin);
                    ops::rope(level, style, k, kv_heads, dim, cos, sin);
                });
            }
        }
        if let Some((query, key)) = norms.filter(|_| norms_last) {
            norm_heads(pool, query, heads, dim, q)?;
            norm_heads(pool, key, kv_heads, dim, k)?;
        }
        if !k.is_empty() {
            cache.store(pool, (slot, &shape), first, k, v)?;
        }
        if out.is_empty() {
            return Ok(());
        }
        let (keys, values) = cache.layer(slot, &shape)?;
        let sinks = sinks.map_or(Ok(&[][..]), |sinks| sinks.host())?;
        attention(pool, &shape, (&q[skip * heads * dim..], first + skip), (keys, values), sinks, out)
    }
}

/// Takes queries, keys and values of each row apart, into `memory`.
fn split<'m>(
    shape: &AttentionShape,
    by_group: bool,
    qkv: &[f32],
    memory: &'m mut Vec<f32>,
) -> Result<(&'m mut [f32], &'m mut [f32], &'m mut [f32])> {
    let &AttentionShape { heads, kv_heads, head_dim: dim, .. } = shape;
    let (query, key, own) = (heads * dim, kv_heads * dim, heads / kv_heads * dim);
    let width = query + 2 * key;
    let n = qkv.len() / width;
    same("attend: whole rows of queries, keys and values", n * width, qkv.len())?;
    let (q, rest) = front(memory, qkv.len()).split_at_mut(n * query);
    let (k, v) = rest.split_at_mut(n * key);
    let rows = q.chunks_exact_mut(query).zip(k.chunks_exact_mut(key)).zip(v.chunks_exact_mut(key));
    for (row, ((q, k), v)) in qkv.chunks_exact(width).zip(rows) {
        if !by_group {
            q.copy_from_slice(&row[..query]);
            k.copy_from_slice(&row[query..query + key]);
            v.copy_from_slice(&row[query + key..]);
            continue;
        }
        let groups = q.chunks_exact_mut(own).zip(k.chunks_exact_mut(dim)).zip(v.chunks_exact_mut(dim));
        for (group, ((q, k), v)) in row.chunks_exact(own + 2 * dim).zip(groups) {
            q.copy_from_slice(&group[..own]);
            k.copy_from_slice(&group[own..own + dim]);
            v.copy_from_slice(&group[own + dim..]);
        }
    }
    Ok((q, k, v))
}
