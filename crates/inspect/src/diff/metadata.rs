//! GGUF metadata and the JSON files beside safetensors, key by key.
//!
//! Keys that say where a file comes from or how it is stored are listed and do not count:
//!
//! | keys | about |
//! |---|---|
//! | `quern.*` (without `quern.tokenizer.*`), `quantize.imatrix.*` | how the file was made |
//! | `general.file_type`, `general.quantization_version`, `general.alignment`, `split.*` | how it is stored |
//! | `transformers_version`, `dtype`, `quantization_config.*` … in `config.json` | likewise |

use std::collections::BTreeMap;

use quern_tensor_io::{Array, Checkpoint, Container, Metadata, Value};
use serde_json::Value as Json;

use super::entry::{Entry, differing};
use crate::loose;
use crate::summary::describe;

/// Keys of GGUF metadata that belong to the tokenizer, which is compared on its own.
const TOKENIZER: [&str; 2] = ["tokenizer.", "quern.tokenizer."];
/// Beginnings of keys that do not count.
const PROVENANCE: [&str; 6] = [
    "quern.",
    "quantize.imatrix.",
    "general.file_type",
    "general.quantization_version",
    "general.alignment",
    "split.",
];
/// Keys of `config.json` that say nothing of the computation.
const BOOKKEEPING: [&str; 9] = [
    "_name_or_path",
    "_commit_hash",
    "architectures",
    "dtype",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "pretraining_tp",
];
/// Keys of `generation_config.json` that are no settings, or the tokenizer's.
const NOT_SAMPLING: [&str; 6] = [
    "_from_model_config",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "transformers_version",
    "use_cache",
];
/// Settings that GGUF has keys for, by their names in `generation_config.json`.
const SAMPLING: [(&str, &str); 4] =
    [("top_k", "top_k"), ("top_p", "top_p"), ("min_p", "min_p"), ("temperature", "temp")];

/// The metadata of two GGUF files; nothing of other pairs.
pub(super) fn gguf(a: &Checkpoint, b: &Checkpoint) -> Vec<Entry> {
    if [a, b].iter().any(|c| c.container() != Container::Gguf) {
        return Vec::new();
    }
    let wanted = |key: &str| !TOKENIZER.iter().any(|prefix| key.starts_with(prefix));
    keys(a.metadata(), b.metadata(), wanted)
}

/// The entries for the keys of two GGUF files that `wanted` accepts.
pub(super) fn keys(a: &Metadata, b: &Metadata, wanted: impl Fn(&str) -> bool) -> Vec<Entry> {
    let mut entries = Vec::new();
    let of_b = b.iter().filter(|(key, _)| a.get(key).is_none());
    for (key, _) in a.iter().chain(of_b).filter(|(key, _)| wanted(key)) {
        let (of_a, of_b) = (a.get(key), b.get(key));
        if of_a == of_b {
            continue;
        }
        let counts = !provenance(key) && !same_number(of_a, of_b);
        let (of_a, of_b) = texts(of_a, of_b);
        entries.push(Entry::new(key, of_a.as_deref(), of_b.as_deref(), counts));
    }
    entries.sort_by(|x, y| x.key.cmp(&y.key));
    entries
}

fn provenance(key: &str) -> bool {
    let tokenizer = TOKENIZER.iter().any(|prefix| key.starts_with(prefix));
    !tokenizer && PROVENANCE.iter().any(|prefix| key.starts_with(prefix))
}

/// Whether both are the same number in two types.
fn same_number(a: Option<&Value>, b: Option<&Value>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return false };
    matches!((a.as_f64(), b.as_f64()), (Some(x), Some(y)) if x == y)
}

/// Both values as text, with their types where those differ, and of arrays the first elements that differ.
fn texts(a: Option<&Value>, b: Option<&Value>) -> (Option<String>, Option<String>) {
    if let (Some(Value::Array(of_a)), Some(Value::Array(of_b))) = (a, b)
        && let Some(at) = first_different(of_a, of_b)
    {
        let text = |array: &Array| format!("[{}] number {at}: {}", array.len(), element(array, at));
        return (Some(text(of_a)), Some(text(of_b)));
    }
    let described = |value: Option<&Value>| value.map(describe);
    let (of_a, of_b) = (described(a), described(b));
    let same_type = matches!((&of_a, &of_b), (Some((x, _)), Some((y, _))) if x != y);
    let text = |described: Option<(String, String)>| {
        described.map(|(kind, text)| if same_type { format!("{text} ({kind})") } else { text })
    };
    (text(of_a), text(of_b))
}

/// Where two arrays of one type begin to differ.
fn first_different(a: &Array, b: &Array) -> Option<usize> {
    if std::mem::discriminant(a) != std::mem::discriminant(b) {
        return None;
    }
    let longer = a.len().max(b.len());
    (0..longer).find(|&at| at >= a.len() || at >= b.len() || element(a, at) != element(b, at))
}

