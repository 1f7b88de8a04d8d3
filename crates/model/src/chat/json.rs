//! JSON as Python's `json.dumps` writes it, for `tojson`.

use minijinja::value::{Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind};

use super::filters::Arguments;
use super::print::float;

/// Longest JSON text.
const MAX_JSON: usize = 4 << 20;

/// Widest indentation of a level.
const MAX_INDENT: usize = 64;

/// transformers' `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = Arguments::new(given, 4)?;
    let ascii = arguments.get(0, "ensure_ascii")?.is_some_and(|v| v.is_true());
    let indent = arguments.get(1, "indent")?.filter(|v| !v.is_none());
    let separators = arguments.get(2, "separators")?.filter(|v| !v.is_none());
    let sorted = arguments.get(3, "sort_keys")?.is_some_and(|v| v.is_true());
    arguments.finish()?;
    let indent = match indent {
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(count) => Some(" ".repeat(i64::try_from(count)?.clamp(0, MAX_INDENT as i64) as usize)),
        None => None,
    };
    let (mut between, mut after_key) =
        (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if let Some(both) = separators {
        let parts = both.try_iter()?.map(|part| part.as_str().map(str::to_owned));
        let [Some(first), Some(second)] = &parts.collect::<Vec<_>>()[..] else {
            return Err(failed("separators are two texts"));
        };
        (between, after_key) = (first.clone(), second.clone());
    }
    let mut writer = Writer { out: String::new(), ascii, indent, between, after_key, sorted };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

fn failed(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadSerialization, what.into())
}

struct Writer {
    out: String,
    /// Escape what is not ASCII.
    ascii: bool,
    indent: Option<String>,
    /// Between the items of a list.
    between: String,
    /// Between a key and its value.
    after_key: String,
    sorted: bool,
}

impl Writer {
    fn push(&mut self, text: &str) -> Result<(), Error> {
        if self.out.len() + text.len() > MAX_JSON {
            return Err(failed(format!("the JSON is longer than {} MiB", MAX_JSON >> 20)));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn value(&mut self, value: &Value, level: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::Undefined | ValueKind::None => self.push("null"),
            ValueKind::Bool => self.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.push(&number(value)),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.push("[")?;
                let mut empty = true;
                for item in value.try_iter()?.checked() {
                    self.begin_item(&mut empty, level)?;
                    self.value(&item?, level + 1)?;
                }
                self.end_items(empty, level, "]")
            }
            ValueKind::Map => {
                self.push("{")?;
                let mut keys = value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
                if self.sorted {
                    keys.sort();
                }
                let mut empty = true;
                for item in keys {
                    self.begin_item(&mut empty, level)?;
                    self.key(&item)?;
                    self.push(&self.after_key.clone())?;
                    self.value(&value.get_item(&item)?, level + 1)?;
                }
                self.end_items(empty, level, "}")
            }
            kind => Err(failed(format!("a value of type {kind} has no form in JSON"))),
        }
    }

    fn begin_item(&mut self, empty: &mut bool, level: usize) -> Result<(), Error> {
        if !std::mem::replace(empty, false) {
            self.push(&self.between.clone())?;
        }
        self.new_line(level + 1)
    }

    fn end_items(&mut self, empty: bool, level: usize, bracket: &str) -> Result<(), Error> {
        if !empty {
            self.new_line(level)?;
        }
        self.push(bracket)
    }

    fn new_line(&mut self, level: usize) -> Result<(), Error> {
        let Some(indent) = self.indent.clone() else { return Ok(()) };
        self.push("\n")?;
        (0..level).try_for_each(|_| self.push(&indent))
    }

    fn key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.text(key.as_str().unwrap_or_default()),
            ValueKind::None => self.push("\"null\""),
            ValueKind::Bool => self.push(if key.is_true() { "\"true\"" } else { "\"false\"" }),
            ValueKind::Number => self.push(&format!("\"{}\"", number(key))),
            kind => Err(failed(format!("a key of type {kind} has no form in JSON"))),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), Error> {
        self.push("\"")?;
        let mut rest = text;
        // Whole runs of what needs no escape.
        while let Some(at) = rest.find(|c: char| c < ' ' || c == '"' || c == '\\' || (self.ascii && c > '~'))
        {
            self.push(&rest[..at])?;
            let mut chars = rest[at..].chars();
            match chars.next() {
                Some('"') => self.push("\\\"")?,
                Some('\\') => self.push("\\\\")?,
                Some('\n') => self.push("\\n")?,
                Some('\r') => self.push("\\r")?,
                Some('\t') => self.push("\\t")?,
                Some('\u{8}') => self.push("\\b")?,
                Some('\u{c}') => self.push("\\f")?,
                Some(other) => {
                    for unit in other.encode_utf16(&mut [0; 2]) {
                        self.push(&format!("\\u{unit:04x}"))?;
                    }
                }
                None => {}
            }
            rest = chars.as_str();
        }
        self.push(rest)?;
        self.push("\"")
    }
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => match number {
            _ if number.is_nan() => "NaN".to_owned(),
            f64::INFINITY => "Infinity".to_owned(),
            f64::NEG_INFINITY => "-Infinity".to_owned(),
            _ => float(number),
        },
        _ => value.to_string(),
    }
}
