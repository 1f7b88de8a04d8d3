//! What tokenizers take of memory: reading a file, however hostile, at most 64 MiB beyond its size; encoding a text at most
//! 16 bytes for each byte of it.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::Path;

use quern_model::{EncodeOptions, Tokenizer};
use quern_tensor_io::{Array, Metadata, StringArray, Value};

use common::{copy_of, fixture};

/// Counts what each thread has allocated, so that tests may run beside each other.
struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends frees memory when its counters are gone.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `work` gives, and the bytes it took at its peak.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let out = work();
    (out, (PEAK.get() - before) as usize)
}

const MIB: usize = 1 << 20;

#[test]
fn encoding_takes_sixteen_bytes_a_byte() {
    let prose = fs::read_to_string(fixture("text/validation.txt")).unwrap_or_else(|_| {
        let sample = include_str!("../src/tokenizer/pre_tokenizer/sample.txt");
        sample.repeat(1 + MIB / sample.len())
    });
    let prose = prose.repeat(1 + 2 * MIB / prose.len());
    let texts = [
        ("prose", prose),
        ("one word", "a".repeat(2 * MIB)),
        ("one word of many letters", "thequickbrownfox".repeat(MIB / 8)),
        ("blanks", " ".repeat(2 * MIB)),
        ("short words", "a b c d ".repeat(MIB / 4)),
        ("no blanks", "中文字".repeat(MIB / 4)),
        ("to be composed", "cafe\u{301} ".repeat(MIB / 4)),
        ("special tokens", "<|endoftext|><s>".repeat(MIB / 8)),
    ];
    let names = ["gpt2", "llama3", "qwen2", "falcon", "gpt_neox", "starcoder2", "llama", "gemma", "phi3"];
    for name in names {
        let tokenizer = Tokenizer::from_directory(&fixture("architectures").join(name)).unwrap();
        // The states that searches remember are the tokenizer's, not the text's.
        tokenizer.encode("Some words, 12 of them.\n", EncodeOptions::default()).unwrap();
        for (what, text) in &texts {
            let options = EncodeOptions { add_special: true, parse_special: true };
            let (tokens, peak) = peak_of(|| tokenizer.encode(text, options).unwrap());
            assert!(!tokens.is_empty());
            assert!(
                peak <= 16 * text.len() + 2 * MIB,
                "{name}, {what}: {:.1} bytes a byte",
                peak as f64 / text.len() as f64
            );
        }
    }
}

/// Reads the tokenizer of a directory; at most 64 MiB more than its files have may be taken.
fn check(directory: &Path, what: &str) {
    let sizes = fs::read_dir(directory).unwrap().map(|file| file.unwrap().metadata().unwrap().len() as usize);
    let size: usize = sizes.sum();
    let (read, peak) = peak_of(|| Tokenizer::from_directory(directory).map(drop));
    assert!(peak <= size + 64 * MIB, "{what}: {} MiB for {} MiB of files", peak / MIB, size / MIB);
    if let Err(e) = read {
        let message = e.to_string();
        assert!(message.len() < 600 && message.lines().count() == 1, "{what}: {message}");
    }
}

const SIZE: usize = 40 * MIB;

/// `head`, as many of `entry` (by number) as fit, and `tail`.
fn filled(head: &str, entry: impl Fn(usize) -> String, tail: &str) -> String {
    let mut text = head.to_owned();
    let mut number = 0;
    while text.len() < SIZE {
        if number > 0 {
            text.push(',');
        }
        text.push_str(&entry(number));
        number += 1;
    }
    text + tail
}

