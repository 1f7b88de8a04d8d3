//! GPTQ, bitsandbytes, FP8 and quantizing while loading, from the command line.

use std::path::Path;

use quern_tensor_io::{ElementType, decode};
use serde_json::Value;

use crate::common::{Tensors, edit, failure, fixture, listing, model_copy, quern, stderr, stdout};

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&quern(args))).expect("JSON")
}

fn perplexity(model: &Path, more: &[&str]) -> f64 {
    let text = fixture("text/validation.txt");
    let args = ["perplexity", model.to_str().unwrap(), "--text", text.to_str().unwrap()];
    let args = [&args[..], &["--context", "256", "--chunks", "8", "--json"], more].concat();
    json(&args)["perplexity"].as_f64().expect("a number")
}

/// A packed model runs, is valid, and its results agree with its decoded numbers to a tenth of a percent.
fn check(out: &Path, scheme: &str, at_most: f64) {
    let path = out.to_str().unwrap();
    let report = json(&["inspect", path, "--check", "--json"]);
    assert_eq!(report["scheme"], scheme);
    assert_eq!(report["parameters"], 4_196_608);
    assert_eq!(report["check"]["findings"], Value::Array(Vec::new()));
    let run = json(&["run", path, "-p", "It was a dark night", "-n", "8", "--temp", "0", "--json"]);
    assert_eq!(run["tokens"].as_array().unwrap().len(), 8);
    let (packed, decoded) = (perplexity(out, &[]), perplexity(out, &["--load-in", "f32"]));
    assert!((packed / decoded - 1.0).abs() < 0.002, "{scheme}: {packed} and {decoded}");
    let plain = perplexity(&fixture("bookworm-4m"), &[]);
    assert!(decoded > 0.98 * plain && decoded < at_most * plain, "{scheme}: {plain} and {decoded}");
}

#[test]
fn gptq_from_a_file_and_from_the_text_that_comes_along() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("bookworm-4m");
    let text = fixture("text/calibration.txt");
    let (model, text) = (model.to_str().unwrap(), text.to_str().unwrap());
    let plan =
        stdout(&quern(["quantize", model, "--to", "gptq", "--bits", "3", "--samples", "4", "--dry-run"]));
    assert!(plan.contains("model.layers.3.mlp.down_proj") && plan.contains("3-bit, group 128"), "{plan}");

    let own = dir.path().join("own");
    let common = ["quantize", model, "--to", "gptq", "--samples", "12", "--context", "128", "-o"];
    let printed = stdout(&quern([&common[..], &[own.to_str().unwrap(), "--group-size", "64"]].concat()));
    assert!(
        printed.contains("model.layers.0.self_attn.q_proj") && printed.contains("4-bit, group 64"),
        "{printed}"
    );
    check(&own, "gptq", 1.08);

    let other = dir.path().join("other");
    let imatrix = dir.path().join("other.imatrix.gguf");
    let more = ["--calibration", text, "--desc-act", "--asym", "--save-imatrix", imatrix.to_str().unwrap()];
    stdout(&quern([&common[..], &[other.to_str().unwrap()], &more].concat()));
    check(&other, "gptq", 1.08);
    assert_eq!(listing(dir.path()), ["other", "other.imatrix.gguf", "own"]);
    // The by-product is an importance matrix like any other.
    let small = dir.path().join("iq2.gguf");
    let args = ["quantize", model, "--to", "iq2_xs", "--imatrix", imatrix.to_str().unwrap(), "-o"];
    stdout(&quern([&args[..], &[small.to_str().unwrap()]].concat()));
    // An existing output is left alone.
    let refused = failure(&quern([&common[..], &[own.to_str().unwrap()]].concat()));
    assert!(refused.contains("--force"), "{refused}");
}

