//! Methods and operators of Python's values that templates use and the engine does not have.

use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

/// Methods of strings, lists and dictionaries.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match (value.as_str(), value.kind()) {
        (Some(text), _) => text_method(state, text, name, args)?,
        (None, ValueKind::Seq) => match name {
            "index" => Some(index_of(value, args)?),
            "copy" => Some(value.clone()),
            _ => None,
        },
        (None, ValueKind::Map) if name == "copy" => Some(value.clone()),
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// `None` for methods that are not here.
fn text_method(state: &State, text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let value = match name {
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(invalid("empty separator"));
            }
            let parts = match name {
                "partition" => text.split_once(separator).map(|(a, b)| [a, separator, b]),
                _ => text.rsplit_once(separator).map(|(a, b)| [a, separator, b]),
            };
            let whole = if name == "partition" { [text, "", ""] } else { ["", "", text] };
            Value::from(Tuple::from(parts.unwrap_or(whole).map(Value::from).to_vec()))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "split" | "rsplit" => split(text, args, name == "rsplit")?,
        "splitlines" => {
            let (keep, options): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(options.get("keepends")?).unwrap_or(false);
            options.assert_all_used()?;
            lines(text, keep).map(Value::from).collect()
        }
        "startswith" | "endswith" => {
            let (wanted, from, to): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let part = part(text, from, to).map_or("", |(_, part)| part);
            let matches = |wanted: &str| match name {
                "startswith" => part.starts_with(wanted),
                _ => part.ends_with(wanted),
            };
            Value::from(match wanted.as_str() {
                Some(wanted) => matches(wanted),
                None => wanted.try_iter()?.any(|one| one.as_str().is_some_and(matches)),
            })
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (wanted, from, to): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let found = part(text, from, to).and_then(|(before, part)| {
                let at = if name.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
                at.map(|at| before + part[..at].chars().count())
            });
            match found {
                Some(at) => Value::from(at),
                None if name.ends_with("find") => Value::from(-1),
                None => return Err(invalid("substring not found")),
            }
        }
        "count" => {
            let (wanted, from, to): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            Value::from(part(text, from, to).map_or(0, |(_, part)| part.matches(wanted).count()))
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            Value::from(format!("{sign}{}{digits}", padding(state, text, width, "0")?))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            let fill = fill.unwrap_or(" ");
            if fill.chars().count() != 1 {
                return Err(invalid("the fill is one character"));
            }
            let pad = padding(state, text, width, fill)?;
            let count = pad.chars().count();
            let left = match name {
                "ljust" => 0,
                "rjust" => count,
                // Where the two sides cannot be equal, Python makes the left one longer for odd widths.
                _ => count / 2 + (count & width as usize & 1),
            };
            let (left, right) = pad.split_at(left * fill.len());
            Value::from(format!("{left}{text}{right}"))
        }
        "title" => {
            let () = from_args(args)?;
            let mut in_word = false;
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                match std::mem::replace(&mut in_word, c.is_alphabetic()) {
                    true => out.extend(c.to_lowercase()),
                    false => out.extend(c.to_uppercase()),
                }
            }
            Value::from(out)
        }
        "swapcase" => {
            let () = from_args(args)?;
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                match c.is_uppercase() {
                    true => out.extend(c.to_lowercase()),
                    false => out.extend(c.to_uppercase()),
                }
            }
            Value::from(out)
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(text.to_lowercase().replace('ß', "ss"))
        }
        "isdecimal" => {
            let () = from_args(args)?;
            Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit()))
        }
        "isidentifier" => {
            let () = from_args(args)?;
            let begins = text.starts_with(|c: char| c.is_alphabetic() || c == '_');
            Value::from(begins && text.chars().all(|c| c.is_alphanumeric() || c == '_'))
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

/// Characters `from..to` of a text as Python counts them, and how many precede them; `None` if they begin after
/// its end.
fn part(text: &str, from: Option<i64>, to: Option<i64>) -> Option<(usize, &str)> {
    if from.is_none() && to.is_none() {
        return Some((0, text));
    }
    let length = text.chars().count() as i64;
    let place = |at: i64| if at < 0 { (length + at).max(0) } else { at } as usize;
    let (from, to) = (place(from.unwrap_or(0)), place(to.unwrap_or(length)).min(length as usize));
    if from > to {
        return None;
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Some((from, &text[byte(from)..byte(to)]))
}

/// What `text` lacks of `width` characters.
fn padding(state: &State, text: &str, width: i64, fill: &str) -> Result<String, Error> {
    let lacking = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    // Paid for before it is made.
    state.consume_fuel(lacking as u64 / 16)?;
    Ok(fill.repeat(lacking))
}

/// `split(sep=None, maxsplit=-1)`, from the left or from the right.
fn split(text: &str, args: &[Value], right: bool) -> Result<Value, Error> {
    let (separator, most, options): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(options.get("sep")?).filter(|s| !s.is_none());
    let most = most.or(options.get("maxsplit")?).and_then(|most| usize::try_from(most).ok());
    options.assert_all_used()?;
    let most = most.unwrap_or(usize::MAX).saturating_add(1);
    let Some(separator) = separator else {
        return Ok(split_at_blanks(text, most, right).into_iter().map(Value::from).collect());
    };
    let separator = separator.as_str().ok_or_else(|| invalid("the separator is a text"))?;
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    let mut parts: Vec<_> = match right {
        false => text.splitn(most, separator).map(Value::from).collect(),
        true => text.rsplitn(most, separator).map(Value::from).collect(),
    };
    if right {
        parts.reverse();
    }
    Ok(Value::from(parts))
}

fn split_at_blanks(text: &str, most: usize, right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = if right { text.trim_end() } else { text.trim_start() };
    while !rest.is_empty() {
        let blank = match right {
            false => rest.find(char::is_whitespace),
            true => rest.rfind(char::is_whitespace),
        };
        // The last part keeps the blanks at its far end.
        let Some(at) = blank.filter(|_| parts.len() + 1 < most) else {
            parts.push(rest);
            break;
        };
        let (before, after) = rest.split_at(at);
        match right {
            false => {
                parts.push(before);
                rest = after.trim_start();
            }
            true => {
                parts.push(after.trim_start());
                rest = before.trim_end();
            }
        }
    }
    if right {
        parts.reverse();
    }
    parts
}

/// The lines of a text, with or without their ends.
fn lines(text: &str, keep: bool) -> impl Iterator<Item = &str> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.find(is_end).unwrap_or(rest.len());
        let after = rest[at..].strip_prefix("\r\n").unwrap_or_else(|| {
            let mut chars = rest[at..].chars();
            chars.next();
            chars.as_str()
        });
        let line = &rest[..if keep { rest.len() - after.len() } else { at }];
        rest = after;
        Some(line)
    })
}

