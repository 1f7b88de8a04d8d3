//! The GPU's operations against the CPU's. Each test says that it was skipped where there is no NVIDIA card.

mod attention;
mod factor;
mod mixers;
mod mixers_time;
mod mixture;
mod observed;
mod routings;
mod sums;
mod sums_time;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quern_tensor_io::ElementType;

use super::super::Card;
use crate::executor::{
    Buffer, Device, Executor, Input, Linear, Norm, NormKind, Output, PassKey, Permutation, Uploader, Values,
    ValuesMut, Weight,
};
use crate::ops::{Activation, Xielu};
use crate::testing::{Random, random_row};
use crate::{Matrix, Pool, get_row, supports};

/// One test at a time: memory and what was freed are counted for the whole process, and a freed piece of memory ends
/// recorded passes.
static TURN: Mutex<()> = Mutex::new(());

/// A card, if there is one, and the turn to use it.
fn card(test: &str) -> Option<(Card, MutexGuard<'static, ()>)> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    match Card::open(0) {
        Ok(card) => Some((card, turn)),
        Err(error) => {
            assert!(std::env::var_os("QUERN_TEST_CUDA").is_none(), "{test}: {error}");
            eprintln!("{test}: skipped: no NVIDIA card ({error})");
            None
        }
    }
}

/// An executor on each device, and how parameters get to the card.
struct Devices {
    cpu: Executor,
    gpu: Executor,
    device: Device,
    uploader: Uploader,
}

impl Devices {
    fn new(card: Card) -> Self {
        let pool = Arc::new(Pool::new(2));
        let device = Device::Cuda(card);
        let uploader = Uploader::new(&device, &pool).unwrap();
        Self {
            cpu: Executor::new(&Device::Cpu(pool)).unwrap(),
            gpu: Executor::new(&device).unwrap(),
            device,
            uploader,
        }
    }

    /// Runs `work` on the card with `input`; `length` values of its result, which begins as `before`.
    fn on_gpu(
        &mut self,
        input: &[f32],
        before: &[f32],
        work: impl FnOnce(&mut Executor, Values<'_>, ValuesMut<'_>),
    ) -> Vec<f32> {
        let (mut x, mut y) = (Buffer::new(&self.device), Buffer::new(&self.device));
        x.reserve(input.len()).unwrap();
        y.reserve(before.len()).unwrap();
        let key = PassKey { segment: 0, tokens: 2, first: 0, keep: 0, recordable: false };
        self.gpu.begin(key).unwrap();
        self.gpu.upload(input, x.front_mut(input.len())).unwrap();
        self.gpu.upload(before, y.front_mut(before.len())).unwrap();
        work(&mut self.gpu, x.front(input.len()), y.front_mut(before.len()));
        let mut result = vec![f32::NAN; before.len()];
        self.gpu.end(Some((y.front(before.len()), &mut result))).unwrap();
        result
    }
}

fn vector(random: &mut Random, length: usize) -> Vec<f32> {
    (0..length).map(|_| random.float()).collect()
}

fn linear(random: &mut Random, element_type: ElementType, rows: usize, columns: usize, bias: bool) -> Linear {
    let data: Vec<u8> = (0..rows).flat_map(|_| random_row(random, element_type, columns, false)).collect();
    let range = 0..data.len();
    let weight = Weight::host(element_type, rows, columns, Arc::new(data), range).unwrap();
    let bias = bias.then(|| vector(random, rows).into());
    Linear { weight, bias, permutation: None }
}

/// Sums in f64 of decoded weights and inputs, with the sizes of their terms.
fn product(matrix: &Matrix<'_>, x: &[f32], row: usize) -> (f64, f64) {
    let mut values = vec![0f32; matrix.columns()];
    get_row(matrix, row, &mut values).unwrap();
    let terms = values.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
    (terms.clone().sum(), terms.map(f64::abs).sum())
}

/// Every type that matrices have in memory.
fn types() -> impl Iterator<Item = ElementType> {
    use ElementType as T;
    let kept = |t: &T| supports(*t) && (t.is_block() || matches!(t, T::F32 | T::F16 | T::BF16));
    T::ALL.iter().copied().filter(kept).filter(|t| !matches!(t, T::Q8_1 | T::Q8K))
}

fn columns_of(element_type: ElementType) -> usize {
    match element_type.block_elements() {
        256 => 512,
        128 => 384,
        64 => 320,
        32 => 352,
        _ => 200,
    }
}

