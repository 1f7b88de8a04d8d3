//! AutoRound, MLX, HQQ and torchao: what their own libraries wrote decodes to what their own code reads, and what is
//! broken or of another kind is refused by name.

use std::path::{Path, PathBuf};

use quern_tensor_io::scheme::{PackedLayer, Packing, Scaling, Scheme};
use quern_tensor_io::{Checkpoint, ElementType, decode};
use serde_json::json;

use super::build::{Affine, Model, floats};

use ElementType::{BF16, F16, F32, I8, I32, I64, MXFP4, NVFP4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, U8, U32};

fn packed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/packed")
}

/// The layer in blocks of this type, decoded.
fn values(element_type: ElementType, blocks: &[u8], layer: &PackedLayer) -> Vec<f32> {
    let mut values = vec![f32::NAN; layer.rows * layer.columns];
    assert!(decode::to_f32(element_type, blocks, &mut values));
    values
}

/// A layer's name after `model.layers.`, what it is stored as, its exact type and its type for kernels.
type Expected = (&'static str, &'static str, Option<ElementType>, ElementType);

fn agrees(name: &str, scheme: Scheme, method: &str, layers: &[Expected]) -> Vec<String> {
    let checkpoint = Checkpoint::open(&packed().join(name)).unwrap();
    let packing = Packing::read(&checkpoint).unwrap().expect("it is quantized");
    assert_eq!((packing.scheme(), packing.method()), (&scheme, Some(method)), "{name}");
    let expected = Checkpoint::open(&packed().join(format!("{name}.expected.safetensors"))).unwrap();
    assert_eq!(packing.layers().len(), layers.len(), "{name}");
    assert_eq!(expected.tensors().len(), layers.len(), "{name}");
    for (short, stored, exact, kernels) in layers {
        let layer_name = format!("model.layers.{short}.weight");
        let layer = packing.layer(&layer_name).unwrap();
        let what = format!("{name} {short}");
        assert_eq!(packing.stored_as(layer), *stored, "{what}");
        let theirs = expected.tensor(&layer_name).unwrap();
        assert_eq!([layer.rows, layer.columns], [theirs.info.rows(), theirs.info.columns()], "{what}");
        let mut own = vec![f32::NAN; layer.rows * layer.columns];
        layer.decode(&checkpoint, 0..layer.rows, &mut own);
        let wanted: Vec<_> = theirs.data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        // MLX adds with one rounding less (a fused multiply-add).
        let tolerance = if name == "mlx" { 4e-7 } else { 0.0 };
        let differs = |(a, b): (&f32, &f32)| {
            let off = (a - b).abs();
            off.is_nan() || off > tolerance * b.abs().max(0.05)
        };
        let different = own.iter().zip(&wanted).position(differs);
        assert_eq!(different.map(|i| (i, own[i], wanted[i])), None, "{what}");
        let mut some = vec![f32::NAN; 5 * layer.columns];
        layer.decode(&checkpoint, 7..12, &mut some);
        assert_eq!(some, own[7 * layer.columns..12 * layer.columns], "{what}");

        let form = layer.exact_form(&checkpoint);
        assert_eq!(form.as_ref().ok().map(|f| f.element_type), *exact, "{what}: {form:?}");
        if let Ok(form) = form {
            let mut blocks = vec![0xaa; form.element_type.row_bytes(layer.columns).unwrap() * layer.rows];
            layer.exact_blocks(&checkpoint, &form, 0..layer.rows, &mut blocks);
            let mut through = values(form.element_type, &blocks, layer);
            through.iter_mut().for_each(|v| *v *= form.factor.unwrap_or(1.0));
            assert_eq!(through, own, "{what}");
        }
        let form = layer.block_form(&checkpoint);
        assert_eq!((form.element_type, form.exact), (*kernels, *kernels != F16), "{what}");
        let row_bytes = form.element_type.row_bytes(layer.columns).unwrap();
        let mut blocks = vec![0xaa; row_bytes * layer.rows];
        layer.blocks(&checkpoint, &form, 0..layer.rows, &mut blocks);
        let largest = own.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (a, b) in values(form.element_type, &blocks, layer).iter().zip(&own) {
            assert!((a * form.factor - b).abs() <= largest / 512.0, "{what}: {a} for {b} in {form:?}");
        }
        let mut part = vec![0xaa; row_bytes * 3];
        layer.blocks(&checkpoint, &form, 4..7, &mut part);
        assert_eq!(part, blocks[4 * row_bytes..7 * row_bytes], "{what}");
    }
    packing.notes().to_vec()
}

