//! Byte-level tokenizers: what the files leave open, what is broken in them, and texts that take long elsewhere.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use crate::common::{copy_of, edit, fixture, open};
use proptest::prelude::*;
use quern_model::gguf::tokenizer_metadata;
use quern_model::hugging_face::tokenizer_files;
use quern_model::{EncodeOptions, TokenKind, Tokenizer};
use quern_tensor_io::{Array, Metadata, Value};
use serde_json::json;

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const PARSED: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const FULL: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

const FILES: [&str; 4] =
    ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];

fn gpt2() -> Metadata {
    open("vocab/ggml-vocab-gpt-2.gguf").metadata().clone()
}

fn from_gguf(metadata: &Metadata) -> Tokenizer {
    Tokenizer::from_gguf(Path::new("some.gguf"), metadata).unwrap()
}

fn strings(list: &[&str]) -> Value {
    Value::Array(Array::String(list.iter().collect()))
}

#[test]
fn an_open_or_unknown_pre_tokenizer_is_guessed_and_said() {
    let mut metadata = gpt2();
    let named = from_gguf(&metadata);
    assert_eq!((named.kind_name(), named.notes()), ("byte-level BPE", &[][..]));
    let text = "It's 12345: a_b  c\n";
    metadata.remove("tokenizer.ggml.pre");
    let open = from_gguf(&metadata);
    assert_eq!(open.encode(text, PLAIN).unwrap(), named.encode(text, PLAIN).unwrap());
    assert!(open.notes()[0].contains("does not name its pre-tokenizer"), "{:?}", open.notes());
    assert!(open.notes()[0].contains("\"gpt-2\" is used"), "{:?}", open.notes());

    metadata.set("tokenizer.ggml.pre", "new-model-7b");
    metadata.set("general.architecture", "new");
    let unknown = from_gguf(&metadata);
    assert!(unknown.notes()[0].contains("\"new-model-7b\""), "{:?}", unknown.notes());
    assert!(unknown.notes()[0].contains("\"default\" is used"), "{:?}", unknown.notes());
    assert_eq!(unknown.decode(&unknown.encode(text, PLAIN).unwrap()), text);
    let pre = [&named, &open, &unknown].map(|t| t.pre_tokenizer());
    assert_eq!(pre, [Some("gpt-2"), Some("gpt-2"), Some("default")]);
}

#[test]
fn ends_of_text_that_a_file_calls_ordinary_are_mended() {
    let mut metadata = gpt2();
    let count = from_gguf(&metadata).vocab_size();
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1; count])));
    let tokenizer = from_gguf(&metadata);
    let end = count as u32 - 1;
    assert!(tokenizer.notes()[0].contains("<|endoftext|>"), "{:?}", tokenizer.notes());
    assert_eq!(tokenizer.encode("<|endoftext|>", PARSED).unwrap(), [end]);
    assert_eq!((tokenizer.eot(), tokenizer.is_end(end)), (Some(end), true));
}

#[test]
fn a_rule_without_a_name_gets_the_nearest_and_a_note() {
    let dir = copy_of("architectures/qwen2", &FILES);
    let (metadata, notes) = tokenizer_metadata(dir.path(), "qwen2", 364).unwrap();
    assert_eq!((metadata.str("tokenizer.ggml.pre"), notes.len()), (Some("qwen2"), 0));
    let regex = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+";
    let split =
        json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    let bytes =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let both = json!({ "type": "Sequence", "pretokenizers": [split, bytes] });
    edit(&dir.path().join("tokenizer.json"), json!({ "pre_tokenizer": both }));
    let (metadata, notes) = tokenizer_metadata(dir.path(), "qwen2", 364).unwrap();
    assert!(metadata.str("tokenizer.ggml.pre").is_some_and(|name| !name.is_empty()));
    assert!(notes[0].contains("is nearest"), "{notes:?}");
    // The directory itself is read by its own rule, and needs no excuse.
    let tokenizer = Tokenizer::from_directory(dir.path()).unwrap();
    assert_eq!(tokenizer.notes(), [""; 0]);
    assert_eq!(tokenizer.decode(&tokenizer.encode("it's 1234", PLAIN).unwrap()), "it's 1234");
}