/// What vLLM loads: by rounding, from GPTQ's codes, and from a checkpoint of them.
#[test]
fn fp8_and_compressed_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("bookworm-4m");
    let model = model.to_str().unwrap();
    for (name, scheme, more, at_most) in [
        ("fp8", "fp8", &["--to", "fp8"][..], 1.01),
        ("block", "fp8", &["--to", "fp8-block", "--skip-module", "down_proj"], 1.01),
        ("w4a16", "compressed-tensors", &["--to", "compressed-tensors", "--group-size", "64", "--asym"], 1.1),
        (
            "w8a16",
            "compressed-tensors",
            &["--to", "compressed-tensors", "--bits", "8", "--group-size", "-1"],
            1.01,
        ),
        (
            "gptq",
            "compressed-tensors",
            &[
                "--to",
                "gptq",
                "--packing",
                "compressed-tensors",
                "--samples",
                "12",
                "--context",
                "128",
                "--asym",
            ],
            1.08,
        ),
    ] {
        let out = dir.path().join(name);
        let args = [&["quantize", model, "-o", out.to_str().unwrap()], more].concat();
        let plan = stdout(&quern([&args[..], &["--dry-run"]].concat()));
        assert!(plan.contains("model.layers.3.mlp.gate_proj"), "{plan}");
        let printed = stdout(&quern(args));
        assert!(printed.contains("bits per weight"), "{printed}");
        check(&out, scheme, at_most);
    }
    // The codes of GPTQ, to AWQ and back.
    let (awq, back) = (dir.path().join("awq"), dir.path().join("back"));
    let source = dir.path().join("gptq");
    for (from, to, out) in [(&source, "awq", &awq), (&awq, "compressed-tensors", &back)] {
        stdout(&quern(["convert", from.to_str().unwrap(), "--to", to, "-o", out.to_str().unwrap()]));
    }
    check(&awq, "awq", 1.08);
    let same = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(same(&back) == same(&source));

    for (args, part) in [
        (&["--to", "fp8", "--bits", "4"][..], "belong to --to gptq"),
        (&["--to", "compressed-tensors", "--desc-act"], "belong to --to gptq, which --packing writes"),
        (&["--to", "fp8-block", "--double-quant"], "belong to --to nf4 or fp4"),
        (&["--to", "q4_0", "--packing", "awq"], "belong to --to gptq"),
        (&["--to", "gptq", "--packing", "marlin"], "choose gptq, compressed-tensors, awq"),
    ] {
        let output = quern([&["quantize", model, "-o", "x"], args].concat());
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(part), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn bitsandbytes_and_loading_in_its_types() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("bookworm-4m");
    for (scheme, more, at_most) in [
        ("nf4", vec![], 1.1),
        ("fp4", vec!["--no-double-quant", "--block-size", "32"], 1.2),
        ("int8", vec![], 1.02),
    ] {
        let out = dir.path().join(scheme);
        let args = ["quantize", model.to_str().unwrap(), "--to", scheme, "-o", out.to_str().unwrap()];
        stdout(&quern([&args[..], &more].concat()));
        check(&out, scheme, at_most);
        if more.is_empty() {
            // The same weights, whether they come from a file or are made while loading.
            let (file, loaded) = (perplexity(&out, &[]), perplexity(&model, &["--load-in", scheme]));
            assert!((file / loaded - 1.0).abs() < 0.003, "{scheme}: {file} and {loaded}");
        }
    }
}

#[test]
fn loading_in_a_gguf_recipe_says_what_it_saves() {
    let model = fixture("bookworm-4m");
    let args = ["run", model.to_str().unwrap(), "-p", "The", "-n", "2", "--load-in", "q4_k"];
    let output = quern(args);
    let printed = stderr(&output);
    stdout(&output);
    assert!(printed.contains("weights: 8.00 MiB in the file, 2."), "{printed}");
    let gguf = fixture("bookworm-4m-Q4_K_M.gguf");
    let again = failure(&quern(["run", gguf.to_str().unwrap(), "-p", "x", "--load-in", "nf4"]));
    assert!(again.contains("already quantized with") && again.contains("without --load-in"), "{again}");
}

