use super::*;
use crate::attention::cache::{CacheData, Keys, put_key_q8_0, put_value_q8_0};
use crate::testing::{Random, fewer};

/// Groups of `count` positions of noise; what positions that are not there hold is no number.
fn groups(
    random: &mut Random,
    (count, head_dim): (usize, usize),
    put: impl Fn(Level, &[f32], usize, &mut [u8]),
) -> Vec<u8> {
    let size = count.div_ceil(KEY_GROUP) * head_dim.div_ceil(BLOCK) * GROUP_BYTES;
    let mut bytes = vec![0xff; size];
    for position in 0..count {
        let size = [1e-4, 1.0, 30.0][position % 3];
        let x: Vec<f32> = (0..head_dim).map(|_| size * random.float()).collect();
        put(Level::Scalar, &x, position, &mut bytes);
    }
    bytes
}

/// Integers are the same at every level, and steps in f32 that follow differ by their rounding alone.
#[test]
fn every_level_computes_the_definition() {
    let mut random = Random::new(11);
    let shapes: [(usize, usize, usize); 7] =
        [(1, 8, 64), (2, 64, 17), (3, 40, 1), (4, 32, 33), (7, 64, 64), (8, 128, 48), (13, 96, 50)];
    for &(rows, head_dim, count) in fewer(&shapes, 2) {
        let blocks = head_dim.div_ceil(BLOCK);
        let (stride, width) = (head_dim + 3, blocks * BLOCK);
        let q: Vec<f32> = (0..rows * stride).map(|_| random.float()).collect();
        let keys = groups(&mut random, (count, head_dim), put_key_q8_0);
        let values = groups(&mut random, (count, head_dim), put_value_q8_0);
        // A row of nothing, and one of small factors beside a large one.
        let mut factors: Vec<f32> = (0..rows * KEYS).map(|_| random.float().abs()).collect();
        factors[..KEYS].iter_mut().for_each(|x| *x *= if rows > 1 { 0.0 } else { 1e-20 });
        factors[(rows - 1) * KEYS..][1..].iter_mut().for_each(|x| *x *= 1e-3);
        factors.chunks_mut(KEYS).for_each(|row| row[count..].fill(0.0));
        let most = if rows > 1 { 1.0 } else { 0.0 };
        let before: Vec<f32> = (0..rows * width).map(|_| most * random.float()).collect();
        let run = |level| {
            let mut scores = vec![0f32; rows * KEYS];
            let queries = Queries::new(level, &q, stride, head_dim);
            queries.scores(level, Groups { bytes: &keys, blocks, ask: true }, &mut scores);
            let mut result = before.clone();
            let (mut weights, values) = (Weights::default(), Groups { bytes: &values, blocks, ask: true });
            weights.add_values(level, (&factors, count), values, (&mut result, width));
            scores.chunks_mut(KEYS).for_each(|row| row[count..].fill(0.0));
            (scores, result, queries.codes, weights.codes)
        };
        let expected = run(Level::Scalar);
        assert!(expected.0.iter().all(|x| x.is_finite()) && expected.1 != before);
        for level in Level::available() {
            let made = run(level);
            assert!(made.2 == expected.2 && made.3 == expected.3, "{level:?}: codes");
            for (all, of) in [(&made.0, &expected.0), (&made.1, &expected.1)] {
                let size = of.iter().fold(0f32, |most, x| most.max(x.abs()));
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * size;
                assert!(all.iter().zip(of).all(near), "{level:?} {rows} {head_dim} {count}");
            }
        }
    }
}

/// Where integers are judged by floats: the same keys as columns, times the queries.
#[test]
fn keys_are_the_same_as_numbers() {
    let mut random = Random::new(12);
    let (head_dim, count) = (50, 40);
    let bytes = groups(&mut random, (count, head_dim), put_key_q8_0);
    let keys = Keys { data: CacheData::Q8_0(&bytes), head_stride: 0 };
    let q: Vec<f32> = (0..head_dim).map(|_| random.float()).collect();
    for level in Level::available() {
        let mut columns = vec![0f32; head_dim * KEYS];
        keys.columns(level, (0, count), 0, head_dim, &mut columns, KEYS);
        let mut scores = vec![0f32; KEYS];
        let of = keys.groups((0, count), false, 0, head_dim);
        Queries::new(level, &q, head_dim, head_dim).scores(level, of, &mut scores);
        for position in 0..count {
            let terms = (0..head_dim).map(|i| f64::from(q[i]) * f64::from(columns[i * KEYS + position]));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            let key = (0..head_dim).map(|i| f64::from(columns[i * KEYS + position]).abs()).sum::<f64>();
            // Half of a query's scale for each number of the key, and rounding.
            let bound = 0.5 / f64::from(MOST) * key + 1e-6 * size;
            assert!((f64::from(scores[position]) - sum).abs() <= bound, "{level:?} {position}");
        }
    }
}
