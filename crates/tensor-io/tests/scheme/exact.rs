//! Exact forms: blocks that decode to a layer's values bit for bit, or the reason why there are none.

use std::path::Path;

use proptest::prelude::*;
use quern_tensor_io::scheme::{ExactForm, Inexact, PackedLayer, Packing};
use quern_tensor_io::{Checkpoint, ElementType, decode};

use super::build::{Affine, FourBit, Model, Opened, floats};

/// Decodes the layer through its exact form in pieces of `step` rows, and asserts that every bit is the layer's.
#[track_caller]
pub fn assert_exact(checkpoint: &Checkpoint, layer: &PackedLayer, form: &ExactForm, step: usize) {
    let (rows, columns) = (layer.rows, layer.columns);
    let row_bytes = form.element_type.row_bytes(columns).unwrap();
    let mut expected = vec![f32::NAN; rows * columns];
    layer.decode(checkpoint, 0..rows, &mut expected);
    for start in (0..rows).step_by(step) {
        let some = start..rows.min(start + step);
        let mut blocks = vec![0xaa; some.len() * row_bytes];
        layer.exact_blocks(checkpoint, form, some.clone(), &mut blocks);
        let mut values = vec![f32::NAN; some.len() * columns];
        assert!(decode::to_f32(form.element_type, &blocks, &mut values));
        for (row, values) in some.zip(values.chunks(columns)) {
            for (j, value) in values.iter().enumerate() {
                let column = form.permutation.as_ref().map_or(j, |p| p[j] as usize);
                let wanted = expected[row * columns + column];
                assert_eq!(value.to_bits(), wanted.to_bits(), "{value} for {wanted} at {row}, {column}");
            }
        }
    }
    if let Some(order) = &form.permutation {
        let mut sorted = order.clone();
        sorted.sort();
        assert!(sorted.iter().enumerate().all(|(i, &k)| i == k as usize), "not a permutation");
    }
}

/// The exact form of the only layer, proven.
fn exact(model: &Opened) -> Result<ExactForm, Inexact> {
    let [layer] = model.packing.layers() else { panic!("{} layers", model.packing.layers().len()) };
    let form = layer.exact_form(&model.checkpoint)?;
    assert_exact(&model.checkpoint, layer, &form, layer.rows.div_ceil(3));
    Ok(form)
}

fn gptq(layer: &Affine, scales: ElementType) -> Opened {
    let size = layer.columns.div_ceil(layer.group_count());
    let model = layer.gptq(true, scales, true).json("quantize_config.json", layer.config(true, size as i64));
    model.read().unwrap()
}

