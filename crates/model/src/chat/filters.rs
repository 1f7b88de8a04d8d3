//! Filters and functions of Jinja2 that the engine does not have, or has with other arguments.

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State, functions};

use super::python;

/// Arguments that are given by their place or by their name.
pub(super) struct Arguments {
    given: Vec<Value>,
    named: Kwargs,
}

impl Arguments {
    /// Those of a call, at most `most` of them without a name.
    pub(super) fn new(given: Rest<ValueOrKwargs>, most: usize) -> Result<Self, Error> {
        let mut given = given.into_values();
        let named = match given.pop_if(|last| last.is_kwargs()) {
            Some(named) => Kwargs::try_from(named)?,
            None => Kwargs::try_from(Value::UNDEFINED)?,
        };
        if given.len() > most {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        Ok(Self { given, named })
    }

    /// One of them. None is a value like any other.
    pub(super) fn get(&self, at: usize, name: &str) -> Result<Option<Value>, Error> {
        match self.given.get(at) {
            Some(value) => Ok(Some(value.clone())),
            None if self.named.has(name) => self.named.get(name).map(Some),
            None => Ok(None),
        }
    }

    /// Refuses names that were not asked for.
    pub(super) fn finish(self) -> Result<(), Error> {
        self.named.assert_all_used()
    }
}

/// `default(value, default_value='', boolean=False)`
pub(super) fn default(value: &Value, given: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let arguments = Arguments::new(given, 2)?;
    let (other, boolean) = (arguments.get(0, "default_value")?, arguments.get(1, "boolean")?);
    arguments.finish()?;
    let absent = value.is_undefined() || (boolean.is_some_and(|b| b.is_true()) && !value.is_true());
    Ok(if absent { other.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

/// `center(value, width=80)`
pub(super) fn center(state: &mut State, text: &str, width: Option<i64>) -> Result<Value, Error> {
    python::method(state, &Value::from(text), "center", &[Value::from(width.unwrap_or(80))])
}

/// `escape(value)`, with markupsafe's entities.
pub(super) fn escape(value: &Value) -> Value {
    if value.is_safe() {
        return value.clone();
    }
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    Value::from_safe_string(out)
}

/// `wordcount(value)`
pub(super) fn wordcount(text: &str) -> usize {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).count()
}

/// `dict(mapping or pairs, **more)`
pub(super) fn dict(given: Option<Value>, more: Kwargs) -> Result<Value, Error> {
    let given = match given {
        Some(pairs) if matches!(pairs.kind(), ValueKind::Seq | ValueKind::Iterable) => {
            let pair = |item: Value| Ok::<_, Error>((item.get_item_by_index(0)?, item.get_item_by_index(1)?));
            let pairs = pairs.try_iter()?.checked().map(|item| pair(item?));
            Some(Value::from_pairs(pairs.collect::<Result<Vec<_>, _>>()?))
        }
        other => other,
    };
    functions::dict(given, more)
}

/// `namespace(mapping or pairs, **more)`
pub(super) fn namespace(given: Option<Value>, more: Kwargs) -> Result<Value, Error> {
    functions::namespace(Some(ValueOrKwargs::from(dict(given, more)?)))
}

/// Longest range.
const MAX_RANGE: i128 = 100_000;

/// `range(end)`, `range(start, end, step=1)`
pub(super) fn range(first: i64, end: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let invalid = |what: &'static str| Error::new(ErrorKind::InvalidOperation, what);
    let (first, end) = end.map_or((0, first), |end| (first, end));
    let (first, end, step) = (i128::from(first), i128::from(end), i128::from(step.unwrap_or(1)));
    let length = match step {
        0 => return Err(invalid("a range cannot have a step of 0")),
        1.. => (end - first + step - 1) / step,
        _ => (first - end - step - 1) / -step,
    };
    match length {
        ..=0 => Ok(Value::from(Vec::<Value>::new())),
        1..=MAX_RANGE => {
            // All within 64 bits: they are between both ends.
            Ok(Value::make_iterable(move || {
                (0..length as usize).map(move |i| (first + i as i128 * step) as i64)
            }))
        }
        _ => Err(invalid("range has too many elements")),
    }
}
