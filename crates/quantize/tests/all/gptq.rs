//! The GPTQ solver against a textbook version in f64, against rounding to nearest, and on bad input.

use half::f16;
use quern_compute::Pool;
use quern_quantize::gptq::{
    Hessian, Order, Prepared, Settings, Solution, SolveError, check_shape, round_to_nearest, solve,
};

const ORDERS: [Order; 3] = [Order::Natural, Order::GroupAware, Order::Activation];

struct Random(u64);

impl Random {
    /// Uniform in -1..1 (splitmix64).
    fn float(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ x >> 31) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.float()).sum::<f32>() / 2.0
    }
}

/// Inputs as layers see them: a few directions shared by all columns, and columns of very different size.
fn inputs(columns: usize, tokens: usize, seed: u64) -> Vec<f32> {
    let mut r = Random(seed);
    let shared = 8;
    let mix: Vec<f32> = (0..shared * columns).map(|_| r.normal()).collect();
    let size: Vec<f32> = (0..columns).map(|_| (1.2 * r.normal()).exp()).collect();
    let mut x = Vec::with_capacity(tokens * columns);
    for _ in 0..tokens {
        let direction: Vec<f32> = (0..shared).map(|_| r.normal()).collect();
        for c in 0..columns {
            let common: f32 = (0..shared).map(|k| direction[k] * mix[k * columns + c]).sum();
            x.push(size[c] * (0.4 * common + r.normal()));
        }
    }
    x
}

fn weights(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
    let mut r = Random(seed);
    (0..rows * columns).map(|_| 0.03 * r.normal()).collect()
}

fn settings(bits: u32, group_size: Option<usize>, order: Order) -> Settings {
    Settings { bits, group_size, symmetric: true, order, damp: 0.01, search: false }
}

fn hessian(pool: &Pool, columns: usize, x: &[f32]) -> Hessian {
    let mut hessian = Hessian::new(columns);
    hessian.add(pool, x);
    hessian
}

/// `tr((W - Q) H (W - Q)ᵀ)`, from the inputs themselves.
fn output_error(weights: &[f32], solution: &Solution, x: &[f32]) -> f64 {
    let mut q = vec![0f32; weights.len()];
    solution.dequantize(0..solution.rows, &mut q);
    let d: Vec<f64> = weights.iter().zip(&q).map(|(w, q)| f64::from(*w) - f64::from(*q)).collect();
    x.chunks(solution.columns)
        .flat_map(|x| {
            d.chunks(solution.columns)
                .map(move |d| d.iter().zip(x).map(|(d, x)| d * f64::from(*x)).sum::<f64>())
        })
        .map(|y| y * y)
        .sum()
}

fn inverse(a: &[f64], n: usize) -> Vec<f64> {
    let mut a = a.to_vec();
    let mut out = vec![0.0; n * n];
    (0..n).for_each(|i| out[i * n + i] = 1.0);
    for c in 0..n {
        let pivot = a[c * n + c];
        for j in 0..n {
            a[c * n + j] /= pivot;
            out[c * n + j] /= pivot;
        }
        for i in (0..n).filter(|i| *i != c) {
            let factor = a[i * n + c];
            for j in 0..n {
                a[i * n + j] -= factor * a[c * n + j];
                out[i * n + j] -= factor * out[c * n + j];
            }
        }
    }
    out
}

