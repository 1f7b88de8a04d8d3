//! Facts of a checkpoint whose architecture or tokenizer quern cannot run: read from the usual keys,
//! without checking that they fit together.

use std::collections::BTreeMap;
use std::path::Path;

use quern_tensor_io::{Checkpoint, Container, Metadata, small};
use serde::Serialize;
use serde_json::Value;

use crate::summary::TokenizerSummary;

/// A longer template is not shown.
const TEMPLATE: u64 = 1 << 20;

/// A larger `tokenizer.json` is not read: real ones have 35 MB at most.
const LARGEST_TOKENIZER: u64 = 64 << 20;

/// Architecture and sizes, as far as the checkpoint states them.
#[derive(Debug, Default, Serialize)]
pub struct Sizes {
    /// GGUF's name of the architecture, or what the file says where quern does not know it.
    pub architecture: Option<String>,
    /// Positions the model was trained for.
    pub context_length: Option<usize>,
    /// Number of blocks.
    pub layers: Option<usize>,
    /// Width of the residual stream.
    pub hidden_size: Option<usize>,
    /// Width inside the feed-forward network.
    pub ffn_size: Option<usize>,
    /// Query heads.
    pub heads: Option<usize>,
    /// Key and value heads.
    pub kv_heads: Option<usize>,
    /// Values per head.
    pub head_dim: Option<usize>,
    /// Base of the rotary embedding.
    pub rope_theta: Option<f64>,
    /// Rows of the embedding.
    pub vocab_size: Option<usize>,
    /// The output head is the embedding.
    pub tied_embeddings: Option<bool>,
    /// Method of a quantized Hugging Face checkpoint; given as [`crate::Summary::scheme`].
    #[serde(skip)]
    pub quantization: Option<String>,
}

impl Sizes {
    pub(crate) fn of(checkpoint: &Checkpoint) -> Self {
        match checkpoint.container() {
            Container::Gguf => Self::from_gguf(checkpoint.metadata()),
            _ => json(&checkpoint.directory().join("config.json"))
                .map(|c| Self::from_hf(&c))
                .unwrap_or_default(),
        }
    }

    fn from_gguf(metadata: &Metadata) -> Self {
        let Some(architecture) = metadata.str("general.architecture") else { return Self::default() };
        let key = |name: &str| format!("{architecture}.{name}");
        let size = |name: &str| metadata.u64(&key(name)).and_then(|v| usize::try_from(v).ok());
        Self {
            architecture: Some(architecture.to_owned()),
            context_length: size("context_length"),
            layers: size("block_count"),
            hidden_size: size("embedding_length"),
            ffn_size: size("feed_forward_length"),
            heads: size("attention.head_count"),
            kv_heads: size("attention.head_count_kv").or_else(|| size("attention.head_count")),
            head_dim: size("attention.key_length"),
            rope_theta: metadata.f64(&key("rope.freq_base")),
            vocab_size: size("vocab_size")
                .or_else(|| metadata.strings("tokenizer.ggml.tokens").map(|t| t.len())),
            tied_embeddings: None,
            quantization: None,
        }
        .with_head_dim()
    }

    fn from_hf(config: &Value) -> Self {
        // Models of images or sound keep their language model's configuration one level down.
        let text = config.get("text_config").filter(|t| t.is_object()).unwrap_or(config);
        let size = |names: &[&str]| {
            names.iter().find_map(|name| text.get(name)?.as_u64()).and_then(|v| usize::try_from(v).ok())
        };
        let heads = size(&["num_attention_heads", "n_head"]);
        let theta = text.get("rope_theta").or_else(|| text.get("rope_parameters")?.get("rope_theta"));
        Self {
            architecture: config["architectures"][0]
                .as_str()
                .or(config["model_type"].as_str())
                .map(str::to_owned),
            context_length: size(&["max_position_embeddings", "n_positions", "seq_length"]),
            layers: size(&["num_hidden_layers", "n_layer"]),
            hidden_size: size(&["hidden_size", "n_embd"]),
            ffn_size: size(&["intermediate_size", "ffn_dim", "n_inner"]),
            heads,
            kv_heads: size(&["num_key_value_heads"]).or(heads),
            head_dim: size(&["head_dim"]),
            rope_theta: theta.and_then(Value::as_f64),
            vocab_size: size(&["vocab_size"]),
            tied_embeddings: text.get("tie_word_embeddings").and_then(Value::as_bool),
            quantization: config["quantization_config"]["quant_method"].as_str().map(str::to_owned),
        }
        .with_head_dim()
    }

