//! What the class that a `config.json` names is: a language model that quern knows, with its head or without, or
//! something else around one.
//!
//! ```text
//! LlamaForCausalLM, LlamaModel        the family llama; the second was saved without its head
//! LlamaForSequenceClassification      another head: refused by name
//! Gemma3ForConditionalGeneration      a multimodal model whose text model quern reads
//! PaliGemmaForConditionalGeneration   one whose text model it does not: refused, with that model named
//! ```

use std::path::Path;

use quern_tensor_io::{Error, Remedy, Result};
use serde_json::Value;

use crate::architecture::Architecture;
use crate::architectures::{self, from_hf_architecture, from_hf_model_type};
use crate::json::Object;

use super::brief;

/// Endings of the classes that are language models with their heads.
const WITH_HEAD: [&str; 2] = ["ForCausalLM", "LMHeadModel"];

/// Endings of classes with other heads, and what those heads do.
const OTHER_HEADS: [(&str, &str); 9] = [
    ("ForSequenceClassification", "a classification head"),
    ("ForTokenClassification", "a head that classifies tokens"),
    ("ForQuestionAnswering", "a head that marks answers"),
    ("ForMultipleChoice", "a head that chooses answers"),
    ("DoubleHeadsModel", "a second head that chooses answers"),
    ("ForRewardModel", "a reward head"),
    ("RewardModel", "a reward head"),
    ("ForRewardModeling", "a reward head"),
    ("ForScore", "a reward head"),
];

/// Keys of multimodal configurations that hold the language model's own.
const TEXT_CONFIGS: [&str; 5] =
    ["text_config", "llm_config", "language_config", "text_model_config", "thinker_config"];

/// Keys of multimodal configurations that hold the other parts'.
const OTHER_CONFIGS: [(&str, &str); 6] = [
    ("vision_config", "vision"),
    ("vision_encoder_config", "vision"),
    ("visual", "vision"),
    ("mm_vision_tower", "vision"),
    ("audio_config", "audio"),
    ("speech_config", "audio"),
];

/// Multimodal classes that run whichever text model their configuration names, text alone as that model does. (Of the two
/// of Cohere, transformers 5.24 leaves out the factor of the logits, which changes no order; quern applies it.)
const ANY_TEXT_MODEL: [&str; 20] = [
    "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration",
    "LlavaNextVideoForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration",
    "VipLlavaForConditionalGeneration",
    "InternVLForConditionalGeneration",
    "InternVLChatModel",
    "Idefics3ForConditionalGeneration",
    "SmolVLMForConditionalGeneration",
    "AyaVisionForConditionalGeneration",
    "Cohere2VisionForConditionalGeneration",
    "Exaone4_5_ForConditionalGeneration",
    "KimiK25ForConditionalGeneration",
    "Kimi_K25ForConditionalGeneration",
    "KimiVLForConditionalGeneration",
    "Lfm2VlForConditionalGeneration",
    "LightOnOcrForConditionalGeneration",
    "LightOnOCRForConditionalGeneration",
    "VideoLlama3ForConditionalGeneration",
    "VideoLlavaForConditionalGeneration",
];

/// Families that quern cannot compute, by their classes and names in GGUF, and why.
const BEYOND: [(&str, &str); 4] = [
    ("DeepseekV4ForCausalLM", COMPRESSED),
    ("deepseek4", COMPRESSED),
    ("Cohere2MoeForCausalLM", AVERAGED),
    ("cohere2moe", AVERAGED),
];

const AVERAGED: &str = "its mixtures average what the chosen experts and the shared ones give, and its first layers rotate \
                        queries and keys where others without a window do not; quern computes neither";

const COMPRESSED: &str = "its attention reads groups of positions that are compressed into one, beside those of a window, and \
                          its layers exchange several streams; quern computes neither";

