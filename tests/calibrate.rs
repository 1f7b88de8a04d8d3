//! `quern quantize --calibrate`: GGUF files whose layers are rounded for the inputs they get.

use std::fs;

use crate::common::{fixture, listing, quern, stderr, stdout};

fn model() -> String {
    fixture("bookworm-4m").display().to_string()
}

fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&stdout(&quern(args))).unwrap()
}

#[test]
fn a_calibrated_file_says_what_it_was_calibrated_on_and_is_nearer_to_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (model, text) = (model(), fixture("text/calibration.txt").display().to_string());
    let validation = fixture("text/validation.txt").display().to_string();
    let common = ["quantize", &model, "--to", "q4_0", "--evaluate", &validation, "--json", "-o"];
    let plain = json(&[&common[..], &[&path("plain.gguf")]].concat());
    let calibrate = ["--calibrate", "--calibration", &text, "--samples", "16", "--context", "128", "--card"];
    let (out, imatrix) = (path("out/q4_0.gguf"), path("imatrix.gguf"));
    fs::create_dir(dir.path().join("out")).unwrap();
    let made = json(&[&common[..], &[&out, "--save-imatrix", &imatrix], &calibrate].concat());
    let kl = |v: &serde_json::Value| v["evaluation"]["kl_mean"].as_f64().unwrap();
    assert!(kl(&made) < 0.9 * kl(&plain), "{} {}", kl(&made), kl(&plain));
    assert_eq!((&made["scheme"], &made["report"]["tokens"]), (&"q4_0".into(), &(16 * 128).into()));
    assert_eq!(made["report"]["layers"].as_array().unwrap().len(), 28);
    assert_eq!(made["file_size"].as_u64(), Some(fs::metadata(&out).unwrap().len()));
    assert_eq!(listing(&dir.path().join("out")), ["README.md", "q4_0.gguf"]);
    let card = fs::read_to_string(dir.path().join("out/README.md")).unwrap();
    assert!(card.contains("calibration.txt") && card.contains("--calibrate"), "{card}");
    let said = stdout(&quern(["inspect", &out, "--check"]));
    let command = "--to q4_0 --calibrate --calibration calibration.txt --samples 16 --context 128";
    assert!(said.contains(command) && said.contains("16 samples of 128 tokens"), "{said}");
    assert!(!stdout(&quern(["inspect", &out, "--metadata"])).contains("quantize.imatrix"));
    assert!(stdout(&quern(["inspect", &imatrix])).contains("imatrix"));

    let plan = ["quantize", &model, "--to", "q4_0", "--calibrate", "--dry-run"];
    let table = stdout(&quern(plan));
    assert!(table.contains("28 layers calibrated, 28 of them with error feedback"), "{table}");
}

#[test]
fn options_that_do_not_belong_together_are_wrong_usage() {
    let model = model();
    for (args, part) in [
        (&["--to", "q4_0", "--samples", "4"][..], "belong to --to gptq, and to GGUF types with --calibrate"),
        (&["--to", "q4_0", "--restart"], "belong to --to gptq, and to GGUF types with --calibrate"),
        (&["--to", "nf4", "--calibration", "t.txt"], "belong to --to gptq"),
        (&["--to", "q4_0", "--calibrate", "--imatrix", "i.gguf"], "measures what an importance matrix has"),
        (&["--to", "f16", "--calibrate"], "plain numbers have nothing to calibrate"),
        (&["--to", "gptq", "--calibrate"], "belong to GGUF types"),
        (&["--to", "q4_0", "--calibrate", "--bits", "4"], "belong to --to gptq"),
    ] {
        let output = quern([&["quantize", &model, "-o", "/tmp/never.gguf"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{args:?}: {}", stderr(&output));
    }
}
