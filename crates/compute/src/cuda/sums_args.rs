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
