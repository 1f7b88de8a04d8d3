//! `quern diff`: the same model in other containers, errors that are computed independently, what counts, exit codes.

use std::fs;
use std::path::Path;
use std::process::Output;

use quern_tensor_io::{Checkpoint, decode};
use serde_json::Value;

use crate::common::{Tensors, edit, fixture, model_copy, quern, stderr, stdout, tiny_copy};
use crate::inspect::packed;

/// Runs `quern diff A B` with more arguments.
fn diff(a: &Path, b: &Path, more: &[&str]) -> Output {
    quern([&["diff", a.to_str().unwrap(), b.to_str().unwrap()], more].concat())
}

/// The report, of a comparison that must end with this exit code.
fn report(a: &Path, b: &Path, more: &[&str], code: i32) -> Value {
    let output = diff(a, b, &[more, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(code), "{}\n{}", stderr(&output), text(&output));
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["same"], code == 0);
    value
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn convert(model: &Path, to: &str, out: &Path, more: &[&str]) {
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    stdout(&quern([&["convert", model, "--to", to, "-o", out], more].concat()));
}

fn tensor<'v>(report: &'v Value, name: &str) -> &'v Value {
    let found = report["tensors"].as_array().unwrap().iter().find(|t| t["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is not in the report"))
}

fn close(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1e-9), "{found} is not {expected}");
}

/// Entries of a section as key and whether they count.
fn keys(report: &Value, section: &str) -> Vec<(String, bool)> {
    let entries = report.pointer(section).unwrap().as_array().unwrap().iter();
    entries.map(|e| (e["key"].as_str().unwrap().to_owned(), e["counts"].as_bool().unwrap())).collect()
}

#[test]
fn a_conversion_to_gguf_is_the_same_model_for_every_layout() {
    let dir = tempfile::tempdir().unwrap();
    // Rows in another order, transposed, fused, stacked experts, norms plus one, head norms, rope factors.
    for name in [
        "llama",
        "gpt2",
        "gpt_neox",
        "mixtral",
        "qwen3_moe",
        "phi3",
        "phi3-longrope",
        "falcon",
        "gemma2",
        "gemma3",
        "llama3",
        "llama-yarn",
        "stablelm-parallel",
        "mistral",
        "starcoder2",
    ] {
        let model = fixture("architectures").join(name);
        let gguf = dir.path().join(format!("{name}.gguf"));
        convert(&model, "gguf", &gguf, &["--no-verify"]);
        let found = report(&model, &gguf, &[], 0);
        assert_eq!(found["naming"], "gguf", "{name}");
        let totals = &found["totals"];
        let count = |key: &str| totals[key].as_u64().unwrap();
        assert_eq!(count("same_bytes") + count("equal_values"), count("tensors"), "{name}");
        assert_eq!(count("tensors") as usize, Checkpoint::open(&gguf).unwrap().tensors().len(), "{name}");
        assert_eq!((totals["rmse"].as_f64(), totals["cosine"].as_f64()), (Some(0.0), Some(1.0)), "{name}");
        report(&gguf, &model, &[], 0);
    }
    // And the way back, in Hugging Face's names.
    let back = dir.path().join("back");
    convert(&dir.path().join("mixtral.gguf"), "safetensors", &back, &["--no-verify"]);
    let found = report(&fixture("architectures/mixtral"), &back, &[], 0);
    assert_eq!(found["naming"], "hugging_face");
}

/// Values of a tensor, decoded here.
fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = checkpoint.tensor(name).unwrap();
    let mut values = vec![0.0; tensor.info.elements()];
    assert!(decode::to_f32(tensor.info.element_type, tensor.data, &mut values));
    values
}