#[test]
fn tokens_beyond_the_model_are_left_out_with_their_merges() {
    let folder = fixture("architectures/gpt2");
    let (whole, notes) = tokenizer_metadata(&folder, "gpt2", 400).unwrap();
    assert_eq!((whole.strings("tokenizer.ggml.tokens").unwrap().len(), notes.len()), (400, 0));
    assert_eq!(whole.strings("tokenizer.ggml.tokens").unwrap().get(399), Some("[PAD399]"));
    let (cut, notes) = tokenizer_metadata(&folder, "gpt2", 300).unwrap();
    assert!(notes[0].contains("53 tokens beyond the model's 300"), "{notes:?}");
    assert_eq!(cut.get("tokenizer.ggml.eos_token_id"), None);
    assert_eq!(from_gguf(&cut).notes(), [""; 0]);
    assert_eq!(from_gguf(&cut).decode(&from_gguf(&cut).encode("the captain", PLAIN).unwrap()), "the captain");
}

#[test]
fn vocab_json_and_merges_txt_are_enough() {
    let dir = copy_of("architectures/opt-350m", &["vocab.json", "merges.txt"]);
    let with_configs = Tokenizer::from_directory(&fixture("architectures/opt-350m")).unwrap();
    let bare = Tokenizer::from_directory(dir.path()).unwrap();
    let text = "It was a dark night, and the old captain\n\n  said: 1999!";
    assert_eq!(bare.encode(text, PLAIN).unwrap(), with_configs.encode(text, PLAIN).unwrap());
    assert_eq!((bare.add_bos(), with_configs.add_bos()), (false, true));
    assert_eq!(with_configs.encode("", FULL).unwrap(), [with_configs.bos().unwrap()]);
    assert_eq!(with_configs.token_kind(2), Some(TokenKind::Control));

    fs::write(dir.path().join("config.json"), r#"{"model_type":"qwen2"}"#).unwrap();
    let qwen = Tokenizer::from_directory(dir.path()).unwrap();
    assert_eq!(
        qwen.encode("cafe\u{301}", PLAIN).unwrap(),
        bare.encode("caf\u{e9}", PLAIN).unwrap(),
        "Qwen composes"
    );
    assert_ne!(
        bare.encode("cafe\u{301}", PLAIN).unwrap(),
        bare.encode("caf\u{e9}", PLAIN).unwrap(),
        "GPT-2 does not"
    );

    fs::write(dir.path().join("tokenizer_config.json"), r#"{"tokenizer_class":"MadeUpTokenizer"}"#).unwrap();
    let error = Tokenizer::from_directory(dir.path()).unwrap_err().to_string();
    assert!(error.contains("\"MadeUpTokenizer\"") && error.contains("tokenizer.json"), "{error}");
}

#[test]
fn broken_tokenizer_json_says_why() {
    let dir = copy_of("architectures/gpt2", &FILES);
    let file = dir.path().join("tokenizer.json");
    let sound: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let message = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut broken = sound.clone();
        change(&mut broken);
        fs::write(&file, broken.to_string()).unwrap();
        Tokenizer::from_directory(dir.path()).unwrap_err().to_string()
    };
    let expect = |part: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let message = message(change);
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    };
    expect("merge 0 needs the piece \"no such\"", &|t| {
        t["model"]["merges"] = json!([["no such", "piece"]]);
    });
    // Both parts are there, the whole is not, and it is longer than any piece.
    expect("which the vocabulary does not have", &|t| t["model"]["merges"] = json!([["Ġthe", "Ġthe"]]));
    expect("entry 0 is no pair", &|t| t["model"]["merges"] = json!(["unpaired"]));
    expect("entry 0 is no pair", &|t| t["model"]["merges"] = json!([["a", "b", "c"]]));
    expect("not a token id", &|t| t["model"]["vocab"]["x y"] = json!(4_000_000_000_u64));
    expect("not a token id", &|t| t["model"]["vocab"]["x y"] = json!(-1));
    expect("is given twice", &|t| t["model"]["vocab"]["x y"] = json!(5));
    expect("objects with id and content", &|t| {
        t["added_tokens"] = json!([{ "id": u64::MAX, "content": "x" }])
    });
    expect("end_of_word_suffix is not supported", &|t| t["model"]["end_of_word_suffix"] = json!("</w>"));
    let split = |regex: &str| {
        let split = json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true });
        json!({ "type": "Sequence", "pretokenizers": [split, bytes] })
    };
    expect("pre_tokenizer: ", &|t| t["pre_tokenizer"] = split("(unclosed"));
    expect("pre_tokenizer: ", &|t| t["pre_tokenizer"] = split("((a{1000}){1000}){1000}"));
    expect("empty pattern", &|t| t["pre_tokenizer"] = split(""));
    expect("\"FixedLength\" is not supported", &|t| {
        t["pre_tokenizer"]["type"] = json!("Sequence");
        t["pre_tokenizer"]["pretokenizers"] = json!([{ "type": "FixedLength", "length": 0 }]);
    });
    expect("normalizer: \"Precompiled\" is not supported", &|t| {
        t["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" });
    });
    expect("normalizer: ", &|t| t["normalizer"] = json!({ "type": "Replace" }));
}

