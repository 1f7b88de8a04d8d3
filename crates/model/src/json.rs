//! JSON files of a model directory, read with every value checked: an error names the file and the key.

use std::path::{Path, PathBuf};

use quern_tensor_io::{Error, Result, small};
use serde_json::Value;

use crate::identify;

/// The most bytes of a tokenizer's file: a 250k-token `tokenizer.json` has some 35 MB.
const MAX_BYTES: u64 = 256 << 20;

/// The JSON files that hold a vocabulary; all others are configurations.
const VOCABULARIES: [&str; 2] = ["tokenizer.json", "vocab.json"];

/// A JSON object with the place it came from.
#[derive(Debug)]
pub(crate) struct Json {
    file: PathBuf,
    value: Value,
}

impl Json {
    /// Reads `file`, which must hold one JSON object.
    pub fn read(file: &Path) -> Result<Self> {
        let vocabulary = VOCABULARIES.iter().any(|name| file.file_name().is_some_and(|f| f == *name));
        let text = small::text(file, if vocabulary { MAX_BYTES } else { small::CONFIGURATION })?;
        // serde_json refuses more than 128 levels of nesting, so a hostile file cannot exhaust the stack.
        let value = match vocabulary {
            true => serde_json::from_str(&text).map_err(|e| format!("not valid JSON: {e}")),
            false => small::json(text.as_bytes()),
        };
        let value = value.map_err(|what| match identify::of_content(text.as_bytes()) {
            Some(identity) => Error::unsupported(file, identity.to_string()),
            None => Error::malformed(file, what),
        })?;
        if !value.is_object() {
            return Err(Error::malformed(file, format!("a JSON object is expected, not {}", shown(&value))));
        }
        Ok(Self { file: file.to_path_buf(), value })
    }

    /// Reads `file` if it exists.
    pub fn read_optional(file: &Path) -> Result<Option<Self>> {
        if small::absent(file) { Ok(None) } else { Self::read(file).map(Some) }
    }

    /// The object itself.
    pub fn root(&self) -> Object<'_> {
        Object { file: &self.file, path: String::new(), value: &self.value }
    }
}

/// Reads a text file of reasonable size.
pub(crate) fn read_text(file: &Path) -> Result<String> {
    small::text(file, MAX_BYTES)
}

/// Reads a file of reasonable size.
pub(crate) fn read_bytes(file: &Path) -> Result<Vec<u8>> {
    small::read(file, MAX_BYTES)
}

/// One object of the file, with its key path for errors.
#[derive(Clone, Debug)]
pub(crate) struct Object<'a> {
    file: &'a Path,
    path: String,
    value: &'a Value,
}

impl<'a> Object<'a> {
    /// The file.
    pub fn file(&self) -> &'a Path {
        self.file
    }

    /// The value under `key`; an explicit null counts as absent.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }

    /// `key` is present and null.
    pub fn is_null(&self, key: &str) -> bool {
        self.value.get(key).is_some_and(Value::is_null)
    }

    /// The object itself.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// An object made of this one's values, which errors call `name`.
    pub fn with<'b>(&self, name: &str, value: &'b Value) -> Object<'b>
    where
        'a: 'b,
    {
        Object { file: self.file, path: format!("{}{name}.", self.path), value }
    }

    /// The full name of `key`, as errors spell it.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// An error about `key`.
    pub fn error(&self, key: &str, what: impl std::fmt::Display) -> Error {
        Error::malformed(self.file, format!("{}: {what}", self.name(key)))
    }

    /// An error for a value of the wrong type.
    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        self.error(key, format!("{expected} is expected, not {}", shown(found)))
    }

    /// An error for a missing key.
    pub fn missing(&self, key: &str) -> Error {
        Error::malformed(self.file, format!("the key {:?} is missing", self.name(key)))
    }

    /// An object inside.
    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) if value.is_object() => {
                Ok(Some(Object { file: self.file, path: format!("{}{key}.", self.path), value }))
            }
            Some(other) => Err(self.wrong(key, "an object", other)),
        }
    }

    /// A whole number that is not negative. `1024.0` counts: some configs write it so.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => as_u64(value)
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a whole number that is not negative", value)),
        }
    }

    /// A size: a whole number between 1 and `max`.
    pub fn size(&self, key: &str, max: usize) -> Result<Option<usize>> {
        match self.u64(key)? {
            None => Ok(None),
            Some(v) if v >= 1 && v <= max as u64 => Ok(Some(v as usize)),
            Some(v) => Err(self.error(key, format!("{v} is not between 1 and {max}"))),
        }
    }

    /// A finite number.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64().filter(|v| v.is_finite()) {
                Some(v) => Ok(Some(v)),
                None => Err(self.wrong(key, "a finite number", value)),
            },
        }
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(other) => Err(self.wrong(key, "a string", other)),
        }
    }

    /// All keys and values in the file's order.
    pub fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.value.as_object().into_iter().flatten()
    }

    /// An array.
    pub fn array(&self, key: &str) -> Result<Option<&'a [Value]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(v)) => Ok(Some(v)),
            Some(other) => Err(self.wrong(key, "an array", other)),
        }
    }
}

/// A whole number that is not negative, also when written as `2.0`.
pub(crate) fn as_u64(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let v = value.as_f64()?;
        (v.fract() == 0.0 && (0.0..9.0e15).contains(&v)).then_some(v as u64)
    })
}

/// A value as errors name it, without quoting a hostile file at length.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(v) => v.to_string(),
        Value::Number(v) => v.to_string(),
        Value::String(v) if v.chars().count() <= 40 => format!("{v:?}"),
        Value::String(_) => "a long string".into(),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}
