//! The tokenizers of the tiny models of every architecture, against the tokenizers library, transformers, and
//! llama.cpp's converter.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::fixture;
use quern_model::gguf::tokenizer_metadata;
use quern_model::hugging_face::tokenizer_files;
use quern_model::{Config, EncodeOptions, Tokenizer};
use quern_tensor_io::{Array, Metadata, Value};
use serde_json::Value as Json;

/// As transformers encodes: special tokens in the text count.
const PARSED: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const FULL: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(fixture("architectures")).unwrap();
    let mut all: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    all.sort();
    assert!(all.len() >= 24, "{}", all.len());
    all
}

fn name_of(folder: &Path) -> &str {
    folder.file_name().unwrap().to_str().unwrap()
}

fn json(file: &Path) -> Json {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// GGUF's name of the architecture: llama.cpp's, or a made-up one where it has none.
fn architecture(folder: &Path) -> &'static str {
    Config::from_config_json(&folder.join("config.json")).unwrap().architecture.name
}

fn gguf(folder: &Path) -> (Metadata, Vec<String>) {
    let size = Config::from_config_json(&folder.join("config.json")).unwrap().vocab_size;
    tokenizer_metadata(folder, architecture(folder), size).unwrap()
}

fn ids(case: &Json, key: &str) -> Vec<u32> {
    case[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The texts that a tokenizer encodes otherwise than the library does, with its ids.
fn differing(folder: &Path, tokenizer: &Tokenizer) -> Vec<String> {
    let cases = json(&folder.join("tokenize.json"));
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 19);
    let differs = |case: &Json| {
        let text = case["text"].as_str().unwrap();
        let (parsed, full) = (tokenizer.encode(text, PARSED).unwrap(), tokenizer.encode(text, FULL).unwrap());
        let same = parsed == ids(case, "ids") && full == ids(case, "ids_with_special");
        (!same).then(|| format!("{text:?}: {full:?}, not {:?}", ids(case, "ids_with_special")))
    };
    cases.iter().filter_map(differs).collect()
}

#[test]
fn folders_encode_as_the_tokenizers_library_does() {
    for folder in folders() {
        let tokenizer = Tokenizer::from_directory(&folder).unwrap();
        assert_eq!(tokenizer.notes(), [""; 0], "{}", name_of(&folder));
        assert_eq!(differing(&folder, &tokenizer), [""; 0], "{}", name_of(&folder));
    }
}

#[test]
fn gguf_metadata_encodes_as_the_tokenizers_library_does() {
    for folder in folders() {
        let (mut metadata, notes) = gguf(&folder);
        // Only Mistral's prefix is news to other readers.
        let news =
            matches!(name_of(&folder), "mistral" | "mixtral" | "mistral3" | "ministral3" | "ministral3-text");
        assert_eq!(notes.len(), usize::from(news), "{}: {notes:?}", name_of(&folder));
        metadata.set("general.name", name_of(&folder));
        let tokenizer = Tokenizer::from_gguf(&folder, &metadata).unwrap();
        assert_eq!(tokenizer.notes(), [""; 0], "{}", name_of(&folder));
        assert_eq!(differing(&folder, &tokenizer), [""; 0], "{}", name_of(&folder));
    }
}

/// A value as `gguf.json` writes it.
fn written(value: &Value) -> Json {
    let floats = |v: &f32| Json::from(f64::from(*v));
    match value {
        Value::Bool(v) => Json::from(*v),
        Value::U32(v) => Json::from(*v),
        Value::String(v) => Json::from(v.as_str()),
        Value::Array(Array::String(v)) => v.iter().map(Json::from).collect(),
        Value::Array(Array::F32(v)) => v.iter().map(floats).collect(),
        Value::Array(Array::I32(v)) => v.iter().map(|&v| Json::from(v)).collect(),
        other => panic!("no tokenizer key is a {other:?}"),
    }
}

#[test]
fn metadata_is_what_llama_cpp_writes() {
    for folder in folders().iter().filter(|f| f.join("gguf.json").is_file()) {
        let theirs = json(&folder.join("gguf.json"));
        let theirs = theirs["metadata"].as_array().unwrap();
        let theirs: Vec<(&str, &Json)> = theirs
            .iter()
            .map(|entry| (entry[0].as_str().unwrap(), &entry[2]))
            .filter(|(key, _)| key.starts_with("tokenizer."))
            .collect();
        let (ours, _) = gguf(folder);
        // Our own keys where GGUF has none: Mistral's prefix, and Llama's class, which does as it likes.
        let own: Vec<&str> = ours.iter().map(|(key, _)| key).filter(|k| k.starts_with("quern.")).collect();
        let expected: &[&str] = match name_of(folder) {
            "mistral" | "mixtral" | "mistral3" | "ministral3" | "ministral3-text" => {
                &["quern.tokenizer.space_prefix", "quern.tokenizer.class", "quern.tokenizer.legacy"]
            }
            "llama" | "llama-linear" | "llama-yarn" | "phi3" | "phi3-longrope" | "ernie4_5"
            | "ernie4_5_moe" | "phi3_moe" | "minicpm3" | "deepseek_v2" | "deepseek_v3" | "deepseek_v32"
            | "internlm2" | "internlm3" | "minicpm" | "nemotron" => {
                &["quern.tokenizer.class", "quern.tokenizer.legacy"]
            }
            _ => &[],
        };
        assert_eq!(own, expected, "{}", name_of(folder));
        // The converter has it for Granite's own class alone; it means nothing for a byte-level tokenizer.
        let of_granite =
            |key: &str| name_of(folder) == "granitehybrid-rope" && key == "tokenizer.ggml.add_space_prefix";
        let ours = ours.iter().filter(|(key, _)| !key.starts_with("quern.") && !of_granite(key));
        let ours: Vec<(&str, Json)> = ours.map(|(key, value)| (key, written(value))).collect();
        let keys = |all: &[&str]| all.join("\n");
        let our_keys: Vec<&str> = ours.iter().map(|(key, _)| *key).collect();
        let their_keys: Vec<&str> = theirs.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys(&our_keys), keys(&their_keys), "{}", name_of(folder));
        for ((key, ours), (_, theirs)) in ours.iter().zip(theirs) {
            // Without a tokenizer.model llama.cpp gives all pieces one score, which loses the order of merges.
            // Of Gemma 4 it takes added tokens that are not special for ordinary pieces.
            let added = name_of(folder).starts_with("gemma4") && *key == "tokenizer.ggml.token_type";
            if !(added || name_of(folder) == "llama-yarn" && *key == "tokenizer.ggml.scores") {
                assert_eq!(ours, theirs, "{}: {key}", name_of(folder));
            }
        }
    }
}

