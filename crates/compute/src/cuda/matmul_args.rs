//! Arguments of the matrix product kernels for many tokens as the kernels read them (kernels/{prepare,matmul_wgmma,matmul,
//! matmul_f32}.cu): plain structs passed by value, the same bytes on both sides. `matmul_plan.rs` has the launches.

use super::formats::MatrixArgs;

/// One matrix of a launch; `MatmulMatrix` of kernels/matmul.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MatmulMatrixArgs {
    /// The weights; their columns a multiple of 32.
    pub weights: MatrixArgs,
    /// Address of the output, f32 `[n][out_stride]`.
    pub out: u64,
    /// Address of the bias, f32, or 0.
    pub bias: u64,
    /// Floats from a token to the next in `out`.
    pub out_stride: u32,
    /// `MatmulPlan::first_tile`.
    pub first_tile: u32,
}

/// Arguments of `matmul_n*`; `MatmulArgs` of kernels/matmul.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MatmulArgs {
    /// The matrices, `matrices` of them.
    pub matrix: [MatmulMatrixArgs; 3],
    /// Address of the prepared activations.
    pub x: u64,
    /// Address of the tokens' scales.
    pub x_scale: u64,
    /// Address of the workspace for sums.
    pub sums: u64,
    /// Address of the workspace for flags.
    pub ready: u64,
    /// Tokens.
    pub n: u32,
    /// `MatmulPlan::padded_n`.
    pub padded_n: u32,
    /// Columns of the matrices.
    pub columns: u32,
    /// `MatmulPlan::steps`.
    pub steps: u32,
    /// How many matrices.
    pub matrices: u32,
    /// `MatmulPlan::row_tiles`.
    pub row_tiles: u32,
    /// `MatmulPlan::token_tiles`.
    pub token_tiles: u32,
    /// `MatmulPlan::parts`.
    pub parts: u32,
    /// One of the `MODE_` constants.
    pub mode: u32,
    /// A power of two that weights are multiplied by on the way to f16; [`WEIGHT_FACTOR`], or 1 for f16 weights.
    pub factor: f32,
    /// The activation of a gated pair.
    pub gate: [f32; 2],
    /// Where the values of a gated pair are cut off, 1 being added to the second; 0: nowhere, and nothing is added.
    pub limit: f32,
    /// Fills up to a multiple of 8 bytes.
    pub unused: u32,
}

/// Store the product.
pub const MODE_STORE: u32 = 0;
/// Add the product to the output.
pub const MODE_ADD: u32 = 1;
/// Store `act(matrix 0) * matrix 1`.
pub const MODE_GATED: u32 = 2;

/// The usual [`MatmulArgs::factor`] of packed and bf16 weights: values from 2^-17 to 8000 are normal f16 numbers.
pub const WEIGHT_FACTOR: f32 = 8.0;
/// [`MatmulArgs::gate`] of `silu`.
pub const GATE_SILU: [f32; 2] = [1.0, 0.0];
/// [`MatmulArgs::gate`] of `gelu` in its tanh form.
pub const GATE_GELU_TANH: [f32; 2] = [1.595_769, 0.071_354_81];
/// [`MatmulArgs::gate`] of `relu`.
pub const GATE_RELU: [f32; 2] = [1e30, 0.0];
/// [`MatmulArgs::gate`] and [`MatmulArgs::limit`] of the clamped SwiGLU.
pub const GATE_CLAMPED_SWIGLU: ([f32; 2], f32) = ([1.702, 0.0], 7.0);

/// Arguments of `prepare_x16`; `PrepareArgs` of kernels/prepare.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PrepareArgs {
    /// Address of the input, f32 `[n][x_stride]`.
    pub x: u64,
    /// Address of the second input of a gated activation, `[n][up_stride]`, or 0.
    pub up: u64,
    /// Address of the norm's weight.
    pub weight: u64,
    /// Address of the norm's bias, or 0.
    pub bias: u64,
    /// Address of the columns' permutation (i32), or 0.
    pub permutation: u64,
    /// Address of the output, `PreparePlan::out_bytes`.
    pub out: u64,
    /// Address of the scales, `PreparePlan::scale_bytes`.
    pub scale: u64,
    /// Tokens.
    pub n: u32,
    /// Tokens rounded up to a multiple of 8.
    pub padded_n: u32,
    /// Columns.
    pub columns: u32,
    /// Floats from a token to the next in `x`.
    pub x_stride: u32,
    /// Floats from a token to the next in `up`.
    pub up_stride: u32,
    /// 0 none, 1 RMS norm, 2 Layer norm.
    pub norm: u32,
    /// With `up`: 0 silu, 1 gelu, 2 gelu in its tanh form, 3 relu.
    pub activation: u32,
    /// `PreparePlan::cached`.
    pub cached: u32,
    /// The norm's epsilon.
    pub eps: f32,
}

/// Arguments of `matmul_f32_n*`; `MatmulF32Args` of kernels/matmul_f32.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MatmulF32Args {
    /// Address of the weights, f32 `[rows][columns]`.
    pub weights: u64,
    /// Address of the input, f32 `[n][x_stride]`.
    pub x: u64,
    /// Address of the output, f32 `[n][out_stride]`.
    pub out: u64,
    /// Address of the bias, or 0.
    pub bias: u64,
    /// Rows.
    pub rows: u32,
    /// Columns.
    pub columns: u32,
    /// Tokens.
    pub n: u32,
    /// Floats from a token to the next in `x`.
    pub x_stride: u32,
    /// Floats from a token to the next in `out`.
    pub out_stride: u32,
    /// 1: add to what is in `out`.
    pub add: u32,
}

// The sizes that the kernels' structs have.
const _: () = assert!(size_of::<MatmulMatrixArgs>() == 72 && size_of::<MatmulArgs>() == 304);
const _: () = assert!(size_of::<PrepareArgs>() == 96 && size_of::<MatmulF32Args>() == 56);
