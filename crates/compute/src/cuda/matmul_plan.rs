//! The geometry of the matrix product kernels for many tokens (kernels/{prepare,matmul_wgmma,matmul,matmul_f32}.cu):
//! which entry point, grid, block, shared memory and workspace a product needs. Pure arithmetic; nothing here calls a
//! driver. `matmul_args.rs` has the arguments.

use super::Generation;

/// `matmul_wgmma.cu` serves [`Generation::Hopper`], `matmul.cu` the others.
impl Generation {
    /// Blocks that do a tile together (a cluster; the kernels of 9.0a declare it themselves).
    const fn cluster(self) -> u32 {
        match self {
            Self::Hopper => 2,
            Self::Ampere | Self::Turing => 1,
        }
    }

    /// Tokens of a tile, with the name of the entry point, widest first.
    const fn tiles(self) -> &'static [(u32, &'static str)] {
        const ALL: [(u32, &str); 5] = [
            (256, "matmul_n256"),
            (128, "matmul_n128"),
            (64, "matmul_n64"),
            (32, "matmul_n32"),
            (16, "matmul_n16"),
        ];
        match self {
            Self::Hopper => &ALL,
            Self::Ampere => ALL.split_at(1).1,
            Self::Turing => ALL.split_at(2).1,
        }
    }

    /// What a tile costs whatever its tokens (above all the conversion of the weights), as a number of tokens; measured on
    /// an H100.
    const fn tile_cost(self) -> u32 {
        match self {
            Self::Hopper => 180,
            Self::Ampere | Self::Turing => 56,
        }
    }

    /// Threads of a block.
    const fn block(self, tile: u32) -> u32 {
        match self {
            Self::Hopper if tile >= 128 => 384,
            Self::Hopper => 288,
            Self::Ampere | Self::Turing => 256,
        }
    }

    /// Dynamic shared memory of a block; above 48 KiB the function's limit must be raised first.
    const fn shared_bytes(self, tile: u32) -> u32 {
        let slab = 128 * tile;
        match self {
            Self::Hopper => {
                let stages = match tile {
                    256 => 6,
                    128 => 8,
                    _ => 16,
                };
                let round = if tile < 64 { tile } else { 64 };
                slab * stages + 2 * round * 68 * 4 + 16 * stages
            }
            Self::Ampere | Self::Turing => {
                let ring = if matches!(self, Self::Ampere) { 3 * slab } else { 2 * slab };
                let staging = (if tile == 128 { 32 } else { 16 }) * 260 * 4;
                if ring > staging { ring } else { staging }
            }
        }
    }
}

/// Rows of a tile; of each matrix of a gated pair half of them.
const HEIGHT: u32 = 256;

/// Columns of a unit of work; activations are padded to a multiple of it.
pub const STEP: u32 = 128;

/// What a launch of a matrix product needs. One launch serves up to three matrices of one format over the same input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatmulPlan {
    /// Entry point in the module of the matrices' format.
    pub kernel: &'static str,
    /// Blocks; a multiple of two for 9.0a, whose kernels are compiled for clusters of two.
    pub grid: u32,
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
    /// Tokens of a tile.
    pub tile: u32,
    /// Tiles over the tokens.
    pub token_tiles: u32,
    /// Tiles over the rows of all matrices (of one matrix of a gated pair).
    pub row_tiles: u32,
    /// For each matrix, the row tiles before it.
    pub first_tile: [u32; 3],
    /// Steps of 128 columns.
    pub steps: u32,
    /// Equal parts that `row_tiles * steps` are divided into.
    pub parts: u32,
    /// Tokens rounded up to a multiple of 8.
    pub padded_n: u32,
    /// Workspace for sums of unfinished tiles; any contents.
    pub sums_bytes: u64,
    /// Workspace for their flags: zero before the first launch, zero again after each.
    pub ready_bytes: u64,
}

/// What adding another part's sums to a tile costs, in steps (measured on an H100).
const JOIN_COST: u32 = 3;

