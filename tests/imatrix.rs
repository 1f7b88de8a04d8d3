//! `quern imatrix`, and `quern quantize --imatrix` with what it wrote.

use std::io::Write;
use std::process::Stdio;

use crate::common::{command, failure, fixture, listing, quern, stdout};

fn model() -> String {
    fixture("bookworm-4m").display().to_string()
}

#[test]
fn a_matrix_is_measured_written_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let text = fixture("text/calibration.txt").display().to_string();
    let matrix = dir.path().join("matrix.gguf").display().to_string();
    let args = ["imatrix", &model(), "--text", &text, "-o", &matrix, "--chunks", "4", "--json"];
    let v: serde_json::Value = serde_json::from_str(&stdout(&quern(args))).unwrap();
    assert_eq!((&v["entries"], &v["chunks"], &v["tokens"]), (&28.into(), &4.into(), &2048.into()));
    assert_eq!(v["text"], "calibration.txt");
    assert_eq!(v["placement"]["layers"], 5);
    assert!(failure(&quern(args)).contains("--force"), "an existing matrix is not replaced");

    let inspected = stdout(&quern(["inspect", &matrix, "--metadata", "--json"]));
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["tensors"].as_array().unwrap().len(), 56);

    let weights = |out: &str, imatrix: &[&str]| {
        let out = dir.path().join(out).display().to_string();
        let mut args = vec!["quantize", "--to", "q4_k_m", "-o", &out];
        let model = model();
        args.push(&model);
        args.extend(imatrix);
        stdout(&quern(args));
        std::fs::read(out).unwrap()
    };
    assert_ne!(weights("with.gguf", &["--imatrix", &matrix]), weights("without.gguf", &[]));
}

#[test]
fn text_comes_from_standard_input_jsonl_or_quern_itself() {
    let dir = tempfile::tempdir().unwrap();
    let line = "The old captain walked to the harbour and looked out over the sea. ".repeat(20);
    let jsonl = format!("{{\"text\": {line:?}}}\n{{\"prompt\": {line:?}, \"completion\": {line:?}}}\n");
    let out = |name: &str| dir.path().join(name).display().to_string();
    let entries = |bytes: &[u8]| i32::from_le_bytes(bytes[..4].try_into().unwrap());

    let model = model();
    let dat = out("piped.dat");
    let args = ["imatrix", &model, "--text", "-", "-o", &dat, "--context", "64", "--output-format", "dat"];
    let mut child = command().args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(jsonl.as_bytes()).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    let piped = std::fs::read(&dat).unwrap();
    assert_eq!(entries(&piped), 28);

    let own = out("own.gguf");
    let text = stdout(&quern(["imatrix", &model, "-o", &own, "--chunks", "1", "--context", "64"]));
    assert!(text.contains("28 entries from 1 chunks of 64 tokens"), "{text}");
    assert_eq!(&std::fs::read(own).unwrap()[..4], b"GGUF");
}

#[test]
fn a_dry_run_says_where_the_layers_would_be_and_writes_nothing() {
    let args = ["imatrix", &model(), "--dry-run", "--device", "cpu", "--json", "--context", "256"];
    let plan: serde_json::Value = serde_json::from_str(&stdout(&quern(args))).unwrap();
    assert_eq!((&plan["kv"], &plan["context"], &plan["layers"]), (&"f32".into(), &256.into(), &5.into()));
    assert_eq!((&plan["gpu_layers"], &plan["devices"][0]["device"]), (&0.into(), &"cpu".into()));
    // Two vectors of 2 x 64 numbers for each position and block.
    assert_eq!(plan["devices"][0]["cache_bytes"], 4 * 2 * 2 * 64 * 256 * 4);
    let output = quern(["imatrix", &model()]);
    assert_eq!(output.status.code(), Some(2), "without --dry-run an output is needed");
}

#[test]
fn what_cannot_be_measured_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("matrix.gguf").display().to_string();
    let bad = dir.path().join("bad.jsonl");
    std::fs::write(&bad, "{\"text\": \"fine\"}\n{\"title\": \"none\"}\n").unwrap();
    let latin = dir.path().join("latin.txt");
    std::fs::write(&latin, b"caf\xe9").unwrap();
    let short = dir.path().join("short.txt");
    std::fs::write(&short, "A short text.").unwrap();
    for (text, part) in [(&bad, "bad.jsonl, line 2"), (&latin, "at byte 3"), (&short, "a longer text")] {
        let error = failure(&quern(["imatrix", &model(), "-o", &out, "--text", &text.display().to_string()]));
        assert!(error.contains(part), "expected {part:?} in {error:?}");
    }
    assert_eq!(listing(dir.path()), ["bad.jsonl", "latin.txt", "short.txt"]);
}
