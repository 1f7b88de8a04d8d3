//! Plans attention on a card: the layout of a layer's cache, and the geometry of the launches. No call to the driver.
//!
//! ```text
//! cache of a layer   keys, values, (q8_0) scales of the keys, scales of the values; each begins at a multiple of 256 bytes
//!   numbers          [kv_heads][context][row]        f32, f16, or int8 codes
//!   scales           [kv_heads][context][row / 32]   f16
//! ```
//!
//! `row` is the head's size padded to 16 bytes, for q8_0 to 32 numbers. The tiles are those of the kernels' sources
//! (`kernels/attention_*.cu`), which take the same constants from the head's size and the target they are compiled for.

use super::Generation;
use super::args::{Address, KvCacheArgs};
use crate::executor::KvType;

/// Where the parts of a cache begin.
const ALIGNMENT: u64 = 256;
/// Keys a block of `attention_decode` takes at least, where there are as many.
const DECODE_KEYS: usize = 128;
/// Tokens up to which `attention_decode` takes a batch.
pub const DECODE_TOKENS: usize = 4;
/// The largest head that the kernels take.
pub const MOST_HEAD_DIM: usize = crate::executor::MOST_GPU_HEAD;

/// Bytes of a number (q8_0: of a code), and to how many numbers rows are padded.
const fn size(numbers: KvType) -> (usize, usize) {
    match numbers {
        KvType::F32 => (4, 4),
        KvType::F16 => (2, 8),
        KvType::Q8_0 => (1, 32),
    }
}

/// Layout of one layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLayout {
    /// How numbers are stored.
    pub numbers: KvType,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// Positions there is room for.
    pub context: usize,
    /// There are no values, nor scales of them.
    pub keys_only: bool,
}

impl CacheLayout {
    /// Numbers from a position to the next.
    pub fn row(&self) -> usize {
        self.head_dim.next_multiple_of(size(self.numbers).1)
    }

    /// Where values, the keys' scales, the values' scales begin, and the end of all; `None` beyond what can be counted.
    fn parts(&self) -> Option<[u64; 4]> {
        let factors = [self.kv_heads, self.context, self.row()];
        let count = factors.iter().try_fold(1u64, |all, &f| all.checked_mul(f as u64))?;
        let plane = count.checked_mul(size(self.numbers).0 as u64)?.checked_next_multiple_of(ALIGNMENT)?;
        let scales = match self.numbers {
            KvType::Q8_0 => (count / 32 * 2).checked_next_multiple_of(ALIGNMENT)?,
            KvType::F32 | KvType::F16 => 0,
        };
        let both = if self.keys_only { 1 } else { 2 };
        let codes = plane.checked_mul(both)?;
        let scales_end = scales.checked_mul(both)?;
        Some([plane, codes, codes.checked_add(scales)?, codes.checked_add(scales_end)?])
    }

    /// Bytes of one layer's cache; `None` beyond what can be counted, or where the kernels' 32-bit numbers end.
    pub fn bytes(&self) -> Option<u64> {
        i32::try_from(self.context).ok()?;
        self.parts().map(|parts| parts[3])
    }

    /// The kernels' view of a cache that begins at this address, a multiple of 256.
    pub fn args(&self, base: Address) -> Option<KvCacheArgs> {
        let [v, k_scales, v_scales, _] = self.parts()?;
        let scale = |offset| if self.numbers == KvType::Q8_0 { base + offset } else { 0 };
        Some(KvCacheArgs {
            k: base,
            v: base + v,
            k_scales: scale(k_scales),
            v_scales: scale(v_scales),
            context: i32::try_from(self.context).ok()?,
            row: i32::try_from(self.row()).ok()?,
        })
    }
}

/// One launch of an attention kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionLaunch {
    /// Module that holds the kernel.
    pub module: String,
    /// The kernel's name.
    pub kernel: String,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Parts into which the keys are split.
    pub splits: usize,
    /// Numbers (f32) of partial results.
    pub partial: usize,
    /// Counters of arrived blocks.
    pub arrived: usize,
}

/// The smallest of these that a head fits in.
fn fitting(dim: usize, of: &[usize]) -> Option<usize> {
    of.iter().copied().find(|&size| size >= dim)
}