/// GPTQ as the paper has it: natural order, range as scale, errors passed on with the upper Cholesky factor of the
/// inverse, one column at a time.
fn textbook(weights: &[f32], columns: usize, x: &[f32], s: &Settings) -> (Vec<u8>, Vec<f64>, f64) {
    let n = columns;
    let mut h = vec![0f64; n * n];
    for x in x.chunks(n) {
        for i in 0..n {
            for j in 0..n {
                h[i * n + j] += f64::from(x[i]) * f64::from(x[j]);
            }
        }
    }
    let mean = (0..n).map(|i| h[i * n + i]).sum::<f64>() / n as f64;
    (0..n).for_each(|i| h[i * n + i] += s.damp * mean);
    let inverse = inverse(&h, n);
    // H⁻¹ = Tᵀ T with T upper triangular.
    let mut t = vec![0f64; n * n];
    for i in 0..n {
        for j in i..n {
            let sum: f64 = (0..i).map(|k| t[k * n + i] * t[k * n + j]).sum();
            let rest = inverse[i * n + j] - sum;
            t[i * n + j] = if i == j { rest.sqrt() } else { rest / t[i * n + i] };
        }
    }
    let top = f64::from((1u32 << s.bits) - 1);
    let group = s.group_size.unwrap_or(n);
    let (mut codes, mut scales, mut loss) = (Vec::new(), Vec::new(), 0.0);
    for w in weights.chunks(n) {
        let mut w: Vec<f64> = w.iter().map(|w| f64::from(*w)).collect();
        let (mut scale, mut zero) = (0.0, 0.0);
        for j in 0..n {
            if j % group == 0 {
                let here = &w[j..n.min(j + group)];
                let low = here.iter().copied().fold(0.0, f64::min);
                let high = here.iter().copied().fold(0.0, f64::max);
                let range = if s.symmetric { 2.0 * high.max(-low) } else { high - low };
                scale = f16::from_f64(range / top).to_f64();
                zero = if s.symmetric { (top + 1.0) / 2.0 } else { (-low / scale).round_ties_even() };
                scales.push(scale);
            }
            let code = ((w[j] / scale).round_ties_even() + zero).clamp(0.0, top);
            codes.push(code as u8);
            let error = (w[j] - scale * (code - zero)) / t[j * n + j];
            loss += 0.5 * error * error;
            for k in j + 1..n {
                w[k] -= error * t[j * n + k];
            }
        }
    }
    (codes, scales, loss / (x.len() / n) as f64)
}

#[test]
fn codes_are_the_textbooks() {
    let pool = Pool::new(2);
    // Groups that begin inside a block, that span blocks, and a tail.
    for (columns, group) in [(64, None), (96, Some(32)), (192, Some(128)), (288, Some(160)), (224, Some(48))]
    {
        for (bits, symmetric) in [(4, true), (3, false), (2, true), (8, false)] {
            let rows = 32;
            let s = Settings { symmetric, ..settings(bits, group, Order::Natural) };
            let x = inputs(columns, 3 * columns, 5);
            let w = weights(rows, columns, 6);
            let prepared = Prepared::new(&pool, hessian(&pool, columns, &x), &s).unwrap();
            let ours = solve(&pool, &w, rows, &prepared, &s).unwrap();
            let (codes, scales, loss) = textbook(&w, columns, &x, &s);
            // Where f32 falls on the other side of a tie, the rest of that row goes its own way.
            let rows_apart =
                codes.chunks(columns).zip(ours.codes.chunks(columns)).filter(|(a, b)| a != b).count();
            assert!(rows_apart <= 2, "{columns} {group:?} {bits}: {rows_apart} rows differ");
            let groups = scales.len() / rows;
            let scales_apart = (0..rows)
                .flat_map(|r| (0..groups).map(move |g| (r, g)))
                .filter(|&(r, g)| ours.scales[g * rows + r].to_f64() != scales[r * groups + g])
                .count();
            assert!(scales_apart <= scales.len() / 20 + 2, "{columns} {group:?} {bits}: {scales_apart}");
            assert!((ours.loss / loss - 1.0).abs() < 2e-2, "{columns} {bits}: {} {loss}", ours.loss);
        }
    }
}

