//! FP8 and integers by rounding: the bytes that torch makes (`tools/make_rounded_golden.py`), what readers are told, and
//! what is refused.

use std::fs;
use std::path::Path;

use crate::common::{demo, fixture, golden, names, sha256};
use half::bf16;
use quern_quantize::rounded::{Kind, Options, plan, quantize};
use quern_tensor_io::scheme::{Packing, Scaling, Scheme};
use quern_tensor_io::{Checkpoint, ElementType, Metadata, NoProgress, TensorPlan, decode, safetensors};
use serde_json::{Value, json};

const W4A16: Kind = Kind::Integers { bits: 4, group_size: Some(128), symmetric: true };

fn options(kind: Kind) -> Options {
    Options { threads: 2, ..Options::new(kind) }
}

fn config(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("config.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["quantization_config"].clone()
}

/// Name, outputs and inputs, and the values by number.
type Made<'a> = (&'a str, [usize; 2], &'a dyn Fn(usize) -> f32);

/// A model of an unknown architecture with these tensors in bf16.
fn model(folder: &Path, tensors: &[Made<'_>]) -> Checkpoint {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), json!({ "model_type": "made_up" }).to_string()).unwrap();
    let plan = |(name, shape, _): &Made<'_>| TensorPlan {
        name: (*name).into(),
        element_type: ElementType::BF16,
        shape: shape.to_vec(),
    };
    let plans: Vec<TensorPlan> = tensors.iter().map(plan).collect();
    let path = folder.join("model.safetensors");
    let mut writer = safetensors::Writer::create(&path, &Metadata::new(), &plans, true).unwrap();
    for (_, [rows, columns], value) in tensors {
        let values = (0..rows * columns).map(value);
        let bytes: Vec<u8> = values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect();
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    Checkpoint::open(folder).unwrap()
}

fn noise(i: usize) -> f32 {
    ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0
}

fn refusal(source: &Checkpoint, options: Options) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let error = quantize(source, &scratch.path().join("out"), options, &NoProgress).unwrap_err();
    assert!(names(scratch.path()).is_empty());
    error.to_string()
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = checkpoint.tensor(name).unwrap();
    let mut out = vec![f32::NAN; tensor.info.elements()];
    assert!(decode::to_f32(tensor.info.element_type, tensor.data, &mut out));
    out
}

#[test]
fn float8_is_what_torch_makes() {
    let scratch = tempfile::tempdir().unwrap();
    let golden = golden("rounded-bookworm-4m.json");
    for (kind, scales, shape) in [
        (Kind::Float8, Scaling::Output, [256, 1]),
        (Kind::BlockFloat8, Scaling::Block { rows: 128, columns: 128 }, [2, 6]),
    ] {
        let out = scratch.path().join(kind.name());
        let report = quantize(&demo(), &out, options(kind), &NoProgress).unwrap();
        assert_eq!((report.tensors, report.quantized), (38, 28));
        let written = Checkpoint::open(&out).unwrap();
        let expected = golden[kind.name()].as_object().unwrap();
        assert_eq!(expected.len(), 56);
        for (name, hash) in expected {
            assert_eq!(sha256(written.tensor(name).unwrap().data), *hash, "{} {name}", kind.name());
        }
        let packing = Packing::read(&written).unwrap().unwrap();
        assert_eq!(packing.scheme(), &Scheme::Fp8 { scales });
        let end = if kind == Kind::Float8 { "_scale" } else { "_scale_inv" };
        let name = format!("model.layers.0.mlp.down_proj.weight{end}");
        assert_eq!(written.tensor(&name).unwrap().info.shape, shape);
        // Everything else is as it was.
        for name in ["model.embed_tokens.weight", "model.norm.weight"] {
            assert_eq!(written.tensor(name).unwrap().data, demo().tensor(name).unwrap().data);
        }
    }
    let block = json!({
        "activation_scheme": "dynamic", "fmt": "e4m3", "modules_to_not_convert": ["lm_head"], "quant_method": "fp8",
        "weight_block_size": [128, 128],
    });
    assert_eq!(config(&scratch.path().join("fp8-block")), block);
    let channel = config(&scratch.path().join("fp8"));
    assert_eq!((&channel["format"], &channel["ignore"]), (&json!("float-quantized"), &json!(["lm_head"])));
    assert_eq!(channel["config_groups"]["group_0"]["input_activations"]["strategy"], "token");
}

#[test]
fn integers_are_near_their_weights_and_have_the_form_that_was_asked_for() {
    let scratch = tempfile::tempdir().unwrap();
    for (bits, group_size, symmetric, most) in [
        (4, Some(128), true, 0.12),
        (4, Some(32), false, 0.10),
        (8, Some(64), true, 0.008),
        (8, None, false, 0.012),
    ] {
        let kind = Kind::Integers { bits, group_size, symmetric };
        let out = scratch.path().join(format!("{bits}-{group_size:?}-{symmetric}"));
        quantize(&demo(), &out, options(kind), &NoProgress).unwrap();
        let written = Checkpoint::open(&out).unwrap();
        let packing = Packing::read(&written).unwrap().unwrap();
        let expected = Scheme::CompressedTensors { bits, group_size, symmetric, act_order: false };
        assert_eq!(packing.scheme(), &expected);
        assert_eq!(packing.layers().len(), 28);
        let weights = &config(&out)["config_groups"]["group_0"]["weights"];
        assert_eq!((&weights["num_bits"], &weights["symmetric"]), (&json!(bits), &json!(symmetric)));
        assert_eq!(weights["group_size"], json!(group_size));
        for layer in packing.layers() {
            let mut found = vec![f32::NAN; layer.rows * layer.columns];
            layer.decode(&written, 0..layer.rows, &mut found);
            let wanted = values(&demo(), &layer.name);
            let error: f32 = found.iter().zip(&wanted).map(|(a, b)| (a - b).powi(2)).sum();
            let size: f32 = wanted.iter().map(|v| v * v).sum();
            assert!((error / size).sqrt() < most, "{kind:?} {}: {}", layer.name, (error / size).sqrt());
        }
    }
}

/// Rows that are not whole words, a router, a head, experts, and weights of zeros.
#[test]
fn small_models_of_other_shapes() {
    let scratch = tempfile::tempdir().unwrap();
    let zeros = |_: usize| 0.0;
    let source = model(
        &scratch.path().join("source"),
        &[
            ("model.embed_tokens.weight", [10, 64], &noise),
            ("model.layers.0.mlp.gate.weight", [3, 64], &noise),
            ("model.layers.0.mlp.experts.0.up_proj.weight", [35, 64], &noise),
            ("model.layers.0.mlp.experts.1.up_proj.weight", [35, 64], &zeros),
            ("model.layers.0.self_attn.q_proj.weight", [200, 192], &noise),
            ("lm_head.weight", [10, 64], &noise),
        ],
    );
    let integers = |symmetric| Kind::Integers { bits: 4, group_size: Some(32), symmetric };
    for kind in [Kind::Float8, Kind::BlockFloat8, integers(true), integers(false)] {
        let out = scratch.path().join(format!("{kind:?}"));
        let planned = plan(&source, &options(kind)).unwrap();
        let quantized = planned.rows.iter().filter(|r| r.quantized).map(|r| r.name.as_str());
        let expected = [
            "model.layers.0.mlp.experts.0.up_proj.weight",
            "model.layers.0.mlp.experts.1.up_proj.weight",
            "model.layers.0.self_attn.q_proj.weight",
        ];
        assert_eq!(quantized.collect::<Vec<_>>(), expected);
        let notes = planned.notes.join("; ");
        assert_eq!(notes.contains("not whole blocks of 128 x 128"), kind == Kind::BlockFloat8, "{notes}");
        assert_eq!(notes.contains("matrices of experts"), kind != Kind::BlockFloat8, "{notes}");
        quantize(&source, &out, options(kind), &NoProgress).unwrap();
        let config = config(&out);
        let plain = if kind == Kind::BlockFloat8 { "modules_to_not_convert" } else { "ignore" };
        assert_eq!(config[plain], json!(["model.layers.0.mlp.gate", "lm_head"]));
        let written = Checkpoint::open(&out).unwrap();
        let packing = Packing::read(&written).unwrap().unwrap();
        assert_eq!(packing.layers().len(), 3);
        for layer in packing.layers() {
            let mut found = vec![f32::NAN; layer.rows * layer.columns];
            layer.decode(&written, 0..layer.rows, &mut found);
            for (a, b) in found.iter().zip(values(&source, &layer.name)) {
                assert!((a - b).abs() <= 0.15 && (b != 0.0 || *a == 0.0), "{kind:?} {}: {a} {b}", layer.name);
            }
        }
        // Threads change nothing.
        let other = scratch.path().join("other");
        let one = Options { threads: 1, force: true, ..options(kind) };
        quantize(&source, &other, one, &NoProgress).unwrap();
        let file = "model.safetensors";
        assert!(fs::read(out.join(file)).unwrap() == fs::read(other.join(file)).unwrap(), "{kind:?}");
    }
}

#[test]
fn modules_are_skipped_and_named() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let skip = vec!["down_proj".to_owned(), r"model\.layers\.0".to_owned()];
    let report = quantize(&demo(), &out, Options { skip, ..options(W4A16) }, &NoProgress).unwrap();
    assert_eq!(report.quantized, 3 * 6);
    let ignore = config(&out)["ignore"].as_array().unwrap().clone();
    assert_eq!(ignore.len(), 7 + 3 + 1);
    assert!(ignore.contains(&json!("model.layers.3.mlp.down_proj")) && ignore.contains(&json!("lm_head")));
}

