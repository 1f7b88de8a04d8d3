//! Types without a search: lanes run along the values of a block. Bound by memory, not arithmetic. What is
//! needed once per block (scales, their reciprocals, f16 fields) is computed for sixteen blocks at once.
//! See `scalar::blocks`.

use std::marker::PhantomData;

use quern_compute::simd::lanes::{LANES, LaneOp, Lanes};
use quern_tensor_io::layout::{self, Block, F16 as StoredF16, MXFP4, Q8_0 as StoredQ8_0, TQ1_0, TQ2_0};
use zerocopy::IntoBytes;

use super::super::numeric::mxfp4_scale;
use super::super::pack::{self, Affine32, Symmetric32};
use super::super::table::E2M1_DOUBLED;
use super::blocks::halves;

/// Encodes one block at a time after looking at sixteen.
pub(super) trait DirectEncoder<const N: usize>: Copy {
    /// What a block is stored as.
    type Block: Block;
    /// What a block needs to know.
    type Plan<S: Lanes>: Copy;
    /// Looks at up to sixteen blocks (missing ones are zeros) and plans each.
    fn plan<S: Lanes>(self, s: S, blocks: &[&[f32; N]; LANES]) -> Self::Plan<S>;
    /// Encodes the block planned in `lane`.
    fn encode<S: Lanes>(self, s: S, plan: &Self::Plan<S>, lane: usize, x: &[f32; N], out: &mut Self::Block);
}

/// All blocks of some rows.
pub(super) struct Encode<'a, E, const N: usize> {
    pub encoder: E,
    pub rows: &'a [f32],
    pub out: &'a mut [u8],
}

impl<E: DirectEncoder<N>, const N: usize> LaneOp for Encode<'_, E, N> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let zero = [0.0; N];
        let outs = layout::blocks_mut::<E::Block>(self.out).chunks_mut(LANES);
        for (blocks, out) in self.rows.as_chunks::<N>().0.chunks(LANES).zip(outs) {
            let mut lanes = [&zero; LANES];
            for (lane, block) in lanes.iter_mut().zip(blocks) {
                *lane = block;
            }
            let plan = self.encoder.plan(s, &lanes);
            for (lane, (x, out)) in blocks.iter().zip(out).enumerate() {
                self.encoder.encode(s, &plan, lane, x, out);
            }
        }
    }
}

/// Reduces each block to one value in its lane.
macro_rules! reduce {
    ($s:expr, $blocks:expr, |$x:ident| $map:expr, $best:ident) => {{
        let mut rows = [$s.splat(0.0); LANES];
        for (row, block) in rows.iter_mut().zip($blocks) {
            let values = block.as_chunks::<LANES>().0;
            let $x = $s.load(&values[0]);
            *row = $map;
            for values in &values[1..] {
                let $x = $s.load(values);
                *row = $s.$best(*row, $map);
            }
        }
        let columns = $s.transpose(rows);
        let mut best = columns[0];
        for column in &columns[1..] {
            best = $s.$best(best, *column);
        }
        best
    }};
}

#[inline(always)]
fn magnitudes<S: Lanes, const N: usize>(s: S, blocks: &[&[f32; N]; LANES]) -> S::F {
    reduce!(s, blocks, |x| s.abs(x), max)
}

/// `1/x`, or 0 for 0.
#[inline(always)]
fn reciprocal_or_zero<S: Lanes>(s: S, x: S::F) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    let none = s.splat(0.0);
    s.store(s.select(s.equal(x, none), none, s.splat(1.0) / x), &mut out);
    out
}

/// Adds the largest f32 below a half, away from zero: cutting off the fraction afterwards rounds to the
/// nearest whole number, ties away from zero.
#[inline(always)]
fn away<S: Lanes>(s: S, x: S::F) -> S::F {
    x + s.with_sign(s.splat(0.499_999_97), x)
}

/// f16 field and reciprocal of the scale of each block.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    d: [StoredF16; LANES],
    inverse: [f32; LANES],
}

/// `q8_0`.
#[derive(Clone, Copy)]
pub(super) struct Q8_0;

impl DirectEncoder<32> for Q8_0 {
    type Block = StoredQ8_0;
    type Plan<S: Lanes> = Scale;

    #[inline(always)]
    fn plan<S: Lanes>(self, s: S, blocks: &[&[f32; 32]; LANES]) -> Scale {
        let d = magnitudes(s, blocks) / s.splat(127.0);
        Scale { d: halves(s, d), inverse: reciprocal_or_zero(s, d) }
    }

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, plan: &Scale, lane: usize, x: &[f32; 32], out: &mut Self::Block) {
        out.d = plan.d[lane];
        let inverse = s.splat(plan.inverse[lane]);
        let qs = out.qs.as_mut_bytes();
        for (x, out) in x.as_chunks::<LANES>().0.iter().zip(qs.as_chunks_mut::<LANES>().0) {
            s.store_bytes(away(s, s.load(x) * inverse), out);
        }
    }
}

