//! Vocabularies of the tiktoken library: against that library, and what is broken in them.

use std::fs;
use std::path::Path;

use crate::common::{copy_of, edit, fixture};
use quern_model::gguf::tokenizer_metadata;
use quern_model::{EncodeOptions, TokenKind, Tokenizer};
use quern_tensor_io::Metadata;
use serde_json::{Value, json};

const PARSED: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const FULL: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

/// The folders of `fixtures/tiktoken`, the file of each, and the name of its rule in GGUF.
const FOLDERS: [(&str, &str, &str); 3] = [
    ("kimi", "tiktoken.model", "kimi-k2"),
    ("hunyuan", "hy.tiktoken", "hunyuan"),
    ("qwen", "qwen.tiktoken", "qwen2"),
];

const KIMI: [&str; 3] = ["tiktoken.model", "tokenizer_config.json", "tokenization_kimi.py"];

/// The texts that a tokenizer encodes otherwise than the library does, and how many there are.
fn differing(folder: &str, tokenizer: &Tokenizer) -> (Vec<String>, usize) {
    let cases = fs::read(fixture("tiktoken").join(folder).join("tokenize.json")).unwrap();
    let cases: Value = serde_json::from_slice(&cases).unwrap();
    let differs = |case: &Value| {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let found = tokenizer.encode(text, PARSED).unwrap();
        (found != ids).then(|| format!("{text:?}: {found:?}, not {ids:?}"))
    };
    let cases = cases.as_array().unwrap();
    (cases.iter().filter_map(differs).collect(), cases.len())
}

fn metadata(folder: &Path, architecture: &str) -> (Metadata, Vec<String>) {
    let size = Tokenizer::from_directory(folder).unwrap().vocab_size();
    tokenizer_metadata(folder, architecture, size).unwrap()
}

#[test]
fn ids_are_those_of_the_library() {
    for (folder, ..) in FOLDERS {
        let tokenizer = Tokenizer::from_directory(&fixture("tiktoken").join(folder)).unwrap();
        assert_eq!(tokenizer.notes(), [""; 0]);
        let (differing, count) = differing(folder, &tokenizer);
        assert_eq!(differing, [""; 0], "{folder}");
        assert!(count >= 27);
        for text in ["It was a dark night", "naïve 北京 12345\n\t🙂"] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text, FULL).unwrap()), text);
        }
    }
}

#[test]
fn gguf_has_the_name_of_the_rule_and_merges_in_place_of_ranks() {
    for (folder, _, rule) in FOLDERS {
        let (metadata, notes) = metadata(&fixture("tiktoken").join(folder), "some");
        assert_eq!(metadata.str("tokenizer.ggml.pre"), Some(rule), "{folder}");
        let merges = metadata.strings("tokenizer.ggml.merges").unwrap().len();
        let tokenizer = Tokenizer::from_gguf(Path::new("some.gguf"), &metadata).unwrap();
        let (differing, count) = differing(folder, &tokenizer);
        if folder == "kimi" {
            // Four pieces come before their parts: lists of merges cannot say so.
            assert!(notes.len() == 1 && notes[0].starts_with("4 pieces"), "{notes:?}");
            assert_eq!(merges, 92);
            assert!(!differing.is_empty() && differing.len() < count);
        } else {
            assert_eq!((notes, merges, differing), (Vec::new(), 96, Vec::new()), "{folder}");
        }
    }
}