#[test]
fn errors_of_a_quantized_model_are_those_of_an_independent_computation() {
    let (model, gguf) = (fixture("bookworm-4m"), fixture("bookworm-4m-Q4_K_M.gguf"));
    let found = report(&model, &gguf, &[], 1);
    let (a, b) = (Checkpoint::open(&model).unwrap(), Checkpoint::open(&gguf).unwrap());
    let check = |name: &str, a: &[f32], b: &[f32], columns: usize| {
        let entry = tensor(&found, name);
        let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        let sum = |of: fn(f64, f64) -> f64| pairs().map(|(a, b)| of(a, b)).sum::<f64>();
        let errors = sum(|a, b| (a - b) * (a - b));
        let (of_a, of_b) = (sum(|a, _| a * a), sum(|_, b| b * b));
        close(&entry["rmse"], (errors / a.len() as f64).sqrt());
        close(&entry["relative_rmse"], (errors / of_a).sqrt());
        close(&entry["cosine"], sum(|a, b| a * b) / (of_a * of_b).sqrt());
        let error = |(a, b): (f64, f64)| (a - b).abs();
        let largest = pairs().map(error).fold(0.0, f64::max);
        close(&entry["max_error"], largest);
        let at = pairs().position(|pair| error(pair) == largest).unwrap();
        assert_eq!(entry["max_error_at"], serde_json::json!([at / columns, at % columns]));
        assert_eq!((&entry["status"], &entry["a"]["type"]), (&"different".into(), &"f16".into()));
        (errors, of_a)
    };
    let down = "blk.2.ffn_down.weight";
    check(down, &values(&a, "model.layers.2.mlp.down_proj.weight"), &values(&b, down), 768);
    assert_eq!(tensor(&found, down)["role"], "ffn_down");
    assert_eq!(tensor(&found, down)["layer"], 2);
    close(&tensor(&found, "blk.2.ffn_up.weight")["b"]["bits"], 4.5);
    // GGUF has rows i and i + 32 of a head of 64 side by side.
    let half_split = values(&a, "model.layers.1.self_attn.q_proj.weight");
    let order = (0..256).map(|row| row / 64 * 64 + row % 64 / 2 + row % 2 * 32);
    let interleaved: Vec<f32> = order.flat_map(|row| half_split[row * 256..][..256].to_vec()).collect();
    check("blk.1.attn_q.weight", &interleaved, &values(&b, "blk.1.attn_q.weight"), 256);

    // The total is over all values.
    let (mut errors, mut of_a, mut count) = (0.0, 0.0, 0.0);
    for entry in found["tensors"].as_array().unwrap() {
        let (n, rmse) = (entry["values"].as_f64().unwrap(), entry["rmse"].as_f64().unwrap());
        errors += rmse * rmse * n;
        count += n;
        of_a += match entry["relative_rmse"].as_f64().unwrap() {
            0.0 => {
                let name = entry["a"]["tensors"][0].as_str().unwrap();
                values(&a, name).iter().map(|v| f64::from(*v).powi(2)).sum::<f64>()
            }
            relative => rmse * rmse * n / (relative * relative),
        };
    }
    close(&found["totals"]["rmse"], (errors / count).sqrt());
    close(&found["totals"]["relative_rmse"], (errors / of_a).sqrt());
    assert_eq!((&found["totals"]["different"], &found["totals"]["equal_values"]), (&29.into(), &9.into()));

    // Results do not depend on the number of threads.
    assert_eq!(found, report(&model, &gguf, &["--threads", "1"], 1));
    assert_eq!(found, report(&model, &gguf, &["--threads", "5"], 1));

    let listing = diff(&model, &gguf, &[]);
    let shown = text(&listing);
    assert!(shown.contains("38 in both, 9 with equal values in another form, 29 different"), "{shown}");
    assert!(shown.contains("9 more tensors differ; --tensors lists all"), "{shown}");
    assert!(shown.ends_with("different: tensors\n"), "{shown}");
    assert_eq!(shown.lines().filter(|l| l.contains("q4_K") || l.contains("q6_K")).count(), 20);
    let shown = text(&diff(&model, &gguf, &["--tensors"]));
    assert_eq!(shown.lines().filter(|l| l.contains("equal values") && l.contains("norm")).count(), 9);
}

/// A copy of the demo model with one value of a tensor replaced.
fn with_value(name: &str, at: usize, bits: u16) -> tempfile::TempDir {
    let dir = model_copy();
    let mut tensors = Tensors::read(dir.path());
    let tensor = tensors.0.iter_mut().find(|t| t.0 == name).unwrap();
    assert_eq!(tensor.1, "F16");
    tensor.3[2 * at..2 * at + 2].copy_from_slice(&bits.to_le_bytes());
    tensors.write(dir.path());
    dir
}

