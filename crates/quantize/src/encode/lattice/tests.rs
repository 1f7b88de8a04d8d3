//! Grids that are made and found again, numbers that are on none, and bytes that stay.

use half::{bf16, f16};
use proptest::prelude::*;
use quern_compute::simd::Level;
use quern_tensor_io::{ElementType as T, decode};

use super::*;
use crate::encode::encode_rows_at;

/// `x` as a file of this type holds it.
fn stored(x: f32, element_type: T) -> f32 {
    match element_type {
        T::BF16 => bf16::from_f32(x).to_f32(),
        T::F16 => f16::from_f32(x).to_f32(),
        _ => x,
    }
}

fn types() -> impl Strategy<Value = T> {
    prop::sample::select(vec![T::BF16, T::F16, T::F32])
}

/// A scale that f16 has: `steps` of 1024 above a power of two, of either sign.
fn scales() -> impl Strategy<Value = f32> {
    (0..1024u16, -13..2i32, any::<bool>()).prop_map(|(steps, exponent, negative)| {
        let d = (1.0 + f32::from(steps) / 1024.0) * 2f32.powi(exponent);
        if negative { -d } else { d }
    })
}

/// Codes between two limits that are chosen, so that blocks of few levels and of all come up.
fn codes(least: i8, most: i8) -> impl Strategy<Value = [i8; 32]> {
    (least..=most, least..=most).prop_flat_map(|(a, b)| prop::array::uniform32(a.min(b)..=a.max(b)))
}

/// The block that `values` become.
fn encoded(grid: Grid, from: T, to: T, values: &Values) -> (Vec<u8>, Values) {
    let mut out = vec![0; to.row_bytes(32).unwrap()];
    encode_rows_on_grid(Level::detect(), (grid, from), to, 32, values, None, &mut out).unwrap();
    let mut decoded = [0.0; 32];
    assert!(decode::to_f32(to, &out, &mut decoded));
    (out, decoded)
}

fn usual(to: T, values: &Values) -> Vec<u8> {
    let mut out = vec![0; to.row_bytes(32).unwrap()];
    encode_rows_at(Level::detect(), to, 32, values, None, &mut out).unwrap();
    out
}

proptest! {
    #[test]
    fn a_q4_0_grid_is_encoded_without_error(d in scales(), codes in codes(-8, 7), from in types()) {
        let values = codes.map(|q| stored(d * f32::from(q), from));
        let found = fit(Grid::Q4_0, &values, from);
        prop_assert!(matches!(found, Fit::Exact(..) | Fit::Trivial), "{found:?}");
        for to in [T::Q4_0, T::Q4_1, T::Q5_0, T::Q5_1, T::Q8_0] {
            let (_, decoded) = encoded(Grid::Q4_0, from, to, &values);
            prop_assert_eq!(decoded.map(|v| stored(v, from)), values, "{}", to);
        }
    }

    #[test]
    fn a_q4_1_grid_is_encoded_without_error(
        d in scales(),
        codes in codes(0, 15),
        offset in -15i16..1,
        part in 0..64i16,
        from in types(),
    ) {
        let m = f16::from_f32((f32::from(offset) + f32::from(part) / 64.0) * d.abs()).to_f32();
        let values = codes.map(|q| stored(d.abs() * f32::from(q) + m, from));
        // One value has more digits in f32 than a minimum has.
        prop_assume!(codes.iter().any(|&q| q != codes[0]) || from != T::F32);
        let found = fit(Grid::Q4_1, &values, from);
        prop_assert!(matches!(found, Fit::Exact(..) | Fit::Trivial), "{found:?}");
        for to in [T::Q4_1, T::Q5_1] {
            let (_, decoded) = encoded(Grid::Q4_1, from, to, &values);
            prop_assert_eq!(decoded.map(|v| stored(v, from)), values, "{}", to);
        }
    }

    /// A scale that f16 does not have: the codes stay, and nothing is worse than the usual encoder makes it.
    #[test]
    fn scales_in_between_are_rounded(d in 1e-3f32..1.0, codes in codes(-8, 7)) {
        let values = codes.map(|q| d * f32::from(q));
        let (_, decoded) = encoded(Grid::Q4_0, T::F32, T::Q4_0, &values);
        for (decoded, value) in decoded.into_iter().zip(values) {
            prop_assert!((decoded - value).abs() <= value.abs() / 2048.0, "{decoded} for {value}");
        }
    }

    #[test]
    fn ordinary_weights_are_on_no_grid(
        values in prop::array::uniform32(-1.0f32..1.0),
        scale in 1e-3f32..10.0,
        from in types(),
    ) {
        // A sum of three is nearly normal.
        let values: Values = std::array::from_fn(|i| {
            let sum = values[i] + values[(i + 11) % 32] + values[(i + 21) % 32];
            stored(sum * scale, from)
        });
        for grid in [Grid::Q4_0, Grid::Q4_1] {
            prop_assert_eq!(fit(grid, &values, from), Fit::Off);
        }
        for to in [T::Q4_0, T::Q4_1, T::Q5_0, T::Q5_1, T::Q8_0] {
            prop_assert_eq!(encoded(Grid::Q4_0, from, to, &values).0, usual(to, &values), "{}", to);
        }
    }
}

