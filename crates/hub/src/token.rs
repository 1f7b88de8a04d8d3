//! The token, from the environment or a file: a token that cannot be read is said, not taken for none.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use crate::regular;
use crate::{Error, Result};

/// The largest token file: it holds one line, and the Hub's tokens have 37 characters.
const LARGEST: u64 = 64 << 10;

/// A secret that no debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token as the Hub gives it out: visible ASCII characters.
    ///
    /// # Errors
    /// Empty, or characters that have no place in an HTTP header.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        let fault = match () {
            () if text.is_empty() => "it is empty",
            () if text.contains(['\n', '\r']) => "it has several lines",
            () if text.bytes().all(|b| b.is_ascii_graphic()) => return Ok(Self(text.to_owned())),
            () => "it holds spaces or other characters that no token has",
        };
        Err(Error::usage("HF_TOKEN", format!("not a token: {fault}")))
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The token in a variable, or else in `file`.
pub(crate) fn find(get: impl Fn(&str) -> Option<OsString>, file: Option<&Path>) -> Result<Option<Token>> {
    for key in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        let Some(value) = get(key) else { continue };
        let Ok(text) = value.into_string() else {
            return Err(Error::usage(key, "not a token: it is not valid UTF-8"));
        };
        if !text.trim().is_empty() {
            return Token::new(&text).map(Some).map_err(|e| Error::new(key, e.kind));
        }
    }
    file.map_or(Ok(None), in_file)
}

/// The token in a file; none if there is no file, or nothing in it.
fn in_file(file: &Path) -> Result<Option<Token>> {
    let unread = |e: Error| {
        let what = format!(
            "the token in it cannot be read: {}; mend it, or set HF_HUB_DISABLE_IMPLICIT_TOKEN=1 to send none",
            e.kind
        );
        Error::usage(file.display().to_string(), what)
    };
    // The file may be a link to where secrets are kept.
    let Some(bytes) = regular::read(file, LARGEST, regular::Links::Follow).map_err(unread)? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes).map_err(|_| unread(Error::usage("", "it is not valid UTF-8")))?;
    match text.trim().is_empty() {
        true => Ok(None),
        false => Token::new(&text).map(Some).map_err(unread),
    }
}
