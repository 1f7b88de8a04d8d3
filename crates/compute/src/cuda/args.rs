//! Arguments of the kernels of attention, rows, experts and statistics: each is passed by value as the kernel's one
//! parameter. The sources in `kernels/` have the same structs, field for field, and say what the fields mean.
//!
//! A pointer is an address of device memory; 0 where there is none.

/// Address in device memory.
pub type Address = u64;

/// Where q, k and v of a batch are (`attention.cuh`, `QkvRows`). Strides in numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QkvRows {
    /// First query, f32.
    pub q: Address,
    /// First key, f32.
    pub k: Address,
    /// First value, f32.
    pub v: Address,
    /// From a token's queries to the next token's.
    pub q_token: i32,
    /// From the queries of a key-value head to those of the next.
    pub q_group: i32,
    /// From a token's keys (and values) to the next token's.
    pub kv_token: i32,
    /// From a head's key (and value) to the next head's.
    pub kv_group: i32,
}

/// One layer's cache (`attention.cuh`, `KvCache`); [`super::attention_plan::CacheLayout`] makes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KvCacheArgs {
    /// Keys, or their codes.
    pub k: Address,
    /// Values, or their codes.
    pub v: Address,
    /// Scales of the keys (q8_0).
    pub k_scales: Address,
    /// Scales of the values (q8_0).
    pub v_scales: Address,
    /// Positions there is room for.
    pub context: i32,
    /// Numbers from a position to the next.
    pub row: i32,
}

/// Added to [`RotationArgs::norm`] where the rotation comes before the norm.
pub const NORM_LAST: i32 = 4;

/// What happens to q and k before attention (`attention.cuh`, `Rotation`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RotationArgs {
    /// Cosines, `[n][pairs]` f32.
    pub cos: Address,
    /// Sines, likewise.
    pub sin: Address,
    /// Weight of the queries' norm.
    pub q_norm: Address,
    /// Weight of the keys' norm.
    pub k_norm: Address,
    /// Pairs of a head that are rotated; 0: none.
    pub pairs: i32,
    /// 1 if pairs are adjacent numbers, 0 if they are `pairs` apart.
    pub interleaved: i32,
    /// 0 no norm, 1 RMS, 2 layer norm; plus [`NORM_LAST`].
    pub norm: i32,
    /// From a query head's weight to the next; 0: one for all.
    pub q_norm_stride: i32,
    /// From a key head's weight to the next; 0: one for all.
    pub k_norm_stride: i32,
    /// Added to the mean square or the variance.
    pub eps: f32,
}

/// Arguments of `attention_prompt_*` and `attention_exact_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AttentionArgs {
    /// The batch.
    pub rows: QkvRows,
    /// The layer's cache.
    pub cache: KvCacheArgs,
    /// Result, `[n][heads * dim]` f32.
    pub out: Address,
    /// Position of the batch's first token, one i32.
    pub position: Address,
    /// Partial results of splits; [`super::attention_plan`] says how much.
    pub partial: Address,
    /// One u32 for each key-value head and block of rows, zero before the first launch.
    pub arrived: Address,
    /// A score for each query head that joins the sum of its softmax, or 0.
    pub sinks: Address,
    /// Tokens.
    pub n: i32,
    /// Query heads.
    pub heads: i32,
    /// Key-value heads.
    pub kv_heads: i32,
    /// Numbers of a head.
    pub dim: i32,
    /// What scores are multiplied with.
    pub scale: f32,
    /// Soft cap of scores; 0: none.
    pub softcap: f32,
    /// Positions a query sees, its own included; 0: all.
    pub window: i32,
    /// Parts into which the keys are split, as launched.
    pub splits: i32,
    /// `attention_decode` only: 1 if `rope_store` has run for the batch.
    pub stored: i32,
    /// `attention_decode` only: 1 if position and the cache of earlier tokens were complete before the kernel ahead of
    /// this one began, as in a pass whose first kernel is an ordinary launch.
    pub early: i32,
}

/// Arguments of `rope_store_*` and `attention_decode_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RotatedAttentionArgs {
    /// Attention's.
    pub attention: AttentionArgs,
    /// Norm and rotation.
    pub rotation: RotationArgs,
}

