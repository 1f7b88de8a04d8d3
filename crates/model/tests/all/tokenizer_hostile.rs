//! Tokenizers that are made to do harm: each is refused with one sentence that names the file, when it is read or when a
//! text is encoded, and takes neither long nor much memory.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::copy_of;
use quern_model::{EncodeOptions, Tokenizer};
use serde_json::{Value, json};

const TEXT: &str =
    "Once upon a time there were wooooods, and oooooooooooooooooooooooooooooooooooooooooooooooo. ";

fn split(regex: &str) -> Value {
    json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false })
}

fn bytes() -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false })
}

fn cutting(parts: impl IntoIterator<Item = Value>) -> Value {
    let parts: Vec<Value> = parts.into_iter().chain([bytes()]).collect();
    json!({ "pre_tokenizer": { "type": "Sequence", "pretokenizers": parts } })
}

fn normalizing(parts: impl IntoIterator<Item = Value>) -> Value {
    let parts: Vec<Value> = parts.into_iter().collect();
    json!({ "normalizer": { "type": "Sequence", "normalizers": parts } })
}

fn replace(pattern: &str, content: &str) -> Value {
    json!({ "type": "Replace", "pattern": { "String": pattern }, "content": content })
}

/// What reading the file and encoding a text says, which must take less than ten seconds.
fn outcome(file: &str, text: &str) -> Result<usize, String> {
    let dir = copy_of("architectures/qwen2", &["tokenizer_config.json"]);
    fs::write(dir.path().join("tokenizer.json"), file).unwrap();
    let start = Instant::now();
    let tokens = Tokenizer::from_directory(dir.path())
        .and_then(|tokenizer| tokenizer.encode(text, EncodeOptions::default()));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    match tokens {
        Ok(tokens) => Ok(tokens.len()),
        Err(e) => {
            let message = e.to_string();
            assert!(message.contains("tokenizer.json"), "{message}");
            assert!(message.lines().count() == 1 && message.len() < 600, "{message}");
            Err(message)
        }
    }
}

fn sound() -> Value {
    let dir = copy_of("architectures/qwen2", &["tokenizer.json"]);
    serde_json::from_slice(&fs::read(dir.path().join("tokenizer.json")).unwrap()).unwrap()
}

fn with(changes: Value) -> String {
    let mut file = sound();
    for (key, value) in changes.as_object().unwrap() {
        file[key] = value.clone();
    }
    file.to_string()
}

#[test]
fn bombs_are_refused() {
    let text = TEXT.repeat(40);
    let added: Vec<Value> = (0..5000)
        .map(|i| json!({ "id": 10_000 + i, "content": "o".repeat(i + 1), "lstrip": true, "rstrip": true, "special": true }))
        .collect();
    let nested = format!("{}a{}", "(?:".repeat(5000), ")*".repeat(5000));
    for (changes, part) in [
        (cutting([split(&"(a)*".repeat(30_000))]), "120000 bytes"),
        (cutting([split(&"(a)*".repeat(1500))]), "1500 groups"),
        (cutting([split(&nested)]), "bytes"),
        (cutting([split("(?:(?:a{1000}){1000}){1000}(?!b)")]), "too large"),
        (cutting([split(r"(?=(o+)+b\1)|(o|o)*\1b")]), "steps at one place"),
        (cutting(vec![split(r"(?:(?!x)(?:o|oo|ooo)*)*\bq(?=z)"); 50]), "steps at one place"),
        (cutting([split(r"(?<!x)(?:o?){60}(?:o){60}z(?!y)")]), "steps at one place"),
        (cutting(vec![split(""); 200]), "empty pattern"),
        (cutting(vec![split("a"); 200]), "more than 64 components"),
        (cutting(vec![bytes(); 40]), "that make words longer"),
        (normalizing(vec![replace("o", "oo"); 40]), "bytes of a text of"),
        (normalizing(vec![replace("o", "oo"); 400]), "more than 64 components"),
        (normalizing([replace("o", &"x".repeat(4 << 20))]), "text beside vocabulary"),
        (normalizing([replace("o", &"x".repeat(1 << 20))]), "inserts 1048576 bytes"),
        (normalizing([replace("o", &"x".repeat(4000))]), "bytes of a text of"),
        (normalizing(vec![replace("", "xxxxxxxxxx"); 9]), "empty pattern"),
        (
            normalizing(vec![json!({ "type": "Replace", "pattern": { "Regex": "x*" }, "content": "yy" }); 9]),
            "bytes of a text of",
        ),
        (
            normalizing([json!({ "type": "Prepend", "prepend": "x".repeat(1 << 20) })]),
            "inserts 1048576 bytes",
        ),
        (normalizing(vec![json!({ "type": "ByteLevel" }); 60]), "bytes of a text of"),
        (json!({ "added_tokens": added }), "is looked for in text"),
    ] {
        let message = outcome(&with(changes), &text).expect_err(part);
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn deep_sections_are_refused() {
    for (key, inner) in
        [("pre_tokenizer", "pretokenizers"), ("normalizer", "normalizers"), ("decoder", "decoders")]
    {
        let mut file = sound();
        file[key] = "@@".into();
        let open = format!("{{\"type\":\"Sequence\",\"{inner}\":[").repeat(20_000);
        let file = file.to_string().replace("\"@@\"", &(open + &"]}".repeat(20_000)));
        let message = outcome(&file, TEXT).unwrap_err();
        assert!(message.contains("recursion limit"), "{message}");
    }
}

/// What quern does not use, or what only looks strange, does no harm.
#[test]
fn strange_files_are_read() {
    let post = json!({ "type": "Sequence", "processors": vec![json!({ "type": "TemplateProcessing", "single": vec![json!({ "Sequence": { "id": "A" } }); 1000] }); 5] });
    for changes in [
        json!({ "post_processor": post }),
        json!({ "padding": { "strategy": { "Fixed": u64::MAX }, "pad_to_multiple_of": u64::MAX } }),
        json!({ "truncation": { "max_length": u64::MAX, "stride": u64::MAX } }),
        cutting([split(r"\s+$")]),
        cutting([split("(?x) \\s+ # blanks")]),
    ] {
        assert!(outcome(&with(changes), TEXT).unwrap() > 10);
    }
    let unknown = sound().to_string();
    let unknown = unknown.strip_suffix('}').unwrap();
    let of = |depth: usize| format!("{unknown},\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(outcome(&of(100), TEXT).is_ok_and(|tokens| tokens > 10));
    assert!(outcome(&of(100_000), TEXT).is_err_and(|message| message.contains("recursion limit")));
}
