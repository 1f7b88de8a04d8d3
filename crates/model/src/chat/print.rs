//! Values printed as Python prints them.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};

/// Prints a value that is no text, as `str` gives it.
pub(super) fn value(out: &mut Output<'_>, state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        _ => repr(out, state, value),
    }
}

fn repr(out: &mut Output<'_>, state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Number if !value.is_integer() => {
            let number = f64::try_from(value.clone())?;
            match number.is_finite() {
                true => Ok(out.write_str(&float(number))?),
                false => Ok(write!(out, "{value}")?),
            }
        }
        ValueKind::Map => {
            out.write_str("{")?;
            for (at, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                state.consume_fuel(1)?;
                out.write_str(if at > 0 { ", " } else { "" })?;
                repr(out, state, &key)?;
                out.write_str(": ")?;
                repr(out, state, &value.get_item(&key)?)?;
            }
            Ok(out.write_str("}")?)
        }
        // What has no length is not run through by printing it.
        ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
            let (open, close) = match (value.is_tuple(), value.len()) {
                (true, Some(1)) => ("(", ",)"),
                (true, _) => ("(", ")"),
                (false, _) => ("[", "]"),
            };
            out.write_str(open)?;
            for (at, item) in value.try_iter()?.checked().enumerate() {
                // Paid for one by one: a list may be lazy, and long.
                state.consume_fuel(1)?;
                out.write_str(if at > 0 { ", " } else { "" })?;
                repr(out, state, &item?)?;
            }
            Ok(out.write_str(close)?)
        }
        ValueKind::Invalid => Err(Error::new(ErrorKind::InvalidOperation, value.to_string())),
        _ => Ok(write!(out, "{value:?}")?),
    }
}

/// A number as Python's `repr` writes it: the shortest text that gives it back, with an exponent below 1e-4 and
/// from 1e16 on.
pub(super) fn float(number: f64) -> String {
    // Rust's has the same bounds, and writes the exponent without its sign and second digit.
    let text = format!("{number:?}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}
