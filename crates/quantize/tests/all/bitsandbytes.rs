//! bitsandbytes checkpoints equal what transformers with bitsandbytes wrote, byte for byte
//! (`tools/make_bitsandbytes_golden.py`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::{demo, fixture, names, sha256};
use half::{bf16, f16};
use quern_quantize::bitsandbytes::{Kind, Options, plan, quantize};
use quern_tensor_io::{Checkpoint, ElementType, Metadata, NoProgress, Progress, TensorPlan, safetensors};
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let text = fs::read_to_string(fixture("bitsandbytes").join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn options(kind: Kind, double_quant: bool) -> Options {
    Options { double_quant, threads: 2, ..Options::new(kind) }
}

/// A model of these tensors beside a `config.json`.
fn model(folder: &Path, config: &Value, tensors: &[(&str, ElementType, &[usize], &[f32])]) -> Checkpoint {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let plan = |&(name, element_type, shape, _): &(&str, ElementType, &[usize], &[f32])| TensorPlan {
        name: name.into(),
        element_type,
        shape: shape.into(),
    };
    let plans: Vec<TensorPlan> = tensors.iter().map(plan).collect();
    let path = folder.join("model.safetensors");
    let mut writer = safetensors::Writer::create(&path, &Metadata::new(), &plans, true).unwrap();
    for &(_, element_type, _, values) in tensors {
        let bytes: Vec<u8> = match element_type {
            ElementType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            ElementType::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
            ElementType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            _ => values.iter().map(|v| *v as u8).collect(),
        };
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    Checkpoint::open(folder).unwrap()
}

fn refusal(source: &Checkpoint, options: Options) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let error = quantize(source, &scratch.path().join("out"), options, &NoProgress).unwrap_err();
    assert!(names(scratch.path()).is_empty());
    match &error.remedy {
        None => error.to_string(),
        Some(remedy) => format!("{error}; {remedy:?}"),
    }
}

/// Dtype, shape and the beginning of the hash of every tensor.
fn hashes(folder: &Path) -> BTreeMap<String, Value> {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let hash = |t: &quern_tensor_io::TensorInfo| {
        let hash = json!([t.element_type.name().to_uppercase(), t.shape, sha256(checkpoint.data(t))[..32]]);
        (t.name.clone(), hash)
    };
    checkpoint.tensors().iter().map(hash).collect()
}

#[test]
fn checkpoints_of_the_demo_model_are_those_of_transformers() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, kind, double_quant) in [
        ("nf4-double", Kind::Nf4, true),
        ("nf4", Kind::Nf4, false),
        ("fp4-double", Kind::Fp4, true),
        ("fp4", Kind::Fp4, false),
        ("int8", Kind::Int8, true),
    ] {
        let expected = golden(&format!("{name}.json"));
        let out = scratch.path().join(name);
        let report = quantize(&demo(), &out, options(kind, double_quant), &NoProgress).unwrap();
        let checkpoint = Checkpoint::open(&out).unwrap();
        for (tensor, text) in expected["states"].as_object().unwrap() {
            let found = checkpoint.tensor(tensor).unwrap().data;
            assert_eq!(std::str::from_utf8(found).unwrap(), text.as_str().unwrap(), "{name}: {tensor}");
        }
        let found = hashes(&out);
        let tensors = expected["tensors"].as_object().unwrap();
        for (tensor, expected) in tensors {
            assert_eq!(found.get(tensor), Some(expected), "{name}: {tensor}");
        }
        assert_eq!(found.len(), tensors.len(), "{name}");
        assert_eq!((report.tensors, report.quantized), (38, 28));
        assert_eq!(report.file_size, checkpoint.file_size());

        let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
        // as text: transformers sorts the keys
        assert_eq!(config["quantization_config"].to_string(), expected["quantization_config"].to_string());
    }
}

/// The values of the golden file's maker.
fn made_up(count: usize, zeros: usize) -> Vec<f32> {
    let one = |i: usize| {
        let x = ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
        if i < zeros { 0.0 } else { x * x * x * 0.125 }
    };
    (0..count).map(one).collect()
}

