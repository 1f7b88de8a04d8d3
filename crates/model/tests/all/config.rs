//! Configurations in both conventions and both styles, and what is refused.

use crate::common::{copy_of, edit, open};
use proptest::prelude::*;
use quern_model::{Architecture, Config, Convention, RopeScaling, RopeStyle, TensorRole, architectures};
use quern_tensor_io::gguf::Writer;
use quern_tensor_io::{Checkpoint, ElementType, TensorPlan};
use serde_json::{Value, json};

/// bookworm-4m's `config.json` with changes.
fn changed(changes: Value) -> Result<Config, String> {
    let dir = copy_of("bookworm-4m", &["config.json"]);
    edit(&dir.path().join("config.json"), changes);
    Config::from_config_json(&dir.path().join("config.json")).map_err(|e| e.to_string())
}

#[test]
fn bookworm_4m() {
    let c = Config::from_checkpoint(&open("bookworm-4m")).unwrap();
    assert_eq!((c.architecture.name, c.convention), ("llama", Convention::HuggingFace));
    assert_eq!((c.vocab_size, c.hidden_size, c.layers, c.ffn_size), (4096, 256, 4, 768));
    assert_eq!((c.heads, c.kv_heads, c.head_dim, c.context_length), (4, 2, 64, 1024));
    assert_eq!((c.norm_epsilon, c.rope.theta, c.rope.dimensions), (1e-5, 10_000.0, 64));
    assert_eq!(
        (c.rope.scaling, c.rope.factors, c.rope_style),
        (RopeScaling::None, None, RopeStyle::HalfSplit)
    );
    assert_eq!((c.tied_embeddings, c.sliding_window, c.dtype), (true, None, Some(ElementType::F16)));
}

/// What AutoModel saves, and what older files leave out.
#[test]
fn classes_without_a_head_and_no_class_at_all() {
    for classes in [json!(["LlamaModel"]), json!(["MistralModel"]), json!([]), json!(null)] {
        let c = changed(json!({ "architectures": classes })).unwrap();
        assert_eq!(c.architecture.name, "llama", "{classes}");
    }
    for (class, words) in [
        ("LlamaForSequenceClassification", "classification head"),
        ("LlamaForTokenClassification", "classifies tokens"),
        ("BertModel", "is not supported"),
    ] {
        let error = changed(json!({ "architectures": [class] })).unwrap_err();
        assert!(error.contains(class) && error.contains(words), "{error}");
    }
    // A multimodal model's class without a head has the language model one level down.
    let error =
        changed(json!({ "architectures": ["Gemma3Model"], "text_config": { "model_type": "gemma3_text" } }));
    assert!(error.unwrap_err().contains("its language model is gemma3, which quern knows"));
}

#[test]
fn gguf_says_the_same() {
    let hf = Config::from_checkpoint(&open("bookworm-4m")).unwrap();
    let gguf = Config::from_checkpoint(&open("bookworm-4m-Q4_K_M.gguf")).unwrap();
    assert_eq!((gguf.convention, gguf.rope_style), (Convention::Gguf, RopeStyle::Interleaved));
    let same = Config { convention: hf.convention, rope_style: hf.rope_style, dtype: hf.dtype, ..gguf };
    assert_eq!(format!("{hf:?}"), format!("{same:?}"));
}

#[test]
fn the_older_style_says_the_same() {
    let new = changed(json!({})).unwrap();
    let old = changed(json!({
        "rope_parameters": null, "dtype": null, "rope_theta": 10000.0, "rope_scaling": null,
        "torch_dtype": "float16", "head_dim": null, "num_key_value_heads": 2,
    }));
    let mut old = old.unwrap();
    assert!(new.head_dim_given && !old.head_dim_given);
    old.head_dim_given = true;
    assert_eq!(format!("{new:?}"), format!("{old:?}"));
}

#[test]
fn mistral() {
    let c = changed(json!({
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 4096,
        "tie_word_embeddings": null, "rope_parameters": null, "rope_theta": 1e6,
    }))
    .unwrap();
    assert_eq!((c.architecture.name, c.sliding_window, c.tied_embeddings), ("llama", Some(4096), false));
    assert_eq!(c.rope.theta, 1e6);
}