/// Arguments of `rows_norm` and `rows_head_norm`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NormArgs {
    /// Rows, f32.
    pub x: Address,
    /// Weight, `[width]`, or for heads as `weight_stride` says.
    pub weight: Address,
    /// Bias, or 0.
    pub bias: Address,
    /// Result; may be `x`.
    pub out: Address,
    /// Rows.
    pub n: i32,
    /// Numbers of a row, or of a head.
    pub width: i32,
    /// From a row of `x` to the next.
    pub stride: i32,
    /// From a row of `out` to the next.
    pub out_stride: i32,
    /// 1 RMS, 2 layer norm.
    pub kind: i32,
    /// Heads of a row (`rows_head_norm`).
    pub heads: i32,
    /// From a head's weight to the next; 0: one for all.
    pub weight_stride: i32,
    /// Added to the mean square or the variance.
    pub eps: f32,
}

/// Arguments of `rows_add_norm`: `y = norm(y)` where it has a weight, `x += y`, `out = norm(x)` where that has one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AddNormArgs {
    /// The residual stream.
    pub x: Address,
    /// What is added; overwritten by its norm.
    pub y: Address,
    /// Weight of the norm of `y`, or 0.
    pub y_weight: Address,
    /// Its bias, or 0.
    pub y_bias: Address,
    /// Weight of the norm of the sum, or 0.
    pub weight: Address,
    /// Its bias, or 0.
    pub bias: Address,
    /// Result; `x` itself where the sum is not needed.
    pub out: Address,
    /// Rows.
    pub n: i32,
    /// Numbers of a row.
    pub width: i32,
    /// 1 RMS, 2 layer norm.
    pub kind: i32,
    /// Added to the mean square or the variance.
    pub eps: f32,
}

/// Arguments of the kernels of `rows.cu` that work number by number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MapArgs {
    /// Result.
    pub x: Address,
    /// First input.
    pub y: Address,
    /// Second input (`rows_activate_mul`).
    pub z: Address,
    /// i32: rows (`rows_copy`) or columns (`rows_permute`) of `y`.
    pub order: Address,
    /// Rows.
    pub n: i32,
    /// Numbers of a row.
    pub width: i32,
    /// From a row of `x` to the next.
    pub x_stride: i32,
    /// From a row of `y` to the next.
    pub y_stride: i32,
    /// From a row of `z` to the next.
    pub z_stride: i32,
    /// 0 SiLU, 1 GELU, 2 GELU by tanh, 3 ReLU, 4 the clamped SwiGLU, 5 ReLU squared.
    pub activation: i32,
    /// Factor, or cap.
    pub value: f32,
    /// Fills up to a multiple of 8 bytes.
    pub unused: i32,
}

/// Arguments of `rows_xielu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct XieluArgs {
    /// `[n][width]`, f32.
    pub x: Address,
    /// Rows.
    pub n: i32,
    /// Numbers of a row.
    pub width: i32,
    /// As [`Xielu::positive`](crate::ops::Xielu::positive).
    pub positive: f32,
    /// As [`Xielu::negative`](crate::ops::Xielu::negative).
    pub negative: f32,
    /// As [`Xielu::beta`](crate::ops::Xielu::beta).
    pub beta: f32,
    /// As [`Xielu::eps`](crate::ops::Xielu::eps).
    pub eps: f32,
}

/// Arguments of `experts_route`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RouteArgs {
    /// The router's outputs, `[n][count]`.
    pub logits: Address,
    /// `[count]`: added to scores for the choice, or 0.
    pub bias: Address,
    /// i32 `[n][used]`: chosen experts by number.
    pub expert: Address,
    /// f32 `[n][used]`: their shares.
    pub share: Address,
    /// Tokens.
    pub n: i32,
    /// Experts, at most 1024.
    pub count: i32,
    /// Chosen of them.
    pub used: i32,
    /// 1 if shares are made to sum to one.
    pub normalized: i32,
    /// 0 softmax, 1 sigmoid, 2 sparse mixer.
    pub scores: i32,
    /// Groups of experts; 0: none.
    pub groups: i32,
    /// Groups that are kept.
    pub groups_used: i32,
    /// What groups are ordered by: 0 the largest rank, 1 the sum of the two largest.
    pub group_rank: i32,
    /// What shares are multiplied with in the end.
    pub scale: f32,
    /// Of the sparse mixer.
    pub jitter: f32,
}