#[test]
fn auto_round_packed_as_gptq() {
    for (name, v2, packing) in
        [("auto-round-gptq", false, "auto_round:auto_gptq"), ("auto-round-gptq-v2", true, "auto_round")]
    {
        let scheme = Scheme::Gptq { bits: 4, group_size: Some(32), act_order: false, symmetric: false, v2 };
        let layers = [
            ("0.self_attn.q_proj", "gptq 2-bit", Some(Q4_0), Q4_0),
            ("0.self_attn.k_proj", "gptq 4-bit", Some(Q4_1), Q4_1),
            ("0.mlp.down_proj", "gptq 8-bit", Some(Q8_0), Q8_0),
        ];
        let notes = agrees(name, scheme, "gptq", &layers);
        assert_eq!(
            notes[0],
            format!("made by AutoRound, packed as \"{packing}\", with 2 settings of its own for layers")
        );
        assert!(notes[1].contains("2 of 3 layers have another number of bits"), "{notes:?}");
    }
}

#[test]
fn auto_round_packed_as_awq() {
    let layers = [
        ("0.self_attn.q_proj", "awq 4-bit", Some(Q5_0), Q4_1),
        ("0.self_attn.k_proj", "awq 4-bit", Some(Q4_1), Q4_1),
        ("0.mlp.down_proj", "awq 4-bit", Some(Q5_0), Q4_1),
    ];
    let notes = agrees("auto-round-awq", Scheme::Awq { bits: 4, group_size: Some(32) }, "awq", &layers);
    assert_eq!(notes, ["made by AutoRound, packed as \"auto_round:auto_awq\""]);
}

#[test]
fn every_mode_of_mlx() {
    let layers = [
        ("0.up_proj", "mlx 4-bit", Some(Q4_1), Q4_1),
        ("1.up_proj", "mlx 8-bit", None, F16),
        ("2.up_proj", "mlx 2-bit", Some(Q4_1), Q4_1),
        ("3.up_proj", "mlx 3-bit", Some(Q4_1), Q4_1),
        ("4.up_proj", "mlx 5-bit", Some(Q5_1), Q5_1),
        ("5.up_proj", "mlx 6-bit", None, F16),
        ("6.up_proj", "mxfp4", Some(MXFP4), MXFP4),
        ("7.up_proj", "nvfp4", Some(NVFP4), NVFP4),
        ("8.up_proj", "fp8", Some(BF16), F16),
    ];
    let notes = agrees("mlx", Scheme::Mixed, "mlx", &layers);
    assert!(notes[0].contains("1 of nvfp4"), "{notes:?}");
}

#[test]
fn hqq_along_both_axes() {
    let layers = [
        ("0.up_proj", "hqq 4-bit", None, Q4_1),
        ("1.up_proj", "hqq 8-bit", None, F16),
        ("2.up_proj", "hqq 3-bit", None, Q4_1),
        ("3.up_proj", "hqq 2-bit", None, F16),
        ("4.up_proj", "hqq 1-bit", None, Q4_1),
        ("5.up_proj", "hqq 4-bit", None, F16),
        ("6.up_proj", "hqq 3-bit", None, F16),
        ("7.up_proj", "hqq 4-bit", None, F16),
    ];
    let notes = agrees("hqq", Scheme::Hqq { bits: 4, group_size: 64 }, "hqq", &layers);
    assert_eq!(notes, [] as [&str; 0]);
}

#[test]
fn torchao_as_transformers_stores_it() {
    let layers = [
        ("0.up_proj", "torchao 8-bit", None, Q8_0),
        ("1.up_proj", "torchao 8-bit", None, Q8_0),
        ("2.up_proj", "fp8", None, F16),
        ("3.up_proj", "torchao 8-bit", None, Q8_0),
        ("4.up_proj", "torchao 8-bit", None, F16),
    ];
    let notes = agrees("torchao", Scheme::Mixed, "torchao", &layers);
    assert!(notes[0].contains("4 of torchao 8-bit, 1 of fp8"), "{notes:?}");
    let checkpoint = Checkpoint::open(&packed().join("torchao")).unwrap();
    let packing = Packing::read(&checkpoint).unwrap().unwrap();
    let fp8 = packing.layer("model.layers.2.up_proj.weight").unwrap().in_file(&checkpoint).unwrap();
    assert_eq!((fp8.element_type, fp8.block, fp8.scales.len()), (ElementType::F8E4M3, [1, 128], 24));
    let _ = Scaling::Output;
}

fn auto_round(config: serde_json::Value) -> Model {
    let mut all = json!({ "quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": true });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    Affine::random(4, [32, 64, 32], Some(8), 1)
        .gptq(false, F16, true)
        .json("config.json", json!({ "quantization_config": all }))
}