#[test]
fn rope_scaling_of_either_style() {
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let old = changed(
        json!({ "rope_parameters": null, "rope_theta": 5e5, "rope_scaling": llama3, "head_dim": 128 }),
    );
    let mut new = llama3.clone();
    new["rope_theta"] = json!(5e5);
    let new = changed(json!({ "rope_parameters": new, "head_dim": 128 })).unwrap();
    let old = old.unwrap();
    assert_eq!(old.rope, new.rope);
    assert_eq!(
        old.rope.scaling,
        RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 8192 }
    );
    // Llama 3.1's rope_freqs.weight: 29 ones, six values between (computed in f64 from the formula), 29 eights.
    let factors = old.rope.factors.unwrap();
    let between = |i: i32| -> f64 {
        let wavelength = 2.0 * std::f64::consts::PI * 5e5f64.powf(f64::from(2 * i) / 128.0);
        let smooth = (8192.0 / wavelength - 1.0) / 3.0;
        1.0 / ((1.0 - smooth) / 8.0 + smooth)
    };
    assert_eq!(factors.len(), 64);
    assert!(
        factors[..29].iter().all(|&f| f == 1.0) && factors[35..].iter().all(|&f| f == 8.0),
        "{factors:?}"
    );
    for (i, &found) in factors.iter().enumerate().take(35).skip(29) {
        let (found, exact) = (f64::from(found), between(i as i32));
        assert!(found > 1.0 && found < 8.0 && (found - exact).abs() < 1e-4 * exact, "{i}: {found} {exact}");
    }

    let linear =
        changed(json!({ "rope_parameters": null, "rope_scaling": { "type": "linear", "factor": 2 } }));
    assert_eq!(linear.unwrap().rope.scaling, RopeScaling::Linear { factor: 2.0 });
    let yarn = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096 });
    let yarn = changed(json!({ "rope_parameters": null, "rope_scaling": yarn })).unwrap().rope.scaling;
    assert!(matches!(yarn, RopeScaling::Yarn { factor: 4.0, original_context: 4096, .. }), "{yarn:?}");
}

#[test]
fn expected_tensors_have_names_and_shapes_in_both_worlds() {
    let c = changed(json!({ "tie_word_embeddings": false, "attention_bias": true })).unwrap();
    for (convention, q, head) in [
        (Convention::HuggingFace, "model.layers.3.self_attn.q_proj.weight", "lm_head.weight"),
        (Convention::Gguf, "blk.3.attn_q.weight", "output.weight"),
    ] {
        let all = c.expected_tensors(convention);
        assert_eq!(all.len(), 3 + 4 * (9 + 4));
        let find = |name: &str| all.iter().find(|t| t.name == name).unwrap();
        assert_eq!(
            (find(q).role, find(q).layer, &find(q).shape),
            (TensorRole::AttentionQ, Some(3), &vec![256, 256])
        );
        assert_eq!((find(head).optional, &find(head).shape), (false, &vec![4096, 256]));
        let k = all.iter().find(|t| t.role == TensorRole::AttentionKBias).unwrap();
        assert_eq!((&k.shape, k.optional), (&vec![128], convention == Convention::Gguf));
        assert_eq!(c.tensor_name(convention, TensorRole::Output, None).as_deref(), Some(head));
        assert_eq!(c.tensor_name(convention, TensorRole::Output, Some(0)), None);
    }
    assert!(
        changed(json!({}))
            .unwrap()
            .expected_tensors(Convention::Gguf)
            .iter()
            .any(|t| t.name == "output.weight" && t.optional)
    );
}

