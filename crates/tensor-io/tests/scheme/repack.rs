//! Layers as GPTQ's tensors: byte for byte what others wrote, and the same weights whatever packed them.

use std::path::Path;

use proptest::prelude::*;
use quern_tensor_io::scheme::{GptqFormat, GptqTensors, Packing, pack};
use quern_tensor_io::{Checkpoint, ElementType};

use super::build::{Affine, FourBit, Model, Opened, stream, words};

/// The bytes of the four tensors, `qweight` in pieces of so many columns.
fn bytes(tensors: &GptqTensors, step: usize) -> [Vec<u8>; 4] {
    let [qweight, ..] = tensors.plan();
    let (columns, bits) = (tensors.layer().layer().columns, tensors.bits() as usize);
    let mut packed = vec![0xaa; qweight.bytes().unwrap()];
    let row = qweight.shape[1] * 4;
    for start in (0..columns).step_by(step) {
        let end = columns.min(start + step);
        let out = &mut packed[start * bits / 32 * row..(end * bits).div_ceil(32) * row];
        tensors.qweight(start..end, out);
    }
    [packed, tensors.qzeros(), tensors.scales(), tensors.g_idx()]
}

/// The only layer written anew, as a model that can be read.
pub fn rewritten(model: &Opened, format: GptqFormat) -> Opened {
    let [layer] = model.packing.layers() else { panic!() };
    anew(&layer.to_gptq(&model.checkpoint, format).unwrap(), format)
}

pub fn anew(tensors: &GptqTensors, format: GptqFormat) -> Opened {
    assert_eq!(tensors.format(), format);
    let config = serde_json::json!({
        "quant_method": "gptq", "bits": tensors.bits(), "sym": false, "checkpoint_format": format.name(),
        "group_size": tensors.layer().group_size().map_or(-1, |n| n as i64),
    });
    let mut new = Model::default().json("quantize_config.json", config);
    for (plan, bytes) in tensors.plan().into_iter().zip(bytes(tensors, 96)) {
        new = new.tensor(&plan.name, plan.element_type, &plan.shape, bytes);
    }
    new.read().unwrap()
}

