//! Ids of special tokens that do not exist: noted and passed over, in GGUF and in Hugging Face files.

use std::fs;
use std::path::Path;

use crate::common::{copy_of, edit, open};
use quern_model::Tokenizer;
use quern_model::hugging_face::tokenizer_files;
use quern_tensor_io::Value;
use serde_json::json;

/// The demo model's GGUF tokenizer with other entries.
fn gguf(entries: &[(&str, Value)]) -> Tokenizer {
    let mut metadata = open("bookworm-4m-Q4_K_M.gguf").metadata().clone();
    for (key, value) in entries {
        metadata.set(format!("tokenizer.ggml.{key}"), value.clone());
    }
    Tokenizer::from_gguf(Path::new("some.gguf"), &metadata).unwrap()
}

#[test]
fn gguf_keys_fall_back_to_what_is_usual() {
    assert_eq!(gguf(&[]).notes(), [] as [String; 0]);
    let t = gguf(&[
        ("bos_token_id", Value::U32(4096)),
        ("eos_token_id", Value::U64(1 << 40)),
        ("unknown_token_id", Value::String("x".into())),
        ("padding_token_id", Value::U32(5000)),
        ("eot_token_id", Value::I32(-5)),
    ]);
    assert_eq!((t.bos(), t.eos(), t.unk(), t.special_ids().pad), (Some(1), Some(2), Some(0), None));
    assert_eq!(t.notes().len(), 5, "{:?}", t.notes());
    assert_eq!(
        t.notes()[0],
        "tokenizer.ggml.bos_token_id: 4096 is not the id of one of the 4096 tokens and is ignored; 1 is taken instead"
    );
    assert_eq!(
        t.notes()[3],
        "tokenizer.ggml.padding_token_id: 5000 is not the id of one of the 4096 tokens and is ignored"
    );
    // -1 is a way to say none.
    for none in [Value::I32(-1), Value::U32(u32::MAX)] {
        let t = gguf(&[("padding_token_id", none.clone()), ("eos_token_id", none)]);
        assert_eq!((t.special_ids().pad, t.eos(), t.end_tokens()), (None, None, &[] as &[u32]));
        assert_eq!(t.notes().len(), 1);
        assert!(t.notes()[0].contains("generation ends only at the number of tokens"), "{:?}", t.notes());
    }
}

#[test]
fn hugging_faces_files_lose_the_ids_alone() {
    let dir = copy_of("bookworm-4m", &["config.json", "tokenizer.json", "tokenizer_config.json"]);
    let read = || Tokenizer::from_directory(dir.path()).unwrap();
    let ends = read().end_tokens().to_vec();
    fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [7, 99999, -1, "x", 4096]}"#)
        .unwrap();
    edit(
        &dir.path().join("config.json"),
        json!({ "pad_token_id": 4096, "mask_token_id": -1, "eos_token_id": [2, 5000] }),
    );
    let t = read();
    let mut expected = ends;
    expected.push(7);
    expected.sort_unstable();
    assert_eq!((t.end_tokens(), t.special_ids().pad), (&expected[..], None));
    let notes = t.notes().join("\n");
    assert_eq!(t.notes().len(), 4, "{notes}");
    for key in [
        "config.json: pad_token_id: 4096 is",
        "generation_config.json: eos_token_id: 99999 is",
        "the value is",
    ] {
        assert!(notes.contains(key), "{notes}");
    }
}

#[test]
fn what_is_written_lacks_the_ids() {
    let mut metadata = open("bookworm-4m-Q4_K_M.gguf").metadata().clone();
    metadata.set("tokenizer.ggml.padding_token_id", Value::U32(4096));
    let (files, notes) = tokenizer_files(Path::new("some.gguf"), &metadata).unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    for (name, content) in files {
        assert!(!String::from_utf8_lossy(&content).contains("pad_token"), "{name}");
    }
}
