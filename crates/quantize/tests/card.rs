//! The column loop on an NVIDIA card against the CPU's: the same bits. Each test says that it was skipped where there is
//! no card.

use std::time::Instant;

use quern_compute::cuda::column_loop::{
    Blocks, BlocksKind, ColumnLoop, Factor, Grid, Numbers, Piece, Plan, Unit,
};
use quern_compute::cuda::{Card, Memory, Stream};
use quern_compute::{Buffer, Device, Executor, Pool};
use quern_quantize::gptq::blocks::{solve_blocks, solve_shifted_blocks};
use quern_quantize::gptq::{Hessian, Order, Prepared, Settings, Shift, ShiftOfRows, Solution, solve};
use quern_tensor_io::ElementType;

/// A card, if there is one.
fn card(test: &str) -> Option<Card> {
    match Card::open(0) {
        Ok(card) => Some(card),
        Err(error) => {
            assert!(std::env::var_os("QUERN_TEST_CUDA").is_none(), "{test}: {error}");
            eprintln!("{test}: skipped: no NVIDIA card ({error})");
            None
        }
    }
}

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

/// Inputs of a layer: columns of very different size that share a few directions, one of them always 0.
fn inputs(columns: usize, tokens: usize, seed: u64) -> Vec<f32> {
    let mut r = Random(seed);
    let mix: Vec<f32> = (0..4 * columns).map(|_| r.normal()).collect();
    let mut size: Vec<f32> = (0..columns).map(|_| (1.2 * r.normal()).exp()).collect();
    size[columns / 3] = 0.0;
    let mut x = Vec::with_capacity(tokens * columns);
    for _ in 0..tokens {
        let direction: Vec<f32> = (0..4).map(|_| r.normal()).collect();
        for c in 0..columns {
            let common: f32 = (0..4).map(|k| direction[k] * mix[k * columns + c]).sum();
            x.push(size[c] * (0.4 * common + r.float()));
        }
    }
    x
}

fn weights(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
    let mut r = Random(seed);
    let mut weights: Vec<f32> = (0..rows * columns).map(|_| 0.03 * r.normal()).collect();
    // A row of zeros, and one of one sign.
    weights[..columns].fill(0.0);
    weights[columns..2 * columns].iter_mut().for_each(|w| *w = w.abs());
    weights
}

fn hessian(pool: &Pool, columns: usize, seed: u64) -> Hessian {
    let mut hessian = Hessian::new(columns);
    hessian.add(pool, &inputs(columns, 2 * columns, seed));
    hessian
}

/// What differs between two solutions, in words; nothing if they are the same.
fn difference(cpu: &Solution, card: &Solution) -> Option<String> {
    let count = |same: Vec<bool>| same.iter().filter(|same| !**same).count();
    let codes = count(cpu.codes.iter().zip(&card.codes).map(|(a, b)| a == b).collect());
    let bits = |a: &half::f16, b: &half::f16| a.to_bits() == b.to_bits();
    let scales = count(cpu.scales.iter().zip(&card.scales).map(|(a, b)| bits(a, b)).collect());
    let zeros = count(cpu.zeros.iter().zip(&card.zeros).map(|(a, b)| a == b).collect());
    let shapes =
        (cpu.codes.len(), cpu.scales.len(), &cpu.g_idx) == (card.codes.len(), card.scales.len(), &card.g_idx);
    let loss = (cpu.loss / card.loss - 1.0).abs();
    let first = cpu.codes.iter().zip(&card.codes).position(|(a, b)| a != b);
    let same = codes == 0 && scales == 0 && zeros == 0 && shapes && loss < 1e-6;
    (!same).then(|| {
        format!(
            "{codes} of {} codes (first {first:?}), {scales} scales, {zeros} zeros, loss {loss:.1e}",
            cpu.codes.len()
        )
    })
}

