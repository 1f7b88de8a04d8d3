//! Types of 32-value blocks whose scales are searched: the legacy types with importance, and `iq4_nl`.
//! See `scalar::blocks`.

use std::marker::PhantomData;

use quern_compute::simd::lanes::{LANES, Lanes};
use quern_tensor_io::layout::{F16, IQ4NL};

use super::super::formats::AffineFormat;
use super::super::pack::{self, Affine32, Symmetric32};
use super::batch::{Batch, BlockEncoder};
use super::nonlinear::{self, Nonlinear};
use super::search;
use super::super_blocks::{energy, importance, squares};
use super::tile::{self, Aligned};

/// `q4_0` and `q5_0` with importance.
#[derive(Clone, Copy)]
pub(super) struct Symmetric<B>(pub PhantomData<B>);
/// `q4_1` and `q5_1` with importance.
#[derive(Clone, Copy)]
pub(super) struct Affine<B>(pub PhantomData<B>);
/// `iq4_nl`.
#[derive(Clone, Copy)]
pub(super) struct Iq4Nl;

/// Each lane as it is stored.
#[inline(always)]
pub(super) fn halves<S: Lanes>(s: S, x: S::F) -> [F16; LANES] {
    let mut bits = [0u16; LANES];
    s.store_f16(x, &mut bits);
    bits.map(F16::from_bits)
}

impl<B: Symmetric32> BlockEncoder<32> for Symmetric<B> {
    type Block = B;
    const ROW_SIGMA2: bool = true;

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<32>, out: &mut [Self::Block]) {
        let limit = B::LIMIT;
        let mut w = Aligned([[0.0; LANES]; 32]);
        importance(s, &batch.x, &batch.qw, s.load(&batch.row_sigma2), &mut w);
        let found = search::symmetric(s, &batch.x, &w, limit);
        found.codes(s, &batch.x, limit, &mut batch.codes);
        let mut codes = [[0; 32]; LANES];
        tile::codes(s, &batch.codes, &mut codes);
        let d = halves(s, found.scale);
        for ((out, codes), d) in out.iter_mut().zip(&codes).zip(d) {
            *out = B::pack(d, codes);
        }
    }
}

impl<B: Affine32> BlockEncoder<32> for Affine<B> {
    type Block = B;
    const ROW_SIGMA2: bool = true;

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<32>, out: &mut [Self::Block]) {
        let max_code = B::MAX_CODE;
        let mut w = Aligned([[0.0; LANES]; 32]);
        importance(s, &batch.x, &batch.qw, s.load(&batch.row_sigma2), &mut w);
        let found = search::affine(s, &batch.x, &w, max_code, AffineFormat::WEIGHTED, false);
        found.codes(s, &batch.x, max_code, &mut batch.codes);
        let mut codes = [[0; 32]; LANES];
        tile::codes(s, &batch.codes, &mut codes);
        let (d, m) = (halves(s, found.scale), halves(s, s.splat(-0.0) - found.min));
        for (((out, codes), d), m) in out.iter_mut().zip(&codes).zip(d).zip(m) {
            *out = B::pack(d, m, codes);
        }
    }
}

impl BlockEncoder<32> for Iq4Nl {
    type Block = IQ4NL;

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<32>, out: &mut [Self::Block]) {
        let mut w = Aligned([[0.0; LANES]; 32]);
        if batch.weighted {
            let sigma2 = energy(s, &batch.x) * s.splat(2.0 / 32.0);
            importance(s, &batch.x, &batch.qw, sigma2, &mut w);
        } else {
            squares(s, &batch.x, &mut w);
        }
        let scale = nonlinear::search(s, &batch.x, &w);
        let none = s.splat(0.0);
        let inverse = s.select(s.equal(scale, none), none, s.splat(1.0) / scale);
        let mut columns = [[0u8; LANES]; 32];
        for (c, x) in columns.iter_mut().zip(&batch.x) {
            s.store_index(s.steps_reached(&Nonlinear::IQ4.edges, inverse * s.load(x)), c);
        }
        let d = halves(s, scale);
        for (lane, (out, d)) in out.iter_mut().zip(d).enumerate() {
            let codes = std::array::from_fn(|i| columns[i][lane]);
            *out = IQ4NL { d, qs: pack::nibbles_32(&codes) };
        }
    }
}