#[test]
fn every_type_and_block_size_gives_the_bytes_of_bitsandbytes() {
    let scratch = tempfile::tempdir().unwrap();
    for (i, case) in golden("parts.json")["cases"].as_array().unwrap().iter().enumerate() {
        let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).unwrap();
        let values = made_up(shape.iter().product(), case["zeros"].as_u64().unwrap() as usize);
        let element_type = match case["dtype"].as_str().unwrap() {
            "float16" => ElementType::F16,
            "bfloat16" => ElementType::BF16,
            _ => ElementType::F32,
        };
        let source = model(
            &scratch.path().join(format!("source-{i}")),
            &json!({"model_type": "made up"}),
            &[("a.weight", element_type, &shape, &values)],
        );
        let kind = Kind::from_name(case["scheme"].as_str().unwrap()).unwrap();
        let mut options = options(kind, case["double_quant"].as_bool().unwrap());
        if kind != Kind::Int8 {
            options.block_size = case["block_size"].as_u64().unwrap() as usize;
        }
        let mut seen = Vec::new();
        for threads in [1, 2, 5] {
            let out = scratch.path().join(format!("out-{i}-{threads}"));
            quantize(&source, &out, Options { threads, ..options.clone() }, &NoProgress).unwrap();
            seen.push(fs::read(out.join("model.safetensors")).unwrap());
            let found = Checkpoint::open(&out).unwrap();
            for (part, expected) in case["parts"].as_object().unwrap() {
                let data = found.tensor(&format!("a.{part}")).unwrap_or_else(|| panic!("{part}")).data;
                assert_eq!(&sha256(data)[..32], expected, "{part} of {case}");
            }
            match case["state"].as_str() {
                Some(text) => {
                    let state = format!("a.weight.quant_state.bitsandbytes__{}", kind.name());
                    assert_eq!(found.tensor(&state).unwrap().data, text.as_bytes(), "{case}");
                }
                None => assert_eq!(found.tensor("a.weight_format").unwrap().data, [0]),
            }
        }
        assert!(seen.iter().all(|file| *file == seen[0]), "threads show: {case}");
    }
}

/// Names of the tensors a plan quantizes.
fn chosen(source: &Checkpoint, skip: &[&str]) -> Vec<String> {
    let skip = skip.iter().map(|s| s.to_string()).collect();
    let plan = plan(source, &Options { skip, ..Options::new(Kind::Nf4) }).unwrap();
    plan.rows.into_iter().filter(|r| r.to.is_some()).map(|r| r.name).collect()
}

#[test]
fn linear_layers_are_told_by_name_where_the_architecture_is_unknown() {
    let scratch = tempfile::tempdir().unwrap();
    let linear = [
        "model.decoder.project_in.weight",
        "model.decoder.layers.0.fc1.weight",
        "model.decoder.layers.0.self_attn.out_proj.weight",
        "transformer.h.0.self_attention.query_key_value.weight",
        "encoder.embedding_hidden_mapping_in.weight",
        "model.layers.0.mlp.shared_expert_gate.weight",
    ];
    let others = [
        "model.decoder.embed_tokens.weight",
        "model.decoder.embed_positions.weight",
        "transformer.word_embeddings.weight",
        "wte.weight",
        "gpt_neox.embed_in.weight",
        "embed_out.weight",
        "lm_head.weight",
        "score.weight",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.mlp.gate.weight",
        "model.layers.0.mlp.experts.0.up_proj.weight",
    ];
    let values = [0.5; 12];
    let mut tensors: Vec<(&str, ElementType, &[usize], &[f32])> = Vec::new();
    for name in linear.iter().chain(&others) {
        tensors.push((name, ElementType::F16, &[3, 4], &values));
    }
    tensors.push(("model.decoder.layers.0.fc1.bias", ElementType::F16, &[12], &values));
    tensors.push(("conv.weight", ElementType::F16, &[3, 2, 2], &values));
    tensors.push(("model.decoder.layers.1.norm_f.weight", ElementType::F16, &[12], &values));
    let source = model(scratch.path(), &json!({"model_type": "made up"}), &tensors);
    assert_eq!(chosen(&source, &[]), linear);

    // as transformers matches them: a beginning up to a dot, a regular expression, an end
    assert_eq!(chosen(&source, &["model.decoder"]), linear[3..]);
    assert_eq!(chosen(&source, &["model.decoder.layers.0.fc"]), linear);
    assert_eq!(chosen(&source, &["model.*.fc1"]), [&linear[..1], &linear[2..]].concat());
    assert_eq!(chosen(&source, &["proj", "value"]), [&linear[..2], &linear[4..]].concat());
}

