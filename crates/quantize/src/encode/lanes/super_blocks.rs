//! K types and `iq4_xs` in lanes: see `scalar::super_blocks`, step by step the same.

use quern_compute::simd::lanes::{LANES, Lanes};
use quern_tensor_io::layout::scales::ScalesMinima6;
use quern_tensor_io::layout::{self, Block};

use super::super::formats::{AffineFormat, Q2_K, Q4_K, Q5_K};
use super::super::{levels, pack};
use super::batch::{Batch, BlockEncoder};
use super::nonlinear::{self, Nonlinear};
use super::search::{self, Rounding};
use super::tile::{self, Aligned};

/// One value of each sub-block (first index) of each lane.
type PerSub<const SUBS: usize> = [[f32; LANES]; SUBS];

/// `q2_K`.
#[derive(Clone, Copy)]
pub(super) struct Q2K;
/// `q3_K`.
#[derive(Clone, Copy)]
pub(super) struct Q3K;
/// `q4_K`.
#[derive(Clone, Copy)]
pub(super) struct Q4K;
/// `q5_K`.
#[derive(Clone, Copy)]
pub(super) struct Q5K;
/// `q6_K`.
#[derive(Clone, Copy)]
pub(super) struct Q6K;
/// `iq4_xs`.
#[derive(Clone, Copy)]
pub(super) struct Iq4Xs;

/// Sum of squares, in order.
#[inline(always)]
pub(super) fn energy<S: Lanes>(s: S, x: &[[f32; LANES]]) -> S::F {
    let mut sum = s.splat(0.0);
    for x in x {
        let x = s.load(x);
        sum = sum + x * x;
    }
    sum
}

/// Importance weights: `qw * sqrt(sigma2 + x^2)`. Returns their sum.
#[inline(always)]
pub(super) fn importance<S: Lanes, const N: usize>(
    s: S,
    x: &[[f32; LANES]; N],
    qw: &[[f32; LANES]; N],
    sigma2: S::F,
    w: &mut [[f32; LANES]; N],
) -> S::F {
    let mut sum = s.splat(0.0);
    for i in 0..N {
        let x = s.load(&x[i]);
        let weight = s.load(&qw[i]) * s.sqrt(sigma2 + x * x);
        sum = sum + weight;
        s.store(weight, &mut w[i]);
    }
    sum
}

/// Weights x^2.
#[inline(always)]
pub(super) fn squares<S: Lanes, const N: usize>(s: S, x: &[[f32; LANES]; N], w: &mut [[f32; LANES]; N]) {
    for (w, x) in w.iter_mut().zip(x) {
        let x = s.load(x);
        s.store(x * x, w);
    }
}

/// One lane's column of per-sub-block values.
#[inline(always)]
fn column<const SUBS: usize>(values: &PerSub<SUBS>, lane: usize) -> [f32; SUBS] {
    std::array::from_fn(|j| values[j][lane])
}

/// What the two searches of an affine type leave for the second level. `scale` and `min` are those of the
/// sub-blocks; after `weighted` searches they are already second-level codes, under `d` and `dmin`.
struct AffineFound<S: Lanes, const SUBS: usize> {
    first: [search::Affine<S>; SUBS],
    scale: PerSub<SUBS>,
    min: PerSub<SUBS>,
    d: [f32; LANES],
    dmin: [f32; LANES],
}