#[test]
fn hostile_tokenizer_json_takes_little_memory() {
    let dir = copy_of("architectures/gpt2", &["tokenizer.json"]);
    let file = dir.path().join("tokenizer.json");
    let sound = fs::read_to_string(&file).unwrap();
    let sound = sound.trim_end().strip_suffix('}').unwrap();
    let bytes = r#""pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true}"#;
    let model = |part: &str| format!(r#"{{{bytes},"model":{{"type":"BPE",{part}"#);
    let vocab = r#""vocab":{"a":0,"b":1,"ab":2}"#;
    let cases = [
        ("unknown key", filled(&format!("{sound},\"x\":["), |_| "{}".into(), "]}")),
        ("deep", format!("{sound},\"x\":{}", "[".repeat(SIZE))),
        ("pre-tokenizer", filled("{\"pre_tokenizer\":[", |_| "{}".into(), "]}")),
        ("normalizer", filled(&format!("{sound},\"normalizer\":["), |_| "0".into(), "]}")),
        ("decoder", filled(&format!("{sound},\"decoder\":{{"), |n| format!("\"{n}\":[]"), "}}")),
        ("post-processor", filled(&format!("{sound},\"post_processor\":["), |_| "\"\"".into(), "]}")),
        (
            "content",
            format!("{sound},\"normalizer\":{{\"type\":\"Prepend\",\"prepend\":\"{}\"}}}}", "x".repeat(SIZE)),
        ),
        (
            "added",
            filled(
                &format!("{sound},\"added_tokens\":["),
                |n| format!("{{\"id\":{},\"content\":\"{n:x}\"}}", n % 900_000),
                "]}",
            ),
        ),
        (
            "added, long",
            format!("{sound},\"added_tokens\":[{{\"id\":1,\"content\":\"{}\"}}]}}", "x".repeat(SIZE)),
        ),
        ("vocab", filled(&model("\"vocab\":{"), |n| format!("\"{n:x}\":{n}"), "}}}")),
        ("vocab, far ids", filled(&model("\"vocab\":{"), |n| format!("\"{n:x}\":{}", n * 2), "}}}")),
        ("vocab, bad ids", filled(&model("\"vocab\":{"), |n| format!("\"{n:x}\":[{n}]"), "}}}")),
        ("merges", filled(&model(&format!("{vocab},\"merges\":[")), |_| "\"a b\"".into(), "]}}")),
        (
            "merges, pairs",
            filled(&model(&format!("{vocab},\"merges\":[")), |_| "[\"a\",\"b\"]".into(), "]}}"),
        ),
        ("type", format!("{{\"model\":{{\"type\":\"{}\"}}}}", "x".repeat(SIZE))),
        ("unigram", filled("{\"model\":{\"type\":\"Unigram\",\"vocab\":[", |_| "[\"a\",0]".into(), "]}}")),
    ];
    for (what, text) in cases {
        fs::write(&file, text).unwrap();
        check(dir.path(), what);
    }
}

#[test]
fn hostile_vocabularies_of_other_files_take_little_memory() {
    let dir = tempfile::TempDir::new().unwrap();
    let write = |name: &str, content: &[u8]| fs::write(dir.path().join(name), content).unwrap();
    write("merges.txt", b"");
    write("vocab.json", filled("{", |n| format!("\"{n:x}\":{n}"), "}").as_bytes());
    check(dir.path(), "vocab.json");
    write("vocab.json", br#"{"a":0,"b":1,"ab":2}"#);
    write("merges.txt", "a b\n".repeat(SIZE / 4).as_bytes());
    check(dir.path(), "merges.txt");
    for (what, piece) in [("empty pieces", &b"\x0a\x00"[..]), ("short pieces", b"\x0a\x03\x0a\x01a")] {
        write("tokenizer.model", &piece.repeat(SIZE / piece.len()));
        check(dir.path(), what);
    }
}

#[test]
fn hostile_gguf_vocabularies_take_little_memory() {
    let strings = |count: usize, text: fn(usize) -> String| {
        Value::Array(Array::String((0..count).map(text).collect::<StringArray>()))
    };
    for model in ["llama", "gpt2"] {
        for count in [1 << 20, 3_000_000] {
            let mut metadata = Metadata::new();
            metadata.set("tokenizer.ggml.model", model);
            metadata.set("tokenizer.ggml.tokens", strings(count, |n| format!("{n:x}")));
            metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; count])));
            metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1; count])));
            metadata.set("tokenizer.ggml.merges", strings(count, |_| "a b".into()));
            // Each string has eight bytes of length in the file.
            let size = count * (8 + 5 + 4 + 4 + 8 + 3);
            let (read, peak) = peak_of(|| Tokenizer::from_gguf(Path::new("some.gguf"), &metadata).map(drop));
            assert_eq!(read.is_ok(), count == 1 << 20, "{read:?}");
            assert!(peak <= 64 * MIB, "{model}: {} MiB for {} MiB", peak / MIB, size / MIB);
        }
    }
}