#[test]
fn labels_of_auto_round() {
    let method = |config| auto_round(config).read().unwrap().packing.method();
    for format in ["auto_round:auto_gptq", "auto_round:gptq:exllamav2", "auto_round", "auto_round:gptqmodel"]
    {
        assert_eq!(method(json!({ "packing_format": format })), Some("gptq"), "{format}");
        // Older releases.
        assert_eq!(method(json!({ "backend": format, "quant_method": "intel/auto-round" })), Some("gptq"));
    }
    let awq = Affine::random(4, [32, 64, 32], None, 2).awq(F16);
    let config = json!({ "quant_method": "auto-round", "packing_format": "auto_round:auto_awq", "bits": 4, "group_size": 32 });
    let opened = awq.json("config.json", json!({ "quantization_config": config })).read().unwrap();
    assert_eq!(opened.packing.method(), Some("awq"));
    for (config, part) in [
        (
            json!({ "packing_format": "auto_round:marlin_x" }),
            "AutoRound in the packing \\\"auto_round:marlin_x\\\"",
        ),
        (json!({ "data_type": "mx_int" }), "numbers of the type \\\"mx_int\\\""),
        (json!({ "packing_format": "auto_round:llm_compressor_nvfp4_e5m3" }), "nvfp4_e5m3"),
        (json!({ "rotation_config": { "block_size": 32 } }), "rotates weights"),
        (json!({ "bits": 5 }), "5-bit gptq is not read"),
    ] {
        auto_round(config).refused(&["config.json", &part.replace("\\\"", "\"")]);
    }
}

fn mlx() -> Model {
    let config = json!({ "quantization": { "group_size": 32, "bits": 4, "lm_head": false } });
    Model::default()
        .tensor("l.weight", U32, &[3, 8], (0..96).collect())
        .tensor("l.scales", F16, &[3, 2], floats(&[0.5; 6], F16))
        .tensor("l.biases", F16, &[3, 2], floats(&[-4.0; 6], F16))
        .json("config.json", config)
}

#[test]
fn broken_layers_of_mlx() {
    let opened = mlx().read().unwrap();
    assert_eq!(opened.packing.scheme(), &Scheme::Mlx { bits: 4, group_size: 32 });
    assert_eq!(opened.decoded()[..4], [-4.0, -4.0, -3.5, -4.0]);
    let with = |quantization| {
        let mut model = mlx();
        model.files.clear();
        model.json("config.json", json!({ "quantization": quantization }))
    };
    for (quantization, parts) in [
        (json!({ "group_size": 64, "bits": 4 }), &["l.weight", "do not fit 4 bits in groups of 64"][..]),
        (json!({ "group_size": 32, "bits": 7 }), &["config.json", "MLX in the mode affine with 7 bits"]),
        (json!({ "group_size": 0, "bits": 4 }), &["config.json", "in groups of 0"]),
        (json!({ "group_size": 32, "bits": 4, "mode": "ternary" }), &["MLX in the mode \"ternary\""]),
        (json!({ "group_size": 32, "bits": 4, "mode": 3 }), &["mode must be a text, it is 3"]),
        (json!({ "group_size": 32, "bits": 4, "l": { "bits": "x" } }), &["bits must be a number"]),
        (json!({ "group_size": 32, "bits": 4, "mode": "mxfp4" }), &["l.biases", "which has no biases"]),
        (
            json!({ "group_size": 64, "bits": 4, "mode": "mxfp4" }),
            &["MLX in the mode mxfp4 with 4 bits in groups of 64"],
        ),
    ] {
        with(quantization).refused(parts);
    }
    // Settings of one layer.
    assert!(
        with(json!({ "group_size": 64, "bits": 8, "l": { "bits": 4, "group_size": 32 } })).read().is_ok()
    );
    let mut none = mlx();
    none.files.clear();
    none.json("config.json", json!({})).refused(&["l.weight", "no \"quantization\""]);
    for (name, kind, shape, part) in [
        ("l.weight", U32, &[3, 7][..], "do not fit"),
        ("l.weight", U32, &[3, 8, 1], "several experts"),
        ("l.scales", F16, &[3, 3], "in 3 groups, which do not fit 4 bits in groups of 32"),
        ("l.scales", F16, &[2, 2], "expected [3, 2]"),
        ("l.biases", F16, &[3, 1], "expected [3, 2]"),
        ("l.biases", I32, &[3, 2], "expected f32, f16, bf16"),
    ] {
        let mut model = mlx();
        let bytes = kind.row_bytes(shape.iter().product()).unwrap();
        *model.get(name) = (name.to_owned(), kind, shape.to_vec(), vec![0; bytes]);
        model.refused(&["l.", part]);
    }
    let mut model = mlx();
    model.remove("l.biases");
    model.refused(&["l.biases", "is missing"]);
    let mut model = mlx();
    model.remove("l.weight");
    model.refused(&["l.scales", "lacks other tensors"]);
}

