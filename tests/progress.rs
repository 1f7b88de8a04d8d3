//! What is written to standard error while a command works: progress, notes, and what `--quiet` leaves of them.

use crate::common::{fixture, quern, stderr, stdout};

fn quantize(more: &[&str]) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("bookworm-4m"), folder.path().join("out.gguf"));
    let args = ["quantize", model.to_str().unwrap(), "--to", "q4_0", "-o", out.to_str().unwrap()];
    quern([&args, more].concat())
}

#[test]
fn plain_progress_is_lines_with_start_and_end() {
    let output = quantize(&["--progress", "plain"]);
    assert!(stdout(&output).contains("q4_0"));
    let lines = stderr(&output);
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines.first(), Some(&"quantizing to q4_0: 8.00 MiB"), "{lines:?}");
    let last = lines.last().unwrap();
    assert!(last.starts_with("quantizing to q4_0: done, 8.00 MiB in ") && last.ends_with("/s"), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains(['\x1b', '\r'])), "{lines:?}");
}

#[test]
fn nothing_is_drawn_where_standard_error_is_no_terminal() {
    assert_eq!(stderr(&quantize(&[])), "");
    assert_eq!(stderr(&quantize(&["--progress", "none"])), "");
}

#[test]
fn every_step_of_a_conversion_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("bookworm-4m"), folder.path().join("out.gguf"));
    let args = ["--progress", "plain", "convert", model.to_str().unwrap(), "--to", "gguf", "-o"];
    let output = quern(args.into_iter().chain(out.to_str()));
    let said = stderr(&output);
    for part in ["converting to gguf: 8.", "converting to gguf: done", "verifying: 8.", "verifying: done"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn quiet_keeps_results_and_warnings() {
    let model = fixture("bookworm-4m");
    let model = model.to_str().unwrap();
    let run = ["run", model, "-p", "It was", "-n", "4", "--temp", "0", "--device", "cpu", "--ngl", "99"];
    let usual = quern(run);
    assert!(stderr(&usual).contains("note: --ngl") && stderr(&usual).contains("peak memory"));
    let quiet = quern(run.into_iter().chain(["-q"]));
    assert_eq!((stdout(&quiet), stderr(&quiet)), (stdout(&usual), String::new()));

    let plan = ["--quiet", "quantize", model, "--to", "gptq", "--bits", "3", "--dry-run"];
    assert!(stderr(&quern(plan)).starts_with("warning: vLLM"), "{}", stderr(&quern(plan)));

    let failed = quern(["run", "/no/such/model", "-p", "x", "--quiet"]);
    assert!(stderr(&failed).starts_with("error: "), "{}", stderr(&failed));
}

#[test]
fn bars_can_be_asked_for_and_leave_nothing_behind() {
    let model = fixture("bookworm-4m");
    let text = fixture("text/validation.txt");
    let args = ["perplexity", model.to_str().unwrap(), "--text", text.to_str().unwrap(), "-q"];
    let output = quern(args.into_iter().chain(["--progress", "bar", "--chunks", "12", "-t", "1"]));
    let drawn = stderr(&output);
    // Whether the machine is quick enough to draw none is not known, but what is drawn is cleared.
    assert!(stdout(&output).starts_with("perplexity "));
    assert!(
        drawn.is_empty() || drawn.contains("measuring perplexity") && drawn.ends_with("\x1b[2K"),
        "{drawn:?}"
    );
}

#[test]
fn options_of_llama_cpp_work_behind_options_of_all_commands() {
    let model = fixture("bookworm-4m");
    let args = ["--progress", "none", "run", "-m", model.to_str().unwrap(), "--dry-run", "-ngl", "0"];
    assert!(stdout(&quern(args)).contains("0 of 5 layers on GPUs"));
}
