//! Latent attention: queries take up the keys' matrices, attention is over the cached vectors, and the values' matrices
//! multiply what it gathered.

use quern_tensor_io::ElementType;

use super::super::Pointer;
use super::super::args::KvCacheArgs;
use super::super::mixer_args::{LatentArgs, LatentHeadsArgs, LatentStoreArgs};
use super::{Executor, Geometry};
use crate::LatentShape;
use crate::error::same;
use crate::executor::{
    AttendLatent, KvCache, KvType, LatentMatrices, Linear, MOST_GPU_ABSORBED, MOST_GPU_LATENT, Rotate,
};
use crate::ops::RopeStyle;
use crate::{Error, Result};

/// Rows of queries that a block takes, and positions of a tile.
const ROWS: usize = 8;
const KEYS: usize = 16;
/// Rows of a block, and positions of a tile, on tensor cores; bytes of shared memory beside these.
const PROMPT_ROWS: usize = 32;
const PROMPT_STATIC: usize = 8 << 10;
/// Positions that a split has at least.
const LEAST: usize = 64;
/// Splits that are added up, at most.
const MOST_SPLITS: usize = 512;
/// Tokens up to which a warp takes a row of a head's matrix.
const FEW: usize = 8;

/// The vectors that heads multiply with their matrices. Strides in numbers: from a token to the next, from a head to the
/// next.
struct Product<'a> {
    matrices: &'a [Linear],
    x: (Pointer, usize, usize),
    out: (Pointer, usize, usize),
    tokens: usize,
}

impl Executor {
    /// As [`crate::Executor::attend_latent`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit, a cache too short.
    pub fn attend_latent(&mut self, cache: &mut KvCache, attend: AttendLatent<'_>) -> Result<()> {
        let AttendLatent { shape, up, slot, first, skip, rotate, chosen, q, latent, out } = attend;
        if chosen.is_some() {
            return Err(Error::Device);
        }
        let LatentMatrices::Card { keys, values } = up else { return Err(Error::Device) };
        let cache = cache.cuda()?;
        let (q, latent, out) = (q.cuda()?, latent.cuda()?, out.cuda()?);
        let LatentShape { heads, rank, rope, nope, value, scale: _ } = shape;
        let (query, cached) = (nope + rope, rank + rope);
        let width = heads * query;
        let n = latent.len() / cached.max(1);
        same("latent attention: rows of latent vectors", n * cached, latent.len())?;
        same("latent attention: a row of queries for each latent vector", n * width, q.len())?;
        same("latent attention: output", (n - skip) * heads * value, out.len())?;
        for (matrices, rows, columns) in [(keys, rank, nope), (values, value, rank)] {
            same("latent attention: a matrix for each head", heads, matrices.len())?;
            for (head, matrix) in matrices.iter().enumerate() {
                same("latent attention: rows of a head's matrix", rows, matrix.weight.rows())?;
                same("latent attention: columns of a head's matrix", columns, matrix.weight.columns())?;
                if !matrix.weight.cuda()?.follows(matrices[0].weight.cuda()?, head) {
                    return Err(Error::Device);
                }
            }
        }
        let layout = cache.layout();
        if first + n > layout.context || (layout.kv_heads, layout.head_dim) != (1, cached) {
            let what = "latent attention: positions of the cache";
            return Err(Error::Lengths { what, expected: first + n, found: layout.context });
        }
        let base = cache.layer(slot)?.address();
        let cache = layout.args(base).ok_or(Error::CacheMemory { context: layout.context })?;
        let numbers = layout.numbers.name();
        self.store(cache, numbers, &shape, rotate, (q.pointer(), latent.pointer(), n))?;
        if skip == n {
            return Ok(());
        }
        let size = [128, 320, MOST_GPU_LATENT].into_iter().find(|&size| size >= cached);
        let size = size.ok_or(Error::NoGpuKernel { what: "latent vectors so long" })?;
        let each = (MOST_GPU_ABSORBED / (heads * rank).max(1)).max(ROWS);
        for start in (skip..n).step_by(each) {
            let tokens = each.min(n - start);
            let bytes = 4 * tokens * heads * rank;
            let absorbed = self.workspace.absorbed.of(&self.stream, bytes)?;
            let gathered = self.workspace.gathered.of(&self.stream, bytes)?;
            let q = q.pointer().at(4 * start * width);
            self.of_heads(&Product {
                matrices: keys,
                x: (q, width, query),
                out: (absorbed, heads * rank, rank),
                tokens,
            })?;
            let arguments = LatentArgs {
                absorbed: absorbed.address(),
                q: q.address(),
                cache,
                out: gathered.address(),
                position: self.position.pointer().address(),
                n: tokens as i32,
                heads: heads as i32,
                rank: rank as i32,
                nope: nope as i32,
                rope: rope as i32,
                scale: shape.scale,
                offset: start as i32,
                ..LatentArgs::default()
            };
            self.gather_latent((layout.numbers, size), layout.context, arguments)?;
            self.of_heads(&Product {
                matrices: values,
                x: (gathered, heads * rank, rank),
                out: (out.pointer().at(4 * (start - skip) * heads * value), heads * value, value),
                tokens,
            })?;
        }
        Ok(())
    }

