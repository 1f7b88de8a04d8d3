//! Settings of both sides: one entry for each that differs.

use std::collections::BTreeMap;

use serde::Serialize;

/// The longest text of a value that is shown.
const MOST: usize = 120;

/// A setting that A and B do not have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its name: a metadata key, a key of a JSON file (`rope_parameters.rope_theta`), or words.
    pub key: String,
    /// A's value as text, shortened; `None` if A has none.
    pub a: Option<String>,
    /// B's value.
    pub b: Option<String>,
    /// Whether it counts as a difference. What only says where a file comes from or how it is stored does not.
    pub counts: bool,
}

impl Entry {
    /// An entry, its values shortened.
    pub fn new(key: impl Into<String>, a: Option<&str>, b: Option<&str>, counts: bool) -> Self {
        Self { key: key.into(), a: a.map(short), b: b.map(short), counts }
    }
}

/// The entries for values that differ, each side's by key. `counts` gets the key and both values.
pub(super) fn differing(
    a: &BTreeMap<String, String>,
    b: &BTreeMap<String, String>,
    counts: impl Fn(&str, Option<&str>, Option<&str>) -> bool,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
    for key in keys {
        let (of_a, of_b) = (a.get(key).map(String::as_str), b.get(key).map(String::as_str));
        if of_a != of_b {
            let counts = counts(key, of_a, of_b);
            let (of_a, of_b) = around_difference(of_a, of_b);
            entries.push(Entry { key: key.clone(), a: of_a, b: of_b, counts });
        }
    }
    entries.sort_by(|x, y| x.key.cmp(&y.key));
    entries
}

/// Both values shortened, long ones to where they begin to differ.
pub(super) fn around_difference(a: Option<&str>, b: Option<&str>) -> (Option<String>, Option<String>) {
    let (Some(of_a), Some(of_b)) = (a, b) else { return (a.map(short), b.map(short)) };
    let same = of_a.chars().zip(of_b.chars()).take_while(|(x, y)| x == y).count();
    if same + 20 < MOST || (of_a.chars().count() <= MOST && of_b.chars().count() <= MOST) {
        return (Some(short(of_a)), Some(short(of_b)));
    }
    let from = |text: &str| {
        let rest: String = text.chars().skip(same.saturating_sub(20)).collect();
        format!("… {}", short(&rest))
    };
    (Some(from(of_a)), Some(from(of_b)))
}

/// The beginning of a text, in one line.
fn short(text: &str) -> String {
    let line: String = text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MOST).is_some() { line + "…" } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn only_what_differs_is_listed_by_key() {
        let (a, b) = (map(&[("x", "1"), ("y", "2"), ("z", "3")]), map(&[("a", "0"), ("x", "1"), ("y", "4")]));
        let found = differing(&a, &b, |key, _, _| key != "y");
        let keys: Vec<_> = found.iter().map(|e| (e.key.as_str(), e.counts)).collect();
        assert_eq!(keys, [("a", true), ("y", false), ("z", true)]);
        assert_eq!((found[0].a.as_deref(), found[0].b.as_deref()), (None, Some("0")));
    }

    #[test]
    fn long_values_are_shown_where_they_differ() {
        let (a, b) = (format!("{}left", "é".repeat(500)), format!("{}right\n", "é".repeat(500)));
        let (a, b) = around_difference(Some(&a), Some(&b));
        assert_eq!(a.unwrap(), format!("… {}left", "é".repeat(20)));
        assert_eq!(b.unwrap(), format!("… {}right ", "é".repeat(20)));
        let (a, b) = around_difference(Some(&"x".repeat(500)), Some("y"));
        assert_eq!((a.unwrap().chars().count(), b.unwrap()), (MOST + 1, "y".to_owned()));
    }
}
