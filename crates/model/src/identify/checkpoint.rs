//! What an opened checkpoint is, by its metadata, the names of its tensors and the files beside it.

use std::path::Path;

use quern_tensor_io::{Checkpoint, Container};

use super::{Identified, Identity, brief, bytes, folder, quantized};

/// Marks of adapters in the names of tensors.
const ADAPTER: [&str; 12] = [
    ".lora_A.",
    ".lora_B.",
    ".lora_a",
    ".lora_b",
    ".lora_embedding_A",
    ".lora_embedding_B",
    ".lora_magnitude_vector",
    ".lora_down.",
    ".lora_up.",
    ".ia3_l",
    ".vera_lambda",
    "prompt_embeddings",
];

/// Files beside the weights that must be what their names say.
const BESIDE: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tiktoken.model",
    "hy.tiktoken",
    "qwen.tiktoken",
    "tokenizer_config.json",
    "generation_config.json",
    "quantize_config.json",
];

pub(super) fn identify(checkpoint: &Checkpoint) -> Option<Identified> {
    let this = |identity| Identified::new(checkpoint.path(), identity);
    match checkpoint.container() {
        Container::Gguf => of_gguf(checkpoint).map(this),
        Container::Safetensors | Container::PyTorch => of_names(checkpoint)
            .map(this)
            .or_else(|| beside(checkpoint))
            .or_else(|| quantized::identify(checkpoint).map(this)),
    }
}

fn of_gguf(checkpoint: &Checkpoint) -> Option<Identity> {
    let metadata = checkpoint.metadata();
    let kind = metadata.str("general.type");
    let architecture = metadata.str("general.architecture");
    match (kind, architecture) {
        (Some("adapter"), _) => return Some(gguf_adapter(checkpoint)),
        (Some("mmproj"), _) | (_, Some("clip")) => return Some(Identity::Projector),
        (Some("imatrix"), _) => return Some(Identity::ImportanceMatrix),
        (_, Some("controlvector")) => return Some(Identity::ControlVector),
        (Some(kind), _) if kind != "model" => return Some(Identity::OtherGguf { kind: brief(kind) }),
        _ => {}
    }
    let names = || checkpoint.tensors().iter().map(|t| t.name.as_str());
    if names().any(|name| name.ends_with(".lora_a") || name.ends_with(".lora_b")) {
        return Some(gguf_adapter(checkpoint));
    }
    if checkpoint.tensors().is_empty() {
        return Some(Identity::Vocabulary);
    }
    names().any(is_one_expert).then_some(Identity::UnstackedExperts)
}

/// An adapter as GGUF, which may name its base.
fn gguf_adapter(checkpoint: &Checkpoint) -> Identity {
    let metadata = checkpoint.metadata();
    let text =
        |key: &str| metadata.str(&format!("general.base_model.0.{key}")).filter(|text| !text.is_empty());
    let address = text("repo_url").map(|url| url.trim_start_matches("https://huggingface.co/"));
    let named = text("name").map(|name| match text("organization") {
        Some(owner) => format!("{owner}/{name}"),
        None => name.to_owned(),
    });
    let method = match metadata.str("adapter.type") {
        Some("lora") | None => "LoRA".to_owned(),
        Some(other) => brief(other),
    };
    Identity::Adapter { method, base: address.map(brief).or(named.map(|name| brief(&name))) }
}

/// Whether this is the matrix of one expert: `blk.3.ffn_gate.0.weight`.
fn is_one_expert(name: &str) -> bool {
    let number =
        |part: Option<&str>| part.is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let mut parts = name.split('.');
    let in_block = parts.next() == Some("blk") && number(parts.next());
    in_block
        && matches!(parts.next(), Some("ffn_gate" | "ffn_up" | "ffn_down"))
        && number(parts.next())
        && parts.next() == Some("weight")
}

/// What the names of tensors show.
fn of_names(checkpoint: &Checkpoint) -> Option<Identity> {
    let names = || checkpoint.tensors().iter().map(|t| t.name.as_str());
    let has = |name: &str| checkpoint.index_of(name).is_some();
    let is_adapter = |name: &str| ADAPTER.iter().any(|mark| name.contains(mark));
    if names().any(is_adapter) {
        let whole =
            names().any(|name| name.ends_with(".base_layer.weight") || name.ends_with("embed_tokens.weight"));
        return Some(match whole && !names().all(is_adapter) && !names_an_adapter(checkpoint) {
            true => Identity::UnmergedAdapter,
            false => adapter_of_folder(checkpoint.directory()),
        });
    }
    if has("tok_embeddings.weight") && has("layers.0.attention.wq.weight") {
        return Some(Identity::OriginalLayout);
    }
    None
}

/// Whether the checkpoint's file is called an adapter.
fn names_an_adapter(checkpoint: &Checkpoint) -> bool {
    let name = checkpoint.files().first().and_then(|file| file.file_name()?.to_str());
    name.is_some_and(|name| name.starts_with("adapter"))
}

/// The adapter that `adapter_config.json` in this folder describes.
pub(super) fn adapter_of_folder(folder: &Path) -> Identity {
    let (method, base) = folder::base_of(folder);
    let method = match method.as_deref() {
        None | Some("LORA" | "lora") => "LoRA".to_owned(),
        Some(other) => other.to_owned(),
    };
    Identity::Adapter { method, base }
}

/// A file beside the weights that is a pointer, a page or the like.
fn beside(checkpoint: &Checkpoint) -> Option<Identified> {
    BESIDE.iter().find_map(|name| {
        let file = checkpoint.directory().join(name);
        match bytes::of_start(&file)? {
            identity @ (Identity::LfsPointer { .. }
            | Identity::WebPage
            | Identity::ServerAnswer { .. }
            | Identity::Empty) => Some(Identified::new(file, identity)),
            // Anything else is for its own reader to judge.
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_of_one_expert_are_recognised() {
        for name in ["blk.0.ffn_gate.0.weight", "blk.31.ffn_down.7.weight", "blk.2.ffn_up.15.weight"] {
            assert!(is_one_expert(name), "{name}");
        }
        for name in [
            "blk.0.ffn_gate.weight",
            "blk.0.ffn_gate_exps.weight",
            "blk.0.ffn_gate_inp.weight",
            "blk.x.ffn_up.0.weight",
        ] {
            assert!(!is_one_expert(name), "{name}");
        }
    }
}