#[test]
fn what_cannot_be_quantized_is_refused_by_name() {
    #[track_caller]
    fn says(text: &str, parts: &[&str]) {
        parts.iter().for_each(|p| assert!(text.contains(p), "{p:?} is not in: {text}"));
    }
    let scratch = tempfile::tempdir().unwrap();
    let with = |columns: usize, value: &dyn Fn(usize) -> f32| {
        model(scratch.path(), &[("model.layers.0.up_proj.weight", [32, columns], value)])
    };
    let text = refusal(&with(96, &noise), options(W4A16));
    says(&text, &["model.layers.0.up_proj.weight", "96 input columns", "group size of 32", "skip the layer"]);
    let three = Kind::Integers { bits: 3, group_size: Some(32), symmetric: true };
    says(&refusal(&with(96, &noise), options(three)), &["3 bits", "choose 4 or 8"]);
    for kind in [Kind::Float8, W4A16] {
        let nan = |i: usize| if i == 128 * 7 + 5 { f32::NAN } else { noise(i) };
        let text = refusal(&with(128, &nan), options(kind));
        says(&text, &["up_proj.weight", "row 7, column 5", "NaN"]);
    }
    let large = |i: usize| if i == 130 { 1e30 } else { noise(i) };
    says(&refusal(&with(128, &large), options(W4A16)), &["row 1, column 2", "too large for an f16 scale"]);
    let outputs = tempfile::tempdir().unwrap();
    let out = outputs.path().join("fp8");
    quantize(&with(128, &large), &out, options(Kind::Float8), &NoProgress).unwrap();
    let all = Options { skip: vec!["up_proj".into()], ..options(W4A16) };
    says(&refusal(&with(128, &noise), all), &["all its linear layers are skipped"]);
    let packed = Checkpoint::open(&fixture("packed/gptq-4bit-g128")).unwrap();
    says(&refusal(&packed, options(Kind::Float8)), &["gptq"]);
    let gguf = Checkpoint::open(&fixture("bookworm-4m-Q4_K_M.gguf")).unwrap();
    says(&refusal(&gguf, options(Kind::Float8)), &["fp8 works on Hugging Face checkpoints"]);
    // What is there stays.
    let error = quantize(&demo(), &out, options(Kind::Float8), &NoProgress).unwrap_err().to_string();
    says(&error, &["fp8", "exist"]);
}