/// Attention of one layer, as far as it shapes launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionPlan {
    /// The cache.
    pub cache: CacheLayout,
    /// Query heads, a multiple of the key-value heads.
    pub heads: usize,
    /// The card's multiprocessors.
    pub processors: usize,
    /// Of the card.
    pub generation: Generation,
}

impl AttentionPlan {
    fn group(&self) -> usize {
        self.heads / self.cache.kv_heads
    }

    /// The kernel that stores and rotates `n` tokens: name, grid. Blocks have 256 threads.
    pub fn rope_store(&self, n: usize) -> (String, [u32; 3]) {
        let rows = self.heads + 2 * self.cache.kv_heads;
        (format!("rope_store_{}", self.cache.numbers.name()), [rows.div_ceil(8) as u32, n as u32, 1])
    }

    /// Attention of `n` tokens, the last at position `end - 1`. In a captured graph `end` is the context's: the
    /// launch then serves every length.
    ///
    /// Up to [`DECODE_TOKENS`] tokens over an f16 or q8_0 cache it is `attention_decode`, which takes
    /// [`super::args::RotatedAttentionArgs`] and may rotate and store them itself; the others take
    /// [`super::args::AttentionArgs`] after `rope_store`. `None` for heads that no kernel takes.
    pub fn attention(&self, n: usize, end: usize) -> Option<AttentionLaunch> {
        match self.cache.numbers {
            KvType::F32 => self.exact(n, end),
            KvType::F16 | KvType::Q8_0 if n <= DECODE_TOKENS => self.decode(n, end),
            KvType::F16 | KvType::Q8_0 => self.prompt(n, end),
        }
    }

    fn launch(&self, tile: Tile, n: usize, splits: usize) -> AttentionLaunch {
        let (kv_heads, blocks) = (self.cache.kv_heads, self.blocks(n, tile.rows));
        let rows = blocks / kv_heads;
        let (x, z) = if tile.splits_first { (splits, rows) } else { (rows, splits) };
        AttentionLaunch {
            module: tile.module,
            kernel: tile.kernel,
            grid: [x as u32, kv_heads as u32, z as u32],
            block: tile.threads,
            shared: tile.shared as u32,
            splits,
            partial: if splits > 1 { blocks * splits * tile.rows * (tile.width + 2) } else { 0 },
            arrived: blocks,
        }
    }

    fn decode(&self, n: usize, end: usize) -> Option<AttentionLaunch> {
        let width = fitting(self.cache.head_dim, &[64, 128, 256])?;
        let rows = if n * self.group() <= 8 || width == 256 { 8 } else { 16 };
        let blocks = self.blocks(n, rows);
        // Two blocks share a multiprocessor where the keys are small and long texts wait for them.
        let each = if self.cache.numbers == KvType::Q8_0 && end > 8192 { 2 } else { 1 };
        let splits = (each * self.processors / blocks).clamp(1, end.div_ceil(DECODE_KEYS).max(1));
        let kernel = format!("attention_decode_{}_{width}_{rows}", self.cache.numbers.name());
        // Queries as operands, then results of eight or four warps, or the rows that queries were made from.
        let slots = if rows * width <= 1024 { 8 } else { 4 };
        let shared = 4 * width * (rows + (slots * rows).max(8));
        let module = "attention_decode".to_owned();
        let tile = Tile { module, kernel, rows, width, threads: 256, shared, splits_first: true };
        Some(self.launch(tile, n, splits))
    }

    fn prompt(&self, n: usize, end: usize) -> Option<AttentionLaunch> {
        let dim = fitting(self.cache.head_dim, &[64, 80, 96, 112, 128, 160, 192, 256])?;
        if self.generation == Generation::Hopper {
            return self.wgmma(dim, n, end);
        }
        let (tiles, warps, keys, stages) = match self.generation {
            Generation::Turing => (1, 4, if dim <= 128 { 32 } else { 16 }, 1),
            Generation::Ampere | Generation::Hopper if dim <= 128 => {
                (2, 4, if dim <= 96 { 64 } else { 32 }, 2)
            }
            Generation::Ampere | Generation::Hopper if dim <= 160 => (1, 8, 32, 2),
            Generation::Ampere | Generation::Hopper => (1, 4, if dim <= 192 { 32 } else { 16 }, 2),
        };
        let (rows, stride, codes) = (16 * tiles * warps, dim + 8, dim.next_multiple_of(32));
        let shared = match self.cache.numbers {
            KvType::Q8_0 => 2 * stride * (rows + 2 * keys) + 2 * keys * (codes + codes / 16),
            KvType::F16 | KvType::F32 => 2 * stride * (rows + 2 * stages * keys),
        };
        let kernel = format!("attention_prompt_{}", self.cache.numbers.name());
        let module = format!("attention_prompt_{dim}");
        let (threads, width) = (32 * warps as u32, fitting(dim, &[64, 128, 256])?);
        let tile = Tile { module, kernel, rows, width, threads, shared, splits_first: false };
        let splits = self.splits(self.blocks(n, rows), end, 4 * keys);
        Some(self.launch(tile, n, splits))
    }