    /// Rotates and stores.
    fn store(
        &mut self,
        cache: KvCacheArgs,
        numbers: &str,
        shape: &LatentShape,
        rotate: Option<Rotate<'_>>,
        (q, latent, n): (Pointer, Pointer, usize),
    ) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        let mut arguments = LatentStoreArgs {
            q: q.address(),
            latent: latent.address(),
            position: self.position.pointer().address(),
            cache,
            n: n as i32,
            heads: shape.heads as i32,
            query: (shape.nope + shape.rope) as i32,
            cached: (shape.rank + shape.rope) as i32,
            ..LatentStoreArgs::default()
        };
        if let Some(Rotate { style, pairs, cos, sin }) = rotate.filter(|r| r.pairs > 0) {
            let (cos, sin) = (cos.cuda()?, sin.cuda()?);
            same("latent attention: rotated numbers", 2 * pairs, shape.rope)?;
            same("latent attention: cosines", n * pairs, cos.len())?;
            same("latent attention: sines", n * pairs, sin.len())?;
            arguments.cos = cos.pointer().address();
            arguments.sin = sin.pointer().address();
            arguments.pairs = pairs as i32;
            arguments.interleaved = i32::from(style == RopeStyle::Interleaved);
        }
        let geometry = Geometry::rows([(shape.heads + 1).div_ceil(8) as u32, n as u32, 1]);
        // SAFETY: all lengths were checked.
        unsafe { self.launch("latent", &format!("latent_store_{numbers}"), geometry, &arguments) }
    }

    /// Attention over the cache, its positions split among blocks where queries are few.
    fn gather_latent(
        &mut self,
        (numbers, size): (KvType, usize),
        context: usize,
        mut a: LatentArgs,
    ) -> Result<()> {
        let rows = a.n as usize * a.heads as usize;
        if self.many_latent((numbers, size), rows, a.rank as usize) {
            a.splits = 1;
            let kernel = format!("latent_prompt_{}_{size}", numbers.name());
            let shared = (4 * PROMPT_ROWS * (size + 8)) as u32;
            let geometry = Geometry { grid: [rows.div_ceil(PROMPT_ROWS) as u32, 1, 1], block: 256, shared };
            // SAFETY: queries, cache and results have the lengths that the arguments give.
            return unsafe { self.launch("latent_prompt", &kernel, geometry, &a) };
        }
        let kernel = format!("latent_attention_{}_{size}", numbers.name());
        let blocks = rows.div_ceil(ROWS);
        let end = self.depth.min(context);
        let processors = self.card.info().multiprocessors;
        let splits = (3 * processors / blocks).clamp(1, end.div_ceil(LEAST).clamp(1, MOST_SPLITS));
        a.splits = splits as i32;
        if splits > 1 {
            let numbers = splits * rows * (a.rank as usize + 2);
            a.partial = self.workspace.partial.of(&self.stream, 4 * numbers)?.address();
        }
        let shared = 4 * (ROWS + KEYS) * (size + 4);
        let geometry =
            Geometry { grid: [blocks as u32, splits as u32, 1], block: 256, shared: shared as u32 };
        // SAFETY: queries, cache, results and partial results have the lengths that the arguments give.
        unsafe { self.launch("latent", &kernel, geometry, &a)? };
        if splits > 1 {
            let grid = [rows as u32, (a.rank as u32).div_ceil(128), 1];
            let geometry = Geometry { grid, block: 128, shared: 0 };
            // SAFETY: as above.
            unsafe { self.launch("latent", "latent_combine", geometry, &a)? };
        }
        Ok(())
    }

    /// Whether tensor cores take rows of queries: a cache in 16 bits or less, rows enough for a part of the
    /// multiprocessors, each of which is several times as fast, and shared memory for a block.
    fn many_latent(&self, (numbers, size): (KvType, usize), rows: usize, rank: usize) -> bool {
        let info = self.card.info();
        let narrow = match numbers {
            KvType::F32 => false,
            KvType::F16 | KvType::Q8_0 => true,
        };
        // Eight warps share the columns, in tiles of which each has a power of two.
        let most_rank = if size.is_power_of_two() { size } else { size.next_power_of_two() / 2 };
        let shared = 4 * PROMPT_ROWS * (size + 8) + PROMPT_STATIC;
        narrow
            && rank <= most_rank
            && 4 * rows >= PROMPT_ROWS * info.multiprocessors
            && shared <= info.shared_memory
    }

    /// Each head's vectors times its matrix.
    fn of_heads(&mut self, product: &Product<'_>) -> Result<()> {
        let &Product { matrices, x, out, tokens } = product;
        let Some(first) = matrices.first() else { return Ok(()) };
        let weight = first.weight.cuda()?.on(&self.card)?;
        let numbers = match weight.element_type {
            ElementType::F32 => "f32",
            ElementType::F16 => "f16",
            ElementType::BF16 => "bf16",
            element_type => return Err(Error::Unsupported { element_type }),
        };
        let (rows, columns) = (weight.rows, weight.columns);
        let arguments = LatentHeadsArgs {
            weights: weight.planes(0)[0].address(),
            x: x.0.address(),
            out: out.0.address(),
            n: tokens as i32,
            rows: rows as i32,
            columns: columns as i32,
            stride: weight.format.padded(columns) as i32,
            x_token: x.1 as i32,
            x_head: x.2 as i32,
            out_token: out.1 as i32,
            out_head: out.2 as i32,
        };
        let (kernel, [rows, tokens]) = match tokens <= FEW {
            true => ("heads", [rows.div_ceil(8), tokens.div_ceil(4)]),
            false => ("product", [rows.div_ceil(64), tokens.div_ceil(64)]),
        };
        let geometry = Geometry::rows([rows as u32, matrices.len() as u32, tokens as u32]);
        // SAFETY: the caller gives vectors and results of these lengths.
        unsafe { self.launch("latent", &format!("latent_{kernel}_{numbers}"), geometry, &arguments) }
    }
}