#[test]
fn one_value_is_found_and_values_that_are_not_finite_are_counted() {
    const NAME: &str = "model.layers.2.mlp.up_proj.weight";
    const ONE: u16 = 0x3c00;
    const NAN: u16 = 0x7e00;
    let model = fixture("bookworm-4m");
    let changed = with_value(NAME, 3 * 256 + 5, ONE);
    let found = report(&model, changed.path(), &[], 1);
    assert_eq!(found["naming"], "hugging_face");
    let entry = tensor(&found, NAME);
    assert_eq!((&entry["different"], &entry["max_error_b"]), (&1.into(), &1.0.into()));
    assert_eq!(entry["max_error_at"], serde_json::json!([3, 5]));
    assert_eq!((&found["totals"]["same_bytes"], &found["totals"]["different"]), (&37.into(), &1.into()));
    assert_eq!(found["totals"]["different_values"], 1);
    // Other tensors alone, or a tolerance.
    report(&model, changed.path(), &["--only", "norm|down_proj"], 0);
    let found = report(&model, changed.path(), &["--tolerance", "0.5"], 0);
    assert_eq!(
        (&tensor(&found, NAME)["status"], &found["totals"]["within_tolerance"]),
        (&"within_tolerance".into(), &1.into())
    );

    let nan = with_value(NAME, 7, NAN);
    let found = report(&model, nan.path(), &["--tolerance", "0.5"], 1);
    let entry = tensor(&found, NAME);
    assert_eq!(entry["not_finite"], serde_json::json!({ "a": 0, "b": 1, "different": 1, "first": [0, 7] }));
    assert_eq!((&entry["rmse"], &found["totals"]["not_finite_b"]), (&0.0.into(), &1.into()));
    let both = report(nan.path(), nan.path(), &[], 0);
    assert_eq!(tensor(&both, NAME)["not_finite"]["different"], 0);
    assert!(text(&diff(&model, nan.path(), &[])).contains("0 values in A, 1 in B"));
}