#[test]
fn skipped_modules_are_listed_with_the_head() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let skip = vec!["down_proj".to_owned(), "lm_head".to_owned()];
    let report = quantize(&demo(), &out, Options { skip, ..options(Kind::Nf4, true) }, &NoProgress).unwrap();
    assert_eq!(report.quantized, 24);
    let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["quantization_config"]["llm_int8_skip_modules"], json!(["lm_head", "down_proj"]));
    let (before, after) = (demo(), Checkpoint::open(&out).unwrap());
    let name = "model.layers.2.mlp.down_proj.weight";
    assert_eq!(after.tensor(name).unwrap().data, before.tensor(name).unwrap().data);
}

#[test]
fn a_plan_says_what_the_job_will_write() {
    let source = demo();
    for kind in [Kind::Nf4, Kind::Fp4, Kind::Int8] {
        let plan = plan(&source, &options(kind, false)).unwrap();
        assert_eq!(plan.rows.len(), source.tensors().len());
        let row = plan.rows.iter().find(|r| r.name == "model.layers.0.mlp.up_proj.weight").unwrap();
        assert_eq!((row.from, row.to, &row.shape[..]), (ElementType::F16, Some(kind), &[768, 256][..]));
        assert_eq!(row.source_bytes, 768 * 256 * 2);
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("out");
        quantize(&source, &out, options(kind, false), &NoProgress).unwrap();
        let written: usize = Checkpoint::open(&out).unwrap().tensors().iter().map(|t| t.bytes).sum();
        assert_eq!(plan.bytes(), written as u64);
    }
}

