//! Web addresses as names: what people copy from the Hub's pages, and what other programs write.
//!
//! ```text
//! https://huggingface.co/org/name                              org/name
//! https://huggingface.co/org/name/tree/v1                      org/name@v1
//! https://huggingface.co/org/name/blob/main/q4.gguf            org/name:q4.gguf       (also resolve, raw)
//! https://huggingface.co/api/models/org/name                   org/name
//! huggingface.co/org/name   hf.co/org/name:Q4_K_M              the same without https://
//! hf://org/name@v1/q4.gguf                                     org/name@v1:q4.gguf
//! ```
//!
//! An address says which model is meant, not where it is fetched from: that is the endpoint of the settings.

use crate::name::MAIN;

/// The Hub's hosts and the mirror that many use in its place.
const HOSTS: [&str; 3] = ["huggingface.co", "hf.co", "hf-mirror.com"];

/// Schemes that stand for the Hub itself.
const HUB_SCHEMES: [&str; 3] = ["hf", "huggingface", "hf-hub"];

/// Whether `text` is written as an address, of whatever server.
pub(crate) fn is_address(text: &str) -> bool {
    text.contains("://") || without_scheme(text).is_some()
}

/// The short name for an address, in the form that [`crate::Name`] parses; `None` if `text` is no address.
///
/// # Errors
/// The address is of another server, or of a page that is no model's.
pub(crate) fn to_name(text: &str) -> Option<Result<String, String>> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let scheme = scheme.to_ascii_lowercase();
        if HUB_SCHEMES.contains(&scheme.as_str()) {
            return Some(of_path(rest));
        }
        if !matches!(scheme.as_str(), "http" | "https") {
            return Some(Err(format!("{scheme}:// is not supported; {ADVICE}")));
        }
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        return Some(match is_hub(host) {
            true => of_path(path),
            false => Err(format!("{} is not the Hub; {ADVICE}", brief(host))),
        });
    }
    without_scheme(text).map(of_path)
}

/// What to write in place of an address that is of no use.
const ADVICE: &str = "models are downloaded from the Hub only: write org/name (HF_ENDPOINT names a mirror)";

/// The path of an address that begins with one of the Hub's hosts.
fn without_scheme(text: &str) -> Option<&str> {
    let (host, path) = text.split_once('/')?;
    is_hub(host).then_some(path)
}

/// Whether a host, in any case, is one of the Hub's.
fn is_hub(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(":443").unwrap_or(&host);
    HOSTS.iter().any(|hub| host.strip_prefix("www.").unwrap_or(host) == *hub)
}

/// The name that the path of an address means.
fn of_path(path: &str) -> Result<String, String> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut parts =
        path.split('/').filter(|part| !part.is_empty()).map(decoded).collect::<Result<Vec<_>, _>>()?;
    if parts.first().is_some_and(|part| part == "api") {
        parts.remove(0);
    }
    match parts.first().map(String::as_str) {
        Some("models") => drop(parts.remove(0)),
        Some(kind @ ("datasets" | "spaces" | "collections" | "papers" | "docs")) => {
            return Err(format!("an address of the Hub's {kind}, and not of a model; {ADVICE}"));
        }
        _ => {}
    }
    let [owner, name, rest @ ..] = parts.as_slice() else {
        return Err(format!("the address names no model; {ADVICE}"));
    };
    let repository = format!("{owner}/{name}");
    let (revision, file) = match rest {
        [] => (None, &[][..]),
        [page, revision, file @ ..]
            if ["tree", "blob", "resolve", "raw", "commit", "revision"].contains(&page.as_str()) =>
        {
            (Some(revision), file)
        }
        [page, ..]
            if ["discussions", "commits", "settings", "tree", "community"].contains(&page.as_str()) =>
        {
            (None, &[][..])
        }
        // The form of hf://: the file directly follows the name.
        file => (None, file),
    };
    let is_folder = rest.first().is_some_and(|page| page == "tree") && !file.is_empty();
    if is_folder {
        let folder = file.join("/");
        return Err(format!("the address of the folder {folder}; write {repository}:FILE with a file of it"));
    }
    let revision = revision.filter(|revision| *revision != MAIN);
    let mut short = repository;
    if let Some(revision) = revision {
        short += &format!("@{revision}");
    }
    if !file.is_empty() {
        short += &format!(":{}", file.join("/"));
    }
    Ok(short)
}

