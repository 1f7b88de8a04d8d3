//! The tokenizer against llama.cpp's test cases, against transformers, and against itself from another source.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use crate::common::{copy_of, edit, fixture, open, write_weights};
use proptest::prelude::*;
use quern_model::{Config, EncodeOptions, TokenKind, Tokenizer, gguf_metadata};
use quern_tensor_io::{Checkpoint, Metadata};
use serde_json::json;

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const BOS: EncodeOptions = EncodeOptions { add_special: true, parse_special: false };
const PARSED: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

const PROMPTS: [&str; 2] = [
    "It was a dark night, and the old captain",
    "\"I do not believe it,\" said Alice; na\u{ef}ve caf\u{e9} \u{2116} 42 \u{2014} \u{6771}\u{4eac} \u{1f642}",
];

/// The ids transformers 5.23 gives `PROMPTS`, for bookworm-4m and bookworm-27m.
const IDS_4M: [&[u32]; 2] = [
    &[1, 533, 322, 261, 1024, 850, 4049, 284, 263, 699, 3517],
    &[
        1, 314, 4056, 437, 355, 1475, 329, 433, 450, 3149, 4061, 298, 4033, 198, 178, 312, 1179, 4046, 198,
        172, 4030, 229, 135, 153, 4030, 55, 53, 3299, 4030, 233, 160, 180, 231, 189, 175, 4030, 243, 162,
        156, 133,
    ],
];
const FILES: [&str; 5] =
    ["config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"];

/// The metadata a GGUF file made of this directory would have.
fn metadata_of(dir: &Path) -> Metadata {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let config = Config::from_checkpoint(&checkpoint).unwrap();
    gguf_metadata(&checkpoint, &config).unwrap().0
}

/// The tokenizer of a directory (weights are made up if it has none), and that of a GGUF file made of it.
fn both(dir: &Path) -> [Tokenizer; 2] {
    if !dir.join("model.safetensors").exists() {
        write_weights(dir);
    }
    [Tokenizer::from_directory(dir).unwrap(), Tokenizer::from_gguf(dir, &metadata_of(dir)).unwrap()]
}

fn llama_cpp_cases(name: &str) {
    let tokenizer = Tokenizer::from_checkpoint(&open(&format!("vocab/{name}.gguf"))).unwrap();
    let inputs = fs::read_to_string(fixture(&format!("vocab/{name}.gguf.inp"))).unwrap();
    let outputs = fs::read_to_string(fixture(&format!("vocab/{name}.gguf.out"))).unwrap();
    let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
    let outputs: Vec<&str> = outputs.lines().collect();
    assert_eq!((inputs.len(), outputs.len()), (47, 46), "a separator also ends the last case");
    for (input, output) in inputs.iter().zip(outputs) {
        let expected: Vec<u32> = output.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(tokenizer.encode(input, PLAIN).unwrap(), expected, "{input:?}");
        assert_eq!(tokenizer.decode(&expected), *input);
    }
}

#[test]
fn llama_spm_cases_of_llama_cpp() {
    llama_cpp_cases("ggml-vocab-llama-spm");
}

#[test]
fn phi_3_cases_of_llama_cpp() {
    llama_cpp_cases("ggml-vocab-phi-3");
}

#[test]
fn gpt_2_cases_of_llama_cpp() {
    llama_cpp_cases("ggml-vocab-gpt-2");
}

#[test]
fn llama_bpe_cases_of_llama_cpp() {
    llama_cpp_cases("ggml-vocab-llama-bpe");
}

#[test]
fn qwen2_cases_of_llama_cpp() {
    llama_cpp_cases("ggml-vocab-qwen2");
}

fn check_prompts(tokenizer: &Tokenizer, ids: &[&[u32]; 2]) {
    for (prompt, ids) in PROMPTS.iter().zip(ids) {
        assert_eq!(tokenizer.encode(prompt, BOS).unwrap(), *ids, "{prompt}");
        assert_eq!(tokenizer.encode(prompt, PLAIN).unwrap(), ids[1..], "{prompt}");
        assert_eq!(tokenizer.decode(ids), *prompt);
    }
}

#[test]
fn bookworm_4m_encodes_as_transformers_does() {
    for tokenizer in both(&fixture("bookworm-4m")) {
        check_prompts(&tokenizer, &IDS_4M);
    }
    let made_by_llama_cpp = Tokenizer::from_checkpoint(&open("bookworm-4m-Q4_K_M.gguf")).unwrap();
    check_prompts(&made_by_llama_cpp, &IDS_4M);
}

