//! Routings other than a softmax, experts with biases, and shares of what is read, against the CPU.

use quern_tensor_io::ElementType;

use super::mixture::{Network, Router, Shape};
use super::{Devices, card, distance, vector};
use crate::executor::{Buffer, GroupRank, Groups, Routing, Scores, ValuesMut, Vector};
use crate::ops::Activation;
use crate::testing::Random;

fn groups(count: usize, used: usize, rank: GroupRank) -> Option<Groups> {
    Some(Groups { count, used, rank })
}

/// Routings as families have them, each with whether its choice has a bias.
fn routings(count: usize, used: usize) -> Vec<(Routing, bool)> {
    let softmax = Routing::softmax(count, used, false);
    let sigmoid = Routing { scores: Scores::Sigmoid, ..softmax };
    let normalized = Routing { normalized: true, scale: 2.5, ..sigmoid };
    let mixer = Routing { scores: Scores::SparseMixer { jitter: 0.1 }, ..softmax };
    let mut all = vec![
        (Routing { scale: 16.0, ..softmax }, false),
        (Routing { normalized: true, ..softmax }, true),
        (sigmoid, false),
        (sigmoid, true),
        (normalized, true),
        (mixer, false),
    ];
    if count.is_multiple_of(4) {
        for rank in [GroupRank::Largest, GroupRank::TwoLargest] {
            let used_groups = (4 * used).div_ceil(count).max(2);
            for (routing, bias) in [(softmax, false), (normalized, true)] {
                all.push((Routing { groups: groups(4, used_groups, rank), ..routing }, bias));
            }
            all.push((Routing { groups: groups(count, used, GroupRank::Largest), ..sigmoid }, true));
        }
    }
    all
}