/// `list.index(value)`
fn index_of(list: &Value, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (&Value,) = from_args(args)?;
    let at = list.try_iter()?.position(|item| item == *wanted);
    at.map(Value::from).ok_or_else(|| invalid(format!("{wanted} is not in the list")))
}

/// `left % right`: the remainder with the sign of the divisor, or for a text, what it formats.
pub(super) fn modulo(state: &mut State, left: Value, right: Value) -> Result<Value, Error> {
    if let Some(text) = left.as_str() {
        let mut args = match right.is_tuple() {
            true => right.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?,
            false => vec![right],
        };
        let text = prepared(text, &mut args)?;
        args.insert(0, text);
        return state.apply_filter("format", &args);
    }
    let kinds = format!("tried to use % operator on unsupported types {} and {}", left.kind(), right.kind());
    if let (Ok(a), Ok(b)) = (i128::try_from(left.clone()), i128::try_from(right.clone())) {
        let remainder = a.checked_rem(b).ok_or_else(|| invalid("unable to calculate with a divisor of 0"))?;
        let same_sign = remainder == 0 || (remainder < 0) == (b < 0);
        return Ok(Value::from(if same_sign { remainder } else { remainder + b }));
    }
    match (f64::try_from(left), f64::try_from(right)) {
        (Ok(_), Ok(0.0)) => Err(invalid("unable to calculate with a divisor of 0")),
        (Ok(a), Ok(b)) => {
            let remainder = a % b;
            let same_sign = remainder == 0.0 || (remainder < 0.0) == (b < 0.0);
            Ok(Value::from(if same_sign { remainder } else { remainder + b }))
        }
        _ => Err(invalid(kinds)),
    }
}

/// A text to format with what the engine's `format` does not know: `%r` becomes `%s` of a value's `repr`, and numbers
/// for `%d` lose their fraction.
fn prepared(text: &str, args: &mut [Value]) -> Result<Value, Error> {
    let mut out = text.to_owned();
    let (mut at, mut arg) = (0, 0);
    while let Some(found) = text[at..].find('%') {
        at += found + 1;
        let spec = text[at..].trim_start_matches(|c: char| c.is_ascii_digit() || "#- +.".contains(c));
        at = text.len() - spec.len();
        match (spec.chars().next(), args.get_mut(arg)) {
            // A named field, whose values stay as they are.
            (Some('('), _) => return Ok(Value::from(text)),
            (Some('%'), _) => arg = arg.wrapping_sub(1),
            (Some('r'), Some(value)) => {
                out.replace_range(at..=at, "s");
                *value = Value::from(format!("{value:?}"));
            }
            (Some('d' | 'i'), Some(value)) if value.kind() == ValueKind::Number && !value.is_integer() => {
                let whole = f64::try_from(value.clone())?.trunc();
                if whole.abs() < 1e18 {
                    *value = Value::from(whole as i64);
                }
            }
            _ => {}
        }
        arg = arg.wrapping_add(1);
        at += spec.chars().next().map_or(0, char::len_utf8);
    }
    Ok(Value::from(out))
}
