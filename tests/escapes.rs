//! What files and models say reaches the terminal without characters that it would obey.

use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{edit, failure, fixture, model_copy, quern, stderr, stdout};

/// A title for the window, a control character of one byte, and text that is read backwards.
const KEY: &str = "\u{1b}]0;x\u{7}\u{9b}2\u{202e}.\u{7f}";
const TENSOR: &str = "\u{1b}[31mq\nnote: \u{202e}.weight";
const NAME: &str = "\u{1b}[2J\n\u{7f}x";

/// Whether a terminal would obey `text`, or show it in another order.
fn obeyed(text: &str) -> bool {
    let one = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.contains(one)
}

/// Both outputs, in which nothing is obeyed.
fn shown(output: &Output) -> String {
    let all = format!("{}{}", String::from_utf8(output.stdout.clone()).unwrap(), stderr(output));
    assert!(!obeyed(&all), "{all:?}");
    assert!(!all.contains("panicked"), "{all}");
    all
}

/// The small model with parts of its header replaced by others of the same length.
fn patched(name: &str, parts: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let mut bytes = std::fs::read(fixture("bookworm-4m-Q4_K_M.gguf")).unwrap();
    for (from, to) in parts {
        assert_eq!(from.len(), to.len(), "{from} {to:?}");
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    written(name, &bytes)
}

fn written(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// Every word of the vocabulary begins with an escape sequence in place of the mark of a space.
fn hostile_vocabulary() -> (TempDir, PathBuf) {
    let mut bytes = std::fs::read(fixture("bookworm-4m-Q4_K_M.gguf")).unwrap();
    let (mark, escape) = ("\u{2581}".as_bytes(), b"\x1b[m");
    let key = b"tokenizer.ggml.tokens";
    let start = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len();
    // Type of the value, type of the items, their number; each has its length in front.
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let (count, mut at) = (number(&bytes, start + 8), start + 16);
    let mut changed = 0;
    for _ in 0..count {
        let length = number(&bytes, at);
        at += 8;
        if bytes[at..at + length].starts_with(mark) {
            bytes[at..at + mark.len()].copy_from_slice(escape);
            changed += 1;
        }
        at += length;
    }
    assert!(changed > 1000);
    written("words.gguf", &bytes)
}

#[test]
fn names_and_values_are_escaped() {
    let parts = [
        ("llama.vocab_size", KEY),
        ("Llama4M", NAME),
        ("4.2M", "\u{1b}[1m"),
        ("blk.0.attn_norm.weight", TENSOR),
    ];
    let parts = parts.map(|(from, to)| (from, fitted(to, from.len())));
    let parts: Vec<(&str, &str)> = parts.iter().map(|(from, to)| (*from, to.as_str())).collect();
    // The name of the file, too.
    let (_dir, path) = patched("m\u{1b}[1m\u{202e}\n.gguf", &parts);
    let (path, good) = (path.to_str().unwrap(), fixture("bookworm-4m-Q4_K_M.gguf"));
    let good = good.to_str().unwrap();
    let text = shown(&quern(["inspect", path, "--metadata", "--tensors"]));
    for part in
        ["\\u{1b}]0;x\\u{7}\\u{9b}", "\\u{1b}[31mq\\u{a}note: ", "\\u{1b}[2J\\u{a}\\u{7f}x", "\\u{202e}"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    let text = fixture("text/validation.txt");
    for args in [
        &["inspect", path, "--check"][..],
        &["inspect", path, "--histogram", "q\n"],
        &["run", path, "-p", "x", "-n", "2"],
        &["diff", path, good, "--tensors"],
        &["diff", good, path],
        &["fit", path, "--vram", "1GiB"],
        &["quantize", path, "--to", "q8_0", "--allow-requantize", "--dry-run"],
        &["convert", path, "--to", "safetensors", "--dtype", "f16", "-o", &format!("{path}.out")],
        &["perplexity", path, "--text", text.to_str().unwrap()],
        &["inspect", "nothing\u{1b}[2J\u{9b}"],
    ] {
        let text = shown(&quern(args));
        assert!(text.contains("\\u{1b}"), "{args:?}: {text}");
    }
    // A wrong command line is repeated, perhaps without them.
    for args in [["inspect", path, "unexpected\u{1b}[2J"], ["run", path, "--\u{1b}[2J"]] {
        let output = quern(args);
        assert_eq!(output.status.code(), Some(2));
        assert!(shown(&output).contains("unexpected argument"), "{args:?}");
    }
    // JSON says the same to programs.
    let output = quern(["inspect", path, "--metadata", "--tensors", "--json"]);
    shown(&output);
    let value: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let tensors = value["tensors"].as_array().unwrap();
    assert!(tensors.iter().any(|t| t["name"].as_str().unwrap().contains("\u{1b}[31mq\nnote")), "{value}");
}

/// A text of this many bytes, cut or filled up.
fn fitted(text: &str, bytes: usize) -> String {
    let mut fitted = text.to_owned();
    while fitted.len() > bytes {
        fitted.pop();
    }
    let rest = "x".repeat(bytes - fitted.len());
    fitted + &rest
}

#[test]
fn generated_text_is_escaped_unless_it_is_wanted_raw() {
    let (_dir, path) = hostile_vocabulary();
    let path = path.to_str().unwrap();
    let run =
        |more: &[&str]| quern([&["run", path, "-p", "a\u{1b}b", "-n", "40", "--temp", "0"], more].concat());
    let output = run(&[]);
    let text = shown(&output);
    assert!(text.contains("\\u{1b}[m"), "{text}");
    let raw = stdout(&run(&["--raw"]));
    assert!(raw.contains("\u{1b}[m"), "{raw:?}");
    let generated = serde_json::from_str::<Value>(&stdout(&run(&["--json"]))).unwrap();
    assert_eq!(raw, format!("a\u{1b}b{}\n", generated["text"].as_str().unwrap()));
    assert_eq!(stdout(&output), raw.replace('\u{1b}', "\\u{1b}"));
    // Answers of a conversation are no different.
    let chat = ["--chat", "--chat-template", "zephyr"];
    assert!(shown(&run(&chat)).contains("\\u{1b}[m"));
    assert!(stdout(&run(&[&chat[..], &["--raw"]].concat())).contains("\u{1b}[m"));
}

#[test]
fn errors_repeat_configurations_and_templates_escaped() {
    let dir = model_copy();
    edit(
        dir.path(),
        "config.json",
        &[("LlamaForCausalLM", "A\\u001b[2J\\u202eB\\n"), ("\"llama\"", "\"\\u009bx\"")],
    );
    let output = quern(["run", dir.path().to_str().unwrap(), "-p", "x"]);
    assert!(shown(&output).contains("\\u{202e}B"), "{}", stderr(&output));
    assert_eq!(failure(&output).lines().count(), 1);
    let (_dir, file) = written("t.jinja", b"{{ raise_exception('\x1b]0;x\x07\n no') }}");
    let model = fixture("bookworm-4m");
    let args =
        ["run", model.to_str().unwrap(), "--chat", "--chat-template", file.to_str().unwrap(), "-p", "x"];
    let text = shown(&quern(args));
    assert!(text.contains("\\u{1b}]0;x\\u{7} no") && text.lines().count() == 1, "{text}");
}
