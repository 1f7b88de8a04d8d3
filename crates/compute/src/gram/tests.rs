use super::factor::{BadPivot, factor};
use super::*;
use crate::testing::{Random, fewer};

fn noise(random: &mut Random, n: usize) -> Vec<f32> {
    (0..n).map(|_| random.float()).collect()
}

#[test]
fn every_level_and_thread_count_sums_the_lower_triangle() {
    let mut random = Random::new(7);
    for &(columns, tokens) in
        fewer(&[(1, 1), (5, 3), (50, 9), (48, 256), (50, 257), (129, 40), (200, 600)], 3)
    {
        let x = noise(&mut random, columns * tokens);
        let before = noise(&mut random, columns * columns);
        for level in Level::available() {
            let mut results = Vec::new();
            for threads in [1, 2, 3] {
                let mut sum = before.clone();
                gram(&Pool::with_level(threads, level), &x, columns, &mut sum).unwrap();
                results.push(sum);
            }
            assert!(results.iter().all(|r| *r == results[0]), "threads change the result");
            for i in 0..columns {
                for j in 0..columns {
                    let found = results[0][i * columns + j];
                    let start = before[i * columns + j];
                    if j > i {
                        assert_eq!(found, start, "the upper triangle is not ours");
                        continue;
                    }
                    let terms = x.chunks(columns).map(|x| f64::from(x[i]) * f64::from(x[j]));
                    let expected = f64::from(start) + terms.sum::<f64>();
                    let bound = 1e-6 * (tokens as f64 / 3.0 + 4.0);
                    assert!((f64::from(found) - expected).abs() < bound, "{level:?} {columns} {i} {j}");
                }
            }
        }
    }
}

#[test]
fn wide_matrices_use_squares_of_panels() {
    let columns = SQUARES_FROM * PANEL + 20;
    let tokens = 3;
    // Small whole numbers: every sum is exact.
    let x: Vec<f32> = (0..columns * tokens).map(|i| (i * 7919 % 13) as f32 - 6.0).collect();
    let mut sum = vec![0f32; columns * columns];
    gram(&Pool::with_level(2, Level::best()), &x, columns, &mut sum).unwrap();
    for i in 0..columns {
        for j in 0..columns {
            let product: f32 = x.chunks(columns).map(|x| x[i] * x[j]).sum();
            assert_eq!(sum[i * columns + j], if j <= i { product } else { 0.0 }, "{i} {j}");
        }
    }
}

#[test]
fn wrong_lengths_are_refused() {
    let pool = Pool::new(1);
    assert!(gram(&pool, &[0.0; 7], 3, &mut [0.0; 9]).is_err());
    assert!(gram(&pool, &[0.0; 6], 3, &mut [0.0; 8]).is_err());
    assert!(gram(&pool, &[], 0, &mut []).is_ok());
    assert!(factor(&pool, &mut [0.0; 8], 3, 0.0).is_err());
}

#[test]
fn the_factor_times_its_transpose_is_the_matrix() {
    let mut random = Random::new(8);
    for &n in fewer(&[1, 2, 17, 128, 129, 300], 3) {
        let x = noise(&mut random, n * 2 * n);
        let mut a = vec![0f32; n * n];
        gram(&Pool::new(2), &x, n, &mut a).unwrap();
        for i in 0..n {
            a[i * n + i] += 0.5;
            a[i * n + i + 1..(i + 1) * n].fill(f32::NAN); // must be neither read nor written
        }
        for level in Level::available() {
            let factors: Vec<Vec<f32>> = [1, 3]
                .map(|threads| {
                    let mut u = a.clone();
                    factor(&Pool::with_level(threads, level), &mut u, n, 0.0).unwrap().unwrap();
                    u
                })
                .into();
            let u = &factors[0];
            let same = u.iter().zip(&factors[1]).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "threads change the result");
            let mut wide: Vec<f64> = a.iter().map(|x| f64::from(*x)).collect();
            factor64::factor_f64(&Pool::new(2), &mut wide, n, 0.0).unwrap().unwrap();
            for i in 0..n {
                for j in 0..=i {
                    let product: f64 = (i..n).map(|k| wide[k * n + i] * wide[k * n + j]).sum();
                    let expected = f64::from(a[i * n + j]);
                    assert!((product - expected).abs() < 1e-11, "{n} {i} {j}: {product} {expected}");
                    // U[i][k] U[j][k] over k >= i >= j
                    let product: f64 =
                        (i..n).map(|k| f64::from(u[k * n + i]) * f64::from(u[k * n + j])).sum();
                    let expected = f64::from(a[i * n + j]);
                    assert!(
                        (product - expected).abs() < 2e-6 * n as f64,
                        "{level:?} {n} {i} {j}: {product} {expected}"
                    );
                }
                assert!((i + 1..n).all(|j| u[i * n + j].is_nan() && wide[i * n + j].is_nan()));
            }
        }
    }
}

#[test]
fn a_bad_pivot_is_named() {
    let pool = Pool::new(1);
    let mut a = [1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0];
    assert_eq!(factor(&pool, &mut a, 3, 0.0).unwrap(), Err(BadPivot { index: 1 }));
    let mut a = [0.5, 0.0, 0.0, 1.0];
    assert_eq!(factor(&pool, &mut a, 2, 0.6).unwrap(), Err(BadPivot { index: 0 }));
    let mut a = [1.0, 0.0, 3.0, 1.0];
    assert_eq!(factor64::factor_f64(&pool, &mut a, 2, 0.0).unwrap(), Err(BadPivot { index: 0 }));
    let mut a = [1.0, 0.0, f32::NAN, 1.0];
    assert!(factor(&pool, &mut a, 2, 0.0).unwrap().is_err());
}
