//! Layers in the tensors of compressed-tensors and AWQ: byte for byte what their own code wrote, and the same numbers
//! whatever packed them.

use std::path::Path;

use proptest::prelude::*;
use quern_tensor_io::scheme::{
    CodeFormat, CompressedWeights, GptqFormat, Packing, Repacked, Scheme, awq_config,
    compressed_tensors_config, compressed_weights,
};
use quern_tensor_io::{Checkpoint, ElementType};
use serde_json::{Value, json};

use super::build::{Affine, FourBit, Model, Opened};
use super::repack::assert_same;

/// The bytes of all tensors, those of codes in pieces of so many steps.
fn bytes(tensors: &Repacked, format: CodeFormat, bits: u32, steps: usize) -> Vec<Vec<u8>> {
    let made = |(part, plan): (usize, &quern_tensor_io::TensorPlan)| {
        let mut out = vec![0xaa; plan.bytes().unwrap()];
        let height = plan.shape.first().copied().unwrap_or(1);
        let row = out.len() / height;
        match format.step(bits, part) {
            None => tensors.write(part, 0..height, &mut out),
            Some(step) => {
                for first in (0..height).step_by(step * steps) {
                    let end = height.min(first + step * steps);
                    tensors.write(part, first..end, &mut out[first * row..end * row]);
                }
            }
        }
        out
    };
    tensors.plan().iter().enumerate().map(made).collect()
}

/// The only layer written anew, as a model that can be read.
fn rewritten(model: &Opened, format: CodeFormat) -> Opened {
    let [layer] = model.packing.layers() else { panic!() };
    let tensors = layer.repacked(&model.checkpoint, format).unwrap();
    let affine = layer.affine(&model.checkpoint).unwrap();
    let weights = compressed_weights(&[affine]);
    let config = match format {
        CodeFormat::CompressedTensors => {
            compressed_tensors_config([("l", weights[0])], vec!["lm_head".into()])
        }
        CodeFormat::Awq => awq_config(weights[0].group_size(), &[]),
        CodeFormat::Gptq(format) => json!({
            "quant_method": "gptq", "bits": affine.bits(), "sym": false, "checkpoint_format": format.name(),
            "group_size": affine.group_size().map_or(-1, |n| n as i64),
        }),
    };
    let mut new = Model::default().json("config.json", json!({ "quantization_config": config }));
    for (plan, bytes) in tensors.plan().into_iter().zip(bytes(&tensors, format, layer.bits(), 2)) {
        new = new.tensor(&plan.name, plan.element_type, &plan.shape, bytes);
    }
    new.read().unwrap()
}