/// A part of a path with its `%2F` and the like as characters.
fn decoded(part: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| "the address is not valid UTF-8".to_owned())
}

fn brief(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_names() {
        for (address, name) in [
            ("https://huggingface.co/org/name", "org/name"),
            ("https://huggingface.co/org/name/", "org/name"),
            ("http://www.huggingface.co//org/name//", "org/name"),
            ("HTTPS://HuggingFace.co/Org/Name", "Org/Name"),
            ("https://huggingface.co/org/name/tree/main", "org/name"),
            ("https://huggingface.co/org/name/tree/v1.0/", "org/name@v1.0"),
            ("https://huggingface.co/org/name/tree/refs%2Fpr%2F1", "org/name@refs/pr/1"),
            ("https://huggingface.co/org/name/blob/main/q4.gguf", "org/name:q4.gguf"),
            ("https://huggingface.co/org/name/resolve/main/q4.gguf?download=true", "org/name:q4.gguf"),
            ("https://huggingface.co/org/name/blob/v1/a%20b/q4.gguf#x", "org/name@v1:a b/q4.gguf"),
            ("https://huggingface.co/org/name/commit/0123abcd", "org/name@0123abcd"),
            ("https://huggingface.co/org/name/discussions/3", "org/name"),
            ("https://huggingface.co/org/name?library=transformers", "org/name"),
            ("https://huggingface.co/api/models/org/name/revision/v1", "org/name@v1"),
            ("https://hf-mirror.com/org/name/tree/main", "org/name"),
            ("https://hf.co/org/name:Q4_K_M", "org/name:Q4_K_M"),
            ("hf.co/org/name:Q4_K_M", "org/name:Q4_K_M"),
            ("huggingface.co/org/name", "org/name"),
            ("huggingface.co/org/name/resolve/main/q4.gguf", "org/name:q4.gguf"),
            ("hf://org/name", "org/name"),
            ("hf://org/name@v1/q4.gguf", "org/name@v1:q4.gguf"),
            ("huggingface://org/name/dir/q4.gguf", "org/name:dir/q4.gguf"),
        ] {
            assert_eq!(to_name(address), Some(Ok(name.to_owned())), "{address}");
            assert!(is_address(address), "{address}");
        }
    }

    #[test]
    fn names_and_paths_are_no_addresses() {
        for text in
            ["org/name", "org/name:q4.gguf", "./huggingface.co/x", "hf.co", "C:/models", "model.gguf", ""]
        {
            assert_eq!(to_name(text), None, "{text}");
            assert!(!is_address(text), "{text}");
        }
    }

    #[test]
    fn other_addresses_say_what_to_write() {
        for (address, what) in [
            ("https://example.com/org/name", "example.com is not the Hub"),
            ("https://huggingface.co.evil.com/org/name", "is not the Hub"),
            ("https://user@huggingface.co/org/name", "is not the Hub"),
            ("s3://bucket/model", "s3:// is not supported"),
            ("file:///models/x.gguf", "file:// is not supported"),
            ("https://huggingface.co/gpt2", "names no model"),
            ("https://huggingface.co", "names no model"),
            ("https://huggingface.co/datasets/org/name", "datasets, and not of a model"),
            ("https://huggingface.co/org/name/tree/main/sub/dir", "write org/name:FILE"),
            ("https://huggingface.co/org/name/blob/main/%ff.gguf", "not valid UTF-8"),
        ] {
            let error = to_name(address).expect("an address").expect_err(address);
            assert!(error.contains(what), "{address}: {error}");
        }
    }
}