#[test]
fn merges_alone_give_the_same_tokens_as_scores() {
    let text = fs::read_to_string(fixture("text/validation.txt")).unwrap();
    let scored = Tokenizer::from_directory(&fixture("bookworm-4m")).unwrap();
    let without_model = FILES.map(|f| if f == "tokenizer.model" { "config.json" } else { f });
    let dir = copy_of("bookworm-4m", &without_model);
    let expected = scored.encode(&text, BOS).unwrap();
    for ranked in both(dir.path()) {
        check_prompts(&ranked, &IDS_4M);
        assert!(ranked.encode(&text, BOS).unwrap() == expected, "the whole text");
    }
}

#[test]
fn tokenizer_model_alone_suffices() {
    let dir = copy_of("bookworm-4m", &["tokenizer.model"]);
    check_prompts(&Tokenizer::from_directory(dir.path()).unwrap(), &IDS_4M);
}

#[test]
fn special_tokens_are_found() {
    for t in both(&fixture("bookworm-4m")) {
        assert_eq!((t.bos(), t.eos(), t.unk(), t.eot()), (Some(1), Some(2), Some(0), None));
        assert_eq!((t.add_bos(), t.add_eos(), t.vocab_size()), (true, false, 4096));
        assert!(t.is_end(2) && !t.is_end(1) && !t.is_end(0));
        assert_eq!((t.piece(259), t.piece(4096)), (Some("\u{2581}t"), None));
        assert_eq!((t.token_kind(13), t.token_bytes(13).as_ref()), (Some(TokenKind::Byte), &b"\n"[..]));
        assert_eq!(t.token_bytes(1).as_ref(), b"");
        assert_eq!(t.token_bytes(u32::MAX).as_ref(), b"");
        assert_eq!(t.chat_template(), None);
    }
}

#[test]
fn control_tokens_are_parsed_only_on_request() {
    for t in both(&fixture("bookworm-4m")) {
        assert_eq!(
            t.encode("<s>a</s>", PARSED).unwrap(),
            [[1, 1].as_slice(), &t.encode("a", PLAIN).unwrap(), &[2]].concat()
        );
        let plain = t.encode("<s>a</s>", PLAIN).unwrap();
        assert!(!plain.contains(&1) && !plain.contains(&2), "{plain:?}");
        assert_eq!(t.decode(&plain), "<s>a</s>");
        assert_eq!(t.encode("", BOS).unwrap(), [1]);
    }
}

#[test]
fn added_tokens_extend_the_vocabulary() {
    let dir = copy_of("bookworm-4m", &FILES);
    let path = dir.path();
    let mut added =
        serde_json::from_slice::<serde_json::Value>(&fs::read(path.join("tokenizer_config.json")).unwrap())
            .unwrap()["added_tokens_decoder"]
            .clone();
    added["4096"] = json!({ "content": "<|im_end|>", "special": false });
    added["4097"] = json!({ "content": "two\u{2581}words", "special": false });
    added["4098"] = json!({ "content": "two", "special": false });
    edit(
        &path.join("tokenizer_config.json"),
        json!({ "added_tokens_decoder": added, "chat_template": "{{ x }}" }),
    );
    edit(&path.join("config.json"), json!({ "vocab_size": 4100, "tie_word_embeddings": true }));
    edit(
        &path.join("generation_config.json"),
        json!({ "eos_token_id": [2, 4098], "top_k": 5, "temperature": 0.5 }),
    );
    let [directory, gguf] = both(path);
    assert_eq!((directory.vocab_size(), gguf.vocab_size()), (4099, 4100));
    assert_eq!(gguf.piece(4099), Some("[PAD4099]"));
    assert_eq!(gguf.token_kind(4099), Some(TokenKind::Unused));
    for t in [&directory, &gguf] {
        assert_eq!(t.token_kind(4096), Some(TokenKind::Control), "it looks special");
        assert_eq!(t.token_kind(4097), Some(TokenKind::UserDefined));
        assert_eq!((t.eot(), t.is_end(4096)), (Some(4096), true));
        assert_eq!(t.chat_template(), Some("{{ x }}"));
        // The longest wins; user-defined tokens need no request.
        assert_eq!(t.encode("two wordstwo", PLAIN).unwrap(), [4097, 4098]);
        assert_eq!(t.decode(&[4097, 4098]), "two wordstwo");
    }
    assert!(directory.is_end(4098) && !gguf.is_end(4098), "GGUF has no place for further ends");
    let metadata = metadata_of(path);
    assert_eq!(metadata.u64("general.sampling.top_k"), Some(5));
    assert_eq!(metadata.f64("general.sampling.temp"), Some(0.5));
}