#[test]
fn every_architecture_is_found_by_each_of_its_names() {
    // Two descriptions of one class: the configuration says whether it has experts, or whether Granite's is a hybrid.
    let twins = |found: &Architecture, own: &Architecture| {
        let of_granite = (found.name, own.name) == ("granitehybrid", "granite");
        found.hybrid == own.hybrid && (found.has_experts != own.has_experts || of_granite)
    };
    for architecture in architectures::ALL {
        let found = architectures::from_gguf_name(architecture.name, architecture.has_experts);
        match architecture.no_gguf {
            // Llama and Mistral have one name in GGUF.
            None => assert_eq!(found.unwrap().name, architecture.name),
            Some(_) => assert!(found.is_none()),
        }
        for name in architecture.hf_architectures {
            let found = architectures::from_hf_architecture(name).unwrap();
            assert!(std::ptr::eq(found, *architecture) || twins(found, architecture), "{name}");
        }
        for name in architecture.hf_model_types {
            let found = architectures::from_hf_model_type(name).unwrap();
            assert!(std::ptr::eq(found, *architecture) || twins(found, architecture), "{name}");
        }
    }
    let by_type = changed(json!({ "architectures": null })).unwrap();
    assert_eq!(by_type.architecture.name, "llama");
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        (json!({ "architectures": ["FooForCausalLM"] }), "architecture \"FooForCausalLM\" is not supported"),
        (json!({ "architectures": null, "model_type": null }), "\"architectures\" is missing"),
        (json!({ "hidden_size": 0 }), "hidden_size: 0 is not between 1 and"),
        (json!({ "hidden_size": 1e300 }), "hidden_size: a whole number"),
        (json!({ "hidden_size": u64::MAX }), "hidden_size: 18446744073709551615 is not between"),
        (
            json!({ "hidden_size": "big" }),
            "hidden_size: a whole number that is not negative is expected, not \"big\"",
        ),
        (
            json!({ "hidden_size": -256 }),
            "hidden_size: a whole number that is not negative is expected, not -256",
        ),
        (json!({ "num_attention_heads": 0 }), "num_attention_heads: 0 is not between"),
        (json!({ "num_attention_heads": 3, "head_dim": null }), "3 heads do not divide the hidden size 256"),
        (json!({ "num_key_value_heads": 3 }), "4 attention heads cannot share 3"),
        (json!({ "head_dim": 63 }), "rope cannot rotate 63"),
        (json!({ "num_hidden_layers": 1_000_000 }), "num_hidden_layers: 1000000 is not between"),
        (
            json!({ "vocab_size": [] }),
            "vocab_size: a whole number that is not negative is expected, not an array",
        ),
        (json!({ "rms_norm_eps": 0 }), "not a valid epsilon"),
        (json!({ "hidden_act": "tanhexp" }), "hidden_act \"tanhexp\" is not supported"),
        (json!({ "hidden_act": "relu" }), "activation Relu"),
        (json!({ "rope_parameters": { "rope_theta": -1 } }), "not a valid base for rope"),
        (
            json!({ "rope_parameters": { "rope_type": "spiral" } }),
            "rope_parameters.rope_type: rope scaling \"spiral\"",
        ),
        (json!({ "rope_parameters": { "rope_type": "linear" } }), "\"rope_parameters.factor\" is missing"),
        (
            json!({ "rope_parameters": { "rope_type": "linear", "factor": 0 } }),
            "rope_parameters.factor: 0 is not between",
        ),
        (json!({ "rope_parameters": 3 }), "rope_parameters: an object is expected, not 3"),
        (json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor: rotating a part of 0.5"),
        (json!({ "tie_word_embeddings": 1 }), "tie_word_embeddings: true or false"),
    ];
    for (changes, expected) in cases {
        let message = changed(changes.clone()).map(|c| format!("{c:?}")).expect_err(&changes.to_string());
        assert!(message.contains(expected) && message.contains("config.json"), "{changes}: {message}");
    }
}

#[test]
fn a_file_that_is_no_config_is_refused() {
    let dir = copy_of("bookworm-4m", &["config.json"]);
    let file = dir.path().join("config.json");
    let nested = format!("{}{}", "{\"a\":".repeat(200_000), "1");
    for text in ["", "[]", "{\"hidden_size\": 1e999}", "{\"hidden_size\":", "\u{feff}{}", &nested] {
        std::fs::write(&file, text).unwrap();
        let message = Config::from_config_json(&file).unwrap_err().to_string();
        assert!(message.contains("config.json"), "{message}");
    }
    std::fs::write(&file, b"{\"\xFF\": 1}").unwrap();
    assert!(Config::from_config_json(&file).unwrap_err().to_string().contains("UTF-8"));
    std::fs::remove_file(&file).unwrap();
    assert!(Config::from_config_json(&file).unwrap_err().to_string().contains("no config.json"));
}

