//! Answers of the fake Hub.

use std::time::Duration;

use super::Request;

/// An answer, correct or not.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Sends so many bytes of the body, then closes the connection.
    pub cut: Option<usize>,
    /// Says this length instead of the body's.
    pub announce: Option<u64>,
    /// Sends the body in chunks, without saying its length.
    pub chunked: bool,
    /// Waits before the body.
    pub stall: Duration,
    /// Sends these bytes in place of everything above.
    pub raw: Option<Raw>,
}

/// Bytes that are no answer of an honest server: some at first, then the same again for as long as they are taken.
#[derive(Clone, Debug)]
pub struct Raw {
    pub first: Vec<u8>,
    pub again: Vec<u8>,
    /// Before each repetition.
    pub pause: Duration,
}

impl Response {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
            announce: None,
            chunked: false,
            stall: Duration::ZERO,
            raw: None,
        }
    }

    /// The bytes `first`, then `again` without end.
    pub fn endless(first: impl Into<Vec<u8>>, again: impl Into<Vec<u8>>) -> Self {
        Self::dripping(first, again, Duration::ZERO)
    }

    /// The same with a pause before each repetition.
    pub fn dripping(first: impl Into<Vec<u8>>, again: impl Into<Vec<u8>>, pause: Duration) -> Self {
        let raw = Raw { first: first.into(), again: again.into(), pause };
        Self { raw: Some(raw), cut: Some(0), ..Self::new(200, "") }
    }

    pub fn json(value: impl Into<serde_json::Value>) -> Self {
        Self::new(200, value.into().to_string()).with("Content-Type", "application/json")
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same file answer, with the request's `Range` applied.
    pub fn of_file(request: &Request, bytes: &[u8]) -> Self {
        match request.range() {
            None => Self::new(200, bytes),
            Some((first, _)) if first >= bytes.len() => {
                Self::new(416, "").with("Content-Range", format!("bytes */{}", bytes.len()))
            }
            Some((first, last)) => {
                let end = last.map_or(bytes.len(), |l| (l + 1).min(bytes.len()));
                let range = format!("bytes {first}-{}/{}", end - 1, bytes.len());
                Self::new(206, &bytes[first..end]).with("Content-Range", range)
            }
        }
    }
}