#[test]
fn what_peers_packed_is_packed_to_the_same_bytes() {
    let mut layers = 0;
    for (name, format) in
        [("compressed-tensors", CodeFormat::CompressedTensors), ("awq-4bit-g64", CodeFormat::Awq)]
    {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/packed").join(name);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        for layer in Packing::read(&checkpoint).unwrap().unwrap().layers() {
            let tensors = layer.repacked(&checkpoint, format).unwrap();
            let all = bytes(&tensors, format, layer.bits(), 1);
            assert!(all == bytes(&tensors, format, layer.bits(), 1000), "{}", layer.name);
            assert_eq!(all.len(), layer.parts.len());
            for (plan, bytes) in tensors.plan().iter().zip(&all) {
                let theirs = checkpoint.tensor(&plan.name).unwrap();
                assert_eq!((&plan.shape, plan.element_type), (&theirs.info.shape, theirs.info.element_type));
                assert!(bytes == theirs.data, "{} differs", plan.name);
            }
            layers += 1;
        }
    }
    assert_eq!(layers, 14 + 7);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gptq_to_compressed_tensors_and_back(
        bits in prop_oneof![Just(2usize), Just(3), Just(4), Just(8)],
        rows in prop_oneof![Just(32usize), Just(64), Just(288)],
        runs in 1usize..9,
        groups in 1usize..4,
        (symmetric, act_order) in any::<(bool, bool)>(),
        seed: u64,
    ) {
        let (size, columns) = (runs * 32, runs * 32 * groups);
        let zero = symmetric.then_some(1 << (bits - 1));
        let mut layer = Affine::random(bits, [rows, columns, size], zero, seed);
        if act_order {
            let mut order: Vec<_> = (0..columns).collect();
            order.sort_by_key(|k| (*k as u64 + 1).wrapping_mul(seed | 1).rotate_left(17));
            let even = layer.groups.clone();
            order.iter().zip(even).for_each(|(&k, g)| layer.groups[k] = g);
        }
        let made = layer.gptq(true, ElementType::F16, true);
        let model = made.clone().json("quantize_config.json", layer.config(true, size as i64)).read().unwrap();
        let there = rewritten(&model, CodeFormat::CompressedTensors);
        assert_same(&there, &layer, 0);
        let shuffled = layer.groups.windows(2).any(|pair| pair[0] > pair[1]);
        let Scheme::CompressedTensors { act_order, .. } = *there.packing.scheme() else { panic!() };
        prop_assert_eq!(act_order, shuffled);
        let back = rewritten(&there, CodeFormat::Gptq(GptqFormat::V2));
        for (name, .., data) in made.tensors {
            prop_assert!(back.checkpoint.tensor(&name).unwrap().data == data, "{} differs", name);
        }
    }

    #[test]
    fn gptq_to_awq_and_back(
        rows in prop_oneof![Just(32usize), Just(64), Just(288), Just(520)],
        runs in 1usize..5,
        groups in 1usize..4,
        symmetric: bool,
        seed: u64,
    ) {
        let (size, columns) = (runs * 32, runs * 32 * groups);
        let layer = Affine::random(4, [rows, columns, size], symmetric.then_some(8), seed);
        let made = layer.gptq(true, ElementType::F16, true);
        let model = made.clone().json("quantize_config.json", layer.config(true, size as i64)).read().unwrap();
        let there = rewritten(&model, CodeFormat::Awq);
        assert_same(&there, &layer, 0);
        // Packed here as there, one bit after the other.
        for (name, .., data) in layer.awq(ElementType::F16).tensors {
            prop_assert!(there.checkpoint.tensor(&name).unwrap().data == data, "{} differs", name);
        }
        if rows % 8 == 0 && (rows * 4) % 32 == 0 {
            let back = rewritten(&there, CodeFormat::Gptq(GptqFormat::V2));
            for (name, .., data) in made.tensors {
                prop_assert!(back.checkpoint.tensor(&name).unwrap().data == data, "{} differs", name);
            }
        }
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused() {
    #[track_caller]
    fn refused(model: &Opened, format: CodeFormat, parts: &[&str]) {
        let text = model.packing.layers()[0].repacked(&model.checkpoint, format).unwrap_err().to_string();
        parts.iter().for_each(|p| assert!(text.contains(p), "{p:?} is not in: {text}"));
    }
    let gptq = |bits, shape, size: i64, change: &dyn Fn(&mut Affine)| {
        let mut layer = Affine::random(bits, shape, None, 1);
        change(&mut layer);
        let model = layer.gptq(true, ElementType::F16, true);
        model.json("quantize_config.json", layer.config(true, size)).read().unwrap()
    };
    let both = [CodeFormat::CompressedTensors, CodeFormat::Awq];
    let nf4 = FourBit::random("nf4", [32, 64], 64, false, 1).model(true).read().unwrap();
    both.iter().for_each(|&f| refused(&nf4, f, &["l.weight", "cannot express", "decode it"]));
    let partial = gptq(4, [32, 96, 64], 64, &|_| {});
    both.iter()
        .for_each(|&f| refused(&partial, f, &["96 columns are not whole groups of 64", "format gptq"]));
    let damaged = gptq(4, [32, 64, 32], 32, &|layer| layer.scales[33] = f32::NAN);
    both.iter().for_each(|&f| refused(&damaged, f, &["output 1, group 1", "not a finite number"]));
    let eight = gptq(8, [32, 64, 32], 32, &|_| {});
    refused(&eight, CodeFormat::Awq, &["8 bits", "compressed-tensors"]);
    let shuffled = gptq(4, [32, 64, 32], 32, &|layer| layer.groups.swap(0, 40));
    refused(&shuffled, CodeFormat::Awq, &["act-order", "desc_act=false"]);
    rewritten(&shuffled, CodeFormat::CompressedTensors);
}

/// What compressed-tensors 0.20 prints of its presets `W4A16`, `W8A16` with zero points, and `FP8_DYNAMIC`.
#[test]
fn configurations_are_those_of_compressed_tensors() {
    let packed = |bits, group_size, symmetric| CompressedWeights::Packed {
        bits,
        group_size,
        symmetric,
        act_order: false,
    };
    let float = |strategy: &str, dynamic: bool| {
        json!({
            "num_bits": 8, "type": "float", "symmetric": true, "group_size": null, "strategy": strategy,
            "dynamic": dynamic,
        })
    };
    let w4a16 = json!({
        "num_bits": 4, "type": "int", "symmetric": true, "group_size": 128, "strategy": "group", "dynamic": false,
    });
    let w8a16 = json!({
        "num_bits": 8, "type": "int", "symmetric": false, "group_size": null, "strategy": "channel",
        "dynamic": false,
    });
    for (weights, format, expected, activations) in [
        (packed(4, Some(128), true), "pack-quantized", w4a16, Value::Null),
        (packed(8, None, false), "pack-quantized", w8a16, Value::Null),
        (CompressedWeights::Float8, "float-quantized", float("channel", false), float("token", true)),
    ] {
        let config = compressed_tensors_config([("a", weights), ("b", weights)], vec!["lm_head".into()]);
        let group = json!({
            "targets": ["Linear"], "weights": expected, "input_activations": activations, "output_activations": null,
            "format": format,
        });
        let whole = json!({
            "config_groups": { "group_0": group }, "quant_method": "compressed-tensors", "kv_cache_scheme": null,
            "format": format, "quantization_status": "compressed", "global_compression_ratio": null,
            "ignore": ["lm_head"], "sparsity_config": {}, "transform_config": {}, "version": "0.20.0",
        });
        assert_eq!(config, whole);
    }
    // Several kinds: each names its modules.
    let config = compressed_tensors_config(
        [
            ("a", packed(4, Some(32), true)),
            ("b", packed(8, Some(32), true)),
            ("c", packed(4, Some(32), true)),
        ],
        Vec::new(),
    );
    assert_eq!(config["config_groups"]["group_0"]["targets"], json!(["a", "c"]));
    assert_eq!(config["config_groups"]["group_1"]["targets"], json!(["b"]));
    assert_eq!(config["format"], "pack-quantized");
}