#[inline(always)]
fn affine_search<S: Lanes, const SUBS: usize, const N: usize>(
    s: S,
    format: &AffineFormat,
    batch: &Batch<256>,
) -> AffineFound<S, SUBS> {
    let none = s.splat(0.0);
    let subs = batch.x.as_chunks::<N>().0;
    let mut w = Aligned([[0.0; LANES]; N]);
    let (mut scale, mut min, mut weight) = ([none; SUBS], [none; SUBS], [none; SUBS]);
    let mut first = [search::Affine::none(s); SUBS];
    let sigma2 = s.splat(format.energy_factor) * energy(s, &batch.x) / s.splat(256.0);
    for j in 0..SUBS {
        let x = &subs[j];
        let (steps, absolute) = if batch.weighted {
            weight[j] = importance(s, x, &batch.qw.as_chunks::<N>().0[j], sigma2, &mut w);
            (AffineFormat::WEIGHTED, false)
        } else {
            let base = if format.add_mean { s.sqrt(energy(s, x) / s.splat(N as f32)) } else { none };
            for (w, x) in w.iter_mut().zip(x) {
                let magnitude = s.abs(s.load(x));
                s.store(if format.add_mean { base + magnitude } else { magnitude }, w);
            }
            (format.plain, format.absolute_error)
        };
        first[j] = search::affine(s, x, &w, format.max_code, steps, absolute);
        (scale[j], min[j]) = (first[j].scale, first[j].min);
    }
    let zeros = [[0.0; LANES]; SUBS];
    let mut found = AffineFound { first, scale: zeros, min: zeros, d: [0.0; LANES], dmin: [0.0; LANES] };
    if batch.weighted {
        let (scales, mins) = (scale, min);
        let d = search::positive(s, &scales, &weight, format.max_scale, &mut scale);
        let dmin = search::positive(s, &mins, &weight, format.max_scale, &mut min);
        s.store(d, &mut found.d);
        s.store(dmin, &mut found.dmin);
    }
    for j in 0..SUBS {
        s.store(scale[j], &mut found.scale[j]);
        s.store(min[j], &mut found.min[j]);
    }
    found
}

/// Codes re-derived from the stored scales and minima, as bytes. Where the stored scale is zero, those of the
/// search stay.
#[inline(always)]
fn affine_codes<S: Lanes, const SUBS: usize, const N: usize>(
    s: S,
    batch: &mut Batch<256>,
    first: &[search::Affine<S>; SUBS],
    scale: &PerSub<SUBS>,
    min: &PerSub<SUBS>,
    max_code: i32,
) -> [[u8; 256]; LANES] {
    let rounding = Rounding::new(s, 0, max_code);
    let subs = batch.x.as_chunks::<N>().0.iter().zip(batch.codes.as_chunks_mut::<N>().0);
    for (j, (x, codes)) in subs.enumerate() {
        let (d, m) = (s.load(&scale[j]), s.load(&min[j]));
        let dead = s.equal(d, s.splat(0.0));
        if s.any(dead) {
            first[j].codes(s, x, max_code, codes);
        }
        for (c, x) in codes.iter_mut().zip(x) {
            let code = rounding.code(s, (s.load(x) + m) / d);
            s.store(s.select(dead, s.load(c), code), c);
        }
    }
    let mut bytes = [[0; 256]; LANES];
    tile::codes(s, &batch.codes, &mut bytes);
    bytes
}

impl BlockEncoder<256> for Q2K {
    type Block = layout::Q2K;

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<256>, out: &mut [Self::Block]) {
        let found = affine_search::<S, 16, 16>(s, &Q2_K, batch);
        let (mut scale, mut min) = ([[0.0; LANES]; 16], [[0.0; LANES]; 16]);
        let mut fields = [None; LANES];
        for (lane, field) in fields.iter_mut().enumerate() {
            let (sub_scale, sub_min) = (column(&found.scale, lane), column(&found.min, lane));
            let (stored, effective) = if batch.weighted {
                let (sub_scale, sub_min) = (sub_scale.map(|v| v as u8), sub_min.map(|v| v as u8));
                levels::q2_k_searched(found.d[lane], found.dmin[lane], &sub_scale, &sub_min)
            } else {
                levels::q2_k(&sub_scale, &sub_min)
            };
            for j in 0..16 {
                (scale[j][lane], min[j][lane]) = (effective.scale[j], effective.min[j]);
            }
            *field = Some(stored);
        }
        let codes = affine_codes::<S, 16, 16>(s, batch, &found.first, &scale, &min, Q2_K.max_code);
        for ((out, codes), field) in out.iter_mut().zip(&codes).zip(fields.iter().flatten()) {
            *out = pack::q2_k(codes, field.scales, field.d, field.dmin);
        }
    }
}

