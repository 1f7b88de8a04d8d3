//! The parts of GPTQ, on two threads: `cargo bench -p quern-quantize --bench gptq`. Compare within one run only.
//!
//! Items are multiply-adds: `n²/2` per token for `gram` (the triangle; a full product counts twice that), `n³/6`
//! for `factor`, `rows n²/2` for `solve` (the column loop; search and refinement come on top).

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use quern_compute::Pool;
use quern_compute::simd::Level;
use quern_quantize::gptq::{Hessian, Order, Prepared, Settings, solve};

const SIZES: &[usize] = &[512, 1536, 4096];
const TOKENS: usize = 2048;
const ROWS: usize = 512;

fn main() {
    divan::main();
}

fn noise(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut unit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..n).map(|_| unit() + unit() + unit()).collect()
}

fn settings(search: bool) -> Settings {
    let order = Order::GroupAware;
    Settings { bits: 4, group_size: Some(128), symmetric: true, order, damp: 0.01, search }
}

fn bench_gram(bencher: Bencher, n: usize, level: Level) {
    let (pool, x, mut sum) = (Pool::with_level(2, level), noise(n * TOKENS), vec![0f32; n * n]);
    bencher
        .counter(ItemsCount::new(n * n / 2 * TOKENS))
        .bench_local(|| quern_compute::gram(&pool, black_box(&x), n, black_box(&mut sum)).expect("it fits"));
}

#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn gram(bencher: Bencher, n: usize) {
    bench_gram(bencher, n, Level::best());
}

#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn gram_avx2(bencher: Bencher, n: usize) {
    bench_gram(bencher, n, Level::Avx2);
}

#[divan::bench(args = SIZES, sample_count = 3, sample_size = 1)]
fn factor(bencher: Bencher, n: usize) {
    let pool = Pool::new(2);
    let mut hessian = Hessian::new(n);
    hessian.add(&pool, &noise(n * TOKENS));
    bencher
        .counter(ItemsCount::new(n * n / 6 * n))
        .with_inputs(|| hessian.clone())
        .bench_local_values(|hessian| Prepared::new(&pool, hessian, &settings(true)).expect("it factors"));
}

fn bench_solve(bencher: Bencher, n: usize, search: bool) {
    let pool = Pool::new(2);
    let mut hessian = Hessian::new(n);
    hessian.add(&pool, &noise(n * TOKENS));
    let settings = settings(search);
    let prepared = Prepared::new(&pool, hessian, &settings).expect("it factors");
    let weights = noise(n * ROWS);
    bencher
        .counter(ItemsCount::new(ROWS * n * n / 2))
        .bench_local(|| solve(&pool, black_box(&weights), ROWS, &prepared, &settings).expect("it solves"));
}

#[divan::bench(args = SIZES, sample_count = 3, sample_size = 1)]
fn solve_searched(bencher: Bencher, n: usize) {
    bench_solve(bencher, n, true);
}

#[divan::bench(args = SIZES, sample_count = 3, sample_size = 1)]
fn solve_plain(bencher: Bencher, n: usize) {
    bench_solve(bencher, n, false);
}
