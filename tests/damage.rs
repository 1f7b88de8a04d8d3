//! Bad input and failing systems: a clear error, and no partial output.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use crate::common::{command, edit, failure, fixture, listing, model_copy, quern};

#[test]
fn truncated_and_foreign_files_name_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = fs::read(fixture("bookworm-4m-Q4_K_M.gguf")).unwrap();
    let path = dir.path().join("short.gguf");
    for length in [0, 3, 20, 1000, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        for command in ["inspect", "run"] {
            let mut args = vec![command, path.to_str().unwrap()];
            if command == "run" {
                args.extend(["-p", "x"]);
            }
            let text = failure(&quern(args));
            assert!(text.contains("short.gguf"), "{length}: {text}");
        }
    }
    let missing = dir.path().join("nowhere");
    assert!(failure(&quern(["inspect", missing.to_str().unwrap()])).contains("nowhere"));
}

#[test]
fn weights_that_are_not_finite_stop_a_quantization_before_anything_appears() {
    let (dir, model) = (tempfile::tempdir().unwrap(), model_copy());
    let weights = model.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let at = bytes.len() / 4 * 2;
    bytes[at..at + 2].copy_from_slice(&0x7c00u16.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let out = dir.path().join("out.gguf");
    let text = failure(&quern([
        "quantize",
        model.path().to_str().unwrap(),
        "--to",
        "q4_k_m",
        "-o",
        out.to_str().unwrap(),
    ]));
    assert!(text.contains("tensor") && text.contains("row"), "{text}");
    assert_eq!(listing(dir.path()), Vec::<String>::new());
}

#[test]
fn an_unknown_architecture_is_named() {
    let dir = model_copy();
    edit(dir.path(), "config.json", &[("LlamaForCausalLM", "GrainForCausalLM"), ("\"llama\"", "\"grain\"")]);
    let text = failure(&quern(["run", dir.path().to_str().unwrap(), "-p", "x"]));
    assert!(text.contains("config.json") && text.contains("GrainForCausalLM"), "{text}");
    // Still worth a look.
    let output = quern(["inspect", dir.path().to_str().unwrap()]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("GrainForCausalLM"));
}

#[test]
fn a_scheme_that_cannot_be_run_or_read_yet_is_named() {
    let dir = model_copy();
    edit(dir.path(), "config.json", &[("{", "{\"quantization_config\": {\"quant_method\": \"quip\"},")]);
    let model = dir.path().to_str().unwrap();
    let out = dir.path().join("out.gguf");
    for args in
        [vec!["run", model, "-p", "x"], vec!["quantize", model, "--to", "q8_0", "-o", out.to_str().unwrap()]]
    {
        let text = failure(&quern(args));
        assert!(text.contains("quip"), "{text}");
    }
    assert!(!out.exists());
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    // A file-size limit (in blocks of 512 bytes) fails the write half way, as a full disk does.
    let script = format!(
        "trap '' XFSZ; ulimit -f 2000; exec {:?} quantize {:?} --to q8_0 -o {:?}",
        env!("CARGO_BIN_EXE_quern"),
        fixture("bookworm-4m"),
        dir.path().join("out.gguf")
    );
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    let text = failure(&output);
    assert!(text.contains("out.gguf"), "{text}");
    assert_eq!(listing(dir.path()), Vec::<String>::new());
}

#[test]
fn a_killed_run_leaves_no_output_and_the_next_one_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let source = fixture("bookworm-4m");
    let args =
        ["quantize", source.to_str().unwrap(), "--to", "q2_k", "-o", out.to_str().unwrap(), "--threads", "1"];
    for delay in [0, 5, 20, 60] {
        let mut child = command().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        let _ = child.kill();
        child.wait().unwrap();
        // If it was killed before the end, there is no file of this name; otherwise the file is complete.
        if out.exists() {
            assert!(quern(["inspect", out.to_str().unwrap(), "--check"]).status.success());
            fs::remove_file(&out).unwrap();
        }
    }
    assert!(quern(args).status.success());
    assert!(quern(["inspect", out.to_str().unwrap(), "--check"]).status.success());
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let mut child = command()
        .args(["inspect", fixture("bookworm-4m").to_str().unwrap(), "--tensors", "--metadata"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