#[test]
fn regexes_that_match_nothing_do_no_harm() {
    let dir = copy_of("architectures/gpt2", &FILES);
    let split = |regex: &str, behavior: &str| {
        json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": regex }, "behavior": behavior, "invert": false },
        { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true },
    ] })
    };
    for regex in ["x*", "(?=a)", "$", r"\b", "(a*)*b?", r"(?<=a)"] {
        for behavior in ["Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous", "Removed"] {
            edit(&dir.path().join("tokenizer.json"), json!({ "pre_tokenizer": split(regex, behavior) }));
            let tokenizer = Tokenizer::from_directory(dir.path()).unwrap();
            for text in ["", "a", "xxaab", "é\u{301}🙂 a"] {
                let _ = tokenizer.decode(&tokenizer.encode(text, PLAIN).unwrap());
            }
        }
    }
}

#[test]
fn broken_gguf_byte_level_tokenizers_say_why_or_go_on() {
    let sound = gpt2();
    let with = |key: &str, value: Value| {
        let mut metadata = sound.clone();
        metadata.set(format!("tokenizer.ggml.{key}"), value);
        Tokenizer::from_gguf(Path::new("some.gguf"), &metadata)
    };
    let error = with("merges", Value::U32(3)).unwrap_err().to_string();
    assert!(error.contains("\"tokenizer.ggml.merges\" is missing"), "{error}");
    assert!(with("tokens", strings(&[])).unwrap_err().to_string().contains("tokens: 0 tokens"));

    // llama.cpp takes merges as they are; those that need pieces which are not there are left out, with a note.
    let misfits = ["no such", "Ġthe", "", " ", "a  b", "Ġthe Ġthe", "h e"];
    let tokenizer = with("merges", strings(&misfits)).unwrap();
    assert!(tokenizer.notes()[0].contains("6 of 7 merges"), "{:?}", tokenizer.notes());
    assert_eq!(tokenizer.encode("he", PLAIN).unwrap(), [tokenizer.token("he").unwrap()]);
    assert_eq!(tokenizer.encode("the", PLAIN).unwrap().len(), 2);
    let mut metadata = sound.clone();
    metadata.set("tokenizer.ggml.merges", strings(&misfits));
    let dir = tempfile::TempDir::new().unwrap();
    for (name, bytes) in tokenizer_files(Path::new("some.gguf"), &metadata).unwrap().0 {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let rebuilt = Tokenizer::from_directory(dir.path()).unwrap();
    assert_eq!(rebuilt.encode("the", PLAIN).unwrap(), tokenizer.encode("the", PLAIN).unwrap());

    // The same text twice, empty pieces, and a vocabulary without the bytes: whatever is left is encoded.
    let mut odd = sound.clone();
    odd.set("tokenizer.ggml.tokens", strings(&["a", "a", "", "ab", "b", "[PAD5]"]));
    odd.set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1, 1, 1, 1, 3, 5])));
    odd.set("tokenizer.ggml.merges", strings(&["a b", "a b"]));
    odd.remove("tokenizer.ggml.bos_token_id");
    odd.remove("tokenizer.ggml.eos_token_id");
    let tokenizer = from_gguf(&odd);
    assert_eq!(tokenizer.encode("aba ?[PAD5]", PLAIN).unwrap(), [3, 0]);
    let files = tokenizer_files(Path::new("some.gguf"), &odd).unwrap().0;
    let json = String::from_utf8(files[0].1.clone()).unwrap();
    assert!(json.contains("\"ab\": 3") && !json.contains("PAD"), "{json}");
}

