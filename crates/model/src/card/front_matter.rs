//! A model card's front matter, read.
//!
//! `README.md` may open with YAML between two lines `---`. Of YAML only what the keys of a card need is read: a scalar
//! on the key's line, a list in brackets there, or a list of `- item` lines below. Anything else under these
//! keys is ignored: a card is for people, and no conversion should fail because of it.

use std::path::Path;

use quern_tensor_io::{Checkpoint, Container, Result, StringArray, small};

use super::FILE;

/// Longer front matter is ignored.
const MAX_BYTES: u64 = 1 << 20;

/// The lines of a card's front matter; none where there is no card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontMatter {
    lines: Vec<String>,
}

impl FrontMatter {
    /// That of the card in `directory`.
    ///
    /// # Errors
    /// The card cannot be read.
    pub fn read(directory: &Path) -> Result<Self> {
        let file = directory.join(FILE);
        if small::absent(&file) {
            return Ok(Self::default());
        }
        Ok(Self::parse(&String::from_utf8_lossy(&small::start(&file, MAX_BYTES)?)))
    }

    /// That of a checkpoint's card; of a GGUF file what its metadata have of one.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        if checkpoint.container() != Container::Gguf {
            return Self::read(checkpoint.directory()).unwrap_or_default();
        }
        let metadata = checkpoint.metadata();
        let mut lines = Vec::new();
        let mut add = |key: &str, items: Vec<&str>| {
            lines.push(format!("{key}:"));
            // What could be taken for YAML is left out.
            let plain = |text: &&str| text.len() <= 200 && !text.contains(['"', '\'', '#', '\n', '\r']);
            lines.extend(items.into_iter().filter(plain).map(|item| format!("- {item}")));
        };
        let texts =
            [("license", "license"), ("license_name", "license.name"), ("license_link", "license.link")];
        for (key, name) in texts {
            add(key, metadata.str(&format!("general.{name}")).into_iter().collect());
        }
        for (key, name) in [("tags", "general.tags"), ("language", "general.languages")] {
            add(key, metadata.strings(name).into_iter().flat_map(StringArray::iter).take(64).collect());
        }
        Self { lines }
    }

    /// That of a card's text.
    pub fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        if lines.next() != Some("---") {
            return Self::default();
        }
        Self { lines: lines.take_while(|&line| line != "---").map(str::to_owned).collect() }
    }

    /// The scalar or the items under a key of the first level.
    pub fn values(&self, key: &str) -> Vec<String> {
        let value =
            |line: &String| line.strip_prefix(key)?.strip_prefix(':').map(str::trim).map(str::to_owned);
        let found = self.lines.iter().enumerate().find_map(|(i, line)| Some((i, value(line)?)));
        let Some((at, inline)) = found else { return Vec::new() };
        let items: Vec<String> = match inline.strip_prefix('[').and_then(|v| v.strip_suffix(']')) {
            Some(list) => list.split(',').map(unquoted).collect(),
            None if inline.is_empty() || inline.starts_with('#') => {
                let below = self.lines[at + 1..].iter().map(|line| line.trim_start());
                below.map_while(|line| line.strip_prefix("- ")).map(unquoted).collect()
            }
            // Text over several lines, anchors, mappings.
            None if inline.starts_with(['|', '>', '&', '*', '{', '[']) => Vec::new(),
            None => vec![unquoted(&inline)],
        };
        items.into_iter().filter(|item| !item.is_empty()).collect()
    }

    /// The licence; several are written as one text.
    pub fn license(&self) -> Option<String> {
        let found = self.values("license");
        (!found.is_empty()).then(|| found.join(","))
    }
}

fn unquoted(text: &str) -> String {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|t| t.split(quote).next()) {
            return inner.to_owned();
        }
    }
    text.split(" #").next().unwrap_or_default().trim_end().to_owned()
}