#[test]
fn tensors_of_one_side_count_unless_they_have_no_effect() {
    let model = fixture("bookworm-4m");
    let extra = model_copy();
    let mut tensors = Tensors::read(extra.path());
    tensors.add("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[32], vec![0; 128]);
    tensors.write(extra.path());
    let found = report(&model, extra.path(), &[], 0);
    assert_eq!(found["only_b"][0]["reason"], "position buffers");
    assert!(text(&diff(&model, extra.path(), &[])).contains("without effect: 1 position buffers"));

    let missing = model_copy();
    let mut tensors = Tensors::read(missing.path());
    tensors.0.retain(|t| t.0 != "model.layers.1.mlp.up_proj.weight");
    tensors.write(missing.path());
    let found = report(&model, missing.path(), &[], 1);
    let only: Vec<_> = found["only_a"].as_array().unwrap().iter().map(|t| t["name"].clone()).collect();
    assert_eq!(only, ["model.layers.1.mlp.up_proj.weight"]);
    assert_eq!(found["only_a"][0]["reason"], Value::Null);
    // Against a GGUF file too.
    let found = report(missing.path(), &fixture("bookworm-4m-Q4_K_M.gguf"), &[], 1);
    assert_eq!(found["only_b"][0]["name"], "blk.1.ffn_up.weight");
    assert_eq!(found["totals"]["tensors"], 37);

    // A head of its own is compared with the embedding that the other uses in its place.
    let untied = model_copy();
    edit(
        untied.path(),
        "config.json",
        &[("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false")],
    );
    let mut tensors = Tensors::read(untied.path());
    let embedding = tensors.0.iter().find(|t| t.0 == "model.embed_tokens.weight").unwrap().3.clone();
    tensors.add("lm_head.weight", "F16", &[4096, 256], embedding.clone());
    tensors.write(untied.path());
    let found = report(&model, untied.path(), &[], 0);
    let head = tensor(&found, "lm_head.weight");
    assert_eq!((&head["tied"], &head["status"]), (&"A".into(), &"same_bytes".into()));
    assert_eq!(head["a"]["tensors"][0], "model.embed_tokens.weight");
    tensors.0.last_mut().unwrap().3[1] ^= 0x80;
    tensors.write(untied.path());
    let found = report(untied.path(), &fixture("bookworm-4m-Q4_K_M.gguf"), &["--only", "^output.weight"], 1);
    assert_eq!(tensor(&found, "output.weight")["tied"], "B");

    let shorter = model_copy();
    let mut tensors = Tensors::read(shorter.path());
    let norm = tensors.0.iter_mut().find(|t| t.0 == "model.norm.weight").unwrap();
    (norm.2, norm.3) = (vec![255], norm.3[..510].to_vec());
    tensors.write(shorter.path());
    let found = report(&model, shorter.path(), &[], 1);
    let norm = tensor(&found, "model.norm.weight");
    assert_eq!((&norm["status"], &norm["b"]["shape"]), (&"shape".into(), &serde_json::json!([255])));
}

#[test]
fn metadata_counts_unless_it_says_how_a_file_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let model = fixture("bookworm-4m-Q4_K_M.gguf");
    let edited = |name: &str, sets: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        convert(&model, "gguf", &path(name), &[&["--no-verify", "--no-provenance"], &sets[..]].concat());
        path(name)
    };
    let made =
        edited("a.gguf", &["quern.provenance:str=x", "quantize.imatrix.file:str=i", "general.file_type=7"]);
    let found = report(&model, &made, &[], 0);
    let expected = ["general.file_type", "quantize.imatrix.file", "quern.provenance"];
    assert_eq!(keys(&found, "/metadata"), expected.map(|key| (key.to_owned(), false)));
    assert!(text(&diff(&model, &made, &[])).contains("same; 3 of the settings above differ"));

    let named = edited("b.gguf", &["general.name=Other"]);
    assert_eq!(keys(&report(&model, &named, &[], 1), "/metadata"), [("general.name".to_owned(), true)]);
    let base = edited("c.gguf", &["llama.rope.freq_base=20000"]);
    let found = report(&model, &base, &[], 1);
    assert_eq!(keys(&found, "/configuration"), [("rope base".to_owned(), true)]);
    assert_eq!(keys(&found, "/metadata"), [("llama.rope.freq_base".to_owned(), true)]);
    // A configuration is compared across containers.
    let found = report(&fixture("bookworm-4m"), &base, &["--tolerance", "1"], 1);
    assert_eq!(keys(&found, "/configuration"), [("rope base".to_owned(), true)]);
    let bos = edited("d.gguf", &["tokenizer.ggml.add_bos_token:bool=false"]);
    let found = report(&model, &bos, &[], 1);
    assert!(keys(&found, "/tokenizer/settings").contains(&("adds bos".to_owned(), true)));
}