#[test]
fn codes_and_scales_are_those_of_the_cpu() {
    let Some(card) = card("codes_and_scales_are_those_of_the_cpu") else { return };
    let pool = Pool::new(8);
    let mut wrong = Vec::new();
    for (rows, columns) in [(64, 160), (96, 416), (160, 288)] {
        let sum = hessian(&pool, columns, 5);
        let w = weights(rows, columns, 6);
        for bits in [2, 3, 4, 8] {
            for group_size in [Some(32), Some(48), Some(128), Some(192), None] {
                for symmetric in [true, false] {
                    for search in [false, true] {
                        for order in [Order::Natural, Order::GroupAware, Order::Activation] {
                            let s = Settings { bits, group_size, symmetric, order, damp: 0.01, search };
                            let prepared = Prepared::new(&pool, sum.clone(), &s).unwrap();
                            let cpu = solve(&pool, &w, rows, &prepared, &s).unwrap();
                            let there = prepared.to_card(&card).unwrap();
                            let on_card = solve(&pool, &w, rows, &there, &s).unwrap();
                            if let Some(difference) = difference(&cpu, &on_card) {
                                wrong.push(format!("{rows} x {columns} {s:?}: {difference}"));
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(30)].join("\n"));
}

#[test]
fn large_layers_are_those_of_the_cpu() {
    let Some(card) = card("large_layers_are_those_of_the_cpu") else { return };
    let pool = Pool::new(16);
    let (rows, columns) = (1056, 1344);
    let s = Settings::default();
    let prepared = Prepared::new(&pool, hessian(&pool, columns, 1), &s).unwrap();
    let w = weights(rows, columns, 2);
    let cpu = solve(&pool, &w, rows, &prepared, &s).unwrap();
    let there = prepared.to_card(&card).unwrap();
    let first = solve(&pool, &w, rows, &there, &s).unwrap();
    assert_eq!(difference(&cpu, &first), None);
    assert_eq!(first, solve(&pool, &w, rows, &there, &s).unwrap());
    // Back again.
    assert_eq!(cpu, solve(&pool, &w, rows, &there.to_host().unwrap(), &s).unwrap());
}

#[test]
fn blocks_are_those_of_the_cpu() {
    use ElementType as T;
    let Some(card) = card("blocks_are_those_of_the_cpu") else { return };
    let pool = Pool::new(16);
    let types = [
        T::Q4_0,
        T::Q5_0,
        T::Q8_0,
        T::Q4_1,
        T::Q5_1,
        T::Q2K,
        T::Q3K,
        T::Q4K,
        T::Q5K,
        T::Q6K,
        T::IQ4NL,
        T::IQ4XS,
        T::TQ1_0,
        T::TQ2_0,
        T::MXFP4,
        T::IQ2XXS,
    ];
    let mut wrong = Vec::new();
    for (rows, columns) in [(80, 512), (200, 1280)] {
        let sum = hessian(&pool, columns, 5);
        let w = weights(rows, columns, 6);
        let target: Vec<f32> = weights(rows, columns, 7).iter().map(|t| 30.0 * t).collect();
        for element_type in types {
            let prepared = Prepared::for_blocks(&pool, sum.clone(), element_type, 0.01).unwrap();
            let there = prepared.to_card(&card).unwrap();
            for target in [None, Some(&target[..])] {
                let cpu = solve_blocks(&pool, &w, rows, &prepared, element_type, target).unwrap();
                let on_card = solve_blocks(&pool, &w, rows, &there, element_type, target).unwrap();
                let differing = cpu.bytes.iter().zip(&on_card.bytes).filter(|(a, b)| a != b).count();
                let first = cpu.bytes.iter().zip(&on_card.bytes).position(|(a, b)| a != b);
                let loss = (cpu.loss / on_card.loss - 1.0).abs();
                if differing > 0 || cpu.bytes.len() != on_card.bytes.len() || loss > 1e-6 {
                    let bytes = cpu.bytes.len();
                    wrong.push(format!(
                        "{rows} x {columns} {element_type} {}: {differing} of {bytes} bytes, first {first:?}, loss {loss:.1e}",
                        target.is_some()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_layers_make_up_for_is_that_of_the_cpu() {
    let Some(card) = card("what_layers_make_up_for_is_that_of_the_cpu") else { return };
    let pool = Pool::new(8);
    let (rows, columns, tokens) = (144, 512, 300);
    let device = Device::Cuda(card.clone());
    let mut executor = Executor::new(&device).unwrap();
    let x = inputs(columns, tokens, 8);
    let mut r = Random(9);
    let reference: Vec<f32> = x.iter().map(|x| x + 0.1 * r.normal()).collect();
    let drift: Vec<f32> = (0..tokens * rows).map(|_| 0.01 * r.normal()).collect();
    let mut there = |values: &[f32]| {
        let mut buffer = Buffer::new(&device);
        buffer.reserve(values.len()).unwrap();
        executor.upload(values, buffer.front_mut(values.len())).unwrap();
        buffer
    };
    let on_card = [there(&x), there(&reference), there(&drift)];
    let mut shift = Shift::on(&executor, columns).unwrap();
    let mut second = Shift::on(&executor, columns).unwrap();
    let half = tokens / 2;
    for (shift, tokens) in [(&mut shift, 0..half), (&mut second, half..tokens)] {
        let [x, reference, drift] = [(&on_card[0], columns), (&on_card[1], columns), (&on_card[2], rows)]
            .map(|(buffer, width)| {
                buffer.front(buffer.len()).slice(tokens.start * width..tokens.end * width)
            });
        shift.add_values(&mut executor, x, reference, Some(drift)).unwrap();
    }
    shift.merge(&second).unwrap();
    let in_ram = shift.to_host().unwrap();
    let w = weights(rows, columns, 6);
    // The sums themselves, against the CPU's.
    let mut summed = Shift::new(columns);
    summed.add(&pool, &x, &reference, Some(&drift));
    let (a, b) = (summed.target(&pool, &w, 0, 1.0, 0.5), in_ram.target(&pool, &w, 0, 1.0, 0.5));
    let (a, b) = (a.unwrap(), b.unwrap());
    let size = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let apart = size(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / size(&mut a.iter().copied());
    assert!(apart < 1e-4, "{apart}");
    // And what is made of them, bit for bit.
    let mut hessian = Hessian::new(columns);
    hessian.add(&pool, &x);
    for element_type in [ElementType::Q4_0, ElementType::Q4K, ElementType::IQ2XXS] {
        let prepared = Prepared::for_blocks(&pool, hessian.clone(), element_type, 0.01).unwrap();
        let prepared_there = prepared.to_card(&card).unwrap();
        for (first, count) in [(0, rows), (16, 64)] {
            let w = &w[first * columns..(first + count) * columns];
            let part = |shift| Some(ShiftOfRows { shift, first, inputs: 0.5, drift: 0.7 });
            let cpu = solve_shifted_blocks(&pool, w, count, &prepared, element_type, part(&in_ram)).unwrap();
            for shift in [&shift, &in_ram] {
                let made = solve_shifted_blocks(&pool, w, count, &prepared_there, element_type, part(shift))
                    .unwrap();
                assert!(cpu.bytes == made.bytes, "{element_type} from row {first}");
            }
        }
    }
}

/// Milliseconds of each phase for the layers of a 7B model: a factor of noise is as good as any for that.
#[test]
#[ignore = "takes times"]
fn time_of_phases() {
    let Some(card) = card("time_of_phases") else { return };
    let pool = Pool::new(16);
    println!(
        "\n{:>14} {:>10} {:>8} {:>8} {:>8} {:>8} {:>9}",
        "rows x columns", "", "take", "solve", "sweeps", "codes", "TFLOP/s"
    );
    let gptq = Grid::Gptq { top: 15.0, symmetric: true, search: true };
    let blocks = |kind, low, high, code_low, code_high, offset_high| {
        Grid::Blocks(Blocks { kind, low, high, code_low, code_high, offset_high })
    };
    let plain = Grid::Gptq { top: 15.0, symmetric: true, search: false };
    let formats = [
        ("gptq", gptq, 128, 128),
        ("no search", plain, 128, 128),
        ("q4_0", blocks(BlocksKind::WholeHalf, -8.0, 7.0, 0.0, 0.0, 0.0), 32, 32),
        ("q4_K", blocks(BlocksKind::WholeCodesCodes, 0.0, 15.0, 0.0, 63.0, 63.0), 256, 32),
        ("q6_K", blocks(BlocksKind::WholeCodes, -32.0, 31.0, -128.0, 127.0, 0.0), 256, 16),
        ("iq4_xs", blocks(BlocksKind::Iq4Codes, -127.0, 113.0, -32.0, 31.0, 0.0), 256, 32),
    ];
    for (rows, columns) in [(4096, 4096), (11008, 4096), (4096, 11008)] {
        let mut r = Random(3);
        let mut factor = vec![0f32; columns * columns];
        for i in 0..columns {
            for j in 0..i {
                let u = 0.3 * r.float() / (columns as f32).sqrt();
                (factor[i * columns + j], factor[j * columns + i]) = (u, u);
            }
            factor[i * columns + i] = 1.0;
        }
        let stream = Stream::new(&card).unwrap();
        let upload = |values: &[f32]| {
            let memory = Memory::new(&card, 4 * values.len()).unwrap();
            stream.upload(&memory, 0, zerocopy::IntoBytes::as_bytes(values)).unwrap();
            memory
        };
        let factor = upload(&factor);
        let w: Vec<f32> = (0..rows * columns).map(|_| 0.03 * r.float()).collect();
        for (name, grid, block, group) in formats {
            let pieces: Vec<Piece> = (0..columns / block)
                .map(|p| Piece {
                    positions: block * p..block * (p + 1),
                    unit: p,
                    whole: true,
                    square: p * block * block,
                })
                .collect();
            let squares: Vec<f32> = (0..columns * block)
                .map(|i| if i / block % block == i % block { 1.0 } else { 0.01 })
                .collect();
            let squares = upload(&squares);
            let per_unit = block / group;
            let unit = |p: usize| Unit {
                positions: block * p..block * (p + 1),
                number: p,
                groups: p * per_unit..(p + 1) * per_unit,
            };
            let plan = Plan {
                order: (0..columns as u32).collect(),
                diagonal: vec![1.0; columns],
                groups: (0..columns / group).map(|g| (group * g..group * (g + 1), g)).collect(),
                group_of: (0..columns as u32).map(|c| c / group as u32).collect(),
                units: (0..columns / block).map(unit).collect(),
                pieces,
            };
            let factor = Factor { factor: &factor, squares: &squares };
            let sweeps = if block == 128 { 2 } else { 4 };
            for turn in 0..2 {
                let mut last = Instant::now();
                let mut lap = || std::mem::replace(&mut last, Instant::now()).elapsed().as_secs_f64() * 1e3;
                let mut columns_there = ColumnLoop::new(&pool, factor, &plan, grid, &w).unwrap();
                columns_there.synchronize().unwrap();
                let take = lap();
                columns_there.solve().unwrap();
                columns_there.synchronize().unwrap();
                let solved = lap();
                for _ in 0..sweeps {
                    columns_there.refine().unwrap();
                }
                columns_there.synchronize().unwrap();
                let refined = lap();
                let numbers = columns_there.numbers(Numbers::Scales).unwrap();
                std::hint::black_box((
                    columns_there.loss().unwrap(),
                    numbers,
                    columns_there.codes().unwrap(),
                ));
                let codes = lap();
                let flop = (1 + 2 * sweeps) as f64 * rows as f64 * (columns as f64).powi(2);
                let rate = flop / (solved + refined) / 1e9;
                if turn == 1 {
                    let shape = format!("{rows} x {columns}");
                    println!(
                        "{shape:>14} {name:>10} {take:>8.2} {solved:>8.2} {refined:>8.2} {codes:>8.2} {rate:>9.1}"
                    );
                }
            }
        }
    }
}