#[test]
fn options_of_another_scheme_are_wrong_usage() {
    let model = fixture("bookworm-4m");
    let model = model.to_str().unwrap();
    for args in [
        vec!["--to", "q8_0", "--bits", "4"],
        vec!["--to", "gptq", "--pure"],
        vec!["--to", "nf4", "--group-size", "64"],
        vec!["--to", "gptq", "--block-size", "64"],
        vec!["--to", "gptq", "--bits", "5"],
        vec!["--to", "nf5"],
    ] {
        let output = quern([&["quantize", model, "--dry-run"], &args[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
}

/// The demo model as FP8 releases are: matrices of the blocks in e4m3, a scale for each 128 x 128. `power`: scales are
/// powers of two.
fn fp8_release(power: bool) -> tempfile::TempDir {
    let dir = model_copy();
    let mut values = [0.0; 128];
    assert!(decode::to_f32(ElementType::F8E4M3, &(0..128).collect::<Vec<u8>>(), &mut values));
    // NaN is the last.
    let nearest = |v: f32| {
        let above = values[..127].partition_point(|&code| code < v.abs());
        let code = match above {
            0 => 0,
            127 => 126,
            i if v.abs() - values[i - 1] < values[i] - v.abs() => i - 1,
            i => i,
        };
        code as u8 | if v < 0.0 { 0x80 } else { 0 }
    };
    let mut all = Vec::new();
    for (name, kind, shape, data) in Tensors::read(dir.path()).0 {
        let &[rows, columns] = &shape[..] else {
            all.push((name, kind, shape, data));
            continue;
        };
        if !name.contains("layers") {
            all.push((name, kind, shape, data));
            continue;
        }
        let mut weights = vec![0.0f32; rows * columns];
        assert!(decode::to_f32(ElementType::F16, &data, &mut weights));
        let grid = [rows.div_ceil(128), columns.div_ceil(128)];
        let mut largest = vec![0f32; grid[0] * grid[1]];
        let at = |i: usize| i / columns / 128 * grid[1] + i % columns / 128;
        weights.iter().enumerate().for_each(|(i, w)| largest[at(i)] = largest[at(i)].max(w.abs()));
        let scale = |m: &f32| if power { (m / 448.0).log2().ceil().exp2() } else { m / 448.0 };
        let scales: Vec<f32> = largest.iter().map(scale).collect();
        let codes = weights.iter().enumerate().map(|(i, w)| nearest(w / scales[at(i)])).collect();
        let scales = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
        all.push((format!("{name}_scale_inv"), "F32", grid.to_vec(), scales));
        all.push((name, "F8_E4M3", shape, codes));
    }
    Tensors(all).write(dir.path());
    let label = "{\"quantization_config\": {\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\", \"quant_method\": \"fp8\", \
                 \"weight_block_size\": [128, 128]},";
    edit(dir.path(), "config.json", &[("{", label)]);
    dir
}

#[test]
fn an_fp8_release_is_read_run_converted_and_quantized() {
    let (model, power) = (fp8_release(false), fp8_release(true));
    check(model.path(), "fp8", 1.02);
    let path = model.path().to_str().unwrap();
    let report = json(&["inspect", path, "--json"]);
    assert_eq!(report["quantization"]["description"], "fp8, a scale for each 128x128");
    assert_eq!(
        (&report["quantization"]["method"], &report["quantization"]["layers"]),
        (&"fp8".into(), &28.into())
    );
    let dir = tempfile::tempdir().unwrap();
    let out = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();

    // Scales of any value give products that no GGUF type holds; powers of two give bf16 numbers.
    let refused = failure(&quern(["convert", path, "--to", "gguf", "-o", &out("no.gguf")]));
    assert!(refused.contains("q_proj.weight") && refused.contains("--dtype"), "{refused}");
    let args = ["convert", power.path().to_str().unwrap(), "--to", "gguf", "-o", &out("exact.gguf")];
    let plan = stdout(&quern([&args[..], &["--dry-run"]].concat()));
    assert!(plan.contains("fp8") && plan.contains("bf16") && !plan.contains("rounded"), "{plan}");
    let printed = stdout(&quern(args));
    assert!(printed.contains("verified: all 38 tensors have the source's values exactly"), "{printed}");
    let plan =
        stdout(&quern(["convert", path, "--to", "gguf", "--dtype", "f16", "-o", "x.gguf", "--dry-run"]));
    assert!(plan.contains("fp8") && plan.contains("f16"), "{plan}");
    // As plain numbers, without a trace of the quantization.
    stdout(&quern(["convert", path, "--to", "safetensors", "--dtype", "bf16", "-o", &out("plain")]));
    let config = std::fs::read_to_string(dir.path().join("plain/config.json")).unwrap();
    assert!(!config.contains("quantization_config") && config.contains("bfloat16"), "{config}");

    // What a model is released in is no quantization that a second one would be a loss to.
    let decoded = perplexity(model.path(), &["--load-in", "f32"]);
    for scheme in ["q4_k_m", "q8_0", "nf4"] {
        let made = out(scheme) + if scheme == "nf4" { "" } else { ".gguf" };
        stdout(&quern(["quantize", path, "--to", scheme, "-o", &made]));
        let quantized = perplexity(Path::new(&made), &[]);
        assert!(
            quantized < 1.1 * decoded && quantized > 0.97 * decoded,
            "{scheme}: {quantized} of {decoded}"
        );
    }
    let loaded = perplexity(model.path(), &["--load-in", "q8_0"]);
    let written = perplexity(Path::new(&out("q8_0.gguf")), &[]);
    assert!((loaded / written - 1.0).abs() < 0.002, "{loaded} and {written}");
}