fn element(array: &Array, at: usize) -> String {
    fn of<T: std::fmt::Debug>(items: &[T], at: usize) -> Option<String> {
        items.get(at).map(|item| format!("{item:?}"))
    }
    let text = match array {
        Array::U8(v) => of(v, at),
        Array::I8(v) => of(v, at),
        Array::U16(v) => of(v, at),
        Array::I16(v) => of(v, at),
        Array::U32(v) => of(v, at),
        Array::I32(v) => of(v, at),
        Array::U64(v) => of(v, at),
        Array::I64(v) => of(v, at),
        Array::F32(v) => of(v, at),
        Array::F64(v) => of(v, at),
        Array::Bool(v) => of(v, at),
        Array::String(v) => v.get(at).map(|item| format!("{item:?}")),
    };
    text.unwrap_or_else(|| "none".into())
}

/// The keys of both `config.json`; nothing where one is a GGUF file. Where quern understands both configurations,
/// `understood`, those decide, and keys do not count.
pub(super) fn config_json(a: &Checkpoint, b: &Checkpoint, understood: bool) -> Vec<Entry> {
    let Some((of_a, of_b)) = both(a, b, "config.json") else { return Vec::new() };
    let bookkeeping = |key: &str| key.split('.').next().is_some_and(|first| BOOKKEEPING.contains(&first));
    differing(&of_a, &of_b, |key, _, _| !understood && !bookkeeping(key))
}

/// Recommended settings for generation: the keys of both `generation_config.json`, or those that GGUF can hold.
pub(super) fn generation(a: &Checkpoint, b: &Checkpoint) -> Vec<Entry> {
    if let Some((of_a, of_b)) = both(a, b, "generation_config.json") {
        return differing(&of_a, &of_b, |key, _, _| !NOT_SAMPLING.contains(&key));
    }
    match (a.container(), b.container()) {
        // Compared as metadata.
        (Container::Gguf, Container::Gguf) => Vec::new(),
        // Many GGUF files were written before there were such keys.
        _ => differing(&sampling(a), &sampling(b), |_, a, b| a.is_some() && b.is_some()),
    }
}

/// The settings that GGUF can hold.
fn sampling(checkpoint: &Checkpoint) -> BTreeMap<String, String> {
    let json = match checkpoint.container() {
        Container::Gguf => None,
        Container::Safetensors | Container::PyTorch => {
            loose::json(&checkpoint.directory().join("generation_config.json"))
        }
    };
    let value = |(name, key): (&str, &str)| match &json {
        Some(json) => json.get(name)?.as_f64(),
        None => checkpoint.metadata().f64(&format!("general.sampling.{key}")),
    };
    let text = |(name, key)| Some((String::from(name), (value((name, key))? as f32).to_string()));
    SAMPLING.into_iter().filter_map(text).collect()
}

/// A JSON file of two directories, flattened; `None` where one of the models is a GGUF file.
fn both(
    a: &Checkpoint,
    b: &Checkpoint,
    file: &str,
) -> Option<(BTreeMap<String, String>, BTreeMap<String, String>)> {
    let read = |checkpoint: &Checkpoint| {
        let mut out = BTreeMap::new();
        if let Some(json) = loose::json(&checkpoint.directory().join(file)) {
            flatten("", &json, &mut out);
        }
        out
    };
    let directories = [a, b].iter().all(|c| c.container() != Container::Gguf);
    directories.then(|| (read(a), read(b)))
}

/// Nested objects as keys with dots.
fn flatten(prefix: &str, value: &Json, out: &mut BTreeMap<String, String>) {
    match value {
        Json::Object(map) if !map.is_empty() || prefix.is_empty() => {
            for (key, value) in map {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, out);
            }
        }
        _ => drop(out.insert(prefix.to_owned(), value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_shown_where_they_differ_and_provenance_does_not_count() {
        let (mut a, mut b) = (Metadata::new(), Metadata::new());
        a.set("x.list", Value::Array(Array::I32(vec![1, 2, 3])));
        b.set("x.list", Value::Array(Array::I32(vec![1, 5, 3])));
        a.set("general.file_type", Value::U32(1));
        b.set("general.file_type", Value::U32(15));
        b.set("quern.provenance", "made of x");
        a.set("quern.tokenizer.class", "A");
        a.set("n", Value::U32(7));
        b.set("n", Value::U64(7));
        a.set("same", Value::U32(7));
        b.set("same", Value::U32(7));
        let found = keys(&a, &b, |_| true);
        let of = |key: &str| found.iter().find(|e| e.key == key).unwrap();
        assert_eq!(found.len(), 5);
        assert_eq!(of("x.list").a.as_deref(), Some("[3] number 1: 2"));
        assert!(of("x.list").counts && of("quern.tokenizer.class").counts);
        assert!(!of("general.file_type").counts && !of("quern.provenance").counts && !of("n").counts);
        assert_eq!(of("n").b.as_deref(), Some("7 (u64)"));
    }

    #[test]
    fn json_is_flattened() {
        let mut out = BTreeMap::new();
        flatten("", &serde_json::json!({ "a": { "b": [1, 2], "c": {} }, "d": null }), &mut out);
        let out: Vec<_> = out.into_iter().collect();
        let expected = [("a.b", "[1,2]"), ("a.c", "{}"), ("d", "null")];
        assert_eq!(out, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
