//! How fast weights are multiplied with, by type: `cargo bench -p quern-compute`.
//!
//! `decode`: one activation row against 640 MB of weights (more than any cache): bytes per second, to be
//! compared with `read`, which only adds the same bytes up. `prompt`: many rows against a 2048 x 5632
//! matrix: items are multiply-adds per second. Both use every core the process may run on. `cached`: as `decode`, on
//! one thread, with weights that stay in its second-level cache: what the instructions alone allow.

use std::sync::Arc;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use quern_compute::attention::{CacheData, Keys, LatentUp, Values, attention, latent_attention};
use quern_compute::{
    AttentionShape, Device, Executor, LatentShape, Matrix, Pool, Scratch, ValuesMut, matmul, sample_weights,
};
use quern_tensor_io::ElementType;

const TYPES: [&str; 30] = [
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K",
    "iq4_xs", "tq1_0", "tq2_0", "nf4", "fp4", "nvfp4", "q2_0", "q1_0", "iq3_s", "iq3_xxs", "iq2_s", "iq2_xs",
    "iq2_xxs", "iq1_m", "iq1_s", "f16", "bf16", "f32",
];
const COLUMNS: usize = 2048;
const ROWS: usize = 5632;

fn main() {
    divan::main();
}

fn pool() -> Pool {
    Pool::new(std::thread::available_parallelism().map_or(1, |n| n.get()))
}

fn activations(n: usize) -> Vec<f32> {
    (0..n * COLUMNS).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 300.0).collect()
}

#[divan::bench(sample_count = 8, sample_size = 1)]
fn read(bencher: Bencher) {
    let (pool, data) = (pool(), sample_weights(ElementType::F32, 640 << 20));
    bencher.counter(BytesCount::new(data.len())).bench_local(|| {
        let sum = std::sync::atomic::AtomicU64::new(0);
        let chunk = 1 << 20;
        pool.run(data.len() / chunk, |i| {
            let mut lanes = [0u64; 16];
            for part in data[i * chunk..][..chunk].as_chunks::<8>().0.as_chunks::<16>().0 {
                lanes.iter_mut().zip(part).for_each(|(l, w)| *l = l.wrapping_add(u64::from_le_bytes(*w)));
            }
            sum.fetch_add(
                lanes.iter().fold(0, |a: u64, l| a.wrapping_add(*l)),
                std::sync::atomic::Ordering::Relaxed,
            );
        });
        black_box(sum)
    });
}

#[divan::bench(args = TYPES, sample_count = 8, sample_size = 1)]
fn decode(bencher: Bencher, name: &str) {
    let element_type = ElementType::from_name(name).expect("a type");
    let row_bytes = element_type.row_bytes(COLUMNS).expect("whole blocks");
    let rows = (640 << 20) / row_bytes;
    let data = sample_weights(element_type, rows * row_bytes);
    let matrix = Matrix::new(element_type, rows, COLUMNS, &data).expect("a matrix");
    let (pool, mut scratch, x) = (pool(), Scratch::new(), activations(1));
    let mut y = vec![0f32; rows];
    bencher.counter(BytesCount::new(data.len())).bench_local(|| {
        matmul(&pool, &mut scratch, &[matrix], &x, 1, &mut [&mut y]).expect("lengths fit");
    });
}

#[divan::bench(args = TYPES, sample_count = 40, sample_size = 20)]
fn cached(bencher: Bencher, name: &str) {
    let element_type = ElementType::from_name(name).expect("a type");
    let row_bytes = element_type.row_bytes(COLUMNS).expect("whole blocks");
    let rows = (256 << 10) / row_bytes;
    let data = sample_weights(element_type, rows * row_bytes);
    let matrix = Matrix::new(element_type, rows, COLUMNS, &data).expect("a matrix");
    let (pool, mut scratch, x) = (Pool::new(1), Scratch::new(), activations(1));
    let mut y = vec![0f32; rows];
    bencher.counter(BytesCount::new(data.len())).bench_local(|| {
        matmul(&pool, &mut scratch, &[matrix], &x, 1, &mut [&mut y]).expect("lengths fit");
    });
}

