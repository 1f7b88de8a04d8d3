//! `quern run`, `perplexity`, `bench` and `demo`.

use std::io::Write;
use std::process::{Output, Stdio};

use crate::common::{command, failure, fixture, quern, stderr, stdout};

fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&stdout(&quern(args))).unwrap()
}

fn model() -> String {
    fixture("bookworm-4m").display().to_string()
}

fn q4() -> String {
    fixture("bookworm-4m-Q4_K_M.gguf").display().to_string()
}

#[test]
fn greedy_text_is_the_one_transformers_gives() {
    // transformers 5.23 in float32 on the same weights, 32 greedy tokens after this prompt.
    let golden = fixture("golden/bookworm-4m.logits.safetensors");
    let checkpoint = quern_tensor_io::Checkpoint::open(&golden).unwrap();
    let ids = checkpoint.tensor("prompt0.greedy_ids").unwrap();
    let expected: Vec<i64> =
        ids.data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
    let v = json(&[
        "run",
        &model(),
        "-p",
        "It was a dark night, and the old captain",
        "-n",
        "32",
        "--temp",
        "0",
        "--json",
    ]);
    let tokens: Vec<i64> = v["tokens"].as_array().unwrap().iter().map(|t| t.as_i64().unwrap()).collect();
    assert_eq!(tokens, expected);
    for key in [
        "text",
        "prompt_tokens",
        "prompt_tokens_per_second",
        "generate_tokens_per_second",
        "peak_memory_bytes",
    ] {
        assert!(!v[key].is_null(), "{key}: {v}");
    }
}

#[test]
fn text_streams_to_standard_output_and_the_report_goes_elsewhere() {
    let output = quern(["run", &q4(), "-p", "The sea was", "-n", "20", "--seed", "7", "-t", "1"]);
    let text = stdout(&output);
    assert!(text.starts_with("The sea was") && text.len() > 30, "{text}");
    assert!(stderr(&output).contains("peak memory"), "{}", stderr(&output));
    let again = quern(["run", &q4(), "-p", "The sea was", "-n", "20", "--seed", "7", "-t", "3"]);
    assert_eq!(text, stdout(&again), "same seed, same text, whatever the thread count");
}

#[test]
fn a_prompt_beyond_the_context_is_refused_before_any_work() {
    let text = failure(&quern(["run", &q4(), "-p", &"many words ".repeat(40), "--context", "16"]));
    assert!(text.contains("--context"), "{text}");
}

