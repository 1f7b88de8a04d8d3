//! Attention: norms of heads, rotation, storage of keys and values, and the sum over them.

use super::Executor;
use super::rows::norm_heads;
use crate::Result;
use crate::attention::attention;
use crate::executor::{Attend, KvCache, Rotate};
use crate::ops;
use crate::parallel::{part_of, share};

impl Executor {
    pub fn attend(&mut self, cache: &mut KvCache, attend: Attend<'_>) -> Result<()> {
        let Attend { shape, slot, first, skip, norms, rotate, q, k, v, out } = attend;
        let (pool, cache) = (&*self.pool, cache.cpu()?);
        let (q, k, v, out) = (q.host()?, k.host()?, v.host()?, out.host()?);
        let (heads, kv_heads, dim) = (shape.heads, shape.kv_heads, shape.head_dim);
        if let Some((query, key)) = norms {
            norm_heads(pool, query, heads, dim, q)?;
            norm_heads(pool, key, kv_heads, dim, k)?;
        }
        if let Some(Rotate { style, pairs, cos, sin }) = rotate.filter(|r| r.pairs > 0) {
            let level = pool.level();
            let part = part_of(pool, q.len(), heads * dim) / (heads * dim);
            let rows = q.chunks_mut(part * heads * dim).zip(k.chunks_mut(part * kv_heads * dim));
            let table = cos.host()?.chunks(part * pairs).zip(sin.host()?.chunks(part * pairs));
            share(pool, rows.zip(table), |((q, k), (cos, sin))| {
                ops::rope(level, style, q, heads, dim, cos, sin);
                ops::rope(level, style, k, kv_heads, dim, cos, sin);
            });
        }
        cache.store(pool, slot, first, k, v);
        if out.is_empty() {
            return Ok(());
        }
        let (keys, values) = cache.layer(slot);
        attention(pool, &shape, &q[skip * heads * dim..], first + skip, keys, values, out)
    }
}