#[test]
fn named_chat_templates() {
    let dir = copy_of("bookworm-4m", &FILES);
    let list = json!([{ "name": "default", "template": "A" }, { "name": "tool-use", "template": "B" }]);
    edit(&dir.path().join("tokenizer_config.json"), json!({ "chat_template": list }));
    for t in both(dir.path()) {
        assert_eq!(t.chat_template(), Some("A"));
    }
    let metadata = metadata_of(dir.path());
    assert_eq!(metadata.str("tokenizer.chat_template.tool_use"), Some("B"));
    let names: Vec<&str> = metadata.strings("tokenizer.chat_templates").unwrap().iter().collect();
    assert_eq!(names, ["tool_use"]);

    edit(&dir.path().join("tokenizer_config.json"), json!({ "chat_template": null }));
    fs::write(dir.path().join("chat_template.jinja"), "C").unwrap();
    for t in both(dir.path()) {
        assert_eq!(t.chat_template(), Some("C"));
    }
}

#[test]
fn space_prefix_as_metaspace_has_it() {
    let dir = copy_of("bookworm-4m", &FILES);
    let file = dir.path().join("tokenizer.json");
    let metaspace = |scheme: &str| json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false });
    let with = |scheme: &str| {
        edit(&file, json!({ "normalizer": null, "pre_tokenizer": metaspace(scheme) }));
        both(dir.path())
    };
    let reference = Tokenizer::from_directory(&fixture("bookworm-4m")).unwrap();
    let encode = |text: &str| reference.encode(text, PLAIN).unwrap();
    let [first, _] = with("first");
    assert_eq!(first.encode("the", PLAIN).unwrap(), encode("the"));
    assert_eq!(first.encode(" the", PLAIN).unwrap(), encode("the"), "a space is there already");
    assert_eq!(first.encode("</s>the", PARSED).unwrap()[2..], first.encode("<s>the", PARSED).unwrap()[2..]);
    assert_ne!(first.encode("</s>the", PARSED).unwrap()[2..], encode("the"));
    let [always, _] = with("always");
    assert_eq!(always.encode("</s>the", PARSED).unwrap()[2..], encode("the"));
    let [never, gguf] = with("never");
    for t in [never, gguf] {
        assert_ne!(t.encode("the", PLAIN).unwrap(), encode("the"));
        assert_eq!(t.decode(&t.encode(" the", PLAIN).unwrap()), " the");
    }
}

#[test]
fn unsupported_and_broken_tokenizers_say_why() {
    let message = |dir: &Path| Tokenizer::from_directory(dir).unwrap_err().to_string();
    let dir = copy_of("bookworm-4m", &FILES);
    let file = dir.path().join("tokenizer.json");
    edit(
        &file,
        json!({ "pre_tokenizer": { "type": "Sequence", "pretokenizers": [{ "type": "ByteLevel" }] } }),
    );
    assert!(message(dir.path()).contains("pre_tokenizer: missing field"), "{}", message(dir.path()));
    edit(&file, json!({ "pre_tokenizer": null, "normalizer": { "type": "NFKC" } }));
    assert!(message(dir.path()).contains("normalizer \"NFKC\""), "{}", message(dir.path()));
    edit(&file, json!({ "normalizer": null, "model": { "type": "WordPiece" } }));
    assert!(message(dir.path()).contains("\"WordPiece\""), "{}", message(dir.path()));
    edit(&file, json!({ "model": 7 }));
    assert!(message(dir.path()).contains("expected an object under \"model\""), "{}", message(dir.path()));
    fs::write(&file, "[".repeat(100_000)).unwrap();
    assert!(message(dir.path()).contains("not valid JSON"), "{}", message(dir.path()));
    fs::remove_file(&file).unwrap();
    fs::remove_file(dir.path().join("tokenizer.model")).unwrap();
    assert!(message(dir.path()).contains("no tokenizer here"), "{}", message(dir.path()));

    let gpt2 = crate::common::copy_of("bookworm-4m", &["config.json"]);
    fs::write(gpt2.path().join("vocab.json"), "{}").unwrap();
    assert!(message(gpt2.path()).contains("merges.txt: No such file"), "{}", message(gpt2.path()));

    let ids = copy_of("bookworm-4m", &FILES);
    let huge = json!({ "added_tokens_decoder": { "16000000": { "content": "x" } } });
    edit(&ids.path().join("tokenizer_config.json"), huge);
    assert!(
        message(ids.path()).contains("added_tokens_decoder.16000000: not a token id"),
        "{}",
        message(ids.path())
    );
}