/// Runs quern with `input` on its standard input.
pub fn quern_reading(input: &str, args: &[&str]) -> Output {
    let mut command = command();
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Standard error of a wrong call.
pub fn usage(args: &[&str]) -> String {
    let output = quern_reading("", args);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    stderr(&output)
}

const PROMPT: &str = "It was a dark night, and the old captain";

#[test]
fn a_prompt_comes_from_the_command_line_a_file_or_standard_input() {
    let model = q4();
    let end = ["-n", "8", "--temp", "0"];
    let run =
        |input: &str, args: &[&str]| stdout(&quern_reading(input, &[&["run", &model], args, &end].concat()));
    let expected = run("", &["-p", PROMPT]);
    assert!(expected.starts_with(PROMPT) && expected.len() > PROMPT.len() + 10, "{expected}");
    assert_eq!(run(&format!("{PROMPT}\n"), &["-p", "-"]), expected);
    assert_eq!(run(PROMPT, &["-p", "-"]), expected);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompt.txt");
    std::fs::write(&file, format!("{PROMPT}\r\n")).unwrap();
    let file = file.display().to_string();
    assert_eq!(run("", &["-f", &file]), expected);

    assert!(usage(&["run", &model]).contains("--prompt"));
    assert!(usage(&["run", &model, "-p", "a", "-f", &file]).contains("--file"));
    let text = failure(&quern(["run", &model, "-f", "no/such/file"]));
    assert!(text.contains("no/such/file"), "{text}");
}

#[test]
fn generation_ends_at_a_stop_text_at_the_limit_or_when_the_context_is_full() {
    let run = |args: &[&str]| {
        let model = q4();
        let base = ["run", &model, "-p", PROMPT, "--temp", "0", "--json"];
        let output = quern([&base, args].concat());
        (serde_json::from_str::<serde_json::Value>(&stdout(&output)).unwrap(), stderr(&output))
    };
    let (whole, _) = run(&["-n", "20"]);
    assert_eq!(whole["stop"], "limit");
    let text = whole["text"].as_str().unwrap();
    let stop = &text[12..17];
    let (stopped, _) = run(&["-n", "20", "--stop", "never", "--stop", stop]);
    assert_eq!((&stopped["stop"], &stopped["stop_text"]), (&"stop_text".into(), &stop.into()));
    assert_eq!(stopped["text"], text[..text.find(stop).unwrap()]);

    // 11 tokens and 6 more; the last of them needs no position.
    let (full, said) = run(&["-n", "-1", "--ignore-eos", "--context", "16"]);
    assert_eq!((&full["stop"], full["tokens"].as_array().unwrap().len()), (&"context_full".into(), 6));
    assert!(said.contains("--context"), "{said}");
    let (full, _) = run(&["--ignore-eos", "--context", "16"]);
    assert_eq!(full["stop"], "context_full", "a limit that nobody gave need not fit");
    let refused = quern(["run", &q4(), "-p", PROMPT, "-n", "7", "--context", "16"]);
    assert!(refused.stdout.is_empty(), "nothing is printed before all checks have passed");
    let text = failure(&refused);
    assert!(text.contains("--context") && text.contains("-n"), "{text}");
    assert!(usage(&["run", &q4(), "-p", PROMPT, "-n", "-2"]).contains("-1 for no limit"));
}

#[test]
fn logprobs_are_in_the_json_or_in_a_table_beside_the_text() {
    let model = q4();
    let base = ["run", &model, "-p", PROMPT, "-n", "3", "--temp", "0", "--logprobs", "2"];
    let v = json(&[&base[..], &["--json"]].concat());
    let logprobs = v["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), 3);
    for (token, id) in logprobs.iter().zip(v["tokens"].as_array().unwrap()) {
        assert_eq!(&token["id"], id);
        let top = token["top"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["id"]), (2, id), "greedy takes the likeliest");
        assert_eq!(top[0]["logprob"], token["logprob"]);
        assert!(
            token["logprob"].as_f64().unwrap() < 0.0
                && top[1]["logprob"].as_f64() < top[0]["logprob"].as_f64()
        );
    }
    let texts: String = logprobs.iter().map(|t| t["text"].as_str().unwrap()).collect();
    assert_eq!(v["text"], texts);
    let output = quern(base);
    assert!(stderr(&output).contains("likeliest"), "{}", stderr(&output));
    assert_eq!(stdout(&output), format!("{PROMPT}{texts}\n"));
}

#[test]
fn sampling_options_reach_the_sampler() {
    let model = q4();
    let run = |args: &[&str]| {
        let base = ["run", &model, "-p", PROMPT, "-n", "24", "--seed", "5", "--json"];
        json(&[&base[..], args].concat())["tokens"].clone()
    };
    let greedy = run(&["--temp", "0"]);
    // Each of these leaves one candidate.
    for args in [
        &["--top-k", "1"][..],
        &["--top-p", "1e-6"],
        &["--min-p", "1"],
        &["--top-n-sigma", "1e-6"],
        &["--temp", "1e-4", "--samplers", "temperature"],
    ] {
        assert_eq!(run(args), greedy, "{args:?}");
    }
    let plain = run(&[]);
    assert_eq!(
        run(&["--samplers", "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature"]),
        plain
    );
    for args in [
        &["--repeat-penalty", "3"][..],
        &["--presence-penalty", "5"],
        &["--frequency-penalty", "5", "--repeat-last-n", "-1"],
        &["--dry-multiplier", "5", "--dry-allowed-length", "0"],
        &["--xtc-probability", "1", "--xtc-threshold", "0.05"],
        &["--typical-p", "0.3"],
        &["--mirostat", "2", "--mirostat-ent", "1"],
        &["--mirostat", "1", "--mirostat-ent", "1"],
    ] {
        assert_ne!(run(args), plain, "{args:?}");
    }
    let text = failure(&quern(["run", &model, "-p", "a", "--top-p", "0"]));
    assert!(text.contains("top-p"), "{text}");
    assert!(usage(&["run", &model, "-p", "a", "--samplers", "top_k;top"]).contains("top_n_sigma"));
}

#[test]
fn perplexity_agrees_with_llama_cpp() {
    let text = fixture("text/validation.txt").display().to_string();
    let half = json(&["perplexity", &model(), "--text", &text, "--chunks", "12", "--json"]);
    let q4 =
        json(&["perplexity", &q4(), "--text", &text, "--chunks", "12", "--reference", &model(), "--json"]);
    assert_eq!(half["tokens"], 12 * 255);
    // llama-perplexity on the same files, text and chunks.
    assert!((half["perplexity"].as_f64().unwrap() - LLAMA_CPP_F16).abs() < 0.005, "{half}");
    // Activations are rounded to 8 bits on the way: the last bits of a sum, which SIMD levels and programs
    // order differently, move this figure by up to 0.04.
    assert!((q4["perplexity"].as_f64().unwrap() - LLAMA_CPP_Q4_K_M).abs() < 0.06, "{q4}");
    assert!(q4["kl_mean"].as_f64().unwrap() > 0.0 && q4["kl_p99"].as_f64().unwrap() > 0.0, "{q4}");
    assert!(q4["top1_agreement"].as_f64().unwrap() > 0.8, "{q4}");
    let ratio = q4["perplexity"].as_f64().unwrap() / q4["reference_perplexity"].as_f64().unwrap();
    assert!((q4["perplexity_ratio"].as_f64().unwrap() - ratio).abs() < 1e-9, "{q4}");
    assert!((q4["ln_perplexity_ratio"].as_f64().unwrap() - ratio.ln()).abs() < 1e-9, "{q4}");
}

#[test]
fn keys_and_values_in_8_bits_cost_next_to_nothing() {
    let text = fixture("text/validation.txt").display().to_string();
    let model = q4();
    let args =
        ["perplexity", &model, "--text", &text, "--chunks", "3", "--kv", "q8_0", "--reference", &model];
    let printed = stdout(&quern(args));
    for part in ["ratio 1.00", "ln ratio", "KL divergence mean 0.0", "same first token"] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
}

#[test]
fn a_bound_on_memory_changes_no_token() {
    let model = q4();
    let args = ["run", &model, "-p", "The sea was", "-n", "12", "--temp", "0", "--json", "--kv", "q8_0"];
    let free = json(&args);
    let bounded = json(&[&args[..], &["--max-memory", "cpu=512MiB"]].concat());
    assert_eq!(free["tokens"], bounded["tokens"]);
    let peak = bounded["peak_memory_bytes"].as_u64();
    assert!(peak.is_none_or(|peak| peak < 512 << 20), "{bounded}");
}

#[test]
fn a_bound_that_cannot_be_kept_is_refused_with_numbers() {
    let with = |limit: &str| quern(["run", &q4(), "-p", "x", "-n", "2", "--max-memory", limit]);
    let text = failure(&with("cpu=8MiB"));
    for part in ["8 MiB", "the largest layer takes", "keys and values", "raise --max-memory", "--kv q8_0"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for (limit, part) in [
        ("cpu=lots", "examples are 8GiB"),
        ("cpu=8 apples", "no unit of memory"),
        ("disk=8GiB", "expected cpu=SIZE"),
    ] {
        let output = with(limit);
        assert_eq!(output.status.code(), Some(2), "{limit}");
        assert!(stderr(&output).contains(part), "{limit}: {}", stderr(&output));
    }
}

/// llama-perplexity, `-c 512 --chunks 12` on `fixtures/text/validation.txt`.
const LLAMA_CPP_F16: f64 = 25.8337;
/// The same on `fixtures/bookworm-4m-Q4_K_M.gguf`.
const LLAMA_CPP_Q4_K_M: f64 = 26.5548;

#[test]
fn bench_reports_both_speeds() {
    let v = json(&["bench", &q4(), "--prompt", "32", "--generate", "8", "--repetitions", "2", "--json"]);
    assert!(v["prompt_tokens_per_second"].as_f64().unwrap() > 0.0, "{v}");
    assert!(v["generate_tokens_per_second"].as_f64().unwrap() > 0.0, "{v}");
    assert!(v["tests"][1]["share_of_limit"].as_f64().unwrap() > 0.0, "{v}");
}

#[test]
fn bench_takes_several_models_lengths_and_depths() {
    let tests = ["--prompt", "8,16", "--generate", "4", "--depth", "0,24", "-r", "1", "--kv", "q8_0"];
    let (plain, quantized) = (model(), q4());
    let args = [&["bench", &quantized, &plain][..], &tests].concat();
    let list = json(&[&args[..], &["--json"]].concat());
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(list[1]["model"], plain);
    for report in list {
        assert_eq!(report["tests"].as_array().unwrap().len(), 6, "{report}");
        assert!(report["prompt_tokens_per_second"].as_f64().unwrap() > 0.0, "{report}");
        assert!(report["memory_bytes_per_second"].as_f64().unwrap() > 0.0, "{report}");
    }
    let bytes = |at: usize| list[at]["tests"][2]["bytes_per_token"].as_u64().unwrap();
    assert!(bytes(0) < bytes(1) / 2, "4 bits and 16");
    let table = stdout(&quern(&args));
    for part in ["bookworm-4m-Q4_K_M.gguf", "pp16 @ d24", "tg4", "of limit", "q8_0", "GB/s read from memory"]
    {
        assert!(table.contains(part), "{part} in {table}");
    }
    assert!(table.lines().count() >= 14, "{table}");
}

#[test]
fn the_demo_runs_to_its_end() {
    let text = stdout(&quern(["demo"]));
    for part in ["q4_k_m", "q8_0", "perplexity", "bits"] {
        assert!(text.to_lowercase().contains(part), "{part} in {text}");
    }
}
