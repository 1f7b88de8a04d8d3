use half::f16;

use super::*;
use crate::testing::fewer;

fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut s = seed;
    let next = || {
        s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (s >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Softmax attention in f64, straight from the definition.
fn reference(s: &AttentionShape, q: &[f32], first: usize, k: &[f32], v: &[f32], sinks: &[f32]) -> Vec<f64> {
    let (d, n) = (s.head_dim, q.len() / s.heads / s.head_dim);
    let mut out = vec![0f64; q.len()];
    for i in 0..n {
        for h in 0..s.heads {
            let kv = h / (s.heads / s.kv_heads);
            let end = first + i + 1;
            let window = s.window.map_or(0, |w| end.saturating_sub(w));
            let begin = window.max(s.chunk.map_or(0, |chunk| (end - 1) / chunk * chunk));
            let at = |p: usize| (p * s.kv_heads + kv) * d;
            let q = &q[(i * s.heads + h) * d..][..d];
            let dot = |p: usize| (0..d).map(|c| f64::from(q[c]) * f64::from(k[at(p) + c])).sum::<f64>();
            let score = |p: usize| match s.softcap.map(f64::from) {
                None => dot(p) * f64::from(s.scale),
                Some(cap) => cap * (dot(p) * f64::from(s.scale) / cap).tanh(),
            };
            let e: Vec<f64> = (begin..end).map(|p| score(p).exp()).collect();
            let total = e.iter().sum::<f64>() + sinks.get(h).map_or(0.0, |&sink| f64::from(sink).exp());
            for c in 0..d {
                let sum: f64 = (begin..end).zip(&e).map(|(p, e)| e * f64::from(v[at(p) + c])).sum();
                out[(i * s.heads + h) * d + c] = sum / total;
            }
        }
    }
    out
}

/// Rows of `head_dim` in a q8_0 cache, `put` there one by one, and the numbers they hold, where `place` has code `i` of a
/// position within a group.
fn q8_0(
    x: &[f32],
    (kv_heads, head_dim): (usize, usize),
    put: impl Fn(Level, &[f32], usize, &mut [u8]),
    place: impl Fn(usize, usize) -> usize,
) -> (Vec<u8>, Vec<f32>) {
    let blocks = head_dim.div_ceil(32);
    let size = (x.len() / (kv_heads * head_dim)).div_ceil(16) * blocks * 16 * 34;
    // What is not there yet is no number.
    let mut bytes = vec![0xff; kv_heads * size];
    let mut decoded = Vec::new();
    for (i, row) in x.chunks_exact(head_dim).enumerate() {
        let (position, lane) = (i / kv_heads, i / kv_heads % 16);
        let head = &mut bytes[i % kv_heads * size..][..size];
        put(Level::best(), row, position, head);
        decoded.extend((0..head_dim).map(|c| {
            let block = &head[(position / 16 * blocks + c / 32) * 16 * 34..];
            let d = f16::from_le_bytes([block[2 * lane], block[2 * lane + 1]]).to_f32();
            d * f32::from(block[32 + place(c % 32, lane)] as i8)
        }));
    }
    (bytes, decoded)
}

/// As [`q8_0`], of keys.
fn q8_0_keys(x: &[f32], shape: (usize, usize)) -> (Vec<u8>, Vec<f32>) {
    q8_0(x, shape, put_key_q8_0, |i, lane| i / 2 * 32 + lane * 2 + i % 2)
}

/// As [`q8_0`], of values.
fn q8_0_values(x: &[f32], shape: (usize, usize)) -> (Vec<u8>, Vec<f32>) {
    q8_0(x, shape, put_value_q8_0, |i, lane| lane / 2 * 64 + i * 2 + lane % 2)
}

fn f32s(x: &[f16]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

/// Every level, and any number of threads, gives what is expected; caches that hold the same numbers give the same.
fn check(
    shape: &AttentionShape,
    (q, first): (&[f32], usize),
    caches: &[(Keys, Values)],
    sinks: &[f32],
    (expected, bound): (&[f64], f64),
) {
    for level in Level::available() {
        let mut results = Vec::new();
        for threads in [1, 3] {
            let pool = Pool::with_level(threads, level);
            for &cache in caches {
                let mut out = vec![0f32; q.len()];
                attention(&pool, shape, (q, first), cache, sinks, &mut out).unwrap();
                for (a, b) in out.iter().zip(expected) {
                    assert!((f64::from(*a) - b).abs() < bound, "{shape:?} {level:?}: {a} {b}");
                }
                results.push(out);
            }
        }
        assert!(results.iter().all(|r| *r == results[0]), "threads or cache type changed the result");
    }
}

#[test]
fn matches_the_definition() {
    let shapes = [
        (4, 2, 16, 1, 0, None, None),
        (2, 1, 12, 2, 15, Some(5), Some(2.0)),
        (4, 2, 20, 7, 60, None, Some(2.0)),
        (6, 1, 64, 150, 3, None, None),
        (2, 2, 32, 1, 200, None, None),
        (2, 1, 32, 90, 100, Some(50), Some(1.5)),
        (2, 1, 8, 5, 300, Some(1), None),
        // Spans of keys: few rows, many rows, a window that begins inside one.
        (4, 4, 80, 1, 1100, None, None),
        (16, 1, 96, 1, 511, None, None),
        (26, 2, 128, 2, 1030, Some(600), None),
        (3, 1, 256, 1, 1300, Some(700), Some(3.0)),
    ];
    // Windows, and then parts of the text that long.
    let parted = |&(.., window, _): &&(_, _, _, _, _, Option<usize>, _)| window.is_some();
    let all = fewer(&shapes, 2).iter().map(|shape| (shape, false));
    let all: Vec<_> = all.chain(fewer(&shapes, 2).iter().filter(parted).map(|shape| (shape, true))).collect();
    for (&(heads, kv_heads, head_dim, n, first, size, softcap), parts) in all {
        let (window, chunk) = if parts { (None, size) } else { (size, None) };
        let shape = AttentionShape { heads, kv_heads, head_dim, scale: 0.7, window, chunk, softcap };
        let q = noise(1, n * heads * head_dim);
        let numbers = |seed| noise(seed, (first + n) * kv_heads * head_dim);

        let halves = |seed| -> Vec<f16> { numbers(seed).into_iter().map(f16::from_f32).collect() };
        let (k, v) = (halves(2), halves(3));
        let (kf, vf) = (f32s(&k), f32s(&v));
        let (k, kt) = (
            transposed(&kf, kv_heads, head_dim, put_key_f16),
            transposed(&kf, kv_heads, head_dim, put_key_f32),
        );
        let keys = |data| Keys { data, head_stride: (first + n).next_multiple_of(16) * head_dim };
        let values = |data| Values { data, position_stride: kv_heads * head_dim, head_stride: head_dim };
        let both = [
            (keys(CacheData::F16(&k)), values(CacheData::F16(&v))),
            (keys(CacheData::F32(&kt)), values(CacheData::F32(&vf))),
        ];
        // Sinks far below and far above the scores, and near them; some shapes have none.
        let sinks: Vec<f32> =
            (0..if n % 2 == 1 { heads } else { 0 }).map(|h| [0.5, -9.0, 20.0, 3.0][h % 4]).collect();
        let expected = reference(&shape, &q, first, &kf, &vf, &sinks);
        check(&shape, (&q, first), &both, &sinks, (&expected, 3e-6));

        let padded = head_dim.next_multiple_of(32);
        let (k, kf) = q8_0_keys(&numbers(2), (kv_heads, head_dim));
        let (v, vf) = q8_0_values(&numbers(3), (kv_heads, head_dim));
        let head_stride = (first + n).next_multiple_of(16) * padded;
        let integers = (
            Keys { data: CacheData::Q8_0(&k), head_stride },
            Values { data: CacheData::Q8_0(&v), position_stride: padded, head_stride },
        );
        let expected = reference(&shape, &q, first, &kf, &vf, &sinks);
        check(&shape, (&q, first), &[integers], &sinks, (&expected, integer_error(&shape)));
    }
}

/// How far attention over a q8_0 cache is from the definition at most, where queries, keys and values are within -1..1.
///
/// A number of a query is wrong by at most half of its scale, 1/32767 of the largest, so a score by
/// `e = scale head_dim / 2 / 32767`, and a probability by the factor `exp(2e)`. Weights are wrong by half of 1/32767 of
/// the largest one of 64, times the scale of values (a code is at most 127 of them): together 64 times that, if all are
/// wrong in one direction.
fn integer_error(shape: &AttentionShape) -> f64 {
    let half = 0.5 / 32767.0;
    let score = f64::from(shape.scale) * shape.head_dim as f64 * half;
    (2.0 * score).exp_m1() + 64.0 * half + 3e-6
}

/// Keys `[position][head][head_dim]` as a cache of numbers holds them; what is not there yet is no number.
fn transposed<T: Copy + From<f16>>(
    x: &[f32],
    kv_heads: usize,
    head_dim: usize,
    put: impl Fn(&[f32], usize, &mut [T]),
) -> Vec<T> {
    let size = (x.len() / (kv_heads * head_dim)).next_multiple_of(16) * head_dim;
    let mut out = vec![T::from(f16::NAN); kv_heads * size];
    for (i, row) in x.chunks_exact(head_dim).enumerate() {
        put(row, i / kv_heads, &mut out[i % kv_heads * size..][..size]);
    }
    out
}

#[test]
fn q8_0_codes_are_nearest() {
    let mut x = noise(7, 100);
    x[32..64].iter_mut().for_each(|x| *x *= 3e-5); // its scale is a subnormal half
    x[64..96].fill(0.0);
    x[96] = -500.0;
    let (bytes, decoded) = q8_0_values(&x, (1, 100));
    assert_eq!(q8_0_keys(&x, (1, 100)).1, decoded);
    assert_eq!(bytes.len(), 4 * 16 * 34);
    for (i, (x, y)) in x.iter().zip(&decoded).enumerate() {
        let block = &bytes[i / 32 * 16 * 34..];
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        // The largest may be beyond 127 rounded scales: by as much as the scale was rounded.
        assert!((x - y).abs() <= d * 0.5001 || (y / d).round().abs() == 127.0, "{i}: {x} {y} {d}");
    }
    assert!(decoded[64..96].iter().all(|&y| y == 0.0));
    let last = &bytes[3 * 16 * 34 + 32..];
    assert!((4..32).all(|i| last[2 * i] == 0), "filled up with zeros");
    // What is not finite does not become a number.
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let mut x = noise(8, 32);
        x[5] = bad;
        assert!(!q8_0_keys(&x, (1, 32)).1[5].is_finite(), "{bad}");
    }
}

#[test]
fn short_caches_are_refused() {
    let shape = AttentionShape {
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        scale: 1.0,
        window: None,
        chunk: None,
        softcap: None,
    };
    let data = [0f32; 16 * 4];
    let mut out = [0f32; 8];
    let pool = Pool::new(1);
    let mut run = |q: &[f32], first, numbers: [usize; 2], head_stride| {
        let [k, v] = numbers.map(|n| CacheData::F32(&data[..n]));
        let values = Values { data: v, position_stride: 4, head_stride: 4 };
        attention(&pool, &shape, (q, first), (Keys { data: k, head_stride }, values), &[], &mut out)
    };
    assert!(run(&[0.0; 8], 1, [64, 11], 64).is_ok());
    assert!(run(&[0.0; 8], 2, [64, 11], 64).is_err());
    assert!(run(&[0.0; 8], 1, [63, 11], 64).is_err());
    assert!(run(&[0.0; 8], 16, [64, 64], 64).is_err());
    assert!(run(&[0.0; 8], 1, [64, 11], 60).is_err());
    assert!(run(&[0.0; 7], 1, [64, 11], 64).is_err());
}

#[test]
fn q8_0_groups_are_whole() {
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 20,
        scale: 1.0,
        window: None,
        chunk: None,
        softcap: None,
    };
    let data = [0u8; 2 * 16 * 34];
    let run = |first, blocks: usize, position_stride, head_stride| {
        let mut out = [0f32; 20];
        let keys = Keys { data: CacheData::Q8_0(&data), head_stride: 16 * 32 };
        let values = Values { data: CacheData::Q8_0(&data[..blocks * 34]), position_stride, head_stride };
        attention(&Pool::new(1), &shape, (&[0.0; 20], first), (keys, values), &[], &mut out)
    };
    assert!(run(15, 16, 32, 16 * 32).is_ok());
    assert!(run(2, 15, 32, 16 * 32).is_err());
    assert!(run(16, 16, 32, 16 * 32).is_err());
    assert!(run(0, 16, 20, 16 * 32).is_err());
    assert!(run(0, 16, 32, 32).is_err());
}

/// A row's result is the same to the bit, however many rows are computed with it.
#[test]
fn integers_of_a_row_do_not_depend_on_its_neighbours() {
    let (heads, head_dim, n) = (12, 40, 11);
    let queries = noise(4, heads * head_dim * n);
    let (k, _) = q8_0_keys(&noise(5, 64 * head_dim), (1, head_dim));
    let (v, _) = q8_0_values(&noise(6, 64 * head_dim), (1, head_dim));
    let shape =
        AttentionShape { heads, kv_heads: 1, head_dim, scale: 0.3, window: None, chunk: None, softcap: None };
    let keys = Keys { data: CacheData::Q8_0(&k), head_stride: 64 * 64 };
    let values = Values { data: CacheData::Q8_0(&v), position_stride: 64, head_stride: 64 * 64 };
    for level in Level::available() {
        let pool = Pool::with_level(1, level);
        let run = |q: &[f32], first| {
            let mut out = vec![0f32; q.len()];
            attention(&pool, &shape, (q, first), (keys, values), &[], &mut out).unwrap();
            out
        };
        let all = run(&queries, 64 - n);
        for (i, (q, all)) in queries.chunks(heads * head_dim).zip(all.chunks(heads * head_dim)).enumerate() {
            assert_eq!(run(q, 64 - n + i), all, "{level:?} {i}");
        }
    }
}

#[test]
fn what_is_no_number_shows_in_results_of_integers() {
    let shape = AttentionShape {
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        scale: 1.0,
        window: None,
        chunk: None,
        softcap: None,
    };
    for level in Level::available() {
        for (place, bad) in
            [0, 1, 2].into_iter().flat_map(|place| [f32::NAN, f32::INFINITY].map(|x| (place, x)))
        {
            let mut rows = [noise(1, 64), noise(2, 20 * 32), noise(3, 20 * 32)];
            rows[place][7] = bad;
            let [q, k, v] = &rows;
            let ((k, _), (v, _)) = (q8_0_keys(k, (1, 32)), q8_0_values(v, (1, 32)));
            let keys = Keys { data: CacheData::Q8_0(&k), head_stride: 32 * 32 };
            let values = Values { data: CacheData::Q8_0(&v), position_stride: 32, head_stride: 32 * 32 };
            let mut out = [0f32; 64];
            let pool = Pool::with_level(1, level);
            attention(&pool, &shape, (q, 19), (keys, values), &[], &mut out).unwrap();
            assert!(!out[7].is_finite(), "{level:?} {place} {bad}: {}", out[7]);
        }
    }
}