/// Files with a byte changed or the end cut off are read or refused, never more, and what is read encodes.
#[test]
fn damaged_files_do_not_panic() {
    for (name, damaged) in [
        ("falcon", "tokenizer.json"),
        ("qwen2", "tokenizer.json"),
        ("gemma", "tokenizer.json"),
        ("opt-350m", "vocab.json"),
        ("opt-350m", "merges.txt"),
        ("phi3", "tokenizer_config.json"),
    ] {
        let files: Vec<&str> =
            ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "config.json"]
                .into_iter()
                .filter(|file| fixture("architectures").join(name).join(file).is_file())
                .collect();
        let dir = copy_of(&format!("architectures/{name}"), &files);
        let file = dir.path().join(damaged);
        let sound = fs::read(&file).unwrap();
        let mut read = 0;
        let mut try_bytes = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            if let Ok(tokenizer) = Tokenizer::from_directory(dir.path()) {
                read += 1;
                let _ = tokenizer.decode(&tokenizer.encode("It's the  captain: 123 é\n", FULL).unwrap());
                if let Ok((metadata, _)) = tokenizer_metadata(dir.path(), "llama", 400) {
                    let files = tokenizer_files(&file, &metadata).unwrap().0;
                    assert!(files.len() >= 3);
                }
            }
        };
        for at in (0..sound.len()).step_by(sound.len() / 40) {
            try_bytes(&sound[..at]);
            for byte in [b'"', b'0', 0xFF] {
                let mut bytes = sound.clone();
                bytes[at] = byte;
                try_bytes(&bytes);
            }
        }
        assert!(read > 0, "{name}/{damaged}");
    }
}

#[test]
fn long_runs_take_no_long_time() {
    let tokenizer = from_gguf(&gpt2());
    for piece in [" ", "\n", "a", "ab ", "'", "1", "\u{301}", "🙂", "<|endoftext|>", "\u{a0}x"] {
        let text = piece.repeat(200_000 / piece.len());
        let tokens = tokenizer.encode(&text, PLAIN).unwrap();
        assert!(tokenizer.decode(&tokens) == text, "{piece:?}");
    }
    // A word of one letter merges pair by pair, however long it is.
    assert!(tokenizer.encode(&"a".repeat(100_000), PLAIN).unwrap().len() < 60_000);
}

#[test]
fn special_tokens_are_seen_only_on_request() {
    for name in ["llama3", "qwen2", "gpt2", "falcon", "starcoder2"] {
        let folder = fixture("architectures").join(name);
        let t = Tokenizer::from_directory(&folder).unwrap();
        let eos = t.eos().unwrap();
        let text = t.piece(eos).unwrap();
        assert_eq!(t.encode(text, PARSED).unwrap(), [eos]);
        let plain = t.encode(text, PLAIN).unwrap();
        assert!(!plain.contains(&eos), "{name}");
        assert_eq!((t.decode(&plain).as_str(), t.decode(&[eos]).as_str()), (text, ""));
        assert!(t.is_end(eos));
    }
}

/// Whether text keeps its spelling, and a tokenizer.
static TOKENIZERS: LazyLock<Vec<(bool, Tokenizer)>> = LazyLock::new(|| {
    let names = ["llama3", "falcon", "starcoder2", "phi", "qwen2", "gpt_neox"];
    let read = |name| Tokenizer::from_directory(&fixture("architectures").join(name)).unwrap();
    names.map(|name| (!matches!(name, "qwen2" | "gpt_neox"), read(name))).into()
});

proptest! {
    #[test]
    fn any_text_comes_back(text: String) {
        for (keeps, t) in TOKENIZERS.iter() {
            let tokens = t.encode(&text, PLAIN).unwrap();
            prop_assert_eq!(&tokens, &t.encode(&text, PLAIN).unwrap());
            let decoded = t.decode(&tokens);
            // Some compose characters first, so their text is another spelling of the same.
            prop_assert_eq!(t.encode(&decoded, PLAIN).unwrap(), tokens);
            prop_assert!(!keeps || decoded == text, "{:?}", decoded);
        }
    }

    #[test]
    fn any_tokens_decode(tokens in proptest::collection::vec(0u32..500, 0..40)) {
        for (_, t) in TOKENIZERS.iter() {
            let whole = t.decode(&tokens);
            let mut stream = t.stream();
            let mut text: String = tokens.iter().map(|&token| stream.push(&t.token_bytes(token))).collect();
            text.push_str(&stream.finish());
            prop_assert_eq!(whole, text);
        }
    }
}