#[test]
fn configurations_and_tokenizers_of_directories() {
    let model = fixture("bookworm-4m");
    let changed = model_copy();
    edit(
        changed.path(),
        "config.json",
        &[("\"transformers_version\": \"5.17.0\"", "\"transformers_version\": \"4.0.0\"")],
    );
    let found = report(&model, changed.path(), &[], 0);
    assert_eq!(keys(&found, "/config_json"), [("transformers_version".to_owned(), false)]);
    edit(changed.path(), "config.json", &[("1e-05", "1e-06")]);
    assert_eq!(
        keys(&report(&model, changed.path(), &[], 1), "/configuration"),
        [("norm epsilon".to_owned(), true)]
    );

    let settings = model_copy();
    fs::write(
        settings.path().join("generation_config.json"),
        r#"{ "temperature": 0.7, "transformers_version": "5" }"#,
    )
    .unwrap();
    let found = report(&model, settings.path(), &[], 1);
    let expected = [("temperature".to_owned(), true), ("transformers_version".to_owned(), false)];
    assert_eq!(keys(&found, "/generation"), expected);

    // Two tokens that change places.
    let tokens = tiny_copy("qwen2");
    let original = fixture("architectures/qwen2");
    report(&original, tokens.path(), &[], 0);
    let file = tokens.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
    let with_id = |vocabulary: &serde_json::Map<String, Value>, id: u64| {
        vocabulary.iter().find(|(_, v)| v.as_u64() == Some(id)).map(|(k, _)| k.clone()).unwrap()
    };
    let (first, second) = (with_id(vocabulary, 270), with_id(vocabulary, 290));
    vocabulary.insert(first.clone(), 290.into());
    vocabulary.insert(second, 270.into());
    json["model"]["merges"].as_array_mut().unwrap().swap(3, 8);
    fs::write(&file, json.to_string()).unwrap();
    let found = report(&original, tokens.path(), &[], 1);
    let ids: Vec<_> =
        found["tokenizer"]["tokens"]["first"].as_array().unwrap().iter().map(|i| i["id"].clone()).collect();
    assert_eq!(ids, [270, 290]);
    assert_eq!(found["tokenizer"]["tokens"]["first"][1]["b"], format!("{first:?}"));
    assert_eq!(found["tokenizer"]["merges"]["different"], 2);
    assert_eq!(found["tokenizer"]["merges"]["first"][0]["id"], 3);
    let shown = text(&diff(&original, tokens.path(), &[]));
    assert!(shown.contains("2 places differ") && shown.ends_with("different: tokenizer\n"), "{shown}");

    let template = model_copy();
    fs::write(template.path().join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    let found = report(&model, template.path(), &[], 1);
    assert_eq!(keys(&found, "/tokenizer/settings"), [("chat template".to_owned(), true)]);
}

#[test]
fn packed_layers_are_compared_by_their_values() {
    let dir = tempfile::tempdir().unwrap();
    for (name, to) in [
        ("gptq-4bit-g128", "gguf"),
        ("gptq-3bit-g64", "gguf"),
        ("awq-4bit-g64", "gguf"),
        ("awq-4bit-g64", "gptq_v2"),
    ] {
        let model = packed(name, |_| true);
        let out = dir.path().join(format!("{name}-{to}"));
        convert(model.path(), to, &out, &["--no-verify"]);
        let found = report(model.path(), &out, &[], 0);
        let totals = &found["totals"];
        assert!(totals["equal_values"].as_u64() >= Some(7), "{name} to {to}: {totals}");
    }
    for name in ["bnb-nf4", "bnb-int8", "gptq-4bit-g32-desc-act-v2"] {
        let model = packed(name, |_| true);
        let out = dir.path().join(name);
        convert(model.path(), "safetensors", &out, &["--dtype", "f32", "--no-verify"]);
        report(model.path(), &out, &[], 0);
        assert_eq!(report(model.path(), model.path(), &[], 0)["totals"]["same_bytes"], 11, "{name}");
    }
    let model = packed("gptq-4bit-g128", |_| true);
    let found = report(&fixture("bookworm-4m"), model.path(), &[], 1);
    let up = tensor(&found, "model.layers.0.mlp.up_proj.weight");
    assert_eq!((&up["a"]["type"], &up["b"]["type"]), (&"f16".into(), &"gptq 4-bit".into()));
    let bits = up["b"]["bits"].as_f64().unwrap();
    assert!((4.1..4.4).contains(&bits) && up["cosine"].as_f64().unwrap() > 0.9, "{up}");
}

#[test]
fn columns_that_a_converter_sorted_are_compared_in_that_order() {
    let dir = model_copy();
    let packed = fixture("packed/gptq-4bit-g32-desc-act-v2");
    let mut tensors = Tensors::read(&fixture("bookworm-4m"));
    let beyond = |name: &str| (1..4).any(|layer| name.contains(&format!(".layers.{layer}.")));
    tensors.0.retain(|t| !beyond(&t.0) && !t.0.contains("down_proj"));
    tensors.0.extend(Tensors::read(&packed).0.into_iter().filter(|t| t.0.contains("down_proj")));
    tensors.write(dir.path());
    for file in ["config.json", "quantize_config.json"] {
        fs::write(dir.path().join(file), fs::read(packed.join(file)).unwrap()).unwrap();
    }
    let scratch = tempfile::tempdir().unwrap();
    let (exact, decoded) = (scratch.path().join("exact.gguf"), scratch.path().join("decoded.gguf"));
    convert(dir.path(), "gguf", &exact, &[]);
    convert(dir.path(), "gguf", &decoded, &["--dtype", "f32"]);
    // The two files have the columns in different orders.
    let found = report(&exact, &decoded, &["--only", "blk"], 1);
    assert_eq!(found["totals"]["different"], 3);
    for (file, kind) in [(&exact, "q"), (&decoded, "f32")] {
        for found in [report(dir.path(), file, &[], 0), report(file, dir.path(), &[], 0)] {
            let down = tensor(&found, "blk.0.ffn_down.weight");
            let types = [down["a"]["type"].as_str().unwrap(), down["b"]["type"].as_str().unwrap()];
            assert!(types.contains(&"gptq 4-bit") && types.iter().any(|t| t.starts_with(kind)), "{types:?}");
        }
    }
}

#[test]
fn predictions_are_those_of_perplexity_with_a_reference() {
    let (model, gguf) = (fixture("bookworm-4m"), fixture("bookworm-4m-Q4_K_M.gguf"));
    let (file, few) = (fixture("text/validation.txt"), ["--context", "64", "--chunks", "3", "--json"]);
    let file = file.to_str().unwrap();
    let found = report(&model, &gguf, &[&["--text", file], &few[..4]].concat(), 1);
    let (model, gguf) = (model.to_str().unwrap(), gguf.to_str().unwrap());
    let args = [&["perplexity", gguf, "--text", file, "--reference", model], &few[..]].concat();
    let expected: Value = serde_json::from_str(&stdout(&quern(args))).unwrap();
    for key in ["perplexity", "reference_perplexity", "kl_mean", "kl_p99", "top1_agreement", "tokens"] {
        assert!(expected[key].is_number(), "{key}");
        assert_eq!(found["text"][key], expected[key], "{key}");
    }
    let shown = text(&quern([&["diff", model, gguf, "--text", file], &few[..4]].concat()));
    assert!(shown.contains("KL divergence mean") && shown.contains("perplexity of B"), "{shown}");
}

#[test]
fn models_of_an_unknown_architecture_are_matched_by_name() {
    let unknown = || {
        let dir = model_copy();
        let names = [
            ("LlamaForCausalLM", "QuernTestForCausalLM"),
            ("\"model_type\": \"llama\"", "\"model_type\": \"quern_test\""),
        ];
        edit(dir.path(), "config.json", &names);
        dir
    };
    let (a, b) = (unknown(), unknown());
    let found = report(a.path(), b.path(), &[], 0);
    assert_eq!((&found["naming"], &found["totals"]["same_bytes"]), (&"files".into(), &38.into()));
    assert!(found["notes"][0].as_str().unwrap().contains("matched by name"), "{}", found["notes"]);
    // What its settings mean is not known.
    edit(b.path(), "config.json", &[("1e-05", "1e-06")]);
    assert_eq!(
        keys(&report(a.path(), b.path(), &[], 1), "/config_json"),
        [("rms_norm_eps".to_owned(), true)]
    );
    // Names of two formats have little in common.
    let found = report(a.path(), &fixture("bookworm-4m-Q4_K_M.gguf"), &[], 1);
    assert_eq!((&found["totals"]["tensors"], &found["totals"]["only_a"]), (&0.into(), &38.into()));
}

#[test]
fn trouble_is_neither_the_same_nor_different() {
    let model = fixture("bookworm-4m");
    let model = model.to_str().unwrap();
    let hostile = tempfile::tempdir().unwrap();
    let broken = hostile.path().join("broken.gguf");
    fs::write(&broken, b"GGUF but no more").unwrap();
    let broken = broken.to_str().unwrap();
    for (args, needle) in [
        (vec!["diff", model, "/does/not/exist"], "no such file"),
        (vec!["diff", broken, model], "broken.gguf"),
        (vec!["diff", model, model, "--text", "/does/not/exist"], "cannot read the text"),
        (vec!["diff", model], "required"),
        (vec!["diff", model, model, "--only", "("], "--only"),
        (vec!["diff", model, model, "--tolerance", "nan"], "--tolerance"),
        (vec!["diff", model, model, "--dry-run"], "--text"),
        (vec!["diff", model, model, "--chunks", "2"], "--text"),
    ] {
        let output = quern(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let message = stderr(&output);
        assert!(message.starts_with("error: ") && message.contains(needle), "{args:?}: {message}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}
