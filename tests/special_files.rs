//! Small files that are something else: named pipes, devices, folders, sockets, links to nothing. No command waits for
//! them or reads them without end, and where the file matters the error says what is there instead.
#![cfg(unix)]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{command, fixture, stderr, tiny_copy};

/// What is put in a file's place, and what an error calls it.
const KINDS: [(&str, &str); 5] = [
    ("pipe", "named pipe"),
    ("device", "character device"),
    ("folder", "folder"),
    ("socket", "socket"),
    ("link", "which does not exist"),
];

fn put(kind: &str, path: &Path) {
    if path.symlink_metadata().is_ok() {
        std::fs::remove_file(path).unwrap();
    }
    match kind {
        "pipe" => {
            let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
            assert!(made.success());
        }
        "device" => symlink("/dev/zero", path).unwrap(),
        "folder" => std::fs::create_dir(path).unwrap(),
        // The socket stays when the listener is closed.
        "socket" => drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
        "link" => symlink("/does/not/exist", path).unwrap(),
        other => panic!("{other} is no kind"),
    }
}

/// Runs quern, which must end by itself, without a panic.
fn ends(args: &[&str]) -> Output {
    let mut child = command()
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("quern starts");
    let start = Instant::now();
    while child.try_wait().expect("a status").is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().expect("it can be killed");
            panic!("{args:?} did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("its output");
    let text = stderr(&output);
    assert!(!text.contains("panicked"), "{args:?}: {text}");
    // `diff` fails with 2, because 1 says that the models differ.
    assert!(matches!(output.status.code(), Some(0..=2)), "{args:?}: {:?} {text}", output.status);
    output
}

/// Every name that a model's folder may have beside its weights, and whether a conversion needs or reads it as a
/// configuration, so that it must be refused.
const NAMES: [(&str, bool); 18] = [
    ("config.json", true),
    ("generation_config.json", true),
    ("quantize_config.json", true),
    ("quant_config.json", true),
    ("model.safetensors", true),
    ("model.safetensors.index.json", true),
    ("special_tokens_map.json", false),
    ("tokenizer.json", false),
    ("tokenizer.model", false),
    ("tiktoken.model", false),
    ("tokenizer_config.json", false),
    ("added_tokens.json", false),
    ("chat_template.jinja", false),
    ("chat_template.json", false),
    ("vocab.json", false),
    ("merges.txt", false),
    ("hf_quant_config.json", false),
    ("README.md", false),
];

#[test]
fn no_small_file_holds_a_command_up() {
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("out.gguf").display().to_string();
    for (name, refused) in NAMES {
        for (kind, called) in KINDS {
            let folder = tiny_copy("llama");
            let model = folder.path().to_str().unwrap();
            put(kind, &folder.path().join(name));
            ends(&["inspect", model]);
            let converted = ends(&["convert", model, "--to", "gguf", "-o", &output, "--dry-run"]);
            let text = stderr(&converted);
            println!("{name} as {kind}: {text}");
            if !refused {
                continue;
            }
            assert_eq!(converted.status.code(), Some(1), "{name} as {kind} was accepted");
            assert!(text.contains(name), "{name} as {kind}: {text}");
            if !name.starts_with("model") {
                assert!(text.contains(called), "{name} as {kind}: {text}");
            }
        }
    }
}

#[test]
fn files_given_by_name_are_looked_at_too() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("given");
    let given = path.to_str().unwrap();
    let model = fixture("bookworm-4m");
    let model = model.to_str().unwrap();
    let output = scratch.path().join("out").display().to_string();
    for (kind, _) in KINDS {
        put(kind, &path);
        let quantize = ["quantize", model, "--to", "q4_k_m", "-o", &output, "--dry-run", "--imatrix", given];
        for args in [
            &["inspect", given][..],
            &quantize,
            &["diff", given, model],
            &["convert", given, "--to", "gguf", "-o", &output],
        ] {
            assert!(!ends(args).status.success(), "{args:?} of a {kind}");
        }
        // A pipe is a text that may still come: whoever gives one means to fill it.
        if kind != "pipe" {
            let text = stderr(&ends(&["perplexity", model, "--text", given]));
            assert!(text.contains("given"), "{text}");
        }
        match kind {
            "folder" => std::fs::remove_dir(&path).unwrap(),
            _ => std::fs::remove_file(&path).unwrap(),
        }
    }
    let text = stderr(&ends(&["perplexity", model, "--text", "/dev/zero"]));
    assert!(text.contains("/dev/zero: a character device"), "{text}");
}

/// What is meant to work: a text out of a pipe, by name and on standard input.
#[test]
fn texts_come_out_of_pipes() {
    let text = fixture("text/calibration.txt");
    let model = fixture("bookworm-4m");
    let run = |script: &str| {
        let shell = std::process::Command::new("bash")
            .args(["-c", script, env!("CARGO_BIN_EXE_quern")])
            .arg(&model)
            .arg(&text)
            .output();
        let output = shell.expect("bash runs");
        assert!(output.status.success(), "{script}: {}", stderr(&output));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["perplexity"].clone()
    };
    let of_file = run("\"$0\" perplexity \"$1\" --text \"$2\" --chunks 1 --json");
    assert_eq!(run("\"$0\" perplexity \"$1\" --text <(cat \"$2\") --chunks 1 --json"), of_file);
    assert_eq!(run("cat \"$2\" | \"$0\" perplexity \"$1\" --text - --chunks 1 --json"), of_file);
}