/// `q4_0` and `q5_0` without importance.
#[derive(Clone, Copy)]
pub(super) struct Symmetric<B>(pub PhantomData<B>);

impl<B: Symmetric32> DirectEncoder<32> for Symmetric<B> {
    type Block = B;
    type Plan<S: Lanes> = Scale;

    #[inline(always)]
    fn plan<S: Lanes>(self, s: S, blocks: &[&[f32; 32]; LANES]) -> Scale {
        let max = reduce!(s, blocks, |x| x, max);
        let min = reduce!(s, blocks, |x| x, min);
        let depth = s.splat(-0.0) - min;
        let mut extreme = [0.0; LANES];
        s.store(s.select(s.less(depth, max), max, min), &mut extreme);
        if s.any(s.equal(depth, max)) {
            // Both signs reach the magnitude (or all is zero): the first one counts.
            for (extreme, block) in extreme.iter_mut().zip(blocks) {
                *extreme = block.iter().fold(0.0f32, |max, &v| if max.abs() < v.abs() { v } else { max });
            }
        }
        let d = s.load(&extreme) / s.splat(-(B::LIMIT as f32));
        Scale { d: halves(s, d), inverse: reciprocal_or_zero(s, d) }
    }

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, plan: &Scale, lane: usize, x: &[f32; 32], out: &mut Self::Block) {
        let (inverse, half) = (s.splat(plan.inverse[lane]), s.splat(B::LIMIT as f32 + 0.5));
        let mut codes = [0; 32];
        for (x, codes) in x.as_chunks::<LANES>().0.iter().zip(codes.as_chunks_mut::<LANES>().0) {
            s.store_bytes(s.load(x) * inverse + half, codes);
        }
        for c in &mut codes {
            *c = (*c as i8).min((2 * B::LIMIT - 1) as i8) as u8;
        }
        *out = B::pack(plan.d[lane], &codes);
    }
}

/// Fields of a block with a minimum.
#[derive(Clone, Copy)]
pub(super) struct ScaleMin {
    d: [StoredF16; LANES],
    m: [StoredF16; LANES],
    min: [f32; LANES],
    inverse: [f32; LANES],
}

/// `q4_1` and `q5_1` without importance.
#[derive(Clone, Copy)]
pub(super) struct Affine<B>(pub PhantomData<B>);

impl<B: Affine32> DirectEncoder<32> for Affine<B> {
    type Block = B;
    type Plan<S: Lanes> = ScaleMin;

    #[inline(always)]
    fn plan<S: Lanes>(self, s: S, blocks: &[&[f32; 32]; LANES]) -> ScaleMin {
        let (mut max, mut min) = ([0.0; LANES], [0.0; LANES]);
        s.store(reduce!(s, blocks, |x| x, max), &mut max);
        s.store(reduce!(s, blocks, |x| x, min), &mut min);
        if s.any(s.equal(s.load(&min), s.splat(0.0))) {
            // A minimum of zero is stored with its sign: that of the first zero.
            for ((min, max), block) in min.iter_mut().zip(&mut max).zip(blocks) {
                *min = block.iter().fold(f32::MAX, |min, &v| if v < min { v } else { min });
                *max = block.iter().fold(-f32::MAX, |max, &v| if v > max { v } else { max });
            }
        }
        let d = (s.load(&max) - s.load(&min)) / s.splat(B::MAX_CODE as f32);
        ScaleMin { d: halves(s, d), m: halves(s, s.load(&min)), min, inverse: reciprocal_or_zero(s, d) }
    }

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, plan: &ScaleMin, lane: usize, x: &[f32; 32], out: &mut Self::Block) {
        let (min, inverse) = (s.splat(plan.min[lane]), s.splat(plan.inverse[lane]));
        let mut codes = [0; 32];
        for (x, codes) in x.as_chunks::<LANES>().0.iter().zip(codes.as_chunks_mut::<LANES>().0) {
            s.store_bytes((s.load(x) - min) * inverse + s.splat(0.5), codes);
        }
        if B::MAX_CODE == 15 {
            for c in &mut codes {
                *c = (*c as i8).min(15) as u8;
            }
        }
        *out = B::pack(plan.d[lane], plan.m[lane], &codes);
    }
}