/// The neutral form is what went into the layer.
#[track_caller]
pub fn assert_same(model: &Opened, layer: &Affine, moved: u32) {
    let [found] = model.packing.layers() else { panic!() };
    let found = found.affine(&model.checkpoint).unwrap();
    let mut codes = vec![0xaa; layer.codes.len()];
    let (first, second) = codes.split_at_mut(layer.rows / 3 * layer.columns);
    found.codes(0..layer.rows / 3, first);
    found.codes(layer.rows / 3..layer.rows, second);
    let wide = |values: &[u8]| -> Vec<u32> { values.iter().map(|&v| u32::from(v)).collect() };
    let raised = |values: &[u32]| -> Vec<u32> { values.iter().map(|v| v + moved).collect() };
    assert_eq!(wide(&codes), raised(&layer.codes));
    assert_eq!(wide(&found.zeros()), raised(&layer.zeros));
    assert_eq!(found.scales(), layer.scales);
    let groups: Vec<_> = layer.groups.iter().map(|&g| g as u32).collect();
    assert_eq!(found.g_idx(), groups);
    assert_eq!(found.in_order(), groups.is_sorted());
    assert_eq!(found.group_count(), layer.group_count());
    let middle = layer.zeros.iter().all(|&z| z == 1 << (layer.bits - 1));
    assert_eq!(found.symmetric(), middle);
    assert_eq!(model.decoded(), layer.values());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gptq_to_both_formats(
        bits in prop_oneof![Just(2usize), Just(3), Just(4), Just(8)],
        rows in prop_oneof![Just(32usize), Just(64), Just(288)],
        runs in 1usize..9,
        size in prop_oneof![Just(16usize), Just(32), Just(64), Just(usize::MAX)],
        symmetric: bool,
        v2: bool,
        act_order: bool,
        seed: u64,
    ) {
        let columns = runs * 32;
        let zero = symmetric.then_some(1 << (bits - 1));
        let size = size.min(columns);
        let mut layer = Affine::random(bits, [rows, columns, size], zero, seed);
        layer.zeros.iter_mut().for_each(|z| *z = (*z).max(1));
        if act_order {
            let mut order: Vec<_> = (0..columns).collect();
            order.sort_by_key(|k| (*k as u64 + 1).wrapping_mul(seed | 1).rotate_left(17));
            let even = layer.groups.clone();
            order.iter().zip(even).for_each(|(&k, g)| layer.groups[k] = g);
        }
        let made = layer.gptq(v2, ElementType::F16, true);
        let model = made.clone().json("quantize_config.json", layer.config(v2, size as i64)).read().unwrap();
        assert_same(&model, &layer, 0);
        for format in [GptqFormat::V1, GptqFormat::V2] {
            let new = rewritten(&model, format);
            assert_same(&new, &layer, 0);
            // Packed here as there, one bit after the other.
            for (name, .., data) in layer.gptq(format == GptqFormat::V2, ElementType::F16, true).tensors {
                let written = new.checkpoint.tensor(&name).unwrap();
                prop_assert!(written.data == data, "{} differs", name);
            }
        }
    }

    #[test]
    fn awq_to_gptq(columns in 1usize..6, rows in 1usize..40, size in 1usize..3, zeroes: bool, seed: u64) {
        let (rows, columns, size) = (rows * 8, columns * 32, size * 32);
        let mut layer = Affine::random(4, [rows, columns, size.min(columns)], None, seed);
        layer.zeros.iter_mut().for_each(|z| *z = (*z).max(1));
        if zeroes {
            layer.zeros[0] = 0;
        }
        let config = serde_json::json!({ "quant_method": "awq", "bits": 4, "group_size": size.min(columns) });
        let model = layer.awq(ElementType::F16).json("quantize_config.json", config).read().unwrap();
        assert_same(&model, &layer, 0);
        assert_same(&rewritten(&model, GptqFormat::V2), &layer, 0);
        let v1 = model.packing.layers()[0].to_gptq(&model.checkpoint, GptqFormat::V1);
        match zeroes {
            false => assert_same(&rewritten(&model, GptqFormat::V1), &layer, 0),
            true => {
                let text = v1.unwrap_err().to_string();
                prop_assert!(text.contains("l.weight") && text.contains("output 0, group 0"), "{}", text);
                prop_assert!(text.contains("0 or 16") && text.contains("gptq_v2"), "{}", text);
            }
        }
    }

    /// The packer alone, against one bit after the other.
    #[test]
    fn packing(bits in 1usize..9, rows in 0usize..300, columns in 0usize..70, v2: bool, seed: u64) {
        let (rows, columns) = (rows + 1, columns + 1);
        let layer = Affine::random(bits, [rows, columns, columns], None, seed);
        let codes: Vec<_> = layer.codes.iter().map(|&q| q as u8).collect();
        let zeros: Vec<_> = layer.zeros.iter().map(|&q| q as u8).collect();
        let down: Vec<_> = layer.codes.chunks(columns).map(|row| stream(row, bits)).collect();
        let expected: Vec<_> = (0..down[0].len()).flat_map(|w| down.iter().map(move |row| row[w])).collect();
        prop_assert!(pack::qweight(&codes, rows, columns, bits as u32) == words(&expected));
        let less = if v2 { 0 } else { (1 << bits) - 1 };
        let stored: Vec<_> = layer.zeros.iter().map(|z| (z + less) % (1 << bits)).collect();
        prop_assert!(pack::qzeros(&zeros, rows, bits as u32, v2) == words(&stream(&stored, bits)));
    }
}

