//! Reading a calibration text: plain text or JSONL.
//!
//! A file is JSONL if its name ends in `.jsonl`, `.ndjson` or `.json`, or, unless the name says `.txt` or
//! `.md`, if it begins with `{`. Each line is a record, blank ones are skipped. A record is a string, or an
//! object with one of
//!
//! ```text
//! "text": "…"    "content": "…"    "prompt": "…" with "completion": "…" (joined as they are)
//! "messages":      [{"role": …, "content": "…" or [{"type": "text", "text": "…"}]}]
//! "conversations": [{"from": …, "value": "…"}]              (turns are joined by an empty line)
//! ```

use std::path::Path;

use quern_tensor_io::small;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{DEFAULT_NAME, DEFAULT_TEXT, Error, NamedText, Result, TextSource, hex};

/// Reads `path`, or standard input for `-`.
///
/// # Errors
/// [`Error::Text`], [`Error::NotUtf8`], [`Error::Record`] or
/// [`Error::Empty`].
pub fn read(path: &Path) -> Result<TextSource> {
    read_bytes(path, bytes(path)?)
}

/// Reads `path`, or standard input for `-`; without a path it is the text that comes with quern.
///
/// # Errors
/// As [`read`].
pub fn open(path: Option<&Path>) -> Result<NamedText> {
    let Some(path) = path else {
        let sha256 = hex(Sha256::new_with_prefix(DEFAULT_TEXT));
        return Ok(NamedText { source: TextSource::Default, name: DEFAULT_NAME.to_owned(), sha256 });
    };
    let bytes = bytes(path)?;
    let sha256 = hex(Sha256::new_with_prefix(&bytes));
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(NamedText { source: read_bytes(path, bytes)?, name, sha256 })
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    small::stream(path, small::TEXT).map_err(Error::Text)
}

/// [`read`], of what has been read already; `path` decides the format and is named in errors.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(path: &Path, bytes: Vec<u8>) -> Result<TextSource> {
    let file = || path.to_path_buf();
    let mut text = String::from_utf8(bytes)
        .map_err(|e| Error::NotUtf8 { file: file(), offset: e.utf8_error().valid_up_to() })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    if text.trim().is_empty() {
        return Err(Error::Empty { file: file() });
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let jsonl = match extension.as_str() {
        "jsonl" | "ndjson" | "json" => true,
        "txt" | "md" => false,
        _ => text.trim_start().starts_with('{'),
    };
    if !jsonl {
        return Ok(TextSource::Text(text));
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let records = lines.map(|(index, line)| {
        record(line).map_err(|what| Error::Record { file: file(), line: index + 1, what })
    });
    Ok(TextSource::Records(records.collect::<Result<_>>()?))
}

const EXPECTED: &str = "a record is a string or an object with \"text\", \"content\", \"prompt\" and \
                        \"completion\", \"messages\" or \"conversations\"";

/// The text of one line.
fn record(line: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(line)
        .map_err(|e| format!("not JSON: {e}; a JSONL file holds one record a line, {EXPECTED}"))?;
    let object = match value {
        Value::String(text) => return Ok(text),
        Value::Object(object) => object,
        _ => return Err(format!("expected a record: {EXPECTED}")),
    };
    for key in ["text", "content"] {
        if let Some(value) = object.get(key) {
            return string(value, key);
        }
    }
    if let (Some(prompt), Some(completion)) = (object.get("prompt"), object.get("completion")) {
        return Ok(string(prompt, "prompt")? + &string(completion, "completion")?);
    }
    for (key, part) in [("messages", "content"), ("conversations", "value")] {
        if let Some(value) = object.get(key) {
            return turns(value, key, part);
        }
    }
    let found: Vec<_> = object.keys().take(8).map(|key| format!("{key:?}")).collect();
    Err(format!("no text in the record: {EXPECTED}; found {}", found.join(", ")))
}

fn string(value: &Value, key: &str) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("{key:?} is no string"))
}

/// The texts of a conversation, turn by turn. Either name of a turn's text is accepted under either key.
fn turns(value: &Value, key: &str, part: &str) -> Result<String, String> {
    let turns = value.as_array().ok_or_else(|| format!("{key:?} is no array"))?;
    let said = |turn: &Value| {
        let turn = turn.as_object().ok_or_else(|| format!("{key:?} holds something that is no object"))?;
        let said = [part, "content", "value"].iter().find_map(|name| turn.get(*name));
        turn_text(said, turn).ok_or_else(|| format!("a turn in {key:?} has no {part:?} with text"))
    };
    let texts: Result<Vec<String>, String> = turns.iter().map(said).collect();
    let texts: Vec<String> = texts?.into_iter().filter(|text| !text.is_empty()).collect();
    Ok(texts.join("\n\n"))
}

/// One turn's text: a string, parts of which those of type "text" count, or nothing beside a tool call.
fn turn_text(said: Option<&Value>, turn: &Map<String, Value>) -> Option<String> {
    match said {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(parts)) => {
            Some(parts.iter().filter_map(|part| part.get("text")?.as_str()).collect::<Vec<_>>().join("\n"))
        }
        None | Some(Value::Null) if turn.contains_key("tool_calls") => Some(String::new()),
        _ => None,
    }
}
