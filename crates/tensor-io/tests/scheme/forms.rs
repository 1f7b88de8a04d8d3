//! Every layout decodes to the numbers that went in, as values and as blocks.

use half::f16;
use proptest::prelude::*;
use quern_tensor_io::{ElementType, decode};

use super::build::{Affine, FourBit, Model, Opened, floats};

const SCALES: [ElementType; 3] = [ElementType::F16, ElementType::BF16, ElementType::F32];

/// The layer through its blocks: their type, whether they are exact and permuted, and the values.
fn blocks(model: &Opened) -> (ElementType, bool, bool, Vec<f32>) {
    let layer = &model.packing.layers()[0];
    let form = layer.block_form(&model.checkpoint);
    let (rows, columns) = (layer.rows, layer.columns);
    let row_bytes = form.element_type.row_bytes(columns).unwrap();
    let mut bytes = vec![0xaa; rows * row_bytes];
    // Two pieces, of which the second begins anywhere.
    let (first, second) = bytes.split_at_mut(rows / 3 * row_bytes);
    layer.blocks(&model.checkpoint, &form, 0..rows / 3, first);
    layer.blocks(&model.checkpoint, &form, rows / 3..rows, second);
    let mut values = vec![f32::NAN; rows * columns];
    assert!(decode::to_f32(form.element_type, &bytes, &mut values));
    let mut placed = vec![f32::NAN; rows * columns];
    for (i, v) in values.into_iter().enumerate() {
        let column = form.permutation.as_ref().map_or(i % columns, |p| p[i % columns] as usize);
        placed[i / columns * columns + column] = v;
    }
    (form.element_type, form.exact, form.permutation.is_some(), placed)
}