/// A GGUF file with bookworm-4m's metadata, changed, and one tensor.
fn changed_gguf(
    key: &str,
    value: Option<quern_tensor_io::Value>,
    factors: Option<[f32; 2]>,
) -> Result<Config, String> {
    let mut metadata = open("bookworm-4m-Q4_K_M.gguf").metadata().clone();
    match value {
        Some(value) => metadata.set(key, value),
        None => drop(metadata.remove(key)),
    }
    let factors = factors.map(|f| f.repeat(16));
    let planned = |f: &Vec<f32>| TensorPlan {
        name: "rope_freqs.weight".into(),
        element_type: ElementType::F32,
        shape: vec![f.len()],
    };
    let plan: Vec<TensorPlan> = factors.iter().map(planned).collect();
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("some.gguf");
    let mut writer = Writer::create(&file, &metadata, &plan, false).unwrap();
    if let Some(factors) = factors {
        let bytes: Vec<u8> = factors.iter().flat_map(|f| f.to_le_bytes()).collect();
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    Config::from_checkpoint(&Checkpoint::open(&file).unwrap()).map_err(|e| e.to_string())
}

#[test]
fn what_is_wrong_in_gguf_is_named() {
    use quern_tensor_io::Value as V;
    let cases = [
        ("general.architecture", None, "\"general.architecture\" is missing"),
        ("general.architecture", Some("mamba".into()), "architecture \"mamba\" is not supported"),
        ("llama.block_count", None, "\"llama.block_count\" is missing"),
        ("llama.block_count", Some(V::U32(0)), "llama.block_count: 0 is not between"),
        ("llama.block_count", Some("4".into()), "llama.block_count: a whole number is expected"),
        ("llama.attention.head_count", Some(V::U64(u64::MAX)), "is not between 1 and"),
        ("llama.attention.head_count_kv", Some(V::U32(3)), "4 attention heads cannot share 3"),
        ("llama.attention.value_length", Some(V::U32(32)), "values of length 32 under keys of length 64"),
        ("llama.attention.layer_norm_rms_epsilon", Some(V::F32(f32::NAN)), "a finite number"),
        ("llama.rope.freq_base", Some(V::F32(0.0)), "not a valid base for rope"),
        ("llama.rope.dimension_count", Some(V::U32(65)), "rope cannot rotate 65"),
        ("llama.rope.scaling.type", Some("dynamic".into()), "rope scaling \"dynamic\" is not supported"),
        ("llama.rope.scaling.factor", Some(V::F32(-2.0)), "llama.rope.scaling.factor: -2 is negative"),
        ("llama.rope.scaling.attn_factor", Some(V::F32(1.5)), "not supported without yarn or long factors"),
        ("llama.expert_count", Some(V::U32(8)), "\"llama.expert_used_count\" is missing"),
    ];
    for (key, value, expected) in cases {
        let message = changed_gguf(key, value, None).map(|c| format!("{c:?}")).expect_err(key);
        assert!(message.contains(expected) && message.contains("some.gguf"), "{key}: {message}");
    }
}

#[test]
fn rope_factors_come_from_their_tensor() {
    let with = |factors| changed_gguf("general.name", None, Some(factors));
    assert_eq!(with([1.0, 8.0]).unwrap().rope.factors, Some([1.0, 8.0].repeat(16)));
    let message = with([1.0, 0.0]).map(|_| ()).unwrap_err();
    assert!(
        message.contains("rope_freqs.weight") && message.contains("value 1 is 0, not finite and positive"),
        "{message}"
    );
    let linear =
        changed_gguf("llama.rope.scale_linear", Some(quern_tensor_io::Value::F32(4.0)), None).unwrap();
    assert_eq!(linear.rope.scaling, RopeScaling::Linear { factor: 4.0 });
}

proptest! {
    /// Whatever number stands under whatever key, a config is read or refused, and one that is read makes a
    /// list of tensors whose sizes can be computed.
    #[test]
    fn no_number_breaks_it(key in 0usize..9, number in prop_oneof![any::<i64>(), 0i64..5000], exponent in -20i32..20) {
        let keys = ["hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
            "vocab_size", "max_position_embeddings", "rms_norm_eps", "num_hidden_layers"];
        for value in [json!(number), json!(number as f64 * 10f64.powi(exponent))] {
            if let Ok(config) = changed(json!({ keys[key]: value })) {
                for tensor in config.expected_tensors(Convention::HuggingFace).iter().take(20) {
                    prop_assert!(tensor.shape.iter().try_fold(1usize, |a, &b| a.checked_mul(b)).is_some());
                }
            }
        }
    }
}
