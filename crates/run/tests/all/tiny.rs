//! Everything a Llama may have that bookworm has not (biases, an untied head, a sliding window, Llama 3 and
//! linear rope scaling, other float types, GGUF files), on a tiny random model, against a plain f64
//! forward pass written from the formulas; and checkpoints that do not fit their config.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::common::{fixture, load, relative_errors};
use quern_model::{Packed, View};
use quern_run::random::Random;
use quern_run::{KvType, LoadOptions, Model, SessionOptions, Wanted};
use quern_tensor_io::{Checkpoint, ElementType, Metadata, TensorPlan, gguf, safetensors};
use serde_json::{Value, json};

const LAYERS: usize = 2;
const HIDDEN: usize = 48;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 16;
const FFN: usize = 40;
const VOCAB: usize = 4096;

/// A checkpoint in the making.
struct Tiny {
    config: Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Tiny {
    /// Random weights of at most eight significant bits: the same numbers in f32, f16 and bf16.
    fn new(extra: Value) -> Self {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS, "head_dim": DIM, "intermediate_size": FFN,
            "vocab_size": VOCAB, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
            "rope_theta": 1000.0, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
        });
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        let mut tiny = Self { config, tensors: BTreeMap::new() };
        let mut random = Random::new(5);
        let mut add = |name: String, shape: &[usize]| {
            let count = shape.iter().product();
            let value = |_| match name.contains("norm") {
                true => (64 + random.below(128)) as f32 / 128.0,
                false => (random.below(255) as f32 - 127.0) / 256.0,
            };
            let values = (0..count).map(value).collect();
            tiny.tensors.insert(name, (shape.to_vec(), values));
        };
        let (query, key) = (HEADS * DIM, KV_HEADS * DIM);
        add("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN]);
        add("model.norm.weight".into(), &[HIDDEN]);
        add("lm_head.weight".into(), &[VOCAB, HIDDEN]);
        for layer in 0..LAYERS {
            let name = |rest: &str| format!("model.layers.{layer}.{rest}");
            add(name("input_layernorm.weight"), &[HIDDEN]);
            add(name("post_attention_layernorm.weight"), &[HIDDEN]);
            for (linear, rows, columns) in [
                ("self_attn.q_proj", query, HIDDEN),
                ("self_attn.k_proj", key, HIDDEN),
                ("self_attn.v_proj", key, HIDDEN),
                ("self_attn.o_proj", HIDDEN, query),
                ("mlp.gate_proj", FFN, HIDDEN),
                ("mlp.up_proj", FFN, HIDDEN),
                ("mlp.down_proj", HIDDEN, FFN),
            ] {
                add(name(&format!("{linear}.weight")), &[rows, columns]);
                add(name(&format!("{linear}.bias")), &[rows]);
            }
        }
        let flag = |key: &str| tiny.config[key].as_bool().unwrap_or(false);
        let (attention, mlp) = (flag("attention_bias"), flag("mlp_bias"));
        tiny.tensors.retain(|name, _| {
            let of = if name.contains("self_attn") { attention } else { mlp };
            of || !name.ends_with(".bias")
        });
        if tiny.config["tie_word_embeddings"] == true {
            tiny.tensors.remove("lm_head.weight");
        }
        tiny
    }

