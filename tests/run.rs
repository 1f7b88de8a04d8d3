//! `quern run`, `perplexity`, `bench` and `demo`.

use crate::common::{failure, fixture, quern, stderr, stdout};

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
}

#[test]
fn the_demo_runs_whole() {
    let text = stdout(&quern(["demo"]));
    for part in ["q4_k_m", "q8_0", "perplexity", "bits"] {
        assert!(text.to_lowercase().contains(part), "{part} in {text}");
    }
}