#[test]
fn shards_hold_whole_layers() {
    let scratch = tempfile::tempdir().unwrap();
    let (one, many) = (scratch.path().join("one"), scratch.path().join("many"));
    quantize(&demo(), &one, options(Kind::Nf4, true), &NoProgress).unwrap();
    let small = Options { shard_bytes: 300_000, ..options(Kind::Nf4, true) };
    let report = quantize(&demo(), &many, small, &NoProgress).unwrap();
    let checkpoint = Checkpoint::open(&many).unwrap();
    assert!(checkpoint.files().len() > 4);
    assert_eq!(report.file_size, checkpoint.file_size());
    assert_eq!(hashes(&many), hashes(&one));
    for tensor in checkpoint.tensors() {
        if let Some((weight, _)) = tensor.name.split_once(".weight.") {
            let weight = checkpoint.tensor(&format!("{weight}.weight")).unwrap();
            assert_eq!(weight.info.file, tensor.file, "{}", tensor.name);
        }
    }
    let index = fs::read(many.join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let bytes: usize = checkpoint.tensors().iter().map(|t| t.bytes).sum();
    assert_eq!(index["metadata"]["total_size"], bytes);
}

#[test]
fn what_cannot_be_quantized_is_refused_with_a_way_out() {
    let scratch = tempfile::tempdir().unwrap();
    let values = [0.5; 12];
    let a: (&str, ElementType, &[usize], &[f32]) = ("a.weight", ElementType::F16, &[3, 4], &values);
    let plain = json!({"model_type": "made up"});
    let nf4 = || Options::new(Kind::Nf4);
    let says = |error: String, what: &[&str]| {
        what.iter().for_each(|part| assert!(error.contains(part), "{part:?} is not in: {error}"));
    };

    let gguf = Checkpoint::open(&fixture("bookworm-4m-Q4_K_M.gguf")).unwrap();
    says(refusal(&gguf, nf4()), &["Q4_K_M.gguf", "a GGUF file", "; ConvertToSafetensors"]);
    let again = scratch.path().join("again");
    quantize(&demo(), &again, options(Kind::Int8, true), &NoProgress).unwrap();
    let again = Checkpoint::open(&again).unwrap();
    says(refusal(&again, nf4()), &["already quantized with bitsandbytes", "; AllowRequantize"]);
    let folder = |name: &str| scratch.path().join(name);
    let gptq = model(&folder("gptq"), &plain, &[a, ("b.qweight", ElementType::U8, &[12], &values)]);
    says(refusal(&gptq, nf4()), &["already quantized", "\"b.qweight\""]);
    let gpt2 = model(&folder("gpt2"), &json!({"model_type": "gpt2"}), &[a]);
    says(refusal(&gpt2, nf4()), &["gpt2", "Conv1D", "choose a GGUF type"]);
    let bytes = model(&folder("u8"), &plain, &[("a.weight", ElementType::U8, &[3, 4], &values)]);
    says(refusal(&bytes, nf4()), &["tensor \"a.weight\"", "are u8", "f32, f16 and bf16 only"]);
    let head = model(&folder("head"), &plain, &[("lm_head.weight", ElementType::F16, &[3, 4], &values)]);
    says(refusal(&head, nf4()), &["nothing to quantize"]);

    let source = model(&folder("a"), &plain, &[a]);
    says(
        refusal(&source, Options { skip: vec!["a".into()], ..nf4() }),
        &["all its linear layers are skipped"],
    );
    for key in ["", "("] {
        says(refusal(&source, Options { skip: vec![key.into()], ..nf4() }), &["names no modules to skip"]);
    }
    for block_size in [0, 16, 48, 8192] {
        says(refusal(&source, Options { block_size, ..nf4() }), &["no blocks of", "choose 32, 64"]);
        assert!(plan(&source, &Options { block_size, ..Options::new(Kind::Int8) }).is_ok());
    }
    fs::remove_file(folder("a").join("config.json")).unwrap();
    says(refusal(&source, nf4()), &["there is no config.json"]);
}

#[test]
fn values_that_are_not_finite_are_named() {
    let scratch = tempfile::tempdir().unwrap();
    // large enough that many threads have a piece each
    let shape = [700, 300];
    let mut values = made_up(700 * 300, 0);
    let mut error = |at: usize, value: f32, kind: Kind, threads: usize| {
        let before = std::mem::replace(&mut values[at], value);
        let folder = scratch.path().join("source");
        let config = json!({"model_type": "made up"});
        let source = model(&folder, &config, &[("a.weight", ElementType::F32, &shape, &values)]);
        values[at] = before;
        refusal(&source, Options { threads, ..Options::new(kind) })
    };
    for kind in [Kind::Nf4, Kind::Int8] {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let text = error(699 * 300 + 7, value, kind, 3);
            let place = format!("tensor \"a.weight\": row 699, column 7: the value is {value}");
            assert!(text.contains("model.safetensors") && text.contains(&place), "{text}");
        }
    }
    let text = error(5 * 300 + 1, -70_000.0, Kind::Int8, 2);
    assert!(text.contains("row 5, column 1: the value is -70000: int8 goes through f16"), "{text}");
}

#[test]
fn progress_adds_up() {
    #[derive(Default)]
    struct Sum(AtomicU64, AtomicU64, AtomicU64);
    impl Progress for Sum {
        fn total(&self, units: u64) {
            self.0.store(units, Ordering::Relaxed);
        }
        fn advance(&self, units: u64) {
            self.1.fetch_add(units, Ordering::Relaxed);
        }
        fn step(&self, _: &str) {
            self.2.fetch_add(1, Ordering::Relaxed);
        }
    }
    let scratch = tempfile::tempdir().unwrap();
    let progress = Sum::default();
    let report = quantize(&demo(), &scratch.path().join("out"), options(Kind::Nf4, true), &progress).unwrap();
    assert_eq!(progress.0.into_inner(), report.source_bytes);
    assert_eq!(progress.1.into_inner(), report.source_bytes);
    assert_eq!(progress.2.into_inner(), report.tensors as u64);
}
