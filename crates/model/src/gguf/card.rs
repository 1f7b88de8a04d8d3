//! The model card's front matter: licence, tags and languages.
//!
//! `README.md` may open with YAML between two lines `---`. Of YAML only what these keys need is read: a scalar
//! on the key's line, a list in brackets there, or a list of `- item` lines below. Anything else under these
//! keys is ignored: a card is for people, and no conversion should fail because of it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use quern_tensor_io::{Array, Error, Metadata, Result, Value};

/// Longer front matter is ignored.
const MAX_BYTES: u64 = 1 << 20;

/// Adds what the card in `directory` says, if there is one.
pub(super) fn read(directory: &Path, out: &mut Metadata) -> Result<()> {
    let file = directory.join("README.md");
    if !file.is_file() {
        return Ok(());
    }
    let mut bytes = Vec::new();
    let reader = File::open(&file).map_err(|e| Error::new(&file, e))?;
    reader.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|e| Error::new(&file, e))?;
    describe(&String::from_utf8_lossy(&bytes), out);
    Ok(())
}

fn describe(text: &str, out: &mut Metadata) {
    let mut lines = text.lines();
    if lines.next() != Some("---") {
        return;
    }
    let front: Vec<&str> = lines.take_while(|&line| line != "---").collect();
    // Several licences are written as one string.
    let texts = [("license", "license"), ("license_name", "license.name"), ("license_link", "license.link")];
    for (key, name) in texts {
        let found = values(&front, key);
        if !found.is_empty() {
            out.set(format!("general.{name}"), found.join(",").as_str());
        }
    }
    for (keys, name) in [(["tags", "pipeline_tag"], "tags"), (["languages", "language"], "languages")] {
        let found: Vec<String> = keys.iter().flat_map(|key| values(&front, key)).collect();
        if !found.is_empty() {
            out.set(format!("general.{name}"), Value::Array(Array::String(found.iter().collect())));
        }
    }
}

/// The scalar or the items under a key of the first level.
fn values(front: &[&str], key: &str) -> Vec<String> {
    let value = |line: &&str| line.strip_prefix(key)?.strip_prefix(':').map(str::trim).map(str::to_owned);
    let Some((at, inline)) = front.iter().enumerate().find_map(|(i, line)| Some((i, value(line)?))) else {
        return Vec::new();
    };
    let items: Vec<String> = match inline.strip_prefix('[').and_then(|v| v.strip_suffix(']')) {
        Some(list) => list.split(',').map(unquoted).collect(),
        None if inline.is_empty() || inline.starts_with('#') => {
            let below = front[at + 1..].iter().map(|line| line.trim_start());
            below.map_while(|line| line.strip_prefix("- ")).map(unquoted).collect()
        }
        // Text over several lines, anchors, mappings.
        None if inline.starts_with(['|', '>', '&', '*', '{', '[']) => Vec::new(),
        None => vec![unquoted(&inline)],
    };
    items.into_iter().filter(|item| !item.is_empty()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn described(text: &str) -> Vec<(String, Value)> {
        let mut out = Metadata::new();
        describe(text, &mut out);
        out.iter().map(|(k, v)| (k.to_owned(), v.clone())).collect()
    }

    fn list(items: &[&str]) -> Value {
        Value::Array(Array::String(items.iter().collect()))
    }

    #[test]
    fn front_matter_is_read() {
        let card = "---\nlanguage:\n- en\n- 'no'\nlicense: apache-2.0 # as is\ntags: [llama, \"old books\"]\n\
                    pipeline_tag: text-generation\nwidget:\n- text: license: x\n---\n# License: none\nlicense: mit\n";
        let found = described(card);
        assert_eq!(found[0], ("general.license".into(), "apache-2.0".into()));
        assert_eq!(found[1], ("general.tags".into(), list(&["llama", "old books", "text-generation"])));
        assert_eq!(found[2], ("general.languages".into(), list(&["en", "no"])));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn cards_without_front_matter_say_nothing() {
        for card in ["", "# A model\n---\nlicense: mit\n---\n", "---\nlicense: |\n  long\ntags:\n", "---"] {
            assert!(described(card).is_empty(), "{card:?}");
        }
    }
}
