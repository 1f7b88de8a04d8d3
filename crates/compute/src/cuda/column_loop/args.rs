//! Arguments of the column loop's kernels (kernels/gptq_*.cu): plain structs passed by value, the same bytes on both sides.
//! Pointers are addresses on the card.

/// One product: `c[m][n] (+)= Σ a[k][m] b[k][n]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Product {
    /// `[depth][a_stride]`
    pub a: u64,
    /// `[depth][width]`
    pub b: u64,
    /// `[rows][width]`
    pub c: u64,
    pub rows: u32,
    pub depth: u32,
    pub a_stride: u32,
    pub width: u32,
    /// 1: begin with what is in `c`; 0: with 0.
    pub add: u32,
    /// [`Mask`] as a number.
    pub mask: u32,
    /// 1: the last 16 of `depth` first.
    pub reverse: u32,
    pub spare: u32,
}

/// Which elements of `a` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mask {
    /// All.
    None = 0,
    /// Those with `k >= m`.
    FromDiagonal = 1,
    /// Those with `k <= m`.
    ToDiagonal = 2,
}

/// Arguments of `gptq_product_*`: as many products as the grid's z says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProductArgs {
    pub products: [Product; 2],
}

/// Arguments of `gptq_take_rows`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TakeRowsArgs {
    pub from: u64,
    pub to: u64,
    pub places: u64,
    pub alive: u64,
    pub rows: u32,
    pub columns: u32,
    pub width: u32,
    pub first: u32,
}

/// Arguments of `gptq_codes`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CodesArgs {
    pub levels: u64,
    pub lows: u64,
    pub places: u64,
    pub group: u64,
    pub codes: u64,
    pub rows: u32,
    pub columns: u32,
    pub width: u32,
    pub shift: f32,
}

/// Arguments of `gptq_losses`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LossesArgs {
    pub residual: u64,
    pub losses: u64,
    pub columns: u32,
    pub width: u32,
}

/// How GPTQ's codes are made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GridArgs {
    pub top: f32,
    pub symmetric: u32,
    pub search: u32,
}

/// Arguments of `gptq_make_up_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MakeUpArgs {
    pub factor: u64,
    pub weights: u64,
    pub values: u64,
    pub errors: u64,
    pub columns: u32,
    pub width: u32,
    pub size: u32,
    pub spare: u32,
}

/// Arguments of `gptq_choose`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ChooseArgs {
    pub values: u64,
    pub diagonal: u64,
    pub scales: u64,
    pub lows: u64,
    pub grid: GridArgs,
    pub width: u32,
    pub size: u32,
    pub spare: u32,
}

/// Arguments of `gptq_round_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundArgs {
    pub factor: u64,
    pub weights: u64,
    pub residual: u64,
    pub levels: u64,
    pub errors: u64,
    pub diagonal: u64,
    pub groups: u64,
    pub scales: u64,
    pub lows: u64,
    pub offsets: u64,
    pub grid: GridArgs,
    pub columns: u32,
    pub width: u32,
    pub size: u32,
    pub count: u32,
    pub started: u32,
}

/// Arguments of `gptq_refine_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RefineArgs {
    pub square: u64,
    pub gradient: u64,
    pub products: u64,
    pub levels: u64,
    pub changes: u64,
    pub groups: u64,
    pub scales: u64,
    pub lows: u64,
    pub span: f32,
    pub width: u32,
    pub size: u32,
    pub count: u32,
}

/// Floats of a square's rows in shared memory, as `triangle_floats` of kernels/gptq.cuh.
const fn triangle_floats(size: usize) -> usize {
    8 * (size / 16) * (size / 16 + 1) * 16 + 16
}

/// Floats that the kernels have beside it: errors of 16 columns twice.
const ERRORS: usize = 2 * 16 * 32;
/// What the warps of a block found: four numbers for each of 8 warps' 32 rows.
const FOUND: usize = 4 * 8 * 32;

/// Bytes of shared memory of `gptq_make_up_<block>`.
pub(super) const fn make_up_bytes(block: usize) -> u32 {
    (4 * (triangle_floats(block) + ERRORS + block + 3 * 32 * block)) as u32
}

/// Bytes of shared memory of `gptq_round_<block>`.
pub(super) const fn round_bytes(block: usize) -> u32 {
    (4 * (triangle_floats(block) + ERRORS + block + 3 * 32 * block + 2 * block + FOUND)) as u32
}

/// Bytes of shared memory of `gptq_refine_<block>`.
pub(super) const fn refine_bytes(block: usize) -> u32 {
    (4 * (triangle_floats(block) + ERRORS + block + 3 * 32 * block)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_have_the_bytes_that_kernels_expect() {
        assert_eq!((size_of::<Product>(), size_of::<TakeRowsArgs>(), size_of::<CodesArgs>()), (56, 48, 56));
        assert_eq!((size_of::<LossesArgs>(), size_of::<MakeUpArgs>(), size_of::<ChooseArgs>()), (24, 48, 56));
        assert_eq!((size_of::<RoundArgs>(), size_of::<RefineArgs>()), (112, 80));
        // An A100 has 163 KiB for a block, Turing 64.
        assert!(round_bytes(128) < 100 << 10 && round_bytes(64) < 64 << 10);
    }
}