fn prompt(bencher: Bencher, name: &str, n: usize) {
    let element_type = ElementType::from_name(name).expect("a type");
    let data = sample_weights(element_type, ROWS * element_type.row_bytes(COLUMNS).expect("whole blocks"));
    let matrix = Matrix::new(element_type, ROWS, COLUMNS, &data).expect("a matrix");
    let (pool, mut scratch, x) = (pool(), Scratch::new(), activations(n));
    let mut y = vec![0f32; n * ROWS];
    bencher.counter(ItemsCount::new(n * ROWS * COLUMNS)).bench_local(|| {
        matmul(&pool, &mut scratch, &[matrix], &x, n, &mut [&mut y]).expect("lengths fit");
    });
}

#[divan::bench(args = TYPES, sample_count = 10, sample_size = 1)]
fn prompt_128(bencher: Bencher, name: &str) {
    prompt(bencher, name, 128);
}

#[divan::bench(args = TYPES, sample_count = 5, sample_size = 1)]
fn prompt_512(bencher: Bencher, name: &str) {
    prompt(bencher, name, 512);
}

#[divan::bench(args = [2, 4, 8, 16], sample_count = 10, sample_size = 1)]
fn few_rows_q4_k(bencher: Bencher, n: usize) {
    prompt(bencher, "q4_K", n);
}

/// A region with nothing to do: what forking and joining costs.
#[divan::bench]
fn fork_join(bencher: Bencher) {
    let pool = pool();
    bencher.bench_local(|| pool.run(pool.threads(), |task| _ = black_box(task)));
}

/// One layer's attention of a 1.1B model: (queries, positions already cached, how the cache is kept).
#[divan::bench(
    args = [(1, 127, "f16"), (1, 2047, "f16"), (128, 0, "f16"), (128, 0, "q8_0"), (512, 0, "f16"), (512, 0, "q8_0")],
    sample_count = 20, sample_size = 1
)]
fn attend(bencher: Bencher, (n, first, kind): (usize, usize, &str)) {
    let shape = AttentionShape {
        heads: 32,
        kv_heads: 4,
        head_dim: 64,
        scale: 0.125,
        window: None,
        chunk: None,
        softcap: None,
    };
    let pool = pool();
    let q: Vec<f32> = (0..n * 2048).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 500.0).collect();
    let halves: Vec<half::f16> =
        (0..2048 * 256).map(|i| half::f16::from_f32((i * 37 % 101) as f32 / 50.0 - 1.0)).collect();
    let blocks = vec![0x1f_u8; 2048 * 256 / 32 * 34];
    let data = if kind == "f16" { CacheData::F16(&halves) } else { CacheData::Q8_0(&blocks) };
    let head_stride = 2048 * 64;
    let (keys, values) = (Keys { data, head_stride }, Values { data, position_stride: 64, head_stride });
    let mut out = vec![0f32; q.len()];
    bencher.bench_local(|| {
        attention(&pool, &shape, (&q, first), (keys, values), &[], &mut out).expect("lengths fit");
    });
}

/// Generating: bytes of keys and values per second, over so many layers that none is left in a cache. (Position, threads,
/// query heads per key-value head, head_dim, how the cache is kept.)
#[divan::bench(
    args = [(256, 1, 8, 64, "f16"), (256, 1, 8, 64, "q8_0"), (256, 2, 8, 64, "f16"), (256, 2, 8, 64, "q8_0"),
        (4096, 1, 8, 64, "f16"), (4096, 1, 8, 64, "q8_0"), (4096, 2, 8, 64, "f16"), (4096, 2, 8, 64, "q8_0"),
        (4096, 2, 4, 128, "f16"), (4096, 2, 4, 128, "q8_0"), (4096, 2, 1, 64, "f16"), (4096, 2, 1, 64, "q8_0"),
        (4096, 2, 1, 128, "f16"), (4096, 2, 1, 128, "f32"), (4096, 2, 1, 128, "q8_0")],
    sample_count = 10, sample_size = 1
)]
fn attend_one(
    bencher: Bencher,
    (positions, threads, group, head_dim, kind): (usize, usize, usize, usize, &str),
) {
    let kv_heads = 512 / head_dim;
    let heads = kv_heads * group;
    let shape =
        AttentionShape { heads, kv_heads, head_dim, scale: 0.1, window: None, chunk: None, softcap: None };
    let pool = Pool::new(threads);
    let q: Vec<f32> = (0..heads * head_dim).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 500.0).collect();
    let layers = 12 * 4096 / positions;
    let size = kv_heads * positions * head_dim;
    let total = 2 * layers * size;
    let (mut floats, mut halves, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
    match kind {
        "f32" => floats = (0..total).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect(),
        "f16" => {
            let x: Vec<half::f16> =
                (0..1 << 16).map(|i| half::f16::from_f32((i * 37 % 101) as f32 / 50.0 - 1.0)).collect();
            halves = x.repeat(total / x.len());
        }
        // Two bytes of this are a scale of 0.007, whichever they are of keys or values.
        _ => blocks = vec![0x1f_u8; total / 32 * 34],
    }
    let data = |layer: usize| match kind {
        "f32" => CacheData::F32(&floats[layer * size..][..size]),
        "f16" => CacheData::F16(&halves[layer * size..][..size]),
        _ => CacheData::Q8_0(&blocks[layer * (size / 32 * 34)..][..size / 32 * 34]),
    };
    let head_stride = positions * head_dim;
    let mut out = vec![0f32; q.len()];
    let bytes = 4 * floats.len() + 2 * halves.len() + blocks.len();
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        for layer in 0..layers {
            let keys = Keys { data: data(2 * layer), head_stride };
            let values = Values { data: data(2 * layer + 1), position_stride: head_dim, head_stride };
            attention(&pool, &shape, (&q, positions - 1), (keys, values), &[], &mut out)
                .expect("lengths fit");
        }
    });
}

