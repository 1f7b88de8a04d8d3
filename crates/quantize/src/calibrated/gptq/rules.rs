//! Rules for single modules, in GPT-QModel's `dynamic` form:
//!
//! ```json
//! { "-:.*\\.mlp\\.down_proj": {},  "model\\.layers\\.0\\.": { "bits": 8, "group_size": 32 } }
//! ```
//!
//! A key is a regular expression that must match from the beginning of the module's name
//! (`model.layers.0.mlp.down_proj`). `-:` in front leaves the module as it is; `+:` or nothing overrides. The
//! rules that leave out come first, then the first match counts.

use quern_model::pattern::{MOST_PATTERNS, NamePattern, shown};
use serde_json::{Map, Value};

use crate::gptq::{Order, Settings};

/// What may be overridden, and by which keys.
const KEYS: &str = "bits, group_size, sym, desc_act, damp_percent";

/// A rule set that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("dynamic rules: {0}")]
pub struct RuleError(String);

/// What the rules say of one module.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Quantize it so.
    Quantize(Settings),
    /// Leave it as it is.
    Skip,
}

/// A set of rules.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    source: Map<String, Value>,
}

#[derive(Clone, Debug)]
struct Rule {
    pattern: NamePattern,
    /// `None` leaves the module out.
    overrides: Option<Overrides>,
}

#[derive(Clone, Debug, Default)]
struct Overrides {
    bits: Option<u32>,
    group_size: Option<Option<usize>>,
    symmetric: Option<bool>,
    order: Option<Order>,
    damp: Option<f64>,
}

impl Rules {
    /// Reads rules from JSON.
    ///
    /// # Errors
    /// Text that is no JSON object, a pattern that is no regular expression, an unknown key or a value out of
    /// its range.
    pub fn parse(json: &str) -> Result<Self, RuleError> {
        let bad = |what: String| RuleError(what);
        let source: Map<String, Value> =
            serde_json::from_str(json).map_err(|e| bad(format!("not a JSON object: {e}")))?;
        if source.len() > MOST_PATTERNS {
            return Err(bad(format!("{} rules, and at most {MOST_PATTERNS} are allowed", source.len())));
        }
        let mut rules = Vec::with_capacity(source.len());
        for (key, value) in &source {
            let (pattern, skip) = match key.strip_prefix("-:") {
                Some(rest) => (rest, true),
                None => (key.strip_prefix("+:").unwrap_or(key), false),
            };
            let pattern = NamePattern::from_start(pattern, "")
                .map_err(|e| bad(format!("{}: bad regular expression: {e}", shown(key))))?;
            let Some(values) = value.as_object() else {
                return Err(bad(format!("{key:?} needs an object, such as {{\"bits\": 8}}")));
            };
            let overrides = match skip {
                true => None,
                false => Some(Overrides::read(key, values)?),
            };
            rules.push(Rule { pattern, overrides });
        }
        rules.sort_by_key(|r| r.overrides.is_some());
        Ok(Self { rules, source })
    }

    /// The rules as they were given, for the configuration of the output; `None` if there are none.
    pub fn as_json(&self) -> Option<Value> {
        (!self.rules.is_empty()).then(|| Value::Object(self.source.clone()))
    }

    /// What becomes of the module of this name.
    pub fn of(&self, module: &str, default: &Settings) -> Verdict {
        match self.rules.iter().find(|r| r.pattern.is_match(module)) {
            None => Verdict::Quantize(default.clone()),
            Some(Rule { overrides: None, .. }) => Verdict::Skip,
            Some(Rule { overrides: Some(o), .. }) => Verdict::Quantize(Settings {
                bits: o.bits.unwrap_or(default.bits),
                group_size: o.group_size.unwrap_or(default.group_size),
                symmetric: o.symmetric.unwrap_or(default.symmetric),
                order: o.order.unwrap_or(default.order),
                damp: o.damp.unwrap_or(default.damp),
                ..default.clone()
            }),
        }
    }
}

impl Overrides {
    fn read(rule: &str, values: &Map<String, Value>) -> Result<Self, RuleError> {
        let mut out = Self::default();
        for (key, value) in values {
            let bad = |wanted: &str| RuleError(format!("{rule:?}: {key} is {value}, it must be {wanted}"));
            match key.as_str() {
                "bits" => {
                    let bits = value.as_u64().filter(|b| [2, 3, 4, 8].contains(b));
                    out.bits = Some(bits.ok_or_else(|| bad("2, 3, 4 or 8"))? as u32);
                }
                "group_size" => {
                    let size = value.as_i64().filter(|&g| g == -1 || (1..=1 << 20).contains(&g));
                    let size = size.ok_or_else(|| bad("a number of columns, or -1"))?;
                    out.group_size = Some(usize::try_from(size).ok());
                }
                "sym" => out.symmetric = Some(value.as_bool().ok_or_else(|| bad("true or false"))?),
                "desc_act" => {
                    let act = value.as_bool().ok_or_else(|| bad("true or false"))?;
                    out.order = Some(if act { Order::Activation } else { Order::GroupAware });
                }
                "damp_percent" => {
                    let damp = value.as_f64().filter(|d| (0.0..1.0).contains(d));
                    out.damp = Some(damp.ok_or_else(|| bad("from 0 to below 1"))?);
                }
                _ => return Err(RuleError(format!("{rule:?}: unknown key {key:?}; known are {KEYS}"))),
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default() -> Settings {
        Settings::default()
    }

    #[test]
    fn leaving_out_comes_first_and_patterns_begin_at_the_beginning() {
        let rules = Rules::parse(
            r#"{ "model\\.layers\\.0\\.": {"bits": 8, "group_size": -1, "sym": false, "desc_act": true},
                 "-:.*down_proj": {}, "+:model\\.layers\\.[12]\\.": {"damp_percent": 0.1} }"#,
        )
        .unwrap();
        assert_eq!(rules.of("model.layers.0.mlp.down_proj", &default()), Verdict::Skip);
        assert_eq!(rules.of("model.layers.9.mlp.up_proj", &default()), Verdict::Quantize(default()));
        let Verdict::Quantize(first) = rules.of("model.layers.0.mlp.up_proj", &default()) else { panic!() };
        assert_eq!((first.bits, first.group_size, first.symmetric), (8, None, false));
        assert_eq!(first.order, Order::Activation);
        let Verdict::Quantize(second) = rules.of("model.layers.2.mlp.up_proj", &default()) else { panic!() };
        assert_eq!(second, Settings { damp: 0.1, ..default() });
        // Not searched for: matched.
        let rules = Rules::parse(r#"{ "-:layers": {} }"#).unwrap();
        assert_eq!(rules.of("model.layers.0.mlp.up_proj", &default()), Verdict::Quantize(default()));
    }

    #[test]
    fn bad_rules_say_what_is_wrong() {
        for (json, part) in [
            ("[]", "JSON object"),
            (r#"{"(": {}}"#, "regular expression"),
            (r#"{"a": 3}"#, "needs an object"),
            (r#"{"a": {"bits": 5}}"#, "2, 3, 4 or 8"),
            (r#"{"a": {"group_size": 0}}"#, "-1"),
            (r#"{"a": {"sym": 1}}"#, "true or false"),
            (r#"{"a": {"damp_percent": 2}}"#, "below 1"),
            (r#"{"a": {"wings": 2}}"#, "unknown key"),
        ] {
            let message = Rules::parse(json).unwrap_err().to_string();
            assert!(message.contains(part), "{json}: {message}");
        }
    }
}
