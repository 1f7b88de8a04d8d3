//! `config.json` of the text model that a multimodal release holds, for checkpoints that hold the text model alone.

use std::path::Path;

use quern_tensor_io::Result;
use serde_json::{Map, Value, json};

use crate::Architecture;
use crate::identify::class;
use crate::json::Json;

use super::edited_config;

/// Keys that the whole configuration states for its text model too.
const SHARED: [&str; 8] = [
    "dtype",
    "torch_dtype",
    "tie_word_embeddings",
    "quantization_config",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "transformers_version",
];

/// Keys of the whole that mean nothing to a text model.
const OF_TOWERS: [&str; 8] = [
    "vision_config",
    "vision_encoder",
    "vision_encoder_config",
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "vision_token_id",
];

/// As [`edited_config`]; of a multimodal release, the configuration of its text model by itself.
///
/// # Errors
/// As [`edited_config`].
pub fn text_model_config(folder: &Path, quantization_config: Option<&Value>) -> Result<String> {
    let whole = edited_config(folder, quantization_config, None)?;
    let json = Json::read(&folder.join("config.json"))?;
    let root = json.root();
    // Bitsandbytes also takes models that quern does not know.
    let Ok(Some((architecture, text))) = class::inside(&root) else { return Ok(whole) };
    let whole: Value = serde_json::from_str(&whole).unwrap_or_default();
    let mut out: Map<String, Value> =
        text.entries().map(|(key, value)| (key.clone(), value.clone())).collect();
    // Nor do the programs that a release brings for its class.
    out.retain(|key, _| !OF_TOWERS.contains(&key.as_str()) && !key.starts_with("mm_") && key != "auto_map");
    out.shift_remove("quantization_config");
    let around = class::around_text(&root)?;
    for key in SHARED {
        let inner = || around.as_ref().and_then(|around| around.get(key));
        if let Some(value) = whole.get(key).or_else(inner).filter(|value| !value.is_null()) {
            out.insert(key.to_owned(), value.clone());
        }
    }
    let (class, model_type) = alone(architecture);
    out.insert("architectures".to_owned(), json!([class]));
    out.insert("model_type".to_owned(), json!(model_type));
    plain_rope(&mut out);
    if architecture.name == "qwen3vlmoe" {
        // Inside a release it is always so, alone the class has another default.
        out.insert("norm_topk_prob".to_owned(), json!(true));
    }
    if architecture.name == "glm4"
        && let (Some(hidden), Some(heads)) =
            (text.size("hidden_size", 1 << 20)?, text.size("num_attention_heads", 1 << 20)?)
    {
        // Inside a release the class computes it, alone it has a default.
        out.entry("head_dim").or_insert(json!(hidden / heads));
    }
    Ok(format!("{:#}\n", Value::Object(out)))
}

/// Class and `model_type` of the same text model outside of a multimodal release.
fn alone(architecture: &Architecture) -> (&'static str, &'static str) {
    let own = architecture.hf_architectures[0];
    match architecture.name {
        "qwen2vl" => ("Qwen2ForCausalLM", "qwen2"),
        "qwen3vl" => ("Qwen3ForCausalLM", "qwen3"),
        "qwen3vlmoe" => ("Qwen3MoeForCausalLM", "qwen3_moe"),
        "glm4" => ("Glm4ForCausalLM", "glm4"),
        "mistral3" if own != "Ministral3ForCausalLM" => ("MistralForCausalLM", "mistral"),
        _ => (own, architecture.hf_model_types[0]),
    }
}

/// Rope without the sections of M-RoPE, which text does not need.
fn plain_rope(config: &mut Map<String, Value>) {
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(Value::Object(rope)) = config.get_mut(key) else { continue };
        rope.retain(|key, _| !key.starts_with("mrope_"));
        for kind in ["type", "rope_type"] {
            if rope.get(kind).is_some_and(|value| value == "mrope") {
                rope.insert(kind.to_owned(), json!("default"));
            }
        }
        let nothing = rope.iter().all(|(key, value)| key.ends_with("type") && value == "default");
        if nothing && key == "rope_scaling" {
            config.insert(key.to_owned(), Value::Null);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn the_text_model_by_itself_has_the_numbers_of_the_release() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/architectures");
        for (folder, class) in [
            ("gemma3-images", "Gemma3ForCausalLM"),
            ("mistral3", "MistralForCausalLM"),
            ("ministral3", "Ministral3ForCausalLM"),
            ("qwen2_vl", "Qwen2ForCausalLM"),
            ("qwen2_5_vl", "Qwen2ForCausalLM"),
            ("qwen3_vl", "Qwen3ForCausalLM"),
            ("qwen3_vl_moe", "Qwen3MoeForCausalLM"),
            ("qwen2", "Qwen2ForCausalLM"),
        ] {
            let source = fixtures.join(folder);
            let method = json!({ "quant_method": "gptq" });
            let text = text_model_config(&source, Some(&method)).unwrap();
            assert!(!text.contains("vision") && !text.contains("mrope"), "{folder}: {text}");
            let scratch = tempfile::tempdir().unwrap();
            let file = scratch.path().join("config.json");
            std::fs::write(&file, text).unwrap();
            let was = Config::from_config_json(&source.join("config.json")).unwrap();
            let is = Config::from_config_json(&file).unwrap();
            assert!(is.architecture.hf_architectures.contains(&class), "{folder}: {class}");
            assert_eq!(is.quantization.as_deref(), Some("gptq"));
            let same = Config {
                architecture: was.architecture,
                quantization: None,
                multimodal: was.multimodal,
                rope_sections: was.rope_sections,
                deepstack_layers: was.deepstack_layers,
                ..is
            };
            assert_eq!(format!("{same:?}"), format!("{was:?}"), "{folder}");
        }
    }
}