/// Scales of ternary super-blocks.
#[inline(always)]
fn ternary_plan<S: Lanes>(s: S, blocks: &[&[f32; 256]; LANES]) -> Scale {
    let d = magnitudes(s, blocks);
    Scale { d: halves(s, d), inverse: reciprocal_or_zero(s, d) }
}

/// Trits (0, 1, 2) of a super-block.
#[inline(always)]
fn trits<S: Lanes>(s: S, plan: &Scale, lane: usize, x: &[f32; 256]) -> [u8; 256] {
    let inverse = s.splat(plan.inverse[lane]);
    let mut codes = [0; 256];
    for (x, codes) in x.as_chunks::<LANES>().0.iter().zip(codes.as_chunks_mut::<LANES>().0) {
        s.store_bytes(away(s, s.load(x) * inverse), codes);
    }
    for c in &mut codes {
        *c = c.wrapping_add(1);
    }
    codes
}

/// `tq1_0`.
#[derive(Clone, Copy)]
pub(super) struct Tq1_0;

impl DirectEncoder<256> for Tq1_0 {
    type Block = TQ1_0;
    type Plan<S: Lanes> = Scale;

    #[inline(always)]
    fn plan<S: Lanes>(self, s: S, blocks: &[&[f32; 256]; LANES]) -> Scale {
        ternary_plan(s, blocks)
    }

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, plan: &Scale, lane: usize, x: &[f32; 256], out: &mut TQ1_0) {
        *out = pack::tq1_0(&trits(s, plan, lane, x), plan.d[lane]);
    }
}

/// `tq2_0`.
#[derive(Clone, Copy)]
pub(super) struct Tq2_0;

impl DirectEncoder<256> for Tq2_0 {
    type Block = TQ2_0;
    type Plan<S: Lanes> = Scale;

    #[inline(always)]
    fn plan<S: Lanes>(self, s: S, blocks: &[&[f32; 256]; LANES]) -> Scale {
        ternary_plan(s, blocks)
    }

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, plan: &Scale, lane: usize, x: &[f32; 256], out: &mut TQ2_0) {
        *out = pack::tq2_0(&trits(s, plan, lane, x), plan.d[lane]);
    }
}

/// `mxfp4`.
#[derive(Clone, Copy)]
pub(super) struct Mxfp4;

impl DirectEncoder<32> for Mxfp4 {
    type Block = MXFP4;
    type Plan<S: Lanes> = [f32; LANES];

    #[inline(always)]
    fn plan<S: Lanes>(self, s: S, blocks: &[&[f32; 32]; LANES]) -> [f32; LANES] {
        let mut magnitude = [0.0; LANES];
        s.store(magnitudes(s, blocks), &mut magnitude);
        magnitude
    }

    #[inline(always)]
    fn encode<S: Lanes>(
        self,
        s: S,
        magnitude: &[f32; LANES],
        lane: usize,
        x: &[f32; 32],
        out: &mut Self::Block,
    ) {
        let (e, d) = mxfp4_scale(magnitude[lane]);
        let none = s.splat(0.0);
        let mut codes = [0; 32];
        for (x, codes) in x.as_chunks::<LANES>().0.iter().zip(codes.as_chunks_mut::<LANES>().0) {
            // Only values of x's own sign can be nearer than zero is, and they are ordered as their magnitudes are.
            let x = s.load(x);
            let magnitude = s.abs(x);
            let (mut best, mut error) = (none, magnitude);
            for (code, value) in E2M1_DOUBLED.iter().enumerate().skip(1) {
                let e = s.abs(s.splat(value * d) - magnitude);
                let nearer = s.less(e, error);
                best = s.select(nearer, s.splat(code as f32), best);
                error = s.select(nearer, e, error);
            }
            let negative = s.both(s.less(x, none), s.less(none, best));
            s.store_bytes(s.select(negative, best + s.splat(8.0), best), codes);
        }
        *out = MXFP4 { e, qs: pack::nibbles_32(&codes) };
    }
}

/// f16.
pub(super) struct F16<'a> {
    pub rows: &'a [f32],
    pub out: &'a mut [u8],
}

impl LaneOp for F16<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) {
        let (chunks, rest) = self.rows.as_chunks::<LANES>();
        let (outs, out_rest) = self.out.split_at_mut(2 * LANES * chunks.len());
        for (x, out) in chunks.iter().zip(outs.chunks_exact_mut(2 * LANES)) {
            out.copy_from_slice(halves(s, s.load(x)).as_bytes());
        }
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        out_rest.copy_from_slice(&halves(s, s.load(&last)).as_bytes()[..out_rest.len()]);
    }
}
