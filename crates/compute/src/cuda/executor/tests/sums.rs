//! Sums of products on the card, against f64.

use super::super::sums::{Rows, Sum};
use super::*;
use crate::cuda::Version;
use crate::gram;
use crate::simd::Level;

/// Values of many sizes, some columns much larger than the others, as activations are.
fn activations(random: &mut Random, tokens: usize, columns: usize) -> Vec<f32> {
    let scale = |column: usize| if column % 37 == 5 { 60.0 } else { 0.1 + (column % 7) as f32 };
    (0..tokens * columns).map(|i| random.float() * random.float() * scale(i % columns)).collect()
}

/// `Σ a[t][i] b[t][j]` and the root of the product of the sums of squares, which bounds it.
fn exact(a: (&[f32], usize), b: (&[f32], usize), (i, j): (usize, usize)) -> (f64, f64) {
    let column = |(x, columns): (&[f32], usize), i: usize| {
        let values: Vec<f64> = x.iter().skip(i).step_by(columns).map(|x| f64::from(*x)).collect();
        values
    };
    let (a, b) = (column(a, i), column(b, j));
    let squares = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
    (a.iter().zip(&b).map(|(a, b)| a * b).sum(), (squares(&a) * squares(&b)).sqrt())
}

#[test]
fn products_of_columns_are_summed() {
    let Some((card, _turn)) = card("products_of_columns_are_summed") else { return };
    let plain = card.info().capability < Version { major: 8, minor: 0 };
    let mut devices = Devices::new(card);
    let mut random = Random::new(31);
    for (tokens, m, n) in
        [(1, 1, 16), (3, 70, 64), (33, 128, 256), (300, 129, 272), (1100, 200, 336), (2100, 65, 144)]
    {
        let (a, b) = (activations(&mut random, tokens, m), activations(&mut random, tokens, n));
        let before = vector(&mut random, m * m);
        let sum = devices.on_gpu(&a, &before, |gpu, x, sum| gpu.gram(x, m, sum).unwrap());
        let again = devices.on_gpu(&a, &before, |gpu, x, sum| gpu.gram(x, m, sum).unwrap());
        assert!(sum.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()), "the same every time");
        let mut host = before.clone();
        devices.cpu.gram(Values::Host(&a), m, ValuesMut::Host(&mut host)).unwrap();
        for i in 0..m {
            for j in 0..m {
                let (found, start) = (f64::from(sum[i * m + j]), f64::from(before[i * m + j]));
                if j > i {
                    assert_eq!(found, start, "the upper triangle is not ours");
                    continue;
                }
                let (expected, size) = exact((&a, m), (&a, m), (i, j));
                let error = (found - start - expected).abs() / (size + start.abs());
                assert!(error < 2e-5, "{tokens} {m}: {i} {j}: {error}");
            }
        }
        assert!(!plain || sum == host, "in f32 the sums are those of the CPU");
        let before = vector(&mut random, m * n);
        let both: Vec<f32> = a.iter().chain(&b).copied().collect();
        let sum = devices.on_gpu(&both, &before, |gpu, x, sum| {
            let (a, b) = (x.slice(0..tokens * m), x.slice(tokens * m..tokens * (m + n)));
            gpu.cross((a, m), (b, n), sum).unwrap();
        });
        for i in 0..m {
            for j in 0..n {
                let (found, start) = (f64::from(sum[i * n + j]), f64::from(before[i * n + j]));
                let (expected, size) = exact((&a, m), (&b, n), (i, j));
                let error = (found - start - expected).abs() / (size + start.abs());
                assert!(error < 2e-5, "{tokens} {m} {n}: {i} {j}: {error}");
            }
        }
        let out = vec![0.0; tokens * m];
        let difference = devices.on_gpu(&both, &out, |gpu, x, out| {
            let (a, b) = (x.slice(0..tokens * m), x.slice(tokens * n..tokens * (m + n)));
            gpu.subtract(a, b, out).unwrap();
        });
        let pairs = both.iter().zip(&both[tokens * n..]);
        assert!(difference.iter().zip(pairs).all(|(d, (a, b))| *d == a - b));
    }
    devices.on_gpu(&[0.0; 7], &[0.0; 9], |gpu, x, mut sum| {
        assert!(gpu.gram(x, 3, sum.reborrow()).is_err());
        assert!(gpu.gram(x.slice(0..6), 2, sum).is_err());
    });
}

#[test]
fn products_in_f32_are_those_of_the_cpu() {
    let Some((card, _turn)) = card("products_in_f32_are_those_of_the_cpu") else { return };
    if Level::best() == Level::Scalar {
        return; // does not fuse
    }
    let device = Device::Cuda(card.clone());
    let pool = Pool::new(2);
    let mut random = Random::new(33);
    let mut gpu = crate::cuda::Executor::new(&card).unwrap();
    for (tokens, m, n) in [(1, 1, 16), (7, 130, 32), (255, 128, 144), (700, 300, 272)] {
        let (a, b) = (activations(&mut random, tokens, m), activations(&mut random, tokens, n));
        let mut expected = vector(&mut random, m * m + m * n);
        let [mut x, mut y, mut sums] = [(); 3].map(|()| Buffer::new(&device));
        for (buffer, values) in [(&mut x, &a), (&mut y, &b), (&mut sums, &expected)] {
            buffer.reserve(values.len()).unwrap();
            gpu.upload(values, buffer.front_mut(values.len())).unwrap();
        }
        let at = |buffer: &Buffer, first: usize, length: usize| {
            buffer.front(first + length).slice(first..first + length).cuda().unwrap().pointer()
        };
        let rows = Rows { first: at(&x, 0, a.len()), columns: m };
        let square = Sum { first: at(&sums, 0, m * m), rows: m, columns: m, triangle: true };
        gpu.plain_products(rows, rows, tokens, square).unwrap();
        let others = Rows { first: at(&y, 0, b.len()), columns: n };
        let product = Sum { first: at(&sums, m * m, m * n), rows: m, columns: n, triangle: false };
        gpu.plain_products(rows, others, tokens, product).unwrap();
        let mut found = vec![0.0; expected.len()];
        gpu.download(sums.front(found.len()), &mut found).unwrap();
        let (square, product) = expected.split_at_mut(m * m);
        gram(&pool, &a, m, square).unwrap();
        assert!(found[..m * m] == *square, "{tokens} {m} {n}");
        for (k, (found, start)) in found[m * m..].iter().zip(product).enumerate() {
            let (expected, size) = exact((&a, m), (&b, n), (k / n, k % n));
            let error = (f64::from(found - *start) - expected).abs() / (size + 1.0);
            assert!(error < 1e-6, "{tokens} {m} {n}: {k}: {error}");
        }
    }
}