/// Each within its own tolerance, none missing.
fn close(a: &[f32], b: &[f32], tolerance: impl Fn(usize) -> f32) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.len(), b.len());
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        prop_assert!((x - y).abs() <= tolerance(i), "{} for {} at {}", x, y, i);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gptq(
        bits in prop_oneof![Just(2usize), Just(3), Just(4), Just(8)],
        rows in prop_oneof![Just(32usize), Just(64), Just(96), Just(160)],
        runs in 1usize..9,
        size in prop_oneof![Just(16usize), Just(32), Just(64), Just(128), Just(usize::MAX)],
        symmetric: bool,
        v2: bool,
        scales in 0usize..3,
        listed in 0usize..4,
        seed: u64,
    ) {
        let columns = runs * 32;
        let zero = symmetric.then_some(1 << (bits - 1));
        let mut layer = Affine::random(bits, [rows, columns, size.min(columns)], zero, seed);
        if listed == 3 {
            // Act-order: the same number of columns in each group, anywhere.
            let mut order: Vec<_> = (0..columns).collect();
            order.sort_by_key(|k| (*k as u64 + 1).wrapping_mul(seed | 1).rotate_left(17));
            let even = layer.groups.clone();
            order.iter().zip(even).for_each(|(&k, g)| layer.groups[k] = g);
        }
        let expected = layer.values();
        let mut kept = layer.clone();
        if listed == 2 {
            kept.groups.fill(0); // "no g_idx", as some files say it
        }
        let stated = if size == usize::MAX { -1 } else { size as i64 };
        let model = kept.gptq(v2, SCALES[scales], listed > 0).json("quantize_config.json", layer.config(v2, stated));
        let model = model.read().unwrap();
        prop_assert_eq!(model.packing.notes(), &[] as &[String]);
        let [found] = model.packing.layers() else { panic!() };
        prop_assert_eq!((found.name.as_str(), found.rows, found.columns), ("l.weight", rows, columns));
        prop_assert_eq!(found.bits(), bits as u32);
        prop_assert_eq!(&model.decoded(), &expected);

        let (kind, exact, permuted, values) = blocks(&model);
        let irregular = layer.groups.chunks(32).any(|run| run.iter().any(|g| *g != run[0]));
        let middle = layer.zeros.iter().all(|&z| z == 1 << (bits - 1));
        let kinds = match (bits, middle) {
            (2 | 3, _) | (4, true) => ElementType::Q4_0,
            (4, false) => ElementType::Q4_1,
            (_, true) => ElementType::Q8_0,
            _ => ElementType::F16,
        };
        let kinds = if size == 16 && layer.group_count() > 1 { ElementType::F16 } else { kinds };
        prop_assert_eq!(kind, kinds);
        prop_assert_eq!(exact, kind != ElementType::F16);
        prop_assert_eq!(permuted, irregular && exact);
        close(&values, &expected, |i| match kind {
            ElementType::Q4_0 | ElementType::Q8_0 => 0.0,
            // The minimum is rounded to 11 bits; a value to as many.
            ElementType::Q4_1 => 15.0 * layer.scales.iter().fold(0f32, |m, s| m.max(*s)) / 2048.0,
            _ => expected[i].abs() / 2048.0,
        })?;
    }

    #[test]
    fn awq(
        rows in prop_oneof![Just(8usize), Just(64), Just(72), Just(200)],
        columns in prop_oneof![Just(32usize), Just(96), Just(256), Just(40)],
        size in prop_oneof![Just(32usize), Just(64), Just(usize::MAX)],
        symmetric: bool,
        scales in 0usize..3,
        seed: u64,
    ) {
        let size = size.min(columns);
        let layer = Affine::random(4, [rows, columns, size], symmetric.then_some(8), seed);
        let config = serde_json::json!({ "quantization_config": {
            "quant_method": "awq", "bits": 4, "group_size": size, "version": "GEMM", "zero_point": true,
        }});
        let model = layer.awq(SCALES[scales]).json("config.json", config).read().unwrap();
        prop_assert_eq!(&model.decoded(), &layer.values());
        let (kind, exact, _, values) = blocks(&model);
        let expected = match (columns % 32, symmetric) {
            (0, true) => ElementType::Q4_0,
            (0, false) => ElementType::Q4_1,
            _ => ElementType::F16,
        };
        prop_assert_eq!((kind, exact), (expected, kind != ElementType::F16));
        close(&values, &layer.values(), |_| if symmetric && exact { 0.0 } else { 0.004 })?;
    }

    #[test]
    fn nf4_and_fp4(
        nf4: bool,
        shape in prop_oneof![
            Just([3usize, 96usize]), Just([64, 64]), Just([5, 7]), Just([1, 1]), Just([40, 4096]), Just([9, 33]),
        ],
        block_size in prop_oneof![Just(32usize), Just(64), Just(256), Just(4096)],
        nested: bool,
        bitsandbytes: bool,
        storage in 0usize..4,
        seed: u64,
    ) {
        let layer = FourBit::random(if nf4 { "nf4" } else { "fp4" }, shape, block_size, nested, seed);
        let mut model = layer.model(bitsandbytes);
        // The same bytes under the name of a float type.
        let (_, kind, dims, bytes) = model.get("l.weight");
        let size = [1, 2, 2, 4][storage];
        if bytes.len() % size == 0 {
            *kind = [ElementType::U8, ElementType::F16, ElementType::BF16, ElementType::F32][storage];
            *dims = vec![bytes.len() / size, 1];
        }
        let model = model.read().unwrap();
        let expected = layer.values();
        prop_assert_eq!(&model.decoded(), &expected);
        let found = &model.packing.layers()[0];
        let mut last = vec![0.0; shape[1]];
        found.decode(&model.checkpoint, shape[0] - 1..shape[0], &mut last);
        prop_assert_eq!(&last[..], &expected[expected.len() - shape[1]..]);
        let (kind, exact, _, values) = blocks(&model);
        let fits = shape[1] % 32 == 0;
        let expected_kind = match (fits, nf4) {
            (true, true) => ElementType::NF4,
            (true, false) => ElementType::FP4,
            _ => ElementType::F16,
        };
        prop_assert_eq!((kind, exact), (expected_kind, fits));
        close(&values, &expected, |i| {
            let scale = layer.scale(i / block_size).abs();
            (scale / 2048.0).max(1e-7)
        })?;
    }
}

