//! Regular expressions and tokenizers that ask for too much: one sentence, at once, and no output.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::{listing, model_copy, quern, stderr, tiny_copy};

/// Exit code and standard error.
fn refused(args: &[&str]) -> (Option<i32>, String) {
    let start = Instant::now();
    let output = quern(args);
    assert!(start.elapsed() < Duration::from_secs(10), "{args:?}");
    let text = stderr(&output);
    assert!(!text.contains("panicked"), "{text}");
    (output.status.code(), text)
}

#[test]
fn expressions_of_options_are_bounded() {
    let (dir, model) = (tempfile::tempdir().unwrap(), model_copy());
    let (model, out) = (model.path().to_str().unwrap(), dir.path().join("out"));
    let out = out.to_str().unwrap();
    // What fits into one argument.
    for groups in ["(a)".repeat(30_000), "(a)*".repeat(30_000)] {
        let pin = format!("{groups}=q4_k");
        let (code, text) = refused(&["quantize", model, "--to", "q4_k_m", "--tensor-type", &pin, "-o", out]);
        assert!(matches!(code, Some(1 | 2)) && text.contains("at most 4096 are allowed"), "{text}");
        let rules = format!("{{\"{groups}\":{{\"bits\":8}}}}");
        let (code, text) = refused(&["quantize", model, "--to", "gptq", "--dynamic", &rules, "-o", out]);
        assert!(matches!(code, Some(1 | 2)) && text.contains("at most 4096 are allowed"), "{text}");
        let (code, text) = refused(&["quantize", model, "--to", "nf4", "--skip-module", &groups, "-o", out]);
        assert!(matches!(code, Some(1 | 2)) && text.contains("at most 4096 are allowed"), "{text}");
        let (code, text) = refused(&["diff", model, model, "--only", &groups]);
        assert!(code == Some(2) && text.contains("at most 4096 are allowed"), "{}", &text[..300]);
    }
    assert_eq!(listing(dir.path()), Vec::<String>::new());
}

#[test]
fn a_tokenizer_that_takes_too_much_is_named() {
    let model = tiny_copy("qwen2");
    let text = fs::read_to_string(model.path().join("tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let doubled = serde_json::json!({ "type": "Replace", "pattern": { "String": "o" }, "content": "oo" });
    json["normalizer"] = serde_json::json!({ "type": "Sequence", "normalizers": vec![doubled; 40] });
    fs::write(model.path().join("tokenizer.json"), json.to_string()).unwrap();
    let prompt = "oooo".repeat(50);
    let (code, text) = refused(&["run", model.path().to_str().unwrap(), "-p", &prompt, "-n", "1"]);
    assert!(
        code == Some(1) && text.contains("tokenizer.json") && text.contains("bytes of a text of"),
        "{text}"
    );
    assert!(text.lines().count() == 1 && text.len() < 600, "{text}");
}
