//! GGUF metadata under one architecture's prefix, each value checked.

use std::path::Path;

use quern_tensor_io::{Array, Error, Metadata, Result, Value};

/// Metadata under one architecture's prefix.
pub(super) struct Keys<'a> {
    pub file: &'a Path,
    /// What the keys begin with.
    pub prefix: &'a str,
    /// The architecture's name: the same, unless a user has stated another architecture.
    pub family: &'static str,
    pub metadata: &'a Metadata,
}

impl Keys<'_> {
    pub fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    pub fn error(&self, key: &str, what: impl std::fmt::Display) -> Error {
        Error::malformed(self.file, format!("{}: {what}", self.name(key)))
    }

    pub fn missing(&self, key: &str) -> Error {
        Error::malformed(self.file, format!("the metadata key {:?} is missing", self.name(key)))
    }

    pub fn size(&self, key: &str, max: usize) -> Result<Option<usize>> {
        let Some(value) = self.metadata.get(&self.name(key)) else { return Ok(None) };
        match value.as_u64() {
            Some(v) if v >= 1 && v <= max as u64 => Ok(Some(v as usize)),
            Some(v) => Err(self.error(key, format!("{v} is not between 1 and {max}"))),
            None => Err(self.error(key, "a whole number is expected")),
        }
    }

    /// A number of things, which may be 0.
    pub fn count(&self, key: &str, max: usize) -> Result<Option<usize>> {
        match self.metadata.get(&self.name(key)) {
            Some(value) if value.as_u64() == Some(0) => Ok(Some(0)),
            _ => self.size(key, max),
        }
    }

    /// A size for each layer, of families whose files may say so (Gemma 3n and 4).
    pub fn layers(&self, key: &str, max: usize) -> Result<Option<Vec<usize>>> {
        let list: Vec<Option<usize>> = match self.metadata.get(&self.name(key)) {
            Some(Value::Array(Array::I32(list))) if matches!(self.family, "gemma3n" | "gemma4") => {
                list.iter().map(|&n| usize::try_from(n).ok()).collect()
            }
            Some(Value::Array(Array::U32(list))) if matches!(self.family, "gemma3n" | "gemma4") => {
                list.iter().map(|&n| usize::try_from(n).ok()).collect()
            }
            _ => return Ok(None),
        };
        let sizes: Option<Vec<usize>> = list.into_iter().collect();
        match sizes.filter(|sizes| !sizes.is_empty() && sizes.iter().all(|&n| n >= 1 && n <= max)) {
            Some(sizes) => Ok(Some(sizes)),
            None => Err(self.error(key, format!("a number between 1 and {max} for each layer is expected"))),
        }
    }

    pub fn need(&self, key: &str, max: usize) -> Result<usize> {
        self.size(key, max)?.ok_or_else(|| self.missing(key))
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(&self.name(key)) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.error(key, "true or false is expected")),
        }
    }

    /// A number that is positive where it is given; zero stands for none.
    pub fn positive(&self, key: &str) -> Result<Option<f32>> {
        match self.f32(key)? {
            Some(v) if v < 0.0 => Err(self.error(key, format!("{v} is negative"))),
            v => Ok(v.filter(|&v| v != 0.0)),
        }
    }

    /// `positive` with what llama.cpp's loader takes where Gemma 2 lacks the key.
    pub fn of_gemma2(&self, key: &str, usual: f32) -> Result<Option<f32>> {
        let missing = self.metadata.get(&self.name(key)).is_none();
        if missing && self.family == "gemma2" { Ok(Some(usual)) } else { self.positive(key) }
    }

    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.metadata.get(&self.name(key)) else { return Ok(None) };
        match value.as_f64().filter(|v| v.is_finite()) {
            Some(v) => Ok(Some(v as f32)),
            None => Err(self.error(key, "a finite number is expected")),
        }
    }
}
