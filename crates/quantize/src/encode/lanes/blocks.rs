//! Types of 32-value blocks whose scales are searched: the legacy types with importance, and `iq4_nl`.
//! See `scalar::blocks`.

use quern_compute::simd::lanes::{LANES, Lanes};

use super::super::formats::AffineFormat;
use super::super::pack;
use super::batch::{Batch, BlockEncoder};
use super::search::{self, Nonlinear};
use super::super_blocks::{energy, importance, squares};
use super::tile::{self, Aligned};

/// `q4_0` (`BITS` 4) and `q5_0` (`BITS` 5) with importance.
#[derive(Clone, Copy)]
pub(super) struct Symmetric<const BITS: u32>;
/// `q4_1` (`BITS` 4) and `q5_1` (`BITS` 5) with importance.
#[derive(Clone, Copy)]
pub(super) struct Affine<const BITS: u32>;
/// `iq4_nl`.
#[derive(Clone, Copy)]
pub(super) struct Iq4Nl;

/// Writes nibbles, and before them the fifth bits if there are any.
#[inline(always)]
pub(super) fn pack_codes<const BITS: u32>(codes: &[u8; 32], out: &mut [u8]) {
    if BITS == 5 {
        let (high, low) = out.split_at_mut(4);
        high.copy_from_slice(&pack::fifth_bits(codes).to_le_bytes());
        pack::nibbles_32(codes, low);
    } else {
        pack::nibbles_32(codes, out);
    }
}

/// f16 bytes of each lane.
#[inline(always)]
pub(super) fn halves<S: Lanes>(s: S, x: S::F) -> [[u8; 2]; LANES] {
    let mut bits = [0u16; LANES];
    s.store_f16(x, &mut bits);
    bits.map(u16::to_le_bytes)
}

impl<const BITS: u32> BlockEncoder<32> for Symmetric<BITS> {
    const BYTES: usize = if BITS == 5 { 22 } else { 18 };
    const ROW_SIGMA2: bool = true;

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<32>, out: &mut [u8]) {
        let limit = 1 << (BITS - 1);
        let mut w = Aligned([[0.0; LANES]; 32]);
        importance(s, &batch.x, &batch.qw, s.load(&batch.row_sigma2), &mut w);
        let found = search::symmetric(s, &batch.x, &w, limit);
        found.codes(s, &batch.x, limit, &mut batch.codes);
        let mut codes = [[0; 32]; LANES];
        tile::codes(s, &batch.codes, &mut codes);
        let d = halves(s, found.scale);
        for ((out, codes), d) in out.chunks_exact_mut(Self::BYTES).zip(&codes).zip(d) {
            out[..2].copy_from_slice(&d);
            pack_codes::<BITS>(codes, &mut out[2..]);
        }
    }
}

impl<const BITS: u32> BlockEncoder<32> for Affine<BITS> {
    const BYTES: usize = if BITS == 5 { 24 } else { 20 };
    const ROW_SIGMA2: bool = true;

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<32>, out: &mut [u8]) {
        let max_code = (1 << BITS) - 1;
        let mut w = Aligned([[0.0; LANES]; 32]);
        importance(s, &batch.x, &batch.qw, s.load(&batch.row_sigma2), &mut w);
        let found = search::affine(s, &batch.x, &w, max_code, AffineFormat::WEIGHTED, false);
        found.codes(s, &batch.x, max_code, &mut batch.codes);
        let mut codes = [[0; 32]; LANES];
        tile::codes(s, &batch.codes, &mut codes);
        let (d, m) = (halves(s, found.scale), halves(s, s.splat(-0.0) - found.min));
        for (((out, codes), d), m) in out.chunks_exact_mut(Self::BYTES).zip(&codes).zip(d).zip(m) {
            out[..2].copy_from_slice(&d);
            out[2..4].copy_from_slice(&m);
            pack_codes::<BITS>(codes, &mut out[4..]);
        }
    }
}

impl BlockEncoder<32> for Iq4Nl {
    const BYTES: usize = 18;

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<32>, out: &mut [u8]) {
        let mut w = Aligned([[0.0; LANES]; 32]);
        if batch.weighted {
            let sigma2 = energy(s, &batch.x) * s.splat(2.0 / 32.0);
            importance(s, &batch.x, &batch.qw, sigma2, &mut w);
        } else {
            squares(s, &batch.x, &mut w);
        }
        let scale = search::nonlinear(s, &batch.x, &w);
        let none = s.splat(0.0);
        let inverse = s.select(s.equal(scale, none), none, s.splat(1.0) / scale);
        let mut columns = [[0u8; LANES]; 32];
        for (c, x) in columns.iter_mut().zip(&batch.x) {
            s.store_index(s.steps_reached(&Nonlinear::IQ4.edges, inverse * s.load(x)), c);
        }
        let d = halves(s, scale);
        for (lane, (out, d)) in out.chunks_exact_mut(Self::BYTES).zip(d).enumerate() {
            let codes = std::array::from_fn(|i| columns[i][lane]);
            out[..2].copy_from_slice(&d);
            pack::nibbles_32(&codes, &mut out[2..]);
        }
    }
}
