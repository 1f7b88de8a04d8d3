//! Agreement with transformers (logits, greedy text) and with llama.cpp (perplexity).

use std::path::PathBuf;

use crate::common::{agrees_with_transformers, fixture, golden, load};
use quern_run::{GenerateOptions, Model, PerplexityOptions, perplexity};
use quern_tensor_io::NoProgress;

#[test]
fn bookworm_4m_agrees_with_transformers() {
    let reference = fixture("golden/bookworm-4m.logits.safetensors");
    agrees_with_transformers("bookworm-4m", &load(&fixture("bookworm-4m"), 2), &reference, 1e-3, false);
}

/// The same for models outside the repository: `QUERN_TEST_MODEL=dir QUERN_TEST_LOGITS=file`.
#[test]
#[ignore = "needs a model that is not in the repository"]
fn another_model_agrees_with_transformers() {
    let path = |name| PathBuf::from(std::env::var(name).unwrap());
    let model = Model::open(&path("QUERN_TEST_MODEL"), Default::default()).unwrap();
    agrees_with_transformers("the model", &model, &path("QUERN_TEST_LOGITS"), 2e-3, false);
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
            assert_eq!(model.tokenizer().unwrap().encode(prompt, encode).unwrap(), golden.input_ids);
        }
    }
}

/// llama.cpp on the same text, context 512, 40 chunks: F16 22.6931, Q4_K_M 23.2524 (its own file).
#[test]
fn perplexity_is_llama_perplexitys() {
    let text = std::fs::read_to_string(fixture("text/validation.txt")).unwrap();
    let options = PerplexityOptions { chunks: Some(40), ..PerplexityOptions::default() };
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
    // llama-perplexity on the same two files: ln ratio 0.0244 of the perplexities above.
    assert!((against.ln_perplexity_ratio - (23.2524f64 / 22.6931).ln()).abs() < 3e-3, "{against:?}");
    // The two see the same tokens: the ratio is known ten times better than either perplexity.
    let error = report.stderr / report.perplexity;
    assert!(against.ln_perplexity_ratio_stderr < 0.3 * error, "{against:?}");
    assert!(against.kl_median < against.kl_mean && against.kl_max > against.kl_p99);
    assert!(against.top1_agreement > 0.8 && against.top1_agreement < 1.0, "{}", against.top1_agreement);
}