impl MatmulPlan {
    /// The plan for matrices of `rows` rows each (one to three, or two of the same number as a `gated` pair) over the same
    /// `n` tokens of `columns` values, on a card with `multiprocessors`.
    ///
    /// # Panics
    /// Never for `rows` of one to three positive numbers and positive `columns`, `n` and `multiprocessors`.
    pub fn new(
        generation: Generation,
        rows: &[u32],
        columns: u32,
        n: u32,
        multiprocessors: u32,
        gated: bool,
    ) -> Self {
        let padded_n = n.next_multiple_of(8);
        let (tile, kernel) = generation
            .tiles()
            .iter()
            .copied()
            .min_by_key(|&(tile, _)| padded_n.div_ceil(tile) * (tile + generation.tile_cost()))
            .unwrap_or((16, "matmul_n16"));
        let token_tiles = padded_n.div_ceil(tile);
        let height = if gated { HEIGHT / 2 } else { HEIGHT };
        let mut first_tile = [0; 3];
        let mut row_tiles = 0;
        for (first, &rows) in first_tile.iter_mut().zip(rows) {
            *first = row_tiles;
            row_tiles += rows.div_ceil(height);
        }
        if gated {
            (row_tiles, first_tile) = (rows[0].div_ceil(height), [0; 3]);
        }
        let steps = columns.div_ceil(STEP);
        let parts = parts(row_tiles, steps, (multiprocessors / generation.cluster() / token_tiles).max(1));
        let grid = parts * token_tiles * generation.cluster();
        Self {
            kernel,
            grid,
            block: generation.block(tile),
            shared_bytes: generation.shared_bytes(tile),
            tile,
            token_tiles,
            row_tiles,
            first_tile,
            steps,
            parts,
            padded_n,
            sums_bytes: u64::from(grid) * u64::from(HEIGHT / generation.cluster() * tile) * 4,
            ready_bytes: u64::from(grid) * 32,
        }
    }
}

/// Into how many parts `row_tiles` tiles of `steps` steps are divided, at most `most`: the number whose longest part, with
/// the sums of others that it waits for, ends first.
fn parts(row_tiles: u32, steps: u32, most: u32) -> u32 {
    let units = row_tiles * steps;
    let cost = |parts: &u32| {
        let load = units.div_ceil(*parts);
        let joins = if row_tiles.is_multiple_of(*parts) {
            0
        } else if parts.is_multiple_of(row_tiles) {
            parts / row_tiles - 1
        } else {
            (steps - 1).div_ceil(load)
        };
        load + JOIN_COST * joins
    };
    (1..=most.min(units).max(1)).min_by_key(cost).unwrap_or(1)
}

/// The launch of `prepare_x16` for `n` tokens of `columns` values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreparePlan {
    /// Blocks of 256 threads: the tokens, padded.
    pub grid: u32,
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
    /// Whether the row is kept in shared memory (`PrepareArgs::cached`).
    pub cached: u32,
    /// Size of the prepared activations.
    pub out_bytes: u64,
    /// Size of the scales of the tokens.
    pub scale_bytes: u64,
}

impl PreparePlan {
    /// The plan on a card whose blocks may have `shared_limit` bytes of dynamic shared memory. `columns` are those of the
    /// weights, padded to whole records of 32. Long rows are kept only where computing them again costs more than the
    /// blocks that do not fit then: with an activation (`gated`).
    pub fn new(columns: u32, n: u32, gated: bool, shared_limit: u32) -> Self {
        let padded_n = n.next_multiple_of(8);
        let row = columns.next_multiple_of(4) * 4;
        let cached = row <= shared_limit && (gated || row <= 32 * 1024);
        Self {
            grid: padded_n,
            shared_bytes: if cached { row } else { 0 },
            cached: u32::from(cached),
            out_bytes: u64::from(columns.next_multiple_of(STEP)) * u64::from(padded_n) * 2,
            scale_bytes: u64::from(padded_n) * 4,
        }
    }
}

