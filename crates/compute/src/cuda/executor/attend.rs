//! Attention.

use super::super::args::{AttentionArgs, NORM_LAST, QkvRows, RotatedAttentionArgs, RotationArgs};
use super::super::attention_plan::{AttentionPlan, DECODE_TOKENS};
use super::rows::{norm_kind, parameters};
use super::{Executor, Geometry};
use crate::error::same;
use crate::executor::{Attend, Heads, KvCache, Norm, Rotate};
use crate::ops::RopeStyle;
use crate::{Error, Result};

impl Executor {
    /// The number of positions that attention's launches must serve in this pass.
    pub(super) fn set_depth(&mut self, end: usize) {
        // Graphs serve all texts up to a power of two.
        self.depth = end.max(256).next_power_of_two();
    }

    /// As [`crate::Executor::attend`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit, a cache too short.
    pub fn attend(&mut self, cache: &mut KvCache, attend: Attend<'_>) -> Result<()> {
        let Attend { shape, slot, first, skip, norms, norms_last, rotate, sinks, heads: given, out } = attend;
        if shape.chunk.is_some() {
            return Err(Error::NoGpuKernel { what: "attention within parts of a text" });
        }
        let cache = cache.cuda()?;
        let layout = cache.layout();
        let out = out.cuda()?;
        let (heads, kv_heads, dim) = (shape.heads, shape.kv_heads, shape.head_dim);
        let (query, key) = (heads * dim, kv_heads * dim);
        let width = query + 2 * key;
        let group = heads / kv_heads;
        // Where the first queries, keys and values are; floats from one token to the next, and from one group to the next.
        let (n, q, k, v, tokens, groups) = match given {
            Heads::Joined { qkv, by_group } => {
                let qkv = qkv.cuda()?;
                let n = qkv.len() / width;
                same("attend: whole rows of queries, keys and values", n * width, qkv.len())?;
                let at = |offset: usize| qkv.pointer().at(4 * offset);
                // Keys follow the queries of all heads, or of their group.
                let (k, v, groups) = match by_group {
                    false => (query, query + key, (group * dim, dim)),
                    true => (group * dim, (group + 1) * dim, ((group + 2) * dim, (group + 2) * dim)),
                };
                (n, at(0), at(k), at(v), (width, width), groups)
            }
            // Models with such layers are computed by the CPU.
            Heads::Queries { .. } => return Err(Error::Device),
            Heads::Separate { q, k, v } => {
                let (q, k, v) = (q.cuda()?, k.cuda()?, v.cuda()?);
                let n = q.len() / query;
                same("attend: whole rows of queries", n * query, q.len())?;
                same("attend: rows of keys", n * key, k.len())?;
                same("attend: rows of values", n * key, v.len())?;
                (n, q.pointer(), k.pointer(), v.pointer(), (query, key), (group * dim, dim))
            }
        };
        same("attend: output", (n - skip) * query, out.len())?;
        if first + n > layout.context || (kv_heads, dim) != (layout.kv_heads, layout.head_dim) {
            return Err(Error::Lengths {
                what: "attend: positions of the cache",
                expected: first + n,
                found: layout.context,
            });
        }
        let rows = QkvRows {
            q: q.address(),
            k: k.address(),
            v: v.address(),
            q_token: tokens.0 as i32,
            q_group: groups.0 as i32,
            kv_token: tokens.1 as i32,
            kv_group: groups.1 as i32,
        };
        let mut rotation = rotation(norms, rotate, n, dim)?;
        if norms.is_some() && norms_last {
            rotation.norm += NORM_LAST;
        }
        let sinks = match sinks {
            Some(sinks) => {
                same("attend: a sink for each head", heads, sinks.len())?;
                sinks.cuda()?.on(&self.card)?.pointer().address()
            }
            None => 0,
        };
        let plan = AttentionPlan {
            cache: layout,
            heads,
            processors: self.card.info().multiprocessors,
            generation: self.generation()?,
        };
        let fits = cache.layer(slot)?;
        let mut arguments = AttentionArgs {
            rows,
            cache: layout.args(fits.address()).ok_or(Error::CacheMemory { context: layout.context })?,
            out: out.pointer().address(),
            position: self.position.pointer().address(),
            sinks,
            n: n as i32,
            heads: heads as i32,
            kv_heads: kv_heads as i32,
            dim: dim as i32,
            scale: shape.scale,
            softcap: shape.softcap.unwrap_or(0.0),
            window: shape.window.map_or(0, |window| window.min(i32::MAX as usize) as i32),
            ..AttentionArgs::default()
        };
        let rows = n - skip;
        let end = self.depth.min(layout.context);
        let launch = plan.attention(rows.max(1), end).ok_or(Error::Lengths {
            what: "attend: values of a head, at most",
            expected: super::super::attention_plan::MOST_HEAD_DIM,
            found: dim,
        })?;
        let decode = launch.module == "attention_decode";
        let own_store = decode && n <= DECODE_TOKENS && skip == 0;
        if !own_store {
            let (kernel, grid) = plan.rope_store(n);
            let rotated = RotatedAttentionArgs { attention: arguments, rotation };
            // SAFETY: all lengths were checked.
            unsafe { self.launch("rope_store", &kernel, Geometry::rows(grid), &rotated)? };
        }
        if rows == 0 {
            return Ok(());
        }
        let workspace = &mut self.workspace;
        arguments.partial = workspace.partial.of(&self.stream, 4 * launch.partial)?.address();
        arguments.arrived = workspace.arrived.of(&self.stream, 4 * launch.arrived)?.address();
        arguments.splits = launch.splits as i32;
        arguments.stored = i32::from(!own_store);
        // Every pass begins with copies, so the position and all earlier tokens were there before the kernel ahead began.
        arguments.early = i32::from(own_store);
        if skip > 0 {
            // The queries left are those of a text that begins later.
            arguments.n = rows as i32;
            arguments.rows.q = q.at(4 * skip * tokens.0).address();
            // Where `begin` put the position of the first of them.
            arguments.position = self.position.pointer().at(4).address();
        }
        let geometry = Geometry { grid: launch.grid, block: launch.block, shared: launch.shared };
        let (module, kernel) = (&*launch.module, &*launch.kernel);
        match decode {
            true => {
                let rotated = RotatedAttentionArgs { attention: arguments, rotation };
                // SAFETY: all lengths were checked; the workspace has the sizes of the plan.
                unsafe { self.launch(module, kernel, geometry, &rotated) }
            }
            // SAFETY: as above.
            false => unsafe { self.launch(module, kernel, geometry, &arguments) },
        }
    }
}