    fn wgmma(&self, dim: usize, n: usize, end: usize) -> Option<AttentionLaunch> {
        // Blocks of 64 rows while all of them run at once: the work is shared out better.
        let groups = if self.blocks(n, 64) <= 2 * self.processors { 1 } else { 2 };
        let (rows, slabs, codes) = (64 * groups, dim.div_ceil(64), dim.next_multiple_of(32));
        let (queries, tile) = (slabs * rows * 128, slabs * 64 * 128);
        let shared = 1024
            + queries
            + match self.cache.numbers {
                KvType::Q8_0 => 2 * tile + 128 * (codes + codes / 16),
                KvType::F16 | KvType::F32 => 4 * tile,
            };
        let kernel = format!("attention_wgmma_{}", self.cache.numbers.name());
        let module = format!("attention_wgmma_{dim}_{groups}");
        let (threads, width) = (128 * groups as u32, fitting(dim, &[64, 128, 256])?);
        let tile = Tile { module, kernel, rows, width, threads, shared, splits_first: false };
        let splits = self.splits(self.blocks(n, rows), end, 256);
        Some(self.launch(tile, n, splits))
    }

    /// Blocks that `rows` query rows each make of a batch.
    fn blocks(&self, n: usize, rows: usize) -> usize {
        self.cache.kv_heads * (n * self.group()).div_ceil(rows)
    }

    fn exact(&self, n: usize, end: usize) -> Option<AttentionLaunch> {
        let width = fitting(self.cache.head_dim, &[64, 128, 256])?;
        let rows = if width == 256 { 16 } else { 32 };
        let shared = 4 * ((rows + 32) * (width + 4) + rows * 32);
        let splits = self.splits(self.blocks(n, rows), end, 128);
        let (module, kernel) = ("attention_exact".to_owned(), format!("attention_exact_{width}"));
        let tile = Tile { module, kernel, rows, width, threads: 128, shared, splits_first: false };
        Some(self.launch(tile, n, splits))
    }

    /// Splits of at least `least` keys each that give every multiprocessor work where the blocks alone leave most of
    /// them without.
    fn splits(&self, blocks: usize, end: usize, least: usize) -> usize {
        // More than eight cost more to combine than they save.
        (self.processors / blocks).min(8).clamp(1, (end / least).max(1))
    }
}

/// What a kernel takes at a time.
struct Tile {
    module: String,
    kernel: String,
    /// Query rows of a block.
    rows: usize,
    /// Numbers of a partial result's row.
    width: usize,
    threads: u32,
    shared: usize,
    /// Whether the splits are the grid's x.
    splits_first: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(numbers: KvType, kv_heads: usize, head_dim: usize, context: usize) -> CacheLayout {
        CacheLayout { numbers, kv_heads, head_dim, context, keys_only: false }
    }

    fn plan(
        numbers: KvType,
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        generation: Generation,
    ) -> AttentionPlan {
        AttentionPlan {
            cache: layout(numbers, kv_heads, head_dim, 32_768),
            heads,
            processors: 132,
            generation,
        }
    }