/// What GPT-QModel packed is packed to the same bytes, of which v1 and v2 differ in zero points only.
#[test]
fn peers_bytes() {
    use GptqFormat::{V1, V2};
    for (name, format) in [
        ("gptq-4bit-g128", V1),
        ("gptq-3bit-g64", V1),
        ("gptq-4bit-g32-desc-act-v2", V2),
        ("awq-4bit-g64", V2),
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/packed").join(name);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let packing = Packing::read(&checkpoint).unwrap().unwrap();
        for layer in packing.layers() {
            let tensors = layer.to_gptq(&checkpoint, format).unwrap();
            assert_eq!(tensors.layer().bias().map(|t| &t.name), None);
            let all = bytes(&tensors, 64);
            assert_eq!(all, bytes(&tensors, layer.columns));
            if name.starts_with("awq") {
                let mut values = vec![f32::NAN; layer.rows * layer.columns];
                layer.decode(&checkpoint, 0..layer.rows, &mut values);
                assert!(anew(&tensors, format).decoded() == values, "{}", layer.name);
                continue;
            }
            for (plan, bytes) in tensors.plan().iter().zip(&all) {
                assert_eq!(plan.bytes(), Some(bytes.len()));
                let theirs = checkpoint.tensor(&plan.name).unwrap();
                assert_eq!((&plan.shape, plan.element_type), (&theirs.info.shape, theirs.info.element_type));
                assert!(bytes == theirs.data, "{} differs", plan.name);
            }
            let other = if format == V1 { V2 } else { V1 };
            let Ok(tensors) = layer.to_gptq(&checkpoint, other) else { continue };
            let other = bytes(&tensors, 32);
            assert_eq!([&all[0], &all[2], &all[3]], [&other[0], &other[2], &other[3]]);
            assert_ne!(all[1], other[1]);
        }
    }
}

#[test]
fn scales_keep_their_type_only_where_f16_does_not_hold_them() {
    for (kind, scale, written) in [
        (ElementType::BF16, 0.25, ElementType::F16),
        (ElementType::BF16, 131072.0, ElementType::BF16),
        (ElementType::F32, 0.25, ElementType::F16),
        (ElementType::F32, 0.1, ElementType::F32),
    ] {
        let mut layer = Affine::random(4, [32, 64, 32], None, 3);
        layer.scales[40] = scale;
        let model = layer.gptq(true, kind, true).json("quantize_config.json", layer.config(true, 32));
        let new = rewritten(&model.read().unwrap(), GptqFormat::V2);
        assert_same(&new, &layer, 0);
        assert_eq!(new.checkpoint.tensor("l.scales").unwrap().info.element_type, written);
    }
}

#[test]
fn what_gptq_cannot_hold_is_refused() {
    #[track_caller]
    fn refused(model: &Opened, parts: &[&str]) {
        let text =
            model.packing.layers()[0].to_gptq(&model.checkpoint, GptqFormat::V2).unwrap_err().to_string();
        parts.iter().for_each(|p| assert!(text.contains(p), "{p:?} is not in: {text}"));
    }
    let nf4 = FourBit::random("nf4", [32, 64], 64, false, 1).model(true).read().unwrap();
    assert!(nf4.packing.layers()[0].affine(&nf4.checkpoint).is_none());
    refused(&nf4, &["l.weight", "table", "quantize the values with GPTQ"]);

    let awq = |rows, columns| {
        let config = serde_json::json!({ "quant_method": "awq", "bits": 4, "group_size": columns });
        let layer = Affine::random(4, [rows, columns, columns], None, 1);
        layer.awq(ElementType::F16).json("quantize_config.json", config).read().unwrap()
    };
    refused(&awq(32, 36), &["32 outputs and 36 inputs", "unquantized"]);

    let mut damaged = Affine::random(4, [32, 64, 32], None, 1);
    damaged.scales[33] = f32::NAN;
    let model = damaged.gptq(true, ElementType::F16, true);
    let model = model.json("quantize_config.json", damaged.config(true, 32)).read().unwrap();
    refused(&model, &["output 1, group 1", "not a finite number"]);
}

#[test]
fn a_bias_is_found() {
    let layer = Affine::random(4, [32, 64, 32], None, 1);
    let model =
        layer.gptq(true, ElementType::F16, true).tensor("l.bias", ElementType::F16, &[32], vec![0; 64]);
    let model = model.json("quantize_config.json", layer.config(true, 32)).read().unwrap();
    let bias = model.packing.layers()[0].affine(&model.checkpoint).unwrap().bias().unwrap();
    assert_eq!((bias.name.as_str(), &bias.shape[..]), ("l.bias", &[32][..]));
}
