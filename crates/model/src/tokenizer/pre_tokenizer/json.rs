//! Reads and writes rules as `tokenizer.json` spells them.

use serde_json::{Value, json};

use super::{Behavior, GPT2, Part, Pattern, Rule};

impl Behavior {
    fn name(self) -> &'static str {
        match self {
            Self::Removed => "Removed",
            Self::Isolated => "Isolated",
            Self::MergedWithPrevious => "MergedWithPrevious",
            Self::MergedWithNext => "MergedWithNext",
            Self::Contiguous => "Contiguous",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        let all =
            [Self::Removed, Self::Isolated, Self::MergedWithPrevious, Self::MergedWithNext, Self::Contiguous];
        all.into_iter().find(|b| b.name() == name)
    }
}

impl Rule {
    /// The `normalizer` of `tokenizer.json`.
    pub fn normalizer(&self) -> Value {
        if self.nfc { json!({ "type": "NFC" }) } else { Value::Null }
    }

    /// The `pre_tokenizer` of `tokenizer.json`, as the library writes it.
    pub fn pre_tokenizer(&self) -> Value {
        let mut components: Vec<Value> = Vec::new();
        let mut prefix = false;
        let gpt2 = Part::isolated(GPT2);
        let mut parts = self.parts.iter().peekable();
        while let Some(part) = parts.next() {
            components.push(match part {
                Part::PrefixSpace => {
                    prefix = true;
                    continue;
                }
                // The library's component for the two together.
                part if *part == gpt2 && parts.peek() == Some(&&Part::Bytes) => {
                    parts.next();
                    byte_level(std::mem::take(&mut prefix), true)
                }
                Part::Bytes => byte_level(std::mem::take(&mut prefix), false),
                Part::Split { pattern, behavior, invert } => {
                    let pattern = match pattern {
                        Pattern::Regex(regex) => json!({ "Regex": regex }),
                        Pattern::Text(text) => json!({ "String": text }),
                    };
                    json!({ "type": "Split", "pattern": pattern, "behavior": behavior.name(), "invert": invert })
                }
                Part::Digits(individual) => json!({ "type": "Digits", "individual_digits": individual }),
                Part::Punctuation(behavior) => json!({ "type": "Punctuation", "behavior": behavior.name() }),
            });
        }
        match components.len() {
            1 => components.remove(0),
            _ => json!({ "type": "Sequence", "pretokenizers": components }),
        }
    }
}

fn byte_level(prefix: bool, regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex })
}

/// The parts of a `pre_tokenizer`; `None` if one of them is of a kind that no name covers.
pub(super) fn parts(component: &Value) -> Option<Vec<Part<'_>>> {
    let mut out = Vec::new();
    collect(component, &mut out)?;
    Some(out)
}

fn collect<'a>(component: &'a Value, out: &mut Vec<Part<'a>>) -> Option<()> {
    let string = |key: &str| component.get(key).and_then(Value::as_str);
    let flag = |key: &str| component.get(key).and_then(Value::as_bool);
    match component.get("type").and_then(Value::as_str)? {
        "Sequence" => {
            for inner in component.get("pretokenizers")?.as_array()? {
                collect(inner, out)?;
            }
        }
        "ByteLevel" => {
            if flag("add_prefix_space")? {
                out.push(Part::PrefixSpace);
            }
            if flag("use_regex").unwrap_or(true) {
                out.push(Part::isolated(GPT2));
            }
            out.push(Part::Bytes);
        }
        "Split" => {
            let pattern = component.get("pattern")?;
            let text = |key: &str| pattern.get(key)?.as_str();
            let pattern = text("Regex").map(Pattern::Regex).or_else(|| text("String").map(Pattern::Text))?;
            let behavior = Behavior::from_name(string("behavior")?)?;
            out.push(match (behavior, flag("invert")?) {
                // Text between the matches is dropped; the regexes used like this leave none.
                (Behavior::Removed, true) => {
                    Part::Split { pattern, behavior: Behavior::Isolated, invert: false }
                }
                (behavior, invert) => Part::Split { pattern, behavior, invert },
            });
        }
        "Digits" => out.push(Part::Digits(flag("individual_digits")?)),
        "Punctuation" => {
            let behavior = string("behavior").map_or(Some(Behavior::Isolated), Behavior::from_name)?;
            out.push(Part::Punctuation(behavior));
        }
        _ => return None,
    }
    Some(())
}

/// Whether a `normalizer` composes characters and does nothing else (`Some(true)`), does nothing at all
/// (`Some(false)`), or something that no name covers.
pub(super) fn composes(component: &Value) -> Option<bool> {
    match component.get("type").and_then(Value::as_str) {
        None if component.is_null() => Some(false),
        Some("NFC") => Some(true),
        Some("Sequence") => {
            let inner = component.get("normalizers")?.as_array()?;
            inner.iter().try_fold(false, |any, c| Some(any | composes(c)?))
        }
        _ => None,
    }
}