/// The launch of the f32 product: entry point and grid; blocks have 256 threads and no dynamic shared memory.
pub fn plan_f32(rows: u32, n: u32) -> (&'static str, [u32; 2]) {
    let (kernel, tile) = if n > 16 { ("matmul_f32_n64", 64) } else { ("matmul_f32_n16", 16) };
    (kernel, [rows.div_ceil(64), n.div_ceil(tile)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATIONS: [Generation; 3] = [Generation::Hopper, Generation::Ampere, Generation::Turing];

    /// Divides the work as `Work` of kernels/matmul.cuh does: every unit is done once, a block leaves at most one
    /// unfinished tile, and whoever finishes a tile finds the other pieces in lower-numbered parts.
    #[test]
    fn every_unit_is_done_once() {
        for (row_tiles, steps, most) in
            [(1, 1, 132), (32, 32, 66), (224, 32, 66), (32, 112, 66), (3, 7, 132), (48, 32, 132)]
        {
            let parts = parts(row_tiles, steps, most);
            assert!((1..=most).contains(&parts));
            let total = row_tiles * steps;
            let start = |p: u32| (u64::from(p) * u64::from(total) / u64::from(parts)) as u32;
            let mut done = vec![0; total as usize];
            for p in 0..parts {
                let (first, mut next, mut left) = (start(p), start(p + 1), 0);
                while next > first {
                    let tile = (next - 1) / steps;
                    let base = tile * steps;
                    let begin = first.max(base);
                    (begin..next).for_each(|u| done[u as usize] += 1);
                    if next < base + steps {
                        left += 1;
                    } else if begin > base {
                        // The lower parts that this one waits for reach down to the tile's first unit, and each of them
                        // ends inside the tile.
                        let mut q = p;
                        loop {
                            assert!(q > 0);
                            q -= 1;
                            assert!(start(q + 1) > base && start(q + 1) < base + steps);
                            if start(q) <= base {
                                break;
                            }
                        }
                    }
                    next = begin;
                }
                assert!(left <= 1);
            }
            assert!(done.iter().all(|&n| n == 1));
        }
    }

    #[test]
    fn plans_of_a_7b_model_fill_an_h100() {
        let plan = |rows: &[u32], columns, n, gated| {
            MatmulPlan::new(Generation::Hopper, rows, columns, n, 132, gated)
        };
        let qkv = plan(&[4096, 1024, 1024], 4096, 512, false);
        assert_eq!(
            (qkv.kernel, qkv.grid, qkv.block, qkv.row_tiles, qkv.token_tiles),
            ("matmul_n256", 128, 384, 24, 2)
        );
        assert_eq!(qkv.first_tile, [0, 16, 20]);
        assert_eq!(qkv.sums_bytes, 128 * 128 * 256 * 4);
        let gated = plan(&[14336, 14336], 4096, 512, true);
        assert_eq!((gated.row_tiles, gated.parts), (112, 33));
        assert_eq!(plan(&[4096], 14336, 16, false).kernel, "matmul_n16");
        assert_eq!(plan(&[128], 96, 9, false).grid, 2);
        // Every tile in two parts of equal length is better than one part more and tiles in three.
        assert_eq!(plan(&[4096], 4096, 512, false).parts, 32);
    }

    #[test]
    fn limits_of_the_cards() {
        for generation in GENERATIONS {
            for &(tile, _) in generation.tiles() {
                let limit = match generation {
                    Generation::Hopper => 232_448,
                    Generation::Ampere => 101_376,
                    Generation::Turing => 65_536,
                };
                assert!(generation.shared_bytes(tile) <= limit);
            }
            for n in 5..700 {
                let plan = MatmulPlan::new(generation, &[300, 77], 160, n, 46, false);
                assert!(
                    plan.tile * plan.token_tiles >= n
                        && plan.padded_n >= n
                        && plan.grid <= 46.max(2 * plan.token_tiles)
                );
                assert_eq!(plan.grid, plan.parts * plan.token_tiles * generation.cluster());
            }
        }
    }

    #[test]
    fn prepared_activations() {
        let plan = PreparePlan::new(96, 5, false, 48 * 1024);
        assert_eq!((plan.grid, plan.shared_bytes, plan.cached, plan.out_bytes), (8, 384, 1, 128 * 8 * 2));
        assert_eq!(PreparePlan::new(28672, 5, true, 48 * 1024).cached, 0);
        assert_eq!(PreparePlan::new(14336, 5, true, 227 * 1024).cached, 1);
        assert_eq!(PreparePlan::new(14336, 5, false, 227 * 1024).cached, 0);
        assert_eq!(plan_f32(100, 5), ("matmul_f32_n16", [2, 1]));
    }
}
