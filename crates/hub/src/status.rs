//! What an HTTP status from the Hub means to the user.
//!
//! The Hub says more in `X-Error-Code` (RepoNotFound, RevisionNotFound, EntryNotFound, GatedRepo); mirrors
//! often do not, and then the kind of request decides. A repository that is private, gated or absent gives 401 to
//! a user without access in any case.

use std::time::Duration;

use ureq::http::response::Parts;
use url::Url;

use crate::clean::clean;
use crate::client::header;
use crate::error::ErrorKind;
use crate::failure::shown;
use crate::{Error, Settings};

/// The subject of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// `org/name`.
    pub repository: &'a str,
    /// The revision as the user gave it.
    pub revision: &'a str,
    /// The file, where one was asked for.
    pub file: Option<&'a str>,
}

impl Asked<'_> {
    fn subject(&self) -> String {
        self.file.map_or_else(|| self.repository.to_owned(), |file| format!("{}/{file}", self.repository))
    }
}

/// The error for an answer that is not a success.
pub(crate) fn explain(response: &Parts, url: &Url, asked: &Asked, settings: &Settings) -> Error {
    let status = response.status.as_u16();
    let code = header(&response.headers, "X-Error-Code").unwrap_or_default();
    let message = clean(header(&response.headers, "X-Error-Message").unwrap_or_default());
    let host = settings.endpoint.host_str().unwrap_or_default();
    let page = format!("{}/{}", settings.endpoint.as_str().trim_end_matches('/'), asked.repository);
    let with = |kind: ErrorKind| Error::new(asked.subject(), kind);
    match (status, code) {
        (401 | 403, "GatedRepo") => {
            let token = match &settings.token {
                Some(_) => "with the account that the token in HF_TOKEN belongs to",
                None => "there, and set HF_TOKEN to a token of that account",
            };
            with(ErrorKind::Gated(format!("the model is gated: accept its licence at {page} {token}")))
        }
        (_, "RevisionNotFound") => with(no_revision(asked)),
        (_, "EntryNotFound") => with(no_file(asked)),
        (401, _) if message.contains("Invalid credentials") => with(ErrorKind::Denied(format!(
            "{host} does not accept the token; get a new one and set HF_TOKEN to it"
        ))),
        (404, "RepoNotFound") | (401, _) => with(absent(asked, host, settings)),
        (404, _) if asked.file.is_some() => with(no_file(asked)),
        (404, _) => with(absent(asked, host, settings)),
        (403, _) => {
            let said = if message.is_empty() { String::new() } else { format!(" ({message})") };
            with(ErrorKind::Denied(format!(
                "{host} refuses access{said}; see {page}, and whether the token in HF_TOKEN may read it"
            )))
        }
        (429, _) => with(busy(status, host, settings)).with_wait(retry_after(response)),
        (500..=599 | 408 | 425, _) => with(failing(status, url)).with_wait(retry_after(response)),
        _ => {
            let text = format!("{} answers with status {status} {message}", shown(url));
            with(ErrorKind::Server { status, text: text.trim_end().to_owned() })
        }
    }
}

/// The error for an answer of a host that the endpoint redirected to: its signed addresses expire, and the
/// endpoint issues new ones.
pub(crate) fn foreign(status: u16, url: &Url) -> Error {
    Error::unreachable(shown(url), format!("the storage behind the Hub answers with status {status}"))
}

fn absent(asked: &Asked, host: &str, settings: &Settings) -> ErrorKind {
    let repository = asked.repository;
    ErrorKind::NotFound(match &settings.token {
        None => format!(
            "there is no model {repository} on {host}, or it is private: then set HF_TOKEN to a token that may read it"
        ),
        Some(_) => {
            format!("there is no model {repository} on {host}, or the token in HF_TOKEN may not read it")
        }
    })
}

pub(crate) fn no_revision(asked: &Asked) -> ErrorKind {
    ErrorKind::NotFound(format!("the repository is there, but it has no revision {:?}", asked.revision))
}

fn no_file(asked: &Asked) -> ErrorKind {
    ErrorKind::NotFound(format!("no such file at revision {:?}", asked.revision))
}

fn busy(status: u16, host: &str, settings: &Settings) -> ErrorKind {
    let more = match &settings.token {
        None => "; with a token in HF_TOKEN more requests are allowed",
        Some(_) => "",
    };
    ErrorKind::Server {
        status,
        text: format!("{host} allows no more requests for now (429); try again later{more}"),
    }
}

fn failing(status: u16, url: &Url) -> ErrorKind {
    ErrorKind::Server { status, text: format!("{} fails with status {status}; try again later", shown(url)) }
}

/// `Retry-After` in seconds.
fn retry_after(response: &Parts) -> Option<Duration> {
    header(&response.headers, "Retry-After")?.trim().parse().ok().map(Duration::from_secs)
}
