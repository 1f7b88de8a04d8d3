//! Whether the tokenizer files of a Hugging Face directory give the tokens that the GGUF metadata had.
//!
//! The two formats do not hold the same. Where Hugging Face's files have no place for what a GGUF file says, the
//! difference is a note, and everything else is a mismatch:
//!
//! | GGUF metadata | tokenizer.json | read again |
//! |---|---|---|
//! | a text that stands twice | holds each text once, under its first id | the later id is padding |
//! | an empty text | has none | padding |
//! | fewer tokens than rows of the embedding | holds the tokens | the rows beyond are padding |

use std::collections::HashSet;

use quern_tensor_io::{Array, Metadata, Value};

use super::Verification;

/// Compares what both formats hold.
pub(super) fn compare(was: &Metadata, is: &Metadata, found: &mut Verification) {
    if let (Some(was), Some(is)) = (was.get("tokenizer.ggml.model"), is.get("tokenizer.ggml.model"))
        && was != is
    {
        found.wrong(None, "the tokenizer's files give another tokenizer.ggml.model");
    }
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        match (was.get(key), is.get(key)) {
            (Some(was), Some(is)) if was != is => lists(key, was, is, found),
            (Some(_), None) => found.wrong(None, format!("the tokenizer's files give no {key}")),
            _ => {}
        }
    }
}

/// Two lists of strings that differ.
fn lists(key: &str, was: &Value, is: &Value, found: &mut Verification) {
    let (Value::Array(Array::String(was)), Value::Array(Array::String(is))) = (was, is) else {
        found.wrong(None, format!("the tokenizer's files give another {key}"));
        return;
    };
    let tokens = key == "tokenizer.ggml.tokens";
    let (mut seen, mut lost) = (HashSet::new(), Vec::new());
    for (at, (was, is)) in was.iter().zip(is.iter()).enumerate() {
        let first = seen.insert(was);
        if was == is {
            continue;
        }
        if tokens && (was.is_empty() || !first) && is == format!("[PAD{at}]") {
            lost.push(at);
            continue;
        }
        found.wrong(
            None,
            format!("the tokenizer's files give another {key}: number {at} was {was:?} and is {is:?}"),
        );
        return;
    }
    let padded = |at: usize| is.get(at).is_some_and(|text| text == format!("[PAD{at}]"));
    if was.len() != is.len() && !(tokens && was.len() < is.len() && (was.len()..is.len()).all(padded)) {
        let what = format!(
            "the tokenizer's files give another {key}: {} of them, there were {}",
            is.len(),
            was.len()
        );
        found.wrong(None, what);
        return;
    }
    if let Some(first) = lost.first() {
        found.notes.push(format!(
            "tokenizer.json holds each text once: {} tokens whose text is empty or stands twice, the first with id \
             {first}, are not in it",
            lost.len()
        ));
    }
    if was.len() < is.len() {
        found.notes.push(format!(
            "the model has {} rows for {} tokens; the rows beyond have no text",
            is.len(),
            was.len()
        ));
    }
}