#[test]
fn broken_gguf_tokenizers_say_why() {
    let sound = metadata_of(&fixture("bookworm-4m"));
    let file = Path::new("some.gguf");
    let message = |key: &str, value: Option<quern_tensor_io::Value>| {
        let mut metadata = sound.clone();
        match value {
            Some(value) => metadata.set(format!("tokenizer.ggml.{key}"), value),
            None => drop(metadata.remove(&format!("tokenizer.ggml.{key}"))),
        }
        Tokenizer::from_gguf(file, &metadata).unwrap_err().to_string()
    };
    use quern_tensor_io::{Array, Value};
    assert!(
        message("model", None).contains("some.gguf: the metadata key \"tokenizer.ggml.model\" is missing")
    );
    assert!(message("model", Some("gpt2".into())).contains("tokenizer.ggml.merges\" is missing"));
    assert!(message("model", Some("bert".into())).contains("\"bert\" is not supported"));
    assert!(message("tokens", None).contains("missing"));
    assert!(
        message("scores", Some(Value::Array(Array::F32(vec![0.0])))).contains("1 scores for 4096 tokens")
    );
    assert!(message("scores", Some(Value::Array(Array::F32(vec![f32::NAN; 4096])))).contains("not a number"));
    assert!(message("token_type", Some(Value::Array(Array::I32(vec![9; 4096])))).contains("unknown type 9"));
    assert!(message("token_type", Some(Value::Bool(true))).contains("an array of i32"));
    assert!(message("add_bos_token", Some(Value::U32(1))).contains("true or false"));
}

/// Every prefix of a sound `tokenizer.model`, and the model with each byte of its start changed, is read or
/// refused, never more.
#[test]
fn damaged_tokenizer_models_do_not_panic() {
    let dir = copy_of("bookworm-4m", &["tokenizer.model"]);
    let file = dir.path().join("tokenizer.model");
    let sound = fs::read(&file).unwrap();
    let mut refused = 0;
    for cut in (0..sound.len()).step_by(997) {
        fs::write(&file, &sound[..cut]).unwrap();
        refused += usize::from(Tokenizer::from_directory(dir.path()).is_err());
    }
    assert!(refused > 60, "without its trainer's settings a model is no BPE model: {refused}");
    for at in 0..60 {
        let mut bytes = sound.clone();
        bytes[at] ^= 0xFF;
        fs::write(&file, &bytes).unwrap();
        let _ = Tokenizer::from_directory(dir.path());
    }
    fs::write(&file, b"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F").unwrap();
    let error = Tokenizer::from_directory(dir.path()).unwrap_err().to_string();
    assert!(error.contains("bytes announced"), "{error}");
}

static BOTH: LazyLock<[Tokenizer; 2]> = LazyLock::new(|| both(&fixture("bookworm-4m")));

proptest! {
    #[test]
    fn both_sources_agree_and_lose_nothing(text in "(\\PC|[ \\n\\t<>/s▁]|the |<s>|[a-z]{1,9} ){0,40}", add_special: bool) {
        let options = EncodeOptions { add_special, parse_special: false };
        let [directory, gguf] = &*BOTH;
        let tokens = directory.encode(&text, options).unwrap();
        prop_assert_eq!(&tokens, &gguf.encode(&text, options).unwrap());
        // The one thing a SentencePiece vocabulary cannot tell from a space is the sign it writes for one.
        prop_assert_eq!(directory.decode(&tokens), text.replace('\u{2581}', " "));
    }

    #[test]
    fn any_string_comes_back(text: String) {
        let [directory, gguf] = &*BOTH;
        let tokens = gguf.encode(&text, PLAIN).unwrap();
        prop_assert_eq!(&tokens, &directory.encode(&text, PLAIN).unwrap());
        prop_assert_eq!(gguf.decode(&tokens), text.replace('\u{2581}', " "));
    }

    #[test]
    fn both_sources_agree_on_special_tokens(text in "(<s>|</s>|<unk>|[a-z ]{0,9}){0,9}") {
        let [directory, gguf] = &*BOTH;
        prop_assert_eq!(directory.encode(&text, PARSED).unwrap(), gguf.encode(&text, PARSED).unwrap());
    }

    #[test]
    fn any_tokens_decode(tokens in proptest::collection::vec(0u32..5000, 0..40)) {
        let [directory, gguf] = &*BOTH;
        let whole = directory.decode(&tokens);
        prop_assert_eq!(&whole, &gguf.decode(&tokens));
        let mut stream = directory.stream();
        let mut text: String = tokens.iter().map(|&t| stream.push(&directory.token_bytes(t))).collect();
        text.push_str(&stream.finish());
        prop_assert_eq!(whole, text);
    }
}