/// Blocks that the usual encoder gets wrong: their extreme value has another code than -8.
#[test]
fn the_usual_encoder_loses_the_grid_where_this_one_keeps_it() {
    let levels = |d: f32, most: i8| -> Values {
        std::array::from_fn(|i| d * f32::from((i * 17 % (2 * most as usize + 1)) as i8 - most))
    };
    let mut lost = 0;
    for most in 1..=7 {
        let values = levels(0.0123_f32, most).map(|v| stored(v, T::BF16));
        let mut decoded = [0.0; 32];
        assert!(decode::to_f32(T::Q4_0, &usual(T::Q4_0, &values), &mut decoded));
        lost += usize::from(decoded.map(|v| stored(v, T::BF16)) != values);
        let (_, decoded) = encoded(Grid::Q4_0, T::BF16, T::Q4_0, &values);
        assert_eq!(decoded.map(|v| stored(v, T::BF16)), values, "{most}");
    }
    assert_eq!(lost, 7);
}

#[test]
fn what_the_usual_encoder_has_exactly_keeps_its_bytes() {
    let d = 0.25;
    let values: Values = std::array::from_fn(|i| d * (i as f32 % 16.0 - 8.0));
    assert_eq!(encoded(Grid::Q4_0, T::F32, T::Q4_0, &values).0, usual(T::Q4_0, &values));
    let zeros = [0.0; 32];
    assert_eq!(fit(Grid::Q4_0, &zeros, T::BF16), Fit::Trivial);
    assert_eq!(encoded(Grid::Q4_0, T::BF16, T::Q4_0, &zeros).0, usual(T::Q4_0, &zeros));
}

/// -8 and 8 steps from zero are seventeen levels, which four bits do not have.
#[test]
fn both_ends_are_off_the_grid() {
    let mut values: Values = std::array::from_fn(|i| (i as f32 % 15.0 - 7.0) / 64.0);
    values[0] = -8.0 / 64.0;
    assert!(matches!(fit(Grid::Q4_0, &values, T::BF16), Fit::Exact(..)));
    values[1] = 8.0 / 64.0;
    assert_eq!(fit(Grid::Q4_0, &values, T::BF16), Fit::Off);
}

/// One value a bf16 step beside its level.
#[test]
fn one_value_beside_the_grid_is_seen() {
    let d = bf16::from_f32(0.0123).to_f32();
    let values: Values = std::array::from_fn(|i| stored(d * (i as f32 % 15.0 - 7.0), T::BF16));
    assert!(matches!(fit(Grid::Q4_0, &values, T::BF16), Fit::Exact(..)));
    let mut missed = 0;
    for at in (0..32).filter(|&i| values[i] != 0.0) {
        for steps in [2i32, -2] {
            let mut moved = values;
            moved[at] = f32::from_bits((moved[at].to_bits() as i32 + steps * 0x1_0000) as u32);
            missed += usize::from(matches!(fit(Grid::Q4_0, &moved, T::BF16), Fit::Exact(..)));
        }
    }
    assert_eq!(missed, 0);
}

/// bf16 numbers that were converted to f16 and f32 keep bf16's rounding.
#[test]
fn a_grid_is_found_after_a_conversion() {
    let d = bf16::from_f32(0.00421).to_f32();
    let values: Values = std::array::from_fn(|i| stored(d * ((i as f32 * 7.0) % 13.0 - 6.0), T::BF16));
    for from in [T::BF16, T::F16, T::F32] {
        assert!(matches!(fit(Grid::Q4_0, &values, from), Fit::Exact(..)), "{from}");
        let (_, decoded) = encoded(Grid::Q4_0, from, T::Q4_0, &values);
        assert_eq!(decoded.map(|v| stored(v, T::BF16)), values);
    }
    assert_eq!(fit(Grid::Q4_0, &values, T::F64), Fit::Off);
}
