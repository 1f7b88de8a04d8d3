//! The kernels of the column loop, ready to be launched.

use super::super::{Card, Function, Launch, Stream};
use super::Grid;
use super::args::{Product, ProductArgs, make_up_bytes, refine_bytes, round_bytes, sweep_bytes};
use crate::Result;

/// A kernel with its shared memory.
#[derive(Debug)]
pub(super) struct Kernel {
    function: Function,
    shared: u32,
}

/// How many blocks of how many threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    grid: [u32; 3],
    block: u32,
}

impl Shape {
    pub fn plain([x, y, z]: [usize; 3], block: u32) -> Self {
        Self { grid: [x as u32, y as u32, z as u32], block }
    }
}

impl Kernel {
    fn new(card: &Card, module: &str, name: &str, shared: u32) -> Result<Self> {
        let function = card.function(module, name)?;
        if shared > 0 {
            function.allow_shared(shared as usize)?;
        }
        Ok(Self { function, shared })
    }

    /// Queues it.
    ///
    /// # Safety
    /// As [`Launch::run`].
    pub unsafe fn run<A: Copy>(&self, stream: &Stream, shape: Shape, arguments: &A) -> Result<()> {
        let [x, y, z] = shape.grid;
        let launch = Launch::new(&self.function).grid(x, y, z).block(shape.block).shared(self.shared);
        // SAFETY: as the caller promises.
        unsafe { launch.run(stream, arguments)? };
        Ok(())
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Kernels {
    product_64: Kernel,
    product_128: Kernel,
    pub take_rows: Kernel,
    pub codes: Kernel,
    pub losses: Kernel,
    pub make_up: Kernel,
    pub start: Kernel,
    pub choose: Kernel,
    pub round: Kernel,
    pub refine: Refine,
    multiprocessors: usize,
}

/// The kernels of refinement, and what block types have besides.
#[derive(Debug)]
pub(super) enum Refine {
    /// `gptq_refine`
    Gptq(Kernel),
    /// A block type's.
    Blocks {
        begin: Kernel,
        shared: Kernel,
        along: Kernel,
        sweep: Kernel,
        /// How many times 16 columns are in shared memory.
        buffers: usize,
    },
}

impl Kernels {
    /// For blocks of `block` positions, 128 or 64, and pieces of at most `piece`.
    pub fn new(card: &Card, grid: Grid, block: usize, piece: usize) -> Result<Self> {
        let kernel = |module: &str, name: &str, shared| Kernel::new(card, module, name, shared);
        let (choose, round, refine) = match grid {
            Grid::Gptq { .. } => (
                kernel("gptq_round", "gptq_choose", 0)?,
                kernel("gptq_round", &format!("gptq_round_{block}"), round_bytes(block))?,
                Refine::Gptq(kernel("gptq_refine", "gptq_refine", refine_bytes())?),
            ),
            Grid::Blocks(blocks) => {
                let loops = format!("gptq_blocks_{}", blocks.kind.suffix());
                let sweeps = format!("gptq_sweep_{}", blocks.kind.suffix());
                // The kernel has some bytes of its own.
                let fits = sweep_bytes(piece, 2) as usize + 1024 <= card.info().shared_memory;
                let buffers = if fits { 2 } else { 1 };
                (
                    kernel(&loops, "gptq_blocks_choose", 0)?,
                    kernel(&loops, &format!("gptq_blocks_round_{block}"), round_bytes(block))?,
                    Refine::Blocks {
                        begin: kernel(&loops, "gptq_blocks_begin", 0)?,
                        shared: kernel(&loops, "gptq_blocks_shared", 0)?,
                        along: kernel(&sweeps, "gptq_along", 0)?,
                        sweep: kernel(&sweeps, "gptq_sweep", sweep_bytes(piece, buffers))?,
                        buffers,
                    },
                )
            }
        };
        Ok(Self {
            product_64: kernel("gptq_product", "gptq_product_64", 0)?,
            product_128: kernel("gptq_product", "gptq_product_128", 0)?,
            take_rows: kernel("gptq_rows", "gptq_take_rows", 0)?,
            codes: kernel("gptq_rows", "gptq_codes", 0)?,
            losses: kernel("gptq_rows", "gptq_losses", 0)?,
            make_up: kernel("gptq_round", &format!("gptq_make_up_{block}"), make_up_bytes(block))?,
            start: kernel("gptq_round", &format!("gptq_start_{block}"), make_up_bytes(block))?,
            choose,
            round,
            refine,
            multiprocessors: card.info().multiprocessors,
        })
    }

    /// Queues one to three products, which do not depend on each other.
    ///
    /// # Safety
    /// The matrices are there.
    pub unsafe fn multiply(&self, stream: &Stream, products: &[Product]) -> Result<()> {
        let mut all = ProductArgs::default();
        all.products[..products.len()].copy_from_slice(products);
        let most = |of: fn(&Product) -> u32| products.iter().map(of).max().unwrap_or(0) as usize;
        let (rows, width) = (most(|p| p.rows), most(|p| p.width));
        if rows == 0 || width == 0 {
            return Ok(());
        }
        let tiles = |side: usize| [rows.div_ceil(side), width.div_ceil(side), products.len()];
        // Large tiles read less, but must be enough for all multiprocessors.
        let (kernel, side, block) = match tiles(128).iter().product::<usize>() >= self.multiprocessors {
            true => (&self.product_128, 128, 256),
            false => (&self.product_64, 64, 128),
        };
        // SAFETY: as the caller promises.
        unsafe { kernel.run(stream, Shape::plain(tiles(side), block), &all) }
    }
}
