//! Arguments of the kernels of mixers (`gates.cu`, `convolution.cu`, `delta_rule.cu`, `selective_scan.cu`, `latent.cu`), which
//! have the same structs, field for field, and say what the fields mean.

use super::args::{Address, KvCacheArgs};

/// Arguments of `gates_part` and `gates_front`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PartArgs {
    /// Rows that are read.
    pub x: Address,
    /// Rows that are written.
    pub out: Address,
    /// Gates, `[n][query]`.
    pub gates: Address,
    /// Rows.
    pub n: i32,
    /// Numbers of a row of `x` that are read.
    pub width: i32,
    /// From a row of `x` to the next.
    pub x_stride: i32,
    /// From a row of `out` to the next.
    pub out_stride: i32,
    /// Numbers of all queries of a row.
    pub query: i32,
    /// Numbers of a head.
    pub dim: i32,
}

/// Arguments of `gates_sigmoid`, `gates_norm` and `gates_gated_norm`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GatesArgs {
    /// Rows, for the norms.
    pub x: Address,
    /// Gates.
    pub gate: Address,
    /// Weight of the norm.
    pub weight: Address,
    /// Result.
    pub out: Address,
    /// Rows.
    pub n: i32,
    /// Numbers that are normalized together, or of a row.
    pub width: i32,
    /// From a row of `x` to the next.
    pub x_stride: i32,
    /// From a row of `gate` to the next.
    pub gate_stride: i32,
    /// From a row of `out` to the next.
    pub out_stride: i32,
    /// From a group's weight to the next; 0: one for all.
    pub weight_stride: i32,
    /// Added to the mean square.
    pub eps: f32,
    /// Fills up.
    pub unused: i32,
}

/// Arguments of `causal_convolution`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ConvolutionArgs {
    /// Inputs.
    pub x: Address,
    /// What inputs are multiplied with, or 0.
    pub gate: Address,
    /// What results are multiplied with, or 0.
    pub after: Address,
    /// `[taps][channels]`.
    pub weight: Address,
    /// `[channels]`, or 0.
    pub bias: Address,
    /// `[taps - 1][channels]`.
    pub state: Address,
    /// Results.
    pub out: Address,
    /// Tokens.
    pub n: i32,
    /// Channels.
    pub channels: i32,
    /// Taps, at most 8.
    pub taps: i32,
    /// From a row of `x`, `gate` and `after` to the next.
    pub x_stride: i32,
    /// From a row of `out` to the next.
    pub out_stride: i32,
    /// Tokens without a result.
    pub skip: i32,
    /// 1: SiLU of the results.
    pub silu: i32,
    /// Fills up.
    pub unused: i32,
}

/// Arguments of `delta_rule_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeltaArgs {
    /// Queries, keys and values.
    pub x: Address,
    /// Steps, before the sigmoid.
    pub beta: Address,
    /// Decays, before rate and bias.
    pub alpha: Address,
    /// Of each head.
    pub rates: Address,
    /// Of each head.
    pub bias: Address,
    /// The state.
    pub state: Address,
    /// `[n][value_heads * value_dim]`.
    pub out: Address,
    /// Tokens.
    pub n: i32,
    /// Heads of keys and queries.
    pub key_heads: i32,
    /// Heads of values.
    pub value_heads: i32,
    /// Numbers of a key.
    pub key_dim: i32,
    /// Numbers of a value.
    pub value_dim: i32,
    /// 1: value head `h` has key head `h % key_heads`.
    pub tiled: i32,
    /// From a row of `x` to the next.
    pub x_stride: i32,
    /// From a row of `beta` and `alpha` to the next.
    pub gate_stride: i32,
}

/// Arguments of `selective_scan_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScanArgs {
    /// Inputs, `b` and `c`.
    pub x: Address,
    /// Steps, before bias and softplus.
    pub steps: Address,
    /// Of each head.
    pub rates: Address,
    /// Of each head.
    pub bias: Address,
    /// Of each head.
    pub skips: Address,
    /// The state.
    pub state: Address,
    /// `[n][heads * head_dim]`.
    pub out: Address,
    /// Tokens.
    pub n: i32,
    /// Heads.
    pub heads: i32,
    /// Numbers of a head.
    pub head_dim: i32,
    /// Groups that share `b` and `c`.
    pub groups: i32,
    /// Numbers of `b` and of `c`.
    pub rows: i32,
    /// From a row of `x` to the next.
    pub x_stride: i32,
    /// From a row of `steps` to the next.
    pub step_stride: i32,
    /// Steps are at least this,
    pub least: f32,
    /// and at most this.
    pub most: f32,
    /// Fills up.
    pub unused: i32,
}

/// Arguments of `latent_store_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LatentStoreArgs {
    /// Queries, `[n][heads][query]`.
    pub q: Address,
    /// Latent vectors with the rotated part behind them, `[n][cached]`.
    pub latent: Address,
    /// Cosines, `[n][pairs]`.
    pub cos: Address,
    /// Sines, likewise.
    pub sin: Address,
    /// Position of the first token, one i32.
    pub position: Address,
    /// The layer's cache.
    pub cache: KvCacheArgs,
    /// Tokens.
    pub n: i32,
    /// Heads.
    pub heads: i32,
    /// Numbers of a query.
    pub query: i32,
    /// Numbers of a position.
    pub cached: i32,
    /// Pairs that are rotated.
    pub pairs: i32,
    /// 1 if pairs are adjacent numbers.
    pub interleaved: i32,
}

/// Arguments of `latent_heads_*` and `latent_product_*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LatentHeadsArgs {
    /// `[heads][rows][stride]`.
    pub weights: Address,
    /// Vectors.
    pub x: Address,
    /// Results.
    pub out: Address,
    /// Tokens.
    pub n: i32,
    /// Rows of a head's matrix.
    pub rows: i32,
    /// Its columns.
    pub columns: i32,
    /// From a row of it to the next.
    pub stride: i32,
    /// From a token's vectors to the next token's.
    pub x_token: i32,
    /// From a head's vector to the next head's.
    pub x_head: i32,
    /// The same of results.
    pub out_token: i32,
    /// The same of results.
    pub out_head: i32,
}

/// Arguments of `latent_attention_*` and `latent_combine`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LatentArgs {
    /// Absorbed queries, `[n][heads][rank]`.
    pub absorbed: Address,
    /// Rotated queries, `[n][heads][nope + rope]`.
    pub q: Address,
    /// The layer's cache.
    pub cache: KvCacheArgs,
    /// `[n][heads][rank]`.
    pub out: Address,
    /// Position of the pass's first token, one i32.
    pub position: Address,
    /// Partial results.
    pub partial: Address,
    /// Tokens.
    pub n: i32,
    /// Heads.
    pub heads: i32,
    /// Numbers of a latent vector.
    pub rank: i32,
    /// Numbers of a query that are not rotated.
    pub nope: i32,
    /// Numbers of a query and a position that are.
    pub rope: i32,
    /// Parts into which the positions are split.
    pub splits: i32,
    /// What scores are multiplied with.
    pub scale: f32,
    /// How far behind the pass's first token the first of these is.
    pub offset: i32,
}

const _: () = assert!(size_of::<PartArgs>() == 48 && size_of::<GatesArgs>() == 64);
const _: () = assert!(size_of::<ConvolutionArgs>() == 88 && size_of::<DeltaArgs>() == 88);
const _: () = assert!(size_of::<ScanArgs>() == 96 && size_of::<LatentStoreArgs>() == 104);
const _: () = assert!(size_of::<LatentHeadsArgs>() == 56 && size_of::<LatentArgs>() == 112);
