//! What the inputs of layers are observed with: experts one by one, sums by column.

use super::{Devices, card, vector};
use crate::executor::{Buffer, Choice, Routing, Values, ValuesMut};
use crate::testing::Random;

/// A buffer on the card with these values.
fn there(devices: &mut Devices, values: &[f32]) -> Buffer {
    let mut buffer = Buffer::new(&devices.device);
    buffer.reserve(values.len()).unwrap();
    devices.gpu.upload(values, buffer.front_mut(values.len())).unwrap();
    buffer
}

fn back(devices: &mut Devices, buffer: &Buffer, length: usize) -> Vec<f32> {
    let mut values = vec![f32::NAN; length];
    devices.gpu.download(buffer.front(length), &mut values).unwrap();
    values
}

#[test]
fn sums_by_column_have_the_bits_of_the_cpu() {
    let Some((card, _turn)) = card("sums_by_column_have_the_bits_of_the_cpu") else { return };
    let mut devices = Devices::new(card);
    let mut random = Random::new(21);
    for (rows, columns) in
        [(1, 1), (1, 40), (15, 33), (16, 64), (17, 288), (511, 100), (512, 4096), (1100, 131)]
    {
        let mut values = vector(&mut random, rows * columns);
        // Numbers of all sizes, some too small to have a square.
        values.iter_mut().enumerate().for_each(|(i, x)| *x *= 10f32.powi(i as i32 % 50 - 30));
        let buffer = there(&mut devices, &values);
        let (mut found, mut expected) = (vec![1.0; 3], Vec::new());
        devices.cpu.column_squares(Values::Host(&values), columns, &mut expected).unwrap();
        devices.gpu.column_squares(buffer.front(values.len()), columns, &mut found).unwrap();
        let bits = |sums: &[f64]| sums.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&expected), "{rows} x {columns}");
        assert!(devices.gpu.column_squares(Values::Host(&values), columns, &mut found).is_err());
    }
    let buffer = there(&mut devices, &[f32::INFINITY, 1.0, 3e38, f32::NAN, 2.0, 3e38]);
    let mut sums = Vec::new();
    devices.gpu.column_squares(buffer.front(6), 3, &mut sums).unwrap();
    assert!(sums[0].is_nan() && sums[1] == 5.0 && sums[2] == f64::INFINITY, "{sums:?}");
    assert!(devices.gpu.column_squares(buffer.front(6), 4, &mut sums).is_err());
    devices.gpu.column_squares(buffer.front(0), 4, &mut sums).unwrap();
    assert_eq!(sums, [0.0; 4]);
}

#[test]
fn experts_one_by_one_get_the_rows_that_they_get_on_the_cpu() {
    let Some((card, _turn)) = card("experts_one_by_one_get_the_rows_that_they_get_on_the_cpu") else {
        return;
    };
    let mut devices = Devices::new(card);
    let mut random = Random::new(22);
    for (tokens, count, used, width) in [(1, 4, 2, 32), (7, 8, 2, 100), (512, 64, 8, 1056), (90, 1024, 3, 7)]
    {
        for normalized in [false, true] {
            let routing = Routing::softmax(count, used, normalized);
            let logits: Vec<f32> = vector(&mut random, tokens * count).iter().map(|x| 3.0 * x).collect();
            let on_card = &mut there(&mut devices, &logits);
            let expected = devices.cpu.route(ValuesMut::Host(&mut logits.clone()), routing, None).unwrap();
            let found = devices.gpu.route(on_card.front_mut(logits.len()), routing, None).unwrap();
            let numbers = |chosen: &[Vec<Choice>]| -> Vec<Vec<u32>> {
                chosen.iter().map(|choices| choices.iter().map(|choice| choice.token).collect()).collect()
            };
            assert_eq!(numbers(&found), numbers(&expected), "{tokens} {count} {used}");
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!(
                    (found.share - expected.share).abs() <= 1e-5 * expected.share,
                    "{found:?} {expected:?}"
                );
            }
            let x = vector(&mut random, tokens * width);
            let before = vector(&mut random, tokens * width);
            let (x_there, mut sums_there) = (there(&mut devices, &x), there(&mut devices, &before));
            let mut sums = before.clone();
            // In the router's order, from the last expert on, and choices that no router made.
            let own =
                vec![Choice { token: tokens as u32 - 1, share: 0.75 }, Choice { token: 0, share: -2.0 }];
            let own = if tokens > 1 { own } else { own[..1].to_vec() };
            let lists = found.iter().chain(found.iter().rev()).chain([&own]).chain(&found[..1]);
            for choices in lists {
                let length = choices.len() * width;
                let mut rows = vec![0.0; length];
                let mut rows_there = there(&mut devices, &vec![0.0; length]);
                for scaled in [true, false] {
                    let to = ValuesMut::Host(&mut rows);
                    devices.cpu.gather(Values::Host(&x), width, (choices, scaled), to).unwrap();
                    let to = rows_there.front_mut(length);
                    devices.gpu.gather(x_there.front(x.len()), width, (choices, scaled), to).unwrap();
                    assert_eq!(back(&mut devices, &rows_there, length), rows);
                }
                let to = ValuesMut::Host(&mut sums);
                devices.cpu.scatter(Values::Host(&rows), width, choices, to).unwrap();
                let to = sums_there.front_mut(sums.len());
                devices.gpu.scatter(rows_there.front(length), width, choices, to).unwrap();
            }
            assert_eq!(back(&mut devices, &sums_there, sums.len()), sums);
        }
    }
}