fn rotation(
    norms: Option<(&Norm, &Norm)>,
    rotate: Option<Rotate<'_>>,
    n: usize,
    dim: usize,
) -> Result<RotationArgs> {
    let mut rotation = RotationArgs::default();
    if let Some((q, k)) = norms {
        rotation.q_norm = parameters(q)?.0.pointer().address();
        rotation.k_norm = parameters(k)?.0.pointer().address();
        rotation.norm = norm_kind(q);
        rotation.eps = q.epsilon;
        // One weight for all heads, or one for each.
        let stride = |norm: &Norm| if norm.weight.len() > dim { dim as i32 } else { 0 };
        (rotation.q_norm_stride, rotation.k_norm_stride) = (stride(q), stride(k));
    }
    if let Some(Rotate { style, pairs, cos, sin }) = rotate.filter(|r| r.pairs > 0) {
        let (cos, sin) = (cos.cuda()?, sin.cuda()?);
        same("attend: cosines", n * pairs, cos.len())?;
        same("attend: sines", n * pairs, sin.len())?;
        rotation.cos = cos.pointer().address();
        rotation.sin = sin.pointer().address();
        rotation.pairs = pairs as i32;
        rotation.interleaved = i32::from(style == RopeStyle::Interleaved);
    }
    Ok(rotation)
}
