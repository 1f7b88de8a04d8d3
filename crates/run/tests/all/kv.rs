//! What keeping keys and values in 8 bits costs: logits, perplexity, memory.

use std::sync::Arc;

use crate::common::{fixture, golden, load, relative_errors};
use quern_run::{KvType, LoadOptions, Model, PerplexityOptions, SessionOptions, Wanted, perplexity};
use quern_tensor_io::{Checkpoint, NoProgress};

fn logits(model: &Model, kv: KvType, tokens: &[u32]) -> Vec<f32> {
    let context = model.config().context_length.min(256);
    let mut session = model.session(SessionOptions { context, kv, ..SessionOptions::default() }).unwrap();
    // The prompt in one pass, then a token at a time: attention computes the two in different ways.
    let (prompt, rest) = tokens.split_at(tokens.len() / 2);
    let mut all = session.forward(prompt, Wanted::All).unwrap().to_vec();
    for &token in rest {
        all.extend_from_slice(session.forward(&[token], Wanted::Last).unwrap());
    }
    all
}

#[test]
fn logits_of_bookworm_stay_near() {
    let model = load(&fixture("bookworm-4m"), 2);
    for golden in golden(&fixture("golden/bookworm-4m.logits.safetensors")) {
        let got = logits(&model, KvType::Q8_0, &golden.input_ids);
        let got = &got[got.len() - golden.logits.len()..];
        let (largest, row) = relative_errors(got, &golden.logits, model.vocabulary());
        eprintln!("q8_0 against transformers: largest difference {largest:.2e}, worst row {row:.2e}");
        assert!(largest < 2e-2 && row < 2e-2, "{largest:e} {row:e}");
        assert!(largest > 1e-5, "nothing was rounded");
    }
}

#[test]
fn perplexity_changes_by_less_than_a_thousandth() {
    let model = load(&fixture("bookworm-4m"), 2);
    let text = std::fs::read_to_string(fixture("text/validation.txt")).unwrap();
    let options = PerplexityOptions { chunks: Some(40), kv: KvType::Q8_0, ..PerplexityOptions::default() };
    let report = perplexity(&model, Some(&model), &text, options, &NoProgress).unwrap();
    eprintln!("{report:?}");
    let against = report.against.unwrap();
    assert!((against.perplexity_ratio - 1.0).abs() < 1e-3, "{against:?}");
    assert!(against.kl_mean > 0.0 && against.kl_mean < 1e-3, "{against:?}");
    assert!(against.top1_agreement > 0.98, "{against:?}");
}

/// Heads of 8 and 16 values fill a quarter and half of a block; windows, soft caps, one key-value head.
#[test]
fn every_architecture_runs_with_it() {
    let folders = std::fs::read_dir(fixture("architectures")).unwrap();
    let mut count = 0;
    for folder in folders.map(|f| f.unwrap().path()).filter(|f| f.is_dir()) {
        let checkpoint = Arc::new(Checkpoint::open(&folder.join("model.safetensors")).unwrap());
        let model = Model::load(checkpoint, LoadOptions { threads: 2, ..LoadOptions::default() }).unwrap();
        for golden in golden(&folder.join("logits.safetensors")) {
            let got = logits(&model, KvType::Q8_0, &golden.input_ids);
            let exact = logits(&model, KvType::F32, &golden.input_ids);
            let vocabulary = model.vocabulary();
            let rows = got.chunks(vocabulary).zip(exact.chunks(vocabulary));
            let mut errors: Vec<f64> = rows.map(|(a, b)| relative_errors(a, b, vocabulary).1).collect();
            errors.sort_by(f64::total_cmp);
            let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
            eprintln!("{}: median {median:.2e}, worst {worst:.2e}", folder.display());
            // Rounding may send a token to another expert, and its row is then quite another: of two rows that have
            // nothing in common the error is the square root of two.
            let bound = if model.config().experts.is_some() { 1.5 } else { 6e-2 };
            assert!(median < 3e-2 && worst < bound, "{}: {median:e} {worst:e}", folder.display());
        }
        count += 1;
    }
    assert!(count > 20, "{count}");
}

#[test]
fn names_lead_back() {
    for kv in KvType::ALL {
        assert_eq!(KvType::from_name(kv.name()), Some(kv));
    }
    assert_eq!(KvType::from_name("q4_0"), None);
}
