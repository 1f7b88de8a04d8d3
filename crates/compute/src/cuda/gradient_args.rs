//! Arguments of the kernels of gradients (kernels/gradients.cu, kernels/gradients_attention.cu), field for field: each is
//! passed by value as the kernel's one parameter.

use super::args::Address;

/// `HeadNormArgs` of kernels/gradients.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadNormArgs {
    /// f32, rows of `dim`.
    pub x: Address,
    /// f32, `[weights][dim]`.
    pub weight: Address,
    /// f32, rows of `dim`; 0 forward.
    pub d: Address,
    /// Numbers that are normalized together.
    pub dim: i32,
    /// Row `i` has weight `i % weights`.
    pub weights: i32,
    /// 1 RMS, 2 layer norm.
    pub kind: i32,
    /// Added to the mean square or the variance.
    pub eps: f32,
}

/// `GateArgs` of kernels/gradients.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GateArgs {
    /// f32.
    pub gate: Address,
    /// f32, or 0.
    pub up: Address,
    /// f32, or 0.
    pub d: Address,
    /// Numbers.
    pub length: i64,
    /// 0 SiLU, 1 GELU, 2 GELU by tanh, 3 ReLU.
    pub activation: i32,
    /// Fills up to a multiple of 8 bytes.
    pub unused: i32,
}

/// `RotateArgs` of kernels/gradients.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RotateArgs {
    /// f32, `[rows][heads][dim]`.
    pub x: Address,
    /// f32, `[rows][pairs]`.
    pub cos: Address,
    /// f32, `[rows][pairs]`.
    pub sin: Address,
    /// Tokens.
    pub rows: i32,
    /// Heads.
    pub heads: i32,
    /// Numbers of a head.
    pub dim: i32,
    /// Pairs of a head that are rotated.
    pub pairs: i32,
    /// 1: pairs are neighbours.
    pub interleaved: i32,
    /// -1 rotates back.
    pub sign: f32,
}

/// `ColumnsMoveArgs` of kernels/gradients.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ColumnsMoveArgs {
    /// f32, or 0.
    pub from: Address,
    /// f32.
    pub to: Address,
    /// From a row of `from` to the next.
    pub from_stride: i64,
    /// From a row of `to` to the next.
    pub to_stride: i64,
    /// Rows of `from`.
    pub rows: i32,
    /// Numbers of a row of it.
    pub width: i32,
    /// The first column that is one.
    pub first: i32,
    /// Fills up to a multiple of 8 bytes.
    pub unused: i32,
}

/// `AttentionGradientArgs` of `kernels/gradients_attention.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AttentionGradientArgs {
    /// f32, `[tokens][heads][dim]`.
    pub q: Address,
    /// f32, `[tokens][kv_heads][dim]`.
    pub k: Address,
    /// f32, `[tokens][kv_heads][dim]`.
    pub v: Address,
    /// f32, as `q`.
    pub out: Address,
    /// f32, `[tokens][heads]`.
    pub log_sums: Address,
    /// f32, as `q`.
    pub d_out: Address,
    /// f32, `[tokens][heads]`.
    pub owed: Address,
    /// f32, as `q`.
    pub d_q: Address,
    /// f32, as `k`.
    pub d_k: Address,
    /// f32, as `k`.
    pub d_v: Address,
    /// Tokens of the sequence.
    pub tokens: i32,
    /// Query heads.
    pub heads: i32,
    /// Key-value heads.
    pub kv_heads: i32,
    /// Numbers of a head.
    pub dim: i32,
    /// What products are multiplied with.
    pub scale: f32,
    /// 0: none.
    pub softcap: f32,
    /// 0: all positions.
    pub window: i32,
    /// Fills up to a multiple of 8 bytes.
    pub unused: i32,
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use super::*;

    #[test]
    fn structs_are_as_the_kernels_have_them() {
        assert_eq!((size_of::<HeadNormArgs>(), size_of::<GateArgs>(), size_of::<RotateArgs>()), (40, 40, 48));
        assert_eq!((size_of::<ColumnsMoveArgs>(), size_of::<AttentionGradientArgs>()), (48, 112));
    }
}
