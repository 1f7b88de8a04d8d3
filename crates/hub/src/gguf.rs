//! Chooses the GGUF model of a repository.
//!
//! Repositories hold one model in many quantizations, each a file or a set of splits, often beside files that
//! are GGUF but no model: a vision projector, an importance matrix, a draft model. As llama.cpp's `-hf` does,
//! those are skipped, and without a name Q4_K_M is chosen, then Q8_0, then the only one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use quern_tensor_io::gguf::SplitName;

use crate::clean::clean;
use crate::listing::Names;

/// Marks of GGUF files that are no language models, in their names.
const NO_MODELS: [&str; 8] =
    ["mmproj", "imatrix", "mtp-", "draft", "eagle3-", "dflash-", "dspark-", "ggml-vocab-"];

/// The quantizations chosen if none was named, in this order.
const PREFERRED: [&str; 2] = ["Q4_K_M", "Q8_0"];

/// How many names an error lists.
const LISTED: usize = 40;
/// How many names of missing splits are kept for one.
const MISSING: usize = 8;

/// A model: its files in order. Splits that are not there are missing here too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub files: Vec<String>,
    /// How many splits the repository lacks.
    pub lacking: usize,
    /// The names of the first of those: a name may announce thousands.
    pub missing: Vec<String>,
}

/// All models among these files.
pub(crate) fn models<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Model> {
    let mut sets: BTreeMap<(String, u32), BTreeSet<u32>> = BTreeMap::new();
    let mut models = Vec::new();
    for name in names.into_iter().filter(|n| is_model(n)) {
        match SplitName::parse(name) {
            Some(split) => {
                sets.entry((split.prefix.to_owned(), split.count)).or_default().insert(split.number);
            }
            None => models.push(Model::of_one(name)),
        }
    }
    for ((prefix, count), numbers) in sets {
        models.push(Model::of_splits(&SplitName { prefix: &prefix, number: 1, count }, &numbers));
    }
    models.sort_by(|a, b| a.files.cmp(&b.files));
    models
}

impl Model {
    fn of_one(file: &str) -> Self {
        Self { files: vec![file.to_owned()], lacking: 0, missing: Vec::new() }
    }

    /// The model of these splits; what it takes depends on how many are there, not on how many the name announces.
    fn of_splits(split: &SplitName, numbers: &BTreeSet<u32>) -> Self {
        let there: Vec<u32> = numbers.range(1..=split.count).copied().collect();
        let missing = (1..=split.count).filter(|n| !numbers.contains(n)).take(MISSING);
        Self {
            lacking: split.count as usize - there.len(),
            missing: missing.map(|n| split.sibling(n)).collect(),
            files: there.into_iter().map(|n| split.sibling(n)).collect(),
        }
    }
}

/// The model that `file` is or belongs to.
pub(crate) fn of_file(names: &Names, file: &str) -> Model {
    let Some(split) = SplitName::parse(file) else { return Model::of_one(file) };
    let siblings = names
        .range::<str, _>((Bound::Included(split.prefix), Bound::Unbounded))
        .take_while(|n| n.starts_with(split.prefix));
    let same = |name: &str| {
        SplitName::parse(name)
            .filter(|s| (s.prefix, s.count) == (split.prefix, split.count))
            .map(|s| s.number)
    };
    Model::of_splits(&split, &siblings.filter_map(|name| same(name)).collect())
}

/// The model of the quantization `choice`; without one, the preferred or the only one.
pub(crate) fn choose(models: &[Model], choice: Option<&str>) -> Result<Model, String> {
    if let Some(choice) = choice {
        return match matching(models, choice)[..] {
            [one] => Ok(one.clone()),
            [] => Err(format!("no quantization {choice} there; it has {}", list(models))),
            ref several => Err(format!(
                "{choice} is in the names of several models: {}; name the file after the colon",
                list(several.iter().copied())
            )),
        };
    }
    for preferred in PREFERRED {
        if let [one] = matching(models, preferred)[..] {
            return Ok(one.clone());
        }
    }
    match models {
        [one] => Ok(one.clone()),
        several => Err(format!(
            "it holds several models and none was named; put a quantization or a file after a colon, of {}",
            list(several)
        )),
    }
}

/// Whether `name` is that of a GGUF file with a language model.
fn is_model(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    file.ends_with(".gguf") && !NO_MODELS.iter().any(|mark| file.contains(mark))
}

/// The models with this quantization in their names.
fn matching<'a>(models: &'a [Model], quantization: &str) -> Vec<&'a Model> {
    models.iter().filter(|m| m.files.first().is_some_and(|f| has_word(f, quantization))).collect()
}