#[test]
fn the_output_is_closer_than_rounded_to_nearest() {
    let pool = Pool::new(2);
    let (rows, columns) = (48 * 2, 160);
    let x = inputs(columns, 400, 1);
    let w = weights(rows, columns, 2);
    for bits in [2, 3, 4, 8] {
        for group in [Some(32), Some(128), None] {
            for symmetric in [true, false] {
                for search in [false, true] {
                    let base = Settings { symmetric, search, ..settings(bits, group, Order::Natural) };
                    let diagonal = hessian(&pool, columns, &x).diagonal().unwrap();
                    let nearest = round_to_nearest(&pool, &w, rows, columns, Some(&diagonal), &base).unwrap();
                    let nearest = output_error(&w, &nearest, &x);
                    for order in ORDERS {
                        let s = Settings { order, ..base.clone() };
                        let prepared = Prepared::new(&pool, hessian(&pool, columns, &x), &s).unwrap();
                        let solution = solve(&pool, &w, rows, &prepared, &s).unwrap();
                        let ours = output_error(&w, &solution, &x);
                        assert!(ours < 0.8 * nearest, "{s:?}: {ours} {nearest}");
                        // The loss is half the error per token, with the damping counted in.
                        let said = 2.0 * solution.loss * 400.0;
                        assert!(said > ours && said < 1.5 * ours, "{s:?}: {said} {ours}");
                        assert!(solution.codes.iter().all(|c| u32::from(*c) < 1 << bits));
                        let signed = symmetric && search;
                        let fits = |s: &f16| s.is_finite() && (signed || s.to_f32() > 0.0);
                        assert!(solution.scales.iter().all(|s| fits(s) && s.to_f32() != 0.0));
                    }
                }
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_byte() {
    let (rows, columns) = (160, 288);
    let x = inputs(columns, 300, 3);
    let w = weights(rows, columns, 4);
    for order in ORDERS {
        let s = Settings { search: true, ..settings(3, Some(64), order) };
        let results: Vec<Solution> = [1, 2, 3, 5]
            .into_iter()
            .map(|threads| {
                let pool = Pool::new(threads);
                let prepared = Prepared::new(&pool, hessian(&pool, columns, &x), &s).unwrap();
                solve(&pool, &w, rows, &prepared, &s).unwrap()
            })
            .collect();
        assert!(results.iter().all(|r| *r == results[0]), "{order:?}");
    }
}

#[test]
fn without_correlation_each_weight_goes_to_its_nearest() {
    let pool = Pool::new(2);
    let (rows, columns) = (32, 96);
    let mut x = vec![0f32; columns * columns];
    (0..columns).for_each(|i| x[i * columns + i] = 1.0);
    let w = weights(rows, columns, 9);
    for order in [Order::Natural, Order::GroupAware] {
        for symmetric in [true, false] {
            let s = Settings { symmetric, ..settings(4, Some(32), order) };
            let prepared = Prepared::new(&pool, hessian(&pool, columns, &x), &s).unwrap();
            let ours = solve(&pool, &w, rows, &prepared, &s).unwrap();
            let nearest = round_to_nearest(&pool, &w, rows, columns, None, &s).unwrap();
            assert!(ours.codes == nearest.codes && ours.zeros == nearest.zeros);
            assert_eq!(ours.scales, nearest.scales);
            // The search helps both; refinement helps what is left of it.
            let s = Settings { search: true, ..s };
            let searched = round_to_nearest(&pool, &w, rows, columns, None, &s).unwrap();
            let refined = solve(&pool, &w, rows, &prepared, &s).unwrap();
            let error = |solution| output_error(&w, solution, &x);
            assert!(error(&searched) < 0.99 * error(&nearest) && error(&refined) < error(&searched));
        }
    }
}

#[test]
fn groups_follow_the_order() {
    let pool = Pool::new(1);
    let (rows, columns) = (32, 96);
    let x = inputs(columns, 200, 11);
    let w = weights(rows, columns, 12);
    let s = settings(4, Some(32), Order::Activation);
    let diagonal = hessian(&pool, columns, &x).diagonal().unwrap();
    let prepared = Prepared::new(&pool, hessian(&pool, columns, &x), &s).unwrap();
    let ours = solve(&pool, &w, rows, &prepared, &s).unwrap();
    for (k, &group) in ours.g_idx.iter().enumerate() {
        let rank = diagonal.iter().filter(|d| **d > diagonal[k]).count();
        assert_eq!(group as usize, rank / 32);
    }
    let s = settings(4, Some(32), Order::GroupAware);
    let prepared = Prepared::new(&pool, hessian(&pool, columns, &x), &s).unwrap();
    let ours = solve(&pool, &w, rows, &prepared, &s).unwrap();
    assert!(ours.g_idx.iter().enumerate().all(|(k, g)| *g as usize == k / 32));
    assert_eq!(ours.qweight(&pool).len(), rows * columns / 2);
    assert_eq!(ours.qzeros(false).len(), 3 * rows / 2);
    assert_eq!(ours.scales_bytes().len(), 3 * rows * 2);
    assert_eq!(ours.g_idx_bytes().len(), 4 * columns);
    // Another layer's settings do not fit.
    let other = settings(4, Some(32), Order::Natural);
    assert!(matches!(solve(&pool, &w, rows, &prepared, &other), Err(SolveError::Settings(_))));
}

#[test]
fn zeros_and_outliers_are_harmless() {
    let pool = Pool::new(2);
    let (rows, columns) = (32, 64);
    let x = inputs(columns, 200, 21);
    for symmetric in [true, false] {
        for search in [true, false] {
            let s = Settings { symmetric, search, ..settings(4, Some(32), Order::GroupAware) };
            let prepared = Prepared::new(&pool, hessian(&pool, columns, &x), &s).unwrap();
            let zeros = vec![0f32; rows * columns];
            let solution = solve(&pool, &zeros, rows, &prepared, &s).unwrap();
            let mut out = vec![1f32; rows * columns];
            solution.dequantize(0..rows, &mut out);
            assert_eq!(out, zeros);
            assert!(solution.scales.iter().all(|s| s.to_f32() > 0.0));
            assert_eq!(solution.loss, 0.0);
            let mut w = weights(rows, columns, 22);
            w[100] = 5e4;
            let solution = solve(&pool, &w, rows, &prepared, &s).unwrap();
            solution.dequantize(0..rows, &mut out);
            assert!((out[100] - 5e4).abs() < 5e3 && out.iter().all(|w| w.is_finite()));
            // Tiny weights: scales are subnormal halves.
            let tiny: Vec<f32> = w.iter().map(|w| w.min(1.0) * 1e-3).collect();
            let solution = solve(&pool, &tiny, rows, &prepared, &s).unwrap();
            solution.dequantize(0..rows, &mut out);
            let error: f32 = tiny.iter().zip(&out).map(|(a, b)| (a - b).powi(2)).sum();
            let size: f32 = tiny.iter().map(|a| a * a).sum();
            assert!(error < 0.1 * size, "{error} {size}");
        }
    }
}

#[test]
fn dead_columns_become_zero() {
    let pool = Pool::new(2);
    let (rows, columns) = (32, 64);
    let mut x = inputs(columns, 200, 31);
    x.iter_mut().skip(5).step_by(columns).for_each(|x| *x = 0.0);
    let w = weights(rows, columns, 32);
    for order in ORDERS {
        let s = Settings { symmetric: false, ..settings(4, Some(32), order) };
        let prepared = Prepared::new(&pool, hessian(&pool, columns, &x), &s).unwrap();
        assert_eq!((prepared.dead(), prepared.damp(), prepared.tokens()), (1, 0.01, 200));
        let solution = solve(&pool, &w, rows, &prepared, &s).unwrap();
        let mut out = vec![1f32; rows * columns];
        solution.dequantize(0..rows, &mut out);
        assert!(out.iter().skip(5).step_by(columns).all(|w| *w == 0.0));
        assert!(out.iter().skip(6).step_by(columns).any(|w| *w != 0.0));
    }
}

#[test]
fn a_hessian_of_few_tokens_is_damped_enough() {
    let pool = Pool::new(2);
    let columns = 256;
    // Two directions, one a million times the other: far beyond the precision of f32 without damping.
    let mut x = inputs(columns, 2, 41);
    x[..columns].iter_mut().for_each(|x| *x *= 1e6);
    for damp in [0.0, 1e-9, 0.01] {
        let s = Settings { damp, ..settings(4, Some(128), Order::GroupAware) };
        let prepared = Prepared::new(&pool, hessian(&pool, columns, &x), &s).unwrap();
        assert!(prepared.damp() >= damp && prepared.damp() <= 0.02, "{damp}: {}", prepared.damp());
        let w = weights(32, columns, 42);
        let solution = solve(&pool, &w, 32, &prepared, &s).unwrap();
        assert!(solution.loss.is_finite());
    }
}

#[test]
fn bad_input_is_named() {
    let pool = Pool::new(2);
    let (rows, columns) = (32, 64);
    let s = settings(4, Some(32), Order::GroupAware);
    let x = inputs(columns, 100, 51);
    let prepared = Prepared::new(&pool, hessian(&pool, columns, &x), &s).unwrap();
    let mut w = weights(rows, columns, 52);
    assert!(matches!(solve(&pool, &w[1..], rows, &prepared, &s), Err(SolveError::Lengths { .. })));
    for bad in [f32::NAN, f32::NEG_INFINITY, 1e30] {
        w[3 * columns + 7] = bad;
        let error = solve(&pool, &w, rows, &prepared, &s).unwrap_err();
        assert!(matches!(error, SolveError::Weight { row: 3, column: 7, .. }), "{error}");
        let error = round_to_nearest(&pool, &w, rows, columns, None, &s).unwrap_err();
        assert!(matches!(error, SolveError::Weight { row: 3, column: 7, .. }), "{error}");
    }
    let mut bad = x.clone();
    bad[columns + 9] = f32::NAN;
    let error = Prepared::new(&pool, hessian(&pool, columns, &bad), &s).unwrap_err();
    assert!(matches!(error, SolveError::Input { column: 9, .. }), "{error}");
    bad[columns + 9] = 1e30;
    let error = Prepared::new(&pool, hessian(&pool, columns, &bad), &s).unwrap_err();
    assert!(matches!(error, SolveError::Input { column: 9, .. }), "{error}");
    let zeros = hessian(&pool, columns, &vec![0.0; 5 * columns]);
    assert_eq!(Prepared::new(&pool, zeros, &s).unwrap_err(), SolveError::NoData { tokens: 5 });
    assert_eq!(
        Prepared::new(&pool, Hessian::new(columns), &s).unwrap_err(),
        SolveError::NoData { tokens: 0 }
    );
}

#[test]
fn shapes_that_cannot_be_packed_are_refused() {
    let fits = |rows, columns, bits| check_shape(rows, columns, &settings(bits, Some(32), Order::Natural));
    assert!(
        fits(8, 8, 4).is_ok() && fits(32, 96, 3).is_ok() && fits(16, 16, 2).is_ok() && fits(4, 4, 8).is_ok()
    );
    for (rows, columns, bits) in [(48, 32, 3), (32, 48, 3), (60, 64, 2), (4, 8, 4), (0, 32, 4), (32, 0, 4)] {
        let error = fits(rows, columns, bits).unwrap_err().to_string();
        assert!(error.contains(&rows.to_string()) && error.contains("multiples"), "{error}");
    }
    assert!(fits(32, 32, 5).unwrap_err().to_string().contains("2, 3, 4 or 8"));
    let none = Settings { group_size: Some(0), ..settings(4, None, Order::Natural) };
    assert!(matches!(check_shape(32, 32, &none), Err(SolveError::Settings(_))));
    let damp = Settings { damp: f64::NAN, ..settings(4, None, Order::Natural) };
    assert!(matches!(check_shape(32, 32, &damp), Err(SolveError::Settings(_))));
    let pool = Pool::new(1);
    assert!(
        round_to_nearest(&pool, &[0.0; 48 * 32], 48, 32, None, &settings(3, None, Order::Natural)).is_err()
    );
}
