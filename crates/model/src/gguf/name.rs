//! Display names: a model's title from its directory, its size from the number of parameters.

use std::path::Path;

/// `bookworm-4m` becomes `Bookworm 4m`: dashes become spaces, and words in lower case are capitalised
/// unless they start with a digit or are a version (`v2`, `v0.1`).
pub(super) fn title(directory: &Path) -> String {
    let absolute = directory.canonicalize();
    let directory = absolute.as_deref().unwrap_or(directory);
    let name = directory.file_name().map_or("model".into(), |n| n.to_string_lossy());
    // A directory of the Hub's cache is named after the commit; the model's name is two levels up.
    let cached = directory.ancestors().nth(2).and_then(|d| d.file_name()?.to_str()?.strip_prefix("models--"));
    let name = match cached.and_then(|c| c.rsplit("--").next()) {
        Some(model) if directory.parent().is_some_and(|p| p.ends_with("snapshots")) => model.into(),
        _ => name,
    };
    let words: Vec<String> = name.replace('-', " ").split_whitespace().map(capitalised).collect();
    words.join(" ")
}

fn capitalised(word: &str) -> String {
    let has_lower = word.chars().any(char::is_lowercase);
    let has_upper = word.chars().any(char::is_uppercase);
    let is_version = word.strip_prefix('v').is_some_and(|v| {
        v.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    });
    if !has_lower || has_upper || is_version || word.starts_with(|c: char| c.is_ascii_digit()) {
        return word.to_owned();
    }
    // A letter that follows no letter starts a word, also inside: `foo_bar` becomes `Foo_Bar`.
    let mut out = String::with_capacity(word.len());
    let mut inside = false;
    for c in word.chars() {
        match inside {
            true => out.push(c),
            false => out.extend(c.to_uppercase()),
        }
        inside = c.is_alphabetic();
    }
    out
}

/// `4196608` becomes `4.2M`: two digits at least, with K, M, B or T.
pub(super) fn size_label(parameters: u64) -> String {
    let n = parameters as f64;
    let (scaled, unit) = match n {
        _ if n > 1e12 => (n * 1e-12, 'T'),
        _ if n > 1e9 => (n * 1e-9, 'B'),
        _ if n > 1e6 => (n * 1e-6, 'M'),
        _ => (n * 1e-3, 'K'),
    };
    let decimals = match scaled.round_ties_even() {
        r if r < 1.0 => 2,
        r if r < 10.0 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_as_the_converter_makes_them() {
        let title = |name: &str| title(Path::new("/nowhere").join(name).as_path());
        assert_eq!(title("bookworm-4m"), "Bookworm 4m");
        assert_eq!(title("Mistral-7B-Instruct-v0.3"), "Mistral 7B Instruct v0.3");
        assert_eq!(title("tiny_llama-chat"), "Tiny_Llama Chat");
        assert_eq!(title("models--org--Nice-model/snapshots/0123abc"), "Nice Model");
    }

    #[test]
    fn sizes_have_two_digits() {
        assert_eq!(size_label(4_196_608), "4.2M");
        assert_eq!(size_label(6_738_415_616), "6.7B");
        assert_eq!(size_label(70_553_706_496), "71B");
        assert_eq!(size_label(999), "1.0K");
        assert_eq!(size_label(300), "0.30K");
    }
}
