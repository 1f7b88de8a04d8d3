//! What a single file is: by its first bytes, then by its name.

use std::path::Path;

use super::{Identity, brief, start_of};

const GGUF: &[u8] = b"GGUF";

/// The first bytes of other formats.
const MAGICS: [(&[u8], Identity); 14] = [
    (b"lmgg", Identity::OldGgml),
    (b"fmgg", Identity::OldGgml),
    (b"tjgg", Identity::OldGgml),
    (b"\x89HDF\r\n\x1a\n", KERAS),
    (b"\x93NUMPY", NUMPY),
    (b"\x1f\x8b", Identity::Archive { kind: "gzip" }),
    (b"BZh", Identity::Archive { kind: "bzip2" }),
    (b"\xfd7zXZ\0", Identity::Archive { kind: "xz" }),
    (b"\x28\xb5\x2f\xfd", Identity::Archive { kind: "zstd" }),
    (b"7z\xbc\xaf\x27\x1c", Identity::Archive { kind: "7z" }),
    (b"Rar!\x1a\x07", Identity::Archive { kind: "rar" }),
    (b"MZqFpD", Identity::Llamafile),
    (b"\x7fELF", Identity::Llamafile),
    (b"%PDF-", Identity::Foreign { what: "a PDF document" }),
];

const KERAS: Identity = Identity::Foreign { what: "a file of TensorFlow or Keras (HDF5)" };
const NUMPY: Identity = Identity::Foreign { what: "a file of NumPy arrays" };
const ONNX: Identity = Identity::Foreign { what: "an ONNX model" };
const FLAX: Identity = Identity::Foreign { what: "a Flax checkpoint" };
const TENSORFLOW: Identity = Identity::Foreign { what: "a TensorFlow model" };
const PADDLE: Identity = Identity::Foreign { what: "a PaddlePaddle model" };

/// Extensions of other formats.
const EXTENSIONS: [(&str, Identity); 34] = [
    (".incomplete", Identity::Unfinished),
    (".part", Identity::Unfinished),
    (".partial", Identity::Unfinished),
    (".crdownload", Identity::Unfinished),
    (".download", Identity::Unfinished),
    (".aria2", Identity::Unfinished),
    (".onnx", ONNX),
    (".onnx_data", ONNX),
    (".onnx.data", ONNX),
    (".ort", ONNX),
    (".h5", KERAS),
    (".hdf5", KERAS),
    (".keras", KERAS),
    (".msgpack", FLAX),
    (".pb", TENSORFLOW),
    (".ckpt.index", TENSORFLOW),
    (".tflite", Identity::Foreign { what: "a TensorFlow Lite model" }),
    (".litertlm", Identity::Foreign { what: "a LiteRT model" }),
    (".task", Identity::Foreign { what: "a MediaPipe model" }),
    (".mlmodel", Identity::Foreign { what: "a Core ML model" }),
    (".ot", Identity::Foreign { what: "a file of rust-bert's weights" }),
    (".npz", NUMPY),
    (".npy", NUMPY),
    (".pdparams", PADDLE),
    (".engine", Identity::Foreign { what: "a TensorRT engine" }),
    (".plan", Identity::Foreign { what: "a TensorRT engine" }),
    (".pte", Identity::Foreign { what: "an ExecuTorch program" }),
    (".llamafile", Identity::Llamafile),
    (".nemo", Identity::Nemo),
    (".distcp", Identity::Distributed),
    (".tar", Identity::Archive { kind: "tar" }),
    (".tgz", Identity::Archive { kind: "tar" }),
    (".zip", Identity::Archive { kind: "zip" }),
    (".rar", Identity::Archive { kind: "rar" }),
];

/// Files that accompany the weights, by name.
const SETTINGS: [(&str, &str); 25] = [
    ("config.json", "the model's configuration"),
    ("params.json", "the model's configuration in Meta's or Mistral's layout"),
    ("generation_config.json", "the model's settings for generation"),
    ("tokenizer.json", "the model's tokenizer"),
    ("tokenizer_config.json", "the configuration of the model's tokenizer"),
    ("tokenizer.model", "the model's tokenizer"),
    ("tokenizer.model.v3", "the model's tokenizer"),
    ("spiece.model", "the model's tokenizer"),
    ("tekken.json", "the model's tokenizer"),
    ("tiktoken.model", "the model's tokenizer"),
    ("hy.tiktoken", "the model's tokenizer"),
    ("qwen.tiktoken", "the model's tokenizer"),
    ("vocab.json", "the vocabulary of the model's tokenizer"),
    ("vocab.txt", "the vocabulary of the model's tokenizer"),
    ("merges.txt", "the merges of the model's tokenizer"),
    ("added_tokens.json", "a list of the tokenizer's added tokens"),
    ("special_tokens_map.json", "a list of the tokenizer's special tokens"),
    ("quantize_config.json", "the configuration of a quantization"),
    ("quant_config.json", "the configuration of a quantization"),
    ("hf_quant_config.json", "the configuration of a quantization"),
    ("preprocessor_config.json", "the configuration of a preprocessor"),
    ("processor_config.json", "the configuration of a preprocessor"),
    ("chat_template.jinja", "a chat template"),
    ("chat_template.json", "a chat template"),
    ("adapter_config.json", "the configuration of an adapter (LoRA)"),
];