/// The folder that a GGUF file's metadata gives.
fn rebuilt(file: &Path, metadata: &Metadata) -> tempfile::TempDir {
    let dir = tempfile::TempDir::new().unwrap();
    for (name, bytes) in tokenizer_files(file, metadata).unwrap().0 {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

#[test]
fn folders_rebuilt_from_gguf_encode_as_the_tokenizers_library_does() {
    for folder in folders() {
        let (mut metadata, _) = gguf(&folder);
        metadata.set("general.name", name_of(&folder));
        let dir = rebuilt(&folder, &metadata);
        let tokenizer = Tokenizer::from_directory(dir.path()).unwrap();
        assert_eq!(differing(&folder, &tokenizer), [""; 0], "{}", name_of(&folder));
        assert_eq!(tokenizer.piece(tokenizer.vocab_size() as u32), None);
        // EXAONE's own is "[PAD]".
        let filled = |piece: &str| piece.starts_with("[PAD") && piece != "[PAD]";
        assert!((0..tokenizer.vocab_size() as u32).all(|id| !filled(tokenizer.piece(id).unwrap())));
        let original = Tokenizer::from_gguf(&folder, &metadata).unwrap();
        assert_eq!(tokenizer.special_ids().bos, original.special_ids().bos, "{}", name_of(&folder));
        assert_eq!(tokenizer.special_ids().eos, original.special_ids().eos, "{}", name_of(&folder));
        assert_eq!(tokenizer.chat_template(), original.chat_template());
    }
}

/// Metadata made again from the rebuilt folder is the metadata it was made from.
#[test]
fn metadata_survives_the_way_to_a_folder_and_back() {
    for folder in folders() {
        let (mut metadata, _) = gguf(&folder);
        metadata.set("general.name", name_of(&folder));
        let dir = rebuilt(&folder, &metadata);
        let size = metadata.strings("tokenizer.ggml.tokens").unwrap().len();
        let (again, _) = tokenizer_metadata(dir.path(), architecture(&folder), size).unwrap();
        for key in
            ["tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "padding_token_id", "pre"]
        {
            let key = format!("tokenizer.ggml.{key}");
            // Among rules that are the same the model's type chooses the name, and there is no config.json here.
            let by_type = [
                "solar_open",
                "phi",
                "stablelm",
                "stablelm-parallel",
                "granite",
                "granitehybrid",
                "granitehybrid-rope",
                "granitehybrid_moe",
                "granitemoe",
                "granitemoeshared",
                "granite_swa",
                "olmo2",
                "olmo3",
                "exaone",
                "exaone4",
                "glm",
                "glm4",
                "glm4v",
                "glm4_moe",
                "glm4_moe_lite",
                "glm_moe_dsa",
                "minimax_m2",
                "hunyuan",
                "hunyuan_moe",
                "llama4",
            ];
            let same_rule = by_type.contains(&name_of(&folder));
            if !(key.ends_with(".pre") && same_rule) {
                assert_eq!(again.get(&key), metadata.get(&key), "{}: {key}", name_of(&folder));
            }
        }
    }
}