/// One layer's latent attention, of DeepSeek V2-Lite (16 heads) and V3 (128): bytes of its matrices, in f16, and of the
/// cache per second. (Heads, queries, positions already cached.)
#[divan::bench(
    args = [(16, 1, 255), (16, 1, 4095), (16, 64, 4032), (16, 512, 0), (128, 1, 255), (128, 1, 4095), (128, 128, 3968),
        (128, 256, 3840), (128, 512, 0)],
    sample_count = 6, sample_size = 1
)]
fn attend_latent(bencher: Bencher, (heads, n, first): (usize, usize, usize)) {
    const RANK: usize = 512;
    let shape = LatentShape { heads, rank: RANK, rope: 64, nope: 128, value: 128, scale: 0.07 };
    let pool = pool();
    let size = 128 * RANK * 2;
    let bytes: Vec<u8> = (0..size / 2)
        .flat_map(|i| half::f16::from_f32((i * 37 % 101) as f32 / 2500.0 - 0.02).to_le_bytes())
        .collect();
    let bytes = bytes.repeat(2 * heads);
    let matrix = |at: usize, rows, columns| {
        Matrix::new(ElementType::F16, rows, columns, &bytes[at * size..][..size]).expect("a matrix")
    };
    let keys: Vec<Matrix> = (0..heads).map(|head| matrix(head, RANK, 128)).collect();
    let values: Vec<Matrix> = (heads..2 * heads).map(|head| matrix(head, 128, RANK)).collect();
    let up = LatentUp::Split { keys: &keys, values: &values };
    let positions = (first + n).next_multiple_of(16);
    let row: Vec<half::f16> =
        (0..RANK + 64).map(|i| half::f16::from_f32((i * 37 % 101) as f32 / 50.0 - 1.0)).collect();
    let cache = row.repeat(positions);
    let q: Vec<f32> = (0..n * heads * 192).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 500.0).collect();
    let mut out = vec![0f32; n * heads * 128];
    let counter = BytesCount::new(bytes.len() + 2 * cache.len());
    bencher.counter(counter).bench_local(|| {
        let keys = Keys { data: CacheData::F16(&cache), head_stride: 0 };
        latent_attention(&pool, &shape, &up, (&q, first), (keys, None), &mut out).expect("lengths fit");
    });
}

/// The Hessian of a linear layer: multiply-adds of the lower triangle per second. (Columns, tokens.)
#[divan::bench(args = [(2048, 2048), (5632, 2048)], sample_count = 6, sample_size = 1)]
fn gram_matrix(bencher: Bencher, (columns, tokens): (usize, usize)) {
    let mut executor = Executor::new(&Device::Cpu(Arc::new(pool()))).expect("the CPU is there");
    let x: Vec<f32> = (0..tokens * columns).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 500.0).collect();
    let mut sum = vec![0f32; columns * columns];
    bencher.counter(ItemsCount::new(tokens * columns * (columns + 1) / 2)).bench_local(|| {
        executor
            .gram(quern_compute::Values::Host(&x), columns, ValuesMut::Host(&mut sum))
            .expect("lengths fit");
    });
}
