//! Tests of cutting against the tokenizers library itself: the same words, whatever the text and the components.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};
use tokenizers::{
    NormalizedString, Normalizer as _, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer as _, PreTokenizerWrapper,
};

use super::table::KNOWN;
use super::{Pipeline, Word};
use crate::tokenizer::byte_level::alphabet;

/// The library's components.
struct Library {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
}

impl Library {
    fn new(normalizer: &Value, pre_tokenizer: &Value) -> Self {
        Self {
            normalizer: (!normalizer.is_null()).then(|| serde_json::from_value(normalizer.clone()).unwrap()),
            pre_tokenizer: (!pre_tokenizer.is_null())
                .then(|| serde_json::from_value(pre_tokenizer.clone()).unwrap()),
        }
    }

    fn words(&self, text: &str) -> Vec<String> {
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = &self.normalizer {
            normalizer.normalize(&mut normalized).unwrap();
        }
        let mut cut = PreTokenizedString::from(normalized);
        if let Some(pre_tokenizer) = &self.pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut cut).unwrap();
        }
        let words = cut.get_splits(OffsetReferential::Normalized, OffsetType::None);
        words.into_iter().map(|(word, ..)| word.to_owned()).filter(|word| !word.is_empty()).collect()
    }
}

fn words(pipeline: &Pipeline, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let each = |word: Word<'_>| match word {
        Word::Bytes(text) => out.push(alphabet::encode(text)),
        Word::Spelled(text) => out.push(text.to_owned()),
    };
    pipeline.words(text, each).unwrap();
    out
}

/// Both for each rule of the table and for each byte-level `tokenizer.json` in the fixtures.
static REAL: LazyLock<Vec<(String, Library, Pipeline)>> = LazyLock::new(|| {
    let both = |name: String, normalizer: &Value, pre_tokenizer: &Value| {
        let own = Pipeline::new(normalizer, pre_tokenizer).unwrap();
        (name, Library::new(normalizer, pre_tokenizer), own)
    };
    let mut all = Vec::new();
    for known in KNOWN {
        for parts in known.also.iter().chain([&known.parts]) {
            let rule = super::Rule { parts: (*parts).into(), ..known.rule() };
            all.push(both(known.names[0].to_owned(), &rule.normalizer(), &rule.pre_tokenizer()));
        }
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/architectures");
    for folder in std::fs::read_dir(fixtures).unwrap() {
        let file = folder.unwrap().path().join("tokenizer.json");
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let json: Value = serde_json::from_str(&text).unwrap();
        if json["pre_tokenizer"].to_string().contains("ByteLevel") {
            all.push(both(file.display().to_string(), &json["normalizer"], &json["pre_tokenizer"]));
        }
    }
    all
});

#[test]
fn a_sample_in_many_scripts_gives_the_same_words() {
    let sample = include_str!("sample.txt");
    assert!(REAL.len() > 45, "{}", REAL.len());
    for (name, library, own) in REAL.iter() {
        assert_eq!(words(own, sample), library.words(sample), "{name}");
    }
}

fn component() -> impl Strategy<Value = Value> {
    let behavior = prop::sample::select(vec![
        "Removed",
        "Isolated",
        "MergedWithPrevious",
        "MergedWithNext",
        "Contiguous",
    ]);
    let regex = prop::sample::select(vec![
        r"\s+",
        r"\d",
        r"x*",
        r"\b",
        "a|b",
        r"(?=a)",
        r"\s+(?!\S)|\s+",
        r"\p{L}+|\s",
    ]);
    let text = prop::sample::select(vec![" ", "a", "ab", "é"]);
    prop_oneof![
        (regex, behavior.clone(), any::<bool>()).prop_map(
            |(r, b, i)| json!({ "type": "Split", "pattern": { "Regex": r }, "behavior": b, "invert": i })
        ),
        (text, behavior.clone(), any::<bool>()).prop_map(
            |(t, b, i)| json!({ "type": "Split", "pattern": { "String": t }, "behavior": b, "invert": i })
        ),
        (any::<bool>(), any::<bool>()).prop_map(
            |(p, r)| json!({ "type": "ByteLevel", "add_prefix_space": p, "trim_offsets": true, "use_regex": r })
        ),
        any::<bool>().prop_map(|i| json!({ "type": "Digits", "individual_digits": i })),
        behavior.prop_map(|b| json!({ "type": "Punctuation", "behavior": b })),
        prop::sample::select(vec!["Whitespace", "WhitespaceSplit", "UnicodeScripts", "BertPreTokenizer"])
            .prop_map(|name| json!({ "type": name })),
        (prop::sample::select(vec!["always", "never"]), any::<bool>()).prop_map(
            |(p, s)| json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": p, "split": s })
        ),
    ]
}

fn normalizer() -> impl Strategy<Value = Value> {
    let names = vec!["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel"];
    // None that matches nothing: the library loses count of characters that are put in place of nothing.
    let regex = prop::sample::select(vec![r"\s+", "a", "x+", r"(?<=a)b", r"\d(?=\d)"]);
    let content = prop::sample::select(vec!["", "b", "\u{2581}", "éa"]);
    prop_oneof![
        3 => prop::sample::select(names).prop_map(|name| json!({ "type": name })),
        1 => any::<(bool, bool)>().prop_map(|(l, r)| json!({ "type": "Strip", "strip_left": l, "strip_right": r })),
        1 => (regex, content.clone()).prop_map(
            |(r, c)| json!({ "type": "Replace", "pattern": { "Regex": r }, "content": c })
        ),
        // Not an empty text: the library then doubles the first character.
        1 => content.prop_filter_map("empty", |c| (!c.is_empty()).then(|| json!({ "type": "Prepend", "prepend": c }))),
    ]
}

/// Text in which components find something to do.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ab x1é\u{301}\u{323}\u{1100}\u{1161}\u{11a8}\u{f900}ﬁ가かカ中Ω.,!«\n\r\t\u{a0}\u{200b}\u{2581}-]{0,30}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        // The same texts in every run: what a wider search finds is no fault of the change that is being tested.
        rng_seed: RngSeed::Fixed(15),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn real_rules_give_the_same_words(text in text()) {
        for (name, library, own) in REAL.iter() {
            prop_assert_eq!(words(own, &text), library.words(&text), "{}", name);
        }
    }

    #[test]
    fn any_components_give_the_same_words(
        normalizers in prop::collection::vec(normalizer(), 0..4),
        parts in prop::collection::vec(component(), 0..4),
        text in text(),
    ) {
        let normalizer = json!({ "type": "Sequence", "normalizers": normalizers });
        let pre_tokenizer = json!({ "type": "Sequence", "pretokenizers": parts });
        let own = Pipeline::new(&normalizer, &pre_tokenizer).unwrap();
        let library = Library::new(&normalizer, &pre_tokenizer);
        let found = words(&own, &text);
        // The library panics where a component removes what another one has put in front of the text.
        let expected = catch_unwind(AssertUnwindSafe(|| library.words(&text)));
        if let Ok(expected) = expected {
            prop_assert_eq!(found, expected);
        }
    }
}

#[test]
fn scripts_are_cut_across_parts_of_a_long_text() {
    let text = "αβγ abc  дом 123 中文かな ".repeat(1000);
    let rule = json!({ "type": "UnicodeScripts" });
    let own = Pipeline::new(&Value::Null, &rule).unwrap();
    assert_eq!(words(&own, &text), Library::new(&Value::Null, &rule).words(&text));
}