    fn with_head_dim(mut self) -> Self {
        if let (None, Some(hidden), Some(heads)) = (self.head_dim, self.hidden_size, self.heads) {
            self.head_dim = hidden.checked_div(heads);
        }
        self
    }
}

/// The tokenizer's kind and size and the chat template, read in the same way.
pub(crate) fn tokenizer(checkpoint: &Checkpoint) -> (Option<TokenizerSummary>, Option<String>) {
    match checkpoint.container() {
        Container::Gguf => {
            let metadata = checkpoint.metadata();
            let template = metadata.str("tokenizer.chat_template").map(str::to_owned);
            (gguf_tokenizer(metadata), template)
        }
        _ => {
            let directory = checkpoint.directory();
            let config = json(&directory.join("tokenizer_config.json")).unwrap_or_default();
            let template = config["chat_template"].as_str().map(str::to_owned);
            let template =
                template.or_else(|| small::text(&directory.join("chat_template.jinja"), TEMPLATE).ok());
            (tokenizer_json(&directory.join("tokenizer.json")).map(|t| hf_tokenizer(&t, &config)), template)
        }
    }
}

fn gguf_tokenizer(metadata: &Metadata) -> Option<TokenizerSummary> {
    let model = metadata.str("tokenizer.ggml.model")?;
    let tokens = metadata.strings("tokenizer.ggml.tokens")?;
    let kind = match (model, metadata.str("tokenizer.ggml.pre")) {
        ("gpt2", Some(pre)) => format!("byte-level BPE ({pre})"),
        ("gpt2", None) => "byte-level BPE".to_owned(),
        ("llama", _) => "SentencePiece BPE".to_owned(),
        (other, _) => other.to_owned(),
    };
    let names = [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")];
    let special = names.into_iter().filter_map(|(name, key)| {
        let id = u32::try_from(metadata.u64(&format!("tokenizer.ggml.{key}_token_id"))?).ok()?;
        Some((name, (id, tokens.get(id as usize)?.to_owned())))
    });
    let control = metadata.i32s("tokenizer.ggml.token_type").unwrap_or_default();
    Some(TokenizerSummary {
        kind,
        vocab_size: tokens.len(),
        add_bos: metadata.bool("tokenizer.ggml.add_bos_token").unwrap_or(false),
        special: special.collect(),
        control_tokens: control.iter().filter(|&&t| t == 3).count(),
    })
}

fn hf_tokenizer(tokenizer: &Value, config: &Value) -> TokenizerSummary {
    let model = &tokenizer["model"];
    let byte_level = tokenizer["pre_tokenizer"].to_string().contains("\"ByteLevel\"");
    let kind = match (model["type"].as_str(), byte_level) {
        (Some("BPE"), true) => "byte-level BPE".to_owned(),
        (Some(other), _) => other.to_owned(),
        (None, _) => "unknown".to_owned(),
    };
    let added = tokenizer["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let own = model["vocab"].as_object().map(|v| v.len()).or(model["vocab"].as_array().map(Vec::len));
    let id_of = |piece: &str| {
        let added = added.iter().find(|t| t["content"] == piece).and_then(|t| t["id"].as_u64());
        added.or_else(|| model["vocab"][piece].as_u64()).and_then(|id| u32::try_from(id).ok())
    };
    let special = ["bos", "eos", "unk", "pad"].into_iter().filter_map(|name| {
        let token = &config[format!("{name}_token")];
        let piece = token.as_str().or(token["content"].as_str())?;
        Some((name, (id_of(piece)?, piece.to_owned())))
    });
    let beyond =
        added.iter().filter_map(|t| t["id"].as_u64()).max().map_or(0, |id| (id as usize).saturating_add(1));
    TokenizerSummary {
        kind,
        vocab_size: own.unwrap_or(0).max(beyond),
        add_bos: config["add_bos_token"].as_bool().unwrap_or(false),
        special: special.collect::<BTreeMap<_, _>>(),
        control_tokens: added.iter().filter(|t| t["special"] == true).count(),
    }
}

/// A configuration, if it is there, of a reasonable size and well-formed.
pub(crate) fn json(path: &Path) -> Option<Value> {
    small::json(&small::read(path, small::CONFIGURATION).ok()?).ok()
}

fn tokenizer_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&small::read(path, LARGEST_TOKENIZER).ok()?).ok()
}
