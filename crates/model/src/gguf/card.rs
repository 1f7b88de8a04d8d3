//! What GGUF metadata take from a model card: licence, tags and languages.

use std::path::Path;

use quern_tensor_io::{Array, Metadata, Result, Value};

use crate::card::FrontMatter;

/// Adds what the card in `directory` says, if there is one.
pub(super) fn read(directory: &Path, out: &mut Metadata) -> Result<()> {
    describe(&FrontMatter::read(directory)?, out);
    Ok(())
}

fn describe(front: &FrontMatter, out: &mut Metadata) {
    // Several licences are written as one string.
    let texts = [("license", "license"), ("license_name", "license.name"), ("license_link", "license.link")];
    for (key, name) in texts {
        let found = front.values(key);
        if !found.is_empty() {
            out.set(format!("general.{name}"), found.join(",").as_str());
        }
    }
    for (keys, name) in [(["tags", "pipeline_tag"], "tags"), (["languages", "language"], "languages")] {
        let found: Vec<String> = keys.iter().flat_map(|key| front.values(key)).collect();
        if !found.is_empty() {
            out.set(format!("general.{name}"), Value::Array(Array::String(found.iter().collect())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(text: &str) -> Vec<(String, Value)> {
        let mut out = Metadata::new();
        describe(&FrontMatter::parse(text), &mut out);
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
