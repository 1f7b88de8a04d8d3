//! Values that are one of a list of names: the shell can complete them, and the library that knows the names reads them.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command, Error};

/// Reads a value with `read` and offers `names` for completion.
#[derive(Clone)]
pub struct Choice<T> {
    read: fn(&str) -> Result<T, String>,
    names: fn() -> Vec<String>,
}

impl<T> Choice<T> {
    /// A parser; the error of `read` is what the user sees after the option's name.
    pub fn new(read: fn(&str) -> Result<T, String>, names: fn() -> Vec<String>) -> Self {
        Self { read, names }
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Choice<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        // The same message as for a plain function.
        let read = self.read;
        let parser = move |text: &str| read(text).map_err(Box::<dyn std::error::Error + Send + Sync>::from);
        TypedValueParser::parse_ref(&parser, command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.names)().into_iter().map(PossibleValue::new)))
    }
}