/// Arguments of `experts_group`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GroupArgs {
    /// i32 `[n][used]`.
    pub expert: Address,
    /// f32 `[n][used]`.
    pub share: Address,
    /// i32 `[count + 1]`: where each expert's slots begin.
    pub first: Address,
    /// i32 `[n * used]`: the token of each slot.
    pub token: Address,
    /// i32 `[n][used]`: the slot of each choice.
    pub slot: Address,
    /// f32 `[n * used]`: the share of each slot.
    pub slot_share: Address,
    /// Tokens.
    pub n: i32,
    /// Experts.
    pub count: i32,
    /// Chosen of them.
    pub used: i32,
    /// Fills up to a multiple of 8 bytes.
    pub unused: i32,
}

/// Arguments of `experts_gather`, `experts_scatter`, `experts_combine` and `experts_gate`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MoveArgs {
    /// Rows of tokens, `[n][width]`.
    pub x: Address,
    /// Rows of slots, `[slots][width]`.
    pub rows: Address,
    /// i32: the token of each slot (gather, scatter).
    pub token: Address,
    /// i32 `[n][used]`: the slot of each choice (combine).
    pub slot: Address,
    /// f32: of each slot (scatter, gather), or `[n][used]` (combine); of each row, before the sigmoid (gate).
    pub share: Address,
    /// Numbers of a row.
    pub width: i32,
    /// Experts of a token (combine).
    pub used: i32,
    /// 1: shares are of what experts read (gather), not of what they make (combine).
    pub scaled: i32,
    /// Fills up.
    pub unused: i32,
}

/// Arguments of `statistics_rows`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StatisticsArgs {
    /// f32 rows.
    pub logits: Address,
    /// i32 for each row, or 0.
    pub target: Address,
    /// f64 for each row.
    pub log_sum_exp: Address,
    /// f32 for each row, if there are targets.
    pub target_logit: Address,
    /// i32 for each row: index of the largest logit.
    pub largest: Address,
    /// From a row to the next.
    pub stride: i64,
    /// Rows.
    pub rows: i32,
    /// Numbers of a row.
    pub vocab: i32,
}

/// Arguments of `statistics_kl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KlArgs {
    /// f32 rows of the reference.
    pub reference: Address,
    /// f32 rows of the model.
    pub logits: Address,
    /// f64 for each row.
    pub divergence: Address,
    /// From a row of the reference to the next.
    pub reference_stride: i64,
    /// From a row of the model to the next.
    pub stride: i64,
    /// Rows.
    pub rows: i32,
    /// Numbers of a row.
    pub vocab: i32,
}

/// Arguments of `statistics_columns`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ColumnsArgs {
    /// f32 `[rows][columns]`.
    pub x: Address,
    /// f64 for each column.
    pub sums: Address,
    /// Rows.
    pub rows: i32,
    /// Numbers of a row.
    pub columns: i32,
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn structs_are_as_the_kernels_have_them() {
        assert_eq!((size_of::<QkvRows>(), size_of::<KvCacheArgs>(), size_of::<RotationArgs>()), (40, 40, 56));
        assert_eq!((size_of::<AttentionArgs>(), size_of::<RotatedAttentionArgs>()), (160, 216));
        assert_eq!((offset_of!(AttentionArgs, out), offset_of!(AttentionArgs, scale)), (80, 136));
        assert_eq!(offset_of!(RotatedAttentionArgs, rotation), 160);
        assert_eq!((size_of::<NormArgs>(), size_of::<AddNormArgs>(), size_of::<MapArgs>()), (64, 72, 64));
        assert_eq!((size_of::<RouteArgs>(), size_of::<GroupArgs>()), (72, 64));
        assert_eq!((size_of::<MoveArgs>(), size_of::<StatisticsArgs>(), size_of::<KlArgs>()), (56, 56, 48));
        assert_eq!((size_of::<ColumnsArgs>(), size_of::<XieluArgs>()), (24, 32));
    }
}
