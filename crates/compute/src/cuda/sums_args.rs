//! Arguments of the kernels of sums of products and their factors (kernels/{gram,factor}.cu), field for field: each is
//! passed by value as the kernel's one parameter.

use super::args::Address;

/// `PackArgs` of kernels/gram.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PackArgs {
    /// f32, `[tokens][columns]`.
    pub x: Address,
    /// Where both planes go.
    pub packed: Address,
    /// Bytes of a plane.
    pub plane: u64,
    /// Rows of `x`.
    pub tokens: u32,
    /// Numbers of a row.
    pub columns: u32,
    /// Rows of a strip: a multiple of 32.
    pub padded_tokens: u32,
}

/// `GramArgs` of kernels/gram.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GramArgs {
    /// Packed.
    pub a: Address,
    /// Packed; may be `a`.
    pub b: Address,
    /// f32, `[rows][columns]`.
    pub sum: Address,
    /// Bytes of a plane of `a`.
    pub a_plane: u64,
    /// Bytes of a plane of `b`.
    pub b_plane: u64,
    /// Columns of `a`.
    pub rows: u32,
    /// Columns of `b`.
    pub columns: u32,
    /// Rows of a strip.
    pub padded_tokens: u32,
    /// 1: only the lower triangle.
    pub triangle: u32,
}

/// `ProductsArgs` of kernels/products_f32.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProductsArgs {
    /// f32, `[depth][a_stride]`.
    pub a: Address,
    /// f32, `[depth][b_stride]`.
    pub b: Address,
    /// f32, `[rows][stride]`.
    pub sum: Address,
    /// Columns of `a`.
    pub rows: u32,
    /// Columns of `b`.
    pub columns: u32,
    /// Rows of `a` and `b`.
    pub depth: u32,
    /// From a row of `a` to the next.
    pub a_stride: u32,
    /// From a row of `b` to the next.
    pub b_stride: u32,
    /// From a row of `sum` to the next.
    pub stride: u32,
    /// 1: only the lower triangle.
    pub triangle: u32,
    /// 1 or -1.
    pub sign: f32,
    /// A u32; unless it is `!0` nothing is done. 0: no such condition.
    pub stop: Address,
}

/// `SubtractArgs` of kernels/gram.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SubtractArgs {
    /// f32.
    pub a: Address,
    /// f32.
    pub b: Address,
    /// f32; may be either.
    pub out: Address,
    /// Numbers.
    pub length: u64,
}

/// `FactorArgs` of kernels/factor.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FactorArgs {
    /// f32, `[n][n]`.
    pub a: Address,
    /// The first bad pivot, a u32; `!0` so far.
    pub stop: Address,
    /// Rows and columns.
    pub n: u32,
    /// First row of the block.
    pub start: u32,
    /// The row behind its last.
    pub end: u32,
    /// Pivots are above it.
    pub least: f32,
    /// Room for the block's own square, [`PACKED_SQUARE`] f32.
    pub square: Address,
}

/// Numbers of a block's lower triangle, rows filled up to whole fours.
pub const PACKED_SQUARE: usize = 4 * 33 * 64;

/// `ArrangeArgs` of kernels/factor.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ArrangeArgs {
    /// f32, `[n][n]`, of which the lower triangle is read.
    pub sum: Address,
    /// u32: the row at each place.
    pub order: Address,
    /// f32: what the diagonal becomes.
    pub diagonal: Address,
    /// f32, `[n][n]`.
    pub out: Address,
    /// Rows and columns.
    pub n: u32,
}

/// `MirrorArgs` of kernels/factor.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MirrorArgs {
    /// f32, `[n][n]`.
    pub a: Address,
    /// Rows and columns.
    pub n: u32,
}

/// `Piece` of kernels/factor.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PieceArgs {
    /// Where its square begins.
    pub at: u64,
    /// Its first row.
    pub start: u32,
    /// Its rows.
    pub size: u32,
}

/// `PiecesArgs` of kernels/factor.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PiecesArgs {
    /// f32, `[n][n]`, of which the upper triangle is read.
    pub a: Address,
    /// f32: the diagonal.
    pub diagonal: Address,
    /// [`PieceArgs`], one for each block in x.
    pub pieces: Address,
    /// The squares, f32.
    pub values: Address,
    /// Rows and columns.
    pub n: u32,
}

/// `DiagonalArgs` of kernels/factor.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DiagonalArgs {
    /// f32, `[n][n]`.
    pub a: Address,
    /// f32, `[n]`.
    pub out: Address,
    /// Rows and columns.
    pub n: u32,
}

/// `CheckArgs` of kernels/factor.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CheckArgs {
    /// f32, `[n][n]`, of which the lower triangle is read.
    pub a: Address,
    /// A u64: the first place, `!0` before.
    pub first: Address,
    /// Rows and columns.
    pub n: u32,
}

/// `AddArgs` of kernels/factor.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AddArgs {
    /// f32.
    pub to: Address,
    /// f32.
    pub from: Address,
    /// Numbers.
    pub length: u64,
}