/// Kinds of text that are no model, by extension.
const TEXTS: [(&str, &str); 9] = [
    (".json", "a JSON file"),
    (".jsonl", "a text file"),
    (".txt", "a text file"),
    (".md", "a text file"),
    (".jinja", "a chat template"),
    (".py", "a Python program"),
    (".yaml", "a text file"),
    (".yml", "a text file"),
    (".model", "a tokenizer (SentencePiece)"),
];

/// What the content of a file shows; `None` where it may be a model, or cannot be read.
pub(super) fn of_start(path: &Path) -> Option<Identity> {
    of_bytes(&start_of(path)?)
}

/// What a file that begins so is; `None` where it may be a model.
pub(super) fn of_bytes(start: &[u8]) -> Option<Identity> {
    if start.is_empty() {
        return Some(Identity::Empty);
    }
    if start.starts_with(GGUF) {
        return None;
    }
    if let Some((_, identity)) = MAGICS.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Some(identity.clone());
    }
    match start {
        // llama.cpp's adapters from before GGUF, magic "ggla".
        [b'a', b'l', b'g', b'g', ..] => return Some(Identity::Adapter { method: "LoRA".into(), base: None }),
        [_, _, _, _, b'T', b'F', b'L', b'3', ..] => {
            return Some(Identity::Foreign { what: "a TensorFlow Lite model" });
        }
        // Some programs reserve the whole file before they download it.
        _ if start.len() >= 256 && start.iter().all(|&byte| byte == 0) => return Some(Identity::Unfinished),
        _ if start.get(257..262) == Some(b"ustar") => return Some(Identity::Archive { kind: "tar" }),
        _ if start.starts_with(b"PK\x03\x04") => return of_zip(start),
        _ if is_old_imatrix(start) => return Some(Identity::ImportanceMatrix),
        _ => {}
    }
    of_text(start)
}