    /// Writes config, tokenizer (bookworm's) and tensors.
    fn write(&self, directory: &Path, element_type: ElementType) {
        std::fs::write(directory.join("config.json"), self.config.to_string()).unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
            std::fs::copy(fixture("bookworm-4m").join(name), directory.join(name)).unwrap();
        }
        let plan: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, (shape, _))| TensorPlan { name: name.clone(), element_type, shape: shape.clone() })
            .collect();
        let path = directory.join("model.safetensors");
        let mut writer = safetensors::Writer::create(&path, &Metadata::new(), &plan, true).unwrap();
        for (_, values) in self.tensors.values() {
            let bytes: Vec<u8> = match element_type {
                ElementType::F16 => {
                    values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect()
                }
                ElementType::BF16 => {
                    values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect()
                }
                _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            };
            writer.write(&bytes).unwrap();
        }
        writer.finish().unwrap();
    }

    fn weights(&self, name: &str) -> Option<Vec<f64>> {
        self.tensors.get(name).map(|(_, values)| values.iter().map(|&v| f64::from(v)).collect())
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let w = self.weights(&format!("{name}.weight")).unwrap();
        let b = self.weights(&format!("{name}.bias"));
        let row = |(r, w): (usize, &[f64])| {
            w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + b.as_ref().map_or(0.0, |b| b[r])
        };
        w.chunks(x.len()).enumerate().map(row).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + 1e-5).sqrt();
        x.iter().zip(self.weights(name).unwrap()).map(|(x, w)| x * scale * w).collect()
    }

    /// Rotates one head, in Hugging Face's pairs.
    fn rope(&self, head: &mut [f64], position: usize) {
        let scaling = &self.config["rope_scaling"];
        let number = |key: &str| scaling[key].as_f64().unwrap();
        for i in 0..DIM / 2 {
            let mut frequency = 1000f64.powf(-(2.0 * i as f64) / DIM as f64);
            match scaling["rope_type"].as_str() {
                Some("linear") => frequency /= number("factor"),
                Some("llama3") => {
                    let rotations =
                        number("original_max_position_embeddings") * frequency / std::f64::consts::TAU;
                    let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
                    let smooth = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
                    frequency *= (1.0 - smooth) / number("factor") + smooth;
                }
                _ => {}
            }
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            let (a, b) = (head[i], head[i + DIM / 2]);
            (head[i], head[i + DIM / 2]) = (a * cos - b * sin, a * sin + b * cos);
        }
    }

    /// Logits of every position, straight from the formulas.
    fn forward(&self, tokens: &[u32]) -> Vec<f32> {
        let window = self.config["sliding_window"].as_u64().unwrap_or(u64::MAX) as usize;
        let embedding = self.weights("model.embed_tokens.weight").unwrap();
        let mut xs: Vec<Vec<f64>> =
            tokens.iter().map(|&t| embedding[t as usize * HIDDEN..][..HIDDEN].to_vec()).collect();
        for layer in 0..LAYERS {
            let name = |rest: &str| format!("model.layers.{layer}.{rest}");
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for (position, x) in xs.iter_mut().enumerate() {
                let normed = self.norm(&name("input_layernorm.weight"), x);
                let mut q = self.linear(&name("self_attn.q_proj"), &normed);
                let mut k = self.linear(&name("self_attn.k_proj"), &normed);
                q.chunks_mut(DIM).chain(k.chunks_mut(DIM)).for_each(|head| self.rope(head, position));
                keys.push(k);
                values.push(self.linear(&name("self_attn.v_proj"), &normed));
                let mut attended = Vec::new();
                for (head, q) in q.chunks(DIM).enumerate() {
                    let at = head / (HEADS / KV_HEADS) * DIM;
                    let seen = (position + 1).saturating_sub(window)..position + 1;
                    let dot = |k: &[f64]| q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>();
                    let weights: Vec<f64> = seen
                        .clone()
                        .map(|p| (dot(&keys[p][at..at + DIM]) / (DIM as f64).sqrt()).exp())
                        .collect();
                    let total: f64 = weights.iter().sum();
                    let value = |c: usize| seen.clone().zip(&weights).map(move |(p, w)| (p, w, c));
                    attended.extend(
                        (0..DIM)
                            .map(|c| value(c).map(|(p, w, c)| w * values[p][at + c]).sum::<f64>() / total),
                    );
                }
                let add = |x: &mut Vec<f64>, y: Vec<f64>| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
                add(x, self.linear(&name("self_attn.o_proj"), &attended));
                let normed = self.norm(&name("post_attention_layernorm.weight"), x);
                let gate = self.linear(&name("mlp.gate_proj"), &normed);
                let up = self.linear(&name("mlp.up_proj"), &normed);
                let inner: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                add(x, self.linear(&name("mlp.down_proj"), &inner));
            }
        }
        let tied = self.config["tie_word_embeddings"] == true;
        let head = if tied { "model.embed_tokens" } else { "lm_head" };
        let logits = xs.iter().flat_map(|x| self.linear(head, &self.norm("model.norm.weight", x)));
        logits.map(|v| v as f32).collect()
    }
}

fn assert_logits(model: &Model, tokens: &[u32], expected: &[f32], what: &str) {
    let options = SessionOptions { context: 64, batch: 16, kv: KvType::F32 };
    let mut session = model.session(options).unwrap();
    let logits = session.forward(tokens, Wanted::All).unwrap();
    let (largest, row) = relative_errors(logits, expected, VOCAB);
    assert!(largest < 1e-5 && row < 1e-5, "{what}: {largest:e}, {row:e}");
}

