//! Tests every level's lanes against plain Rust, on difficult values.

use super::{LANES, LaneOp, Lanes, dispatch};
use crate::simd::Level;

/// All results of all operations on `a` and `b`, as bits.
struct Everything {
    a: [f32; LANES],
    b: [f32; LANES],
    edges: [f32; LANES],
}

impl LaneOp for Everything {
    type Output = Vec<u32>;

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) -> Vec<u32> {
        let (a, b) = (s.load(&self.a), s.load(&self.b));
        let mut out = Vec::new();
        let mut bytes = [0u8; LANES];
        let index = s.steps_reached(&self.edges, a);
        let one = s.splat(1.0);
        let zero = s.splat(0.0);
        let truth = |m| s.select(m, one, zero);
        let values = [
            a + b,
            a - b,
            a * b,
            a / b,
            truth(s.less(a, b)),
            truth(s.equal(a, b)),
            truth(s.both(s.less(a, b), s.less(zero, a))),
            truth(s.but_not(s.less(a, b), s.less(zero, a))),
            s.select(s.less(a, b), a, b),
            s.min(a, b),
            s.max(a, b),
            s.abs(a),
            s.with_sign(s.abs(a), b),
            s.sqrt(s.abs(a)),
            s.mantissa(a),
            s.nearest(a),
            s.take(&self.edges, index),
        ];
        for v in values {
            let mut lanes = [0.0; LANES];
            s.store(v, &mut lanes);
            // The payload of a NaN is left to the compiler.
            out.extend(lanes.map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }));
        }
        for v in [a, b] {
            s.store_bytes(v, &mut bytes);
            out.extend(bytes.map(u32::from));
            let mut lanes = [0.0; LANES];
            s.store(s.load_bytes(&bytes), &mut lanes);
            assert_eq!(lanes.map(|x| x as u8), bytes);
            s.store(s.low_byte(v), &mut lanes);
            out.extend(lanes.map(f32::to_bits));
            let mut halves = [0u16; LANES];
            s.store_f16(v, &mut halves);
            out.extend(halves.map(|h| if h & 0x7fff > 0x7c00 { u32::MAX } else { u32::from(h) }));
        }
        s.store_index(index, &mut bytes);
        out.extend(bytes.map(u32::from));
        out.push(u32::from(s.any(s.less(a, b))));
        out
    }
}

fn awkward() -> Vec<f32> {
    let mut values = vec![
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -1.5,
        -2.5,
        1.0,
        -1.0,
        255.0,
        256.0,
        1e-40,
        -1e-40,
        1e30,
        -1e30,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        4_194_303.5,
        -4_194_304.5,
        3e9,
        -3e9,
        2_147_483_648.0,
        -2_147_483_648.0,
        0.499_999_97,
        7.0,
        -115.5,
        101.0,
    ];
    let mut state = 1u32;
    for _ in 0..992 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        values.push((state >> 8) as f32 / 65536.0 - 128.0);
    }
    values
}

#[test]
fn every_level_computes_the_same_bits() {
    let values = awkward();
    let edges = [
        -115.5, -93.5, -74.0, -57.0, -42.0, -28.5, -16.0, -4.5, 7.0, 19.0, 31.5, 45.5, 61.0, 79.0, 101.0, 0.0,
    ];
    for shift in [1, 7, 16, 33, 500] {
        for at in 0..values.len() / LANES {
            let pick =
                |offset: usize| std::array::from_fn(|i| values[(at * LANES + i + offset) % values.len()]);
            let op = || Everything { a: pick(0), b: pick(shift), edges };
            let expected = dispatch(Level::Scalar, op());
            for level in Level::available() {
                assert_eq!(dispatch(level, op()), expected, "{level:?}, values {at}, shift {shift}");
            }
        }
    }
}

struct Transpose([[f32; LANES]; LANES]);

impl LaneOp for Transpose {
    type Output = [[f32; LANES]; LANES];

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) -> Self::Output {
        let columns = s.transpose(self.0.map(|row| s.load(&row)));
        let mut out = [[0.0; LANES]; LANES];
        for (o, column) in out.iter_mut().zip(columns) {
            s.store(column, o);
        }
        out
    }
}

#[test]
fn rows_become_columns() {
    let tile: [[f32; LANES]; LANES] = std::array::from_fn(|i| std::array::from_fn(|j| (16 * i + j) as f32));
    for level in Level::available() {
        let columns = dispatch(level, Transpose(tile));
        for (j, column) in columns.iter().enumerate() {
            for (i, &v) in column.iter().enumerate() {
                assert_eq!(v, tile[i][j], "{level:?}");
            }
        }
    }
}