#[test]
fn int8() {
    for (columns, kind) in [(64, ElementType::Q8_0), (33, ElementType::F16)] {
        let codes: Vec<u8> = (0..3 * columns).map(|i| (i * 37) as u8).collect();
        let scales = [0.5f32, 1.25, 0.0];
        for (name, format) in [("l.SCB", true), ("l.SCB", false), ("l.weight_scb", false)] {
            let mut model = Model::default()
                .tensor("l.weight", ElementType::I8, &[3, columns], codes.clone())
                .tensor(name, ElementType::F32, &[3], floats(&scales, ElementType::F32));
            if format {
                model = model.tensor("l.weight_format", ElementType::U8, &[], vec![0]);
            }
            let model = model.read().unwrap();
            assert_eq!(model.packing.layers()[0].parts.len(), 2 + usize::from(format));
            let values = model.decoded();
            for (i, (v, q)) in values.iter().zip(&codes).enumerate() {
                assert_eq!(*v, f32::from(*q as i8) * scales[i / columns] * (1.0 / 127.0));
            }
            let (found, exact, _, placed) = blocks(&model);
            assert_eq!((found, exact), (kind, kind == ElementType::Q8_0));
            for (i, (a, b)) in placed.iter().zip(&values).enumerate() {
                let d = f16::from_f32(scales[i / columns] / 127.0).to_f32();
                assert!((a - b).abs() <= 127.0 * d / 2048.0, "{a} for {b}");
            }
        }
    }
}

/// The block of the format's description: codes as bitsandbytes packs them.
#[test]
fn the_first_value_is_in_the_high_nibble() {
    for (kind, bytes, nearest) in [
        ("nf4", [0xf2, 0xa7, 0x08, 0xe5], [2.0, -1.05, 0.49, 0.0, -2.0, 0.16, 1.446, -0.37]),
        ("fp4", [0x3d, 0x70, 0xb1, 0x2e], [2.0, -1.0, 0.5, 0.0, -2.0, 0.0104, 1.3333, -0.3333]),
    ] {
        let mut layer = FourBit::random(kind, [1, 8], 64, false, 1);
        layer.absmax = vec![2.0];
        let mut model = layer.model(true);
        model.get("l.weight").3 = bytes.to_vec();
        let values = model.read().unwrap().decoded();
        for (found, wanted) in values.iter().zip(nearest) {
            assert!((found - wanted).abs() < 0.006, "{kind}: {values:?}");
        }
    }
}

/// A word of AWQ that holds 0 to 7 for its columns, by the format's description.
#[test]
fn awq_interleaves_its_columns() {
    let mut layer = Affine::random(4, [8, 32, 32], Some(0), 3);
    layer.scales.fill(1.0);
    let mut model = layer.awq(ElementType::F16);
    model.get("l.qweight").3 = [0x75316420u32; 32].iter().flat_map(|w| w.to_le_bytes()).collect();
    let values = model.read().unwrap().decoded();
    let column: Vec<_> = values.chunks(32).map(|row| row[5]).collect();
    assert_eq!(column, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
}

/// A last group that is not full, and columns that fill no word.
#[test]
fn tails() {
    for (columns, size, bits) in [(96, 64, 4), (160, 128, 3), (40, 32, 4), (36, 36, 8), (100, 32, 4)] {
        let layer = Affine::random(bits, [32, columns, size], None, 11);
        let config = layer.config(true, size as i64);
        let model = layer.gptq(true, ElementType::F16, true).json("quantize_config.json", config);
        let model = model.read().unwrap();
        assert_eq!(model.decoded(), layer.values(), "{columns} in groups of {size}");
        let (kind, ..) = blocks(&model);
        let plain = columns % 32 != 0 || bits == 8;
        assert_eq!(kind == ElementType::F16, plain, "{columns} in groups of {size}");
    }
}