/// Identifies text in place of a file.
fn of_text(start: &[u8]) -> Option<Identity> {
    let valid = match std::str::from_utf8(start) {
        Ok(text) => text,
        // The beginning may end within a character.
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&start[..e.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let text = valid.trim_start_matches('\u{feff}').trim_start();
    if let Some(pointer) = text.strip_prefix("version https://git-lfs.github.com/spec/") {
        let size = pointer.lines().find_map(|line| line.strip_prefix("size ")?.trim().parse().ok());
        return Some(Identity::LfsPointer { bytes: size });
    }
    let lower = text.get(..text.len().min(400)).unwrap_or(text).to_ascii_lowercase();
    if ["<!doctype html", "<html", "<head", "<body"].iter().any(|tag| lower.starts_with(tag)) {
        return Some(Identity::WebPage);
    }
    const ANSWERS: [&str; 8] = [
        "entry not found",
        "repository not found",
        "invalid username or password",
        "access to model",
        "not found",
        "unauthorized",
        "{\"error\":",
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><error>",
    ];
    let joined: String = lower.lines().map(str::trim).collect();
    let answered = ANSWERS.iter().any(|answer| joined.starts_with(answer));
    answered.then(|| Identity::ServerAnswer { text: brief(text.lines().next().unwrap_or_default().trim()) })
}

/// What a zip archive is, by its first entry; torch.save writes such too.
fn of_zip(start: &[u8]) -> Option<Identity> {
    let length = usize::from(u16::from_le_bytes([*start.get(26)?, *start.get(27)?]));
    let name = String::from_utf8_lossy(start.get(30..30 + length)?).into_owned();
    match name.as_str() {
        _ if name.ends_with(".npy") => Some(NUMPY),
        _ if name.ends_with("/data.pkl") || name.contains("/.") || name.ends_with(".pkl") => None,
        _ if name.ends_with("/version") || name.ends_with("/byteorder") || name.contains("/data/") => None,
        "config.json" | "metadata.json" | "model.weights.h5" => Some(KERAS),
        _ => Some(Identity::Archive { kind: "zip" }),
    }
}

/// The importance matrix of llama-imatrix before GGUF: the number of entries, then for each the length of its name
/// and the name.
fn is_old_imatrix(start: &[u8]) -> bool {
    let number =
        |at: usize| start.get(at..at + 4).and_then(|b| b.first_chunk()).map(|b| i32::from_le_bytes(*b));
    let (Some(entries), Some(length)) = (number(0), number(4)) else { return false };
    if !(1..1 << 20).contains(&entries) || !(1..=128).contains(&length) {
        return false;
    }
    let name = start.get(8..8 + length as usize).and_then(|name| std::str::from_utf8(name).ok());
    name.is_some_and(|name| name.ends_with(".weight") && name.bytes().all(|b| b.is_ascii_graphic()))
}

/// What the name of a file shows; `None` where it may be a model.
pub(super) fn of_name(path: &Path) -> Option<Identity> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    if let Some((_, what)) = SETTINGS.iter().find(|(file, _)| name == *file) {
        return Some(Identity::Settings { what });
    }
    if let Some((_, identity)) = EXTENSIONS.iter().find(|(end, _)| name.ends_with(end)) {
        return Some(identity.clone());
    }
    // The error of an index that cannot be used says what is wrong with it.
    if name.ends_with(".index.json") {
        return None;
    }
    let (_, what) = TEXTS.iter().find(|(end, _)| name.ends_with(end))?;
    Some(Identity::Settings { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(first: &str) -> Vec<u8> {
        let mut zip = b"PK\x03\x04".to_vec();
        zip.resize(26, 0);
        zip.extend((first.len() as u16).to_le_bytes());
        zip.extend([0, 0]);
        zip.extend(first.as_bytes());
        zip
    }

    #[test]
    fn text_in_place_of_a_file_is_named() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13476851\n";
        assert_eq!(of_bytes(pointer), Some(Identity::LfsPointer { bytes: Some(13_476_851) }));
        let cut = b"version https://git-lfs.github.com/spec/v1\n";
        assert_eq!(of_bytes(cut), Some(Identity::LfsPointer { bytes: None }));
        for page in ["<!DOCTYPE html>\n<html lang>", "\u{feff}  <HTML>", "\n<!doctype HTML>"] {
            assert_eq!(of_bytes(page.as_bytes()), Some(Identity::WebPage), "{page}");
        }
        for answer in
            ["Entry not found", "{\"error\":\"Repository not found\"}", "Access to model x is restricted"]
        {
            let found = of_bytes(answer.as_bytes());
            assert_eq!(found, Some(Identity::ServerAnswer { text: answer.into() }));
        }
        assert_eq!(of_bytes(b""), Some(Identity::Empty));
        assert_eq!(of_bytes(&[0; 1024]), Some(Identity::Unfinished));
        // What may be a model, or a file that is read otherwise, stays as it is.
        let long = format!("{{\"model_type\": \"{}\"}}", "é".repeat(600));
        for other in [
            &b"GGUF\x03\0\0\0"[..],
            b"{\"a\": 1}",
            b"\x08\0\0\0\0\0\0\0{}",
            b"\xff\xfe\xff",
            &long.as_bytes()[..1024],
        ] {
            assert_eq!(of_bytes(other), None, "{other:?}");
        }
    }

    #[test]
    fn formats_of_other_programs_are_recognised_by_their_first_bytes() {
        for (start, name) in [
            (&b"tjgg\x01\0\0\0"[..], "old-ggml"),
            (b"algg\x01\0\0\0", "adapter"),
            (b"\x89HDF\r\n\x1a\n", "foreign"),
            (b"\x1c\0\0\0TFL3", "foreign"),
            (b"\x1f\x8b\x08", "archive"),
            (b"MZqFpD='\n", "llamafile"),
            (&archive("weights.npy"), "foreign"),
            (&archive("model/config.json"), "archive"),
        ] {
            assert_eq!(of_bytes(start).map(|i| i.name()), Some(name), "{start:?}");
        }
        let mut tar = vec![b'x'; 257];
        tar.extend(b"ustar\0");
        assert_eq!(of_bytes(&tar), Some(Identity::Archive { kind: "tar" }));
        for torch in ["archive/data.pkl", "pytorch_model/data.pkl", "archive/.format_version", "x/version"] {
            assert_eq!(of_bytes(&archive(torch)), None, "{torch}");
        }
    }

    #[test]
    fn the_old_importance_matrix_is_recognised_by_its_first_entry() {
        let matrix = |entries: i32, name: &str| {
            let length = name.len() as i32;
            [&entries.to_le_bytes()[..], &length.to_le_bytes(), name.as_bytes(), &[0; 16]].concat()
        };
        assert_eq!(of_bytes(&matrix(4, "blk.0.attn_k.weight")), Some(Identity::ImportanceMatrix));
        assert_eq!(of_bytes(&matrix(1, "output.weight")), Some(Identity::ImportanceMatrix));
        for other in [matrix(0, "output.weight"), matrix(4, "output"), matrix(4, "out put.weight")] {
            assert_eq!(of_bytes(&other), None);
        }
    }

    #[test]
    fn names_show_what_content_does_not() {
        let name = |file: &str| of_name(Path::new(file)).map(|i| i.name());
        for file in
            ["config.json", "dir/tokenizer.json", "tokenizer.model", "README.md", "x.json", "merges.txt"]
        {
            assert_eq!(name(file), Some("settings"), "{file}");
        }
        assert_eq!(name("m.gguf.part"), Some("unfinished"));
        assert_eq!(name("model.ONNX"), Some("foreign"));
        assert_eq!(name("m.nemo"), Some("nemo"));
        for file in ["model.safetensors.index.json", "m.gguf", "model.safetensors", "x.bin", "blob"] {
            assert_eq!(name(file), None, "{file}");
        }
    }
}
