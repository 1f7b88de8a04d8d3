//! GPTQ, bitsandbytes and quantizing while loading, from the command line.

use std::path::Path;

use serde_json::Value;

use crate::common::{failure, fixture, listing, quern, stderr, stdout};

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
