//! Encoding throughput per type, one thread: `cargo bench -p quern-quantize`. Divide 1 by the items per second
//! for seconds per weight. Compare levels and types within one run only: the machine's mood is not constant.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use quern_compute::simd::Level;
use quern_quantize::encode::{encode_rows_at, needs_weights};
use quern_tensor_io::ElementType;

const COLUMNS: usize = 2048;
const ROWS: usize = 32;

/// Level 0 is the scalar specification, about what llama-quantize does per thread.
const TYPES: &[&str] = &[
    "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "iq4_nl",
    "iq4_xs", "tq1_0", "tq2_0", "mxfp4", "nvfp4", "q1_0", "q2_0", "iq3_s", "iq3_xxs", "iq2_s", "iq2_xs",
    "iq2_xxs", "iq1_m", "iq1_s",
];

/// Those of them that can be encoded without importance.
fn plain_types() -> impl Iterator<Item = &'static str> {
    TYPES.iter().copied().filter(|t| ElementType::from_name(t).is_some_and(|t| !needs_weights(t)))
}

fn main() {
    divan::main();
}

/// Values as trained weights have them, near enough: normal, rounded to f16; and importance.
fn data() -> (Vec<f32>, Vec<f32>) {
    let mut state = 1u64;
    let mut unit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    let rows = (0..COLUMNS * ROWS)
        .map(|_| half::f16::from_f32(((0..12).map(|_| unit()).sum::<f32>() - 6.0) * 0.02).to_f32())
        .collect();
    (rows, (0..COLUMNS).map(|_| unit() * 3.0 + 0.01).collect())
}

fn bench(bencher: Bencher, name: &str, encode: impl Fn(ElementType, &[f32], &[f32], &mut [u8])) {
    let element_type = ElementType::from_name(name).expect("a type's name");
    let (rows, weights) = data();
    let mut out = vec![0; ROWS * element_type.row_bytes(COLUMNS).expect("whole blocks")];
    bencher
        .counter(ItemsCount::new(rows.len()))
        .bench_local(|| encode(element_type, black_box(&rows), black_box(&weights), black_box(&mut out)));
}

#[divan::bench(args = plain_types(), consts = [0, 1, 3], sample_count = 20, sample_size = 1)]
fn plain<const LEVEL: usize>(bencher: Bencher, name: &str) {
    bench(bencher, name, |t, rows, _, out| {
        encode_rows_at(Level::ALL[LEVEL], t, COLUMNS, rows, None, out).expect("it fits");
    });
}

#[divan::bench(args = TYPES, consts = [0, 1, 3], sample_count = 20, sample_size = 1)]
fn with_importance<const LEVEL: usize>(bencher: Bencher, name: &str) {
    bench(bencher, name, |t, rows, weights, out| {
        encode_rows_at(Level::ALL[LEVEL], t, COLUMNS, rows, Some(weights), out).expect("it fits");
    });
}