#[test]
fn special_tokens_follow_the_pieces() {
    let kimi = Tokenizer::from_directory(&fixture("tiktoken/kimi")).unwrap();
    assert_eq!(kimi.vocab_size(), 352 + 258);
    assert_eq!((kimi.token("[EOS]"), kimi.token("<|reserved_token_357|>")), (Some(353), Some(357)));
    // All of them count, whatever added_tokens_decoder says of being special.
    let calls = kimi.token("<|tool_calls_section_begin|>").unwrap();
    assert_eq!(kimi.token_kind(calls), Some(TokenKind::Control));
    assert_eq!((kimi.bos(), kimi.eos(), kimi.add_bos()), (Some(352), Some(353), false));
    assert!(kimi.is_end(354), "<|im_end|>");
    let hunyuan = Tokenizer::from_directory(&fixture("tiktoken/hunyuan")).unwrap();
    assert_eq!((hunyuan.token("<|bos|>"), hunyuan.token("<|extra_204|>")), (Some(354), Some(561)));
    assert_eq!((hunyuan.bos(), hunyuan.vocab_size()), (Some(353), 562));

    // The model's number of tokens ends them; an id of config.json counts before a text.
    let dir = copy_of("tiktoken/kimi", &KIMI);
    fs::write(dir.path().join("config.json"), r#"{"vocab_size": 608, "eos_token_id": 354}"#).unwrap();
    let bounded = Tokenizer::from_directory(dir.path()).unwrap();
    assert_eq!((bounded.vocab_size(), bounded.bos(), bounded.eos()), (608, Some(352), Some(354)));
    assert_eq!(bounded.notes(), [""; 0]);
}

#[test]
fn hunyuans_beginning_of_text_is_the_one_the_converter_writes() {
    let dir = copy_of("tiktoken/hunyuan", &["hy.tiktoken", "tokenizer_config.json"]);
    fs::write(dir.path().join("config.json"), r#"{"bos_token_id": 1, "model_type": "hunyuan_v1_dense"}"#)
        .unwrap();
    for (architecture, bos) in [("hunyuan-moe", 354), ("hunyuan-dense", 353)] {
        let (metadata, _) = metadata(dir.path(), architecture);
        assert_eq!(metadata.u64("tokenizer.ggml.bos_token_id"), Some(bos));
        assert_eq!(metadata.str("tokenizer.ggml.pre"), Some("hunyuan"));
    }
}

#[test]
fn a_class_or_a_pattern_that_is_not_known_is_refused() {
    let dir = copy_of("tiktoken/kimi", &KIMI);
    let error = || Tokenizer::from_directory(dir.path()).unwrap_err().to_string();
    let program = dir.path().join("tokenization_kimi.py");
    let sound = fs::read_to_string(&program).unwrap();
    fs::write(&program, sound.replace("{1,3}", "{1,2}")).unwrap();
    let other = error();
    assert!(other.contains("tokenization_kimi.py") && other.contains("another pattern"), "{other}");
    assert!(other.contains("add a tokenizer.json"), "{other}");
    fs::write(&program, "class TikTokenTokenizer: pass\n").unwrap();
    assert!(error().contains("has no pattern"), "{}", error());
    // Without the program the class says it.
    fs::remove_file(&program).unwrap();
    assert_eq!(differing("kimi", &Tokenizer::from_directory(dir.path()).unwrap()).0, [""; 0]);

    let config = dir.path().join("tokenizer_config.json");
    edit(&config, json!({ "tokenizer_class": "OtherTokenizer" }));
    let other = error();
    assert!(other.contains("\"OtherTokenizer\"") && other.contains("TikTokenTokenizer"), "{other}");
    assert!(other.contains("tiktoken.model"), "{other}");
    fs::remove_file(&config).unwrap();
    assert!(error().contains("names no class"), "{}", error());
}

#[test]
fn broken_vocabularies_say_where() {
    let dir = copy_of("tiktoken/kimi", &KIMI);
    let file = dir.path().join("tiktoken.model");
    let sound = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = sound.lines().collect();
    let with = |at: usize, line: &str| {
        let mut lines = lines.clone();
        lines[at] = line;
        lines.join("\n")
    };
    let long = format!("{} 2", "QUFB".repeat(400));
    let cases = [
        (with(2, "JA=="), "line 3: bytes in base64"),
        (with(2, "J 2"), "line 3: bytes in base64"),
        (with(2, "JA== two"), "line 3: bytes in base64"),
        (with(2, "JA== -2"), "line 3: bytes in base64"),
        (with(2, " 2"), "line 3"),
        (with(2, &long), "line 3: a piece of 1200 bytes"),
        (with(2, "Iw== 7"), "the rank 3 is where 2 is expected"),
        (with(2, "ISE= 2"), "no piece for the byte 0x23"),
        (with(300, &format!("{} 300", lines[301].split(' ').next().unwrap())), "has two ranks"),
        (lines[..40].join("\n"), "no piece for the byte"),
        (String::new(), "no piece for the byte 0x00"),
    ];
    for (content, expected) in cases {
        fs::write(&file, content).unwrap();
        let error = Tokenizer::from_directory(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tiktoken.model") && error.contains(expected), "{expected}: {error}");
    }
    fs::write(&file, [0xFF, 0xFE, b'\n', b'A']).unwrap();
    assert!(Tokenizer::from_directory(dir.path()).is_err());

    fs::write(&file, &sound).unwrap();
    let config = dir.path().join("tokenizer_config.json");
    edit(&config, json!({ "added_tokens_decoder": { "352": { "special": true } } }));
    let error = Tokenizer::from_directory(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json") && error.contains("content"), "{error}");
    // Ids among the pieces are none of the special tokens.
    edit(&config, json!({ "added_tokens_decoder": { "300": { "content": "<|no|>" } } }));
    assert_eq!(Tokenizer::from_directory(dir.path()).unwrap().token("<|no|>"), None);
}
