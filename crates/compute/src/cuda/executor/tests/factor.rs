//! The factor on the card against the CPU's: bit for bit.

use super::*;
use crate::cuda::{DiagonalSquare, Event, GramMatrix, Version};
use crate::simd::Level;
use crate::{BadPivot, factor, gram};

/// A positive definite matrix, its lower triangle; the rest is not a number.
fn positive(random: &mut Random, n: usize) -> Vec<f32> {
    let x = vector(random, n * (n + n / 4 + 1));
    let mut a = vec![0f32; n * n];
    gram(&Pool::new(2), &x, n, &mut a).unwrap();
    for i in 0..n {
        a[i * n + i] += 0.5;
        a[i * n + i + 1..(i + 1) * n].fill(f32::NAN);
    }
    a
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn a_matrix_is_ordered_factored_and_cut_into_squares() {
    let Some((card, _turn)) = card("a_matrix_is_ordered_factored_and_cut_into_squares") else { return };
    let mut random = Random::new(17);
    let pool = Pool::new(3);
    for n in [1usize, 2, 17, 128, 129, 200, 256, 300, 515, 1000] {
        let a = positive(&mut random, n);
        let sum = GramMatrix::from_host(&card, &a, n).unwrap();
        let diagonal: Vec<f32> = (0..n).map(|i| a[i * n + i]).collect();
        assert!(same_bits(&sum.diagonal().unwrap(), &diagonal));
        assert_eq!(sum.first_not_finite().unwrap(), None);
        let order: Vec<u32> = (0..n).map(|i| ((i * 7 + 3) % n) as u32).collect();
        let order = if n % 7 == 0 { (0..n as u32).rev().collect() } else { order };
        let damped: Vec<f32> = order.iter().map(|&i| diagonal[i as usize] + 0.25).collect();
        let mut matrix = sum.arranged(&order, &damped).unwrap();
        let at = |i: usize, j: usize| {
            let (i, j) = (order[i] as usize, order[j] as usize);
            a[i.max(j) * n + i.min(j)]
        };
        let mut expected: Vec<f32> =
            (0..n * n).map(|k| if k / n == k % n { damped[k / n] } else { at(k / n, k % n) }).collect();
        assert!(same_bits(&matrix.download().unwrap(), &expected), "{n}: in order");
        factor(&pool, &mut expected, n, 0.0).unwrap().unwrap();
        matrix.factor(0.0).unwrap().unwrap();
        if Level::best() > Level::Scalar {
            assert!(same_bits(&matrix.download().unwrap(), &expected), "{n}: factored");
        }
        let size = n.min(100);
        let squares = [
            DiagonalSquare { start: 0, size, at: 5 },
            DiagonalSquare { start: n - size, size, at: 5 + size * size },
        ];
        let length = 5 + 2 * size * size;
        let values = matrix.squares(&squares, length, &diagonal).unwrap();
        let mut found = vec![0u8; 4 * length];
        crate::cuda::Stream::new(&card).unwrap().download(&mut found, &values, 0).unwrap();
        let found: Vec<f32> = found.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        for square in squares {
            for k in 0..size * size {
                let (i, j) = (square.start + k / size, square.start + k % size);
                let expected = if i == j { diagonal[i] } else { at(i.min(j), i.max(j)) };
                assert_eq!(found[square.at + k], expected, "{n}: square at {} {k}", square.start);
            }
        }
        matrix.mirror().unwrap();
        let mirrored = matrix.download().unwrap();
        let symmetric = (0..n * n).all(|k| mirrored[k].to_bits() == mirrored[k % n * n + k / n].to_bits());
        assert!(symmetric, "{n}: mirrored");
        let mut twice = GramMatrix::from_host(&card, &mirrored, n).unwrap();
        twice.add(&matrix).unwrap();
        let doubled: Vec<f32> = mirrored.iter().map(|x| x + x).collect();
        assert!(same_bits(&twice.download().unwrap(), &doubled));
    }
}

#[test]
fn bad_numbers_are_named() {
    let Some((card, _turn)) = card("bad_numbers_are_named") else { return };
    let mut random = Random::new(18);
    for (n, bad) in [(3, 1), (300, 299), (300, 200), (300, 3), (128, 0)] {
        let mut a = positive(&mut random, n);
        a[bad * n + bad] = -1.0;
        let expected = factor(&Pool::new(2), &mut a.clone(), n, 0.0).unwrap();
        assert_eq!(expected, Err(BadPivot { index: bad }));
        let mut matrix = GramMatrix::from_host(&card, &a, n).unwrap();
        assert_eq!(matrix.factor(0.0).unwrap(), expected);
        a[bad * n + bad] = f32::NAN;
        let mut matrix = GramMatrix::from_host(&card, &a, n).unwrap();
        assert_eq!(matrix.factor(0.0).unwrap(), expected);
        let (row, column, value) = matrix_fault(&card, &a, n).unwrap();
        assert!((row, column) == (bad, bad) && value.is_nan());
        a[bad * n + bad] = 1.0;
        a[(n - 1) * n] = f32::INFINITY;
        assert_eq!(matrix_fault(&card, &a, n), Some((n - 1, 0, f32::INFINITY)));
    }
    let matrix = GramMatrix::new(&card, 4).unwrap();
    assert!(matrix.arranged(&[0, 1, 2], &[0.0; 4]).is_err());
    assert!(matrix.arranged(&[0, 1, 2, 4], &[0.0; 4]).is_err());
    assert!(matrix.squares(&[DiagonalSquare { start: 2, size: 3, at: 0 }], 9, &[0.0; 4]).is_err());
}

fn matrix_fault(card: &Card, a: &[f32], n: usize) -> Option<(usize, usize, f32)> {
    GramMatrix::from_host(card, a, n).unwrap().first_not_finite().unwrap()
}

#[test]
#[ignore = "takes times"]
fn factors_take_this_long() {
    let Some((card, _turn)) = card("factors_take_this_long") else { return };
    assert!(card.info().capability >= Version { major: 7, minor: 5 });
    println!("{}", card.info().name);
    for n in [2048usize, 4096, 5632, 11008] {
        // A diagonal that dominates: positive definite.
        let mut a = vec![0f32; n * n];
        let mut random = Random::new(3);
        for i in 0..n {
            for j in 0..i {
                a[i * n + j] = random.float();
            }
            a[i * n + i] = n as f32;
        }
        let sum = GramMatrix::from_host(&card, &a, n).unwrap();
        let order: Vec<u32> = (0..n).map(|i| (i * 5 % n) as u32).collect();
        let diagonal = sum.diagonal().unwrap();
        let event = || Event::timed(&card).unwrap();
        let mut best = [f64::INFINITY; 4];
        for _ in 0..3 {
            let events = [event(), event(), event(), event(), event()];
            let mut matrix = sum.arranged(&order, &diagonal).unwrap();
            sum.record(&events[0]).unwrap();
            sum.arrange_into(&order, &diagonal, &mut matrix).unwrap();
            sum.record(&events[1]).unwrap();
            matrix.record(&events[2]).unwrap();
            matrix.factor(0.0).unwrap().unwrap();
            matrix.record(&events[3]).unwrap();
            matrix.mirror().unwrap();
            matrix.record(&events[4]).unwrap();
            for (k, best) in best.iter_mut().enumerate() {
                *best = best.min(events[k].seconds_until(&events[k + 1]).unwrap().unwrap());
            }
        }
        println!(
            "n {n:5}: arrange {:6.3} ms, factor {:7.3} ms ({:4.1} TFLOP/s), mirror {:6.3} ms",
            best[0] * 1e3,
            best[2] * 1e3,
            (n as f64).powi(3) / 3.0 / best[2] / 1e12,
            best[3] * 1e3,
        );
    }
}
