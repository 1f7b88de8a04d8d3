//! Finds the name of the rule that a `tokenizer.json` spells out.
//!
//! A name fits if the rule is the same part by part. Where none fits, the nearest is the one that cuts the
//! built-in sample (`sample.txt`: prose in many scripts, code, numbers, blanks) most nearly as the file's own
//! rule does: the fewest cuts that only one of the two makes. Of equals the first in the table is taken.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;

use super::table::{self, DEFAULT, KNOWN, Known};
use super::{Pipeline, json};

const SAMPLE: &str = include_str!("sample.txt");

/// A name for the rule of a file.
#[derive(Debug)]
pub(crate) struct Found {
    pub name: &'static str,
    /// Whether readers add beginning-of-text where a file of this name does not say.
    pub add_bos: bool,
    /// A note for the user, where the name does not mean exactly the same.
    pub note: Option<String>,
}

/// What a file says of cutting.
#[derive(Debug)]
pub(crate) struct FileRule {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub ignore_merges: bool,
    /// `model_type` of `config.json`: chooses among names of one rule.
    pub model_type: Option<String>,
}

impl FileRule {
    /// Finds the name; `own` is the file's pipeline.
    pub fn name(&self, own: &Pipeline) -> Found {
        name(self, own)
    }
}

fn name(given: &FileRule, own: &Pipeline) -> Found {
    let parts = json::parts(&given.pre_tokenizer);
    let composes = json::composes(&given.normalizer);
    let same_parts = |known: &&Known| {
        parts.as_deref().is_some_and(|parts| known.parts == parts || known.also.contains(&parts))
    };
    let same_words = |known: &&Known| known.ignore_merges == given.ignore_merges;
    let exact = |known: &&Known| same_parts(known) && same_words(known) && composes == Some(known.nfc);
    if let Some(found) = best(KNOWN.iter().filter(exact), given) {
        return found;
    }
    if let Some(mut found) = best(KNOWN.iter().filter(|k| same_parts(k) && same_words(k)), given) {
        let composes = table::find(found.name).is_some_and(|known| known.nfc);
        found.note = Some(format!(
            "no pre-tokenizer name matches this tokenizer's normalizer; {:?} splits words the same way but {}",
            found.name,
            if composes { "composes characters (NFC) first" } else { "leaves text as it is" }
        ));
        return found;
    }
    nearest(given, own)
}

/// Of rows that fit, a name that models of this type are known by, else the first.
fn best<'k>(fitting: impl Iterator<Item = &'k Known> + Clone, given: &FileRule) -> Option<Found> {
    let usual: &[&str] = match given.model_type.as_deref().unwrap_or_default() {
        "phi" => &["phi-2"],
        "stablelm" => &["stablelm2"],
        "mpt" => &["mpt"],
        "dbrx" | "phi3" | "olmo2" | "olmo3" | "granitemoehybrid" => &["dbrx"],
        "exaone" => &["exaone"],
        "exaone4" => &["exaone4"],
        "hunyuan_v1_dense" => &["hunyuan-dense"],
        "hunyuan_v1_moe" => &["hunyuan"],
        "glm" | "glm4" | "glm4v" | "glm4_moe" | "glm4_moe_lite" | "glm_moe_dsa" | "chatglm" => &["glm4"],
        "llama4" | "llama4_text" => &["llama4"],
        "minimax_m2" => &["minimax-m2"],
        "refact" => &["refact"],
        // Granite 3, and Granite 4 without Mamba-2 in its class.
        "granite" | "granite_swa" | "granitemoe" | "granitemoeshared" => &["refact", "dbrx"],
        "smollm3" => &["smollm"],
        "solar_open" => &["solar-open"],
        _ => &[],
    };
    let by_type = fitting.clone().find_map(|k| Some((k, *k.names.iter().find(|name| usual.contains(name))?)));
    let (known, name) = by_type.or_else(|| fitting.clone().next().map(|k| (k, k.names[0])))?;
    Some(Found { name, add_bos: known.add_bos, note: None })
}

fn nearest(given: &FileRule, own: &Pipeline) -> Found {
    /// The cuts each rule of the table makes.
    static CUTS: LazyLock<Vec<Option<BTreeSet<usize>>>> = LazyLock::new(|| {
        let rule = |known: &Known| Pipeline::of_rule(&known.rule()).ok();
        KNOWN.iter().map(|known| Some(cuts(&rule(known)?))).collect()
    });
    let cuts = cuts(own);
    let differing = |(known, theirs): (&'static Known, &Option<BTreeSet<usize>>)| {
        // Whole words do not change the cuts, but of equal rows the one that agrees there is nearer.
        let agrees = known.ignore_merges == given.ignore_merges;
        Some((theirs.as_ref()?.symmetric_difference(&cuts).count(), !agrees, known))
    };
    let least = KNOWN
        .iter()
        .zip(&*CUTS)
        .filter_map(differing)
        .min_by_key(|&(count, disagrees, _)| (count, disagrees));
    let Some((count, disagrees, known)) = least else {
        return Found { name: DEFAULT, add_bos: false, note: None };
    };
    let name = known.names[0];
    let mut note = format!(
        "no pre-tokenizer name matches this tokenizer's splitting rule; {name:?} is nearest ({count} of {} splits \
         differ on a sample text): programs that read the GGUF file may split some words differently",
        cuts.len()
    );
    if disagrees {
        note.push_str(match given.ignore_merges {
            true => ", and merge words that are whole pieces",
            false => ", and take words that are pieces without merging",
        });
    }
    Found { name, add_bos: known.add_bos, note: Some(note) }
}

