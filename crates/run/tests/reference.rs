//! Agreement with transformers (logits, greedy text) and with llama.cpp (perplexity).

#![allow(missing_docs)]

mod common;

use std::path::{Path, PathBuf};

use common::{fixture, load, relative_errors};
use quern_run::{
    GenerateOptions, KvType, Model, PerplexityOptions, SamplingOptions, SessionOptions, Wanted,
    generate_from_tokens, perplexity,
};
use quern_tensor_io::{Checkpoint, NoProgress};

/// One prompt of a `*.logits.safetensors` file: float32 logits of transformers.
struct Golden {
    input_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    /// One row per position.
    logits: Vec<f32>,
}

fn golden(path: &Path) -> Vec<Golden> {
    let file = Checkpoint::open(path).unwrap();
    let ids = |name: String| {
        let data = file.tensor(&name).unwrap().data;
        data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as u32).collect()
    };
    let floats = |name: String| {
        let data = file.tensor(&name).unwrap().data;
        data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    };
    (0..2)
        .map(|n| Golden {
            input_ids: ids(format!("prompt{n}.input_ids")),
            greedy_ids: ids(format!("prompt{n}.greedy_ids")),
            logits: floats(format!("prompt{n}.logits")),
        })
        .collect()
}

/// Checks the logits of every position and 32 greedy tokens against a reference file.
fn agrees_with_transformers(model: &Model, reference: &Path) {
    for (n, golden) in golden(reference).iter().enumerate() {
        for kv in [KvType::F32, KvType::F16] {
            let options = SessionOptions { context: 256, kv, ..SessionOptions::default() };
            let mut session = model.session(options).unwrap();
            let logits = session.forward(&golden.input_ids, Wanted::All).unwrap();
            let (largest, row) = relative_errors(logits, &golden.logits, model.vocabulary());
            eprintln!("prompt {n}, {kv:?}: largest difference {largest:.2e}, worst row {row:.2e}");
            // Rounding keys and values to 11 bits is not float32: it has its own, wider bound.
            let bound = if kv == KvType::F32 { 1e-4 } else { 1e-3 };
            assert!(largest < bound && row < bound, "prompt {n}, {kv:?}: {largest:e}, {row:e}");

            let options = GenerateOptions {
                limit: Some(golden.greedy_ids.len()),
                context: Some(256),
                kv,
                sampling: SamplingOptions::greedy(),
                ignore_end: true,
                ..GenerateOptions::default()
            };
            let mut streamed = String::new();
            let report =
                generate_from_tokens(model, &golden.input_ids, &options, &mut |t| streamed.push_str(t))
                    .unwrap();
            assert_eq!(report.tokens, golden.greedy_ids, "prompt {n}, {kv:?}");
            assert_eq!(report.text, streamed);
        }
    }
}

#[test]
fn bookworm_4m_agrees_with_transformers() {
    let reference = fixture("golden/bookworm-4m.logits.safetensors");
    agrees_with_transformers(&load(&fixture("bookworm-4m"), 2), &reference);
}

/// The same for models outside the repository: `QUERN_TEST_MODEL=dir QUERN_TEST_LOGITS=file`.
#[test]
#[ignore = "needs a model that is not in the repository"]
fn another_model_agrees_with_transformers() {
    let path = |name| PathBuf::from(std::env::var(name).unwrap());
    let model = Model::open(&path("QUERN_TEST_MODEL"), Default::default()).unwrap();
    agrees_with_transformers(&model, &path("QUERN_TEST_LOGITS"));
}

/// Both prompts become the tokens transformers made of them.
#[test]
fn prompts_become_the_reference_tokens() {
    let golden = golden(&fixture("golden/bookworm-4m.logits.safetensors"));
    let prompts = [
        "It was a dark night, and the old captain",
        "\"I do not believe it,\" said Alice; naïve café № 42 — 東京 🙂",
    ];
    for model in [load(&fixture("bookworm-4m"), 1), load(&fixture("bookworm-4m-Q4_K_M.gguf"), 1)] {
        for (prompt, golden) in prompts.iter().zip(&golden) {
            let encode = GenerateOptions::default().encode;
            assert_eq!(model.tokenizer().unwrap().encode(prompt, encode), golden.input_ids);
        }
    }
}

/// llama.cpp on the same text, context 512, 40 chunks: F16 22.6931, Q4_K_M 23.2524 (its own file).
#[test]
fn perplexity_is_llama_perplexitys() {
    let text = std::fs::read_to_string(fixture("text/validation.txt")).unwrap();
    let options = PerplexityOptions { context: 512, chunks: Some(40) };
    let plain = load(&fixture("bookworm-4m"), 2);
    let quantized = load(&fixture("bookworm-4m-Q4_K_M.gguf"), 2);
    let report = perplexity(&quantized, Some(&plain), &text, options, &NoProgress).unwrap();
    eprintln!("{report:?}");
    assert_eq!((report.tokens, report.chunks), (40 * 255, 40));
    // Activations are rounded to 8 bits: kernels that only add in another order land some 0.01 apart (scalar
    // 23.2527, AVX2 23.2535, AVX-512 23.2687).
    assert!((report.perplexity - 23.2524).abs() < 0.05, "{}", report.perplexity);
    let against = report.against.unwrap();
    assert!((against.reference_perplexity - 22.6931).abs() < 0.01, "{}", against.reference_perplexity);
    assert!(report.stderr > 0.1 && report.stderr < 1.0, "{}", report.stderr);
    // The mean divergence bounds the rise in mean log-likelihood from neither side, but 4 bits are near.
    assert!(against.kl_mean > 0.001 && against.kl_mean < 0.1, "{}", against.kl_mean);
    assert!(against.kl_p99 > against.kl_mean);
    assert!(against.top1_agreement > 0.8 && against.top1_agreement < 1.0, "{}", against.top1_agreement);
}
