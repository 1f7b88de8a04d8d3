//! Hessians and factors on a card against those in RAM. Each test says that it was skipped where there is no NVIDIA card.

use std::sync::Arc;

use quern_compute::cuda::Card;
use quern_compute::simd::Level;
use quern_compute::{Buffer, Device, Executor, Pool, Values};
use quern_tensor_io::ElementType;

use super::super::hessian::Sum;
use super::super::{Hessian, Order, Prepared, Settings, SolveError};
use super::Sums;

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

/// Inputs whose columns differ in size and are correlated.
fn inputs(tokens: usize, columns: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut noise = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut x = Vec::with_capacity(tokens * columns);
    for _ in 0..tokens {
        let common = noise();
        x.extend((0..columns).map(|j| (noise() + common) * if j % 19 == 3 { 8.0 } else { 1.0 }));
    }
    x
}

/// Its sums on the card, the same bits.
fn on_card(card: &Card, hessian: &Hessian) -> Hessian {
    let Sum::Host(sum) = &hessian.sum else { panic!("in RAM") };
    let sums = Sums::from_host(card, sum, hessian.columns).unwrap();
    Hessian { sum: Sum::Card(sums), ..hessian.clone() }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

fn assert_same(here: &Prepared, there: &Prepared, what: &str) {
    assert!(there.card.is_some() && there.factor.is_empty() && there.squares.values.is_empty());
    let there = there.to_host().unwrap();
    assert_eq!(
        (here.damp(), here.dead(), here.tokens()),
        (there.damp(), there.dead(), there.tokens()),
        "{what}"
    );
    assert_eq!(here.plan, there.plan, "{what}");
    assert!(same_bits(&here.diagonal, &there.diagonal), "{what}: diagonal");
    if Level::best() > Level::Scalar {
        assert!(same_bits(&here.squares.values, &there.squares.values), "{what}: squares");
        assert!(same_bits(&here.factor, &there.factor), "{what}: factor");
    }
}

#[test]
fn factors_are_those_of_the_cpu() {
    let Some(card) = card("factors_are_those_of_the_cpu") else { return };
    let pool = Pool::new(2);
    for (columns, tokens) in [(64, 200), (320, 700), (512, 300), (640, 40)] {
        let mut x = inputs(tokens, columns);
        // Dead columns, and one that repeats another.
        for row in x.chunks_exact_mut(columns) {
            (row[5], row[columns - 1]) = (0.0, 0.0);
            row[9] = row[8];
        }
        let mut hessian = Hessian::new(columns);
        hessian.add(&pool, &x);
        for (order, group_size, damp) in [
            (Order::Natural, Some(32), 0.02),
            (Order::GroupAware, Some(128), 0.01),
            (Order::Activation, None, 0.0),
            (Order::GroupAware, Some(64), 1e-9),
        ] {
            let settings = Settings { order, group_size, damp, ..Settings::default() };
            let here = Prepared::new(&pool, hessian.clone(), &settings).unwrap();
            let there = Prepared::new(&pool, on_card(&card, &hessian), &settings).unwrap();
            assert_same(&here, &there, &format!("{columns} columns, {order:?}, {group_size:?}, {damp}"));
        }
        for element_type in [ElementType::Q4_0, ElementType::Q8_0, ElementType::Q4K, ElementType::IQ4XS] {
            if !columns.is_multiple_of(element_type.block_elements()) {
                continue;
            }
            let here = Prepared::for_blocks(&pool, hessian.clone(), element_type, 0.02).unwrap();
            let there = Prepared::for_blocks(&pool, on_card(&card, &hessian), element_type, 0.02).unwrap();
            assert_same(&here, &there, &format!("{columns} columns, {element_type}"));
        }
    }
}

#[test]
fn inputs_are_summed_on_the_card() {
    let Some(card) = card("inputs_are_summed_on_the_card") else { return };
    let (columns, tokens) = (320, 700);
    let x = inputs(tokens, columns);
    let pool = Arc::new(Pool::new(2));
    let mut here = Hessian::new(columns);
    here.add(&pool, &x);
    let device = Device::Cuda(card.clone());
    let mut executor = Executor::new(&device).unwrap();
    let mut buffer = Buffer::new(&device);
    buffer.reserve(x.len()).unwrap();
    executor.upload(&x, buffer.front_mut(x.len())).unwrap();
    let (first, rest) = (0..columns * 300, columns * 300..x.len());
    let mut there = Hessian::on(&executor, columns).unwrap();
    assert!(there.diagonal().unwrap().iter().all(|x| *x == 0.0));
    there.add_values(&mut executor, buffer.front(x.len()).slice(first.clone())).unwrap();
    // A clone stays as it is while the other goes on.
    let part = there.clone();
    let before = part.diagonal().unwrap();
    there.add_values(&mut executor, buffer.front(x.len()).slice(rest.clone())).unwrap();
    assert_eq!(part.diagonal().unwrap(), before);
    assert_eq!((part.tokens(), there.tokens()), (300, 700));
    let mut other = Hessian::on(&executor, columns).unwrap();
    other.add_values(&mut executor, buffer.front(x.len()).slice(rest)).unwrap();
    let mut merged = part.clone();
    merged.merge(other).unwrap();
    let mut in_ram = part.to_host().unwrap();
    let mut host_rest = Hessian::new(columns);
    host_rest.add(&pool, &x[columns * 300..]);
    in_ram.merge(on_card(&card, &host_rest)).unwrap();
    let mut again = Hessian::on(&executor, columns).unwrap();
    again.merge(here.clone()).unwrap();
    let Sum::Host(expected) = &here.sum else { panic!("in RAM") };
    for sums in [there, merged, in_ram, again] {
        assert_eq!(sums.tokens(), 700);
        let Sum::Host(found) = sums.to_host().unwrap().sum else { panic!("in RAM") };
        for i in 0..columns {
            for j in 0..=i {
                let size = (expected[i * columns + i] * expected[j * columns + j]).sqrt();
                let error = (found[i * columns + j] - expected[i * columns + j]).abs() / size;
                assert!(error < 2e-5, "{i} {j}: {error}");
            }
        }
    }
    // Inputs that are elsewhere.
    assert!(here.add_values(&mut executor, buffer.front(x.len())).is_err());
    let mut there = Hessian::on(&executor, columns).unwrap();
    assert!(there.add_values(&mut executor, Values::Host(&x)).is_err());
}

#[test]
fn what_cannot_be_factored_is_refused_alike() {
    let Some(card) = card("what_cannot_be_factored_is_refused_alike") else { return };
    let (columns, pool, settings) = (64, Pool::new(1), Settings::default());
    let zeros = on_card(&card, &Hessian::new(columns));
    let error = Prepared::new(&pool, zeros, &settings).unwrap_err();
    assert_eq!(error, SolveError::NoData { tokens: 0 });
    for (at, value) in [(3, f32::NAN), (130, f32::INFINITY), (64 * 20 + 63, 1e30)] {
        let mut x = inputs(40, columns);
        x[at] = value;
        let mut hessian = Hessian::new(columns);
        hessian.add(&pool, &x);
        let here = Prepared::new(&pool, hessian.clone(), &settings).unwrap_err();
        let there = Prepared::new(&pool, on_card(&card, &hessian), &settings).unwrap_err();
        assert_eq!(here.to_string(), there.to_string());
    }
}

#[test]
fn sums_of_two_cards_are_merged() {
    let Some(first) = card("sums_of_two_cards_are_merged") else { return };
    let Ok(second) = Card::open(1) else {
        eprintln!("sums_of_two_cards_are_merged: skipped: one NVIDIA card");
        return;
    };
    // More than is copied at a time.
    let columns = 4500;
    let pool = Pool::new(4);
    let hessians = [40, 30].map(|tokens| {
        let mut hessian = Hessian::new(columns);
        hessian.add(&pool, &inputs(tokens, columns));
        hessian
    });
    let mut there = on_card(&first, &hessians[0]);
    there.merge(on_card(&second, &hessians[1])).unwrap();
    let [mut here, other] = hessians;
    here.merge(other).unwrap();
    assert_eq!((here.tokens(), there.tokens()), (70, 70));
    let (Sum::Host(here), Sum::Host(there)) = (here.sum, there.to_host().unwrap().sum) else {
        panic!("in RAM")
    };
    assert!(same_bits(&here, &there));
}

#[test]
#[ignore = "takes times"]
fn preparation_takes_this_long() {
    let Some(card) = card("preparation_takes_this_long") else { return };
    let pool = Pool::new(4);
    let device = Device::Cuda(card.clone());
    let mut executor = Executor::new(&device).unwrap();
    for columns in [2048, 4096, 11008] {
        let x = inputs(2048, columns);
        let mut buffer = Buffer::new(&device);
        buffer.reserve(x.len()).unwrap();
        executor.upload(&x, buffer.front_mut(x.len())).unwrap();
        for round in 0..3 {
            let started = std::time::Instant::now();
            let mut hessian = Hessian::on(&executor, columns).unwrap();
            let zeros = started.elapsed();
            for _ in 0..8 {
                hessian.add_values(&mut executor, buffer.front(x.len())).unwrap();
            }
            let diagonal = hessian.diagonal().unwrap();
            let summed = started.elapsed();
            let prepared = Prepared::new(&pool, hessian, &Settings::default()).unwrap();
            let (done, damp) = (started.elapsed(), prepared.damp());
            let [zeros, sums, prepare] =
                [zeros, summed - zeros, done - summed].map(|time| time.as_secs_f64() * 1e3);
            println!(
                "{columns} columns, round {round}: zeros {zeros:.2} ms, 16384 tokens {sums:.2} ms, Prepared {prepare:.2} ms \
                 (damping {damp}, {} diagonal)",
                diagonal.len()
            );
        }
    }
}