#[test]
fn every_type_multiplies() {
    let Some((card, _turn)) = card("every_type_multiplies") else { return };
    let mut devices = Devices::new(card);
    let mut random = Random::new(5);
    let mut wrong = Vec::new();
    for element_type in types() {
        let (rows, columns) = (77, columns_of(element_type));
        let host = linear(&mut random, element_type, rows, columns, true);
        let there = devices.uploader.linear(&host).unwrap();
        devices.uploader.finish().unwrap();
        let matrix = host.weight.matrix().unwrap();
        let bias = host.bias.as_ref().unwrap().host().unwrap().to_vec();
        for n in [1, 2, 3, 4, 5, 9, 33, 150] {
            let x = vector(&mut random, n * columns);
            let before = vector(&mut random, n * rows);
            for add in [false, true] {
                let y = devices.on_gpu(&x, &before, |gpu, x, y| {
                    let output = if add { Output::Add(y) } else { Output::Store([y]) };
                    gpu.linear([&there], Input::Values(x), output).unwrap();
                });
                // 8-bit activations for few tokens, 16-bit floats for many.
                let error = match (element_type.is_block(), n) {
                    (true, ..5) => 6e-3,
                    (true, _) => 6e-3,
                    (false, ..5) => 1e-5,
                    (false, _) if element_type == ElementType::F32 => 1e-5,
                    (false, _) => 2e-3,
                };
                let mut worst = 0f64;
                for (i, y) in y.chunks_exact(rows).enumerate() {
                    for (row, y) in y.iter().enumerate() {
                        let (e, size) = product(&matrix, &x[i * columns..][..columns], row);
                        let extra = if add { f64::from(before[i * rows + row]) } else { 0.0 };
                        let off = (f64::from(*y) - e - f64::from(bias[row]) - extra).abs() / (size + 1e-6);
                        worst = if off.is_nan() { f64::INFINITY } else { worst.max(off) };
                    }
                }
                if worst > error {
                    wrong.push(format!("{element_type} n {n} add {add}: {worst:.2e}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn groups_norms_gates_and_orders_are_those_of_the_cpu() {
    let Some((card, _turn)) = card("groups_norms_gates_and_orders_are_those_of_the_cpu") else { return };
    let mut devices = Devices::new(card);
    let (mut random, mut others) = (Random::new(6), Random::new(61));
    let mut wrong = Vec::new();
    let columns = 256;
    for (first, second) in [
        (ElementType::Q4K, ElementType::Q6K),
        (ElementType::Q4_0, ElementType::Q4_0),
        (ElementType::F16, ElementType::F32),
        (ElementType::F32, ElementType::F32),
    ] {
        for kind in [None, Some(NormKind::Rms), Some(NormKind::Layer)] {
            for ordered in [false, true] {
                let mut a = linear(&mut random, first, 96, columns, true);
                let mut b = linear(&mut random, second, 96, columns, false);
                if ordered {
                    let order: Arc<[u32]> = (0..columns as u32).map(|i| (i * 77) % columns as u32).collect();
                    a.permutation = Some(Permutation::Host(order.clone()));
                    b.permutation = Some(Permutation::Host(order));
                }
                let norm = kind.map(|kind| Norm {
                    kind,
                    epsilon: 1e-5,
                    weight: vector(&mut random, columns).into(),
                    bias: (kind == NormKind::Layer).then(|| vector(&mut random, columns).into()),
                });
                let there = [&a, &b].map(|l| devices.uploader.linear(l).unwrap());
                let norm_there = norm.as_ref().map(|norm| devices.uploader.norm(norm).unwrap());
                devices.uploader.finish().unwrap();
                // What random K-quants give is thousands of times what the clamped function lets through.
                let cases = if first == ElementType::Q4K { 3 } else { 5 };
                for n in [1, 4, 7, 40] {
                    let x = vector(&mut random, n * columns);
                    for case in 0..cases {
                        let random = if case < 3 { &mut random } else { &mut others };
                        let length = n * if case == 0 { 192 } else { 96 };
                        let before = vector(random, length);
                        let mut expected = before.clone();
                        let input = match &norm {
                            Some(norm) => Input::Norm(norm, Values::Host(&x)),
                            None => Input::Values(Values::Host(&x)),
                        };
                        let y = ValuesMut::Host(&mut expected);
                        run(&mut devices.cpu, [&a, &b], input, y, case);
                        let found = devices.on_gpu(&x, &before, |gpu, x, y| {
                            let input = match &norm_there {
                                Some(norm) => Input::Norm(norm, x),
                                None => Input::Values(x),
                            };
                            run(gpu, [&there[0], &there[1]], input, y, case);
                        });
                        let d = distance(&found, &expected);
                        // The CPU rounds inputs of K-quants to 8 bits in groups of 256.
                        if d > 4e-2 {
                            wrong.push(format!(
                                "{first} {second} {kind:?} order {ordered} n {n} case {case}: {d:.2e}"
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn run(executor: &mut Executor, [a, b]: [&Linear; 2], input: Input<'_>, y: ValuesMut<'_>, case: usize) {
    match case {
        0 => executor.linear([a, b], input, Output::Join(y)),
        1 => executor.linear([a, b], input, Output::Gate(Activation::Silu, y)),
        2 => executor.linear([a], input, Output::Activate(Activation::GeluTanh, y)),
        3 => executor.linear([a, b], input, Output::Gate(Activation::ClampedSwiglu, y)),
        _ => executor.linear([a], input, Output::Activate(Activation::ClampedSwiglu, y)),
    }
    .unwrap();
}

/// Length of the difference over that of the expected.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let pairs = || found.iter().zip(expected).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let error: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
    let size: f64 = pairs().map(|(_, b)| b * b).sum();
    let distance = (error / size.max(1e-30)).sqrt();
    if distance.is_nan() { f64::INFINITY } else { distance }
}

#[test]
fn xielu_is_that_of_the_cpu() {
    let Some((card, _turn)) = card("xielu_is_that_of_the_cpu") else { return };
    let mut devices = Devices::new(card);
    let mut random = Random::new(62);
    let function = Xielu::new([0.3, -0.4, 0.5, -1e-6]);
    for (rows, width) in [(1, 1), (5, 1100), (40_000, 3)] {
        let x: Vec<f32> = vector(&mut random, rows * width).iter().map(|x| 8.0 * x).collect();
        let found = devices.on_gpu(&[], &x, |gpu, _, x| gpu.xielu(x, width, function).unwrap());
        let mut expected = x.clone();
        devices.cpu.xielu(ValuesMut::Host(&mut expected), width, function).unwrap();
        let d = distance(&found, &expected);
        assert!(d < 1e-6, "{rows} {width}: {d:.2e}");
    }
}

#[test]
fn statistics_of_logits_are_those_of_the_cpu() {
    let Some((card, _turn)) = card("statistics_of_logits_are_those_of_the_cpu") else { return };
    let mut devices = Devices::new(card);
    let mut random = Random::new(8);
    for (rows, vocabulary) in [(1, 1), (3, 7), (40, 1000), (255, 32_000), (2, 151_669)] {
        let mut both = [0, 1].map(|_| vector(&mut random, rows * vocabulary));
        for values in both.iter_mut().flatten() {
            *values *= 12.0;
        }
        if vocabulary > 3 {
            // The first among equals is the largest.
            both[0][1] = 99.0;
            both[0][3] = 99.0;
        }
        let targets: Vec<u32> = (0..rows).map(|row| (row * 7919 % vocabulary) as u32).collect();
        let [p, q] = [0, 1].map(|index| Values::Host(&both[index]));
        let expected = devices.cpu.likelihood(p, vocabulary, &targets).unwrap();
        let divergences = devices.cpu.divergence(p, q, vocabulary).unwrap();
        let Devices { gpu, device, .. } = &mut devices;
        let mut there = [0, 1].map(|_| Buffer::new(device));
        for (buffer, values) in there.iter_mut().zip(&both) {
            buffer.reserve(values.len()).unwrap();
            gpu.upload(values, buffer.front_mut(values.len())).unwrap();
        }
        let [a, b] = [0, 1].map(|index| there[index].front(rows * vocabulary));
        let found = gpu.likelihood(a, vocabulary, &targets).unwrap();
        assert_eq!(found.len(), rows);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found.log_sum_exp - expected.log_sum_exp).abs() < 1e-5, "{found:?} {expected:?}");
            assert_eq!((found.target_logit, found.largest), (expected.target_logit, expected.largest));
        }
        let found = gpu.divergence(a, b, vocabulary).unwrap();
        assert_eq!(found.len(), rows);
        for (found, expected) in found.iter().zip(&divergences) {
            assert!((found - expected).abs() < 1e-5 * (1.0 + expected), "{found} {expected}");
        }
        assert!(gpu.divergence(a, Values::Host(&both[1]), vocabulary).is_err());
        assert!(gpu.likelihood(a, vocabulary, &[vocabulary as u32]).is_err());
        // A row with a NaN has no likelihood.
        both[0][vocabulary / 2] = f32::NAN;
        gpu.upload(&both[0], there[0].front_mut(rows * vocabulary)).unwrap();
        let found = gpu.likelihood(there[0].front(rows * vocabulary), vocabulary, &targets).unwrap();
        assert!(found[0].log_sum_exp.is_nan() && found[1..].iter().all(|row| row.log_sum_exp.is_finite()));
    }
}

#[test]
fn bandwidth_is_measured_without_a_trace() {
    let Some((card, _turn)) = card("bandwidth_is_measured_without_a_trace") else { return };
    let before = card.memory_use();
    let measured = card.bandwidth().unwrap().unwrap();
    eprintln!("{}: {:.3} TB/s", card.info().name, measured / 1e12);
    // From the slowest card of compute capability 7.5 to some times the fastest there is.
    assert!((5e10..5e13).contains(&measured), "{measured}");
    assert_eq!(card.memory_use().current, before.current);
    assert_eq!(card.memory_use().peak, before.peak);
}