#[test]
fn rows_of_experts_that_do_not_fit_are_refused() {
    let Some((card, _turn)) = card("rows_of_experts_that_do_not_fit_are_refused") else { return };
    let mut devices = Devices::new(card);
    let (mut x, mut rows) = (there(&mut devices, &[1.0; 12]), there(&mut devices, &[1.0; 8]));
    let choices = |tokens: [u32; 2]| tokens.map(|token| Choice { token, share: 1.0 });
    let gpu = &mut devices.gpu;
    assert!(gpu.gather(x.front(12), 4, (&choices([0, 3]), false), rows.front_mut(8)).is_err());
    assert!(gpu.gather(x.front(12), 4, (&choices([0, 2]), false), rows.front_mut(4)).is_err());
    assert!(gpu.scatter(rows.front(8), 4, &choices([1, 1]), x.front_mut(12)).is_err());
    gpu.scatter(rows.front(8), 4, &choices([2, 1]), x.front_mut(12)).unwrap();
    let routing = Routing::softmax(5, 2, false);
    assert!(gpu.route(x.front_mut(12), routing, None).is_err());
    assert!(gpu.route(x.front_mut(12), Routing { count: 4, used: 5, ..routing }, None).is_err());
    assert!(
        gpu.route(x.front_mut(12), Routing { count: 4, used: 0, ..routing }, None)
            .unwrap()
            .concat()
            .is_empty()
    );
    assert_eq!(back(&mut devices, &x, 12), [1., 1., 1., 1., 2., 2., 2., 2., 2., 2., 2., 2.]);
}

#[test]
fn rows_are_multiplied_with_the_sigmoids_of_their_gates() {
    let Some((card, _turn)) = card("rows_are_multiplied_with_the_sigmoids_of_their_gates") else { return };
    let mut devices = Devices::new(card);
    let mut random = Random::new(23);
    for (rows, width) in [(1, 1), (3, 100), (70, 1027)] {
        let mut x = vector(&mut random, rows * width);
        let gates: Vec<f32> = vector(&mut random, rows).iter().map(|gate| 30.0 * gate).collect();
        let (mut x_there, gates_there) = (there(&mut devices, &x), there(&mut devices, &gates));
        let gpu = &mut devices.gpu;
        gpu.gate_rows(x_there.front_mut(x.len()), width, gates_there.front(rows)).unwrap();
        assert!(gpu.gate_rows(x_there.front_mut(x.len()), width + 1, gates_there.front(rows)).is_err());
        let found = back(&mut devices, &x_there, x.len());
        devices.cpu.gate_rows(ValuesMut::Host(&mut x), width, Values::Host(&gates)).unwrap();
        let off = found.iter().zip(&x).map(|(a, b)| (a - b).abs() / b.abs().max(1e-30));
        let off = off.fold(0f32, f32::max);
        assert!(off < 1e-5, "{rows} {width}: {off:e}");
    }
}