/// Language models that have names of their own inside multimodal models, and the `model_type` of the same model
/// alone.
const INSIDE: [(&str, &str); 7] = [
    ("qwen2_vl", "qwen2"),
    ("qwen2_vl_text", "qwen2"),
    ("qwen2_5_vl", "qwen2"),
    ("qwen2_5_vl_text", "qwen2"),
    ("qwen3_vl_text", "qwen3"),
    ("qwen3_vl_moe_text", "qwen3_moe"),
    ("phi3_v", "phi3"),
];

/// The family of a class of transformers: a language model, with or without its head.
pub(crate) fn family(class: &str) -> Option<&'static Architecture> {
    from_hf_architecture(class).or_else(|| {
        let stem = class.strip_suffix("Model")?;
        // Gemma 3's class without a head is called Gemma3TextModel; Gemma3Model is the multimodal one.
        let stem = stem.strip_suffix("Text").unwrap_or(stem);
        let known = |with_head: &&str| WITH_HEAD.iter().any(|end| with_head.strip_suffix(end) == Some(stem));
        architectures::ALL.iter().copied().find(|a| a.hf_architectures.iter().any(known))
    })
}

/// The text model of a multimodal release: its family and its part of the configuration. `None` for language models
/// alone, and for classes of which it is not known that they compute text alone as the model inside them does.
pub(crate) fn inside<'a>(root: &Object<'a>) -> Result<Option<(&'static Architecture, Object<'a>)>> {
    let classes = root.array("architectures")?.unwrap_or(&[]);
    let Some(class) = classes.first().and_then(Value::as_str) else { return Ok(None) };
    let all = architectures::ALL.iter().copied();
    let mut families = all.flat_map(|family| {
        let own = family.hf_multimodal.iter().filter(|(around, _)| *around == class);
        own.map(move |(_, model_type)| (family, *model_type))
    });
    let any = ANY_TEXT_MODEL.contains(&class);
    let usual = any.then_some(&architectures::LLAMA);
    let Some(first) = families.clone().next().map(|(family, _)| family).or(usual) else { return Ok(None) };
    let text = text_config(root)?;
    // The first files have the text model's keys beside the others.
    let Some(text) = text else { return Ok((!any).then(|| (first, root.clone()))) };
    let named = text.array("architectures")?.and_then(|list| list.first()?.as_str()).and_then(family);
    let family = match text.str("model_type")? {
        None => named.filter(|_| any).or(Some(first)),
        Some(name) if any => from_hf_model_type(name),
        Some(name) => families.find(|(_, own)| *own == name).map(|(family, _)| family),
    };
    match family {
        Some(family) => Ok(Some((family, text))),
        None => Err(refusal(root, class)),
    }
}

/// Whether the configuration is a multimodal model's, with the language model's one level down or beside the others'.
pub(crate) fn is_multimodal(root: &Object<'_>) -> bool {
    has_text_config(root) || OTHER_CONFIGS.iter().any(|(key, _)| root.get(key).is_some())
}

/// The language model's configuration, where it is one level down.
pub(crate) fn text_config<'a>(root: &Object<'a>) -> Result<Option<Object<'a>>> {
    let Some(around) = around_text(root)? else { return Ok(None) };
    match nested(&around) {
        Some(key) => around.object(key),
        None => Ok(None),
    }
}

/// What holds the language model's configuration: the whole, or the thinker's in it. `None` where it is not one level down.
pub(crate) fn around_text<'a>(root: &Object<'a>) -> Result<Option<Object<'a>>> {
    let Some(key) = nested(root) else { return Ok(None) };
    let thinker = root.object(key)?.filter(|inner| nested(inner).is_some());
    Ok(Some(thinker.unwrap_or_else(|| root.clone())))
}