fn hqq() -> Model {
    let numbers = |value: i32| value.to_le_bytes().to_vec();
    let shape = [4i64, 16].iter().flat_map(|v| v.to_le_bytes()).collect();
    Model::default()
        .tensor("l.W_q", U8, &[4, 8], (0..32).collect())
        .tensor("l.scale", F32, &[8, 1], floats(&[0.5; 8], F32))
        .tensor("l.zero", F32, &[8, 1], floats(&[7.5; 8], F32))
        .tensor("l.shape", I64, &[2], shape)
        .tensor("l.nbits", I32, &[], numbers(4))
        .tensor("l.group_size", I32, &[], numbers(8))
        .tensor("l.axis", I32, &[], numbers(1))
        .tensor("l.packing", U8, &[7], b"4bit_u8".to_vec())
        .tensor("l.quant_scale", U8, &[], vec![0])
        .json("config.json", json!({ "quantization_config": { "quant_method": "hqq" } }))
}

#[test]
fn broken_layers_of_hqq() {
    let opened = hqq().read().unwrap();
    assert_eq!(opened.packing.layers()[0].parts.len(), 9);
    assert_eq!(opened.decoded()[..3], [-3.75; 3]);
    let number = |value: i32| value.to_le_bytes().to_vec();
    for (name, bytes, part) in [
        ("l.nbits", number(5), "says 5 bits"),
        ("l.nbits", number(-1), "says -1 bits"),
        ("l.nbits", number(8), "8bit_u8 is what is read"),
        ("l.axis", number(2), "is 2; groups are along the axis 0 or 1"),
        ("l.group_size", number(0), "groups must have a size"),
        ("l.group_size", number(7), "not whole groups of 7"),
        ("l.group_size", number(16), "take 4bit_u8 of 2 x 16"),
        ("l.shape", vec![0; 16], "must be two numbers"),
        ("l.packing", b"2bit_u8".to_vec(), "says codes are packed as \"2bit_u8\""),
        ("l.quant_scale", vec![1], "quantized themselves"),
    ] {
        let mut model = hqq();
        model.get(name).3 = bytes;
        model.refused(&["l.", part]);
    }
    for missing in ["l.scale", "l.zero", "l.shape", "l.nbits", "l.group_size", "l.axis"] {
        let mut model = hqq();
        model.remove(missing);
        model.refused(&[missing, "is missing"]);
    }
    let mut model = hqq();
    *model.get("l.scale") = ("l.scale".into(), F32, vec![1, 8], floats(&[0.5; 8], F32));
    model.refused(&["l.scale", "expected [8, 1]"]);
}

fn torchao() -> Model {
    Model::default()
        .tensor("l._weight_qdata", I8, &[4, 32], vec![1; 128])
        .tensor("l._weight_scale", F32, &[4, 2], floats(&[0.5; 8], F32))
        .tensor("l._weight_zero_point", I8, &[4, 2], vec![0xff; 8])
        .json("config.json", json!({ "quantization_config": { "quant_method": "torchao" } }))
}

#[test]
fn broken_layers_of_torchao() {
    assert_eq!(torchao().read().unwrap().decoded(), [1.0; 128]);
    for (name, kind, shape, part) in [
        ("l._weight_qdata", U8, &[4, 32][..], "packed tensors, which packs codes for one kind of kernel"),
        ("l._weight_qdata", I8, &[4, 32, 1], "expected a matrix"),
        ("l._weight_scale", F32, &[4, 3], "does not divide 4 x 32 codes"),
        ("l._weight_scale", F32, &[0, 2], "does not divide"),
        ("l._weight_scale", I8, &[4, 2], "expected f32, f16, bf16"),
        ("l._weight_zero_point", I8, &[4, 1], "expected [4, 2]"),
    ] {
        let mut model = torchao();
        let bytes = kind.row_bytes(shape.iter().product()).unwrap();
        *model.get(name) = (name.to_owned(), kind, shape.to_vec(), vec![1; bytes]);
        model.refused(&["l._weight", part]);
    }
    let mut model = torchao();
    model.remove("l._weight_scale");
    model.refused(&["l._weight_scale", "is missing"]);
    let mut model = torchao();
    model.remove("l._weight_qdata");
    model.refused(&["l._weight_", "lacks other tensors"]);
    torchao()
        .tensor("l._weight_act_pre_scale", F32, &[32], vec![0; 128])
        .refused(&["scales what the layer reads"]);
}
