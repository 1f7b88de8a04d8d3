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
    pub products: [Product; 3],
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
    pub scale: f32,
}

/// Arguments of `gptq_place_lines`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PlaceLinesArgs {
    pub from: u64,
    pub to: u64,
    pub added: u64,
    pub places: u64,
    pub alive: u64,
    pub rows: u32,
    pub columns: u32,
    pub width: u32,
    pub share: f32,
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

/// How weights are stored: GPTQ's codes have the first three, block types the others.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KindArgs {
    pub top: f32,
    pub symmetric: u32,
    pub search: u32,
    pub low: f32,
    pub high: f32,
    pub code_low: f32,
    pub code_high: f32,
    pub offset_high: f32,
}

/// Parameters of all groups and units.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ParametersArgs {
    pub scales: u64,
    pub lows: u64,
    pub offsets: u64,
    pub scale_codes: u64,
    pub offset_codes: u64,
    pub unit_scales: u64,
    pub unit_offsets: u64,
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

/// Arguments of `gptq_start_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StartArgs {
    pub factor: u64,
    pub residual: u64,
    pub minus: u64,
    pub columns: u32,
    pub width: u32,
    pub size: u32,
    pub spare: u32,
}

/// Arguments of `gptq_choose` and `gptq_blocks_choose`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ChooseArgs {
    pub values: u64,
    pub diagonal: u64,
    pub parameters: ParametersArgs,
    pub kind: KindArgs,
    pub width: u32,
    pub size: u32,
    pub group: u32,
    pub unit: u32,
}

/// Arguments of `gptq_round_*` and `gptq_blocks_round_*`.
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
    pub parameters: ParametersArgs,
    pub kind: KindArgs,
    pub columns: u32,
    pub width: u32,
    pub size: u32,
    pub count: u32,
    pub started: u32,
}

/// Arguments of `gptq_blocks_begin`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BeginArgs {
    pub values: u64,
    pub diagonal: u64,
    pub groups: u64,
    pub curvature: u64,
    pub parameters: ParametersArgs,
    pub kind: KindArgs,
    pub width: u32,
    pub spare: u32,
}

/// Arguments of `gptq_blocks_shared`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SharedArgs {
    pub diagonal: u64,
    pub groups: u64,
    pub curvature: u64,
    pub parameters: ParametersArgs,
    pub kind: KindArgs,
    pub width: u32,
    pub count: u32,
    pub unit: u32,
    pub spare: u32,
}

/// Arguments of `gptq_along`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AlongArgs {
    pub levels: u64,
    pub groups: u64,
    pub parameters: ParametersArgs,
    pub along: u64,
    pub below: u64,
    pub width: u32,
    pub count: u32,
}

/// Arguments of `gptq_sweep`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SweepArgs {
    pub square: u64,
    pub gradient: u64,
    pub levels: u64,
    pub changes: u64,
    pub along: u64,
    pub below: u64,
    pub along_h: u64,
    pub below_h: u64,
    pub groups: u64,
    pub parameters: ParametersArgs,
    pub kind: KindArgs,
    pub width: u32,
    pub size: u32,
    pub count: u32,
    pub buffers: u32,
}

/// Arguments of `gptq_refine`.
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

/// Bytes of shared memory of `gptq_refine`.
pub(super) const fn refine_bytes() -> u32 {
    (4 * (triangle_floats(128) + ERRORS + 128 + 32 * 128)) as u32
}

/// Bytes of shared memory of `gptq_sweep` for pieces of `size` positions.
pub(super) const fn sweep_bytes(size: usize, buffers: usize) -> u32 {
    (4 * (32 * size + buffers * 256 * 16 + ERRORS + 32 * 32 + 2 * 256)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_have_the_bytes_that_kernels_expect() {
        assert_eq!((size_of::<Product>(), size_of::<TakeRowsArgs>(), size_of::<CodesArgs>()), (56, 48, 56));
        assert_eq!(
            (size_of::<LossesArgs>(), size_of::<MakeUpArgs>(), size_of::<ChooseArgs>()),
            (24, 48, 120)
        );
        assert_eq!((size_of::<RoundArgs>(), size_of::<RefineArgs>(), size_of::<StartArgs>()), (168, 80, 40));
        assert_eq!((size_of::<BeginArgs>(), size_of::<SharedArgs>()), (128, 128));
        assert_eq!(
            (size_of::<AlongArgs>(), size_of::<SweepArgs>(), size_of::<PlaceLinesArgs>()),
            (96, 176, 56)
        );
        // An A100 has 163 KiB for a block, others of compute capability 8 99, Turing 64.
        assert!(round_bytes(128) < 99 << 10 && round_bytes(64) < 64 << 10 && refine_bytes() < 64 << 10);
        assert!(sweep_bytes(256, 2) < 99 << 10 && sweep_bytes(256, 1) <= 63 << 10);
    }
}