#[track_caller]
fn assert_inexact(found: Result<ExactForm, Inexact>, parts: &[&str]) {
    let text = found.expect_err("it has an exact form").to_string();
    assert!(text.starts_with("l.weight: "), "names no layer: {text}");
    parts.iter().for_each(|p| assert!(text.contains(p), "{p:?} is not in: {text}"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gptq_layers(
        bits in prop_oneof![Just(2usize), Just(3), Just(4), Just(8)],
        rows in prop_oneof![Just(32usize), Just(64), Just(96), Just(288)],
        runs in 1usize..9,
        size in prop_oneof![Just(32usize), Just(64), Just(128), Just(usize::MAX)],
        zero in prop_oneof![Just(Some(true)), Just(Some(false)), Just(None)],
        act_order: bool,
        negative: bool,
        seed: u64,
    ) {
        let columns = runs * 32;
        let middle = 1u32 << (bits - 1);
        let zero = zero.map(|m| if m { middle } else { middle - 1 });
        let mut layer = Affine::random(bits, [rows, columns, size.min(columns)], zero, seed);
        if negative {
            layer.scales.iter_mut().step_by(3).for_each(|s| *s = -*s);
        }
        if act_order {
            let mut order: Vec<_> = (0..columns).collect();
            order.sort_by_key(|k| (*k as u64 + 1).wrapping_mul(seed | 1).rotate_left(17));
            let even = layer.groups.clone();
            order.iter().zip(even).for_each(|(&k, g)| layer.groups[k] = g);
        }
        // The codes of 8 bits must keep near an uneven zero point.
        if bits == 8 {
            for i in 0..layer.codes.len() {
                let z = layer.zeros[layer.groups[i % columns] as usize * rows + i / columns];
                layer.codes[i] = (z + layer.codes[i] % 128).saturating_sub(64).min(255);
            }
        }
        let form = exact(&gptq(&layer, ElementType::F16)).unwrap();
        let expected = match (bits, zero) {
            (2 | 3, _) => &[ElementType::Q4_0][..],
            (4, Some(8)) => &[ElementType::Q4_0],
            // Random scales have 8 bits: times 7, 11 bits are enough as a rule; times 15, not always.
            (4, _) => &[ElementType::Q4_1, ElementType::Q5_0],
            _ => &[ElementType::Q8_0],
        };
        prop_assert!(expected.contains(&form.element_type), "{}", form.element_type);
        let irregular = layer.groups.chunks(32).any(|run| run.iter().any(|g| *g != run[0]));
        prop_assert_eq!(form.permutation.is_some(), irregular);
    }

    /// Scales with all their bits: a minimum would have to be rounded, a fifth bit need not be.
    #[test]
    fn asymmetric_layers_of_four_bits(awq: bool, columns in 1usize..6, seed: u64) {
        let columns = columns * 32;
        let mut layer = Affine::random(4, [72, columns, 32], None, seed);
        layer.scales.iter_mut().for_each(|s| *s = f32::from(half::f16::from_f32(*s * 1.234 + 0.0001)));
        let model = match awq {
            false => { layer.rows = 72; gptq(&layer, ElementType::F16) }
            true => {
                let config = serde_json::json!({ "quant_method": "awq", "bits": 4, "group_size": 32 });
                layer.awq(ElementType::F16).json("quantize_config.json", config).read().unwrap()
            }
        };
        let form = exact(&model).unwrap();
        prop_assert_eq!(form.element_type, ElementType::Q5_0);
        prop_assert!(form.permutation.is_none());
    }
}

fn packed(name: &str) -> (Checkpoint, Packing) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/packed").join(name);
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let packing = Packing::read(&checkpoint).unwrap().expect("it is quantized");
    (checkpoint, packing)
}

/// What GPT-QModel wrote goes over without loss, asymmetric layers too.
#[test]
fn checkpoints_of_peers() {
    for (name, kind, permuted) in [
        ("gptq-4bit-g128", ElementType::Q4_0, false),
        ("gptq-3bit-g64", ElementType::Q4_0, false),
        ("gptq-4bit-g32-desc-act-v2", ElementType::Q5_0, true),
        ("awq-4bit-g64", ElementType::Q5_0, false),
    ] {
        let (checkpoint, packing) = packed(name);
        for layer in packing.layers() {
            let form = layer.exact_form(&checkpoint).unwrap();
            assert_eq!((form.element_type, form.permutation.is_some()), (kind, permuted), "{name}");
            assert_exact(&checkpoint, layer, &form, layer.rows);
            assert_exact(&checkpoint, layer, &form, 77);
            let refused = form.without_permutation(layer);
            assert_eq!(refused.is_err(), permuted);
            if let Err(e) = refused {
                let text = e.to_string();
                assert!(
                    text.contains(&layer.name) && text.contains("desc_act") && text.contains("static_groups")
                );
            }
        }
    }
    for (name, part) in [("bnb-nf4", "NF4"), ("bnb-int8", "int8")] {
        let (checkpoint, packing) = packed(name);
        for layer in packing.layers() {
            let text = layer.exact_form(&checkpoint).unwrap_err().to_string();
            assert!(text.starts_with(&format!("{}: ", layer.name)) && text.contains(part), "{text}");
        }
    }
}

/// A minimum is taken only where it is exact in every group.
#[test]
fn minima() {
    let mut layer = Affine::random(4, [32, 64, 32], Some(4), 5);
    layer.scales.iter_mut().enumerate().for_each(|(i, s)| *s = (1025 + i) as f32 / 65536.0);
    let kind = |layer: &Affine| exact(&gptq(layer, ElementType::F16)).unwrap().element_type;
    assert_eq!(kind(&layer), ElementType::Q4_1); // 4 times 11 bits are 11 bits
    layer.zeros[17] = 5;
    assert_eq!(kind(&layer), ElementType::Q5_0);
    layer.zeros[17] = 4;
    layer.scales[17] = -layer.scales[17]; // a sum is +0 where the product is -0
    assert_eq!(kind(&layer), ElementType::Q5_0);
    layer.scales[17] = 0.0;
    assert_eq!(kind(&layer), ElementType::Q5_0); // -0 again, below the zero point
    layer.zeros.fill(0);
    assert_eq!(kind(&layer), ElementType::Q4_1);
    layer.zeros.fill(4);
    layer.scales.iter_mut().for_each(|s| *s = 60000.0); // -4 times that is past f16
    assert_eq!(kind(&layer), ElementType::Q5_0);
}

#[test]
fn eight_bits_out_of_the_middle() {
    let mut layer = Affine::random(8, [32, 64, 32], Some(100), 9);
    layer.codes.iter_mut().for_each(|q| *q = (*q).min(227));
    assert_eq!(exact(&gptq(&layer, ElementType::F16)).unwrap().element_type, ElementType::Q8_0);
    layer.codes[64 * 3 + 40] = 228;
    assert_inexact(
        exact(&gptq(&layer, ElementType::F16)),
        &["output 3", "128 steps", "column 40", "values again"],
    );
    layer.zeros.fill(128);
    assert_eq!(exact(&gptq(&layer, ElementType::F16)).unwrap().element_type, ElementType::Q8_0);
    layer.zeros.fill(129);
    layer.codes.iter_mut().for_each(|q| *q = (*q).max(1));
    assert_eq!(exact(&gptq(&layer, ElementType::F16)).unwrap().element_type, ElementType::Q8_0);
    layer.codes[64 * 31 + 63] = 0;
    assert_inexact(exact(&gptq(&layer, ElementType::F16)), &["output 31", "-129 steps", "column 63"]);
}

#[test]
fn scales_that_are_no_f16() {
    let layer = |scale: f32| {
        let mut layer = Affine::random(4, [32, 64, 32], Some(8), 5);
        layer.scales[32 + 7] = scale;
        layer
    };
    for kind in [ElementType::BF16, ElementType::F32] {
        assert_eq!(exact(&gptq(&layer(0.25), kind)).unwrap().element_type, ElementType::Q4_0);
        for scale in [1.0f32 / (1 << 30) as f32, 131072.0] {
            let parts = ["output 7, group 1", "not an f16 number", "values again"];
            assert_inexact(exact(&gptq(&layer(scale), kind)), &parts);
        }
        for scale in [f32::NAN, f32::INFINITY] {
            let parts = ["output 7, group 1", "not a finite number", "damaged"];
            assert_inexact(exact(&gptq(&layer(scale), kind)), &parts);
        }
    }
    assert_inexact(exact(&gptq(&layer(0.1), ElementType::F32)), &["not an f16 number"]);
    // The least f16 of all is one.
    let least = f32::from(half::f16::from_bits(1));
    assert_eq!(exact(&gptq(&layer(least), ElementType::F16)).unwrap().element_type, ElementType::Q4_0);
}

#[test]
fn columns_and_groups_that_do_not_make_blocks() {
    let of = |columns: usize, size: usize| Affine::random(4, [32, columns, size], Some(8), 2);
    assert_inexact(exact(&gptq(&of(48, 48), ElementType::F16)), &["48 columns", "f16"]);
    assert_inexact(exact(&gptq(&of(64, 16), ElementType::F16)), &["share a block of 32"]);
    let mut mixed = of(128, 32);
    mixed.groups.iter_mut().enumerate().for_each(|(k, g)| *g = [3, 3, 0, 1, 3, 1, 0, 3][k % 8]);
    assert!(exact(&gptq(&mixed, ElementType::F16)).unwrap().permutation.is_some()); // 64, 32 and 32 columns
    mixed.groups[0] = 1;
    assert_inexact(exact(&gptq(&mixed, ElementType::F16)), &["share a block of 32"]);
    // Groups in another order, but each block within one: nothing has to be permuted.
    let mut whole = of(256, 64);
    whole.groups = [2, 0, 1, 1, 3, 0, 3, 2].iter().flat_map(|g| [*g; 32]).collect();
    assert_eq!(exact(&gptq(&whole, ElementType::F16)).unwrap().permutation, None);
}

#[test]
fn other_methods() {
    for (kind, name) in [("nf4", "NF4"), ("fp4", "FP4")] {
        let model = FourBit::random(kind, [32, 64], 64, false, 1).model(true).read().unwrap();
        assert_inexact(exact(&model), &[name, "values again"]);
    }
    let int8 = Model::default().tensor("l.weight", ElementType::I8, &[2, 32], vec![1; 64]).tensor(
        "l.SCB",
        ElementType::F32,
        &[2],
        floats(&[0.5, 0.25], ElementType::F32),
    );
    assert_inexact(exact(&int8.read().unwrap()), &["int8", "values again"]);
}