/// The checkpoint as an f32 GGUF file: rows reordered, rope factors as a tensor.
fn to_gguf(directory: &Path) -> PathBuf {
    let checkpoint = Checkpoint::open(directory).unwrap();
    let view = View::gguf(&checkpoint, Packed::Refused).unwrap();
    let plan: Vec<_> = view
        .tensors()
        .iter()
        .map(|t| TensorPlan { name: t.name.clone(), element_type: t.element_type, shape: t.shape.clone() })
        .collect();
    let path = directory.join("model.gguf");
    let mut writer = gguf::Writer::create(&path, view.metadata(), &plan, false).unwrap();
    for (index, tensor) in view.tensors().iter().enumerate() {
        let mut bytes = vec![0; tensor.rows() * tensor.row_bytes];
        view.read(index, 0..tensor.rows(), &mut bytes);
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    path
}

#[test]
fn every_variant_follows_the_formulas_in_both_worlds() {
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    let mistral = json!({
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 7,
    });
    let variants = [
        ("plain", json!({})),
        ("tied", json!({"tie_word_embeddings": true})),
        ("biases", json!({"attention_bias": true, "mlp_bias": true})),
        ("llama3", json!({"rope_scaling": llama3})),
        ("linear", json!({"rope_scaling": {"rope_type": "linear", "factor": 4.0}})),
        ("window", mistral),
    ];
    let tokens: Vec<u32> = (0..40).map(|i| i * 101 % VOCAB as u32).collect();
    let mut seen: Vec<Vec<f32>> = Vec::new();
    for (name, extra) in variants {
        let tiny = Tiny::new(extra);
        let expected = tiny.forward(&tokens);
        assert!(seen.iter().all(|other| relative_errors(other, &expected, VOCAB).0 > 1e-3), "{name} is idle");
        for element_type in [ElementType::F32, ElementType::F16, ElementType::BF16] {
            let directory = tempfile::tempdir().unwrap();
            tiny.write(directory.path(), element_type);
            let model = load(directory.path(), 2);
            let tensors: usize = tiny.tensors.values().map(|(_, values)| values.len()).sum();
            assert_eq!(model.parameters(), tensors as u64, "{name}");
            assert_logits(&model, &tokens, &expected, &format!("{name}, {element_type}"));
            // llama.cpp knows no sliding window in its llama architecture, so GGUF carries none.
            if element_type == ElementType::F32 && name != "window" {
                assert_logits(
                    &load(&to_gguf(directory.path()), 2),
                    &tokens,
                    &expected,
                    &format!("{name}, gguf"),
                );
            }
        }
        seen.push(expected);
    }
}

/// What loading `tiny` complains about, after `change`.
fn complaint(change: impl FnOnce(&mut Tiny)) -> String {
    let mut tiny = Tiny::new(json!({"attention_bias": true}));
    change(&mut tiny);
    let directory = tempfile::tempdir().unwrap();
    tiny.write(directory.path(), ElementType::F32);
    Model::open(directory.path(), LoadOptions::default()).unwrap_err().to_string()
}

#[test]
fn tensors_that_do_not_fit_the_config_are_named() {
    const UP: &str = "model.layers.1.mlp.up_proj.weight";
    let message = complaint(|t| drop(t.tensors.remove(UP)));
    assert!(message.contains(UP) && message.contains("missing"), "{message}");
    let message = complaint(|t| t.tensors.get_mut(UP).unwrap().0.reverse());
    assert!(
        message.contains(UP) && message.contains("[48, 40]") && message.contains("[40, 48]"),
        "{message}"
    );
    let message = complaint(|t| drop(t.tensors.remove("model.layers.0.self_attn.k_proj.bias")));
    assert!(message.contains("k_proj.bias"), "{message}");
    let message = complaint(|t| drop(t.tensors.remove("lm_head.weight")));
    assert!(message.contains("lm_head.weight"), "{message}");
    let message = complaint(|t| t.tensors.get_mut("model.norm.weight").unwrap().1[3] = f32::NAN);
    assert!(message.contains("model.norm.weight") && message.contains("NaN"), "{message}");
}

#[test]
fn element_types_without_kernels_are_refused() {
    let tiny = Tiny::new(json!({}));
    let directory = tempfile::tempdir().unwrap();
    tiny.write(directory.path(), ElementType::I32);
    let message = Model::open(directory.path(), LoadOptions::default()).unwrap_err().to_string();
    assert!(message.contains("i32") && message.contains("embed_tokens"), "{message}");
}

#[test]
fn weights_that_are_not_finite_are_found_when_sampling() {
    let mut tiny = Tiny::new(json!({}));
    tiny.tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().1[7] = f32::INFINITY;
    let directory = tempfile::tempdir().unwrap();
    tiny.write(directory.path(), ElementType::F32);
    let model = load(directory.path(), 2);
    let error = quern_run::generate(&model, "The", &Default::default(), &mut |_: &str| ()).unwrap_err();
    assert!(matches!(error, quern_run::Error::NotFinite), "{error}");
}
