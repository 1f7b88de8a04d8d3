//! compressed-tensors: what its own code packed decodes to what its own code reads; every layout; what is refused.

use std::path::Path;

use proptest::prelude::*;
use quern_tensor_io::scheme::{GptqFormat, Packing, Scheme};
use quern_tensor_io::{Checkpoint, ElementType, decode};
use serde_json::{Value, json};

use super::build::{Affine, Model, numbers};
use super::exact::assert_exact;
use super::repack::{anew, assert_same, rewritten};

#[test]
fn what_compressed_tensors_packed() {
    use ElementType::{Q4_0, Q5_0, Q8_0};
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/packed");
    let checkpoint = Checkpoint::open(&folder.join("compressed-tensors")).unwrap();
    let expected = Checkpoint::open(&folder.join("compressed-tensors.expected.safetensors")).unwrap();
    let packing = Packing::read(&checkpoint).unwrap().unwrap();
    let scheme =
        Scheme::CompressedTensors { bits: 1, group_size: Some(32), symmetric: false, act_order: false };
    assert_eq!(packing.scheme(), &scheme);
    assert_eq!(packing.notes(), ["13 of 14 layers have another number of bits than 1"]);
    // Bits, symmetric, and the block type that holds all values; none if scales or columns do not allow it.
    let layers = [
        (1, true, Some(Q4_0)),
        (2, false, Some(Q4_0)),
        (3, true, Some(Q4_0)),
        (3, false, None),
        (4, true, Some(Q4_0)),
        (4, false, Some(Q5_0)),
        (4, true, Some(Q4_0)),
        (4, false, None),
        (5, true, Some(Q5_0)),
        (5, false, Some(Q8_0)),
        (6, false, Some(Q8_0)),
        (7, false, Some(Q8_0)),
        (8, true, Some(Q8_0)),
        (8, false, None),
    ];
    assert_eq!(packing.layers().len(), layers.len());
    for (number, (bits, symmetric, block)) in layers.into_iter().enumerate() {
        let name = format!("model.layers.{number}.up_proj.weight");
        let layer = packing.layer(&name).unwrap();
        let theirs = expected.tensor(&name).unwrap();
        assert_eq!(
            ([layer.rows, layer.columns], layer.bits()),
            ([theirs.info.rows(), theirs.info.columns()], bits)
        );
        let view = layer.affine(&checkpoint).unwrap();
        assert_eq!(view.symmetric(), symmetric, "{name}");
        let mut values = vec![f32::NAN; layer.rows * layer.columns];
        layer.decode(&checkpoint, 0..layer.rows, &mut values);
        let wanted: Vec<_> = theirs.data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        let different = values.iter().zip(&wanted).position(|(a, b)| a != b);
        assert_eq!(different.map(|i| (i, values[i], wanted[i])), None, "{name}");
        let mut some = vec![f32::NAN; 5 * layer.columns];
        layer.decode(&checkpoint, 7..12, &mut some);
        assert_eq!(some, values[7 * layer.columns..12 * layer.columns], "{name}");

        let form = layer.exact_form(&checkpoint);
        match (form, block) {
            (Ok(form), Some(block)) => {
                assert_eq!((form.element_type, &form.permutation), (block, &None), "{name}");
                assert_exact(&checkpoint, layer, &form, 13);
            }
            (Err(_), None) => {}
            (form, _) => panic!("{name}: {form:?}"),
        }
        // In memory, the nearest form for kernels.
        let form = layer.block_form(&checkpoint);
        let mut blocks = vec![0xaa; form.element_type.row_bytes(layer.columns).unwrap() * layer.rows];
        layer.blocks(&checkpoint, &form, 0..layer.rows, &mut blocks);
        let mut near = vec![f32::NAN; values.len()];
        assert!(decode::to_f32(form.element_type, &blocks, &mut near));
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (a, b) in near.iter().zip(&values) {
            assert!((a - b).abs() <= largest / 1024.0, "{name}: {a} for {b} in {}", form.element_type);
        }
        match layer.to_gptq(&checkpoint, GptqFormat::V2) {
            Ok(tensors) => assert!(anew(&tensors, GptqFormat::V2).decoded() == values, "{name}"),
            Err(e) => assert!(e.to_string().contains("do not fill 32-bit words"), "{e}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_layout(
        bits in 1usize..9,
        rows in prop_oneof![Just(32usize), Just(64), Just(41), Just(288)],
        runs in 1usize..9,
        size in prop_oneof![Just(32usize), Just(64), Just(usize::MAX)],
        (symmetric, padded, labelled) in any::<(bool, bool, bool)>(),
        scales in 0usize..3,
        listed in 0usize..4,
        seed: u64,
    ) {
        let columns = runs * 32;
        let middle = 1u32 << (bits - 1);
        let mut layer = Affine::random(bits, [rows, columns, size.min(columns)], symmetric.then_some(middle), seed);
        if listed == 3 {
            let mut order: Vec<_> = (0..columns).collect();
            order.sort_by_key(|k| (*k as u64 + 1).wrapping_mul(seed | 1).rotate_left(17));
            let even = layer.groups.clone();
            order.iter().zip(even).for_each(|(&k, g)| layer.groups[k] = g);
        }
        let unset = vec![-1; columns];
        let g_idx = [None, Some(&unset[..]), Some(&layer.groups), Some(&layer.groups)][listed];
        let kind = [ElementType::F16, ElementType::BF16, ElementType::F32][scales];
        // Padded words may be as many as more bits take in a stream: the configuration tells then.
        let labelled = labelled || padded || !columns.is_multiple_of(size.min(columns));
        let mut model = layer.compressed(kind, padded, !symmetric, g_idx);
        if labelled {
            let stated = if size == usize::MAX { -1 } else { size as i64 };
            model = model.json("config.json", layer.compressed_config(stated, symmetric));
        }
        let model = model.read().unwrap();
        prop_assert_eq!(model.packing.notes(), &[] as &[String]);
        assert_same(&model, &layer, 0);
        let [found] = model.packing.layers() else { panic!() };
        if let Ok(form) = found.exact_form(&model.checkpoint) {
            assert_exact(&model.checkpoint, found, &form, rows.div_ceil(2));
        } else {
            prop_assert!(bits == 8 && !symmetric, "no exact form");
        }
        if rows % 32 == 0 {
            // Fewer and odd bits are held by the next number that GPTQ has, moved to its middle.
            let wider = [2, 2, 3, 4, 8, 8, 8, 8][bits - 1];
            let moved = (1u32 << (wider - 1)) - middle;
            let new = rewritten(&model, GptqFormat::V2);
            prop_assert_eq!(new.packing.layers()[0].bits(), wider);
            let mut raised = layer.clone();
            raised.bits = wider as usize;
            raised.codes.iter_mut().for_each(|q| *q += moved);
            raised.zeros.iter_mut().for_each(|z| *z += moved);
            assert_same(&new, &raised, 0);
        }
    }
}

fn layer() -> Affine {
    Affine::random(4, [32, 64, 32], None, 1)
}

fn sound() -> Model {
    layer()
        .compressed(ElementType::F16, false, true, None)
        .json("config.json", layer().compressed_config(32, false))
}

#[test]
fn broken_layers() {
    use ElementType::{F16, F32, I32, I64, U8};
    sound().read().unwrap();
    let cases: [(&str, ElementType, &[usize], &str); 16] = [
        ("l.weight_packed", U8, &[32, 32], "expected f8_e4m3, u8"),
        ("l.weight_packed", I64, &[32, 8], "expected i32"),
        ("l.weight_packed", I32, &[2, 32, 8], "several experts"),
        ("l.weight_packed", I32, &[256], "expected a matrix"),
        ("l.weight_packed", I32, &[32, 9], "rows of 9 words, which 64 codes of 4 bits"),
        ("l.weight_packed", I32, &[31, 8], "weight_packed has 31 rows"),
        ("l.weight_scale", I32, &[32, 2], "expected f16, bf16, f32"),
        ("l.weight_scale", F16, &[2, 32], "expected [32, 32]"),
        ("l.weight_scale", F16, &[32, 3], "has 3 groups for 64 columns"),
        ("l.weight_scale", F16, &[32], "expected a matrix"),
        ("l.weight_shape", F32, &[2], "expected i64, i32"),
        ("l.weight_shape", I64, &[3], "expected [2]"),
        ("l.weight_zero_point", I32, &[32, 2], "expected [4, 2]"),
        ("l.weight_zero_point", I32, &[4, 1], "expected [4, 2]"),
        ("l.weight_zero_point", U8, &[4, 2], "expected i32"),
        ("l.weight_g_idx", I32, &[63], "expected [64]"),
    ];
    for (name, kind, shape, part) in cases {
        let mut model = sound().tensor("l.weight_g_idx", I32, &[64], numbers(&[-1; 64]));
        let bytes = kind.row_bytes(shape.iter().product()).unwrap();
        *model.get(name) = (name.to_owned(), kind, shape.to_vec(), vec![0; bytes]);
        model.refused(&[part]);
    }
    for shape in [[32i64, 0], [32, -64], [-1, 64], [32, i64::MAX], [64, 32], [32, 65]] {
        let mut model = sound();
        model.get("l.weight_shape").3 = shape.iter().flat_map(|v| v.to_le_bytes()).collect();
        model.refused(&["l.weight_"]);
    }
    for bad in [-1, 2, i32::MAX] {
        let mut groups = [0; 64];
        groups[40] = bad;
        let model = sound().tensor("l.weight_g_idx", I32, &[64], numbers(&groups));
        model.refused(&["l.weight_g_idx", "column 40", &format!("group {bad}")]);
    }
    for missing in ["l.weight_packed", "l.weight_scale", "l.weight_shape"] {
        let mut model = sound();
        model.remove(missing);
        model.refused(&["incomplete"]);
    }
    let twice = sound().tensor("l.weight", F16, &[32, 64], vec![0; 4096]);
    twice.refused(&["l.weight", "twice"]);
    let gptq = Affine::random(4, [32, 64, 32], None, 1).gptq(true, F16, true);
    let other = gptq.json("config.json", layer().compressed_config(32, false));
    other.refused(&["belongs to a gptq layer", "config.json says compressed-tensors"]);
}

#[test]
fn few_columns_can_be_ambiguous() {
    let small = Affine::random(3, [32, 8, 8], Some(4), 1);
    let model = small.compressed(ElementType::F16, false, false, None);
    model.refused(&["l.weight_packed", "ambiguous", "config.json"]);
    let labelled = model.json("config.json", small.compressed_config(-1, true)).read().unwrap();
    assert_eq!(labelled.decoded(), small.values());
}

fn with(change: impl Fn(&mut Value)) -> Model {
    let mut config = layer().compressed_config(32, false);
    change(&mut config["quantization_config"]);
    layer().compressed(ElementType::F16, false, true, None).json("config.json", config)
}

#[test]
fn other_formats_are_refused_by_name() {
    let group =
        |c: &mut Value, key: &str, value: Value| c["config_groups"]["group_0"]["weights"][key] = value;
    for format in ["marlin-24", "mxfp6-pack-quantized", "sparse-24-bitmask"] {
        let parts = [
            "config.json",
            format,
            "compressed-tensors",
            "quern does not read",
            "take the model unquantized",
        ];
        with(|c| c["format"] = format.into()).refused(&parts);
        with(|c| c["config_groups"]["group_0"]["format"] = format.into()).refused(&parts);
    }
    let six = |c: &mut Value| {
        group(c, "type", "float".into());
        group(c, "num_bits", 6.into());
    };
    with(six).refused(&["group_0", "weights of 6-bit \"float\""]);
    with(|c| group(c, "strategy", "tensor".into())).refused(&["group_0", "strategy \"tensor\""]);
    with(|c| group(c, "num_bits", 9.into())).refused(&["group_0", "num_bits", "1 to 8"]);
    with(|c| group(c, "num_bits", "four".into())).refused(&["group_0", "num_bits"]);
    with(|c| group(c, "group_size", 0.into())).refused(&["group_0", "group_size"]);
    with(|c| group(c, "group_size", 16.into())).refused(&["l.weight_scale", "config.json says groups of 16"]);
    with(|c| group(c, "num_bits", 3.into())).refused(&["l.weight_packed", "codes of 3 bits"]);
    with(|c| c["config_groups"] = 3.into()).refused(&["config_groups must be an object"]);
    with(|c| c["sparsity_config"] = json!({ "format": "sparse-24-bitmask" })).refused(&["sparse-24-bitmask"]);
    with(|c| c["transform_config"] = json!({ "config_groups": { "u": {} } })).refused(&["transform_config"]);

    // What changes nothing here.
    let same = |model: Model| assert_eq!(model.read().unwrap().decoded(), layer().values());
    same(with(|c| c["sparsity_config"] = json!({ "format": "dense" })));
    same(with(|c| c["transform_config"] = json!({})));
    same(with(|c| c["format"] = "mixed-precision".into()));
    same(with(|c| c["config_groups"] = json!({ "W4A16": ["Linear"] })));
    same(with(|c| drop(c.as_object_mut().unwrap().remove("quant_method"))));
    let activations = with(|c| c["config_groups"]["group_0"]["input_activations"] = json!({ "num_bits": 8 }));
    let notes = activations.read().unwrap();
    assert!(notes.packing.notes()[0].contains("activations"), "{:?}", notes.packing.notes());
}

#[test]
fn a_label_alone() {
    let plain = Model::default().tensor("l.weight", ElementType::F16, &[2, 2], vec![0; 8]);
    let opened = plain.json("config.json", layer().compressed_config(32, false)).read().unwrap();
    let scheme =
        Scheme::CompressedTensors { bits: 4, group_size: Some(32), symmetric: false, act_order: false };
    assert_eq!(opened.packing.scheme(), &scheme);
    assert!(opened.packing.notes()[0].contains("no layer is quantized"));
}