/// Whether `word` occurs in `name`, in any case, and not as part of a longer word: `Q4_K` is not in
/// `Q4_K_M`, nor `Q4_XS` in `IQ4_XS`.
fn has_word(name: &str, word: &str) -> bool {
    let (name, word) = (name.to_ascii_lowercase(), word.to_ascii_lowercase());
    let starts = |at: usize| at == 0 || matches!(name.as_bytes()[at - 1], b'-' | b'.' | b'_' | b'/');
    let ends = |at: usize| at == name.len() || matches!(name.as_bytes()[at], b'-' | b'.' | b'/');
    !word.is_empty() && name.match_indices(&word).any(|(at, _)| starts(at) && ends(at + word.len()))
}

/// The first files of these models, for a message.
fn list<'a>(models: impl IntoIterator<Item = &'a Model>) -> String {
    let names = models.into_iter().filter_map(|m| m.files.first()).map(String::as_str);
    match some(names) {
        none if none.is_empty() => "no GGUF model".to_owned(),
        names => names,
    }
}

/// The first of many names, for a message.
pub(crate) fn some<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names = names.into_iter();
    let listed: Vec<_> = names.by_ref().take(LISTED).map(clean).collect();
    listed.join(", ") + if names.next().is_some() { ", …" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str], choice: Option<&str>) -> Result<Vec<String>, String> {
        choose(&models(names.iter().copied()), choice).map(|m| m.files)
    }

    const USUAL: [&str; 7] = [
        "m-IQ4_XS.gguf",
        "m-Q4_K_M.gguf",
        "m-Q4_K_S.gguf",
        "m-Q8_0.gguf",
        "mmproj-m-Q8_0.gguf",
        "m.imatrix.gguf",
        "BF16/m-BF16-00001-of-00002.gguf",
    ];

    #[test]
    fn a_quantization_is_found_by_its_whole_name() {
        assert_eq!(chosen(&USUAL, Some("q4_k_s")).unwrap(), ["m-Q4_K_S.gguf"]);
        assert_eq!(chosen(&USUAL, Some("Q8_0")).unwrap(), ["m-Q8_0.gguf"]);
        for absent in ["Q4_K", "Q4_XS", "Q4", "K_M", "m-Q4_K", "Q8"] {
            let refused = chosen(&USUAL, Some(absent));
            match absent {
                "K_M" => assert_eq!(refused.unwrap(), ["m-Q4_K_M.gguf"]),
                _ => assert!(refused.unwrap_err().contains("m-Q8_0.gguf"), "{absent}"),
            }
        }
        assert_eq!(chosen(&["model.q4_k_m.gguf"], Some("Q4_K_M")).unwrap(), ["model.q4_k_m.gguf"]);
        let unsloth = ["m-UD-Q4_K_XL.gguf", "m-Q4_K_M.gguf"];
        assert_eq!(chosen(&unsloth, Some("UD-Q4_K_XL")).unwrap(), ["m-UD-Q4_K_XL.gguf"]);
    }

    #[test]
    fn without_a_name_the_preferred_or_the_only_one() {
        assert_eq!(chosen(&USUAL, None).unwrap(), ["m-Q4_K_M.gguf"]);
        assert_eq!(chosen(&["a-Q8_0.gguf", "a-Q2_K.gguf"], None).unwrap(), ["a-Q8_0.gguf"]);
        assert_eq!(chosen(&["a-Q2_K.gguf", "mmproj-F16.gguf"], None).unwrap(), ["a-Q2_K.gguf"]);
        let several = chosen(&["a-Q2_K.gguf", "a-Q3_K_M.gguf"], None).unwrap_err();
        assert!(several.contains("a-Q2_K.gguf, a-Q3_K_M.gguf"), "{several}");
        let twice = chosen(&["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], None).unwrap_err();
        assert!(twice.contains("b-Q4_K_M.gguf"), "{twice}");
    }

    #[test]
    fn splits_come_together() {
        let names = [
            "d/m-Q4_K_M-00002-of-00003.gguf",
            "d/m-Q4_K_M-00001-of-00003.gguf",
            "d/m-Q4_K_M-00003-of-00003.gguf",
            "d/m-Q8_0-00001-of-00002.gguf",
        ];
        let all = models(names);
        assert_eq!(all.len(), 2);
        assert_eq!(chosen(&names, None).unwrap().len(), 3);
        let q8 = choose(&all, Some("Q8_0")).unwrap();
        assert_eq!(q8.missing, ["d/m-Q8_0-00002-of-00002.gguf"]);
        let set = names.iter().map(|n| (*n).into()).collect();
        assert_eq!(of_file(&set, names[0]).files, [names[1], names[0], names[2]]);
    }
}