#[test]
fn routings_choose_as_the_cpu_does() {
    let Some((card, _turn)) = card("routings_choose_as_the_cpu_does") else { return };
    let mut devices = Devices::new(card);
    let mut random = Random::new(31);
    let mut wrong = Vec::new();
    for (tokens, count, used) in [(1, 4, 2), (9, 8, 1), (300, 64, 8), (5, 30, 6), (33, 256, 8), (40, 1024, 3)]
    {
        for (routing, biased) in routings(count, used) {
            for equal in [false, true] {
                let mut logits: Vec<f32> =
                    vector(&mut random, tokens * count).iter().map(|x| 3.0 * x).collect();
                if equal {
                    // Values that come again and again, zeros of both signs among them.
                    logits.iter_mut().for_each(|x| *x = x.round());
                }
                let bias = biased.then(|| Vector::from(vector(&mut random, count)));
                let there = bias.as_ref().map(|bias| devices.uploader.vector(bias).unwrap());
                devices.uploader.finish().unwrap();
                let mut on_card = Buffer::new(&devices.device);
                on_card.reserve(logits.len()).unwrap();
                devices.gpu.upload(&logits, on_card.front_mut(logits.len())).unwrap();
                let found =
                    devices.gpu.route(on_card.front_mut(logits.len()), routing, there.as_ref()).unwrap();
                let host = ValuesMut::Host(&mut logits);
                let expected = devices.cpu.route(host, routing, bias.as_ref()).unwrap();
                let mut off = 0f32;
                let same = found.iter().zip(&expected).all(|(found, expected)| {
                    let pairs = || found.iter().zip(expected);
                    let shares = pairs().map(|(a, b)| (a.share - b.share).abs() / b.share.abs().max(1e-20));
                    off = shares.fold(off, f32::max);
                    found.len() == expected.len() && pairs().all(|(a, b)| a.token == b.token)
                });
                if !same || off.is_nan() || off > 1e-5 {
                    wrong.push(format!("{tokens} {routing:?} {biased} {equal}: same {same}, {off:.2e}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(30)]);
}

#[test]
fn mixtures_of_other_families_are_those_of_the_cpu() {
    use ElementType as T;
    let Some((card, _turn)) = card("mixtures_of_other_families_are_those_of_the_cpu") else { return };
    let mut devices = Devices::new(card);
    let mut random = Random::new(32);
    let mut wrong = Vec::new();
    let sigmoid = Routing { scores: Scores::Sigmoid, ..Routing::softmax(16, 4, true) };
    let chosen = Routing { scale: 2.5, groups: groups(4, 2, GroupRank::TwoLargest), ..sigmoid };
    let one = Routing { used: 1, normalized: false, ..sigmoid };
    let mixer = Routing { scores: Scores::SparseMixer { jitter: 0.1 }, ..Routing::softmax(16, 2, false) };
    let softmax = Routing::softmax(16, 4, true);
    for element_type in [T::Q4_0, T::Q6K, T::MXFP4, T::NF4, T::F16, T::F32] {
        for (name, routing, choice_bias, scaled_inputs, biased, activation) in [
            ("GLM-4.5", chosen, true, false, false, Activation::Silu),
            ("Llama 4", one, false, true, false, Activation::Silu),
            (
                "scaled inputs of several experts with biases",
                sigmoid,
                false,
                true,
                true,
                Activation::GeluTanh,
            ),
            ("gpt-oss", softmax, false, false, true, Activation::ClampedSwiglu),
            ("clamped without biases", softmax, false, false, false, Activation::ClampedSwiglu),
            ("Phi-3.5-MoE", mixer, false, false, false, Activation::Silu),
            ("Nemotron-H, without gates", chosen, true, false, false, Activation::ReluSquared),
            ("without gates, with biases", one, false, true, true, Activation::GeluTanh),
        ] {
            // What random K-quants give is thousands of times what the clamped function lets through.
            if activation == Activation::ClampedSwiglu && element_type == T::Q6K {
                continue;
            }
            let (widen, narrow, router) = (element_type, element_type, Router::Different);
            let shape = Shape { widen, narrow, hidden: 512, inner: 256, routing, router, biased };
            let mut network = Network::new(&mut random, shape);
            network.activation = activation;
            network.scaled_inputs = scaled_inputs;
            network.gated = !name.contains("without gates");
            network.choice_bias = choice_bias.then(|| vector(&mut random, routing.count).into());
            if biased {
                network.router.bias = Some(vector(&mut random, routing.count).into());
            }
            let moved = network.upload(&mut devices);
            assert!(moved.stacks.is_some(), "{shape:?}");
            for n in [1, 2, 4, 5, 37] {
                let x = vector(&mut random, n * shape.hidden);
                let plain = network.expected(&mut devices.cpu, &x, false);
                let normed = network.expected(&mut devices.cpu, &x, true);
                let added: Vec<f32> = normed.iter().zip(&x).map(|(a, b)| a + b).collect();
                for stacked in [true, false] {
                    let found = moved.results(&mut devices, &network, &x, stacked);
                    let most = match element_type {
                        T::F32 => 3e-5,
                        T::F16 => 5e-3,
                        // Inputs in 8 bits, and what they give is cut off.
                        _ if activation == Activation::ClampedSwiglu => 6e-2,
                        _ => 3e-2,
                    };
                    let both = found.iter().zip([&plain, &normed, &added]);
                    for (what, (found, expected)) in ["plain", "normed", "added"].into_iter().zip(both) {
                        let d = distance(found, expected);
                        if d > most {
                            let what = format!("{name} {element_type} n {n} stacked {stacked} {what}");
                            wrong.push(format!("{what}: {d:.2e}"));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(40)]);
}

/// Rows of gpt-oss's length, which is no multiple of what the kernels take at a time.
#[test]
fn experts_of_the_size_of_gpt_oss_are_those_of_the_cpu() {
    let Some((card, _turn)) = card("experts_of_the_size_of_gpt_oss_are_those_of_the_cpu") else { return };
    let mut devices = Devices::new(card);
    let mut random = Random::new(34);
    let routing = Routing::softmax(4, 4, true);
    let (widen, narrow, router) = (ElementType::MXFP4, ElementType::MXFP4, Router::Different);
    let shape = Shape { widen, narrow, hidden: 2880, inner: 2880, routing, router, biased: true };
    let mut network = Network::new(&mut random, shape);
    network.activation = Activation::ClampedSwiglu;
    let moved = network.upload(&mut devices);
    assert!(moved.stacks.is_some());
    let mut found = Vec::new();
    for n in [1, 4, 9, 130] {
        let x: Vec<f32> = vector(&mut random, n * shape.hidden).iter().map(|x| 0.1 * x).collect();
        let expected = network.expected(&mut devices.cpu, &x, true);
        let [_, normed, _] = moved.results(&mut devices, &network, &x, true);
        found.push((n, distance(&normed, &expected)));
    }
    assert!(found.iter().all(|(_, d)| *d < 3e-2), "{found:?}");
}

#[test]
fn experts_whose_biases_are_apart_are_no_stack() {
    let Some((card, _turn)) = card("experts_whose_biases_are_apart_are_no_stack") else { return };
    let mut devices = Devices::new(card);
    let mut random = Random::new(33);
    let routing = Routing::softmax(4, 2, true);
    let (widen, narrow, router) = (ElementType::Q4_0, ElementType::Q4_0, Router::Different);
    let shape = Shape { widen, narrow, hidden: 256, inner: 128, routing, router, biased: true };
    let mut network = Network::new(&mut random, shape);
    network.experts[2][1].bias = None;
    let moved = network.upload(&mut devices);
    assert!(moved.stacks.is_none());
    for n in [1, 20] {
        let x = vector(&mut random, n * shape.hidden);
        let expected = network.expected(&mut devices.cpu, &x, true);
        let [_, found, _] = moved.results(&mut devices, &network, &x, true);
        let d = distance(&found, &expected);
        assert!(d < 3e-2, "n {n}: {d:.2e}");
    }
}