/// The key of the object that is the language model's configuration, or holds it.
fn nested(root: &Object<'_>) -> Option<&'static str> {
    TEXT_CONFIGS.iter().copied().find(|key| root.get(key).is_some_and(Value::is_object))
}

/// Whether the language model's configuration is one level down.
pub(crate) fn has_text_config(root: &Object<'_>) -> bool {
    nested(root).is_some()
}

/// The error for a configuration of class or `model_type` `name`, which is no family that quern knows.
pub(crate) fn refusal(root: &Object<'_>, name: &str) -> Error {
    let found = other_head(name).or_else(|| multimodal(root, name));
    match found {
        Some(what) => {
            let name = brief(name);
            Error::unsupported(root.file(), format!("the architecture {name:?} is not supported: {what}"))
        }
        None => unknown(root.file(), name),
    }
}

/// The error for an architecture quern does not know.
pub(crate) fn unknown(file: &Path, name: &str) -> Error {
    let beyond = BEYOND.iter().find(|(family, _)| *family == name).map(|(_, why)| format!(": {why}"));
    let name = brief(name);
    let what = format!("the architecture {name:?} is not supported{}", beyond.unwrap_or_default());
    Error::unsupported(file, what).with_remedy(Remedy::ListArchitectures)
}

fn other_head(class: &str) -> Option<String> {
    let (stem, head) = OTHER_HEADS.iter().find_map(|(end, head)| Some((class.strip_suffix(end)?, head)))?;
    let family = WITH_HEAD.iter().find_map(|end| from_hf_architecture(&format!("{stem}{end}")));
    let family = family.map_or_else(|| "a".to_owned(), |family| format!("a {}", family.name));
    Some(format!(
        "it is {family} model with {head} in place of the language-model head, so it cannot generate text; take the \
         language model that it was trained from"
    ))
}

/// Multimodal classes whose language model cannot be taken out of them.
const INSEPARABLE: [(&str, &str); 1] = [(
    "MllamaForConditionalGeneration",
    "it is Llama 3.2 Vision, in which some layers of the language model attend to the image alone (cross-attention), which \
     quern does not compute; take Llama 3.1, from which it was made, or a text-only version of the same size",
)];

fn multimodal(root: &Object<'_>, class: &str) -> Option<String> {
    if let Some((_, what)) = INSEPARABLE.iter().find(|(name, _)| *name == class) {
        return Some((*what).to_owned());
    }
    let others: Vec<&str> =
        OTHER_CONFIGS.iter().filter(|(key, _)| root.get(key).is_some()).map(|(_, part)| *part).collect();
    // The class alone decides nothing: an encoder and a decoder for text alone (T5) generate conditionally too.
    if !is_multimodal(root) {
        return None;
    }
    let part = others.first().copied().unwrap_or("other");
    Some(match language_model(root, class) {
        Some(Inside { family, in_gguf }) => {
            let gguf = if in_gguf {
                " or a GGUF file of the model, which holds the language model alone"
            } else {
                ""
            };
            format!(
                "it is a multimodal model; its language model is {}, which quern knows; the {part} part is not \
                 supported; extract the language model (save it alone, as {}), or take a text-only version{gguf}",
                family.name,
                family.hf_architectures.first().copied().unwrap_or_default(),
            )
        }
        None => format!(
            "it is a multimodal model, and quern knows neither its language model nor its {part} part; take a \
             language model of a family that is supported"
        ),
    })
}

/// The language model inside a multimodal one.
struct Inside {
    family: &'static Architecture,
    /// GGUF files of the whole name this family.
    in_gguf: bool,
}

fn language_model(root: &Object<'_>, class: &str) -> Option<Inside> {
    let text = nested(root).and_then(|key| root.get(key));
    let classes = text.and_then(|text| text.get("architectures"));
    let named = classes.and_then(|list| list.get(0)?.as_str()).and_then(family);
    let own = text.and_then(|text| text.get("model_type")?.as_str());
    let found = named.or_else(|| own.and_then(from_hf_model_type));
    if let Some(family) = found {
        return Some(Inside { family, in_gguf: family.no_gguf.is_none() });
    }
    let whole = root.get("model_type").and_then(Value::as_str);
    let alias =
        [own, whole].into_iter().flatten().find_map(|name| INSIDE.iter().find(|(inside, _)| *inside == name));
    if let Some(family) = alias.and_then(|(_, alone)| from_hf_model_type(alone)) {
        return Some(Inside { family, in_gguf: false });
    }
    // LLaVA's configuration leaves out what is the default.
    let usual = (own.is_none() && text.is_some() && class.starts_with("Llava")).then_some("llama");
    usual.and_then(from_hf_model_type).map(|family| Inside { family, in_gguf: true })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::json::Json;

    #[test]
    fn classes_without_a_head_are_their_families() {
        for (class, name) in [
            ("LlamaModel", "llama"),
            ("MistralModel", "llama"),
            ("GPT2Model", "gpt2"),
            ("GPTNeoXModel", "gptneox"),
            ("Qwen2Model", "qwen2"),
            ("Qwen3MoeModel", "qwen3moe"),
            ("Gemma3TextModel", "gemma3"),
            ("OPTModel", "opt"),
            ("LlamaForCausalLM", "llama"),
        ] {
            assert_eq!(family(class).map(|a| a.name), Some(name), "{class}");
        }
        assert!(family("MixtralModel").is_some_and(|a| a.has_experts));
        for class in
            ["BertModel", "Model", "TextModel", "LlamaModelForScore", "T5EncoderModel", "llamaModel", ""]
        {
            assert!(family(class).is_none(), "{class}");
        }
    }

    fn refused(config: Value, class: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        refusal(&Json::read(&file).unwrap().root(), class).to_string()
    }

    #[test]
    fn other_heads_are_refused_with_the_reason() {
        let text = refused(json!({}), "LlamaForSequenceClassification");
        assert!(text.contains("a llama model with a classification head"), "{text}");
        let text = refused(json!({}), "FooRewardModel");
        assert!(text.contains("a model with a reward head"), "{text}");
    }

    #[test]
    fn families_that_are_not_computed_are_refused_with_the_reason() {
        let text = refused(json!({ "index_topk": 2048 }), "DeepseekV4ForCausalLM");
        assert!(text.contains("DeepseekV4ForCausalLM") && text.contains("compressed into one"), "{text}");
        let text = unknown(Path::new("model.gguf"), "deepseek4").to_string();
        assert!(text.contains("several streams"), "{text}");
    }

    fn read(config: &Value) -> Result<Option<(&'static str, String)>> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let json = Json::read(&file)?;
        Ok(inside(&json.root())?.map(|(family, text)| (family.name, text.name(""))))
    }

    #[test]
    fn text_models_are_found_in_the_releases_around_them() {
        let around = |class: &str, text: Value| json!({ "architectures": [class], "text_config": text, "vision_config": {} });
        let text = |name: &str| json!({ "model_type": name });
        for (config, family) in [
            (around("Gemma3ForConditionalGeneration", text("gemma3_text")), "gemma3"),
            // Published files leave out what is the default.
            (around("Gemma3ForConditionalGeneration", json!({})), "gemma3"),
            (around("Mistral3ForConditionalGeneration", text("mistral")), "mistral3"),
            (around("Mistral3ForConditionalGeneration", text("ministral3")), "mistral3"),
            (around("Qwen2_5_VLForConditionalGeneration", text("qwen2_5_vl_text")), "qwen2vl"),
            (around("Qwen3VLForConditionalGeneration", text("qwen3_vl_text")), "qwen3vl"),
            (around("LlavaForConditionalGeneration", json!({})), "llama"),
            (around("LlavaOnevisionForConditionalGeneration", text("qwen2")), "qwen2"),
            (around("InternVLForConditionalGeneration", text("qwen3")), "qwen3"),
            (around("Lfm2VlForConditionalGeneration", text("lfm2")), "lfm2"),
            (around("Cohere2VisionForConditionalGeneration", text("cohere2")), "cohere2"),
            (around("KimiK25ForConditionalGeneration", text("kimi_k2")), "deepseek2"),
            (around("LightOnOcrForConditionalGeneration", text("qwen3")), "qwen3"),
            (around("KimiVLForConditionalGeneration", text("deepseek_v3")), "deepseek2"),
            (
                around("Qwen3OmniMoeThinkerForConditionalGeneration", text("qwen3_omni_moe_text")),
                "qwen3vlmoe",
            ),
            (around("Exaone4_5_ForConditionalGeneration", text("exaone4")), "exaone4"),
        ] {
            let found = read(&config).unwrap();
            assert_eq!(found, Some((family, "text_config.".to_owned())), "{config}");
        }
        let nested =
            json!({ "architectures": ["InternVLChatModel"], "llm_config": { "model_type": "qwen2" } });
        assert_eq!(read(&nested).unwrap(), Some(("qwen2", "llm_config.".to_owned())));
        // The thinker of an Omni model is around its text model.
        for (class, kind, family) in [
            ("Qwen3OmniMoeForConditionalGeneration", "qwen3_omni_moe_text", "qwen3vlmoe"),
            ("Qwen2_5OmniModel", "qwen2_5_omni_text", "qwen2vl"),
        ] {
            let thinker = around("Thinker", text(kind));
            let whole = json!({ "architectures": [class], "thinker_config": thinker, "talker_config": {} });
            let found = read(&whole).unwrap();
            assert_eq!(found, Some((family, "thinker_config.text_config.".to_owned())), "{class}");
        }
        let flat = json!({ "architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {} });
        assert_eq!(read(&flat).unwrap(), Some(("qwen2vl", String::new())));
        for (class, family) in [("LlavaLlamaForCausalLM", "llama"), ("Videollama3Qwen2ForCausalLM", "qwen2")]
        {
            let flat = json!({ "architectures": [class], "mm_projector_type": "mlp2x_gelu" });
            assert_eq!(read(&flat).unwrap(), Some((family, String::new())), "{class}");
        }
        for alone in [json!({ "architectures": ["LlamaForCausalLM"] }), json!({}), text("gemma3_text")] {
            assert_eq!(read(&alone).unwrap(), None, "{alone}");
        }
        // Another text model in a class that is known.
        let error = read(&around("Gemma3ForConditionalGeneration", text("t5gemma"))).unwrap_err().to_string();
        assert!(error.contains("knows neither its language model"), "{error}");
        let error = read(&around("LlavaForConditionalGeneration", text("bert"))).unwrap_err().to_string();
        assert!(error.contains("knows neither its language model"), "{error}");
    }

    #[test]
    fn multimodal_models_name_the_language_model_inside() {
        let vision = |text: Value| json!({ "text_config": text, "vision_config": {} });
        for (config, class, known) in [
            (vision(json!({ "model_type": "gemma" })), "PaliGemmaForConditionalGeneration", Some("gemma")),
            (vision(json!({ "architectures": ["Qwen2ForCausalLM"] })), "OtherVLChatModel", Some("qwen2")),
            (json!({ "llm_config": { "model_type": "qwen3" } }), "XForConditionalGeneration", Some("qwen3")),
            (json!({ "vision_config": {}, "model_type": "qwen2_vl" }), "OtherForRetrieval", Some("qwen2")),
            (vision(json!({ "model_type": "qwen3_vl_text" })), "OtherForRetrieval", Some("qwen3vl")),
            (json!({ "vision_config": {} }), "FooForConditionalGeneration", None),
        ] {
            let text = refused(config, class);
            assert!(text.contains(class) && text.contains("multimodal"), "{text}");
            match known {
                Some(name) => assert!(
                    text.contains(&format!("its language model is {name}, which quern knows")),
                    "{text}"
                ),
                None => assert!(text.contains("neither its language model"), "{text}"),
            }
            assert!(!text.ends_with("is not supported"), "{text}");
        }
        let text =
            refused(vision(json!({ "model_type": "mllama_text_model" })), "MllamaForConditionalGeneration");
        assert!(text.contains("cross-attention") && text.contains("Llama 3.1"), "{text}");
        // Encoder and decoder for text alone.
        let text = refused(json!({}), "T5ForConditionalGeneration");
        assert!(text.ends_with("\"T5ForConditionalGeneration\" is not supported"), "{text}");
    }
}