/// `q4_K` and `q5_K` up to packing.
#[inline(always)]
fn six_bit<S: Lanes>(
    s: S,
    format: &AffineFormat,
    batch: &mut Batch<256>,
) -> ([[u8; 256]; LANES], [Option<levels::Affine<ScalesMinima6>>; LANES]) {
    let found = affine_search::<S, 8, 32>(s, format, batch);
    let (mut scale, mut min) = ([[0.0; LANES]; 8], [[0.0; LANES]; 8]);
    let mut fields = [None; LANES];
    for (lane, field) in fields.iter_mut().enumerate() {
        let (sub_scale, sub_min) = (column(&found.scale, lane), column(&found.min, lane));
        let (stored, effective) = if batch.weighted {
            let (sub_scale, sub_min) = (sub_scale.map(|v| v as u8), sub_min.map(|v| v as u8));
            levels::six_bit_searched(found.d[lane], found.dmin[lane], &sub_scale, &sub_min)
        } else {
            levels::six_bit(&sub_scale, &sub_min)
        };
        for j in 0..8 {
            (scale[j][lane], min[j][lane]) = (effective.scale[j], effective.min[j]);
        }
        *field = Some(stored);
    }
    (affine_codes::<S, 8, 32>(s, batch, &found.first, &scale, &min, format.max_code), fields)
}

impl BlockEncoder<256> for Q4K {
    type Block = layout::Q4K;

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<256>, out: &mut [Self::Block]) {
        let (codes, fields) = six_bit(s, &Q4_K, batch);
        for ((out, codes), field) in out.iter_mut().zip(&codes).zip(fields.iter().flatten()) {
            *out = pack::q4_k(codes, field.scales, field.d, field.dmin);
        }
    }
}

impl BlockEncoder<256> for Q5K {
    type Block = layout::Q5K;

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<256>, out: &mut [Self::Block]) {
        let (codes, fields) = six_bit(s, &Q5_K, batch);
        for ((out, codes), field) in out.iter_mut().zip(&codes).zip(fields.iter().flatten()) {
            *out = pack::q5_k(codes, field.scales, field.d, field.dmin);
        }
    }
}

/// Codes of a symmetric type re-derived from the stored scales, as bytes; those already in `batch.codes` stay
/// where the stored scale is zero.
#[inline(always)]
fn symmetric_codes<S: Lanes>(
    s: S,
    batch: &mut Batch<256>,
    scale: &PerSub<16>,
    limit: i32,
) -> [[u8; 256]; LANES] {
    let rounding = Rounding::new(s, -limit, limit - 1);
    let offset = s.splat(limit as f32);
    let subs = batch.x.as_chunks::<16>().0.iter().zip(batch.codes.as_chunks_mut::<16>().0);
    for (j, (x, codes)) in subs.enumerate() {
        let d = s.load(&scale[j]);
        let dead = s.equal(d, s.splat(0.0));
        for (c, x) in codes.iter_mut().zip(x) {
            let code = rounding.code(s, s.load(x) / d) + offset;
            s.store(s.select(dead, s.load(c), code), c);
        }
    }
    let mut bytes = [[0; 256]; LANES];
    tile::codes(s, &batch.codes, &mut bytes);
    bytes
}

impl BlockEncoder<256> for Q3K {
    type Block = layout::Q3K;

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<256>, out: &mut [Self::Block]) {
        let (mut found, mut second) = (Aligned([[0.0; LANES]; 16]), [[0.0; LANES]; 16]);
        let mut d = [0.0; LANES];
        let subs = batch.x.as_chunks::<16>().0.iter().zip(batch.codes.as_chunks_mut::<16>().0);
        if batch.weighted {
            let sigma2 = s.splat(2.0) * energy(s, &batch.x) / s.splat(256.0);
            let (mut w, mut weight) = (Aligned([[0.0; LANES]; 16]), Aligned([[0.0; LANES]; 16]));
            for (j, (x, codes)) in subs.enumerate() {
                let sum = importance(s, x, &batch.qw.as_chunks::<16>().0[j], sigma2, &mut w);
                s.store(sum, &mut weight[j]);
                let result = search::symmetric(s, x, &w, 4);
                s.store(result.scale, &mut found[j]);
                result.codes(s, x, 4, codes);
            }
            let result = search::symmetric(s, &found, &weight, 32);
            s.store(result.scale, &mut d);
            result.codes(s, found.as_slice(), 32, &mut second);
        } else {
            for (j, (x, codes)) in subs.enumerate() {
                s.store(search::descent(s, x, 4, codes), &mut found[j]);
            }
        }
        let mut scale = [[0.0; LANES]; 16];
        let mut fields = [None; LANES];
        for (lane, field) in fields.iter_mut().enumerate() {
            let (stored, effective) = if batch.weighted {
                levels::q3_k_searched(d[lane], column(&second, lane).map(|v| v as u8))
            } else {
                levels::q3_k(&column(&found, lane))
            };
            for j in 0..16 {
                scale[j][lane] = effective[j];
            }
            *field = Some(stored);
        }
        let codes = symmetric_codes(s, batch, &scale, 4);
        for ((out, codes), field) in out.iter_mut().zip(&codes).zip(fields.iter().flatten()) {
            *out = pack::q3_k(codes, &field.scales, field.d);
        }
    }
}