/// Where a pipeline cuts the sample, in bytes of the normalized text.
fn cuts(pipeline: &Pipeline) -> BTreeSet<usize> {
    let (mut out, mut at) = (BTreeSet::new(), 0);
    // Rules that take too long for the sample have no name: what they cut until then decides which is nearest, and no
    // text can be encoded by them.
    let _ = pipeline.words(SAMPLE, |word| {
        at += word.chars();
        out.insert(at);
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::pre_tokenizer::{GPT2, Part};
    use serde_json::json;

    fn look_up(
        normalizer: Value,
        pre_tokenizer: Value,
        ignore_merges: bool,
        model_type: Option<&str>,
    ) -> Found {
        let own = Pipeline::new(&normalizer, &pre_tokenizer).unwrap();
        let model_type = model_type.map(str::to_owned);
        FileRule { normalizer, pre_tokenizer, ignore_merges, model_type }.name(&own)
    }

    #[test]
    fn every_rule_runs_and_is_recognised() {
        let mut names = BTreeSet::new();
        for known in KNOWN {
            for &name in known.names {
                assert!(names.insert(name), "{name} is listed twice");
                assert_eq!(table::find(name).unwrap().parts, known.parts);
            }
            let rule = known.rule();
            let found = look_up(rule.normalizer(), rule.pre_tokenizer(), rule.ignore_merges, None);
            // glm4 and llama-bpe differ in what is added, not in cutting.
            assert_eq!((table::find(found.name).unwrap().rule(), found.note), (known.rule(), None));
            // Another spelling is the same rule: except for falcon's, as noted there, it cuts at the same places.
            for parts in known.also {
                let other = super::super::Rule { parts: (*parts).into(), ..known.rule() };
                let both = [&rule, &other].map(|r| cuts(&Pipeline::of_rule(r).unwrap()));
                let same = known.names[0] == "falcon" || both[0] == both[1];
                assert!(same, "{}: {:?}", known.names[0], both[0].symmetric_difference(&both[1]));
            }
        }
    }

    #[test]
    fn the_library_and_the_table_spell_rules_alike() {
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        assert_eq!(table::find("gpt-2").unwrap().rule().pre_tokenizer(), byte_level);
        let falcon = table::find("falcon").unwrap().rule();
        let types: Vec<String> = falcon.pre_tokenizer()["pretokenizers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["type"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(types, ["Punctuation", "ByteLevel", "Digits", "Split"]);
        let own = Pipeline::new(&Value::Null, &byte_level).unwrap();
        let split =
            json!({ "type": "Split", "pattern": { "Regex": GPT2 }, "behavior": "Removed", "invert": true });
        let two = json!({ "type": "Sequence", "pretokenizers": [split, { "type": "Sequence", "pretokenizers": [
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false }] }] });
        assert_eq!(json::parts(&two).unwrap(), [Part::isolated(GPT2), Part::Bytes]);
        assert_eq!(cuts(&own), cuts(&Pipeline::new(&Value::Null, &two).unwrap()));
        assert_eq!(look_up(Value::Null, two, false, Some("phi")).name, "phi-2");
    }

    #[test]
    fn an_unknown_rule_takes_the_nearest_name_and_says_so() {
        let qwen = table::find("qwen2").unwrap().rule();
        // Qwen's rule with runs of two digits: nearer to Qwen's single digits than to Llama 3's three? It is the
        // sample that decides, and the note says so.
        let mut parts = qwen.pre_tokenizer();
        let regex = parts.pointer_mut("/pretokenizers/0/pattern/Regex").unwrap();
        *regex = regex.as_str().unwrap().replace(r"\p{N}|", r"\p{N}{1,2}|").into();
        let near = look_up(qwen.normalizer(), parts, false, None);
        assert!(["qwen2", "smaug-bpe"].contains(&near.name), "{}", near.name);
        assert!(near.note.unwrap().contains("splits differ"));

        let moved = look_up(Value::Null, qwen.pre_tokenizer(), false, None);
        assert_eq!((moved.name, moved.note), ("deepseek-r1-qwen", None));
        let lower = look_up(json!({ "type": "Lowercase" }), qwen.pre_tokenizer(), false, None);
        assert_eq!(lower.name, "qwen2");
        assert!(lower.note.unwrap().contains("composes characters"));
        let whole = look_up(qwen.normalizer(), qwen.pre_tokenizer(), true, None);
        assert!(whole.note.unwrap().contains("0 of "), "{}", whole.name);
    }
}