    #[test]
    fn parts_of_a_cache_are_apart_and_aligned() {
        let l = layout(KvType::F16, 8, 128, 4096);
        assert_eq!((l.row(), l.bytes()), (128, Some(2 * 8 * 4096 * 128 * 2)));
        let args = l.args(1 << 20).unwrap();
        assert_eq!((args.k, args.v, args.k_scales), (1 << 20, (1 << 20) + 8 * 4096 * 256, 0));
        // A head of 20 takes 24 halves, or 32 codes and a scale.
        assert_eq!(layout(KvType::F16, 1, 20, 3).row(), 24);
        let l = layout(KvType::Q8_0, 3, 20, 5);
        let args = l.args(4096).unwrap();
        assert_eq!((args.row, args.context), (32, 5));
        assert_eq!(
            [args.k, args.v, args.k_scales, args.v_scales],
            [4096, 4096 + 512, 4096 + 1024, 4096 + 1280]
        );
        assert_eq!(l.bytes(), Some(1536));
        assert_eq!(layout(KvType::F32, 1, 6, 1).row(), 8);
        assert_eq!(layout(KvType::F32, usize::MAX, 128, 4096).bytes(), None);
    }

    #[test]
    fn decode_fills_the_card_and_stays_within_the_keys() {
        let p = plan(KvType::F16, 32, 8, 128, Generation::Hopper);
        let launch = p.attention(1, 32_768).unwrap();
        assert_eq!(launch.kernel, "attention_decode_f16_128_8");
        assert_eq!((launch.splits, launch.grid, launch.arrived), (16, [16, 8, 1], 8));
        assert_eq!((launch.shared, launch.partial), (4096 + 32_768, 8 * 16 * 8 * 130));
        assert_eq!(p.attention(1, 512).unwrap().splits, 4);
        let codes = plan(KvType::Q8_0, 32, 8, 128, Generation::Hopper);
        assert_eq!(
            (codes.attention(1, 32_768).unwrap().splits, codes.attention(1, 4096).unwrap().splits),
            (33, 16)
        );
        let short = p.attention(1, 100).unwrap();
        assert_eq!((short.splits, short.partial), (1, 0));
        // Falcon: 71 heads over one, in blocks of 16 rows.
        let wide = plan(KvType::Q8_0, 71, 1, 64, Generation::Turing).attention(1, 32_768).unwrap();
        assert_eq!((wide.kernel.as_str(), wide.grid), ("attention_decode_q8_0_64_16", [52, 1, 5]));
    }

    #[test]
    fn prompts_take_the_kernel_of_the_head_and_the_target() {
        let p = plan(KvType::F16, 32, 8, 128, Generation::Hopper);
        let launch = p.attention(512, 512).unwrap();
        assert_eq!(
            (launch.module.as_str(), launch.kernel.as_str()),
            ("attention_wgmma_128_1", "attention_wgmma_f16")
        );
        assert_eq!((launch.grid, launch.block, launch.splits), ([32, 8, 1], 128, 1));
        assert_eq!(launch.shared, 1024 + 16_384 + 65_536);
        let long = p.attention(4096, 4096).unwrap();
        assert_eq!(
            (long.module.as_str(), long.grid, long.block),
            ("attention_wgmma_128_2", [128, 8, 1], 256)
        );
        let launch = plan(KvType::Q8_0, 32, 8, 128, Generation::Ampere).attention(512, 512).unwrap();
        assert_eq!(
            (launch.module.as_str(), launch.kernel.as_str()),
            ("attention_prompt_128", "attention_prompt_q8_0")
        );
        assert_eq!(p.rope_store(512), ("rope_store_f16".to_owned(), [6, 512, 1]));
        // Few tokens over a long text are split.
        assert!(p.attention(8, 4096).unwrap().splits >= 8);
        assert_eq!(p.attention(8, 100).unwrap().splits, 1);
        for numbers in [KvType::F16, KvType::Q8_0] {
            for dim in (8..=256).step_by(8) {
                for (generation, most) in [
                    (Generation::Turing, 65_536),
                    (Generation::Ampere, 101_376),
                    (Generation::Hopper, 232_448),
                ] {
                    let launch = plan(numbers, 4, 2, dim, generation).attention(100, 100).unwrap();
                    assert!(
                        launch.shared + 16 <= most,
                        "{numbers:?} {dim} {generation:?}: {}",
                        launch.shared
                    );
                }
            }
        }
        assert_eq!(plan(KvType::F16, 4, 2, 257, Generation::Hopper).attention(1, 1), None);
    }

    #[test]
    fn f32_is_exact() {
        let launch = plan(KvType::F32, 32, 8, 20, Generation::Turing).attention(1, 4096).unwrap();
        assert_eq!((launch.kernel.as_str(), launch.block), ("attention_exact_64", 128));
        assert!(launch.splits > 1 && launch.shared <= 65_536);
    }
}