impl BlockEncoder<256> for Q6K {
    type Block = layout::Q6K;

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<256>, out: &mut [Self::Block]) {
        let mut found = [[0.0; LANES]; 16];
        let mut first = [search::Symmetric::none(s); 16];
        let mut w = Aligned([[0.0; LANES]; 16]);
        for (j, x) in batch.x.as_chunks::<16>().0.iter().enumerate() {
            first[j] = if batch.weighted {
                search::symmetric(s, x, &batch.qw.as_chunks::<16>().0[j], 32)
            } else {
                squares(s, x, &mut w);
                search::symmetric(s, x, &w, 32)
            };
            s.store(first[j].scale, &mut found[j]);
        }
        let mut scale = [[0.0; LANES]; 16];
        let mut fields = [None; LANES];
        for (lane, field) in fields.iter_mut().enumerate() {
            if let Some((stored, effective)) = levels::q6_k(&column(&found, lane)) {
                for j in 0..16 {
                    scale[j][lane] = effective[j];
                }
                *field = Some(stored);
            }
        }
        for (j, (x, codes)) in
            batch.x.as_chunks::<16>().0.iter().zip(batch.codes.as_chunks_mut::<16>().0).enumerate()
        {
            if s.any(s.equal(s.load(&scale[j]), s.splat(0.0))) {
                first[j].codes(s, x, 32, codes);
            }
        }
        let codes = symmetric_codes(s, batch, &scale, 32);
        for ((out, codes), field) in out.iter_mut().zip(&codes).zip(&fields) {
            *out = match field {
                Some(field) => pack::q6_k(codes, field.scales, field.d),
                None => layout::Q6K::ZERO,
            };
        }
    }
}

impl BlockEncoder<256> for Iq4Xs {
    type Block = layout::IQ4XS;

    #[inline(always)]
    fn encode<S: Lanes>(self, s: S, batch: &mut Batch<256>, out: &mut [Self::Block]) {
        let sigma2 = energy(s, &batch.x) * s.splat(2.0 / 256.0);
        let mut found = [[0.0; LANES]; 8];
        let mut w = Aligned([[0.0; LANES]; 32]);
        for (j, x) in batch.x.as_chunks::<32>().0.iter().enumerate() {
            if batch.weighted {
                importance(s, x, &batch.qw.as_chunks::<32>().0[j], sigma2, &mut w);
            } else {
                squares(s, x, &mut w);
            }
            s.store(nonlinear::search(s, x, &w), &mut found[j]);
        }
        let mut inverse = [[0.0; LANES]; 8];
        let mut fields = [None; LANES];
        for (lane, field) in fields.iter_mut().enumerate() {
            let (stored, effective) = levels::iq4_xs(&column(&found, lane));
            for j in 0..8 {
                inverse[j][lane] = effective[j];
            }
            *field = Some(stored);
        }
        // Block by block from here on: the table look-up gives bytes.
        let mut columns = [[0u8; LANES]; 256];
        for (i, (c, x)) in columns.iter_mut().zip(&batch.x).enumerate() {
            let scaled = s.load(&inverse[i / 32]) * s.load(x);
            s.store_index(s.steps_reached(&Nonlinear::IQ4.edges, scaled), c);
        }
        for (lane, (out, field)) in out.iter_mut().zip(fields.iter().flatten()).enumerate() {
            let codes = std::array::from_fn(|i| columns[i][lane]);
            *out = pack::iq4_xs(&codes, &field.scales, field.d);
        }
    }
}
