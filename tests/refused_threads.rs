//! A system that refuses threads: commands use fewer, or none beside their own, and give the same results.
//!
//! Threads are refused by the size of their stacks, which `RUST_MIN_STACK` sets: it works for every user, while limits
//! of processes do not hold for root.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::{fixture, model, q4, stderr, stdout};
use crate::fake_hub::{FakeHub, Repo};

/// How many threads the system allows.
#[derive(Clone, Copy, Debug)]
enum Allowed {
    /// Beside the first.
    None,
    /// Two or three more: so many stacks fit in the address space.
    Few,
}

fn limited(allowed: Allowed) -> Command {
    let mut command = Command::new("sh");
    let (stack, script) = match allowed {
        // Beyond what any address space has.
        Allowed::None => (1_u64 << 48, "exec \"$0\" \"$@\""),
        Allowed::Few => (1 << 30, "ulimit -v 3500000; exec \"$0\" \"$@\""),
    };
    command.args(["-c", script, env!("CARGO_BIN_EXE_quern")]).env("RUST_MIN_STACK", stack.to_string());
    command
}

/// Runs quern where threads are refused. No thread of it may panic, whatever the exit code.
fn run(allowed: Allowed, args: &[&str]) -> Output {
    let output = limited(allowed).args(["--progress", "plain"]).args(args).output().unwrap();
    assert!(!stderr(&output).contains("panicked"), "{args:?}: {}", stderr(&output));
    output
}

fn both(mut check: impl FnMut(Allowed)) {
    [Allowed::None, Allowed::Few].into_iter().for_each(&mut check);
}

#[test]
fn threads_are_really_refused() {
    // Otherwise the tests below say nothing.
    let thread = "std::thread::Builder::new().spawn";
    let refused = std::thread::Builder::new().stack_size(1 << 48).spawn(|| ()).is_err();
    assert!(refused, "{thread} gives a thread a stack of 2^48 bytes");
}

#[test]
fn files_are_written_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (from, quantized) = (model(), q4());
    let text = fixture("text/calibration.txt").display().to_string();
    let jobs: [&[&str]; 5] = [
        &["quantize", &from, "--to", "q4_k_m", "--threads", "8", "--no-provenance"],
        &["quantize", &from, "--to", "nf4", "--no-provenance"],
        &["convert", &from, "--to", "gguf", "--no-provenance"],
        &["convert", &quantized, "--to", "safetensors", "--dtype", "f16", "--no-provenance"],
        &["imatrix", &from, "--text", &text, "--context", "128", "--chunks", "2", "--no-provenance"],
    ];
    for (number, job) in jobs.iter().enumerate() {
        let written = |name: &str, output: &dyn Fn(&[&str]) -> Output| {
            let out = dir.path().join(format!("{number}-{name}"));
            // The name of the output may be part of it.
            std::fs::create_dir(&out).unwrap();
            let out = out.join("out.gguf");
            let output = output(&[*job, &["-o", out.to_str().unwrap()]].concat());
            assert!(output.status.success(), "{job:?}: {}", stderr(&output));
            tensors(&out)
        };
        let usual = written("usual", &|args| crate::common::quern(args));
        both(|allowed| {
            let same = written(&format!("{allowed:?}"), &|args| run(allowed, args)) == usual;
            assert!(same, "{job:?} with {allowed:?}");
        });
    }
}

/// The bytes of a file, or of the weights in a folder.
fn tensors(path: &Path) -> Vec<u8> {
    let file = if path.is_dir() { path.join("model.safetensors") } else { path.to_path_buf() };
    std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

#[test]
fn models_are_read_and_run() {
    let dir = tempfile::tempdir().unwrap();
    let (from, quantized) = (model(), q4());
    let text = fixture("text/validation.txt").display().to_string();
    let calibration = fixture("text/calibration.txt").display().to_string();
    let chat = fixture("architectures/qwen2").display().to_string();
    both(|allowed| {
        let path = |name: &str| dir.path().join(format!("{allowed:?}-{name}")).display().to_string();
        let (page, gptq) = (path("page.html"), path("gptq"));
        let commands: [&[&str]; 12] = [
            &["inspect", &quantized, "--check"],
            &["inspect", &from, "--report", &page],
            &["inspect", &quantized, "--histogram", "blk.0.attn_q.weight"],
            &["fit", &from],
            &["run", &quantized, "-p", "Once", "-n", "4"],
            &["run", &from, "--chat", "--chat-template", "zephyr", "-p", "Once", "-n", "4"],
            &["run", &chat, "--chat", "-p", "Once", "-n", "4"],
            &["perplexity", &from, "--text", &text, "--context", "64", "--chunks", "2"],
            &["bench", &quantized, "--prompt", "16", "--generate", "2"],
            &["doctor"],
            &["quantize", &from, "--to", "q4_k_m", "--dry-run"],
            &[
                "quantize",
                &from,
                "--to",
                "gptq",
                "--calibration",
                &calibration,
                "--samples",
                "1",
                "--context",
                "32",
                "-o",
                &gptq,
            ],
        ];
        for args in commands {
            stdout(&run(allowed, args));
        }
        if matches!(allowed, Allowed::None) {
            // The models of the catalogue are mapped, which takes more than the address space of the other case.
            stdout(&run(allowed, &["fit", "--vram", "8GiB"]));
        }
        // Two different models, of which 1 says that they differ.
        assert_eq!(run(allowed, &["diff", &from, &quantized]).status.code(), Some(1));
    });
}

#[test]
fn models_are_pulled() {
    let repo = || Repo::new("quern/bookworm").folder(&fixture("bookworm-4m"));
    both(|allowed| {
        let (server, home) = (FakeHub::new(repo()), tempfile::tempdir().unwrap());
        let mut command = limited(allowed);
        for name in ["HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy"] {
            command.env_remove(name);
        }
        command.env_remove("XDG_CACHE_HOME").env("HOME", home.path()).env("HF_ENDPOINT", server.endpoint());
        let output = command.args(["pull", "quern/bookworm"]).output().unwrap();
        assert!(stdout(&output).contains("model.safetensors"), "{}", stderr(&output));
    });
}
