//! A model runs within a bound on resident memory, and computes the same as without. Alone in its binary:
//! the kernel counts memory by process.

#![allow(missing_docs)]
#![cfg(target_os = "linux")]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use quern_run::{
    Error, KvType, LoadOptions, Model, PerplexityOptions, SessionOptions, Wanted, peak_memory_bytes,
    perplexity_of_tokens, resident,
};
use quern_tensor_io::{Checkpoint, NoProgress, Remedy};
use serde_json::{Map, json};

const HIDDEN: usize = 1024;
const FFN: usize = 4096;
const LAYERS: usize = 8;
const VOCAB: usize = 4096;

const MIB: u64 = 1 << 20;

/// 249 MiB of f16 weights: a pattern of small numbers over and over, in a few large writes.
fn write_model(directory: &Path) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
        "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "vocab_size": VOCAB,
    });
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
        ("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN]),
    ];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![HIDDEN / 4, HIDDEN]),
            ("self_attn.v_proj", vec![HIDDEN / 4, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![FFN, HIDDEN]),
            ("mlp.up_proj", vec![FFN, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, FFN]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in &shapes {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]}));
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let mut file = std::fs::File::create(directory.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    // Halves of either sign and exponents 2^-7 to 2^-4; a length that no row has, so that rows differ.
    let mut state = 1u32;
    let pattern: Vec<u8> = (0..(1 << 19) + 37)
        .flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let bits = (state >> 16) as u16;
            (bits & 0x83ff | (8 + (bits >> 10 & 3)) << 10).to_le_bytes()
        })
        .collect();
    let mut left = end;
    while left > 0 {
        let now = left.min(pattern.len());
        file.write_all(&pattern[..now]).unwrap();
        left -= now;
    }
}

fn load(directory: &Path, limit: Option<u64>) -> Model {
    let checkpoint = Arc::new(Checkpoint::open(directory).unwrap());
    let options = LoadOptions { threads: 2, max_memory: limit, ..LoadOptions::default() };
    Model::load(checkpoint, options).unwrap()
}

/// Largest resident memory while `body` runs.
fn peak_of<T>(body: impl FnOnce() -> T) -> (u64, T) {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let result = body();
    (peak_memory_bytes().unwrap(), result)
}

/// A prompt and some tokens after it.
fn run(model: &Model, kv: KvType) -> Vec<f32> {
    let options = SessionOptions { context: 200, kv, ..SessionOptions::default() };
    let mut session = model.session(options).unwrap();
    let tokens: Vec<u32> = (0..70).map(|i| i * 397 % VOCAB as u32).collect();
    let mut all = session.forward(&tokens[..64], Wanted::Last).unwrap().to_vec();
    for token in &tokens[64..] {
        all.extend_from_slice(session.forward(&[*token], Wanted::Last).unwrap());
    }
    all
}

#[test]
fn resident_memory_stays_within_the_bound() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    write_model(path);
    let own = resident().unwrap().own;
    assert!(own < 40 * MIB, "the test itself takes {own} bytes");

    let bound = 128 * MIB;
    let options = SessionOptions { context: 200, ..SessionOptions::default() };
    let (peak, bounded) = peak_of(|| {
        let model = load(path, Some(bound));
        let plan = model.memory_plan(options).unwrap().unwrap();
        eprintln!("{plan:?}");
        assert!(plan.asked && plan.bound == bound);
        // Some layers stay, and most do not.
        assert!(plan.streamed > plan.weights / 2 && plan.streamed < plan.weights, "{plan:?}");
        run(&model, KvType::F16)
    });
    eprintln!("bound {bound}, peak {peak}");
    assert!(peak <= bound, "{peak} bytes were resident");

    // Without a bound everything is, and the numbers are the same.
    let (whole, unbounded) = peak_of(|| {
        let model = load(path, None);
        assert!(model.memory_plan(options).unwrap().is_none());
        run(&model, KvType::F16)
    });
    assert!(whole > 240 * MIB, "{whole}");
    assert!(bounded.iter().all(|v| v.is_finite()) && bounded == unbounded);

    // A bound that everything fits into changes nothing.
    let model = load(path, Some(400 * MIB));
    assert_eq!(model.memory_plan(options).unwrap().unwrap().streamed, 0);
    let (peak, all) = peak_of(|| run(&model, KvType::F16));
    assert!(peak <= 400 * MIB && all == unbounded);
    drop(model);
    // Nothing keeps the file mapped, the thread that reads ahead neither.
    let mapped = resident().unwrap().mapped;
    assert!(mapped < 40 * MIB, "{mapped} bytes of files are still resident");

    // Two models within one bound, each resident while it runs.
    let tokens: Vec<u32> = (0..512).map(|i| i * 397 % VOCAB as u32).collect();
    let compare = PerplexityOptions { context: 128, chunks: Some(2), kv: KvType::Q8_0 };
    let (peak, report) = peak_of(|| {
        let (model, reference) = (load(path, Some(bound)), load(path, Some(bound)));
        perplexity_of_tokens(&model, Some(&reference), &tokens, None, compare, &NoProgress).unwrap()
    });
    eprintln!("two models: peak {peak}");
    assert!(peak <= bound, "{peak} bytes were resident");
    assert!(report.against.unwrap().perplexity_ratio.is_finite());

    // Too little for one layer: an error with numbers, before anything is computed.
    let model = load(path, Some(48 * MIB));
    let error = model.session(options).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Memory { .. }) && text.contains("48 MiB"), "{text}");
    assert!(text.contains("the largest layer takes 30 MiB"), "{text}");
    assert_eq!(error.remedy(), Some(Remedy::RaiseMemory));
    // A cache of keys and values that leaves no room.
    let model = load(path, Some(bound));
    let large = SessionOptions { context: 1024, kv: KvType::F32, batch: 1024 };
    let plan = |options| model.memory_plan(options).unwrap().unwrap().streamed;
    assert!(plan(large) > plan(SessionOptions { context: 32, ..options }));
}
